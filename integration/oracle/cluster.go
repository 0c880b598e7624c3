package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"grout/integration/natsnode"
	"grout/integration/process"
)

// cluster is the three NATS nodes under grout, the wires to them, and what is done to
// them. A wire breaks between grout and a node only.
type cluster struct {
	c       *campaign
	s       *server
	nodes   *natsnode.Cluster
	wires   []*proxy
	rounds  map[string][]time.Duration // how long until it worked again, by fault
	refused int                        // requests that were answered 503 with Retry-After while nothing could be stored
}

func startCluster(ctx context.Context, dir string) (cl *cluster, err error) {
	cl = &cluster{rounds: map[string][]time.Duration{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	cl.nodes, err = natsnode.Start(ctx, dir, natsnode.Options{Advertise: func(address string) (string, error) {
		p, err := newProxy(address)
		if err != nil {
			return "", err
		}
		cl.wires = append(cl.wires, p)
		return p.address(), nil
	}})
	if err != nil {
		return nil, err
	}
	process.ConsumerPassword = cl.nodes.Passwords.Consumer
	return cl, nil
}

func (cl *cluster) stop() {
	for _, p := range cl.wires {
		p.close()
	}
	cl.nodes.Stop()
}

// env tells grout where the cluster is.
func (cl *cluster) env() []string {
	var list []string
	for _, p := range cl.wires {
		list = append(list, "nats://"+p.address())
	}
	return []string{
		"NATS_URL=" + strings.Join(list, ","), "NATS_USER=grout", "NATS_PASSWORD=" + cl.nodes.Passwords.Grout, "MOZAIKS_LEASE_TTL=3s",
		"MOZAIKS_COMMAND_MAX_BYTES=1GiB", "MOZAIKS_FACT_MAX_BYTES=1GiB", "MOZAIKS_DEAD_LETTER_MAX_BYTES=64MiB",
	}
}

// fault is something that is done to the cluster, to grout or to the wires. It returns
// when it must work again, from which on the recovery counts, and mends what it broke
// when it is asked to.
type fault struct {
	name string
	do   func(cl *cluster, ctx context.Context) (since time.Time, mend func() error, err error)
}

var faults = []fault{
	{"kill a node", func(cl *cluster, _ context.Context) (time.Time, func() error, error) {
		n := cl.nodes.Nodes[cl.s.rng.IntN(3)]
		since := time.Now()
		n.Kill()
		return since, n.Start, nil
	}},
	{"kill the leader", func(cl *cluster, _ context.Context) (time.Time, func() error, error) {
		n := cl.leader()
		since := time.Now()
		n.Kill()
		return since, n.Start, nil
	}},
	{"pause the leader", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		n := cl.leader()
		since := time.Now()
		n.Pause()
		return since, func() error { defer n.Resume(); return cl.hold(ctx, 6*time.Second) }, nil
	}},
	{"restart a node", func(cl *cluster, _ context.Context) (time.Time, func() error, error) {
		n := cl.nodes.Nodes[cl.s.rng.IntN(3)]
		since := time.Now()
		n.Terminate()
		return since, n.Start, nil
	}},
	{"no quorum", noQuorum},
	{"kill grout", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		cl.s.current().Kill()
		cl.s.kills++
		since := time.Now()
		return since, nil, cl.s.start(ctx)
	}},
	{"stop grout", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		if err := cl.s.current().Stop(); err != nil {
			return time.Time{}, nil, err
		}
		since := time.Now()
		return since, nil, cl.s.start(ctx)
	}},
	{"pause grout", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		pid := cl.s.current().PID()
		_ = syscall.Kill(pid, syscall.SIGSTOP)
		err := cl.hold(ctx, 6*time.Second)
		since := time.Now()
		_ = syscall.Kill(pid, syscall.SIGCONT)
		return since, nil, err
	}},
	{"cut all wires", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		for _, p := range cl.wires {
			p.cut()
		}
		err := cl.hold(ctx, 4*time.Second)
		return cl.mendWires(), nil, err
	}},
	{"cut one wire after the other", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		since := time.Now()
		for _, p := range cl.wires {
			p.cut()
			if err := cl.hold(ctx, 300*time.Millisecond); err != nil {
				return since, nil, err
			}
			p.mend()
		}
		return since, nil, nil
	}},
	{"stop what is on the wires", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		for _, p := range cl.wires {
			p.hole.Store(true)
		}
		err := cl.hold(ctx, 8*time.Second)
		return cl.mendWires(), nil, err
	}},
	{"slow wires", func(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
		since := time.Now()
		for _, p := range cl.wires {
			p.delay.Store(int64(20+cl.s.rng.IntN(100)) * 1e6)
		}
		return since, func() error { defer cl.mendWires(); return cl.hold(ctx, 4*time.Second) }, nil
	}},
}

// noQuorum takes two nodes away: nothing can be stored, and grout must say so, and not
// end.
func noQuorum(cl *cluster, ctx context.Context) (time.Time, func() error, error) {
	first := cl.s.rng.IntN(3)
	gone := []*natsnode.Node{cl.nodes.Nodes[first], cl.nodes.Nodes[(first+1)%3]}
	for _, n := range gone {
		n.Kill()
	}
	err := cl.refuses(ctx)
	for _, n := range gone {
		err = firstOf(err, n.Start())
	}
	return time.Now(), nil, err
}

