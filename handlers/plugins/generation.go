package plugins

import (
	"context"
	"errors"
	"time"
)

// idleKept is how long workers beyond the first are kept with nothing to do.
const idleKept = 5 * time.Minute

// generation is one version of a plugin with its workers. What follows plugin is guarded
// by the pool's lock.
type generation struct {
	pool   *pool
	plugin *plugin
	ctx    context.Context // ends when no worker of this version is to start any more
	cancel context.CancelCauseFunc
	tried  chan struct{} // closed once a worker has started, or has not

	idle           []idleWorker // the last one is taken first
	busy, starting int
	loaded         bool   // a worker has started
	broken         string // why none does
	fails          int    // crashes in a row
	late           int    // calls in a row that ran into their time limit
	notBefore      time.Time
	installed      time.Time // as the one that takes calls
	retired        bool
}

type idleWorker struct {
	worker
	since time.Time
}

func newGeneration(p *pool, v *plugin) *generation {
	g := &generation{pool: p, plugin: v, tried: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancelCause(context.Background())
	return g
}

func (g *generation) info() Info {
	i := g.plugin.infoOf(g.plugin.dir)
	if g.broken != "" {
		i.Enabled, i.Error = false, g.broken
	}
	return i
}

func (g *generation) total() int { return g.busy + g.starting + len(g.idle) }

func (g *generation) wasTried() bool {
	select {
	case <-g.tried:
		return true
	default:
		return false
	}
}

func gone(w worker) bool {
	select {
	case <-w.gone():
		return true
	default:
		return false
	}
}

// take gives an idle worker, nil when there is none.
func (g *generation) take() worker {
	for len(g.idle) > 0 {
		last := len(g.idle) - 1
		w := g.idle[last].worker
		g.idle = g.idle[:last]
		if !gone(w) {
			g.busy++
			return w
		}
		g.crashed("it ended while it had nothing to do")
		g.pool.host.end(w)
	}
	return nil
}

// serve hands idle workers to those who wait.
func (g *generation) serve() {
	p := g.pool
	for len(p.waiting) > 0 {
		w := g.take()
		if w == nil {
			return
		}
		p.waiting[0].got <- grant{gen: g, worker: w}
		p.waiting = p.waiting[1:]
	}
}

// called notes what came of a call.
func (g *generation) called(ctx context.Context, w worker, r *reply) {
	g.pool.mu.Lock()
	defer g.pool.mu.Unlock()
	g.pool.stats.Calls++
	switch {
	case r.fault == nil:
		g.fails, g.late = 0, 0
	case gone(w) && !endedBy(ctx, r.fault):
		g.crashed(r.fault.Error())
	case !gone(w): // it has answered, with an error
		g.late = 0
	case errors.Is(r.fault, errTimedOut):
		if g.late++; g.late > freeCrashes { // a start costs more than the call that it is for
			g.notBefore = time.Now().Add(backoff(g.late-freeCrashes, lateWait))
		}
	}
}

// endedBy reports whether a call ended because its context had.
func endedBy(ctx context.Context, fault error) bool {
	return ctx.Err() != nil && (errors.Is(fault, context.Cause(ctx)) || errors.Is(fault, ctx.Err()))
}

// replace gives a ticket another worker for one that has ended while it waited.
func (g *generation) replace(ctx context.Context, old worker) (worker, error) {
	h := g.pool.host
	h.end(old)
	g.pool.mu.Lock()
	g.crashed("it ended while it had nothing to do")
	wait := time.Until(g.notBefore)
	g.pool.mu.Unlock()
	if wait > 0 {
		pause(ctx, wait)
	}
	start, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	w, err := h.runtimes[g.plugin.Kind].start(start, g.plugin)
	if err == nil {
		h.lives(w)
		return w, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, err
}

// leave takes a worker back.
func (g *generation) leave(w worker) {
	p := g.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	g.busy--
	if g.retired || gone(w) {
		p.host.end(w)
	} else {
		g.idle = append(g.idle, idleWorker{w, time.Now()})
		if p.current == g {
			g.serve()
		}
	}
	if g.retired {
		g.drained()
		return
	}
	g.grow()
}

// trim ends workers that have had nothing to do for long, all but one.
func (g *generation) trim(now time.Time) {
	for len(g.idle) > 0 && g.busy+len(g.idle) > 1 && now.Sub(g.idle[0].since) > idleKept {
		g.pool.host.end(g.idle[0].worker)
		g.idle = g.idle[1:]
	}
}

// retire lets calls that have begun finish, and ends everything else.
func (g *generation) retire() {
	if g.retired {
		return
	}
	g.retired = true
	g.cancel(errGone)
	for _, w := range g.idle {
		g.pool.host.end(w.worker)
	}
	g.idle = nil
	if g.busy+g.starting > 0 {
		g.pool.draining++
	}
}

// drained notes the end of a version that was retired.
func (g *generation) drained() {
	if g.busy+g.starting == 0 {
		g.pool.draining--
	}
}

// pause waits, or less when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
