package handlers

import "context"

// budget bounds bytes that are held at once. One holder may exceed it alone, so
// nothing is ever too large to pass.
type budget struct {
	free chan int // holds the free bytes while nobody looks at them
	more chan struct{}
}

func newBudget(bytes int) *budget {
	b := &budget{free: make(chan int, 1), more: make(chan struct{}, 1)}
	b.free <- bytes
	return b
}

// take waits until something is free and takes n, if need be into the negative.
// Only one goroutine takes.
func (b *budget) take(ctx context.Context, n int) error {
	for {
		free := <-b.free
		if free > 0 {
			b.free <- free - n
			return nil
		}
		b.free <- free
		select {
		case <-b.more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (b *budget) give(n int) {
	b.free <- <-b.free + n
	select {
	case b.more <- struct{}{}:
	default:
	}
}
