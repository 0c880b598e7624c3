package store

import (
	"path/filepath"
	"testing"
)

// An execution that was begun again after a long outage, by which its home is old, does not
// expire while it is open.
func TestOpenExecutionsNeverExpire(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "s.db"), Options{})
	seq := uint64(0)
	day := func(n int) int64 { return testNow + int64(n)*24*testHour }
	do := func(at int64, do func(*Tx) error) {
		seq++
		applyEach(t, s, 1, runMessage{seq, at, do})
	}
	change := func(at int64, how func(tx *Tx, r *Run) error) {
		do(at, func(tx *Tx) error {
			r, err := tx.Run("a", "x")
			if err != nil {
				return err
			}
			return how(tx, r)
		})
	}
	do(day(0), begin(executed("x")))
	for n := range 50 {
		seq++
		applyEach(t, s, 1, ownMessage{seq: seq, at: day(n), tick: true})
		if n == 2 { // the tick that ends it is long in coming
			change(day(n), func(tx *Tx, r *Run) error {
				next := r.Clone()
				next.DueAt = day(60)
				return tx.ChangeRun(r, &next)
			})
		}
		published(t, s)
		before, ok, err := s.Expirable()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			seq++
			applyEach(t, s, 1, ownMessage{seq: seq, at: day(n), before: before})
		}
		if list, _, err := s.OpenExecutions(Place{}, 10); err != nil || len(list) != 1 || runOf(t, s, "x") == nil {
			t.Fatalf("day %d: %v %v", n, list, err)
		}
	}
	change(day(50), func(tx *Tx, r *Run) error {
		next := r.Clone()
		ends(&next)
		return tx.ChangeRun(r, &next)
	})
	for n := 51; n < 53; n++ { // then its segment goes, and it does not go with it
		seq++
		applyEach(t, s, 1, ownMessage{seq: seq, at: day(n), tick: true})
		published(t, s)
		before, ok, err := s.Expirable()
		if err != nil || n == 51 && !ok {
			t.Fatalf("%t %v", ok, err)
		}
		if ok {
			seq++
			applyEach(t, s, 1, ownMessage{seq: seq, at: day(n), before: before})
		}
	}
	if r := runOf(t, s, "x"); r == nil || r.Open() {
		t.Errorf("%+v", r)
	}
}
