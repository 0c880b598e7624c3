// Package deliver sends what the log says out of the house: usage to the Platform
// (contract §7) and facts to webhooks. It may import schemas only; what it reads and
// where it stands come through small interfaces.
//
// Everything is sent at least once, in order, and a place in the log moves only behind
// what was taken or refused for good. What cannot be sent any more is a gap that has a
// name, never silence.
package deliver

import (
	"context"

	"grout/schemas"
)

// Ledger keeps where deliveries stand.
type Ledger interface {
	// Stand tells where a delivery stands; nil when it is not known.
	Stand(name string) (*schemas.DeliveryStand, error)
	// Mark writes where it stands, and returns when that is applied.
	Mark(ctx context.Context, m *schemas.DeliveryMark) error
}

// Events reads the event log of a partition.
type Events interface {
	// EventsBehind gives about most events from a place on.
	EventsBehind(ctx context.Context, seq uint64, index uint32, most int) (schemas.SentPage, error)
	// Recorded counts the events that were recorded since the start.
	Recorded() int64
}

// Facts reads the stream of facts.
type Facts interface {
	// State says when the stream was created, and its first and last sequence.
	State(ctx context.Context) (created int64, first, last uint64, err error)
	// From gives facts from a sequence on, in order; none when there are none now.
	From(ctx context.Context, seq uint64, messages, bytes int) ([]schemas.StreamMessage, error)
	// Published counts what was published since the start.
	Published() int64
}
