package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"grout/schemas"
	"grout/store"
)

// mendedAt is the handler time from which on the handler of letterHistory works.
const mendedAt = 100

// breaks lets a handler fail, after it has written something, until handler time comes to
// an instant: as if a release that mends it came then.
func breaks(t *Table, kind string) {
	own := t.rows[kind]
	t.rows[kind] = row{decode: own.decode, apply: func(tx *store.Tx, c Command, v any) (Result, error) {
		r, err := own.apply(tx, c, v)
		if err == nil && c.Now < testNow+mendedAt {
			err = errors.New("the test says so")
		}
		return r, err
	}}
}

// foreign is a command of somebody else.
func foreign(id, batch string, at int64) schemas.CommandFrame {
	f := batchFrames(batch, testNow+at, 1, event(0, "a", "e-"+id, 5))[0]
	f.ID, f.Source, f.AppID, f.Time = id, "//example.org/p", "a", testNow
	return f
}

func retryFrame(id string, at int64, f schemas.CommandFrame) schemas.CommandFrame {
	r := ownFrame(schemas.RetryLetter.Name, testNow+at, (&schemas.LetterRetry{ID: id, Frame: f}).EncodePayload(nil))
	r.AppID = f.AppID
	return r
}

func dropFrame(id string, at int64) schemas.CommandFrame {
	return ownFrame(schemas.DropLetter.Name, testNow+at, (&schemas.LetterDrop{ID: id}).EncodePayload(nil))
}

func lettersOf(t *testing.T, s *store.Store, q schemas.LetterQuery) []schemas.Letter {
	t.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	page, err := s.Letters(&q)
	if err != nil {
		t.Fatal(err)
	}
	return page.Letters
}

func saidOf(t *testing.T, outcome []byte) (o schemas.CommandOutcome, l schemas.LetterData) {
	t.Helper()
	if err := o.Decode(outcome); err != nil {
		t.Fatal(err)
	}
	if o.Code == "" {
		if err := json.Unmarshal(o.Body, &l); err != nil {
			t.Fatal(err)
		}
	}
	return o, l
}

// TestLetterIsRetriedOnce: a command dies, dies again with its letter and from its sender,
// which is one letter all along, and is carried out once; and the log says the same
// however it is cut into transactions.
func TestLetterIsRetriedOnce(t *testing.T) {
	g := newGiven(t)
	breaks(g.table, schemas.UsageIngest.Name)
	first := foreign("c-1", "b-1", 1)
	second := foreign("c-2", "b-2", 2)
	var stream []schemas.StreamMessage
	send := func(frames ...schemas.CommandFrame) [][]byte {
		m := rawGroup(uint64(len(stream)+1), frames)
		stream = append(stream, m)
		for _, outcomes := range g.apply(1, m) {
			return outcomes
		}
		return nil
	}
	send(first, second)
	list := lettersOf(t, g.store, schemas.LetterQuery{Status: schemas.LetterWaiting})
	if len(list) != 2 || list[1].Kind != schemas.UsageIngest.Name || list[1].Code != schemas.CodePoison || list[1].Cause.ID != "c-1" || list[1].Attempts != 1 {
		t.Fatalf("%+v", list)
	}
	one, two := list[1].ID, list[0].ID
	if _, l := saidOf(t, send(retryFrame(one, 3, first))[0]); l.Status != "waiting" || l.Attempts != 2 || l.Code != schemas.CodePoison {
		t.Errorf("died again: %+v", l)
	}
	again := first
	again.Accepted += 9
	send(again) // by its sender
	if list := lettersOf(t, g.store, schemas.LetterQuery{}); len(list) != 2 || list[1].Attempts != 3 {
		t.Errorf("after its sender has sent it again: %+v", list)
	}
	if n := len(g.outbox(schemas.DestDeadLetters)); n != 2 {
		t.Errorf("%d letters in the outbox", n)
	}
	if n := len(g.outbox(schemas.DestFacts)); n != 0 {
		t.Errorf("%d facts of commands that died", n)
	}

	_, l := saidOf(t, send(retryFrame(one, mendedAt, first))[0])
	if l.Status != "retried" || l.Attempts != 4 || l.Outcome == nil || string(l.Outcome.Result) != `{"accepted":1,"duplicates":0,"rejected":0}` {
		t.Fatalf("retried: %+v", l)
	}
	facts := g.outbox(schemas.DestFacts)
	if len(facts) != 1 || facts[0].Type() != schemas.TypeOf(schemas.UsageRecorded.Name) || facts[0].Extensions()["causationid"] != "c-1" || facts[0].Extensions()["causationsource"] != "//example.org/p" {
		t.Fatalf("facts: %v", facts)
	}
	o := send(retryFrame(one, mendedAt+1, first), again, dropFrame(one, mendedAt+2))
	if _, l := saidOf(t, o[0]); l.Status != "retried" || l.Attempts != 4 {
		t.Errorf("retried twice: %+v", l)
	}
	if c, _ := saidOf(t, o[2]); c.Code != schemas.CodeLetterClosed {
		t.Errorf("dropped after it was retried: %+v", c)
	}
	if n := len(g.outbox(schemas.DestFacts)); n != 1 {
		t.Errorf("%d facts after it was retried twice and sent again", n)
	}

	o = send(dropFrame(two, mendedAt+3), dropFrame(two, mendedAt+4), retryFrame(two, mendedAt+5, second), dropFrame("nobody", mendedAt+6))
	for i, want := range []schemas.Code{"", "", schemas.CodeLetterClosed, schemas.CodeNotFound} {
		if c, _ := saidOf(t, o[i]); c.Code != want {
			t.Errorf("command %d about what was dropped: %+v, want %q", i, c, want)
		}
	}
	if n := lettersOf(t, g.store, schemas.LetterQuery{Status: schemas.LetterWaiting}); len(n) != 0 {
		t.Errorf("%+v wait", n)
	}
	wantSameReplays(t, g.store, stream)
}

