package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"grout/schemas"
)

// outboxHistory has rows of every kind: messages with several parts of several
// apps, with one command and with many, refused events, dead letters, nothing.
func outboxHistory() []message {
	r := rand.New(rand.NewPCG(9, 9))
	events := func(app string, n int) (list []schemas.UsageEvent) {
		for i := range n {
			e := randomEvent(r)
			e.AppID, e.Index = app, uint32(i)
			list = append(list, e)
		}
		return list
	}
	refused := func(app string) []schemas.EventError {
		return []schemas.EventError{{Index: 0, AppID: app, Code: schemas.CodeTooDeep, Detail: "d"}}
	}
	interleaved := events("a", 520)
	for i, e := range events("b", 520) {
		interleaved = append(interleaved[:2*i+1], append([]schemas.UsageEvent{e}, interleaved[2*i+1:]...)...)
	}
	return []message{
		{seq: 1, requests: []request{{batch: "b1", events: events("a", 3)}}},
		{seq: 2, requests: []request{
			{batch: "b2", events: append(events("a", 1201), events("b", 500)...), refused: refused("c")},
			{batch: "b3", made: true, events: events("b", 501), refused: refused("a")},
			{batch: "b2", events: events("c", 2)},
		}},
		{seq: 3},
		{seq: 4, requests: []request{{batch: "b4", refused: append(refused("a"), refused("b")...)}}, letters: []schemas.DeadLetter{testLetter(4), testLetter(40)}},
		{seq: 6, requests: []request{{batch: "b5", events: interleaved}}},
		{seq: 7, letters: []schemas.DeadLetter{testLetter(7)}},
		{seq: 8, requests: []request{{batch: "b6", events: events("ä", 1)}}},
	}
}

func rows(t *testing.T, s *Store, dest string) (keys []schemas.Position) {
	t.Helper()
	if err := s.db.View(func(bolt *bbolt.Tx) error {
		return bucketOf(bolt, outboxBucket(dest)).ForEach(func(k, _ []byte) error {
			p, err := schemas.ParsePosition(k)
			keys = append(keys, p)
			return err
		})
	}); err != nil {
		t.Fatal(err)
	}
	return keys
}

