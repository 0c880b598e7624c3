package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
	"grout/schemas"
)

// house is a data directory whose grout is stopped, harmed and started again, with
// what its apps were told.
type house struct {
	t          *testing.T
	data       string
	partitions int
	env        []string
	p          *process.Process
	events     int // of each app
	seen       map[string]fact
	sent       int
}

const houseApps = 6

func newHouse(t *testing.T, partitions int, env ...string) *house {
	h := &house{t: t, data: filepath.Join(t.TempDir(), "data"), partitions: partitions, env: env, seen: map[string]fact{}}
	h.start()
	return h
}

func (h *house) start(env ...string) {
	h.t.Helper()
	h.p = start(h.t, h.data, h.partitions, append(h.env, env...)...)
}

// stopped changes the files while nobody works on them.
func (h *house) stopped(change func()) {
	h.t.Helper()
	stop(h.t, h.p)
	change()
}

// post reports events of every app, in rounds.
func (h *house) post(rounds int) {
	h.t.Helper()
	for range rounds {
		h.sent++
		for app := range houseApps {
			request(h.t, h.p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents(fmt.Sprint("app-", app), fmt.Sprint("r", h.sent), 5)}).want(h.t, 200)
		}
		h.events += 5
	}
}

// facts reads the stream of facts, each of which may be in it once, and adds them to
// what a subscriber has seen: the same id is the same fact, whichever stream it is in.
func (h *house) facts(events int) (now map[string]int) {
	h.t.Helper()
	now = map[string]int{}
	list := facts(h.t, h.p, func(list []fact) bool { e, _ := recorded(h.t, list); return len(e) >= events })
	for _, f := range list {
		now[f.ID]++
		old, known := h.seen[f.ID]
		if now[f.ID] > 1 {
			h.t.Errorf("fact %s is %d times in the stream", f.ID, now[f.ID])
		}
		if known && (old.Subject != f.Subject || string(old.Data) != string(f.Data) || old.Sequence != f.Sequence) {
			h.t.Errorf("fact %s is another one than before", f.ID)
		}
		h.seen[f.ID] = f
	}
	return now
}

// check compares the sums with what was answered, and what a subscriber of all streams
// has seen: every event is in exactly one fact.
func (h *house) check() {
	h.t.Helper()
	for app := range houseApps {
		var r struct {
			Totals hourRow `json:"totals"`
		}
		request(h.t, h.p, "GET", fmt.Sprintf("/api/usage?app_id=app-%d", app), nil).want(h.t, 200).into(h.t, &r)
		if r.Totals.Events != int64(h.events) {
			h.t.Errorf("app %d: %d events are counted, %d were answered", app, r.Totals.Events, h.events)
		}
	}
	all := make([]fact, 0, len(h.seen))
	for _, f := range h.seen {
		all = append(all, f)
	}
	_, times := recorded(h.t, all)
	if len(times) != houseApps*h.events {
		h.t.Errorf("%d events in facts, %d were counted", len(times), houseApps*h.events)
	}
	for id, n := range times {
		if n != 1 {
			h.t.Errorf("event %q is in %d facts", id, n)
		}
	}
	sequences := map[string]string{}
	for _, f := range all {
		place := f.App + "/" + f.Sequence
		if other, taken := sequences[place]; taken {
			h.t.Errorf("facts %s and %s both have place %s", f.ID, other, place)
		}
		sequences[place] = f.ID
	}
}

// alarms lists the names of the alarms that /ready and /metrics tell.
func (h *house) alarms() map[string]int {
	h.t.Helper()
	names, metrics := map[string]int{}, h.metrics()
	for _, a := range h.alarmList() {
		names[a.Name]++
		if line := fmt.Sprintf(`grout_guard_alarms_total{name="%s",partition="%d"} 1`, a.Name, a.Partition); !strings.Contains(metrics, line) {
			h.t.Errorf("no metric %s", line)
		}
	}
	return names
}

func (h *house) alarmList() []schemas.Alarm {
	h.t.Helper()
	var r struct {
		Alarms []schemas.Alarm `json:"alarms"`
	}
	request(h.t, h.p, "GET", "/ready", nil).want(h.t, 200).into(h.t, &r)
	return r.Alarms
}

