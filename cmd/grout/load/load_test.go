package load

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHistogram(t *testing.T) {
	var h, other Histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(rand.ExpFloat64() * float64(time.Millisecond) * float64(1+i%50))
		all = append(all, d)
		if i%2 == 0 {
			h.Add(d)
		} else {
			other.Add(d)
		}
	}
	h.Merge(&other)
	slices.Sort(all)
	for _, share := range []float64{0, .5, .9, .99, .999} {
		got, want := h.Quantile(share), all[int(share*float64(len(all)))]
		if got < want || float64(got) > float64(want)*1.01+1 {
			t.Errorf("quantile %v is %s, want %s", share, got, want)
		}
	}
	if h.Max() != all[len(all)-1] || h.Quantile(1) != h.Max() {
		t.Errorf("the longest is %s, want %s", h.Max(), all[len(all)-1])
	}
	for _, d := range []time.Duration{-1, 0, 1, 255, 256, 257, 1 << 62, 1<<63 - 1} {
		if b := bucketOf(d); b < 0 || b >= len(h.buckets) || top(b) < d || b > 0 && top(b-1) >= d {
			t.Errorf("%d is in bucket %d up to %d", d, b, top(b))
		}
	}
	if new(Histogram).Quantile(.5) != 0 {
		t.Error("the quantile of nothing is not 0")
	}
}

// server takes requests like grout; answer may refuse them.
func server(t *testing.T, answer func(n int64, w http.ResponseWriter) bool) (*Target, *sync.Map) {
	t.Helper()
	ids := &sync.Map{}
	var count atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/base/api/usage/ingest" || r.Header.Get("X-Internal-API-Key") != "k" {
			t.Errorf("%s %v", r.URL, err)
		}
		events := strings.Split(string(text), `"event_id":"`)[1:]
		for _, e := range events {
			if _, twice := ids.LoadOrStore(e[:36], true); twice {
				t.Errorf("the id %s is there twice", e[:36])
			}
		}
		if answer == nil || !answer(count.Add(1), w) {
			fmt.Fprintf(w, `{"batch_id":"b","accepted":%d,"duplicates":0,"rejected":0}`, len(events))
		}
	}))
	t.Cleanup(s.Close)
	target, err := NewTarget(s.URL+"/base/", "k")
	if err != nil {
		t.Fatal(err)
	}
	return target, ids
}

func TestClosedLoop(t *testing.T) {
	target, ids := server(t, nil)
	r, err := Run(context.Background(), target, Plan{Events: 3, Connections: 4, Requests: 50})
	if err != nil || r.Requests != 50 || len(r.Errors) > 0 || r.Latencies.count != 50 {
		t.Errorf("%v, %d requests, errors %v", err, r.Requests, r.Errors)
	}
	n := 0
	ids.Range(func(any, any) bool { n++; return true })
	if n != 150 {
		t.Errorf("%d events arrived", n)
	}
	r, err = Run(context.Background(), target, Plan{Events: 1, Connections: 2, Warmup: 20 * time.Millisecond, Duration: 100 * time.Millisecond})
	if err != nil || r.Requests == 0 || r.Elapsed < 100*time.Millisecond || r.Elapsed > 5*time.Second {
		t.Errorf("%v, %d requests in %s", err, r.Requests, r.Elapsed)
	}
}

// A server that stands still once makes all that were due meanwhile late.
func TestOpenLoopCountsWaiting(t *testing.T) {
	const stall = 200 * time.Millisecond
	target, _ := server(t, func(n int64, _ http.ResponseWriter) bool {
		if n == 3 {
			time.Sleep(stall)
		}
		return false
	})
	r, err := Run(context.Background(), target, Plan{Events: 1, Connections: 1, Duration: 400 * time.Millisecond, Rate: 100})
	if err != nil || r.Requests != 40 || r.Missed != 0 {
		t.Fatalf("%v, %d requests, %d missed", err, r.Requests, r.Missed)
	}
	if half := r.Latencies.Quantile(.8); half < stall/4 {
		t.Errorf("a fifth took less than %s although the server stood still for half of the time", half)
	}
}

func TestFailuresAreCounted(t *testing.T) {
	target, _ := server(t, func(n int64, w http.ResponseWriter) bool {
		switch n % 4 {
		case 0:
			w.WriteHeader(503)
		case 1:
			fmt.Fprint(w, `{"accepted":0,"duplicates":1,"rejected":0}`)
		case 2:
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	})
	r, err := Run(context.Background(), target, Plan{Events: 1, Connections: 1, Requests: 40})
	want := map[string]int64{"status 503": 10, "not all events were accepted": 10, "connection failed": 10}
	if err != nil || r.Requests != 10 || fmt.Sprint(r.Errors) != fmt.Sprint(want) {
		t.Errorf("%v, %d requests, errors %v", err, r.Requests, r.Errors)
	}
}

func TestInterrupted(t *testing.T) {
	target, _ := server(t, nil)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, target, Plan{Events: 1, Connections: 2, Duration: time.Hour}); err == nil {
		t.Error("it did not tell")
	}
}

func TestTargets(t *testing.T) {
	for base, want := range map[string]string{
		"http://a:1": "a:1 /api/usage/ingest", "https://a/x/": "a:https /x/api/usage/ingest", "http://[::1]": "[::1]:http /api/usage/ingest",
		"ftp://a": "", "a:1": "", "": "",
	} {
		target, err := NewTarget(base, "k")
		got := ""
		if err == nil {
			got = target.address + " " + target.path
		}
		if got != want {
			t.Errorf("%q is %q, want %q", base, got, want)
		}
	}
}

func TestMachine(t *testing.T) {
	m := ReadMachine(t.TempDir())
	if m.Cores < 1 || m.GOMAXPROCS < 1 || m.System == "" || m.Sync <= 0 {
		t.Errorf("%+v", m)
	}
	if kind, _ := mountOf("/proc"); kind != "proc" {
		t.Skipf("/proc is of type %q here", kind)
	}
	now := time.Now()
	a := cpu{total: 100, idle: 40, steal: 10, at: now}
	half := time.Duration(runtime.NumCPU()) * time.Second / 2
	got := cpu{total: 200, idle: 90, steal: 30, own: half, at: now.Add(time.Second)}.since(a)
	if got.Steal != .2 || got.Busy < .299 || got.Busy > .301 || got.Own != .5 {
		t.Errorf("%+v", got)
	}
	if got := a.since(a); got != (Shares{-1, -1, -1}) {
		t.Errorf("shares of no time are known: %+v", got)
	}
}
