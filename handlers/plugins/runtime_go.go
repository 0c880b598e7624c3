package plugins

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// goRuntime calls functions of this program: for tests and examples.
type goRuntime struct{ functions map[string]Func }

// builtIn are the functions that every grout has.
var builtIn = map[string]Func{
	"echo": func(_ context.Context, data []byte, _ func(string, []byte) error) ([]byte, error) { return data, nil },
}

func newGoRuntime(more map[string]Func) *goRuntime {
	functions := maps.Clone(builtIn)
	maps.Copy(functions, more)
	return &goRuntime{functions}
}

func (r *goRuntime) start(_ context.Context, p *plugin) (worker, error) {
	f := r.functions[p.Entry]
	if f == nil {
		return nil, fmt.Errorf("runtime.entry: no function %s is built in; there are %s", shown(p.Entry), strings.Join(slices.Sorted(maps.Keys(r.functions)), ", "))
	}
	w := &goWorker{f: f, ended: make(chan struct{})}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	return w, nil
}

// goWorker calls a function. It waits for the function to return: what does not heed its
// context cannot be ended.
type goWorker struct {
	f      Func
	ctx    context.Context
	cancel context.CancelCauseFunc
	once   sync.Once
	ended  chan struct{}
}

func (w *goWorker) call(ctx context.Context, c *Call) (r reply) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.ctx, func() { cancel(context.Cause(w.ctx)) })()
	defer func() {
		if p := recover(); p != nil {
			r = reply{fault: fmt.Errorf("panic: %v", p)}
		}
	}()
	result, err := w.f(ctx, c.Input, c.publish)
	if ctx.Err() != nil {
		return reply{fault: context.Cause(ctx)}
	}
	return reply{result: result, fault: err}
}

func (w *goWorker) gone() <-chan struct{} { return w.ended }

func (w *goWorker) stop() {
	w.once.Do(func() {
		w.cancel(errGone)
		close(w.ended)
	})
}
