package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"grout/bus"
	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

const (
	keptSnapshots = 2
	// snapshotPace is how fast a store is copied, in MiB a second, so that a copy
	// leaves the disk to the commits.
	snapshotPace = 64
	// snapshotShare of the command stream's size, once applied, asks for a snapshot
	// before its time, so that the stream can be trimmed before it is full.
	snapshotShare = 8
)

// keeper takes the snapshots of a partition and trims what two of them no longer
// need from the command stream (architecture §2.2, §4).
type keeper struct {
	store     *store.Store
	loop      *handlers.Loop
	bus       *bus.Bus
	partition int
	dir       string
	every     time.Duration
	age       time.Duration
	bytes     int64 // limit of the command stream
	logger    *slog.Logger
	alarm     func(schemas.Alarm)

	asked chan snapshotRequest

	taken, failed  atomic.Int64
	sequence, trim atomic.Uint64

	last    store.Snapshot
	since   time.Time // when the last one was taken, or when the keeper started
	mark    int64     // bytes applied by then
	askedAt time.Time // when the last one was taken for somebody

	overflowed bool // is told

	owns func() bool // the state; nil: it does
}

// snapshotDir is where the snapshots of a partition are.
func snapshotDir(dataDir string, number int) string {
	return filepath.Join(dataDir, "snapshots", fmt.Sprintf("partition-%03d", number))
}

// Run works until ctx ends. A snapshot that fails is tried again; it stops nothing.
func (k *keeper) Run(ctx context.Context) error {
	defer k.refuse()
	list, err := store.Snapshots(k.dir)
	if err != nil {
		k.logger.Warn("snapshots cannot all be read", "error", err)
	}
	k.since = time.Now()
	if len(list) > 0 {
		k.last = list[0]
		k.sequence.Store(k.last.Position.Seq)
		if list[0].Taken.Before(k.since) {
			k.since = list[0].Taken
		}
	}
	tick := time.NewTicker(min(max(k.every/10, 50*time.Millisecond), 10*time.Second))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case r := <-k.asked:
			r.answer(k.requested(ctx))
			continue
		case <-ctx.Done():
			return nil
		}
		if err := k.step(ctx); err != nil && ctx.Err() == nil {
			k.failed.Add(1)
			k.logger.Error("snapshot or trimming failed; it will be tried again", "error", err)
		}
	}
}

func (k *keeper) step(ctx context.Context) error {
	if !k.overflowed && k.store.Overflowed() {
		k.overflowed = true
		k.alarm(schemas.Alarm{
			Name: "SUM_OVERFLOW", Partition: k.partition,
			Detail: "a sum of tokens or events has passed 9223372036854775807 and is wrong by 2^64 until as much is voided; what was recorded is right (GET /api/usage/events)",
		})
	}
	if !k.due() {
		return nil
	}
	snap, err := k.store.Snapshot(ctx, k.dir, time.Now(), pace())
	k.since, k.mark = time.Now(), k.loop.AppliedBytes()
	if err != nil {
		return err
	}
	k.last = snap
	k.taken.Add(1)
	k.sequence.Store(snap.Position.Seq)
	k.logger.Debug("snapshot taken", "sequence", snap.Position.Seq, "bytes", snap.Bytes)
	if err := store.PruneSnapshots(k.dir, keptSnapshots); err != nil {
		return err
	}
	return k.trimStream(ctx)
}

// due reports whether a snapshot is due. The first one of a new epoch is at once: no
// older one can be replayed into it.
func (k *keeper) due() bool {
	epoch := k.store.Epoch()
	if k.store.Checkpoint().Seq == k.last.Position.Seq && epoch == k.last.Epoch {
		return false
	}
	if epoch > max(k.last.Epoch, 1) {
		return true
	}
	return time.Since(k.since) >= k.every || k.loop.AppliedBytes()-k.mark >= k.bytes/snapshotShare
}

// trimStream removes what is older than the second newest snapshot, when the
// stream is old or full enough. Both snapshots are read back first.
func (k *keeper) trimStream(ctx context.Context) error {
	if k.owns != nil && !k.owns() {
		return nil // another worker may need what this one does not
	}
	commands, err := k.bus.Commands(ctx)
	if err != nil {
		return err
	}
	if int64(commands.Bytes) < k.bytes/2 && (commands.Earliest.IsZero() || time.Since(commands.Earliest) < k.age) {
		return nil
	}
	list, err := store.Snapshots(k.dir) // an error beside them is told, and they are used
	if len(list) < keptSnapshots {
		return err
	}
	if err != nil {
		k.logger.Warn("snapshots cannot all be read", "error", err)
	}
	for i := range keptSnapshots {
		if list[i].Epoch != k.store.Epoch() {
			return nil // it says nothing about this stream
		}
		if list[i].Position.Seq > k.store.Checkpoint().Seq {
			return nil // an older store was put back: it still needs what the snapshot does not
		}
		if err := list[i].Check(ctx); err != nil {
			return err
		}
	}
	below := list[keptSnapshots-1].Position.Seq
	if err := k.bus.Trim(ctx, k.partition, below); err != nil {
		return err
	}
	k.trim.Store(below)
	k.logger.Debug("command stream trimmed", "below", below)
	return nil
}

// pace slows a copy down to snapshotPace.
func pace() func(context.Context) error {
	start, n := time.Now(), 0
	return func(ctx context.Context) error {
		n++
		ahead := time.Duration(n)*time.Second/snapshotPace - time.Since(start)
		if ahead <= 0 {
			return nil
		}
		t := time.NewTimer(ahead)
		defer t.Stop()
		select {
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// restoreMissing puts the newest sound snapshot in the place of a store that is
// not there, or empty; the command stream holds what came after it.
func restoreMissing(ctx context.Context, dataDir string, number int, logger *slog.Logger) error {
	path := storePath(dataDir, number)
	if info, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) && (err != nil || info.Size() > 0) {
		return err
	}
	list, err := store.Snapshots(snapshotDir(dataDir, number))
	if err != nil {
		logger.Warn("snapshots cannot all be read", "error", err)
	}
	for _, snap := range list {
		if snap.Epoch != list[0].Epoch {
			return fmt.Errorf("the store %s is missing, and no snapshot of epoch %d is sound; those of older epochs cannot be replayed into it", path, list[0].Epoch)
		}
		if err := store.RestoreSnapshot(ctx, snap, path); err != nil {
			logger.Error("a snapshot cannot be used; trying the one before it", "error", err)
			continue
		}
		logger.Warn("the store was missing; it was restored from a snapshot, and what came after it is replayed from the command stream",
			"store", path, "snapshot", snap.Path, "sequence", snap.Position.Seq)
		return nil
	}
	return nil
}
