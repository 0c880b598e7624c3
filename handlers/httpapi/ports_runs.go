package httpapi

import (
	"context"
	"time"

	"grout/schemas"
)

// Plugins runs what people have (contract §4). A *schemas.Error inside an error is the
// caller's.
type Plugins interface {
	// Loaded is how many plugins can be called.
	Loaded() int
	// List tells of the plugins that somebody may use, by name, those that do not load
	// included.
	List(ctx context.Context, who Subject) ([]Plugin, error)
	// Find gives a plugin that can be called.
	Find(name string) (Plugin, error)
	// JudgeExecution says what a command would be judged by what is committed, and counts
	// nothing. It is final when a refusal would tell nobody anything.
	JudgeExecution(ctx context.Context, app string, x *schemas.PluginExecution) (d schemas.Decision, final bool, err error)
	// Enter waits for a free worker of a plugin.
	Enter(ctx context.Context, name string) (Ticket, error)
	// Expect takes what an execution needs and the log never holds, before its command is
	// submitted.
	Expect(e Expected) (Execution, error)
}

// Plugin is what is told of a plugin, and what its executions are bound by.
type Plugin struct {
	Name, DisplayName, Description, Version, Backend string
	Enabled                                          bool
	Error                                            string // why it does not load
	Timeout, QueueTimeout                            time.Duration
	MaxInputBytes                                    int64 // 0: that of all
	Rerun                                            bool  // after a crash
}

// Ticket is a worker that waits for one call.
type Ticket interface{ Leave() }

// Expected is an execution whose command is about to be submitted.
type Expected struct {
	App, Run, Plugin string
	Token            string // the raw user token
	Ticket           Ticket // nil: it waits in the queue of its plugin once the command is applied
}

// Execution is one that is expected. It is left by exactly one of Drop, Leave and Wait.
type Execution interface {
	// Wait returns what came of it once its end is committed; false when ctx ends before.
	// The execution goes on all the same.
	Wait(ctx context.Context) (PluginAnswer, bool)
	// Leave goes away: it runs when its command is applied, and nobody waits.
	Leave()
	// Drop says that it does not run.
	Drop()
}

// PluginAnswer is what came of an execution.
type PluginAnswer struct {
	Status schemas.RunStatus
	Result []byte       // JSON, of one that succeeded
	Code   schemas.Code // of one that failed
	Detail string
}

// Runs tells of runs as they are committed: who was answered about one finds it. A
// *schemas.Error inside an error is the caller's.
type Runs interface {
	// Run gives a run of an app, with the result that is kept of it; nil when there is none.
	Run(ctx context.Context, app, id string) (*schemas.Run, error)
	// RunList gives runs of an app, newest first, without results.
	RunList(ctx context.Context, q schemas.RunQuery) (schemas.RunPage, error)
	// RunEvents gives the events of a run behind a sequence, at most so many.
	RunEvents(ctx context.Context, app, id string, behind int64, limit int) (RunEventPage, error)
	// RunUsage sums up the events of a run, in all and by agent; nil when there is no such run.
	RunUsage(ctx context.Context, app, id string) (*schemas.RunUsage, error)
	// RunOfKey gives the run that an idempotency key stands for; nil when it stands for none.
	RunOfKey(ctx context.Context, app, user, plugin, key string) (*schemas.Run, error)
	// Ended waits until a run has ended, and gives it.
	Ended(ctx context.Context, app, id string) (*schemas.Run, error)
}

// RunEventPage is a page of the events of a run; More follow the last of them.
type RunEventPage struct {
	Events []RunEvent
	More   bool
}

// RunEvent is an event of a run as its fact told it.
type RunEvent struct {
	Sequence int64
	JSON     []byte
}
