package handlers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
	"grout/store"
)

func chatEvent(app, chat, id string, input, output int64) schemas.UsageEvent {
	return schemas.UsageEvent{
		EventID: id, Timestamp: testNow - int64(time.Hour), AppID: app, UserID: "u", Model: "m", ChatID: chat,
		InputTokens: input, OutputTokens: output, TotalTokens: input + output,
	}
}

func chatSummary(app, chat, id string, input, output int64) schemas.UsageEvent {
	e := chatEvent(app, chat, id, input, output)
	e.Summary, e.Model = true, schemas.ModelUnknown
	return e
}

// bookedFact is a fact as a consumer reads it that keeps sums.
type bookedFact struct {
	App  string `json:"partitionkey"`
	Data struct {
		UserID     string                  `json:"user_id"`
		Model      string                  `json:"model"`
		Timestamp  time.Time               `json:"timestamp"`
		Adjustment *schemas.SumsData       `json:"adjustment"`
		Events     []schemas.RecordedEvent `json:"events"`
	} `json:"data"`
}

// cellOf names a row of GET /api/usage by hour, user and model.
func cellOf(app string, at time.Time, user, model string) string {
	return fmt.Sprint(app, " ", at.UTC().Truncate(time.Hour).Unix(), " ", user, " ", model)
}

func sumsOfData(t rapid.TB, d *schemas.SumsData) schemas.UsageSums {
	t.Helper()
	cost, err := d.Cost.Float64() // costs in these tests are few nano-units
	if err != nil {
		t.Fatal(err)
	}
	nanos := int64(cost*1e9 + 0.5)
	if cost < 0 {
		nanos = int64(cost*1e9 - 0.5)
	}
	return schemas.UsageSums{
		Events: d.Events, InputTokens: d.InputTokens, OutputTokens: d.OutputTokens, TotalTokens: d.TotalTokens,
		CachedTokens: d.CachedTokens, ReasoningTokens: d.ReasoningTokens, Cost: schemas.AmountOf(nanos),
	}
}

