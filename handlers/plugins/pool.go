package plugins

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"grout/schemas"
)

const (
	// maxDraining is how many older versions of a plugin may still have calls; a change on
	// disk waits for one of them to end.
	maxDraining = 3
	// swapGrace is how long calls still go to the old version of a plugin while the new one
	// loads.
	swapGrace = time.Second
	// loadChance is how long a version that somebody waits for may load before it gives way
	// to the next one: without it, one change after the other would never let anybody in.
	loadChance = 5 * time.Second
)

// pool is a plugin by its name: the version that takes calls, and who waits for a worker.
type pool struct {
	host *Host
	name string

	mu       sync.Mutex
	current  *generation // nil: it cannot be called, and told says why
	next     *generation // loads, to be current soon
	told     Info        // of what was found last, when there is no current
	waiting  []*waiter   // the first came first
	draining int
	stats    Stat
}

// waiter is a call that waits for a worker.
type waiter struct{ got chan grant }

// grant is what a waiter gets: a worker with its version, or why there is none.
type grant struct {
	gen    *generation
	worker worker
	err    error
}

func (p *pool) info() Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.infoNow()
}

func (p *pool) infoNow() Info {
	if p.current != nil {
		return p.current.info()
	}
	return p.told
}

func (p *pool) stat() Stat {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Name, s.Waiting = p.name, len(p.waiting)
	if g := p.current; g != nil {
		s.Busy, s.Workers = g.busy, g.busy+len(g.idle)
	}
	return s
}

// enter waits for a worker.
func (p *pool) enter(ctx context.Context) (*Ticket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	info := p.infoNow()
	if err := callable(&info); err != nil {
		p.mu.Unlock()
		return nil, err
	}
	if p.host.over() {
		p.mu.Unlock()
		return nil, schemas.Errorf(schemas.CodeUnavailable, "%s", errStopped)
	}
	g := p.current
	if w := g.take(); w != nil {
		p.mu.Unlock()
		return &Ticket{gen: g, worker: w}, nil
	}
	l := &g.plugin.Limits
	if len(p.waiting) >= l.Queue+l.Concurrency-g.busy { // what is not busy is about to be free
		p.mu.Unlock()
		return nil, busy(p.name)
	}
	w := &waiter{got: make(chan grant, 1)}
	p.waiting = append(p.waiting, w)
	g.grow()
	p.mu.Unlock()
	return p.wait(ctx, w, l.QueueTimeout)
}

func (p *pool) wait(ctx context.Context, w *waiter, most time.Duration) (*Ticket, error) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	var late error
	select {
	case g := <-w.got:
		return g.ticket()
	case <-ctx.Done():
		late = ctx.Err()
	case <-timer.C:
		late = busy(p.name)
	}
	p.mu.Lock()
	i := slices.Index(p.waiting, w)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		return nil, late
	}
	t, err := (<-w.got).ticket() // it came at the last moment
	if err == nil && ctx.Err() != nil {
		t.Leave()
		return nil, ctx.Err()
	}
	return t, err
}

func (g grant) ticket() (*Ticket, error) {
	if g.err != nil {
		return nil, g.err
	}
	return &Ticket{gen: g.gen, worker: g.worker}, nil
}

// dismiss tells everybody who waits that there is nothing to wait for.
func (p *pool) dismiss(err error) {
	for _, w := range p.waiting {
		w.got <- grant{err: err}
	}
	p.waiting = nil
}

// refuse makes the plugin one that cannot be called.
func (p *pool) refuse(told Info) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = told
	for _, g := range []*generation{p.current, p.next} {
		if g != nil {
			g.retire()
		}
	}
	p.current, p.next = nil, nil
	err := callable(&told)
	if err == nil {
		err = notFound(p.name)
	}
	p.dismiss(err)
}

// accept takes a version that can be called. The first one takes calls at once; another
// one when it has loaded, or soon.
func (p *pool) accept(v *plugin) {
	g := newGeneration(p, v)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != nil {
		p.next.retire()
		p.next = nil
	}
	if p.current == nil || !p.host.running() {
		p.install(g)
		return
	}
	p.next = g
	g.grow()
	if !p.host.spawn(func() { p.swap(g) }) {
		p.install(g)
	}
}

// swap makes a version the current one once it has been tried.
func (p *pool) swap(g *generation) {
	timer := time.NewTimer(swapGrace)
	defer timer.Stop()
	select {
	case <-g.tried:
	case <-timer.C:
	case <-g.ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == g {
		p.next = nil
		p.install(g)
	}
}

func (p *pool) install(g *generation) {
	if p.current != nil {
		p.current.retire()
		p.stats.Reloads++
	}
	p.current, g.installed = g, time.Now()
	g.serve()
	if g.broken != "" {
		p.dismiss(loadFailed(p.name))
	}
	g.grow()
}

// settled reports whether another version can be taken now.
func (p *pool) settled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if g := p.current; g != nil && len(p.waiting) > 0 && !g.wasTried() && time.Since(g.installed) < loadChance {
		return false
	}
	return p.draining < maxDraining
}

// kick starts what should run: a first worker, another try of what did not load.
func (p *pool) kick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil {
		p.current.trim(now)
		p.current.grow()
	}
}

// close ends everything but calls that have begun.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = p.infoNow()
	for _, g := range []*generation{p.current, p.next} {
		if g != nil {
			g.retire()
		}
	}
	p.current, p.next = nil, nil
	p.dismiss(schemas.Errorf(schemas.CodeUnavailable, "%s", errStopped))
}

// errGone is why an older version's work ends.
var errGone = errors.New("the plugin was changed")
