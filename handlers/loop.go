package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"grout/schemas"
	"grout/store"
)

// Source gives the groups of one partition in order.
type Source interface {
	// Open begins behind the checkpoint and tells when the stream was created.
	Open(ctx context.Context, at schemas.Checkpoint) (streamCreated int64, err error)
	// Next waits for the next message.
	Next(ctx context.Context) (schemas.StreamMessage, error)
}

// How much one transaction takes, and how much is decoded ahead of it.
const (
	DefaultMaxMessages = 64
	maxTransaction     = 4 << 20
	maxAhead           = 64
	maxAheadBytes      = 8 << 20
	settleEvery        = 100 * time.Millisecond
)

// LoopOptions are what a loop is made of.
type LoopOptions struct {
	Store       *store.Store
	Source      Source
	Table       *Table
	DecodeGroup func(schemas.StreamMessage) (schemas.Group, error)
	Reply       func(to, groupID string, outcomes [][]byte) error
	Logger      *slog.Logger
	MaxMessages int    // in one transaction; 0: DefaultMaxMessages
	Until       uint64 // stream sequence beyond which nothing is applied; 0: no end
	Fault       func(point string)
}

// Loop applies the command stream of one partition.
type Loop struct {
	o       LoopOptions
	applied atomic.Int64
	bytes   atomic.Int64
	running atomic.Bool
	waiting atomic.Int64 // messages that were in the stream when it was opened
	expect  atomic.Uint64
	ahead   *budget
}

// NewLoop makes a loop; Run starts it.
func NewLoop(o LoopOptions) *Loop {
	if o.MaxMessages <= 0 {
		o.MaxMessages = DefaultMaxMessages
	}
	return &Loop{o: o, ahead: newBudget(maxAheadBytes)}
}

// Applied is the number of messages applied since the start.
func (l *Loop) Applied() int64 { return l.applied.Load() }

// AppliedBytes is the size of the messages applied since the start.
func (l *Loop) AppliedBytes() int64 { return l.bytes.Load() }

// Running reports whether the loop has opened its source and not ended.
func (l *Loop) Running() bool { return l.running.Load() }

// CaughtUp reports whether everything has been applied that was in the stream when
// it was opened: before that, what was answered by an earlier process may not be
// visible yet. It needs a source with a method Pending() uint64.
func (l *Loop) CaughtUp() bool {
	return l.running.Load() && l.applied.Load() >= l.waiting.Load() && l.o.Store.Checkpoint().Seq >= l.expect.Load()
}

// Expect names a message that must be applied before the loop has caught up: a source
// that reads a copy of the stream may not know of it yet.
func (l *Loop) Expect(seq uint64) { l.expect.Store(seq) }

// Run applies messages until ctx ends or something makes it impossible to go on.
// While one transaction is committed the next messages are decoded.
func (l *Loop) Run(ctx context.Context) error {
	created, err := l.o.Source.Open(ctx, l.o.Store.Checkpoint())
	if err != nil {
		return fmt.Errorf("open command stream: %w", err)
	}
	if s, ok := l.o.Source.(interface{ Pending() uint64 }); ok {
		l.waiting.Store(int64(s.Pending()))
	}
	l.running.Store(true)
	defer l.running.Store(false)
	ctx, cancel := context.WithCancel(ctx)
	queue := make(chan *message, maxAhead)
	failed := make(chan error, 1)
	go func() {
		defer close(queue)
		failed <- l.read(ctx, created, queue)
	}()
	err = l.drain(ctx, queue)
	cancel()
	for range queue { // the reader may be waiting to hand one over
	}
	readErr := <-failed
	if err == nil && !errors.Is(readErr, context.Canceled) {
		err = readErr
	}
	return err
}

func (l *Loop) read(ctx context.Context, created int64, queue chan<- *message) error {
	for {
		raw, err := l.o.Source.Next(ctx)
		if err != nil {
			return err
		}
		if l.o.Until != 0 && raw.Seq > l.o.Until {
			<-ctx.Done()
			return ctx.Err()
		}
		if err := l.ahead.take(ctx, len(raw.Data)); err != nil {
			return err
		}
		m := l.o.Table.decode(raw, created, l.o.DecodeGroup)
		l.fault("decoded")
		select {
		case queue <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *Loop) drain(ctx context.Context, queue <-chan *message) error {
	settle := time.NewTicker(settleEvery)
	defer settle.Stop()
	var batch []*message
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-settle.C:
			if l.o.Store.Unsettled() {
				l.fault("relay.settle")
				if err := l.o.Store.Settle(); err != nil {
					return err
				}
			}
			continue
		case m, ok := <-queue:
			if !ok {
				return nil
			}
			batch = l.fill(append(batch[:0], m), queue)
		}
		for rest := batch; len(rest) > 0; {
			n, err := l.transaction(rest)
			if err != nil {
				return err
			}
			rest = rest[n:]
		}
		clear(batch)
	}
}

// fill adds what is waiting already.
func (l *Loop) fill(batch []*message, queue <-chan *message) []*message {
	size := len(batch[0].raw.Data)
	for len(batch) < l.o.MaxMessages && size < maxTransaction {
		select {
		case m, ok := <-queue:
			if !ok {
				return batch
			}
			batch = append(batch, m)
			size += len(m.raw.Data)
		default:
			return batch
		}
	}
	return batch
}

// transaction applies messages from the front of batch until it is done or the
// store wants a commit, and says how many. A command that cannot be applied is
// marked and everything is applied again without it, so its neighbours count as
// if it had never been there.
func (l *Loop) transaction(batch []*message) (int, error) {
	for {
		n := 0
		outcomes := make([][][]byte, 0, len(batch))
		err := l.o.Store.Update(func(tx *store.Tx) error {
			for _, m := range batch {
				o, err := l.o.Table.apply(tx, m)
				if err != nil {
					return err
				}
				outcomes = append(outcomes, o)
				n++
				if tx.Sealed() {
					break
				}
			}
			return nil
		})
		var bad *poison
		if errors.As(err, &bad) {
			l.o.Logger.Error("command goes to the dead letters", "stream_sequence", bad.message.raw.Seq, "index", bad.index,
				"correlation_id", bad.message.group.Commands[bad.index].CorrelationID, "error", bad.err)
			bad.message.kill(bad.index, schemas.Errorf(schemas.CodePoison, "the command could not be applied"))
			continue
		}
		var guard *schemas.GuardError
		if errors.As(err, &guard) && n > 0 {
			batch = batch[:n] // those before it count
			continue
		}
		if err != nil {
			return 0, err
		}
		for i, m := range batch[:n] {
			l.finish(m, outcomes[i])
		}
		return n, nil
	}
}

func (l *Loop) finish(m *message, outcomes [][]byte) {
	l.applied.Add(1)
	l.bytes.Add(int64(len(m.raw.Data)))
	l.ahead.give(len(m.raw.Data))
	if n := len(m.group.Commands); n == 1 && m.group.Commands[0].Kind == schemas.EpochStart.Name {
		l.fault("epoch.applied")
	}
	if m.group.ReplyTo == "" || outcomes == nil {
		return
	}
	if err := l.o.Reply(m.group.ReplyTo, m.group.ID, outcomes); err != nil {
		l.o.Logger.Warn("outcomes could not be sent; whoever waits will ask again", "group", m.group.ID, "error", err)
	}
}

func (l *Loop) fault(point string) {
	if l.o.Fault != nil {
		l.o.Fault(point)
	}
}
