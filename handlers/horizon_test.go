package handlers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

const (
	testHour = int64(3600e9)
	testDay  = 24 * testHour
)

// horizon is a run over many days with a model beside it that forgets nothing.
type horizon struct {
	*world
	path   string
	r      *rand.Rand
	four   []history // the same for four partitions
	events []schemas.UsageEvent
	known  map[string]bool
	sums   map[string]*schemas.UsageSums
	n      int
	voided map[string]bool
	voids  map[schemas.Code]int
	late   int // repeats that were older than 33 days
}

const horizonFold = 400

func newHorizon(t *testing.T) *horizon {
	h := &horizon{
		path: filepath.Join(t.TempDir(), "s.db"), r: rand.New(rand.NewPCG(21, 22)), four: make([]history, 4),
		known: map[string]bool{}, sums: map[string]*schemas.UsageSums{}, voided: map[string]bool{}, voids: map[schemas.Code]int{},
	}
	h.world = newWorld(t, openStore(t, h.path, 0, 1, horizonFold))
	return h
}

func (h *horizon) restart() {
	h.t.Helper()
	if err := h.store.Close(); err != nil {
		h.t.Fatal(err)
	}
	h.store = openStore(h.t, h.path, 0, 1, horizonFold)
}

// both notes a command that every partition gets.
func (h *horizon) both(kind string, at int64, payload []byte) schemas.CommandOutcome {
	h.t.Helper()
	for p := range h.four {
		h.four[p].groups = append(h.four[p].groups, []schemas.CommandFrame{ownFrame(kind, at, payload)})
	}
	return h.own(kind, at, payload)
}

// hour is one hour of work: a tick, what may expire, requests, a correction.
func (h *horizon) hour(at int64) {
	h.t.Helper()
	h.both(schemas.ClockTick.Name, at, (&schemas.Tick{}).EncodePayload(nil))
	h.published()
	before, ok, err := h.store.Expirable()
	if err != nil {
		h.t.Fatal(err)
	}
	if ok {
		if o := h.both(schemas.SegmentExpire.Name, at, (&schemas.SegmentExpiry{Before: before}).EncodePayload(nil)); o.Code != "" {
			h.t.Fatalf("what may expire is kept: %+v", o)
		}
	}
	for range 2 {
		at += 1 + h.r.Int64N(testHour/4)
		h.request(at)
	}
	if h.r.IntN(3) == 0 {
		h.void(at + 1)
	}
}

// request sends new events, and events of every age that is still acceptable or was.
func (h *horizon) request(at int64) {
	h.t.Helper()
	var list []schemas.UsageEvent
	var want schemas.IngestOutcome
	for range 1 + h.r.IntN(6) {
		e := h.event(at)
		if len(h.events) > 0 && h.r.IntN(3) == 0 {
			e = h.events[h.r.IntN(len(h.events))]
		}
		list = append(list, e)
	}
	h.n++
	for i := range list {
		e := &list[i]
		key := e.AppID + "/" + e.EventID
		switch {
		case e.Timestamp < at-schemas.MaxEventAge:
			want.Rejected++
		case h.known[key]:
			want.Duplicates++
			if e.Timestamp < at-33*testDay {
				h.late++
			}
		default:
			want.Accepted++
			h.known[key] = true
			h.events = append(h.events, *e)
			h.count(e, 1)
		}
	}
	frames := batchFrames(fmt.Sprint("b-", h.n), at, 1, list...)
	for p, f := range batchFrames(fmt.Sprint("b-", h.n), at, len(h.four), list...) {
		h.four[p].groups = append(h.four[p].groups, []schemas.CommandFrame{f})
	}
	var got schemas.IngestOutcome
	if err := got.Decode(h.apply(frames[0])[0]); err != nil {
		h.t.Fatal(err)
	}
	if got.Accepted != want.Accepted || got.Duplicates != want.Duplicates || got.Rejected != want.Rejected {
		h.t.Fatalf("day %d: accepted, duplicates, rejected %d %d %d, want %d %d %d",
			(at-testNow)/testDay, got.Accepted, got.Duplicates, got.Rejected, want.Accepted, want.Duplicates, want.Rejected)
	}
}

func (h *horizon) event(at int64) schemas.UsageEvent {
	e := schemas.UsageEvent{
		EventID: fmt.Sprintf("%08x-0000-4000-8000-%012x", h.r.Uint32(), h.r.Uint64()&0xffffffffffff), AppID: fmt.Sprintf("app-%d", h.r.IntN(6)),
		UserID: fmt.Sprintf("user %d", h.r.IntN(5)), Model: "m", InputTokens: 1 + h.r.Int64N(1000), Timestamp: at - h.r.Int64N(testHour),
	}
	switch h.r.IntN(8) {
	case 0: // as late as an event may be
		e.Timestamp = at - schemas.MaxEventAge + h.r.Int64N(testDay)
	case 1: // as early
		e.Timestamp = at + schemas.MaxEventAhead - h.r.Int64N(testHour)
	}
	e.TotalTokens = e.InputTokens
	return e
}

