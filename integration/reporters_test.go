package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"grout/integration/process"
)

const (
	reporterCount = 4
	reporterApps  = 8
	reporterPace  = 20 * time.Millisecond // between two batches of one reporter
	readyPace     = 5 * time.Millisecond

	// waitLimit is how long the process under test lets a request wait, and
	// answerLimit how long it may take to answer one, come what may.
	waitLimit   = 2 * time.Second
	answerLimit = waitLimit + 2*time.Second
)

// reporters send usage to one process without a pause, whatever becomes of its
// disk, and remember what they were answered. A batch that was not answered 2xx is
// sent again until it is; one that was is never sent again, so that an answer which
// was not true shows as an event that is missing.
type reporters struct {
	t      *testing.T
	p      *process.Process
	client *http.Client
	group  sync.WaitGroup
	quit   chan struct{}

	mu      sync.Mutex
	sent    map[string]map[string]bool // app → ids that were answered 2xx
	counted map[string]int64           // app → events answered 200
	now     spell                      // since the last call of turn
}

// spell is what was seen in a stretch of time.
type spell struct {
	answered, accepted, refused int           // 200, 202 and 503
	red, green                  int           // answers of /ready
	slowest                     time.Duration // answer to a report
	reason                      string        // last one of /ready
	refusal                     string        // the last one
	since                       time.Time
}

func report(t *testing.T, p *process.Process, seed uint64) *reporters {
	r := &reporters{
		t: t, p: p, quit: make(chan struct{}), sent: map[string]map[string]bool{}, counted: map[string]int64{},
		client: &http.Client{Timeout: 3 * answerLimit, Transport: &http.Transport{MaxIdleConnsPerHost: 2 * reporterCount}},
	}
	t.Cleanup(r.client.CloseIdleConnections)
	for n := range reporterCount {
		r.group.Go(func() { r.send(n, rand.New(rand.NewPCG(seed, uint64(n)))) })
	}
	r.group.Go(r.watchEnd)
	r.group.Go(r.watchReady)
	r.group.Go(r.watchUsage)
	t.Cleanup(r.finish)
	return r
}

// finish lets every batch under way be answered, and ends.
func (r *reporters) finish() {
	select {
	case <-r.quit:
	default:
		close(r.quit)
	}
	r.group.Wait()
}

// turn gives what was seen since it was called last.
func (r *reporters) turn() spell {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.now
	r.now = spell{since: time.Now()}
	return s
}

func (r *reporters) seen() spell {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

// wait waits, and reports whether the reporters go on.
func (r *reporters) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.quit:
	case <-r.p.Ended():
	}
	return false
}

func (r *reporters) alive() bool {
	select {
	case <-r.p.Ended():
		return false
	default:
		return true
	}
}

// batch is a batch of events of several apps, as sent, and their ids.
type batch struct {
	body []byte
	ids  map[string][]string // app → ids
	n    int
}

func makeBatch(name string, rng *rand.Rand) batch {
	b := batch{ids: map[string][]string{}}
	var events []map[string]any
	for range 1 + rng.IntN(3) {
		app := fmt.Sprint("disk-", rng.IntN(reporterApps))
		list := someEvents(app, fmt.Sprintf("%s-%d", name, len(events)), 1+rng.IntN(4))
		for _, e := range list {
			b.ids[app] = append(b.ids[app], e["event_id"].(string))
		}
		events = append(events, list...)
	}
	b.n = len(events)
	doc := map[string]any{"events": events}
	if rng.IntN(2) == 0 {
		doc["batch_id"] = name
	}
	b.body, _ = json.Marshal(doc)
	return b
}

func (r *reporters) send(n int, rng *rand.Rand) {
	for serial := 0; r.wait(reporterPace); serial++ {
		b := makeBatch(fmt.Sprintf("r%d-%d", n, serial), rng)
		for tries := 1; !r.post(&b, tries) && r.alive(); tries++ {
			select {
			case <-time.After(reporterPace):
			case <-r.p.Ended():
			}
		}
	}
}

