package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
)

// usageOfRun is an event with figures that tell events apart.
func usageOfRun(app, id, run, chat, agent string, tokens int64, seconds float64) schemas.UsageEvent {
	e := plainEvent(app, id, tokens)
	e.RunID, e.ChatID, e.AgentName, e.DurationSec, e.Cost = run, chat, agent, seconds, tokens*1_000_001
	e.OutputTokens, e.TotalTokens = 1, tokens+1
	return e
}

// recording takes events, in a message of their own at an instant.
func recording(seq uint64, at int64, events ...schemas.UsageEvent) runMessage {
	return runMessage{seq, at, func(tx *Tx) error { return (&request{batch: fmt.Sprint("b", seq), events: events}).put(tx, 0) }}
}

func adjusting(seq uint64, at int64, id string, status schemas.EventStatus, to schemas.UsageSums) runMessage {
	return runMessage{seq, at, func(tx *Tx) error {
		rec, err := tx.Event("a", id)
		if err == nil {
			_, err = tx.Adjust(0, rec, status, to, "why")
		}
		return err
	}}
}

func usedBy(t rapid.TB, s *Store, run string) *schemas.RunUsage {
	t.Helper()
	u, err := s.RunUsage(context.Background(), "a", run)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// told gives the figures of a run: agent, events, input, total tokens, cost, duration.
func told(u *schemas.RunUsage) string {
	var b strings.Builder
	for _, a := range append(u.Agents, schemas.AgentTotals{Agent: "all", RunTotals: u.Totals}) {
		fmt.Fprintf(&b, "%s %d %d %d %v %v\n", a.Agent, a.Events, a.InputTokens, a.TotalTokens, a.Cost, a.Duration)
	}
	return b.String()
}

func TestRunUsage(t *testing.T) {
	at := testNow
	started := plainRun("r")
	started.StartedAt = at
	opened := func(seq uint64) putter { return runMessage{seq, at, begin(started)} }
	summary := plainEvent("a", "s", 100)
	summary.Summary, summary.ChatID, summary.RunID = true, "c", "r"
	for _, c := range []struct {
		name string
		list []putter
		want string
	}{
		{"nothing", []putter{opened(1)}, "all 0 0 0 0 0\n"},
		{
			"agents, by name",
			[]putter{opened(1), recording(
				2, at,
				usageOfRun("a", "1", "r", "c", "writer", 10, 0.1), usageOfRun("a", "2", "r", "d", "", 20, 0.2),
				usageOfRun("a", "3", "r", "", "planner", 30, 0.3), usageOfRun("a", "4", "r", "c", "writer", 40, 1e9),
			)},
			" 1 20 21 0.02000002 0.2\nplanner 1 30 31 0.03000003 0.3\nwriter 2 50 52 0.05000005 1000000000.1\nall 4 100 104 0.1000001 1000000000.6\n",
		},
		{
			"others",
			[]putter{opened(1), runMessage{2, at, begin(plainRun("rr"))}, recording(
				3, at,
				usageOfRun("a", "1", "rr", "r", "x", 10, 1), usageOfRun("b", "1", "r", "r", "x", 20, 1), usageOfRun("a", "2", "", "c", "x", 30, 1),
				usageOfRun("a", "3", "", "rr", "r", 40, 1), usageOfRun("a", "4", "r", "", "x", 5, 1),
			)},
			"x 1 5 6 0.005000005 1\nall 1 5 6 0.005000005 1\n",
		},
		{
			"the run is its own chat",
			[]putter{opened(1), recording(2, at, usageOfRun("a", "1", "", "r", "x", 10, 1), usageOfRun("a", "2", "r", "r", "x", 20, 1))},
			"x 2 30 32 0.03000003 2\nall 2 30 32 0.03000003 2\n",
		},
		{
			"before its start",
			[]putter{recording(1, at-testHour, usageOfRun("a", "1", "r", "", "x", 10, 1)), opened(2)},
			"x 1 10 11 0.01000001 1\nall 1 10 11 0.01000001 1\n",
		},
		{
			"void and amend",
			[]putter{
				opened(1), recording(2, at, usageOfRun("a", "1", "r", "", "x", 10, 1), usageOfRun("a", "2", "r", "", "x", 20, 2), usageOfRun("b", "2", "r", "", "x", 9, 9)),
				adjusting(3, at, "1", schemas.EventVoided, schemas.UsageSums{}),
				adjusting(4, at, "2", schemas.EventVoided, schemas.UsageSums{}),
				adjusting(5, at, "2", schemas.EventAmended, schemas.UsageSums{Events: 1, InputTokens: 7, TotalTokens: 8, Cost: schemas.AmountOf(1)}),
			},
			"x 1 7 8 0.000000001 2\nall 1 7 8 0.000000001 2\n",
		},
		{
			"a summary is no event, and what it states counts once",
			[]putter{
				opened(1), recording(2, at, usageOfRun("a", "1", "r", "c", "x", 30, 1), summary), recording(3, at, usageOfRun("a", "2", "r", "c", "y", 40, 2)),
			},
			" 0 70 69 0 0\nx 1 30 31 0.03000003 1\ny 1 0 0 0.04000004 2\nall 2 100 100 0.07000007 3\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, per := range []int{1, 7} {
				s := openNew(t, Options{})
				applyEach(t, s, per, c.list...)
				if diff := cmp.Diff(c.want, told(usedBy(t, s, "r"))); diff != "" {
					t.Errorf("%d a transaction (-want +got):\n%s", per, diff)
				}
			}
		})
	}
	if u := usedBy(t, openNew(t, Options{}), "none"); u != nil {
		t.Errorf("a run that is not there used %+v", u)
	}
}

