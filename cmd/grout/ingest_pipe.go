package main

import (
	"context"
	"errors"
	"time"
)

// errIdle says that nothing has come for a while.
var errIdle = errors.New("no event for a while")

// idleAfter is how long a pipe may be silent before what has come is sent.
const idleAfter = time.Second

// piped reads from a source that may be silent for long: it lets what has come be
// sent, and the run be interrupted. The goroutine that reads ends with the source,
// or with the process; nothing can be done about a read that does not return.
func piped(ctx context.Context, next func() (row, error)) func() (row, error) {
	type arrival struct {
		row row
		err error
	}
	arrivals := make(chan arrival, 64)
	go func() {
		for {
			r, err := next()
			select {
			case arrivals <- arrival{r, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return func() (row, error) {
		select {
		case a := <-arrivals:
			return a.row, a.err
		default:
		}
		select {
		case a := <-arrivals:
			return a.row, a.err
		case <-time.After(idleAfter):
			return row{}, errIdle
		case <-ctx.Done():
			return row{}, context.Cause(ctx)
		}
	}
}
