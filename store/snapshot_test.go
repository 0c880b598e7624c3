package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"grout/schemas"
)

func snapshotStore(t *testing.T) (*Store, string) {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "s.db"), Options{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, filepath.Join(t.TempDir(), "snapshots")
}

func advance(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Update(func(tx *Tx) error {
		tx.Begin(Message{Seq: s.Checkpoint().Seq + 1, StreamCreated: 1, Cause: schemas.Cause{ID: "g", Source: "s"}})
		return tx.End()
	}); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshots(t *testing.T) {
	s, dir := snapshotStore(t)
	paces := 0
	for range 4 {
		advance(t, s)
		snap, err := s.Snapshot(t.Context(), dir, time.Unix(0, 0), func(context.Context) error { paces++; return nil })
		if err != nil {
			t.Fatal(err)
		}
		if snap.Position != s.Checkpoint() || snap.Bytes == 0 {
			t.Errorf("%+v", snap)
		}
		if err := PruneSnapshots(dir, 2); err != nil {
			t.Fatal(err)
		}
	}
	list, err := Snapshots(dir)
	if err != nil || len(list) != 2 || list[0].Position.Seq != 4 || list[1].Position.Seq != 3 {
		t.Fatalf("%v %+v", err, list)
	}

	t.Run("restored", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "restored.db")
		if err := RestoreSnapshot(t.Context(), list[1], path); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path, Options{Partitions: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := r.Checkpoint(); got != list[1].Position {
			t.Errorf("%+v", got)
		}
	})

	t.Run("half written", func(t *testing.T) {
		for _, name := range []string{"9999-00000000000000000009.db", "9999-00000000000000000009.db.part", "9999-00000000000000000008.json.part"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if list, err := Snapshots(dir); err != nil || len(list) != 2 {
			t.Errorf("%v %+v", err, list)
		}
		if err := PruneSnapshots(dir, 2); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 4 {
			t.Errorf("%v %v", err, entries)
		}
	})

	t.Run("cut off", func(t *testing.T) {
		advance(t, s)
		stop := errors.New("stop")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Snapshot(ctx, dir, time.Unix(0, 0), func(context.Context) error { return stop }); err == nil {
			t.Error("a snapshot that was cut off is none")
		}
		if list, err := Snapshots(dir); err != nil || len(list) != 2 {
			t.Errorf("%v %+v", err, list)
		}
	})

	t.Run("damaged", func(t *testing.T) {
		text, err := os.ReadFile(list[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)/2] ^= 1
		if err := os.WriteFile(list[0].Path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := list[0].Check(t.Context()); err == nil {
			t.Error("a flipped bit was not seen")
		}
		path := filepath.Join(t.TempDir(), "r.db")
		if err := RestoreSnapshot(t.Context(), list[0], path); err == nil {
			t.Error("a damaged snapshot was restored")
		}
		if _, err := os.Stat(path); err == nil {
			t.Error("something was put in place of the store")
		}
	})

	t.Run("manifest damaged", func(t *testing.T) {
		if err := os.WriteFile(list[0].Manifest(), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Snapshots(dir)
		if err == nil || len(got) != 1 || got[0].Position.Seq != 3 {
			t.Errorf("%v %+v", err, got)
		}
		if err := PruneSnapshots(dir, 2); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(list[0].Path); err != nil {
			t.Error("what people may want to look at is gone")
		}
	})
}