func (h *house) metrics() string {
	h.t.Helper()
	resp, err := http.Get(h.p.URL + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// quiet stops and starts once more: nothing is left to be said, and nothing changes.
func (h *house) quiet() {
	h.t.Helper()
	h.stopped(func() {})
	h.start()
	if a := h.alarms(); len(a) > 0 {
		h.t.Errorf("alarms at the second start: %v", a)
	}
	h.facts(0)
	h.check()
}

// verify runs grout verify on the stopped data directory.
func (h *house) verify() {
	h.t.Helper()
	stop(h.t, h.p)
	out, err := h.command("verify", "-o", "json")
	if err != nil {
		h.t.Fatalf("verify: %v\n%s", err, out)
	}
	h.t.Logf("verify: %.300s", out)
}

func (h *house) command(args ...string) (string, error) {
	cmd := exec.CommandContext(h.t.Context(), grout, append(args, "--data-dir", h.data, "--partitions", fmt.Sprint(h.partitions))...)
	cmd.Dir = h.t.TempDir()
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return string(out) + errs.String(), err
	}
	return string(out), nil
}

func (h *house) nats() string { return filepath.Join(h.data, "nats") }

func (h *house) stream(name string) string {
	return filepath.Join(h.nats(), "jetstream", "GROUT", "streams", name)
}

func replaceTree(t *testing.T, from, to string) {
	t.Helper()
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(from))); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s is not there", path)
	}
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// refused starts and expects a start that names why it is none.
func (h *house) refused(name string) string {
	h.t.Helper()
	p, err := process.Start(h.t.Context(), process.Options{
		Binary: grout, Data: h.data, Env: append([]string{fmt.Sprint("MOZAIKS_PARTITIONS=", h.partitions)}, h.env...),
	})
	if err == nil {
		p.Kill()
		h.t.Fatalf("it started, want %s", name)
	}
	if !strings.Contains(err.Error(), name) {
		h.t.Fatalf("want %s: %v", name, err)
	}
	return err.Error()
}

func (h *house) want(what map[string]int) {
	h.t.Helper()
	got := h.alarms()
	for name, n := range what {
		if got[name] != n {
			h.t.Errorf("%d alarms %s, want %d (all: %v)", got[name], name, n, got)
		}
	}
	if len(got) != len(what) {
		h.t.Errorf("alarms %v, want %v", got, what)
	}
}

// A stream that is lost, or of which only an older copy is there, costs nothing that
// was counted and no fact that was told: grout goes on from its stores in a new epoch
// and says so.
func TestLostStreams(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		each := partitions
		for _, c := range []struct {
			what   string
			harm   func(t *testing.T, h *house, older string)
			alarms map[string]int
		}{
			{"all streams", func(t *testing.T, h *house, _ string) { remove(t, h.nats()) }, map[string]int{schemas.StreamRecreated: each, schemas.RelayTailLost: each}},
			{"an older copy of all", func(t *testing.T, h *house, older string) { replaceTree(t, filepath.Join(older, "nats"), h.nats()) }, map[string]int{schemas.StreamTailLost: each, schemas.RelayTailLost: each}},
			{"the commands", func(t *testing.T, h *house, _ string) { remove(t, h.stream(schemas.StreamCommands)) }, map[string]int{schemas.StreamRecreated: each}},
			{"the facts", func(t *testing.T, h *house, _ string) { remove(t, h.stream(schemas.StreamFacts)) }, map[string]int{schemas.RelayTailLost: each}},
			{"an older copy of the facts", func(t *testing.T, h *house, older string) {
				replaceTree(t, filepath.Join(older, "nats", "jetstream", "GROUT", "streams", schemas.StreamFacts), h.stream(schemas.StreamFacts))
			}, map[string]int{schemas.RelayTailLost: each}},
		} {
			t.Run(c.what, func(t *testing.T) {
				h := newHouse(t, partitions)
				h.post(4)
				h.facts(houseApps * h.events)
				older := filepath.Join(t.TempDir(), "older")
				h.stopped(func() { replaceTree(t, h.data, older) })
				h.start()
				h.post(4)
				h.facts(houseApps * h.events)
				h.check()
				h.stopped(func() { c.harm(t, h, older) })
				h.start()
				h.want(c.alarms)
				h.post(3)
				again := h.facts(houseApps * 15)
				if c.what == "the facts" || c.what == "an older copy of the facts" { // the commands are there: all can be made again
					for id := range h.seen {
						if again[id] != 1 {
							t.Errorf("fact %s is %d times in the new stream", id, again[id])
						}
					}
				}
				h.check()
				h.quiet()
				h.post(1)
				h.facts(0)
				h.verify()
			})
		}
	})
}

