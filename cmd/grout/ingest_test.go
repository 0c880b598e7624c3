package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// ledger is a server that counts like grout does, and that a test can make fail.
type ledger struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	events   map[string]usageEvent // by app and id
	batches  map[string]string     // id → answer
	requests []string              // bodies, in order of arrival
	polls    int

	// before is asked about every request and answers it when it returns true.
	before func(n int, w http.ResponseWriter, r *http.Request) bool
	async  int // polls until a batch counts as applied; 0 answers at once
}

func newLedger(t *testing.T) *ledger {
	l := &ledger{t: t, events: map[string]usageEvent{}, batches: map[string]string{}}
	l.Server = httptest.NewServer(l)
	t.Cleanup(l.Close)
	return l
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Header.Get("X-Internal-API-Key") != "the-internal-key" {
		problem(w, 403, "FORBIDDEN", "Invalid internal API key")
		return
	}
	if r.Method == http.MethodGet {
		l.status(w, r)
		return
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return // the sender went away
	}
	l.requests = append(l.requests, body.String())
	if l.before != nil && l.before(len(l.requests), w, r) {
		return
	}
	var in struct {
		BatchID string       `json:"batch_id"`
		Events  []usageEvent `json:"events"`
	}
	if err := json.Unmarshal(body.Bytes(), &in); err != nil || r.URL.Path != "/api/usage/ingest" || r.Header.Get("Content-Type") != "application/json" {
		l.t.Errorf("%s %s: %v", r.Method, r.URL, err)
		problem(w, 400, "INVALID_JSON", "not a batch")
		return
	}
	if first, ok := l.batches[in.BatchID]; ok {
		w.Header().Set("Idempotency-Replayed", "true")
		fmt.Fprint(w, first)
		return
	}
	answer := batchAnswer{BatchID: in.BatchID, Errors: []batchItemError{}}
	for i, e := range in.Events {
		known, ok := l.events[e.AppID+"\x00"+e.EventID]
		switch {
		case !ok:
			l.events[e.AppID+"\x00"+e.EventID] = e
			answer.Accepted++
		case fmt.Sprint(known) == fmt.Sprint(e):
			answer.Duplicates++
		default:
			answer.Rejected++
			answer.Errors = append(answer.Errors, batchItemError{i, e.EventID, "conflict", "other content"})
		}
	}
	text, _ := json.Marshal(answer)
	l.batches[in.BatchID] = string(text)
	if l.async > 0 {
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, `{"batch_id":%q,"status":"accepted","status_url":"/status?batch=%s"}`, in.BatchID, in.BatchID)
		return
	}
	w.Write(text)
}

