package schemas

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func goldenChatSummary() *ChatSummary {
	return &ChatSummary{
		EventID: "QAN8K86279LQNE3ABC8LM8I1HC.7", At: goldenInstant, RunID: "run \"1\"", WorkflowName: "größe",
		ChatUsage: ChatUsage{AppID: "app-1", ChatID: "c\n1", UserID: "u", Totals: UsageSums{Events: 2, InputTokens: 1500, OutputTokens: 500, TotalTokens: 2001, Cost: AmountOf(37_500_000)}, Sequence: 9},
	}
}

func chatSamples() map[string]func([]byte) []byte {
	return map[string]func([]byte) []byte{
		ChatUsageDelta.Name: func(b []byte) []byte {
			return AppendChatUsageDelta(b, "app-1", "c\n1", 2, 3, goldenLoggedEvents())
		},
		ChatUsageSummary.Name: goldenChatSummary().AppendJSON,
	}
}

func TestChatFactsFollowTheirSchemas(t *testing.T) {
	samples := chatSamples()
	bare := ChatSummary{ChatUsage: ChatUsage{AppID: "a", ChatID: "c"}} // on request, of a chat that is nobody's
	for name, text := range map[string][]byte{
		"chat.usage_delta": samples[ChatUsageDelta.Name](nil), "chat.usage_summary": samples[ChatUsageSummary.Name](nil),
		"chat.usage_summary.json, bare": bare.AppendJSON(nil),
	} {
		name, _, _ = strings.Cut(name, ".json")
		if err := compile(t, name+".json", nil, "").Validate(unmarshal(t, text)); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// A delta says what its event says, as consumers of the reference know it.
func TestChatDeltasShowTheEvents(t *testing.T) {
	textOrNil := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(rapid.Custom(drawLoggedEvent), 0, 5).Draw(t, "events")
		want := ChatUsageDeltaData{
			AppID: rapid.String().Draw(t, "app"), ChatID: rapid.String().Draw(t, "chat"),
			Part: rapid.IntRange(1, 99).Draw(t, "part"), Parts: rapid.IntRange(1, 99).Draw(t, "parts"), Deltas: []ChatDeltaData{},
		}
		for i := range events {
			e := &events[i]
			want.Deltas = append(want.Deltas, ChatDeltaData{
				EventID: e.EventID, EventTS: InstantText(e.Timestamp), ChatID: e.ChatID, AppID: e.AppID, UserID: e.UserID,
				WorkflowName: textOrNil(e.WorkflowID), AgentName: textOrNil(e.AgentName), ModelName: e.Model,
				PromptTokens: e.InputTokens, CompletionTokens: e.OutputTokens, TotalTokens: e.TotalTokens,
				Cached: e.Cached, DurationSec: e.DurationSec, InvocationID: textOrNil(e.InvocationID),
			})
		}
		text := AppendChatUsageDelta(nil, want.AppID, want.ChatID, want.Part, want.Parts, events)
		var got ChatUsageDeltaData
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

// What a summary says can be sent to a grout, which then counts the same.
func TestASummaryCanBeIngested(t *testing.T) {
	s := goldenChatSummary()
	s.Totals.Events = 0
	var b ParsedBatch
	if err := ParseUsageBatch(s.AppendJSON(nil), &b); err != nil || len(b.Events) != 1 {
		t.Fatalf("%v, %+v", err, b)
	}
	e := b.Events[0]
	got := SumsOf(&e)
	if !e.Summary || e.ChatID != s.ChatID || e.EventID != s.EventID || e.UserID != s.UserID || e.WorkflowID != s.WorkflowName || e.Timestamp != s.At || got != s.Totals {
		t.Errorf("%+v", e)
	}
}

func TestLargestChatFactsFit(t *testing.T) {
	for _, c := range widestCharacters {
		id, text := strings.Repeat(c, MaxIDChars), strings.Repeat(c, MaxNameChars)
		events := slices.Repeat([]UsageEvent{widestEvent(c)}, MaxDeltasPerPart)
		head := func(kind string) *FactHead {
			h := widestHead(c, kind)
			h.ChatSequence = math.MaxUint64
			return h
		}
		var most UsageSums
		for _, n := range most.counts() {
			*n = math.MaxInt64
		}
		summary := ChatSummary{EventID: id, At: goldenInstant, RunID: id, WorkflowName: text, ChatUsage: ChatUsage{AppID: id, ChatID: id, UserID: id, Totals: most}}
		for name, text := range map[string][]byte{
			"chat.usage_delta": AppendFact(nil, head(ChatUsageDelta.Name), func(b []byte) []byte {
				return AppendChatUsageDelta(b, id, id, math.MaxInt32, math.MaxInt32, events)
			}),
			"chat.usage_summary": AppendFact(nil, head(ChatUsageSummary.Name), summary.AppendJSON),
		} {
			t.Logf("%s of %q: %d bytes", name, c, len(text))
			if len(text) >= maxAtomicBatch || len(text) >= maxNATSPayload {
				t.Errorf("%s of %q has %d bytes", name, c, len(text))
			}
			if got := parseEvent(t, text).Extensions()[ChatSequenceAttribute]; got != "18446744073709551615" {
				t.Errorf("%s: number %v", name, got)
			}
		}
	}
}

func TestChatItems(t *testing.T) {
	for _, c := range []struct {
		kind         string
		deltas, want int
	}{
		{ChatUsageDelta.Name, 500, 500},
		{ChatUsageSummary.Name, 0, 1},
		{RunStartedFact.Name, 0, 1},
		{ToolCompletedFact.Name, 0, 1},
		{UsageRecorded.Name, 500, 0},
		{PluginExecuted.Name, 0, 0},
		{CommandRefused.Name, 0, 0},
	} {
		if got := ChatItems(c.kind, c.deltas); got != c.want {
			t.Errorf("%s takes %d numbers, want %d", c.kind, got, c.want)
		}
	}
}

func TestChatSummarizePayload(t *testing.T) {
	want := ChatSummarize{ChatID: "c/1 \"é\""}
	b := want.EncodePayload(nil)
	goldenBytes(t, "chat_summarize_payload_v1.golden", b)
	var got ChatSummarize
	if err := got.DecodePayload(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if got.DecodePayload(b[:n:n]) == nil {
			t.Errorf("%d bytes are a payload", n)
		}
	}
	for _, bad := range [][]byte{append(b, 0), {2, 1, 'c'}, {1, 0}} {
		if got.DecodePayload(bad) == nil {
			t.Errorf("%x is a payload", bad)
		}
	}
}
