package deliver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"grout/schemas"
)

const testSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func testKeys(t testing.TB, texts ...string) func() ([]Key, error) {
	var keys []Key
	for _, text := range texts {
		key, err := ParseSecret(text)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return func() ([]Key, error) { return keys, nil }
}

// endpoint verifies and keeps what it is sent, each once.
type endpoint struct {
	*httptest.Server
	t *testing.T

	mu     sync.Mutex
	got    map[string][]string // ids as they were first taken, by app
	times  map[string]int
	posts  int
	behave func(w http.ResponseWriter, r *http.Request, id string) bool
}

func newEndpoint(t *testing.T) *endpoint {
	e := &endpoint{t: t, got: map[string][]string{}, times: map[string]int{}}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	verifier, err := standardwebhooks.NewWebhook(testSecret)
	if err == nil {
		err = verifier.Verify(body, r.Header)
	}
	var fact struct {
		ID  string
		App string `json:"partitionkey"`
	}
	err = errors.Join(err, json.Unmarshal(body, &fact))
	id := r.Header.Get("webhook-id")
	if err != nil || strings.ReplaceAll(fact.ID, ".", "_") != id || strings.Contains(id, ".") || r.Header.Get("Content-Type") != "application/cloudevents+json" {
		e.t.Errorf("%v: %v %s", err, r.Header, body)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.posts++
	if e.behave != nil && e.behave(w, r, fact.ID) {
		return
	}
	e.take(fact.App, fact.ID)
	w.WriteHeader(http.StatusNoContent)
}

func (e *endpoint) take(app, id string) {
	if e.times[id]++; e.times[id] == 1 {
		e.got[app] = append(e.got[app], id)
	}
}

// appOf reads the app of an id that memory made.
func appOf(id string) string {
	name := strings.TrimPrefix(id, "FACT")
	return name[:strings.Index(name, "|")]
}

func (e *endpoint) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *endpoint) of(app string) (list []string) {
	e.set(func() { list = slices.Clone(e.got[app]) })
	return list
}

func hook(t testing.TB, url string, change func(*WebhookOptions)) *Webhook {
	o := WebhookOptions{
		Name: "crm", URL: url, Keys: testKeys(t, testSecret), Targets: Targets{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: testLimit,
		RetryFirst: time.Millisecond, RetryMost: 5 * time.Millisecond, Look: time.Millisecond, MarkEvery: 5 * time.Millisecond,
	}
	if change != nil {
		change(&o)
	}
	return NewWebhook(o)
}

func (m *memory) run(w *Webhook) *runner {
	created, _, last, _ := m.State(context.Background())
	return run(func(ctx context.Context) error { return w.Run(ctx, m, m, created, last) })
}

// Whatever becomes of requests, and however often the sender is killed, the endpoint has
// every fact that the webhook is for once, those of an app in their order.
func TestWebhookSendsEverything(t *testing.T) {
	m, e := newMemory(), newEndpoint(t)
	m.tell("a", "usage.recorded") // before it was configured
	rng, moods := rand.New(rand.NewPCG(3, 4)), rand.New(rand.NewPCG(4, 5))
	var asides sync.Map
	aside := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asides.Store(r.URL.Path, true) }))
	defer aside.Close()
	e.behave = func(w http.ResponseWriter, r *http.Request, id string) bool {
		switch moods.IntN(9) {
		case 0:
			http.Error(w, "no", http.StatusServiceUnavailable)
		case 1:
			http.Redirect(w, r, aside.URL, http.StatusPermanentRedirect)
		case 2:
			http.Error(w, "what?", http.StatusBadRequest)
		case 3:
			panic(http.ErrAbortHandler)
		case 4:
			e.take(appOf(id), id)
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20)) // it is taken, and says too much
		default:
			return false
		}
		return true
	}
	w := hook(t, e.URL, nil)
	r := m.run(w)
	eventually(t, "it has begun", func() bool { d, _ := m.Stand("webhook.crm"); return d != nil })
	want := map[string][]string{}
	for range 10 {
		for range 25 {
			app, kind := fmt.Sprint("app-", rng.IntN(4)), []string{"usage.recorded", "orchestration.run_started", "budget.exceeded"}[rng.IntN(3)]
			if id := m.tell(app, kind); kind != "budget.exceeded" && app != "app-3" {
				want[app] = append(want[app], id)
			}
		}
		w = hook(t, e.URL, func(o *WebhookOptions) {
			o.Kinds, o.Apps = []string{"usage.*", "*.run_*"}, []string{"app-0", "app-1", "app-2"}
		})
		r.kill(m)
		r = m.run(w)
		some := rng.IntN(len(want["app-1"]))
		eventually(t, "some are taken", func() bool { return len(e.of("app-1")) >= some })
	}
	for app, list := range want {
		eventually(t, "all are taken", func() bool { return len(e.of(app)) == len(list) })
		if got := e.of(app); !slices.Equal(got, list) {
			t.Errorf("%s: %v, not %v", app, got, list)
		}
	}
	eventually(t, "it rests", func() bool { return w.Status().State == StateIdle })
	r.stop()
	if len(e.got) != 3 {
		t.Errorf("facts of %d apps were sent", len(e.got))
	}
	asides.Range(func(path, _ any) bool { t.Errorf("a redirect was followed to %v", path); return true })
	if d, _ := m.Stand("webhook.crm"); d.Seq != m.last+1 || d.Delivered < uint64(len(want["app-0"])) {
		t.Errorf("it stands at %+v behind %d", d, m.last)
	}
}

