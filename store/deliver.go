package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Deliveries out of the house keep where they stand in the log, by commands of their
// own (`deliveries`: name; the form of schemas.DeliveryStand). What one of them has still
// to send of the event log keeps its segment, for a time (segments.go).

// Deliveries lists where all deliveries of the partition stand, by name.
func (s *Store) Deliveries() (list []schemas.DeliveryStand, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		list, err = readDeliveries(&Look{bolt: bolt})
		return err
	})
	return list, err
}

// Delivery tells where one stands; nil when it is not known.
func (s *Store) Delivery(name string) (d *schemas.DeliveryStand, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		d, err = parseDelivery(bucketOf(bolt, bucketDeliveries).get([]byte(name)))
		return err
	})
	return d, err
}

func parseDelivery(v []byte, err error) (*schemas.DeliveryStand, error) {
	if err != nil || v == nil {
		return nil, err
	}
	d := &schemas.DeliveryStand{}
	if err := d.DecodeStand(bytes.Clone(v)); err != nil {
		return nil, err
	}
	return d, nil
}

func readDeliveries(t reading) (list []schemas.DeliveryStand, err error) {
	c := t.bucket(bucketDeliveries).cursor()
	for k, v := c.first(); k != nil; k, v = c.next() {
		d, err := parseDelivery(v, nil)
		if err != nil {
			return nil, fmt.Errorf("delivery %q: %w", k, err)
		}
		list = append(list, *d)
	}
	return list, c.err
}

// MarkDelivery carries out a mark of the running command. It never takes a delivery of
// events back: who wrote it may not know yet that its segments have expired.
func (tx *Tx) MarkDelivery(m *schemas.DeliveryMark) error {
	key := []byte(m.Stand.Name)
	have, err := parseDelivery(tx.bucket(bucketDeliveries).get(key))
	if err != nil {
		return &Fault{"read delivery", err}
	}
	if m.Op == schemas.DeliveryRemove {
		if have == nil {
			return nil
		}
		_, err := tx.delete(bucketDeliveries, key)
		return faultOf("forget delivery", err)
	}
	next := m.Stand
	switch {
	case m.Op == schemas.DeliveryBegin && have != nil, m.Op == schemas.DeliverySet && have == nil:
		return nil
	case m.Op == schemas.DeliveryBegin && next.Source == schemas.DeliverEvents:
		next.Seq, next.Index = tx.log()+1, 0
	case have != nil:
		next = passed(*have, next)
	}
	next.Name, next.Stopped, next.MarkedAt = strings.Clone(next.Name), strings.Clone(next.Stopped), tx.applied.Now
	return tx.putDelivery(&next)
}

// passed is what a mark makes of a stand.
func passed(have, next schemas.DeliveryStand) schemas.DeliveryStand {
	if next.Source == schemas.DeliverEvents && next.Source == have.Source && next.Behind(&have) {
		next.Seq, next.Index = have.Seq, have.Index
	}
	if next.Gaps < have.Gaps {
		next.Gaps, next.Gap = have.Gaps, have.Gap
	}
	next.Delivered, next.Refused = max(next.Delivered, have.Delivered), max(next.Refused, have.Refused)
	return next
}

func (tx *Tx) putDelivery(d *schemas.DeliveryStand) error {
	return faultOf("write delivery", tx.put(bucketDeliveries, []byte(d.Name), d.AppendStand(nil)))
}

// firstUnsent is the log position of the first message with events that a delivery has
// still to send, and beyond everything when there is none.
func firstUnsent(t reading, d *schemas.DeliveryStand, above line) (uint64, error) {
	c := t.bucket(bucketEvents).cursor()
	k, _ := c.seek(keySeq(max(d.Seq, above.Position)))
	if len(k) < 8 {
		return ^uint64(0), c.err
	}
	return binary.BigEndian.Uint64(k), nil
}

// unsent is the oldest of the messages that deliveries have still to send.
func unsent(t reading, above line) (uint64, error) {
	list, err := readDeliveries(t)
	oldest := ^uint64(0)
	for i := range list {
		if list[i].Source != schemas.DeliverEvents || err != nil {
			continue
		}
		var at uint64
		at, err = firstUnsent(t, &list[i], above)
		oldest = min(oldest, at)
	}
	return oldest, err
}

