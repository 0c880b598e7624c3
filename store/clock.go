package store

import (
	"encoding/binary"

	"go.etcd.io/bbolt"
)

// Clock is what the log knows of time beside handler time: the ticks, and whether
// the clock that stamps them has made a step (architecture §2.4). Instants are
// nanoseconds since 1970 UTC; 0 is none.
type Clock struct {
	LastTick int64  // time of the newest tick
	Counted  int64  // time of the newest tick that counted towards Wait, or made a step
	Wait     uint64 // ticks until segments expire again
	Steps    uint64
	StepAt   int64 // tick that showed the last step
	StepBy   int64 // from the tick before it
	Peak     int64 // greatest handler time before it was set back
	Doubt    int64 // by how much the clock may be ahead: what it stepped forward by, while Wait is not over
}

// ClockView is what readers are told about time.
type ClockView struct {
	Clock
	Now          int64 // handler time
	ExpiredUntil int64 // what arrived until then has expired
}

// append gives the record. Form 1: form, last tick, counted, ticks to wait for, steps,
// at, by, peak, doubt.
func (c *Clock) append(b []byte) []byte {
	b = append(b, 1)
	b = binary.AppendVarint(b, c.LastTick)
	b = binary.AppendVarint(b, c.Counted)
	b = binary.AppendUvarint(b, c.Wait)
	b = binary.AppendUvarint(b, c.Steps)
	for _, n := range [...]int64{c.StepAt, c.StepBy, c.Peak, c.Doubt} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func parseClock(v []byte) (c Clock, err error) {
	if v == nil {
		return c, nil
	}
	r := newReader(v)
	r.Form(1)
	c.LastTick, c.Counted = r.Varint(), r.Varint()
	c.Wait, c.Steps = r.Uvarint(), r.Uvarint()
	c.StepAt, c.StepBy, c.Peak, c.Doubt = r.Varint(), r.Varint(), r.Varint(), r.Varint()
	return c, r.Err
}

func readClock(bolt *bbolt.Tx) (Clock, error) {
	v, err := bucketOf(bolt, bucketMeta).get(metaClock)
	if err != nil {
		return Clock{}, err
	}
	return parseClock(v)
}

// Clock tells what the log knows of time.
func (s *Store) Clock() ClockView {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return ClockView{Clock: s.clock, Now: s.applied.Now, ExpiredUntil: s.segments.Line.Until}
}

// Clock is what the log knows of time, up to the running command.
func (tx *Tx) Clock() ClockView {
	return ClockView{Clock: tx.clock, Now: tx.applied.Now, ExpiredUntil: tx.segments.Line.Until}
}

// Tick notes what a tick has shown of the clock. At the end of its message a segment
// may begin, and aggregates are folded.
func (tx *Tx) Tick(c Clock) {
	c.Peak = tx.clock.Peak
	tx.clock = c
	tx.ticked = true
}

// SetNow moves handler time, also back. How far it had come is remembered: ids that
// were entered then are kept accordingly.
func (tx *Tx) SetNow(to int64) {
	tx.clock.Peak = max(tx.clock.Peak, tx.applied.Now)
	tx.applied.Now = to
}
