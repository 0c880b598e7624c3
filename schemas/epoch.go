package schemas

import "encoding/binary"

// AppliedMessage places a message of the command stream that a store has applied:
// the epoch, its sequence, when the stream stored it, and the digest of its data.
type AppliedMessage struct {
	Epoch    uint32
	Seq      uint64
	StoredAt int64 // nanoseconds since 1970 UTC
	Digest   [16]byte
}

// EpochBegin is the payload of epoch.start, the first message of an epoch: from here
// on the stream belongs to the store that stands at After, whatever became of the
// messages in between (architecture §2, table of deaths). Only grout writes it.
type EpochBegin struct {
	N     uint32
	From  uint64 // sequence of this message
	After AppliedMessage
}

// EncodePayload gives the stored form: form 1, number, from, epoch, sequence, time
// and digest of the message it follows.
func (e *EpochBegin) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1)
	for _, n := range [...]uint64{uint64(e.N), e.From, uint64(e.After.Epoch), e.After.Seq} {
		dst = binary.AppendUvarint(dst, n)
	}
	dst = binary.AppendVarint(dst, e.After.StoredAt)
	return append(dst, e.After.Digest[:]...)
}

// DecodePayload reads what EncodePayload wrote.
func (e *EpochBegin) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	e.N, e.From = r.Uint32(), r.Uvarint()
	e.After.Epoch, e.After.Seq = r.Uint32(), r.Uvarint()
	e.After.StoredAt = r.Varint()
	copy(e.After.Digest[:], r.Bytes(16))
	if r.Err == nil && len(r.B) > 0 {
		r.Fail()
	}
	return r.Err
}