// Segments that ended a day before a run began are not walked, a run told of late is
// looked for since its start, and what has expired is told.
func TestRunUsageOverSegments(t *testing.T) {
	const day = 24 * testHour
	s := openNew(t, Options{FoldEvery: 1})
	seq := uint64(0)
	next := func() uint64 { seq++; return seq }
	ticked := func(d int64) { applyEach(t, s, 1, ownMessage{seq: next(), at: testNow + d*day, tick: true}) }
	for d := range int64(6) {
		ticked(d)
		events := []schemas.UsageEvent{
			usageOfRun("a", fmt.Sprint("now-", d), "now", "", "x", 1, 1), usageOfRun("a", fmt.Sprint("late-", d), "late", "", "x", 1, 1), usageOfRun("a", fmt.Sprint("long-", d), "long", "", "x", 1, 1),
		}
		applyEach(t, s, 1, recording(next(), testNow+d*day+testHour, events...))
		if d == 0 {
			long := plainRun("long")
			long.StartedAt = testNow + testHour
			applyEach(t, s, 1, runMessage{next(), testNow + testHour, begin(long)})
		}
	}
	now, late := plainRun("now"), plainRun("late")
	now.StartedAt, late.StartedAt = testNow+5*day+testHour, testNow+2*day+testHour
	applyEach(t, s, 1, runMessage{next(), testNow + 5*day + 2*testHour, begin(now, late)})
	for run, want := range map[string]int64{"now": 2, "late": 5, "long": 6} {
		if u := usedBy(t, s, run); u.Totals.Events != want || u.ExpiredUntil != 0 {
			t.Errorf("%s: %d events, want %d; expired until %d", run, u.Totals.Events, want, u.ExpiredUntil)
		}
	}
	applyEach(t, s, 1, runMessage{next(), testNow + 9*day, step("long", goesOn)}) // it moves its home
	if u := usedBy(t, s, "long"); u.Totals.Events != 6 || u.ExpiredUntil != 0 {
		t.Errorf("long, moved: %d events, expired until %d", u.Totals.Events, u.ExpiredUntil)
	}
	again := func(r *schemas.Run) { r.Attempt, r.StartedAt = 2, testNow+9*day }
	applyEach(t, s, 1, runMessage{next(), testNow + 9*day, step("long", again)})
	ticked(10)
	ticked(11)
	published(t, s)
	applyEach(t, s, 1, ownMessage{seq: next(), at: testNow + 11*day, before: testNow + 3*day})
	if u := usedBy(t, s, "long"); u.Totals.Events >= 6 || u.Totals.Events < 3 || u.ExpiredUntil == 0 {
		t.Errorf("long: %d events, expired until %d", u.Totals.Events, u.ExpiredUntil)
	}
	applyEach(t, s, 1, runMessage{next(), testNow + 17*day, step("long", goesOn)}) // only what it was before is known to have expired
	if u := usedBy(t, s, "long"); u.Totals.Events < 3 || u.ExpiredUntil == 0 {
		t.Errorf("long, moved twice: %d events, expired until %d", u.Totals.Events, u.ExpiredUntil)
	}
	if u := usedBy(t, s, "now"); u.Totals.Events != 2 || u.ExpiredUntil != 0 {
		t.Errorf("now: %d events, expired until %d", u.Totals.Events, u.ExpiredUntil)
	}
}

