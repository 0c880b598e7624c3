package store

import (
	"strings"

	"grout/schemas"
)

var errDamaged = schemas.ErrDamaged

// reader reads the records of this package.
type reader struct{ schemas.Wire }

func newReader(v []byte) reader { return reader{schemas.Wire{B: v}} }

// text is a copy, so it may outlive the transaction.
func (r *reader) text() string { return strings.Clone(r.Text()) }

func (r *reader) digest() (d [16]byte) {
	copy(d[:], r.Bytes(16))
	return d
}

// most reads a number of items that take no space of their own, up to a bound.
func (r *reader) most(bound uint64) uint64 {
	n := r.Uvarint()
	if n > bound {
		r.Fail()
		return 0
	}
	return n
}
