package plugins

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	lookEvery = 500 * time.Millisecond // at the directory
	lookAgain = 150 * time.Millisecond // when something has changed, until it stays as it is
)

// Run looks at the directory all the time and keeps workers, until ctx ends. When it
// returns, no worker is left. A host runs once.
func (h *Host) Run(ctx context.Context) error {
	h.mu.Lock()
	if h.ctx != nil {
		h.mu.Unlock()
		return errors.New("plugins: the host has been run before")
	}
	h.ctx, h.live = ctx, map[worker]struct{}{}
	h.mu.Unlock()
	defer h.stop()
	timer := time.NewTimer(lookEvery)
	defer timer.Stop()
	for {
		now := time.Now()
		for _, p := range h.all() {
			p.kick(now)
		}
		h.logs.rest(now)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		began := time.Now()
		soon := h.look()
		next := min(max(lookEvery, 5*time.Since(began)), 2*lookEvery) // large folders cost time
		if soon {
			next = lookAgain
		}
		timer.Reset(next)
	}
}

// stop ends every worker and waits until that is so.
func (h *Host) stop() {
	h.mu.Lock()
	h.stopped = true
	h.mu.Unlock()
	for _, p := range h.all() {
		p.close()
	}
	h.work.Wait()
	h.mu.Lock()
	live := h.live
	h.live = nil
	h.mu.Unlock()
	var ends sync.WaitGroup
	for w := range live {
		ends.Go(w.stop)
	}
	ends.Wait()
	h.logs.close()
}

// context is that of Run.
func (h *Host) context() context.Context {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil {
		return context.Background()
	}
	return h.ctx
}

func (h *Host) running() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ctx != nil && !h.stopped && h.ctx.Err() == nil
}

// over reports whether the host has stopped.
func (h *Host) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stopped
}

// spawn runs work that stop waits for. It reports whether it did.
func (h *Host) spawn(work func()) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx == nil || h.stopped {
		return false
	}
	h.work.Go(work)
	return true
}

// lives notes a worker that has started.
func (h *Host) lives(w worker) {
	h.mu.Lock()
	if h.live != nil && !h.stopped {
		h.live[w] = struct{}{}
		h.mu.Unlock()
		return
	}
	h.mu.Unlock()
	w.stop()
}

// end stops a worker, without waiting for it.
func (h *Host) end(w worker) {
	h.spawn(func() { // stop ends those that are left
		w.stop()
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.live, w)
	})
}

// permit waits, but not for long, until fewer plugins load. What it gives ends the load.
func (h *Host) permit(ctx context.Context) func() {
	timer := time.NewTimer(loadPatience)
	defer timer.Stop()
	select {
	case h.loads <- struct{}{}:
		return func() { <-h.loads }
	case <-timer.C:
	case <-ctx.Done():
	}
	return func() {}
}
