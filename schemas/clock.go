package schemas

import "encoding/binary"

// ClockChange is the payload of clock.set, the only command that moves handler time
// back (architecture §2.4). Only grout writes it.
type ClockChange struct {
	To int64 // nanoseconds since 1970 UTC
}

// EncodePayload gives the stored form: form 1, instant.
func (c *ClockChange) EncodePayload(dst []byte) []byte {
	return binary.AppendVarint(append(dst, 1), c.To)
}

// DecodePayload reads what EncodePayload wrote.
func (c *ClockChange) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	c.To = r.Varint()
	return r.end()
}

// Tick is the payload of clock.tick: the time is that of its command. Only grout
// writes it, every TickInterval to every partition.
type Tick struct{}

// EncodePayload gives the stored form: form 1.
func (*Tick) EncodePayload(dst []byte) []byte { return append(dst, 1) }

// DecodePayload reads what EncodePayload wrote.
func (*Tick) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	return r.end()
}

// SegmentExpiry is the payload of segment.expire: what ended at or before an instant
// goes. Only grout writes it.
type SegmentExpiry struct {
	Before int64 // nanoseconds since 1970 UTC
}

// EncodePayload gives the stored form: form 1, instant.
func (e *SegmentExpiry) EncodePayload(dst []byte) []byte {
	return binary.AppendVarint(append(dst, 1), e.Before)
}

// DecodePayload reads what EncodePayload wrote.
func (e *SegmentExpiry) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	e.Before = r.Varint()
	return r.end()
}

// Time in the log (architecture §2.4, §4), in nanoseconds.
const (
	hour = int64(3600e9)
	// TickInterval is how far apart ticks are; TickTolerance is how much earlier or
	// later one may be and still be a tick in its time.
	TickInterval  = hour
	TickTolerance = hour / 12
	// TicksAfterStep must follow a step of the clock before segments expire again.
	TicksAfterStep = 24
	// SegmentLength is what a segment holds at least before the next one begins.
	SegmentLength = 24 * hour
	// SegmentKept is how long a segment is kept after its end. An id may be stamped
	// MaxEventAhead before it is too old only MaxEventAge later.
	SegmentKept = MaxEventAge + MaxEventAhead
)
