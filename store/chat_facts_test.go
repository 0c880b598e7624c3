package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

func TestDeltaRowRoundTrip(t *testing.T) {
	want := deltaRow{
		time: -testNow, causes: []factCause{{schemas.Cause{ID: "i", Source: "s"}, "c", "t"}, {}},
		apps: []deltaApp{
			{"a", 0, 1 << 60, []deltaRange{{1, 1, 1}, {501, 1 << 50, 0}}},
			{"b\x00", 70_000, 2, []deltaRange{{500, 3, 0}}},
		},
	}
	v := want.append(nil)
	got, err := parseDeltaRow(v)
	if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
	if n, err := rowFacts(v); n != 4 || err != nil {
		t.Errorf("%d facts, %v", n, err)
	}
	for n := range v {
		if _, err := parseDeltaRow(v[:n:n]); err == nil {
			t.Errorf("%d of %d bytes are a row", n, len(v))
		}
	}
	if _, err := parseDeltaRow(append(v, 0)); err == nil {
		t.Error("a byte more is read, too")
	}
	for name, bad := range map[string]deltaRange{"a cause beyond the list": {1, 1, 1}, "no events": {0, 1, 0}, "more events than there can be": {maxDeltas + 1, 1, 0}} {
		row := deltaRow{causes: make([]factCause, 1), apps: []deltaApp{{app: "a", chats: []deltaRange{bad}}}}
		if _, err := parseDeltaRow(row.append(nil)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// deltaHistory is a message with the deltas of two chats between events of none.
func deltaHistory() message {
	var events []schemas.UsageEvent
	for i := range 30 {
		events = append(events, chatEvent([]string{"c", "", "d"}[i%3], "u", fmt.Sprint("e", i), 1))
	}
	return plainMessage(1, events...)
}

func deltaRowOf(t *testing.T, s *Store) (key []byte, row deltaRow) {
	t.Helper()
	if err := s.db.View(func(bolt *bbolt.Tx) error {
		c := bucketOf(bolt, bucketFacts).cursor()
		for k, v := c.first(); k != nil; k, v = c.next() {
			if v[0] == rowDeltas {
				var err error
				key = append([]byte(nil), k...)
				row, err = parseDeltaRow(v)
				return err
			}
		}
		return c.err
	}); err != nil || key == nil {
		t.Fatalf("no row of deltas: %v", err)
	}
	return key, row
}

// A row says what the event log holds, or it is an error: nothing is told under another
// chat's name.
func TestDamagedDeltasAreErrors(t *testing.T) {
	whole := openNew(t, Options{})
	apply(t, whole, 1, deltaHistory())
	if facts, err := whole.Facts(schemas.DestFacts, schemas.Position{}, everything, everything); err != nil || len(facts) != 3 || !strings.HasSuffix(facts[1].Subject, "chat.usage_delta.c") {
		t.Fatalf("%d facts, %v", len(facts), err)
	}
	for name, change := range map[string]func(*deltaRow){
		"another app":                  func(w *deltaRow) { w.apps[0].app = "b" },
		"events of no chat":            func(w *deltaRow) { w.apps[0].before -= 2 },
		"events of the next chat":      func(w *deltaRow) { w.apps[0].chats[0].events++ },
		"events of the chat before":    func(w *deltaRow) { w.apps[0].chats[0].events-- },
		"more events than the log has": func(w *deltaRow) { w.apps[0].chats[1].events++ },
		"places behind the log's end":  func(w *deltaRow) { w.apps[0].before += 1000 },
		"a chat more than the log has": func(w *deltaRow) { w.apps[0].chats = append(w.apps[0].chats, deltaRange{1, 1, 0}) },
		"an app more than the log has": func(w *deltaRow) { w.apps = append(w.apps, w.apps[0]) },
	} {
		s := openNew(t, Options{})
		apply(t, s, 1, deltaHistory())
		key, row := deltaRowOf(t, s)
		change(&row)
		tamper(t, s, func(tx *Tx) error { return tx.put(bucketFacts, key, row.append(nil)) })
		if facts, err := s.Facts(schemas.DestFacts, schemas.Position{}, everything, everything); err == nil {
			t.Errorf("%s: no error, %d facts", name, len(facts))
		}
	}
	s := openNew(t, Options{})
	apply(t, s, 1, deltaHistory())
	tamper(t, s, func(tx *Tx) error { return erase(tx, bucketEvents, keyChunk(1, 0)) })
	if _, err := s.Facts(schemas.DestFacts, schemas.Position{}, everything, everything); err == nil {
		t.Error("event log gone: no error")
	}
}

// Facts that wait are counted as facts, whatever rows they are in, also after a start.
func TestWaitingFactsAreCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	apply(t, s, 1, append(outboxHistory(), func() message { m := deltaHistory(); m.seq = 9; return m }())...)
	facts, err := s.Facts(schemas.DestFacts, schemas.Position{}, everything, everything)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if st := s.Stats(); st.Facts != int64(len(facts)) || st.Facts <= st.FactRows {
			t.Errorf("%d facts in %d rows, want %d", st.Facts, st.FactRows, len(facts))
		}
		closeStore(t, s)
		s = openAt(t, path, Options{})
	}
	published(t, s)
	if st := s.Stats(); st.Facts != 0 || st.FactRows != 0 {
		t.Errorf("%d facts in %d rows are left", st.Facts, st.FactRows)
	}
	closeStore(t, s)
}

// BenchmarkDeltas renders the deltas of a large message, in pages as the relay asks for
// them: of many chats with an event each, and of few.
func BenchmarkDeltas(b *testing.B) {
	for _, chats := range []int{20_000, 2000, 10} {
		b.Run(fmt.Sprintf("chats=%d", chats), func(b *testing.B) {
			s := openAt(b, filepath.Join(b.TempDir(), "s.db"), Options{})
			defer closeStore(b, s)
			var events []schemas.UsageEvent
			for i := range 20_000 {
				events = append(events, chatEvent(fmt.Sprint("chat-", i%chats), "u", fmt.Sprintf("%08x-0000-4000-8000-%012x", i, i), 1))
			}
			apply(b, s, 1, plainMessage(1, events...))
			facts, size := 0, 0
			for b.Loop() {
				for after := (schemas.Position{}); ; {
					page, err := s.Facts(schemas.DestFacts, after, 1000, 8<<20)
					if err != nil {
						b.Fatal(err)
					}
					if len(page) == 0 {
						break
					}
					after = page[len(page)-1].At
					facts += len(page)
					for i := range page {
						size += len(page[i].Data)
					}
				}
			}
			b.ReportMetric(float64(facts)/b.Elapsed().Seconds(), "facts/s")
			b.ReportMetric(float64(20_000*b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(size)/float64(20_000*b.N), "B/event")
			b.ReportMetric(0, "ns/op")
		})
	}
}
