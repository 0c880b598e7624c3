package load

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
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
	want := map[string]int64{"status 503": 10, "not all was accepted": 10, "connection failed": 10}
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

// Every request is mixed anew, and stays well-formed.
func TestMix(t *testing.T) {
	target, err := NewTarget("http://a", "k")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, chats := range []bool{false, true} {
		b := newBody(target, &Plan{Events: 40, Chats: chats}, minutesBefore(now, 0), 1)
		seen := map[string]map[string]bool{}
		var oldest, newest time.Time
		for range 50 {
			b.renew()
			_, text, _ := strings.Cut(string(b.raw), "\r\n\r\n")
			var request struct {
				Events []map[string]any `json:"events"`
			}
			if err := json.Unmarshal([]byte(text), &request); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			for _, e := range request.Events {
				for name, value := range e {
					if seen[name] == nil {
						seen[name] = map[string]bool{}
					}
					seen[name][fmt.Sprint(value)] = true
				}
				at, err := time.Parse(time.RFC3339, e["timestamp"].(string))
				if err != nil {
					t.Fatal(err)
				}
				if oldest.IsZero() || at.Before(oldest) {
					oldest = at
				}
				if at.After(newest) {
					newest = at
				}
			}
		}
		if len(seen["event_id"]) != 2000 || len(seen["app_id"]) != Apps || len(seen["workflow_id"]) != Workflows || len(seen["model"]) != Models ||
			len(seen["user_id"]) < 1500 || (len(seen["chat_id"]) > 1900) != chats {
			t.Errorf("%d ids, %d apps, %d users, %d workflows, %d models, %d chats", len(seen["event_id"]), len(seen["app_id"]), len(seen["user_id"]),
				len(seen["workflow_id"]), len(seen["model"]), len(seen["chat_id"]))
		}
		if newest.After(now) || oldest.Before(now.Add(-Span-2*time.Minute)) || newest.Sub(oldest) < Span*9/10 {
			t.Errorf("from %s to %s", oldest, newest)
		}
	}
}

// What is answered after the end is no part of the rate, and what was sent while
// it warmed up is.
func TestRateOfSlowAnswers(t *testing.T) {
	target, _ := server(t, func(int64, http.ResponseWriter) bool { time.Sleep(100 * time.Millisecond); return false })
	r, err := Run(context.Background(), target, Plan{Events: 1, Connections: 8, Warmup: 50 * time.Millisecond, Duration: 250 * time.Millisecond})
	if err != nil || r.Rate < 40 || r.Rate > 100 || r.Answered <= r.Requests {
		t.Errorf("%v, %v requests a second, %d answered, %d of them sent in time", err, r.Rate, r.Answered, r.Requests)
	}
}

func TestAnotherAnswer(t *testing.T) {
	target, _ := server(t, func(_ int64, w http.ResponseWriter) bool { w.WriteHeader(http.StatusAccepted); return true })
	r, err := Run(context.Background(), target, Plan{Events: 1, Connections: 1, Requests: 5, Answer: http.StatusAccepted, Process: os.Getpid()})
	if err != nil || r.Requests != 5 || len(r.Errors) > 0 || r.Process < 0 && runtime.GOOS == "linux" {
		t.Errorf("%v, %d requests, errors %v, %s", err, r.Requests, r.Errors, r.Process)
	}
}

func TestVisible(t *testing.T) {
	var user string
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			text, _ := io.ReadAll(r.Body)
			_, rest, _ := strings.Cut(string(text), `"user_id":"`)
			user, _, _ = strings.Cut(rest, `"`)
			asked = 0
			return
		}
		if got := r.URL.Query().Get("user_id"); r.URL.Path != "/api/usage" || got != user || r.Header.Get("X-Internal-API-Key") != "k" {
			t.Errorf("%s, the user is %s", r.URL, user)
		}
		asked++
		fmt.Fprintf(w, `{"totals":{"events":%d}}`, asked/3)
	}))
	defer s.Close()
	target, err := NewTarget(s.URL, "k")
	if err != nil {
		t.Fatal(err)
	}
	v := Visible(context.Background(), target, time.Millisecond, 50*time.Millisecond)
	if v.Samples == 0 || v.Latencies.Max() == 0 || len(v.Errors) > 0 || asked != 3 {
		t.Errorf("%d samples, asked %d times, errors %v", v.Samples, asked, v.Errors)
	}
}

func TestProcess(t *testing.T) {
	stat := "12 (a ) b) S 1 12 12 0 -1 4194560 2000 0 0 0 123 45 0 0 20 0 9 0 100 1 2 3"
	if got := cpuOf(stat); got != 1680*time.Millisecond {
		t.Errorf("processor time %s", got)
	}
	if cpuOf("") >= 0 || cpuOf("1 (a) S 1") >= 0 {
		t.Error("nothing tells a processor time")
	}
	status := "Name:\ta\nVmHWM:\t  2048 kB\nVmRSS:\t    12 kB\n"
	if kibOf(status, "VmHWM:") != 2<<20 || kibOf(status, "VmRSS:") != 12<<10 || kibOf(status, "VmSwap:") >= 0 {
		t.Error("memory is not understood")
	}
	if p := ReadProcess(-1); p.CPU >= 0 || p.Peak >= 0 {
		t.Errorf("no process has used %+v", p)
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
