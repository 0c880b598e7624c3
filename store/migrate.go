package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

const (
	migrating = ".migrating" // ends the name of a file that is being made from an older one
	keptOld   = ".format%d"  // ends the name of the older one afterwards
	// migrateBytes are copied in one transaction.
	migrateBytes = 4 << 20
)

// Migration tells how Open brought a file of an older format over.
type Migration struct {
	From, To int
	Rows     int64
	Took     time.Duration
	Kept     string // the older file, as it was
}

// Migrated is nil when the file had the format of this release already.
func (s *Store) Migrated() *Migration { return s.migrated }

// readied verifies a file and, when it is of an older format, brings it over.
func readied(path string, o *Options) (Checkup, *Migration, error) {
	c, err := checkBefore(path)
	if err != nil || o.ReadOnly || c.Format == 0 || c.Format >= Format {
		return c, nil, err
	}
	m, err := migrate(path, o)
	if err == nil {
		c, err = checkBefore(path)
	}
	return c, m, err
}

// migrate writes a file of this release's format beside an older one and lets it take
// its place. Until the rename, which is one step, the older file stands untouched
// under its name; afterwards it stands under another.
func migrate(path string, o *Options) (_ *Migration, err error) {
	start := time.Now()
	fault := o.Fault
	if fault == nil {
		fault = func(string) {}
	}
	old, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: lockWait})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	m := &migrator{opts: o}
	if err := old.View(func(bolt *bbolt.Tx) error { return m.copyTo(bolt, path+migrating, fault) }); err != nil {
		return nil, fmt.Errorf("bring the file from format %d to %d: %w (the file is as it was)", m.from, Format, err)
	}
	fault("migrate.copied")
	kept, err := keepOld(path, fmt.Sprintf(keptOld, m.from))
	if err != nil {
		return nil, fmt.Errorf("keep the file of format %d: %w", m.from, err)
	}
	fault("migrate.kept")
	if err = os.Rename(path+migrating, path); err == nil {
		err = syncDir(path)
	}
	fault("migrate.renamed")
	return &Migration{From: int(m.from), To: Format, Rows: m.rows, Took: time.Since(start), Kept: kept}, err
}

// migrator copies the rows of a file of format 1, whose rows have no seals.
type migrator struct {
	opts *Options
	from uint32
	db   *bbolt.DB
	sums bucketSums
	rows int64

	chats *oldChats
}

func (m *migrator) copyTo(old *bbolt.Tx, path string, fault func(string)) (err error) {
	from, record, err := readFormat(old)
	m.from = from
	if err == nil && from != 1 {
		err = formatError(from)
	}
	if err == nil {
		err = m.opts.fixed(record)
	}
	if err != nil {
		return err
	}
	if m.chats, err = gatherChats(old); err != nil {
		return fmt.Errorf("chats: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a try that was cut off
		return err
	}
	m.db, err = bbolt.Open(path, 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, NoSync: true, Timeout: lockWait})
	if err != nil {
		return err
	}
	defer func() {
		if m.db != nil {
			_ = m.db.Close()
		}
		if err != nil {
			_ = os.Remove(path)
		}
	}()
	for id := range bucketCount {
		if err := m.bucket(old, id); err != nil {
			return fmt.Errorf("bucket %s: %w", id, err)
		}
		fault("migrate.bucket")
	}
	err = m.db.Update(func(bolt *bbolt.Tx) error {
		tx := Tx{bolt: bolt, sums: m.sums}
		rows, err := m.chats.put(&tx)
		if m.rows += rows; err != nil {
			return fmt.Errorf("chats: %w", err)
		}
		if err := m.putOrigin(&tx, old); err != nil {
			return fmt.Errorf("origin: %w", err)
		}
		return tx.putSums()
	})
	if err = errors.Join(err, m.db.Sync(), m.db.Close()); err != nil {
		return err
	}
	m.db = nil
	return m.check(path)
}

// putOrigin notes which history the file is of. Under format 1 a store knew one stream
// only.
func (m *migrator) putOrigin(tx *Tx, old *bbolt.Tx) error {
	at, err := parseApplied(old.Bucket([]byte(bucketMeta.String())).Get(metaApplied))
	if err != nil || at.Seq == 0 {
		return err
	}
	m.rows++
	tx.message.StreamCreated = at.StreamCreated
	return tx.putOrigin()
}

// check reads back what was written.
func (m *migrator) check(path string) error {
	c, err := Check(context.Background(), path)
	switch {
	case err != nil:
		return err
	case c.Damaged > 0:
		return &DamageError{c}
	case c.Rows != m.rows+1: // the record of sums is new
		return fmt.Errorf("%d rows were written and %d are there: %w", m.rows+1, c.Rows, errDamaged)
	}
	return nil
}