func (h *horizon) count(e *schemas.UsageEvent, sign int64) {
	s := h.sums[e.AppID]
	if s == nil {
		s = &schemas.UsageSums{}
		h.sums[e.AppID] = s
	}
	s.Add(&schemas.UsageSums{Events: sign, InputTokens: sign * e.InputTokens, TotalTokens: sign * e.TotalTokens})
}

// void takes an event of any age back: a recent one counts no more, and of one that
// has expired nothing is known.
func (h *horizon) void(at int64) {
	h.t.Helper()
	e := &h.events[h.r.IntN(len(h.events))]
	if h.voided[e.AppID+"/"+e.EventID] {
		return
	}
	f := ownFrame(schemas.UsageVoid.Name, at, (&schemas.EventVoid{EventID: e.EventID}).EncodePayload(nil))
	f.AppID = e.AppID
	p := schemas.PartitionOf(e.AppID, len(h.four))
	h.four[p].groups = append(h.four[p].groups, []schemas.CommandFrame{f})
	var o schemas.CommandOutcome
	if err := o.Decode(h.apply(f)[0]); err != nil {
		h.t.Fatal(err)
	}
	h.voids[o.Code]++
	old := e.Timestamp < at-schemas.MaxEventAge
	switch {
	case o.Code == "" && !old:
		h.count(e, -1)
		h.voided[e.AppID+"/"+e.EventID] = true
	case o.Code == schemas.CodeEventExpired && old, o.Code == schemas.CodeNotFound && old:
	default:
		h.t.Fatalf("an event of %d days: %+v", (at-e.Timestamp)/testDay, o)
	}
}

func (h *horizon) checkSums(what string) {
	h.t.Helper()
	for app, want := range h.sums {
		r, err := h.store.Usage(h.t.Context(), schemas.UsageQuery{AppID: app, To: schemas.LastHour, Window: schemas.WindowNone})
		if err != nil {
			h.t.Fatal(err)
		}
		if d := cmp.Diff(*want, r.Totals); d != "" {
			h.t.Fatalf("%s: app %s (-want +got):\n%s", what, app, d)
		}
	}
}

// Fifty days of hourly ticks, with events and repeats of every age: everything is
// counted once, what has expired is gone, what is kept stops growing; restarts, the
// size of transactions and the number of partitions change nothing.
func TestFiftyDays(t *testing.T) {
	h := newHorizon(t)
	defer func() { _ = h.store.Close() }()
	var ids, bytesKept []int
	for day := range int64(50) {
		for hour := range int64(24) {
			h.hour(testNow + day*testDay + hour*testHour + h.r.Int64N(testHour/20))
			if h.r.IntN(60) == 0 {
				h.restart()
			}
		}
		h.checkSums(fmt.Sprint("day ", day))
		ids = append(ids, int(h.store.Stats().IDs))
		bytesKept = append(bytesKept, expiringBytes(dump(t, h.store)))
	}
	h.restart()
	h.checkSums("at the end")
	clock := h.store.Clock()
	t.Logf("%d events, ids by day %d, bytes by day %d, voids %v, %d repeats older than 33 days", len(h.known), ids, bytesKept, h.voids, h.late)
	if clock.Steps != 0 || clock.ExpiredUntil < testNow+12*testDay || clock.ExpiredUntil > testNow+15*testDay {
		t.Errorf("expired until day %d, %d steps", (clock.ExpiredUntil-testNow)/testDay, clock.Steps)
	}
	for day := 40; day < 50; day++ {
		if 10*ids[day] > 11*ids[38] || 10*bytesKept[day] > 11*bytesKept[38] {
			t.Errorf("day %d: %d ids and %d bytes, on day 38 %d and %d", day, ids[day], bytesKept[day], ids[38], bytesKept[38])
		}
	}
	if h.voids[schemas.CodeNotFound] == 0 || h.voids[schemas.CodeEventExpired] == 0 || h.voids[""] == 0 || h.late == 0 {
		t.Errorf("the run has not met everything: %v, %d", h.voids, h.late)
	}
	want := withoutOutbox(dump(t, h.store))
	one, err := h.store.AppDigests(t.Context())
	if err != nil || len(one) != 6 {
		t.Fatalf("%d apps, %v", len(one), err)
	}
	for _, per := range []int{7, 64} {
		s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, horizonFold)
		defer s.Close()
		applyAll(t, s, &h.history, per, 1<<62)
		if got := withoutOutbox(dump(t, s)); !bytes.Equal(want, got) {
			t.Errorf("%d messages a transaction: %s", per, firstDifference(want, got))
		}
	}
	four := map[string]string{}
	for p := range h.four {
		s := openStore(t, filepath.Join(t.TempDir(), "s.db"), p, len(h.four), horizonFold)
		defer s.Close()
		applyAll(t, s, &h.four[p], 64, 1<<62)
		digests, err := s.AppDigests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for app, sum := range digests {
			four[app] = sum
		}
	}
	if d := cmp.Diff(one, four); d != "" {
		t.Errorf("P=1 and P=4 differ:\n%s", d)
	}
}

