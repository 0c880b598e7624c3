package store

import (
	"encoding/binary"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// The event log, the adjustments, the batches and the ids are cut into segments of
// a day of arrival and more: at a tick a new one begins. A whole segment expires by a
// logged command that moves the line; at once nothing below the line is found any
// more, and its rows go in slices with the messages that follow (purge.go).
// Aggregates do not expire, so what is below the line has been folded before.
// Form 1 of a segment (`segments`: first log position): form, start, until, first ordinal.

// segment is where a segment begins. Start is handler time then, Until the greatest
// handler time that anything before it was judged by.
type segment struct {
	First   uint64 // log position
	Ordinal uint64 // of its first id
	Start   int64
	Until   int64
}

// line is where what is kept begins: the segment it stands at is the oldest one.
type line struct {
	Position uint64
	Ordinal  uint64
	Until    int64
}

// below reports whether a log position has expired.
func (l *line) below(position uint64) bool { return position < l.Position }

// segments is the record of the newest segment and of the line.
type segments struct {
	Newest segment // Start is 0 before the first tick
	Line   line
	Dead   bool // rows below the line may be left
}

func (g *segment) append(b []byte) []byte {
	b = append(b, 1)
	b = binary.AppendVarint(b, g.Start)
	b = binary.AppendVarint(b, g.Until)
	return binary.AppendUvarint(b, g.Ordinal)
}

func parseSegment(key, v []byte) (g segment, err error) {
	r := newReader(v)
	r.Form(1)
	g.Start, g.Until, g.Ordinal = r.Varint(), r.Varint(), r.Uvarint()
	if len(key) != 8 {
		return g, errDamaged
	}
	g.First = binary.BigEndian.Uint64(key)
	return g, r.Err
}

// append gives the record. Form 1: form, newest segment (first, ordinal, start, until),
// line (position, ordinal, until), whether rows are left below it.
func (g *segments) append(b []byte) []byte {
	b = append(b, 1)
	b = binary.AppendUvarint(b, g.Newest.First)
	b = binary.AppendUvarint(b, g.Newest.Ordinal)
	b = binary.AppendVarint(b, g.Newest.Start)
	b = binary.AppendVarint(b, g.Newest.Until)
	b = binary.AppendUvarint(b, g.Line.Position)
	b = binary.AppendUvarint(b, g.Line.Ordinal)
	b = binary.AppendVarint(b, g.Line.Until)
	dead := byte(0)
	if g.Dead {
		dead = 1
	}
	return append(b, dead)
}

func parseSegments(v []byte) (g segments, err error) {
	if v == nil {
		return g, nil
	}
	r := newReader(v)
	r.Form(1)
	g.Newest = segment{First: r.Uvarint(), Ordinal: r.Uvarint(), Start: r.Varint(), Until: r.Varint()}
	g.Line = line{Position: r.Uvarint(), Ordinal: r.Uvarint(), Until: r.Varint()}
	g.Dead = r.Byte() == 1
	return g, r.Err
}

func readSegments(bolt *bbolt.Tx) (segments, error) {
	v, err := bucketOf(bolt, bucketMeta).get(metaSegments)
	if err != nil {
		return segments{}, err
	}
	return parseSegments(v)
}

// readLine gives where what is kept begins, as a transaction sees it.
func readLine(bolt *bbolt.Tx) (line, error) {
	g, err := readSegments(bolt)
	return g.Line, err
}

// cut begins a segment behind the message of a tick once the newest one is a day
// old. Time that was set back by a day begins one too.
func (tx *Tx) cut() error {
	g, now := &tx.segments.Newest, tx.applied.Now
	if age := now - g.Start; g.Start != 0 && age < schemas.SegmentLength && age > -schemas.SegmentLength {
		return nil
	}
	*g = segment{First: tx.log() + 1, Ordinal: tx.next, Start: now, Until: max(now, tx.clock.Peak, g.Until+1)}
	return tx.add(bucketSegments, keySeq(g.First), g.append(nil))
}

// Expire drops the segments that ended at or before an instant, as far as they are
// folded, and reports whether there were any. Whether they are old enough is for
// the caller to judge. An execution that has not ended stays, however old its home is;
// what a delivery has still to send stays for schemas.DeliveryKept.
func (tx *Tx) Expire(before int64) (bool, error) {
	open, err := oldestOpen(tx)
	if err != nil {
		return false, &Fault{"read open executions", err}
	}
	above := tx.segments.Line
	needed, err := unsent(tx, above)
	if err != nil {
		return false, &Fault{"read deliveries", err}
	}
	now := min(tx.applied.Now, tx.clock.LastTick)
	c := tx.bucket(bucketSegments).cursor()
	moved := false
	for k, v := c.seek(keySeq(tx.segments.Line.Position + 1)); k != nil; k, v = c.next() {
		g, err := parseSegment(k, v)
		if err != nil {
			return false, &Fault{"read segments", err}
		}
		if g.Until > before || g.First > min(tx.fold.Folded+1, open) || g.First > needed && !given(g.Until, now) {
			break
		}
		tx.segments.Line = line{Position: g.First, Ordinal: g.Ordinal, Until: g.Until}
		tx.segments.Dead, moved = true, true
	}
	if c.err == nil && moved {
		return true, faultOf("pass over what has expired", tx.passOver(above))
	}
	return moved, faultOf("read segments", c.err)
}

// Expirable gives the instant before which whole segments may expire: they are old
// enough, folded, and no fact that waits to be published needs them. ok is false
// when there are none, when the clock has made a step, or while something has been due
// for so long that it may be an open hold of such a segment.
func (s *Store) Expirable() (before int64, ok bool, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		clock, err := readClock(bolt)
		if err != nil || clock.Wait > 0 {
			return err
		}
		at, err := readApplied(bolt)
		if err != nil {
			return err
		}
		due, err := firstDue(&Look{bolt: bolt})
		if err != nil {
			return err
		}
		fold, err := readFoldState(bolt)
		if err != nil {
			return err
		}
		above, err := readLine(bolt)
		if err != nil {
			return err
		}
		needed, err := oldestNeeded(bolt)
		if err != nil {
			return err
		}
		open, err := oldestOpen(&Look{bolt: bolt})
		if err != nil {
			return err
		}
		sent, err := unsent(&Look{bolt: bolt}, above)
		if err != nil {
			return err
		}
		now := min(at.Now, clock.LastTick)
		end := min(fold.Folded+1, needed, open)
		c := bucketOf(bolt, bucketSegments).cursor()
		for k, v := c.seek(keySeq(above.Position + 1)); k != nil; k, v = c.next() {
			g, err := parseSegment(k, v)
			if err != nil {
				return err
			}
			if g.Until >= now-schemas.SegmentKept || g.First > end || g.First > sent && !given(g.Until, now) || due != 0 && due <= g.Until+schemas.MaxHoldAge {
				break
			}
			before, ok = g.Until, true
		}
		return c.err
	})
	return before, ok && err == nil, err
}

// oldestOpen is the home of the oldest execution that has not ended, and beyond everything
// when all have.
func oldestOpen(t reading) (uint64, error) {
	c := t.bucket(bucketOpenRuns).cursor()
	k, _ := c.first()
	if len(k) < 8 {
		return ^uint64(0), c.err
	}
	return binary.BigEndian.Uint64(k), nil
}

// oldestNeeded is the log position of the oldest row that waits in an outbox, and
// beyond everything when none does. Rows are rendered from the event log.
func oldestNeeded(bolt *bbolt.Tx) (uint64, error) {
	oldest := ^uint64(0)
	for _, dest := range destinations {
		c := bucketOf(bolt, outboxBucket(dest)).cursor()
		k, _ := c.first()
		if k == nil {
			if c.err != nil {
				return 0, c.err
			}
			continue
		}
		at, err := schemas.ParsePosition(k)
		if err != nil {
			return 0, err
		}
		oldest = min(oldest, logPosition(at.Epoch, at.Seq))
	}
	return oldest, nil
}
