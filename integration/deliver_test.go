package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"grout/integration/process"
	"grout/schemas"
)

const deliverLimit = 60 * time.Second

// soon polls until something holds.
func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(deliverLimit); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
	}
}

// away is a receiver that can be away, in one of several ways.
type away struct {
	mu   sync.Mutex
	away bool
	n    int
}

// answers tells whether the receiver is there; when it is not, it has answered in its way.
func (a *away) answers(w http.ResponseWriter, r *http.Request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.away {
		return true
	}
	a.n++
	switch a.n % 4 {
	case 0:
		panic(http.ErrAbortHandler)
	case 1:
		w.WriteHeader(http.StatusServiceUnavailable)
	case 2:
		http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
	default:
		w.WriteHeader(http.StatusTooManyRequests)
	}
	return false
}

func (a *away) be(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
}

// platformSink is a Platform that counts each event once.
type platformSink struct {
	away
	*httptest.Server
	seen   map[string]int // app and id
	inputs int64
}

func newPlatformSink(t *testing.T) *platformSink {
	p := &platformSink{seen: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !p.answers(w, r) {
			return
		}
		var b schemas.ParsedBatch
		if fault := schemas.ParseUsageReports(body, &b); fault != nil || len(b.Rejected) > 0 || r.Header.Get("Authorization") != "Bearer platform-key" {
			t.Errorf("%v %+v %v", fault, b.Rejected, r.Header)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range b.Events {
			key := b.Events[i].AppID + " " + b.Events[i].EventID
			if p.seen[key]++; p.seen[key] == 1 {
				p.inputs += b.Events[i].InputTokens
			}
		}
		fmt.Fprintf(w, `{"accepted":%d,"failed":0,"errors":[]}`, len(b.Events))
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *platformSink) counted() (events int, inputs int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.seen), p.inputs
}

// hookSink verifies facts and keeps each once.
type hookSink struct {
	away
	*httptest.Server
	ids    map[string]bool
	order  map[string][]int // sequences by app
	events map[string]bool  // of usage.recorded
	kinds  map[string]int
}

const hookSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"

func newHookSink(t *testing.T) *hookSink {
	h := &hookSink{ids: map[string]bool{}, order: map[string][]int{}, events: map[string]bool{}, kinds: map[string]int{}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !h.answers(w, r) {
			return
		}
		verifier, err := standardwebhooks.NewWebhook(hookSecret)
		var f struct {
			ID, Type, Sequence string
			App                string `json:"partitionkey"`
			Data               struct {
				Events []struct {
					ID string `json:"event_id"`
				}
			}
		}
		err = errors.Join(err, verifier.Verify(body, r.Header), json.Unmarshal(body, &f))
		n, err2 := strconv.Atoi(f.Sequence)
		if err = errors.Join(err, err2); err != nil {
			t.Errorf("%v in %.200s", err, body)
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.ids[r.Header.Get("webhook-id")] {
			return
		}
		h.ids[r.Header.Get("webhook-id")] = true
		h.order[f.App] = append(h.order[f.App], n)
		h.kinds[f.Type]++
		for _, e := range f.Data.Events {
			h.events[f.App+" "+e.ID] = true
		}
	}))
	t.Cleanup(h.Close)
	return h
}

