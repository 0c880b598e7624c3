package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
)

func plainEvent(app, id string, tokens int64) schemas.UsageEvent {
	return schemas.UsageEvent{
		EventID: id, AppID: app, UserID: "u", Model: "m", Timestamp: testNow - int64(time.Hour), InputTokens: tokens, TotalTokens: tokens,
	}
}

// plainMessage records one event of an app, of its own batch.
func plainMessage(seq uint64, events ...schemas.UsageEvent) message {
	return message{seq: seq, requests: []request{{batch: fmt.Sprint("b", seq), events: events}}}
}

// correction voids one event in a message of its own.
func correction(tx *Tx, seq uint64, app, id string) (*Adjustment, error) {
	tx.Begin(Message{Seq: seq, StoredAt: testNow + int64(seq), StreamCreated: 1, Commands: make([]schemas.CommandFrame, 1)})
	tx.Command(&schemas.CommandFrame{Accepted: testNow + int64(seq)})
	rec, err := tx.Event(app, id)
	if err != nil {
		return nil, err
	}
	if rec == nil {
		return nil, errors.New("no event")
	}
	a, err := tx.Adjust(0, rec, schemas.EventVoided, schemas.UsageSums{}, "why")
	if err != nil {
		return nil, err
	}
	return a, tx.End()
}

func allEvents(app string, limit int) schemas.EventQuery {
	return schemas.EventQuery{AppID: app, From: schemas.FirstInstant, To: schemas.LastInstant, Limit: limit}
}

func TestAdjustmentRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 40, -1)
		sums := rapid.Custom(func(t *rapid.T) (s schemas.UsageSums) {
			for _, n := range [...]*int64{&s.Events, &s.InputTokens, &s.OutputTokens, &s.TotalTokens, &s.CachedTokens, &s.ReasoningTokens} {
				*n = rapid.Int64().Draw(t, "n")
			}
			s.Cost = anyAmount(t)
			return s
		})
		want := &Adjustment{
			AppID: text.Draw(t, "app"), EventID: text.Draw(t, "id"), Status: rapid.SampledFrom(adjustmentStatuses[:]).Draw(t, "status"),
			Hour: rapid.Uint32().Draw(t, "hour"), TenantID: text.Draw(t, "tenant"), UserID: text.Draw(t, "user"), Workflow: text.Draw(t, "workflow"),
			Model: text.Draw(t, "model"), Delta: sums.Draw(t, "delta"), Effective: sums.Draw(t, "effective"), Reason: text.Draw(t, "reason"),
			ChatID: text.Draw(t, "chat"),
		}
		want.Stated, want.Change = want.Effective, want.Delta
		if want.ChatID != "" {
			want.Stated, want.Change = sums.Draw(t, "stated"), sums.Draw(t, "change")
		}
		b := want.append(nil)
		got, err := parseAdjustment(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
		n := rapid.IntRange(0, len(b)-1).Draw(t, "cut to")
		if _, err := parseAdjustment(b[:n:n]); err == nil {
			t.Fatal("a part is read, too")
		}
		if _, err := parseAdjustment(append(b, 0)); err == nil {
			t.Fatal("a byte more is read, too")
		}
	})
	if _, err := parseAdjustment([]byte{1, 9}); err == nil {
		t.Error("an unknown status is read")
	}
}

func TestIDChunkForm(t *testing.T) {
	entries := []stagedID{{idEntry: idEntry{kind: schemas.IDBatch, ref: 7}}, {idEntry: idEntry{kind: schemas.IDEvent, ref: 9}}}
	v := appendIDChunk(nil, 1<<40, entries)
	chunk, err := parseIDChunk(v)
	if err != nil || chunk.len() != 2 || chunk.at(1) != (idEntry{kind: schemas.IDEvent, ref: 9, seq: 1 << 40}) {
		t.Fatalf("%+v, %v", chunk, err)
	}
	for n := range len(v) {
		if _, err := parseIDChunk(v[:n]); err == nil && (n-idChunkHead)%idEntrySize != 0 {
			t.Errorf("%d of %d bytes are read", n, len(v))
		}
	}
	v[0] = 'e'
	if _, err := parseIDChunk(v); err == nil {
		t.Error("another form is read")
	}
}

