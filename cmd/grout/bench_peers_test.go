package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"grout/cmd/grout/load"
)

// Where BenchmarkPeers finds its yard-stick, and how long and how often it
// measures each line; `make bench-peers` sets them.
const (
	envShared   = "GROUT_BENCH_SHARED"
	envDuration = "GROUT_BENCH_DURATION"
	envRounds   = "GROUT_BENCH_ROUNDS"
)

// peerTarget is a line of the table, and what it is to reach (architecture §6).
type peerTarget struct {
	events, connections int
	ratio               float64 // events a second compared with the yard-stick; 0: none
	rate                float64 // events a second; 0: none
	lowerP99            bool
	floor               float64 // requests a second compared with HTTP alone; 0: not measured
}

var peerTargets = []peerTarget{
	{events: 1000, connections: 16, ratio: 10, rate: 400_000},
	{events: 100, connections: 16, ratio: 6, lowerP99: true},
	{events: 10, connections: 16, ratio: 4, lowerP99: true},
	{events: 1, connections: 16, ratio: 2},
	{events: 1, connections: 64, ratio: 2},
	{events: 1, connections: 256, floor: .5},
}

// peerFigures are one measurement, or the medians of several.
type peerFigures struct {
	Rate  float64 `json:"accepted_events_per_s"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	Steal float64 `json:"-"`

	Errors      int64  `json:"errors"`
	LastError   string `json:"last_error"`
	CountsMatch bool   `json:"counts_match"`
}

func (f *peerFigures) String() string {
	steal := "?"
	if f.Steal >= 0 {
		steal = fmt.Sprintf("%.0f%%", 100*f.Steal)
	}
	return pad(thousands(int64(f.Rate)), 11) + pad(compact(&f.P50), 9) + pad(compact(&f.P99), 9) + pad(steal, 7)
}

// medians of each figure by itself; the steal is the largest.
func medians(all []peerFigures) peerFigures {
	of := func(figure func(peerFigures) float64) float64 {
		var values []float64
		for _, f := range all {
			values = append(values, figure(f))
		}
		slices.Sort(values)
		return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
	}
	return peerFigures{
		Rate:  of(func(f peerFigures) float64 { return f.Rate }),
		P50:   of(func(f peerFigures) float64 { return f.P50 }),
		P99:   of(func(f peerFigures) float64 { return f.P99 }),
		Steal: slices.MaxFunc(all, func(a, b peerFigures) int { return cmp.Compare(a.Steal, b.Steal) }).Steal,
	}
}

// judge tells the ratio, what was to be reached, and whether it was.
func (t *peerTarget) judge(ours, theirs, floor peerFigures) (ratio, target, met string) {
	var wanted []string
	ok := true
	want := func(reached bool, format string, args ...any) {
		wanted = append(wanted, fmt.Sprintf(format, args...))
		ok = ok && reached
	}
	of := ours.Rate / theirs.Rate
	if t.ratio > 0 {
		want(of >= t.ratio, "≥ %g×", t.ratio)
	}
	if t.rate > 0 {
		want(ours.Rate >= t.rate, "≥ %s/s", thousands(int64(t.rate)))
	}
	if t.lowerP99 {
		want(ours.P99 < theirs.P99, "lower p99")
	}
	if t.floor > 0 {
		want(floor.Rate > 0 && ours.Rate >= t.floor*floor.Rate, "≥ %g× the floor", t.floor)
	}
	if met = "no"; ok {
		met = "yes"
	}
	return fmt.Sprintf("%.2f", of), strings.Join(wanted, ", "), met
}

// BenchmarkPeers measures grout and the yard-stick on PostgreSQL by turns, with the
// load generator of the yard-stick, each with one server that keeps what the lines
// before have stored. It needs the directory that envShared names.
func BenchmarkPeers(b *testing.B) {
	shared := os.Getenv(envShared)
	if shared == "" {
		b.Skip("make bench-peers SHARED=… runs this")
	}
	ctx, stop := signal.NotifyContext(b.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := newPeers(ctx, b, shared)
	fmt.Printf("\n\n")
	machine := load.ReadMachine(b.TempDir())
	printMachine(os.Stdout, &machine)
	fmt.Printf("durability  grout: %s; PostgreSQL: its defaults, fsync and synchronous_commit on\n", durability)
	fmt.Printf("load        the generator of the yard-stick: closed loop, %s a line, %d rounds by turns, timestamps of the last minute\n", p.duration, p.rounds)
	fmt.Printf("servers     one each, with what the lines before have stored (warm)\n\n%s\n", peerHead("measured"))
	ours, theirs, floors := map[int][]peerFigures{}, map[int][]peerFigures{}, map[int][]peerFigures{}
	for i := range peerTargets {
		t := &peerTargets[i]
		for round := range p.rounds {
			turns := []func(){
				func() { ours[i] = append(ours[i], p.measure(ctx, b, "grout", p.grout.url, t)); p.settleGrout(ctx, b) },
				func() {
					theirs[i] = append(theirs[i], p.measure(ctx, b, "PostgreSQL", p.peer, t))
					p.settlePeer(ctx, b)
				},
			}
			if round%2 == 1 {
				slices.Reverse(turns)
			}
			for _, turn := range turns {
				turn()
			}
			if t.floor > 0 {
				floors[i] = append(floors[i], p.measureFloor(ctx, b, t))
			}
		}
	}
	fmt.Printf("\nmedians%s%s\n%s%s%s  target: met\n", pad("grout", 29), pad("PostgreSQL", 36), peerHead(""), figuresHead, pad("ratio", 8))
	for i := range peerTargets {
		t := &peerTargets[i]
		us, them, floor := medians(ours[i]), medians(theirs[i]), peerFigures{}
		if floors[i] != nil {
			floor = medians(floors[i])
		}
		ratio, target, met := t.judge(us, them, floor)
		fmt.Printf("%s%s%s%s  %s: %s", peerKey(fmt.Sprint(t.events), fmt.Sprint(t.connections), ""), &us, &them, pad(ratio, 8), target, met)
		if t.floor > 0 {
			fmt.Printf(" (floor %s req/s, share %.2f)", thousands(int64(floor.Rate)), us.Rate/floor.Rate)
		}
		fmt.Println()
	}
	b.ReportMetric(0, "ns/op")
}

func peerKey(events, connections, who string) string {
	return pad(events, 7) + pad(connections, 6) + fmt.Sprintf("  %-10s", who)
}

func peerHead(who string) string {
	return peerKey("ev/req", "conns", who) + figuresHead
}

// figuresHead is over what String of peerFigures writes.
const figuresHead = "   events/s   p50 ms   p99 ms  steal"

// peers are the two servers and what drives them.
type peers struct {
	duration       time.Duration
	rounds         int
	base           string
	generator      string
	grout          *server
	data           string
	peer           string
	floor          *load.Target
	postgres, psql string
	port           string
}

// newPeers builds and starts everything; the end of the benchmark ends it.
func newPeers(ctx context.Context, b *testing.B, shared string) *peers {
	p := &peers{duration: 3 * time.Second, rounds: 2, base: b.TempDir()}
	var err error
	if text := os.Getenv(envDuration); text != "" {
		if p.duration, err = time.ParseDuration(text); err != nil || p.duration <= 0 || p.duration > time.Minute {
			b.Fatalf("%s=%s is no duration up to a minute", envDuration, text)
		}
	}
	if text := os.Getenv(envRounds); text != "" {
		if p.rounds, err = strconv.Atoi(text); err != nil || p.rounds < 1 || p.rounds > 100 {
			b.Fatalf("%s=%s is no number from 1 to 100", envRounds, text)
		}
	}
	sources := map[string]string{"load": filepath.Join(shared, "peers", "load"), "pgpeer": filepath.Join(shared, "peers", "pgpeer")}
	for _, dir := range sources {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			b.Fatalf("the yard-stick is not there: %v", err)
		}
	}
	bin, err := postgresPrograms()
	if err != nil {
		b.Fatal(err)
	}
	sources["grout"], sources["floor"] = ".", filepath.Join("load", "testdata", "floor")
	for name, dir := range sources {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(p.base, name), ".")
		cmd.Dir = dir
		if text, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("build %s: %v\n%s", name, err, text)
		}
	}
	p.generator = filepath.Join(p.base, "load")
	p.startPostgres(ctx, b, bin)
	p.startPeer(ctx, b)
	p.data = filepath.Join(p.base, "data")
	if p.grout, err = startServer(ctx, filepath.Join(p.base, "grout"), p.base, p.data); err != nil {
		b.Fatal(err)
	}
	ends(b, p.grout.child, syscall.SIGTERM)
	var floor *child
	if p.floor, floor, err = startFloor(ctx, filepath.Join(p.base, "floor")); err != nil {
		b.Fatal(err)
	}
	ends(b, floor, syscall.SIGKILL)
	return p
}

func ends(b *testing.B, c *child, signal syscall.Signal) {
	b.Cleanup(func() {
		if err := c.stop(signal, serverStopWithin); err != nil {
			b.Error(err)
		}
	})
}

// postgresPrograms finds the directory of the newest PostgreSQL.
func postgresPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	version := func(path string) float64 {
		n, _ := strconv.ParseFloat(filepath.Base(filepath.Dir(filepath.Dir(path))), 64)
		return n
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })), nil
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("PostgreSQL is not there: no initdb in /usr/lib/postgresql/*/bin or in PATH")
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// startPostgres makes a cluster to throw away. PostgreSQL refuses to run as root,
// so root lends it another user.
func (p *peers) startPostgres(ctx context.Context, b *testing.B, bin string) {
	dir, err := os.MkdirTemp("", "grout-bench-postgres-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	attributes := childAttributes()
	if os.Geteuid() == 0 {
		if attributes.Credential, err = otherUser(); err == nil {
			err = os.Chown(dir, int(attributes.Credential.Uid), int(attributes.Credential.Gid))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr, cmd.Env = dir, attributes, append(os.Environ(), "LC_ALL=C", "HOME="+dir)
		return cmd
	}
	cluster := filepath.Join(dir, "cluster")
	if text, err := command("initdb", "-D", cluster, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C").CombinedOutput(); err != nil {
		b.Fatalf("initdb: %v\n%s", err, text)
	}
	p.port, p.psql = freePort(b), filepath.Join(bin, "psql")
	server := command("postgres", "-D", cluster, "-p", p.port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=on", "-c", "synchronous_commit=on")
	c, err := startChild(ctx, server, time.Minute, func(line []byte) bool {
		return bytes.Contains(line, []byte("ready to accept connections"))
	})
	if err != nil {
		b.Fatal(err)
	}
	ends(b, c, syscall.SIGINT)
	p.postgres = "postgres://postgres@127.0.0.1:" + p.port + "/postgres?sslmode=disable"
}

func otherUser() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

// freePort is one that nobody listens on now.
func freePort(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	return port
}

func (p *peers) startPeer(ctx context.Context, b *testing.B) {
	address := "127.0.0.1:" + freePort(b)
	c, err := startChild(ctx, exec.Command(filepath.Join(p.base, "pgpeer"), "-addr", address, "-keys", "bench", "-dsn", p.postgres), time.Minute, func(line []byte) bool {
		return bytes.Contains(line, []byte("listening on"))
	})
	if err != nil {
		b.Fatal(err)
	}
	ends(b, c, syscall.SIGTERM)
	p.peer = "http://" + address
	for range 500 {
		if resp, err := http.Get(p.peer + "/health"); err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	b.Fatal("the yard-stick does not answer")
}

// measure runs the load generator once.
func (p *peers) measure(ctx context.Context, b *testing.B, who, url string, t *peerTarget) peerFigures {
	cmd := exec.CommandContext(ctx, p.generator, "-url", url+"/api/usage/ingest", "-header", "X-Internal-API-Key: bench",
		"-batch", strconv.Itoa(t.events), "-conns", strconv.Itoa(t.connections), "-duration", p.duration.String(), "-warmup", "1s")
	cmd.Stderr = io.Discard
	shares := load.Watch()
	text, err := cmd.Output()
	if ctx.Err() != nil {
		b.Fatal("interrupted")
	}
	var f peerFigures
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err != nil {
		b.Fatalf("the load generator: %v", err)
	}
	f.Steal = shares().Steal
	note := ""
	if f.Errors > 0 || !f.CountsMatch {
		note = fmt.Sprintf("  errors: %d, counts match: %t, %s", f.Errors, f.CountsMatch, f.LastError)
		b.Errorf("%s, %d events in each request, %d connections:%s", who, t.events, t.connections, note)
	}
	fmt.Printf("%s%s%s\n", peerKey(fmt.Sprint(t.events), fmt.Sprint(t.connections), who), &f, note)
	return f
}

// measureFloor uses the load of grout bench, since that of the yard-stick takes
// nothing but a 200.
func (p *peers) measureFloor(ctx context.Context, b *testing.B, t *peerTarget) peerFigures {
	r, err := load.Run(ctx, p.floor, load.Plan{
		Events: t.events, Connections: t.connections, Warmup: time.Second, Duration: p.duration, Answer: http.StatusAccepted,
	})
	if err != nil {
		b.Fatal(err)
	}
	f := peerFigures{
		Rate: r.Rate * float64(t.events), P50: float64(r.Latencies.Quantile(.5)) / 1e6, P99: float64(r.Latencies.Quantile(.99)) / 1e6,
		Steal: r.Shares.Steal,
	}
	fmt.Printf("%s%s\n", peerKey(fmt.Sprint(t.events), fmt.Sprint(t.connections), "floor"), &f)
	return f
}

// settleGrout waits until grout has published everything, so that the turn of the
// other is not burdened with it.
func (p *peers) settleGrout(ctx context.Context, b *testing.B) {
	end, took, ok, err := drain(ctx, p.grout.url, p.data, cellDrainLimit)
	if err != nil {
		b.Fatal(err)
	}
	if !ok || took > p.duration {
		fmt.Printf("%s grout needed %s to publish what was left; %s rows remain\n", strings.Repeat(" ", 25), took.Round(time.Millisecond), thousands(end.outbox))
	}
}

// settlePeer writes back what PostgreSQL would write during the turn of grout.
func (p *peers) settlePeer(ctx context.Context, b *testing.B) {
	if text, err := exec.CommandContext(ctx, p.psql, "-q", "-h", "127.0.0.1", "-p", p.port, "-U", "postgres", "-c", "CHECKPOINT", "postgres").CombinedOutput(); err != nil {
		b.Fatalf("checkpoint: %v\n%s", err, text)
	}
}
