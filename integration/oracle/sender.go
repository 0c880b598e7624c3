package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"grout/integration/process"
)

// resendAfter keeps repeats clear of every dedupe window of the streams.
const resendAfter = 1100 * time.Millisecond

func (r *request) encode(rng *rand.Rand) {
	var list []any
	for _, es := range [][]*event{r.fresh, r.repeated, r.foreign} {
		for _, e := range es {
			list = append(list, e)
		}
	}
	for range r.junk {
		list = append(list, brokenEvents[rng.IntN(len(brokenEvents))])
	}
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	doc := map[string]any{"events": list}
	if !r.made {
		doc["batch_id"] = r.id
	}
	r.body, _ = json.Marshal(doc)
}

// brokenEvents break one rule each.
var brokenEvents = []json.RawMessage{
	json.RawMessage(`17`),
	json.RawMessage(`{}`),
	json.RawMessage(`{"event_id":"x","timestamp":"2020-01-01T00:00:00Z","app_id":"app-1","user_id":"u","model":"m","input_tokens":1,"output_tokens":1}`),
	json.RawMessage(`{"event_id":"x","timestamp":"2026-01-01T00:00:00Z","app_id":"app-1","user_id":"u","model":"m","input_tokens":1.5,"output_tokens":1}`),
	json.RawMessage(`{"event_id":"x","event_id":"y","app_id":"app-2"}`),
}

// answer is the body of a 200.
type answer struct {
	Accepted   int `json:"accepted"`
	Duplicates int `json:"duplicates"`
	Rejected   int `json:"rejected"`
	replayed   bool
	raw        []byte
}

// campaign sends while the server dies and comes back.
type campaign struct {
	o      options
	books  *books
	server *server
	reads  atomic.Int64

	mu     sync.Mutex
	wrongs []string
}

func (c *campaign) faults() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wrongs
}

func (c *campaign) wrong(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.wrongs) < 20 {
		c.wrongs = append(c.wrongs, fmt.Sprintf(format, args...))
	}
}

func (c *campaign) run(ctx context.Context) error {
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	sending, stopSending := context.WithCancel(ctx)
	var senders, readers sync.WaitGroup
	for range c.o.senders {
		senders.Go(func() { c.send(ctx, sending) })
	}
	for i := range 2 {
		readers.Go(func() { c.read(sending, i) })
	}
	var err error
	for round := 0; c.server.cluster != nil && round < c.o.kills && err == nil; round++ {
		err = c.server.cluster.round(ctx, round)
	}
	for c.server.cluster == nil && c.server.kills < c.o.kills && err == nil {
		err = c.server.cycle(ctx)
		if c.o.verbose && c.server.kills%10 == 0 {
			fmt.Printf("%d kills\n", c.server.kills)
		}
	}
	if err != nil {
		abandon() // what is unanswered stays so
	}
	stopSending()
	senders.Wait() // each ends with its last request answered
	readers.Wait()
	return err
}

// send sends one request after another, each until it is answered.
func (c *campaign) send(ctx, sending context.Context) {
	for n := 1; sending.Err() == nil; n++ {
		if n%8 == 0 {
			if k := c.books.nextCorrection(); k != nil {
				c.correct(ctx, k)
				continue
			}
		}
		r := c.books.next()
		for ctx.Err() == nil {
			r.tries++
			a, err := c.post(ctx, r)
			if err == nil {
				c.books.answered(r, a)
				break
			}
			c.books.unanswered()
			select {
			case <-time.After(resendAfter):
			case <-ctx.Done():
			}
		}
	}
}

// post sends a request once. Whatever is not a 200, nor a 202 that becomes one, is
// an error: not answered.
func (c *campaign) post(ctx context.Context, r *request) (*answer, error) {
	c.server.inFlight.Add(1)
	defer c.server.inFlight.Add(-1)
	base := c.server.base()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/api/usage/ingest", bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	status, header, body, err := do(req)
	if err != nil {
		return nil, err
	}
	switch status {
	case http.StatusOK:
	case http.StatusServiceUnavailable:
		return nil, fmt.Errorf("busy")
	case http.StatusAccepted:
		return c.follow(ctx, base, body)
	default:
		c.wrong("%s: status %d: %.300s", r.id, status, body)
		return nil, fmt.Errorf("status %d", status)
	}
	a := &answer{raw: body, replayed: header.Get("Idempotency-Replayed") == "true"}
	return a, json.Unmarshal(body, a)
}

// follow asks a status URL until the request is applied.
func (c *campaign) follow(ctx context.Context, base string, body []byte) (*answer, error) {
	var accepted struct {
		URL string `json:"status_url"`
	}
	if err := json.Unmarshal(body, &accepted); err != nil {
		return nil, err
	}
	for range 50 {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+accepted.URL, nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("X-Internal-API-Key", process.InternalKey)
		status, _, body, err := do(req)
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("status %d: %w", status, err)
		}
		var a struct {
			answer
			Status string `json:"status"`
		}
		if err := json.Unmarshal(body, &a); err != nil {
			return nil, err
		}
		if a.Status == "applied" {
			a.raw = body
			return &a.answer, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil, fmt.Errorf("not applied in time")
}

func do(req *http.Request) (int, http.Header, []byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return resp.StatusCode, resp.Header, body, err
}

// read checks all along that no sum goes back and that every answered event is
// in it.
func (c *campaign) read(ctx context.Context, n int) {
	last := map[string]int64{}
	for i := n; ctx.Err() == nil; i++ {
		app := fmt.Sprintf("app-%d", i%6)
		floor := max(c.books.floor(app), last[app])
		report, err := usage(ctx, c.server.base(), url.Values{"app_id": {app}})
		if err != nil {
			select { // it is down
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		c.reads.Add(1)
		if report.Totals.Events < floor {
			c.wrong("app %s shows %d events after %d had been shown or answered", app, report.Totals.Events, floor)
		}
		if report.Totals.Total != report.Totals.Input+report.Totals.Output {
			c.wrong("app %s: total %d is not %d + %d", app, report.Totals.Total, report.Totals.Input, report.Totals.Output)
		}
		last[app] = report.Totals.Events
	}
}
