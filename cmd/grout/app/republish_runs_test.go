package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"grout/handlers/identity"
	"grout/handlers/plugins"
)

// runsHistory lets plugins run, and reports runs of others.
type runsHistory struct {
	token   string
	slow    string       // a run that outlives its process
	calls   atomic.Int32 // of slow plugins
	release chan struct{}
}

// newRunsHistory sets up what post needs, before the start.
func newRunsHistory(t *testing.T, cfg *Config) *runsHistory {
	t.Helper()
	h := &runsHistory{release: make(chan struct{})}
	cfg.PluginsPath, cfg.Monetization, cfg.drain = t.TempDir(), true, 200*time.Millisecond
	secret := []byte("0123456789abcdef0123456789abcdef")
	cfg.JWTSecret = Secret{Values: []string{string(secret)}}
	var err error
	if h.token, err = identity.Sign(identity.Options{Secret: secret}, "u", time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	cfg.functions = map[string]plugins.Func{"story": h.story, "slow": h.sleep}
	for name, files := range map[string]map[string]string{
		"story": {
			"plugin.yaml":       "runtime: {kind: go, entry: story}\n",
			"entitlements.yaml": "schema_version: \"1.0\"\nplugin: story\nlimits: {items: {default: 6}}\ntiers: {unlimited: {}}\nactions: {make: {consumes: {items: 1}}}\n",
		},
		"slow": {"plugin.yaml": "runtime: {kind: go, entry: slow}\nretry_on_crash: true\n"},
	} {
		for file, text := range files {
			path := filepath.Join(cfg.PluginsPath, name, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return h
}

// story publishes something, and burns tokens.
func (h *runsHistory) story(_ context.Context, data []byte, publish func(string, []byte) error) ([]byte, error) {
	var in struct{ Fail bool }
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	if err := publish("story.page", []byte(`{"page":1}`)); err != nil {
		return nil, err
	}
	if in.Fail {
		return []byte(`{"error":"no idea","error_code":"NO_IDEA"}`), nil
	}
	return []byte(`{"text":"once","_usage":[{"model":"m","input_tokens":20,"output_tokens":3,"cost":0.001}]}`), nil
}

// sleep runs until it is stopped, and after a restart of grout until it is released.
func (h *runsHistory) sleep(ctx context.Context, _ []byte, _ func(string, []byte) error) ([]byte, error) {
	h.calls.Add(1)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.release:
		return []byte(`{"slept":true}`), nil
	}
}

// send sends a request of the user and gives its status and answer.
func (h *runsHistory) send(t *testing.T, method, url string, body any, headers ...string) (status int, answer map[string]any) {
	t.Helper()
	var text []byte
	var err error
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(got, &answer)
	return resp.StatusCode, answer
}

func (h *runsHistory) post(t *testing.T, url string) {
	t.Helper()
	want := func(status int, answer map[string]any, wanted int) {
		t.Helper()
		if status != wanted {
			t.Fatalf("status %d, want %d: %v", status, wanted, answer)
		}
	}
	for i := range 8 { // of six items; every third call fails and takes none
		status, answer := h.send(t, http.MethodPost, url+"/api/execute/story", map[string]any{"action": "make", "fail": i%3 == 2}, "Idempotency-Key", fmt.Sprint("key-", i))
		want(status, answer, map[bool]int{false: 200, true: 500}[i%3 == 2])
		status, answer = h.send(t, http.MethodPost, url+"/api/execute/story", map[string]any{"action": "make", "fail": i%3 == 2}, "Idempotency-Key", fmt.Sprint("key-", i))
		want(status, answer, map[bool]int{false: 200, true: 500}[i%3 == 2])
	}
	status, answer := h.send(t, http.MethodPost, url+"/api/execute/story", map[string]any{"action": "make"})
	want(status, answer, http.StatusTooManyRequests)
	for range 2 {
		status, answer = h.send(t, http.MethodPost, url+"/api/execute/slow", map[string]any{}, "Prefer", "respond-async")
		want(status, answer, http.StatusAccepted)
		if h.slow == "" {
			h.slow, _ = answer["run_id"].(string)
			continue
		}
		status, answer = h.send(t, http.MethodPost, fmt.Sprint(url, "/api/runs/", answer["run_id"], "/cancel"), nil)
		want(status, answer, http.StatusOK)
	}
	for i := range 21 {
		app, run := fmt.Sprint("app-", i%7), fmt.Sprint("run-", i%3)
		event := func(kind string) map[string]any {
			return map[string]any{"kind": "orchestration." + kind, "run_id": run, "event_id": fmt.Sprint(kind, i/2), "app_id": app, "chat_id": run, "timestamp": time.Now().UTC().Format(time.RFC3339Nano)}
		}
		list := []any{event("run_started"), event("agent_started"), event("agent_completed")}
		if i%2 == 0 {
			list = append(list[1:], event("run_completed"), event("tool_started"))
		}
		postJSON(t, url, "/api/orchestration/events", list)
	}
	h.until(t, func() bool { return h.calls.Load() >= 1 })
}

// rerun waits until the run that outlived its process has ended in this one.
func (h *runsHistory) rerun(t *testing.T, url string) {
	t.Helper()
	close(h.release)
	h.until(t, func() bool {
		_, answer := h.send(t, http.MethodGet, url+"/api/runs/"+h.slow, nil)
		return answer["status"] == "completed"
	})
	if n := h.calls.Load(); n < 2 {
		t.Errorf("the slow plugin was called %d times", n)
	}
}

func (h *runsHistory) until(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited too long")
		}
	}
}
