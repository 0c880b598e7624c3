package schemas

import "slices"

// Limits of runs and executions (contract §1, §4, §6).
const (
	MaxRunEvents      = MaxEventsPerBatch // of one report
	MaxRunTextChars   = 16384             // of a message, summary or error
	MaxExecuteBytes   = 4 << 20           // of an execute body, and of a result
	MaxRolesPerUser   = 256
	MaxPluginTimeout  = 24 * hour // of a call, and of waiting for one, in nanoseconds
	MaxPublications   = 1000      // of a run
	MaxPublishedBytes = 64 << 10
	MaxRunUsage       = MaxEventsPerBatch // events that a run reports at its end
	MaxReruns         = 3                 // after crashes of grout

	// RunSilence ends a reported run that says nothing for so long, unless a switch says
	// otherwise; MaxRunSilence bounds the switch.
	RunSilence    = 24 * hour
	MaxRunSilence = 14 * 24 * hour
	// ResultKept is how long a kept result can be asked for, and an idempotency key holds.
	ResultKept = 24 * hour
	// ExecutionGrace is what an execution has beyond its timeouts before a tick ends it.
	ExecutionGrace = 60 * int64(1e9)
)

// RunStatus is what a run, or a step of it, has come to.
type RunStatus byte

// The statuses, and where a run goes from each is in handlers.
const (
	RunInProgress RunStatus = iota + 1
	RunCompleted
	RunFailed
	RunCancelled
)

var runStatusNames = []string{"", "in_progress", "completed", "failed", "cancelled"}

func (s RunStatus) String() string { return nameAt(runStatusNames, int(s)) }

// Ended reports whether nothing follows in the attempt.
func (s RunStatus) Ended() bool { return s > RunInProgress }

// RunStatusNamed reads the name of a status.
func RunStatusNamed(name string) (RunStatus, bool) {
	i := slices.Index(runStatusNames[1:], name)
	return RunStatus(i + 1), i >= 0
}

func nameAt(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return ""
	}
	return names[i]
}

// RunStep is what an event says of its run.
type RunStep byte

// The steps (contract §6).
const (
	StepRunStarted RunStep = iota + 1
	StepRunCompleted
	StepRunFailed
	StepRunCancelled
	StepAgentStarted
	StepAgentCompleted
	StepToolStarted
	StepToolCompleted
)

var runStepNames = []string{
	"", "run_started", "run_completed", "run_failed", "run_cancelled", "agent_started", "agent_completed", "tool_started", "tool_completed",
}

const orchestration = "orchestration."

// Kind is the kind of the fact that tells of the step.
func (s RunStep) Kind() string { return orchestration + nameAt(runStepNames, int(s)) }

func (s RunStep) String() string { return nameAt(runStepNames, int(s)) }

// Statuses are what an event with the step may say, the first of them when it says
// nothing.
func (s RunStep) Statuses() []RunStatus {
	switch s {
	case StepRunCompleted:
		return []RunStatus{RunCompleted}
	case StepRunFailed:
		return []RunStatus{RunFailed}
	case StepRunCancelled:
		return []RunStatus{RunCancelled}
	case StepAgentCompleted, StepToolCompleted:
		return []RunStatus{RunCompleted, RunFailed}
	default:
		return []RunStatus{RunInProgress}
	}
}

// Ends gives what a run has come to with the step; RunInProgress when it goes on.
func (s RunStep) Ends() RunStatus {
	switch s {
	case StepRunCompleted:
		return RunCompleted
	case StepRunFailed:
		return RunFailed
	case StepRunCancelled:
		return RunCancelled
	default:
		return RunInProgress
	}
}

// BusyPlugin is the refusal of a call for which a plugin has no worker.
func BusyPlugin(name string) *Error { return Errorf(CodePluginBusy, "Plugin '%s' is busy", name) }

// NotCalled reports whether an error says that a plugin was not called at all: it had no
// worker in time, does not load, or is not there any more (contract §4).
func NotCalled(plugin string, code Code, detail string) bool {
	switch code {
	case CodePluginBusy:
		return detail == BusyPlugin(plugin).Detail
	case CodePluginLoadFailed:
		return detail == "Plugin '"+plugin+"' not found."
	case CodeNotFound:
		return detail == "Plugin '"+plugin+"' not found or disabled"
	}
	return false
}

