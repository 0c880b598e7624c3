package httpapi

import (
	"context"

	"grout/schemas"
)

// DeadLetters tells of dead letters as they are committed. A *schemas.Error inside an
// error is the caller's.
type DeadLetters interface {
	// Letters gives a page of letters, newest first in each partition.
	Letters(ctx context.Context, q schemas.LetterQuery) (schemas.LetterPage, error)
	// Letter finds a letter with its original; nil when there is none.
	Letter(ctx context.Context, id string) (*DeadLetter, error)
	// Command reads the command that a letter holds, as it would be sent again.
	Command(ctx context.Context, l *DeadLetter) (schemas.CommandFrame, error)
	// Waiting is how many letters wait.
	Waiting() int64
}

// DeadLetter is a letter, the partition that knows it, and its original as its CloudEvent
// tells it; nil when nothing keeps that any more.
type DeadLetter struct {
	schemas.Letter
	Partition int
	Original  *schemas.DeadLetterOriginal
}
