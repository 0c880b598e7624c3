package app

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

func runningConfig(t *testing.T, partitions int) Config {
	cfg := testConfig(t, partitions)
	cfg.NATSListen = "127.0.0.1:0"
	cfg.AdminPasswords = Secret{Values: []string{"operator"}}
	cfg.FoldEvery = 60
	return cfg
}

// A server that takes usage all the while is proven at a fixed position, and goes on.
func TestVerifyRunningServer(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		cfg := runningConfig(t, partitions)
		n := serve(t, cfg)
		postHistory(t, n.url, 1, 20, time.Now().UTC())
		for _, v := range verified(t, cfg, VerifyOptions{}, partitions) { // the only snapshots there are
			if v.Verdict != VerdictEqual || v.Snapshot != "" || v.SHA256 == "" || v.Messages == 0 {
				t.Errorf("with one snapshot: %+v", v)
			}
		}
		stop, stopped := atomic.Bool{}, make(chan struct{})
		go func() {
			defer close(stopped)
			for round := uint64(2); !stop.Load(); round++ {
				postHistory(t, n.url, round, 5, time.Now().UTC())
			}
		}()
		for _, v := range verified(t, cfg, VerifyOptions{FromStart: true, ReplicaDigest: true}, partitions) {
			if v.Verdict != VerdictEqual || v.SHA256 == "" || v.ReplicaSHA256 == "" || filepath.Dir(v.Compared) != snapshotDir(cfg.DataDir, v.Partition) {
				t.Errorf("%+v", v)
			}
		}
		stop.Store(true)
		<-stopped
		n.stop()
		for _, v := range verified(t, cfg, VerifyOptions{}, partitions) {
			if v.Verdict != VerdictEqual || v.Snapshot == "" {
				t.Errorf("afterwards: %+v", v)
			}
		}
	}
}

// From an older snapshot to the one that the running server takes now.
func TestVerifyRunningServerFromSnapshot(t *testing.T) {
	cfg := runningConfig(t, 1)
	cfg.SnapshotEvery = time.Hour
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 20, time.Now().UTC())
	n.stop()
	path := storePath(cfg.DataDir, 0)
	takeSnapshot(t, cfg, path)
	older := checkpointOf(t, path, cfg, 0).Seq
	n = serve(t, cfg)
	postHistory(t, n.url, 2, 20, time.Now().UTC())
	v := verified(t, cfg, VerifyOptions{}, 1)[0]
	if v.Verdict != VerdictEqual || v.From != older || v.Snapshot == "" || v.To <= older || v.Messages == 0 || len(v.Notes) > 0 {
		t.Errorf("%+v", v)
	}
	n.stop()
}

// A partition in quarantine is told as damaged by the server itself; the others are
// verified.
func TestVerifyRunningServerInQuarantine(t *testing.T) {
	cfg := runningConfig(t, 4)
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 20, time.Now().UTC())
	n.stop()
	broken := schemas.PartitionOf("app-1", 4)
	changeRow(t, storePath(cfg.DataDir, broken), "batches")
	n = serve(t, cfg)
	defer n.stop()
	for i, v := range verified(t, cfg, VerifyOptions{}, 4) {
		want := VerdictEqual
		if i == broken {
			want = VerdictDamaged
		}
		if v.Verdict != want || i == broken && !strings.Contains(v.Reason, "quarantine") {
			t.Errorf("%+v", v)
		}
	}
}

func takeSnapshot(t *testing.T, cfg Config, path string) {
	t.Helper()
	s, err := store.Open(path, store.Options{Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Snapshot(t.Context(), snapshotDir(cfg.DataDir, 0), time.Now(), nil); err != nil {
		t.Fatal(err)
	}
}

// Without an older snapshot, and with a stream that was trimmed, it says that it
// cannot tell.
func TestVerifyRunningServerAfterTrimming(t *testing.T) {
	cfg := runningConfig(t, 1)
	cfg.SnapshotEvery, cfg.CommandAge = 100*time.Millisecond, time.Second
	n := serve(t, cfg)
	deadline := time.Now().Add(30 * time.Second)
	for round := uint64(0); firstCommand(t, cfg) <= 1; round++ {
		postHistory(t, n.url, round, 10, time.Now().UTC())
		if time.Now().After(deadline) {
			t.Fatal("the stream was not trimmed")
		}
	}
	n.stop()
	if err := os.RemoveAll(snapshotDir(cfg.DataDir, 0)); err != nil {
		t.Fatal(err)
	}
	cfg.SnapshotEvery = time.Hour
	n = serve(t, cfg)
	defer n.stop()
	v := verified(t, cfg, VerifyOptions{}, 1)[0]
	if v.Verdict != VerdictUnverified || !strings.Contains(v.Reason, "STREAM_HEAD_LOST") || len(v.Notes) == 0 {
		t.Errorf("%+v", v)
	}
}

// attached uses the streams of a running server as its operator.
func attached(t *testing.T, cfg Config) (*bus.Bus, func()) {
	t.Helper()
	_, err := lockDataDir(cfg.DataDir)
	var used *inUseError
	if !errors.As(err, &used) || used.pid != strconv.Itoa(os.Getpid()) {
		t.Fatalf("%v", err)
	}
	nc, err := bus.ConnectAdmin(used.natsURL, cfg.AdminPasswords.Values[0], "test")
	if err != nil {
		t.Fatal(err)
	}
	b, err := bus.Attach(nc, busConfig(cfg, nil))
	if err != nil {
		t.Fatal(err)
	}
	return b, nc.Close
}

// firstCommand asks a running server where its command stream begins.
func firstCommand(t *testing.T, cfg Config) uint64 {
	t.Helper()
	b, done := attached(t, cfg)
	defer done()
	info, err := b.Commands(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info.First
}

// Who does not know the operator's password learns nothing, and a server that does not
// listen says so.
func TestVerifyRunningServerRefused(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	cfg := runningConfig(t, 1)
	n := serve(t, cfg)
	wrong := cfg
	wrong.AdminPasswords = Secret{Values: []string{"guess"}}
	if _, err := Verify(t.Context(), wrong, VerifyOptions{}, logger); err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("a wrong password: %v", err)
	}
	none := cfg
	none.AdminPasswords = Secret{}
	if _, err := Verify(t.Context(), none, VerifyOptions{}, logger); err == nil || !strings.Contains(err.Error(), "MOZAIKS_NATS_ADMIN_PASSWORD") {
		t.Errorf("no password: %v", err)
	}
	other := cfg
	other.Partitions = 4
	for _, v := range verified(t, other, VerifyOptions{}, 4) {
		if v.Verdict != VerdictUnverified || v.Partition == 0 && !strings.Contains(v.Reason, "--partitions 1") {
			t.Errorf("another number of partitions: %+v", v)
		}
	}
	n.stop()
	cfg.NATSListen = ""
	n = serve(t, cfg)
	defer n.stop()
	if _, err := Verify(t.Context(), cfg, VerifyOptions{}, logger); err == nil || !strings.Contains(err.Error(), "MOZAIKS_NATS_LISTEN") {
		t.Errorf("without a listener: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, runningConfig(t, 1), VerifyOptions{}, logger); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no data directory: %v", err)
	}
}