// post sends a batch once and reports whether it was answered 2xx.
func (r *reporters) post(b *batch, tries int) bool {
	began := time.Now()
	status, header, body, err := r.do("POST", "/api/usage/ingest", b.body)
	took := time.Since(began)
	if err != nil {
		if r.alive() {
			r.t.Errorf("a report was not answered at all: %v", err)
		}
		return false
	}
	if took > answerLimit {
		r.t.Errorf("a report was answered %d after %s", status, took.Round(time.Millisecond))
	}
	if status == http.StatusOK {
		var got result
		if err := json.Unmarshal(body, &got); err != nil || got.Accepted+got.Duplicates != b.n || tries == 1 && got.Accepted != b.n {
			r.t.Errorf("a batch of %d events, sent for the %d. time, is answered %.500s (%v)", b.n, tries, body, err)
		}
	}
	if status == http.StatusServiceUnavailable && header.Get("Retry-After") == "" {
		r.t.Errorf("an answer 503 without Retry-After: %.300s", body)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.now
	s.slowest = max(s.slowest, took)
	switch status {
	case http.StatusOK:
		s.answered++
	case http.StatusAccepted:
		s.accepted++
	case http.StatusServiceUnavailable:
		if began.After(s.since) { // or it is the echo of an earlier fault
			s.refused++
			s.refusal = fmt.Sprintf("after %s: %.200s", took.Round(time.Millisecond), body)
		}
		return false
	default:
		r.t.Errorf("a report is answered %d: %.300s", status, body)
		return false
	}
	for app, ids := range b.ids {
		if r.sent[app] == nil {
			r.sent[app] = map[string]bool{}
		}
		for _, id := range ids {
			r.sent[app][id] = true
		}
		if status == http.StatusOK {
			r.counted[app] += int64(len(ids))
		}
	}
	return true
}

func (r *reporters) do(method, path string, body []byte) (int, http.Header, []byte, error) {
	req, err := http.NewRequest(method, r.p.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		documents.Check(r.t, req, resp, text)
	}
	return resp.StatusCode, resp.Header, text, err
}

// watchEnd tells why the process ended, which it may not do while it is watched.
func (r *reporters) watchEnd() {
	select {
	case <-r.quit:
	case <-r.p.Ended():
		r.t.Errorf("the process ended by itself (signal: %v):\n%s", r.p.Signal(), r.p.Log())
	}
}

// watchReady asks all along whether the process is ready. It always answers at
// once, and says why when it is not.
func (r *reporters) watchReady() {
	for r.wait(readyPace) {
		began := time.Now()
		status, _, body, err := r.do("GET", "/ready", nil)
		if err != nil {
			if r.alive() {
				r.t.Errorf("/ready does not answer: %v", err)
			}
			continue
		}
		if took := time.Since(began); took > time.Second {
			r.t.Errorf("/ready took %s", took)
		}
		var state struct{ Status, Reason string }
		_ = json.Unmarshal(body, &state)
		if status != http.StatusOK && (status != http.StatusServiceUnavailable || state.Reason == "") {
			r.t.Errorf("/ready is answered %d: %.300s", status, body)
		}
		r.mu.Lock()
		if status == http.StatusOK {
			r.now.green++
		} else {
			r.now.red++
			r.now.reason = state.Reason
		}
		r.mu.Unlock()
	}
}

// watchUsage checks all along that what was answered 200 is in the sums.
func (r *reporters) watchUsage() {
	for n := 0; r.wait(reporterPace); n++ {
		app := fmt.Sprint("disk-", n%reporterApps)
		r.mu.Lock()
		floor := r.counted[app]
		r.mu.Unlock()
		status, _, body, err := r.do("GET", "/api/usage?app_id="+app, nil)
		if err != nil || status == http.StatusServiceUnavailable {
			continue
		}
		var sums struct{ Totals hourRow }
		if err := json.Unmarshal(body, &sums); err != nil || status != http.StatusOK {
			r.t.Errorf("usage is answered %d: %.300s (%v)", status, body, err)
		}
		if sums.Totals.Events < floor {
			r.t.Errorf("app %s shows %d events after %d were answered 200", app, sums.Totals.Events, floor)
		}
	}
}

// verify compares sums, single events and facts with what was answered 2xx, and
// gives the number of events, and of those for which the answer was false. Nothing
// may be missing, and nothing be there twice.
func (r *reporters) verify() (all, untrue int) {
	t := r.t
	r.finish()
	for _, ids := range r.sent {
		all += len(ids)
	}
	list := facts(t, r.p, func(list []fact) bool { e, _ := recorded(t, list); return len(e) >= all || !r.alive() })
	_, times := recorded(t, list)
	if len(times) != all {
		t.Errorf("%d events are in facts, %d were answered 2xx", len(times), all)
	}
	for key, n := range times {
		if n != 1 {
			t.Errorf("event %q is in %d facts", key, n)
		}
	}
	last := map[string]uint64{}
	for _, f := range list {
		n, _ := strconv.ParseUint(f.Sequence, 10, 64)
		if n != last[f.App]+1 {
			t.Errorf("app %q: fact %d follows %d", f.App, n, last[f.App])
		}
		last[f.App] = n
	}
	for app, ids := range r.sent {
		if sums := totals(t, r.p, app); sums.Events != int64(len(ids)) || sums.InputTokens != 10*sums.Events || sums.OutputTokens != sums.Events {
			t.Errorf("app %s counts %+v, %d events were answered 2xx", app, sums, len(ids))
		}
		logged := map[string]bool{}
		for _, e := range walk(t, r.p, "limit=1000&app_id="+app) {
			if logged[e.ID] {
				t.Errorf("event %q is in the log twice", e.ID)
			}
			logged[e.ID] = true
		}
		for id := range ids {
			if !logged[id] || times[app+"\x00"+id] == 0 {
				untrue++
				t.Errorf("event %q of app %s was answered 2xx; in the log: %t, in facts: %d", id, app, logged[id], times[app+"\x00"+id])
			}
		}
		if len(logged) != len(ids) {
			t.Errorf("app %s has %d events in the log, %d were answered 2xx", app, len(logged), len(ids))
		}
	}
	return all, untrue
}
