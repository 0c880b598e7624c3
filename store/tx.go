package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Tx is a running transaction. Messages are applied in it one after another,
// each between Begin and End.
type Tx struct {
	bolt     *bbolt.Tx
	store    *Store
	stage    *stage
	applied  applied
	fold     foldState
	clock    Clock
	segments segments
	next     uint64
	nextChat uint64

	message   Message
	firstID   int // place in the stage of the message's first id
	firstChat int // the same of the first chat that it met first
	usage     messageUsage
	adjusted  int           // adjustments of the message
	facts     []commandFact // of its commands
	items     []int         // places in the stage of chats that facts are items of, beside deltas
	factN     uint32
	added     [2]int64 // outbox rows, by destination
	deleted   [2]int64
	waiting   [2]int64 // facts of rows that it added, without those that it deleted
	settled   [2]schemas.RelayState
	ticked    bool                // the message holds a tick
	wrote     volume              // of what expires, by the message
	purged    [bucketCount][]byte // key of the last row that was purged
	runs      uint32              // homes that the message gave
	filed     int64               // dead letters
	froze     bool
	folded    bool
	sliced    bool
	messages  int
	nextDue   int64

	dueChanged bool
	buckets    [bucketCount]bucket
	sums       bucketSums
}

// Message is the head of a message that is applied.
type Message struct {
	Seq           uint64
	StoredAt      int64 // nanoseconds since 1970 UTC
	StreamCreated int64
	Digest        [16]byte
	Cause         schemas.Cause // the group itself, cause of facts of several commands
	Commands      []schemas.CommandFrame
}

// stage is what a transaction changes in memory. It reaches readers after the
// commit and is thrown away with a failed transaction.
type stage struct {
	ids         idStage
	events      []*schemas.UsageEvent
	adjustments []*Adjustment
	apps        map[string]uint64 // app → its last fact sequence
	config      map[string]*ConfigVersion
	chats       chatStage
	budgets     budgetStage
	manifests   map[manifestOf]bool // scopes that were given one
	ended       []runName           // runs
	opened      bool                // executions were opened, or have ended
}

func (g *stage) reset() {
	g.ids.reset()
	g.chats.reset()
	g.budgets.reset()
	clear(g.events)
	g.events = g.events[:0]
	clear(g.adjustments)
	g.adjustments = g.adjustments[:0]
	clear(g.apps)
	clear(g.config)
	clear(g.manifests)
	clear(g.ended)
	g.ended, g.opened = g.ended[:0], false
}

// Update runs fn in a transaction and commits it. After an error nothing has
// changed, on disk or in memory. An error of the file itself is a *Fault.
func (s *Store) Update(fn func(tx *Tx) error) (err error) {
	if s.db.met.Load() {
		return &Fault{"write", errDamaged}
	}
	var bolt *bbolt.Tx
	defer func() { // behind the shield: after a panic the transaction is still open
		if errors.Is(err, schemas.ErrDamaged) {
			if bolt != nil {
				_ = bolt.Rollback()
			}
			if fault := new(Fault); !errors.As(err, &fault) {
				err = &Fault{"read or write", err}
			}
		}
	}()
	defer s.db.shield(&err)()
	bolt, err = s.db.Begin(true)
	if err != nil {
		return &Fault{"begin a transaction", err}
	}
	s.stage.reset()
	if s.stage.apps == nil {
		s.stage.apps = map[string]uint64{}
	}
	tx := &Tx{
		bolt: bolt, store: s, stage: &s.stage, applied: s.applied, fold: s.fold, clock: s.clock, segments: s.segments,
		next: s.next, nextChat: s.nextChat, nextDue: s.nextDue, sums: s.sums,
	}
	if err := tx.run(fn); err != nil {
		_ = bolt.Rollback()
		return err
	}
	s.fault("tx.inside")
	s.merging.Lock()
	defer s.merging.Unlock()
	start := time.Now()
	if err := bolt.Commit(); err != nil {
		return &Fault{"commit", err}
	}
	s.stats.commit.Add(int64(time.Since(start)))
	s.fault("tx.committed")
	if tx.sliced {
		s.fault("fold.slice")
	}
	s.merge(tx)
	return nil
}

