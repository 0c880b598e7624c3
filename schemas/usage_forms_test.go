package schemas

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// faults lists the rejected events as index:code.
func faults(b *ParsedBatch) (list []string) {
	for _, r := range b.Rejected {
		list = append(list, fmt.Sprintf("%d:%s:%s", r.Index, r.Code, r.EventID))
	}
	return list
}

func ids(b *ParsedBatch) (list []string) {
	for i := range b.Events {
		list = append(list, b.Events[i].EventID)
	}
	return list
}

func line(id string) string { return eventJSON("event_id", `"`+id+`"`) }

func TestParseUsageLines(t *testing.T) {
	deep := func(n int) string {
		return strings.TrimSuffix(line("deep"), "}") + `,"x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
	}
	for name, c := range map[string]struct {
		body     string
		ids      []string
		rejected []string
		code     Code
	}{
		"one":                    {line("a"), []string{"a"}, nil, ""},
		"LF at the end":          {line("a") + "\n", []string{"a"}, nil, ""},
		"CRLF and blanks":        {"\r\n" + line("a") + "\r\n \t\r\n\n" + line("b"), []string{"a", "b"}, nil, ""},
		"broken in the middle":   {line("a") + "\n\n" + line("b")[:40] + "\n" + line("c"), []string{"a", "c"}, []string{"1:INVALID_JSON:b"}, ""},
		"nothing but garbage":    {"garbage", nil, []string{"0:INVALID_JSON:"}, ""},
		"two in a line":          {line("a") + line("b") + "\n" + line("c"), []string{"c"}, []string{"0:INVALID_JSON:a"}, ""},
		"faulty, then garbage":   {`{"event_id":"a"} x` + "\n" + line("c"), []string{"c"}, []string{"0:INVALID_JSON:a"}, ""},
		"a comma between":        {line("a") + ",\n" + line("b"), []string{"b"}, []string{"0:INVALID_JSON:a"}, ""},
		"no object":              {"7\n[]\n" + line("a"), []string{"a"}, []string{"0:NOT_AN_OBJECT:", "1:NOT_AN_OBJECT:"}, ""},
		"repeated key":           {strings.Replace(line("a"), "{", `{"model":"m",`, 1), nil, []string{"0:REPEATED_KEY:a"}, ""},
		"bad UTF-8":              {strings.Replace(line("a"), `"user_id":"`, "\"user_id\":\"\xff", 1), nil, []string{"0:INVALID_TEXT:a"}, ""},
		"string over a line end": {strings.Replace(line("a"), `"user_id":"`, "\"user_id\":\"\n", 1), nil, []string{"0:INVALID_JSON:a", "1:INVALID_JSON:"}, ""},
		"as deep as allowed":     {deep(MaxJSONDepth - 3), []string{"deep"}, nil, ""},
		"too deep":               {deep(MaxJSONDepth - 2), nil, []string{"0:TOO_DEEP:deep"}, ""},
		"far too deep":           {deep(2*maxScanDepth) + "\n" + line("a"), []string{"a"}, []string{"0:TOO_DEEP:deep"}, ""},
		"most events":            {strings.Repeat("7\n", MaxEventsPerBatch) + "\n", nil, nil, "any"},
		"too many events":        {strings.Repeat("7\n", MaxEventsPerBatch) + "\n\n7", nil, nil, CodeTooManyEvents},
		"empty":                  {"", nil, nil, CodeValidation},
		"blank":                  {" \r\n\n\t\n", nil, nil, CodeValidation},
		"byte order mark":        {"\xef\xbb\xbf" + line("a"), nil, nil, CodeInvalidJSON},
	} {
		t.Run(name, func(t *testing.T) {
			body := []byte(c.body)
			var b ParsedBatch
			err := ParseUsageLines(body, &b)
			if !bytes.Equal(body, []byte(c.body)) {
				t.Fatal("the parser writes to the body")
			}
			if c.code == "any" {
				if err != nil || b.Total() != MaxEventsPerBatch {
					t.Fatalf("%d events, %v", b.Total(), err)
				}
				return
			}
			if err != nil {
				if err.Code != c.code || b.Total() != 0 {
					t.Fatalf("%v with %d events, want %q", err, b.Total(), c.code)
				}
				return
			}
			if c.code != "" || !slices.Equal(ids(&b), c.ids) || !slices.Equal(faults(&b), c.rejected) {
				t.Errorf("events %v, faults %v; want %v and %v", ids(&b), faults(&b), c.ids, c.rejected)
			}
		})
	}
}

