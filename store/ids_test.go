package store

import (
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"grout/schemas"
)

func randomFingerprint(r *rand.Rand) (fp schemas.Fingerprint) {
	binary.LittleEndian.PutUint64(fp[:8], r.Uint64())
	binary.LittleEndian.PutUint64(fp[8:], r.Uint64())
	return fp
}

// colliding gives fingerprints that the table cannot tell apart: it drops one bit
// of the second half, and its product has its factors in either order.
func colliding(t rapid.TB, table *idTable, r *rand.Rand) []schemas.Fingerprint {
	t.Helper()
	a, b := r.Uint64()|1, r.Uint64()|1
	var list []schemas.Fingerprint
	for _, f := range [][2]uint64{{a, b}, {a, b ^ 1}, {b, a}, {b, a ^ 1}} {
		var fp schemas.Fingerprint
		binary.LittleEndian.PutUint64(fp[:8], f[0]^table.key[0])
		binary.LittleEndian.PutUint64(fp[8:], f[1]^table.key[1])
		list = append(list, fp)
	}
	sub, tag := table.place(&list[0])
	for i := range list[1:] {
		if s, g := table.place(&list[i+1]); s != sub || g != tag {
			t.Fatal("these fingerprints no longer collide: find others for this test")
		}
	}
	return list
}

func (t *idTable) all(fp *schemas.Fingerprint) (ordinals []uint64) {
	t.find(fp, func(o uint64) bool {
		ordinals = append(ordinals, o)
		return false
	})
	slices.Sort(ordinals)
	return ordinals
}

func TestIDTableGrows(t *testing.T) {
	table := idTable{key: [2]uint64{1, 2}}
	r := rand.New(rand.NewPCG(1, 1))
	fps := make([]schemas.Fingerprint, 120_000) // some thirty in each sub-table
	for i := range fps {
		fps[i] = randomFingerprint(r)
		table.add(&fps[i], uint64(i+1))
		if i%9973 == 0 {
			for j := range i + 1 {
				if !slices.Contains(table.all(&fps[j]), uint64(j+1)) {
					t.Fatalf("id %d is lost after %d", j, i)
				}
			}
		}
	}
	hits := 0
	for i := range fps {
		if !slices.Contains(table.all(&fps[i]), uint64(i+1)) {
			t.Fatalf("id %d is lost", i)
		}
		other := randomFingerprint(r)
		hits += len(table.all(&other))
	}
	if hits > 100 { // one in 2^36/120,000 is expected
		t.Errorf("%d of %d foreign ids seem to be there", hits, len(fps))
	}
	if table.used != len(fps) || table.bytes() > 27*len(fps) {
		t.Errorf("%d ids take %d bytes", table.used, table.bytes())
	}
	// Ordinals have 40 bits.
	fp := randomFingerprint(r)
	table.add(&fp, ordinalMask)
	if got := table.all(&fp); !slices.Equal(got, []uint64{ordinalMask}) {
		t.Errorf("%d", got)
	}
}

// The table is a map from place to ordinals, whatever is entered and moved.
func TestIDTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		table := &idTable{key: [2]uint64{r.Uint64(), r.Uint64()}}
		fps := append(colliding(t, table, r), colliding(t, table, r)...)
		want := map[int][]uint64{} // first of the collision → ordinals
		at := map[int]uint64{}     // fingerprint → ordinal
		next := uint64(1)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			i := rapid.IntRange(0, len(fps)-1).Draw(t, "fingerprint")
			group := i / 4
			if old, ok := at[i]; ok {
				table.move(&fps[i], old, next)
				want[group][slices.Index(want[group], old)] = next
			} else {
				table.add(&fps[i], next)
				want[group] = append(want[group], next)
			}
			at[i] = next
			next++
			for j := range fps {
				if got := table.all(&fps[j]); !slices.Equal(got, slices.Sorted(slices.Values(want[j/4]))) {
					t.Fatalf("%d: %d, want %d", j, got, want[j/4])
				}
			}
		}
	})
}

