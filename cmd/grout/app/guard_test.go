package app

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// A snapshot that turns out to be none does not keep a start from making facts again.
func TestFactsAreMadeAgainBesideBadSnapshot(t *testing.T) {
	cfg := usedDirectory(t, 1, true)
	list, err := store.Snapshots(snapshotDir(cfg.DataDir, 0))
	if err != nil || len(list) != keptSnapshots {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	older := list[1]
	text, err := os.ReadFile(older.Manifest())
	if err != nil {
		t.Fatal(err)
	}
	other := strings.Replace(string(text), older.SHA256, strings.Repeat("0", 64), 1)
	if err := os.WriteFile(older.Manifest(), []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(streamDir(cfg, schemas.StreamFacts)); err != nil {
		t.Fatal(err)
	}
	if err := startsAgain(t, cfg); err != nil {
		t.Error(err)
	}
}

func streamDir(cfg Config, stream string) string {
	return filepath.Join(natsDir(cfg), "jetstream", "GROUT", "streams", stream)
}

// Damage that was mended before the server started is told also when the guard stops
// the start: nobody would find it again.
func TestMendedDamageIsTold(t *testing.T) {
	cfg := testConfig(t, 1)
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 5, time.Now().UTC())
	n.stop()
	older, err := os.ReadFile(storePath(cfg.DataDir, 0))
	if err != nil {
		t.Fatal(err)
	}
	n = serve(t, cfg)
	postHistory(t, n.url, 2, 40, time.Now().UTC())
	n.stop()
	block := filepath.Join(streamDir(cfg, schemas.StreamCommands), "msgs", "1.blk")
	text, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)*9/10] ^= 4
	if err := errors.Join(os.WriteFile(block, text, 0o600), os.WriteFile(storePath(cfg.DataDir, 0), older, 0o600)); err != nil {
		t.Fatal(err)
	}
	s := newSupervisor(cfg, slog.New(slog.DiscardHandler), func(*node) {})
	var guard *bus.GuardError
	if err := s.Run(t.Context()); !errors.As(err, &guard) || guard.Name != bus.StreamGap {
		t.Fatalf("messages that are gone: %v", err)
	}
	if list := s.alarms.all(); !slices.ContainsFunc(list, func(a schemas.Alarm) bool { return a.Name == bus.StreamDamaged }) {
		t.Errorf("what was mended is not told: %+v", list)
	}
	if kept, err := filepath.Glob(filepath.Join(natsDir(cfg), "damaged", "*")); err != nil || len(kept) != 1 {
		t.Errorf("%v %v", kept, err)
	}
}
