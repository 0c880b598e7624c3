package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"grout/bus"
	"grout/handlers"
	"grout/handlers/httpapi"
	"grout/schemas"
	"grout/store"
)

// node is everything behind the HTTP API: the bus, and the partitions.
type node struct {
	cfg        Config
	logger     *slog.Logger
	name       string
	server     *bus.Server // nil on a cluster of somebody else's
	doors      bus.Doors   // that it was started with
	gate       *bus.Gate   // which serves it there
	intake     *bus.Intake // likewise, on a connection of its own
	outside    *nats.Conn
	owner      *ownership // of the state there; nil: the data directory's lock says it all
	conn       *nats.Conn
	bus        *bus.Bus
	replies    *bus.Replies
	services   *bus.Services
	admin      *bus.Admin
	partitions []*partition // that work, by number

	quarantined map[int]error // why the others do not

	clock   *wallClock
	settled atomic.Bool // every partition's log says which rules and configuration it follows
	guarded atomic.Bool // the streams are those of the stores
	alarms  *alarms
	checks  *streamChecks
	sources *sources

	executions *executions                     // outlives the node; nil: it runs no plugins
	api        *atomic.Pointer[httpapi.Server] // outlives the node, and is made after the first
	deliveries *deliveries                     // outlive the node
	facts      factsAtStart
}

// partition owns the state of the apps that fall to it: a store, the loop that
// applies their commands, the publisher that brings commands in and the relays
// that carry facts out. A process may hold many.
type partition struct {
	number    int
	store     *store.Store
	source    *bus.Source
	loop      *handlers.Loop
	standing  *handlers.Standing
	publisher *bus.Publisher
	inbox     *bus.Inbox
	pumped    pumpStats
	relays    map[string]*bus.Relay // by destination
	keeper    *keeper
	ticker    *ticker
	restored  bool   // its store was missing at this start
	remade    int64  // rows of facts that were put back to be published again
	epoch     uint32 // that its loop comes to before any command is taken; 0 when it is there
}

func newNode(ctx context.Context, cfg Config, clock *wallClock, from *sources, logger *slog.Logger) (_ *node, err error) {
	n := &node{cfg: cfg, logger: logger, name: nuid.Next(), clock: clock, sources: from}
	defer func() {
		if err != nil {
			_ = n.close() // err says why
		}
	}()
	fault := faultHook()
	if err := n.connect(); err != nil {
		return nil, err
	}
	if n.bus, err = bus.Open(ctx, n.conn, busConfig(cfg, fault)); err != nil {
		return nil, err
	}
	if err = n.noteFacts(ctx); err != nil {
		return nil, err
	}
	if n.replies, err = n.bus.NewReplies(n.name); err != nil {
		return nil, err
	}
	n.services = bus.NewServices(n.conn)
	for number := range cfg.Partitions {
		p, err := n.newPartition(ctx, number, fault)
		if n.quarantine(number, err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		n.partitions = append(n.partitions, p)
	}
	if n.admin, err = n.bus.ServeAdmin(n.snapshotNow); err != nil {
		return nil, err
	}
	if err := noteAddress(cfg.DataDir, n.natsURL()); err != nil {
		logger.Warn("tools beside this process will not find it", "error", err)
	}
	return n, nil
}

// connect starts the embedded server, or reaches the cluster that grout is to run on.
func (n *node) connect() (err error) {
	cfg, logger := n.cfg, n.logger
	if cfg.External() {
		return n.connectExternal()
	}
	o, err := cfg.serverOptions(logger)
	if err != nil {
		return err
	}
	n.doors = o.Doors
	if n.server, err = bus.StartServer(o); err != nil {
		return err
	}
	if n.conn, err = n.server.Connect("grout-" + n.name); err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	return nil
}

func busConfig(cfg Config, fault func(string)) bus.Config {
	dir, replicas := filepath.Join(cfg.DataDir, "nats"), 1
	if cfg.External() {
		dir, replicas = "", cfg.NATSReplicas
	}
	return bus.Config{
		Dir: dir, External: cfg.External(),
		Partitions: cfg.Partitions, Replicas: replicas,
		CommandBytes: cfg.CommandBytes, FactBytes: cfg.FactBytes, DeadLetterBytes: cfg.DeadLetterBytes,
		FactAge: 7 * 24 * time.Hour, DeadLetterAge: 30 * 24 * time.Hour,
		InBytes: cfg.InBytes, DuplicateWindow: cfg.DuplicateWindow, Fault: fault,
	}
}

// storePath is the file of a partition.
func storePath(dataDir string, number int) string {
	return filepath.Join(dataDir, "store", fmt.Sprintf("partition-%03d.db", number))
}

func (n *node) newPartition(ctx context.Context, number int, fault func(string)) (*partition, error) {
	logger := n.logger.With("partition", number)
	_, missing := os.Stat(storePath(n.cfg.DataDir, number))
	if err := restoreMissing(ctx, n.cfg.DataDir, number, logger); err != nil {
		return nil, err
	}
	s, err := store.Open(storePath(n.cfg.DataDir, number), store.Options{
		Partition: number, Partitions: n.cfg.Partitions, FoldEvery: n.cfg.FoldEvery, Fault: fault,
	})
	if err != nil {
		return nil, err
	}
	if _, err := checkRules(s); err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", storePath(n.cfg.DataDir, number), err), s.Close())
	}
	afterMigration(ctx, s, snapshotDir(n.cfg.DataDir, number), logger)
	p := &partition{number: number, restored: missing != nil, store: s, standing: handlers.NewStanding(s), source: n.bus.NewSource(number).Of(s), publisher: n.bus.NewPublisher(number, n.replies, bus.PublisherOptions{}), inbox: n.bus.NewInbox(number)}
	p.loop = handlers.NewLoop(handlers.LoopOptions{
		Store: s, Source: p.source, Table: handlers.NewTable(), DecodeGroup: bus.DecodeGroupMessage,
		Reply: n.bus.Reply, Logger: logger, Fault: fault,
	})
	p.relays = map[string]*bus.Relay{}
	for _, dest := range []string{schemas.DestFacts, schemas.DestDeadLetters} {
		p.relays[dest] = n.bus.NewRelay(dest, number, s, bus.RelayOptions{Epoch: s.Epoch(), Origin: s.Origin, Logger: logger})
	}
	p.keeper = &keeper{
		store: s, loop: p.loop, bus: n.bus, partition: number, dir: snapshotDir(n.cfg.DataDir, number),
		every: n.cfg.SnapshotEvery, age: n.cfg.CommandAge, bytes: n.cfg.CommandBytes, logger: logger,
		asked: make(chan snapshotRequest, 1),
		alarm: func(a schemas.Alarm) { n.alarms.raise(logger, a) },
		owns:  func() bool { return n.owner.holds() },
	}
	p.ticker = &ticker{
		store: s, loop: p.loop, publisher: p.publisher, clock: n.clock, logger: logger,
		every: cmp.Or(n.cfg.ticks, time.Duration(schemas.TickInterval)), look: cmp.Or(n.cfg.tickLook, tickLook),
	}
	return p, nil
}