// WasBusy reports whether a run failed because its plugin could not be called: it did not
// run.
func (r *Run) WasBusy() bool {
	return r.Status == RunFailed && NotCalled(r.Plugin, Code(r.Code), r.Error)
}

// EndStep is the step that ends a run with a status.
func EndStep(s RunStatus) RunStep {
	switch s {
	case RunCompleted:
		return StepRunCompleted
	case RunFailed:
		return StepRunFailed
	default:
		return StepRunCancelled
	}
}

// Run is one run: an execution of a plugin, or one that another runtime reports.
type Run struct {
	ID           string
	AppID        string
	UserID       string
	TenantID     string
	ChatID       string
	Plugin       string // empty: reported
	WorkflowName string
	ParentRunID  string
	Status       RunStatus
	Attempt      int64 // from 1
	Sequence     int64 // of its newest event
	Implicit     bool  // nobody reported its start
	StartedAt    int64 // nanoseconds since 1970 UTC: what the start of its attempt says
	UpdatedAt    int64 // handler time of its newest event
	EndedAt      int64 // what the end of its attempt says; 0: it runs
	Message      string
	Summary      string
	Error        string // what failed
	Code         string
	HasCost      bool
	HasTokens    bool
	Cost         Amount
	TotalTokens  int64
	// DueAt is when a tick looks at it: end of silence, deadline of an execution, end of
	// the time for which a result is kept; handler time, 0: never.
	DueAt     int64
	Execution *Execution // nil: reported

	// The client's object and the kept result stand beside the row of a run: reads that
	// say so fill them in, and the row has neither.
	Data, Result []byte
}

// Execution is what a run of a plugin needs until it has ended, and what is kept of it.
type Execution struct {
	Action       string
	Consumes     map[string]int64 // by limit, what was set aside for the action
	Username     string
	Roles        []string
	Superadmin   bool
	Key          string   // Idempotency-Key; empty: none
	BodyDigest   [16]byte // of the client's object
	Rerun        bool     // retry_on_crash
	Keep         bool     // the result is kept
	Timeout      int64    // nanoseconds, of the plugin when the command was accepted
	QueueTimeout int64
	AcceptedAt   int64 // handler time of plugin.execute
	Reruns       int64
	Published    int64 // number of the newest fact of plugin.publish
	DurationMs   int64
	HasData      bool // the client's object is stored
	HasResult    bool // a result is stored

	CorrelationID, TraceParent string // of plugin.execute; whatever the execution causes carries them, too
}

// Deadline is the instant by which an attempt that began at an instant must have ended.
func (x *Execution) Deadline(began int64) int64 {
	return began + x.QueueTimeout + x.Timeout + ExecutionGrace
}

// Clone gives a run that can be changed without changing this one.
func (r *Run) Clone() Run {
	c := *r
	if r.Execution != nil {
		x := *r.Execution
		c.Execution = &x
	}
	return c
}

// Open reports whether an execution waits for its end.
func (r *Run) Open() bool { return r.Execution != nil && !r.Status.Ended() }

// RunPlace is where a run stands in its partition: what a walk over runs goes on from.
type RunPlace struct {
	Seq   uint64 // log position of the message that it was stored by
	Index uint32
}

// RunQuery asks for runs of an app, newest first. Empty filters are no filter.
type RunQuery struct {
	AppID  string
	UserID string
	Plugin string
	Status RunStatus // 0: any
	Since  int64     // started at or after; nanoseconds since 1970 UTC
	Limit  int
	Before RunPlace // only what stands before it; the zero place is behind everything
}

// Wants tells whether a run is one that is asked for, wherever it stands.
func (q *RunQuery) Wants(r *Run) bool {
	return r.AppID == q.AppID && (q.UserID == "" || q.UserID == r.UserID) && (q.Plugin == "" || q.Plugin == r.Plugin) &&
		(q.Status == 0 || q.Status == r.Status) && r.StartedAt >= q.Since
}

// RunPage is one page of runs. It may hold fewer than asked for although there are more.
type RunPage struct {
	Runs []*Run
	More bool
	Next RunPlace // where the next page goes on
}
