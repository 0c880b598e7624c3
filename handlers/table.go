package handlers

import (
	"fmt"

	"grout/schemas"
	"grout/store"
)

// Result is what a command came to.
type Result struct {
	Outcome []byte        // for whoever waits; never empty
	Later   func() []byte // gives the outcome once the message has ended, in the place of Outcome
}

// Command is a decoded command as its handler sees it.
type Command struct {
	*schemas.CommandFrame
	Index uint32 // in its group
	Now   int64  // handler time: nanoseconds since 1970 UTC, never going back
}

// Payload is a payload that reads its own stored form. The texts it holds may
// point into the bytes it read.
type Payload[T any] interface {
	*T
	DecodePayload([]byte) error
}

// Table knows the handler of every kind.
type Table struct{ rows map[string]row }

type row struct {
	decode func([]byte) (any, error)
	apply  func(*store.Tx, Command, any) (Result, error)
}

// NewTable gives the table of this release.
func NewTable() *Table {
	t := &Table{rows: map[string]row{}}
	e := &engine{newLibrary()}
	On(t, schemas.UsageIngest, e.ingestUsage)
	On(t, schemas.UsageVoid, e.voidUsage)
	On(t, schemas.UsageAmend, e.amendUsage)
	On(t, schemas.SyncEntitlement, e.syncManifest)
	On(t, schemas.SyncSubscription, e.syncSubscription)
	On(t, schemas.CheckEntitlement, e.check)
	On(t, schemas.ReserveBudget, e.reserve)
	On(t, schemas.SettleBudget, e.settle)
	On(t, schemas.ExtendBudget, e.extend)
	On(t, schemas.ReleaseBudget, e.release)
	On(t, schemas.ExecutePlugin, e.execute)
	On(t, schemas.FinishPlugin, e.finish)
	On(t, schemas.RerunPlugin, e.rerun)
	On(t, schemas.PublishPlugin, e.publish)
	On(t, schemas.ReportRuns, e.report)
	On(t, schemas.CancelRun, e.cancel)
	On(t, schemas.SummarizeChat, e.summarize)
	On(t, schemas.ClockSet, setClock)
	On(t, schemas.ClockTick, e.tick)
	On(t, schemas.SegmentExpire, expireSegments)
	On(t, schemas.ConfigSet, e.setConfig)
	On(t, schemas.EpochStart, startEpoch)
	On(t, schemas.RetryLetter, t.retryLetter)
	On(t, schemas.DropLetter, dropLetter)
	On(t, schemas.FileLetter, fileLetter)
	On(t, schemas.RefuseCommand, refuseCommand)
	On(t, schemas.MarkDelivery, markDelivery)
	return t
}

// On enters the handler of a kind. A handler that returns an error, or panics,
// sends its command to the dead letters; a *store.Fault and a *schemas.GuardError
// end the partition.
func On[T any, P Payload[T]](t *Table, kind schemas.CommandKind[T], handle func(*store.Tx, Command, *T) (Result, error)) {
	if _, ok := t.rows[kind.Name]; ok {
		panic(fmt.Sprintf("two handlers for kind %q", kind.Name))
	}
	t.rows[kind.Name] = row{
		decode: func(b []byte) (any, error) {
			v := new(T)
			return v, P(v).DecodePayload(b)
		},
		apply: func(tx *store.Tx, c Command, v any) (Result, error) { return handle(tx, c, v.(*T)) },
	}
}
