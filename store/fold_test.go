package store

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// phase says what a message did to the fold.
func phase(before, after foldState) string {
	switch {
	case before.To == 0 && after.To != 0:
		return "frozen"
	case before.To != 0 && after.To == 0:
		return "finished"
	case !bytes.Equal(before.NextKey, after.NextKey):
		return "slice"
	case after.To != 0:
		return "waiting"
	}
	return "none"
}

func wantPhases(t *testing.T, seen map[string]int) {
	t.Helper()
	for _, p := range []string{"none", "frozen", "waiting", "slice", "finished"} {
		if seen[p] == 0 {
			t.Errorf("the history has no message of phase %s: %v", p, seen)
		}
	}
}

var foldQueries = []schemas.UsageQuery{
	{AppID: "a", To: schemas.LastHour, Window: schemas.WindowHour, GroupBy: []schemas.Dimension{schemas.ByTenant, schemas.ByUser, schemas.ByWorkflow, schemas.ByModel}},
	{AppID: "b", To: schemas.LastHour, Window: schemas.WindowDay, GroupBy: []schemas.Dimension{schemas.ByUser}},
	{AppID: "ab", To: schemas.LastHour, Window: schemas.WindowNone},
}

func usage(t *testing.T, s *Store) (list []schemas.UsageReport) {
	t.Helper()
	for _, q := range foldQueries {
		r, err := s.Usage(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

func sameReports(t *testing.T, want, got []schemas.UsageReport) {
	t.Helper()
	if !reflect.DeepEqual(want, got) { // a difference of equal reports would take long
		t.Fatalf("sums differ (-want +got):\n%s", cmp.Diff(want, got))
	}
}

func (o *oracle) usage() (list []schemas.UsageReport) {
	for _, q := range foldQueries {
		list = append(list, o.report(&q))
	}
	return list
}

// Whatever the fold has reached, a store that is opened again has the same rows
// and goes on as if nothing had happened.
func TestRestartInEveryPhaseOfAFold(t *testing.T) {
	options := Options{FoldEvery: 50}
	history := randomHistory(31, 70)
	path := filepath.Join(t.TempDir(), "s.db")
	plain := openNew(t, options)
	var want oracle
	seen := map[string]int{}
	for i := range history {
		s := openAt(t, path, options)
		before := plain.fold
		apply(t, plain, 1, history[i])
		apply(t, s, 1, history[i])
		closeStore(t, s)
		want.apply(&history[i])
		seen[phase(before, plain.fold)]++

		s = openAt(t, path, options)
		sameReports(t, want.usage(), usage(t, s))
		sameDump(t, dump(t, plain), dump(t, s))
		closeStore(t, s)
	}
	sameReports(t, want.usage(), usage(t, plain))
	wantPhases(t, seen)
}

// The number of messages in a transaction leaves no trace either.
func TestFoldsDoNotDependOnTransactions(t *testing.T) {
	history := randomHistory(32, 90)
	var first string
	for _, per := range []int{1, 3, 90} {
		s := openNew(t, Options{FoldEvery: 50})
		apply(t, s, per, history...)
		var b strings.Builder
		if err := s.Dump(&b); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = b.String()
		}
		sameDump(t, first, b.String())
	}
}

// A reader between a commit and its merge sees the state before or the one after.
func TestReadersBetweenCommitAndMerge(t *testing.T) {
	for _, per := range []int{1, 4} {
		t.Run(fmt.Sprintf("%d messages a transaction", per), func(t *testing.T) {
			history := randomHistory(33, 90)
			var s *Store
			var read func(point string)
			s = openNew(t, Options{FoldEvery: 50, Fault: func(point string) {
				if read != nil {
					read(point)
				}
			}})
			var want oracle
			states := [2][]schemas.UsageReport{1: want.usage()}
			seen := map[string]int{}
			points := map[string]int{}
			answers := [2]int{}
			for rest := history; len(rest) > 0; {
				// What a transaction takes depends on where it is sealed: try it first.
				n := 0
				dry := s.Update(func(tx *Tx) error {
					for n < min(per, len(rest)) && !tx.Sealed() {
						if err := rest[n].put(tx); err != nil {
							return err
						}
						n++
					}
					return errRefused
				})
				if dry == nil {
					t.Fatal("a refused transaction went through")
				}
				for i := range n {
					want.apply(&rest[i])
				}
				states[0], states[1] = states[1], want.usage()
				read = func(point string) {
					points[point]++
					done := make(chan struct{})
					go func() {
						defer close(done)
						for i, q := range foldQueries {
							got, err := s.Usage(context.Background(), q)
							if err != nil {
								t.Error(err)
								return
							}
							switch {
							case reflect.DeepEqual(got, states[0][i]):
								answers[0]++
							case reflect.DeepEqual(got, states[1][i]):
								answers[1]++
							default:
								t.Errorf("at %s of message %d, fold %+v: neither before nor after: %s", point, rest[n-1].seq, s.fold, cmp.Diff(states[1][i], got))
							}
						}
					}()
					<-done
				}
				before := s.fold
				apply(t, s, per, rest[:n]...)
				read = nil
				seen[phase(before, s.fold)]++
				sameReports(t, states[1], usage(t, s))
				rest = rest[n:]
				if t.Failed() {
					return
				}
			}
			wantPhases(t, seen)
			if points["tx.committed"] == 0 || points["fold.slice"] == 0 || points["tx.inside"] == 0 || answers[0] == 0 {
				t.Errorf("points %v, answers before and after %v", points, answers)
			}
		})
	}
}

func TestFoldStateRoundTrip(t *testing.T) {
	for _, want := range []foldState{{}, {Number: 3, Folded: 1 << 40, To: 1<<40 + 9, NextKey: []byte("key"), Live: 250_000}} {
		v := want.append(nil)
		got, err := parseFoldState(v)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%+v %v, want %+v", got, err, want)
		}
		for n := range v {
			if _, err := parseFoldState(v[:n:n]); err == nil && n > 0 {
				t.Errorf("%d of %d bytes are a state", n, len(v))
			}
		}
	}
}
