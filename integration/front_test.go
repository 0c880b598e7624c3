package integration

import (
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"grout/integration/process"
)

// front stands before grout as a load balancer does: its address stays while the
// process behind it is killed and started again. A share of requests it refuses
// with a 5xx of its own, and of others it loses the answer.
type front struct {
	t       *testing.T
	URL     string
	to      atomic.Pointer[url.URL]
	proxy   *httputil.ReverseProxy
	trouble float64 // share of requests that fail although grout is well

	mu     sync.Mutex
	rng    *rand.Rand
	waiter chan struct{} // of the next request, if anybody waits for one

	refused, lost atomic.Int64
}

func newFront(t *testing.T, p *process.Process, seed uint64, trouble float64) *front {
	f := &front{t: t, trouble: trouble, rng: rand.New(rand.NewPCG(seed, 99))}
	f.stand(p)
	f.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(f.to.Load()) },
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	s := httptest.NewUnstartedServer(f)
	s.Config.ErrorLog = f.proxy.ErrorLog
	s.Start()
	t.Cleanup(s.Close)
	f.URL = s.URL
	return f
}

// stand puts the front before a process.
func (f *front) stand(p *process.Process) {
	u, err := url.Parse(p.URL)
	if err != nil {
		f.t.Fatal(err)
	}
	f.to.Store(u)
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fate := f.rng.Float64()
	refused := fate < f.trouble/2
	if f.waiter != nil && !refused {
		close(f.waiter)
		f.waiter = nil
	}
	f.mu.Unlock()
	if refused {
		f.refused.Add(1)
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if fate < f.trouble {
		f.lost.Add(1)
		f.proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	f.proxy.ServeHTTP(w, r)
}

// next gives a channel that is closed when the next request sets out for grout.
func (f *front) next() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiter = make(chan struct{})
	return f.waiter
}

// killUnder kills grout up to most after a request has set out for it, and starts
// it again on its data.
func (f *front) killUnder(request <-chan struct{}, p *process.Process, most time.Duration, data string, partitions int) *process.Process {
	f.t.Helper()
	limit := time.NewTimer(soonEnough)
	defer limit.Stop()
	select {
	case <-request:
	case <-limit.C:
		f.t.Fatalf("nobody sent a request within %s", soonEnough)
	}
	f.mu.Lock()
	pause := time.Duration(f.rng.Int64N(int64(most) + 1))
	f.mu.Unlock()
	<-time.After(pause)
	p.Kill()
	p = start(f.t, data, partitions)
	f.stand(p)
	return p
}

// soonEnough bounds every wait of the tests that stand before a front.
const soonEnough = 2 * time.Minute

// eventually polls until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit := time.NewTimer(soonEnough)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("not within %s: %s", soonEnough, what)
		}
	}
}