// given tells whether a segment that ended so long ago expires although something of it
// is not sent.
func given(until, now int64) bool { return until < now-schemas.DeliveryKept }

// passOver moves deliveries over what has expired, and notes what they lost. above is the
// line before it moved.
func (tx *Tx) passOver(above line) error {
	list, err := readDeliveries(tx)
	if err != nil {
		return err
	}
	for i := range list {
		d := &list[i]
		if d.Source != schemas.DeliverEvents {
			continue
		}
		first, err := firstUnsent(tx, d, above)
		if err != nil {
			return err
		}
		if first >= tx.segments.Line.Position {
			continue
		}
		d.Gaps++
		d.Gap = schemas.DeliveryGap{From: first, To: tx.segments.Line.Position - 1, At: tx.applied.Now, Until: tx.segments.Line.Until}
		d.Seq, d.Index = tx.segments.Line.Position, 0
		if err := tx.putDelivery(d); err != nil {
			return err
		}
	}
	return nil
}

// Recorded counts the events that were recorded since the store was opened.
func (s *Store) Recorded() int64 { return s.stats.events.Load() }

// EventsBehind gives events in the order of the log from a place on, about most of them.
// What has expired is passed over.
func (s *Store) EventsBehind(ctx context.Context, seq uint64, index uint32, most int) (page schemas.SentPage, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		at, err := readApplied(bolt)
		if err != nil {
			return err
		}
		above, err := readLine(bolt)
		if err != nil {
			return err
		}
		if above.below(seq) {
			seq, index = above.Position, 0
		}
		page = schemas.SentPage{Seq: seq, Index: index}
		r := sentReader{bolt: bolt, page: &page, most: most}
		return r.run(ctx, logPosition(at.Epoch, at.Seq)+1)
	})
	return page, err
}

// sentReader walks the event log forward.
type sentReader struct {
	bolt     *bbolt.Tx
	page     *schemas.SentPage
	most     int
	names    batchNames
	at       uint32 // of the next event in its message
	events   []schemas.UsageEvent
	commands []uint32
}

func (r *sentReader) run(ctx context.Context, end uint64) error {
	c := bucketOf(r.bolt, bucketEvents).cursor()
	message := uint64(0)
	for k, v := c.seek(keySeq(r.page.Seq)); len(k) == 12; k, v = c.next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if seq := binary.BigEndian.Uint64(k); seq != message {
			message, r.at, r.names = seq, 0, batchNames{bolt: r.bolt, seq: seq}
			if seq != r.page.Seq {
				r.page.Seq, r.page.Index = seq, 0
			}
		}
		if len(r.page.Events) >= r.most {
			r.page.More = true
			return nil
		}
		if cut, err := r.chunk(message, v); cut || err != nil {
			r.page.More = cut
			return err
		}
	}
	if c.err == nil && len(r.page.Events) < r.most && end > r.page.Seq {
		r.page.Seq, r.page.Index = end, 0
	}
	return c.err
}

// chunk takes what is not sent of one chunk. It is cut when there was no room for all.
func (r *sentReader) chunk(message uint64, v []byte) (cut bool, err error) {
	size, err := chunkSize(v)
	if err != nil {
		return false, err
	}
	if r.at+uint32(size) <= r.page.Index {
		r.at += uint32(size)
		return false, nil
	}
	if r.events, r.commands, err = decodeChunk(v, r.events[:0], r.commands[:0]); err != nil {
		return false, err
	}
	for i := range r.events {
		if r.at < r.page.Index {
			r.at++
			continue
		}
		if len(r.page.Events) >= r.most {
			return true, nil
		}
		head, err := r.names.head(r.commands[i])
		if err != nil {
			return false, err
		}
		r.page.Events = append(r.page.Events, schemas.SentEvent{Event: detached(&r.events[i]), RecordedAt: head.at, Seq: message, Index: r.at})
		r.at++
		r.page.Index = r.at
	}
	return false, nil
}