// Fault is an error of the file: after it the partition must be opened again.
type Fault struct {
	Doing string
	Err   error
}

func (f *Fault) Error() string { return "store: " + f.Doing + ": " + f.Err.Error() }

// Unwrap gives the cause.
func (f *Fault) Unwrap() error { return f.Err }

func (tx *Tx) run(fn func(*Tx) error) (err error) {
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.putApps(); err != nil {
		return &Fault{"write app counters", err}
	}
	if err := tx.putBudgets(); err != nil {
		return err
	}
	if err := tx.noteDue(); err != nil {
		return err
	}
	for _, r := range [...]struct{ k, v []byte }{
		{metaApplied, tx.applied.append(nil)},
		{metaFold, tx.fold.append(nil)},
		{metaIDs, binary.BigEndian.AppendUint64(nil, tx.next)},
		{metaClock, tx.clock.append(nil)},
		{metaSegments, tx.segments.append(nil)},
	} {
		if err := tx.put(bucketMeta, r.k, r.v); err != nil {
			return &Fault{"write " + string(r.k), err}
		}
	}
	if err := tx.settleRelays(); err != nil {
		return err
	}
	return faultOf("write sums", tx.putSums())
}

// putSums comes last: the record tells of every other row.
func (tx *Tx) putSums() error {
	meta := tx.bucket(bucketMeta)
	return meta.Put(metaSums, seal(bucketMeta, metaSums, tx.sums.append(nil)))
}

// merge shows readers what the transaction changed.
func (s *Store) merge(tx *Tx) {
	s.idMu.Lock()
	s.ids.expire(tx.segments.Line.Ordinal)
	for i := range s.stage.ids.entries {
		e := &s.stage.ids.entries[i]
		s.ids.enter(&e.fp, e.from, e.ordinal)
	}
	if tx.ticked {
		s.ids.clean(cleanedWithTick)
	}
	s.ids.clean(cleanedWithTransaction)
	s.mergeChatIDs()
	s.idMu.Unlock()
	s.next = tx.next
	s.noteIDs()

	s.mu.Lock()
	add := s.overlay.live.adder()
	for _, e := range s.stage.events {
		add.add(e)
	}
	for _, a := range s.stage.adjustments {
		add.addAdjustment(a)
	}
	if !add.exact {
		s.overflowed.Store(true)
	}
	s.mergeChats()
	if tx.folded {
		s.overlay.frozen = nil
	}
	if tx.froze {
		s.overlay.frozen = s.overlay.live
		s.overlay.frozen.number = tx.fold.Number
		s.overlay.live = newGeneration(0)
		s.overlay.frozen.freeze()
	}
	s.applied, s.fold, s.sums = tx.applied, tx.fold, tx.sums
	s.clock, s.segments = tx.clock, tx.segments
	maps.Copy(s.config, s.stage.config)
	s.mergeBudgeted()
	s.newest.change(s.stage.manifests, logPosition(tx.applied.Epoch, tx.applied.Seq))
	s.setNextDue(tx.nextDue)
	s.mergeRuns()
	s.mu.Unlock()

	s.stats.transactions.Add(1)
	s.stats.messages.Add(int64(tx.messages))
	s.stats.letters.Add(tx.filed)
	s.stats.events.Add(int64(len(s.stage.events)))
	for _, a := range s.stage.adjustments {
		if a.Status == schemas.EventVoided {
			s.stats.voided.Add(1)
		} else {
			s.stats.amended.Add(1)
		}
	}
	for i, dest := range destinations {
		s.stats.outbox[i].Add(tx.added[i] - tx.deleted[i])
		s.stats.waiting[i].Add(tx.waiting[i])
		s.relay[dest].done(tx.settled[i])
		if tx.added[i] > 0 {
			s.relay[dest].wake()
		}
	}
	s.stage.reset() // lets go of the messages
}

// Sealed reports that the transaction must be committed before the next message.
func (tx *Tx) Sealed() bool { return tx.froze }

// Begin opens a message.
func (tx *Tx) Begin(m Message) {
	tx.message = m
	tx.firstID = len(tx.stage.ids.entries)
	tx.usage.reset()
	tx.adjusted, tx.facts, tx.factN = 0, tx.facts[:0], 0
	tx.ticked, tx.wrote, tx.runs = false, volume{}, 0
}

