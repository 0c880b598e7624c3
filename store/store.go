package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"grout/schemas"
)

// Format is the version of the file's layout.
const Format = 1

// DefaultFoldEvery is how many events are applied between two freezes of the
// newest aggregates.
const DefaultFoldEvery = 250_000

const (
	// sequentialFill packs pages of buckets that are only ever appended to.
	sequentialFill = 0.95
	initialMmap    = 1 << 30
	keptPositions  = 1000
	firstEpoch     = 1
)

// Options of a store. Partition, Partitions and FoldEvery are fixed when the file
// is made: what is in it depends on them. A later FoldEvery changes nothing.
type Options struct {
	Partition  int
	Partitions int
	FoldEvery  int                // 0: DefaultFoldEvery
	ReadOnly   bool               // for looking at it; Update fails
	Fault      func(point string) // called at named points; nil outside fault tests
}

// Store is the state of one partition. One goroutine changes it through Update;
// any number may read.
type Store struct {
	db   *bbolt.DB
	opts Options
	path string

	idMu sync.RWMutex // guards changes of ids against readers; the goroutine that updates reads freely
	ids  idTable

	// Only the goroutine that updates touches these.
	stage stage
	next  uint64 // ordinal of the next id

	mu      sync.RWMutex // guards what follows, against readers
	overlay overlay
	applied applied
	fold    foldState

	relay map[string]*relayStage
	stats stats
}

// applied is the record of how far the command stream has been applied.
type applied struct {
	schemas.Checkpoint
	Epoch     uint32
	Now       int64 // handler time: the greatest message time so far
	Positions uint64
}

type stats struct {
	transactions, messages, events atomic.Int64
	voided, amended                atomic.Int64
	outbox                         [2]atomic.Int64
	ids, idBytes                   atomic.Int64
	commit                         atomic.Int64
}

// Stats are counts since the store was opened; Outbox are rows that wait now.
type Stats struct {
	Transactions, Messages, Events int64
	Voided, Amended                int64 // adjustments
	FactRows, DeadLetterRows       int64
	IDs, IDBytes                   int64
	CommitSeconds                  float64
	FileBytes                      int64
}

// Open opens or makes the file of a partition and builds what is kept in memory.
func Open(path string, o Options) (*Store, error) {
	if o.FoldEvery <= 0 {
		o.FoldEvery = DefaultFoldEvery
	}
	if o.Partitions < 1 || o.Partition < 0 || o.Partition >= o.Partitions {
		return nil, fmt.Errorf("open store: partition %d of %d does not exist", o.Partition, o.Partitions)
	}
	if !o.ReadOnly {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: time.Second, ReadOnly: o.ReadOnly, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, InitialMmapSize: initialMmap,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open store %s: another process holds it; stop that one or use another data directory", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s := &Store{db: db, opts: o, path: path, relay: map[string]*relayStage{
		schemas.DestFacts: newRelayStage(), schemas.DestDeadLetters: newRelayStage(),
	}}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return s, nil
}

func (s *Store) load() error {
	if err := s.create(); err != nil {
		return err
	}
	var seed [16]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	s.ids.key = [2]uint64{binary.LittleEndian.Uint64(seed[:8]), binary.LittleEndian.Uint64(seed[8:])}
	s.stage.ids.table = &s.ids
	return s.db.View(func(bolt *bbolt.Tx) error {
		if err := s.checkFormat(bolt); err != nil {
			return err
		}
		meta := bolt.Bucket(bucketMeta)
		var err error
		if s.applied, err = parseApplied(meta.Get(metaApplied)); err != nil {
			return fmt.Errorf("position: %w", err)
		}
		if s.fold, err = parseFoldState(meta.Get(metaFold)); err != nil {
			return fmt.Errorf("fold: %w", err)
		}
		s.next = 1
		if v := meta.Get(metaIDs); v != nil {
			s.next = binary.BigEndian.Uint64(v)
		}
		if err := s.loadIDs(bolt); err != nil {
			return err
		}
		if err := s.loadOverlay(bolt); err != nil {
			return err
		}
		return s.loadOutbox(bolt)
	})
}

// create makes the buckets of a new file.
func (s *Store) create() error {
	if s.opts.ReadOnly {
		return nil
	}
	return s.db.Update(func(bolt *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := bolt.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := bolt.Bucket(bucketMeta)
		if meta.Get(metaFormat) != nil {
			return nil
		}
		var v []byte
		for _, n := range [...]int{Format, s.opts.Partition, s.opts.Partitions, s.opts.FoldEvery} {
			v = binary.BigEndian.AppendUint32(v, uint32(n))
		}
		return meta.Put(metaFormat, v)
	})
}

// checkFormat refuses a file of another layout or of another partition, and takes
// over what was fixed when the file was made.
func (s *Store) checkFormat(bolt *bbolt.Tx) error {
	meta := bolt.Bucket(bucketMeta)
	if meta == nil {
		return errDamaged
	}
	v := meta.Get(metaFormat)
	if len(v) < 4 {
		return errDamaged
	}
	if f := binary.BigEndian.Uint32(v); f != Format {
		return fmt.Errorf("the file has format %d and this release reads format %d: use the release that wrote it", f, Format)
	}
	if len(v) != 16 {
		return errDamaged
	}
	part, parts := int(binary.BigEndian.Uint32(v[4:])), int(binary.BigEndian.Uint32(v[8:]))
	if part != s.opts.Partition || parts != s.opts.Partitions {
		return fmt.Errorf("the file is partition %d of %d, not %d of %d: the number of partitions is fixed when the data directory is made",
			part, parts, s.opts.Partition, s.opts.Partitions)
	}
	s.opts.FoldEvery = int(binary.BigEndian.Uint32(v[12:]))
	return nil
}

