package app

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"grout/handlers/plugins"
	"grout/store"
)

// laneWidth is how many executions of a plugin ask for a worker at once beside those that
// accept has brought one for.
const laneWidth = 64

// executions is the effect that runs plugins: for every execution that the log says is
// open it calls the plugin and writes what came of it as plugin.finish (architecture §2).
// It outlives the nodes, so what runs goes on while store and bus are opened anew.
type executions struct {
	host    *plugins.Host
	nodes   *supervisor
	logger  *slog.Logger
	metrics *executionMetrics
	tempos  tempos

	life   context.Context // ends when what still runs is to be stopped
	stop   context.CancelFunc
	writes context.Context // ends when nothing can be written any more
	mute   context.CancelFunc

	mu       sync.Mutex
	expected map[runKey]*expected
	bytes    int64 // of tokens that are kept
	running  map[runKey]*execution
	lanes    map[string]*lane
	born     map[int]uint64 // by partition: what stands up to it is of an earlier process
	stopping bool
	work     sync.WaitGroup
}

// runKey names a run.
type runKey struct{ app, id string }

// lane is the executions of one plugin that have no worker.
type lane struct {
	asking  int // for one
	waiting []*execution
}

func newExecutions(nodes *supervisor, host *plugins.Host) *executions {
	x := &executions{
		host: host, nodes: nodes, logger: nodes.logger, metrics: newExecutionMetrics(nodes.registry),
		expected: map[runKey]*expected{}, running: map[runKey]*execution{}, lanes: map[string]*lane{}, born: map[int]uint64{},
	}
	x.life, x.stop = context.WithCancel(context.Background())
	x.writes, x.mute = context.WithCancel(context.Background())
	return x
}

// bornAt notes, before any command is taken, how far the log of a partition went when
// this process came to its end: who ran what is open there is gone.
func (x *executions) bornAt(p *partition) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.born[p.number]; !known {
		x.born[p.number] = p.store.LogPosition(p.store.Checkpoint().Seq)
	}
}

// dispatchPage is how many executions are read at once.
const dispatchPage = 16

// dispatch takes the executions of a partition in the order in which they were accepted,
// each once, until ctx ends.
func (x *executions) dispatch(ctx context.Context, p *partition) error {
	began := p.store.LogPosition(p.store.Checkpoint().Seq)
	x.watchAgain(ctx, p)
	var behind store.Place
	for {
		list, changed, err := p.store.OpenExecutions(behind, dispatchPage)
		if err != nil && ctx.Err() == nil {
			x.logger.Error("open executions cannot be read; it will be tried again", "partition", p.number, "error", err)
			if !sleep(ctx, time.Second) {
				return nil
			}
			continue
		}
		for !x.nodes.owner.holds() { // another worker may run them
			if !sleep(ctx, 100*time.Millisecond) {
				return nil
			}
		}
		for _, r := range list {
			x.take(ctx, p, r, r.Place.Seq <= began)
			behind = r.Place
		}
		if len(list) == dispatchPage {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// watchAgain watches what this process runs of a partition whose node is another one: it
// may have ended meanwhile.
func (x *executions) watchAgain(ctx context.Context, p *partition) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, e := range x.running {
		if e.partition == p.number {
			x.work.Go(func() { e.watch(ctx, p) })
		}
	}
}

// take begins an execution that does not run yet. One from before the dispatch may have
// run, and ended, since it was read.
func (x *executions) take(ctx context.Context, p *partition, r *store.Run, before bool) {
	key := runKey{r.AppID, r.ID}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stopping || x.running[key] != nil {
		return
	}
	if before {
		if now, err := p.store.OpenExecution(r.Place); err == nil && now == nil {
			return
		}
	}
	e := &execution{
		all: x, partition: p.number, key: key, run: r, ended: make(chan struct{}),
		lost: r.Place.Seq <= x.born[p.number], taken: time.Now(),
	}
	e.ctx, e.cancel = context.WithCancelCause(x.life)
	if one := x.expected[key]; one != nil {
		delete(x.expected, key)
		e.expected, e.ticket = one, one.takeTicket()
		if a, ok := e.ticket.(*ahead); ok {
			e.ahead, e.ticket = a, nil
		}
	}
	x.running[key] = e
	x.metrics.running.Inc()
	x.work.Go(func() { e.watch(ctx, p) })
	if e.ticket != nil {
		x.work.Go(e.do)
		return
	}
	x.queue(e)
}

// queue lets an execution ask for a worker, or wait until fewer of its plugin do. The
// caller holds mu.
func (x *executions) queue(e *execution) {
	l := x.lanes[e.run.Plugin]
	if l == nil {
		l = &lane{}
		x.lanes[e.run.Plugin] = l
	}
	e.lane = l
	if l.asking >= laneWidth {
		e.run.Data = nil // it is read again
		l.waiting = append(l.waiting, e)
		return
	}
	l.asking++
	x.work.Go(e.do)
}

// asked says that an execution has a worker, or needs none any more.
func (x *executions) asked(e *execution) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := e.lane
	if l == nil {
		return
	}
	e.lane = nil
	l.asking--
	if len(l.waiting) > 0 && !x.stopping {
		next := l.waiting[0]
		l.waiting = l.waiting[1:]
		l.asking++
		x.work.Go(next.do)
	}
	if l.asking == 0 && len(l.waiting) == 0 {
		delete(x.lanes, e.run.Plugin)
	}
}

// done forgets an execution that is over.
func (x *executions) done(e *execution) {
	e.cancel(errOver)
	x.asked(e)
	e.leaveAhead()
	x.mu.Lock()
	defer x.mu.Unlock()
	close(e.ended)
	delete(x.running, e.key)
	if e.expected != nil {
		x.free(e.expected)
	}
	x.metrics.running.Dec()
}

// Why the context of an execution ends.
var (
	errOver     = errors.New("the execution is over")
	errRunEnded = errors.New("the run has ended")
)

// finish ends the effect: nothing more is begun, what runs has until ctx ends and is
// stopped then. It returns when the log holds what came of everything, or cannot be
// reached; what is left open is lost or run again at the next start.
func (x *executions) finish(ctx context.Context) {
	x.mu.Lock()
	x.stopping = true
	for _, l := range x.lanes { // they have not begun
		for _, e := range l.waiting {
			e.cancel(errOver)
			delete(x.running, e.key)
			close(e.ended)
		}
		l.waiting = nil
	}
	x.mu.Unlock()
	idle := make(chan struct{})
	go func() {
		x.work.Wait()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	x.stop()
	last := time.AfterFunc(lastWrite, x.mute)
	<-idle
	last.Stop()
	x.mute()
}

// current gives the partition of a number that works now; nil when none does.
func (x *executions) current(number int) *partition {
	n := x.nodes.current.Load()
	if n == nil || !n.settled.Load() {
		return nil
	}
	p, err := n.partition(number)
	if err != nil {
		return nil
	}
	return p
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
