package integration

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"grout/integration/inject"
	"grout/integration/process"
)

const (
	healWithin   = 10 * time.Second
	refuseWithin = 15 * time.Second
	silentAfter  = 6 * time.Second // a stream that has not answered for so long is given up
)

// trouble is a way in which a disk fails.
type trouble struct {
	name  string
	calls inject.Calls
	errno unix.Errno
}

var troubles = []trouble{
	{"EIO at write", inject.Write, unix.EIO},
	{"EIO at sync", inject.Sync, unix.EIO},
	{"EIO at anything", inject.Write | inject.Sync | inject.Name, unix.EIO},
	{"ENOSPC at write", inject.Write, unix.ENOSPC},
	{"ENOSPC at sync", inject.Sync, unix.ENOSPC},
	{"ENOSPC at write and sync", inject.Write | inject.Sync, unix.ENOSPC},
	{"read-only", inject.Write | inject.Name, unix.EROFS},
	{"slow", inject.Sync, 0},
	{hanging, inject.Sync, 0},
}

// hanging is a disk that finishes no sync while the trouble lasts.
const hanging = "hanging"

// targets are the files that fail, by name.
func targets(data string, partitions int) map[string][]string {
	m := map[string][]string{
		"bbolt":     {filepath.Join(data, "store")},
		"JetStream": {filepath.Join(data, "nats")},
		"both":      {data},
	}
	if partitions > 1 {
		m["one partition"] = []string{filepath.Join(data, "store", "partition-001.db")}
	}
	return m
}

// While writes and syncs of the store, of the streams, or of both fail, ingest
// answers 503 and nothing false, and readiness turns red. Once they work again so
// does the same process, within ten seconds, and every event that was answered is
// counted once, logged once and in one fact. A disk that is only slow makes answers
// late, not wrong.
func TestDiskErrors(t *testing.T) {
	if err := inject.Available(); err != nil {
		t.Skipf("errors of system calls cannot be made here, so nothing of this was tested: %v", err)
	}
	rounds := kills(t)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		c := newCampaign(t, partitions)
		for round, k := range c.schedule(rounds) {
			if !c.round(round, k) {
				break
			}
		}
		t.Logf("seed %d; calls that met a fault: %s", c.seed, c.injector.Counts())
		c.finish()
	})
}

// campaign is one process whose disk fails again and again.
type campaign struct {
	t          *testing.T
	seed       uint64
	rng        *rand.Rand
	data       string
	partitions int
	p          *process.Process
	injector   *inject.Injector
	reporters  *reporters

	rounds      int
	sum         spell
	slowestHeal time.Duration
}