func (s *Store) loadIDs(bolt *bbolt.Tx) error {
	ids := bolt.Bucket(bucketIDs)
	c := ids.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		first := binary.BigEndian.Uint64(k)
		chunk, err := parseIDChunk(v)
		if err != nil {
			return fmt.Errorf("id log at %x: %w", k, err)
		}
		for i := range chunk.len() {
			e, ordinal := chunk.at(i), first+uint64(i)
			from := uint64(0)
			if e.kind != schemas.IDEvent { // an event is entered once; others may be taken over
				var err error
				if from, _, err = s.lookup(ids, &e.fp); err != nil {
					return err
				}
			}
			if from != 0 {
				s.ids.move(&e.fp, from, ordinal)
			} else {
				s.ids.add(&e.fp, ordinal)
			}
		}
	}
	s.noteIDs()
	return nil
}

// lookup gives the ordinal and entry of a committed id; ordinal 0 is none.
func (s *Store) lookup(ids *bbolt.Bucket, fp *schemas.Fingerprint) (ordinal uint64, e idEntry, err error) {
	s.ids.find(fp, func(o uint64) bool {
		found, rerr := readID(ids, o)
		if rerr != nil {
			err = rerr
			return true
		}
		if found.fp == *fp {
			ordinal, e = o, found
			return true
		}
		return false
	})
	return ordinal, e, err
}

// loadOverlay replays events and adjustments from where the aggregates in the
// bucket end.
func (s *Store) loadOverlay(bolt *bbolt.Tx) error {
	s.overlay.live = newGeneration(0)
	live := s.overlay.live.adder()
	frozen := live
	if s.fold.To != 0 {
		s.overlay.frozen = newGeneration(s.fold.Number)
		frozen = s.overlay.frozen.adder()
	}
	c := bolt.Bucket(bucketEvents).Cursor()
	var events []schemas.UsageEvent
	var commands []uint32
	for k, v := c.Seek(keySeq(s.fold.Folded + 1)); k != nil; k, v = c.Next() {
		var err error
		if events, commands, err = decodeChunk(v, events[:0], commands[:0]); err != nil {
			return fmt.Errorf("event log at %x: %w", k, err)
		}
		to := live
		if binary.BigEndian.Uint64(k) <= s.fold.To {
			to = frozen
		}
		for i := range events {
			to.add(&events[i])
		}
	}
	if err := loadAdjustments(bolt, &s.fold, frozen, live); err != nil {
		return fmt.Errorf("adjustments: %w", err)
	}
	if s.overlay.frozen != nil {
		s.overlay.frozen.freeze()
	}
	return nil
}

// Close waits for readers and closes the file.
func (s *Store) Close() error {
	if g := s.overlay.frozen; g != nil {
		<-g.sorted
	}
	return s.db.Close()
}

// Checkpoint tells how far the command stream has been applied.
func (s *Store) Checkpoint() schemas.Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied.Checkpoint
}

// Now is handler time: the greatest instant at which an applied command was taken.
func (s *Store) Now() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied.Now
}

// FoldEvery is what was fixed when the file was made.
func (s *Store) FoldEvery() int { return s.opts.FoldEvery }

// Epoch is the epoch of the command stream that new positions belong to.
func (s *Store) Epoch() uint32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied.Epoch
}

// Stats tells what the store has done.
func (s *Store) Stats() Stats {
	t := &s.stats
	st := Stats{
		Transactions: t.transactions.Load(), Messages: t.messages.Load(), Events: t.events.Load(),
		Voided: t.voided.Load(), Amended: t.amended.Load(),
		FactRows: t.outbox[0].Load(), DeadLetterRows: t.outbox[1].Load(),
		IDs: t.ids.Load(), IDBytes: t.idBytes.Load(), CommitSeconds: time.Duration(t.commit.Load()).Seconds(),
	}
	if fi, err := os.Stat(s.path); err == nil {
		st.FileBytes = fi.Size()
	}
	return st
}

func (s *Store) noteIDs() {
	s.stats.ids.Store(int64(s.ids.used))
	s.stats.idBytes.Store(int64(s.ids.bytes()))
}

func (s *Store) fault(point string) {
	if s.opts.Fault != nil {
		s.opts.Fault(point)
	}
}

func (a *applied) append(b []byte) []byte {
	b = append(b, 1)
	b = binary.AppendUvarint(b, uint64(a.Epoch))
	b = binary.AppendUvarint(b, a.Seq)
	b = binary.AppendVarint(b, a.StreamCreated)
	b = binary.AppendVarint(b, a.StoredAt)
	b = append(b, a.Digest[:]...)
	b = binary.AppendVarint(b, a.Now)
	return binary.AppendUvarint(b, a.Positions)
}

func parseApplied(v []byte) (a applied, err error) {
	a.Epoch = firstEpoch
	if v == nil {
		return a, nil
	}
	r := newReader(v)
	r.Form(1)
	a.Epoch = uint32(r.Uvarint())
	a.Seq = r.Uvarint()
	a.StreamCreated, a.StoredAt = r.Varint(), r.Varint()
	a.Digest = r.digest()
	a.Now = r.Varint()
	a.Positions = r.Uvarint()
	return a, r.Err
}
