package plugins

import (
	"context"
	"errors"
	"time"
)

const (
	startTimeout = 60 * time.Second
	loadsAtOnce  = 4               // plugins that load at the same time
	startsAtOnce = 2               // workers of a plugin that has loaded
	loadPatience = 2 * time.Second // that a load waits for others, no longer

	freeCrashes = 3 // in a row, after which the next start waits
	firstWait   = 100 * time.Millisecond
	crashWait   = 10 * time.Second // at most
	lateWait    = time.Second      // at most, after calls that ran into their time limit
	loadWait    = time.Minute      // at most, between tries of a plugin that does not load
	lookWait    = 2 * time.Second  // the same when a try costs little
)

// grow starts as many workers as are waited for, and one when there is none. They start
// few at a time, and the first alone, so that the one that is ready first is not the later
// for it.
func (g *generation) grow() {
	p := g.pool
	if g.retired || !p.host.running() {
		return
	}
	want := 0
	if p.current == g {
		want = len(p.waiting) - g.starting
	}
	if g.total() == 0 && (g.broken == "" || !time.Now().Before(g.notBefore)) {
		want = max(want, 1)
	}
	most := 1
	if g.loaded {
		most = startsAtOnce
	}
	for want = min(want, g.plugin.Limits.Concurrency-g.total(), most-g.starting); want > 0; want-- {
		g.starting++
		if !p.host.spawn(g.start) {
			g.starting--
			return
		}
	}
}

// start brings up one worker.
func (g *generation) start() {
	g.pool.mu.Lock()
	wait, first := time.Until(g.notBefore), !g.loaded
	g.pool.mu.Unlock()
	h := g.pool.host
	if wait > 0 {
		pause(g.ctx, wait)
	}
	if first {
		defer h.permit(g.ctx)()
	}
	ctx, cancel := context.WithTimeout(g.ctx, startTimeout)
	defer cancel()
	var w worker
	err := g.ctx.Err()
	if err == nil {
		w, err = h.runtimes[g.plugin.Kind].start(ctx, g.plugin)
	}
	if err == nil {
		h.lives(w)
	} else if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = errors.New("it was not ready within " + startTimeout.String())
	}
	g.started(w, err)
}

// started takes a worker that has started, or why none has.
func (g *generation) started(w worker, err error) {
	p := g.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	g.starting--
	p.stats.Starts++
	if g.retired {
		if err == nil {
			p.host.end(w)
		}
		g.drained()
		return
	}
	if err != nil {
		g.failed(err)
	} else {
		g.works()
		g.idle = append(g.idle, idleWorker{w, time.Now()})
		if p.current == g {
			g.serve()
		}
	}
	if !g.wasTried() {
		close(g.tried)
	}
	g.grow()
}

func (g *generation) works() {
	p := g.pool
	if !g.loaded || g.broken != "" {
		p.host.log.Info("plugin loaded", "plugin", p.name, "kind", g.plugin.Kind, "version", g.plugin.Version)
	}
	if g.broken != "" {
		g.fails = 0
	}
	g.loaded, g.broken = true, ""
}

// failed notes that a worker has not started. A plugin that never had one, or has none
// left after a few tries, is one that does not load.
func (g *generation) failed(err error) {
	p := g.pool
	p.stats.Crashes++
	g.fails++
	text := shortText(err.Error(), maxDetail)
	p.host.log.Debug("a worker did not start", "plugin", p.name, "error", text)
	most := loadWait
	if g.plugin.Kind != kindProcess {
		most = lookWait
	}
	g.notBefore = time.Now().Add(backoff(g.fails, most))
	if g.busy > 0 || len(g.idle) > 0 || g.loaded && g.broken == "" && g.fails <= freeCrashes {
		return
	}
	if g.broken != text {
		p.host.log.Warn("plugin does not load", "plugin", p.name, "error", text)
		g.plugin.log.note("does not load: " + text)
	}
	g.broken = text
	if p.current == g {
		p.dismiss(loadFailed(p.name))
	}
}

// crashed notes that a worker has ended by itself.
func (g *generation) crashed(text string) {
	p := g.pool
	p.stats.Crashes++
	g.fails++
	if g.fails > freeCrashes {
		g.notBefore = time.Now().Add(backoff(g.fails-freeCrashes, crashWait))
	}
	g.plugin.log.note("a worker has ended: " + shortText(text, maxDetail))
	p.host.log.Warn("a worker of a plugin has ended", "plugin", p.name, "in_a_row", g.fails, "error", shortText(text, 200))
}

// backoff doubles with every failure.
func backoff(fails int, most time.Duration) time.Duration {
	return min(firstWait<<min(max(fails-1, 0), 16), most)
}
