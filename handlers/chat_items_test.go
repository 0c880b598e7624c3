package handlers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
	"grout/store"
)

// itemFact is a fact as a live stream reads it.
type itemFact struct {
	ID           string `json:"id"`
	Type         string `json:"type"`
	Subject      string `json:"subject"`
	App          string `json:"partitionkey"`
	Sequence     string `json:"sequence"`
	ChatSequence string `json:"chatsequence"`
	Cause        string `json:"causationid"`
	Data         struct {
		AppID            string                  `json:"app_id"`
		ChatID           string                  `json:"chat_id"`
		UserID           string                  `json:"user_id"`
		RunID            string                  `json:"run_id"`
		Part             int                     `json:"part"`
		Parts            int                     `json:"parts"`
		Deltas           []schemas.ChatDeltaData `json:"deltas"`
		EventID          string                  `json:"event_id"`
		PromptTokens     int64                   `json:"usage_prompt_tokens_final"`
		CompletionTokens int64                   `json:"usage_completion_tokens_final"`
		TotalTokens      int64                   `json:"usage_total_tokens_final"`
	} `json:"data"`

	kind, chat string // chat as the subject on NATS names it
	message    uint64
}

func itemFacts(t rapid.TB, s *store.Store, page int) (list []itemFact, texts []string) {
	t.Helper()
	for after := (schemas.Position{}); ; {
		messages, err := s.Facts(schemas.DestFacts, after, page, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if len(messages) == 0 {
			return list, texts
		}
		for _, m := range messages {
			if m.At.Compare(after) <= 0 {
				t.Fatalf("%v comes behind %v", m.At, after)
			}
			after = m.At
			var f itemFact
			if err := json.Unmarshal(m.Data, &f); err != nil {
				t.Fatalf("%v: %s", err, m.Data)
			}
			f.kind = strings.TrimSuffix(strings.TrimPrefix(f.Type, "ai.mozaiks."), ".v1")
			f.message = m.At.Seq
			tokens := strings.Split(m.Subject, ".")
			f.chat, err = schemas.UnescapeToken(tokens[len(tokens)-1])
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, f)
			texts = append(texts, m.Subject+" "+string(m.Data))
		}
	}
}

// checkItems holds the numbers of all facts against the rule, and the chats of the store
// against the facts. It gives the ids of the deltas, by app, in order.
func checkItems(t rapid.TB, s *store.Store) (list []itemFact, deltas map[string][]string) {
	t.Helper()
	list, texts := itemFacts(t, s, 1<<20)
	for _, page := range []int{1, 3} {
		if _, paged := itemFacts(t, s, page); !slices.Equal(paged, texts) {
			t.Fatalf("pages of %d facts are something else: %s", page, cmp.Diff(texts, paged))
		}
	}
	last, sequence, ids := map[[2]string]uint64{}, map[string]uint64{}, map[string]bool{}
	part := map[[2]string]int{} // of the message at hand
	deltas = map[string][]string{}
	message := uint64(0)
	for i := range list {
		f := &list[i]
		if ids[f.ID] {
			t.Fatalf("id %s twice", f.ID)
		}
		ids[f.ID] = true
		sequence[f.App]++
		if n, err := strconv.ParseUint(f.Sequence, 10, 64); err != nil || n != sequence[f.App] {
			t.Fatalf("fact %d of %s has the sequence %s", sequence[f.App], f.App, f.Sequence)
		}
		items := schemas.ChatItems(f.kind, len(f.Data.Deltas))
		if items == 0 {
			if f.ChatSequence != "" {
				t.Fatalf("%s has the number %s", f.kind, f.ChatSequence)
			}
			continue
		}
		chat := [2]string{f.App, f.chat}
		if f.ChatSequence != strconv.FormatUint(last[chat]+1, 10) {
			t.Fatalf("%s in message %d has the number %s in %v, want %d", f.kind, f.message, f.ChatSequence, chat, last[chat]+1)
		}
		last[chat] += uint64(items)
		if f.kind != schemas.ChatUsageDelta.Name {
			continue
		}
		if message != f.message {
			message, part = f.message, map[[2]string]int{}
		}
		if part[chat]++; f.Data.Part != part[chat] || f.Data.Part > f.Data.Parts || len(f.Data.Deltas) > schemas.MaxDeltasPerPart || f.Data.AppID != f.App || f.Data.ChatID != f.chat {
			t.Fatalf("part %d of %d of %v with %d deltas", f.Data.Part, f.Data.Parts, chat, len(f.Data.Deltas))
		}
		for _, d := range f.Data.Deltas {
			if d.AppID != f.App || d.ChatID != f.chat {
				t.Fatalf("a delta of %s and %s in %v", d.AppID, d.ChatID, chat)
			}
			deltas[f.App] = append(deltas[f.App], d.EventID)
		}
	}
	for chat, n := range last {
		got, err := s.Chat(context.Background(), chat[0], chat[1])
		if err != nil || got == nil || got.Sequence != n {
			t.Fatalf("%v has %+v, %v, want %d items", chat, got, err, n)
		}
	}
	return list, deltas
}