// The same events in lines and in a list are the same to the last bit, so that a
// batch may be sent again in another form.
func TestLinesAndListAreTheSame(t *testing.T) {
	events := []string{line("a"), `{"event_id":"b","model":7}`, line("c"), `"x"`}
	var lines, list ParsedBatch
	if err := ParseUsageLines([]byte(strings.Join(events, "\n")), &lines); err != nil {
		t.Fatal(err)
	}
	if err := ParseUsageBatch([]byte(`{"events":[`+strings.Join(events, ",")+`]}`), &list); err != nil {
		t.Fatal(err)
	}
	x, y := SplitBatch(&lines, "b", false, 1)[0], SplitBatch(&list, "b", false, 1)[0]
	if !bytes.Equal(x.EncodePayload(nil), y.EncodePayload(nil)) {
		t.Error("the payloads differ")
	}
}

func ce(attributes ...string) string {
	m := map[string]string{"specversion": `"1.0"`, "id": `"1"`, "source": `"//s"`, "type": `"ai.mozaiks.usage.ingest.v1"`, "data": `{"events":[` + line("a") + `]}`}
	for i := 0; i < len(attributes); i += 2 {
		m[attributes[i]] = attributes[i+1]
	}
	var parts []string
	for k, v := range m {
		if v != "" {
			parts = append(parts, fmt.Sprintf("%q:%s", k, v))
		}
	}
	slices.Sort(parts)
	return "{" + strings.Join(parts, ",") + "}"
}

func TestParseIngestEvent(t *testing.T) {
	encoded := `"` + base64.StdEncoding.EncodeToString([]byte(`{"events":[`+line("a")+`]}`)) + `"`
	for name, c := range map[string]struct {
		body string
		code Code
		loc  string
	}{
		"good":                     {ce(), "", ""},
		"with all there is":        {ce("time", `"2026-01-26T15:30:00Z"`, "datacontenttype", `"application/json; charset=utf-8"`, "ext", `true`, "subject", `"x"`), "", ""},
		"unset is null":            {ce("time", `null`, "data_base64", `null`, "datacontenttype", "null"), "", ""},
		"base64":                   {ce("data", "", "data_base64", encoded), "", ""},
		"structured data type":     {ce("datacontenttype", `"application/x+json"`), "", ""},
		"foreign type":             {ce("type", `"com.example"`), CodeValidation, "[body type]"},
		"no type":                  {ce("type", ""), CodeValidation, "[body type]"},
		"type null":                {ce("type", "null"), CodeValidation, "[body type]"},
		"empty id":                 {ce("id", `""`), CodeValidation, "[body id]"},
		"no source":                {ce("source", ""), CodeValidation, "[body source]"},
		"number as id":             {ce("id", `7`), CodeValidation, "[body id]"},
		"specversion":              {ce("specversion", `"0.3"`), CodeValidation, "[body specversion]"},
		"bad time":                 {ce("time", `"yesterday"`), CodeValidation, "[body time]"},
		"XML":                      {ce("datacontenttype", `"text/xml"`), CodeValidation, "[body datacontenttype]"},
		"no data":                  {ce("data", ""), CodeValidation, "[body data]"},
		"data null":                {ce("data", "null"), CodeValidation, "[body data]"},
		"both":                     {ce("data_base64", encoded), CodeValidation, "[body data_base64]"},
		"not base64":               {ce("data", "", "data_base64", `"?"`), CodeValidation, "[body data_base64]"},
		"data is a text":           {ce("data", `"x"`), CodeValidation, "[body data]"},
		"data without events":      {ce("data", `{}`), CodeValidation, "[body data events]"},
		"repeated key":             {strings.Replace(ce(), "{", `{"id":"1",`, 1), CodeInvalidJSON, ""},
		"repeated key of an event": {strings.Replace(ce(), `"model"`, `"model":"m","model"`, 1), "", ""},
		"repeated key of the data": {ce("data", `{"events":[1],"events":[2]}`), CodeInvalidJSON, ""},
		"base64 of no JSON":        {ce("data", "", "data_base64", `"e30x"`), CodeInvalidJSON, ""},
		"bad UTF-8":                {ce("id", "\"\xff\""), CodeInvalidJSON, ""},
		"a list":                   {"[" + ce() + "]", CodeValidation, "[body]"},
		"trailing text":            {ce() + "x", CodeInvalidJSON, ""},
		"empty":                    {"", CodeInvalidJSON, ""},
		"far too deep":             {ce("x", strings.Repeat("[", maxScanDepth)), CodeValidation, "[body]"},
		"too deep":                 {ce("x", strings.Repeat("[", 100)+strings.Repeat("]", 100)), CodeValidation, "[body]"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := ParseIngestEvent([]byte(c.body))
			var b ParsedBatch
			if err == nil {
				err = e.ParseBatch(&b)
			}
			if err == nil {
				if c.code != "" || b.Total() != 1 || !strings.HasPrefix(b.BatchID, "ce-") {
					t.Fatalf("taken with %d events as batch %q, want %q", b.Total(), b.BatchID, c.code)
				}
				return
			}
			loc := ""
			if len(err.Fields) > 0 {
				loc = fmt.Sprint(err.Fields[0].Loc)
			}
			if err.Code != c.code || loc != c.loc {
				t.Errorf("%v at %s, want %q at %s", err, loc, c.code, c.loc)
			}
		})
	}
}