// expiringBytes sums the rows of the buckets that expire.
func expiringBytes(dump []byte) (n int) {
	for line := range bytes.Lines(dump) {
		for _, bucket := range []string{"events ", "ids ", "batches ", "adjustments "} {
			if bytes.HasPrefix(line, []byte(bucket)) {
				n += len(line)
			}
		}
	}
	return n
}

// withoutOutbox leaves out rows that wait for a relay.
func withoutOutbox(dump []byte) (out []byte) {
	for line := range bytes.Lines(dump) {
		if !bytes.HasPrefix(line, []byte("outbox_")) {
			out = append(out, line...)
		}
	}
	return out
}

// An id that is stamped as far ahead as possible is known as long as it may come
// again, to the nanosecond; its segment goes with the tick after.
func TestLastAcceptableInstant(t *testing.T) {
	h := newHorizon(t)
	defer func() { _ = h.store.Close() }()
	e := h.event(testNow)
	e.Timestamp = testNow + schemas.MaxEventAhead
	h.tick(testNow - testDay)
	h.ingest("first", testNow, e)
	last := e.Timestamp + schemas.MaxEventAge // the last instant at which e is not too old
	for at := testNow; at < last; at += testHour {
		h.tick(at)
		h.published()
	}
	// Its segment ends at testNow: the very tick that ends it is the event's own instant.
	h.tick(last)
	h.published()
	if before, ok, err := h.store.Expirable(); err != nil || ok && before >= testNow {
		t.Fatalf("what ended at %d may expire, %v", before, err)
	}
	if o := h.expire(last, testNow); o.Code != schemas.CodeSegmentKept {
		t.Errorf("expired at the last acceptable instant: %+v", o)
	}
	if o := h.ingest("again", last, e); o.Duplicates != 1 {
		t.Errorf("sent again at the last instant: %+v", o)
	}
	h.tick(last + 1)
	h.published()
	before, ok, err := h.store.Expirable()
	if err != nil || !ok || before != testNow {
		t.Fatalf("a nanosecond later %d may expire, %v %v", before, ok, err)
	}
	if o := h.expire(last+1, before); o.Code != "" {
		t.Errorf("%+v", o)
	}
	if o := h.ingest("too late", last+1, e); o.Rejected != 1 || o.Errors[0].Code != schemas.CodeTimestampTooOld {
		t.Errorf("sent after that: %+v", o)
	}
	if o := h.setClock(last+1, last); o.Code != schemas.CodeClockKept {
		t.Errorf("the time may go back to when the id was needed: %+v", o)
	}
}

