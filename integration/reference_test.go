package integration

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
)

// reportBooks hold what the answers 200 of all clients say must be counted.
type reportBooks struct {
	t     *testing.T
	mu    sync.Mutex
	times map[string]map[string]int // app → key → how often; equal entries of one list are different calls
	use   map[string]tokens         // key → tokens
	bad   int
}

func (b *reportBooks) judge(batch []reportEntry, a reportAnswer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	faults, seen := map[int]string{}, map[string]int{}
	for i, e := range batch {
		if e.fault != "" {
			faults[i] = e.fault
			continue
		}
		if seen[e.key]++; e.given {
			seen[e.key] = 1
		}
		if b.times[e.app] == nil {
			b.times[e.app] = map[string]int{}
		}
		b.times[e.app][e.key] = max(b.times[e.app][e.key], seen[e.key])
		b.use[e.key] = e.use
	}
	b.bad += len(faults)
	got := map[int]string{}
	for _, e := range a.Errors {
		got[e.Index] = e.Code
		if e.Detail == "" {
			b.t.Errorf("the error of entry %d says nothing", e.Index)
		}
	}
	if d := cmp.Diff(faults, got); d != "" || a.Failed != len(faults) || a.Accepted != len(batch)-len(faults) {
		b.t.Errorf("a list of %d entries, %d of them bad, has %d accepted and %d failed; bad ones (-sent +answered):\n%s", len(batch), len(faults), a.Accepted, a.Failed, d)
	}
}

// verify compares sums, single events and facts with the books.
func (b *reportBooks) verify(p *process.Process) (all int64) {
	t := b.t
	t.Helper()
	for app, keys := range b.times {
		var events int64
		var use tokens
		for key, n := range keys {
			events += int64(n)
			use.input += int64(n) * b.use[key].input
			use.output += int64(n) * b.use[key].output
			use.total += int64(n) * b.use[key].total
		}
		all += events
		got := totals(t, p, app)
		if got.Events != events || (tokens{got.InputTokens, got.OutputTokens, got.TotalTokens}) != use {
			t.Errorf("app %s has %+v, want %d events with %+v", app, got, events, use)
		}
		logged := map[string]bool{}
		for _, e := range walk(t, p, "limit=1000&app_id="+queryEscape(app)) {
			if logged[e.ID] {
				t.Errorf("event %q of %s is in the log twice", e.ID, app)
			}
			logged[e.ID] = true
		}
		for key := range keys {
			if len(key) < 100 && !logged[key] { // not a content
				t.Errorf("event %q of %s was answered 200 and is not in the log", key, app)
			}
		}
		if int64(len(logged)) != events {
			t.Errorf("%d events of %s are in the log, want %d", len(logged), app, events)
		}
	}
	list := facts(t, p, func(list []fact) bool { e, _ := recorded(t, list); return int64(len(e)) >= all })
	_, times := recorded(t, list)
	if int64(len(times)) != all {
		t.Errorf("%d events are in facts, want %d", len(times), all)
	}
	for key, n := range times {
		if n != 1 {
			t.Errorf("event %q is in %d facts", key, n)
		}
	}
	return all
}

// Reporters that lose what a server refuses meet grout, which is killed under their
// posts and whose answers get lost: every good entry is counted exactly once, every
// bad one is reported in an answer 200, and no reporter loses anything.
func TestReferenceReporters(t *testing.T) {
	rounds := max(2, kills(t)/20)
	const each = 700 // entries of a client in a round
	eachPartitioning(t, func(t *testing.T, partitions int) {
		seed := uint64(time.Now().UnixNano())
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		f := newFront(t, p, seed, 0.15)
		books := &reportBooks{t: t, times: map[string]map[string]int{}, use: map[string]tokens{}}
		var clients []*batchClient
		var makers []*entryMaker
		for i := range 3 {
			clients = append(clients, startBatchClient(t, f.URL, books.judge))
			makers = append(makers, &entryMaker{
				name: fmt.Sprint("core-", i), apps: []string{"shop", "blog", "é/2", fmt.Sprint("own-", i)},
				rng: rand.New(rand.NewPCG(seed, uint64(i))), start: time.Now().UTC().Add(-time.Duration(i) * time.Hour).Truncate(time.Second),
			})
		}
		queued := 0
		for range rounds {
			queued += len(clients) * each
			var group sync.WaitGroup
			for i, c := range clients {
				group.Go(func() { feed(t, c, makers[i], each) })
			}
			p = f.killUnder(f.next(), p, 20*time.Millisecond, data, partitions)
			group.Wait()
		}
		taken := 0
		for i, c := range clients {
			eventually(t, "the queue of a reporter is empty, or was refused", func() bool { return c.empty() || c.refusals() > 0 })
			c.stop()
			taken += c.taken
			if len(c.dropped) != 0 || c.refused != 0 {
				t.Errorf("reporter %d lost %d entries after %d refusals", i, len(c.dropped), c.refused)
			}
			t.Logf("reporter %d: %d entries in %d posts, of which %d failed", i, c.taken, c.posts, c.tried)
		}
		if taken < queued {
			t.Errorf("%d entries were taken, at least %d were queued", taken, queued)
		}
		all := books.verify(p)
		stop(t, p)
		p = start(t, data, partitions)
		books.verify(p)
		stop(t, p)
		t.Logf("seed %d: %d kills, %d answers lost, %d requests refused on the way; %d entries: %d events counted, %d times a bad entry was reported",
			seed, rounds, f.lost.Load(), f.refused.Load(), taken, all, books.bad)
	})
}

// feed queues at least n entries as fast as the client keeps up.
func feed(t *testing.T, c *batchClient, m *entryMaker, n int) {
	limit := time.NewTimer(soonEnough)
	defer limit.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for made := 0; made < n; {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Errorf("the reporter takes no more after %d entries", made)
			return
		}
		for k := 0; k < 10 && c.keepsUp(); k++ {
			list := m.next()
			c.add(list...)
			made += len(list)
		}
	}
}

// The reporter of these tests does lose its newest entries to a server that refuses
// lists with a bad entry.
func TestRefusedReportersLose(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Events []map[string]any }
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		fmt.Fprintf(w, `{"accepted":%d,"failed":0,"errors":[]}`, len(body.Events))
	}))
	t.Cleanup(s.Close)
	c := startBatchClient(t, s.URL, func([]reportEntry, reportAnswer) {})
	good := reportEntry{text: json.RawMessage(`{}`)}
	c.add(good, reportEntry{text: json.RawMessage(`7`)})
	eventually(t, "the list is refused", func() bool { return !c.empty() && c.refusals() > 1 })
	for range clientQueue + 10 {
		c.add(good)
	}
	c.stop()
	if len(c.dropped) == 0 || c.taken != 0 {
		t.Errorf("%d entries lost, %d taken", len(c.dropped), c.taken)
	}
}