func outboxOf(t *testing.T, s *Store, dest string, after schemas.Position, messages, size int) []schemas.FactMessage {
	t.Helper()
	list, err := s.Facts(dest, after, messages, size)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const everything = 1 << 40

func TestFactsOfAMessage(t *testing.T) {
	s := openNew(t, Options{})
	history := outboxHistory()
	apply(t, s, 1, history...)
	type fact struct {
		Position, Subject, Cause string
		Correlation              any
		Part, Parts, Events      int
		Batches                  []string
	}
	var got []fact
	for _, m := range outboxOf(t, s, schemas.DestFacts, schemas.Position{Epoch: 1, Seq: 1, Index: 1}, everything, everything) {
		if m.At.Seq != 2 {
			break
		}
		e, d := parseFact(t, m), recordedData(t, m)
		got = append(got, fact{m.At.String(), m.Subject, e.Extensions()["causationid"].(string), e.Extensions()["correlationid"], d.Part, d.Parts, len(d.Events), d.BatchIDs})
	}
	recorded, rejected := ".usage.recorded", ".usage.rejected"
	a, b, c := "mozaiks.v1.evt.a", "mozaiks.v1.evt.b", "mozaiks.v1.evt.c"
	want := []fact{
		{"1/2/3/0", a + recorded, "c-2-0", "corr-2-0", 1, 3, 500, []string{"b2"}},
		{"1/2/3/1", a + recorded, "c-2-0", "corr-2-0", 2, 3, 500, []string{"b2"}},
		{"1/2/3/2", a + recorded, "c-2-0", "corr-2-0", 3, 3, 201, []string{"b2"}},
		{"1/2/3/3", b + recorded, "g-2", nil, 1, 3, 500, []string{"b2"}},
		{"1/2/3/4", b + recorded, "g-2", nil, 2, 3, 500, []string{"b3"}},
		{"1/2/3/5", b + recorded, "g-2", nil, 3, 3, 1, []string{"b3"}},
		{"1/2/3/6", c + recorded, "c-2-2", "corr-2-2", 1, 1, 2, []string{"b2"}},
		{"1/2/3/7", a + rejected, "c-2-1", "corr-2-1", 0, 0, 0, nil},
		{"1/2/3/8", c + rejected, "c-2-0", "corr-2-0", 0, 0, 0, nil},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func sameMessages(a, b []schemas.FactMessage) bool {
	return slices.EqualFunc(a, b, func(x, y schemas.FactMessage) bool { return reflect.DeepEqual(x, y) })
}

// The facts are the same ones wherever a reader begins and however little it takes.
func TestFactsContinueAnywhere(t *testing.T) {
	s := openNew(t, Options{})
	apply(t, s, 1, outboxHistory()...)
	for _, dest := range destinations {
		all := outboxOf(t, s, dest, schemas.Position{}, everything, everything)
		if dest == schemas.DestFacts && len(all) != 1+9+2+4+1 || dest == schemas.DestDeadLetters && len(all) != 3 {
			t.Fatalf("%s: %d messages", dest, len(all))
		}
		for i := range all {
			if i > 0 && all[i-1].At.Compare(all[i].At) >= 0 {
				t.Fatalf("%v follows %v", all[i].At, all[i-1].At)
			}
			if got := outboxOf(t, s, dest, all[i].At, everything, everything); !sameMessages(all[i+1:], got) {
				t.Fatalf("after %v: not what followed it before", all[i].At)
			}
			// A position at which there is no fact.
			before := all[i].At
			switch {
			case before.N > 0:
				before.N--
			case before.Index > 0:
				before.Index, before.N = before.Index-1, 1<<32-1
			default:
				before.Seq, before.Index, before.N = before.Seq-1, 1<<32-1, 1<<32-1
			}
			if got := outboxOf(t, s, dest, before, 1, 1); len(got) != 1 || got[0].At != all[i].At {
				t.Fatalf("after %v: %d messages", before, len(got))
			}
		}
		for _, limit := range []struct{ messages, size int }{{1, everything}, {2, everything}, {3, everything}, {everything, 1}, {everything, 100_000}, {0, 0}} {
			var got []schemas.FactMessage
			for after := (schemas.Position{}); ; after = got[len(got)-1].At {
				list := outboxOf(t, s, dest, after, limit.messages, limit.size)
				if len(list) == 0 {
					break
				}
				size := 0
				for _, m := range list[:len(list)-1] {
					size += len(m.Data) + len(m.Subject)
				}
				if len(list) > max(1, limit.messages) || size >= max(1, limit.size) {
					t.Fatalf("limits %v: %d messages, %d bytes but for the last", limit, len(list), size)
				}
				got = append(got, list...)
			}
			if !sameMessages(all, got) {
				t.Fatalf("limits %v: not what came without limits", limit)
			}
		}
	}
}

// Rows go when all of their facts are published, and not before.
func TestPublishedRowsGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	defer func() { closeStore(t, s) }()
	apply(t, s, 1, outboxHistory()...)
	for _, dest := range destinations {
		all := outboxOf(t, s, dest, schemas.Position{}, everything, everything)
		keys := rows(t, s, dest)
		for i, m := range all {
			st := schemas.RelayState{After: m.At, MarkerSeq: uint64(i + 1)}
			if err := s.MarkRelayed(dest, st); err != nil {
				t.Fatal(err)
			}
			if !s.Unsettled() {
				t.Fatal("nothing to settle after a position was marked")
			}
			if got := rows(t, s, dest); len(got) != len(keys) {
				t.Fatal("rows went before the position was durable")
			}
			if err := s.Settle(); err != nil {
				t.Fatal(err)
			}
			if s.Unsettled() {
				t.Fatal("something to settle after settling")
			}
			for len(keys) > 0 && (i+1 == len(all) || len(keys) > 1 && keys[1].Compare(all[i+1].At) <= 0) {
				keys = keys[1:]
			}
			if got := rows(t, s, dest); !slices.Equal(got, keys) {
				t.Fatalf("after %v: rows %v, want %v", m.At, got, keys)
			}
			if i%5 == 0 {
				closeStore(t, s)
				s = openAt(t, path, Options{})
			}
			if got, err := s.Relayed(dest); err != nil || got != st {
				t.Fatalf("relayed %v, want %v: %v", got, st, err)
			}
			if rest := outboxOf(t, s, dest, m.At, everything, everything); len(rest) != len(all)-i-1 {
				t.Fatalf("%d messages after %v, want %d", len(rest), m.At, len(all)-i-1)
			}
			stats := s.Stats()
			if n := map[string]int64{schemas.DestFacts: stats.FactRows, schemas.DestDeadLetters: stats.DeadLetterRows}[dest]; n != int64(len(keys)) {
				t.Fatalf("%d rows in the statistics, want %d", n, len(keys))
			}
		}
	}
}

// A newer mark, made while an older one was being written down, stays to be settled.
func TestMarkDuringSettle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	marks := []schemas.RelayState{{After: schemas.Position{Seq: 1}, MarkerSeq: 1}, {After: schemas.Position{Seq: 2}, MarkerSeq: 2}}
	var s *Store
	at := ""
	s = openAt(t, path, Options{Fault: func(point string) {
		if point == at {
			at = ""
			if err := s.MarkRelayed(schemas.DestFacts, marks[1]); err != nil {
				t.Error(err)
			}
		}
	}})
	for _, point := range []string{"tx.inside", "tx.committed"} {
		if err := s.MarkRelayed(schemas.DestFacts, marks[0]); err != nil {
			t.Fatal(err)
		}
		at = point
		if err := s.Settle(); err != nil {
			t.Fatal(err)
		}
		if !s.Unsettled() {
			t.Errorf("%s: the newer mark counts as settled", point)
		}
		if err := s.Settle(); err != nil {
			t.Fatal(err)
		}
	}
	// A mark that no transaction wrote down is gone with the process.
	if err := s.MarkRelayed(schemas.DestFacts, schemas.RelayState{MarkerSeq: 9}); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	s = openAt(t, path, Options{})
	defer closeStore(t, s)
	if st, err := s.Relayed(schemas.DestFacts); err != nil || st != marks[1] {
		t.Errorf("%v %v, want %v", st, err, marks[1])
	}
}

func TestWakeAfterNewRows(t *testing.T) {
	s := openNew(t, Options{})
	signalled := func(dest string) bool {
		select {
		case <-s.Wake(dest):
			return true
		default:
			return false
		}
	}
	history := outboxHistory()
	for i, want := range [][2]bool{{true, false}, {true, false}, {false, false}, {true, true}, {true, false}, {false, true}} {
		apply(t, s, 1, history[i])
		if got := [2]bool{signalled(schemas.DestFacts), signalled(schemas.DestDeadLetters)}; got != want {
			t.Errorf("message %d: %v, want %v", history[i].seq, got, want)
		}
	}
}

// Each app's facts are numbered from 1 without a gap, and ids are unique, over
// many messages and restarts.
func TestSequencesHaveNoGaps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	history := randomHistory(21, 120)
	for rest := history; len(rest) > 0; {
		n := min(len(rest), 17)
		s := openAt(t, path, Options{FoldEvery: 100})
		apply(t, s, 1+n%4, rest[:n]...)
		closeStore(t, s)
		rest = rest[n:]
	}
	s := openAt(t, path, Options{})
	defer closeStore(t, s)
	next := map[string]int{}
	ids := map[string]bool{}
	events := map[string]bool{}
	for _, m := range facts(t, s) {
		e := parseFact(t, m)
		app := e.Extensions()["partitionkey"].(string)
		next[app]++
		if n, err := strconv.Atoi(e.Extensions()["sequence"].(string)); err != nil || n != next[app] {
			t.Fatalf("%v: sequence %d of app %s, want %d: %v", m.At, n, app, next[app], err)
		}
		if key := e.Source() + " " + e.ID(); ids[key] {
			t.Fatalf("%v: id %s twice", m.At, key)
		} else {
			ids[key] = true
		}
		d := recordedData(t, m)
		if len(d.Events) > schemas.MaxEventsPerPart || d.Part > d.Parts {
			t.Fatalf("%v: part %d of %d with %d events", m.At, d.Part, d.Parts, len(d.Events))
		}
		for _, r := range d.Events {
			if r.AppID != app || events[app+"\x00"+r.EventID] {
				t.Fatalf("%v: event %s of app %s in the facts of %s, or twice", m.At, r.EventID, r.AppID, app)
			}
			events[app+"\x00"+r.EventID] = true
		}
	}
	var want oracle
	for i := range history {
		want.apply(&history[i])
	}
	if len(events) != len(want.events) || len(next) != 3 {
		t.Errorf("%d events of %d apps in facts, want %d of 3", len(events), len(next), len(want.events))
	}
}

