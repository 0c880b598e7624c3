package schemas

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// eventJSON is a good event in which members are replaced, added or, with an
// empty value, left out: eventJSON("model", `"m"`, "app_id", "").
func eventJSON(changes ...string) string {
	members := [][2]string{
		{"event_id", `"e1"`},
		{"timestamp", `"2026-01-26T15:30:00Z"`},
		{"app_id", `"a1"`},
		{"user_id", `"u1"`},
		{"model", `"gpt-4"`},
		{"input_tokens", "1500"},
		{"output_tokens", "500"},
	}
	for i := 0; i < len(changes); i += 2 {
		found := false
		for j := range members {
			if members[j][0] == changes[i] {
				members[j][1], found = changes[i+1], true
			}
		}
		if !found {
			members = append(members, [2]string{changes[i], changes[i+1]})
		}
	}
	var parts []string
	for _, m := range members {
		if m[1] != "" {
			parts = append(parts, `"`+m[0]+`":`+m[1])
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func requestJSON(events ...string) string {
	return `{"batch_id":"b1","events":[` + strings.Join(events, ",") + `]}`
}

// addMember puts raw JSON members at the end of an object.
func addMember(object, members string) string {
	return strings.TrimSuffix(object, "}") + "," + members + "}"
}

func mustParse(t *testing.T, body string) *ParsedBatch {
	t.Helper()
	var b ParsedBatch
	if err := ParseUsageBatch([]byte(body), &b); err != nil {
		t.Fatalf("refused: %v\n%.300s", err, body)
	}
	return &b
}

// judge parses an event between two good ones, which must be taken whatever it is.
func judge(t *testing.T, event string) (*UsageEvent, *RejectedEvent) {
	t.Helper()
	b := mustParse(t, requestJSON(eventJSON("event_id", `"first"`), event, eventJSON("event_id", `"last"`)))
	n := len(b.Events)
	if b.Total() != 3 || n < 2 || b.Events[0].EventID != "first" || b.Events[0].Index != 0 ||
		b.Events[n-1].EventID != "last" || b.Events[n-1].Index != 2 {
		t.Fatalf("neighbours suffered: %+v", b)
	}
	if len(b.Rejected) == 1 {
		r := &b.Rejected[0]
		if r.Index != 1 || len(r.Detail) > 200 || len(r.Detail) == 0 || !utf8.ValidString(r.Detail) {
			t.Errorf("index %d, detail %q", r.Index, r.Detail)
		}
		return nil, r
	}
	if b.Events[1].Index != 1 {
		t.Errorf("index %d", b.Events[1].Index)
	}
	return &b.Events[1], nil
}

// manyKeys are members with the keys k0, k1, ….
func manyKeys(n int) string {
	var parts []string
	for i := range n {
		parts = append(parts, fmt.Sprintf(`"k%d":0`, i))
	}
	return strings.Join(parts, ",")
}

func nested(opening, closing string, n int) string {
	return strings.Repeat(opening, n) + "1" + strings.Repeat(closing, n)
}

func TestUsageEventAllFields(t *testing.T) {
	got, r := judge(t, ` { "metadata" : {"b":[1, 2], "a":"x"}, "duration_sec":1.5,"cost":0.25,"reasoning_tokens":3,"cached_tokens":2,"cached":true,
		"invocation_id":"i","agent_name":"ag","run_id":"r","chat_id":"c","tenant_id":"t","total_tokens":2001,"workflow_id":"w",
		"output_tokens":500,"input_tokens":1500,"model":"gpt-4","user_id":"u","app_id":"a","timestamp":"1970-01-01T00:00:01Z","event_id":"e","unknown":[{}] } `)
	if r != nil {
		t.Fatal(r)
	}
	want := &UsageEvent{
		Index: 1, EventID: "e", Timestamp: 1e9, AppID: "a", TenantID: "t", UserID: "u", WorkflowID: "w", Model: "gpt-4", ChatID: "c",
		RunID: "r", AgentName: "ag", InvocationID: "i", InputTokens: 1500, OutputTokens: 500, TotalTokens: 2001, CachedTokens: 2,
		ReasoningTokens: 3, Cost: 250_000_000, DurationSec: 1.5, Cached: true, Metadata: []byte(`{"a":"x","b":[1,2]}`),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestUsageEventAccepted(t *testing.T) {
	base := UsageEvent{Index: 1, EventID: "e1", Timestamp: 1769441400e9, AppID: "a1", UserID: "u1", Model: "gpt-4", InputTokens: 1500, OutputTokens: 500, TotalTokens: 2000}
	for name, c := range map[string]struct {
		event string
		want  func(*UsageEvent)
	}{
		"required only":         {eventJSON(), func(*UsageEvent) {}},
		"total above sum":       {eventJSON("total_tokens", "2500"), func(e *UsageEvent) { e.TotalTokens = 2500 }},
		"largest counts":        {eventJSON("input_tokens", "1000000000", "output_tokens", "1000000000"), func(e *UsageEvent) { e.InputTokens, e.OutputTokens, e.TotalTokens = 1e9, 1e9, 2e9 }},
		"zero counts":           {eventJSON("input_tokens", "0", "output_tokens", "0", "total_tokens", "0"), func(e *UsageEvent) { e.InputTokens, e.OutputTokens, e.TotalTokens = 0, 0, 0 }},
		"longest id":            {eventJSON("event_id", `"`+strings.Repeat("x", 128)+`"`), func(e *UsageEvent) { e.EventID = strings.Repeat("x", 128) }},
		"longest id, bytes":     {eventJSON("app_id", `"`+strings.Repeat("𝄞", 128)+`"`), func(e *UsageEvent) { e.AppID = strings.Repeat("𝄞", 128) }},
		"longest id, escapes":   {eventJSON("user_id", `"`+strings.Repeat(`\ud834\udd1e`, 64)+strings.Repeat(`\n`, 64)+`"`), func(e *UsageEvent) { e.UserID = strings.Repeat("𝄞", 64) + strings.Repeat("\n", 64) }},
		"longest model":         {eventJSON("model", `"`+strings.Repeat("é", 256)+`"`), func(e *UsageEvent) { e.Model = strings.Repeat("é", 256) }},
		"longest workflow":      {eventJSON("workflow_id", `"`+strings.Repeat("w", 256)+`"`), func(e *UsageEvent) { e.WorkflowID = strings.Repeat("w", 256) }},
		"special characters":    {eventJSON("app_id", `" .*>%/\\\"\u0000\u001f\u007f"`), func(e *UsageEvent) { e.AppID = " .*>%/\\\"\x00\x1f\x7f" }},
		"every escape":          {eventJSON("app_id", `"\"\\\/\b\f\n\r\t\u0041\u00e9\u20AC\uD834\uDD1E"`), func(e *UsageEvent) { e.AppID = "\"\\/\b\f\n\r\tAé€𝄞" }},
		"replacement character": {eventJSON("app_id", "\"\ufffd\\ufffd\""), func(e *UsageEvent) { e.AppID = "\ufffd\ufffd" }},
		"escaped key":           {addMember(eventJSON("app_id", ""), `"app\u005fid":"z"`), func(e *UsageEvent) { e.AppID = "z" }},
		"keys have case":        {addMember(eventJSON(), `"App_ID":1,"COST":{}`), func(*UsageEvent) {}},
		"unknown fields":        {addMember(eventJSON(), `"x":null,"y":[1e400,-0.0,{"a":{"a":1}}],"z":"\ud834\udd1e","":0`), func(*UsageEvent) {}},
		"many keys":             {addMember(eventJSON("x", "{"+manyKeys(40)+`,"y":{`+manyKeys(40)+"},"+`"z":{"k1":0}}`), manyKeys(40)), func(*UsageEvent) {}},
		"optional nulls": {addMember(eventJSON(), `"workflow_id":null,"total_tokens":null,"tenant_id":null,"chat_id":null,"run_id":null,"agent_name":null,"invocation_id":null,`+
			`"cached":null,"cached_tokens":null,"reasoning_tokens":null,"cost":null,"duration_sec":null,"metadata":null`), func(*UsageEvent) {}},
		"blanks":            {strings.NewReplacer(":", " \t:\r\n ", ",", " , ").Replace(eventJSON("timestamp", `""`)), nil},
		"cached false":      {eventJSON("cached", "false"), func(*UsageEvent) {}},
		"cost as text":      {eventJSON("cost", `"1.10"`), func(e *UsageEvent) { e.Cost = 1_100_000_000 }},
		"cost with escape":  {eventJSON("cost", `"\u0031"`), func(e *UsageEvent) { e.Cost = 1_000_000_000 }},
		"largest cost":      {eventJSON("cost", `1e9`), func(e *UsageEvent) { e.Cost = 1e18 }},
		"negative zero":     {eventJSON("cost", `-0.0`, "duration_sec", "-0"), func(*UsageEvent) {}},
		"longest duration":  {eventJSON("duration_sec", `1000000000`), func(e *UsageEvent) { e.DurationSec = 1e9 }},
		"tiny duration":     {eventJSON("duration_sec", `1e-400`), func(*UsageEvent) {}},
		"metadata empty":    {eventJSON("metadata", `{ }`), func(*UsageEvent) {}},
		"metadata at limit": {eventJSON("metadata", `{ "k" : "`+strings.Repeat("x", 4096-8)+`" }`), func(e *UsageEvent) { e.Metadata = []byte(`{"k":"` + strings.Repeat("x", 4096-8) + `"}`) }},
		"depth 64":          {eventJSON("x", nested("[", "]", 61)), func(*UsageEvent) {}},
		"metadata depth 64": {eventJSON("metadata", nested(`{"a":`, "}", 61)), func(e *UsageEvent) { e.Metadata = []byte(nested(`{"a":`, "}", 61)) }},
	} {
		t.Run(name, func(t *testing.T) {
			if c.want == nil { // the same text, with blanks
				c.event = strings.Replace(c.event, `""`, `"2026-01-26T15:30:00Z"`, 1)
				c.want = func(*UsageEvent) {}
			}
			got, r := judge(t, c.event)
			if r != nil {
				t.Fatalf("rejected: %+v", r)
			}
			want := base
			c.want(&want)
			if d := cmp.Diff(&want, got); d != "" {
				t.Error(d)
			}
			if math.Signbit(got.DurationSec) {
				t.Error("a duration of minus zero is another content digest")
			}
		})
	}
}

func TestUsageEventRejected(t *testing.T) {
	long := func(n int) string { return `"` + strings.Repeat("é", n) + `"` }
	e := eventJSON
	for name, c := range map[string]struct {
		event  string
		code   Code
		detail string // a part of it
		id     string // "event/app" as reported
	}{
		"number":                  {"5", CodeNotAnObject, "a number", "/"},
		"null":                    {"null", CodeNotAnObject, "null", "/"},
		"string":                  {`"x"`, CodeNotAnObject, "a string", "/"},
		"bad string":              {`"\ud800"`, CodeNotAnObject, "a string", "/"},
		"list":                    {"[" + e() + "]", CodeNotAnObject, "a list", "/"},
		"empty object":            {"{}", CodeMissingField, "event_id, timestamp, app_id, user_id, model, input_tokens, output_tokens", "/"},
		"no event id":             {e("event_id", ""), CodeMissingField, "missing: event_id", "/a1"},
		"no app":                  {e("app_id", ""), CodeMissingField, "missing: app_id", "e1/"},
		"app of another case":     {addMember(e("app_id", ""), `"App_Id":"a1"`), CodeMissingField, "missing: app_id", "e1/"},
		"no timestamp, no model":  {e("timestamp", "", "model", ""), CodeMissingField, "missing: timestamp, model", "e1/a1"},
		"missing and wrong":       {e("event_id", "", "model", "5"), CodeInvalidType, "model", "/a1"},
		"missing and below sum":   {e("model", "", "total_tokens", "1"), CodeTotalBelowSum, "", "e1/a1"},
		"null app":                {e("app_id", "null"), CodeInvalidType, "app_id must be a string, not null", "e1/"},
		"null count":              {e("input_tokens", "null"), CodeInvalidType, "input_tokens", "e1/a1"},
		"null timestamp":          {e("timestamp", "null"), CodeInvalidType, "timestamp", "e1/a1"},
		"id a number":             {e("event_id", "17"), CodeInvalidType, "a number", "/a1"},
		"id an object":            {e("event_id", `{"a":1}`), CodeInvalidType, "an object", "/a1"},
		"count a string":          {e("input_tokens", `"5"`), CodeInvalidType, "a string", "e1/a1"},
		"count a boolean":         {e("total_tokens", `true`), CodeInvalidType, "a boolean", "e1/a1"},
		"cached a number":         {e("cached", `1`), CodeInvalidType, "cached", "e1/a1"},
		"cost a boolean":          {e("cost", `false`), CodeInvalidType, "cost", "e1/a1"},
		"duration a string":       {e("duration_sec", `"1"`), CodeInvalidType, "duration_sec", "e1/a1"},
		"metadata a list":         {e("metadata", `[{}]`), CodeInvalidType, "metadata", "e1/a1"},
		"metadata a string":       {e("metadata", `"{}"`), CodeInvalidType, "metadata", "e1/a1"},
		"timestamp a number":      {e("timestamp", `1769441400`), CodeInvalidType, "timestamp", "e1/a1"},
		"fraction":                {e("input_tokens", `5.0`), CodeInvalidNumber, `"5.0"`, "e1/a1"},
		"exponent":                {e("output_tokens", `1e3`), CodeInvalidNumber, `"1e3"`, "e1/a1"},
		"minus zero":              {e("output_tokens", `-0`), CodeInvalidNumber, `"-0"`, "e1/a1"},
		"negative fraction":       {e("output_tokens", `-5.5`), CodeInvalidNumber, "", "e1/a1"},
		"negative":                {e("cached_tokens", `-5`), CodeOutOfRange, `"-5"`, "e1/a1"},
		"count over limit":        {e("reasoning_tokens", `1000000001`), CodeOutOfRange, "", "e1/a1"},
		"count far over":          {e("input_tokens", strings.Repeat("9", 500)), CodeOutOfRange, `"` + strings.Repeat("9", 64) + `…"`, "e1/a1"},
		"count over int64":        {e("input_tokens", "18446744073709551617"), CodeOutOfRange, "", "e1/a1"},
		"total below sum":         {e("total_tokens", `1999`), CodeTotalBelowSum, "1999", "e1/a1"},
		"empty id":                {e("event_id", `""`), CodeInvalidLength, "1 to 128 characters, not 0", "/a1"},
		"long id":                 {e("event_id", long(129)), CodeInvalidLength, "not 129", "/a1"},
		"long app":                {e("app_id", long(129)), CodeInvalidLength, "app_id", "e1/"},
		"long user":               {e("user_id", `"`+strings.Repeat(`\ud834\udd1e`, 129)+`"`), CodeInvalidLength, "not 129", "e1/a1"},
		"long model":              {e("model", long(257)), CodeInvalidLength, "1 to 256 characters, not 257", "e1/a1"},
		"long workflow":           {e("workflow_id", long(257)), CodeInvalidLength, "not 257", "e1/a1"},
		"empty chat":              {e("chat_id", `""`), CodeInvalidLength, "chat_id", "e1/a1"},
		"bad UTF-8":               {e("user_id", "\"a\xffb\""), CodeInvalidText, "user_id", "e1/a1"},
		"overlong UTF-8":          {e("user_id", "\"\xc0\xaf\""), CodeInvalidText, "user_id", "e1/a1"},
		"UTF-8 surrogate":         {e("user_id", "\"\xed\xa0\x80\""), CodeInvalidText, "user_id", "e1/a1"},
		"cut UTF-8":               {e("app_id", "\"\xe2\x82\""), CodeInvalidText, "app_id", "e1/"},
		"lone high surrogate":     {e("event_id", `"\ud800"`), CodeInvalidText, "event_id", "/a1"},
		"lone low surrogate":      {e("model", `"\udc00x"`), CodeInvalidText, "model", "e1/a1"},
		"high and no low":         {e("model", `"\ud800\u0041"`), CodeInvalidText, "model", "e1/a1"},
		"two highs":               {e("model", `"\ud800\ud800\udc00"`), CodeInvalidText, "model", "e1/a1"},
		"bad cost text":           {e("cost", "\"\xff\""), CodeInvalidText, "cost", "e1/a1"},
		"bad timestamp text":      {e("timestamp", "\"\xff\""), CodeInvalidText, "timestamp", "e1/a1"},
		"bad unknown text":        {e("note", `["\udead"]`), CodeInvalidText, `"note"`, "e1/a1"},
		"bad key":                 {addMember(e(), "\"\xff\":1"), CodeInvalidText, "a key", "e1/a1"},
		"bad key deep":            {addMember(e(), `"x":{"\ud800":1}`), CodeInvalidText, "a key", "e1/a1"},
		"bad metadata text":       {e("metadata", `{"a":"\ud800"}`), CodeInvalidText, "metadata", "e1/a1"},
		"repeated":                {addMember(e(), `"model":"gpt-4"`), CodeRepeatedKey, `"model"`, "e1/a1"},
		"repeated null":           {addMember(e(), `"run_id":null,"run_id":null`), CodeRepeatedKey, `"run_id"`, "e1/a1"},
		"repeated with escape":    {addMember(e(), `"mod\u0065l":"gpt-4"`), CodeRepeatedKey, `"model"`, "e1/a1"},
		"repeated app":            {addMember(e(), `"app_id":"other"`), CodeRepeatedKey, `"app_id"`, "e1/a1"},
		"repeated unknown":        {addMember(e(), `"x":1,"y":2,"x":3`), CodeRepeatedKey, `"x"`, "e1/a1"},
		"repeated inside unknown": {addMember(e(), `"x":[{"y":1},{"y":1,"\u0079":2}]`), CodeRepeatedKey, `"y"`, "e1/a1"},
		"repeated in metadata":    {e("metadata", `{"y":{"z":1,"z":1}}`), CodeRepeatedKey, `"z"`, "e1/a1"},
		"repeated among many":     {addMember(e(), manyKeys(40)+`,"k3":0`), CodeRepeatedKey, `"k3"`, "e1/a1"},
		"repeated late":           {e("x", "{"+manyKeys(40)+`,"k39":0}`), CodeRepeatedKey, `"k39"`, "e1/a1"},
		"repeated as 17th":        {e("x", "{"+manyKeys(16)+`,"k15":0}`), CodeRepeatedKey, `"k15"`, "e1/a1"},
		"metadata list over":      {e("metadata", `{"k":["`+strings.Repeat("x", 4096-9)+`"]}`), CodeMetadataTooLarge, "4096", "e1/a1"},
		"metadata list far over":  {e("metadata", `{"k":["`+strings.Repeat("x", 4096)+`",[1,2],{}]}`), CodeMetadataTooLarge, "4096", "e1/a1"},
		"repeated invisible key":  {addMember(e(), `"\u202ex\u0000":1,"\u202ex\u0000":1`), CodeRepeatedKey, "\"\ufffdx\ufffd\"", "e1/a1"},
		"repeated long key":       {addMember(e(), long(300)+":1,"+long(300)+":1"), CodeRepeatedKey, "éé…\"", "e1/a1"},
		"no zone":                 {e("timestamp", `"2026-01-26T15:30:00"`), CodeInvalidTimestamp, "no zone", "e1/a1"},
		"no such day":             {e("timestamp", `"2026-02-29T15:30:00Z"`), CodeInvalidTimestamp, `timestamp "2026-02-29T15:30:00Z"`, "e1/a1"},
		"year 1600":               {e("timestamp", `"1600-01-01T00:00:00Z"`), CodeTimestampTooOld, "timestamp", "e1/a1"},
		"year 2300":               {e("timestamp", `"2300-01-01T00:00:00Z"`), CodeTimestampInFuture, "timestamp", "e1/a1"},
		"depth 65":                {e("x", nested("[", "]", 62)), CodeTooDeep, `"x"`, "e1/a1"},
		"metadata depth 65":       {e("metadata", nested(`{"a":`, "}", 62)), CodeTooDeep, "metadata", "e1/a1"},
		"depth 9,000":             {e("x", nested("[", "]", 9000)), CodeTooDeep, `"x"`, "e1/a1"},
		"list of depth 70":        {nested("[", "]", 70), CodeNotAnObject, "", "/"},
		"metadata over limit":     {e("metadata", `{"k":"`+strings.Repeat("x", 4096-7)+`"}`), CodeMetadataTooLarge, "4096", "e1/a1"},
		"cost negative":           {e("cost", `-0.01`), CodeOutOfRange, "-0.01", "e1/a1"},
		"cost too exact":          {e("cost", `0.0000000001`), CodeInvalidNumber, "9 decimal places", "e1/a1"},
		"cost too exact as text":  {e("cost", `"1e-10"`), CodeInvalidNumber, "9 decimal places", "e1/a1"},
		"cost too high":           {e("cost", `1000000000.000000001`), CodeOutOfRange, "", "e1/a1"},
		"cost huge":               {e("cost", `1e999999999999999999999`), CodeOutOfRange, "", "e1/a1"},
		"cost empty text":         {e("cost", `""`), CodeInvalidNumber, `""`, "e1/a1"},
		"cost text with blank":    {e("cost", `" 1"`), CodeInvalidNumber, `" 1"`, "e1/a1"},
		"cost NaN text":           {e("cost", `"NaN"`), CodeInvalidNumber, `"NaN"`, "e1/a1"},
		"cost leading zero":       {e("cost", `"01"`), CodeInvalidNumber, `"01"`, "e1/a1"},
		"cost plus":               {e("cost", `"+1"`), CodeInvalidNumber, `"+1"`, "e1/a1"},
		"cost hexadecimal":        {e("cost", `"0x1"`), CodeInvalidNumber, `"0x1"`, "e1/a1"},
		"duration negative":       {e("duration_sec", `-1`), CodeOutOfRange, "duration_sec", "e1/a1"},
		"duration tiny negative":  {e("duration_sec", `-1e-400`), CodeOutOfRange, "duration_sec", "e1/a1"},
		"duration infinite":       {e("duration_sec", `1e400`), CodeOutOfRange, "duration_sec", "e1/a1"},
		"duration too long":       {e("duration_sec", `1000000001`), CodeOutOfRange, "duration_sec", "e1/a1"},
		"first fault decides":     {`{"input_tokens":1.5,"event_id":"e9","cost":-1,"app_id":"a9"}`, CodeInvalidNumber, "input_tokens", "e9/a9"},
	} {
		t.Run(name, func(t *testing.T) {
			_, r := judge(t, c.event)
			if r == nil {
				t.Fatal("taken")
			}
			if r.Code != c.code || !strings.Contains(r.Detail, c.detail) || r.EventID+"/"+r.AppID != c.id {
				t.Errorf("%s %q %s/%s, want %s %q %s", r.Code, r.Detail, r.EventID, r.AppID, c.code, c.detail, c.id)
			}
		})
	}
}

func TestUsageRequestRefused(t *testing.T) {
	good := eventJSON()
	cut := requestJSON(good, good)
	for name, c := range map[string]struct {
		body   string
		code   Code
		detail string
		loc    string
	}{
		"empty":                     {"", CodeInvalidJSON, "at byte 0: the text ends", ""},
		"blank":                     {" \n", CodeInvalidJSON, "at byte 2", ""},
		"byte order mark":           {"\ufeff{}", CodeInvalidJSON, "at byte 0: found a byte outside ASCII", ""},
		"word":                      {"hello", CodeInvalidJSON, "at byte 0: found 'h'", ""},
		"cut":                       {cut[:len(cut)/2], CodeInvalidJSON, "the text ends", ""},
		"cut before the end":        {cut[:len(cut)-1], CodeInvalidJSON, "at byte 303: the text ends where a comma or '}' should follow", ""},
		"trailing brace":            {cut + "}", CodeInvalidJSON, "at byte 304: found '}' where the end of the text", ""},
		"two requests":              {cut + cut, CodeInvalidJSON, "the end of the text", ""},
		"NUL":                       {"{\x00}", CodeInvalidJSON, `found '\x00'`, ""},
		"wrong shape, not JSON":     {`{"events":5`, CodeInvalidJSON, "", ""},
		"trailing comma":            {`{"events":[` + good + `,]}`, CodeInvalidJSON, "found ']' where a value", ""},
		"trailing comma, object":    {`{"events":[],}`, CodeInvalidJSON, "a key in double quotes", ""},
		"no comma":                  {`{"events":[` + good + good + `]}`, CodeInvalidJSON, "a comma or ']'", ""},
		"no colon":                  {`{"events"[]}`, CodeInvalidJSON, "a colon", ""},
		"crossed brackets":          {`{"events":[{]}}`, CodeInvalidJSON, "", ""},
		"key without quotes":        {`{events:[]}`, CodeInvalidJSON, "a key in double quotes", ""},
		"control character":         {requestJSON(eventJSON("app_id", "\"a\nb\"")), CodeInvalidJSON, "control character", ""},
		"bad escape":                {requestJSON(eventJSON("app_id", `"\x41"`)), CodeInvalidJSON, "escape", ""},
		"bad hexadecimal":           {requestJSON(eventJSON("app_id", `"\u12g4"`)), CodeInvalidJSON, "escape", ""},
		"cut in an escape":          {`{"x":"\`, CodeInvalidJSON, "at byte 6: an escape", ""},
		"cut in a hexadecimal":      {`{"x":"\u12`, CodeInvalidJSON, "at byte 6: an escape", ""},
		"cut in a batch id":         {`{"batch_id":"x`, CodeInvalidJSON, "ends inside a string", ""},
		"cut in metadata":           {`{"events":[{"metadata":{"a":`, CodeInvalidJSON, "a value", ""},
		"bad duration":              {requestJSON(eventJSON("duration_sec", "1.")), CodeInvalidJSON, "a number", ""},
		"NaN":                       {requestJSON(eventJSON("cost", "NaN")), CodeInvalidJSON, "found 'N'", ""},
		"Infinity":                  {requestJSON(eventJSON("cost", "Infinity")), CodeInvalidJSON, "found 'I'", ""},
		"-Infinity":                 {requestJSON(eventJSON("cost", "-Infinity")), CodeInvalidJSON, "a number", ""},
		"plus":                      {requestJSON(eventJSON("input_tokens", "+1")), CodeInvalidJSON, "found '+'", ""},
		"leading zero":              {requestJSON(eventJSON("input_tokens", "01")), CodeInvalidJSON, "a number", ""},
		"negative leading zero":     {requestJSON(eventJSON("input_tokens", "-01")), CodeInvalidJSON, "a number", ""},
		"no digits before point":    {requestJSON(eventJSON("cost", ".5")), CodeInvalidJSON, "found '.'", ""},
		"no digits behind point":    {requestJSON(eventJSON("cost", "1.")), CodeInvalidJSON, "a number", ""},
		"no digits in exponent":     {requestJSON(eventJSON("cost", "1e+")), CodeInvalidJSON, "a number", ""},
		"misspelt word":             {requestJSON(eventJSON("cached", "truE")), CodeInvalidJSON, "(true)", ""},
		"misspelt null":             {requestJSON(eventJSON("run_id", "nul")), CodeInvalidJSON, "(null)", ""},
		"comment":                   {requestJSON(good + "/**/"), CodeInvalidJSON, "", ""},
		"bad UTF-8 in batch id":     {"{\"batch_id\":\"\xff\",\"events\":[" + good + "]}", CodeInvalidJSON, "batch_id", ""},
		"lone surrogate outside":    {`{"events":[` + good + `],"x":{"y":"\ud800"}}`, CodeInvalidJSON, `"x"`, ""},
		"bad key outside":           {`{"events":[` + good + `],"\udc00":1}`, CodeInvalidJSON, "a key", ""},
		"events twice":              {`{"events":[` + good + `],"events":[` + good + `]}`, CodeInvalidJSON, `"events" is there twice`, ""},
		"batch id twice":            {`{"batch_id":"a","events":[` + good + `],"batch\u005fid":"a"}`, CodeInvalidJSON, `"batch_id"`, ""},
		"unknown key twice":         {`{"x":1,"events":[` + good + `],"x":1}`, CodeInvalidJSON, `"x"`, ""},
		"repeated key outside":      {`{"x":[{"a":1,"a":2}],"events":[` + good + `]}`, CodeInvalidJSON, `"a"`, ""},
		"list":                      {"[" + good + "]", CodeValidation, "must be an object", "[[body]]"},
		"null":                      {"null", CodeValidation, "must be an object", "[[body]]"},
		"list with repeated key":    {`[{"a":1,"a":1}]`, CodeInvalidJSON, `"a"`, ""},
		"string not Unicode":        {`"\ud800"`, CodeInvalidJSON, `"body" is not valid Unicode`, ""},
		"no events":                 {`{"batch_id":"x"}`, CodeValidation, "events is missing", "[[body events]]"},
		"events null":               {`{"events":null}`, CodeValidation, "a list", "[[body events]]"},
		"events an object":          {`{"events":{}}`, CodeValidation, "a list", "[[body events]]"},
		"events empty":              {`{"events":[ ]}`, CodeValidation, "at least one event", "[[body events]]"},
		"batch id a number":         {`{"batch_id":5,"events":[` + good + `]}`, CodeValidation, "a string", "[[body batch_id]]"},
		"batch id empty":            {`{"batch_id":"","events":[` + good + `]}`, CodeValidation, "at least 1", "[[body batch_id]]"},
		"batch id long":             {`{"batch_id":"` + strings.Repeat("é", 129) + `","events":[` + good + `]}`, CodeValidation, "at most 128", "[[body batch_id]]"},
		"two wrong fields":          {`{"events":"x","batch_id":[]}`, CodeValidation, "; ", "[[body events] [body batch_id]]"},
		"one wrong and one missing": {`{"batch_id":[]}`, CodeValidation, "; ", "[[body batch_id] [body events]]"},
		"depth 65 outside":          {`{"x":` + nested("[", "]", 64) + `,"events":[` + good + `]}`, CodeValidation, "64 levels", "[[body]]"},
		"depth 65 at the top":       {nested("[", "]", 65), CodeValidation, "64 levels", "[[body]]"},
		"deep and not JSON":         {nested("[", "]", 65) + "]", CodeInvalidJSON, "", ""},
		"depth 10,001 in an event":  {requestJSON(eventJSON("x", nested("[", "]", 9_998))), CodeValidation, "64 levels", "[[body]]"},
		"endless depth":             {strings.Repeat("[", 1<<20), CodeValidation, "64 levels", "[[body]]"},
		"20,001 events":             {requestJSON(strings.Split(strings.Repeat("1,", MaxEventsPerBatch)+"1", ",")...), CodeTooManyEvents, "20000", ""},
		"20,000 and a comma":        {`{"events":[` + strings.Repeat("1,", MaxEventsPerBatch) + `]}`, CodeInvalidJSON, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := ParsedBatch{BatchID: "old", Events: make([]UsageEvent, 3), Rejected: make([]RejectedEvent, 3)}
			err := ParseUsageBatch([]byte(c.body), &b)
			if err == nil {
				t.Fatal("taken")
			}
			if err.Code != c.code || !strings.Contains(err.Detail, c.detail) {
				t.Errorf("%v, want %s %q", err, c.code, c.detail)
			}
			var loc []any
			for _, f := range err.Fields {
				loc = append(loc, f.Loc)
				if f.Msg == "" || f.Type == "" {
					t.Errorf("%+v", f)
				}
			}
			if c.loc != "" && fmt.Sprint(loc) != c.loc || c.loc == "" && loc != nil {
				t.Errorf("fields %v, want %s", loc, c.loc)
			}
			if b.Total() != 0 || b.BatchID != "" {
				t.Errorf("left %+v", b)
			}
			if !utf8.ValidString(err.Detail) || len(err.Detail) > 250 {
				t.Errorf("detail %q", err.Detail)
			}
		})
	}
}

func TestUsageRequestAccepted(t *testing.T) {
	good := eventJSON()
	for name, c := range map[string]struct{ body, batchID string }{
		"no batch id":      {`{"events":[` + good + `]}`, ""},
		"null batch id":    {`{"batch_id":null,"events":[` + good + `]}`, ""},
		"batch id behind":  {`{"events":[` + good + `],"batch_id":"x"}`, "x"},
		"longest batch id": {`{"batch_id":"` + strings.Repeat("é", 128) + `","events":[` + good + `]}`, strings.Repeat("é", 128)},
		"escaped batch id": {`{"batch_id":"\u0041","events":[` + good + `]}`, "A"},
		"unknown keys":     {`{"a":{"b":[true,false,null,-1.5E+3]},"Events":1,"events":[` + good + `],"z":"\u0000"}`, ""},
		"depth 64 outside": {`{"x":` + nested("[", "]", 63) + `,"events":[` + good + `]}`, ""},
		"blanks":           {" \t\r\n{ \"events\" : [ " + good + " ] } \n", ""},
		"escaped events":   {`{"\u0065vents":[` + good + `]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := mustParse(t, c.body)
			if b.BatchID != c.batchID || len(b.Events) != 1 || len(b.Rejected) != 0 {
				t.Errorf("%+v", b)
			}
		})
	}
}

func TestUsageBatchLimits(t *testing.T) {
	events := make([]string, MaxEventsPerBatch)
	for i := range events {
		events[i] = eventJSON("event_id", fmt.Sprintf(`"e%d"`, i))
		if i%2 == 1 {
			events[i] = "{}"
		}
	}
	b := mustParse(t, requestJSON(events...))
	if len(b.Events) != MaxEventsPerBatch/2 || len(b.Rejected) != MaxEventsPerBatch/2 {
		t.Fatalf("%d taken, %d rejected", len(b.Events), len(b.Rejected))
	}
	for i := range b.Events {
		if b.Events[i].Index != uint32(2*i) || b.Events[i].EventID != fmt.Sprintf("e%d", 2*i) || b.Rejected[i].Index != uint32(2*i+1) {
			t.Fatalf("%d: %+v %+v", i, b.Events[i], b.Rejected[i])
		}
	}
}

func TestUsageBatchReuse(t *testing.T) {
	var b ParsedBatch
	full := requestJSON(strings.Repeat(eventJSON("cost", "1", "cached", "true", "metadata", `{"a":1}`, "chat_id", `"c"`)+",", 99)+"5", eventJSON())
	if err := ParseUsageBatch([]byte(full), &b); err != nil || b.Total() != 101 {
		t.Fatal(err, b.Total())
	}
	if err := ParseUsageBatch([]byte(`{"events":[`+eventJSON()+`]}`), &b); err != nil {
		t.Fatal(err)
	}
	if want := mustParse(t, `{"events":[`+eventJSON()+`]}`); b.BatchID != "" || len(b.Rejected) != 0 || cmp.Diff(want.Events, b.Events) != "" {
		t.Errorf("traces of the batch before: %+v", b)
	}
}

func TestParseUsageBatchDoesNotAllocatePerEvent(t *testing.T) {
	var b ParsedBatch
	body := loadBody(500)
	if n := testing.AllocsPerRun(5, func() {
		if err := ParseUsageBatch(body, &b); err != nil {
			t.Fatal(err)
		}
	}); n > 5 {
		t.Errorf("%v allocations", n)
	}
}

// Rejections are part of a batch's digest: the same text in other blanks is the
// same rejection, another text is another.
func TestRejectedDigest(t *testing.T) {
	digest := func(event string) uint64 {
		_, r := judge(t, event)
		return r.Digest
	}
	a := digest(`{"event_id":"a \" b","x":[1,2]}`)
	if b := digest(" {\t\"event_id\" : \"a \\\" b\",\r\n\"x\":[ 1 , 2 ] } "); a != b {
		t.Error("blanks between tokens count")
	}
	if b := digest(`{"event_id":"a  \" b","x":[1,2]}`); a == b {
		t.Error("blanks inside strings do not count")
	}
	if digest("1") == digest("2") {
		t.Error("numbers are the same")
	}
}

// An attacker's body must cost time in proportion to its length, whatever it is
// made of; the quadratic ways would take minutes here.
func TestParseUsageBatchLinear(t *testing.T) {
	many := manyKeys(100_000)
	object := "{" + many + "}"
	for name, c := range map[string]struct {
		body string
		want int // events taken, -1 for a refusal
	}{
		"keys of one event":    {requestJSON(eventJSON("x", object)), 1},
		"keys beside fields":   {requestJSON(addMember(eventJSON(), many)), 1},
		"keys of the request":  {addMember(requestJSON(eventJSON()), many), 1},
		"repeated keys":        {requestJSON(addMember(eventJSON(), strings.Repeat(`"x":0,`, 100_000)+`"x":0`)), 0},
		"objects of few keys":  {requestJSON(eventJSON("x", "["+strings.TrimSuffix(strings.Repeat(`{"a":{"b":1,"c":2},"b":2},`, 100_000), ",")+"]")), 1},
		"one string":           {requestJSON(eventJSON("x", `"`+strings.Repeat(`\u00e9é`, 500_000)+`"`)), 1},
		"metadata":             {requestJSON(eventJSON("metadata", object)), 0},
		"metadata, one number": {requestJSON(eventJSON("metadata", `{"n":1.`+strings.Repeat("0", 2_000_000)+`}`)), 1},
		"cost digits":          {requestJSON(eventJSON("cost", `1.`+strings.Repeat("0", 2_000_000))), 1},
		"deep twice":           {requestJSON(eventJSON("x", nested("[", "]", 9_000)), eventJSON("x", nested(`{"a":`, "}", 9_000))), 0},
		"blanks":               {strings.Repeat(" ", 4_000_000) + requestJSON(eventJSON()) + strings.Repeat("\n", 4_000_000), 1},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			b := mustParse(t, c.body)
			if len(b.Events) != c.want {
				t.Errorf("%d taken, %+v", len(b.Events), b.Rejected)
			}
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("%d bytes took %v", len(c.body), d)
			}
		})
	}
}

func TestUsageResultIsValidUnicode(t *testing.T) {
	got, _ := judge(t, eventJSON("app_id", `"\u0000\ud834\udd1e€"`, "metadata", `{"\u0000":"\u001f"}`))
	if !utf8.ValidString(got.AppID) || !json.Valid(got.Metadata) {
		t.Errorf("%q %q", got.AppID, got.Metadata)
	}
}
