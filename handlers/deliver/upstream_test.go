package deliver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"grout/schemas"
)

// platform counts what it takes, each event once, as a grout does.
type platform struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	order   []string // ids as they were first taken
	times   map[string]int
	posts   int
	largest int
	behave  func(w http.ResponseWriter, r *http.Request, ids []string) bool // true: it has answered
	refuses map[string]bool                                                 // ids that it takes the whole request for
	listed  map[string]bool                                                 // ids that it refuses by name
}

func newPlatform(t *testing.T) *platform {
	p := &platform{t: t, times: map[string]int{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var b schemas.ParsedBatch
	if err := schemas.ParseUsageReports(body, &b); err != nil || len(b.Rejected) > 0 {
		p.t.Errorf("what is reported is no report: %v %+v", err, b.Rejected)
	}
	if r.URL.Path != "/api/billing/usage-events" || r.Method != "POST" || r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Mozaiks-Service") != "core" ||
		r.Header.Get("Content-Type") != "application/json" {
		p.t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	var ids []string
	for i := range b.Events {
		ids = append(ids, strings.Clone(b.Events[i].EventID))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.posts++
	p.largest = max(p.largest, len(ids))
	if p.behave != nil && p.behave(w, r, ids) {
		return
	}
	if slices.ContainsFunc(ids, func(id string) bool { return p.refuses[id] }) {
		http.Error(w, `{"detail":"no"}`, http.StatusUnprocessableEntity)
		return
	}
	failed := []map[string]any{}
	for i, id := range ids {
		if p.listed[id] {
			failed = append(failed, map[string]any{"index": i, "event_id": id, "code": "conflict"})
		} else {
			p.take(id)
		}
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"accepted": len(ids) - len(failed), "failed": len(failed), "errors": failed})
}

func (p *platform) take(id string) {
	if p.times[id]++; p.times[id] == 1 {
		p.order = append(p.order, id)
	}
}

func (p *platform) taken() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.order)
}

func (p *platform) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func reporter(p *platform, change func(*UpstreamOptions)) *Upstream {
	o := UpstreamOptions{
		URL: p.URL + "/", Key: "secret", Batch: 10, Flush: 5 * time.Millisecond,
		RetryFirst: time.Millisecond, RetryMost: 5 * time.Millisecond, Look: time.Millisecond, MarkEvery: 5 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	return NewUpstream(o)
}

func ids(from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprintf("event-%03d", i))
	}
	return list
}

// begun knows upstream reporting from the first event on.
func begun() *memory {
	m := newMemory()
	m.stands[UpstreamName] = schemas.DeliveryStand{Name: UpstreamName, Source: schemas.DeliverEvents, Seq: 1}
	return m
}

// Whatever becomes of requests, and however often the reporter is killed, the Platform
// has every event once, in the order of the log.
func TestUpstreamTellsEverything(t *testing.T) {
	m, p := begun(), newPlatform(t)
	rng, moods := rand.New(rand.NewPCG(1, 2)), rand.New(rand.NewPCG(2, 3))
	p.behave = func(w http.ResponseWriter, r *http.Request, ids []string) bool {
		switch moods.IntN(9) {
		case 0:
			http.Error(w, "no", http.StatusServiceUnavailable)
		case 1:
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		case 2:
			_, _ = io.WriteString(w, "<html>sign in</html>") // somebody in between
		case 3:
			http.Error(w, "who are you", http.StatusUnauthorized)
		case 4:
			for _, id := range ids {
				p.take(id)
			}
			panic(http.ErrAbortHandler) // it has taken them, and the answer is lost
		case 5:
			for _, id := range ids[:len(ids)/2] {
				p.take(id)
			}
			http.Error(w, "half", http.StatusInternalServerError)
		default:
			return false
		}
		return true
	}
	n := 0
	for range 12 {
		r := run(func(ctx context.Context) error { return reporter(p, nil).Run(ctx, m, m) })
		for range 4 {
			more := rng.IntN(30)
			m.record(ids(n, n+more)...)
			n += more
		}
		at := rng.IntN(n + 1)
		eventually(t, "some are taken", func() bool { return len(p.taken()) >= at })
		r.kill(m)
	}
	u := reporter(p, nil)
	r := run(func(ctx context.Context) error { return u.Run(ctx, m, m) })
	eventually(t, "all are taken, and it knows it", func() bool { return len(p.taken()) == n && u.Status().State == StateIdle })
	r.stop()
	if got := p.taken(); !slices.Equal(got, ids(0, n)) {
		t.Errorf("taken in the order %v", got)
	}
	if d, _ := m.Stand(UpstreamName); d.Seq <= m.events[n-1].Seq || d.Index != 0 || p.largest > 10 {
		t.Errorf("it stands at %+v, the largest report had %d events", d, p.largest)
	}
}

