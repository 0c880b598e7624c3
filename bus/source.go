package bus

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

const (
	// pullBytes bounds what is on its way to a Source: it must hold the largest
	// group with its header, twice over, so that a pull is not one message.
	pullBytes     = 2 * (schemas.MaxGroupBytes + headerRoom)
	pullMessages  = 1000
	pullExpires   = 30 * time.Second
	pullHeartbeat = 5 * time.Second
	silenceLimit  = 2*pullHeartbeat + 2*time.Second
	// stalledHeartbeats are taken for a sign that the server cannot read on.
	stalledHeartbeats = 2
	sourceTick        = time.Second
	sourceInactive    = time.Minute
	apiTimeout        = 5 * time.Second
)

// Source reads the groups of one partition in order, each once. It belongs to one
// goroutine; only Pending may be asked from others.
type Source struct {
	b         *Bus
	partition int
	subject   string
	pending   atomic.Uint64
	history   History // nil: only the checkpoint is known

	at       schemas.Checkpoint    // what the guard compares with
	behind   uint64                // what was delivered last, or what reading begins behind
	last     schemas.StreamMessage // delivered after at; its digest is taken when needed
	stalled  int                   // heartbeats in a row although there is more
	jumped   uint64                // what was delivered in the place of the next message
	consumer string
	sub      *nats.Subscription
	messages chan *nats.Msg
	inbox    string
	pulls    uint64 // asked for so far; the number is in the reply subject of each
	next     uint64 // consumer sequence that must come next
	left     int    // messages of the pull on its way
	room     int    // bytes of the pull on its way
	heard    time.Time
	connects uint64
	failures int
	stuckAt  uint64 // where readers were given nothing, and how many
	stuck    int
}

// NewSource makes the source of a partition; Open starts it.
func (b *Bus) NewSource(partition int) *Source {
	return &Source{b: b, partition: partition, subject: schemas.GroupSubject(partition)}
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
	tick := time.NewTimer(sourceTick)
	defer tick.Stop()
	for ctx.Err() == nil {
		if s.sub == nil {
			if err := s.restart(ctx); err != nil {
				return schemas.StreamMessage{}, err
			}
		}
		if s.left <= 0 || s.room <= 0 {
			if err := s.pull(); err != nil {
				s.drop()
				s.failures++
				continue
			}
		}
		select {
		case m := <-s.messages:
			got, ok := s.take(m)
			if ok {
				return got, nil
			}
			if err := s.judge(ctx); err != nil {
				return schemas.StreamMessage{}, err
			}
		case <-tick.C:
			if s.b.nc.IsClosed() || s.b.nc.Stats().Reconnects != s.connects || time.Since(s.heard) > s.b.silence() {
				s.drop()
			}
			tick.Reset(sourceTick)
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

// drop forgets the consumer. The server would remove it by itself after a while;
// asking it to is a courtesy that waits for no answer.
func (s *Source) drop() {
	if s.sub != nil {
		_ = s.sub.Unsubscribe()
	}
	if s.consumer != "" {
		_ = s.b.nc.Publish("$JS.API.CONSUMER.DELETE."+schemas.StreamCommands+"."+s.consumer, nil)
	}
	s.sub, s.messages, s.consumer = nil, nil, ""
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
	s.connects = s.b.nc.Stats().Reconnects
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
	messages := make(chan *nats.Msg, 2*pullMessages)
	s.inbox, s.pulls = s.b.nc.NewInbox(), 0
	if s.sub, err = s.b.nc.ChanSubscribe(s.inbox+".*", messages); err != nil {
		return fmt.Errorf("read %s: %w", s.subject, err)
	}
	s.messages = messages
	c, err := s.b.js.CreateConsumer(ctx, schemas.StreamCommands, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: s.behind + 1, FilterSubject: s.subject, MaxWaiting: 16,
		InactiveThreshold: sourceInactive, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", s.subject, err)
	}
	info := c.CachedInfo()
	s.at.StreamCreated = created
	s.consumer, s.next, s.left, s.room, s.heard, s.stalled = info.Name, 1, 0, 0, time.Now(), 0
	s.pending.Store(info.NumPending)
	return nil
}

func (s *Source) replySubject() string { return s.inbox + "." + strconv.FormatUint(s.pulls, 10) }

func (s *Source) pull() error {
	s.pulls++
	ask := fmt.Appendf(nil, `{"expires":%d,"batch":%d,"max_bytes":%d,"idle_heartbeat":%d}`,
		pullExpires.Nanoseconds(), pullMessages, pullBytes, s.b.heartbeat().Nanoseconds())
	err := s.b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+schemas.StreamCommands+"."+s.consumer, s.replySubject(), ask)
	s.left, s.room, s.heard = pullMessages, pullBytes, time.Now()
	return err
}

// take judges what arrived: a message in sequence, the end of a pull, or a reason
// to start again.
func (s *Source) take(m *nats.Msg) (schemas.StreamMessage, bool) {
	s.heard = time.Now()
	if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 {
		description := strings.ToLower(m.Header.Get("Description"))
		switch {
		case status == "100": // idle heartbeat
			s.failures = 0
			if s.stalled++; s.pending.Load() == 0 {
				s.stalled = 0
			}
		case status == "408", status == "404", status == "409" && (strings.Contains(description, "maxbytes") || strings.Contains(description, "batch completed")):
			if m.Subject == s.replySubject() {
				s.left = 0 // this pull is over
			}
		default: // consumer deleted, leadership change, no responders
			s.drop()
			s.failures++
		}
		return schemas.StreamMessage{}, false
	}
	d, err := parseDelivery(m.Reply)
	if err != nil || d.consumerSeq != s.next || d.streamSeq <= s.behind {
		s.drop()
		s.failures++
		return schemas.StreamMessage{}, false
	}
	if s.b.cfg.Partitions == 1 && d.streamSeq != s.behind+1 {
		s.jumped = d.streamSeq
		return schemas.StreamMessage{}, false
	}
	s.next++
	s.left--
	s.room -= m.Size()
	s.failures, s.stalled, s.behind = 0, 0, d.streamSeq
	s.pending.Store(d.pending)
	s.last = schemas.StreamMessage{Subject: m.Subject, Seq: d.streamSeq, Time: d.stored, Header: m.Header, Data: m.Data}
	return s.last, true
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

type delivery struct {
	streamSeq, consumerSeq, pending uint64
	stored                          time.Time
}

// parseDelivery reads the reply subject of a delivered message:
// $JS.ACK.[<domain>.<account hash>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<random>]
func parseDelivery(reply string) (delivery, error) {
	t := strings.Split(reply, ".")
	if len(t) > 9 {
		t = append(t[:2], t[4:]...)
	}
	if len(t) < 9 || t[0] != "$JS" || t[1] != "ACK" {
		return delivery{}, fmt.Errorf("reply subject %q is not of a delivery", reply)
	}
	var n [4]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(t[5+i], 10, 63); err != nil {
			return delivery{}, fmt.Errorf("reply subject %q is not of a delivery: %w", reply, err)
		}
	}
	return delivery{streamSeq: n[0], consumerSeq: n[1], stored: time.Unix(0, int64(n[2])).UTC(), pending: n[3]}, nil
}
