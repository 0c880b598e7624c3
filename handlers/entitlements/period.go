package entitlements

import (
	"math"
	"time"

	"grout/schemas"
)

// PeriodAt gives the calendar period (UTC) in which an instant lies, from start
// inclusive to end exclusive; both 0 for a period that has neither (contract §5.2.7).
func PeriodAt(p schemas.Period, at int64) (start, end int64) {
	t := time.Unix(0, at).UTC()
	y, m, d := t.Date()
	var from, to time.Time
	switch p {
	case schemas.PeriodHourly:
		from = time.Date(y, m, d, t.Hour(), 0, 0, 0, time.UTC)
		to = from.Add(time.Hour)
	case schemas.PeriodDaily:
		from = time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
		to = from.AddDate(0, 0, 1)
	case schemas.PeriodWeekly: // from Monday on, as ISO 8601 counts weeks
		from = time.Date(y, m, d-(int(t.Weekday())+6)%7, 0, 0, 0, 0, time.UTC)
		to = from.AddDate(0, 0, 7)
	case schemas.PeriodMonthly:
		from = time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
		to = from.AddDate(0, 1, 0)
	default:
		return 0, 0
	}
	return nanosOf(from), nanosOf(to)
}

// PeriodBefore gives the period that ends where one begins.
func PeriodBefore(p schemas.Period, start int64) (before, end int64) {
	return PeriodAt(p, max(start, math.MinInt64+1)-1)
}

// nanosOf is the instant as far as nanoseconds can tell: the ends of what they cover
// stand for everything beyond.
func nanosOf(t time.Time) int64 {
	switch s := t.Unix(); {
	case s <= math.MinInt64/second:
		return math.MinInt64
	case s >= math.MaxInt64/second:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// Endless reports whether a period has neither start nor end.
func Endless(p schemas.Period) bool {
	return p != schemas.PeriodHourly && p != schemas.PeriodDaily && p != schemas.PeriodWeekly && p != schemas.PeriodMonthly
}
