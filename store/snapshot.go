package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Snapshot describes a copy of a partition's file at one position. Its manifest is
// written last, so a copy that was cut off is none.
type Snapshot struct {
	Partition  int                `json:"partition"`
	Partitions int                `json:"partitions"`
	Format     int                `json:"format"`
	Position   schemas.Checkpoint `json:"position"`
	Epoch      uint32             `json:"epoch"`
	Bytes      int64              `json:"bytes"`
	SHA256     string             `json:"sha256"`
	Taken      time.Time          `json:"taken"`
	Path       string             `json:"-"`
}

const (
	snapshotFile     = ".db"
	snapshotManifest = ".json"
	snapshotPart     = ".part" // ends the name of what is being written
	copyBlock        = 1 << 20
)

// Snapshot copies the file as it is at the last commit into dir, without stopping
// the partition: the copy is what one read transaction sees. pace is called after
// each MiB, so the caller can slow it down. now is told in the manifest only.
func (s *Store) Snapshot(ctx context.Context, dir string, now time.Time, pace func(context.Context) error) (_ Snapshot, err error) {
	defer s.db.shield(&err)()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	bolt, err := s.db.Begin(false)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	defer func() { _ = bolt.Rollback() }()
	at, err := readApplied(bolt)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot: position: %w", err)
	}
	snap := Snapshot{
		Partition: s.opts.Partition, Partitions: s.opts.Partitions, Format: Format,
		Position: at.Checkpoint, Epoch: at.Epoch, Taken: now.UTC(),
		Path: filepath.Join(dir, fmt.Sprintf("%04d-%020d%s", at.Epoch, at.Seq, snapshotFile)),
	}
	if have, err := readManifest(snap.Manifest()); err == nil && have.Position == snap.Position && have.Check(ctx) == nil {
		return have, nil // it says the same, and writing over it could be cut off
	}
	if err := os.Remove(snap.Manifest()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, fmt.Errorf("snapshot: %w", err)
	}
	sum := sha256.New()
	snap.Bytes, err = writeFile(snap.Path, func(w io.Writer) (int64, error) {
		return bolt.WriteTo(&pacedWriter{ctx: ctx, w: io.MultiWriter(w, sum), pace: pace})
	})
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", snap.Path, err)
	}
	snap.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := snap.Check(ctx); err != nil {
		return Snapshot{}, errors.Join(err, os.Remove(snap.Path))
	}
	text, err := json.MarshalIndent(snap, "", "  ")
	if err != nil {
		return Snapshot{}, err
	}
	if _, err := writeFile(snap.Manifest(), func(w io.Writer) (int64, error) {
		n, err := w.Write(append(text, '\n'))
		return int64(n), err
	}); err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %s: %w", snap.Manifest(), err)
	}
	return snap, nil
}

// Manifest is the path of the snapshot's description.
func (p *Snapshot) Manifest() string {
	return strings.TrimSuffix(p.Path, snapshotFile) + snapshotManifest
}

