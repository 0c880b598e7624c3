package handlers

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"grout/schemas"
	"grout/store"
)

func TestJudgeAge(t *testing.T) {
	now := testNow
	const oldest, newest = 34 * 24 * 3600e9, 24 * 3600e9 // CONTRACT §7
	for name, c := range map[string]struct {
		timestamp int64
		want      schemas.Code
	}{
		"now":                     {now, ""},
		"24 hours ahead":          {now + newest, ""},
		"1 ns more than 24 hours": {now + newest + 1, schemas.CodeTimestampInFuture},
		"1 ns less than 24 hours": {now + newest - 1, ""},
		"34 days old":             {now - oldest, ""},
		"1 ns older than 34 days": {now - oldest - 1, schemas.CodeTimestampTooOld},
		"1 ns less than 34 days":  {now - oldest + 1, ""},
		"the last instant":        {1<<63 - 1, schemas.CodeTimestampInFuture},
		"the first instant":       {-1 << 63, schemas.CodeTimestampTooOld},
	} {
		code, detail := judgeAge(c.timestamp, now)
		if code != c.want || (code == "") != (detail == "") {
			t.Errorf("%s: %q %q, want %q", name, code, detail, c.want)
		}
	}
}

func TestDecideParts(t *testing.T) {
	at := store.Place{Seq: 9, Index: 2}
	first, second := store.Place{Seq: 1}, store.Place{Seq: 2, Index: 1}
	in := func(app string, digest byte) schemas.BatchPart {
		return schemas.BatchPart{AppID: app, Digest: [16]byte{digest}, Rejected: 7}
	}
	part := func(app string, digest byte, outcome store.PartOutcome, place store.Place, accepted uint32) store.Part {
		return store.Part{AppID: app, Digest: [16]byte{digest}, Outcome: outcome, First: place, Accepted: accepted}
	}
	prior := &store.Batch{BatchID: "b", Parts: []store.Part{
		part("a", 1, store.PartNew, second, 10),
		part("b", 2, store.PartReplayed, first, 20),
		part("c", 9, store.PartConflict, second, 0),
		part("c", 3, store.PartCarried, first, 30),
		part("d", 8, store.PartConflict, second, 0), // never applied
	}}
	for name, c := range map[string]struct {
		prior *store.Batch
		parts []schemas.BatchPart
		want  []store.Part
	}{
		"the first of its id": {
			nil,
			[]schemas.BatchPart{in("a", 1), in("", 5)},
			[]store.Part{part("a", 1, store.PartNew, at, 0), part("", 5, store.PartNew, at, 0)},
		},
		"the same again": {
			prior,
			[]schemas.BatchPart{in("b", 2), in("a", 1), in("c", 3)},
			[]store.Part{part("b", 2, store.PartReplayed, first, 20), part("a", 1, store.PartReplayed, second, 10), part("c", 3, store.PartReplayed, first, 30)},
		},
		"other content": {
			prior,
			[]schemas.BatchPart{in("a", 2), in("c", 9)},
			[]store.Part{part("a", 2, store.PartConflict, at, 0), part("c", 9, store.PartConflict, at, 0)},
		},
		"another app: the record carries what is known": {
			prior,
			[]schemas.BatchPart{in("e", 1)},
			[]store.Part{
				part("e", 1, store.PartNew, at, 0), part("a", 1, store.PartCarried, second, 10),
				part("b", 2, store.PartCarried, first, 20), part("c", 3, store.PartCarried, first, 30),
			},
		},
		"an app that was only ever refused is new": {
			prior,
			[]schemas.BatchPart{in("d", 8)},
			[]store.Part{
				part("d", 8, store.PartNew, at, 0), part("a", 1, store.PartCarried, second, 10),
				part("b", 2, store.PartCarried, first, 20), part("c", 3, store.PartCarried, first, 30),
			},
		},
		"new, replayed and in conflict at once": {
			prior,
			[]schemas.BatchPart{in("a", 1), in("e", 1), in("b", 9)},
			[]store.Part{
				part("a", 1, store.PartReplayed, second, 10), part("e", 1, store.PartNew, at, 0), part("b", 9, store.PartConflict, at, 0),
				part("b", 2, store.PartCarried, first, 20), part("c", 3, store.PartCarried, first, 30),
			},
		},
	} {
		if d := cmp.Diff(c.want, decideParts(c.prior, c.parts, at)); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

func TestCarriedPartsAreBounded(t *testing.T) {
	prior := &store.Batch{}
	for i := range 2 * maxCarriedParts {
		prior.Parts = append(prior.Parts, store.Part{AppID: fmt.Sprint(i)})
	}
	got := decideParts(prior, []schemas.BatchPart{{AppID: "new"}}, store.Place{})
	if len(got) != maxCarriedParts || got[0].Outcome != store.PartNew || got[1].AppID != "0" {
		t.Errorf("%d parts, the first %+v", len(got), got[0])
	}
}

// What a batch id stands for in an app is what was applied under it first,
// whatever commands came in between.
func TestDecidePartsRemembersTheFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type applied struct {
			digest byte
			place  store.Place
		}
		want := map[string]applied{}
		var newest *store.Batch
		for seq := range rapid.IntRange(1, 12).Draw(t, "commands") {
			at := store.Place{Seq: uint64(seq + 1)}
			apps := rapid.Permutation([]string{"a", "b", "c", ""}).Draw(t, "apps")
			var parts []schemas.BatchPart
			for _, app := range apps[:rapid.IntRange(1, 4).Draw(t, "parts")] {
				parts = append(parts, schemas.BatchPart{AppID: app, Digest: [16]byte{rapid.ByteRange(1, 2).Draw(t, "digest")}})
			}
			record := &store.Batch{Parts: decideParts(newest, parts, at)}
			fresh := false
			for i, p := range parts {
				known, ok := want[p.AppID]
				outcome, first := store.PartNew, at
				switch {
				case ok && known.digest == p.Digest[0]:
					outcome, first = store.PartReplayed, known.place
				case ok:
					outcome = store.PartConflict
				default:
					want[p.AppID] = applied{p.Digest[0], at}
					fresh = true
				}
				if got := record.Parts[i]; got.AppID != p.AppID || got.Digest != p.Digest || got.Outcome != outcome || got.First != first {
					t.Fatalf("part %d of command %d: %+v, want %v of %v", i, seq, got, outcome, first)
				}
			}
			if fresh { // then the id points to this record
				newest = record
			}
			for app, w := range want {
				if p := newest.Known(app); p == nil || p.Digest[0] != w.digest || p.First != w.place {
					t.Fatalf("after command %d app %q stands for %+v, want %+v", seq, app, p, w)
				}
			}
		}
	})
}

