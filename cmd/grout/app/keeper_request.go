package app

import (
	"context"
	"errors"
	"time"

	"grout/bus"
	"grout/store"
)

const (
	// askedEvery is how often a snapshot is taken because somebody asks: who asks
	// sooner gets the last one.
	askedEvery = 10 * time.Second
	askedLimit = 10 * time.Minute
)

// snapshotRequest is somebody who waits for a snapshot.
type snapshotRequest struct {
	answer func(store.Snapshot, error)
}

var (
	errSnapshotBusy = errors.New("snapshots are being taken for others; ask again")
	errNotKept      = errors.New("the partition is stopping")
)

// ask passes a request on to the keeper; it does not wait.
func (k *keeper) ask(answer func(store.Snapshot, error)) {
	select {
	case k.asked <- snapshotRequest{answer}:
	default:
		answer(store.Snapshot{}, errSnapshotBusy)
	}
}

// refuse answers who still waits when the keeper ends.
func (k *keeper) refuse() {
	for {
		select {
		case r := <-k.asked:
			r.answer(store.Snapshot{}, errNotKept)
		default:
			return
		}
	}
}

// requested gives a snapshot of now, or of a moment ago. The scheduled ones stay, and
// nothing is trimmed: who asks wants to compare it with an older one.
func (k *keeper) requested(ctx context.Context) (store.Snapshot, error) {
	current := k.last.Position == k.store.Checkpoint() && k.last.Epoch == k.store.Epoch()
	if k.last.Path != "" && (current || time.Since(k.askedAt) < askedEvery) {
		if k.last.Check(ctx) == nil {
			return k.last, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askedLimit)
	defer cancel()
	snap, err := k.store.Snapshot(ctx, k.dir, time.Now(), pace())
	if err != nil {
		return snap, err
	}
	k.last, k.askedAt = snap, time.Now()
	k.taken.Add(1)
	k.sequence.Store(snap.Position.Seq)
	return snap, store.PruneSnapshots(k.dir, keptSnapshots+1)
}

// snapshotNow answers the operator's request for a snapshot of a partition.
func (n *node) snapshotNow(number int, answer func(bus.SnapshotAnswer)) {
	a := bus.SnapshotAnswer{Partitions: n.cfg.Partitions}
	p, err := n.partition(number)
	if err != nil {
		a.Refuse(err)
		answer(a)
		return
	}
	p.keeper.ask(func(snap store.Snapshot, err error) {
		if err != nil {
			a.Refuse(err)
		} else {
			a.File, a.Manifest, a.Epoch, a.Position, a.SHA256 = snap.Path, snap.Manifest(), snap.Epoch, snap.Position, snap.SHA256
		}
		answer(a)
	})
}
