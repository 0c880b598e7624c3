package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
	"grout/integration/strict"
	"grout/schemas"
)

const (
	strictCallers = 500
	roundLimit    = 2 * time.Minute
)

// rounds is how many there are; `make strict` sets it.
func rounds(t *testing.T, few int) int {
	text := os.Getenv("GROUT_STRICT_ROUNDS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("GROUT_STRICT_ROUNDS=%q is no number", text)
	}
	return n
}

// arena is a grout that callers race at, and that is killed meanwhile.
type arena struct {
	t          *testing.T
	data       string
	partitions int
	p          *process.Process
	place      *strict.Place
	client     *strict.Client
	rng        *rand.Rand
	seed       uint64
}

func newArena(t *testing.T, partitions, callers int) *arena {
	a := &arena{t: t, data: filepath.Join(t.TempDir(), "data"), partitions: partitions, seed: rand.Uint64()}
	t.Logf("seed %d", a.seed)
	a.rng = rand.New(rand.NewPCG(a.seed, 5))
	a.p = start(t, a.data, partitions)
	a.place = strict.NewPlace(a.p.URL)
	a.client = strict.NewClient(a.place, process.InternalKey, callers)
	t.Cleanup(a.client.Close)
	return a
}

func (a *arena) sync(manifests []map[string]any) {
	a.t.Helper()
	for _, m := range manifests {
		request(a.t, a.p, "POST", "/api/internal/entitlement/sync", m).want(a.t, 200)
	}
}

func (a *arena) restart() {
	a.p = start(a.t, a.data, a.partitions)
	a.place.Move(a.p.URL)
}

// while does something, and kills the process when some of the answers that it gets
// are there, if it is to.
func (a *arena) while(kill bool, answers int, do func(ctx context.Context)) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), roundLimit)
	defer cancel()
	done := make(chan struct{})
	some := a.client.After(1 + a.rng.Int64N(int64(answers)))
	go func() {
		defer close(done)
		do(ctx)
	}()
	if kill {
		select {
		case <-some:
		case <-done:
		}
		a.p.Kill()
		a.restart()
	}
	<-done
}

// strictFigures are what a campaign comes to.
type strictFigures struct{ Rounds, Kills, Granted, Refused, Lost, Beyond, Wrongly, Other, Expired, Late int }

// Callers race for the last tokens of an app, of its users and of a model: nothing is
// granted beyond a limit, nothing is refused that would have fit, every hold ends once
// and leaves nothing behind, and what was used is what the events say.
func TestStrict(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		n := rounds(t, 6)
		if partitions > 1 {
			n = max(3, n/4)
		}
		a := newArena(t, partitions, strictCallers)
		f := strictFigures{}
		var ran []*strict.History
		for i := range n {
			h := a.race(fmt.Sprintf("app-%d", i), i%10 == 2, i%30 == 12, &f)
			ran = append(ran, h)
			if i >= 10 { // by then its holds are over
				a.settled(ran[i-10], &f)
			}
		}
		for _, h := range ran[max(0, n-10):] {
			a.settled(h, &f)
		}
		a.expiries(ran, &f)
		stop(t, a.p)
		verifyStopped(t, a.data, partitions)
		a.restart()
		for _, h := range ran {
			h.Compare(t.Context(), a.client, true)
			a.recount(h.Round)
		}
		for _, h := range ran {
			v := h.Judge()
			f.Granted, f.Refused, f.Beyond, f.Wrongly, f.Other = f.Granted+v.Granted, f.Refused+v.Refused, f.Beyond+len(v.Beyond), f.Wrongly+len(v.Wrongly), f.Other+len(v.Other)
			for _, fault := range v.Faults() {
				t.Error(fault)
			}
		}
		t.Logf("%+v", f)
		// One kill may come when nobody waits for an answer; of many, hardly each.
		if f.Granted == 0 || f.Refused == 0 || f.Expired == 0 || f.Kills >= 5 && f.Lost == 0 {
			t.Error("it was no race")
		}
		stop(t, a.p)
	})
}

// race is one round, until every hold that somebody ends has ended. It is the race that a
// kill comes in, or its end.
func (a *arena) race(app string, kill, atEnd bool, f *strictFigures) (h *strict.History) {
	r := strict.NewRound(app, a.rng, strictCallers)
	request(a.t, a.p, "POST", "/api/usage/ingest", map[string]any{"events": r.Events(time.Now().UTC().Format(time.RFC3339Nano))}).want(a.t, 200)
	a.sync(r.Manifests())
	a.while(kill && !atEnd, strictCallers/2, func(ctx context.Context) { h = strict.Run(ctx, a.client, r) })
	h.Open(a.t.Context(), a.client)
	h.Compare(a.t.Context(), a.client, false)
	a.while(kill && atEnd, strictCallers/10, func(ctx context.Context) { h.End(ctx, a.client) })
	f.Rounds++
	if kill {
		f.Kills++
	}
	for i := range h.Calls {
		if h.Calls[i].Answer.Lost {
			f.Lost++
		}
	}
	return h
}

// settled judges a round all of whose holds are over: nothing is left of them, but what
// they were settled with. One that expired is settled now, and some usage is voided.
func (a *arena) settled(h *strict.History, f *strictFigures) {
	t, ctx := a.t, a.t.Context()
	until(t, h.Over())
	if n := h.Open(ctx, a.client); n > 0 {
		t.Errorf("%s: %d holds are open in the end", h.Round.App, n)
	}
	h.Compare(ctx, a.client, true)
	for i := range h.Calls {
		if c := &h.Calls[i]; c.Granted && c.Ask.Ending == strict.Expire {
			h.SettleLate(ctx, a.client, c.Ask)
			f.Late++
			break
		}
	}
	h.Compare(ctx, a.client, true)
	a.recount(h.Round)
	for id, e := range h.Ended {
		if e.Settled {
			correct(t, a.p, "e-"+id, "void", fmt.Sprintf(`{"app_id":%q}`, h.Round.App), 200)
			h.Voided(id)
			break
		}
	}
	a.recount(h.Round)
}

