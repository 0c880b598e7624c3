package schemas

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"pgregory.net/rapid"
)

var equalEvents = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateNaNs()}

// idText draws ids as clients make them, and such that only look like UUIDs.
func idText() *rapid.Generator[string] {
	id := rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) string { return uuid.UUID(b).String() })
	return rapid.OneOf(
		id,
		rapid.Map(id, strings.ToUpper),
		rapid.Map(id, func(s string) string { return "{" + s[1:] }),
		rapid.Map(id, func(s string) string { return s[:35] + "g" }),
		rapid.Map(id, func(s string) string { return strings.ReplaceAll(s, "-", "_") }),
		rapid.StringN(1, 20, -1),
	)
}

func drawUsageEvent(t *rapid.T) UsageEvent {
	name := rapid.OneOf(rapid.SampledFrom([]string{"app-1", "gpt-4", "u", "\x00", "𝄞"}), rapid.StringN(1, 12, -1))
	optional := rapid.OneOf(rapid.Just(""), name)
	count := rapid.Int64Range(0, MaxTokenCount)
	maybe := rapid.OneOf(rapid.Just(int64(0)), count)
	e := UsageEvent{
		Index: rapid.Uint32().Draw(t, "index"), EventID: idText().Draw(t, "id"), Timestamp: rapid.Int64().Draw(t, "timestamp"),
		AppID: name.Draw(t, "app"), UserID: name.Draw(t, "user"), Model: name.Draw(t, "model"),
		TenantID: optional.Draw(t, "tenant"), WorkflowID: optional.Draw(t, "workflow"), ChatID: optional.Draw(t, "chat"),
		RunID: optional.Draw(t, "run"), AgentName: optional.Draw(t, "agent"), InvocationID: optional.Draw(t, "invocation"),
		InputTokens: count.Draw(t, "input"), OutputTokens: count.Draw(t, "output"),
		CachedTokens: maybe.Draw(t, "cached tokens"), ReasoningTokens: maybe.Draw(t, "reasoning"),
		Cost: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, MaxCostNanos)).Draw(t, "cost"),
		// A duration is never -0 or NaN.
		DurationSec: rapid.OneOf(rapid.Just(0.0), rapid.Float64Range(math.SmallestNonzeroFloat64, MaxDurationSeconds)).Draw(t, "duration"),
		Cached:      rapid.Bool().Draw(t, "cached"),
	}
	if e.Summary = rapid.IntRange(0, 4).Draw(t, "summary") == 0; e.Summary {
		e.InputTokens = rapid.Int64Range(0, MaxSummaryCount).Draw(t, "input of a summary")
	}
	e.TotalTokens = e.InputTokens + e.OutputTokens
	if rapid.Bool().Draw(t, "more in total") {
		e.TotalTokens += maybe.Draw(t, "rest")
	}
	if rapid.Bool().Draw(t, "has metadata") {
		e.Metadata = []byte(`{"k":` + string(AppendJSONString(nil, rapid.String().Draw(t, "metadata"))) + `}`)
	}
	return e
}

// drawLoggedEvent draws an event of the log, of which less may have been counted.
func drawLoggedEvent(t *rapid.T) UsageEvent {
	e := drawUsageEvent(t)
	if rapid.IntRange(0, 2).Draw(t, "counted in part") == 0 {
		e.Counted = &UsageSums{}
		for _, n := range e.Counted.counts() {
			*n = rapid.Int64Range(0, math.MaxInt64).Draw(t, "counted")
		}
		e.Counted.Cost = AmountOf(rapid.Int64Range(0, math.MaxInt64).Draw(t, "counted"))
	}
	return e
}

// A command does not say what is counted of its events.
func TestPayloadsCarryNoCounted(t *testing.T) {
	b := goldenBatch()
	b.Events[1].Counted = &UsageSums{Events: 1}
	var got UsageBatch
	if err := got.DecodePayload(b.EncodePayload(nil)); err == nil {
		t.Error("a command that says what is counted is read")
	}
}

