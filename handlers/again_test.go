package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"grout/schemas"
	"grout/store"
)

const crm = "//crm.example"

// publishedFrame is a command as its pump makes it.
func publishedFrame(kind, app, id string, at int64, payload []byte) schemas.CommandFrame {
	return schemas.CommandFrame{Kind: kind, AppID: app, ID: id, Source: crm, Time: at, Accepted: at, Payload: payload}
}

func publishedVoid(id string, at int64, app, event string) schemas.CommandFrame {
	return publishedFrame(schemas.UsageVoid.Name, app, id, at, (&schemas.EventVoid{EventID: event}).EncodePayload(nil))
}

func refusalOf(t rapid.TB, outcome []byte) schemas.Code {
	t.Helper()
	var o schemas.CommandOutcome
	if err := o.Decode(outcome); err != nil {
		t.Fatalf("outcome %x: %v", outcome, err)
	}
	return o.Code
}

// factIDs are those of all facts; none is there twice.
func factIDs(t rapid.TB, s *store.Store) (ids []string) {
	t.Helper()
	messages, err := s.Facts(schemas.DestFacts, schemas.Position{}, 1<<20, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		var f struct{ ID, Source string }
		if err := json.Unmarshal(m.Data, &f); err != nil {
			t.Fatal(err)
		}
		if id := f.Source + " " + f.ID; slices.Contains(ids, id) {
			t.Fatalf("two facts have the id %s", id)
		}
		ids = append(ids, f.Source+" "+f.ID)
	}
	return ids
}

// A command of somebody else is known by its app, source and id: what comes again does
// nothing, and something else with the same id is refused, once.
func TestPublishedCommandsAreDoneOnce(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 1000)
	defer s.Close()
	at := testNow
	b := adjustEvent("e-1")
	b.AppID = "b"
	applyGroups(t, s, [][]schemas.CommandFrame{{ingestFrame("first", at, adjustEvent("e-1"), adjustEvent("e-2"), b)}}, 1)
	other := publishedVoid("1", at, "a", "e-1")
	other.Source = "//elsewhere"
	grouts := publishedVoid("1", at, "a", "e-1")
	grouts.Source = "//mozaiks.ai/grout/http"
	late := publishedVoid("old", at, "a", "e-9")
	late.Time = at - schemas.MaxEventAge - 1
	early := publishedVoid("new", at, "a", "e-9")
	early.Time = at + schemas.MaxEventAhead + 2*int64(time.Hour)
	refusal := schemas.CommandRefusal{Kind: "plugin.execute", Digest: [16]byte{1}, Code: schemas.CodeNotFound, Detail: "Plugin 'x' not found or disabled", Subject: "run/r"}
	changed := refusal
	changed.Digest[0]++
	for _, c := range []struct {
		name    string
		command schemas.CommandFrame
		code    schemas.Code
		facts   int
	}{
		{"first", publishedVoid("1", at, "a", "e-1"), "", 1},
		{"again", publishedVoid("1", at, "a", "e-1"), "", 0},
		{"again, accepted later", publishedVoid("1", at+int64(time.Hour), "a", "e-1"), "", 0},
		{"with other data", publishedVoid("1", at, "a", "e-2"), schemas.CodeCommandConflict, 1},
		{"and those again", publishedVoid("1", at, "a", "e-2"), schemas.CodeCommandConflict, 0},
		{"with a third", publishedVoid("1", at, "a", "e-3"), schemas.CodeCommandConflict, 1},
		{"the first still stands", publishedVoid("1", at, "a", "e-1"), "", 0},
		{"of another app", publishedVoid("1", at, "b", "e-1"), "", 1},
		{"of another source, done before", other, "", 0},
		{"refused", publishedVoid("2", at, "a", "e-9"), schemas.CodeNotFound, 1},
		{"refused again", publishedVoid("2", at, "a", "e-9"), schemas.CodeNotFound, 0},
		{"of another kind", publishedFrame(schemas.ReleaseBudget.Name, "a", "2", at, (&schemas.BudgetRelease{ReservationID: "e-9"}).EncodePayload(nil)), schemas.CodeCommandConflict, 1},
		{"too old", late, schemas.CodeTimestampTooOld, 1},
		{"too old again", late, schemas.CodeTimestampTooOld, 0},
		{"too early", early, schemas.CodeTimestampInFuture, 1},
		{"refused by its node", publishedFrame(schemas.RefuseCommand.Name, "a", "3", at, refusal.EncodePayload(nil)), schemas.CodeNotFound, 1},
		{"refused by its node again", publishedFrame(schemas.RefuseCommand.Name, "a", "3", at, refusal.EncodePayload(nil)), schemas.CodeNotFound, 0},
		{"another one by its node", publishedFrame(schemas.RefuseCommand.Name, "a", "3", at, changed.EncodePayload(nil)), schemas.CodeCommandConflict, 1},
		{"grout's own is not entered", grouts, "", 0},
		{"and not looked up", func() schemas.CommandFrame {
			f := publishedVoid("1", at, "a", "e-9")
			f.Source = grouts.Source
			return f
		}(), schemas.CodeNotFound, 1},
	} {
		before := len(factIDs(t, s))
		out := applyGroups(t, s, [][]schemas.CommandFrame{{c.command}}, 1)
		if got := refusalOf(t, out[0]); got != c.code {
			t.Errorf("%s: %q, not %q", c.name, got, c.code)
		}
		facts := factsOf(t, s)[before:]
		if len(facts) != c.facts {
			t.Errorf("%s: %d new facts, not %d", c.name, len(facts), c.facts)
		}
		for _, f := range facts {
			if f.CausationID != c.command.ID || f.CausationSource != c.command.Source || f.App != c.command.AppID || c.code != "" && f.Data.Code != c.code {
				t.Errorf("%s: %+v", c.name, f)
			}
		}
	}
}