// Command moves handler time on to the instant at which a command was accepted;
// it never goes back. It returns handler time.
func (tx *Tx) Command(c *schemas.CommandFrame) int64 {
	tx.applied.Now = max(tx.applied.Now, c.Accepted)
	return tx.applied.Now
}

// Place tells where the command with the given index of the message stands.
func (tx *Tx) Place(index uint32) Place { return Place{tx.log(), index} }

// log is the log position of the running message.
func (tx *Tx) log() uint64 { return logPosition(tx.applied.Epoch, tx.message.Seq) }

// End closes the message: ids, events, facts, position.
func (tx *Tx) End() error {
	events := tx.order()
	for i := range events {
		tx.stage.events = append(tx.stage.events, events[i].event)
	}
	if err := tx.end(events); err != nil {
		return &Fault{fmt.Sprintf("write message %d", tx.message.Seq), err}
	}
	tx.messages++
	return nil
}

func (tx *Tx) end(events []recorded) error {
	m := &tx.message
	if err := tx.putIDs(); err != nil {
		return err
	}
	if err := tx.putChatIDs(); err != nil {
		return err
	}
	if err := tx.putEvents(tx.log(), events); err != nil {
		return err
	}
	if err := tx.emitUsage(); err != nil {
		return err
	}
	if err := tx.emitDeltas(); err != nil {
		return err
	}
	if err := tx.emitFacts(); err != nil {
		return err
	}
	if err := tx.putChats(); err != nil {
		return err
	}
	a := &tx.applied
	if a.Seq == 0 {
		if err := tx.putOrigin(); err != nil {
			return err
		}
	}
	a.Seq, a.StoredAt, a.Digest, a.StreamCreated = m.Seq, m.StoredAt, m.Digest, m.StreamCreated
	v := binary.BigEndian.AppendUint64(nil, uint64(m.StoredAt))
	if err := tx.add(bucketPositions, keySeq(tx.log()), append(v, m.Digest[:]...)); err != nil {
		return err
	}
	if a.Positions++; a.Positions > keptPositions {
		c := tx.bucket(bucketPositions).cursor()
		k, _ := c.first()
		if c.err != nil {
			return c.err
		}
		if err := tx.remove(c, k); err != nil {
			return err
		}
		a.Positions--
	}
	if tx.ticked {
		if err := tx.cut(); err != nil {
			return err
		}
	}
	if err := tx.purge(); err != nil {
		return err
	}
	return tx.stepFold(len(events) + tx.adjusted)
}

func (tx *Tx) putIDs() error {
	entries := tx.stage.ids.entries[tx.firstID:]
	for len(entries) > 0 {
		n := min(len(entries), idChunkLength)
		v := appendIDChunk(make([]byte, 0, idChunkHead+n*idEntrySize+sealSize), tx.log(), entries[:n])
		if err := tx.add(bucketIDs, keyOrdinal(entries[0].ordinal), v); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// find gives the newest entry of an id, staged or committed.
func (tx *Tx) find(fp *schemas.Fingerprint) (ordinal uint64, e idEntry, err error) {
	from := tx.segments.Line.Ordinal
	if s := tx.stage.ids.get(fp); s != nil && s.ordinal >= from {
		return s.ordinal, s.idEntry, nil
	}
	return tx.store.lookup(tx.bucket(bucketIDs), from, fp)
}

// enter gives an id the next ordinal; from is that of the entry it takes over.
func (tx *Tx) enter(kind schemas.IDKind, fp *schemas.Fingerprint, ref, from uint64) {
	tx.stage.ids.add(stagedID{idEntry: idEntry{kind, *fp, ref, tx.log()}, ordinal: tx.next, from: from})
	tx.next++
}

// enterPlace points an id to the record of the command at a place, from now on.
func (tx *Tx) enterPlace(kind schemas.IDKind, fp *schemas.Fingerprint, at Place) error {
	from, _, err := tx.find(fp)
	if err == nil {
		tx.enter(kind, fp, at.ref(), from)
	}
	return err
}
