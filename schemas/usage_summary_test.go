package schemas

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const refSummary = `{"event_id":"f1","event_ts":"2026-01-12T03:12:35.000000+00:00","chat_id":"chat_1","app_id":"app_1","user_id":"u",` +
	`"workflow_name":"General","prompt_tokens":400,"completion_tokens":200,"total_tokens":600}`

// summarySeeds are summaries, and what only looks like one.
func summarySeeds() []string {
	named := func(kind, counts string) string {
		return `{"` + kind + `":"chat.usage_summary","timestamp":"2026-01-12T03:12:35Z","chat_id":"c","app_id":"a","user_id":"u",` + counts + `}`
	}
	swap := func(old, new string) string { return strings.Replace(refSummary, old, new, 1) }
	return []string{
		refSummary, named("type", `"input_tokens":1,"output_tokens":2`), named("kind", `"usage_prompt_tokens_final":1000000000000,"usage_completion_tokens_final":0,"usage_total_cost_final":"0.25"`),
		named("event_type", `"prompt_tokens":1000000000001,"completion_tokens":2`), named("type", `"prompt_tokens":1,"input_tokens":1,"output_tokens":2`),
		named("type", `"prompt_tokens":1,"input_tokens":null,"output_tokens":2`), named("type", `"prompt_tokens":1.5,"output_tokens":2`), named("type", `"output_tokens":2,"duration_sec":"x"`),
		swap(`"chat_id":"chat_1",`, ""), swap(`"chat_1"`, `""`), swap(`"chat_1"`, `7`), swap(`"f1"`, `null`), swap(`600`, `599`), swap(`"u",`, `"u","cached":false,`), swap(`"u",`, `"u","event_type":"chat.usage_delta",`),
		swap(`"u",`, `"u","event_type":7,`), swap(`"u",`, `"u","events":[],`), swap(`"u",`, `"u","batch_id":"b",`), swap(`"u",`, `"u","batch_id":5,`), swap(`"u",`, `"u","user_id":"v",`), swap(`"u",`, `"u","timestamp":"2026-01-12T03:12:35Z",`),
		swap(`"u",`, `"u","metadata":`+nested(`{"a":`, "}", 61)+`,`), swap(`"u",`, `"u","metadata":`+nested(`{"a":`, "}", 62)+`,`), swap(`"u",`, `"u","x":`+nested(`[`, "]", 64)+`,`),
		swap(`"u",`, `"u","type":"\ud800",`), swap(`"u",`, `"u","metadata":{"b":1,"a":[1.0]},"cost":1.5,`), " \n" + refSummary + "\t", refSummary + "x", refSummary[:100],
	}
}

func TestSummariesAgreeWithTheReference(t *testing.T) {
	var b ParsedBatch
	for _, text := range summarySeeds() {
		compareWithReference(t, []byte(text), &b)
	}
}

func TestRawSummary(t *testing.T) {
	want := UsageEvent{
		EventID: "f1", Timestamp: 1_768_187_555_000_000_000, AppID: "app_1", UserID: "u", WorkflowID: "General", Model: "unknown", ChatID: "chat_1",
		InputTokens: 400, OutputTokens: 200, TotalTokens: 600, Summary: true,
	}
	var b ParsedBatch
	if err := ParseUsageBatch([]byte(refSummary), &b); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ParsedBatch{Events: []UsageEvent{want}}, b, equalEvents); d != "" {
		t.Error(d)
	}
}

func TestBadRawSummaries(t *testing.T) {
	swap := func(old, new string) string { return strings.Replace(refSummary, old, new, 1) }
	for _, c := range []struct {
		name, text   string
		code         Code // of the event; of the request when it is VALIDATION_ERROR or INVALID_JSON
		detail, path string
	}{
		{"no chat", strings.Replace(refSummary, `"chat_id":"chat_1"`, `"type":"chat.usage_summary"`, 1), CodeMissingField, "required and missing: chat_id", ""},
		{"neither chat nor name", swap(`"chat_id":"chat_1",`, ""), CodeValidation, "events is missing: send the list of events", "events"},
		{"nothing", `{"type":"chat.usage_summary"}`, CodeMissingField, "required and missing: timestamp, app_id, user_id, chat_id, input_tokens, output_tokens", ""},
		{"two spellings", swap(`"prompt_tokens":400`, `"prompt_tokens":400,"usage_prompt_tokens_final":400`), CodeRepeatedKey, "prompt_tokens and usage_prompt_tokens_final are the same field: send one of them", ""},
		{"a fraction", swap("400", "4.5"), CodeInvalidNumber, "prompt_tokens must be written with digits only, without sign, fraction or exponent, not \"4.5\"", ""},
		{"too many", swap("400", "1000000000001"), CodeOutOfRange, "prompt_tokens must be 0 to 1000000000000, not \"1000000000001\"", ""},
		{"a text", swap("400", `"400"`), CodeInvalidType, "prompt_tokens must be a whole number, not a string", ""},
		{"a total below the sum", swap("600", "599"), CodeTotalBelowSum, "total_tokens is 599, below input_tokens + output_tokens = 600", ""},
		{"an event alone", strings.NewReplacer("prompt_", "input_", "completion_", "output_").Replace(refSummary), CodeValidation, "or one chat.usage_summary that says so in event_type", "events"},
		{"a delta alone", swap(`"u",`, `"u","cached":false,"duration_sec":0.8,`), CodeValidation, "or one chat.usage_summary that says so in event_type", "events"},
		{"another kind", swap(`"u",`, `"u","kind":"chat.usage_delta",`), CodeValidation, "or one chat.usage_summary that says so in event_type", "events"},
		{"a repeated key", swap(`"u",`, `"u","user_id":"v",`), CodeInvalidJSON, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b ParsedBatch
			err := ParseUsageBatch([]byte(c.text), &b)
			if c.code == CodeValidation || c.code == CodeInvalidJSON {
				if err == nil || err.Code != c.code || !strings.Contains(err.Detail, c.detail) || b.Total() != 0 {
					t.Fatalf("%v, %+v", err, b)
				}
				if c.path != "" && err.Fields[0].Loc[1] != c.path {
					t.Errorf("the fault is at %v", err.Fields[0].Loc)
				}
				return
			}
			if err != nil || len(b.Events) != 0 || len(b.Rejected) != 1 || b.Rejected[0].Code != c.code || b.Rejected[0].Detail != c.detail {
				t.Errorf("%v, %+v", err, b)
			}
		})
	}
}

