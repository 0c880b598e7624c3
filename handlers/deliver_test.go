package handlers

import (
	"fmt"
	"path/filepath"
	"testing"

	"grout/schemas"
	"grout/store"
)

// A segment with events that are not delivered does not expire by a command that was sent
// as if they were, until it is as old as schemas.DeliveryKept.
func TestExpiryWaitsForDeliveries(t *testing.T) {
	s, err := store.Open(filepath.Join(t.TempDir(), "s.db"), store.Options{Partitions: 1, FoldEvery: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := newWorld(t, s)
	const day = 24 * int64(3600e9)
	mark := func(at int64, op schemas.DeliveryOp, seq uint64) {
		t.Helper()
		m := schemas.DeliveryMark{Op: op, Stand: schemas.DeliveryStand{Name: "upstream", Source: schemas.DeliverEvents, Seq: seq}}
		if o := w.own(schemas.MarkDelivery.Name, at, m.EncodePayload(nil)); o.Code != "" {
			t.Fatal(o)
		}
	}
	mark(testNow, schemas.DeliveryBegin, 0)
	w.tick(testNow)
	for d := range int64(3) {
		w.ingest(fmt.Sprint("b-", d), testNow+d*day+1, schemas.UsageEvent{EventID: fmt.Sprint("e-", d), AppID: "a", UserID: "u", Model: "m", Timestamp: testNow + d*day})
		w.tick(testNow + (d+1)*day)
		w.tick(testNow + (d+1)*day + 1)
	}
	w.published()
	stand := func() *schemas.DeliveryStand {
		t.Helper()
		d, err := s.Delivery("upstream")
		if err != nil || d == nil {
			t.Fatal(d, err)
		}
		return d
	}
	late := testNow + 50*day
	for range 24 { // a step: nothing expires until so many ticks have followed
		w.tick(late)
		late += int64(3600e9)
	}
	w.tick(late)
	first := s.Clock().ExpiredUntil
	w.expire(late, late-schemas.SegmentKept-1)
	if at := stand(); at.Gaps != 0 || s.Clock().ExpiredUntil > testNow {
		t.Fatalf("%+v, expired until %d, before %d", at, s.Clock().ExpiredUntil, first)
	}
	mark(late, schemas.DeliverySet, 6) // the first one, of message 3, is sent
	if o := w.expire(late, late-schemas.SegmentKept-1); o.Code != "" || s.Clock().ExpiredUntil != testNow+day {
		t.Fatalf("%+v, expired until day %d", o, (s.Clock().ExpiredUntil-testNow)/day)
	}
	for late < testNow+62*day+1 {
		late += int64(3600e9)
		w.tick(late)
	}
	if o := w.expire(late, late-schemas.SegmentKept-1); o.Code != "" {
		t.Fatal(o)
	}
	if d := stand(); d.Gaps != 1 || d.Gap.Until != s.Clock().ExpiredUntil || s.Clock().ExpiredUntil < testNow+2*day {
		t.Errorf("%+v, expired until day %d", d, (s.Clock().ExpiredUntil-testNow)/day)
	}
}