func TestBatchIDOfAnEvent(t *testing.T) {
	of := func(body string) string {
		e, err := ParseIngestEvent([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		var b ParsedBatch
		if err := e.ParseBatch(&b); err != nil {
			t.Fatal(err)
		}
		return b.BatchID
	}
	if got := of(ce("data", `{"batch_id":"own","events":[1]}`)); got != "own" {
		t.Errorf("the batch id is %q", got)
	}
	// It is stored and must never change.
	if got := of(ce()); got != "ce-928a9b002351f759c23f7eead4f4c5f6" || got != of(ce("data", `{"events":[2]}`)) {
		t.Errorf("the batch id is %q", got)
	}
	if of(ce("id", `"s1"`, "source", `"/"`)) == of(ce("id", `"1"`, "source", `"/s"`)) {
		t.Error("two events have one batch id")
	}
}

func TestParseIngestEvents(t *testing.T) {
	list, err := ParseIngestEvents([]byte("[" + strings.Join([]string{
		ce("id", `"1"`), ce("type", `"x"`), "7", strings.Replace(ce(), "{", `{"id":"1",`, 1), ce("x", strings.Repeat("[", 100)+strings.Repeat("]", 100)), ce("id", `"6"`),
	}, ",") + "]"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range list {
		if e := list[i].Err; e == nil {
			got = append(got, list[i].ID)
		} else if got = append(got, string(e.Code)); e.Code == CodeValidation && e.Fields[0].Loc[0] != "body" {
			t.Errorf("element %d: %v", i, e.Fields)
		}
	}
	want := []string{"1", "VALIDATION_ERROR", "VALIDATION_ERROR", "INVALID_JSON", "VALIDATION_ERROR", "6"}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if loc := fmt.Sprint(list[1].Err.Fields[0].Loc); loc != "[body 1 type]" {
		t.Errorf("the fault is at %s", loc)
	}
	many := func(n int) []byte { return []byte("[" + strings.Repeat("7,", n-1) + "7]") }
	if list, err := ParseIngestEvents(many(MaxCloudEvents)); err != nil || len(list) != MaxCloudEvents {
		t.Errorf("%d elements, %v", len(list), err)
	}
	for body, code := range map[string]Code{string(many(MaxCloudEvents + 1)): CodeTooManyEvents, "{}": CodeValidation, "[": CodeInvalidJSON, "[]x": CodeInvalidJSON, "{": CodeInvalidJSON} {
		if _, err := ParseIngestEvents([]byte(body)); err == nil || err.Code != code {
			t.Errorf("%.20s: %v, want %s", body, err, code)
		}
	}
	if list, err := ParseIngestEvents([]byte(" [] ")); err != nil || len(list) != 0 {
		t.Errorf("an empty list: %v, %v", list, err)
	}
}

func entry(data string, more ...string) string {
	return `{"event_type":"token_usage","app_id":"a","user_id":"u","timestamp":"2026-01-26T15:30:00Z"` + strings.Join(more, "") + `,"data":` + data + `}`
}

func TestParseUsageReports(t *testing.T) {
	const tokens = `"model":"m","input_tokens":1,"output_tokens":2`
	for name, c := range map[string]struct {
		entry string
		code  Code
		want  UsageEvent // what is looked at: id (unless derived), model, tokens, tenant
	}{
		"tokens":                   {entry(`{`+tokens+`,"workflow_id":"w","total_tokens":3}`, `,"event_id":"e"`), "", UsageEvent{EventID: "e", Model: "m", InputTokens: 1, OutputTokens: 2, TotalTokens: 3}},
		"id in data":               {entry(`{` + tokens + `,"event_id":"d","tenant_id":"t","app_id":7,"user_id":[]}`), "", UsageEvent{EventID: "d", Model: "m", InputTokens: 1, OutputTokens: 2, TotalTokens: 3, TenantID: "t"}},
		"id beside data wins":      {entry(`{`+tokens+`,"event_id":"d"}`, `,"event_id":"e"`), "", UsageEvent{EventID: "e", Model: "m", InputTokens: 1, OutputTokens: 2, TotalTokens: 3}},
		"data first":               {`{"data":{` + tokens + `,"event_id":"d"},"event_id":null,"app_id":"a","user_id":"u","timestamp":"2026-01-26T15:30:00Z"}`, "", UsageEvent{EventID: "d", Model: "m", InputTokens: 1, OutputTokens: 2, TotalTokens: 3}},
		"model null":               {entry(`{"model":null,"input_tokens":1,"output_tokens":2,"event_id":"e"}`), "", UsageEvent{EventID: "e", Model: "unknown", InputTokens: 1, OutputTokens: 2, TotalTokens: 3}},
		"feature":                  {strings.Replace(entry(`{"event_id":"e","input_tokens":null}`), "token_usage", "feature_usage", 1), "", UsageEvent{EventID: "e", Model: "none"}},
		"call with tokens":         {strings.Replace(entry(`{"event_id":"e",`+tokens+`,"total_tokens":9}`), "token_usage", "api_call", 1), "", UsageEvent{EventID: "e", Model: "m"}},
		"feature without data":     {`{"event_type":"feature_usage","event_id":"e","app_id":"a","user_id":"u","timestamp":"2026-01-26T15:30:00Z"}`, "", UsageEvent{EventID: "e", Model: "none"}},
		"no tokens":                {entry(`{"model":"m"}`), CodeMissingField, UsageEvent{}},
		"tokens null":              {entry(`{"model":"m","input_tokens":null,"output_tokens":1}`), CodeMissingField, UsageEvent{}},
		"no user":                  {strings.Replace(entry(`{`+tokens+`}`), `"user_id":"u"`, `"user_id":null`, 1), CodeMissingField, UsageEvent{}},
		"no data":                  {entry(`null`), CodeMissingField, UsageEvent{}},
		"data is a list":           {entry(`[]`), CodeInvalidType, UsageEvent{}},
		"type is a number":         {strings.Replace(entry(`{`+tokens+`}`), `"token_usage"`, `7`, 1), CodeInvalidType, UsageEvent{}},
		"repeated data":            {entry(`{`+tokens+`}`, `,"data":{}`), CodeRepeatedKey, UsageEvent{}},
		"repeated app":             {entry(`{`+tokens+`}`, `,"app_id":"b"`), CodeRepeatedKey, UsageEvent{}},
		"repeated id":              {entry(`{` + tokens + `,"event_id":null,"event_id":"e"}`), CodeRepeatedKey, UsageEvent{}},
		"repeated unknown":         {entry(`{` + tokens + `,"x":1,"x":2}`), CodeRepeatedKey, UsageEvent{}},
		"total below the sum":      {entry(`{` + tokens + `,"total_tokens":2}`), CodeTotalBelowSum, UsageEvent{}},
		"timestamp without zone":   {strings.Replace(entry(`{`+tokens+`}`), "00Z", "00", 1), CodeInvalidTimestamp, UsageEvent{}},
		"no object":                {`7`, CodeNotAnObject, UsageEvent{}},
		"lone surrogate in data":   {entry(`{` + tokens + `,"x":"\ud800"}`), CodeInvalidText, UsageEvent{}},
		"other fields of an event": {entry(`{` + tokens + `,"event_id":"e","cost":"0.5","cached_tokens":1,"metadata":{"k":1}}`), "", UsageEvent{EventID: "e", Model: "m", InputTokens: 1, OutputTokens: 2, TotalTokens: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			var b ParsedBatch
			if err := ParseUsageReports([]byte(`{"batch_id":7,"events":[`+c.entry+`]}`), &b); err != nil {
				t.Fatal(err)
			}
			if c.code != "" {
				if len(b.Rejected) != 1 || b.Rejected[0].Code != c.code {
					t.Fatalf("events %v, faults %v; want %s", ids(&b), faults(&b), c.code)
				}
				return
			}
			if len(b.Events) != 1 {
				t.Fatal(faults(&b))
			}
			e := b.Events[0]
			got := UsageEvent{EventID: e.EventID, Model: e.Model, TenantID: e.TenantID, InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens}
			if fmt.Sprint(got) != fmt.Sprint(c.want) || e.AppID != "a" || e.UserID != "u" || e.Timestamp == 0 {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// The derived id follows from content and occurrence, and not from what else is
// in the list or how the entry is written.
func TestDerivedIDs(t *testing.T) {
	const data = `{"model":"m","input_tokens":1,"output_tokens":2}`
	parse := func(entries ...string) []string {
		var b ParsedBatch
		if err := ParseUsageReports([]byte(`{"events":[`+strings.Join(entries, ",")+`]}`), &b); err != nil || len(b.Rejected) > 0 {
			t.Fatal(err, faults(&b))
		}
		return ids(&b)
	}
	x, y := entry(data), entry(data, `,"n":1`)
	same := `{ "data" : {"output_tokens":2, "input_tokens":1,"model":"\u006d"}, "timestamp":"2026-01-26T15:30:00Z","user_id":"u","app_id":"a","event_type":"token_usage"}`
	first, second := parse(x, y, same, x), parse(y, x)
	if first[0] != second[1] || first[1] != second[0] {
		t.Errorf("%v and %v: another list gives other ids", first, second)
	}
	stem := strings.TrimSuffix(first[0], ".1")
	if first[2] != stem+".2" || first[3] != stem+".3" || strings.HasPrefix(first[1], stem) {
		t.Errorf("the ids are %v", first)
	}
	if len(stem) != len("rep-")+32 {
		t.Errorf("the id is %q", first[0])
	}
	if n := len(parse()); n != 0 {
		t.Errorf("%d events of an empty list", n)
	}
}

func FuzzForms(f *testing.F) {
	for _, s := range []string{line("a"), line("a") + "\n{", ce(), "[" + ce() + "]", `{"events":[` + entry(`{"model":"m","input_tokens":1,"output_tokens":2}`) + `]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		var b ParsedBatch
		check := func() {
			for i := range b.Events {
				if e := &b.Events[i]; e.EventID == "" || e.AppID == "" || e.UserID == "" || e.Model == "" || e.TotalTokens < e.InputTokens+e.OutputTokens {
					t.Fatalf("incomplete event %+v", e)
				}
			}
			for _, out := range SplitBatch(&b, "b", false, 2) {
				out.EncodePayload(nil)
			}
		}
		if ParseUsageLines(body, &b) == nil {
			check()
		}
		if ParseUsageReports(body, &b) == nil {
			check()
		}
		if e, err := ParseIngestEvent(body); err == nil && e.ParseBatch(&b) == nil {
			check()
		}
		list, _ := ParseIngestEvents(body)
		for i := range list {
			if list[i].Err == nil && list[i].ParseBatch(&b) == nil {
				check()
			}
		}
		if !bytes.Equal(before, body) {
			t.Fatal("the parser writes to the body")
		}
	})
}
