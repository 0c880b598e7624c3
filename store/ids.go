package store

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"grout/schemas"
)

// The id log holds every identity that was ever entered, in order, each under
// the next ordinal: kind, fingerprint, and a reference that depends on the kind
// (the content digest of an event, the place of a batch or of an adjustment). An
// entry of a message is found through idTable and always verified here, so a hit
// is never a guess. Form 1 of a chunk: form, sequence of the message that entered
// its ids, entries. The sequence leads from an event's id to its place in the
// event log.
const (
	idEntrySize   = 1 + 16 + 8
	idChunkHead   = 1 + 8
	idChunkLength = 2048 // entries of a message under one key
)

type idEntry struct {
	kind schemas.IDKind
	fp   schemas.Fingerprint
	ref  uint64
	seq  uint64 // of the message that entered it
}

func (e *idEntry) append(b []byte) []byte {
	b = append(b, byte(e.kind))
	b = append(b, e.fp[:]...)
	return binary.BigEndian.AppendUint64(b, e.ref)
}

func appendIDChunk(b []byte, seq uint64, entries []stagedID) []byte {
	b = append(b, 1)
	b = binary.BigEndian.AppendUint64(b, seq)
	for i := range entries {
		b = entries[i].append(b)
	}
	return b
}

// idChunk is the value of a chunk of the id log.
type idChunk struct {
	seq     uint64
	entries []byte
}

func parseIDChunk(v []byte) (idChunk, error) {
	if len(v) < idChunkHead || v[0] != 1 || (len(v)-idChunkHead)%idEntrySize != 0 {
		return idChunk{}, errDamaged
	}
	return idChunk{binary.BigEndian.Uint64(v[1:]), v[idChunkHead:]}, nil
}

func (c *idChunk) len() int { return len(c.entries) / idEntrySize }

func (c *idChunk) at(i int) idEntry {
	b := c.entries[i*idEntrySize:]
	return idEntry{schemas.IDKind(b[0]), schemas.Fingerprint(b[1:17]), binary.BigEndian.Uint64(b[17:]), c.seq}
}

// readID gives the entry at an ordinal.
func readID(ids bucket, ordinal uint64) (idEntry, error) {
	c := ids.Cursor()
	want := keyOrdinal(ordinal)
	k, v := c.Seek(want)
	if k == nil || binary.BigEndian.Uint64(k) != ordinal {
		k, v = c.Prev()
	}
	if len(v) < sealSize {
		return idEntry{}, fmt.Errorf("id log: ordinal %d: %w", ordinal, errDamaged)
	}
	// The seal of a chunk was verified when the file was opened, and verifying it for
	// every lookup would hash 2,048 entries to read one; the fingerprint is compared.
	chunk, err := parseIDChunk(v[:len(v)-sealSize])
	if at := ordinal - binary.BigEndian.Uint64(k); err == nil && at < uint64(chunk.len()) {
		return chunk.at(int(at)), nil
	}
	return idEntry{}, fmt.Errorf("id log: ordinal %d: %w", ordinal, errDamaged)
}

// idTable finds ordinals by fingerprint: 8 bytes a slot, a 24-bit keyed tag and a
// 40-bit ordinal, in 4,096 sub-tables that grow one at a time, so that growing
// never stops the partition for long. The key is made at start, so nobody can
// choose ids that collide. A slot is a hint: the id log decides.
type idTable struct {
	key   [2]uint64
	subs  [idSubTables]idSubTable
	used  int    // slots that are taken, also by what has expired
	line  uint64 // ordinals below it have expired: their slots are free for others
	dirty int    // sub-tables that may hold such slots; at is the next of them
	at    int
}

type idSubTable struct {
	slots []uint64
	used  int
}

// Sub-tables that are rid of expired slots after a transaction, and after one with a
// tick: few enough to hold nobody up, and all within a day where nothing else happens.
const (
	cleanedWithTransaction = 16
	cleanedWithTick        = 192
)

const (
	idSubTables   = 4096
	ordinalBits   = 40
	ordinalMask   = 1<<ordinalBits - 1
	tagBits       = 64 - ordinalBits
	idFirstLength = 16
)

func (t *idTable) place(fp *schemas.Fingerprint) (sub int, tag uint64) {
	hi, lo := bits.Mul64(binary.LittleEndian.Uint64(fp[:8])^t.key[0], binary.LittleEndian.Uint64(fp[8:])^t.key[1]|1)
	h := hi ^ lo
	h ^= h >> 32
	h *= 0x9e3779b97f4a7c15
	h ^= h >> 29
	return int(h >> (64 - 12)), h >> 16 & (1<<tagBits - 1)
}