// A correction is of the event that was recorded before it, not of a later one of the same
// id when that has expired.
func TestRunUsageOfAnIDAgain(t *testing.T) {
	const day = 24 * testHour
	s := openNew(t, Options{FoldEvery: 1})
	r := plainRun("r")
	r.StartedAt = testNow + 3*day
	e := usageOfRun("a", "e", "r", "", "x", 5, 1)
	applyEach(
		t, s, 1, ownMessage{seq: 1, at: testNow, tick: true}, recording(2, testNow, e), ownMessage{seq: 3, at: testNow + day, tick: true},
		adjusting(4, testNow+day, "e", schemas.EventVoided, schemas.UsageSums{}), ownMessage{seq: 5, at: testNow + day + testHour, tick: true},
	)
	published(t, s)
	applyEach(
		t, s, 1, ownMessage{seq: 6, at: testNow + day + testHour, before: testNow + day}, runMessage{7, testNow + day + testHour, begin(r)},
		recording(8, testNow+day+testHour, e),
	)
	if u := usedBy(t, s, "r"); u.Totals.Events != 1 || u.Totals.InputTokens != 5 {
		t.Errorf("%+v", u.Totals)
	}
	applyEach(t, s, 1, adjusting(9, testNow+day+testHour, "e", schemas.EventVoided, schemas.UsageSums{}))
	if u := usedBy(t, s, "r"); u.Totals != (schemas.RunTotals{}) || len(u.Agents) != 1 {
		t.Errorf("voided: %+v", u.Totals)
	}
}

// A sum is whole or refused.
func TestRunUsageIsBounded(t *testing.T) {
	s := openNew(t, Options{})
	applyEach(t, s, 1, runMessage{1, testNow, begin(plainRun("r"))})
	list := make([]schemas.UsageEvent, maxRunUsageAgents+1)
	for i := range list {
		list[i] = usageOfRun("a", fmt.Sprint(i), "r", "", fmt.Sprint("agent-", i), 1, 0)
	}
	applyEach(t, s, 1, recording(2, testNow, list[1:]...))
	if u := usedBy(t, s, "r"); len(u.Agents) != maxRunUsageAgents {
		t.Errorf("%d agents", len(u.Agents))
	}
	applyEach(t, s, 1, recording(3, testNow, list[:1]...))
	var refused *schemas.Error
	if _, err := s.RunUsage(t.Context(), "a", "r"); !errors.As(err, &refused) || refused.Code != schemas.CodeTooManyRows {
		t.Errorf("one agent more: %v", err)
	}
	w := runSum{ctx: t.Context(), run: runOf(t, s, "r"), left: 10, agents: map[string]*schemas.RunTotals{}}
	if err := s.Look(func(l *Look) error { return w.sum(l.bolt, 0) }); !errors.As(err, &refused) || refused.Code != schemas.CodeTooManyRows {
		t.Errorf("more events than may be decoded: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.ctx, w.passed = ctx, 63
	if err := s.Look(func(l *Look) error { return w.sum(l.bolt, 0) }); !errors.Is(err, context.Canceled) {
		t.Errorf("beyond its time: %v", err)
	}
}

// Agents add up to the totals, whatever is counted and corrected, and these are those of
// all events of the run.
func TestRunUsageAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := openAt(t, rapidDir(t)+"/db", Options{})
		defer closeStore(t, s)
		applyEach(t, s, 1, runMessage{1, testNow, begin(plainRun("r"))})
		one := rapid.Custom(func(t *rapid.T) schemas.UsageEvent {
			e := usageOfRun("a", "", rapid.SampledFrom([]string{"r", "", "q"}).Draw(t, "run"), rapid.SampledFrom([]string{"r", "c"}).Draw(t, "chat"),
				rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "agent"), rapid.Int64Range(0, 1e9).Draw(t, "tokens"), rapid.Float64Range(0, 1e9).Draw(t, "seconds"))
			if e.Summary = rapid.IntRange(0, 5).Draw(t, "summary") == 0; e.Summary {
				e.DurationSec = 0
			}
			return e
		})
		events := rapid.SliceOfN(one, 1, 12).Draw(t, "events")
		seq, want := uint64(1), schemas.RunTotals{}
		for i := range events {
			seq++
			events[i].EventID = fmt.Sprint(i)
			applyEach(t, s, 1, recording(seq, testNow, events[i]))
		}
		for i := range events {
			if !events[i].Summary && rapid.IntRange(0, 2).Draw(t, "void") == 0 {
				seq++
				applyEach(t, s, 1, adjusting(seq, testNow, fmt.Sprint(i), schemas.EventVoided, schemas.UsageSums{}))
			}
		}
		page, err := s.Events(context.Background(), allEvents("a", 100))
		if err != nil {
			t.Fatal(err)
		}
		for i := range page.Events {
			e := &page.Events[i]
			if e.RunID != "r" && (e.RunID != "" || e.ChatID != "r") {
				continue
			}
			add := schemas.RunTotals{UsageSums: schemas.CountedOf(&e.UsageEvent), Duration: nanosOf(e.DurationSec)}
			if e.Status == schemas.EventVoided {
				add = schemas.RunTotals{UsageSums: e.Effective}
			}
			want.Add(&add)
		}
		u, sum := usedBy(t, s, "r"), schemas.RunTotals{}
		for i := range u.Agents {
			sum.Add(&u.Agents[i].RunTotals)
		}
		if u.Totals != want || sum != want {
			t.Fatalf("totals %+v, of agents %+v, of events %+v", u.Totals, sum, want)
		}
	})
}