// drawItems is a history of usage, corrections, runs and requests for totals in few chats.
// User, and for runs chat, follow from the ids: whose a chat is does not depend on which of
// two commands comes first.
func drawItems(r *rand.Rand, groups int) (out [][]schemas.CommandFrame) {
	serial := 0
	frame := func(kind, app string, payload []byte) schemas.CommandFrame {
		return schemas.CommandFrame{Kind: kind, AppID: app, ID: fmt.Sprint("c-", serial), Source: "//mozaiks.ai/grout/t", Time: testNow, Accepted: testNow, Payload: payload}
	}
	event := func(app string) schemas.UsageEvent {
		e := drawChatEvent(r, app, fmt.Sprint("e", r.IntN(60)))
		if e.ChatID != "" && r.IntN(6) == 0 {
			e.ChatID = fmt.Sprint("run-", 2*r.IntN(3)) // of a run without a chat
		}
		if e.UserID = "u"; e.ChatID != "" {
			e.UserID = "of-" + e.ChatID
		}
		return e
	}
	for range groups {
		var group []schemas.CommandFrame
		for range 1 + r.IntN(4) {
			serial++
			app := fmt.Sprint("app-", r.IntN(2))
			switch k := r.IntN(20); {
			case k < 8:
				var list []schemas.UsageEvent
				for range 1 + r.IntN(9) {
					list = append(list, event(fmt.Sprint("app-", r.IntN(2))))
				}
				group = append(group, ingestFrame(fmt.Sprint("c-", serial), testNow, list...))
			case k < 10:
				group = append(group, voidFrame(fmt.Sprint("c-", serial), testNow, app, fmt.Sprint("e", r.IntN(60)), ""))
			case k < 11:
				v := schemas.UsageValues{Given: schemas.GivenInput, InputTokens: r.Int64N(30)}
				group = append(group, amendFrame(fmt.Sprint("c-", serial), testNow, app, fmt.Sprint("e", r.IntN(60)), "", v))
			case k < 13:
				p := schemas.ChatSummarize{ChatID: fmt.Sprint("chat-", r.IntN(7))}
				group = append(group, frame(schemas.SummarizeChat.Name, app, p.EncodePayload(nil)))
			default:
				group = append(group, frame(schemas.ReportRuns.Name, app, drawReport(r).EncodePayload(nil)))
			}
		}
		out = append(out, group)
	}
	return out
}