// factSums adds up what facts say, the way the contract tells a consumer to.
func factSums(t rapid.TB, s *store.Store) map[string]schemas.UsageSums {
	t.Helper()
	messages, err := s.Facts(schemas.DestFacts, schemas.Position{}, 1<<20, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	cells := map[string]schemas.UsageSums{}
	add := func(cell string, d *schemas.SumsData) {
		have, more := cells[cell], sumsOfData(t, d)
		have.Add(&more)
		cells[cell] = have
	}
	for _, m := range messages {
		var f bookedFact
		if err := json.Unmarshal(m.Data, &f); err != nil {
			t.Fatal(err)
		}
		if f.Data.Adjustment != nil {
			add(cellOf(f.App, f.Data.Timestamp, f.Data.UserID, f.Data.Model), f.Data.Adjustment)
		}
		for i := range f.Data.Events {
			e := &f.Data.Events[i]
			at, err := time.Parse(time.RFC3339Nano, e.Timestamp)
			if err != nil {
				t.Fatal(err)
			}
			counted := e.Counted
			if counted == nil {
				counted = &schemas.SumsData{
					Events: 1, InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens,
					CachedTokens: e.CachedTokens, ReasoningTokens: e.ReasoningTokens, Cost: "0" + e.Cost,
				}
				if e.Summary {
					counted.Events = 0
				}
			}
			if e.CoveredBySummary && (e.Summary || sumsOfData(t, counted) != schemas.UsageSums{Events: 1}) {
				t.Fatalf("%s is flagged as covered and counts %+v", e.EventID, counted)
			}
			add(cellOf(f.App, at, e.UserID, e.Model), counted)
		}
	}
	return nonzero(cells)
}

func nonzero(cells map[string]schemas.UsageSums) map[string]schemas.UsageSums {
	for cell, sums := range cells {
		if sums == (schemas.UsageSums{}) {
			delete(cells, cell)
		}
	}
	return cells
}

// reportedSums are the rows of GET /api/usage.
func reportedSums(t rapid.TB, s *store.Store, apps ...string) map[string]schemas.UsageSums {
	t.Helper()
	cells := map[string]schemas.UsageSums{}
	for _, app := range apps {
		r, err := s.Usage(context.Background(), schemas.UsageQuery{
			AppID: app, From: schemas.FirstHour, To: schemas.LastHour, Window: schemas.WindowHour,
			GroupBy: []schemas.Dimension{schemas.ByUser, schemas.ByModel},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range r.Rows {
			cells[cellOf(app, row.WindowStart, row.Group[0], row.Group[1])] = row.UsageSums
		}
	}
	return cells
}

// listedSums add up what GET /api/usage/events says of single events.
func listedSums(t rapid.TB, s *store.Store, apps ...string) map[string]schemas.UsageSums {
	t.Helper()
	cells := map[string]schemas.UsageSums{}
	for _, app := range apps {
		page, err := s.Events(context.Background(), schemas.EventQuery{AppID: app, From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 10_000})
		if err != nil || page.More {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			counted := schemas.CountedOf(&e.UsageEvent)
			if e.Status != schemas.EventCounted {
				counted = e.Effective
			}
			cell := cellOf(app, time.Unix(0, e.Timestamp), e.UserID, e.Model)
			have := cells[cell]
			have.Add(&counted)
			cells[cell] = have
		}
	}
	return nonzero(cells)
}

// chatModel is the rule in the plainest form: it knows of no order but that an
// event's first content stays and that a correction finds its event.
type chatModel struct {
	events map[string]*modelChatEvent // by app and event id
	chats  map[[2]string]string       // app, chat → user of its first event
}

type modelChatEvent struct {
	event  schemas.UsageEvent
	stated schemas.UsageSums
	voided bool
}

func newChatModel() *chatModel {
	return &chatModel{events: map[string]*modelChatEvent{}, chats: map[[2]string]string{}}
}

func (m *chatModel) apply(t rapid.TB, c *schemas.CommandFrame) {
	if c.Kind == schemas.UsageIngest.Name {
		var b schemas.UsageBatch
		if err := b.DecodePayload(c.Payload); err != nil {
			t.Fatal(err)
		}
		for _, e := range b.Events {
			key := e.AppID + "\x00" + e.EventID
			if m.events[key] != nil {
				continue
			}
			m.events[key] = &modelChatEvent{event: e, stated: schemas.SumsOf(&e)}
			if chat := [2]string{e.AppID, e.ChatID}; e.ChatID != "" && m.chats[chat] == "" {
				m.chats[chat] = e.UserID
			}
		}
		return
	}
	e := m.events[c.AppID+"\x00"+eventOf(t, c)]
	if e == nil || e.voided || e.event.Summary {
		return
	}
	if c.Kind == schemas.UsageVoid.Name {
		e.voided, e.stated = true, schemas.UsageSums{}
		return
	}
	var a schemas.EventAmendment
	if err := a.DecodePayload(c.Payload); err != nil {
		t.Fatal(err)
	}
	if a.Values.Given&schemas.GivenInput != 0 {
		e.stated.InputTokens = a.Values.InputTokens
		e.stated.TotalTokens = e.stated.InputTokens + e.stated.OutputTokens
	}
	if a.Values.Given&schemas.GivenCost != 0 {
		e.stated.Cost = schemas.AmountOf(a.Values.Cost)
	}
}

// chatTotals is the sum of the deltas or the highest summary, figure by figure.
func (m *chatModel) chatTotals(app, chat string) schemas.UsageSums {
	var deltas, high schemas.UsageSums
	for _, e := range m.events {
		if e.event.AppID == app && e.event.ChatID == chat {
			if e.event.Summary {
				high = high.Max(e.stated)
			} else {
				deltas.Add(&e.stated)
			}
		}
	}
	return deltas.Max(high)
}

// items is how many numbers a chat has given: one for each delta, whatever became of it.
func (m *chatModel) items(app, chat string) (n uint64) {
	for _, e := range m.events {
		if e.event.AppID == app && e.event.ChatID == chat && !e.event.Summary {
			n++
		}
	}
	return n
}

func (m *chatModel) appTotals(app string) (sums schemas.UsageSums) {
	for _, e := range m.events {
		if e.event.AppID == app && e.event.ChatID == "" {
			sums.Add(&e.stated)
		}
	}
	for chat := range m.chats {
		if chat[0] == app {
			totals := m.chatTotals(app, chat[1])
			sums.Add(&totals)
		}
	}
	return sums
}

func (m *chatModel) check(t rapid.TB, s *store.Store) {
	t.Helper()
	apps := []string{"app-0", "app-1"}
	for _, app := range apps {
		if got, want := totalsOf(t, s, app), m.appTotals(app); got != want {
			t.Fatalf("app %s has %+v, want %+v", app, got, want)
		}
		for n := range 5 {
			chat := fmt.Sprint("chat-", n)
			got, err := s.Chat(context.Background(), app, chat)
			if err != nil {
				t.Fatal(err)
			}
			user, known := m.chats[[2]string{app, chat}]
			if (got != nil) != known {
				t.Fatalf("%s of %s is %+v, known: %v", chat, app, got, known)
			}
			if want := (schemas.ChatUsage{AppID: app, ChatID: chat, UserID: user, Totals: m.chatTotals(app, chat), Sequence: m.items(app, chat)}); known && *got != want {
				t.Fatalf("chat is %+v, want %+v", *got, want)
			}
		}
	}
	reported := reportedSums(t, s, apps...)
	if d := cmp.Diff(reported, factSums(t, s)); d != "" {
		t.Fatalf("facts sum up to something else (-report +facts):\n%s", d)
	}
	if d := cmp.Diff(reported, listedSums(t, s, apps...)); d != "" {
		t.Fatalf("single events sum up to something else (-report +events):\n%s", d)
	}
}

// drawChats makes a history of few events in few chats, so that they meet.
func drawChats(t *rapid.T) (groups [][]schemas.CommandFrame) {
	r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 5))
	app := func() string { return fmt.Sprint("app-", r.IntN(2)) }
	ids := 5 + r.IntN(60)
	id := func() string { return fmt.Sprint("e", r.IntN(ids)) }
	commands := 0
	for range 3 + r.IntN(24) {
		var group []schemas.CommandFrame
		for range 1 + r.IntN(3) {
			commands++
			name := fmt.Sprint("c-", commands)
			switch k := r.IntN(10); {
			case k < 5:
				var events []schemas.UsageEvent
				for range 1 + r.IntN(7) {
					events = append(events, drawChatEvent(r, app(), id()))
				}
				group = append(group, ingestFrame(name, testNow, events...))
			case k < 7:
				group = append(group, voidFrame(name, testNow, app(), id(), ""))
			default:
				v := schemas.UsageValues{Given: schemas.GivenInput, InputTokens: r.Int64N(30)}
				if r.IntN(3) == 0 {
					v = schemas.UsageValues{Given: schemas.GivenCost, Cost: r.Int64N(30)}
				}
				group = append(group, amendFrame(name, testNow, app(), id(), "", v))
			}
		}
		groups = append(groups, group)
	}
	return groups
}

func drawChatEvent(r *rand.Rand, app, id string) schemas.UsageEvent {
	e := chatEvent(app, fmt.Sprint("chat-", r.IntN(5)), id, r.Int64N(20), r.Int64N(20))
	e.UserID, e.Model = fmt.Sprint("u", r.IntN(3)), fmt.Sprint("m", r.IntN(2))
	e.Timestamp -= r.Int64N(3) * int64(time.Hour)
	e.CachedTokens, e.ReasoningTokens, e.Cost = r.Int64N(3), r.Int64N(3), r.Int64N(40)
	switch r.IntN(5) {
	case 0:
		e.ChatID = ""
	case 1:
		e.Summary, e.Model = true, schemas.ModelUnknown
		e.InputTokens, e.OutputTokens, e.Cost = r.Int64N(60), r.Int64N(60), r.Int64N(90)
		e.TotalTokens = e.InputTokens + e.OutputTokens
	}
	return e
}

// Whatever comes in whatever order, chats and sums are what the rule says, facts and
// single events sum up to the report, and contents do not depend on restarts or on
// how many messages share a transaction.
func TestChatsEqualTheModel(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		groups := drawChats(t)
		m := newChatModel()
		for _, g := range groups {
			for i := range g {
				m.apply(t, &g[i])
			}
		}
		cut := rapid.IntRange(0, len(groups)).Draw(t, "restart at")
		var first []byte
		for _, run := range []struct{ per, cut int }{{1, 0}, {7, cut}, {64, 0}} {
			path := filepath.Join(dir, "s.db")
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			s := openAdjustStore(t, path)
			applyGroups(t, s, groups[:run.cut], run.per)
			if run.cut > 0 {
				closeAdjustStore(t, s)
				s = openAdjustStore(t, path)
			}
			applyGroups(t, s, groups[run.cut:], run.per)
			m.check(t, s)
			var b strings.Builder
			if err := s.Dump(&b); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = []byte(b.String())
			} else if string(first) != b.String() {
				t.Fatalf("%d messages a transaction, restart at %d: %s", run.per, run.cut, firstDifference(first, []byte(b.String())))
			}
			closeAdjustStore(t, s)
		}
		s := openAdjustStore(t, filepath.Join(dir, "s.db"))
		m.check(t, s)
		closeAdjustStore(t, s)
	})
}