// A stream of another history is never applied. The operator may decide for the store.
func TestForeignStream(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		h, other := newHouse(t, partitions), newHouse(t, partitions)
		h.post(4)
		h.facts(houseApps * h.events)
		other.post(9)
		other.stopped(func() {})
		h.stopped(func() { replaceTree(t, other.nats(), h.nats()) })
		h.refused(schemas.StreamRecreated)
		var list []struct {
			Epoch   int    `json:"epoch"`
			Finding string `json:"finding"`
		}
		out, err := h.command("epoch", "show", "-o", "json")
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != partitions || !strings.Contains(list[0].Finding, schemas.StreamRecreated) || list[0].Epoch != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		if out, err := h.command("epoch", "start", "--partition", "0"); err == nil { // nobody says yes
			t.Fatalf("an epoch was started: %s", out)
		}
		for p := range partitions {
			if out, err := h.command("epoch", "start", "--yes", "--partition", fmt.Sprint(p)); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		h.refused(schemas.RelayForeign)
		remove(t, h.stream(schemas.StreamFacts))
		h.start()
		h.want(map[string]int{schemas.RelayTailLost: partitions})
		h.post(2)
		h.facts(houseApps * 10)
		h.check()
		h.quiet()
		h.verify()
	})
}

// A store that is older than its stream replays what it lacks, or says by name that it
// cannot.
func TestOlderStore(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		t.Run("untrimmed", func(t *testing.T) {
			h := newHouse(t, partitions)
			h.post(4)
			older := filepath.Join(t.TempDir(), "older")
			h.stopped(func() { replaceTree(t, h.data, older) })
			h.start()
			h.post(4)
			h.facts(houseApps * h.events)
			h.stopped(func() { replaceTree(t, filepath.Join(older, "store"), filepath.Join(h.data, "store")) })
			h.start()
			h.want(map[string]int{})
			h.post(1)
			h.facts(houseApps * h.events)
			h.check()
			h.verify()
		})
		t.Run("from before an epoch", func(t *testing.T) {
			h := newHouse(t, partitions)
			h.post(3)
			older := filepath.Join(t.TempDir(), "older")
			h.stopped(func() { replaceTree(t, h.data, older) })
			h.start()
			h.post(3)
			h.facts(houseApps * h.events)
			h.stopped(func() { remove(t, h.stream(schemas.StreamCommands)) })
			h.start()
			h.post(3)
			h.facts(houseApps * h.events)
			h.stopped(func() { replaceTree(t, filepath.Join(older, "store"), filepath.Join(h.data, "store")) })
			if text := h.refused(schemas.EpochGap); !strings.Contains(text, "is new enough") {
				t.Errorf("the snapshot of the epoch is not named: %s", text)
			}
			remove(t, filepath.Join(h.data, "store")) // which the snapshot of the epoch brings back
			h.start()
			h.post(1)
			h.facts(houseApps * h.events)
			h.check()
			h.verify()
		})
	})
}

// With a trimmed stream of commands: facts that are lost are made again from the
// snapshots, and what those no longer hold is named to the position. A store from
// before what was trimmed is refused by name.
func TestLostBehindTrimmed(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		h := newHouse(t, partitions, "MOZAIKS_SNAPSHOT_EVERY=200ms", "MOZAIKS_COMMAND_AGE=1s")
		h.post(2)
		older := filepath.Join(t.TempDir(), "older")
		h.stopped(func() { replaceTree(t, h.data, older) })
		h.start()
		deadline := time.Now().Add(60 * time.Second)
		for trimmed := 0; trimmed < partitions; {
			h.post(1)
			if trimmed = 0; time.Now().After(deadline) {
				t.Fatalf("nothing was trimmed: %s", h.p.Log())
			}
			for n := range partitions {
				if text, err := os.ReadFile(filepath.Join(h.nats(), fmt.Sprint("grout-trimmed-", n))); err == nil && !strings.HasPrefix(string(text), "1 ") {
					trimmed++
				}
			}
			pause(t, 100*time.Millisecond)
		}
		h.post(2)
		h.facts(houseApps * h.events)
		h.check()

		h.stopped(func() { remove(t, h.stream(schemas.StreamFacts)) })
		h.start()
		h.want(map[string]int{schemas.RelayTailLost: partitions})
		gaps := 0
		for _, a := range h.alarmList() {
			if strings.Contains(a.Detail, "cannot be made again: facts between 0/0/0/0 and 1/") {
				gaps++
			}
		}
		if gaps != partitions {
			t.Errorf("%d gaps are named: %+v", gaps, h.alarmList())
		}
		h.post(1)
		h.facts(houseApps * 5)
		h.check()
		h.quiet()

		h.stopped(func() { replaceTree(t, filepath.Join(older, "store"), filepath.Join(h.data, "store")) })
		if text := h.refused(schemas.StreamHeadLost); !strings.Contains(text, "is new enough") {
			t.Errorf("the snapshot is not named: %s", text)
		}
		remove(t, filepath.Join(h.data, "store"))
		h.start()
		h.post(1)
		h.facts(0)
		h.check()
		h.verify()
	})
}

