package app

import (
	"context"
	"errors"
	"sync"
)

// stage is a set of parts that run and stop together.
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	wait   sync.WaitGroup
	failed chan<- error // takes the first error of all stages
}

func startStage(failed chan<- error) *stage {
	ctx, cancel := context.WithCancel(context.Background())
	return &stage{ctx: ctx, cancel: cancel, failed: failed}
}

// run starts a part; it must return soon after its context has ended.
func (s *stage) run(part func(context.Context) error) {
	s.wait.Go(func() {
		err := part(s.ctx)
		if err == nil || errors.Is(err, context.Canceled) && s.ctx.Err() != nil {
			return
		}
		select {
		case s.failed <- err:
		default:
		}
	})
}

// stop ends the parts and waits for them.
func (s *stage) stop() {
	s.cancel()
	s.wait.Wait()
}
