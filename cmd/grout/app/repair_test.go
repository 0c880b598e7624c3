package app

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// usedDirectory makes a data directory of a node that has stopped. A trimmed one has
// two snapshots of every partition, and its stream begins behind the first message.
func usedDirectory(t *testing.T, partitions int, trimmed bool) Config {
	t.Helper()
	cfg := testConfig(t, partitions)
	cfg.SnapshotEvery, cfg.CommandAge = time.Hour, time.Second
	if trimmed {
		cfg.SnapshotEvery = 100 * time.Millisecond
	}
	n := serve(t, cfg)
	start := time.Now()
	done := func() bool {
		for p := range partitions {
			if below, err := bus.TrimmedNote(natsDir(cfg), p); trimmed && (err != nil || below == 0) {
				return false
			}
		}
		return true
	}
	for round := uint64(0); round < 2 || !done(); round++ {
		postHistory(t, n.url, round, 20, time.Now().UTC())
		if time.Since(start) > 40*time.Second {
			t.Fatal("the stream was not trimmed in time")
		}
	}
	n.stop()
	cfg.SnapshotEvery = time.Hour // so that the state stays what it is
	if trimmed {                  // something behind the newest snapshot
		n = serve(t, cfg)
		postHistory(t, n.url, 1000, 20, time.Now().UTC())
		n.stop()
	}
	return cfg
}

func repair(t *testing.T, cfg Config, yes bool) *RepairReport {
	t.Helper()
	r, err := Repair(t.Context(), cfg, RepairOptions{Partition: -1, Confirm: func(*RepairReport) bool { return yes }}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func stepsOf(r *RepairReport) (kinds []string) {
	for _, s := range r.Steps {
		kinds = append(kinds, fmt.Sprintf("%s %v", s.Kind, s.Done))
	}
	return kinds
}

// fingerprint holds the names, sizes and bytes of everything in a directory but the
// lock.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "lock" {
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s %x\n", path, schemas.MessageDigest(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Whatever became of a store, repair makes it what it was, as long as a sound snapshot
// or a stream that was never trimmed is there. What it replaces is kept.
func TestRepairStore(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		for _, trimmed := range []bool{true, false} {
			t.Run(fmt.Sprintf("P=%d, trimmed %v", partitions, trimmed), func(t *testing.T) {
				cfg := usedDirectory(t, partitions, trimmed)
				path := storePath(cfg.DataDir, 0)
				want := withoutOutbox(dumpOf(t, path, cfg, 0))
				sound, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if r := repair(t, cfg, true); len(r.Steps) != 0 || r.Damaged() != 0 || !r.Whole() {
					t.Errorf("a sound directory: %+v", r)
				}
				for name, harm := range map[string]func() error{
					"flipped":     func() error { flipPages(t, path); return nil },
					"cut off":     func() error { return os.Truncate(path, 3*4096+100) },
					"emptied":     func() error { return os.Truncate(path, 0) },
					"missing":     func() error { return os.Remove(path) },
					"of nonsense": func() error { return os.WriteFile(path, bytes.Repeat([]byte("x"), 5000), 0o600) },
				} {
					if err := errors.Join(os.WriteFile(path, sound, 0o600), harm()); err != nil {
						t.Fatal(err)
					}
					before := fingerprint(t, cfg.DataDir)
					if r := repair(t, cfg, false); len(r.Steps) != 1 || r.Steps[0].Kind != stepRebuild || r.Steps[0].Done || r.Whole() {
						t.Errorf("%s, only asked: %v %v", name, stepsOf(r), r.Missing)
					}
					if fingerprint(t, cfg.DataDir) != before {
						t.Errorf("%s: something was changed although nobody said yes", name)
					}
					r := repair(t, cfg, true)
					if len(r.Steps) != 1 || !r.Steps[0].Done || !r.Whole() {
						t.Errorf("%s: %+v %v", name, r.Steps, r.Missing)
						continue
					}
					if kept := r.Steps[0].Kept; (kept == "") != (name == "missing") {
						t.Errorf("%s: the damaged file is kept as %q", name, kept)
					} else if kept != "" {
						if err := os.Remove(kept); err != nil { // the next one may come within the same second
							t.Error(err)
						}
					}
					if got := withoutOutbox(dumpOf(t, path, cfg, 0)); !bytes.Equal(got, want) {
						t.Errorf("%s: the new store is not what the old one was", name)
					}
					if r := repair(t, cfg, true); len(r.Steps) != 0 || !r.Whole() {
						t.Errorf("%s: a second repair has something to do: %+v", name, r.Steps)
					}
				}
				n := serve(t, cfg)
				postHistory(t, n.url, 2000, 5, time.Now().UTC())
				n.stop()
			})
		}
	}
}

// Without a snapshot that leads to the present nothing is pretended.
func TestRepairSaysWhatIsMissing(t *testing.T) {
	cfg := usedDirectory(t, 1, true)
	list, err := store.Snapshots(snapshotDir(cfg.DataDir, 0))
	if err != nil || len(list) != keptSnapshots {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	flipPages(t, storePath(cfg.DataDir, 0))
	flipPages(t, list[0].Path) // the second newest still does
	if r := repair(t, cfg, false); len(r.Steps) != 1 || !strings.Contains(r.Steps[0].What, fmt.Sprintf("snapshot at message %d", list[1].Position.Seq)) {
		t.Errorf("%+v", r.Steps)
	}
	flipPages(t, list[1].Path)
	before := fingerprint(t, cfg.DataDir)
	r := repair(t, cfg, true)
	if len(r.Steps) != 0 || r.Whole() || len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "trimmed below") || !strings.Contains(r.Missing[0], "possible:") {
		t.Errorf("%+v %v", r.Steps, r.Missing)
	}
	if fingerprint(t, cfg.DataDir) != before {
		t.Error("something was changed")
	}
}

// A command that is damaged in its file and applied is taken out, and a snapshot makes
// history whole again behind it; one that a store still needs is missed by name.
func TestRepairCommands(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprint("P=", partitions), func(t *testing.T) {
			cfg := usedDirectory(t, partitions, false)
			block := filepath.Join(natsDir(cfg), "jetstream", "GROUT", "streams", schemas.StreamCommands, "msgs", "1.blk")
			text, err := os.ReadFile(block)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)/2] ^= 4
			if err := os.WriteFile(block, text, 0o600); err != nil {
				t.Fatal(err)
			}
			want := make([][]byte, partitions)
			for p := range partitions {
				want[p] = withoutOutbox(dumpOf(t, storePath(cfg.DataDir, p), cfg, p))
			}
			r := repair(t, cfg, true)
			if len(r.Steps) != 1+partitions || r.Steps[0].Kind != stepMend || r.Steps[1].Kind != stepSnapshot || !r.Whole() {
				t.Fatalf("%v %v %+v", stepsOf(r), r.Missing, r.Steps)
			}
			if r := repair(t, cfg, true); len(r.Steps) != 0 || !r.Whole() {
				t.Errorf("a second repair has something to do: %+v %v", r.Steps, r.Missing)
			}
			// From the new snapshot everything can be replayed again.
			for p := range partitions {
				flipPages(t, storePath(cfg.DataDir, p))
			}
			if r := repair(t, cfg, true); len(r.Steps) != partitions || !r.Whole() {
				t.Errorf("%+v %v", r.Steps, r.Missing)
			}
			for p := range partitions {
				if got := withoutOutbox(dumpOf(t, storePath(cfg.DataDir, p), cfg, p)); !bytes.Equal(got, want[p]) {
					t.Errorf("partition %d is not what it was", p)
				}
			}
		})
	}
}

