package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Target is a running grout.
type Target struct {
	address, host, path, key string
	secure                   bool
}

// NewTarget takes the address of a server and its internal key.
func NewTarget(base, key string) (*Target, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not an http or https address", base)
	}
	t := &Target{address: u.Host, host: u.Host, path: strings.TrimRight(u.EscapedPath(), "/") + ingestPath, key: key, secure: u.Scheme == "https"}
	if u.Port() == "" {
		t.address = net.JoinHostPort(u.Hostname(), u.Scheme)
	}
	return t, nil
}

func (t *Target) dial(ctx context.Context) (net.Conn, error) {
	if t.secure {
		return (&tls.Dialer{}).DialContext(ctx, "tcp", t.address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", t.address)
}

// at is where a path of the server is.
func (t *Target) at(path string) string { return strings.TrimSuffix(t.path, ingestPath) + path }

const ingestPath = "/api/usage/ingest"

// Plan is one kind of load.
type Plan struct {
	Kind        Kind
	Events      int           // in each request
	Connections int           // each has one request under way at most
	Requests    int64         // to send; 0: as many as fit the duration
	Warmup      time.Duration // what starts in it is not measured
	Duration    time.Duration // of measuring, when Requests is 0
	// Rate is how many requests a second are due, whether or not the server keeps
	// up; latencies then begin when a request was due. 0: each connection sends
	// when it has its answer.
	Rate float64

	Apps  int           // that events are of; 0: the standard number
	Chats bool          // whether every event is of a chat
	Span  time.Duration // how far back timestamps reach; 0: the standard one
	// Answer is the only status that counts, whatever the answer says; 0: 200,
	// and every event must be accepted.
	Answer  int
	Process int // whose processor time is told in the result; 0: nobody's

	Plugin string // that Execute calls
	Token  string // of the user for whom it does
}

// Result is what was measured.
type Result struct {
	Elapsed   time.Duration
	Requests  int64   // answered 200, with every event accepted
	Answered  int64   // the same, and those that were sent while it warmed up and answered later
	Rate      float64 // requests answered in a second
	Latencies Histogram
	First     Histogram        // until the first request of an operation was answered
	Errors    map[string]int64 // everything else, by what it was
	Missed    int64            // were due, and not sent before the end (Rate)
	Shares    Shares           // of the processors
	Process   time.Duration    // processor time of the process of the plan; negative: unknown
}

// Run puts the load on and waits for its end. The error is that of a server that
// cannot be reached at all; single failures are in the result.
func Run(ctx context.Context, t *Target, p Plan) (Result, error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("connect to %s: %w", t.address, err)
	}
	conn.Close()
	r := &run{target: t, plan: p}
	workers := make([]*worker, p.Connections)
	now := time.Now()
	minutes := minutesBefore(now, p.Span)
	for i := range workers {
		seed := uint64(now.UnixNano()) + uint64(i)
		workers[i] = &worker{run: r, errors: map[string]int64{}}
		switch p.Kind {
		case Ingest:
			workers[i].body = newBody(t, &p, minutes, seed)
		case Execute:
			workers[i].body = newExecuteBody(t, &p)
		default:
			workers[i].body = newBudgetBody(t, &p, seed)
		}
	}
	r.begin = time.Now().Add(p.Warmup)
	r.end = r.begin.Add(p.Duration)
	var group sync.WaitGroup
	for _, w := range workers {
		group.Go(func() { w.work(ctx) })
	}
	before, process := cpuNow(), ReadProcess(p.Process).CPU
	if p.Warmup > 0 {
		select {
		case <-time.After(time.Until(r.begin)):
		case <-ctx.Done():
		}
		before, process = cpuNow(), ReadProcess(p.Process).CPU
	}
	group.Wait()
	result := r.result(workers, before)
	result.Process = -1
	if after := ReadProcess(p.Process).CPU; process >= 0 && after >= process {
		result.Process = after - process
	}
	return result, ctx.Err()
}

type run struct {
	target     *Target
	plan       Plan
	begin, end time.Time
	sent       atomic.Int64
}

func (r *run) result(workers []*worker, before cpu) Result {
	now := time.Now()
	out := Result{Elapsed: now.Sub(r.begin), Errors: map[string]int64{}}
	out.Shares = cpuNow().since(before)
	inTime := int64(0)
	for _, w := range workers {
		out.Requests += w.requests
		out.Answered += w.answered
		inTime += w.inTime
		out.Latencies.Merge(&w.latencies)
		out.First.Merge(&w.first)
		for what, n := range w.errors {
			out.Errors[what] += n
		}
	}
	out.Rate = float64(out.Requests) / out.Elapsed.Seconds()
	if r.plan.Requests == 0 && r.plan.Rate == 0 { // what is still to be answered at the end is no part of the rate
		out.Rate = float64(inTime) / r.plan.Duration.Seconds()
	}
	if r.plan.Rate > 0 {
		due := int64(r.plan.Duration.Seconds() * r.plan.Rate)
		out.Missed = max(due-r.sent.Load(), 0)
	}
	return out
}

// drainLimit is how long requests that were due are still sent after the end.
const drainLimit = 5 * time.Second

// next waits until the next request may be sent and gives the instant its latency
// begins; ok is false at the end.
func (r *run) next(ctx context.Context) (start time.Time, ok bool) {
	p, now := &r.plan, time.Now()
	switch {
	case ctx.Err() != nil:
		return now, false
	case p.Requests > 0:
		return now, r.sent.Add(1) <= p.Requests
	case p.Rate <= 0, now.Before(r.begin): // nothing is due while it warms up
		return now, now.Before(r.end)
	}
	n := r.sent.Add(1) - 1
	start = r.begin.Add(time.Duration(float64(n) / p.Rate * float64(time.Second)))
	if !start.Before(r.end) || now.After(r.end.Add(drainLimit)) {
		r.sent.Add(-1)
		return start, false
	}
	if wait := time.Until(start); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return start, false
		}
	}
	return start, true
}

