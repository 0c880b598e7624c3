package schemas

import (
	"encoding/binary"
	"errors"
	"math"
)

// ErrDamaged is what every decoder of a stored form says of bytes that end early
// or claim more than they hold.
var ErrDamaged = errors.New("stored form is truncated or damaged")

// Wire reads the varint forms in which things are stored. The first fault sticks,
// so a decoder may check once at its end; lengths are checked before they are used.
type Wire struct {
	B   []byte // what is left
	Err error
}

// Fail notes that the bytes are no form.
func (r *Wire) Fail() {
	if r.Err == nil {
		r.Err = ErrDamaged
	}
	r.B = nil
}

// Form reads the version of a form, which must be the one that is known.
func (r *Wire) Form(known byte) {
	if r.Byte() != known {
		r.Fail()
	}
}

// Uvarint reads a number.
func (r *Wire) Uvarint() uint64 {
	v, n := binary.Uvarint(r.B)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.B = r.B[n:]
	return v
}

// Varint reads a number with a sign.
func (r *Wire) Varint() int64 {
	v, n := binary.Varint(r.B)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.B = r.B[n:]
	return v
}

// Bytes takes n bytes, which are those that are read, not a copy.
func (r *Wire) Bytes(n uint64) []byte {
	if n > uint64(len(r.B)) {
		r.Fail()
		return nil
	}
	v := r.B[:n:n]
	r.B = r.B[n:]
	return v
}

// Byte takes one byte.
func (r *Wire) Byte() byte {
	if len(r.B) == 0 {
		r.Fail()
		return 0
	}
	v := r.B[0]
	r.B = r.B[1:]
	return v
}

// Text reads a length and a text, which points into the bytes that are read.
func (r *Wire) Text() string { return viewString(r.Bytes(r.Uvarint())) }

// Count reads a number of items that take at least size bytes each.
func (r *Wire) Count(size int) int {
	n := r.Uvarint()
	if n > uint64(len(r.B)/size) {
		r.Fail()
		return 0
	}
	return int(n)
}

// Uint32 reads a number of at most 32 bits.
func (r *Wire) Uint32() uint32 {
	n := r.Uvarint()
	if n > math.MaxUint32 {
		r.Fail()
		return 0
	}
	return uint32(n)
}

// Float takes 8 bytes.
func (r *Wire) Float() float64 {
	b := r.Bytes(8)
	if b == nil {
		return 0
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b))
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