func drawReport(r *rand.Rand) *schemas.RunReport {
	p := &schemas.RunReport{}
	for i := range 1 + r.IntN(4) {
		n := r.IntN(6)
		e := schemas.RunEvent{Index: uint32(i), RunID: fmt.Sprint("run-", n), Step: schemas.RunStep(1 + r.IntN(int(schemas.StepToolCompleted))), EventID: fmt.Sprint("r", r.IntN(500)), Timestamp: testNow}
		chat := e.RunID
		if n%2 == 1 {
			chat = fmt.Sprint("chat-", n)
			e.ChatID = chat
		}
		if e.Step == schemas.StepRunStarted || r.IntN(4) == 0 {
			e.UserID = "of-" + chat
		}
		e.Status = e.Step.Statuses()[0]
		p.Events = append(p.Events, e)
	}
	return p
}

// checkChatState holds the chats of a store against its single events and runs: deltas are
// told once each, totals are told as they are, and a chat is its first user's.
func checkChatState(t rapid.TB, s *store.Store, groups [][]schemas.CommandFrame) {
	t.Helper()
	list, deltas := checkItems(t, s)
	for _, app := range []string{"app-0", "app-1"} {
		page, err := s.Events(context.Background(), schemas.EventQuery{AppID: app, From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range page.Events {
			if e := &page.Events[i]; e.ChatID != "" && !e.Summary {
				want = append(want, e.EventID)
			}
		}
		got := slices.Sorted(slices.Values(deltas[app]))
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Fatalf("deltas of %s: %s", app, cmp.Diff(want, got))
		}
	}
	m, applied := newChatModel(), uint64(0)
	for i := range list {
		f := &list[i]
		for ; applied < f.message; applied++ {
			for j := range groups[applied] {
				if c := &groups[applied][j]; strings.HasPrefix(c.Kind, "usage.") {
					m.apply(t, c)
				}
			}
		}
		if f.kind != schemas.ChatUsageSummary.Name {
			continue
		}
		sums := m.chatTotals(f.App, f.chat)
		if f.Data.PromptTokens != sums.InputTokens || f.Data.CompletionTokens != sums.OutputTokens || f.Data.TotalTokens != sums.TotalTokens || f.Data.EventID != f.ID {
			t.Fatalf("the totals of %s are %+v, want %+v", f.chat, f.Data, sums)
		}
		if f.Data.RunID == "" && f.Cause == "" || f.Data.UserID != "" && f.Data.UserID != "of-"+f.chat {
			t.Fatalf("the summary of %s is %+v", f.chat, f)
		}
	}
	for chat := range m.chats {
		c, err := s.Chat(context.Background(), chat[0], chat[1])
		if err != nil || c == nil || c.UserID != "of-"+chat[1] || c.Totals != m.chatTotals(chat[0], chat[1]) {
			t.Fatalf("%v: %+v, %v, want %+v", chat, c, err, m.chatTotals(chat[0], chat[1]))
		}
	}
}

var errRolledBack = errors.New("rolled back")

// applyFailing applies groups like applyGroups, and before each transaction a part of it
// that is rolled back, as a process that dies leaves it.
func applyFailing(t rapid.TB, s *store.Store, groups [][]schemas.CommandFrame, per int, r *rand.Rand) {
	t.Helper()
	table := NewTable()
	for at := 0; at < len(groups); {
		n := min(1+r.IntN(per), len(groups)-at)
		err := s.Update(func(tx *store.Tx) error {
			for i := range n {
				seq := s.Checkpoint().Seq + uint64(i) + 1
				m := table.decode(schemas.StreamMessage{
					Subject: schemas.GroupSubject(0), Seq: seq, Time: time.Unix(0, testNow+int64(seq)), Data: schemas.AppendGroup(nil, groups[at+i]),
				}, 1, decodeTestGroup)
				if _, err := table.apply(tx, m); err != nil {
					return err
				}
				if tx.Sealed() {
					break
				}
			}
			return errRolledBack
		})
		if !errors.Is(err, errRolledBack) {
			t.Fatal(err)
		}
		applyGroups(t, s, groups[at:at+n], per)
		at += n
	}
}

// Whatever shares a transaction, wherever grout restarts, dies or goes on from a copy, the
// items of a chat have the same numbers, from 1 without gaps, and stores the same bytes.
func TestNumbersOfChatsFollowFromMessages(t *testing.T) {
	dir := t.TempDir()
	for seed := range itemRounds(t) {
		r := rand.New(rand.NewPCG(seed, 7))
		groups := drawItems(r, 4+r.IntN(26))
		cut := r.IntN(len(groups) + 1)
		var contents, facts []string
		for name, run := range []func(path string) *store.Store{
			func(path string) *store.Store { // one by one
				s := openAdjustStore(t, path)
				applyGroups(t, s, groups, 1)
				return s
			},
			func(path string) *store.Store { // with a restart
				s := openAdjustStore(t, path)
				applyGroups(t, s, groups[:cut], 7)
				closeAdjustStore(t, s)
				s = openAdjustStore(t, path)
				applyGroups(t, s, groups[cut:], 7)
				return s
			},
			func(path string) *store.Store { // a restart before each
				s := openAdjustStore(t, path)
				for _, g := range groups {
					applyGroups(t, s, [][]schemas.CommandFrame{g}, 1)
					closeAdjustStore(t, s)
					s = openAdjustStore(t, path)
				}
				return s
			},
			func(path string) *store.Store { // what is rolled back leaves nothing
				s := openAdjustStore(t, path)
				applyFailing(t, s, groups, 5, r)
				return s
			},
			func(path string) *store.Store { // a snapshot, and what follows
				s := openAdjustStore(t, path)
				applyGroups(t, s, groups[:cut], 64)
				made, err := s.Snapshot(context.Background(), filepath.Join(dir, "snapshots"), time.Unix(0, testNow), func(context.Context) error { return nil })
				if err != nil {
					t.Fatal(err)
				}
				closeAdjustStore(t, s)
				if err := os.Rename(made.Path, path); err != nil {
					t.Fatal(err)
				}
				s = openAdjustStore(t, path)
				applyGroups(t, s, groups[cut:], 64)
				return s
			},
		} {
			path := filepath.Join(dir, "s.db")
			if err := errors.Join(os.RemoveAll(path), os.RemoveAll(filepath.Join(dir, "snapshots"))); err != nil {
				t.Fatal(err)
			}
			s := run(path)
			var b strings.Builder
			if err := s.Dump(&b); err != nil {
				t.Fatal(err)
			}
			_, texts := itemFacts(t, s, 1<<20)
			switch {
			case name == 0:
				contents, facts = []string{b.String()}, texts
				checkChatState(t, s, groups)
			case b.String() != contents[0]:
				t.Fatalf("seed %d, way %d, cut %d: %s", seed, name, cut, firstDifference([]byte(contents[0]), []byte(b.String())))
			case !slices.Equal(facts, texts):
				t.Fatalf("seed %d, way %d, cut %d: other facts: %s", seed, name, cut, cmp.Diff(facts, texts))
			}
			closeAdjustStore(t, s)
			s = openAdjustStore(t, path)
			checkItems(t, s)
			closeAdjustStore(t, s)
		}
	}
}

// itemRounds is how many histories are tried; GROUT_ITEM_ROUNDS sets another number.
func itemRounds(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("GROUT_ITEM_ROUNDS")
	if text == "" {
		return 5
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// One history with runs gives the same digests for one partition and for four.
func TestPartitionsAgreeAboutItems(t *testing.T) {
	dir := t.TempDir()
	for seed := range itemRounds(t) {
		groups := drawItems(rand.New(rand.NewPCG(seed, 8)), 20)
		var all [2]map[string]string
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
				checkItems(t, s)
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
			t.Fatalf("seed %d: %s", seed, d)
		}
	}
}

// A chat is its first user's, whether a run or usage came first, and its first item has the
// number 1 in both orders.
func TestChatsOfRunsAndUsage(t *testing.T) {
	type ev = schemas.RunEvent
	usage := func(w *entitled, id, user string) {
		e := chatEvent("a", "c", id, 10, 5)
		e.UserID = user
		w.apply(ingestFrame(id, w.now, e))
	}
	chat := func(w *entitled, id string) schemas.ChatUsage {
		t.Helper()
		c, err := w.store.Chat(t.Context(), "a", id)
		if err != nil || c == nil {
			t.Fatalf("chat %s: %+v, %v", id, c, err)
		}
		return *c
	}
	used := schemas.UsageSums{Events: 1, InputTokens: 10, OutputTokens: 5, TotalTokens: 15}
	for name, c := range map[string]struct {
		do   func(w *entitled)
		want schemas.ChatUsage
	}{
		"only a run": {
			func(w *entitled) {
				w.report(ev{RunID: "r", ChatID: "c", Step: schemas.StepRunStarted, UserID: "ann"}, ev{RunID: "r", Step: schemas.StepRunCompleted})
			}, schemas.ChatUsage{UserID: "ann", Sequence: 2},
		},
		"a run, then usage of somebody else, then its end": {
			func(w *entitled) {
				w.report(ev{RunID: "r", ChatID: "c", Step: schemas.StepRunStarted, UserID: "ann"})
				usage(w, "e", "ben")
				w.report(ev{RunID: "r", Step: schemas.StepRunCompleted})
			}, schemas.ChatUsage{UserID: "ann", Totals: used, Sequence: 4},
		},
		"usage, then a run of somebody else": {
			func(w *entitled) {
				usage(w, "e", "ben")
				w.report(ev{RunID: "r", ChatID: "c", Step: schemas.StepRunStarted, UserID: "ann"})
			}, schemas.ChatUsage{UserID: "ben", Totals: used, Sequence: 2},
		},
		"a run that is nobody's, then usage": {
			func(w *entitled) {
				w.report(ev{RunID: "r", ChatID: "c", Step: schemas.StepAgentStarted})
				usage(w, "e", "ben")
				w.report(ev{RunID: "r", ChatID: "c", Step: schemas.StepRunStarted, UserID: "ann"})
			}, schemas.ChatUsage{UserID: "ben", Totals: used, Sequence: 4},
		},
		"a run that is nobody's": {
			func(w *entitled) { w.report(ev{RunID: "r", ChatID: "c", Step: schemas.StepAgentStarted}) }, schemas.ChatUsage{Sequence: 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newEntitled(t)
			c.do(w)
			c.want.AppID, c.want.ChatID = "a", "c"
			if got := chat(w, "c"); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
			checkItems(t, w.store)
			closeAdjustStore(t, w.store)
			w.store = openStore(t, w.path, 0, 1, 300)
			if got := chat(w, "c"); got != c.want {
				t.Errorf("after a restart %+v, want %+v", got, c.want)
			}
		})
	}
}

// The end of a run tells the totals of its chat behind everything they count, when there is
// usage; whoever asks gets what the fact says.
func TestSummariesAreTold(t *testing.T) {
	w := newEntitled(t)
	w.mustExecute(execution("r1"))
	if o := w.finish(&schemas.ExecutionEnd{RunID: "r1", OK: true}); o.Code != "" {
		t.Fatal(o)
	}
	w.mustExecute(execution("r2"))
	e := schemas.UsageEvent{Model: "m", InputTokens: 7, OutputTokens: 3, TotalTokens: 10}
	if o := w.finish(&schemas.ExecutionEnd{RunID: "r2", OK: true, Usage: []schemas.UsageEvent{e}}); o.Code != "" {
		t.Fatal(o)
	}
	var got []string
	for _, f := range func() []itemFact { list, _ := checkItems(t, w.store); return list }() {
		if schemas.ChatItems(f.kind, len(f.Data.Deltas)) > 0 {
			got = append(got, fmt.Sprint(f.chat, " ", f.ChatSequence, " ", f.kind, " ", f.Data.TotalTokens))
		}
	}
	want := []string{
		"r1 1 orchestration.run_started 0", "r1 2 orchestration.run_completed 0",
		"r2 1 orchestration.run_started 0", "r2 2 chat.usage_delta 0", "r2 3 orchestration.run_completed 0", "r2 4 chat.usage_summary 10",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("items:\n%s", d)
	}
	if _, texts := itemFacts(t, w.store, 1<<20); !slices.ContainsFunc(texts, func(text string) bool {
		return strings.Contains(text, `"user_id":"u","run_id":"r2","workflow_name":"story","usage_prompt_tokens_final":7,`)
	}) {
		t.Errorf("the summary does not name its run: %s", texts)
	}

	later := chatEvent("a", "r2", "later", 5, 0)
	ask := w.frame(schemas.SummarizeChat.Name, "a", (&schemas.ChatSummarize{ChatID: "r2"}).EncodePayload(nil))
	out := w.apply(ask, ingestFrame("later", w.now, later)) // in one group: the fact stands behind the delta
	var o schemas.CommandOutcome
	if err := o.Decode(out[0]); err != nil || o.Code != "" {
		t.Fatalf("%+v, %v", o, err)
	}
	list, texts := itemFacts(t, w.store, 1<<20)
	last := list[len(list)-1]
	if last.kind != schemas.ChatUsageSummary.Name || last.Data.TotalTokens != 15 || last.ChatSequence != "6" || last.Cause != ask.ID || !strings.Contains(texts[len(texts)-1], `"data":`+string(o.Body)+"}") {
		t.Errorf("the answer is %s, the fact %s", o.Body, texts[len(texts)-1])
	}
	for chat, code := range map[string]schemas.Code{"r1": "", "none": schemas.CodeNotFound} {
		o := w.do(schemas.SummarizeChat.Name, "a", (&schemas.ChatSummarize{ChatID: chat}).EncodePayload(nil))
		if o.Code != code {
			t.Errorf("%s: %+v", chat, o)
		}
	}
	if c, err := w.store.Chat(t.Context(), "a", "none"); c != nil || err != nil {
		t.Errorf("who asks for a chat makes none: %+v, %v", c, err)
	}
	checkItems(t, w.store)
}

// A chat with many events in a message is told in parts; other chats, apps and commands of
// it do not mix.
func TestDeltasInParts(t *testing.T) {
	w := newEntitled(t)
	var first, second []schemas.UsageEvent
	for i := range 1203 {
		first = append(first, chatEvent("a", "big", fmt.Sprint("a", i), 1, 0))
		if i%3 == 0 {
			first = append(first, chatEvent("b", fmt.Sprint("b", i%2), fmt.Sprint("b", i), 1, 0), chatEvent("a", "", fmt.Sprint("n", i), 1, 0))
		}
		if i%100 == 0 {
			second = append(second, chatEvent("a", "big", fmt.Sprint("s", i), 1, 0), chatEvent("a", "small", fmt.Sprint("t", i), 1, 0))
		}
	}
	w.apply(ingestFrame("x", w.now, first...), ingestFrame("y", w.now, second...))
	list, deltas := checkItems(t, w.store)
	var got []string
	for _, f := range list {
		if f.kind == schemas.ChatUsageDelta.Name {
			got = append(got, fmt.Sprintf("%s %s %d/%d %d from %s because of %s", f.App, f.chat, f.Data.Part, f.Data.Parts, len(f.Data.Deltas), f.ChatSequence, f.Cause))
		}
	}
	group := list[0].Cause // both commands have events of a
	want := []string{
		"a big 1/3 500 from 1 because of " + group, "a big 2/3 500 from 501 because of " + group, "a big 3/3 216 from 1001 because of " + group,
		"a small 1/1 13 from 1 because of y", "b b0 1/1 201 from 1 because of x", "b b1 1/1 200 from 1 because of x",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if n := len(deltas["a"]); n != 1229 || deltas["a"][0] != "a0" || deltas["a"][1202] != "a1202" || deltas["a"][1203] != "s0" {
		t.Errorf("%d deltas", n)
	}
}