// 410 stops a webhook, across restarts, until somebody resumes it; nothing is left out.
func TestWebhookGone(t *testing.T) {
	m, e := newMemory(), newEndpoint(t)
	gone := true
	e.behave = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		if gone {
			w.WriteHeader(http.StatusGone)
		}
		return gone
	}
	w := hook(t, e.URL, nil)
	r := m.run(w)
	eventually(t, "it has begun", func() bool { d, _ := m.Stand("webhook.crm"); return d != nil })
	want := []string{m.tell("a", "usage.recorded"), m.tell("a", "usage.recorded")}
	eventually(t, "it is stopped in the log", func() bool {
		d, _ := m.Stand("webhook.crm")
		return d.Stopped != "" && w.Status().State == StateStopped
	})
	r.kill(m)
	w = hook(t, e.URL, nil)
	r = m.run(w)
	eventually(t, "it is stopped again", func() bool { return w.Status().State == StateStopped })
	e.set(func() { gone = false })
	want = append(want, m.tell("a", "usage.recorded"))
	if n := len(e.of("a")); n != 0 || e.posts != 1 {
		t.Errorf("%d taken of %d posts while it was stopped", n, e.posts)
	}
	if err := w.Resume(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are taken", func() bool { return len(e.of("a")) == 3 })
	if got := e.of("a"); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	r.stop()
	if d, _ := m.Stand("webhook.crm"); d.Stopped != "" {
		t.Errorf("%+v", d)
	}
}

