package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"grout/schemas"
)

// resume finds where to go on: at the later of the marker in the stream and the
// outbox's own note.
func (r *Relay) resume(ctx context.Context) error {
	return r.b.confirmed(ctx, r.stream, func() (bool, error) {
		err := r.resumeNow(ctx)
		return isGuard(err), err
	})
}

func (r *Relay) resumeNow(ctx context.Context) error {
	noted, err := r.out.Relayed(r.dest)
	if err != nil {
		return &stopError{fmt.Errorf("read where the relay to %s stands: %w", r.dest, err)}
	}
	// What passRemains found is behind no marker yet: it is looked for again.
	if r.established && r.at.MarkerSeq > noted.MarkerSeq {
		noted = r.at
	}
	d, err := r.b.destination(ctx, r.dest, r.partition)
	if err != nil {
		return err
	}
	if d.marker == nil {
		r.resumeWithoutMarker(noted, d)
	} else if err := r.resumeAt(noted, d); err != nil {
		return err
	}
	lost, err := d.lost(ctx, noted)
	if err != nil {
		return err
	}
	if lost != "" {
		return guardf(RelayTailLost, "%s; start again to publish once more what can be made again, or put the newer copy of the stream back", lost)
	}
	if d.marker != nil {
		if err := r.noteMarker(noted, d.marker); err != nil {
			return err
		}
	}
	if err := r.passRemains(ctx, max(r.at.MarkerSeq, noted.MarkerSeq), d.state); err != nil {
		return err
	}
	r.established = true
	return nil
}

// passRemains looks for facts behind the marker. The server writes a batch message
// by message, so a write error or a power cut may leave its beginning in the stream
// without its marker; when the server cannot complete it, it stays. What is there
// must not be published again. The facts of a batch are in order, so the last one
// of this partition tells how far it came.
func (r *Relay) passRemains(ctx context.Context, marker uint64, state streamState) error {
	if state.Last <= marker || state.Messages == 0 {
		return nil
	}
	facts, err := r.b.js.OrderedConsumer(ctx, r.stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: marker + 1, HeadersOnly: true, NamePrefix: ConsumerPrefix + nuid.Next(),
	})
	if err != nil {
		return fmt.Errorf("look behind the marker of %s: %w", r.stream, err)
	}
	messages, err := facts.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return fmt.Errorf("look behind the marker of %s: %w", r.stream, err)
	}
	defer messages.Stop()
	found := r.at.After
	for at := marker; at < state.Last; {
		m, err := nextWithin(ctx, messages, silenceLimit)
		if err != nil {
			return fmt.Errorf("look behind the marker of %s at %d: %w", r.stream, at, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("look behind the marker of %s at %d: %w", r.stream, at, err)
		}
		if p, ok := r.ownPosition(m.Headers().Get(headerPosition)); ok && p.Compare(found) > 0 {
			found = p
		}
		if at = meta.Sequence.Stream; meta.NumPending == 0 {
			break
		}
	}
	if found != r.at.After {
		r.log.Warn("a batch was left in the stream without its marker; going on behind what is there", "stream", r.stream, "after", found.String())
		r.at.After = found
	}
	return nil
}

// positionText names a fact across partitions: partition, epoch, sequence, index, number.
func (r *Relay) positionText(p schemas.Position) string {
	return fmt.Sprintf("%d/%s", r.partition, p)
}

func (r *Relay) ownPosition(text string) (p schemas.Position, ok bool) {
	partition := -1
	n, err := fmt.Sscanf(text, "%d/%d/%d/%d/%d", &partition, &p.Epoch, &p.Seq, &p.Index, &p.N)
	return p, err == nil && n == 5 && partition == r.partition
}

func (r *Relay) resumeWithoutMarker(noted schemas.RelayState, d *destination) {
	if noted.MarkerSeq != 0 && d.state.First <= noted.MarkerSeq {
		r.log.Warn("the relay's marker is gone from the stream although it has not expired; going on from the outbox's note",
			"stream", r.stream, "marker", noted.MarkerSeq, "after", noted.After.String())
	}
	r.at, r.renewed = schemas.RelayState{After: noted.After, StreamCreated: d.state.created}, time.Now()
}

// resumeAt judges the marker.
func (r *Relay) resumeAt(noted schemas.RelayState, d *destination) error {
	m, after := d.marker, d.after
	if d.bad != nil {
		return guardf(RelayMarker, "message %d of stream %s on %s is not a marker (%v); purge that subject after finding out who wrote it", m.Seq, r.stream, r.marker, d.bad)
	}
	if err := d.foreign(r.opts.Origin()); err != nil {
		return err
	}
	owner := ""
	if h := m.Header[headerRelay]; len(h) == 1 {
		owner = h[0]
	}
	newest := max(r.opts.Epoch, noted.After.Epoch) // the store may have begun one since
	switch {
	case after.Epoch > newest:
		return guardf(RelayEpoch, "the marker of stream %s at %d is of epoch %d, the store's newest is %d; the store is older than the stream: put the newer store back",
			r.stream, m.Seq, after.Epoch, newest)
	case r.established && owner != r.owner && m.Seq != r.at.MarkerSeq:
		return guardf(RelayFenced, "another relay has written the marker of stream %s at %d, position %s; end one of the two that serve partition %d",
			r.stream, m.Seq, after, r.partition)
	}
	r.at = schemas.RelayState{After: after, MarkerSeq: m.Seq, StreamCreated: d.state.created}
	return nil
}

func (r *Relay) noteMarker(noted schemas.RelayState, m *schemas.StreamMessage) error {
	if r.at != noted {
		if err := r.mark(r.at); err != nil {
			return err
		}
	}
	r.renewed = m.Time
	return nil
}