// A restart after every single message changes nothing.
func TestChatsSurviveEveryRestart(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		groups := drawChats(t)
		path := filepath.Join(dir, "s.db")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		m := newChatModel()
		for _, g := range groups[:min(len(groups), 9)] {
			s := openAdjustStore(t, path)
			m.check(t, s)
			applyGroups(t, s, [][]schemas.CommandFrame{g}, 1)
			for i := range g {
				m.apply(t, &g[i])
			}
			m.check(t, s)
			closeAdjustStore(t, s)
		}
	})
}

// Any order and any repetition of deltas, summaries and voids ends with the same
// totals of the chat and of the app.
func TestChatTotalsInAnyOrder(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 9))
		var commands []schemas.CommandFrame
		voids := map[string]schemas.CommandFrame{}
		for n := range 2 + r.IntN(14) {
			e := drawChatEvent(r, "app-0", fmt.Sprint("e", n))
			name := fmt.Sprint("c", n)
			commands = append(commands, ingestFrame(name, testNow, e))
			if r.IntN(4) == 0 {
				voids[name] = voidFrame("v-"+name, testNow, "app-0", e.EventID, "")
			}
		}
		var totals [2]map[string]schemas.UsageSums
		for n := range totals {
			r.Shuffle(len(commands), func(i, j int) { commands[i], commands[j] = commands[j], commands[i] })
			var groups [][]schemas.CommandFrame
			var late []schemas.CommandFrame
			for _, c := range commands {
				groups = append(groups, []schemas.CommandFrame{c})
				if v, ok := voids[c.ID]; ok {
					late = append(late, v)
				}
				for len(late) > 0 && r.IntN(2) == 0 {
					groups, late = append(groups, late[:1]), late[1:]
				}
				for r.IntN(3) == 0 { // something again
					groups = append(groups, groups[r.IntN(len(groups))])
				}
			}
			for _, v := range late {
				groups = append(groups, []schemas.CommandFrame{v})
			}
			path := filepath.Join(dir, "s.db")
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			s := openAdjustStore(t, path)
			applyGroups(t, s, groups, 1+r.IntN(5))
			totals[n] = map[string]schemas.UsageSums{"the app": totalsOf(t, s, "app-0")}
			for c := range 5 {
				chat, err := s.Chat(context.Background(), "app-0", fmt.Sprint("chat-", c))
				if err != nil {
					t.Fatal(err)
				}
				if chat != nil {
					totals[n][chat.ChatID] = chat.Totals
				}
			}
			closeAdjustStore(t, s)
		}
		if d := cmp.Diff(totals[0], totals[1]); d != "" {
			t.Fatal(d)
		}
	})
}