// Check reads the copy back: its bytes, and that they open at the position that
// the manifest says.
func (p *Snapshot) Check(ctx context.Context) error {
	f, err := os.Open(p.Path)
	if err != nil {
		return fmt.Errorf("check snapshot: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	n, err := copyPaced(ctx, sum, f)
	if err != nil {
		return fmt.Errorf("check snapshot %s: %w", p.Path, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 || n != p.Bytes {
		return fmt.Errorf("check snapshot %s: %d bytes with SHA-256 %s, the manifest says %d with %s: the copy is damaged", p.Path, n, got, p.Bytes, p.SHA256)
	}
	checkup, err := Check(ctx, p.Path)
	if err == nil && checkup.Damaged > 0 {
		err = &DamageError{checkup}
	}
	if err != nil {
		return fmt.Errorf("check snapshot %s: %w", p.Path, err)
	}
	db, err := bbolt.Open(p.Path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return fmt.Errorf("check snapshot %s: %w", p.Path, err)
	}
	err = db.View(func(bolt *bbolt.Tx) error {
		if bucketOf(bolt, bucketMeta).Bucket == nil {
			return errDamaged
		}
		at, err := readApplied(bolt)
		if err == nil && at.Checkpoint != p.Position {
			err = fmt.Errorf("the copy stands at %d, the manifest says %d", at.Seq, p.Position.Seq)
		}
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("check snapshot %s: %w", p.Path, err)
	}
	return nil
}

// Snapshots lists the complete snapshots in a directory, newest first. A manifest
// that cannot be read is passed over and named in the error beside the list.
func Snapshots(dir string) ([]Snapshot, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+snapshotManifest))
	if err != nil {
		return nil, err
	}
	var list []Snapshot
	var faults []error
	for _, name := range names {
		p, err := readManifest(name)
		if err != nil {
			faults = append(faults, fmt.Errorf("snapshot %s: %w", name, err))
			continue
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b Snapshot) int { return strings.Compare(b.Path, a.Path) })
	return list, errors.Join(faults...)
}

func readManifest(name string) (p Snapshot, err error) {
	text, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err == nil && p.Format != Format {
		err = fmt.Errorf("format %d, this release reads %d", p.Format, Format)
	}
	p.Path = strings.TrimSuffix(name, snapshotManifest) + snapshotFile
	return p, err
}

// PruneSnapshots removes all but the newest keep, and what was left half written. A
// snapshot whose manifest cannot be read stays for people to look at; it is not
// among those that are kept.
func PruneSnapshots(dir string, keep int) error {
	list, _ := Snapshots(dir)
	old := map[string]bool{}
	for i, p := range list {
		if i >= keep {
			old[p.Path], old[p.Manifest()] = true, true
		}
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("prune snapshots: %w", err)
	}
	var faults []error
	// Manifests go first: a copy without one is none, the other way round would be a lie.
	for _, suffix := range []string{snapshotManifest, snapshotFile, snapshotPart} {
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if strings.HasSuffix(path, suffix) && (old[path] || suffix == snapshotPart || suffix == snapshotFile && !hasManifest(path)) {
				faults = append(faults, os.Remove(path))
			}
		}
	}
	return errors.Join(faults...)
}

func hasManifest(path string) bool {
	_, err := os.Stat(strings.TrimSuffix(path, snapshotFile) + snapshotManifest)
	return err == nil
}

// RestoreSnapshot puts a copy of the snapshot at path, whole or not at all.
func RestoreSnapshot(ctx context.Context, p Snapshot, path string) error {
	if err := p.Check(ctx); err != nil {
		return err
	}
	f, err := os.Open(p.Path)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	defer f.Close()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	if _, err := writeFile(path, func(w io.Writer) (int64, error) { return copyPaced(ctx, w, f) }); err != nil {
		return fmt.Errorf("restore snapshot %s: %w", p.Path, err)
	}
	return nil
}

// writeFile writes a file under another name, syncs it and gives it its own.
func writeFile(path string, write func(io.Writer) (int64, error)) (n int64, err error) {
	part := path + snapshotPart
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(part)
		}
	}()
	n, err = write(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return n, err
	}
	if err := os.Rename(part, path); err != nil {
		return n, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return n, err
	}
	return n, errors.Join(dir.Sync(), dir.Close())
}

type pacedWriter struct {
	ctx  context.Context
	w    io.Writer
	pace func(context.Context) error
	n    int
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	if err := p.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := p.w.Write(b)
	p.n += n
	for p.n >= copyBlock && err == nil {
		p.n -= copyBlock
		if p.pace != nil {
			err = p.pace(p.ctx)
		}
	}
	return n, err
}

func copyPaced(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(&pacedWriter{ctx: ctx, w: w}, writerlessReader{r}, make([]byte, copyBlock))
}

// writerlessReader hides WriterTo, so that copies go in blocks.
type writerlessReader struct{ io.Reader }