// find calls at with each ordinal that may belong to the fingerprint until it
// says stop.
func (t *idTable) find(fp *schemas.Fingerprint, at func(ordinal uint64) (stop bool)) {
	i, tag := t.place(fp)
	s := &t.subs[i]
	if len(s.slots) == 0 {
		return
	}
	mask := uint64(len(s.slots) - 1)
	for p := tag & mask; s.slots[p] != 0; p = (p + 1) & mask {
		if o := s.slots[p] & ordinalMask; s.slots[p]>>ordinalBits == tag && o >= t.line && at(o) {
			return
		}
	}
}

// add enters an ordinal, which is never 0.
func (t *idTable) add(fp *schemas.Fingerprint, ordinal uint64) {
	i, tag := t.place(fp)
	s := &t.subs[i]
	if 4*(s.used+1) > 3*len(s.slots) {
		t.rebuild(s, 1)
	}
	if s.put(tag<<ordinalBits|ordinal&ordinalMask, t.line) {
		s.used++
		t.used++
	}
}

// enter points a fingerprint to an ordinal; from is the one that it takes over, or 0.
func (t *idTable) enter(fp *schemas.Fingerprint, from, ordinal uint64) {
	switch {
	case ordinal < t.line: // has expired already
	case from != 0 && from >= t.line:
		t.move(fp, from, ordinal)
	default:
		t.add(fp, ordinal)
	}
}

// expire moves the line.
func (t *idTable) expire(line uint64) {
	if line > t.line {
		t.line, t.dirty = line, idSubTables
	}
}

// clean rids some sub-tables of what has expired.
func (t *idTable) clean(n int) {
	for ; n > 0 && t.dirty > 0; n-- {
		t.rebuild(&t.subs[t.at], 0)
		t.at = (t.at + 1) % idSubTables
		t.dirty--
	}
}

// move points a fingerprint that stands at one ordinal to a newer one.
func (t *idTable) move(fp *schemas.Fingerprint, from, to uint64) {
	i, tag := t.place(fp)
	s := &t.subs[i]
	mask := uint64(len(s.slots) - 1)
	for p := tag & mask; s.slots[p] != 0; p = (p + 1) & mask {
		if s.slots[p] == tag<<ordinalBits|from&ordinalMask {
			s.slots[p] = tag<<ordinalBits | to&ordinalMask
			return
		}
	}
}

// put takes an empty slot, or one that has expired, and tells which.
func (s *idSubTable) put(slot, line uint64) (empty bool) {
	mask := uint64(len(s.slots) - 1)
	p := slot >> ordinalBits & mask
	for s.slots[p] != 0 && s.slots[p]&ordinalMask >= line {
		p = (p + 1) & mask
	}
	empty = s.slots[p] == 0
	s.slots[p] = slot
	return empty
}

// rebuild leaves out what has expired and makes the sub-table as large as the rest,
// with some more, needs.
func (t *idTable) rebuild(s *idSubTable, more int) {
	live := 0
	for _, slot := range s.slots {
		if slot&ordinalMask >= t.line && slot != 0 {
			live++
		}
	}
	if more == 0 && live == s.used {
		return
	}
	size := idFirstLength
	for size < 2*(live+more) {
		size *= 2
	}
	old := s.slots
	s.slots = make([]uint64, size)
	for _, slot := range old {
		if slot&ordinalMask >= t.line && slot != 0 {
			s.put(slot, 0)
		}
	}
	t.used -= s.used - live
	s.used = live
}

func (t *idTable) bytes() int {
	n := 0
	for i := range t.subs {
		n += 8 * len(t.subs[i].slots)
	}
	return n
}

// idStage holds the ids entered by the running transaction, which the table must
// not show before the commit. Entries keep the order of their ordinals.
type idStage struct {
	table   *idTable
	slots   []int32 // place in entries + 1
	entries []stagedID
}

type stagedID struct {
	idEntry
	ordinal uint64
	from    uint64 // ordinal of the entry that this one takes over, or 0
}

func (s *idStage) slot(fp *schemas.Fingerprint) int {
	mask := len(s.slots) - 1
	sub, tag := s.table.place(fp)
	p := (sub<<tagBits | int(tag)) & mask
	for s.slots[p] != 0 && s.entries[s.slots[p]-1].fp != *fp {
		p = (p + 1) & mask
	}
	return p
}

// get gives the newest staged entry of a fingerprint.
func (s *idStage) get(fp *schemas.Fingerprint) *stagedID {
	if len(s.entries) == 0 {
		return nil
	}
	if i := s.slots[s.slot(fp)]; i != 0 {
		return &s.entries[i-1]
	}
	return nil
}

func (s *idStage) add(e stagedID) {
	if 2*(len(s.entries)+1) > len(s.slots) {
		s.slots = make([]int32, max(1024, 2*len(s.slots)))
		for i := range s.entries {
			s.slots[s.slot(&s.entries[i].fp)] = int32(i + 1)
		}
	}
	s.entries = append(s.entries, e)
	s.slots[s.slot(&e.fp)] = int32(len(s.entries))
}

func (s *idStage) reset() {
	if len(s.entries) > 0 {
		clear(s.slots)
	}
	s.entries = s.entries[:0]
}