// A fact that an endpoint never takes holds up what comes behind it, until somebody passes
// over it by name.
func TestWebhookSkip(t *testing.T) {
	m, e := newMemory(), newEndpoint(t)
	var poison string
	e.behave = func(w http.ResponseWriter, _ *http.Request, id string) bool {
		if id == poison {
			http.Error(w, "I cannot read this", http.StatusBadRequest)
		}
		return id == poison
	}
	w := hook(t, e.URL, nil)
	r := m.run(w)
	eventually(t, "it has begun", func() bool { d, _ := m.Stand("webhook.crm"); return d != nil })
	e.set(func() { poison = m.tell("a", "usage.recorded") })
	behind := m.tell("a", "usage.recorded")
	beside := m.tell("b", "usage.recorded")
	eventually(t, "it fails again and again, and another app's is taken", func() bool { return w.Status().Failures > 5 && len(e.of("b")) == 1 })
	if s := w.Status(); len(e.of("a")) != 0 || !strings.Contains(s.LastError, "I cannot read this") || s.Oldest.IsZero() {
		t.Errorf("%+v", s)
	}
	if err := w.Resume(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the next one is taken", func() bool { return slices.Equal(e.of("a"), []string{behind}) })
	eventually(t, "it rests", func() bool { return w.Status().State == StateIdle })
	if got := e.of("b"); !slices.Equal(got, []string{beside}) || e.times[beside] != 1 || w.Status().Stand.Refused != 1 {
		t.Errorf("%v, %+v", e.times, w.Status())
	}
	if err := w.Resume(t.Context(), true); err == nil {
		t.Error("nothing waits, and it was passed over")
	}
	r.stop()
}

// What expired while an endpoint was away is a gap with a name in the log, the status and
// an alarm.
func TestWebhookGap(t *testing.T) {
	m, e := newMemory(), newEndpoint(t)
	away := true
	e.behave = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		if away {
			http.Error(w, "no", http.StatusBadGateway)
		}
		return away
	}
	var mu sync.Mutex
	var alarms []schemas.Alarm
	w := hook(t, e.URL, func(o *WebhookOptions) {
		o.Alarm = func(a schemas.Alarm) { mu.Lock(); defer mu.Unlock(); alarms = append(alarms, a) }
	})
	r := m.run(w)
	defer r.stop()
	eventually(t, "it has begun", func() bool { d, _ := m.Stand("webhook.crm"); return d != nil })
	for range 10 {
		m.tell("a", "usage.recorded")
	}
	eventually(t, "it fails", func() bool { return w.Status().InARow > 3 })
	m.expire(7)
	e.set(func() { away = false })
	eventually(t, "the rest is taken", func() bool { return len(e.of("a")) == 4 })
	eventually(t, "the log knows the gap", func() bool { d, _ := m.Stand("webhook.crm"); return d.Gaps == 1 && d.Gap.From == 1 && d.Gap.To == 6 })
	mu.Lock()
	defer mu.Unlock()
	if len(alarms) != 1 || alarms[0].Name != "WEBHOOK_GAP" || !strings.Contains(alarms[0].Detail, "1 to 6") || w.Status().Stand.Gaps != 1 {
		t.Errorf("%+v", alarms)
	}
}

// Facts that expire between two looks at the stream, while an endpoint takes what it is
// sent, are a gap, too.
func TestWebhookGapBetweenLooks(t *testing.T) {
	m, e := newMemory(), newEndpoint(t)
	first := true
	e.behave = func(http.ResponseWriter, *http.Request, string) bool {
		if first { // while the first page is on its way, all that follows comes and goes
			first = false
			for range 5 {
				m.tell("a", "usage.recorded")
			}
			m.expire(5)
		}
		return false
	}
	w := hook(t, e.URL, nil)
	r := m.run(w)
	defer r.stop()
	eventually(t, "it has begun", func() bool { d, _ := m.Stand("webhook.crm"); return d != nil })
	m.tell("a", "usage.recorded")
	eventually(t, "the rest is taken", func() bool { return len(e.of("a")) == 3 })
	eventually(t, "the log knows the gap", func() bool { d, _ := m.Stand("webhook.crm"); return d.Gaps == 1 && d.Gap.From == 2 && d.Gap.To == 4 })
}

// A stream that was made anew is read from its beginning, and one that lost its end from
// where it ended: what is published again may stand anywhere behind.
func TestWebhookFollowsItsStream(t *testing.T) {
	m, e := newMemory(), newEndpoint(t)
	w := hook(t, e.URL, nil)
	r := m.run(w)
	eventually(t, "it has begun", func() bool { d, _ := m.Stand("webhook.crm"); return d != nil })
	for range 5 {
		m.tell("a", "usage.recorded")
	}
	eventually(t, "they are taken", func() bool { return len(e.of("a")) == 5 })
	r.stop()
	m.mu.Lock()
	m.facts, m.last = m.facts[:2], 2
	m.mu.Unlock()
	r = m.run(hook(t, e.URL, nil))
	var again string
	for range 3 {
		again = m.tell("b", "usage.recorded")
	}
	eventually(t, "what comes behind the end is taken", func() bool { return slices.Contains(e.of("b"), again) && len(e.of("b")) == 3 })
	r.stop()
	m.mu.Lock()
	m.facts, m.last, m.created = nil, 0, 2
	m.mu.Unlock()
	w = hook(t, e.URL, nil)
	r = m.run(w)
	m.tell("c", "usage.recorded")
	eventually(t, "the new stream is read", func() bool { return len(e.of("c")) == 1 && w.Status().Sent == 1 })
	r.stop()
	if d, _ := m.Stand("webhook.crm"); d.Stream != 2 || d.Seq != 2 {
		t.Errorf("%+v", d)
	}
}

