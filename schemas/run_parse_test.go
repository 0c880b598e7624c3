package schemas

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

func TestParsePluginInput(t *testing.T) {
	for body, want := range map[string]PluginInput{
		`{}`:                                    {Data: []byte(`{}`)},
		` {"a" : [1, 2.50]} `:                   {Data: []byte(`{"a" : [1, 2.50]}`)},
		`{"action":"create","chat_id":"c"}`:     {Data: []byte(`{"action":"create","chat_id":"c"}`), Action: "create", ChatID: "c"},
		`{"action":7,"chat_id":null}`:           {Data: []byte(`{"action":7,"chat_id":null}`)},
		`{"_entitlement_dry_run":true,"a":1}`:   {Data: []byte(`{"a":1}`), DryRun: true},
		`{"_entitlement_dry_run":false,"a":1}`:  {Data: []byte(`{"a":1}`)},
		`{"a": 1, "user_id":"evil", "b":{} }`:   {Data: []byte(`{"a":1,"b":{}}`)},
		`{"user\u005fid":"evil","b":"\u00e9"}`:  {Data: []byte(`{"b":"\u00e9"}`)},
		`{"\u005fcontext":{"is_superadmin":1}}`: {Data: []byte(`{}`)},
		`{"app_id":1,"user_id":2,"user_jwt":3,"_context":4,"_entitlements":5}`:     {Data: []byte(`{}`)},
		`{"User_Id":"x","_Context":1,"data":{"user_id":"the plugin's own field"}}`: {Data: []byte(`{"User_Id":"x","_Context":1,"data":{"user_id":"the plugin's own field"}}`)},
	} {
		got, err := ParsePluginInput([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
		}
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(PluginInput{}, "Digest")); d != "" {
			t.Errorf("%s: %s", body, d)
		}
	}
	for body, want := range map[string]Code{
		``: CodeInvalidJSON, `{`: CodeInvalidJSON, `[]`: CodeInvalidJSON, `null`: CodeInvalidJSON, `"x"`: CodeInvalidJSON, `{} {}`: CodeInvalidJSON,
		`{"a":1,"a":2}`: CodeInvalidJSON, `{"user_id":1,"user\u005fid":2}`: CodeInvalidJSON, "{\"a\":\"\xff\"}": CodeInvalidJSON, `{"a":NaN}`: CodeInvalidJSON,
		`{"chat_id":""}`: CodeValidation, `{"chat_id":7}`: CodeValidation, `{"chat_id":"` + strings.Repeat("x", MaxIDChars+1) + `"}`: CodeValidation,
		`{"_entitlement_dry_run":"yes"}`: CodeValidation, `{"a":` + strings.Repeat("[", MaxJSONDepth) + strings.Repeat("]", MaxJSONDepth) + `}`: CodeValidation,
	} {
		got, err := ParsePluginInput([]byte(body))
		if err == nil || err.Code != want || got.Data != nil {
			t.Errorf("%.60s: %v, %+v", body, err, got)
		}
		if want == CodeInvalidJSON && err != nil && err.Detail != "Invalid JSON payload" {
			t.Errorf("%.60s: %s", body, err.Detail)
		}
	}
}

