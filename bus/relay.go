package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"grout/schemas"
)

// Bounds of a batch: the server takes 1,000 messages, one of them is the marker.
const (
	relayMessages = 999
	relayBytes    = 8 << 20
	headerRelay   = "Grout-Relay"
	gatherAtMost  = 4 // times the pace
	// headerPosition says which fact of which partition a message is.
	headerPosition = "Grout-Position"
)

// Relay and source try again this often, and a relay this long, before they say
// that the stream is silent.
const (
	triesBeforeSilent = 4
	timeBeforeSilent  = 10 * time.Second
)

// Outbox is where a relay takes a partition's facts from.
type Outbox interface {
	// Relayed is where the relay to a destination stands.
	Relayed(dest string) (schemas.RelayState, error)
	// Facts gives what follows a position, in order: at least one if there is
	// any, none when the relay has caught up. The messages become the relay's.
	Facts(dest string, after schemas.Position, maxMessages, maxBytes int) ([]schemas.FactMessage, error)
	// MarkRelayed notes where the relay stands. It need not be durable at once.
	MarkRelayed(dest string, st schemas.RelayState) error
	// Wake is signalled, or closed, after a commit that added rows. It is asked
	// for again before each look at the outbox.
	Wake(dest string) <-chan struct{}
}

// RelayOptions are what a relay may be told. Zero values take the defaults.
type RelayOptions struct {
	Epoch          uint32        // newest epoch of the store; a marker above it stops the relay
	Origin         func() int64  // tells the store's history from others, in the marker; 0 is unknown
	RenewEvery     time.Duration // an idle relay renews its marker: 1 h
	PublishTimeout time.Duration // of one batch: 10 s
	Pace           time.Duration // from the begin of a batch that was not full to the next: 20 ms, up to four times that while facts keep coming
	Logger         *slog.Logger
}

// RelayStats count since the start.
type RelayStats struct{ Facts, Batches, Errors int64 }

// Relay publishes a partition's facts to one destination stream, each exactly once.
type Relay struct {
	b           *Bus
	dest        string
	stream      string
	marker      string
	owner       string
	partition   int
	out         Outbox
	opts        RelayOptions
	log         *slog.Logger
	facts       atomic.Int64
	batches     atomic.Int64
	errors      atomic.Int64
	at          schemas.RelayState // After: published; MarkerSeq: the fence
	renewed     time.Time
	established bool          // the first resume is over: a foreign marker is a rival from here on
	begun       time.Time     // the last batch
	gather      time.Duration // until the next one
	more        bool          // it was full, so there may be more
}