// given is a partition at work in a test.
type given struct {
	t     *testing.T
	store *store.Store
	table *Table
	seq   uint64
}

func newGiven(t *testing.T) *given {
	t.Helper()
	s := openStore(t, t.TempDir()+"/s.db", 0, 1, 100)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &given{t: t, store: s, table: NewTable()}
}

// ingest applies one group of ingest commands and gives their outcomes.
func (g *given) ingest(batches ...schemas.ParsedBatch) []schemas.IngestOutcome {
	g.t.Helper()
	g.seq++
	var frames []schemas.CommandFrame
	for i := range batches {
		frames = append(frames, schemas.CommandFrame{
			Kind: schemas.UsageIngest.Name, ID: fmt.Sprintf("c-%d-%d", g.seq, i), Source: "//mozaiks.ai/grout/test", Accepted: testNow,
			Payload: schemas.SplitBatch(&batches[i], batches[i].BatchID, false, 1)[0].EncodePayload(nil),
		})
	}
	answers := g.apply(1, rawGroup(g.seq, frames))[fmt.Sprintf("group-%d", g.seq)]
	out := make([]schemas.IngestOutcome, len(answers))
	for i := range answers {
		if err := out[i].Decode(answers[i]); err != nil {
			g.t.Fatal(err)
		}
	}
	return out
}

func (g *given) events(app string) int64 {
	g.t.Helper()
	r, err := g.store.Usage(g.t.Context(), schemas.UsageQuery{AppID: app, To: schemas.LastHour})
	if err != nil {
		g.t.Fatal(err)
	}
	return r.Totals.Events
}

func event(index uint32, app, id string, tokens int64) schemas.UsageEvent {
	return schemas.UsageEvent{
		Index: index, EventID: id, AppID: app, UserID: "u", Model: "m", Timestamp: testNow, InputTokens: tokens, TotalTokens: tokens,
	}
}