func writeSettings(t *testing.T, data, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(data), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(data), "grout.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// While Platform and endpoints are away, for what is an hour of tries, grout takes usage
// and is killed again and again. When they come back each has everything once, the facts
// of an app in their order.
func TestDeliveriesSurviveAnHourAwayAndKills(t *testing.T) {
	rounds := 4
	if text := os.Getenv("GROUT_DELIVER_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	eachPartitioning(t, func(t *testing.T, partitions int) {
		platform, hook, gone := newPlatformSink(t), newHookSink(t), httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }))
		defer gone.Close()
		data := filepath.Join(t.TempDir(), "data")
		secrets := filepath.Join(filepath.Dir(data), "hook.secrets")
		writeSettings(t, data, fmt.Sprintf(`webhooks:
  - name: all
    url: %s
    secret_files: [%s]
  - name: gone
    url: %s
    secrets: [%s]
    kinds: ["usage.*"]
`, hook.URL+"/in?token=hush", secrets, gone.URL, hookSecret))
		if err := os.WriteFile(secrets, []byte("# rotates\n"+hookSecret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		env := []string{
			"MOZAIKS_PLATFORM_URL=" + platform.URL, "MOZAIKS_PLATFORM_API_KEY=platform-key", "MOZAIKS_USAGE_BATCH_SIZE=50", "MOZAIKS_USAGE_FLUSH_INTERVAL=0.05",
			"MOZAIKS_USAGE_RETRY_MAX=20ms", "MOZAIKS_WEBHOOK_RETRY_MAX=20ms", "MOZAIKS_WEBHOOK_ALLOWED_NETWORKS=127.0.0.0/8",
		}
		rng := rand.New(rand.NewPCG(7, uint64(partitions)))
		accepted, inputs := map[string]bool{}, int64(0)
		serial := 0
		send := func(p *process.Process) {
			var events []map[string]any
			for range 1 + rng.IntN(60) {
				serial++
				n := rng.IntN(1000)
				events = append(events, map[string]any{
					"event_id": fmt.Sprint("e-", serial), "timestamp": time.Now().UTC().Format(time.RFC3339Nano), "app_id": fmt.Sprint("app-", rng.IntN(5)),
					"user_id": "ann", "model": "m", "input_tokens": n, "output_tokens": 1,
				})
				inputs += int64(n)
			}
			request(t, p, "POST", "/api/usage/ingest", map[string]any{"batch_id": fmt.Sprint("b-", serial), "events": events}).want(t, 200)
			for _, e := range events {
				accepted[fmt.Sprint(e["app_id"], " ", e["event_id"])] = true
			}
		}
		for round := range rounds {
			p := start(t, data, partitions, env...)
			out := round%2 == 0
			platform.be(out)
			hook.be(out)
			for range 6 {
				send(p)
			}
			if out {
				soon(t, "tries fail, and grout is ready all the same", func() bool {
					var ready struct{ Deliveries []schemas.DeliveryTrouble }
					request(t, p, "GET", "/ready", nil).want(t, 200).into(t, &ready)
					return slices.ContainsFunc(ready.Deliveries, func(d schemas.DeliveryTrouble) bool { return d.Name == "webhook.all" && d.State == "failing" }) &&
						slices.ContainsFunc(ready.Deliveries, func(d schemas.DeliveryTrouble) bool { return strings.HasPrefix(d.Name, "upstream") }) &&
						slices.ContainsFunc(ready.Deliveries, func(d schemas.DeliveryTrouble) bool { return d.Name == "webhook.gone" && d.State == "stopped" })
				})
			} else {
				some := rng.IntN(len(accepted))
				soon(t, "some has arrived", func() bool { n, _ := platform.counted(); return n >= some })
			}
			p.Kill()
			if round == 1 { // a store that is lost comes back, places included
				if err := os.RemoveAll(filepath.Join(data, "store")); err != nil {
					t.Fatal(err)
				}
			}
		}
		platform.be(false)
		hook.be(false)
		p := start(t, data, partitions, env...)
		send(p)
		soon(t, "the Platform has everything", func() bool { n, _ := platform.counted(); return n == len(accepted) })
		if _, sum := platform.counted(); sum != inputs {
			t.Errorf("the Platform counted %d tokens, %d were accepted", sum, inputs)
		}
		soon(t, "the endpoint has everything", func() bool { hook.mu.Lock(); defer hook.mu.Unlock(); return len(hook.events) == len(accepted) })
		var list struct {
			Webhooks []struct {
				Name, URL, State string
				Stopped          *string `json:"stopped_reason"`
				Gaps             int
			}
		}
		text := request(t, p, "GET", "/api/webhooks", nil).want(t, 200)
		text.into(t, &list)
		if list.Webhooks[0].State == "stopped" || list.Webhooks[1].Stopped == nil || list.Webhooks[0].Gaps != 0 || strings.Contains(string(text.body), "hush") || strings.Contains(string(text.body), "whsec") {
			t.Errorf("%s", text.body)
		}
		stop(t, p)
		if list, code, stderr := verify(t, data, partitions, nil, "--from-start"); code != 0 || len(list) != partitions {
			t.Errorf("%d %s %+v", code, stderr, list)
		}
		for _, secret := range []string{"hush", "whsec", "platform-key"} {
			if strings.Contains(p.Log(), secret) {
				t.Errorf("the log tells %s", secret)
			}
		}
		hook.mu.Lock()
		defer hook.mu.Unlock()
		for app, order := range hook.order {
			for i, n := range order {
				if n != i+1 {
					t.Fatalf("facts of %s arrived in the order %v", app, order)
				}
			}
		}
	})
}