// A Platform that is away takes nothing away: its events wait, and it is told of them all.
func TestUpstreamWaitsForThePlatform(t *testing.T) {
	m, p := begun(), newPlatform(t)
	away := true
	p.behave = func(w http.ResponseWriter, _ *http.Request, _ []string) bool {
		if away {
			w.Header().Set("Retry-After", "1000000")
			http.Error(w, "later", http.StatusServiceUnavailable)
		}
		return away
	}
	u := reporter(p, nil)
	r := run(func(ctx context.Context) error { return u.Run(ctx, m, m) })
	defer r.stop()
	m.record(ids(0, 25)...)
	eventually(t, "it fails again and again", func() bool { return u.Status().InARow > 20 })
	s := u.Status()
	if s.State != StateFailing || !strings.Contains(s.LastError, "503") || s.Oldest.IsZero() || s.Stand.Seq != 1 || s.NextTry.IsZero() {
		t.Errorf("%+v", s)
	}
	p.set(func() { away = false })
	eventually(t, "all are taken", func() bool { return len(p.taken()) == 25 && u.Status().State == StateIdle })
	if s := u.Status(); s.InARow != 0 || s.LastError != "" || s.Sent != 25 || !s.Oldest.IsZero() {
		t.Errorf("%+v", s)
	}
}

// What the Platform refuses for good is counted and not sent again: what its answer names,
// and what it refuses alone while it takes others. As long as it takes nothing, nothing is
// given up.
func TestUpstreamRefusals(t *testing.T) {
	m, p := begun(), newPlatform(t)
	p.listed = map[string]bool{"event-003": true, "event-011": true}
	p.refuses = map[string]bool{"event-005": true, "event-019": true, "event-020": true}
	u := reporter(p, nil)
	r := run(func(ctx context.Context) error { return u.Run(ctx, m, m) })
	m.record(ids(0, 20)...)
	eventually(t, "those that are good are taken", func() bool { return u.Status().Sent == 16 })
	if s := u.Status(); s.Refused != 4 || s.Stand.Refused != 4 || s.Stand.Delivered != 16 {
		t.Errorf("%+v", s)
	}
	posts := func() (n int) { p.set(func() { n = p.posts }); return n }
	m.record("event-020") // alone
	was := posts()
	eventually(t, "it is sent again and again", func() bool { return posts() > was+5 })
	if s := u.Status(); s.Refused != 4 || s.State != StateFailing {
		t.Errorf("given up without a proof that anything is taken: %+v", s)
	}
	m.record("event-021")
	eventually(t, "one beside it is taken", func() bool { return u.Status().Sent == 17 && u.Status().Refused == 5 })
	r.stop()
	p.set(func() {
		for id, n := range p.times {
			if n != 1 {
				t.Errorf("%s was taken %d times", id, n)
			}
		}
	})
}

// Events gather: a report goes when it is full, or when its first event has waited.
func TestUpstreamGathers(t *testing.T) {
	m, p := begun(), newPlatform(t)
	u := reporter(p, func(o *UpstreamOptions) { o.Flush, o.Batch = time.Hour, 5 })
	r := run(func(ctx context.Context) error { return u.Run(ctx, m, m) })
	m.record(ids(0, 4)...)
	eventually(t, "it knows of them", func() bool { return !u.Status().Oldest.IsZero() })
	if n := len(p.taken()); n != 0 {
		t.Errorf("%d are sent before there are five", n)
	}
	m.record(ids(4, 11)...)
	eventually(t, "two reports are taken", func() bool { return len(p.taken()) == 10 })
	r.stop()
	if p.posts != 2 || p.largest != 5 {
		t.Errorf("%d reports, the largest of %d", p.posts, p.largest)
	}
	r = run(func(ctx context.Context) error { return reporter(p, nil).Run(ctx, m, m) }) // gathers for 5 ms
	eventually(t, "the last one is taken", func() bool { return len(p.taken()) == 11 })
	r.stop()
}

