package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"grout/bus"
	"grout/store"
)

// quarantineDir is where damaged files are kept.
func quarantineDir(cfg Config) string { return filepath.Join(cfg.DataDir, "quarantine") }

// rebuilt ends the name of a store that is being made anew.
const rebuilt = ".rebuilt"

// run takes the steps of the plan. One that fails does not keep the others from being
// taken, unless they need it.
func (v *surveyed) run(ctx context.Context, o RepairOptions, logger *slog.Logger) error {
	fault := faultHook()
	if fault == nil {
		fault = func(string) {}
	}
	needsServer := false
	for i := range v.report.Steps {
		s := &v.report.Steps[i]
		switch s.Kind {
		case stepMend:
			o.Progress("mending " + s.Path)
			kept, err := bus.MendBlock(natsDir(v.cfg), s.stream, s.Path)
			s.Kept = kept
			s.end(err)
			fault("repair.mended")
		default:
			needsServer = true
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	if !needsServer {
		return nil
	}
	b, err := openLocked(ctx, v.cfg, "repair", logger, nil)
	if err != nil {
		return fmt.Errorf("open the command stream: %w", err)
	}
	defer func() { _ = b.Close() }()
	for i := range v.report.Steps {
		s := &v.report.Steps[i]
		switch s.Kind {
		case stepNote:
			s.end(b.NoteTrimmed(ctx, s.Partition))
		case stepRebuild:
			s.end(v.rebuild(ctx, b.Bus, s, o.Progress, fault, logger))
		case stepSnapshot:
			s.end(v.snapshot(ctx, b.Bus, s, o.Progress))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (s *RepairStep) end(err error) {
	if s.Done = err == nil; err != nil {
		s.Fault = err.Error()
	}
}

// rebuild makes a store from the first candidate that leads to the end of the stream,
// beside the damaged one, which makes room only for one that was checked.
func (v *surveyed) rebuild(ctx context.Context, b *bus.Bus, s *RepairStep, progress func(string), fault func(string), logger *slog.Logger) error {
	path := s.Path + rebuilt
	var faults []error
	for _, from := range s.candidates {
		err := v.build(ctx, b, s, from, path, progress, logger)
		if err == nil {
			fault("repair.built")
			s.Kept, err = v.exchange(s, path, fault)
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		faults = append(faults, fmt.Errorf("from %s: %w", nameOf(from), err))
	}
	return errors.Join(append(faults, ignoreMissing(os.Remove(path)))...)
}

func (v *surveyed) build(ctx context.Context, b *bus.Bus, s *RepairStep, from *surveyedStore, path string, progress func(string), logger *slog.Logger) (err error) {
	if err := ignoreMissing(os.Remove(path)); err != nil { // of a repair that was cut off
		return err
	}
	if from != nil {
		progress(fmt.Sprintf("partition %d: copying %s", s.Partition, nameOf(from)))
		if err := store.RestoreSnapshot(ctx, from.snapshot, path); err != nil {
			return err
		}
	}
	made, err := store.Open(path, store.Options{Partition: s.Partition, Partitions: v.cfg.Partitions, FoldEvery: v.cfg.FoldEvery})
	if err != nil {
		return err
	}
	to := v.parts[s.Partition].last
	if err := v.replayInto(ctx, b, made, s.Partition, to, progress, logger); err != nil {
		return errors.Join(err, made.Close())
	}
	if at := made.Checkpoint().Seq; at < to {
		return errors.Join(fmt.Errorf("the replay ended at %d, the stream at %d", at, to), made.Close())
	}
	if err := made.Close(); err != nil {
		return err
	}
	progress(fmt.Sprintf("partition %d: checking the new store", s.Partition))
	c, err := store.Check(ctx, path)
	if err == nil && c.Damaged > 0 {
		err = &store.DamageError{Checkup: c}
	}
	return err
}

// replayInto applies the stream to a store and tells how far it is.
func (v *surveyed) replayInto(ctx context.Context, b *bus.Bus, s *store.Store, number int, to uint64, progress func(string), logger *slog.Logger) error {
	done := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			progress(fmt.Sprintf("partition %d: replayed up to %d of %d", number, s.Checkpoint().Seq, to))
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	_, err := replay(ctx, b, s, number, to, 0, logger)
	close(done)
	<-told
	return err
}

// exchange moves the damaged file away and puts the new one in its place. Cut off in
// between it leaves no file, which the next start or repair makes anew.
func (v *surveyed) exchange(s *RepairStep, path string, fault func(string)) (kept string, err error) {
	if _, err := os.Stat(s.Path); err == nil {
		dir := quarantineDir(v.cfg)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		name := fmt.Sprintf("partition-%03d-%s", s.Partition, time.Now().UTC().Format("20060102T150405Z"))
		kept = filepath.Join(dir, name+".db")
		for n := 2; !missing(kept); n++ { // two within a second
			kept = filepath.Join(dir, fmt.Sprintf("%s-%d.db", name, n))
		}
		if err := os.Rename(s.Path, kept); err != nil {
			return "", err
		}
		if err := errors.Join(syncDir(dir), syncDir(filepath.Dir(s.Path))); err != nil {
			return kept, err
		}
	}
	fault("repair.moved")
	if err := os.Rename(path, s.Path); err != nil {
		return kept, err
	}
	return kept, syncDir(filepath.Dir(s.Path))
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// snapshot makes history whole again behind messages that cannot be read.
func (v *surveyed) snapshot(ctx context.Context, b *bus.Bus, step *RepairStep, progress func(string)) (err error) {
	progress(fmt.Sprintf("partition %d: taking a snapshot", step.Partition))
	s, err := store.Open(storePath(v.cfg.DataDir, step.Partition), store.Options{Partition: step.Partition, Partitions: v.cfg.Partitions, FoldEvery: v.cfg.FoldEvery})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	dir := snapshotDir(v.cfg.DataDir, step.Partition)
	snap, err := s.Snapshot(ctx, dir, time.Now(), nil)
	if err != nil {
		return err
	}
	if err := store.PruneSnapshots(dir, keptSnapshots); err != nil {
		return err
	}
	return b.Trim(ctx, step.Partition, snap.Position.Seq)
}
