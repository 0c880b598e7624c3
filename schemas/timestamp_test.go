package schemas

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestParseInstant(t *testing.T) {
	at := func(s string) int64 {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v.UnixNano()
	}
	for text, want := range map[string]int64{
		"1970-01-01T00:00:00Z":                 0,
		"2026-01-26T15:30:00Z":                 at("2026-01-26T15:30:00Z"),
		"2026-01-26t15:30:00z":                 at("2026-01-26T15:30:00Z"),
		"2026-01-26T15:30:00.1Z":               at("2026-01-26T15:30:00.1Z"),
		"2026-01-26T15:30:00.123456789Z":       at("2026-01-26T15:30:00.123456789Z"),
		"2026-01-26T15:30:00.1234567899999Z":   at("2026-01-26T15:30:00.123456789Z"),
		"1969-12-31T23:59:59.9999999999Z":      -1,
		"2026-01-26T15:30:00+05:30":            at("2026-01-26T10:00:00Z"),
		"2026-01-26T15:30:00.5-23:59":          at("2026-01-27T15:29:00.5Z"),
		"2026-01-26T15:30:00-00:00":            at("2026-01-26T15:30:00Z"),
		"2024-02-29T23:59:59Z":                 at("2024-02-29T23:59:59Z"),
		"2000-02-29T00:00:00Z":                 at("2000-02-29T00:00:00Z"),
		"1677-09-21T00:12:43.145224192Z":       math.MinInt64,
		"2262-04-11T23:47:16.854775807Z":       math.MaxInt64,
		"2262-04-12T23:46:16.854775807+23:59":  math.MaxInt64,
		"2262-04-11T23:47:16.8547758079+00:00": math.MaxInt64,
	} {
		if got, err := ParseInstant(text); err != nil || got != want {
			t.Errorf("%s: %d %v, want %d", text, got, err, want)
		}
	}
	for text, code := range map[string]Code{
		"":                                     CodeInvalidTimestamp,
		"2026-01-26":                           CodeInvalidTimestamp,
		"2026-01-26T15:30:00":                  CodeInvalidTimestamp,
		"2026-01-26T15:30:00.5":                CodeInvalidTimestamp,
		"2026-01-26T15:30:00.Z":                CodeInvalidTimestamp,
		"2026-01-26T15:30:00,5Z":               CodeInvalidTimestamp,
		"2026-01-26 15:30:00Z":                 CodeInvalidTimestamp,
		"2026-01-26T15:30Z":                    CodeInvalidTimestamp,
		"2026-01-26T15:30:00ZZ":                CodeInvalidTimestamp,
		"2026-01-26T15:30:00Z+00:00":           CodeInvalidTimestamp,
		"2026-01-26T15:30:00+00:00Z":           CodeInvalidTimestamp,
		"2026-01-26T15:30:00+0000":             CodeInvalidTimestamp,
		"2026-01-26T15:30:00+00":               CodeInvalidTimestamp,
		"2026-01-26T15:30:00+24:00":            CodeInvalidTimestamp,
		"2026-01-26T15:30:00+00:60":            CodeInvalidTimestamp,
		"2026-01-26T15:30:00+0a:00":            CodeInvalidTimestamp,
		"2026-01-26T15:30:00 Z":                CodeInvalidTimestamp,
		" 2026-01-26T15:30:00Z":                CodeInvalidTimestamp,
		"2026-01-26T15:30:00Z ":                CodeInvalidTimestamp,
		"2026-01-26T24:00:00Z":                 CodeInvalidTimestamp,
		"2026-01-26T15:60:00Z":                 CodeInvalidTimestamp,
		"2016-12-31T23:59:60Z":                 CodeInvalidTimestamp,
		"2026-00-26T15:30:00Z":                 CodeInvalidTimestamp,
		"2026-13-26T15:30:00Z":                 CodeInvalidTimestamp,
		"2026-01-00T15:30:00Z":                 CodeInvalidTimestamp,
		"2026-01-32T15:30:00Z":                 CodeInvalidTimestamp,
		"2026-04-31T15:30:00Z":                 CodeInvalidTimestamp,
		"2026-02-29T15:30:00Z":                 CodeInvalidTimestamp,
		"1900-02-29T15:30:00Z":                 CodeInvalidTimestamp,
		"2026-1-26T15:30:00Z":                  CodeInvalidTimestamp,
		"+026-01-26T15:30:00Z":                 CodeInvalidTimestamp,
		"12026-01-26T15:30:00Z":                CodeInvalidTimestamp,
		"-026-01-26T15:30:00Z":                 CodeInvalidTimestamp,
		"२026-01-26T15:30:00Z":                 CodeInvalidTimestamp,
		"1677-09-21T00:12:43.145224191Z":       CodeTimestampTooOld,
		"1677-09-21T00:12:42.9Z":               CodeTimestampTooOld,
		"0000-02-29T00:00:00Z":                 CodeTimestampTooOld,
		"2262-04-11T23:47:16.854775808Z":       CodeTimestampInFuture,
		"2262-04-11T23:47:17Z":                 CodeTimestampInFuture,
		"9999-12-31T23:59:59-23:59":            CodeTimestampInFuture,
		strings.Repeat("2026-01-26T15:30", 99): CodeInvalidTimestamp,
	} {
		if _, err := ParseInstant(text); err == nil || err.Code != code || len(err.Detail) > 190 {
			t.Errorf("%.50s: %v, want %s", text, err, code)
		}
	}
}

// Every day that int64 nanoseconds can hold, against the standard library.
func TestDaysSince1970(t *testing.T) {
	for day := int64(-106_751); day <= 106_751; day++ {
		at := time.Unix(day*86_400, 0).UTC()
		year, month, dayOf := at.Date()
		if got := daysSince1970(int64(year), int64(month), int64(dayOf)); got != day {
			t.Fatalf("%s: %d, want %d", at, got, day)
		}
		if last := at.AddDate(0, 0, 1).Day() == 1; last != (int64(dayOf) == daysIn(int64(year), int64(month))) {
			t.Fatalf("%s: last of its month is %v", at, last)
		}
	}
}