// When the store and the stream are both lost, what the newest snapshot holds is gone
// on from, and the alarm says that this is not all.
func TestBothHalvesLost(t *testing.T) {
	h := newHouse(t, 1, "MOZAIKS_SNAPSHOT_EVERY=200ms")
	h.post(3)
	snapshots := func() []string {
		list, err := filepath.Glob(filepath.Join(h.data, "snapshots", "partition-000", "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for deadline := time.Now().Add(30 * time.Second); len(snapshots()) == 0; pause(t, 50*time.Millisecond) {
		if h.post(1); time.Now().After(deadline) {
			t.Fatal("no snapshot was taken")
		}
	}
	h.stopped(func() {
		remove(t, h.nats())
		remove(t, filepath.Join(h.data, "store"))
	})
	h.start()
	list := h.alarmList()
	if i := slices.IndexFunc(list, func(a schemas.Alarm) bool { return a.Name == schemas.StreamRecreated }); i < 0 || !strings.Contains(list[i].Detail, "restored from a snapshot") {
		t.Errorf("alarms %+v", list)
	}
	h.verify()
}

// A kill in the middle of the start of an epoch: the next start finds it and goes on.
func TestKilledWhileAnEpochStarts(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		for _, point := range []string{"epoch.published", "epoch.applied"} {
			for _, what := range []string{"removed", "older"} {
				t.Run(point+" "+what, func(t *testing.T) {
					h := newHouse(t, partitions)
					h.post(3)
					older := filepath.Join(t.TempDir(), "older")
					h.stopped(func() { replaceTree(t, h.nats(), older) })
					h.start()
					h.post(3)
					h.facts(houseApps * h.events)
					h.stopped(func() {
						if what == "removed" {
							remove(t, h.stream(schemas.StreamCommands))
							return
						}
						replaceTree(t, filepath.Join(older, "jetstream", "GROUT", "streams", schemas.StreamCommands), h.stream(schemas.StreamCommands))
					})
					for n := range partitions {
						_, err := process.Start(t.Context(), process.Options{
							Binary: grout, Data: h.data,
							Env: append([]string{fmt.Sprint("MOZAIKS_PARTITIONS=", partitions), "GROUT_CRASH_AT=" + point + ":1"}, h.env...),
						})
						if !errors.Is(err, process.ErrKilled) {
							if n > 0 && err != nil {
								t.Fatal(err)
							}
							t.Fatalf("it was not killed: %v", err)
						}
						if n == 0 && point == "epoch.applied" {
							break // the others may have been applied by then
						}
					}
					h.start()
					h.post(2)
					h.facts(houseApps * h.events)
					h.check()
					h.quiet()
					h.verify()
				})
			}
		}
	})
}

// The stream of commands is lost under a running node: it looks at everything again
// and goes on in a new epoch, without a restart of the process.
func TestStreamLostWhileRunning(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		h := newHouse(t, partitions, "MOZAIKS_WAIT_LIMIT=2s")
		h.post(3)
		h.facts(houseApps * h.events)
		deleteStream(t, h.p, schemas.StreamCommands)
		deadline := time.Now().Add(60 * time.Second)
		for h.alarmsWhenReady()[schemas.StreamRecreated] != partitions {
			if time.Now().After(deadline) {
				t.Fatalf("no new epoch: %s", h.p.Log())
			}
			pause(t, 50*time.Millisecond)
		}
		h.post(2)
		h.facts(houseApps * h.events)
		h.check()
		h.quiet()
		h.verify()
	})
}

// deleteStream removes a stream as an operator could.
func deleteStream(t *testing.T, p *process.Process, name string) {
	t.Helper()
	nc, err := nats.Connect(p.NATS, nats.UserInfo("admin", process.AdminPassword))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// alarmsWhenReady lists the alarms when the process is ready.
func (h *house) alarmsWhenReady() map[string]int {
	h.t.Helper()
	if a := request(h.t, h.p, "GET", "/ready", nil); a.status != http.StatusOK {
		return nil
	}
	return h.alarms()
}
