package schemas

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func goldenSums() UsageSums {
	return UsageSums{Events: -1, InputTokens: -1500, OutputTokens: -500, TotalTokens: -2000, CachedTokens: 7, ReasoningTokens: 0, Cost: AmountOf(-37_500_000)}
}

// adjustmentSamples has data of the facts about corrections.
func adjustmentSamples() map[string]func([]byte) []byte {
	event, delta := goldenUsageEvents()[0], goldenSums()
	bare := UsageEvent{AppID: "app-1", EventID: "e \"1\"", UserID: "u", Model: "m", Timestamp: 1_774_000_000_123_456_789}
	refused := CommandRefusedData{Code: CodeEventVoided, Detail: "détail\n"}
	return map[string]func([]byte) []byte{
		UsageVoided.Name:    func(b []byte) []byte { return AppendUsageAdjusted(b, &bare, &delta, &UsageSums{}, "") },
		UsageAmended.Name:   func(b []byte) []byte { return AppendUsageAdjusted(b, &event, &UsageSums{}, &delta, "sent \"twice\"") },
		CommandRefused.Name: refused.AppendJSON,
	}
}

func TestAdjustedFactsAreTheirGoTypes(t *testing.T) {
	for name, value := range map[string]any{
		"usage-adjusted": UsageAdjustedData{}, "usage-sums": SumsData{}, "command.refused": CommandRefusedData{},
	} {
		checkStruct(t, name, readJSON(t, JSONSchema(name)), reflect.TypeOf(value))
	}
	var d UsageAdjustedData
	event, delta := goldenUsageEvents()[0], goldenSums()
	text := AppendUsageAdjusted(nil, &event, &delta, &UsageSums{}, "why")
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(d)
	if err != nil || string(again) != string(text) {
		t.Errorf("%v\n%s\n%s", err, text, again)
	}
	if err := compile(t, "usage-adjusted.json", nil, "").Validate(unmarshal(t, text)); err != nil {
		t.Error(err)
	}
}

func TestLoggedEventFollowsItsSchema(t *testing.T) {
	schema := compile(t, "logged-event.json", nil, "")
	recorded := readJSON(t, JSONSchema("recorded-event"))["properties"].(map[string]any)
	logged := readJSON(t, JSONSchema("logged-event"))["properties"].(map[string]any)
	for name, want := range recorded {
		if d := cmp.Diff(want, logged[name]); d != "" {
			t.Errorf("%s (-recorded +logged):\n%s", name, d)
		}
	}
	for _, status := range []EventStatus{EventCounted, EventVoided, EventAmended} {
		for _, e := range goldenUsageEvents() {
			l := LoggedEvent{UsageEvent: e, BatchID: "b \"1\"", RecordedAt: 1, Status: status, Effective: goldenSums()}
			if status != EventCounted {
				l.Reason = "why"
			}
			text := l.AppendJSON(nil)
			if err := schema.Validate(unmarshal(t, text)); err != nil {
				t.Errorf("%s: %v", text, err)
			}
			if has := strings.Contains(string(text), `"effective"`); has != (status != EventCounted) {
				t.Errorf("%s event: %s", status, text)
			}
		}
	}
}

func drawValues(t *rapid.T) UsageValues {
	v := UsageValues{Given: UsageFields(rapid.IntRange(1, givenAll).Draw(t, "given"))}
	for i, n := range v.each() {
		if v.Given&(1<<i) != 0 {
			*n = rapid.Int64Range(0, MaxTokenCount).Draw(t, "value")
		}
	}
	return v
}

func TestCorrectionPayloads(t *testing.T) {
	texts := rapid.StringN(1, MaxIDChars, -1)
	rapid.Check(t, func(t *rapid.T) {
		v := EventVoid{EventID: texts.Draw(t, "id"), Reason: rapid.String().Draw(t, "reason")}
		a := EventAmendment{EventID: v.EventID, Reason: v.Reason, Values: drawValues(t)}
		o := CommandOutcome{Code: CodeEventVoided, Detail: v.Reason, Body: []byte(v.Reason)}
		var v2 EventVoid
		var a2 EventAmendment
		var o2 CommandOutcome
		for _, form := range []struct {
			bytes     []byte
			decode    func([]byte) error
			want, got any
		}{
			{v.EncodePayload(nil), v2.DecodePayload, &v, &v2},
			{a.EncodePayload(nil), a2.DecodePayload, &a, &a2},
			{o.Append(nil), o2.Decode, &o, &o2},
		} {
			if err := form.decode(form.bytes); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(form.want, form.got); d != "" {
				t.Fatal(d)
			}
			n := rapid.IntRange(0, len(form.bytes)-1).Draw(t, "cut to")
			if form.decode(form.bytes[:n:n]) == nil || form.decode(append(form.bytes, 0)) == nil {
				t.Fatal("a byte less or more is read, too")
			}
		}
	})
}