// A hit in the table is a hint; ids that it cannot tell apart stay apart.
func TestCollidingIDsStayApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	reopen := func() *Store { // with one key for ever, so that they collide again
		t.Helper()
		s := openAt(t, path, Options{})
		s.ids = idTable{key: [2]uint64{6, 7}}
		if err := s.db.View(s.loadIDs); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := reopen()
	fps := colliding(t, &s.ids, rand.New(rand.NewPCG(5, 5)))
	enter := func(s *Store, seq uint64, digest uint64) (got []Entry) {
		t.Helper()
		if err := s.Update(func(tx *Tx) error {
			tx.Begin(Message{Seq: seq, Commands: make([]schemas.CommandFrame, 1)})
			for i := range fps {
				e := schemas.UsageEvent{EventID: string(rune('a' + i)), AppID: "a", UserID: "u", Model: "m", Timestamp: testNow}
				entry, err := tx.RecordUsage(0, &e, &schemas.EventPrint{ID: fps[i], Digest: uint64(i) + digest})
				if err != nil {
					return err
				}
				got = append(got, entry)
			}
			b := &Batch{BatchID: "b", Made: true}
			if _, err := tx.PutBatch(0, b); err != nil {
				return err
			}
			return tx.End()
		}); err != nil {
			t.Fatal(err)
		}
		return got
	}
	all := func(e Entry) []Entry { return []Entry{e, e, e, e} }
	if got := enter(s, 1, 0); !slices.Equal(got, all(Entered)) {
		t.Errorf("first: %v", got)
	}
	for n := range uint64(2) {
		if got := enter(s, 2+2*n, 0); !slices.Equal(got, all(Duplicate)) {
			t.Errorf("again: %v", got)
		}
		if got := enter(s, 3+2*n, 100); !slices.Equal(got, all(Conflict)) {
			t.Errorf("with other content: %v", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = reopen()
	}
	closeStore(t, s)
}

// Ids of many messages, in chunks of one and of several keys, are found after
// opening, each at its own ordinal; a batch id at its newest.
func TestIDsAreFoundAfterOpening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	r := rand.New(rand.NewPCG(3, 3))
	var prints []schemas.EventPrint
	for seq, size := range []int{1, idChunkLength - 1, idChunkLength, idChunkLength + 1, 3, 2*idChunkLength + 5, 1} {
		m := message{seq: uint64(seq + 1), requests: []request{{batch: "same", made: false}}}
		for range size {
			e := randomEvent(r)
			m.requests[0].events = append(m.requests[0].events, e)
			prints = append(prints, printOf(&e))
		}
		apply(t, s, 1, m)
	}
	check := func(s *Store) {
		t.Helper()
		bolt, err := s.db.Begin(false)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = bolt.Rollback() }()
		last := uint64(0)
		for i := range prints {
			ordinal, e, err := s.lookup(bucketOf(bolt, bucketIDs), 0, &prints[i].ID)
			if err != nil || ordinal <= last || e.ref != prints[i].Digest || e.kind != schemas.IDEvent {
				t.Fatalf("id %d: ordinal %d behind %d, %+v, %v", i, ordinal, last, e, err)
			}
			last = ordinal
		}
		fp, _ := schemas.FingerprintOf(schemas.IDBatch, "", "same", nil)
		if _, e, err := s.lookup(bucketOf(bolt, bucketIDs), 0, &fp); err != nil || placeOf(e.ref) != (Place{Seq: 7}) {
			t.Fatalf("batch at %v, %v", placeOf(e.ref), err)
		}
		if len(s.ids.all(&fp)) != 1 {
			t.Fatalf("the batch id has ordinals %d", s.ids.all(&fp))
		}
		if _, err := readID(bucketOf(bolt, bucketIDs), s.next); err == nil {
			t.Fatal("there is an entry at the next ordinal")
		}
		if _, err := readID(bucketOf(bolt, bucketIDs), 0); err == nil {
			t.Fatal("there is an entry at ordinal 0")
		}
	}
	check(s)
	closeStore(t, s)
	s = openAt(t, path, Options{})
	defer closeStore(t, s)
	check(s)
	if st := s.Stats(); st.IDs != int64(len(prints)+1) {
		t.Errorf("%d ids, want %d", st.IDs, len(prints)+1)
	}
}

// A batch id that several commands of one transaction enter points to the newest,
// in the running transaction and afterwards.
func TestBatchIDTakenOverInOneTransaction(t *testing.T) {
	s := openNew(t, Options{})
	if err := s.Update(func(tx *Tx) error {
		for seq := uint64(1); seq <= 3; seq++ {
			tx.Begin(Message{Seq: seq, Commands: make([]schemas.CommandFrame, 2)})
			for i := range uint32(2) {
				if _, err := tx.PutBatch(i, &Batch{BatchID: "b", Parts: []Part{{AppID: "a", First: tx.Place(i)}}}); err != nil {
					return err
				}
				if _, p, err := tx.Batch("b"); err != nil || p != tx.Place(i) {
					t.Errorf("batch at %v, want %v: %v", p, tx.Place(i), err)
				}
			}
			if err := tx.End(); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	fp, _ := schemas.FingerprintOf(schemas.IDBatch, "", "b", nil)
	if got := s.ids.all(&fp); !slices.Equal(got, []uint64{6}) {
		t.Errorf("ordinals %d, want the sixth", got)
	}
}

// Stages are as large as their transaction.
func TestStageGrows(t *testing.T) {
	table := &idTable{}
	s := idStage{table: table}
	r := rand.New(rand.NewPCG(8, 8))
	for range 2 {
		fps := colliding(t, table, r)
		for range 3000 {
			fps = append(fps, randomFingerprint(r))
		}
		for i := range fps {
			s.add(stagedID{idEntry: idEntry{fp: fps[i]}, ordinal: uint64(i)})
		}
		for i := range fps { // half of them again
			if i%2 == 0 {
				s.add(stagedID{idEntry: idEntry{fp: fps[i]}, ordinal: uint64(i) + 10_000})
			}
		}
		for i := range fps {
			want := uint64(i)
			if i%2 == 0 {
				want += 10_000
			}
			if got := s.get(&fps[i]); got == nil || got.ordinal != want {
				t.Fatalf("id %d: %+v, want ordinal %d", i, got, want)
			}
		}
		none := randomFingerprint(r)
		if s.get(&none) != nil {
			t.Error("an id that nobody entered")
		}
		s.reset()
		if s.get(&fps[0]) != nil {
			t.Error("an id is left after reset")
		}
	}
}
