package app

import (
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"grout/store"
)

// What a node has stored is what its stream says, from the newest snapshot and
// from nothing; a row that was changed behind its back is named.
func TestVerify(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		cfg := testConfig(t, partitions)
		cfg.SnapshotEvery, cfg.FoldEvery = 100*time.Millisecond, 60
		n := serve(t, cfg)
		for round := range 4 {
			postHistory(t, n.url, uint64(round), 30, time.Now().UTC())
		}
		n.stop()
		logger := slog.New(slog.DiscardHandler)
		for _, fromStart := range []bool{false, true} {
			list, err := Verify(t.Context(), cfg, fromStart, logger)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != partitions {
				t.Errorf("%d partitions verified, want %d", len(list), partitions)
			}
			for _, v := range list {
				if len(v.Differences) > 0 || v.Rows == 0 || fromStart && v.From != 0 {
					t.Errorf("%+v", v)
				}
			}
		}
		changeRow(t, storePath(cfg.DataDir, 0), "hours")
		changeRow(t, storePath(cfg.DataDir, 0), "batches")
		_, err := Verify(t.Context(), cfg, true, logger)
		var damage *store.DamageError
		if !errors.As(err, &damage) {
			t.Fatalf("a damaged store: %v", err)
		}
		found := map[string]bool{}
		for _, d := range damage.Checkup.Damage {
			found[d.Bucket] = true
		}
		if !found["batches"] || !found["hours"] {
			t.Errorf("damage %+v", damage.Checkup.Damage)
		}
	}
}

// changeRow changes the last byte of the first row of a bucket.
func changeRow(t *testing.T, path, bucket string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		k, v := b.Cursor().First()
		v = append([]byte{}, v...)
		v[len(v)-1] ^= 2
		return b.Put(k, v)
	}); err != nil {
		t.Fatal(err)
	}
}

// A store that is gone comes back from the newest snapshot that is sound and the
// stream, also after the stream was trimmed.
func TestRestoreMissingStore(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		cfg := testConfig(t, partitions)
		cfg.SnapshotEvery, cfg.CommandAge = 100*time.Millisecond, time.Second
		n := serve(t, cfg)
		deadline := time.Now().Add(30 * time.Second)
		trimmed := func() bool {
			list, err := store.Snapshots(snapshotDir(cfg.DataDir, 0))
			return err == nil && len(list) == keptSnapshots
		}
		start := time.Now()
		for round := uint64(0); !trimmed() || time.Since(start) < 3*time.Second; round++ {
			postHistory(t, n.url, round, 20, time.Now().UTC())
			if time.Now().After(deadline) {
				t.Fatal("no snapshots were taken")
			}
		}
		n.stop()
		var want []string
		for p := range partitions {
			want = append(want, string(withoutOutbox(dumpOf(t, storePath(cfg.DataDir, p), cfg, p))))
			if err := os.Remove(storePath(cfg.DataDir, p)); err != nil {
				t.Fatal(err)
			}
		}
		n = serve(t, cfg)
		n.stop()
		for p := range partitions {
			if got := string(withoutOutbox(dumpOf(t, storePath(cfg.DataDir, p), cfg, p))); got != want[p] {
				t.Errorf("partition %d of %d is not what it was", p, partitions)
			}
		}
		// Without any snapshot the stream is known to be too short.
		if err := errors.Join(os.Remove(storePath(cfg.DataDir, 0)), os.RemoveAll(snapshotDir(cfg.DataDir, 0))); err != nil {
			t.Fatal(err)
		}
		err := Run(t.Context(), cfg, &announced{ready: make(chan string, 1)})
		if err == nil || !strings.Contains(err.Error(), "STREAM_HEAD_LOST") {
			t.Errorf("a lost store without snapshots: %v", err)
		}
	}
}