func TestCorrectionPayloadsGolden(t *testing.T) {
	v := EventVoid{EventID: "e-1", Reason: "sent twice"}
	goldenBytes(t, "usage_void_payload_v1.golden", v.EncodePayload(nil))
	a := EventAmendment{EventID: "e-1", Reason: "r", Values: UsageValues{
		Given: givenAll, InputTokens: 1, OutputTokens: 2, TotalTokens: 300, CachedTokens: 4, ReasoningTokens: 0, Cost: MaxCostNanos,
	}}
	goldenBytes(t, "usage_amend_payload_v1.golden", a.EncodePayload(nil))
	o := CommandOutcome{Code: CodeNotFound, Detail: "détail", Body: []byte(`{}`)}
	goldenBytes(t, "command_outcome_v2.golden", o.Append(nil))
}

func TestDecodersOfCorrectionsRefuse(t *testing.T) {
	for name, b := range map[string][]byte{
		"no id":         {1, 0, 0},
		"other form":    {2, 1, 'e', 0},
		"nothing":       {},
		"huge text":     {1, 0xff, 0xff, 0xff, 0xff, 0x0f},
		"unknown value": {1, 1, 'e', 0, 0x40, 1},
		"no value":      {1, 1, 'e', 0, 0},
		"above int64":   append([]byte{1, 1, 'e', 0, 1}, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1),
	} {
		if err := new(EventAmendment).DecodePayload(b); err == nil {
			t.Errorf("%s: taken as an amendment", name)
		}
		if err := new(EventVoid).DecodePayload(b); err == nil {
			t.Errorf("%s: taken as a void", name)
		}
	}
}

// TestCorrectionSchemasAgreeWithTheParsers holds the schemas of both bodies
// against what the parsers take.
func TestCorrectionSchemasAgreeWithTheParsers(t *testing.T) {
	long := strings.Repeat("é", MaxReasonChars)
	void := compile(t, "event-void.json", nil, "")
	amend := compile(t, "event-amendment.json", nil, "")
	const tokens = `"input_tokens":1`
	for _, c := range []struct {
		text        string
		void, amend Code // empty: taken
	}{
		{`{}`, "", CodeValidation},
		{`{"app_id":"a","reason":"r"}`, "", CodeValidation},
		{`{"app_id":null,"reason":null,` + tokens + `}`, "", ""},
		{`{"app_id":"",` + tokens + `}`, CodeValidation, CodeValidation},
		{`{"app_id":7,` + tokens + `}`, CodeValidation, CodeValidation},
		{`{"reason":"",` + tokens + `}`, "", ""},
		{`{"reason":"` + long + `",` + tokens + `}`, "", ""},
		{`{"reason":"` + long + `x",` + tokens + `}`, CodeValidation, CodeValidation},
		{`{"reason":{},` + tokens + `}`, CodeValidation, CodeValidation},
		{`{"other":[{"a":1}],` + tokens + `}`, "", ""},
		{`{"input_tokens":-1}`, "", CodeValidation},
		{`{"input_tokens":1.5}`, "", CodeValidation},
		{`{"input_tokens":"1"}`, "", CodeValidation},
		{`{"output_tokens":1000000001}`, "", CodeValidation},
		{`{"output_tokens":1000000000}`, "", ""},
		{`{"total_tokens":0}`, "", ""},
		{`{"cached_tokens":3}`, "", ""},
		{`{"reasoning_tokens":3}`, "", ""},
		{`{"cost":"0.5"}`, "", ""},
		{`{"cost":1000000001}`, "", CodeValidation},
		{`{"cost":"x"}`, "", CodeValidation},
		{`[]`, CodeValidation, CodeValidation},
		{`7`, CodeValidation, CodeValidation},
	} {
		_, _, err := ParseEventVoid([]byte(c.text))
		checkVerdict(t, "void", c.text, c.void, err, void.Validate(unmarshal(t, []byte(c.text))))
		_, _, err = ParseEventAmendment([]byte(c.text))
		checkVerdict(t, "amend", c.text, c.amend, err, amend.Validate(unmarshal(t, []byte(c.text))))
	}
}