// run works until ctx ends or a part fails, and stops in the direction of the flow.
// Before it waits for the parts, which a disk that hangs holds up, it calls failing.
func (n *node) run(ctx context.Context, ready, failing func()) error {
	for _, f := range n.found() { // it is mended: nobody finds it again
		n.alarms.raise(n.logger, schemas.Alarm{Name: f.Name, Partition: -1, Detail: f.Detail})
	}
	if err := n.passGuard(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	n.guarded.Store(true)
	failed := make(chan error, 1)
	relays, loops, keepers, publishers, watches := startStage(failed), startStage(failed), startStage(failed), startStage(failed), startStage(failed)
	tickers, dispatchers := startStage(failed), startStage(failed)
	for _, p := range n.partitions {
		for _, r := range p.relays {
			relays.run(r.Run)
		}
		loops.run(p.loop.Run)
		keepers.run(p.keeper.Run)
		publishers.run(p.publisher.Run)
		watches.run(p.watch)
	}
	if n.server != nil { // files of a cluster are its own to look at
		watches.run(n.scrub)
		watches.run(n.followDoors)
	}
	watches.run(n.boundMemory)
	stopServices := func(time.Duration) {}
	err := n.awaitReady(ctx, failed)
	if err == nil {
		n.keepEpochs(ctx)
		err = n.settleRules(ctx)
	}
	if err == nil {
		n.begin()
		n.beginDeliveries(ctx)
		err = n.settleSources(ctx)
	}
	if err == nil {
		tickers.run(n.followSources)
		n.deliver(tickers)
		if n.cfg.EntitlementSource == SourceControlPlane {
			tickers.run(n.pollControlPlane)
		}
		for _, p := range n.partitions {
			tickers.run(p.ticker.Run)
			if n.executions != nil {
				dispatchers.run(func(ctx context.Context) error { return n.executions.dispatch(ctx, p) })
			}
		}
		stopServices, err = n.serveServices()
		if err == nil {
			err = n.startPumps(ctx, dispatchers)
		}
	}
	if err == nil {
		ready()
		select {
		case <-ctx.Done():
		case err = <-failed:
		case <-n.faulted():
			err = errors.New("the embedded NATS server has met a write error")
		}
	}
	if err != nil { // nothing that is still queued will be stored
		failing()
		stopServices(0)
		for _, p := range n.partitions {
			p.publisher.Abort()
		}
	}
	stopServices(servicesEnd)
	watches.stop()
	dispatchers.stop()
	tickers.stop()
	publishers.stop()
	keepers.stop()
	loops.stop()
	relays.stop()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil
	}
	select {
	case late := <-failed:
		err = errors.Join(err, late)
	default:
	}
	return err
}

// begin notes what the logs said before this process took its first command.
func (n *node) begin() {
	if n.executions == nil {
		return
	}
	for _, p := range n.partitions {
		n.executions.bornAt(p)
	}
}

// watch ends the node when a read has met damage: the next one looks at the whole
// file, and puts the partition into quarantine.
func (p *partition) watch(ctx context.Context) error {
	select {
	case err := <-p.store.Damaged():
		return err
	case <-ctx.Done():
		return nil
	}
}

// close closes everything. An error says that a file stays open until the process
// ends.
func (n *node) close() (stuck error) {
	for _, p := range n.partitions {
		p.source.Close()
		if err := p.store.Close(); err != nil {
			n.logger.Error("close store", "error", err)
			if errors.Is(err, store.ErrStuck) {
				stuck = err
			}
		}
	}
	if n.admin != nil {
		n.admin.Close()
	}
	if n.replies != nil {
		n.replies.Close()
	}
	if n.intake != nil {
		n.intake.Close()
	}
	if n.outside != nil {
		n.outside.Close()
	}
	if n.gate != nil {
		n.gate.Close()
	}
	if n.conn != nil {
		n.conn.Close()
	}
	if n.server != nil {
		n.server.Shutdown()
	}
	return stuck
}

// awaitReady waits until every partition applies its stream.
func (n *node) awaitReady(ctx context.Context, failed chan error) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	progress := time.NewTicker(5 * time.Second)
	defer progress.Stop()
	for {
		ok, why := n.ready()
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-progress.C:
			n.logger.Info("not ready yet", "reason", why)
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		}
	}
}