// A jump of the clock expires nothing until a day of ticks has followed, and as long
// as nothing has expired the time may be set back, and every id is known.
func TestJumpExpiresNothing(t *testing.T) {
	for _, jump := range []int64{2 * testHour, 40 * testDay} {
		h := newHorizon(t)
		at := testNow
		var old []schemas.UsageEvent
		for hour := range int64(10 * 24) {
			h.tick(at)
			h.published()
			if hour%6 == 0 {
				e := h.event(at)
				e.Timestamp = at
				old = append(old, e)
				h.ingest(fmt.Sprint("b-", hour), at, e)
			}
			at += testHour
		}
		truth := at
		at += jump
		none := func(what string) {
			t.Helper()
			h.published()
			if before, ok, err := h.store.Expirable(); ok || err != nil {
				t.Fatalf("%s: what ended at %d may expire, %v", what, before, err)
			}
			if o := h.expire(at, at-40*testDay); o.Code != schemas.CodeSegmentKept {
				t.Fatalf("%s: %+v", what, o)
			}
		}
		for n := range 24 {
			h.tick(at)
			none(fmt.Sprint("tick ", n))
			for range 30 {
				h.tick(at)
			}
			at += testHour
		}
		if h.store.Clock().Steps != 1 {
			t.Errorf("%+v", h.store.Clock())
		}
		again := func(at int64) {
			t.Helper()
			for i, e := range old {
				if o := h.ingest(fmt.Sprint("again-", at, "-", i), at, e); o.Duplicates != 1 {
					t.Fatalf("an event of hour %d, sent again: %+v", 6*i, o)
				}
			}
		}
		if o := h.setClock(truth, truth); o.Code != "" || h.store.Now() != truth {
			t.Fatalf("set back: %+v", o)
		}
		again(truth)
		at = truth
		h.tick(at)
		none("set back")
		again(at)
		if c := h.store.Clock(); c.Steps != 2 || c.Peak <= truth {
			t.Errorf("%+v", c)
		}
		h.restart()
		again(at)
		if err := h.store.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// After a jump and a day of ticks segments do expire, and then the time stays: what
// is gone would be counted again.
func TestClockStaysAfterExpiry(t *testing.T) {
	h := newHorizon(t)
	defer func() { _ = h.store.Close() }()
	e := h.event(testNow)
	e.Timestamp = testNow
	at := testNow
	for range 30 {
		h.tick(at)
		at += testHour
	}
	h.ingest("b", at, e)
	at += 40 * testDay
	for range 26 {
		h.tick(at)
		h.published()
		at += testHour
	}
	before, ok, err := h.store.Expirable()
	if err != nil || !ok {
		t.Fatalf("%v %v", ok, err)
	}
	if o := h.expire(at, before); o.Code != "" {
		t.Fatalf("%+v", o)
	}
	if o := h.setClock(testNow+31*testHour, testNow+31*testHour); o.Code != schemas.CodeClockKept || h.store.Now() < at {
		t.Errorf("%+v", o)
	}
	if o := h.setClock(at, before+schemas.SegmentKept+1); o.Code != "" {
		t.Errorf("%+v", o)
	}
	if h.store.Clock().ExpiredUntil != before {
		t.Errorf("%+v", h.store.Clock())
	}
}

// What was accepted while handler time was ahead may come again when that time has
// really come: it is kept, although the time was set back since.
func TestEventsOfAJumpAreKept(t *testing.T) {
	h := newHorizon(t)
	defer func() { _ = h.store.Close() }()
	h.tick(testNow)
	ahead := h.event(testNow)
	ahead.Timestamp = testNow + 40*testDay
	if o := h.ingest("ahead", ahead.Timestamp, ahead); o.Accepted != 1 {
		t.Fatalf("%+v", o)
	}
	if o := h.setClock(testNow+1, testNow+1); o.Code != "" {
		t.Fatalf("%+v", o)
	}
	for at := testNow; at < ahead.Timestamp; at += testHour {
		h.tick(at)
		h.published()
		before, ok, err := h.store.Expirable()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			h.expire(at, before)
		}
	}
	if o := h.ingest("again", ahead.Timestamp, ahead); o.Duplicates != 1 {
		t.Errorf("sent again in its own time: %+v", o)
	}
}

// An id may be used again once its event has expired. What corrected the old event,
// and is kept for longer, says nothing about the new one.
func TestReusedIDIsNotCorrected(t *testing.T) {
	for name, correct := range map[string]func(at int64) schemas.CommandFrame{
		"void": func(at int64) schemas.CommandFrame { return voidFrame("old", at, "a", "x", "") },
		"amend": func(at int64) schemas.CommandFrame {
			return amendFrame("old", at, "a", "x", "", schemas.UsageValues{Given: schemas.GivenInput, InputTokens: 100})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 10))
			defer func() { _ = w.store.Close() }()
			at := testNow
			event := func(tokens int64) schemas.UsageEvent {
				return schemas.UsageEvent{EventID: "x", Timestamp: at, AppID: "a", UserID: "u", Model: "m", InputTokens: tokens, TotalTokens: tokens}
			}
			w.tick(at)
			w.ingest("first", at, event(1000))
			at += testDay
			w.tick(at)
			at += 30 * testDay
			w.apply(correct(at))
			at += 6 * testDay
			w.tick(at)
			for range schemas.TicksAfterStep { // until the steps are forgotten
				at += testHour
				w.tick(at)
			}
			if o := w.expire(at, testNow+testDay); o.Code != "" {
				t.Fatalf("%+v", o)
			}
			before := totalsOf(t, w.store, "a")
			if o := w.ingest("second", at, event(7)); o.Accepted != 1 {
				t.Fatalf("%+v", o)
			}
			page, err := w.store.Events(t.Context(), schemas.EventQuery{AppID: "a", From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 10})
			if err != nil || len(page.Events) != 1 || page.Events[0].Status != schemas.EventCounted {
				t.Errorf("events %+v, %v", page.Events, err)
			}
			w.apply(amendFrame("new", at, "a", "x", "", schemas.UsageValues{Given: schemas.GivenInput, InputTokens: 10}))
			if got := totalsOf(t, w.store, "a").Minus(before); got.InputTokens != 10 || got.Events != 1 {
				t.Errorf("7 amended to 10 count for %+v", got)
			}
		})
	}
}