func newCampaign(t *testing.T, partitions int) *campaign {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("GROUT_FAULT_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("GROUT_FAULT_SEED=%q is no number", s)
		}
	}
	c := &campaign{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), partitions: partitions,
		data: filepath.Join(t.TempDir(), "data"),
	}
	var err error
	if c.injector, err = inject.New(seed); err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := c.injector.Run(); err != nil {
			t.Errorf("injector: %v", err)
		}
	}()
	t.Cleanup(func() {
		if err := c.injector.Close(); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Folds, snapshots and trimming happen all the time, so that the faults meet
	// them as well.
	env := append(c.injector.Env(grout), fmt.Sprint("MOZAIKS_PARTITIONS=", partitions), "MOZAIKS_WAIT_LIMIT="+waitLimit.String(),
		"MOZAIKS_FOLD_EVERY=500", "MOZAIKS_SNAPSHOT_EVERY=1s", "MOZAIKS_COMMAND_AGE=1s")
	c.p, err = process.Start(t.Context(), process.Options{Binary: self, Data: c.data, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.p.Kill)
	c.reporters = report(t, c.p, seed)
	return c
}

// finish checks everything that was answered, and sums the rounds up.
func (c *campaign) finish() {
	events, untrue := c.reporters.verify()
	c.sum.add(c.reporters.turn())
	c.t.Logf("%d rounds, %d events; answers 200: %d, 202: %d, 503: %d; false 2xx: %d; slowest answer %s; working again after at most %s; new nodes: %d",
		c.rounds, events, c.sum.answered, c.sum.accepted, c.sum.refused, untrue,
		c.sum.slowest.Round(time.Millisecond), c.slowestHeal.Round(time.Millisecond), heals(c.t, c.p))
	stop(c.t, c.p)
	verifyStopped(c.t, c.data, c.partitions)
}

// kindOfRound is what goes wrong in a round, how badly, and for how long.
type kindOfRound struct {
	trouble
	target string
	share  float64       // of the calls; 0: all
	late   time.Duration // of a slow disk
	lasts  time.Duration
}

func (k kindOfRound) String() string {
	s := k.target + ", " + k.name
	if k.share != 0 {
		s += fmt.Sprintf(", %.0f%% of calls", 100*k.share)
	}
	if k.late != 0 && k.name != hanging {
		s += ", " + k.late.Round(time.Millisecond).String()
	}
	return s + ", for " + k.lasts.Round(time.Millisecond).String()
}

// schedule draws rounds: every trouble of every target once before any comes again.
func (c *campaign) schedule(n int) []kindOfRound {
	var all, list []kindOfRound
	for _, target := range []string{"bbolt", "JetStream", "both", "one partition"} {
		if targets(c.data, c.partitions)[target] == nil {
			continue
		}
		for _, tr := range troubles {
			all = append(all, kindOfRound{trouble: tr, target: target})
		}
	}
	for len(list) < n {
		c.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, k := range all[:min(len(all), n-len(list))] {
			k.lasts = 300*time.Millisecond + time.Duration(c.rng.Int64N(int64(2500*time.Millisecond)))
			switch {
			case k.name == hanging:
				k.late, k.lasts = time.Hour, waitLimit+2*k.lasts
			case k.errno == 0:
				k.late = 200*time.Millisecond + time.Duration(c.rng.Int64N(int64(1300*time.Millisecond)))
				k.lasts += 2 * k.late
			default:
				k.share = []float64{0, 0, 0.5, 0.1, 0.02}[c.rng.IntN(5)]
			}
			list = append(list, k)
		}
	}
	return list
}

// round lets the disk fail once, and reports whether it makes sense to go on.
func (c *campaign) round(round int, k kindOfRound) bool {
	t := c.t
	c.rounds++
	healsBefore := heals(t, c.p)
	calm := c.reporters.turn()
	c.sum.add(calm)
	if round > 0 && calm.refused > 0 {
		t.Errorf("before round %d, %d reports were refused (%s) though nothing was wrong", round, calm.refused, calm.refusal)
	}
	c.injector.Set(inject.Fault{Under: targets(c.data, c.partitions)[k.target], Calls: k.calls, Share: k.share, Errno: k.errno, Late: k.late})
	c.await(k.lasts, func() bool { return false })
	if k.errno != 0 && k.share == 0 {
		if !c.await(refuseWithin, func() bool { s := c.reporters.seen(); return s.refused > 0 && s.red > 0 }) {
			s := c.reporters.seen()
			t.Errorf("round %d (%s): %d reports refused, %d looks at /ready red, %d calls failed", round, k, s.refused, s.red, c.injector.Met())
		}
	}
	met := c.injector.Met()
	during := c.reporters.seen()
	c.injector.Clear()
	began := time.Now()
	healed := c.heal(began)
	took := time.Since(began)
	c.slowestHeal = max(c.slowestHeal, took)
	s := c.reporters.turn()
	c.sum.add(s)
	rebuilt := heals(t, c.p) - healsBefore
	t.Logf("round %d: %s: %d calls met it; 200: %d, 202: %d, 503: %d, /ready red %d of %d (%s), slowest %s, %d new nodes; working again after %s",
		round, k, met, s.answered, s.accepted, s.refused, during.red, during.red+during.green, s.reason, s.slowest.Round(time.Millisecond), rebuilt, took.Round(time.Millisecond))
	if !healed {
		t.Errorf("round %d (%s): it did not work again within %s:\n%s", round, k, healWithin, c.p.Log())
		return false
	}
	if k.late == 0 && s.refused > 0 && s.red == 0 {
		t.Errorf("round %d (%s): %d reports were refused, and /ready stayed green", round, k, s.refused)
	}
	if k.late != 0 {
		c.judgeSlow(round, k, s, during.red, met, rebuilt)
	}
	c.reporters.turn()
	return c.await(300*time.Millisecond, func() bool { return false }) || c.reporters.alive()
}

// judgeSlow tells what a slow disk may not do: refuse what could be waited for.
func (c *campaign) judgeSlow(round int, k kindOfRound, s spell, red, met int, rebuilt int64) {
	queue := time.Duration(1+c.partitions) * k.late // each partition has a group in flight, and the stream takes one at a time
	if k.target == "bbolt" || k.target == "one partition" {
		queue = 0 // a report that is in the stream is answered 202
	}
	if queue < waitLimit*3/4 && (s.refused > 0 || rebuilt > 0) {
		c.t.Errorf("round %d (%s): %d reports refused (%s) and %d new nodes on a disk that is only slow", round, k, s.refused, s.refusal, rebuilt)
	}
	if met == 0 || s.slowest < min(k.late, waitLimit) {
		c.t.Errorf("round %d (%s): %d calls were late, and the slowest answer took %s", round, k, met, s.slowest)
	}
	if red == 0 && queue > 0 && k.name == hanging && k.lasts > silentAfter {
		c.t.Errorf("round %d (%s): the stream did not answer for so long, and /ready stayed green", round, k)
	}
}

// heal waits until the process is ready and counts again.
func (c *campaign) heal(began time.Time) bool {
	b := 0
	return c.await(healWithin, func() bool {
		status, _, _, err := c.reporters.do("GET", "/ready", nil)
		if err != nil || status != http.StatusOK {
			return false
		}
		b++
		one := makeBatch(fmt.Sprintf("heal-%d-%d", began.UnixNano(), b), c.rng)
		return c.reporters.post(&one, 1)
	})
}

// await waits for something, or for the time to pass.
func (c *campaign) await(limit time.Duration, done func() bool) bool {
	end := time.Now().Add(limit)
	for time.Now().Before(end) && c.reporters.wait(min(readyPace, time.Until(end))) {
		if done() {
			return true
		}
	}
	return false
}

func (s *spell) add(o spell) {
	s.answered += o.answered
	s.accepted += o.accepted
	s.refused += o.refused
	s.red += o.red
	s.green += o.green
	s.slowest = max(s.slowest, o.slowest)
}

// heals is how often the process has built a new node.
func heals(t *testing.T, p *process.Process) int64 {
	t.Helper()
	for line := range strings.Lines(string(request(t, p, "GET", "/metrics", nil).want(t, 200).body)) {
		if text, ok := strings.CutPrefix(line, "grout_heals_total "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("there is no metric grout_heals_total")
	return 0
}

// verifyStopped replays the command stream of a stopped process.
func verifyStopped(t *testing.T, data string, partitions int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), grout, "verify", "--data-dir", data, "--partitions", fmt.Sprint(partitions))
	cmd.Dir = t.TempDir()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("grout verify: %v\n%s", err, out)
	}
}
