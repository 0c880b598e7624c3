package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"grout/bus"
	"grout/store"
)

// EpochState is where a partition stands beside its command stream.
type EpochState struct {
	Partition int    `json:"partition"`
	Epoch     uint32 `json:"epoch"`
	// Applied is the sequence of the last message that the store has applied, Common
	// that of the last one that it shares with the stream; 0 for none.
	Applied   uint64    `json:"applied_sequence"`
	AppliedAt time.Time `json:"applied_stored_at,omitzero"`
	Common    uint64    `json:"common_sequence"`
	First     uint64    `json:"stream_first_sequence"`
	Last      uint64    `json:"stream_last_sequence"`
	LastOwn   uint64    `json:"stream_last_of_partition"`
	// Finding is what the guard says; empty when the stream goes on from the store.
	Finding string `json:"finding,omitempty"`
}

// Epochs compares every partition of a data directory with its command stream. The
// server must not run.
func Epochs(ctx context.Context, cfg Config, logger *slog.Logger) (list []EpochState, err error) {
	b, err := openOffline(ctx, cfg, "epoch", logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for number := range cfg.Partitions {
		st, err := epochState(ctx, cfg, b.Bus, number)
		if err != nil {
			return list, fmt.Errorf("partition %d: %w", number, err)
		}
		list = append(list, st)
	}
	return list, nil
}

func epochState(ctx context.Context, cfg Config, b *bus.Bus, number int) (st EpochState, err error) {
	s, err := store.Open(storePath(cfg.DataDir, number), store.Options{Partition: number, Partitions: cfg.Partitions, ReadOnly: true})
	if err != nil {
		return st, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	v, err := b.Survey(ctx, number, s)
	st = EpochState{
		Partition: number, Epoch: v.Applied.Epoch, Applied: v.Applied.Seq, Common: v.Common.Seq,
		First: v.First, Last: v.Last, LastOwn: v.LastOwn,
	}
	if v.Applied.Seq != 0 {
		st.AppliedAt = time.Unix(0, v.Applied.StoredAt).UTC()
	}
	var guard *bus.GuardError
	switch {
	case errors.As(err, &guard):
		st.Finding = guard.Error()
	case err != nil:
		return st, err
	case v.Lost != "":
		st.Finding = v.Lost + ": " + v.Detail + "; the next start goes on in a new epoch"
	}
	return st, nil
}

// NewEpoch has a partition's command stream go on from its store, whatever the stream
// holds: what the store has not applied is never applied. The server must not run.
func NewEpoch(ctx context.Context, cfg Config, number int, logger *slog.Logger) (err error) {
	if number < 0 || number >= cfg.Partitions {
		return fmt.Errorf("there is no partition %d: there are %d", number, cfg.Partitions)
	}
	b, err := openOffline(ctx, cfg, "epoch", logger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	s, err := openOwn(cfg, number, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	v, err := b.Survey(ctx, number, s)
	var guard *bus.GuardError
	if err != nil && !errors.As(err, &guard) {
		return err
	}
	if guard == nil && v.Lost == "" && v.LastOwn > v.Applied.Seq {
		return fmt.Errorf("nothing is wrong: the stream goes on from the store, and holds groups that are not applied yet (up to %d); start the server instead, a new epoch would throw them away", v.LastOwn)
	}
	seq := uint64(0)
	v.Forced = guard != nil
	if v.Begin != nil {
		seq = v.Begin.Seq
	} else if seq, err = b.StartEpoch(ctx, v, cfg.clock()()); err != nil {
		return err
	}
	if _, err := replayTo(ctx, b.Bus, s, number, v.Applied.Epoch+1, seq, 0, logger); err != nil {
		return fmt.Errorf("apply the start of epoch %d: %w", v.Applied.Epoch+1, err)
	}
	if _, err := s.Snapshot(ctx, snapshotDir(cfg.DataDir, number), cfg.clock()(), nil); err != nil {
		return fmt.Errorf("epoch %d has begun; its first snapshot failed, the next start takes it: %w", s.Epoch(), err)
	}
	return nil
}