// until waits for an instant.
func until(t *testing.T, at time.Time) {
	if d := time.Until(at); d > 0 {
		pause(t, d)
	}
}

// recount holds what budgets say was used against the raw events and their corrections.
func (a *arena) recount(r *strict.Round) {
	t := a.t
	t.Helper()
	type event struct {
		User      string `json:"user_id"`
		Model     string
		Total     int64             `json:"total_tokens"`
		Effective *schemas.SumsData `json:"effective"`
	}
	var events []event
	for cursor := ""; ; {
		var page struct {
			Events []event
			Next   *string `json:"next_cursor"`
		}
		request(t, a.p, "GET", "/api/usage/events?limit=1000&app_id="+queryEscape(r.App)+cursor, nil).want(t, 200).into(t, &page)
		events = append(events, page.Events...)
		if page.Next == nil {
			break
		}
		cursor = "&cursor=" + queryEscape(*page.Next)
	}
	for i := range r.Terms {
		terms := &r.Terms[i]
		want := int64(0)
		for _, e := range events {
			total := e.Total
			if e.Effective != nil {
				total = e.Effective.TotalTokens
			}
			if terms.Touches(&strict.Use{User: e.User, Model: e.Model}) {
				want += total
			}
		}
		scope, name := "app", "total_tokens"
		if terms.User != "" {
			scope = "user"
		}
		if terms.Model != "" {
			name = "model:" + terms.Model
		}
		path := r.App
		if terms.User != "" {
			path += "?user_id=" + terms.User
		}
		for _, b := range entitled(t, a.p, path).Budgets {
			for _, x := range b.Allocations {
				if b.Scope == scope && x.Name == name && x.Used != want {
					t.Errorf("%s: %s %s of %q has used %d, its events say %d", r.App, scope, name, terms.User, x.Used, want)
				}
			}
		}
	}
}

// expiries holds the facts of holds that have expired against what was granted: what was
// settled, released and what has expired is what was reserved.
func (a *arena) expiries(ran []*strict.History, f *strictFigures) {
	t := a.t
	want := map[string]bool{}
	for _, h := range ran {
		for i := range h.Calls {
			c := &h.Calls[i]
			if _, ended := h.Ended[c.Ask.ID]; c.Granted && c.Ask.Ending != strict.Expire && !ended {
				t.Errorf("%s has not ended", c.Ask.ID)
			}
			if c.Granted && c.Ask.Ending == strict.Expire {
				want[c.Ask.ID] = true
			}
		}
	}
	f.Expired = len(want)
	times := map[string]int{}
	eachFact(t, a.p, "mozaiks.v1.evt.*.budget.reservation_expired", func(data []byte) bool {
		var d struct {
			Data struct {
				ID string `json:"reservation_id"`
			}
		}
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatal(err)
		}
		if times[d.Data.ID]++; times[d.Data.ID] > 1 || !want[d.Data.ID] {
			t.Errorf("%d facts say that %s has expired, which was to: %t", times[d.Data.ID], d.Data.ID, want[d.Data.ID])
		}
		return len(times) >= len(want)
	})
}

// eachFact reads the facts of a subject until enough says so, then until it is quiet.
func eachFact(t *testing.T, p *process.Process, subject string, enough func(data []byte) bool) {
	t.Helper()
	c, err := consumer(t, p).OrderedConsumer(t.Context(), schemas.StreamFacts, jetstream.OrderedConsumerConfig{FilterSubjects: []string{subject}})
	if err != nil {
		t.Fatal(err)
	}
	done := false
	deadline := time.Now().Add(30 * time.Second)
	for n := 0; ; n++ {
		m, err := c.Next(jetstream.FetchMaxWait(300 * time.Millisecond))
		switch {
		case err == nil:
			documents.CheckFact(t, m.Data())
			done = enough(m.Data())
		case !errors.Is(err, nats.ErrTimeout) && !errors.Is(err, jetstream.ErrNoMessages):
			t.Fatal(err)
		case done:
			return
		case time.Now().After(deadline):
			t.Fatalf("%d facts of %s, and no more come", n, subject)
		}
	}
}

// Few callers with all steps there are, each sent once: there is an order in which one
// after the other would have been answered the same, kills or none.
func TestStrictOrder(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		const callers, steps = 12, 20
		n := max(4, rounds(t, 20)/5)
		a := newArena(t, partitions, callers)
		all, lost, longest := 0, 0, time.Duration(0)
		for i := range n {
			r := strict.NewLinearRound(fmt.Sprintf("app-%d", i), a.rng, callers, steps)
			a.sync(r.Manifests())
			a.while(i%2 == 1, callers*steps, func(ctx context.Context) { r.Run(ctx, a.client) })
			if err := r.Look(t.Context(), a.client); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			linear, decided, faults := r.Linear(30 * time.Second)
			longest = max(longest, time.Since(began))
			if !linear {
				t.Errorf("round %d: no order is found, and that is decided: %t", i, decided)
			}
			if len(faults) > 0 {
				t.Errorf("round %d: %s", i, strings.Join(faults, "\n"))
			}
			answered, without := r.Count()
			all, lost = all+answered+without, lost+without
		}
		t.Logf("%d rounds, %d steps, %d of them lost; the longest search took %s", n, all, lost, longest.Round(time.Millisecond))
		stop(t, a.p)
		verifyStopped(t, a.data, partitions)
	})
}
