package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"grout/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano()

// openAt opens a file without waiting for the disk: these tests end processes
// only in order.
func openAt(t rapid.TB, path string, o Options) *Store {
	t.Helper()
	if o.Partitions == 0 {
		o.Partitions = 1
	}
	s, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	s.db.NoSync = true
	return s
}

func openNew(t *testing.T, o Options) *Store {
	t.Helper()
	s := openAt(t, filepath.Join(t.TempDir(), "s.db"), o)
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t rapid.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// request is one ingest command; message is a group of them.
type request struct {
	batch   string
	made    bool
	events  []schemas.UsageEvent
	refused []schemas.EventError
}

type message struct {
	seq      uint64
	requests []request
	letters  []schemas.DeadLetter // by index behind the requests
}

// put applies a message the way the handlers do, but for judging.
func (m *message) put(tx *Tx) error {
	frames := make([]schemas.CommandFrame, len(m.requests)+len(m.letters))
	for i := range frames {
		frames[i] = schemas.CommandFrame{
			Kind: schemas.UsageIngest.Name, ID: fmt.Sprintf("c-%d-%d", m.seq, i), Source: "//test", Accepted: testNow + int64(m.seq),
			CorrelationID: fmt.Sprintf("corr-%d-%d", m.seq, i),
		}
	}
	tx.Begin(Message{
		Seq: m.seq, StoredAt: testNow + int64(m.seq), StreamCreated: 1, Digest: schemas.MessageDigest([]byte{byte(m.seq)}),
		Cause: schemas.Cause{ID: fmt.Sprintf("g-%d", m.seq), Source: "//test/group"}, Commands: frames,
	})
	for i := range m.requests {
		tx.Command(&frames[i])
		if err := m.requests[i].put(tx, uint32(i)); err != nil {
			return err
		}
	}
	for i := range m.letters {
		if err := tx.DeadLetter(uint32(len(m.requests)+i), &m.letters[i]); err != nil {
			return err
		}
	}
	return tx.End()
}

func (r *request) put(tx *Tx, index uint32) error {
	b := &Batch{BatchID: r.batch, Made: r.made, Errors: slices.Clone(r.refused)}
	partOf := func(app string) *Part {
		for i := range b.Parts {
			if b.Parts[i].AppID == app {
				return &b.Parts[i]
			}
		}
		b.Parts = append(b.Parts, Part{AppID: app, First: tx.Place(index)})
		return &b.Parts[len(b.Parts)-1]
	}
	for i := range r.events {
		e := &r.events[i]
		p := printOf(e)
		entry, err := tx.RecordUsage(index, e, &p)
		if err != nil {
			return err
		}
		switch part := partOf(e.AppID); entry {
		case Entered:
			part.Accepted++
		case Duplicate:
			part.Duplicates++
		case Conflict:
			part.Rejected++
		}
	}
	for _, e := range r.refused {
		partOf(e.AppID).Rejected++
		tx.RejectUsage(index, e.AppID, 1, []schemas.RejectedInBatch{{BatchID: r.batch, Index: e.Index, EventID: e.EventID, Code: e.Code, Detail: e.Detail}})
	}
	_, err := tx.PutBatch(index, b)
	return err
}

func printOf(e *schemas.UsageEvent) schemas.EventPrint {
	var p schemas.EventPrint
	p.ID, _ = schemas.FingerprintOf(schemas.IDEvent, e.AppID, e.EventID, nil)
	p.Digest, _ = schemas.ContentDigest(e, nil)
	return p
}

// apply applies messages, up to per in a transaction.
func apply(t rapid.TB, s *Store, per int, list ...message) {
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

// tamper changes rows behind the store's back, with seals and sums that fit.
func tamper(t testing.TB, s *Store, change func(*Tx) error) {
	t.Helper()
	if err := s.db.Update(func(bolt *bbolt.Tx) error {
		tx := Tx{bolt: bolt, store: s, sums: s.sums}
		if err := change(&tx); err != nil {
			return err
		}
		s.sums = tx.sums
		return tx.putSums()
	}); err != nil {
		t.Fatal(err)
	}
}

func erase(tx *Tx, id bucketID, key []byte) error {
	c := tx.bucket(id).cursor()
	k, _ := c.seek(key)
	if !bytes.Equal(k, key) {
		return fmt.Errorf("no row %x in %s", key, id)
	}
	return tx.remove(c, k)
}

// dump is what Dump writes, without making it readable.
func dump(t rapid.TB, s *Store) string {
	t.Helper()
	var b []byte
	if err := s.db.View(func(bolt *bbolt.Tx) error {
		for id := range bucketCount {
			c := bucketOf(bolt, id).cursor()
			for k, v := c.first(); k != nil; k, v = c.next() {
				if !relayRecord(id, k) {
					b = appendText(append(b, id.String()...), string(k))
					b = append(appendText(append(b, ' '), string(v)), '\n')
				}
			}
			if c.err != nil {
				return c.err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sameDump(t rapid.TB, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	x, y := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			t.Fatalf("contents differ in line %d:\n%.300q\n%.300q", i, x[i], y[i])
		}
	}
	t.Fatalf("contents have %d and %d lines", len(x), len(y))
}

// randomHistory makes messages of all sizes, with repeats and conflicts.
func randomHistory(seed uint64, messages int) []message {
	r := rand.New(rand.NewPCG(seed, 2))
	var sent []schemas.UsageEvent
	out := make([]message, messages)
	for i := range out {
		m := &out[i]
		m.seq = uint64(i + 1)
		if r.IntN(12) == 0 {
			m.letters = append(m.letters, testLetter(m.seq))
		}
		for c := range r.IntN(3) {
			size := r.IntN(9)
			if r.IntN(10) == 0 {
				size = 150 + r.IntN(150)
			}
			q := request{batch: fmt.Sprintf("b-%d-%d", m.seq, c), made: r.IntN(4) == 0}
			for n := range size {
				e := randomEvent(r)
				if len(sent) > 0 && r.IntN(6) == 0 {
					e = sent[r.IntN(len(sent))]
					if r.IntN(3) == 0 {
						e.OutputTokens++
						e.TotalTokens++
					}
				}
				e.Index = uint32(n)
				q.events = append(q.events, e)
			}
			if r.IntN(4) == 0 {
				q.refused = append(q.refused, schemas.EventError{Index: uint32(size), AppID: "a", EventID: "x", Code: schemas.CodeTooDeep, Detail: "d"})
			}
			sent = append(sent, q.events...)
			m.requests = append(m.requests, q)
		}
	}
	return out
}

func testLetter(seq uint64) schemas.DeadLetter {
	c := schemas.Cause{ID: fmt.Sprintf("dead-%d", seq), Source: "//test"}
	return schemas.DeadLetter{
		ID: schemas.FactID(c, 0), AppID: "a", Kind: "usage.ingest", Cause: c, Code: schemas.CodePoison, Reason: "r", Attempts: 1,
		Original: schemas.OriginalMessage{Subject: "s", Data: []byte("original"), Sequence: seq},
	}
}

func randomEvent(r *rand.Rand) schemas.UsageEvent {
	e := schemas.UsageEvent{
		EventID: fmt.Sprintf("%016x-%d", r.Uint64(), r.IntN(9)), Timestamp: testNow - r.Int64N(60*int64(time.Hour)),
		AppID: []string{"a", "b", "ab"}[r.IntN(3)], UserID: fmt.Sprint("u", r.IntN(5)), Model: fmt.Sprint("m", r.IntN(3)),
		InputTokens: r.Int64N(100), OutputTokens: r.Int64N(100),
	}
	if r.IntN(2) == 0 {
		e.TenantID, e.WorkflowID, e.Cost = fmt.Sprint("t", r.IntN(2)), "wf", r.Int64N(1e9)
	}
	e.TotalTokens = e.InputTokens + e.OutputTokens
	return e
}

// oracle keeps every event that counts, by the plainest means.
type oracle struct {
	seen   map[string]bool
	events []schemas.UsageEvent
}

func (o *oracle) apply(m *message) {
	if o.seen == nil {
		o.seen = map[string]bool{}
	}
	for _, q := range m.requests {
		for _, e := range q.events {
			if key := e.AppID + "\x00" + e.EventID; !o.seen[key] {
				o.seen[key] = true
				o.events = append(o.events, e)
			}
		}
	}
}

// A batch sent twice counts once, and where the program was stopped in between
// leaves no trace.
func TestTwiceIsOnceAndRestartsAreNone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := rapidDir(t)
		history := randomHistory(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 12).Draw(t, "messages"))
		foldEvery := rapid.SampledFrom([]int{20, 50, 1000}).Draw(t, "fold every")
		var want oracle
		for i := range history {
			want.apply(&history[i])
		}
		plain := openAt(t, filepath.Join(dir, "plain.db"), Options{FoldEvery: foldEvery})
		defer closeStore(t, plain)
		apply(t, plain, rapid.IntRange(1, 5).Draw(t, "per transaction"), history...)

		path := filepath.Join(dir, "restarted.db")
		for rest := history; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "until the restart")
			s := openAt(t, path, Options{FoldEvery: foldEvery})
			if got := s.Checkpoint().Seq; got != rest[0].seq-1 {
				t.Fatalf("opened at %d, want %d", got, rest[0].seq-1)
			}
			apply(t, s, rapid.IntRange(1, 5).Draw(t, "per transaction"), rest[:n]...)
			closeStore(t, s)
			rest = rest[n:]
		}
		s := openAt(t, path, Options{FoldEvery: foldEvery})
		defer closeStore(t, s)
		sameDump(t, dump(t, plain), dump(t, s))
		checkTotals(t, s, &want)

		// Everything once more, in new messages: no event counts again.
		for i := range history {
			m := history[i]
			m.seq += uint64(len(history))
			apply(t, s, 1, m)
		}
		checkTotals(t, s, &want)
		counted := int64(0)
		for _, m := range facts(t, s) {
			counted += int64(len(recordedData(t, m).Events))
		}
		if counted != int64(len(want.events)) {
			t.Fatalf("%d events in facts, want %d", counted, len(want.events))
		}
	})
}