// A log that takes no marks holds nothing up; once it does, the place is in it.
func TestUpstreamWithoutMarks(t *testing.T) {
	m, p := begun(), newPlatform(t)
	m.fails = true
	r := run(func(ctx context.Context) error { return reporter(p, nil).Run(ctx, m, m) })
	m.record(ids(0, 30)...)
	eventually(t, "all are taken", func() bool { return len(p.taken()) == 30 })
	m.mu.Lock()
	m.fails = false
	m.mu.Unlock()
	m.record("one-more")
	eventually(t, "the place is marked", func() bool { d, _ := m.Stand(UpstreamName); return d.Delivered == 31 })
	r.stop()
}

// A gap that the log has noted is told once.
func TestUpstreamGap(t *testing.T) {
	m, p := begun(), newPlatform(t)
	var mu sync.Mutex
	var alarms []schemas.Alarm
	u := reporter(p, func(o *UpstreamOptions) {
		o.Partition = 3
		o.Alarm = func(a schemas.Alarm) { mu.Lock(); defer mu.Unlock(); alarms = append(alarms, a) }
	})
	r := run(func(ctx context.Context) error { return u.Run(ctx, m, m) })
	m.record(ids(0, 3)...)
	eventually(t, "they are taken", func() bool { return len(p.taken()) == 3 })
	m.mu.Lock()
	d := m.stands[UpstreamName]
	d.Gaps, d.Gap = 1, schemas.DeliveryGap{From: 1, To: 9}
	m.stands[UpstreamName] = d
	m.mu.Unlock()
	m.record(ids(3, 6)...)
	eventually(t, "it is told", func() bool { mu.Lock(); defer mu.Unlock(); return len(alarms) == 1 })
	r.stop()
	if a := alarms[0]; a.Name != "UPSTREAM_GAP" || a.Partition != 3 || !strings.Contains(a.Detail, "places 1 to 9") || u.Status().Stand.Gaps != 1 {
		t.Errorf("%+v", a)
	}
}

// A chat that both deltas and summaries speak of is reported by what was booked.
func TestReportsOfSummaries(t *testing.T) {
	covered := schemas.UsageEvent{EventID: "d", AppID: "a", UserID: "u", Model: "m", InputTokens: 5, OutputTokens: 5, TotalTokens: 10, Counted: &schemas.UsageSums{Events: 1}}
	summary := schemas.UsageEvent{
		EventID: "s", AppID: "a", UserID: "u", Model: "m", InputTokens: 50, OutputTokens: 50, TotalTokens: 100, Summary: true,
		Counted: &schemas.UsageSums{InputTokens: 20, OutputTokens: 30, TotalTokens: 40, Cost: schemas.AmountOf(1_500_000_000)},
	}
	nothing := schemas.UsageEvent{Summary: true, Counted: &schemas.UsageSums{}}
	if !covered.Reported() || !summary.Reported() || nothing.Reported() {
		t.Error("what is reported is not what was booked")
	}
	for _, c := range []struct {
		event                *schemas.UsageEvent
		input, output, total int64
		cost                 int64
	}{{&covered, 0, 0, 0, 0}, {&summary, 20, 30, 50, 1_500_000_000}} {
		c.event.Timestamp = time.Now().UnixNano()
		var b schemas.ParsedBatch
		body := append(schemas.AppendUsageReport([]byte(`{"events":[`), c.event), `]}`...)
		if err := schemas.ParseUsageReports(body, &b); err != nil || len(b.Events) != 1 {
			t.Fatalf("%v %+v in %s", err, b.Rejected, body)
		}
		if e := b.Events[0]; e.InputTokens != c.input || e.OutputTokens != c.output || e.TotalTokens != c.total || e.Cost != c.cost || e.EventID != c.event.EventID {
			t.Errorf("%s", body)
		}
	}
}
