package store

import (
	"errors"
	"math"
	"testing"

	"grout/schemas"
)

// A count beyond an int64 is told, both where it is kept and where it is only asked for.
func TestOverflowIsTold(t *testing.T) {
	s := openNew(t, Options{Partitions: 1})
	defer closeStore(t, s)
	add := s.overlay.live.adder()
	e := schemas.UsageEvent{AppID: "a", UserID: "u", Model: "m", TotalTokens: math.MaxInt64}
	add.add(&e)
	query := schemas.UsageQuery{AppID: "a", To: schemas.LastHour, Window: schemas.WindowNone}
	if r, err := s.Usage(t.Context(), query); err != nil || r.Totals.TotalTokens != math.MaxInt64 || s.Overflowed() {
		t.Errorf("the greatest count: %+v, %v, told %v", r.Totals, err, s.Overflowed())
	}
	other := e
	other.UserID = "v"
	add.add(&other)
	_, err := s.Usage(t.Context(), query)
	if e := new(schemas.Error); !errors.As(err, &e) || e.Code != schemas.CodeSumTooLarge || !s.Overflowed() {
		t.Errorf("two rows that do not fit together: %v, told %v", err, s.Overflowed())
	}
	s.overflowed.Store(false)
	one := e
	one.TotalTokens = 1
	apply(t, s, 1, message{seq: 1, requests: []request{{batch: "b", events: []schemas.UsageEvent{one}}}})
	if !s.Overflowed() {
		t.Error("a row that does not fit is not told")
	}
}
