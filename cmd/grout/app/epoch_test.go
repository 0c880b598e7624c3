package app

import (
	"errors"
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

// secondEpoch is the data directory of a stopped grout that has lost its command
// stream once, with a snapshot of each epoch.
func secondEpoch(t *testing.T) (Config, []store.Snapshot) {
	t.Helper()
	cfg := testConfig(t, 1)
	cfg.SnapshotEvery = 100 * time.Millisecond
	n := serve(t, cfg)
	for round := uint64(0); ; round++ {
		postHistory(t, n.url, round, 20, time.Now().UTC())
		if list, _ := store.Snapshots(snapshotDir(cfg.DataDir, 0)); len(list) > 0 && list[0].Position.Seq > 20 {
			break
		}
	}
	n.stop()
	if err := os.RemoveAll(filepath.Join(cfg.DataDir, "nats", "jetstream", "GROUT", "streams", schemas.StreamCommands)); err != nil {
		t.Fatal(err)
	}
	cfg.SnapshotEvery = time.Hour // one of the new epoch, beside those of the old
	n = serve(t, cfg)
	postHistory(t, n.url, 99, 60, time.Now().UTC())
	n.stop()
	list, err := store.Snapshots(snapshotDir(cfg.DataDir, 0))
	if err != nil || len(list) < 2 || list[0].Epoch != 2 || list[1].Epoch != 1 {
		t.Fatalf("snapshots %+v, %v", list, err)
	}
	return cfg, list
}

// Only a snapshot of the newest epoch brings a lost store back: an older one could not
// be replayed into it, and is not put in its place.
func TestOlderEpochsBringNothingBack(t *testing.T) {
	cfg, list := secondEpoch(t)
	b, err := os.ReadFile(list[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	path := storePath(cfg.DataDir, 0)
	if err := errors.Join(os.WriteFile(list[0].Path, b, 0o600), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	err = restoreMissing(t.Context(), cfg.DataDir, 0, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "no snapshot of epoch 2 is sound") {
		t.Errorf("restored without a snapshot of the epoch: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a store of an older epoch was put in place: %v", err)
	}
}

// A position in an older epoch says nothing about the stream of this one: it is not
// trimmed below it.
func TestOlderEpochsTrimNothing(t *testing.T) {
	cfg, _ := secondEpoch(t)
	b, err := openOffline(t.Context(), cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := store.Open(storePath(cfg.DataDir, 0), store.Options{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir := snapshotDir(cfg.DataDir, 0)
	k := &keeper{store: s, bus: b.Bus, dir: dir, age: time.Hour, bytes: 1, logger: slog.New(slog.DiscardHandler)}
	if err := k.trimStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st, err := b.Commands(t.Context()); err != nil || st.First != 1 || st.Last < 20 {
		t.Errorf("the stream is %d to %d: %v", st.First, st.Last, err)
	}
}

// An operator's epoch is refused where it would only throw something away.
func TestEpochIsRefusedWhereNothingIsWrong(t *testing.T) {
	cfg := testConfig(t, 1)
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 20, time.Now().UTC())
	n.stop()
	older := filepath.Join(t.TempDir(), "older.db")
	content, err := os.ReadFile(storePath(cfg.DataDir, 0))
	if err == nil {
		err = os.WriteFile(older, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	n = serve(t, cfg)
	postHistory(t, n.url, 2, 20, time.Now().UTC())
	n.stop()
	if err := os.Rename(older, storePath(cfg.DataDir, 0)); err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	if err := NewEpoch(t.Context(), cfg, 0, logger); err == nil || !strings.Contains(err.Error(), "nothing is wrong") {
		t.Errorf("an epoch before groups that are not applied: %v", err)
	}
	if err := NewEpoch(t.Context(), cfg, 1, logger); err == nil {
		t.Error("an epoch of a partition that is none")
	}
	list, err := Epochs(t.Context(), cfg, logger)
	if err != nil || len(list) != 1 || list[0].Finding != "" || list[0].Common != list[0].Applied || list[0].LastOwn <= list[0].Applied || list[0].Epoch != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}

// An older store that was put back still needs what the snapshots beside it do not.
func TestOlderStoreKeepsItsStream(t *testing.T) {
	cfg := testConfig(t, 4)
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 20, time.Now().UTC())
	n.stop()
	older, err := os.ReadFile(storePath(cfg.DataDir, 0))
	if err != nil {
		t.Fatal(err)
	}
	at := checkpointOf(t, storePath(cfg.DataDir, 0), cfg, 0).Seq
	cfg.SnapshotEvery = 100 * time.Millisecond
	n = serve(t, cfg)
	for round := uint64(2); ; round++ {
		postHistory(t, n.url, round, 20, time.Now().UTC())
		if list, _ := store.Snapshots(snapshotDir(cfg.DataDir, 0)); len(list) == keptSnapshots && list[1].Position.Seq > at+20 {
			break
		}
		if round > 200 {
			t.Fatal("no snapshots were taken")
		}
	}
	n.stop()
	if err := os.WriteFile(storePath(cfg.DataDir, 0), older, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := openOffline(t.Context(), cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := store.Open(storePath(cfg.DataDir, 0), store.Options{Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	k := &keeper{store: s, bus: b.Bus, dir: snapshotDir(cfg.DataDir, 0), age: time.Hour, bytes: 1, logger: slog.New(slog.DiscardHandler)}
	if err := k.trimStream(t.Context()); err != nil {
		t.Fatal(err)
	}
	if below, err := bus.TrimmedNote(natsDir(cfg), 0); below > at || err != nil {
		t.Errorf("trimmed below %d, the store has applied %d: %v", below, at, err)
	}
}
