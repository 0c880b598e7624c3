package live

import (
	"context"
	"errors"

	"grout/schemas"
)

// What Open and Next may return beside the errors of their ports and of ctx.
var (
	// ErrAhead: the client knows a number that was never given.
	ErrAhead = errors.New("the position lies in the future")
	// ErrForeign: the chat belongs to another user.
	ErrForeign = errors.New("the chat belongs to another user")
	// ErrBusy: there are as many readers as may be.
	ErrBusy = errors.New("there are too many readers")
	// ErrUnavailable: the stream or the store cannot be reached; try again.
	ErrUnavailable = errors.New("the stream is not available")
	// ErrClosed: the reader was closed, or the hub has ended.
	ErrClosed = errors.New("the reader is closed")
)

// StreamState is what a stream holds. First > Last: nothing.
type StreamState struct {
	Created     int64 // tells a stream from another one of its name
	First, Last uint64
}

// Source is the stream of facts, of whichever node works now. Without one its
// methods return ErrUnavailable.
type Source interface {
	State(ctx context.Context) (StreamState, error)
	// Tail delivers what follows a sequence on a subject; it must end with an error
	// rather than leave something out.
	Tail(ctx context.Context, subject string, after uint64) (Tail, error)
	// Replay gives messages on a subject in order, from a sequence on: at most so many,
	// and no more once they reach so many bytes. left is how many follow them.
	Replay(ctx context.Context, subject string, from uint64, messages, bytes int) (list []schemas.StreamMessage, left uint64, err error)
}

// Tail belongs to one goroutine.
type Tail interface {
	// Next waits for messages, and gives all that are there up to a bound.
	Next(ctx context.Context) ([]schemas.StreamMessage, error)
	Close()
}

// Series is what the store knows of an app's facts (chat empty) or of a chat.
type Series struct {
	Last  uint64 // the last number given; 0: none
	Owner string // user whose chat it is; empty: unknown, or no chat
	Mark  schemas.Position
}

// Numbers is the store.
type Numbers interface {
	Series(ctx context.Context, app, chat string) (Series, error)
	// Relayed reports whether every fact up to a mark of the app's is in the stream.
	Relayed(ctx context.Context, app string, mark schemas.Position) (bool, error)
}