// NewRelay makes the relay of a partition to a destination (schemas.DestFacts or
// schemas.DestDeadLetters); Run runs it.
func (b *Bus) NewRelay(dest string, partition int, o Outbox, opts RelayOptions) *Relay {
	if opts.RenewEvery == 0 {
		opts.RenewEvery = time.Hour
	}
	if opts.PublishTimeout == 0 {
		opts.PublishTimeout = 10 * time.Second
	}
	if opts.Pace == 0 {
		opts.Pace = 20 * time.Millisecond
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Origin == nil {
		opts.Origin = func() int64 { return 0 }
	}
	return &Relay{
		b: b, dest: dest, stream: streamOf(dest), marker: schemas.MarkerSubject(dest, partition), owner: nuid.Next(),
		partition: partition, out: o, opts: opts, log: opts.Logger.With("relay", dest, "partition", partition),
	}
}

// Stats says what the relay has done since the start.
func (r *Relay) Stats() RelayStats {
	return RelayStats{Facts: r.facts.Load(), Batches: r.batches.Load(), Errors: r.errors.Load()}
}

// Run relays until the context ends, the outbox fails, or a *GuardError says that
// the destination is not what this relay has published to. After an error whose
// outcome is unknown the marker tells: a batch is in the stream whole or not at all.
func (r *Relay) Run(ctx context.Context) error {
	r.established = false
	failures, failing := 0, time.Time{}
	for settled := false; ctx.Err() == nil; {
		var err error
		if !settled {
			err = r.resume(ctx)
			settled = err == nil
		}
		if err == nil {
			err = r.step(ctx)
		}
		if err == nil {
			failures = 0
			continue
		}
		var stop *stopError
		var guard *GuardError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case errors.As(err, &guard), ctx.Err() != nil:
			return err
		case errors.Is(err, nats.ErrConnectionClosed):
			return fmt.Errorf("relay to %s: %w", r.stream, err)
		}
		settled = false
		r.errors.Add(1)
		if failures++; failures == 1 {
			failing = time.Now()
			r.log.Warn("relay is retrying", "error", err)
		}
		if failures >= triesBeforeSilent && time.Since(failing) > timeBeforeSilent && silent(err) && !r.b.cfg.External {
			return fmt.Errorf("relay to %s: %w: %w", r.stream, ErrSilent, err)
		}
		if err := pause(ctx, failures); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// stopError is a fault of the outbox, which no look at the stream mends.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// step publishes one batch, or waits for something to publish.
func (r *Relay) step(ctx context.Context) error {
	if err := r.pace(ctx); err != nil {
		return err
	}
	wake := r.out.Wake(r.dest)
	facts, err := r.out.Facts(r.dest, r.at.After, relayMessages, relayBytes-headerRoom)
	if err != nil {
		return &stopError{fmt.Errorf("read the outbox for %s behind %s: %w", r.dest, r.at.After, err)}
	}
	if len(facts) > 0 {
		return r.publish(ctx, facts)
	}
	idle := time.NewTimer(time.Until(r.renewed.Add(r.opts.RenewEvery)))
	defer idle.Stop()
	select {
	case <-wake:
		r.gather = 0 // the first fact after a rest goes at once
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-idle.C:
		return r.renew(ctx)
	}
}

// pace lets facts gather. A batch costs the server two writes, two syncs, and files that
// come and go, however few facts are in it, on the disk that commands wait for. While
// they keep coming they gather for longer.
func (r *Relay) pace(ctx context.Context) error {
	wait := time.Until(r.begun.Add(r.gather))
	if r.more || wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// publish commits one atomic batch of facts and the marker behind the fence.
func (r *Relay) publish(ctx context.Context, facts []schemas.FactMessage) error {
	n, size := 0, 0
	for n < len(facts) && n < relayMessages {
		size += len(facts[n].Data) + len(facts[n].Subject) + 256
		if n > 0 && size > relayBytes {
			break
		}
		n++
	}
	r.gather = min(max(r.opts.Pace, 2*r.gather), gatherAtMost*r.opts.Pace)
	r.begun, r.more = time.Now(), n < len(facts) || n >= relayMessages || size > relayBytes/2
	facts = facts[:n]
	ctx, cancel := context.WithTimeout(ctx, r.opts.PublishTimeout)
	defer cancel()
	// The first message is not acknowledged by itself: a refusal comes with the
	// commit, and a missing answer is an unknown outcome at either place.
	batch, err := jetstreamext.NewBatchPublisher(r.b.js, jetstreamext.BatchFlowControl{AckFirst: false, AckTimeout: r.opts.PublishTimeout})
	if err != nil {
		return fmt.Errorf("begin a batch: %w", err)
	}
	for i := range facts {
		m := &nats.Msg{Subject: facts[i].Subject, Header: factHeader(facts[i].Header), Data: facts[i].Data}
		before, published := r.at.After, r.renewed
		if i > 0 {
			before, published = facts[i-1].At, time.Now()
		}
		r.linkHeader(m.Header, facts[i].At, before, published)
		if err := batch.AddMsg(m); err != nil {
			return fmt.Errorf("publish fact %s: %w", facts[i].At, err)
		}
		if i == len(facts)/2 {
			r.b.cfg.Fault("relay.batch")
		}
	}
	after := facts[len(facts)-1].At
	ack, err := batch.CommitMsg(ctx, r.markerMessage(after))
	if err != nil {
		return fmt.Errorf("commit a batch of %d facts to %s: %w", len(facts), r.stream, err)
	}
	if ack.Stream != r.stream {
		return &stopError{fmt.Errorf("a batch for %s went to stream %s", r.stream, ack.Stream)}
	}
	r.b.cfg.Fault("relay.committed")
	r.facts.Add(int64(len(facts)))
	r.batches.Add(1)
	return r.mark(schemas.RelayState{After: after, MarkerSeq: ack.Sequence, StreamCreated: r.at.StreamCreated})
}

// factHeader is never nil (jetstreamext v0.3.1) and never the outbox's own map,
// which the batch would write into.
func factHeader(h map[string][]string) nats.Header {
	out := make(nats.Header, len(h)+4)
	for k, v := range h {
		out[k] = v
	}
	return out
}

func (r *Relay) markerMessage(after schemas.Position) *nats.Msg {
	return &nats.Msg{
		Subject: r.marker,
		Header: nats.Header{
			"content-type":                      {"application/json"},
			headerRelay:                         {r.owner},
			jetstream.MsgRollup:                 {jetstream.MsgRollupSubject},
			jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(r.at.MarkerSeq, 10)},
			jetstream.ExpectedStreamHeader:      {r.stream},
		},
		Data: appendMarker(nil, after, r.opts.Origin()),
	}
}

func appendMarker(dst []byte, p schemas.Position, origin int64) []byte {
	dst = fmt.Appendf(dst, `{"epoch":%d,"seq":%d,"index":%d,"n":%d`, p.Epoch, p.Seq, p.Index, p.N)
	if origin != 0 {
		dst = fmt.Appendf(dst, `,"origin":%d`, origin)
	}
	return append(dst, '}')
}

func readMarker(data []byte) (at schemas.Position, origin int64, err error) {
	var m struct {
		Epoch *uint32 `json:"epoch"`
		Seq   *uint64 `json:"seq"`
		Index *uint32 `json:"index"`
		N     *uint32 `json:"n"`

		Origin int64 `json:"origin"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return at, 0, err
	}
	if m.Epoch == nil || m.Seq == nil || m.Index == nil || m.N == nil {
		return at, 0, errors.New("a part of the position is missing")
	}
	return schemas.Position{Epoch: *m.Epoch, Seq: *m.Seq, Index: *m.Index, N: *m.N}, m.Origin, nil
}

// renew publishes the marker again, so that it does not expire before the facts
// that follow it.
func (r *Relay) renew(ctx context.Context) error {
	if r.at.After == (schemas.Position{}) {
		r.renewed = time.Now() // nothing was ever relayed
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.opts.PublishTimeout)
	defer cancel()
	ack, err := r.b.js.PublishMsg(ctx, r.markerMessage(r.at.After))
	if err != nil {
		return fmt.Errorf("renew the marker of %s: %w", r.stream, err)
	}
	return r.mark(schemas.RelayState{After: r.at.After, MarkerSeq: ack.Sequence, StreamCreated: r.at.StreamCreated})
}

func (r *Relay) mark(st schemas.RelayState) error {
	r.at, r.renewed = st, time.Now()
	if err := r.out.MarkRelayed(r.dest, st); err != nil {
		return &stopError{fmt.Errorf("note in the outbox that %s has %s: %w", r.dest, st.After, err)}
	}
	return nil
}