func refusedEvent(index uint32, app string) schemas.RejectedEvent {
	return schemas.RejectedEvent{
		EventError: schemas.EventError{Index: index, AppID: app, Code: schemas.CodeMissingField, Detail: "required and missing: model"}, Digest: uint64(index),
	}
}

func wantOutcome(t *testing.T, what string, got []schemas.IngestOutcome, want ...schemas.IngestOutcome) {
	t.Helper()
	for i := range got {
		for j := range got[i].Errors {
			got[i].Errors[j].Detail = "" // texts are for people
		}
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("%s:\n%s", what, d)
	}
}

// One batch id in the hands of two apps.
func TestBatchIDOfSeveralApps(t *testing.T) {
	g := newGiven(t)
	batch := func(events ...schemas.UsageEvent) schemas.ParsedBatch {
		return schemas.ParsedBatch{BatchID: "B", Events: events}
	}
	a1, a2, b1 := event(0, "a", "e1", 1), event(1, "a", "e2", 1), event(0, "b", "e1", 1)
	first := schemas.IngestOutcome{Accepted: 2}
	replayed := schemas.IngestOutcome{Accepted: 2, Replayed: true}
	wantOutcome(t, "a", g.ingest(batch(a1, a2)), first)
	wantOutcome(t, "then b", g.ingest(batch(b1)), schemas.IngestOutcome{Accepted: 1})
	other := event(0, "a", "e3", 1)
	wantOutcome(t, "then a with other content", g.ingest(batch(other)), schemas.IngestOutcome{
		Rejected: 1, Conflict: true, Errors: []schemas.EventError{{EventID: "e3", AppID: "a", Code: schemas.CodeBatchConflict}},
	})
	wantOutcome(t, "then a as before, in another order", g.ingest(batch(a2, a1)), replayed)
	wantOutcome(t, "both as before", g.ingest(batch(b1, a1, a2)), schemas.IngestOutcome{Accepted: 3, Replayed: true})
	other.Index = 1
	wantOutcome(t, "b as before and a with other content", g.ingest(batch(b1, other)), schemas.IngestOutcome{
		Accepted: 1, Rejected: 1, Errors: []schemas.EventError{{Index: 1, EventID: "e3", AppID: "a", Code: schemas.CodeBatchConflict}},
	})
	wantOutcome(t, "c is new", g.ingest(batch(event(0, "c", "e1", 1), a1, a2)), schemas.IngestOutcome{Accepted: 3})
	wantOutcome(t, "twice in one group", g.ingest(batch(event(0, "d", "e1", 1)), batch(event(0, "d", "e1", 1))),
		schemas.IngestOutcome{Accepted: 1}, schemas.IngestOutcome{Accepted: 1, Replayed: true})
	for app, want := range map[string]int64{"a": 2, "b": 1, "c": 1, "d": 1} {
		if got := g.events(app); got != want {
			t.Errorf("app %s has %d events, want %d", app, got, want)
		}
	}
}

// A replayed batch gives the first answer, refused events included.
func TestReplayGivesTheFirstAnswer(t *testing.T) {
	g := newGiven(t)
	old := event(2, "a", "old", 1)
	old.Timestamp = testNow - schemas.MaxEventAge - 1
	in := func() schemas.ParsedBatch {
		return schemas.ParsedBatch{
			BatchID:  "B",
			Events:   []schemas.UsageEvent{event(0, "a", "e1", 1), event(1, "a", "e1", 1), old, event(4, "b", "e1", 1)},
			Rejected: []schemas.RejectedEvent{refusedEvent(3, "a"), refusedEvent(5, "")},
		}
	}
	want := schemas.IngestOutcome{Accepted: 2, Duplicates: 1, Rejected: 3, Errors: []schemas.EventError{
		{Index: 2, EventID: "old", AppID: "a", Code: schemas.CodeTimestampTooOld},
		{Index: 3, AppID: "a", Code: schemas.CodeMissingField},
		{Index: 5, Code: schemas.CodeMissingField},
	}}
	wantOutcome(t, "first", g.ingest(in()), want)
	want.Replayed = true
	wantOutcome(t, "again", g.ingest(in()), want)
}

