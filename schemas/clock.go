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
	if r.Byte() != 1 {
		r.Fail()
	}
	c.To = r.Varint()
	if r.Err == nil && len(r.B) > 0 {
		r.Fail()
	}
	return r.Err
}
