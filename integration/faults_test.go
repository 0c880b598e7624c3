package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
	"grout/schemas"
)

func someEvents(app, prefix string, n int) []map[string]any {
	list := make([]map[string]any, 0, n)
	for i := range n {
		list = append(list, map[string]any{
			"event_id": fmt.Sprintf("%s-%d", prefix, i), "timestamp": time.Now().UTC().Format(time.RFC3339), "app_id": app,
			"user_id": "u", "model": "m", "input_tokens": 10, "output_tokens": 1,
		})
	}
	return list
}

type result struct {
	BatchID    string `json:"batch_id"`
	Status     string `json:"status"`
	StatusURL  string `json:"status_url"`
	Accepted   int    `json:"accepted"`
	Duplicates int    `json:"duplicates"`
	Rejected   int    `json:"rejected"`
	Errors     []struct {
		Index   int     `json:"index"`
		EventID *string `json:"event_id"`
		Code    string  `json:"code"`
		Detail  string  `json:"detail"`
	} `json:"errors"`
}

// After the relay's marker has expired from the stream of facts, a restart goes on
// from what the store knows and publishes nothing again.
func TestMarkerExpired(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		post := func(prefix string) {
			for i := range 6 {
				app := fmt.Sprint("app-", i)
				request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents(app, prefix, 20)}).want(t, 200)
			}
		}
		post("before")
		all := func(n int) func([]fact) bool {
			return func(list []fact) bool { e, _ := recorded(t, list); return len(e) >= n }
		}
		before := len(facts(t, p, all(120)))
		stop(t, p) // what the relays have done is written down

		p = start(t, data, partitions)
		nc, err := nats.Connect(p.NATS, nats.UserInfo("admin", process.AdminPassword))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		stream, err := js.Stream(t.Context(), schemas.StreamFacts)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(schemas.MarkerSubjects(schemas.DestFacts))); err != nil {
			t.Fatal(err)
		}
		p.Kill()

		p = start(t, data, partitions)
		if after := len(facts(t, p, all(120))); after != before {
			t.Errorf("%d facts after the restart, %d before", after, before)
		}
		post("after")
		list := facts(t, p, all(240))
		_, times := recorded(t, list)
		for id, n := range times {
			if n != 1 {
				t.Errorf("event %q is in %d facts", id, n)
			}
		}
		stop(t, p)
	})
}

// Many callers send the same events at once, some as the same batch: each event is
// accepted by exactly one of them.
func TestManyCallersOneEvent(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		p := start(t, filepath.Join(t.TempDir(), "data"), partitions)
		const rounds, callers, events = 20, 32, 25
		for round := range rounds {
			list := someEvents(fmt.Sprint("app-", round%5), fmt.Sprint("round-", round), events)
			var mu sync.Mutex
			accepted, replays := 0, 0
			var group sync.WaitGroup
			for c := range callers {
				group.Go(func() {
					body := map[string]any{"events": list}
					if c%2 == 0 {
						body["batch_id"] = fmt.Sprint("batch-", round)
					}
					a := request(t, p, "POST", "/api/usage/ingest", body)
					var r result
					a.into(t, &r)
					mu.Lock()
					defer mu.Unlock()
					if a.status != 200 || r.Accepted+r.Duplicates != events {
						t.Errorf("status %d: %.300s", a.status, a.body)
					}
					if a.header.Get("Idempotency-Replayed") == "true" {
						replays++
						return
					}
					accepted += r.Accepted
				})
			}
			group.Wait()
			if accepted != events || replays != callers/2-1 {
				t.Errorf("round %d: %d events accepted, want %d; %d replays, want %d", round, accepted, events, replays, callers/2-1)
			}
		}
		stop(t, p)
	})
}

// An answer 202 leads to the result of this very request.
func TestRespondAsync(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		p := start(t, filepath.Join(t.TempDir(), "data"), partitions)
		var events []map[string]any
		for i := range 7 {
			events = append(events, someEvents(fmt.Sprint("app-", i), "e", 3)...)
		}
		body := map[string]any{"batch_id": "one batch/é", "events": append(events, map[string]any{"app_id": "app-1"})}
		for try := range 2 {
			var accepted result
			request(t, p, "POST", "/api/usage/ingest", body, "Prefer", "respond-async").want(t, 202).into(t, &accepted)
			r := await(t, p, accepted.StatusURL)
			if r.BatchID != "one batch/é" || r.Accepted != 21 || r.Rejected != 1 || len(r.Errors) != 1 || r.Errors[0].Index != 21 {
				t.Errorf("try %d: %+v", try, r)
			}
		}
		var part result
		request(t, p, "GET", "/api/usage/batches/one%20batch%2F%C3%A9?app_id=app-1", nil).want(t, 200).into(t, &part)
		if part.Accepted != 3 || part.Rejected != 1 {
			t.Errorf("part of app-1: %+v", part)
		}
		request(t, p, "GET", "/api/usage/batches/one%20batch%2F%C3%A9?app_id=other", nil).want(t, 404)

		other := map[string]any{"batch_id": "one batch/é", "events": someEvents("app-1", "other", 2)}
		request(t, p, "POST", "/api/usage/ingest", other).want(t, 409)
		var conflict result
		mixed := map[string]any{"batch_id": "one batch/é", "events": append(someEvents("app-1", "other", 2), someEvents("new", "n", 4)...)}
		request(t, p, "POST", "/api/usage/ingest", mixed).want(t, 200).into(t, &conflict)
		if conflict.Accepted != 4 || conflict.Rejected != 2 || conflict.Errors[0].Code != "BATCH_CONFLICT" {
			t.Errorf("a batch with one conflicting app: %+v", conflict)
		}
		request(t, p, "POST", "/api/usage/ingest", body).want(t, 200).into(t, &part)
		if part.Accepted != 21 {
			t.Errorf("the first batch again, after the conflicts: %+v", part)
		}
		stop(t, p)
	})
}

func await(t *testing.T, p *process.Process, url string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var r result
		request(t, p, "GET", url, nil).want(t, 200).into(t, &r)
		if r.Status == "applied" {
			return r
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the request was not applied in time")
		}
	}
}

// Two processes cannot work on one data directory; the second says why.
func TestSecondProcess(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := start(t, data, 1)
	second, err := process.Start(t.Context(), process.Options{Binary: grout, Data: data})
	if err == nil {
		second.Kill()
		t.Fatal("a second process started on the same data directory")
	}
	if want := fmt.Sprintf("in use by process %d", p.PID()); !strings.Contains(second.Log(), want) {
		t.Errorf("the second process says %q, not who the first is: %s", second.Log(), want)
	}
	request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents("a", "e", 5)}).want(t, 200)
	stop(t, p)
}

// A batch is answered the same after a restart, and usage is what it was.
func TestRestart(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		body, _ := json.Marshal(map[string]any{"batch_id": "b", "events": append(someEvents("a", "e", 700), map[string]any{"app_id": "a"})})
		first := request(t, p, "POST", "/api/usage/ingest", body).want(t, 200)
		sums := request(t, p, "GET", "/api/usage?app_id=a&window=day&group_by=model", nil).want(t, 200)
		stop(t, p)
		p = start(t, data, partitions)
		again := request(t, p, "POST", "/api/usage/ingest", body).want(t, 200)
		if string(first.body) != string(again.body) || again.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("after a restart %s, before %s", again.body, first.body)
		}
		if now := request(t, p, "GET", "/api/usage?app_id=a&window=day&group_by=model", nil); string(now.body) != string(sums.body) {
			t.Errorf("after a restart %s, before %s", now.body, sums.body)
		}
		stop(t, p)
	})
}