// A correction whose transaction fails leaves nothing: the next one finds the
// event as it was.
func TestFailedCorrectionNeverWas(t *testing.T) {
	s := openNew(t, Options{})
	apply(t, s, 1, plainMessage(1, plainEvent("a", "e", 5)))
	before := dump(t, s)
	err := s.Update(func(tx *Tx) error {
		if _, err := correction(tx, 2, "a", "e"); err != nil {
			return err
		}
		if rec, err := tx.Event("a", "e"); err != nil || rec.Last == nil || rec.Effective() != (schemas.UsageSums{}) {
			t.Errorf("the transaction does not see its own correction: %+v, %v", rec, err)
		}
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Fatal(err)
	}
	sameDump(t, before, dump(t, s))
	page, err := s.Events(t.Context(), allEvents("a", 9))
	if err != nil || len(page.Events) != 1 || page.Events[0].Status != schemas.EventCounted {
		t.Fatalf("%+v, %v", page, err)
	}
	if err := s.Update(func(tx *Tx) error { _, err := correction(tx, 2, "a", "e"); return err }); err != nil {
		t.Fatal(err)
	}
	page, err = s.Events(t.Context(), allEvents("a", 9))
	if err != nil || page.Events[0].Status != schemas.EventVoided || page.Events[0].Reason != "why" {
		t.Fatalf("%+v, %v", page, err)
	}
	if st := s.Stats(); st.Voided != 1 {
		t.Errorf("%d voided", st.Voided)
	}
}

// Corrections keep folds bounded, like events: nothing but corrections reaches
// the bucket in the end.
func TestCorrectionsAreFolded(t *testing.T) {
	const n = 40
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{FoldEvery: 8})
	var events []schemas.UsageEvent
	for i := range n {
		events = append(events, plainEvent("a", fmt.Sprint("e", i), int64(i+1)))
	}
	apply(t, s, 1, plainMessage(1, events...))
	for i := range n {
		if err := s.Update(func(tx *Tx) error { _, err := correction(tx, uint64(2+i), "a", events[i].EventID); return err }); err != nil {
			t.Fatal(err)
		}
		r, err := s.Usage(t.Context(), schemas.UsageQuery{AppID: "a", To: schemas.LastHour, Window: schemas.WindowNone})
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(n - i - 1); r.Totals.Events != want {
			t.Fatalf("%d events after %d corrections, want %d", r.Totals.Events, i+1, want)
		}
		if i%7 == 0 {
			closeStore(t, s)
			s = openAt(t, path, Options{FoldEvery: 8})
		}
	}
	if s.fold.Folded < n-16 {
		t.Errorf("aggregates are folded up to message %d of %d", s.fold.Folded, n+1)
	}
	r, err := s.Usage(t.Context(), schemas.UsageQuery{AppID: "a", To: schemas.LastHour, Window: schemas.WindowHour})
	if err != nil || len(r.Rows) != 0 || r.Totals != (schemas.UsageSums{}) {
		t.Errorf("everything is voided, and the report is %+v, %v", r, err)
	}
	closeStore(t, s)
}