// A row names ranges of the event log; the log and the batch are needed to render it.
func TestDamagedOutboxIsAnError(t *testing.T) {
	for name, damage := range map[string]func(*Tx) error{
		"event log gone": func(tx *Tx) error { return erase(tx, bucketEvents, keyChunk(2, 0)) },
		"batch gone":     func(tx *Tx) error { return erase(tx, bucketBatches, keyCommand(2, 0)) },
		"empty row": func(tx *Tx) error {
			return tx.put(bucketFacts, schemas.Position{Epoch: 1, Seq: 2, Index: 3}.Append(nil), nil)
		},
		"row of another form": func(tx *Tx) error {
			return tx.put(bucketFacts, schemas.Position{Epoch: 1, Seq: 2, Index: 3}.Append(nil), []byte{9, 0})
		},
		"cause beyond the list": func(tx *Tx) error {
			row := usageRow{causes: make([]factCause, 1), apps: []usageRange{{app: "a", events: 1, cause: 1}}}
			return tx.put(bucketFacts, schemas.Position{Epoch: 1, Seq: 2, Index: 3}.Append(nil), row.append(nil))
		},
	} {
		s := openNew(t, Options{})
		apply(t, s, 1, outboxHistory()...)
		tamper(t, s, damage)
		if _, err := s.Facts(schemas.DestFacts, schemas.Position{}, everything, everything); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestUsageRowRoundTrip(t *testing.T) {
	want := usageRow{
		time: -testNow, causes: []factCause{{schemas.Cause{ID: "i", Source: "s"}, "c", "t"}, {}},
		apps: []usageRange{{"a", 1, 1 << 60, 1}, {"b\x00", 501, 2, 0}},
	}
	v := want.append(nil)
	got, err := parseUsageRow(v)
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	if n, err := rowFacts(v); n != 3 || err != nil {
		t.Errorf("%d facts, %v", n, err)
	}
	for n := range v {
		if _, err := parseUsageRow(v[:n:n]); err == nil {
			t.Errorf("%d of %d bytes are a row", n, len(v))
		}
	}
	if !bytes.Equal(appendLiteral("s", []byte("d")), []byte("\x01\x01sd")) {
		t.Error("the form of literal rows must never change")
	}
}

// BenchmarkSettle deletes many published rows at once, as after a replay behind the
// marker of a relay. What a row costs does not depend on how many they are.
func BenchmarkSettle(b *testing.B) {
	for _, rows := range []int{5_000, 40_000} {
		b.Run(strconv.Itoa(rows), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := openAt(b, filepath.Join(b.TempDir(), "s.db"), Options{})
				if err := s.Update(func(tx *Tx) error {
					tx.Begin(Message{Seq: 1, StreamCreated: 1, Commands: make([]schemas.CommandFrame, 1)})
					for range rows {
						tx.Emit(0, schemas.UsageVoided.Name, "a", "event/e", func(data []byte) []byte { return append(data, "{}"...) })
					}
					return tx.End()
				}); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				published(b, s)
				b.StopTimer()
				if left := s.Stats().FactRows; left != 0 {
					b.Fatalf("%d rows are left", left)
				}
				closeStore(b, s)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
		})
	}
}
