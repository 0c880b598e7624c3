package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
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
const Format = 2

// DefaultFoldEvery is how many events are applied between two freezes of the
// newest aggregates.
const DefaultFoldEvery = 500_000

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
	db   *file
	opts Options
	path string

	checkup  Checkup // of the file, before it was opened
	migrated *Migration

	idMu sync.RWMutex // guards changes of ids against readers; the goroutine that updates reads freely
	ids  idTable

	chatIDs idTable // as ids, of chats

	// Only the goroutine that updates touches these.
	stage    stage
	next     uint64 // ordinal of the next id
	nextChat uint64 // of the next chat

	merging sync.RWMutex // held from a commit until readers see all of it

	mu       sync.RWMutex // guards what follows, against readers
	overlay  overlay
	applied  applied
	fold     foldState
	clock    Clock
	segments segments
	config   map[string]*ConfigVersion // what names stand for now
	newest   newestManifests
	sums     bucketSums
	nextDue  int64         // instant, see NextDue
	dueMoved chan struct{} // closed when that has changed
	runs     runWatch

	budgeted map[string]bool // apps that have counters; for the goroutine that updates

	overflowed atomic.Bool // a sum has passed what its integer holds

	relay map[string]*relayStage
	stats stats
}

// applied is the record of how far the command stream has been applied.
type applied struct {
	schemas.Checkpoint
	Epoch     uint32
	Now       int64 // handler time: the greatest message time so far
	Positions uint64
	Origin    int64 // a record of its own, which is written once
}

type stats struct {
	transactions, messages, events atomic.Int64
	voided, amended                atomic.Int64
	outbox, waiting                [2]atomic.Int64
	ids, idBytes, chats            atomic.Int64
	commit                         atomic.Int64
	letters                        atomic.Int64
}

// Stats are counts since the store was opened; Outbox are rows that wait now.
type Stats struct {
	Transactions, Messages, Events int64
	Voided, Amended                int64 // adjustments
	FactRows, DeadLetterRows       int64
	Facts                          int64 // of those rows
	IDs, IDBytes, Chats            int64
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
	checkup, migrated, err := readied(path, &o)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockWait, ReadOnly: o.ReadOnly, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, InitialMmapSize: initialMmap,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = errHeld
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s := &Store{db: shielded(db, path), opts: o, path: path, checkup: checkup, migrated: migrated, dueMoved: make(chan struct{}), runs: newRunWatch(), relay: map[string]*relayStage{
		schemas.DestFacts: newRelayStage(), schemas.DestDeadLetters: newRelayStage(),
	}}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", path, err), db.Close())
	}
	return s, nil
}

const (
	lockWait  = time.Second
	lockRetry = 20 * time.Millisecond
)

var errHeld = errors.New("another process holds it; stop that one or use another data directory")

// checkBefore verifies a file that is there; an empty one is as good as none.
func checkBefore(path string) (Checkup, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		return Checkup{Path: path, Damage: []Damage{}}, nil
	}
	c, err := Check(context.Background(), path)
	if err != nil {
		return c, err
	}
	if c.Damaged > 0 {
		return c, &DamageError{c}
	}
	return c, nil
}

// Checkup is what was found when the file was opened.
func (s *Store) Checkup() Checkup { return s.checkup }

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
		if err := s.loadMeta(bolt); err != nil {
			return err
		}
		if err := s.loadConfig(bolt); err != nil {
			return err
		}
		if err := s.loadBudgeted(bolt); err != nil {
			return err
		}
		if err := s.loadDue(bolt); err != nil {
			return err
		}
		if err := s.loadIDs(bolt); err != nil {
			return err
		}
		if err := s.loadChats(bolt); err != nil {
			return err
		}
		if err := s.loadOverlay(bolt); err != nil {
			return err
		}
		return s.loadOutbox(bolt)
	})
}

func (s *Store) loadMeta(bolt *bbolt.Tx) (err error) {
	if s.applied, err = readApplied(bolt); err != nil {
		return fmt.Errorf("position: %w", err)
	}
	if s.applied.Origin, err = readOrigin(bolt); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	if a := &s.applied; a.Origin == 0 && a.Epoch == firstEpoch {
		a.Origin = a.StreamCreated // of a file from before it was kept
	}
	if s.fold, err = readFoldState(bolt); err != nil {
		return fmt.Errorf("fold: %w", err)
	}
	if s.clock, err = readClock(bolt); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	if s.segments, err = readSegments(bolt); err != nil {
		return fmt.Errorf("segments: %w", err)
	}
	meta := bucketOf(bolt, bucketMeta)
	v, err := meta.get(metaSums)
	if err != nil {
		return err
	}
	if s.sums, err = parseSumsRecord(v); err != nil {
		return fmt.Errorf("sums: %w", err)
	}
	s.next = 1
	if v, err = meta.get(metaIDs); err != nil {
		return err
	}
	if v != nil {
		if len(v) != 8 {
			return fmt.Errorf("next ordinal: %w", errDamaged)
		}
		s.next = binary.BigEndian.Uint64(v)
	}
	return nil
}