func encodeBlock(dst []byte, events []UsageEvent) []byte {
	return AppendUsageBlock(dst, len(events), func(i int) *UsageEvent { return &events[i] })
}

func TestUsageBlockRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawLoggedEvent), 0, 12).Draw(t, "events")
		behind := rapid.SliceOfN(rapid.Byte(), 0, 5).Draw(t, "behind")
		before := []UsageEvent{{EventID: "stays"}}
		got, rest, err := DecodeUsageBlock(append(encodeBlock(nil, want), behind...), before)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].EventID != "stays" || !bytes.Equal(rest, behind) {
			t.Fatalf("%q and %x, want what was there and %x", got[0].EventID, rest, behind)
		}
		if d := cmp.Diff(want, got[1:], equalEvents); d != "" {
			t.Fatal(d)
		}
	})
}

func drawBatchPayload(t *rapid.T) UsageBatch {
	b := UsageBatch{
		BatchID: rapid.StringN(0, 20, -1).Draw(t, "batch id"), Made: rapid.Bool().Draw(t, "made"),
		Events: rapid.SliceOfN(rapid.Custom(drawUsageEvent), 0, 6).Draw(t, "events"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "parts") {
		p := BatchPart{AppID: rapid.String().Draw(t, "app"), Rejected: rapid.Uint32().Draw(t, "rejected")}
		copy(p.Digest[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "digest"))
		b.Parts = append(b.Parts, p)
	}
	b.Rejected = drawErrors(t, 4)
	return b
}

func TestUsageBatchPayloadRoundTrip(t *testing.T) {
	var reused UsageBatch // as the fields of an earlier batch must not shine through
	rapid.Check(t, func(t *rapid.T) {
		want := drawBatchPayload(t)
		if err := reused.DecodePayload(want.EncodePayload(nil)); err != nil {
			t.Fatal(err)
		}
		got := reused
		got.Prints = nil
		if d := cmp.Diff(want, got, equalEvents); d != "" {
			t.Fatal(d)
		}
		for i := range want.Events {
			e := &want.Events[i]
			id, _ := FingerprintOf(IDEvent, e.AppID, e.EventID, nil)
			digest, _ := ContentDigest(e, nil)
			if p := (EventPrint{id, digest}); reused.Prints[i] != p {
				t.Fatalf("print %d: %v, want %v", i, reused.Prints[i], p)
			}
		}
	})
}

func goldenUsageEvents() []UsageEvent {
	return []UsageEvent{
		{
			EventID: "0190f7a2-1111-7222-8333-444455556666", Timestamp: 1_774_000_000_123_456_789,
			AppID: "app-1", UserID: "u-1", Model: "gpt-4", InputTokens: 1500, OutputTokens: 500, TotalTokens: 2000,
		},
		{
			Index: 1, EventID: "0190F7A2-1111-7222-8333-444455556666", Timestamp: 1_773_999_999_000_000_000,
			AppID: "app-1", UserID: "u-2", Model: "gpt-4", TenantID: "t-1", WorkflowID: "wf", ChatID: "chat-1", RunID: "run-1",
			AgentName: "Ägent", InvocationID: "inv-1", InputTokens: 1, OutputTokens: 2, TotalTokens: 9, CachedTokens: 3, ReasoningTokens: 4,
			Cost: 1_230_000_001, DurationSec: 0.25, Cached: true, Metadata: []byte(`{"k":[1,"é"]}`),
		},
		{
			Index: 7, EventID: "odd id \"\x01", Timestamp: 1_774_000_001_000_000_000,
			AppID: "app 2", UserID: "u-1", Model: "gpt-4", TotalTokens: 0,
		},
	}
}

// goldenLoggedEvents are events as the log holds them: the last two stand in a chat
// with a summary.
func goldenLoggedEvents() []UsageEvent {
	list := goldenUsageEvents()
	covered := list[1]
	covered.EventID, covered.Counted = "covered", &UsageSums{Events: 1}
	return append(list[:2:2], covered, UsageEvent{
		Index: 8, EventID: "s-1", Timestamp: 1_774_000_002_000_000_000, AppID: "app-1", UserID: "u-1", Model: ModelUnknown,
		ChatID: "chat-1", InputTokens: MaxSummaryCount, OutputTokens: 1, TotalTokens: MaxSummaryCount + 1, Summary: true,
		Counted: &UsageSums{InputTokens: 5, OutputTokens: 1, TotalTokens: 6},
	})
}

func TestUsageBlockGolden(t *testing.T) {
	b := encodeBlock(nil, goldenLoggedEvents())
	goldenBytes(t, "usage_block_v1.golden", b)
	got, _, err := DecodeUsageBlock(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(goldenLoggedEvents(), got, equalEvents); d != "" {
		t.Error(d)
	}
}

func goldenBatch() UsageBatch {
	return UsageBatch{
		BatchID: "batch-1",
		Parts: []BatchPart{
			{AppID: "app-1", Digest: [16]byte{1, 2, 3}, Rejected: 1},
			{AppID: "app 2", Digest: [16]byte{15: 9}},
		},
		Events:   goldenUsageEvents(),
		Rejected: []EventError{{Index: 2, EventID: "e", AppID: "app-1", Code: CodeMissingField, Detail: "required and missing: model"}},
	}
}

func TestUsageBatchPayloadGolden(t *testing.T) {
	want := goldenBatch()
	b := want.EncodePayload(nil)
	goldenBytes(t, "usage_batch_v1.golden", b)
	var got UsageBatch
	if err := got.DecodePayload(b); err != nil {
		t.Fatal(err)
	}
	got.Prints = nil
	if d := cmp.Diff(want, got, equalEvents); d != "" {
		t.Error(d)
	}
}

// No part of a payload can be missing, and nothing may follow it.
func TestCutPayloadIsAnError(t *testing.T) {
	g := goldenBatch()
	whole := g.EncodePayload(nil)
	var b UsageBatch
	for n := range whole {
		if err := b.DecodePayload(whole[:n:n]); err == nil {
			t.Fatalf("%d of %d bytes are a batch", n, len(whole))
		}
	}
	if err := b.DecodePayload(append(whole, 0)); err == nil {
		t.Fatal("one byte more is a batch")
	}
}

func TestBrokenUsageBlocks(t *testing.T) {
	head := func(texts ...string) []byte {
		b := binary.AppendUvarint([]byte{usageBlockForm}, uint64(len(texts)))
		for _, s := range texts {
			b = appendText(b, s)
		}
		return binary.AppendVarint(b, 0)
	}
	row := func(delta int64, ref byte) []byte {
		b := binary.AppendVarint([]byte{0}, delta)
		return append(b, 1, 'e', 0, ref, ref, ref, 0, 0, 0)
	}
	for name, b := range map[string][]byte{
		"another form":          append([]byte{2}, encodeBlock(nil, goldenUsageEvents())[1:]...),
		"text beyond the list":  append(append(head("a"), 1), row(0, 1)...),
		"index below 0":         append(append(head("a"), 1), row(-1, 0)...),
		"index beyond 32 bits":  append(append(head("a"), 1), row(math.MaxUint32+1, 0)...),
		"index wraps around":    append(append(append(head("a"), 2), row(math.MaxUint32, 0)...), row(math.MaxInt64, 0)...),
		"half a UUID":           append(append(head("a"), 1), rowUUID, 0, 1, 2, 3, 4, 5, 6, 7),
		"text longer than all":  {usageBlockForm, 1, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"more events than rows": append(append(head("a"), 2), row(0, 0)...),
	} {
		if got, _, err := DecodeUsageBlock(b, nil); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if _, _, err := DecodeUsageBlock(append(append(head("a"), 1), row(0, 0)...), nil); err != nil {
		t.Errorf("the row that the others break: %v", err)
	}
}
