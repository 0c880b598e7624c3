package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"grout/bus"
	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// What a node has stored is what its stream says, from a snapshot and from nothing.
// A file that was changed behind its back is damaged, and the others are verified.
func TestVerify(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		cfg := testConfig(t, partitions)
		cfg.SnapshotEvery, cfg.FoldEvery = 100*time.Millisecond, 60
		n := serve(t, cfg)
		for round := range 4 {
			postHistory(t, n.url, uint64(round), 30, time.Now().UTC())
		}
		n.stop()
		told := 0
		progress := func(_ int, done, total uint64) {
			told++
			if done > total {
				t.Errorf("%d of %d groups", done, total)
			}
		}
		for _, fromStart := range []bool{false, true} {
			for _, v := range verified(t, cfg, VerifyOptions{FromStart: fromStart, Progress: progress}, partitions) {
				if v.Verdict != VerdictEqual || v.Rows == 0 || v.Differing > 0 || v.Diverges != nil || (fromStart && v.From != 0) || (v.From == 0) != (v.Snapshot == "") {
					t.Errorf("%+v", v)
				}
				for _, b := range v.Buckets {
					if b.Store != b.Replica || b.Differing != 0 {
						t.Errorf("bucket %+v", b)
					}
				}
			}
		}
		if told < partitions {
			t.Errorf("told of progress %d times", told)
		}
		changeRow(t, storePath(cfg.DataDir, 0), "hours")
		changeRow(t, storePath(cfg.DataDir, 0), "batches")
		for i, v := range verified(t, cfg, VerifyOptions{}, partitions) {
			if i > 0 {
				if v.Verdict != VerdictEqual {
					t.Errorf("beside a damaged one: %+v", v)
				}
				continue
			}
			if v.Verdict != VerdictDamaged || v.Damage == nil {
				t.Fatalf("a damaged store: %+v", v)
			}
			found := map[string]bool{}
			for _, d := range v.Damage.Damage {
				found[d.Bucket] = true
			}
			if !found["batches"] || !found["hours"] || found["events"] {
				t.Errorf("damage %+v", v.Damage.Damage)
			}
		}
	}
}

func verified(t *testing.T, cfg Config, o VerifyOptions, partitions int) []Verification {
	t.Helper()
	list, err := Verify(t.Context(), cfg, o, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != partitions {
		t.Fatalf("%d partitions verified, want %d", len(list), partitions)
	}
	return list
}

// forger is a stream in which one message says something else, or which has one more.
type forger struct {
	*bus.Source
	t     *testing.T
	at    uint64 // sequence of what is forged
	extra bool
	last  schemas.StreamMessage
}

func (f *forger) Next(ctx context.Context) (schemas.StreamMessage, error) {
	if f.extra && f.last.Seq == f.at-1 {
		m := f.last
		m.Seq, m.Time = f.at, m.Time.Add(time.Second)
		m.Data = forged(f.t, m.Data)
		f.last = m
		return m, nil
	}
	m, err := f.Source.Next(ctx)
	if err == nil && m.Seq == f.at {
		m.Data = forged(f.t, m.Data)
	}
	f.last = m
	return m, err
}

// forged changes the first event of a group.
func forged(t *testing.T, data []byte) []byte {
	commands, err := schemas.DecodeGroup(data)
	if err != nil {
		t.Error(err)
		return data
	}
	for i := range commands {
		var b schemas.UsageBatch
		if commands[i].Kind != schemas.UsageIngest.Name || b.DecodePayload(commands[i].Payload) != nil || len(b.Events) == 0 {
			continue
		}
		b.BatchID, b.Made = "forged", true
		b.Events[0].EventID = "forged"
		b.Events[0].InputTokens++
		b.Events[0].TotalTokens++
		commands[i].Payload = b.EncodePayload(nil)
		return schemas.AppendGroup(nil, commands)
	}
	t.Error("there is nothing to forge in the group")
	return data
}

// A store that has applied something else than its stream says, with seals that are
// right, is named row by row, with the message it parts at.
func TestVerifyNamesWhatDiffers(t *testing.T) {
	cfg := testConfig(t, 1)
	cfg.FoldEvery, cfg.SnapshotEvery = 60, time.Hour
	n := serve(t, cfg)
	postHistory(t, n.url, 1, 60, time.Now().UTC())
	n.stop()
	path := storePath(cfg.DataDir, 0)
	to := checkpointOf(t, path, cfg, 0).Seq
	for name, f := range map[string]forger{
		"a message that says something else":    {at: to / 2},
		"a message that the stream has not got": {at: to + 1, extra: true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			f.t = t
			replayForged(t, cfg, path, &f, max(to, f.at))
			v := verified(t, cfg, VerifyOptions{}, 1)[0]
			if v.Verdict != VerdictDiffers || v.Damage != nil || v.Diverges == nil {
				t.Fatalf("%+v", v)
			}
			if d := v.Diverges; d.Sequence != f.at || d.Epoch != 1 || d.Position != f.at || d.StoredAt.IsZero() {
				t.Errorf("it diverges at %+v, want %d", d, f.at)
			}
			if f.extra != strings.Contains(strings.Join(v.Notes, "|"), bus.StreamTailLost) {
				t.Errorf("notes %q", v.Notes)
			}
			names := map[string]string{}
			listed := map[string]int{}
			for _, d := range v.Differences {
				names[d.Name] = d.What
				listed[d.Bucket]++
			}
			message := fmt.Sprint("message ", f.at)
			for _, want := range []string{message, "events of " + message + ", chunk 0", "ids that " + message + " entered", "batch of command 0 of " + message} {
				if names[want] == "" {
					t.Errorf("%q is not among the differences %v", want, names)
				}
			}
			differing := int64(0)
			for _, b := range v.Buckets {
				differing += b.Differing
				if (b.Store == b.Replica) != (b.Differing == 0) || min(b.Differing, maxDifferences) != int64(listed[b.Bucket]) {
					t.Errorf("bucket %+v, %d listed", b, listed[b.Bucket])
				}
			}
			if differing != v.Differing {
				t.Errorf("%d rows differ, the buckets say %d", v.Differing, differing)
			}
		})
	}
}

func replayForged(t *testing.T, cfg Config, path string, f *forger, to uint64) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	b, err := openOffline(t.Context(), cfg, "forge", logger)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := store.Open(path, store.Options{Partitions: 1, FoldEvery: cfg.FoldEvery})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f.Source = b.NewSource(0)
	defer f.Source.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	loop := handlers.NewLoop(handlers.LoopOptions{
		Store: s, Source: f, Table: handlers.NewTable(), DecodeGroup: bus.DecodeGroupMessage, Logger: logger,
		Reply: func(string, string, [][]byte) error { return nil },
	})
	done := make(chan error, 1)
	go func() { done <- loop.Run(ctx) }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.Checkpoint().Seq < to && ctx.Err() == nil {
		<-tick.C
	}
	cancel()
	if err := <-done; err != nil || s.Checkpoint().Seq != to {
		t.Fatalf("%v, applied up to %d of %d", err, s.Checkpoint().Seq, to)
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