func TestConflictsAreListedUpTo1000(t *testing.T) {
	g := newGiven(t)
	const n = 1500
	var first, second schemas.ParsedBatch
	for i := range uint32(n) {
		first.Events = append(first.Events, event(i, "a", fmt.Sprint(i), 1))
		if i%5 == 0 { // among them what the parser refused
			second.Rejected = append(second.Rejected, refusedEvent(i, "a"))
			continue
		}
		second.Events = append(second.Events, event(i, "a", fmt.Sprint(i), 2))
	}
	first.BatchID, second.BatchID = "B1", "B2"
	wantOutcome(t, "first", g.ingest(first), schemas.IngestOutcome{Accepted: n})
	got := g.ingest(second)[0]
	if got.Accepted != 0 || got.Rejected != n || len(got.Errors) != schemas.MaxListedErrors || got.Conflict {
		t.Fatalf("%d accepted, %d refused, %d listed", got.Accepted, got.Rejected, len(got.Errors))
	}
	for i, e := range got.Errors {
		want := schemas.CodeConflict
		if i%5 == 0 {
			want = schemas.CodeMissingField
		}
		if e.Index != uint32(i) || e.Code != want {
			t.Fatalf("error %d: %+v", i, e)
		}
	}
	if got := g.events("a"); got != n {
		t.Errorf("%d events, want %d", got, n)
	}
	facts := g.rejectedFacts()
	if len(facts) != 1 || facts[0].Count != n || len(facts[0].Rejected) != schemas.MaxListedErrors {
		t.Errorf("%d facts", len(facts))
	}
	// All of them again under that id and another: the same answers.
	if again := g.ingest(second)[0]; !again.Replayed || len(again.Errors) != schemas.MaxListedErrors || again.Rejected != n {
		t.Errorf("replayed %v, %d refused, %d listed", again.Replayed, again.Rejected, len(again.Errors))
	}
}

func TestUsageRejectedFacts(t *testing.T) {
	g := newGiven(t)
	g.ingest(schemas.ParsedBatch{BatchID: "B0", Events: []schemas.UsageEvent{event(0, "a", "e1", 1)}})
	future := event(1, "b", "f", 1)
	future.Timestamp = testNow + schemas.MaxEventAhead + 1
	g.ingest(
		schemas.ParsedBatch{BatchID: "B1", Events: []schemas.UsageEvent{event(0, "a", "e1", 2), future}, Rejected: []schemas.RejectedEvent{refusedEvent(2, "a"), refusedEvent(3, "")}},
		schemas.ParsedBatch{BatchID: "B0", Events: []schemas.UsageEvent{event(0, "a", "e9", 1)}, Rejected: []schemas.RejectedEvent{refusedEvent(1, "a")}},
		schemas.ParsedBatch{BatchID: "B1", Events: []schemas.UsageEvent{future}}, // replayed: for b it is the same batch
		schemas.ParsedBatch{BatchID: "B2", Events: []schemas.UsageEvent{event(0, "c", "e1", 1)}},
	)
	got := g.rejectedFacts()
	for i := range got {
		for j := range got[i].Rejected {
			if got[i].Rejected[j].Detail == "" {
				t.Errorf("%+v has no detail", got[i].Rejected[j])
			}
			got[i].Rejected[j].Detail = ""
		}
	}
	want := []schemas.UsageRejectedData{
		{AppID: "b", Count: 1, Rejected: []schemas.RejectedInBatch{{BatchID: "B1", Index: 1, EventID: "f", Code: schemas.CodeTimestampInFuture}}},
		{AppID: "a", Count: 4, Rejected: []schemas.RejectedInBatch{
			{BatchID: "B1", Index: 0, EventID: "e1", Code: schemas.CodeConflict},
			{BatchID: "B1", Index: 2, Code: schemas.CodeMissingField},
			{BatchID: "B0", Index: 0, EventID: "e9", Code: schemas.CodeBatchConflict},
			{BatchID: "B0", Index: 1, Code: schemas.CodeBatchConflict},
		}},
	}
	sortByApp := cmpopts.SortSlices(func(a, b schemas.UsageRejectedData) bool { return a.AppID < b.AppID })
	if d := cmp.Diff(want, got, sortByApp); d != "" {
		t.Error(d)
	}
	// A replay refuses nothing again.
	g.ingest(schemas.ParsedBatch{BatchID: "B1", Events: []schemas.UsageEvent{event(0, "a", "e1", 2)}, Rejected: []schemas.RejectedEvent{refusedEvent(2, "a")}})
	if n := len(g.rejectedFacts()); n != len(want) {
		t.Errorf("%d facts after a replay, want %d", n, len(want))
	}
}