func checkVerdict(t *testing.T, what, text string, want Code, parser *Error, schema error) {
	t.Helper()
	got := Code("")
	if parser != nil {
		got = parser.Code
		if len(parser.Fields) == 0 {
			t.Errorf("%s %.80s: no field is named", what, text)
		}
	}
	if got != want {
		t.Errorf("%s %.80s: the parser says %q, want %q: %v", what, text, got, want, parser)
	}
	// A schema cannot tell an absent value from a given null.
	if (schema == nil) != (want == "") {
		t.Errorf("%s %.80s: the schema says %v", what, text, schema)
	}
}

func TestCorrectionsThatAreNoJSON(t *testing.T) {
	for _, text := range []string{
		``, `{`, `{"input_tokens":1,"input_tokens":1}`, `{"reason":"a","reason":"a","input_tokens":1}`, `{"x":1,"x":2,"input_tokens":1}`,
		"{\"reason\":\"\xff\",\"input_tokens\":1}", `{"reason":"\ud800","input_tokens":1}`, "{\"\xff\":1,\"input_tokens\":1}",
		`{"input_tokens":01}`, `{"input_tokens":1} 2`, `{"x":{"y":1,"y":2},"input_tokens":1}`,
	} {
		if _, _, err := ParseEventAmendment([]byte(text)); err == nil || err.Code != CodeInvalidJSON {
			t.Errorf("amend %q: %v, want INVALID_JSON", text, err)
		}
		if _, _, err := ParseEventVoid([]byte(text)); text != "" && text != `{"input_tokens":1,"input_tokens":1}` && (err == nil || err.Code != CodeInvalidJSON) {
			t.Errorf("void %q: %v, want INVALID_JSON", text, err)
		}
	}
	deep := `{"x":` + strings.Repeat("[", MaxJSONDepth) + strings.Repeat("]", MaxJSONDepth) + `,"input_tokens":1}`
	if _, _, err := ParseEventAmendment([]byte(deep)); err == nil || err.Code != CodeValidation {
		t.Errorf("too deep: %v, want VALIDATION_ERROR", err)
	}
}

func TestParseEventAmendment(t *testing.T) {
	app, a, err := ParseEventAmendment([]byte(`{"reason":"wh\u0079","cost":0.000000001,"input_tokens":0,"total_tokens":9,"app_id":"a","output_tokens":null}`))
	want := EventAmendment{Reason: "why", Values: UsageValues{Given: GivenInput | GivenTotal | GivenCost, TotalTokens: 9, Cost: 1}}
	if err != nil || app != "a" {
		t.Fatal(app, err)
	}
	if d := cmp.Diff(want, a); d != "" {
		t.Error(d)
	}
	_, _, err = ParseEventAmendment([]byte(`{"input_tokens":10,"output_tokens":20,"total_tokens":29}`))
	if err == nil || err.Code != CodeTotalBelowSum || len(err.Fields) != 1 {
		t.Errorf("%v", err)
	}
	_, _, err = ParseEventAmendment([]byte(`{"input_tokens":-1,"cost":true,"reason":7}`))
	var fields []string
	for _, f := range err.Fields {
		fields = append(fields, fmt.Sprint(f.Loc))
	}
	if want := []string{"[body input_tokens]", "[body cost]", "[body reason]"}; !slices.Equal(fields, want) {
		t.Errorf("fields %v, want %v", fields, want)
	}
}

// A block holds every event's id as StoredEventID says.
func TestStoredEventID(t *testing.T) {
	for _, e := range goldenUsageEvents() {
		if block := encodeBlock(nil, []UsageEvent{e}); !strings.Contains(string(block), string(StoredEventID(e.EventID))) {
			t.Errorf("the block of %q does not hold it", e.EventID)
		}
	}
}

func FuzzParseCorrections(f *testing.F) {
	f.Add([]byte(`{"app_id":"a","reason":"r","input_tokens":1,"cost":"0.5"}`))
	f.Add([]byte(`{"total_tokens":7,"x":[{"y":null}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_, v, err := ParseEventVoid(body)
		if err == nil {
			v.EventID = "e"
			var back EventVoid
			if derr := back.DecodePayload(v.EncodePayload(nil)); derr != nil || back != v {
				t.Fatalf("%v: %+v, %+v", derr, v, back)
			}
		}
		_, a, err := ParseEventAmendment(body)
		if err == nil {
			a.EventID = "e"
			var back EventAmendment
			if derr := back.DecodePayload(a.EncodePayload(nil)); derr != nil || back != a {
				t.Fatalf("%v: %+v, %+v", derr, a, back)
			}
			if !json.Valid(body) {
				t.Fatalf("taken, and no JSON: %q", body)
			}
		}
	})
}
