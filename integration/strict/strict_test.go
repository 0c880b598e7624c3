package strict

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"testing"
	"time"
)

// raceAt lets callers race at a clumsy server and says what is held against it.
func raceAt(t *testing.T, f flaw, seed uint64) Verdict {
	t.Helper()
	r := NewRound("app", rand.New(rand.NewPCG(seed, 1)), 200)
	s := httptest.NewServer(newClumsy(f, r.Terms, r.Base))
	defer s.Close()
	c := NewClient(NewPlace(s.URL), "k", len(r.Asks))
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h := Run(ctx, c, r)
	h.Open(ctx, c)
	h.Compare(ctx, c, false)
	h.End(ctx, c)
	wait(ctx, h.Over())
	h.Open(ctx, c)
	h.Compare(ctx, c, true)
	return h.Judge()
}

func wait(ctx context.Context, until time.Time) {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	<-ctx.Done()
}

// A server that is strict is not accused, and each way of not being strict is found.
func TestConservationJudge(t *testing.T) {
	for name, c := range map[string]struct {
		flaw   flaw
		faults func(*Verdict) []string
	}{
		"sound":          {sound, nil},
		"check then add": {checkThenAdd, func(v *Verdict) []string { return v.Beyond }},
		"add then check": {addThenCheck, func(v *Verdict) []string { return v.Wrongly }},
		"leaky":          {leaky, func(v *Verdict) []string { return v.Other }},
		"forgetful":      {forgetful, func(v *Verdict) []string { return v.Other }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(4) {
				v := raceAt(t, c.flaw, seed)
				t.Logf("%d granted, %d refused; beyond %d, wrongly %d, other %d", v.Granted, v.Refused, len(v.Beyond), len(v.Wrongly), len(v.Other))
				if c.flaw == sound && (v.Granted == 0 || v.Refused == 0) {
					t.Errorf("it is no race: %+v", v)
				}
				if c.faults != nil && len(c.faults(&v)) > 0 {
					return
				}
				for _, f := range v.Faults() {
					if c.faults == nil {
						t.Error(f)
					}
				}
			}
			if c.faults != nil {
				t.Error("nothing is held against it")
			}
		})
	}
}

func linearAt(t *testing.T, f flaw, seed uint64, limit time.Duration) (linear, decided bool) {
	t.Helper()
	r := NewLinearRound("app", rand.New(rand.NewPCG(seed, 2)), 12, 20)
	s := httptest.NewServer(newClumsy(f, r.terms(), nil))
	defer s.Close()
	c := NewClient(NewPlace(s.URL), "k", 12)
	defer c.Close()
	r.Run(t.Context(), c)
	linear, decided, faults := r.Linear(limit)
	for _, fault := range faults {
		if f == sound {
			t.Error(fault)
		}
	}
	if answered, lost := r.Count(); answered != 240 || lost > 0 {
		t.Errorf("%d steps answered, %d lost", answered, lost)
	}
	return linear, decided
}

// So it is with the judge that searches an order.
func TestLinearJudge(t *testing.T) {
	for name, f := range map[string]flaw{"sound": sound, "check then add": checkThenAdd, "add then check": addThenCheck, "forgetful": forgetful} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			limit := 2 * time.Second // to show that there is no order may take for ever
			if f == sound {
				limit = 30 * time.Second
			}
			for seed := range uint64(8) {
				switch linear, decided := linearAt(t, f, seed, limit); {
				case f == sound && !linear:
					t.Errorf("no order is found, and that is decided: %t", decided)
				case f != sound && decided && !linear:
					return
				}
			}
			if f != sound {
				t.Error("there is an order for every round")
			}
		})
	}
}

// A reservation without an answer may hold its tokens, now or later, or never: neither
// what is refused beside it nor what is granted in its stead is held against anybody.
func TestLostCalls(t *testing.T) {
	r := &Round{App: "a", Terms: []Terms{{Limit: 10}}, Asks: make([]Ask, 3)}
	for i := range r.Asks {
		r.Asks[i] = Ask{ID: fmt.Sprint(i), Use: Use{Tokens: 6}}
	}
	call := func(i int, status int, first, returned int64, lost bool) Call {
		return Call{Ask: &r.Asks[i], Granted: status == 201, Expires: 1000, Answer: Answer{Status: status, First: first, Last: first, Returned: returned, Lost: lost}}
	}
	for name, c := range map[string]struct {
		calls []Call
		want  [2]int // beyond, wrongly
	}{
		"free":                        {[]Call{call(0, 402, 10, 20, false)}, [2]int{0, 1}},
		"taken by a lost call":        {[]Call{call(0, 402, 10, 20, false), call(1, 402, 1, 30, true), call(2, 201, 29, 30, false)}, [2]int{0, 0}},
		"taken later":                 {[]Call{call(0, 402, 10, 20, false), call(1, 201, 21, 30, false)}, [2]int{0, 1}},
		"taken meanwhile":             {[]Call{call(0, 402, 10, 20, false), call(1, 201, 20, 30, false)}, [2]int{0, 0}},
		"both granted":                {[]Call{call(0, 201, 10, 20, false), call(1, 201, 20, 30, false)}, [2]int{1, 0}},
		"both granted, one over":      {[]Call{call(0, 201, 10, 20, false), call(1, 201, 20, 1000, false)}, [2]int{0, 0}},
		"a lost one is granted later": {[]Call{call(0, 201, 10, 20, true), call(1, 402, 20, 30, true)}, [2]int{0, 0}},
	} {
		h := &History{Round: r, Calls: c.calls, Ended: map[string]Ended{}}
		v := h.Judge()
		if got := [2]int{len(v.Beyond), len(v.Wrongly)}; got != c.want {
			t.Errorf("%s: %v, want %v: %v", name, got, c.want, v.Faults())
		}
	}
}
