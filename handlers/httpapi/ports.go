package httpapi

import (
	"context"
	"errors"

	"grout/schemas"
)

// ErrBusy is what Submit answers, possibly wrapped, when the backlog is full.
var ErrBusy = errors.New("too many commands are waiting")

// Commands takes commands into the log (architecture §2.1).
type Commands interface {
	// Admits tells why a partition takes no command now whose oldest event is of an
	// instant, in nanoseconds since 1970 UTC; nil when it does. All partitions of a
	// request are asked before anything is submitted.
	Admits(partition int, oldest int64) error
	// Submit queues a command, of at most schemas.MaxCommandBytes, for its
	// partition. The payload belongs to Commands from then on. An error means that
	// the command is not stored.
	Submit(partition int, f schemas.CommandFrame) (Pending, error)
}

// Pending is a command on its way. Any error says that the command is not, or
// not surely, stored. Every Pending is asked at least once, with a context that
// has ended when nobody wants the answer any more.
type Pending interface {
	// Stored returns once the command is durable in the log. It may be called
	// after Wait.
	Stored(ctx context.Context) (Receipt, error)
	// Wait returns once the command is applied, or when ctx ends. A receipt
	// without outcome and without error: durable, not applied yet.
	Wait(ctx context.Context) (Receipt, error)
}

// Receipt is what is known of a stored command.
type Receipt struct {
	Seq     uint64 // position in the partition's log; 0 when Wait learnt the outcome before the position
	Index   uint32
	Outcome []byte // stored form of its outcome; nil while it is not applied
	Dead    bool   // it could not be applied and went to the dead letters
}

// Reads answers from the store. A *schemas.Error inside an error is the caller's.
type Reads interface {
	Usage(ctx context.Context, q schemas.UsageQuery) (schemas.UsageReport, error)
	// Events gives a page of single events of an app, newest first.
	Events(ctx context.Context, q schemas.EventQuery) (schemas.EventPage, error)
	// Chat tells what a chat of an app has used; nil when there is none.
	Chat(ctx context.Context, appID, chatID string) (*schemas.ChatUsage, error)
	// BatchByID tells what became of an app's part of a batch.
	BatchByID(ctx context.Context, appID, batchID string) (schemas.BatchStatus, bool, error)
	// BatchByRef tells what became of the commands of one request, summed. The
	// batch id may be missing as long as the commands are not applied.
	BatchByRef(ctx context.Context, refs []schemas.CommandRef) (schemas.BatchStatus, bool, error)
}

// Users tells who a user token speaks for. Its errors are *schemas.Error, say nothing of
// the token, and are the same whatever is wrong with it.
type Users interface {
	Identify(ctx context.Context, token string) (schemas.Identity, error)
}

// Subject is somebody of an app; empty: the app itself.
type Subject struct{ App, User, Tenant string }

// Entitlements judges, and tells how matters stand, by what is committed: it sees every
// command that was answered before it is asked. A *schemas.Error inside an error is the
// caller's.
type Entitlements interface {
	// SyncedApps lists the apps that were ever synced.
	SyncedApps(ctx context.Context) ([]string, error)
	// Entitled gives the JSON of what somebody is entitled to at an instant, in
	// nanoseconds since 1970 UTC; 0 is now.
	Entitled(ctx context.Context, who Subject, asOf int64) ([]byte, error)
	// Versions lists the manifests of a scope, newest first.
	Versions(ctx context.Context, q VersionQuery) (VersionPage, error)
	// Check judges a request at an instant, 0 is now, and counts nothing. It is final
	// when a command would be judged alike and would tell nobody anything.
	Check(ctx context.Context, app string, r *schemas.EntitlementCheck, asOf int64) (d schemas.Decision, final bool, err error)
	// JudgeSync, JudgeReserve and JudgeHold refuse what a command would surely be
	// refused for.
	JudgeSync(ctx context.Context, m *schemas.Manifest) error
	JudgeReserve(ctx context.Context, app string, r *schemas.BudgetReserve, newID bool) error
	JudgeHold(ctx context.Context, app string, change HoldChange) error
	// Holds lists open reservations of an app behind a place, in order of their ends.
	Holds(ctx context.Context, app string, from HoldPlace, limit int) (HoldPage, error)
}

// HoldPlace is where a list of reservations has come to; zero: the begin.
type HoldPlace struct {
	ExpiresAt int64
	Seq       uint64
	Index     uint32
}

// HoldPage is a page of open reservations; More follow behind Next.
type HoldPage struct {
	Holds []schemas.Hold
	More  bool
	Next  HoldPlace
}

// HoldChange is what is to be done with a reservation.
type HoldChange struct {
	ID      string
	Settle  *schemas.UsageEvent // books this
	Extend  bool
	Release bool
}

// VersionQuery asks for a page of the versions of a scope's manifest.
type VersionQuery struct {
	App    string
	Scope  schemas.Scope
	Before VersionPlace // goes on behind it; zero: the newest
	Limit  int
}

// VersionPlace is where in the log a version came.
type VersionPlace struct {
	Seq   uint64
	Index uint32
}

// Version is a manifest as it was stored.
type Version struct {
	Place         VersionPlace
	Revision      int64
	At            int64 // nanoseconds since 1970 UTC
	Legacy        bool  // made of a subscription
	CorrelationID string
	Manifest      []byte // JSON
}

// VersionPage is a page of versions; More follow the last of them.
type VersionPage struct {
	Versions []Version
	More     bool
}

// Health tells whether grout can do its work (contract §2, GET /ready).
type Health interface {
	Ready() (ok bool, reason string)
	// Alarms lists what was lost since the process started and grout went on without.
	Alarms() []schemas.Alarm
}