func (l *ledger) status(w http.ResponseWriter, r *http.Request) {
	answer := l.batches[r.URL.Query().Get("batch")]
	if r.URL.Path != "/status" || answer == "" {
		problem(w, 404, "NOT_FOUND", "no such batch")
		return
	}
	if l.polls++; l.polls%(l.async+1) != 0 {
		fmt.Fprint(w, `{"status":"accepted"}`)
		return
	}
	fmt.Fprint(w, strings.Replace(answer, `"status":""`, `"status":"applied"`, 1))
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"detail":%q,"error_code":%q,"status_code":%d}`, detail, code, status)
}

// tokensOf sums what was counted.
func (l *ledger) tokensOf() (events int, input, output int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		input += e.InputTokens
		output += e.OutputTokens
	}
	return len(l.events), input, output
}

// ids gives the event ids of all requests, in order.
func (l *ledger) ids() (ids []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.requests {
		var in struct{ Events []usageEvent }
		if err := json.Unmarshal([]byte(r), &in); err != nil {
			l.t.Error(err)
		}
		for _, e := range in.Events {
			ids = append(ids, e.EventID)
		}
	}
	return ids
}

// csvFile writes a file of n rows, a second apart.
func csvFile(t *testing.T, name string, n int) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("timestamp,input_tokens,output_tokens\n")
	for i := range n {
		fmt.Fprintf(&b, "2023-11-16 18:%02d:%02d.5,%d,%d\n", i/60, i%60, i+1, 2*(i+1))
	}
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// ingestArgs is the command line every test starts from.
func ingestArgs(l *ledger, file string, more ...string) []string {
	return append([]string{"ingest", file, "--url", l.URL, "--user", "u", "--model", "m", "-o", "json"}, more...)
}

// ingestRun runs the command and reads its summary.
func ingestRun(t *testing.T, args ...string) (int, ingestSummary, string) {
	t.Helper()
	t.Setenv("INTERNAL_API_KEY", "the-internal-key,next-key")
	code, stdout, stderr := grout(t, args...)
	var sum ingestSummary
	if stdout != "" {
		if err := json.Unmarshal([]byte(stdout), &sum); err != nil {
			t.Fatalf("%v in %s", err, stdout)
		}
	}
	return code, sum, stderr
}

func TestIngest(t *testing.T) {
	clean(t)
	l := newLedger(t)
	file := csvFile(t, "usage.csv", 25)
	args := ingestArgs(l, file, "--batch-size", "10")
	code, sum, stderr := ingestRun(t, args...)
	if code != 0 || !sum.Complete || sum.Events != 25 || sum.Accepted != 25 || sum.Batches != 3 || sum.ReplayedBatches != 0 || sum.InputTokens != 325 || sum.OutputTokens != 650 {
		t.Fatalf("exit %d, %+v\n%s", code, sum, stderr)
	}
	code, sum, _ = ingestRun(t, args...)
	if code != 0 || sum.Accepted != 25 || sum.ReplayedBatches != 3 || sum.ReplayedEvents != 25 {
		t.Errorf("the second run is no replay: exit %d, %+v", code, sum)
	}
	for _, other := range [][]string{
		{"--batch-size", "7"},
		{"--batch-size", "10", "--batch-ids", "other"},
		{"--batch-size", "10", "--shuffle", "1"},
	} {
		code, sum, _ = ingestRun(t, ingestArgs(l, file, other...)...)
		if code != 0 || sum.Duplicates != 25 || sum.Accepted != 0 || sum.ReplayedBatches != 0 {
			t.Errorf("%q: exit %d, %+v, want duplicates in new batches", other, code, sum)
		}
	}
	if events, input, output := l.tokensOf(); events != 25 || input != 325 || output != 650 {
		t.Errorf("counted %d events, %d and %d tokens", events, input, output)
	}
}

func TestSummaryText(t *testing.T) {
	clean(t)
	l := newLedger(t)
	t.Setenv("INTERNAL_API_KEY", "the-internal-key")
	code, stdout, stderr := grout(t, "ingest", csvFile(t, "usage.csv", 1500), "--url", l.URL, "--user", "u", "--model", "m")
	for _, want := range []string{"events      1,500\n", "accepted    1,500\n", "input       1,125,750 tokens\n", "2023-11-16T18:00:00.5Z … 2023-11-16T18:24:59.5Z"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the summary does not say %q", want)
		}
	}
	if code != 0 || !strings.Contains(stderr, "columns: timestamp=timestamp,input_tokens=input_tokens") || strings.Contains(stdout+stderr, "the-internal-key") {
		t.Errorf("exit %d\n%s\n%s", code, stdout, stderr)
	}
}

func TestShuffleFollowsFromItsSeed(t *testing.T) {
	clean(t)
	file := csvFile(t, "usage.csv", 100)
	order := func(args ...string) []string {
		l := newLedger(t)
		if code, sum, stderr := ingestRun(t, ingestArgs(l, file, append(args, "--concurrency", "1", "--batch-size", "30")...)...); code != 0 || sum.Accepted != 100 {
			t.Fatalf("exit %d, %+v\n%s", code, sum, stderr)
		}
		return l.ids()
	}
	plain, one, again, other := order(), order("--shuffle", "1"), order("--shuffle", "1"), order("--shuffle", "2")
	if plain[0] != "usage-1" || plain[99] != "usage-100" || !slices.Equal(one, again) || slices.Equal(one, plain) || slices.Equal(one, other) {
		t.Errorf("orders: %v / %v / %v / %v", plain[:3], one[:3], again[:3], other[:3])
	}
	slices.Sort(one)
	slices.Sort(plain)
	if !slices.Equal(one, plain) {
		t.Error("shuffling changed the set of events")
	}
}

func TestRetriesAreTheSameToTheLastByte(t *testing.T) {
	clean(t)
	l := newLedger(t)
	var arrived []time.Time
	l.before = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		arrived = append(arrived, time.Now())
		switch n {
		case 1:
			problem(w, 500, "INTERNAL_ERROR", "broken")
		case 2:
			panic(http.ErrAbortHandler) // the connection breaks
		case 3:
			w.Header().Set("Retry-After", "1")
			problem(w, 429, "RATE_LIMITED", "slow down")
		default:
			return false
		}
		return true
	}
	code, sum, stderr := ingestRun(t, ingestArgs(l, csvFile(t, "usage.csv", 3))...)
	if code != 0 || sum.Accepted != 3 || len(l.requests) != 4 {
		t.Fatalf("exit %d, %+v, %d requests\n%s", code, sum, len(l.requests), stderr)
	}
	for _, r := range l.requests[1:] {
		if r != l.requests[0] {
			t.Errorf("a retry differs:\n%s\n%s", l.requests[0], r)
		}
	}
	if pause := arrived[3].Sub(arrived[2]); pause < time.Second {
		t.Errorf("Retry-After: 1 was followed by a pause of %s", pause)
	}
	if !strings.Contains(stderr, "retrying in") || !strings.Contains(stderr, "broken") {
		t.Errorf("the retries are not told: %s", stderr)
	}
}

func TestRetriesEnd(t *testing.T) {
	clean(t)
	l := newLedger(t)
	l.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "3600")
		problem(w, 503, "SERVICE_UNAVAILABLE", "disk full")
		return true
	}
	code, sum, stderr := ingestRun(t, ingestArgs(l, csvFile(t, "usage.csv", 3), "--max-retry-time", "1m")...)
	if code != 1 || sum.Complete || !strings.Contains(stderr, "disk full") || !strings.Contains(stderr, "--max-retry-time") {
		t.Errorf("exit %d, %+v, %s", code, sum, stderr)
	}
}

func TestRefusalsEndTheRun(t *testing.T) {
	for _, tt := range []struct {
		status       int
		code, detail string
		want         string
	}{
		{409, "BATCH_CONFLICT", "the batch id stands for other events", "the batch id stands for other events (BATCH_CONFLICT)"},
		{413, "PAYLOAD_TOO_LARGE", "too large", "413 too large"},
		{401, "UNAUTHORIZED", "Missing X-Internal-API-Key header", "--key-file"},
		{503, "NOT_CONFIGURED", "Internal API not configured", "503 Internal API not configured"},
		{307, "", "", "307 Temporary Redirect"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			clean(t)
			l := newLedger(t)
			l.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Location", "http://elsewhere.invalid/")
				problem(w, tt.status, tt.code, tt.detail)
				return true
			}
			code, sum, stderr := ingestRun(t, ingestArgs(l, csvFile(t, "usage.csv", 30), "--batch-size", "1", "--concurrency", "2")...)
			if code != 1 || sum.Complete || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit %d, %+v, %s", code, sum, stderr)
			}
			if len(l.requests) > 4 {
				t.Errorf("%d requests after the first refusal", len(l.requests))
			}
		})
	}
}

func TestAcceptedBatchesAreFollowed(t *testing.T) {
	clean(t)
	l := newLedger(t)
	l.async = 2
	code, sum, stderr := ingestRun(t, ingestArgs(l, csvFile(t, "usage.csv", 20), "--batch-size", "10", "--concurrency", "1")...)
	if code != 0 || sum.Accepted != 20 || l.polls != 6 {
		t.Errorf("exit %d, %+v, %d polls, %s", code, sum, l.polls, stderr)
	}
}

func TestForeignAnswersAreErrors(t *testing.T) {
	for _, text := range []string{"<html>", "{}", `{"accepted":2}`} {
		clean(t)
		l := newLedger(t)
		l.before = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			fmt.Fprint(w, text)
			return true
		}
		if code, sum, _ := ingestRun(t, ingestArgs(l, csvFile(t, "usage.csv", 3))...); code != 1 || sum.Complete {
			t.Errorf("%s passes as success: %+v", text, sum)
		}
	}
}

func TestRejectedEventsAreListed(t *testing.T) {
	clean(t)
	l := newLedger(t)
	file := csvFile(t, "usage.csv", 30)
	if code, _, stderr := ingestRun(t, ingestArgs(l, file)...); code != 0 {
		t.Fatal(stderr)
	}
	code, sum, stderr := ingestRun(t, ingestArgs(l, file, "--set", "cost=1.5")...)
	if code != 1 || !sum.Complete || sum.Rejected != 30 || len(sum.Errors) != maxListed {
		t.Fatalf("exit %d, %+v", code, sum)
	}
	if want := (eventFault{2, "usage-1", "conflict", "other content"}); sum.Errors[0] != want {
		t.Errorf("first fault %+v, want %+v", sum.Errors[0], want)
	}
	if !strings.Contains(stderr, "refused 30 of 30") {
		t.Errorf("%s", stderr)
	}
}

func TestShiftTo(t *testing.T) {
	clean(t)
	l := newLedger(t)
	code, sum, stderr := ingestRun(t, ingestArgs(l, csvFile(t, "usage.csv", 3), "--shift-to", "2026-01-31T08:00:00Z")...)
	if code != 0 || instant(sum.First) != "2026-01-31T08:00:00Z" || instant(sum.Last) != "2026-01-31T08:00:02Z" || sum.Offset != "19357h59m59.5s" {
		t.Errorf("exit %d, %+v", code, sum)
	}
	if !strings.Contains(stderr, "offset: 19357h59m59.5s") {
		t.Errorf("the offset is not told: %s", stderr)
	}
	if e := l.events["dev_app\x00usage-1"]; e.Timestamp != "2026-01-31T08:00:00Z" {
		t.Errorf("sent %+v", e)
	}
}

func TestShiftToNowIsKept(t *testing.T) {
	clean(t)
	l := newLedger(t)
	args := ingestArgs(l, csvFile(t, "usage.csv", 3), "--shift-to-now")
	before := time.Now()
	code, first, stderr := ingestRun(t, args...)
	if ago := before.Sub(first.Last); code != 0 || ago > time.Millisecond || time.Since(first.Last) < 0 {
		t.Fatalf("exit %d, the last timestamp lies %s back\n%s", code, ago, stderr)
	}
	if !strings.Contains(stderr, "kept in data/ingest/") || !strings.Contains(stderr, "--new-shift") {
		t.Errorf("where the offset is kept is not told: %s", stderr)
	}
	code, second, stderr := ingestRun(t, args...)
	if code != 0 || second.Offset != first.Offset || second.ReplayedBatches != 1 {
		t.Errorf("the second run is no replay: exit %d, %+v\n%s", code, second, stderr)
	}
	_, third, _ := ingestRun(t, append(args, "--new-shift")...)
	if third.Offset == first.Offset || third.Rejected != 3 {
		t.Errorf("a new offset was not taken: %+v", third)
	}
	kept := shiftPath("data", "usage")
	if err := os.WriteFile(kept, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := ingestRun(t, args...); code != 1 || !strings.Contains(stderr, kept) {
		t.Errorf("a damaged offset: exit %d, %s", code, stderr)
	}
	if left, _ := filepath.Glob("data/ingest/.*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestBadRowStopsTheRun(t *testing.T) {
	clean(t)
	text := "timestamp,input_tokens,output_tokens\n1700000000,1,1\n1700000001,1,1\n1700000002,x,1\n1700000003,1,1\n"
	if err := os.WriteFile("usage.csv", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		sent []string
	}{
		{[]string{"--batch-size", "1"}, []string{"usage-1", "usage-2"}},
		{[]string{"--batch-size", "1", "--shuffle", "1"}, nil},
		{[]string{"--batch-size", "1", "--shift-to", "2026-01-01T00:00:00Z"}, nil},
	} {
		l := newLedger(t)
		code, sum, stderr := ingestRun(t, ingestArgs(l, "usage.csv", append(tt.args, "--concurrency", "1")...)...)
		if code != 1 || sum.Complete || !strings.Contains(stderr, "usage.csv: line 4, column input_tokens") {
			t.Errorf("%q: exit %d, %+v, %s", tt.args, code, sum, stderr)
		}
		if ids := l.ids(); len(ids) > len(tt.sent) || !slices.Equal(ids, tt.sent[:len(ids)]) {
			t.Errorf("%q: sent %v, want nothing but %v", tt.args, ids, tt.sent)
		}
	}
	l := newLedger(t)
	code, sum, stderr := ingestRun(t, ingestArgs(l, "usage.csv", "--skip-bad")...)
	if code != 0 || sum.Skipped != 1 || sum.Accepted != 3 || !slices.Equal(l.ids(), []string{"usage-1", "usage-2", "usage-4"}) {
		t.Errorf("--skip-bad: exit %d, %+v, %v\n%s", code, sum, l.ids(), stderr)
	}
}

func TestInterruptedRunResumes(t *testing.T) {
	clean(t)
	t.Setenv("INTERNAL_API_KEY", "the-internal-key")
	file := csvFile(t, "usage.csv", 40)
	l := newLedger(t)
	ctx, interrupt := context.WithCancel(t.Context())
	l.before = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
		if n == 2 {
			interrupt()
		}
		return false
	}
	args := ingestArgs(l, file, "--batch-size", "10", "--concurrency", "1")
	var out, errs bytes.Buffer
	code := run(ctx, args, &out, &errs)
	var sum ingestSummary
	if err := json.Unmarshal(out.Bytes(), &sum); err != nil {
		t.Fatal(err)
	}
	if code != 1 || sum.Complete || sum.Accepted != 20 || !strings.Contains(errs.String(), "same command again to resume") {
		t.Errorf("exit %d, %+v, %s", code, sum, errs.String())
	}
	code, sum, _ = ingestRun(t, args...)
	if events, _, _ := l.tokensOf(); code != 0 || sum.ReplayedBatches != 2 || sum.Accepted != 40 || events != 40 {
		t.Errorf("resumed: exit %d, %+v, %d counted", code, sum, events)
	}
}

func TestWhereTheKeyComesFrom(t *testing.T) {
	clean(t)
	l := newLedger(t)
	file := csvFile(t, "usage.csv", 1)
	for path, text := range map[string]string{"key.txt": "the-internal-key\n", "data/secrets/internal_api_key": "the-internal-key\n"} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, stderr := grout(t, ingestArgs(l, file)...); code != 0 {
		t.Errorf("data directory: %s", stderr)
	}
	if code, _, stderr := grout(t, ingestArgs(l, file, "--data-dir", "elsewhere")...); code != 1 || !strings.Contains(stderr, "no internal key") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	t.Setenv("INTERNAL_API_KEY", "wrong")
	if code, _, stderr := grout(t, ingestArgs(l, file, "--key-file", "key.txt")...); code != 0 {
		t.Errorf("key file: %s", stderr)
	}
	if code, _, stderr := grout(t, ingestArgs(l, file)...); code != 1 || !strings.Contains(stderr, "Invalid internal API key") || strings.Contains(stderr, "wrong") {
		t.Errorf("environment: exit %d, %s", code, stderr)
	}
}

func TestRealTraceIsCountedOnce(t *testing.T) {
	file := trace(t)
	clean(t)
	l := newLedger(t)
	dropped := 0
	l.before = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n%5 == 0 {
			dropped++
			problem(w, 503, "SERVICE_UNAVAILABLE", "busy")
			return true
		}
		return false
	}
	for range 2 {
		code, sum, stderr := ingestRun(t, ingestArgs(l, file, "--app", "shop", "--shift-to-now")...)
		if code != 0 || sum.Events != 8_819 || sum.InputTokens != 18_059_974 || sum.OutputTokens != 245_896 {
			t.Fatalf("exit %d, %+v\n%s", code, sum, stderr)
		}
	}
	if events, input, output := l.tokensOf(); events != 8_819 || input != 18_059_974 || output != 245_896 || dropped == 0 {
		t.Errorf("counted %d events, %d and %d tokens, %d requests dropped", events, input, output, dropped)
	}
}

func TestProgressLine(t *testing.T) {
	start := time.Now()
	p := &progress{started: start, events: 12_345, done: 0.25}
	if got, want := p.line(start.Add(5*time.Second)), " 25%  12,345 events, 2,469/s, 15s left"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	p.terminal = true
	if got := p.line(start.Add(5 * time.Second)); !strings.HasPrefix(got, "[######..................]  25%") {
		t.Errorf("%q", got)
	}
	p.done = -1
	if got := p.line(start); strings.Contains(got, "%") {
		t.Errorf("%q", got)
	}
}
