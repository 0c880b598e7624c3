package app

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"grout/bus"
	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// replay applies a partition's stream to the replica up to where the verified store
// stands, or to the stream's end when that comes first.
func (r *verifier) replay(ctx context.Context, v *Verification, replica *store.Store) (messages int64, err error) {
	last, err := r.bus.LastCommand(ctx, v.Partition)
	if err != nil {
		return 0, err
	}
	from := replica.Checkpoint()
	if last <= from.Seq || v.To <= from.Seq {
		return 0, nil
	}
	source := &endingSource{source: r.bus.NewSource(v.Partition), to: v.To, last: last, ended: make(chan struct{})}
	defer source.source.Close()
	loop := handlers.NewLoop(handlers.LoopOptions{
		Store: replica, Source: source, Table: handlers.NewTable(), DecodeGroup: bus.DecodeGroupMessage, Logger: r.logger,
		Reply: func(string, string, [][]byte) error { return nil }, MaxMessages: replayMessages(),
	})
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- loop.Run(running) }()
	err = r.await(v.Partition, source, loop, done)
	cancel()
	if err == nil {
		err = <-done
	}
	if err != nil {
		return loop.Applied(), err
	}
	if r.o.Progress != nil {
		r.o.Progress(v.Partition, uint64(loop.Applied()), uint64(loop.Applied()))
	}
	// What was trimmed meanwhile was never read, and would look like a difference.
	return loop.Applied(), r.bus.GuardCommands(ctx, v.Partition, from)
}

const replayTick = 5 * time.Millisecond

// await waits until the loop has applied everything that the source gives.
func (r *verifier) await(number int, source *endingSource, loop *handlers.Loop, done <-chan error) error {
	tick := time.NewTicker(replayTick)
	defer tick.Stop()
	told := time.Time{}
	ended := source.ended
	for {
		select {
		case err := <-done:
			return errors.Join(err, errReplayEnded)
		case <-ended:
			ended = nil
		case <-tick.C:
			if r.o.Progress != nil && time.Since(told) > 100*time.Millisecond {
				told = time.Now()
				r.o.Progress(number, uint64(loop.Applied()), source.total.Load())
			}
		}
		if ended == nil && loop.Applied() == source.given.Load() {
			return nil
		}
	}
}

var errReplayEnded = errors.New("the replay was stopped")

// endingSource reads a stream up to a sequence, or to its last message when that comes
// first, and says when it is there.
type endingSource struct {
	source   *bus.Source
	to, last uint64
	at       uint64
	given    atomic.Int64
	total    atomic.Uint64
	ended    chan struct{}
}

func (s *endingSource) Open(ctx context.Context, at schemas.Checkpoint) (int64, error) {
	created, err := s.source.Open(ctx, at)
	s.at = at.Seq
	s.total.Store(s.source.Pending())
	return created, err
}

func (s *endingSource) Next(ctx context.Context) (schemas.StreamMessage, error) {
	if s.at < min(s.to, s.last) {
		m, err := s.source.Next(ctx)
		if err != nil {
			return m, fmt.Errorf("behind message %d: %w", s.at, err)
		}
		if s.at = m.Seq; m.Seq <= s.to {
			s.given.Add(1)
			return m, nil
		}
	}
	close(s.ended)
	<-ctx.Done()
	return schemas.StreamMessage{}, ctx.Err()
}
