package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"grout/bus"
	"grout/handlers/httpapi"
	"grout/store"
)

// How long the supervisor waits before it tries a new node.
const (
	healAfterAtLeast = 100 * time.Millisecond
	healAfterAtMost  = 2 * time.Second
)

// supervisor keeps a node at work. After a fault of the disk or of the embedded
// server, whose write errors stay until it is started again, it closes everything
// and builds a new node from the files, while the API answers 503 (architecture
// §2.3). A stream that is not the one the store has applied ends the process: no
// new start would mend it. One that cannot be read may: it could be read before, so
// the disk may have failed while the server was opening it. And what a working node
// has lost, a new one looks at again, and goes on without it when it can.
type supervisor struct {
	cfg      Config
	logger   *slog.Logger
	announce func(*node)
	registry *prometheus.Registry
	clock    *wallClock
	sources  *sources
	current  atomic.Pointer[node]
	heals    atomic.Int64
	alarms   alarms
	checks   streamChecks

	executions *executions // nil: this node runs no plugins
	deliveries *deliveries
	owner      *ownership // of the state of a cluster; nil: embedded

	api atomic.Pointer[httpapi.Server] // answers NATS services, too
}

func newSupervisor(cfg Config, logger *slog.Logger, announce func(*node)) *supervisor {
	s := &supervisor{cfg: cfg, logger: logger, announce: announce, registry: prometheus.NewRegistry(), clock: newWallClock(cfg.clock(), cfg.uptimeClock())}
	s.sources = newSources(&s.cfg, logger)
	if cfg.External() {
		s.owner = &ownership{cfg: &s.cfg, logger: logger}
		s.registry.MustRegister(s.owner.metrics()...)
	}
	s.deliveries = newDeliveries(&s.cfg, logger, &s.alarms)
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), (*collector)(s), (*deliveryCollector)(s))
	return s
}

// Run keeps a node at work until ctx ends. A node that never became ready is a
// start that is refused.
func (s *supervisor) Run(ctx context.Context) error {
	defer s.release(ctx)
	wasReady := false
	wait := healAfterAtLeast
	for {
		works := false
		err := s.own(ctx, func(n *node) {
			works = true
			wait = healAfterAtLeast
			if wasReady {
				s.logger.Info("working again")
				return
			}
			wasReady = true
			s.announce(n)
		})
		var guard *bus.GuardError
		switch {
		case ctx.Err() != nil:
			return err
		case errors.Is(err, bus.ErrLeaseLost):
			return err // whatever runs here ends with the process; another worker runs it now
		case s.owner != nil && passes(err):
		case !wasReady, errors.Is(err, store.ErrStuck), errors.As(err, &guard) && (!works || !rebuildable(guard)) && guard.Name != bus.StreamUnreadable:
			return err
		}
		s.heals.Add(1)
		what := "stopped working after a fault; trying again"
		if !wasReady {
			what = "cannot work yet; trying again"
		}
		s.logger.Error(what, "error", err, "in", wait.String())
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		wait = min(2*wait, healAfterAtMost)
	}
}

// own serves while the state is this process's.
func (s *supervisor) own(ctx context.Context, ready func(*node)) error {
	if s.owner == nil {
		return s.serve(ctx, ready)
	}
	return s.owner.held(ctx, func(ctx context.Context) error { return s.serve(ctx, ready) })
}

// standsBy has tell be told who owns the state that this process waits for.
func (s *supervisor) standsBy(tell func(owner string)) {
	if s.owner != nil {
		s.owner.waiting = tell
	}
}

func (s *supervisor) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
	defer cancel()
	s.owner.close(ctx)
}

func (s *supervisor) serve(ctx context.Context, ready func(*node)) (err error) {
	n, err := newNode(ctx, s.cfg, s.clock, s.sources, s.logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if u, err := url.Parse(n.natsURL()); err == nil && u.Host != "" && n.server != nil {
		s.cfg.NATSListen = u.Host // a port that was chosen stays the same for those who use it
	}
	if n.server != nil {
		if u, err := url.Parse(n.server.WebSocketURL()); err == nil && u.Host != "" {
			s.cfg.NATSWebSocket = u.Host
		}
	}
	n.deliveries = s.deliveries
	n.alarms, n.checks, n.executions, n.owner = &s.alarms, &s.checks, s.executions, s.owner
	n.api = &s.api
	s.current.Store(n)
	defer s.current.Store(nil)
	return n.run(ctx, func() { ready(n) }, func() { s.current.Store(nil) })
}

func (s *supervisor) apiOptions(listener net.Listener) httpapi.Options {
	return httpapi.Options{
		AppID: s.cfg.AppID, AppTier: s.cfg.AppTier, AppName: s.cfg.AppName,
		Port: func() int {
			_, port, _ := net.SplitHostPort(listener.Addr().String())
			number, _ := strconv.Atoi(port)
			return number
		},
		InternalKeys: s.cfg.InternalKeys.Values, ServiceKeys: s.cfg.ServiceKeys.Values,
		Partitions: s.cfg.Partitions, MaxBodyBytes: s.cfg.MaxBodyBytes, MaxUnpackedBytes: s.cfg.UnpackedBytes, WaitLimit: s.cfg.WaitLimit, Version: Version(),
		Commands: (*commands)(s), Reads: (*reads)(s), Entitlements: (*entitled)(s), Health: (*health)(s),
		Plugins: (*pluginPort)(s.executions), Runs: (*runPort)(s), DeadLetters: (*deadLetters)(s), Webhooks: (*webhookPort)(s.deliveries),
		Logger: s.logger, Registry: s.registry, Now: s.cfg.clock(), Fault: faultHook(),
	}
}
