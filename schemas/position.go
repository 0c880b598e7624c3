package schemas

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Position places a command or fact of a partition: the epoch of its command
// stream, the stream sequence of the message, the index of the command inside
// the group, and the number of the fact (architecture §2.1, §2.6).
type Position struct {
	Epoch uint32
	Seq   uint64
	Index uint32
	N     uint32
}

// PositionSize is the length of a position's binary form, which sorts as Compare does.
const PositionSize = 20

// Compare orders positions.
func (p Position) Compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, q.Epoch), cmp.Compare(p.Seq, q.Seq), cmp.Compare(p.Index, q.Index), cmp.Compare(p.N, q.N))
}

// Append adds the big-endian form.
func (p Position) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, p.Epoch)
	b = binary.BigEndian.AppendUint64(b, p.Seq)
	b = binary.BigEndian.AppendUint32(b, p.Index)
	return binary.BigEndian.AppendUint32(b, p.N)
}

// ParsePosition reads what Append wrote.
func ParsePosition(b []byte) (Position, error) {
	if len(b) != PositionSize {
		return Position{}, errors.New("a position has 20 bytes")
	}
	return Position{
		Epoch: binary.BigEndian.Uint32(b), Seq: binary.BigEndian.Uint64(b[4:]),
		Index: binary.BigEndian.Uint32(b[12:]), N: binary.BigEndian.Uint32(b[16:]),
	}, nil
}

func (p Position) String() string { return fmt.Sprintf("%d/%d/%d/%d", p.Epoch, p.Seq, p.Index, p.N) }

// StreamMessage is one message of a JetStream stream as grout reads it.
type StreamMessage struct {
	Subject string
	Seq     uint64
	Time    time.Time // when the stream stored it
	Header  map[string][]string
	Data    []byte
}

// FactMessage is one rendered message of a destination stream, ready to be published.
type FactMessage struct {
	Subject string
	Header  map[string][]string
	Data    []byte
	At      Position
}
