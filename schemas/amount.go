package schemas

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"strconv"
)

// Amount is a sum of costs in nano-units: a whole number of 128 bits in two's
// complement. No number of events that can be stored overflows it, so sums of costs
// are exact in any order. The zero value is 0.
type Amount struct {
	high int64
	low  uint64
}

// AmountOf gives the amount of so many nano-units.
func AmountOf(nanos int64) Amount { return Amount{nanos >> 63, uint64(nanos)} }

// Add gives a + b.
func (a Amount) Add(b Amount) Amount {
	low, carry := bits.Add64(a.low, b.low, 0)
	return Amount{a.high + b.high + int64(carry), low}
}

// Sub gives a − b.
func (a Amount) Sub(b Amount) Amount {
	low, borrow := bits.Sub64(a.low, b.low, 0)
	return Amount{a.high - b.high - int64(borrow), low}
}

// Cmp gives -1, 0 or 1 for a below, equal to or above b.
func (a Amount) Cmp(b Amount) int {
	return cmp.Or(cmp.Compare(a.high, b.high), cmp.Compare(a.low, b.low))
}

// Equal reports whether a is b.
func (a Amount) Equal(b Amount) bool { return a == b }

// Max gives the greater of a and b.
func (a Amount) Max(b Amount) Amount {
	if a.Cmp(b) < 0 {
		return b
	}
	return a
}

// magnitude gives |a| as an unsigned number of 128 bits.
func (a Amount) magnitude() (high, low uint64) {
	if a.high < 0 {
		a = Amount{}.Sub(a)
	}
	return uint64(a.high), a.low
}

// String gives the decimal number of units.
func (a Amount) String() string { return string(AppendAmount(nil, a)) }

// AppendAmount adds an amount as an exact decimal number of units.
func AppendAmount(dst []byte, a Amount) []byte {
	if a.high < 0 {
		dst = append(dst, '-')
	}
	high, low := a.magnitude()
	if high == 0 {
		return appendUnits(dst, low)
	}
	above, rest := high/tenTo18, high%tenTo18 // a long division by 10¹⁸, twice
	below, last := bits.Div64(rest, low, tenTo18)
	first, middle := bits.Div64(above, below, tenTo18)
	digits := strconv.AppendUint(nil, first, 10)
	digits = trimZerosLeft(appendPadded(appendPadded(digits, middle), last))
	point := len(digits) - 9
	dst = append(dst, digits[:point]...)
	return appendFraction(dst, string(digits[point:]))
}

const tenTo18 = 1_000_000_000_000_000_000

func appendPadded(dst []byte, n uint64) []byte {
	return append(dst, strconv.FormatUint(n+tenTo18, 10)[1:]...)
}

func trimZerosLeft(digits []byte) []byte {
	for len(digits) > 1 && digits[0] == '0' {
		digits = digits[1:]
	}
	return digits
}

// appendUnits adds nano-units as units.
func appendUnits(dst []byte, nanos uint64) []byte {
	dst = strconv.AppendUint(dst, nanos/NanosPerUnit, 10)
	frac := nanos % NanosPerUnit
	if frac == 0 {
		return dst
	}
	return appendFraction(dst, strconv.FormatUint(frac+NanosPerUnit, 10)[1:])
}

// appendFraction adds the nine digits behind the point, without trailing zeros.
func appendFraction(dst []byte, digits string) []byte {
	if digits = trimRight(digits); digits == "" {
		return dst
	}
	return append(append(dst, '.'), digits...)
}

// AppendAmountVarint adds the zig-zag varint of an amount. For what an int64 holds it
// is that of binary.AppendVarint.
func AppendAmountVarint(dst []byte, a Amount) []byte {
	sign := uint64(a.high >> 63)
	high, low := uint64(a.high)<<1|a.low>>63, a.low<<1
	high, low = high^sign, low^sign
	if high == 0 {
		return binary.AppendUvarint(dst, low)
	}
	for high != 0 || low >= 0x80 {
		dst = append(dst, byte(low)|0x80)
		low = low>>7 | high<<57
		high >>= 7
	}
	return append(dst, byte(low))
}

// Amount reads what AppendAmountVarint wrote.
func (r *Wire) Amount() Amount {
	if v, n := binary.Uvarint(r.B); n > 0 {
		r.B = r.B[n:]
		return AmountOf(int64(v>>1) ^ -int64(v&1))
	}
	var high, low uint64
	for shift := uint(0); ; shift += 7 {
		b := uint64(r.Byte())
		part := b & 0x7f
		if shift < 64 {
			low |= part << shift
			high |= part >> (64 - shift)
		} else {
			high |= part << (shift - 64)
		}
		if shift > 126 || shift == 126 && part > 3 {
			r.Fail()
			return Amount{}
		}
		if b < 0x80 {
			break
		}
	}
	sign := -(low & 1)
	low, high = low>>1|high<<63, high>>1
	return Amount{int64(high ^ sign), low ^ sign}
}
