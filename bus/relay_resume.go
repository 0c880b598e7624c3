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
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	noted, err := r.out.Relayed(r.dest)
	if err != nil {
		return &stopError{fmt.Errorf("read where the relay to %s stands: %w", r.dest, err)}
	}
	if r.established && r.at.After.Compare(noted.After) > 0 {
		noted = r.at
	}
	m, err := r.b.getMessage(ctx, r.stream, 0, r.marker)
	if err != nil {
		return err
	}
	// Asked for after the marker: a marker that is there is within these bounds.
	stream, err := r.b.js.Stream(ctx, r.stream)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", r.stream, err)
	}
	state := stream.CachedInfo().State
	if state.LastSeq < noted.MarkerSeq {
		return guardf(RelayTailLost, "stream %s ends at %d, the relay's last marker was at %d; re-emit from the kept outbox rows or from MOZAIKS_CMD, or put the newer copy of the stream back",
			r.stream, state.LastSeq, noted.MarkerSeq)
	}
	if m == nil {
		err = r.resumeWithoutMarker(noted, state)
	} else {
		err = r.resumeAt(noted, m)
	}
	if err == nil {
		err = r.passRemains(ctx, max(r.at.MarkerSeq, noted.MarkerSeq), state)
	}
	r.established = r.established || err == nil
	return err
}

// passRemains looks for facts behind the marker. The server writes a batch message
// by message, so a write error or a power cut may leave its beginning in the stream
// without its marker; when the server cannot complete it, it stays. What is there
// must not be published again. The facts of a batch are in order, so the last one
// of this partition tells how far it came.
func (r *Relay) passRemains(ctx context.Context, marker uint64, state jetstream.StreamState) error {
	if state.LastSeq <= marker || state.Msgs == 0 {
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
	for at := marker; at < state.LastSeq; {
		m, err := messages.Next(jetstream.NextContext(ctx))
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

func (r *Relay) resumeWithoutMarker(noted schemas.RelayState, state jetstream.StreamState) error {
	if noted.MarkerSeq != 0 && state.FirstSeq <= noted.MarkerSeq {
		r.log.Warn("the relay's marker is gone from the stream although it has not expired; going on from the outbox's note",
			"stream", r.stream, "marker", noted.MarkerSeq, "after", noted.After.String())
	}
	r.at, r.renewed = schemas.RelayState{After: noted.After}, time.Now()
	return nil
}

func (r *Relay) resumeAt(noted schemas.RelayState, m *schemas.StreamMessage) error {
	after, err := readMarker(m.Data)
	if err != nil {
		return guardf(RelayMarker, "message %d of stream %s on %s is not a marker (%v); purge that subject after finding out who wrote it", m.Seq, r.stream, r.marker, err)
	}
	owner := ""
	if h := m.Header[headerRelay]; len(h) == 1 {
		owner = h[0]
	}
	newest := max(r.opts.Epoch, noted.After.Epoch) // the store may have begun one since
	switch ahead := after.Compare(noted.After); {
	case after.Epoch > newest:
		return guardf(RelayEpoch, "the marker of stream %s at %d is of epoch %d, the store's newest is %d; the store is older than the stream: put the newer store back",
			r.stream, m.Seq, after.Epoch, newest)
	case r.established && owner != r.owner && m.Seq != r.at.MarkerSeq:
		return guardf(RelayFenced, "another relay has written the marker of stream %s at %d, position %s; end one of the two that serve partition %d",
			r.stream, m.Seq, after, r.partition)
	case ahead < 0 || m.Seq < noted.MarkerSeq:
		return guardf(RelayTailLost, "the marker of stream %s at %d says %s, the outbox has noted %s with its marker at %d; the stream is older than the store: re-emit from the kept outbox rows or from MOZAIKS_CMD, or put the newer copy of the stream back",
			r.stream, m.Seq, after, noted.After, noted.MarkerSeq)
	}
	st := schemas.RelayState{After: after, MarkerSeq: m.Seq}
	if st == noted {
		r.at, r.renewed = st, m.Time
		return nil
	}
	if err := r.mark(st); err != nil {
		return err
	}
	r.renewed = m.Time
	return nil
}