// Two grouts that report to each other count everything once, and come to rest: an event
// that is known is not told again.
func TestGroutsThatReportToEachOther(t *testing.T) {
	var posts atomic.Int64
	var target atomic.Pointer[url.URL]
	front := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			posts.Add(1)
			r.SetURL(target.Load())
		},
	})
	defer front.Close()
	env := func(to string) []string {
		return []string{
			"MOZAIKS_PLATFORM_URL=" + to, "MOZAIKS_PLATFORM_API_KEY=" + process.ServiceKey, "MOZAIKS_USAGE_FLUSH_INTERVAL=20ms", "MOZAIKS_USAGE_RETRY_MAX=50ms",
		}
	}
	target.Store(&url.URL{Scheme: "http", Host: "127.0.0.1:1"})
	far := start(t, filepath.Join(t.TempDir(), "data"), 1, env(front.URL)...)
	near := start(t, filepath.Join(t.TempDir(), "data"), 1, env(far.URL)...)
	to, err := url.Parse(near.URL)
	if err != nil {
		t.Fatal(err)
	}
	target.Store(to)
	now := time.Now().UTC().Format(time.RFC3339)
	events := []string{}
	for n := range 250 {
		events = append(events, fmt.Sprintf(`{"event_id":"e-%d","timestamp":%q,"app_id":"dev_app","user_id":"ann","model":"m","input_tokens":10,"output_tokens":1}`, n, now))
	}
	request(t, near, "POST", "/api/usage/ingest", `{"events":[`+strings.Join(events, ",")+`]}`).want(t, 200)
	// A reporter that gives no ids: near makes them, and far knows them by those.
	request(t, near, "POST", "/api/billing/usage-events", fmt.Sprintf(`{"events":[{"event_type":"usage","app_id":"dev_app","user_id":"ben","timestamp":%q,"data":{"model":"m","input_tokens":5,"output_tokens":5}}]}`, now),
		"Authorization", "Bearer "+process.ServiceKey, "X-Internal-API-Key", "").want(t, 200)
	total := func(p *process.Process) (n struct {
		Totals struct {
			Events int64
			Input  int64 `json:"input_tokens"`
		}
	},
	) {
		request(t, p, "GET", "/api/usage?app_id=dev_app&window=none", nil).want(t, 200).into(t, &n)
		return n
	}
	soon(t, "the far one has everything", func() bool { return total(far).Totals.Events == 251 })
	soon(t, "it has told it back", func() bool { return posts.Load() >= 3 })
	rest := func() bool {
		text := string(request(t, far, "GET", "/metrics", nil).want(t, 200).body)
		return strings.Contains(text, `grout_delivery_sent_total{delivery="upstream",partition="0"} 251`)
	}
	soon(t, "all of it", rest)
	for _, p := range []*process.Process{near, far} {
		if n := total(p).Totals; n.Events != 251 || n.Input != 2505 {
			t.Errorf("%+v", n)
		}
	}
	text := string(request(t, near, "GET", "/metrics", nil).want(t, 200).body)
	if !strings.Contains(text, `grout_delivery_sent_total{delivery="upstream",partition="0"} 251`) {
		t.Error("what came back was told again")
	}
}
