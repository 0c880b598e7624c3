package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

const (
	// pullBytes bounds what is on its way to a Source: it must hold the largest
	// group with its header, twice over, so that a pull is not one message.
	pullBytes    = 2 * (schemas.MaxGroupBytes + headerRoom)
	pullMessages = 1000
	// stalledHeartbeats are taken for a sign that the server cannot read on.
	stalledHeartbeats = 2
	apiTimeout        = 5 * time.Second
)

// Source reads the groups of one partition in order, each once. It belongs to one
// goroutine; only Pending may be asked from others.
type Source struct {
	reader
	partition int
	subject   string
	history   History // nil: only the checkpoint is known

	at       schemas.Checkpoint    // what the guard compares with
	last     schemas.StreamMessage // delivered after at; its digest is taken when needed
	stalled  int                   // heartbeats in a row although there is more
	jumped   uint64                // what was delivered in the place of the next message
	failures int
	stuckAt  uint64 // where readers were given nothing, and how many
	stuck    int
}

// NewSource makes the source of a partition; Open starts it.
func (b *Bus) NewSource(partition int) *Source {
	return &Source{
		reader:    reader{b: b, stream: schemas.StreamCommands, most: pullMessages, mostBytes: pullBytes},
		partition: partition, subject: schemas.GroupSubject(partition),
	}
}

// Of has Open compare the stream with all that a store remembers, and not only with
// its checkpoint. The source is then of use for that store alone.
func (s *Source) Of(h History) *Source {
	s.history = h
	return s
}

// Open begins behind the checkpoint, after the guard has compared it with the
// stream; or at the start of the epoch that goes on from there. It returns when the
// stream was created.
func (s *Source) Open(ctx context.Context, at schemas.Checkpoint) (streamCreated int64, err error) {
	s.Close()
	s.at, s.behind, s.last, s.jumped = at, at.Seq, schemas.StreamMessage{}, 0
	if s.history != nil {
		if err := s.survey(ctx); err != nil {
			return 0, err
		}
	}
	begin := s.start
	if s.b.cfg.External {
		begin = s.restart
	}
	if err := begin(ctx); err != nil {
		s.Close()
		return 0, err
	}
	return s.at.StreamCreated, nil
}

// survey finds where the reading begins.
func (s *Source) survey(ctx context.Context) error {
	v, err := s.b.Survey(ctx, s.partition, s.history)
	if err != nil {
		return err
	}
	switch {
	case v.Begin != nil:
		s.behind = v.Begin.Seq - 1
		s.at = schemas.Checkpoint{Seq: v.Begin.Seq, StoredAt: v.Begin.Time.UnixNano(), Digest: schemas.MessageDigest(v.Begin.Data)}
	case v.Lost != "":
		return guardf(v.Lost, "%s; %s", v.Detail, fixTail)
	}
	s.at.StreamCreated = v.Created
	if s.b.cfg.Partitions > 1 {
		return s.b.confirmed(ctx, s.subject, func() (bool, error) {
			err := s.b.readThrough(ctx, s.partition, s.behind)
			return isGuard(err), err
		})
	}
	return nil
}

// Next waits for the next group. A lost connection or consumer is mended on the
// way, with the guard; a *GuardError ends the reading. The data of the message last
// returned must stay as they are until the next call: the guard may look at them.
func (s *Source) Next(ctx context.Context) (schemas.StreamMessage, error) {
	if s.sub == nil && s.at.StreamCreated == 0 {
		return schemas.StreamMessage{}, errors.New("the source is not open")
	}
	tick := time.NewTimer(readerTick)
	defer tick.Stop()
	for ctx.Err() == nil {
		if s.sub == nil {
			if err := s.restart(ctx); err != nil {
				return schemas.StreamMessage{}, err
			}
		}
		if s.ask() != nil {
			s.drop()
			s.failures++
			continue
		}
		select {
		case m := <-s.messages:
			if s.receive(m) {
				return s.last, nil
			}
			if err := s.judge(ctx); err != nil {
				return schemas.StreamMessage{}, err
			}
		case <-tick.C:
			if s.lost() {
				s.drop()
			}
			tick.Reset(readerTick)
		case <-ctx.Done():
		}
	}
	return schemas.StreamMessage{}, ctx.Err()
}

