package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// streams answers requests for the stream of events by turns.
type streams struct {
	mu     sync.Mutex
	script []func(w http.ResponseWriter, r *http.Request)
	asked  []*http.Request
}

func (s *streams) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r)
	n := min(len(s.asked), len(s.script)) - 1
	do := s.script[n]
	s.mu.Unlock()
	do(w, r)
}

func sends(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, text)
	}
}

func refuses(status int, detail string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"detail":%q,"error_code":"X","status_code":%d}`, detail, status)
	}
}

func eventText(id, kind string, n int) string {
	return fmt.Sprintf("id: %s\nevent: %s\ndata: {\"type\":%q,\ndata:\"data\":{\"run_id\":\"r\",\"status\":\"in_progress\"},\"chat_id\":\"c\",\"sequence\":%d,\"timestamp\":\"2026-01-26T15:30:00Z\"}\n\n", id, kind, kind, n)
}

func TestEventsTailComesBack(t *testing.T) {
	clean(t)
	t.Setenv("INTERNAL_API_KEY", "k")
	const kind = "chat.orchestration.run_started"
	s := &streams{script: []func(http.ResponseWriter, *http.Request){
		sends("retry: 1\n: hello\n\nid: 3-1\n\n" + eventText("4-2", kind, 1) + eventText("4-2", "agui.lifecycle.RunStarted", 1) + "id: 5-3\nevent: x\ndata: {\"cut\":"),
		refuses(503, "away"),
		sends(":\n\n" + eventText("6.0-3", kind, 2) + eventText("6.1-3", kind, 3)),
	}}
	server := httptest.NewServer(s)
	defer server.Close()
	code, out, errs := grout(t, "events", "tail", "--url", server.URL, "--app", "a", "--chat", "c", "--kind", "orchestration, usage", "--kind", "chat", "--count", "3", "-o", "json")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	var ids []string
	for line := range strings.Lines(out) {
		var e struct {
			ID   string
			Type string
			Data map[string]string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Type != kind || e.Data["run_id"] != "r" {
			t.Errorf("%v: %s", err, line)
		}
		ids = append(ids, e.ID)
	}
	if got := strings.Join(ids, " "); got != "4-2 6.0-3 6.1-3" {
		t.Errorf("ids %s", got)
	}
	for _, want := range []string{"the server has ended the stream; coming back", "503 away (X); coming back", "go on with --after 6.1-3\n"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not in\n%s", want, errs)
		}
	}
	if got := s.asked[0].URL.RawQuery; got != "app_id=a&chat_id=c&kind=orchestration&kind=usage&kind=chat" {
		t.Errorf("asked for %s", got)
	}
	for n, want := range []string{"", "4-2", "4-2"} {
		if got := s.asked[n].Header.Get("Last-Event-ID"); got != want {
			t.Errorf("request %d is behind %q, not %q", n, got, want)
		}
	}
}

func TestEventsTailRefused(t *testing.T) {
	clean(t)
	t.Setenv("INTERNAL_API_KEY", "k")
	for name, c := range map[string]struct {
		first, then func(http.ResponseWriter, *http.Request)
		want        string
	}{
		"the first answer": {refuses(503, "away"), nil, "503 away"},
		"a later answer":   {sends(eventText("1-1", "x", 1)), refuses(422, "no such id"), "422 no such id"},
		"no stream":        {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }, nil, "no stream of events"},
		"too long":         {sends("data: " + strings.Repeat("x", maxEventBytes)), refuses(404, "gone"), "has more than 16777216 bytes"},
		"no JSON":          {sends("id: 1\nevent: x\ndata: [1]\n\n"), nil, "no JSON object"},
	} {
		s := &streams{script: []func(http.ResponseWriter, *http.Request){c.first}}
		if c.then != nil {
			s.script = append(s.script, c.then)
		}
		server := httptest.NewServer(s)
		code, _, errs := grout(t, "events", "tail", "--url", server.URL, "-o", "json")
		server.Close()
		if code != 1 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: exit %d, %s", name, code, errs)
		}
	}
	if code, _, errs := grout(t, "events", "tail", "--count", "-1"); code != exitUsage || !strings.Contains(errs, "--count") {
		t.Errorf("exit %d, %s", code, errs)
	}
	if code, _, errs := grout(t, "runs", "tail", "r", "--count", "1"); code != exitUsage || !strings.Contains(errs, "--count") {
		t.Errorf("exit %d, %s", code, errs)
	}
}

// lockedText is written by one goroutine and read by others.
type lockedText struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedText) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// tailing runs a command until the test ends it.
func tailing(t *testing.T, args ...string) (out, errs *lockedText, end func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, errs = &lockedText{}, &lockedText{}
	code := make(chan int, 1)
	go func() { code <- run(ctx, args, out, errs) }()
	return out, errs, func() int { cancel(); return <-code }
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("waited for %s", what)
		case <-tick.C:
		}
	}
}

// reportRun sends an event of a run.
func reportRun(t *testing.T, url, event string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url+"/api/orchestration/events", strings.NewReader(event))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Internal-API-Key", "the-internal-key")
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK || strings.Contains(string(text), `"rejected":1`) {
		t.Fatalf("%d: %s", resp.StatusCode, text)
	}
}

func TestTails(t *testing.T) {
	url := running(t)
	event := func(kind, run string) string {
		return fmt.Sprintf(`{"app_id":"shop","run_id":%q,"chat_id":"c1","user_id":"ann","workflow_name":"w","kind":%q,"timestamp":%q}`, run, kind, time.Now().UTC().Format(time.RFC3339Nano))
	}
	reportRun(t, url, event("orchestration.run_started", "r1"))
	all, notes, end := tailing(t, "events", "tail", "--url", url, "-o", "json")
	runs, _, endRuns := tailing(t, "runs", "tail", "--url", url)
	one, oneNotes, endOne := tailing(t, "runs", "tail", "r1", "--url", url)
	waitFor(t, "the past of r1", func() bool { return one.has("run_started") })
	last := 0
	waitFor(t, "both streams", func() bool { // they begin now, so one of these is the first that they show
		last++
		reportRun(t, url, event("orchestration.run_started", fmt.Sprint("s", last)))
		return all.has("run_started") && runs.has("run_started")
	})
	reportRun(t, url, event("orchestration.run_completed", "r1"))
	waitFor(t, "the end of r1", func() bool {
		return all.has("chat.orchestration.run_completed") && runs.has("run=r1 status=completed")
	})
	waitFor(t, "the end of the tail of r1", func() bool { return one.has("run_completed") })
	if code := endOne(); code != 0 {
		t.Errorf("the tail of r1: exit %d: %s", code, oneNotes.b.String())
	}
	if got := strings.Count(one.b.String(), "\n"); got != 2 || one.has("run=s1") {
		t.Errorf("the tail of r1 printed\n%s", one.b.String())
	}
	if endRuns() != 0 || end() != 0 || all.has("agui.") || !notes.has("go on with --after ") {
		t.Errorf("%s%s", all.b.String(), notes.b.String())
	}
	for line := range strings.Lines(all.b.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%s", line)
		}
	}
	code, _, errs := grout(t, "runs", "tail", "nothing", "--url", url)
	if code != 1 || !strings.Contains(errs, "NOT_FOUND") {
		t.Errorf("exit %d: %s", code, errs)
	}
	// What was ended goes on where it was.
	_, after, _ := strings.Cut(notes.b.String(), "--after ")
	reportRun(t, url, event("orchestration.run_started", "later"))
	code, out, errs := grout(t, "events", "tail", "--url", url, "--after", strings.TrimSpace(after), "--kind", "orchestration", "--count", "1")
	if code != 0 || !strings.Contains(out, "run=later") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	// The past of a run may have many pages.
	ended := []string{event("orchestration.run_started", "long")}
	for range 1_100 {
		ended = append(ended, strings.Replace(event("orchestration.agent_started", "long"), `{`, `{"agent_name":"a",`, 1))
	}
	reportRun(t, url, "["+strings.Join(append(ended, event("orchestration.run_completed", "long")), ",")+"]")
	if code, out, errs = grout(t, "runs", "tail", "long", "--url", url); code != 0 || strings.Count(out, "\n") != 1_102 {
		t.Errorf("exit %d, %d lines: %s", code, strings.Count(out, "\n"), errs)
	}
}
