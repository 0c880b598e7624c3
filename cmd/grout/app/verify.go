package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// Verdict is what a verification came to.
type Verdict string

// What a verification can come to.
const (
	VerdictEqual      Verdict = "equal"
	VerdictDiffers    Verdict = "differs"
	VerdictDamaged    Verdict = "damaged"
	VerdictUnverified Verdict = "unverified" // it could not be told
)

// Verification is what `grout verify` finds for one partition.
type Verification struct {
	Partition int      `json:"partition"`
	Verdict   Verdict  `json:"verdict"`
	Reason    string   `json:"reason,omitempty"` // of the verdict, when it is not told by what follows
	Notes     []string `json:"notes,omitempty"`
	Compared  string   `json:"compared,omitempty"` // file that the replay was compared with
	SHA256    string   `json:"compared_sha256,omitempty"`
	Epoch     uint32   `json:"epoch"`
	Snapshot  string   `json:"from_snapshot,omitempty"` // that the replay began with; none for an empty store
	From      uint64   `json:"from_sequence"`
	To        uint64   `json:"to_sequence"`
	Messages  int64    `json:"messages"` // replayed
	store.Comparison
	// Budgets are counters that are not what the usage and the open holds in the same
	// store come to.
	Budgets []store.BudgetDifference `json:"budgets,omitempty"`
	// Reserved are consumables of which another amount is set aside than the executions
	// that have not ended come to.
	Reserved      []store.ReservedDifference `json:"reserved,omitempty"`
	Damage        *store.Checkup             `json:"damage,omitempty"`
	ReplicaSHA256 string                     `json:"replica_sha256,omitempty"`
}

// VerifyOptions say how to verify.
type VerifyOptions struct {
	FromStart     bool // with an empty store instead of a snapshot
	ReplicaDigest bool // tell the SHA-256 of the replica's dump
	// Progress is told how many groups of a partition have been replayed; nil for nobody.
	Progress func(partition int, done, total uint64)
}

// maxDifferences bounds what is listed of a bucket.
const maxDifferences = 10

