package schemas

import (
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// Upper sizes that a message of a destination stream must stay below.
const (
	maxAtomicBatch = 8 << 20  // of the relay
	maxNATSPayload = 12 << 20 // of the server
)

// factSamples has data of every kind of fact, with the writer that facts use.
func factSamples(t *testing.T) map[string]func([]byte) []byte {
	t.Helper()
	rejected := UsageRejectedData{AppID: "app-1", Count: 3, Rejected: []RejectedInBatch{
		{BatchID: "b \"1\"", Index: 7, EventID: "e-1", Code: CodeConflict, Detail: "détail\n"},
		{BatchID: "b2", Code: CodeNotAnObject, Detail: "the event must be an object, not null"},
	}}
	samples := map[string]func([]byte) []byte{
		UsageRecorded.Name: func(b []byte) []byte {
			return AppendUsageRecorded(b, "app-1", []string{"batch-1", "b \"2\""}, 2, 3, goldenLoggedEvents())
		},
		UsageRejected.Name: rejected.AppendJSON,
	}
	for kind, data := range adjustmentSamples() {
		samples[kind] = data
	}
	for kind, data := range entitlementSamples() {
		samples[kind] = data
	}
	for kind, data := range runSamples() {
		samples[kind] = data
	}
	for kind, data := range chatSamples() {
		samples[kind] = data
	}
	for _, kind := range FactKinds() {
		if samples[kind] == nil {
			t.Errorf("no sample of the fact %s", kind)
		}
	}
	return samples
}

func parseEvent(t rapid.TB, text []byte) event.Event {
	t.Helper()
	var e event.Event
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if err := e.Validate(); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return e
}

// What the CloudEvents SDK reads is what was written, whatever the texts are.
func TestFactsAreCloudEvents(t *testing.T) {
	for kind, data := range factSamples(t) {
		t.Run(kind, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				optional := rapid.OneOf(rapid.Just(""), rapid.StringN(1, 20, -1))
				h := FactHead{
					Kind: kind, AppID: rapid.StringN(1, MaxIDChars, -1).Draw(t, "app"), Time: rapid.Int64().Draw(t, "time"),
					Sequence: rapid.Uint64().Draw(t, "sequence"), Cause: Cause{optional.Draw(t, "cause"), optional.Draw(t, "cause source")},
					CorrelationID: optional.Draw(t, "correlation"), TraceParent: optional.Draw(t, "traceparent"),
				}
				h.ID, h.Subject = FactID(h.Cause, 3), "app/"+h.AppID
				if ChatItems(kind, 1) > 0 {
					h.ChatSequence = rapid.Uint64Min(1).Draw(t, "number in the chat")
				}
				e := parseEvent(t, AppendFact([]byte("before"), &h, data)[len("before"):])
				want := map[string]any{
					"specversion": "1.0", "id": h.ID, "source": AppSource(h.AppID, "grout"), "type": "ai.mozaiks." + kind + ".v1",
					"subject": h.Subject, "datacontenttype": "application/json", "time": h.Time, "data": string(data(nil)),
				}
				got := map[string]any{
					"specversion": e.SpecVersion(), "id": e.ID(), "source": e.Source(), "type": e.Type(),
					"subject": e.Subject(), "datacontenttype": e.DataContentType(), "time": e.Time().UnixNano(), "data": string(e.Data()),
				}
				if d := cmp.Diff(want, got); d != "" {
					t.Fatal(d)
				}
				extensions := map[string]any{"partitionkey": h.AppID, "sequence": new(big.Int).SetUint64(h.Sequence).String()}
				if h.ChatSequence != 0 {
					extensions[ChatSequenceAttribute] = new(big.Int).SetUint64(h.ChatSequence).String()
				}
				extensions["sequence"] = strings.Repeat("0", 20-len(extensions["sequence"].(string))) + extensions["sequence"].(string)
				for name, value := range map[string]string{
					"causationid": h.Cause.ID, "causationsource": h.Cause.Source, "correlationid": h.CorrelationID, "traceparent": h.TraceParent,
				} {
					if value != "" {
						extensions[name] = value
					}
				}
				if d := cmp.Diff(extensions, e.Extensions()); d != "" {
					t.Fatal(d)
				}
			})
		})
	}
}

