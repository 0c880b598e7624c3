package plugins

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"grout/schemas"
)

// realHost runs a host over a folder a with the manifest that is given.
func realHost(t *testing.T, o Options, manifest string) *Host {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "plugins", "a", "plugin.yaml"), manifest)
	o.Dir, o.StateDir, o.Timeout, o.Logger = filepath.Join(dir, "plugins"), filepath.Join(dir, "state"), DefaultTimeout, slog.New(slog.DiscardHandler)
	h := newHost(o, &fakes{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return h
}

func callOf(t *testing.T, h *Host, c Call) Answer {
	t.Helper()
	ticket, err := h.Enter(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer ticket.Leave()
	return ticket.Call(t.Context(), c)
}

func TestPluginsOfKindGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		functions := map[string]Func{
			"a": func(ctx context.Context, data []byte, publish func(string, []byte) error) ([]byte, error) {
				switch string(data) {
				case "wait":
					<-ctx.Done()
					return nil, ctx.Err()
				case "panic":
					panic("at the disco")
				case "fail":
					return nil, errors.New("no")
				case "publish":
					return []byte("1"), publish("said", []byte(`"the token"`))
				}
				return data, nil
			},
		}
		h := realHost(t, Options{Go: functions}, "runtime: {kind: go}")
		var published []string
		publish := func(name string, data []byte) error {
			published = append(published, name+"="+string(data))
			return nil
		}
		for _, c := range []struct{ in, code, out string }{
			{`{"a":1.0}`, "", `{"a":1.0}`},
			{"publish", "", "1"},
			{"fail", "PLUGIN_ERROR", "Error executing plugin: no"},
			{"panic", "PLUGIN_ERROR", "Error executing plugin: panic: at the disco"},
			{"wait", "PLUGIN_TIMEOUT", "Plugin execution timed out after 30.0 seconds"},
			{"not json", "PLUGIN_ERROR", "Error executing plugin: its result is not JSON"},
			{`{"echo":"the token"}`, "", `{"echo":"[hidden]"}`},
			{`{"error":"the token"}`, "PLUGIN_ERROR", `[hidden]`},
			{`{"_usage":["the token"]}`, "", `{}`},
		} {
			a := callOf(t, h, Call{Input: []byte(c.in), Publish: publish, Secret: "the token"})
			if string(a.Code) != c.code || !strings.HasPrefix(a.Detail+string(a.Result), c.out) || strings.Contains(string(a.Usage), "token") {
				t.Errorf("%s: %+v %s", c.in, a, a.Result)
			}
		}
		if len(published) != 1 || published[0] != `said="[hidden]"` {
			t.Errorf("%q", published)
		}
		if a := callOf(t, h, Call{Input: []byte("publish")}); a.Code != "PLUGIN_ERROR" {
			t.Errorf("publishing where nothing can be: %+v", a)
		}
	})
}

func TestAFunctionThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := realHost(t, Options{}, "runtime: {kind: go, entry: ehco}")
		synctest.Wait()
		if i := h.List(); i[0].Error != `runtime.entry: no function "ehco" is built in; there are echo` {
			t.Errorf("%+v", i)
		}
	})
}

// fakeBus answers requests as a test says.
type fakeBus struct {
	mu      sync.Mutex
	subject string // of the service a
	asked   []string
	answer  func(ctx context.Context, data []byte, receive func(map[string][]string, []byte) bool) error
}

func (b *fakeBus) Service(_ context.Context, name string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subject == "" {
		return "", schemas.Errorf(schemas.CodeNotFound, "no NATS service %s is running", name)
	}
	return b.subject, nil
}

func (b *fakeBus) Request(ctx context.Context, subject string, header map[string]string, data []byte, receive func(map[string][]string, []byte) bool) error {
	b.mu.Lock()
	b.asked = append(b.asked, subject+" "+header[headerRun]+" "+header[headerTimeout])
	b.mu.Unlock()
	return b.answer(ctx, data, receive)
}