// A message that is no command is one letter, however often it is read.
func TestMessagesAreFiledOnce(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 1000)
	defer s.Close()
	p := schemas.LetterFiling{
		Kind: "usage.void", Code: schemas.CodeInvalidJSON, Reason: "not valid JSON", Cause: schemas.Cause{ID: "v", Source: crm},
		Original: schemas.OriginalMessage{Subject: "mozaiks.v1.in.platform.0.a.usage.void", Headers: map[string][]string{"ce-id": {"v"}}, Data: []byte("\xff\x00"), Sequence: 9, Time: testNow},
	}
	file := func(id string) schemas.CommandFrame {
		return schemas.CommandFrame{Kind: schemas.FileLetter.Name, AppID: "a", ID: id, Source: schemas.SourceIn, Time: 1, Accepted: testNow, Payload: p.EncodePayload(nil)}
	}
	applyGroups(t, s, [][]schemas.CommandFrame{{file("1-9"), file("1-9")}, {file("1-9")}, {file("1-10")}}, 2)
	letters, err := s.Facts(schemas.DestDeadLetters, schemas.Position{}, 10, 1<<20)
	if err != nil || len(letters) != 2 {
		t.Fatalf("%d letters, not 2: %v", len(letters), err)
	}
	var l struct {
		CausationID     string `json:"causationid"`
		CausationSource string `json:"causationsource"`
		Data            schemas.DeadLetterData
	}
	if err := json.Unmarshal(letters[0].Data, &l); err != nil {
		t.Fatal(err)
	}
	if l.CausationID != "v" || l.CausationSource != crm || l.Data.Code != p.Code || l.Data.Original.DataBase64 != "/wA=" || l.Data.Original.Headers["ce-id"][0] != "v" || letters[0].Subject != "mozaiks.v1.dlq.a.usage.void" {
		t.Errorf("%s: %+v", letters[0].Subject, l)
	}
}

// A report of which nothing can be read is refused; what can be read counts.
func TestPublishedReports(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 1000)
	defer s.Close()
	bad := []schemas.EventError{{Index: 1, EventID: "w", AppID: "a", Code: schemas.CodeMissingField, Detail: "run_id is required and missing"}}
	good := schemas.RunEvent{Step: schemas.StepAgentStarted, Status: schemas.RunInProgress, RunID: "r", EventID: "v", Index: 0}
	for i, c := range []struct {
		report   schemas.RunReport
		accepted int
		refused  bool
	}{
		{schemas.RunReport{Rejected: bad}, 0, true},
		{schemas.RunReport{Events: []schemas.RunEvent{good}, Rejected: bad}, 1, false},
	} {
		before := len(factsOf(t, s))
		out := applyGroups(t, s, [][]schemas.CommandFrame{{publishedFrame(schemas.ReportRuns.Name, "a", fmt.Sprint(i), testNow, c.report.EncodePayload(nil))}}, 1)
		var o schemas.IngestOutcome
		if err := o.Decode(out[0]); err != nil || o.Accepted != c.accepted || o.Rejected != 1 || len(o.Errors) != 1 {
			t.Errorf("%d: %+v, %v", i, o, err)
		}
		facts := factsOf(t, s)[before:]
		if refused := len(facts) == 1 && facts[0].Type == schemas.TypeOf(schemas.CommandRefused.Name) && facts[0].Data.Code == schemas.CodeMissingField; refused != c.refused {
			t.Errorf("%d: %+v", i, facts)
		}
	}
}

