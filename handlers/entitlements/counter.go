package entitlements

import (
	"math"
	"math/bits"

	"grout/schemas"
)

// Effective is the limit that holds after promotional tokens, burst and carry
// (contract §5.2.8); schemas.Unlimited for none.
func (t Terms) Effective(carry int64) int64 {
	if t.Limit < 0 {
		return schemas.Unlimited
	}
	high, low := bits.Mul64(uint64(t.Limit+t.Promo), uint64(100+t.Burst))
	n, _ := bits.Div64(high, low, 100) // at most 2⁵⁴ × 1,100 / 100
	if !t.Rollover {
		carry = 0
	}
	return int64(n) + carry
}

// CarryFrom is what is carried on from a period in which so much was used.
func (t Terms) CarryFrom(used int64) int64 {
	if t.Limit < 0 || !t.Rollover || Endless(t.Period) {
		return 0
	}
	return max(0, sub(t.Limit+t.Promo, used))
}

// NewCounter is the counter of an allocation that a manifest names first, or in another
// period than before. Own is what usage of the scope sums up to in the period of now,
// reserved what open holds have. What the manifest pushes is imported.
func (t Terms) NewCounter(now, own, reserved int64) schemas.Counter {
	c := schemas.Counter{Allocation: t.Allocation, Period: t.Period, Used: own, Reserved: reserved}
	c.Start, c.End = PeriodAt(t.Period, now)
	return Import(c, t.Pushed)
}

// Import takes what a manifest says was used: it never lowers a counter inside a period
// (contract §5.2.6). 0 is what a manifest says that pushes nothing.
func Import(c schemas.Counter, pushed int64) schemas.Counter {
	if by := sub(pushed, c.Used); pushed > 0 && by > 0 {
		c.Used += by
		c.Imported += by
	}
	return c
}

// Contains reports whether an instant lies in the period of a counter: only what does
// changes it.
func Contains(c schemas.Counter, at int64) bool {
	return Endless(c.Period) || at >= c.Start && at < c.End
}

// Left reports whether handler time has left the period of a counter, so that it must
// be rolled before anything is decided or counted.
func Left(c schemas.Counter, now int64) bool { return !Contains(c, now) }

// Precedes reports whether the counter's period is the one directly before that of now.
// Then its own Used tells what is carried; else the period before now's must be summed.
func Precedes(c schemas.Counter, now int64) bool {
	start, _ := PeriodAt(c.Period, now)
	return !Endless(c.Period) && c.End == start
}

// Roll gives the counter of the period of now (contract §5.2.7, 8): own is what usage
// sums up to in it already, before what was used in the period directly preceding.
func (t Terms) Roll(c schemas.Counter, now, own, before int64) schemas.Counter {
	next := schemas.Counter{Allocation: c.Allocation, Period: c.Period, Used: own, Reserved: c.Reserved, Carry: t.CarryFrom(before)}
	next.Start, next.End = PeriodAt(c.Period, now)
	return next
}

// Remaining is what a limit leaves; schemas.Unlimited when there is none.
func Remaining(limit, used, reserved int64) int64 {
	if limit < 0 {
		return schemas.Unlimited
	}
	return max(0, sub(limit, add(used, reserved)))
}

// Thresholds of a budget, in percent of its effective limit (contract §8).
var Thresholds = [...]int{75, 90, 100}

// toldExceeded is the bit of Counter.Told behind those of Thresholds.
const toldExceeded = 1 << len(Thresholds)

// Crossing is a fact that follows from where a counter stands.
type Crossing struct {
	Percent  int  // 75, 90 or 100; 0: the limit was exceeded
	Cleared  bool // it fell below again
	Exceeded bool
}

// Crossings says what is to be told of a counter that was not told yet, in order, and
// the counter that remembers it (contract §5.2.13). What was used counts, not what is
// reserved.
func (t Terms) Crossings(c schemas.Counter) (schemas.Counter, []Crossing) {
	var list []Crossing
	limit := t.Effective(c.Carry)
	for i, percent := range Thresholds {
		bit := uint8(1) << i
		switch reached := limit >= 0 && c.Used > 0 && atLeast(c.Used, limit, uint64(percent)); {
		case reached && c.Told&bit == 0:
			c.Told |= bit
			list = append(list, Crossing{Percent: percent})
		case !reached && c.Told&bit != 0:
			c.Told &^= bit
			list = append(list, Crossing{Percent: percent, Cleared: true})
		}
	}
	switch over := limit >= 0 && c.Used > limit; {
	case over && c.Told&toldExceeded == 0:
		c.Told |= toldExceeded
		list = append(list, Crossing{Exceeded: true})
	case !over:
		c.Told &^= toldExceeded
	}
	return c, list
}

// atLeast reports whether n is at least so many percent of a limit.
func atLeast(n, limit int64, percent uint64) bool {
	nHigh, nLow := bits.Mul64(uint64(n), 100)
	high, low := bits.Mul64(uint64(limit), percent)
	return nHigh > high || nHigh == high && nLow >= low
}

// add and sub saturate.
func add(a, b int64) int64 {
	sum := a + b
	switch {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}

func sub(a, b int64) int64 {
	switch d := a - b; {
	case a >= 0 && b < 0 && d < 0:
		return math.MaxInt64
	case a < 0 && b > 0 && d >= 0:
		return math.MinInt64
	default:
		return d
	}
}