// The digest is that of what the client says to the plugin, however it is written.
func TestPluginInputDigest(t *testing.T) {
	digest := func(body string) [16]byte {
		in, err := ParsePluginInput([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return in.Digest
	}
	one := digest(`{"a":1,"b":["x"]}`)
	for _, body := range []string{`{"b":["x"],"a":1}`, ` { "a":1 , "b" : [ "\u0078" ] } `, `{"user_id":"u","a":1,"b":["x"],"_entitlement_dry_run":false}`} {
		if digest(body) != one {
			t.Errorf("%s is another body", body)
		}
	}
	for _, body := range []string{`{}`, `{"a":1,"b":["x","x"]}`, `{"a":"1","b":["x"]}`, `{"a":1,"b":["x"],"c":null}`} {
		if digest(body) == one {
			t.Errorf("%s is the same body", body)
		}
	}
}

// No reserved key reaches a plugin, wherever it stands and however it is spelled.
func FuzzParsePluginInput(f *testing.F) {
	for _, body := range []string{`{}`, `{"a":1,"user_id":2}`, `{"\u0075ser_id":[{}],"b":"\n"}`, `{"_context":{"a":"}"},"_entitlements":{},"x":""}`, `{"action":"a","chat_id":"c"}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		in, err := ParsePluginInput(body)
		if !bytes.Equal(before, body) {
			t.Fatal("the body was changed")
		}
		if err != nil {
			return
		}
		again, err := ParsePluginInput(in.Data)
		if err != nil {
			t.Fatalf("%q became %q: %v", body, in.Data, err)
		}
		if !bytes.Equal(again.Data, in.Data) || again.Digest != in.Digest || again.Action != in.Action || again.ChatID != in.ChatID {
			t.Fatalf("%q became %q and that %q", body, in.Data, again.Data)
		}
		v, _ := readJSONValue(in.Data)
		v.each(func(name string, _ jsonValue) {
			if reservedKeys[name] {
				t.Fatalf("%q came through: %q", name, in.Data)
			}
		})
	})
}

const wholeRunEvent = `{"kind":"orchestration.run_failed","run_id":"run \"1\"","status":"failed","event_id":"e-1","app_id":"app-1","timestamp":"2026-03-20T09:46:40.123456789Z",
"sequence":99,"chat_id":"chat-1","user_id":"u","tenant_id":"t","workflow_name":"invoice","parent_run_id":"run-0","agent":"Writer","previous_agent":"Reader","tool":"search",
"message":"it failed\n","summary":"none","error":"no such file","code":"E_FILE","cost":"0.0125","total_tokens":2000,"metadata":{"a":1},"unknown":[1]}`

func TestParseRunReport(t *testing.T) {
	want := goldenRunEvent()
	want.Index, want.Sequence, want.Attempt, want.Plugin = 0, 0, 0, ""
	report, err := ParseRunReport([]byte(wholeRunEvent))
	if err != nil {
		t.Fatal(err)
	}
	amounts := cmp.Comparer(func(a, b Amount) bool { return a == b })
	if d := cmp.Diff(ParsedReport{Events: []RunEvent{want}, Single: true}, report, amounts); d != "" {
		t.Error(d)
	}
	list, err := ParseRunReport([]byte("[" + wholeRunEvent + "," + wholeRunEvent + "]"))
	if err != nil {
		t.Fatal(err)
	}
	second := want
	second.Index = 1
	if d := cmp.Diff(ParsedReport{Events: []RunEvent{want, second}}, list, amounts); d != "" {
		t.Error(d)
	}
	cloud := func(data string) string {
		return `{"specversion":"1.0","id":"c-1","source":"//x","type":"ai.mozaiks.orchestration.run_failed.v1","time":"2026-03-20T09:46:40.123456789Z",` + data + `}`
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(wholeRunEvent))
	for _, body := range []string{cloud(`"data":` + wholeRunEvent), cloud(`"data_base64":"` + encoded + `"`), "[" + cloud(`"data":`+wholeRunEvent) + "]"} {
		report, err := ParseRunReport([]byte(body))
		if err != nil || len(report.Events) != 1 {
			t.Fatalf("%s: %v %+v", body, err, report)
		}
		if d := cmp.Diff(want, report.Events[0], amounts); d != "" {
			t.Errorf("%s: %s", body, d)
		}
	}
}

// What an event leaves out follows from what it says, or from the CloudEvent around it.
func TestRunEventsAreFilledIn(t *testing.T) {
	read := func(body string) RunEvent {
		t.Helper()
		report, err := ParseRunReport([]byte(body))
		if err != nil || len(report.Events) != 1 {
			t.Fatalf("%s: %v %+v", body, err, report)
		}
		return report.Events[0]
	}
	plain := `{"kind":"orchestration.agent_started","run_id":"r","timestamp":"2026-03-20T10:46:40.123456789+01:00"}`
	first, again := read(plain), read("["+plain+"]")
	if first.Status != RunInProgress || first.EventID == "" || first.EventID != again.EventID || first.Timestamp != goldenInstant {
		t.Errorf("%+v, %+v", first, again)
	}
	for _, other := range []string{strings.Replace(plain, `"r"`, `"s"`, 1), strings.Replace(plain, "40.1", "40.2", 1), strings.Replace(plain, "started", "completed", 1)} {
		if read(other).EventID == first.EventID {
			t.Errorf("%s has the id of another event", other)
		}
	}
	if e := read(`{"kind":"orchestration.tool_completed","run_id":"r","event_id":"e","message":null}`); e.Timestamp != 0 || e.Status != RunCompleted {
		t.Errorf("%+v", e)
	}
	around := `{"specversion":"1.0","id":"c-1","source":"//x","type":"ai.mozaiks.orchestration.tool_started.v1","time":"2026-03-20T09:46:40.123456789Z","data":{"run_id":"r"}}`
	if e := read(around); e.Step != StepToolStarted || e.Timestamp != goldenInstant || !strings.HasPrefix(e.EventID, "ce-") {
		t.Errorf("%+v", e)
	}
	headers := func(id string) RunEvent {
		report, err := ParseRunCloudEvent(func(name string) []string {
			return map[string][]string{"specversion": {"1.0"}, "id": {id}, "source": {"//x"}, "type": {"ai.mozaiks.orchestration.tool_started.v1"}}[name]
		}, "application/json", []byte(`{"run_id":"r"}`))
		if err != nil || !report.Single {
			t.Fatal(err)
		}
		return report.Events[0]
	}
	if headers("c-1").EventID != read(around).EventID || headers("c-2").EventID == headers("c-1").EventID {
		t.Error("the id of an event does not follow from its CloudEvent's")
	}
}

func TestRunEventsThatAreRefused(t *testing.T) {
	event := func(change string) string {
		return `{"kind":"orchestration.run_completed","run_id":"r","event_id":"e",` + change + `}`
	}
	for body, want := range map[string]struct {
		code Code
		says string
	}{
		`7`:                             {CodeNotAnObject, "must be an object"},
		`{"run_id":"r","event_id":"e"}`: {CodeMissingField, "kind"},
		`{"kind":"orchestration.run_completed","event_id":"e"}`:                   {CodeMissingField, "run_id"},
		`{"kind":"orchestration.run_completed","run_id":"r"}`:                     {CodeMissingField, "timestamp"},
		`{"kind":"orchestration.run_started","run_id":"r","event_id":"e"}`:        {CodeMissingField, "user_id"},
		`{"kind":"run_completed","run_id":"r","event_id":"e"}`:                    {CodeInvalidValue, "kind"},
		`{"kind":"orchestration.run_completed","run_id":7,"event_id":"e"}`:        {CodeInvalidType, "run_id"},
		`{"kind":"orchestration.run_completed","run_id":"","event_id":"e"}`:       {CodeInvalidLength, "run_id"},
		event(`"status":"failed"`):                                                {CodeInvalidValue, "status"},
		event(`"status":"running"`):                                               {CodeInvalidValue, "status"},
		event(`"timestamp":"yesterday"`):                                          {CodeInvalidTimestamp, "timestamp"},
		event(`"timestamp":7`):                                                    {CodeInvalidType, "timestamp"},
		event(`"total_tokens":5.0`):                                               {CodeInvalidNumber, "total_tokens"},
		event(`"total_tokens":-1`):                                                {CodeOutOfRange, "total_tokens"},
		event(`"cost":-1`):                                                        {CodeOutOfRange, "cost"},
		event(`"cost":0.00000000001`):                                             {CodeInvalidNumber, "cost"},
		event(`"cost":true`):                                                      {CodeInvalidType, "cost"},
		event(`"cost":"a"`):                                                       {CodeInvalidNumber, "cost"},
		event(`"metadata":[]`):                                                    {CodeInvalidType, "metadata"},
		event(`"metadata":{"a":"` + strings.Repeat("x", MaxMetadataBytes) + `"}`): {CodeMetadataTooLarge, "metadata"},
		event(`"summary":"` + strings.Repeat("x", MaxRunTextChars+1) + `"`):       {CodeInvalidLength, "summary"},
		`{"specversion":"0.3","id":"c","source":"//x","type":"ai.mozaiks.orchestration.run_completed.v1","data":` + event(`"a":1`) + `}`: {CodeInvalidValue, "specversion"},
		`{"specversion":"1.0","id":"c","source":"//x","type":"ai.mozaiks.usage.ingest.v1","data":` + event(`"a":1`) + `}`:                {CodeInvalidValue, "type"},
		`{"specversion":"1.0","id":"c","source":"//x","type":"ai.mozaiks.orchestration.run_failed.v1","data":` + event(`"a":1`) + `}`:    {CodeInvalidValue, "kind"},
		`{"specversion":"1.0","id":"c","source":"//x","type":"ai.mozaiks.orchestration.run_failed.v1"}`:                                  {CodeMissingField, "data"},
		`{"specversion":"1.0","source":"//x","type":"ai.mozaiks.orchestration.run_completed.v1","data":` + event(`"a":1`) + `}`:          {CodeMissingField, "id"},
		`{"specversion":"1.0","id":"c","source":"//x","type":"ai.mozaiks.orchestration.run_completed.v1","data_base64":"!"}`:             {CodeInvalidValue, "data_base64"},
	} {
		report, err := ParseRunReport([]byte("[" + event(`"a":1`) + "," + body + "]"))
		if err != nil || len(report.Events) != 1 || len(report.Rejected) != 1 {
			t.Errorf("%s: %v %+v", body, err, report)
			continue
		}
		if r := report.Rejected[0]; r.Index != 1 || r.Code != want.code || !strings.Contains(r.Detail, want.says) {
			t.Errorf("%s: %+v, want %s", body, r, want.code)
		}
		if _, err := ParseRunReport([]byte(body)); err == nil || err.Code != CodeValidation || len(err.Fields) == 0 || !strings.Contains(err.Detail, want.says) {
			t.Errorf("%s alone: %v", body, err)
		}
	}
	// Faults of the text itself: in a list the event's own, alone the request's.
	for body, want := range map[string]Code{
		event(`"metadata":{"a":1,"a":2}`): CodeRepeatedKey, `{"event_id":"e","event_id":"f"}`: CodeRepeatedKey,
		"{\"run_id\":\"\xff\",\"event_id\":\"e\"}":                                            CodeInvalidText,
		`{"a":` + strings.Repeat("[", MaxJSONDepth) + strings.Repeat("]", MaxJSONDepth) + `}`: CodeTooDeep,
	} {
		report, err := ParseRunReport([]byte("[" + body + "," + event(`"a":1`) + "]"))
		if err != nil || len(report.Events) != 1 || len(report.Rejected) != 1 || report.Rejected[0].Code != want || report.Events[0].Index != 1 {
			t.Errorf("%.60q: %v %+v", body, err, report)
		}
		if want == CodeRepeatedKey && report.Rejected[0].EventID == "" {
			t.Errorf("%.60q: %+v", body, report.Rejected[0])
		}
		if _, err := ParseRunReport([]byte(body)); err == nil || want != CodeTooDeep && err.Code != CodeInvalidJSON || want == CodeTooDeep && err.Code != CodeValidation {
			t.Errorf("%.60q alone: %v", body, err)
		}
	}
	for body, want := range map[string]Code{``: CodeInvalidJSON, `[`: CodeInvalidJSON, `[]`: CodeValidation, `[{}`: CodeInvalidJSON, `[{}] x`: CodeInvalidJSON, `"x"`: CodeValidation} {
		if report, err := ParseRunReport([]byte(body)); err == nil || err.Code != want || report.Events != nil {
			t.Errorf("%q: %v", body, err)
		}
	}
	many := "[" + strings.Repeat(event(`"a":1`)+",", MaxRunEvents) + event(`"a":1`) + "]"
	if _, err := ParseRunReport([]byte(many)); err == nil || err.Code != CodeTooManyEvents {
		t.Errorf("%d events: %v", MaxRunEvents+1, err)
	}
}

func TestBinaryRunEventsThatAreRefused(t *testing.T) {
	good := map[string][]string{"specversion": {"1.0"}, "id": {"c"}, "source": {"//x"}, "type": {TypeOf(StepToolStarted.Kind())}}
	for name, c := range map[string]struct {
		attribute string
		values    []string
		media     string
		body      string
	}{
		"two ids":        {"id", []string{"a", "b"}, "", `{"run_id":"r"}`},
		"no id":          {"id", nil, "", `{"run_id":"r"}`},
		"bad escape":     {"id", []string{"%zz"}, "", `{"run_id":"r"}`},
		"another type":   {"type", []string{"x"}, "", `{"run_id":"r"}`},
		"another medium": {"id", []string{"c"}, "text/plain", `{"run_id":"r"}`},
		"no run":         {"id", []string{"c"}, "", `{}`},
		"no JSON":        {"id", []string{"c"}, "", `{`},
	} {
		_, err := ParseRunCloudEvent(func(name string) []string {
			if name == c.attribute {
				return c.values
			}
			return good[name]
		}, c.media, []byte(c.body))
		if err == nil {
			t.Errorf("%s: is taken", name)
		}
	}
}

func TestReportsByApp(t *testing.T) {
	p := ParsedReport{Events: []RunEvent{{RunID: "1"}, {RunID: "2", AppID: "b"}, {RunID: "3", AppID: "a"}, {RunID: "4", AppID: "b"}}}
	var got []string
	for _, r := range p.ByApp("a") {
		for _, e := range r.Report.Events {
			got = append(got, fmt.Sprint(r.AppID, e.AppID, e.RunID))
		}
	}
	if want := []string{"aa1", "aa3", "bb2", "bb4"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if p.Events[0].AppID != "" {
		t.Error("the report was changed")
	}
}

// What a fact tells is read as the event that it was, but for what the server gives.
func TestRunFactsAreReadBack(t *testing.T) {
	text := rapid.StringN(1, 20, -1)
	rapid.Check(t, func(t *rapid.T) {
		e := RunEvent{Step: RunStep(rapid.IntRange(1, 8).Draw(t, "step")), Timestamp: rapid.Int64Range(0, goldenInstant).Draw(t, "timestamp"), Sequence: 1, Attempt: 1}
		e.Status = rapid.SampledFrom(e.Step.Statuses()).Draw(t, "status")
		for i, s := range e.texts() {
			if i < 2 || i == 15 || rapid.Bool().Draw(t, "given") { // run, event and app
				*s = text.Draw(t, "text")
			}
		}
		e.Plugin = ""
		if e.Step == StepRunStarted && e.UserID == "" {
			e.UserID = "u"
		}
		if rapid.Bool().Draw(t, "sums") {
			e.HasCost, e.Cost = true, AmountOf(rapid.Int64Range(0, MaxCostNanos).Draw(t, "cost"))
			e.HasTokens, e.TotalTokens = true, rapid.Int64Range(0, MaxSummaryCount).Draw(t, "tokens")
		}
		report, err := ParseRunReport(RunFact(&e).AppendJSON(nil))
		if err != nil {
			t.Fatal(err)
		}
		e.Sequence, e.Attempt = 0, 0
		if d := cmp.Diff(e, report.Events[0], cmp.Comparer(func(a, b Amount) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzParseRunReport(f *testing.F) {
	for _, body := range []string{wholeRunEvent, "[" + wholeRunEvent + ",7,{\"a\":1,\"a\":2}]", `{"specversion":"1.0","id":"c","source":"s","type":"ai.mozaiks.orchestration.run_failed.v1","data":` + wholeRunEvent + `}`} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		report, err := ParseRunReport(body)
		if err != nil {
			return
		}
		if len(report.Events) == 0 {
			if len(report.Rejected) == 0 {
				t.Fatalf("%q holds nothing", body)
			}
			return
		}
		command := RunReport{Events: report.Events}
		var again RunReport
		if err := again.DecodePayload(command.EncodePayload(nil)); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		for i := range again.Events {
			if again.Events[i].Digest() != report.Events[i].Digest() {
				t.Fatalf("%q: %+v became %+v", body, report.Events[i], again.Events[i])
			}
			RunFact(&again.Events[i]).AppendJSON(nil)
		}
	})
}