// create makes the buckets of a new file.
func (s *Store) create() error {
	if s.opts.ReadOnly {
		return nil
	}
	return s.db.Update(func(bolt *bbolt.Tx) error {
		if bucketOf(bolt, bucketMeta).Bucket != nil {
			return nil
		}
		for id := range bucketCount {
			if _, err := bolt.CreateBucket([]byte(id.String())); err != nil {
				return err
			}
		}
		tx := Tx{bolt: bolt}
		var v []byte
		for _, n := range [...]int{Format, s.opts.Partition, s.opts.Partitions, s.opts.FoldEvery} {
			v = binary.BigEndian.AppendUint32(v, uint32(n))
		}
		if err := tx.put(bucketMeta, metaFormat, v); err != nil {
			return err
		}
		return tx.putSums()
	})
}

// checkFormat refuses a file of another layout or of another partition, and takes
// over what was fixed when the file was made.
func (s *Store) checkFormat(bolt *bbolt.Tx) error {
	f, v, err := readFormat(bolt)
	if err != nil {
		return err
	}
	if f != Format {
		return formatError(f)
	}
	return s.opts.fixed(v)
}

// readFormat gives the version of the layout and the record that says it. Format 1
// knew no seals; its record is 16 bytes. Whatever comes later begins like this one.
func readFormat(bolt *bbolt.Tx) (format uint32, record []byte, err error) {
	meta := bucketOf(bolt, bucketMeta)
	if meta.Bucket == nil {
		return 0, nil, errDamaged
	}
	if raw := meta.Get(metaFormat); len(raw) == 16 && binary.BigEndian.Uint32(raw) == 1 {
		return 1, raw, nil
	}
	v, err := meta.get(metaFormat)
	if err != nil {
		return 0, nil, err
	}
	if len(v) < 4 {
		return 0, nil, errDamaged
	}
	return binary.BigEndian.Uint32(v), v, nil
}

func (s *Store) loadIDs(bolt *bbolt.Tx) error {
	ids := bucketOf(bolt, bucketIDs)
	from := s.segments.Line.Ordinal
	s.ids.line = from
	c := ids.cursor()
	for k, v := c.seek(keyOrdinal(from)); k != nil; k, v = c.next() {
		first := binary.BigEndian.Uint64(k)
		chunk, err := parseIDChunk(v)
		if err != nil {
			return fmt.Errorf("id log at %x: %w", k, err)
		}
		for i := range chunk.len() {
			e, ordinal := chunk.at(i), first+uint64(i)
			before := uint64(0)
			if e.kind != schemas.IDEvent { // an event is entered once; others may be taken over
				var err error
				if before, _, err = s.lookup(ids, from, &e.fp); err != nil {
					return err
				}
			}
			s.ids.enter(&e.fp, before, ordinal)
		}
	}
	s.noteIDs()
	return c.err
}

// lookup gives the ordinal and entry of a committed id; ordinal 0 is none. What has an
// ordinal below from has expired: its row may be gone.
func (s *Store) lookup(ids bucket, from uint64, fp *schemas.Fingerprint) (ordinal uint64, e idEntry, err error) {
	s.ids.find(fp, func(o uint64) bool {
		if o < from {
			return false
		}
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
	chats := chatLoader{s, bucketOf(bolt, bucketChatIDs)}
	c := bucketOf(bolt, bucketEvents).cursor()
	var events []schemas.UsageEvent
	var commands []uint32
	for k, v := c.seek(keySeq(s.fold.Folded + 1)); k != nil; k, v = c.next() {
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
			if err := chats.add(to.to, &events[i]); err != nil {
				return err
			}
		}
	}
	if c.err != nil {
		return c.err
	}
	if err := loadAdjustments(bolt, &s.fold, &chats, frozen, live); err != nil {
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
		FactRows: t.outbox[0].Load(), DeadLetterRows: t.outbox[1].Load(), Facts: t.waiting[0].Load(),
		IDs: t.ids.Load(), IDBytes: t.idBytes.Load(), Chats: t.chats.Load(), CommitSeconds: time.Duration(t.commit.Load()).Seconds(),
	}
	if fi, err := os.Stat(s.path); err == nil {
		st.FileBytes = fi.Size()
	}
	return st
}

// Overflowed reports whether a sum of tokens or events has passed the largest int64 since
// the store was opened.
func (s *Store) Overflowed() bool { return s.overflowed.Load() }

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

func readApplied(bolt *bbolt.Tx) (applied, error) {
	v, err := bucketOf(bolt, bucketMeta).get(metaApplied)
	if err != nil {
		return applied{}, err
	}
	return parseApplied(v)
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