func TestPluginsOfKindNATS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{answer: func(ctx context.Context, data []byte, receive func(map[string][]string, []byte) bool) error {
			switch string(data) {
			case "silent":
				<-ctx.Done()
				return ctx.Err()
			case "nobody":
				return schemas.Errorf(schemas.CodeNotFound, "nobody")
			case "closed":
				return errors.New("nats: connection closed")
			case "failed":
				receive(map[string][]string{headerError: {"out of tea"}, headerCode: {"418"}}, nil)
				return nil
			case "own":
				receive(map[string][]string{headerError: {"out of tea"}, headerCode: {"NO_TEA"}}, []byte("{}"))
				return nil
			case "publish":
				if !receive(map[string][]string{headerPublish: {"step"}}, []byte("1")) {
					return nil
				}
			case "publish wrong":
				if !receive(map[string][]string{headerPublish: {"wrong"}}, []byte("1")) {
					return nil
				}
			}
			receive(nil, []byte(`{"ok":true}`))
			return nil
		}}
		h := realHost(t, Options{Bus: b}, "runtime: {kind: nats, subject: far.away}\nlimits: {timeout: 2s}")
		published := 0
		publish := func(name string, _ []byte) error {
			published++
			if name == "wrong" {
				return errors.New("that is no name")
			}
			return nil
		}
		for _, c := range []struct{ in, code, out string }{
			{"", "", `{"ok":true}`},
			{"publish", "", `{"ok":true}`},
			{"publish wrong", "PLUGIN_ERROR", `Error executing plugin: publish "wrong": that is no name`},
			{"silent", "PLUGIN_TIMEOUT", "Plugin execution timed out after 2.0 seconds"},
			{"nobody", "PLUGIN_ERROR", "Error executing plugin: no NATS service answers on far.away"},
			{"closed", "PLUGIN_ERROR", "Error executing plugin: nats: connection closed"},
			{"failed", "PLUGIN_ERROR", "Error executing plugin: out of tea"},
			{"own", "NO_TEA", "Error executing plugin: out of tea"},
		} {
			a := callOf(t, h, Call{RunID: "run-1", Input: []byte(c.in), Publish: publish})
			if string(a.Code) != c.code || a.Detail+string(a.Result) != c.out {
				t.Errorf("%q: %+v %s", c.in, a, a.Result)
			}
		}
		if published != 2 || b.asked[0] != "far.away run-1 2000" {
			t.Errorf("%d published, %q", published, b.asked)
		}
	})
}

func TestNATSServicesAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBus{}
		b.answer = func(_ context.Context, _ []byte, receive func(map[string][]string, []byte) bool) error {
			b.mu.Lock()
			gone := b.subject == ""
			b.mu.Unlock()
			if gone {
				return schemas.Errorf(schemas.CodeNotFound, "nobody")
			}
			receive(nil, []byte(`1`))
			return nil
		}
		set := func(subject string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.subject = subject
		}
		h := realHost(t, Options{Bus: b}, "runtime: {kind: nats}")
		synctest.Wait()
		if i := h.List()[0]; i.Enabled || i.Error != "find the NATS service a: no NATS service a is running" {
			t.Errorf("%+v", i)
		}
		set("one.place")
		time.Sleep(lookWait + lookEvery)
		if a := callOf(t, h, Call{}); a.Code != "" {
			t.Errorf("%+v", a)
		}
		set("")
		if a := callOf(t, h, Call{}); a.Detail != "Error executing plugin: no NATS service answers on one.place" {
			t.Errorf("%+v", a)
		}
		set("another.place")
		time.Sleep(lookWait + lookEvery)
		if a := callOf(t, h, Call{}); a.Code != "" || !strings.HasPrefix(b.asked[len(b.asked)-1], "another.place") {
			t.Errorf("%+v %q", a, b.asked)
		}
	})
}

func TestCheckLoadsEveryPlugin(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "plugins", "a", "logic.py"), "")
	write(t, filepath.Join(dir, "plugins", "b", "logic.py"), "")
	write(t, filepath.Join(dir, "plugins", "c", "plugin.yaml"), "x: 1")
	r := &fakes{onStart: func(_ context.Context, p *plugin) error {
		if p.Name == "b" {
			return errors.New("SyntaxError: line 1")
		}
		return nil
	}}
	h := newHost(Options{Dir: filepath.Join(dir, "plugins"), StateDir: dir, Timeout: time.Second, Logger: slog.New(slog.DiscardHandler)}, r)
	infos, err := h.check(t.Context())
	if err != nil || len(infos) != 3 || !infos[0].Loaded() || infos[1].Error != "SyntaxError: line 1" || !strings.Contains(infos[2].Error, `"x" is not known`) {
		t.Errorf("%v %+v", err, infos)
	}
	if r.live != 0 {
		t.Errorf("%d workers are left", r.live)
	}
	r.starts = 0
	h = newHost(Options{Dir: filepath.Join(dir, "plugins"), Only: []string{"a"}, StateDir: dir, Timeout: time.Second, Logger: slog.New(slog.DiscardHandler)}, r)
	if infos, err := h.check(t.Context()); err != nil || len(infos) != 1 || infos[0].Name != "a" || r.starts != 1 {
		t.Errorf("%v %+v, %d starts", err, infos, r.starts)
	}
}
