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
	"sync"
	"testing"
	"time"

	"grout/handlers/httpapi"
	"grout/handlers/plugins"
	"grout/schemas"
)

// executing is an instance with a plugin echo that is built in.
type executing struct {
	running
	t     *testing.T
	token string
}

func serveEcho(t *testing.T, cfg Config) executing {
	t.Helper()
	cfg.PluginsPath = t.TempDir()
	if err := os.MkdirAll(filepath.Join(cfg.PluginsPath, "echo"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.PluginsPath, "echo", plugins.ManifestFile), []byte("name: echo\nruntime: {kind: go, entry: echo}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := LoadSecrets(&cfg); err != nil {
		t.Fatal(err)
	}
	token, err := UserToken(&cfg, TokenUser{ID: "ann"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return executing{serve(t, cfg), t, token}
}

func (e *executing) send(method, path, body string, headers ...string) (int, []byte) {
	req, err := http.NewRequestWithContext(e.t.Context(), method, e.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		e.t.Error(err)
		return 0, nil
	}
	req.Header.Set("Authorization", "Bearer "+e.token)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		e.t.Error(err)
		return 0, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		e.t.Error(err)
	}
	return resp.StatusCode, text
}

// Many callers at once, some of whom cancel: everybody is answered with what the log says.
func TestManyExecutions(t *testing.T) {
	e := serveEcho(t, testConfig(t, 4))
	defer e.stop()
	var all sync.WaitGroup
	for caller := range 16 {
		all.Go(func() {
			for n := range 20 {
				body := fmt.Sprintf(`{"caller":%d,"n":%d}`, caller, n)
				var got struct {
					Caller, N int
					Run       string `json:"run_id"`
				}
				if caller%4 > 0 {
					status, text := e.send("POST", "/api/execute/echo", body)
					if err := json.Unmarshal(text, &got); err != nil || status != 200 || got.Caller != caller || got.N != n {
						t.Errorf("answered %d %s", status, text)
					}
					continue
				}
				status, text := e.send("POST", "/api/execute/echo", body, "Prefer", "respond-async")
				if err := json.Unmarshal(text, &got); err != nil || status != 202 {
					t.Errorf("answered %d %s", status, text)
				}
				if status, text := e.send("POST", "/api/runs/"+got.Run+"/cancel", ""); status != 200 && status != 409 {
					t.Errorf("cancelled %d %s", status, text)
				}
			}
		})
	}
	all.Wait()
	for range 200 { // what was not waited for
		if _, text := e.send("GET", "/api/runs?status=in_progress", ""); bytes.HasPrefix(text, []byte(`{"runs":[],`)) {
			return
		}
	}
	t.Error("some run does not end")
}

// What is left for executions is bounded, and goes with them.
func TestExpectedIsBounded(t *testing.T) {
	cfg := testConfig(t, 1)
	s := newSupervisor(cfg, newLogger(io.Discard, cfg), func(*node) {})
	x := newExecutions(s, nil)
	token := string(bytes.Repeat([]byte("t"), 64<<10))
	var kept []*expected
	for n := 0; ; n++ {
		e, err := x.expect(httpapi.Expected{App: "a", Run: fmt.Sprint(n), Plugin: "p", Token: token})
		if err != nil {
			if known, ok := err.(*schemas.Error); !ok || known.Code != schemas.CodePluginBusy {
				t.Errorf("refused by %v", err)
			}
			break
		}
		kept = append(kept, e)
	}
	if n := len(kept); n != maxExpectedBytes/len(token) {
		t.Errorf("%d tokens are kept", n)
	}
	for i, e := range kept {
		if i%2 == 0 {
			e.Drop()
		} else if got := x.tokenOf(e); got != token || x.tokenOf(e) != "" {
			t.Error("a token is given other than once")
		}
	}
	if x.bytes != 0 {
		t.Errorf("%d bytes are kept", x.bytes)
	}
	left := &countedTicket{}
	e, err := x.expect(httpapi.Expected{App: "a", Run: "one", Plugin: "p", Ticket: left})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := e.Wait(ended); ok || left.n != 1 {
		t.Errorf("a worker that nobody came for was left %d times", left.n)
	}
	e.Drop()
	if left.n != 1 {
		t.Errorf("a worker was left %d times", left.n)
	}
}

type countedTicket struct{ n int }

func (t *countedTicket) Leave() { t.n++ }

// Users learn why a plugin does not load, not where it lies.
func TestWhereAPluginLiesIsNotTold(t *testing.T) {
	i := plugins.Info{Name: "x", Path: "/srv/plugins/x", Error: "ImportError: cannot import name 'a' from 'x.b' (/srv/plugins/x/b.py)"}
	if got, want := portOf(&i).Error, "ImportError: cannot import name 'a' from 'x.b' (x/b.py)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// As many calls are let in without a worker as are soon done.
func TestTempos(t *testing.T) {
	for _, c := range []struct {
		took                     time.Duration
		concurrency, queue, want int
	}{
		{100 * time.Microsecond, 4, 128, maxAhead},
		{100 * time.Microsecond, 4, 10, 10},
		{5 * time.Millisecond, 4, 128, 16},
		{20 * time.Millisecond, 1, 128, 1},
		{21 * time.Millisecond, 1, 128, 0},
		{time.Second, 4, 128, 0},
	} {
		var p tempos
		info := plugins.Info{Name: "x", Limits: plugins.Limits{Concurrency: c.concurrency, Queue: c.queue}}
		if p.admit(&info) != nil {
			t.Error("one of which nothing is known is let in")
		}
		p.note("x", c.took)
		var in []*ahead
		for a := p.admit(&info); a != nil; a = p.admit(&info) {
			in = append(in, a)
		}
		if len(in) != c.want {
			t.Errorf("%s, %d at once, %d may wait: %d are let in, want %d", c.took, c.concurrency, c.queue, len(in), c.want)
		}
		for _, a := range in {
			a.Leave()
			a.Leave()
		}
		if again := p.admit(&info); (again != nil) != (c.want > 0) {
			t.Error("those that have left are counted")
		}
		p.note("x", time.Hour) // one that takes long shows at once
		if c.want > 0 && p.admit(&info) != nil {
			t.Error("a slow one is let in")
		}
	}
}