func (m *migrator) bucket(old *bbolt.Tx, id bucketID) error {
	if err := m.db.Update(func(bolt *bbolt.Tx) error {
		_, err := bolt.CreateBucket([]byte(id.String()))
		return err
	}); err != nil {
		return err
	}
	from := old.Bucket([]byte(id.String()))
	if from == nil && id < bucketsOfFormat1 {
		return errDamaged
	}
	if from == nil {
		return nil
	}
	if id == bucketHours {
		return m.hours(from)
	}
	c := from.Cursor()
	k, v := c.First()
	for k != nil {
		if err := m.db.Update(func(bolt *bbolt.Tx) error {
			tx := Tx{bolt: bolt, sums: m.sums}
			for size := 0; k != nil && size < migrateBytes; k, v = c.Next() {
				value, err := m.fromFormat1(id, k, v)
				if err != nil {
					return fmt.Errorf("key %x: %w", k, err)
				}
				if err := tx.add(id, k, value); err != nil {
					return err
				}
				size += len(k) + len(v)
				m.rows++
			}
			m.sums = tx.sums
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// hours puts the aggregates, which were rows of their own, into blocks.
func (m *migrator) hours(from *bbolt.Bucket) error {
	c := from.Cursor()
	k, v := c.First()
	var key, head []byte
	var w hoursWriter
	write := func(tx *Tx) error {
		if w.block == nil {
			return nil
		}
		m.rows++
		err := tx.add(bucketHours, key, w.block)
		w = hoursWriter{}
		return err
	}
	for k != nil || w.block != nil {
		if err := m.db.Update(func(bolt *bbolt.Tx) error {
			tx := Tx{bolt: bolt, sums: m.sums}
			for size := 0; k != nil && size < migrateBytes; k, v = c.Next() {
				length, err := headLength(k)
				if err == nil {
					_, err = parseSums(v)
				}
				if err != nil {
					return fmt.Errorf("key %x: %w", k, err)
				}
				another := !bytes.Equal(head, k[:length])
				if another || len(w.block) > hoursBlockBytes*2/3 {
					if err := write(&tx); err != nil {
						return err
					}
					key = bytes.Clone(k)
				}
				if another {
					head = bytes.Clone(k[:length])
					key = head
				}
				w.row(k[length:], v[1:])
				size += len(k) + len(v)
			}
			if k == nil {
				if err := write(&tx); err != nil {
					return err
				}
			}
			m.sums = tx.sums
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// fromFormat1 gives the value that a row of format 1 has now: with a number of the
// new format, and with references of 52 bits of log position and 12 of index, where
// 40 and 24 were.
func (m *migrator) fromFormat1(id bucketID, key, old []byte) ([]byte, error) {
	v := append(make([]byte, 0, len(old)+sealSize), old...)
	switch {
	case id == bucketMeta && string(key) == string(metaFormat):
		binary.BigEndian.PutUint32(v, Format)
	case id == bucketIDs:
		return v, replace(v)
	case id == bucketAdjustments:
		return m.chats.adjustment(old)
	}
	return v, nil
}

// replace rewrites the references of a chunk of the id log in place.
func replace(chunk []byte) error {
	const oldIndexBits = 24
	c, err := parseIDChunk(chunk)
	if err != nil {
		return err
	}
	for i := range c.len() {
		e := c.at(i)
		if e.kind == schemas.IDEvent { // the digest of its content
			continue
		}
		p := Place{Seq: e.ref >> oldIndexBits, Index: uint32(e.ref & (1<<oldIndexBits - 1))}
		if p.Index >= 1<<placeIndexBits || p.Seq >= 1<<sequenceBits {
			return errDamaged
		}
		binary.BigEndian.PutUint64(c.entries[(i+1)*idEntrySize-8:], p.ref())
	}
	return nil
}

// keepOld gives the file a second name, so that the first can be replaced in one
// step. A file that has the name already, from another time, keeps it.
func keepOld(path, suffix string) (string, error) {
	own, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		kept := path + suffix
		if n > 1 {
			kept = fmt.Sprintf("%s-%d", kept, n)
		}
		there, err := os.Lstat(kept)
		if err == nil && os.SameFile(own, there) { // a try that was cut off after this
			return kept, syncDir(path)
		}
		if err == nil {
			continue
		}
		if err = os.Link(path, kept); errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil { // a file system without links gets a copy
			err = copyFile(path, kept)
		}
		return kept, errors.Join(err, syncDir(path))
	}
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = writeFile(to, func(w io.Writer) (int64, error) { return copyPaced(context.Background(), w, f) })
	return err
}

// syncDir makes names in the directory of a file durable.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// formatError says what to do with a file of another format.
func formatError(format uint32) error {
	what := "use the release that wrote it"
	if format < Format {
		what = "start grout once, which brings it over"
	}
	return fmt.Errorf("the file has format %d and this release reads format %d: %s", format, Format, what)
}

// fixed compares a record of the format with the options, and takes over what was
// fixed when the file was made.
func (o *Options) fixed(record []byte) error {
	if len(record) != 16 {
		return errDamaged
	}
	n := func(i int) int { return int(binary.BigEndian.Uint32(record[4*i:])) }
	if n(1) != o.Partition || n(2) != o.Partitions {
		return fmt.Errorf("the file is partition %d of %d, not %d of %d: the number of partitions is fixed when the data directory is made",
			n(1), n(2), o.Partition, o.Partitions)
	}
	o.FoldEvery = n(3)
	return nil
}