func firstOf(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// refuses waits until /ready is red and ingest answers 503 with Retry-After.
func (cl *cluster) refuses(ctx context.Context) error {
	limit := time.Now().Add(30 * time.Second)
	for ctx.Err() == nil && time.Now().Before(limit) {
		ready, _, err := cl.get(ctx, "/ready")
		status, header, sendErr := cl.get(ctx, "/api/usage/batches/none?app_id=app-1")
		if err == nil && sendErr == nil && ready == http.StatusServiceUnavailable && status == http.StatusServiceUnavailable && header.Get("Retry-After") != "" {
			cl.refused++
			return nil
		}
		if err := cl.hold(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("without a quorum grout did not turn /ready red and answer 503 with Retry-After:\n%s", cl.s.current().Log())
}

func (cl *cluster) get(ctx context.Context, path string) (int, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, cl.s.base()+path, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	status, header, _, err := do(req)
	return status, header, err
}

// hold waits for a random part of a time.
func (cl *cluster) hold(ctx context.Context, most time.Duration) error {
	t := time.NewTimer(most/4 + time.Duration(cl.s.rng.Int64N(int64(most)*3/4)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (cl *cluster) mendWires() time.Time {
	for _, p := range cl.wires {
		p.mend()
	}
	return time.Now()
}

// leader is the node that leads the command stream; any one when nobody says so.
func (cl *cluster) leader() *natsnode.Node {
	if info, err := cl.stream("MOZAIKS_CMD"); err == nil && info.Cluster != nil {
		for _, n := range cl.nodes.Nodes {
			if n.Name == info.Cluster.Leader {
				return n
			}
		}
	}
	return cl.nodes.Nodes[cl.s.rng.IntN(3)]
}

func (cl *cluster) stream(name string) (*nats.StreamInfo, error) {
	nc, err := cl.nodes.Connect("grout", cl.nodes.Passwords.Grout, nats.MaxReconnects(0), nats.IgnoreDiscoveredServers())
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := nc.JetStream(nats.MaxWait(2 * time.Second))
	if err != nil {
		return nil, err
	}
	return js.StreamInfo(name)
}

// round does one thing, waits until it works again, and until every node has what the
// others have.
func (cl *cluster) round(ctx context.Context, number int) error {
	f := faults[(number+cl.s.rng.IntN(3))%len(faults)]
	if cl.s.o.only != "" {
		f = faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == cl.s.o.only })]
	}
	cl.s.awaitUse(ctx)
	select {
	case <-cl.s.current().Ended():
		return fmt.Errorf("the server ended by itself:\n%s", cl.s.current().Log())
	default:
	}
	since, mend, err := f.do(cl, ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	if err := cl.c.works(ctx); err != nil {
		return fmt.Errorf("after %s: %w\n%s", f.name, err, cl.s.current().Log())
	}
	took := time.Since(since)
	cl.rounds[f.name] = append(cl.rounds[f.name], took)
	if cl.s.o.verbose {
		fmt.Printf("%3d %-30s %s\n", number, f.name, took.Round(time.Millisecond))
	}
	if mend != nil {
		if err := mend(); err != nil {
			return err
		}
	}
	return cl.whole(ctx)
}

// whole waits until every copy of every stream is current; under load a copy may stay
// behind a little, which is good enough after a while.
func (cl *cluster) whole(ctx context.Context) error {
	began := time.Now()
	why := ""
	for time.Since(began) < 60*time.Second && ctx.Err() == nil {
		if why = cl.behind(time.Since(began) > 20*time.Second); why == "" {
			return nil
		}
		if err := cl.hold(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the cluster did not become whole again: %s", why)
}

func (cl *cluster) behind(little bool) string {
	for _, name := range []string{"MOZAIKS_CMD", "MOZAIKS_EVT", "MOZAIKS_DLQ", "MOZAIKS_IN", "KV_MOZAIKS_LEASE"} {
		info, err := cl.stream(name)
		if err != nil {
			return fmt.Sprintf("%s: %v", name, err)
		}
		if info.Cluster == nil || info.Cluster.Leader == "" || len(info.Cluster.Replicas) != 2 {
			return name + " has no leader with two followers"
		}
		for _, r := range info.Cluster.Replicas {
			if r.Offline || !r.Current && !(little && r.Lag < 1000) {
				return name + " is behind on " + r.Name
			}
		}
	}
	return ""
}

// recovery is how long it took until it worked again.
type recovery struct {
	Rounds int     `json:"rounds"`
	P50    float64 `json:"p50_seconds"`
	P99    float64 `json:"p99_seconds"`
	Most   float64 `json:"most_seconds"`
}

func (cl *cluster) recoveries() map[string]recovery {
	out := map[string]recovery{}
	var all []time.Duration
	for name, list := range cl.rounds {
		out[name] = newRecovery(list)
		all = append(all, list...)
	}
	out["all"] = newRecovery(all)
	return out
}

func newRecovery(list []time.Duration) recovery {
	if len(list) == 0 {
		return recovery{}
	}
	list = slices.Sorted(slices.Values(list))
	at := func(share float64) float64 { return list[min(int(share*float64(len(list))), len(list)-1)].Seconds() }
	return recovery{len(list), at(0.5), at(0.99), list[len(list)-1].Seconds()}
}

// works sends a request until it is answered; each try has a second.
func (c *campaign) works(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	r := c.books.next()
	var last error
	for ctx.Err() == nil {
		r.tries++
		try, done := context.WithTimeout(ctx, time.Second)
		a, err := c.post(try, r)
		done()
		if err == nil {
			c.books.answered(r, a)
			return nil
		}
		last = err
		c.books.unanswered()
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return fmt.Errorf("it did not work again in time: %w", last)
}
