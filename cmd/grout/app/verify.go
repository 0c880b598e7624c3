package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"grout/bus"
	"grout/handlers"
	"grout/store"
)

// Verification is what `grout verify` finds for one partition.
type Verification struct {
	Partition   int                `json:"partition"`
	From        uint64             `json:"from_sequence"` // of the snapshot the replay began with; 0 for an empty store
	To          uint64             `json:"to_sequence"`
	Messages    int64              `json:"messages"`
	Rows        int64              `json:"rows"`
	Differences []store.Difference `json:"differences"`
}

// maxDifferences bounds what is listed of a partition.
const maxDifferences = 20

// Verify replays the command stream of every partition into a store of its own,
// from the oldest snapshot or, when fromStart is set, from nothing, and compares it with the store that is there, row by row. The
// server must not run. Nothing in the data directory is changed.
func Verify(ctx context.Context, cfg Config, fromStart bool, logger *slog.Logger) (list []Verification, err error) {
	scratch, err := os.MkdirTemp("", "grout-verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	if _, err := os.Stat(storePath(cfg.DataDir, 0)); err != nil {
		return nil, fmt.Errorf("there is no store to verify: %w", err)
	}
	b, err := openOffline(ctx, cfg, "verify", logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	stores := make([]*store.Store, cfg.Partitions)
	defer func() {
		for _, s := range stores {
			if s != nil {
				err = errors.Join(err, s.Close())
			}
		}
	}()
	for p := range stores {
		if stores[p], err = store.Open(storePath(cfg.DataDir, p), store.Options{Partition: p, Partitions: cfg.Partitions, ReadOnly: true}); err != nil {
			return nil, err
		}
	}
	for p, own := range stores {
		v, err := verifyPartition(ctx, cfg, b.Bus, own, p, fromStart, filepath.Join(scratch, fmt.Sprintf("%d.db", p)), logger)
		if err != nil {
			return list, fmt.Errorf("verify partition %d: %w", p, err)
		}
		list = append(list, v)
	}
	return list, nil
}

func verifyPartition(ctx context.Context, cfg Config, b *bus.Bus, own *store.Store, number int, fromStart bool, path string, logger *slog.Logger) (v Verification, err error) {
	v = Verification{Partition: number, To: own.Checkpoint().Seq, Differences: []store.Difference{}}
	if !fromStart {
		if v.From, err = verifyFrom(ctx, cfg, number, v.To, path); err != nil {
			return v, err
		}
	}
	replica, err := store.Open(path, store.Options{Partition: number, Partitions: cfg.Partitions, FoldEvery: own.FoldEvery()})
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, replica.Close()) }()
	if v.Messages, err = replay(ctx, b, replica, number, v.To, 0, logger); err != nil {
		return v, err
	}
	v.Rows, err = store.Compare(own, replica, func(d store.Difference) bool {
		v.Differences = append(v.Differences, d)
		return len(v.Differences) < maxDifferences
	})
	return v, err
}

// verifyFrom puts the oldest sound snapshot at path: the more is replayed, the more
// is proven.
func verifyFrom(ctx context.Context, cfg Config, number int, to uint64, path string) (uint64, error) {
	snapshots, err := store.Snapshots(snapshotDir(cfg.DataDir, number))
	if err != nil {
		return 0, err
	}
	for _, snap := range slices.Backward(snapshots) {
		if snap.Position.Seq > to {
			continue
		}
		return snap.Position.Seq, store.RestoreSnapshot(ctx, snap, path)
	}
	return 0, nil
}

// replay applies a partition's stream up to a sequence.
func replay(ctx context.Context, b *bus.Bus, s *store.Store, number int, to uint64, perTransaction int, logger *slog.Logger) (messages int64, err error) {
	if s.Checkpoint().Seq >= to {
		return 0, nil
	}
	source := b.NewSource(number)
	defer source.Close()
	loop := handlers.NewLoop(handlers.LoopOptions{
		Store: s, Source: source, Table: handlers.NewTable(), DecodeGroup: bus.DecodeGroupMessage, Logger: logger,
		Reply: func(string, string, [][]byte) error { return nil }, Until: to, MaxMessages: perTransaction,
	})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- loop.Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return loop.Applied(), errors.Join(err, ctx.Err())
		case <-tick.C:
			if s.Checkpoint().Seq >= to {
				cancel()
				return loop.Applied(), <-done
			}
		}
	}
}
