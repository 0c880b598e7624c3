package app

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// startsAgain runs grout until it is ready, and gives the error of its end.
func startsAgain(t *testing.T, cfg Config) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out := &announced{ready: make(chan string, 1)}
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, out) }()
	select {
	case <-out.ready:
		cancel()
		return <-ended
	case err := <-ended:
		return errors.Join(err, ctx.Err())
	}
}

// A tool need not be told the limits that the server has, and removes nothing because
// its own are lower. A server may be given lower ones.
func TestToolsKeepTheLimitsOfStreams(t *testing.T) {
	cfg := testConfig(t, 1)
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 20, time.Now().UTC())
	n.stop()
	state := func() jetstream.StreamInfo {
		t.Helper()
		o, err := openOffline(t.Context(), cfg, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		js, err := jetstream.New(o.conn)
		if err != nil {
			t.Fatal(err)
		}
		s, err := js.Stream(t.Context(), schemas.StreamFacts)
		if err != nil {
			t.Fatal(err)
		}
		return *s.CachedInfo()
	}
	before := state()
	tool := cfg
	tool.FactBytes = int64(before.State.Bytes / 2)
	if _, err := ResetClock(t.Context(), tool, true, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if after := state(); after.State.Msgs != before.State.Msgs || after.Config.MaxBytes != cfg.FactBytes {
		t.Errorf("%d of %d facts are left, limit %d", after.State.Msgs, before.State.Msgs, after.Config.MaxBytes)
	}
	cfg.FactBytes = 64 << 20
	if err := startsAgain(t, cfg); err != nil {
		t.Error(err)
	}
	if after := state(); after.State.Msgs < before.State.Msgs || after.Config.MaxBytes != cfg.FactBytes {
		t.Errorf("%d of %d facts are left, limit %d", after.State.Msgs, before.State.Msgs, after.Config.MaxBytes)
	}
}

// A tool that looks at a store which is missing makes none: the next start still
// restores a snapshot, here into a new epoch, because the streams are gone as well.
func TestToolsMakeNoStore(t *testing.T) {
	cfg := usedDirectory(t, 1, true)
	path, logger := storePath(cfg.DataDir, 0), slog.New(slog.DiscardHandler)
	list, err := store.Snapshots(snapshotDir(cfg.DataDir, 0))
	if err != nil || len(list) == 0 {
		t.Fatalf("%d snapshots, %v", len(list), err)
	}
	for _, content := range [][]byte{nil, {}} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if content != nil {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, show := ResetClock(t.Context(), cfg, true, logger)
		_, reset := ResetClock(t.Context(), cfg, false, logger)
		for _, err := range []error{show, reset, NewEpoch(t.Context(), cfg, 0, logger)} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a store that is missing: %v", err)
			}
		}
		if info, err := os.Stat(path); (content == nil) != errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() != 0 {
			t.Error("a store was made")
		}
		if content == nil { // for the next round
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.RemoveAll(natsDir(cfg)); err != nil {
		t.Fatal(err)
	}
	if err := startsAgain(t, cfg); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(path, store.Options{Partitions: 1, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Epoch() != 2 {
		t.Errorf("epoch %d: the snapshot at %d was not restored", s.Epoch(), list[0].Position.Seq)
	}
}

// The clock is not reset in a stream that has lost something: the command would look
// like a message of another history, and what heals by itself would be a stop.
func TestClockIsNotResetInAnotherStream(t *testing.T) {
	clock := &simulated{begin: time.Now()}
	cfg := testConfig(t, 1)
	clock.into(&cfg)
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 20, clock.now())
	n.stop()
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(natsDir(cfg))); err != nil {
		t.Fatal(err)
	}
	clock.elapsed.Add(int64(30 * time.Minute))
	n = serve(t, cfg)
	postHistory(t, n.url, 2, 20, clock.now())
	n.stop()
	if err := errors.Join(os.RemoveAll(natsDir(cfg)), os.CopyFS(natsDir(cfg), os.DirFS(older))); err != nil {
		t.Fatal(err)
	}
	clock.elapsed.Add(-int64(30 * time.Minute))
	_, err := ResetClock(t.Context(), cfg, false, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), bus.StreamTailLost) {
		t.Errorf("a reset in a stream that has lost its tail: %v", err)
	}
	clock.elapsed.Add(int64(30 * time.Minute))
	if err := startsAgain(t, cfg); err != nil {
		t.Errorf("the start after it: %v", err)
	}
}