// The event behind an id is found whatever surrounds it: many chunks, the same id
// in another app, ids inside other texts.
func TestEventBehindItsID(t *testing.T) {
	s := openNew(t, Options{})
	var events []schemas.UsageEvent
	for i := range 4000 {
		e := plainEvent(fmt.Sprint("app-", i%2), fmt.Sprint("e-", i/2), int64(i))
		e.UserID = fmt.Sprint("user e-", i) // holds other ids
		e.InvocationID = strings.Repeat("x", 60)
		if i%5 == 0 {
			e.EventID = fmt.Sprintf("00000000-0000-4000-8000-%012x", i)
		}
		events = append(events, e)
	}
	check := func(tx *Tx) error {
		for _, i := range []int{0, 1, 2, 7, 1999, 2000, 3995, 3999} {
			rec, err := tx.Event(events[i].AppID, events[i].EventID)
			if err != nil {
				return err
			}
			if rec == nil {
				return fmt.Errorf("event %d is not found", i)
			}
			rec.Event.Index = events[i].Index
			if d := cmp.Diff(events[i], rec.Event); d != "" {
				return errors.New(d)
			}
		}
		if rec, err := tx.Event("app-9", "e-1"); rec != nil || err != nil {
			return fmt.Errorf("%+v, %v", rec, err)
		}
		return nil
	}
	for i := range events {
		events[i].Index = uint32(i)
	}
	m := plainMessage(1, events...)
	if err := s.Update(func(tx *Tx) error { // in the message itself, and in its transaction
		tx.Begin(Message{Seq: 1, StoredAt: 1, StreamCreated: 1, Commands: make([]schemas.CommandFrame, 1)})
		if err := m.requests[0].put(tx, 0); err != nil {
			return err
		}
		if err := check(tx); err != nil {
			return err
		}
		if err := tx.End(); err != nil {
			return err
		}
		tx.Begin(Message{Seq: 2, StoredAt: 1, StreamCreated: 1})
		if err := check(tx); err != nil {
			return err
		}
		return tx.End()
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(tx *Tx) error {
		tx.Begin(Message{Seq: 3, StoredAt: 1, StreamCreated: 1})
		if err := check(tx); err != nil {
			return err
		}
		return tx.End()
	}); err != nil {
		t.Fatal(err)
	}
}

// asLogged orders the events of a message as the log has them, but for apps: those of no
// chat first, then chat by chat.
func asLogged(events []schemas.UsageEvent) []schemas.UsageEvent {
	places := map[chatKey]int{{}: -1}
	of := func(e *schemas.UsageEvent) int {
		if e.ChatID == "" {
			return -1
		}
		key := chatKey{e.AppID, e.ChatID}
		if _, ok := places[key]; !ok {
			places[key] = len(places)
		}
		return places[key]
	}
	for i := range events {
		of(&events[i])
	}
	out := slices.Clone(events)
	slices.SortStableFunc(out, func(a, b schemas.UsageEvent) int { return of(&a) - of(&b) })
	return out
}

// Pages of any length, with or without filters, tell each event once, newest first,
// while others are recorded between them.
func TestEventPages(t *testing.T) {
	s := openNew(t, Options{})
	r := rand.New(rand.NewPCG(5, 5))
	var log []schemas.UsageEvent
	seq := uint64(0)
	record := func(n int) {
		seq++
		var events []schemas.UsageEvent
		for range n {
			e := plainEvent(fmt.Sprint("app-", r.IntN(2)), fmt.Sprintf("e-%d-%d", seq, len(events)), r.Int64N(100))
			e.UserID, e.ChatID = fmt.Sprint("u", r.IntN(3)), []string{"", "c1", "c2"}[r.IntN(3)]
			e.Timestamp -= r.Int64N(int64(48 * time.Hour))
			e.Metadata = bytes.Repeat([]byte("m"), r.IntN(3000))
			e.Metadata = append(append([]byte(`"`), e.Metadata...), '"')
			events = append(events, e)
		}
		log = append(log, asLogged(events)...)
		apply(t, s, 1, plainMessage(seq, events...))
	}
	for range 40 {
		record(1 + r.IntN(60))
	}
	for _, c := range []struct {
		name   string
		filter func(q *schemas.EventQuery)
	}{
		{"all", func(*schemas.EventQuery) {}},
		{"user", func(q *schemas.EventQuery) { q.UserID = "u1" }},
		{"chat and user", func(q *schemas.EventQuery) { q.ChatID, q.UserID = "c2", "u0" }},
		{"time", func(q *schemas.EventQuery) {
			q.From, q.To = testNow-int64(20*time.Hour), testNow-int64(2*time.Hour)+1
		}},
		{"nothing", func(q *schemas.EventQuery) { q.Model = "other" }},
	} {
		for _, limit := range []int{1, 7, 100, 1000} {
			q := allEvents("app-0", limit)
			c.filter(&q)
			var want, got []string
			for _, e := range slices.Backward(log) {
				if q.Wants(&e) {
					want = append(want, e.EventID)
				}
			}
			for {
				page, err := s.Events(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Events) > limit || page.More && len(page.Events) == 0 {
					t.Fatalf("%s: %d events of %d, more: %v", c.name, len(page.Events), limit, page.More)
				}
				for _, e := range page.Events {
					got = append(got, e.EventID)
				}
				if !page.More {
					break
				}
				q.Before = page.Next
				if len(got)%3 == 0 && limit < 100 {
					record(1)
				}
			}
			if !slices.Equal(want, got) {
				t.Fatalf("%s, pages of %d: %d events, want %d", c.name, limit, len(got), len(want))
			}
		}
	}
	page, err := s.Events(t.Context(), allEvents("app-0", 1))
	if err != nil {
		t.Fatal(err)
	}
	e := page.Events[0]
	at := binary.BigEndian.Uint64(keySeq(seq))
	if page.Next.Seq > at || e.BatchID == "" || e.RecordedAt != testNow+int64(batchOf(t, e.BatchID)) {
		t.Errorf("%+v", e)
	}
}

// batchOf gives the sequence that a batch of plainMessage is named after.
func batchOf(t *testing.T, name string) (seq uint64) {
	t.Helper()
	if _, err := fmt.Sscanf(name, "b%d", &seq); err != nil {
		t.Fatal(err)
	}
	return seq
}

// A page looks at a bounded part of the log and says where to go on.
func TestEventPagesAreBounded(t *testing.T) {
	s := openNew(t, Options{})
	var list []message
	for seq := range uint64(2*maxScannedChunks + 500) {
		e := plainEvent("a", fmt.Sprint("e", seq), 1)
		if seq%1500 == 0 {
			e.UserID = "rare"
		}
		list = append(list, plainMessage(seq+1, e))
	}
	apply(t, s, 1000, list...)
	q := allEvents("a", 10)
	q.UserID = "rare"
	var sizes []int
	for {
		page, err := s.Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(page.Events))
		if !page.More {
			break
		}
		q.Before = page.Next
	}
	// The rare ones stand at 1, 1501, 3001 and … of 4500.
	if want := []int{1, 1, 1}; !slices.Equal(sizes, want) {
		t.Errorf("pages of %v events, want %v", sizes, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q.Before = schemas.EventPlace{}
	if _, err := s.Events(ctx, q); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled request goes on: %v", err)
	}
}

// A place whose chunk is gone, or never was, leads to what stands before it.
func TestEventPagesFromAnyPlace(t *testing.T) {
	s := openNew(t, Options{})
	apply(t, s, 1, plainMessage(3, plainEvent("a", "x", 1), plainEvent("a", "y", 1)), plainMessage(5, plainEvent("a", "z", 1)))
	for _, c := range []struct {
		before schemas.EventPlace
		want   string
	}{
		{schemas.EventPlace{}, "z y x"},
		{schemas.EventPlace{Seq: 9}, "z y x"},
		{schemas.EventPlace{Seq: 5, Chunk: 4, Index: 4}, "z y x"},
		{schemas.EventPlace{Seq: 5, Index: 1}, "z y x"},
		{schemas.EventPlace{Seq: 5}, "y x"},
		{schemas.EventPlace{Seq: 4, Chunk: 1}, "y x"},
		{schemas.EventPlace{Seq: 3, Index: 1}, "x"},
		{schemas.EventPlace{Seq: 3}, ""},
		{schemas.EventPlace{Seq: 1, Chunk: 7, Index: 7}, ""},
	} {
		q := allEvents("a", 10)
		q.Before = c.before
		page, err := s.Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, e := range page.Events {
			ids = append(ids, e.EventID)
		}
		if got := strings.Join(ids, " "); got != c.want || page.More {
			t.Errorf("before %+v: %q, more %v, want %q", c.before, got, page.More, c.want)
		}
	}
}

// Damage is an error, never a wrong answer.
func TestDamagedAdjustmentsAreErrors(t *testing.T) {
	s := openNew(t, Options{})
	apply(t, s, 1, plainMessage(1, plainEvent("a", "e", 5)))
	if err := s.Update(func(tx *Tx) error { _, err := correction(tx, 2, "a", "e"); return err }); err != nil {
		t.Fatal(err)
	}
	tamper(t, s, func(tx *Tx) error { return erase(tx, bucketAdjustments, keyCommand(2, 0)) })
	if _, err := s.Events(t.Context(), allEvents("a", 9)); !errors.Is(err, errDamaged) {
		t.Errorf("list: %v", err)
	}
	var fault *Fault
	if err := s.Update(func(tx *Tx) error { _, err := tx.Event("a", "e"); return err }); !errors.As(err, &fault) {
		t.Errorf("event: %v", err)
	}
	tamper(t, s, func(tx *Tx) error { return erase(tx, bucketEvents, keyChunk(1, 0)) })
	if err := s.Update(func(tx *Tx) error { _, err := tx.Event("a", "e"); return err }); !errors.As(err, &fault) {
		t.Errorf("event: %v", err)
	}
}
