package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"grout/schemas"
)

const testHour = int64(time.Hour)

// ownMessage is a message of one command that only grout writes.
type ownMessage struct {
	seq    uint64
	at     int64
	tick   bool
	before int64 // of an expiry, when it is no tick
}

func (o ownMessage) put(tx *Tx) error {
	f := schemas.CommandFrame{Kind: "own", ID: fmt.Sprint(o.seq), Source: "//test", Accepted: o.at}
	tx.Begin(Message{Seq: o.seq, StoredAt: o.at, StreamCreated: 1, Commands: []schemas.CommandFrame{f}})
	tx.Command(&f)
	if o.tick {
		tx.Tick(Clock{LastTick: o.at, Counted: o.at})
	} else if _, err := tx.Expire(o.before); err != nil {
		return err
	}
	return tx.End()
}

type putter interface{ put(*Tx) error }

// applyEach applies messages of all kinds, up to per in a transaction.
func applyEach(t rapid.TB, s *Store, per int, list ...putter) {
	t.Helper()
	for len(list) > 0 {
		n := 0
		if err := s.Update(func(tx *Tx) error {
			for n < min(per, len(list)) && !tx.Sealed() {
				if err := list[n].put(tx); err != nil {
					return err
				}
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		list = list[n:]
	}
}

// published lets the relays have published everything.
func published(t testing.TB, s *Store) {
	t.Helper()
	for _, dest := range destinations {
		if err := s.MarkRelayed(dest, schemas.RelayState{After: schemas.Position{Epoch: s.Epoch(), Seq: s.Checkpoint().Seq, Index: 1 << 20}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Settle(); err != nil {
		t.Fatal(err)
	}
}

// sound reads the whole file and compares rows with sums.
func sound(t testing.TB, path string) {
	t.Helper()
	if c, err := Check(t.Context(), path); err != nil || c.Damaged > 0 {
		t.Fatalf("%v, %+v", err, c.Damage)
	}
}

func rowsOf(s *Store, ids ...bucketID) (n uint64) {
	for _, id := range ids {
		n += s.sums[id].Rows
	}
	return n
}

// days makes one message of events for each day between ticks, which cut them apart.
// Message d has the sequence 3d+2; the ticks behind it fold.
func days(n, events int, batch func(day int) string) (list []putter) {
	seq := uint64(0)
	for d := range n {
		at := testNow + int64(d)*24*testHour
		seq++
		list = append(list, ownMessage{seq: seq, at: at, tick: true})
		m := message{seq: seq + 1, requests: []request{{batch: batch(d)}}}
		for i := range events {
			m.requests[0].events = append(m.requests[0].events, plainEvent("a", fmt.Sprintf("e-%d-%d", d, i), 1))
		}
		list = append(list, &m, ownMessage{seq: seq + 2, at: at + testHour, tick: true})
		seq += 2
	}
	return list
}

func newBatch(day int) string { return fmt.Sprint("b-", day) }

// Once the line has moved nothing below it is found, whatever is left of its rows; they
// go in slices, and the sums fit.
func TestSegmentExpires(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	applyEach(t, s, 1, days(5, 3, newBatch)...)
	before := usage(t, s)
	if s.segments.Newest.First != 14 || s.fold.Folded < 12 {
		t.Fatalf("%+v, folded up to %d", s.segments, s.fold.Folded)
	}
	if _, ok, err := s.Expirable(); ok || err != nil {
		t.Fatalf("young segments may expire: %v", err)
	}
	until := func(day int) int64 { return testNow + int64(day)*24*testHour }
	applyEach(t, s, 1, ownMessage{seq: 16, at: until(4 + 35), tick: true}, ownMessage{seq: 17, at: until(4 + 35), tick: true})
	if at, ok, err := s.Expirable(); !ok || err != nil || at != until(0) { // nothing came before the first tick
		t.Errorf("what waits to be published may expire: what ended at %d, %v", at, err)
	}
	published(t, s)
	if at, ok, err := s.Expirable(); !ok || err != nil || at != until(3) { // the next one ended at the very limit
		t.Errorf("what ended at %d may expire, %v %v", at, ok, err)
	}
	applyEach(t, s, 1, ownMessage{seq: 18, at: until(39), before: until(2)})
	if s.segments.Line != (line{Position: 8, Ordinal: 9, Until: until(2)}) {
		t.Errorf("%+v", s.segments.Line)
	}
	look := func(what string) {
		t.Helper()
		page, err := s.Events(t.Context(), schemas.EventQuery{AppID: "a", Limit: 100, From: schemas.FirstInstant, To: schemas.LastInstant})
		if err != nil || len(page.Events) != 9 || page.More || page.Events[8].EventID != "e-2-0" {
			t.Errorf("%s: %d events, more %v, %v", what, len(page.Events), page.More, err)
		}
		for day := range 5 {
			_, known, err := s.BatchOfApp(t.Context(), "a", newBatch(day))
			if err != nil || known != (day >= 2) {
				t.Errorf("%s: batch of day %d is known: %v, %v", what, day, known, err)
			}
			st, found, err := s.BatchAt(uint64(3*day+2), 0)
			if err != nil || found != (day >= 2) || found && st.Outcome.Accepted != 3 {
				t.Errorf("%s: command of day %d is known: %v %+v %v", what, day, found, st, err)
			}
			if err := s.Update(func(tx *Tx) error {
				rec, err := tx.Event("a", fmt.Sprintf("e-%d-1", day))
				if err == nil && (rec != nil) != (day >= 2) {
					t.Errorf("%s: event of day %d is known: %v", what, day, rec != nil)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		}
		sameReports(t, before, usage(t, s))
	}
	look("expired")
	// Everything of two days, and the segments they were: 2 + 2 + 2 + 1 rows.
	if n := rowsOf(s, expiring[:]...); s.segments.Dead || n != 3*3+4 {
		t.Errorf("%d rows are left, %+v", n, s.segments)
	}
	s.ids.clean(idSubTables)
	if s.noteIDs(); s.Stats().IDs != 3*4 {
		t.Errorf("%d ids", s.Stats().IDs)
	}
	closeStore(t, s)
	sound(t, path)
	s = openAt(t, path, Options{})
	defer closeStore(t, s)
	look("opened again")
	if s.Stats().IDs != 3*4 {
		t.Errorf("%d ids", s.Stats().IDs)
	}
	// What has expired may come again: it is new.
	m := plainMessage(19, plainEvent("a", "e-0-0", 1), plainEvent("a", "e-2-0", 1))
	apply(t, s, 1, m)
	if st, _, err := s.BatchAt(19, 0); err != nil || st.Outcome.Accepted != 1 || st.Outcome.Duplicates != 1 {
		t.Errorf("%+v %v", st.Outcome, err)
	}
}

// The rows of a large segment go a bounded number with each message, more with a
// tick and with a message that writes much; restarts on the way leave no trace.
func TestPurgeGoesInSlices(t *testing.T) {
	var list []putter
	list = append(list, ownMessage{seq: 1, at: testNow, tick: true})
	seq := uint64(2)
	for ; seq <= 900; seq++ {
		m := plainMessage(seq, plainEvent("a", fmt.Sprint("e-", seq), 1))
		list = append(list, &m)
	}
	for n := range int64(3) {
		list = append(list, ownMessage{seq: seq, at: testNow + (24+n)*testHour, tick: true})
		seq++
	}
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	applyEach(t, s, 64, list...)
	published(t, s)
	rest := []putter{ownMessage{seq: seq, at: testNow + 25*testHour, before: testNow + 24*testHour}}
	var slices []uint64
	for n := range uint64(60) {
		m := plainMessage(seq+1+n, plainEvent("a", fmt.Sprint("late-", n), 1))
		rest = append(rest, &m)
	}
	plain := openAt(t, filepath.Join(t.TempDir(), "plain.db"), Options{})
	applyEach(t, plain, 7, list...)
	published(t, plain)
	applyEach(t, plain, 7, rest...)
	for i, m := range rest {
		before := rowsOf(s, expiring[:]...)
		applyEach(t, s, 1, m)
		written := uint64(3)
		if i == 0 {
			written = 0
		}
		slices = append(slices, before+written-rowsOf(s, expiring[:]...))
		if i%9 == 4 {
			closeStore(t, s)
			sound(t, path)
			s = openAt(t, path, Options{})
		}
	}
	sameDump(t, dump(t, plain), dump(t, s)) // but for the outbox
	for i, n := range slices[:len(slices)-20] {
		if n != purgeRowsAtLeast {
			t.Errorf("message %d removed %d rows: %v", i, n, slices)
			break
		}
	}
	if s.segments.Dead || slices[len(slices)-1] != 0 {
		t.Errorf("the last messages removed %v, %+v", slices[len(slices)-20:], s.segments)
	}
	closeStore(t, s)
	closeStore(t, plain)
}

func TestPurgeBudget(t *testing.T) {
	s := openNew(t, Options{})
	big := message{seq: 2, requests: []request{{batch: "b"}}}
	for i := range 60_000 {
		big.requests[0].events = append(big.requests[0].events, plainEvent("a", fmt.Sprint("event-of-some-length-", i), 1))
	}
	applyEach(t, s, 1, ownMessage{seq: 1, at: testNow, tick: true}, &big)
	for n := range int64(9) {
		applyEach(t, s, 1, ownMessage{seq: uint64(3 + n), at: testNow + (24+n)*testHour, tick: true})
	}
	published(t, s)
	rows := rowsOf(s, expiring[:]...)
	applyEach(t, s, 1, ownMessage{seq: 12, at: testNow + 33*testHour, before: testNow + 24*testHour})
	if n := rows - rowsOf(s, expiring[:]...); n == 0 || n >= purgeRowsAtLeast || !s.segments.Dead {
		t.Errorf("%d of %d rows went: more bytes than a message may remove", n, rows)
	}
	applyEach(t, s, 1, ownMessage{seq: 13, at: testNow + 33*testHour, tick: true})
	if s.segments.Dead {
		t.Errorf("a tick did not remove the rest: %d rows", rowsOf(s, expiring[:]...))
	}
}

// What a batch id stood for in an app is forgotten with the command that it came
// with, though the id is known in others, and counts outlive their errors.
func TestExpiredPartsAreForgotten(t *testing.T) {
	s := openNew(t, Options{})
	applyEach(t, s, 1, ownMessage{seq: 1, at: testNow, tick: true})
	record := func(seq uint64, parts ...Part) {
		t.Helper()
		if err := s.Update(func(tx *Tx) error {
			tx.Begin(Message{Seq: seq, Commands: make([]schemas.CommandFrame, 1)})
			b := &Batch{BatchID: "b", Parts: parts, Errors: []schemas.EventError{{AppID: "a", Code: schemas.CodeTooDeep}}}
			if _, err := tx.PutBatch(0, b); err != nil {
				return err
			}
			return tx.End()
		}); err != nil {
			t.Fatal(err)
		}
	}
	record(2, Part{AppID: "a", Accepted: 7, Rejected: 1, First: Place{2, 0}})
	applyEach(t, s, 1, ownMessage{seq: 3, at: testNow + 24*testHour, tick: true})
	record(4, Part{AppID: "c", Accepted: 1, First: Place{4, 0}}, Part{AppID: "a", Outcome: PartReplayed, Accepted: 7, Rejected: 1, First: Place{2, 0}})
	ask := func(errors int, known bool) {
		t.Helper()
		st, found, err := s.BatchAt(4, 0)
		if err != nil || !found || st.Outcome.Accepted != 8 || st.Outcome.Rejected != 1 || len(st.Outcome.Errors) != errors {
			t.Errorf("%+v %v %v", st.Outcome, found, err)
		}
		for app, want := range map[string]bool{"a": known, "c": true} {
			if _, found, err := s.BatchOfApp(t.Context(), app, "b"); err != nil || found != want {
				t.Errorf("app %s: %v %v", app, found, err)
			}
			if err := s.Update(func(tx *Tx) error {
				b, _, err := tx.Batch("b")
				if err == nil && (b.Known(app) != nil) != want {
					t.Errorf("app %s: %+v", app, b)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
		}
	}
	ask(1, true)
	applyEach(t, s, 1, ownMessage{seq: 5, at: testNow + 25*testHour, before: testNow + 24*testHour})
	ask(0, false)
	if _, found, err := s.BatchAt(2, 0); found || err != nil {
		t.Errorf("the first command is known, %v", err)
	}
}

// Where little happens ticks fold what is older than the newest segment, and nothing
// that is not folded expires.
func TestTicksFold(t *testing.T) {
	s := openNew(t, Options{})
	events := plainMessage(2, plainEvent("a", "e", 5))
	applyEach(t, s, 1, ownMessage{seq: 1, at: testNow, tick: true}, &events)
	if s.fold.Live != 1 || s.fold.Folded != 1 {
		t.Fatalf("%+v", s.fold)
	}
	before := usage(t, s)
	applyEach(t, s, 1, ownMessage{seq: 3, at: testNow + 24*testHour, tick: true})
	if s.fold.To != 3 || s.fold.Live != 0 {
		t.Fatalf("a new segment froze nothing: %+v", s.fold)
	}
	applyEach(t, s, 1, ownMessage{seq: 4, at: testNow + 24*testHour, before: testNow + 24*testHour})
	if s.segments.Line.Position != 2 { // nothing came before the first tick
		t.Errorf("expired before it was folded: %+v", s.segments)
	}
	applyEach(t, s, 1, ownMessage{seq: 5, at: testNow + 25*testHour, tick: true})
	if s.fold.To != 0 || s.fold.Folded != 3 {
		t.Errorf("%+v", s.fold)
	}
	applyEach(t, s, 1, ownMessage{seq: 6, at: testNow + 26*testHour, tick: true})
	if s.fold.Folded != 6 {
		t.Errorf("nothing is live, and %+v", s.fold)
	}
	applyEach(t, s, 1, ownMessage{seq: 7, at: testNow + 26*testHour, before: testNow + 24*testHour})
	if s.segments.Line.Position != 4 {
		t.Errorf("%+v", s.segments)
	}
	sameReports(t, before, usage(t, s))
}

// A fact of what has expired is not rendered again: it was published before.
func TestExpiredFactsAreNotRendered(t *testing.T) {
	s := openNew(t, Options{})
	applyEach(t, s, 1, days(2, 2, newBatch)...)
	all := facts(t, s)
	applyEach(t, s, 1, ownMessage{seq: 7, at: testNow + 26*testHour, before: testNow + 24*testHour})
	rest := facts(t, s)
	if len(all) != 2 || len(rest) != 1 || !bytes.Equal(rest[0].Data, all[1].Data) {
		t.Errorf("%d facts, then %d", len(all), len(rest))
	}
}

// A reader between the commit of an expiry and its merge finds what is kept.
func TestReadersBesideAnExpiry(t *testing.T) {
	var s *Store
	looked := 0
	on := false
	s = openNew(t, Options{Fault: func(point string) {
		if !on || point != "tx.committed" {
			return
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			looked++
			for day := range 3 {
				_, known, err := s.BatchOfApp(t.Context(), "a", newBatch(day))
				if err != nil || known != (day == 2) {
					t.Errorf("batch of day %d: %v %v", day, known, err)
				}
			}
			page, err := s.Events(t.Context(), schemas.EventQuery{AppID: "a", Limit: 10, From: schemas.FirstInstant, To: schemas.LastInstant})
			if err != nil || len(page.Events) != 2 {
				t.Errorf("%d events, %v", len(page.Events), err)
			}
		}()
		<-done
	}})
	applyEach(t, s, 1, days(3, 2, newBatch)...)
	on = true
	applyEach(t, s, 1, ownMessage{seq: 10, at: testNow + 50*testHour, before: testNow + 48*testHour})
	if looked != 1 {
		t.Error("nobody looked")
	}
}

// Ticks and expiries between random messages: sizes of transactions and restarts
// leave no trace, and the file is sound.
func TestSegmentsReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := rapidDir(t)
		history := randomHistory(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 25).Draw(t, "messages"))
		var list []putter
		at := testNow
		for i := range history {
			for rapid.IntRange(0, 2).Draw(t, "own") > 0 {
				at += rapid.Int64Range(0, 30).Draw(t, "hours") * testHour
				o := ownMessage{seq: uint64(len(list) + 1), at: at, tick: rapid.IntRange(0, 3).Draw(t, "tick") > 0, before: at - rapid.Int64Range(0, 80).Draw(t, "ago")*testHour}
				list = append(list, o)
			}
			m := history[i]
			m.seq = uint64(len(list) + 1)
			list = append(list, &m)
		}
		foldEvery := rapid.SampledFrom([]int{20, 1000}).Draw(t, "fold every")
		plain := openAt(t, filepath.Join(dir, "plain.db"), Options{FoldEvery: foldEvery})
		defer closeStore(t, plain)
		applyEach(t, plain, 1, list...)
		path := filepath.Join(dir, "s.db")
		for rest := list; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "until the restart")
			s := openAt(t, path, Options{FoldEvery: foldEvery})
			applyEach(t, s, rapid.IntRange(1, 9).Draw(t, "per transaction"), rest[:n]...)
			closeStore(t, s)
			rest = rest[n:]
		}
		s := openAt(t, path, Options{FoldEvery: foldEvery})
		defer closeStore(t, s)
		sameDump(t, dump(t, plain), dump(t, s))
		for i, r := range []*Store{plain, s} {
			live := 0
			for k := range r.ids.subs {
				for _, slot := range r.ids.subs[k].slots {
					if slot != 0 && slot&ordinalMask >= r.segments.Line.Ordinal {
						live++
					}
				}
			}
			want := liveIDs(t, r)
			if live != want {
				t.Errorf("store %d: %d live slots, %d ids", i, live, want)
			}
		}
	})
}

// liveIDs counts the identities above the line, by the plainest means.
func liveIDs(t rapid.TB, s *Store) int {
	t.Helper()
	seen := map[schemas.Fingerprint]bool{}
	bolt, err := s.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bolt.Rollback() }()
	c := bucketOf(bolt, bucketIDs).cursor()
	for k, v := c.seek(keyOrdinal(s.segments.Line.Ordinal)); k != nil; k, v = c.next() {
		chunk, err := parseIDChunk(v)
		if err != nil {
			t.Fatal(err)
		}
		for i := range chunk.len() {
			seen[chunk.at(i).fp] = true
		}
	}
	return len(seen)
}

// Slots of what has expired are used again, and sub-tables shrink when they are
// cleaned; what is kept stays to be found.
func TestIDTableForgets(t *testing.T) {
	table := &idTable{key: [2]uint64{3, 4}}
	r := rand.New(rand.NewPCG(5, 6))
	var fps []schemas.Fingerprint
	most := 0
	for day := range 60 {
		for range 20_000 {
			fps = append(fps, randomFingerprint(r))
			table.enter(&fps[len(fps)-1], 0, uint64(len(fps)))
			if len(fps)%50 == 0 {
				table.clean(cleanedWithTransaction)
			}
		}
		most = max(most, table.bytes())
		if day >= 10 {
			table.expire(uint64(20_000*(day-9)) + 1)
		}
	}
	if table.bytes() > most || most > 27*12*20_000 {
		t.Errorf("%d bytes at most, %d at the end", most, table.bytes())
	}
	for i := range fps {
		if got := slices.Contains(table.all(&fps[i]), uint64(i+1)); got != (uint64(i+1) >= table.line) {
			t.Fatalf("id %d is known: %v; the line is at %d", i+1, got, table.line)
		}
	}
	table.expire(uint64(len(fps)))
	table.clean(idSubTables)
	if table.used != 1 || table.bytes() > 8*idFirstLength*idSubTables {
		t.Errorf("%d ids in %d bytes", table.used, table.bytes())
	}
}

// The records of time and segments come back as they were written.
func TestSegmentRecords(t *testing.T) {
	clock := Clock{LastTick: testNow, Counted: testNow - 1, Wait: 24, Steps: 300, StepAt: testNow, StepBy: -40 * 24 * testHour, Peak: 1 << 62}
	if got, err := parseClock(clock.append(nil)); err != nil || got != clock {
		t.Errorf("%+v %v", got, err)
	}
	g := segments{Newest: segment{First: 1 << 45, Ordinal: 1 << 39, Start: testNow, Until: testNow + 1}, Line: line{Position: 9, Ordinal: 8, Until: 7}, Dead: true}
	if got, err := parseSegments(g.append(nil)); err != nil || got != g {
		t.Errorf("%+v %v", got, err)
	}
	for n, v := range [][]byte{clock.append(nil), g.append(nil)} {
		for end := 1; end < len(v); end++ {
			_, err := parseClock(v[:end:end])
			if n == 1 {
				_, err = parseSegments(v[:end:end])
			}
			if err == nil {
				t.Errorf("%d of %d bytes are a record", end, len(v))
			}
		}
	}
}

// A row of the outbox that cannot be read is not taken for none.
func TestDamagedOutboxKeepsSegments(t *testing.T) {
	s := openNew(t, Options{FoldEvery: 4})
	applyEach(t, s, 1, days(40, 2, newBatch)...)
	if before, ok, err := s.Expirable(); err != nil || !ok || before != testNow {
		t.Fatalf("facts of the first day wait, and %d may expire: %v %v", before, ok, err)
	}
	tamper(t, s, func(tx *Tx) error {
		b := tx.bucket(bucketFacts)
		k, v := b.Cursor().First()
		broken := bytes.Clone(v)
		broken[len(broken)/2] ^= 1
		return b.Put(bytes.Clone(k), broken)
	})
	if before, ok, err := s.Expirable(); ok || !errors.Is(err, errDamaged) {
		t.Errorf("they are damaged, and %d may expire: %v %v", before, ok, err)
	}
}