// One history gives the same digests, chats included, for one partition and for four.
func TestPartitionsAgreeAboutChats(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var all [2]map[string]string
		groups := drawChats(t)
		for n, partitions := range []int{1, 4} {
			all[n] = map[string]string{}
			for p := range partitions {
				path := filepath.Join(dir, "s.db")
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				s, err := store.Open(path, store.Options{Partition: p, Partitions: partitions, FoldEvery: 12})
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

// The rule step by step, as the answers, facts and reports show it.
func TestSummariesAndDeltas(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 1000)
	defer s.Close()
	type sums = schemas.UsageSums
	n := 0
	step := func(name string, c schemas.CommandFrame, chat, app sums, counted *sums, covered bool) {
		t.Helper()
		n++
		c.ID = fmt.Sprint("step-", n)
		before := len(factsOf(t, s))
		applyGroups(t, s, [][]schemas.CommandFrame{{c}}, 1)
		got, err := s.Chat(t.Context(), "a", "c")
		if err != nil || got == nil || got.Totals != chat || got.UserID != "u" {
			t.Errorf("%s: the chat has %+v, want %+v: %v", name, got, chat, err)
		}
		if got := totalsOf(t, s, "a"); got != app {
			t.Errorf("%s: the app has %+v, want %+v", name, got, app)
		}
		for _, f := range factsOf(t, s)[before:] {
			for _, e := range f.Data.Events {
				if (e.Counted != nil) != (counted != nil) || counted != nil && sumsOfData(t, e.Counted) != *counted || e.CoveredBySummary != covered {
					t.Errorf("%s: the fact says %+v, want counted %+v, covered %v", name, e, counted, covered)
				}
			}
		}
	}
	ingest := func(e schemas.UsageEvent) schemas.CommandFrame { return ingestFrame(e.EventID, testNow, e) }
	tokens := func(events, input, output int64) sums {
		return sums{Events: events, InputTokens: input, OutputTokens: output, TotalTokens: input + output}
	}
	step("a delta", ingest(chatEvent("a", "c", "d1", 10, 5)), tokens(1, 10, 5), tokens(1, 10, 5), nil, false)
	low := tokens(0, 0, 0)
	step("a summary below the sum adds nothing", ingest(chatSummary("a", "c", "s1", 8, 5)), tokens(1, 10, 5), tokens(1, 10, 5), &low, false)
	more := tokens(0, 20, 15)
	step("a summary above it", ingest(chatSummary("a", "c", "s2", 30, 20)), tokens(1, 30, 20), tokens(1, 30, 20), &more, false)
	step("the same again", ingest(chatSummary("a", "c", "s2", 30, 20)), tokens(1, 30, 20), tokens(1, 30, 20), nil, false)
	covered := tokens(1, 0, 0)
	step("a delta that it covers", ingest(chatEvent("a", "c", "d2", 15, 5)), tokens(2, 30, 20), tokens(2, 30, 20), &covered, true)
	part := sums{Events: 1, InputTokens: 5, TotalTokens: 0}
	step("a delta that goes beyond it in one figure", ingest(chatEvent("a", "c", "d3", 10, 0)),
		sums{Events: 3, InputTokens: 35, OutputTokens: 20, TotalTokens: 50}, sums{Events: 3, InputTokens: 35, OutputTokens: 20, TotalTokens: 50}, &part, false)
	step("a void of what was counted", voidFrame("v", testNow, "a", "d1", ""),
		sums{Events: 2, InputTokens: 30, OutputTokens: 20, TotalTokens: 50}, sums{Events: 2, InputTokens: 30, OutputTokens: 20, TotalTokens: 50}, nil, false)
	step("a summary is not corrected", voidFrame("w", testNow, "a", "s2", ""),
		sums{Events: 2, InputTokens: 30, OutputTokens: 20, TotalTokens: 50}, sums{Events: 2, InputTokens: 30, OutputTokens: 20, TotalTokens: 50}, nil, false)
	facts := factsOf(t, s)
	if f := facts[len(facts)-1]; f.Type != schemas.TypeOf(schemas.CommandRefused.Name) || f.Data.Code != schemas.CodeEventIsSummary {
		t.Errorf("the last fact is %+v", f)
	}
	step("an event without a chat", ingest(chatEvent("a", "", "x", 1, 1)),
		sums{Events: 2, InputTokens: 30, OutputTokens: 20, TotalTokens: 50}, sums{Events: 3, InputTokens: 31, OutputTokens: 21, TotalTokens: 52}, nil, false)
	page, err := s.Events(t.Context(), schemas.EventQuery{AppID: "a", ChatID: "c", From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 10})
	if err != nil || len(page.Events) != 5 {
		t.Fatalf("%d events, %v", len(page.Events), err)
	}
	text := string(page.Events[1].AppendJSON(nil))
	if !strings.Contains(text, `"counted":{"events":1,"input_tokens":0,`) || !strings.Contains(text, `"covered_by_summary":true`) {
		t.Errorf("the covered event is listed as %s", text)
	}
}

// chatHistory is long enough for folds of many slices.
func chatHistory(seed uint64, groups int) (h history, m *chatModel) {
	r := rand.New(rand.NewPCG(seed, 2))
	m = newChatModel()
	for n := range groups {
		var events []schemas.UsageEvent
		for i := range 1 + r.IntN(20) {
			e := drawChatEvent(r, fmt.Sprint("app-", r.IntN(2)), fmt.Sprint("e", n, "-", i))
			if e.ChatID != "" && r.IntN(8) > 0 {
				e.ChatID = fmt.Sprint("long-", r.IntN(400))
			}
			events = append(events, e)
		}
		c := ingestFrame(fmt.Sprint("c", n), testNow, events...)
		v := voidFrame(fmt.Sprint("v", n), testNow, events[0].AppID, events[0].EventID, "")
		h.groups = append(h.groups, []schemas.CommandFrame{c})
		if r.IntN(4) == 0 {
			h.groups = append(h.groups, []schemas.CommandFrame{v})
		}
	}
	return h, m
}

// Folds of many slices, restarts in the middle of them and transactions of any
// length leave the same bytes after every message.
func TestReplayOfChatsGivesSameBytes(t *testing.T) {
	h, m := chatHistory(3, 250)
	for _, g := range h.groups {
		for i := range g {
			m.apply(t, &g[i])
		}
	}
	contents := make([][]byte, len(h.groups)+1) // by messages applied
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 300)
	for n, g := range h.groups {
		applyGroups(t, s, [][]schemas.CommandFrame{g}, 1)
		sum := sha256.Sum256(dump(t, s))
		contents[n+1] = sum[:]
	}
	m.check(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ per, restarts int }{{64, 1}, {7, 25}, {2, 60}} {
		path := filepath.Join(t.TempDir(), "s.db")
		r := rand.New(rand.NewPCG(uint64(c.restarts), 3))
		for at, n := 0, 0; at < len(h.groups); n++ {
			to := len(h.groups)
			if n < c.restarts {
				to = min(to, at+1+r.IntN(1+2*len(h.groups)/c.restarts))
			}
			s := openStore(t, path, 0, 1, 300)
			applyGroups(t, s, h.groups[at:to], c.per)
			at = to
			if sum := sha256.Sum256(dump(t, s)); string(contents[at]) != string(sum[:]) {
				t.Fatalf("%d messages a transaction: other contents after message %d, start %d", c.per, at, n)
			}
			if n%8 == 0 || at == len(h.groups) {
				checkChatsSoFar(t, s, &h)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func checkChatsSoFar(t *testing.T, s *store.Store, h *history) {
	t.Helper()
	m := newChatModel()
	for _, g := range h.groups[:s.Checkpoint().Seq] {
		for i := range g {
			m.apply(t, &g[i])
		}
	}
	m.check(t, s)
	chats := make(map[[2]string]schemas.UsageSums, len(m.chats))
	for chat := range m.chats {
		got, err := s.Chat(t.Context(), chat[0], chat[1])
		if err != nil || got == nil {
			t.Fatalf("%v: %+v, %v", chat, got, err)
		}
		if got.UserID != m.chats[chat] {
			t.Fatalf("%v belongs to %s, want %s", chat, got.UserID, m.chats[chat])
		}
		chats[chat] = got.Totals
	}
	if d := cmp.Diff(m.allChatTotals(), chats); d != "" {
		t.Fatalf("chats (-want +got):\n%s", d)
	}
}

// allChatTotals is chatTotals of all chats, in one pass.
func (m *chatModel) allChatTotals() map[[2]string]schemas.UsageSums {
	deltas, high := map[[2]string]schemas.UsageSums{}, map[[2]string]schemas.UsageSums{}
	for _, e := range m.events {
		chat := [2]string{e.event.AppID, e.event.ChatID}
		if e.event.ChatID == "" {
			continue
		}
		if e.event.Summary {
			high[chat] = high[chat].Max(e.stated)
			continue
		}
		sums := deltas[chat]
		sums.Add(&e.stated)
		deltas[chat] = sums
	}
	for chat := range m.chats {
		deltas[chat] = deltas[chat].Max(high[chat])
	}
	return deltas
}

// A transaction that failed leaves nothing behind: what an event added to the sums is
// judged anew.
func TestChatsOfAFailedTransaction(t *testing.T) {
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 1000)
	defer s.Close()
	table := NewTable()
	decode := func(frames ...schemas.CommandFrame) *message {
		seq := s.Checkpoint().Seq + 1
		return table.decode(schemas.StreamMessage{
			Subject: schemas.GroupSubject(0), Seq: seq, Time: time.Unix(0, testNow), Data: schemas.AppendGroup(nil, frames),
		}, 1, decodeTestGroup)
	}
	applyGroups(t, s, [][]schemas.CommandFrame{{ingestFrame("1", testNow, chatEvent("a", "c", "e1", 5, 5))}}, 1)
	summary := decode(ingestFrame("2", testNow, chatSummary("a", "c", "s", 100, 100)), ingestFrame("3", testNow, chatEvent("a", "c", "e2", 7, 7)), ingestFrame("4", testNow, chatEvent("a", "n", "e3", 1, 1)))
	failed := fmt.Errorf("no")
	if err := s.Update(func(tx *store.Tx) error {
		if _, err := table.apply(tx, summary); err != nil {
			return err
		}
		return failed
	}); err != failed {
		t.Fatal(err)
	}
	if c, err := s.Chat(t.Context(), "a", "n"); c != nil || err != nil {
		t.Errorf("a chat of the failed transaction is %+v, %v", c, err)
	}
	summary.kill(0, schemas.Errorf(schemas.CodePoison, "as the loop does"))
	if err := s.Update(func(tx *store.Tx) error { _, err := table.apply(tx, summary); return err }); err != nil {
		t.Fatal(err)
	}
	want := schemas.UsageSums{Events: 2, InputTokens: 12, OutputTokens: 12, TotalTokens: 24}
	if c, err := s.Chat(t.Context(), "a", "c"); err != nil || c.Totals != want {
		t.Errorf("%+v, %v, want %+v", c, err, want)
	}
	want.Add(&schemas.UsageSums{Events: 1, InputTokens: 1, OutputTokens: 1, TotalTokens: 2})
	if got := totalsOf(t, s, "a"); got != want {
		t.Errorf("the app has %+v, want %+v", got, want)
	}
	if d := cmp.Diff(reportedSums(t, s, "a"), factSums(t, s)); d != "" {
		t.Error(d)
	}
}
