package handlers

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
	"grout/store"
)

func TestDecideAmend(t *testing.T) {
	now := standing{schemas.EventCounted, schemas.UsageSums{Events: 1, InputTokens: 10, OutputTokens: 5, TotalTokens: 20, CachedTokens: 3, ReasoningTokens: 2, Cost: schemas.AmountOf(7)}}
	for _, c := range []struct {
		name   string
		from   standing
		values schemas.UsageValues
		want   schemas.UsageSums
		code   schemas.Code
	}{
		{
			"cost alone leaves the total", now,
			schemas.UsageValues{Given: schemas.GivenCost, Cost: 9},
			schemas.UsageSums{Events: 1, InputTokens: 10, OutputTokens: 5, TotalTokens: 20, CachedTokens: 3, ReasoningTokens: 2, Cost: schemas.AmountOf(9)},
			"",
		},
		{
			"total follows input", now,
			schemas.UsageValues{Given: schemas.GivenInput, InputTokens: 100},
			schemas.UsageSums{Events: 1, InputTokens: 100, OutputTokens: 5, TotalTokens: 105, CachedTokens: 3, ReasoningTokens: 2, Cost: schemas.AmountOf(7)},
			"",
		},
		{
			"total follows output", now,
			schemas.UsageValues{Given: schemas.GivenOutput},
			schemas.UsageSums{Events: 1, InputTokens: 10, TotalTokens: 10, CachedTokens: 3, ReasoningTokens: 2, Cost: schemas.AmountOf(7)},
			"",
		},
		{
			"given total stays", now,
			schemas.UsageValues{Given: schemas.GivenInput | schemas.GivenTotal, InputTokens: 1, TotalTokens: 6},
			schemas.UsageSums{Events: 1, InputTokens: 1, OutputTokens: 5, TotalTokens: 6, CachedTokens: 3, ReasoningTokens: 2, Cost: schemas.AmountOf(7)},
			"",
		},
		{
			"the rest", now,
			schemas.UsageValues{Given: schemas.GivenCached | schemas.GivenReasoning},
			schemas.UsageSums{Events: 1, InputTokens: 10, OutputTokens: 5, TotalTokens: 20, Cost: schemas.AmountOf(7)},
			"",
		},
		{"total below the stored sum", now, schemas.UsageValues{Given: schemas.GivenTotal, TotalTokens: 14}, schemas.UsageSums{}, schemas.CodeTotalBelowSum},
		{"given total below the new sum", now, schemas.UsageValues{Given: schemas.GivenInput | schemas.GivenTotal, InputTokens: 50, TotalTokens: 54}, schemas.UsageSums{}, schemas.CodeTotalBelowSum},
		{"voided", standing{status: schemas.EventVoided}, schemas.UsageValues{Given: schemas.GivenCost}, schemas.UsageSums{}, schemas.CodeEventVoided},
		{
			"amended again",
			standing{schemas.EventAmended, now.sums},
			schemas.UsageValues{Given: schemas.GivenTotal, TotalTokens: 15},
			schemas.UsageSums{Events: 1, InputTokens: 10, OutputTokens: 5, TotalTokens: 15, CachedTokens: 3, ReasoningTokens: 2, Cost: schemas.AmountOf(7)},
			"",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decideAmend(c.from, &c.values)
			if c.code != "" {
				if err == nil || err.Code != c.code || got != c.from {
					t.Fatalf("%+v, %v, want %s", got, err, c.code)
				}
				return
			}
			if err != nil || got != (standing{schemas.EventAmended, c.want}) {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

// ingestFrame, voidFrame and amendFrame are commands as HTTP makes them.
func ingestFrame(id string, at int64, events ...schemas.UsageEvent) schemas.CommandFrame {
	in := schemas.ParsedBatch{Events: slices.Clone(events)}
	for i := range in.Events {
		in.Events[i].Index = uint32(i)
	}
	b := schemas.SplitBatch(&in, "b-"+id, false, 1)[0]
	return schemas.CommandFrame{Kind: schemas.UsageIngest.Name, ID: id, Source: "//mozaiks.ai/grout/t", Time: at, Accepted: at, Payload: b.EncodePayload(nil)}
}

func voidFrame(id string, at int64, app, event, reason string) schemas.CommandFrame {
	v := schemas.EventVoid{EventID: event, Reason: reason}
	return schemas.CommandFrame{Kind: schemas.UsageVoid.Name, AppID: app, ID: id, Source: "//mozaiks.ai/grout/t", Time: at, Accepted: at, Payload: v.EncodePayload(nil)}
}

func amendFrame(id string, at int64, app, event, reason string, values schemas.UsageValues) schemas.CommandFrame {
	a := schemas.EventAmendment{EventID: event, Reason: reason, Values: values}
	return schemas.CommandFrame{Kind: schemas.UsageAmend.Name, AppID: app, ID: id, Source: "//mozaiks.ai/grout/t", Time: at, Accepted: at, Payload: a.EncodePayload(nil)}
}

// applyGroups applies groups in transactions of at most per messages and gives
// the outcomes of their commands.
func applyGroups(t rapid.TB, s *store.Store, groups [][]schemas.CommandFrame, per int) (outcomes [][]byte) {
	t.Helper()
	table := NewTable()
	for len(groups) > 0 {
		var got [][]byte
		n := 0
		err := s.Update(func(tx *store.Tx) error {
			for n < min(per, len(groups)) && !tx.Sealed() {
				seq := s.Checkpoint().Seq + uint64(n) + 1
				m := table.decode(schemas.StreamMessage{
					Subject: schemas.GroupSubject(0), Seq: seq, Time: time.Unix(0, testNow+int64(seq)), Data: schemas.AppendGroup(nil, groups[n]),
				}, 1, decodeTestGroup)
				o, err := table.apply(tx, m)
				if err != nil {
					return err
				}
				got = append(got, o...)
				n++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		outcomes = append(outcomes, got...)
		groups = groups[n:]
	}
	return outcomes
}

func totalsOf(t rapid.TB, s *store.Store, app string) schemas.UsageSums {
	t.Helper()
	r, err := s.Usage(context.Background(), schemas.UsageQuery{AppID: app, From: schemas.FirstHour, To: schemas.LastHour, Window: schemas.WindowNone})
	if err != nil {
		t.Fatal(err)
	}
	return r.Totals
}

func adjustEvent(id string) schemas.UsageEvent {
	return schemas.UsageEvent{
		EventID: id, Timestamp: testNow - int64(time.Hour), AppID: "a", UserID: "u", Model: "m", TenantID: "t", WorkflowID: "w",
		InputTokens: 1500, OutputTokens: 500, TotalTokens: 2000, Cost: 37_500_000,
	}
}

// Every rule of contract §7 for corrections, one after another in one store.
func TestCorrections(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 1000)
	defer s.Close()
	old := adjustEvent("old")
	old.Timestamp = testNow - schemas.MaxEventAge + 100
	uuid := adjustEvent("0b8ab9a0-6f4e-4c55-9b8f-1d7c3a3f4d10")
	other := adjustEvent("e-1")
	other.AppID, other.InputTokens, other.TotalTokens = "b", 1, 501
	first := []schemas.UsageEvent{adjustEvent("e-1"), adjustEvent("e-2"), adjustEvent("e-3"), old, uuid, other}
	at := testNow
	given := func(f schemas.UsageFields, n int64) schemas.UsageValues {
		return schemas.UsageValues{Given: f, InputTokens: n, OutputTokens: n, TotalTokens: n, CachedTokens: n, ReasoningTokens: n, Cost: n}
	}
	taken := func(n int64) string { // back from amended input n
		return fmt.Sprintf(`{"events":-1,"input_tokens":-%d,"output_tokens":-500,"total_tokens":-%d,"cached_tokens":0,"reasoning_tokens":0,"cost":-0.0375}`, n, n+500)
	}
	const more = `{"events":0,"input_tokens":100,"output_tokens":0,"total_tokens":100,"cached_tokens":0,"reasoning_tokens":0,"cost":0}`
	const less = `{"events":0,"input_tokens":-100,"output_tokens":0,"total_tokens":-100,"cached_tokens":0,"reasoning_tokens":0,"cost":0}`
	const none = `{"events":0,"input_tokens":0,"output_tokens":0,"total_tokens":0,"cached_tokens":0,"reasoning_tokens":0,"cost":0}`
	answer := func(id, status, adjustment string) string {
		return `{"event_id":"` + id + `","status":"` + status + `","adjustment":` + adjustment + `}`
	}
	applyGroups(t, s, [][]schemas.CommandFrame{{ingestFrame("first", at, first...)}}, 1)
	for n, c := range []struct {
		name    string
		command schemas.CommandFrame
		body    string
		code    schemas.Code
		facts   int // new ones
	}{
		{"unknown", voidFrame("1", at, "a", "e-9", ""), "", schemas.CodeNotFound, 1},
		{"of another app", voidFrame("2", at, "c", "e-1", ""), "", schemas.CodeNotFound, 1},
		{"amend unknown", amendFrame("3", at, "a", "e-9", "", given(schemas.GivenCost, 1)), "", schemas.CodeNotFound, 1},
		{"void", voidFrame("4", at, "a", "e-1", "why"), answer("e-1", "voided", taken(1500)), "", 1},
		{"void again, another reason", voidFrame("5", at, "a", "e-1", "other"), answer("e-1", "voided", taken(1500)), "", 0},
		{"amend a voided one", amendFrame("6", at, "a", "e-1", "", given(schemas.GivenInput, 1)), "", schemas.CodeEventVoided, 1},
		{"the other app's is untouched", voidFrame("7", at, "b", "e-1", ""), answer("e-1", "voided", strings.Replace(strings.Replace(taken(1500), "1500", "1", 1), "2000", "501", 1)), "", 1},
		{"amend", amendFrame("8", at, "a", "e-2", "", given(schemas.GivenInput, 1600)), answer("e-2", "amended", more), "", 1},
		{"the same amend again", amendFrame("9", at, "a", "e-2", "x", given(schemas.GivenInput, 1600)), answer("e-2", "amended", more), "", 0},
		{"the same values, said in full", amendFrame("10", at, "a", "e-2", "", schemas.UsageValues{Given: schemas.GivenInput | schemas.GivenTotal, InputTokens: 1600, TotalTokens: 2100}), answer("e-2", "amended", more), "", 0},
		{"back to the first values", amendFrame("11", at, "a", "e-2", "", given(schemas.GivenInput, 1500)), answer("e-2", "amended", less), "", 1},
		{"and forth", amendFrame("12", at, "a", "e-2", "", given(schemas.GivenInput, 1600)), answer("e-2", "amended", more), "", 1},
		{"a total below the sum", amendFrame("13", at, "a", "e-2", "", given(schemas.GivenTotal, 2099)), "", schemas.CodeTotalBelowSum, 1},
		{"void after amend takes the amended values back", voidFrame("14", at, "a", "e-2", ""), answer("e-2", "voided", taken(1600)), "", 1},
		{"amend to what it counts for", amendFrame("15", at, "a", "e-3", "sure", given(schemas.GivenInput, 1500)), answer("e-3", "amended", none), "", 1},
		{"and again", amendFrame("16", at, "a", "e-3", "", given(schemas.GivenInput, 1500)), answer("e-3", "amended", none), "", 0},
		{"a UUID", voidFrame("17", at, "a", uuid.EventID, ""), answer(uuid.EventID, "voided", taken(1500)), "", 1},
		{"as old as can be", amendFrame("18", at+100, "a", "old", "", given(schemas.GivenInput, 1600)), answer("old", "amended", more), "", 1},
		{"one nanosecond older", voidFrame("19", at+101, "a", "old", ""), "", schemas.CodeEventExpired, 1},
		{"too old for another amend", amendFrame("20", at+101, "a", "old", "", given(schemas.GivenInput, 7)), "", schemas.CodeEventExpired, 1},
		{"what was done is still answered", amendFrame("21", at+101, "a", "old", "", given(schemas.GivenInput, 1600)), answer("old", "amended", more), "", 0},
	} {
		before := len(factsOf(t, s))
		out := applyGroups(t, s, [][]schemas.CommandFrame{{c.command}}, 1)
		var o schemas.CommandOutcome
		if err := o.Decode(out[0]); err != nil {
			t.Fatalf("%d %s: %v", n, c.name, err)
		}
		if o.Code != c.code || string(o.Body) != c.body {
			t.Errorf("%d %s: %s %s\nwant %s %s", n, c.name, o.Code, o.Body, c.code, c.body)
		}
		facts := factsOf(t, s)[before:]
		if len(facts) != c.facts {
			t.Errorf("%d %s: %d new facts, want %d", n, c.name, len(facts), c.facts)
		}
		for _, f := range facts {
			if f.CausationID != c.command.ID || f.CausationSource != "//mozaiks.ai/grout/t" || f.Subject != "event/"+eventOf(t, &c.command) {
				t.Errorf("%d %s: %+v does not name its command and event", n, c.name, f)
			}
			if refused := f.Type == schemas.TypeOf(schemas.CommandRefused.Name); refused != (c.code != "") || refused && f.Data.Code != c.code {
				t.Errorf("%d %s: the fact is %+v, the outcome %s", n, c.name, f, c.code)
			}
		}
	}
	// Sent again, whatever became of it: duplicates.
	out := applyGroups(t, s, [][]schemas.CommandFrame{{ingestFrame("again", at, first...)}}, 1)
	var o schemas.IngestOutcome
	if err := o.Decode(out[0]); err != nil || o.Duplicates != 5 || o.Rejected != 1 || o.Errors[0].Code != schemas.CodeTimestampTooOld {
		t.Errorf("sent again: %+v, %v", o, err)
	}
	want := schemas.UsageSums{Events: 2, InputTokens: 1500 + 1600, OutputTokens: 1000, TotalTokens: 2000 + 2100, Cost: schemas.AmountOf(75_000_000)}
	if got := totalsOf(t, s, "a"); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
	if got := totalsOf(t, s, "b"); got != (schemas.UsageSums{}) {
		t.Errorf("all of b is voided, and it has %+v", got)
	}
	if st := s.Stats(); st.Voided != 4 || st.Amended != 5 {
		t.Errorf("%d voided, %d amended", st.Voided, st.Amended)
	}
}

// A command that names no app cannot be applied.
func TestCorrectionWithoutApp(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 1000)
	defer s.Close()
	h := history{groups: [][]schemas.CommandFrame{{voidFrame("1", testNow, "", "e", "")}}}
	applyAll(t, s, &h, 1, 1<<62)
	letters, err := s.Facts(schemas.DestDeadLetters, schemas.Position{}, 10, 1<<20)
	if err != nil || len(letters) != 1 {
		t.Errorf("%d dead letters, want 1: %v", len(letters), err)
	}
}

func eventOf(t rapid.TB, c *schemas.CommandFrame) string {
	t.Helper()
	var v schemas.EventVoid
	var a schemas.EventAmendment
	if c.Kind == schemas.UsageVoid.Name {
		if err := v.DecodePayload(c.Payload); err != nil {
			t.Fatal(err)
		}
		return v.EventID
	}
	if err := a.DecodePayload(c.Payload); err != nil {
		t.Fatal(err)
	}
	return a.EventID
}

// adjustFact is a fact, as far as these tests look.
type adjustFact struct {
	Type            string `json:"type"`
	Subject         string `json:"subject"`
	App             string `json:"partitionkey"`
	Sequence        string `json:"sequence"`
	CausationID     string `json:"causationid"`
	CausationSource string `json:"causationsource"`
	Data            struct {
		EventID    string                  `json:"event_id"`
		Code       schemas.Code            `json:"code"`
		Adjustment *schemas.SumsData       `json:"adjustment"`
		Effective  *schemas.SumsData       `json:"effective"`
		Events     []schemas.RecordedEvent `json:"events"`
	} `json:"data"`
}

func factsOf(t rapid.TB, s *store.Store) []adjustFact {
	t.Helper()
	messages, err := s.Facts(schemas.DestFacts, schemas.Position{}, 1<<20, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]adjustFact, len(messages))
	for i, m := range messages {
		if err := json.Unmarshal(m.Data, &list[i]); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// modelEvent is an event in the plainest form of the rules.
type modelEvent struct {
	event  schemas.UsageEvent
	status schemas.EventStatus
	sums   schemas.UsageSums
	delta  schemas.UsageSums
	reason string
}

// model applies commands by brute force.
type model struct {
	events map[string]*modelEvent
	log    map[string][]*modelEvent // by app, oldest first
	now    int64
	facts  int // about corrections
}

func (m *model) apply(t rapid.TB, c *schemas.CommandFrame) (code schemas.Code, body string, counts [3]int) {
	m.now = max(m.now, c.Accepted)
	if c.Kind == schemas.UsageIngest.Name {
		var b schemas.UsageBatch
		if err := b.DecodePayload(c.Payload); err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Events {
			key := e.AppID + "\x00" + e.EventID
			e.Index = 0
			switch have := m.events[key]; {
			case e.Timestamp < m.now-schemas.MaxEventAge:
				counts[2]++
			case have == nil:
				rec := &modelEvent{event: e, status: schemas.EventCounted, sums: schemas.SumsOf(&e)}
				m.events[key] = rec
				m.log[e.AppID] = append(m.log[e.AppID], rec)
				counts[0]++
			case cmp.Equal(have.event, e):
				counts[1]++
			default:
				counts[2]++
			}
		}
		return "", "", counts
	}
	id := eventOf(t, c)
	rec := m.events[c.AppID+"\x00"+id]
	if rec == nil {
		m.facts++
		return schemas.CodeNotFound, "", counts
	}
	next, status, reason := schemas.UsageSums{}, schemas.EventVoided, ""
	if c.Kind == schemas.UsageAmend.Name {
		var a schemas.EventAmendment
		if err := a.DecodePayload(c.Payload); err != nil {
			t.Fatal(err)
		}
		next, status, reason = rec.sums, schemas.EventAmended, a.Reason
		v := a.Values
		if v.Given&schemas.GivenInput != 0 {
			next.InputTokens = v.InputTokens
		}
		if v.Given&schemas.GivenOutput != 0 {
			next.OutputTokens = v.OutputTokens
		}
		if v.Given&(schemas.GivenInput|schemas.GivenOutput) != 0 {
			next.TotalTokens = next.InputTokens + next.OutputTokens
		}
		if v.Given&schemas.GivenTotal != 0 {
			next.TotalTokens = v.TotalTokens
		}
		if v.Given&schemas.GivenCost != 0 {
			next.Cost = schemas.AmountOf(v.Cost)
		}
		if rec.status == schemas.EventVoided {
			code = schemas.CodeEventVoided
		} else if next.TotalTokens < next.InputTokens+next.OutputTokens {
			code = schemas.CodeTotalBelowSum
		}
	} else {
		var v schemas.EventVoid
		if err := v.DecodePayload(c.Payload); err != nil {
			t.Fatal(err)
		}
		reason = v.Reason
	}
	changes := rec.status != status || rec.sums != next
	if (code != "" || changes) && rec.event.Timestamp < m.now-schemas.MaxEventAge {
		code = schemas.CodeEventExpired
	}
	if code != "" {
		m.facts++
		return code, "", counts
	}
	if changes {
		m.facts++
		rec.delta, rec.sums, rec.status, rec.reason = next.Minus(rec.sums), next, status, reason
	}
	return "", string(schemas.AppendAdjusted(nil, id, rec.status, &rec.delta)), counts
}

// drawCommands makes a random history of requests about few events, so that they
// meet: in one command, one message and one transaction.
func drawCommands(t *rapid.T) (groups [][]schemas.CommandFrame) {
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
	id := func() string {
		n := r.IntN(14)
		if n%2 == 0 {
			return fmt.Sprintf("0b8ab9a0-6f4e-4c55-9b8f-%012x", n)
		}
		return fmt.Sprint("e", n)
	}
	app := func() string { return fmt.Sprint("app-", r.IntN(2)) }
	now, commands := testNow, 0
	for range 4 + r.IntN(22) {
		var group []schemas.CommandFrame
		for range 1 + r.IntN(4) {
			commands++
			name := fmt.Sprint("c-", commands)
			if now += int64(r.IntN(3)); r.IntN(40) == 0 {
				now += int64(20 * 24 * time.Hour)
			}
			switch k := r.IntN(10); {
			case k < 4:
				var events []schemas.UsageEvent
				for range 1 + r.IntN(6) {
					e := adjustEvent(id())
					e.AppID, e.UserID, e.Timestamp = app(), fmt.Sprint("u", r.IntN(3)), testNow-int64(len(e.EventID)%3)*int64(time.Hour)
					e.OutputTokens = int64(r.IntN(10) / 9) // now and then another content
					e.TotalTokens = e.InputTokens + e.OutputTokens
					e.UserID = "u" + e.EventID[len(e.EventID)-1:]
					events = append(events, e)
				}
				group = append(group, ingestFrame(name, now, events...))
			case k < 7:
				group = append(group, voidFrame(name, now, app(), id(), fmt.Sprint("r", r.IntN(2))))
			default:
				v := schemas.UsageValues{Given: schemas.UsageFields(1 + r.IntN(7)), InputTokens: int64(r.IntN(3)), OutputTokens: int64(r.IntN(3)), TotalTokens: int64(r.IntN(8))}
				if r.IntN(3) == 0 {
					v = schemas.UsageValues{Given: schemas.GivenCost, Cost: int64(r.IntN(3))}
				}
				for i, n := range []*int64{&v.InputTokens, &v.OutputTokens, &v.TotalTokens} {
					if v.Given&(1<<i) == 0 {
						*n = 0
					}
				}
				group = append(group, amendFrame(name, now, app(), id(), fmt.Sprint("r", r.IntN(2)), v))
			}
		}
		groups = append(groups, group)
	}
	return groups
}

// Random histories, with restarts at random points and different transactions,
// equal the plainest model, and one another byte by byte.
func TestCorrectionsEqualTheModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		groups := drawCommands(t)
		m := model{events: map[string]*modelEvent{}, log: map[string][]*modelEvent{}}
		type verdict struct {
			code   schemas.Code
			body   string
			counts [3]int
		}
		var want []verdict
		for _, g := range groups {
			for i := range g {
				code, body, counts := m.apply(t, &g[i])
				want = append(want, verdict{code, body, counts})
			}
		}
		cut := rapid.IntRange(0, len(groups)).Draw(t, "restart at")
		per := rapid.SampledFrom([]int{2, 3, 64}).Draw(t, "messages a transaction")
		var first []byte
		for _, run := range []struct{ per, cut int }{{1, 0}, {per, cut}} {
			path := filepath.Join(dir, "s.db")
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			s := openAdjustStore(t, path)
			outcomes := applyGroups(t, s, groups[:run.cut], run.per)
			if run.cut > 0 {
				closeAdjustStore(t, s)
				s = openAdjustStore(t, path)
			}
			outcomes = append(outcomes, applyGroups(t, s, groups[run.cut:], run.per)...)
			n := 0
			for _, g := range groups {
				for i := range g {
					checkOutcome(t, &g[i], outcomes[n], want[n].code, want[n].body, want[n].counts)
					n++
				}
			}
			checkModel(t, s, &m)
			if run.cut > 0 { // and what a start builds from the file is the same
				closeAdjustStore(t, s)
				s = openAdjustStore(t, path)
				checkModel(t, s, &m)
			}
			var b strings.Builder
			if err := s.Dump(&b); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = []byte(b.String())
			} else if string(first) != b.String() {
				t.Fatalf("contents differ: %s", firstDifference(first, []byte(b.String())))
			}
			closeAdjustStore(t, s)
		}
	})
}

func openAdjustStore(t rapid.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(path, store.Options{Partitions: 1, FoldEvery: 12})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeAdjustStore(t rapid.TB, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func checkOutcome(t rapid.TB, c *schemas.CommandFrame, outcome []byte, code schemas.Code, body string, counts [3]int) {
	t.Helper()
	if c.Kind == schemas.UsageIngest.Name {
		var o schemas.IngestOutcome
		if err := o.Decode(outcome); err != nil {
			t.Fatal(err)
		}
		if got := [3]int{o.Accepted, o.Duplicates, o.Rejected}; got != counts {
			t.Fatalf("%s: accepted, duplicates, rejected are %v, want %v", c.ID, got, counts)
		}
		return
	}
	var o schemas.CommandOutcome
	if err := o.Decode(outcome); err != nil {
		t.Fatal(err)
	}
	if o.Code != code || string(o.Body) != body {
		t.Fatalf("%s: %s %s, want %s %s", c.ID, o.Code, o.Body, code, body)
	}
}

// checkModel holds sums, single events and facts against the model.
func checkModel(t rapid.TB, s *store.Store, m *model) {
	t.Helper()
	told := 0
	recorded := map[string]schemas.UsageSums{} // by app: what facts sum up to
	known := map[string]bool{}
	for _, f := range factsOf(t, s) {
		sum := recorded[f.App]
		for _, e := range f.Data.Events {
			known[f.App+"\x00"+e.EventID] = true
			sum.Add(&schemas.UsageSums{Events: 1, InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens})
		}
		switch f.Type {
		case schemas.TypeOf(schemas.UsageVoided.Name), schemas.TypeOf(schemas.UsageAmended.Name):
			told++
			if !known[f.App+"\x00"+f.Data.EventID] {
				t.Fatalf("%s of %q stands before the fact that tells of the event", f.Type, f.Data.EventID)
			}
			a := f.Data.Adjustment
			sum.Add(&schemas.UsageSums{Events: a.Events, InputTokens: a.InputTokens, OutputTokens: a.OutputTokens, TotalTokens: a.TotalTokens})
		case schemas.TypeOf(schemas.CommandRefused.Name):
			told++
		}
		recorded[f.App] = sum
	}
	if told != m.facts {
		t.Fatalf("%d facts about corrections, want %d", told, m.facts)
	}
	for app, log := range m.log {
		var want schemas.UsageSums
		users := map[string]schemas.UsageSums{}
		for _, e := range log {
			want.Add(&e.sums)
			user := users[e.event.UserID]
			user.Add(&e.sums)
			users[e.event.UserID] = user
		}
		report, err := s.Usage(context.Background(), schemas.UsageQuery{
			AppID: app, From: schemas.FirstHour, To: schemas.LastHour, Window: schemas.WindowNone, GroupBy: []schemas.Dimension{schemas.ByUser},
		})
		if err != nil {
			t.Fatal(err)
		}
		if report.Totals != want {
			t.Fatalf("%s: totals %+v, want %+v", app, report.Totals, want)
		}
		for _, row := range report.Rows {
			if row.UsageSums != users[row.Group[0]] {
				t.Fatalf("%s: user %s has %+v, want %+v", app, row.Group[0], row.UsageSums, users[row.Group[0]])
			}
			delete(users, row.Group[0])
		}
		for user, sums := range users {
			if sums != (schemas.UsageSums{}) {
				t.Fatalf("%s: no row of user %s, who has %+v", app, user, sums)
			}
		}
		cost := recorded[app]
		cost.Cost = want.Cost
		if cost != want {
			t.Fatalf("%s: facts sum up to %+v, want %+v", app, recorded[app], want)
		}
		checkLog(t, s, app, log)
	}
}

func checkLog(t rapid.TB, s *store.Store, app string, log []*modelEvent) {
	t.Helper()
	page, err := s.Events(context.Background(), schemas.EventQuery{AppID: app, From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 1000})
	if err != nil || page.More || len(page.Events) != len(log) {
		t.Fatalf("%s: %d events, more %v, want %d: %v", app, len(page.Events), page.More, len(log), err)
	}
	for i, got := range page.Events {
		want := log[len(log)-1-i]
		got.UsageEvent.Index = 0
		if d := cmp.Diff(want.event, got.UsageEvent); d != "" {
			t.Fatal(d)
		}
		if got.Status != want.status || got.Reason != want.reason || got.Status != schemas.EventCounted && got.Effective != want.sums {
			t.Fatalf("%s is %+v, want %+v", got.EventID, got, want)
		}
	}
}

// One history gives the same digests for one partition and for four.
func TestPartitionsAgreeAboutCorrections(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all [2]map[string]string
		groups := drawCommands(t)
		for n, partitions := range []int{1, 4} {
			all[n] = map[string]string{}
			for p := range partitions {
				dir, err := os.MkdirTemp("", "grout-adjust-")
				if err != nil {
					t.Fatal(err)
				}
				defer os.RemoveAll(dir)
				s, err := store.Open(filepath.Join(dir, "s.db"), store.Options{Partition: p, Partitions: partitions, FoldEvery: 12})
				if err != nil {
					t.Fatal(err)
				}
				applyGroups(t, s, shareOf(t, groups, p, partitions), 8)
				d, err := s.AppDigests(context.Background())
				if err != nil {
					t.Fatal(err)
				}
				for app, sum := range d {
					all[n][app] = sum
				}
				closeAdjustStore(t, s)
			}
		}
		if d := cmp.Diff(all[0], all[1]); d != "" {
			t.Fatal(d)
		}
	})
}

// shareOf cuts a history to what a partition gets of it.
func shareOf(t rapid.TB, groups [][]schemas.CommandFrame, partition, partitions int) (out [][]schemas.CommandFrame) {
	t.Helper()
	for _, g := range groups {
		var own []schemas.CommandFrame
		for _, c := range g {
			if c.Kind != schemas.UsageIngest.Name {
				if schemas.PartitionOf(c.AppID, partitions) == partition {
					own = append(own, c)
				}
				continue
			}
			var b schemas.UsageBatch
			if err := b.DecodePayload(c.Payload); err != nil {
				t.Fatal(err)
			}
			in := schemas.ParsedBatch{Events: b.Events}
			if share := schemas.SplitBatch(&in, b.BatchID, b.Made, partitions)[partition]; share != nil {
				c.Payload = share.EncodePayload(nil)
				own = append(own, c)
			}
		}
		if len(own) > 0 {
			out = append(out, own)
		}
	}
	return out
}