// The id of a summary without one follows from what it says, however it is written.
func TestIDOfASummary(t *testing.T) {
	id := func(text string) string {
		t.Helper()
		var b ParsedBatch
		if err := ParseUsageBatch([]byte(text), &b); err != nil || len(b.Events) != 1 {
			t.Fatalf("%v %+v", err, b.Rejected)
		}
		return b.Events[0].EventID
	}
	without := strings.Replace(refSummary, `"event_id":"f1",`, "", 1)
	first := id(without)
	if again := id(strings.ReplaceAll(without, ",", " ,\n")); again != first || !strings.HasPrefix(first, "sum-") || len(first) != 36 {
		t.Errorf("ids %q and %q", first, again)
	}
	if other := id(strings.Replace(without, "400", "399", 1)); other == first {
		t.Error("another summary has the same id")
	}
}

// A CloudEvent of a summary's type holds one that need not say so again.
func TestSummaryInACloudEvent(t *testing.T) {
	data := strings.NewReplacer("prompt_", "input_", "completion_", "output_").Replace(refSummary)
	read := func(kind string) (ParsedBatch, *Error) {
		t.Helper()
		e, err := ParseIngestEvent([]byte(`{"specversion":"1.0","id":"1","source":"//s","type":"` + kind + `","data":` + data + `}`))
		if err != nil {
			t.Fatal(err)
		}
		var b ParsedBatch
		return b, e.ParseBatch(&b)
	}
	if _, err := read("ai.mozaiks.usage.ingest.v1"); err == nil || err.Code != CodeValidation {
		t.Errorf("as a batch: %v", err)
	}
	e, err := ParseIngestEvent([]byte(`{"specversion":"1.0","id":"1","source":"//s","type":"ai.mozaiks.chat.usage_summary.v1","data":` + data + `}`))
	if err != nil {
		t.Fatal(err)
	}
	var b ParsedBatch
	if err := e.ParseBatch(&b); err != nil || len(b.Events) != 1 || !b.Events[0].Summary || !strings.HasPrefix(b.BatchID, "ce-") {
		t.Errorf("%v, %+v", err, b)
	}
	headers := map[string]string{"specversion": "1.0", "id": "1", "source": "//s", "type": "ai.mozaiks.chat.usage_summary.v1"}
	binary, err := BinaryIngestEvent(func(name string) []string {
		if v := headers[name]; v != "" {
			return []string{v}
		}
		return nil
	}, "application/json", []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := binary.ParseBatch(&b); err != nil || !b.Events[0].Summary {
		t.Errorf("%v, %+v", err, b)
	}
}

// The schema takes what the parser takes.
func TestSummarySchemaAgreesWithTheParser(t *testing.T) {
	schema := compile(t, "usage-summary.json", nil, "")
	swap := func(old, new string) string { return strings.Replace(refSummary, old, new, 1) }
	for text, good := range map[string]bool{
		refSummary:                              true,
		swap(`"event_id":"f1",`, ""):            true,
		swap(`"event_ts"`, `"timestamp"`):       true,
		swap(`"u",`, `"u","cost":"1.5",`):       true,
		swap("400", "1000000000000"):            false, // the total is below it
		swap("400", "1000000000001"):            false,
		swap("400", "-1"):                       false,
		swap(`"chat_1"`, `""`):                  false,
		swap(`"u",`, `"u","metadata":[],`):      false,
		swap(`"u",`, `"u","input_tokens":400,`): false,
	} {
		var b ParsedBatch
		err := ParseUsageBatch([]byte(text), &b)
		if taken := err == nil && len(b.Rejected) == 0; taken != good {
			t.Errorf("the parser's verdict on %s is %v: %v %v", text, taken, err, b.Rejected)
		}
		if strings.Contains(text, "1000000000000,") { // sums are beyond a schema
			continue
		}
		if verdict := schema.Validate(unmarshal(t, []byte(text))); (verdict == nil) != good {
			t.Errorf("the schema's verdict on %s is %v", text, verdict)
		}
	}
}
