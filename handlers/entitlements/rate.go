package entitlements

import (
	"math/bits"

	"grout/schemas"
)

// ConcurrentRuns is the rate limit that bounds how many runs hold a lease.
const ConcurrentRuns = "concurrent_workflows"

const second = int64(1e9)

var spans = map[string]int64{
	"requests_per_second": second,
	"requests_per_minute": 60 * second,
	"requests_per_hour":   3600 * second,
	"requests_per_day":    24 * 3600 * second,
}

// SpanOf gives the length of the window that a rate limit counts in; 0 for a limit
// that counts nothing.
func SpanOf(name string) int64 { return spans[name] }

// LeaseFor is how long the lease of a run of unknown length is: the default time limit
// of a plugin and 60 s (contract §5.2.11).
const LeaseFor = (30 + 60) * second

// AdvanceWindow brings a window to an instant: what has left it is dropped, and so is
// what lies ahead of handler time that was set back.
func AdvanceWindow(w schemas.RateWindow, span, now int64) schemas.RateWindow {
	newest := floorDiv(now, span/schemas.RateSubWindows)
	next := schemas.RateWindow{Span: span, Newest: newest}
	if w.Span != span {
		return next
	}
	for i, n := range w.Counts {
		if at := newest - (w.Newest - int64(i)); at >= 0 && at < int64(len(next.Counts)) {
			next.Counts[at] = n
		}
	}
	return next
}

// UsedInWindow is what counts of a window at an instant: the oldest sub-window by the
// part of it that is still inside, rounded up (contract §5.2.11).
func UsedInWindow(w schemas.RateWindow, now int64) int64 {
	if w.Span == 0 {
		return 0
	}
	w = AdvanceWindow(w, w.Span, now)
	used := int64(0)
	for _, n := range w.Counts[:schemas.RateSubWindows] {
		used = add(used, n)
	}
	part := w.Span / schemas.RateSubWindows
	inside := part - (now - w.Newest*part)
	high, low := bits.Mul64(uint64(w.Counts[schemas.RateSubWindows]), uint64(inside))
	weighted, rest := bits.Div64(high, low, uint64(part)) // inside ≤ part: it fits
	if rest > 0 {
		weighted++
	}
	return add(used, int64(weighted))
}

// CountInWindow counts n at an instant.
func CountInWindow(w schemas.RateWindow, span, now, n int64) schemas.RateWindow {
	w = AdvanceWindow(w, span, now)
	w.Counts[0] = add(w.Counts[0], n)
	return w
}

// FreeAt is the first instant at which a window has room for what is needed, when
// nothing more is counted; 0 when it never has.
func FreeAt(w schemas.RateWindow, now, limit, needed int64) int64 {
	if needed > limit {
		return 0
	}
	from, to := now, now+w.Span+w.Span/schemas.RateSubWindows
	for from < to {
		mid := from + (to-from)/2
		if add(UsedInWindow(w, mid), needed) <= limit {
			to = mid
		} else {
			from = mid + 1
		}
	}
	return from
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// RollConsumption brings a consumption to the period of an instant. What runs have
// reserved stays reserved.
func RollConsumption(c schemas.Consumption, p schemas.Period, now int64) schemas.Consumption {
	start, _ := PeriodAt(p, now)
	if c.Start == start {
		return c
	}
	return schemas.Consumption{Start: start, Reserved: c.Reserved}
}

// ReserveConsumable sets aside what an action is going to take (contract §5.4).
func ReserveConsumable(c schemas.Consumption, n int64) schemas.Consumption {
	c.Reserved = add(c.Reserved, n)
	return c
}

// TakeConsumable takes what was set aside: the action succeeded.
func TakeConsumable(c schemas.Consumption, n int64) schemas.Consumption {
	n = min(n, c.Reserved)
	c.Reserved -= n
	c.Used = add(c.Used, n)
	return c
}

// GiveBackConsumable gives back what was set aside: the action failed.
func GiveBackConsumable(c schemas.Consumption, n int64) schemas.Consumption {
	c.Reserved -= min(n, c.Reserved)
	return c
}
