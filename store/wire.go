package store

import (
	"encoding/binary"
	"errors"
)

var errDamaged = errors.New("stored record is truncated or damaged")

// reader reads the records of this package; the first fault sticks.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errDamaged
	}
	r.b = nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

// text is a copy, so it may outlive the transaction.
func (r *reader) text() string { return string(r.take(r.uvarint())) }

func (r *reader) count(size int) int {
	n := r.uvarint()
	if n > uint64(len(r.b)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) form(want byte) {
	if r.byte() != want {
		r.fail()
	}
}

func (r *reader) digest() (d [16]byte) {
	copy(d[:], r.take(16))
	return d
}

// count0 reads a number of items that take no space of their own, up to most.
func (r *reader) count0(most uint64) uint64 {
	n := r.uvarint()
	if n > most {
		r.fail()
		return 0
	}
	return n
}