// Verify replays the command stream of every partition into a store of its own, from
// the oldest snapshot or from nothing, and compares it row by row with the store that
// is there; beside a running server, with a snapshot that it asks that server for.
// Nothing in the data directory is changed. An error is one of the whole; what is
// wrong with a partition is in its Verification.
func Verify(ctx context.Context, cfg Config, o VerifyOptions, logger *slog.Logger) (list []Verification, err error) {
	if _, err := os.Stat(filepath.Join(cfg.DataDir, "store")); err != nil {
		return nil, fmt.Errorf("there is no store to verify: %w", err)
	}
	scratch, err := os.MkdirTemp("", "grout-verify-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	v := &verifier{cfg: cfg, o: o, scratch: scratch, logger: logger}
	b, err := openOffline(ctx, cfg, toolVerify, logger)
	var used *inUseError
	switch {
	case errors.As(err, &used):
		return v.running(ctx, used)
	case err != nil:
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	v.bus = b.Bus
	for p := range cfg.Partitions {
		list = append(list, v.stopped(ctx, p))
		if ctx.Err() != nil {
			return list, ctx.Err()
		}
	}
	return list, nil
}

type verifier struct {
	cfg     Config
	o       VerifyOptions
	scratch string // directory
	bus     *bus.Bus
	logger  *slog.Logger
}

// stopped verifies the store of a partition that no server works on.
func (r *verifier) stopped(ctx context.Context, number int) Verification {
	v := Verification{Partition: number, Compared: storePath(r.cfg.DataDir, number)}
	snapshots, err := store.Snapshots(snapshotDir(r.cfg.DataDir, number))
	if err != nil {
		v.note("snapshots cannot all be read: %v", err)
	}
	r.compare(ctx, &v, snapshots)
	return v
}

// compare opens the store that v names and gives the verdict on it.
func (r *verifier) compare(ctx context.Context, v *Verification, snapshots []store.Snapshot) {
	v.Comparison = store.Comparison{Buckets: []store.BucketComparison{}, Differences: []store.Difference{}}
	own, err := store.Open(v.Compared, store.Options{Partition: v.Partition, Partitions: r.cfg.Partitions, ReadOnly: true})
	if err == nil {
		v.To, v.Epoch = own.Checkpoint().Seq, own.Epoch()
		err = r.replayBeside(ctx, v, own, snapshots)
		err = errors.Join(err, own.Close())
	}
	v.judge(err)
}

func (v *Verification) judge(err error) {
	var damage *store.DamageError
	var told *schemas.Error
	switch {
	case errors.As(err, &damage) && damage.Checkup.Path == v.Compared:
		v.Verdict, v.Damage = VerdictDamaged, &damage.Checkup
	case errors.As(err, &told) && told.Code == schemas.CodeStoreDamaged: // says the running server
		v.Verdict, v.Reason = VerdictDamaged, told.Detail
	case errors.Is(err, fs.ErrNotExist):
		v.Verdict, v.Reason = VerdictUnverified, fmt.Sprintf("there is no store: %v", err)
	case err != nil:
		v.Verdict, v.Reason = VerdictUnverified, err.Error()
	case v.Differing > 0 || len(v.Budgets) > 0 || len(v.Reserved) > 0:
		v.Verdict = VerdictDiffers
	default:
		v.Verdict = VerdictEqual
	}
}

func (v *Verification) note(format string, args ...any) {
	v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
}

// replayBeside replays into a store of its own what own has applied, and compares
// the two.
func (r *verifier) replayBeside(ctx context.Context, v *Verification, own *store.Store, snapshots []store.Snapshot) (err error) {
	var guard *bus.GuardError
	switch err := r.bus.GuardCommands(ctx, v.Partition, own.Checkpoint()); {
	case errors.As(err, &guard) && guard.Name != bus.StreamRecreated: // another stream proves nothing
		v.note("%v", guard)
	case err != nil:
		return err
	}
	path := filepath.Join(r.scratch, fmt.Sprintf("replica-%d.db", v.Partition))
	replica, err := r.begin(ctx, v, own, snapshots, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, replica.Close(), os.Remove(path)) }()
	if v.Messages, err = r.replay(ctx, v, replica); err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	if v.Comparison, err = store.Compare(ctx, own, replica, maxDifferences); err != nil {
		return err
	}
	if v.Budgets, err = own.RecountBudgets(ctx); err != nil {
		return fmt.Errorf("recount the budgets: %w", err)
	}
	if v.Reserved, err = own.RecountReserved(ctx); err != nil {
		return fmt.Errorf("recount what executions have set aside: %w", err)
	}
	if d := v.Diverges; d != nil && d.StoredAt.IsZero() && d.Epoch == v.Epoch {
		if d.StoredAt, err = r.bus.CommandStored(ctx, d.Sequence); err != nil {
			return err
		}
	}
	if r.o.ReplicaDigest {
		h := sha256.New()
		err = replica.Dump(h)
		v.ReplicaSHA256 = hex.EncodeToString(h.Sum(nil))
	}
	return err
}

// begin gives the store that the replay goes on from: the oldest sound snapshot of the
// epoch that the stream still reaches back to, because the more is replayed the more
// is proven; else an empty store.
func (r *verifier) begin(ctx context.Context, v *Verification, own *store.Store, snapshots []store.Snapshot, path string) (*store.Store, error) {
	options := store.Options{Partition: v.Partition, Partitions: r.cfg.Partitions, FoldEvery: own.FoldEvery()}
	if !r.o.FromStart {
		for _, snap := range slices.Backward(snapshots) {
			if snap.Epoch != own.Epoch() || snap.Position.Seq > v.To {
				continue
			}
			var guard *bus.GuardError
			err := r.bus.GuardCommands(ctx, v.Partition, snap.Position)
			if err == nil {
				err = store.RestoreSnapshot(ctx, snap, path)
			} else if !errors.As(err, &guard) {
				return nil, err
			}
			if err != nil {
				v.note("the snapshot at %d cannot be begun with: %v", snap.Position.Seq, err)
				continue
			}
			v.Snapshot, v.From = snap.Path, snap.Position.Seq
			return store.Open(path, options)
		}
		v.note("there is no older snapshot to begin with; everything is replayed")
	}
	if own.Epoch() > 1 {
		return nil, fmt.Errorf("a replay from an empty store cannot reach epoch %d, and no snapshot of that epoch can be begun with: what was before it was proven before it", own.Epoch())
	}
	if err := r.bus.GuardCommands(ctx, v.Partition, schemas.Checkpoint{}); err != nil {
		return nil, fmt.Errorf("the stream does not reach back to its first message: %w", err)
	}
	return store.Open(path, options)
}