// The note of what was trimmed is found out again from the stream.
func TestRepairNote(t *testing.T) {
	cfg := usedDirectory(t, 1, true)
	note := bus.TrimmedFile(natsDir(cfg), 0)
	sound, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "7", string(sound[1:]), strings.Replace(string(sound), " ", "  ", 1)} {
		if err := os.WriteFile(note, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Run(t.Context(), cfg, &announced{ready: make(chan string, 1)})
		if err == nil || !strings.Contains(err.Error(), bus.StreamNote) {
			t.Errorf("a start with the note %q: %v", text, err)
		}
		if r := repair(t, cfg, true); len(r.Steps) != 1 || !r.Whole() {
			t.Errorf("%q: %+v", text, r.Steps)
		}
		if below, err := bus.TrimmedNote(natsDir(cfg), 0); below == 0 || err != nil {
			t.Errorf("%q: the note says %d, %v", text, below, err)
		}
	}
}

// A stream that holds nothing of what was applied is no reason to begin with an empty
// store: the snapshots know more.
func TestRepairKeepsToSnapshots(t *testing.T) {
	cfg := usedDirectory(t, 1, true)
	flipPages(t, storePath(cfg.DataDir, 0))
	if err := os.RemoveAll(natsDir(cfg)); err != nil {
		t.Fatal(err)
	}
	r := repair(t, cfg, true)
	if len(r.Steps) != 0 || r.Whole() || len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "move the store's file away") {
		t.Fatalf("%+v %v", r.Steps, r.Missing)
	}
	if err := os.Remove(storePath(cfg.DataDir, 0)); err != nil { // as it says
		t.Fatal(err)
	}
	if err := startsAgain(t, cfg); err != nil {
		t.Error(err)
	}
	if err := os.RemoveAll(snapshotDir(cfg.DataDir, 0)); err != nil {
		t.Fatal(err)
	}
	flipPages(t, storePath(cfg.DataDir, 0))
	if err := os.RemoveAll(natsDir(cfg)); err != nil {
		t.Fatal(err)
	}
	if r := repair(t, cfg, true); len(r.Steps) != 0 || r.Whole() {
		t.Errorf("a store was made of nothing: %+v %v", r.Steps, r.Missing)
	}
}