// worker is one connection.
type worker struct {
	run  *run
	body script
	conn net.Conn
	in   *bufio.Reader
	text bytes.Buffer

	requests  int64
	answered  int64 // since the beginning
	inTime    int64 // and before the end
	latencies Histogram
	first     Histogram
	errors    map[string]int64
}

func (w *worker) work(ctx context.Context) {
	defer func() { w.drop() }()
	for {
		w.body.renew()
		start, ok := w.run.next(ctx)
		if !ok {
			return
		}
		first, err := w.operate(ctx)
		now := time.Now()
		if err == nil && !now.Before(w.run.begin) {
			w.answered++
			if !now.After(w.run.end) {
				w.inTime++
			}
		}
		if start.Before(w.run.begin) {
			continue
		}
		if err != nil {
			w.errors[err.Error()]++
			continue
		}
		w.requests++
		w.latencies.Add(now.Sub(start))
		w.first.Add(first.Sub(start))
	}
}

func (w *worker) drop() {
	if w.conn != nil {
		w.conn.Close()
		w.conn = nil
	}
}

// answerLimit is how long one answer may take.
const answerLimit = time.Minute

var (
	errConnection = errors.New("connection failed")
	errRefused    = errors.New("not all was accepted")
)

// operate sends the requests of an operation one after the other, and gives the instant
// at which the first was answered.
func (w *worker) operate(ctx context.Context) (first time.Time, err error) {
	for i, r := range w.body.requests() {
		if err := w.exchange(ctx, &r); err != nil {
			return first, err
		}
		if i == 0 {
			first = time.Now()
		}
	}
	return first, nil
}

// exchange sends a request and reads its answer.
func (w *worker) exchange(ctx context.Context, r *request) error {
	if w.conn == nil {
		conn, err := w.run.target.dial(ctx)
		if err != nil {
			time.Sleep(10 * time.Millisecond) // a server that is away is not to be flooded
			return errConnection
		}
		w.conn, w.in = conn, bufio.NewReader(conn)
	}
	status, err := w.roundTrip(r.raw)
	switch {
	case err != nil:
		w.drop()
		return errConnection
	case status == w.run.plan.Answer:
		return nil
	case status != r.status:
		return fmt.Errorf("status %d", status)
	case !bytes.Contains(w.text.Bytes(), r.wanted):
		return errRefused
	}
	return nil
}

func (w *worker) roundTrip(raw []byte) (status int, err error) {
	if err := w.conn.SetDeadline(time.Now().Add(answerLimit)); err != nil {
		return 0, err
	}
	if _, err := w.conn.Write(raw); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	w.text.Reset()
	_, err = w.text.ReadFrom(resp.Body)
	if resp.Close {
		w.drop()
	}
	return resp.StatusCode, err
}