func TestFactsGolden(t *testing.T) {
	for kind, data := range factSamples(t) {
		h := FactHead{
			Kind: kind, AppID: "app 1", ID: FactID(Cause{"c-1", "//mozaiks.ai/grout/http"}, 2), Subject: "app/app 1",
			Time: 1_774_000_000_123_456_789, Sequence: 42, Cause: Cause{"c-1", "//mozaiks.ai/grout/http"},
			CorrelationID: "corr", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		}
		if ChatItems(kind, 1) > 0 {
			h.ChatSequence = 7
		}
		golden(t, strings.ReplaceAll(kind, ".", "_")+"_v1.golden", append(AppendFact(nil, &h, data), '\n'))
	}
}

func TestAppendJSONString(t *testing.T) {
	check := func(t rapid.TB, s string) {
		t.Helper()
		text := AppendJSONString(nil, s)
		var back string
		if err := json.Unmarshal(text, &back); err != nil || back != s {
			t.Fatalf("%q became %s and came back as %q: %v", s, text, back, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.String().Draw(t, "text")) })
	for r := range rune(0x3000) {
		check(t, "a"+string(r)+"z")
	}
	for _, s := range []string{"", "\u2028\u2029\ufeff\ufffd\uffff\U0010ffff", `\"/`, "\x7f"} {
		check(t, s)
	}
}

func TestAppendCostIsExact(t *testing.T) {
	check := func(t rapid.TB, nanos int64) {
		t.Helper()
		text := string(AppendCost(nil, nanos))
		r, ok := new(big.Rat).SetString(text)
		if !ok || r.Cmp(big.NewRat(nanos, NanosPerUnit)) != 0 {
			t.Fatalf("%d nano-units became %q", nanos, text)
		}
		if !json.Valid([]byte(text)) || strings.ContainsAny(text, "eE") || strings.Contains(text, ".") && strings.HasSuffix(text, "0") {
			t.Fatalf("%d nano-units became %q, which is not the plain number", nanos, text)
		}
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.Int64().Draw(t, "nanos")) })
	for _, nanos := range []int64{0, 1, -1, 10, 999_999_999, -1_000_000_000, 1_000_000_001, MaxCostNanos, math.MaxInt64, math.MinInt64, math.MinInt64 + 1} {
		check(t, nanos)
	}
}

func TestAppendInstantCanBeReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nanos := rapid.Int64().Draw(t, "nanos")
		text := string(AppendInstant(nil, nanos))
		if back, err := ParseInstant(text); err != nil || back != nanos {
			t.Fatalf("%d became %s and came back as %d: %v", nanos, text, back, err)
		}
	})
}

// recordedOf says field by field what a fact should show of an event.
func recordedOf(e *UsageEvent) RecordedEvent {
	r := RecordedEvent{
		EventID: e.EventID, Timestamp: time.Unix(0, e.Timestamp).UTC().Format(time.RFC3339Nano), AppID: e.AppID, UserID: e.UserID, Model: e.Model,
		InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens, TenantID: e.TenantID, WorkflowID: e.WorkflowID,
		ChatID: e.ChatID, RunID: e.RunID, AgentName: e.AgentName, InvocationID: e.InvocationID, CachedTokens: e.CachedTokens,
		ReasoningTokens: e.ReasoningTokens, DurationSec: e.DurationSec, Cached: e.Cached, Metadata: json.RawMessage(e.Metadata),
		Summary: e.Summary,
	}
	if c := e.Counted; c != nil {
		r.Counted = &SumsData{c.Events, c.InputTokens, c.OutputTokens, c.TotalTokens, c.CachedTokens, c.ReasoningTokens, json.Number(AppendAmount(nil, c.Cost))}
		r.CoveredBySummary = !e.Summary && *c == UsageSums{Events: 1}
	}
	if e.Cost != 0 {
		r.Cost = json.Number(AppendCost(nil, e.Cost))
	}
	return r
}

func TestUsageRecordedShowsTheEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		events := rapid.SliceOfN(rapid.Custom(drawLoggedEvent), 0, 5).Draw(t, "events")
		want := UsageRecordedData{
			AppID: rapid.String().Draw(t, "app"), BatchIDs: rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "batches"),
			Part: rapid.IntRange(1, 99).Draw(t, "part"), Parts: rapid.IntRange(1, 99).Draw(t, "parts"), Events: []RecordedEvent{},
		}
		for i := range events {
			want.Events = append(want.Events, recordedOf(&events[i]))
		}
		text := AppendUsageRecorded(nil, want.AppID, want.BatchIDs, want.Part, want.Parts, events)
		var got UsageRecordedData
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// Characters that take the most room: six bytes as an escape, twelve in a URI.
var widestCharacters = []string{"\x01", "\U0001F600"}

