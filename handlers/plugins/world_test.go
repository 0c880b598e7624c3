package plugins

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"grout/schemas"
)

// fakes is a runtime whose workers do what a test says.
type fakes struct {
	onStart func(ctx context.Context, p *plugin) error
	onCall  func(ctx context.Context, w *fakeWorker, c *Call) reply

	mu              sync.Mutex
	starts, live    int
	calling, atOnce map[string]int // now, and the most that there were
}

type fakeWorker struct {
	r     *fakes
	p     *plugin
	once  sync.Once
	ended chan struct{}
}

func (r *fakes) start(ctx context.Context, p *plugin) (worker, error) {
	r.mu.Lock()
	r.starts++
	r.mu.Unlock()
	if r.onStart != nil {
		if err := r.onStart(ctx, p); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.live++
	return &fakeWorker{r: r, p: p, ended: make(chan struct{})}, nil
}

func (r *fakes) started() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts
}

func (r *fakes) living() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.live
}

func (w *fakeWorker) call(ctx context.Context, c *Call) reply {
	r, name := w.r, w.p.Name+" "+w.p.Version
	r.mu.Lock()
	r.calling[name]++
	r.atOnce[name] = max(r.atOnce[name], r.calling[name])
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.calling[name]--
		r.mu.Unlock()
	}()
	if w.r.onCall == nil {
		return reply{result: c.Input}
	}
	return w.r.onCall(ctx, w, c)
}

func (w *fakeWorker) gone() <-chan struct{} { return w.ended }

func (w *fakeWorker) stop() {
	w.once.Do(func() {
		close(w.ended)
		w.r.mu.Lock()
		defer w.r.mu.Unlock()
		w.r.live--
	})
}

// sleep takes time, or ends the worker when the call is ended.
func (w *fakeWorker) sleep(ctx context.Context, d time.Duration) reply {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return reply{result: []byte(`"` + w.p.Version + `"`)}
	case <-ctx.Done():
		w.stop()
		return reply{fault: context.Cause(ctx)}
	}
}

// world is a host over a directory of a test, in a bubble of synctest.
type world struct {
	t    *testing.T
	h    *Host
	r    *fakes
	dir  string
	stop func()
}

// write writes a file of the directory of plugins.
func (w *world) write(path, text string) { write(w.t, filepath.Join(w.dir, path), text) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// inWorld runs a test with fake time over the files that are given.
func inWorld(t *testing.T, files map[string]string, r *fakes, test func(w *world)) {
	dir := t.TempDir()
	for path, text := range files {
		write(t, filepath.Join(dir, "plugins", path), text)
	}
	synctest.Test(t, func(t *testing.T) {
		r.calling, r.atOnce = map[string]int{}, map[string]int{}
		w := &world{t: t, r: r, dir: filepath.Join(dir, "plugins")}
		w.h = newHost(Options{Dir: w.dir, StateDir: filepath.Join(dir, "state"), Timeout: DefaultTimeout, Logger: slog.New(slog.DiscardHandler)}, r)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.h.Run(ctx) }()
		w.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if n := r.living(); n != 0 {
				t.Errorf("%d workers are left", n)
			}
		})
		defer w.stop()
		synctest.Wait()
		test(w)
	})
}

// do enters and calls.
func (w *world) do(name string) (Answer, error) {
	ticket, err := w.h.Enter(w.t.Context(), name)
	if err != nil {
		return Answer{}, err
	}
	defer ticket.Leave()
	return ticket.Call(w.t.Context(), Call{RunID: "r", Input: []byte(`{}`)}), nil
}

func (w *world) enter(name string) *Ticket {
	w.t.Helper()
	ticket, err := w.h.Enter(w.t.Context(), name)
	if err != nil {
		w.t.Fatal(err)
	}
	return ticket
}

func codeOf(err error) schemas.Code {
	var known *schemas.Error
	if errors.As(err, &known) {
		return known.Code
	}
	return ""
}