// drawPublished is a history of commands of several sources that reuse few ids, cut into
// groups.
func drawPublished(r *rand.Rand) (groups [][]schemas.CommandFrame) {
	sources := []string{crm, "//billing", "//mozaiks.ai/grout/http"}
	serial := 0
	frame := func() schemas.CommandFrame {
		app, id := string(rune('a'+r.IntN(2))), fmt.Sprint(r.IntN(12))
		e := adjustEvent(fmt.Sprint("e-", r.IntN(4)))
		e.AppID = app
		at := testNow + r.Int64N(int64(time.Hour))
		var f schemas.CommandFrame
		switch r.IntN(4) {
		case 0:
			f = ingestFrame(id, at, e)
			f.AppID = app
		case 1:
			f = voidFrame(id, at, app, e.EventID, "")
		case 2:
			p := schemas.BudgetReserve{ReservationID: fmt.Sprint("r-", r.IntN(3)), UserID: "u", Tokens: schemas.Tokens{Total: 5}, TTL: 60}
			f = publishedFrame(schemas.ReserveBudget.Name, app, id, at, p.EncodePayload(nil))
		default:
			f = amendFrame(id, at, app, e.EventID, "", schemas.UsageValues{Given: schemas.GivenInput, InputTokens: r.Int64N(3)})
		}
		if f.Source = sources[r.IntN(len(sources))]; !f.Published() { // grout's own ids are never used twice
			serial++
			f.ID = fmt.Sprint("own-", serial)
		}
		if r.IntN(20) == 0 {
			f.Time -= 40 * 24 * int64(time.Hour)
		}
		return f
	}
	var sent []schemas.CommandFrame
	for range 30 {
		var group []schemas.CommandFrame
		for range 1 + r.IntN(4) {
			if len(sent) > 0 && r.IntN(3) == 0 {
				group = append(group, sent[r.IntN(len(sent))])
				continue
			}
			f := frame()
			if group = append(group, f); f.Published() {
				sent = append(sent, f)
			}
		}
		groups = append(groups, group)
	}
	return groups
}

// Identities follow from messages alone: however many of them share a transaction, the
// store holds the same bytes; no id of a fact is there twice; and everything sent again
// changes nothing and tells nothing.
func TestPublishedCommandsFollowFromMessages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	for seed := range uint64(8) {
		groups := drawPublished(rand.New(rand.NewPCG(seed, 1)))
		var first []byte
		for _, per := range []int{1, 7, 64} {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			s := openAdjustStore(t, path)
			applyGroups(t, s, groups, per)
			var b bytes.Buffer
			if err := s.Dump(&b); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = b.Bytes()
				checkAgain(t, s, groups)
			} else if !bytes.Equal(first, b.Bytes()) {
				t.Fatalf("seed %d: %d messages in a transaction give another store", seed, per)
			}
			closeAdjustStore(t, s)
		}
	}
}

// checkAgain sends every command of others again, each as a message.
func checkAgain(t rapid.TB, s *store.Store, groups [][]schemas.CommandFrame) {
	t.Helper()
	before := len(factIDs(t, s))
	digests, err := s.AppDigests(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var repeats [][]schemas.CommandFrame
	for _, g := range groups {
		for i := range g {
			if f := g[i]; f.Published() {
				f.Accepted += int64(time.Minute)
				repeats = append(repeats, []schemas.CommandFrame{f})
			}
		}
	}
	applyGroups(t, s, repeats, 64)
	if after := len(factIDs(t, s)); after != before {
		t.Fatalf("what came again is told by %d facts", after-before)
	}
	again, err := s.AppDigests(context.Background())
	if err != nil || fmt.Sprint(again) != fmt.Sprint(digests) {
		t.Fatalf("what came again has changed something: %v, %v, %v", digests, again, err)
	}
}

// A command is known for as long as its time is taken, and a day more; then its row and its
// id are gone, and it is refused for its age.
func TestPublishedCommandsExpire(t *testing.T) {
	w := newWorld(t, openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 50))
	defer func() { _ = w.store.Close() }()
	const hour, day = int64(time.Hour), 24 * int64(time.Hour)
	void := publishedVoid("1", testNow, "a", "unknown")
	rows := func() int {
		var b bytes.Buffer
		if err := w.store.Dump(&b); err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b.Bytes(), []byte("\ncommands "))
	}
	facts := 0
	send := func(at int64) schemas.Code {
		void.Accepted = at
		code := refusalOf(t, w.apply(void)[0])
		facts = len(factsOf(t, w.store))
		return code
	}
	if send(testNow) != schemas.CodeNotFound || facts != 1 || rows() != 1 {
		t.Fatalf("%d facts, %d rows", facts, rows())
	}
	for d := range int64(37) {
		for h := range int64(24) {
			at := testNow + d*day + h*hour
			w.tick(at)
			w.published()
			before, ok, err := w.store.Expirable()
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				w.expire(at, before)
			}
		}
		want := schemas.CodeNotFound // as at first
		if d >= 35 {
			want = schemas.CodeTimestampTooOld
		}
		if code := send(testNow + d*day + 23*hour); code != want || facts != 0 && d < 35 {
			t.Errorf("day %d: %s, %d facts", d, code, facts)
		}
	}
	if n := rows(); n != 1 {
		t.Errorf("%d rows are left, not the one of the refusal", n)
	}
}