func checkTotals(t rapid.TB, s *Store, want *oracle) {
	t.Helper()
	for _, app := range []string{"a", "b", "ab", "abc"} {
		q := schemas.UsageQuery{AppID: app, To: schemas.LastHour, Window: schemas.WindowDay, GroupBy: []schemas.Dimension{schemas.ByUser, schemas.ByTenant}}
		got, err := s.Usage(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want.report(&q), got); d != "" {
			t.Fatal(d)
		}
	}
}

func facts(t rapid.TB, s *Store) []schemas.FactMessage {
	t.Helper()
	list, err := s.Facts(schemas.DestFacts, schemas.Position{}, 1<<30, 1<<62)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func parseFact(t rapid.TB, m schemas.FactMessage) event.Event {
	t.Helper()
	var e event.Event
	if err := json.Unmarshal(m.Data, &e); err != nil {
		t.Fatalf("%v:\n%s", err, m.Data)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	return e
}

// recordedData gives the data of usage.recorded, and nothing for another fact.
func recordedData(t rapid.TB, m schemas.FactMessage) (d schemas.UsageRecordedData) {
	t.Helper()
	e := parseFact(t, m)
	if e.Type() != schemas.TypeOf(schemas.UsageRecorded.Name) {
		return d
	}
	if err := json.Unmarshal(e.Data(), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

var errRefused = errors.New("refused by the test")

// A failed transaction leaves nothing: not on disk, not in memory, not in what
// follows.
func TestFailedUpdateNeverWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir := rapidDir(t)
		history := randomHistory(rapid.Uint64().Draw(t, "seed"), 12)
		options := Options{FoldEvery: 60}
		plain, s := openAt(t, filepath.Join(dir, "plain.db"), options), openAt(t, filepath.Join(dir, "failed.db"), options)
		defer closeStore(t, plain)
		defer closeStore(t, s)
		for i := range history {
			if rapid.Bool().Draw(t, "fails first") {
				before, stats := dump(t, s), s.Stats()
				n := rapid.IntRange(0, 3).Draw(t, "messages before it fails")
				err := s.Update(func(tx *Tx) error {
					for _, m := range history[i:min(i+n, len(history))] {
						if err := m.put(tx); err != nil || tx.Sealed() {
							return errors.Join(err, errRefused)
						}
					}
					tx.Begin(Message{Seq: 99, Commands: make([]schemas.CommandFrame, 1)})
					e := randomEvent(rand.New(rand.NewPCG(uint64(i), 1)))
					p := printOf(&e)
					for _, want := range []Entry{Entered, Duplicate} { // visible inside
						if got, err := tx.RecordUsage(0, &e, &p); err != nil || got != want {
							t.Fatalf("%v %v, want %v", got, err, want)
						}
					}
					return errRefused
				})
				if !errors.Is(err, errRefused) {
					t.Fatal(err)
				}
				sameDump(t, before, dump(t, s))
				after := s.Stats()
				stats.FileBytes, after.FileBytes = 0, 0
				if stats != after {
					t.Fatalf("%+v became %+v", stats, after)
				}
			}
			apply(t, plain, 1, history[i])
			apply(t, s, 1, history[i])
		}
		sameDump(t, dump(t, plain), dump(t, s))
		if a, b := plain.next, s.next; a != b {
			t.Fatalf("next ordinals %d and %d", a, b)
		}
	})
}

// rapidDir is a directory for one try of a law.
func rapidDir(t *rapid.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "grout-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
