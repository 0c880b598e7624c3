package schemas

import "math"

// ParseInstant reads an RFC 3339 instant as nanoseconds since 1970 UTC. Further
// digits of the fraction are cut off. There must be exactly one zone; a leap
// second (:60) is refused, because no count of nanoseconds tells it from the
// next second. The error's code is INVALID_TIMESTAMP, or TIMESTAMP_TOO_OLD or
// TIMESTAMP_IN_FUTURE for what int64 cannot hold (outside 1677–2262); its detail
// quotes the text and is to be prefixed with the name of the field.
func ParseInstant(s string) (int64, *Error) {
	if len(s) < len("2006-01-02T15:04:05") || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' || s[16] != ':' {
		return 0, badInstant(s, "is not an RFC 3339 instant: write it like 2026-01-26T15:30:00Z")
	}
	century, okC := twoDigits(s, 0)
	year, okY := twoDigits(s, 2)
	month, okM := twoDigits(s, 5)
	day, okD := twoDigits(s, 8)
	hour, okH := twoDigits(s, 11)
	minute, okMin := twoDigits(s, 14)
	second, okS := twoDigits(s, 17)
	if !(okC && okY && okM && okD && okH && okMin && okS) {
		return 0, badInstant(s, "is not an RFC 3339 instant: write it like 2026-01-26T15:30:00Z")
	}
	year += century * 100
	if month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59 {
		return 0, badInstant(s, "is no real date and time of day")
	}
	nanos, i, ok := fraction(s, 19)
	if !ok {
		return 0, badInstant(s, "has a fraction without digits")
	}
	offset, ok := zone(s[i:])
	if !ok {
		if i == len(s) {
			return 0, badInstant(s, "has no zone: end it with Z or an offset such as +02:00")
		}
		return 0, badInstant(s, "must end with exactly one zone: Z, or an offset such as +02:00")
	}
	seconds := daysSince1970(year, month, day)*86_400 + hour*3600 + minute*60 + second - offset
	return joinInstant(s, seconds, nanos)
}

func badInstant(s, what string) *Error {
	return &Error{Code: CodeInvalidTimestamp, Detail: shown(s).String() + " " + what}
}

// joinInstant makes one number of the seconds since 1970 and the nanoseconds of
// the second.
func joinInstant(s string, seconds, nanos int64) (int64, *Error) {
	const (
		minSeconds = math.MinInt64/1_000_000_000 - 1
		minNanos   = math.MinInt64 - minSeconds*1_000_000_000
		maxSeconds = math.MaxInt64 / 1_000_000_000
		maxNanos   = math.MaxInt64 - maxSeconds*1_000_000_000
	)
	if seconds < minSeconds || seconds == minSeconds && nanos < minNanos {
		return 0, &Error{Code: CodeTimestampTooOld, Detail: shown(s).String() + " is too long ago"}
	}
	if seconds > maxSeconds || seconds == maxSeconds && nanos > maxNanos {
		return 0, &Error{Code: CodeTimestampInFuture, Detail: shown(s).String() + " is too far in the future"}
	}
	return seconds*1_000_000_000 + nanos, nil // may wrap around and back: the sum fits
}

func twoDigits(s string, i int) (n int64, ok bool) {
	a, b := s[i]-'0', s[i+1]-'0'
	return int64(a)*10 + int64(b), a <= 9 && b <= 9
}

// fraction reads the fraction of a second at s[i], if there is one, and returns
// it in nanoseconds with the place behind it.
func fraction(s string, i int) (nanos int64, end int, ok bool) {
	if i >= len(s) || s[i] != '.' {
		return 0, i, true
	}
	i++
	from, unit := i, int64(100_000_000)
	for i < len(s) && s[i]-'0' <= 9 {
		nanos += int64(s[i]-'0') * unit
		unit /= 10
		i++
	}
	return nanos, i, i > from
}

// zone reads a whole zone and returns its distance from UTC in seconds.
func zone(s string) (seconds int64, ok bool) {
	if len(s) == 1 {
		return 0, s[0]|0x20 == 'z'
	}
	if len(s) != len("+00:00") || s[0] != '+' && s[0] != '-' || s[3] != ':' {
		return 0, false
	}
	hours, okH := twoDigits(s, 1)
	minutes, okM := twoDigits(s, 4)
	if !okH || !okM || hours > 23 || minutes > 59 {
		return 0, false
	}
	seconds = hours*3600 + minutes*60
	if s[0] == '-' {
		seconds = -seconds
	}
	return seconds, true
}

func daysIn(year, month int64) int64 {
	switch month {
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// daysSince1970 counts the days of the Gregorian calendar. It may be a few days
// off before March of the year 0, which no caller can represent anyhow.
func daysSince1970(year, month, day int64) int64 {
	// With years that begin in March the leap day is the last day of its year,
	// and the days before a month follow one straight line.
	if month < 3 {
		year--
		month += 12
	}
	const marchFirstYear0 = 719_468 // days from 0000-03-01 to 1970-01-01
	days := (153*(month-3)+2)/5 + day - 1
	return year*365 + year/4 - year/100 + year/400 + days - marchFirstYear0
}