// Pending is the number of the partition's messages not delivered yet, as last seen.
func (s *Source) Pending() uint64 { return s.pending.Load() }

// Close gives the consumer back. The source can be opened again.
func (s *Source) Close() {
	s.drop()
	s.at, s.behind, s.last = schemas.Checkpoint{}, 0, schemas.StreamMessage{}
}

// restart starts again behind what was delivered last, until it works, the guard
// stops it, or the context ends.
func (s *Source) restart(ctx context.Context) error {
	for {
		if s.failures > 0 {
			if err := pause(ctx, s.failures); err != nil {
				return err
			}
		}
		err := s.start(ctx)
		if err == nil {
			return nil
		}
		s.drop()
		s.failures++
		var guard *GuardError
		if errors.As(err, &guard) || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, nats.ErrConnectionClosed) {
			return fmt.Errorf("read %s: %w", s.subject, err)
		}
		if s.failures >= triesBeforeSilent && silent(err) && !s.b.cfg.External {
			return fmt.Errorf("read %s: %w: %w", s.subject, ErrSilent, err)
		}
	}
}

// pause waits before another try: 50 ms, doubled up to 2 s, half of it at random.
func pause(ctx context.Context, failures int) error {
	return sleep(ctx, jitter(min(50*time.Millisecond<<min(failures-1, 10), 2*time.Second)))
}

// jitter takes up to half of a wait away.
func jitter(wait time.Duration) time.Duration { return wait/2 + rand.N(wait/2+1) }

// start runs the guard and makes a consumer behind what was delivered last.
func (s *Source) start(ctx context.Context) error {
	if s.last.Seq != 0 {
		s.at.Seq, s.at.StoredAt = s.last.Seq, s.last.Time.UnixNano()
		s.at.Digest = schemas.MessageDigest(s.last.Data)
		s.behind = s.last.Seq
		s.last = schemas.StreamMessage{}
	}
	s.watch()
	var created int64
	err := s.b.confirmed(ctx, s.subject, func() (_ bool, err error) {
		ctx, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		created, err = s.b.guardCommands(ctx, s.partition, s.at)
		return isGuard(err), err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	if err := s.consume(ctx, "", s.subject); err != nil {
		return fmt.Errorf("read %s: %w", s.subject, err)
	}
	s.at.StreamCreated, s.stalled = created, 0
	return nil
}

// receive takes what arrived: a group in sequence, or nothing.
func (s *Source) receive(m *nats.Msg) bool {
	behind := s.behind
	got, what, err := s.take(m)
	switch {
	case err != nil:
		s.drop()
		s.failures++
	case what == arrivedBeat:
		s.failures = 0
		if s.stalled++; s.pending.Load() == 0 {
			s.stalled = 0
		}
	case what == arrivedMessage && s.b.cfg.Partitions == 1 && got.Seq != behind+1:
		s.behind, s.jumped = behind, got.Seq
	case what == arrivedMessage:
		s.failures, s.stalled, s.last = 0, 0, got
		return true
	}
	return false
}

// judge tells a stream that has lost a message from one that has nothing to give.
func (s *Source) judge(ctx context.Context) error {
	if s.jumped != 0 {
		return guardf(StreamGap, "message %d of stream %s comes behind %d: what lies between is missing although nobody trimmed it; %s", s.jumped, schemas.StreamCommands, s.behind, fixGap)
	}
	if s.stalled < stalledHeartbeats || s.sub == nil {
		return nil
	}
	s.stalled = 0
	return s.guardStalled(ctx)
}