// An endpoint that hangs costs its own webhook its time limit, and others nothing.
func TestWebhooksDoNotWaitForEachOther(t *testing.T) {
	m, e, dead := newMemory(), newEndpoint(t), newEndpoint(t)
	hang := make(chan struct{})
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	defer stuck.Close()
	defer close(hang)
	slow := hook(t, stuck.URL, func(o *WebhookOptions) { o.Name, o.Timeout = "slow", 30*time.Millisecond })
	url := dead.URL
	dead.Close()
	gone := hook(t, url, func(o *WebhookOptions) { o.Name = "dead" })
	quick := hook(t, e.URL, func(o *WebhookOptions) { o.Name = "quick" })
	for _, w := range []*Webhook{slow, gone, quick} {
		r := m.run(w)
		defer r.stop()
		eventually(t, "it has begun", func() bool { d, _ := m.Stand(w.DeliveryName()); return d != nil })
	}
	for n := range 200 {
		m.tell(fmt.Sprint("app-", n%3), "usage.recorded")
	}
	eventually(t, "the quick one has them all", func() bool { return quick.Status().Sent == 200 })
	eventually(t, "the others fail and say why", func() bool {
		return strings.Contains(slow.Status().LastError, "Client.Timeout") || strings.Contains(slow.Status().LastError, "deadline") || strings.Contains(slow.Status().LastError, "timeout")
	})
	eventually(t, "the dead one fails", func() bool { return strings.Contains(gone.Status().LastError, "refused") })
	if s := slow.Status(); s.Sent != 0 || s.Stand.Seq != 1 {
		t.Errorf("%+v", s)
	}
}

// A disabled webhook sends nothing; a test does, once, and says what came of it.
func TestWebhookTest(t *testing.T) {
	m, e := newMemory(), newEndpoint(t)
	w := hook(t, e.URL, func(o *WebhookOptions) { o.Disabled = true })
	r := m.run(w)
	m.tell("a", "usage.recorded")
	if got := w.Test(t.Context(), "test-1.2"); got.Error != "" || got.ID != "test-1_2" {
		t.Errorf("%+v", got)
	}
	r.stop()
	if e.posts != 1 || w.Status().Sent != 0 || len(m.stands) != 0 {
		t.Errorf("%d posts, %+v", e.posts, m.stands)
	}
	e.behave = func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		http.Error(w, "bad\x1b[31m secret", http.StatusTeapot)
		return true
	}
	if got := w.Test(t.Context(), "test-2"); !strings.Contains(got.Error, "418") || strings.Contains(got.Error, "\x1b") {
		t.Errorf("%+v", got)
	}
}

// Neither secrets nor what an address holds beside its path get into logs and errors.
func TestWebhookKeepsSecrets(t *testing.T) {
	var log lockedBuffer
	m := newMemory()
	w := hook(t, "http://127.0.0.1:1/path?token=hush", func(o *WebhookOptions) {
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	r := m.run(w)
	eventually(t, "it has begun", func() bool { d, _ := m.Stand("webhook.crm"); return d != nil })
	m.tell("a", "usage.recorded")
	eventually(t, "it fails", func() bool { return w.Status().InARow > 2 })
	r.stop()
	keys, _ := w.Options().Keys()
	text := log.String() + w.Status().LastError + fmt.Sprintf("%v %+v %#v %s", keys, keys, keys, keys)
	if b, _ := json.Marshal(keys); strings.Contains(string(b), "MfKQ") {
		t.Errorf("%s", b)
	}
	if strings.Contains(text, "hush") || strings.Contains(text, "MfKQ") || strings.Contains(text, string(keys[0])) || !strings.Contains(text, "webhook=crm") {
		t.Error(text)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
