package bus

import (
	"context"
	"fmt"

	"grout/schemas"
)

// destination is what a destination stream shows of a partition's relay.
type destination struct {
	b      *Bus
	stream string
	state  streamState
	marker *schemas.StreamMessage // nil: there is none
	after  schemas.Position       // that the marker says
	origin int64                  // of the store whose relay wrote it; 0 is unknown
	bad    error                  // why the marker is none
}

func (b *Bus) destination(ctx context.Context, dest string, partition int) (d *destination, err error) {
	d = &destination{b: b, stream: streamOf(dest)}
	if d.marker, err = b.getMessage(ctx, d.stream, 0, schemas.MarkerSubject(dest, partition)); err != nil {
		return nil, err
	}
	// Asked for after the marker: a marker that is there is within these bounds.
	if d.state, err = b.streamState(ctx, d.stream, false); err != nil {
		return nil, err
	}
	if d.marker != nil {
		d.after, d.origin, d.bad = readMarker(d.marker.Data)
	}
	return d, nil
}

// foreign tells a marker that the relay of another store has written: its positions
// mean nothing here.
func (d *destination) foreign(origin int64) error {
	if d.marker == nil || origin == 0 || d.origin == 0 || d.origin == origin {
		return nil
	}
	return guardf(RelayForeign, "the marker of stream %s at %d is of another store's relay (of one that began %s, this one began %s); put back the stream that belongs to this store, or move the stream's directory away: what it held is published again as far as it can be made again",
		d.stream, d.marker.Seq, instant(d.origin), instant(origin))
}

// lost says how the stream shows that it does not hold what was published up to a
// note; empty when it does, or when it has expired. A marker that is gone while its
// place is empty was removed by age, size or an operator: that is no loss.
func (d *destination) lost(ctx context.Context, noted schemas.RelayState) (string, error) {
	switch {
	case noted.After == (schemas.Position{}):
		return "", nil
	case noted.StreamCreated != 0 && noted.StreamCreated != d.state.created && (d.marker == nil || d.after.Compare(noted.After) < 0):
		return fmt.Sprintf("stream %s was created %s, what was published up to %s went to one created %s",
			d.stream, instant(d.state.created), noted.After, instant(noted.StreamCreated)), nil
	case noted.StreamCreated != 0 && noted.StreamCreated != d.state.created:
		return "", nil // this store's relay has come further there since the note
	case d.state.Last < noted.MarkerSeq:
		return fmt.Sprintf("stream %s ends at %d, the relay's last marker was at %d and said %s", d.stream, d.state.Last, noted.MarkerSeq, noted.After), nil
	case d.marker != nil && (d.after.Compare(noted.After) < 0 || d.marker.Seq < noted.MarkerSeq):
		return fmt.Sprintf("the marker of stream %s at %d says %s, the outbox has noted %s with its marker at %d: the stream is older than the store",
			d.stream, d.marker.Seq, d.after, noted.After, noted.MarkerSeq), nil
	case d.marker != nil || noted.MarkerSeq == 0 || noted.MarkerSeq < d.state.First:
		return "", nil
	}
	m, err := d.b.getMessage(ctx, d.stream, noted.MarkerSeq, "")
	if err != nil || m == nil {
		return "", err
	}
	return fmt.Sprintf("message %d of stream %s is of %s, the relay's last marker was there and said %s: the stream is older than the store",
		noted.MarkerSeq, d.stream, m.Subject, noted.After), nil
}

// RelayLoss says that a destination stream does not hold what was published to it.
type RelayLoss struct {
	Dest, Stream string
	Noted        schemas.RelayState
	// Found is where the relay has to go on: what the stream still shows.
	Found  schemas.RelayState
	Detail string
}

// SurveyRelay compares a destination stream with a relay's note, at the start of a
// partition; nil when nothing is lost. What else a marker may tell is the relay's to
// judge.
func (b *Bus) SurveyRelay(ctx context.Context, dest string, partition int, noted schemas.RelayState, origin int64) (loss *RelayLoss, err error) {
	err = b.confirmed(ctx, streamOf(dest), func() (_ bool, err error) {
		loss, err = b.surveyRelay(ctx, dest, partition, noted, origin)
		return loss != nil || isGuard(err), err
	})
	return loss, err
}

func (b *Bus) surveyRelay(ctx context.Context, dest string, partition int, noted schemas.RelayState, origin int64) (*RelayLoss, error) {
	d, err := b.destination(ctx, dest, partition)
	if err != nil || d.bad != nil {
		return nil, err
	}
	if err := d.foreign(origin); err != nil {
		return nil, err
	}
	detail, err := d.lost(ctx, noted)
	if err != nil || detail == "" {
		return nil, err
	}
	l := &RelayLoss{Dest: dest, Stream: d.stream, Noted: noted, Found: schemas.RelayState{StreamCreated: d.state.created}, Detail: detail}
	if d.marker != nil {
		l.Found.After, l.Found.MarkerSeq = d.after, d.marker.Seq
	}
	return l, nil
}