func widestEvent(c string) UsageEvent {
	id, name := strings.Repeat(c, MaxIDChars), strings.Repeat(c, MaxNameChars)
	metadata := []byte(`{"k":"` + strings.Repeat("x", MaxMetadataBytes-len(`{"k":""}`)) + `"}`)
	var most UsageSums
	for _, n := range most.counts() {
		*n = math.MaxInt64
	}
	most.Cost = AmountOf(math.MaxInt64)
	return UsageEvent{
		EventID: id, Timestamp: 1_774_000_000_123_456_789, AppID: id, TenantID: id, UserID: id, WorkflowID: name, Model: name, ChatID: id, RunID: id,
		AgentName: id, InvocationID: id, InputTokens: MaxSummaryCount, OutputTokens: MaxSummaryCount, TotalTokens: MaxSummaryCount,
		CachedTokens: MaxSummaryCount, ReasoningTokens: MaxSummaryCount, Summary: true, Counted: &most, Cost: MaxCostNanos - 1, DurationSec: 2.2250738585072014e-308, Cached: true,
		Metadata: metadata,
	}
}

func widestHead(c, kind string) *FactHead {
	id, long := strings.Repeat(c, MaxIDChars), strings.Repeat(c, 1024)
	return &FactHead{
		Kind: kind, AppID: id, ID: FactID(Cause{}, math.MaxUint32), Subject: "app/" + id, Time: 1_774_000_000_123_456_789, Sequence: math.MaxUint64,
		Cause: Cause{long, long}, CorrelationID: long, TraceParent: long,
	}
}

func TestLargestFactsFit(t *testing.T) {
	for _, c := range widestCharacters {
		id := strings.Repeat(c, MaxIDChars)
		events := slices.Repeat([]UsageEvent{widestEvent(c)}, MaxEventsPerPart)
		batches := slices.Repeat([]string{id}, MaxGroupCommands)
		recorded := AppendFact(nil, widestHead(c, UsageRecorded.Name), func(b []byte) []byte {
			return AppendUsageRecorded(b, id, batches, math.MaxInt32, math.MaxInt32, events)
		})
		// Details are at most 200 bytes of text: FuzzParseUsageBatch sees to that.
		rejected := UsageRejectedData{AppID: id, Count: math.MaxInt32, Rejected: slices.Repeat([]RejectedInBatch{
			{BatchID: id, Index: math.MaxUint32, EventID: id, Code: CodeTimestampInFuture, Detail: strings.Repeat(c, 200)},
		}, MaxListedErrors)}
		refused := AppendFact(nil, widestHead(c, UsageRejected.Name), rejected.AppendJSON)
		for name, text := range map[string][]byte{"usage.recorded": recorded, "usage.rejected": refused} {
			t.Logf("%s of %q: %d bytes", name, c, len(text))
			if len(text) >= maxAtomicBatch || len(text) >= maxNATSPayload {
				t.Errorf("%s of %q has %d bytes", name, c, len(text))
			}
			parseEvent(t, text)
		}
	}
}

func TestFactID(t *testing.T) {
	c := Cause{ID: "0190f7a2-0000-7000-8000-000000000001", Source: "//mozaiks.ai/grout/http"}
	const want = "QAN8K86279LQNE3ABC8LM8I1HC.7" // base32hex(SHA-256(length, source, id)[:16]) + "." + n
	if got := FactID(c, 7); got != want {
		t.Errorf("%s, want %s: ids of facts must never change", got, want)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.StringN(0, 4, -1), anyText())
		a := Cause{text.Draw(t, "id"), text.Draw(t, "source")}
		b := Cause{text.Draw(t, "other id"), text.Draw(t, "other source")}
		m, n := rapid.Uint32().Draw(t, "m"), rapid.Uint32().Draw(t, "n")
		if (a == b && m == n) != (FactID(a, m) == FactID(b, n)) {
			t.Fatalf("%q.%d and %q.%d: %s and %s", a, m, b, n, FactID(a, m), FactID(b, n))
		}
		// Moving a byte from the source to the id gives another cause.
		if a.Source != "" {
			moved := Cause{a.Source[len(a.Source)-1:] + a.ID, a.Source[:len(a.Source)-1]}
			if FactID(a, m) == FactID(moved, m) {
				t.Fatalf("%q and %q are one", a, moved)
			}
		}
		if !utf8.ValidString(FactID(a, m)) {
			t.Fatal("an id must be text")
		}
	})
}