func wantSameReplays(t *testing.T, s *store.Store, stream []schemas.StreamMessage) {
	t.Helper()
	want := dump(t, s)
	for _, per := range []int{1, 7, 64} {
		r := &given{t: t, store: openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 100), table: NewTable()}
		breaks(r.table, schemas.UsageIngest.Name)
		r.apply(per, stream...)
		if got := dump(t, r.store); !bytes.Equal(got, want) {
			t.Errorf("%d messages in a transaction: %s", per, firstDifference(want, got))
		}
		if err := r.store.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestWhatIsNotRetried: internal kinds and payloads that cannot be read stay letters.
func TestWhatIsNotRetried(t *testing.T) {
	g := newGiven(t)
	frames := []schemas.CommandFrame{
		{Kind: "no.such", AppID: "a", ID: "1", Source: "//test", Accepted: testNow, Payload: []byte{1}},
		{Kind: schemas.ClockTick.Name, ID: "2", Source: "//test", Accepted: testNow, Payload: []byte{9}},
		{Kind: schemas.UsageVoid.Name, AppID: "a", ID: "3", Source: "//test", Accepted: testNow, Payload: []byte{9}},
	}
	g.apply(1, rawGroup(1, frames))
	list := lettersOf(t, g.store, schemas.LetterQuery{Status: schemas.LetterWaiting})
	if len(list) != len(frames) {
		t.Fatalf("%+v", list)
	}
	for i, f := range frames {
		letter := list[len(list)-1-i]
		answers := g.apply(1, rawGroup(uint64(2+i), []schemas.CommandFrame{retryFrame(letter.ID, int64(i), f)}))
		for _, outcomes := range answers {
			_, l := saidOf(t, outcomes[0])
			want := schemas.CodeUnknownKind
			if i == 2 {
				want = schemas.CodeUndecodable
			}
			if l.Status != "waiting" || l.Attempts != 2 || l.Code != want {
				t.Errorf("%s: %+v", f.Kind, l)
			}
		}
	}
	for _, kind := range schemas.CommandKinds() {
		public := false
		for _, p := range schemas.PublicKinds() {
			public = public || p == kind
		}
		if schemas.Retryable(kind) != public {
			t.Errorf("%s: retryable %v, public %v", kind, schemas.Retryable(kind), public)
		}
	}
}

// TestLetterIsFiledAnew: a letter stands for the same command for a week.
func TestLetterIsFiledAnew(t *testing.T) {
	g := newGiven(t)
	f := schemas.CommandFrame{Kind: "no.such", AppID: "a", ID: "1", Source: "//example.org/p", Accepted: testNow}
	send := func(seq uint64, at int64) {
		next := f
		next.Accepted = at
		g.apply(1, rawGroup(seq, []schemas.CommandFrame{next}))
	}
	send(1, testNow)
	send(2, testNow+schemas.LetterRefiled-1)
	if list := lettersOf(t, g.store, schemas.LetterQuery{}); len(list) != 1 || list[0].Attempts != 2 || list[0].FiledAt != testNow {
		t.Fatalf("%+v", list)
	}
	send(3, testNow+schemas.LetterRefiled)
	list := lettersOf(t, g.store, schemas.LetterQuery{})
	if len(list) != 1 || list[0].Attempts != 3 || list[0].FiledAt != testNow+schemas.LetterRefiled {
		t.Fatalf("%+v", list)
	}
	letters := g.outbox(schemas.DestDeadLetters)
	var d schemas.DeadLetterData
	if len(letters) != 2 || json.Unmarshal(letters[1].Data(), &d) != nil || d.Attempts != 3 {
		t.Fatalf("%d letters, the last with %d attempts", len(letters), d.Attempts)
	}
}

// TestLettersGoWithTheirSegment: after 36 days nothing is left of a letter, and what waits
// is counted right.
func TestLettersGoWithTheirSegment(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 400)
	t.Cleanup(func() { _ = s.Close() })
	w := newWorld(t, s)
	die := func(id string, at int64) {
		f := ownFrame("no.such", at, []byte{1})
		f.ID = id
		w.apply(f)
	}
	at := testNow
	die("old", at)
	die("dropped", at)
	list := lettersOf(t, s, schemas.LetterQuery{})
	w.own(schemas.DropLetter.Name, at, (&schemas.LetterDrop{ID: list[0].ID}).EncodePayload(nil))
	hours := []int64{25, 37 * 24} // both are steps of the clock, behind which ticks are waited for
	for range schemas.TicksAfterStep + 2 {
		hours = append(hours, 1)
	}
	for _, n := range hours {
		at += n * testHour
		w.tick(at)
		w.published()
		if before, ok, err := s.Expirable(); err != nil {
			t.Fatal(err)
		} else if ok {
			w.expire(at, before)
		}
	}
	die("new", at)
	left := lettersOf(t, s, schemas.LetterQuery{})
	if n, filed := s.LettersWaiting(); n != 1 || filed != 3 || len(left) != 1 || left[0].Cause.ID != "new" {
		t.Errorf("%d wait of %d filed, known are %+v", n, filed, left)
	}
	for _, l := range list {
		if known, err := s.Letter(l.ID); known != nil || err != nil {
			t.Errorf("%s is known: %+v %v", l.Cause.ID, known, err)
		}
	}
}
