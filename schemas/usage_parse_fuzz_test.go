package schemas

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// compareWithReference fails unless parser and reference agree about body.
func compareWithReference(t *testing.T, body []byte, reused *ParsedBatch) {
	t.Helper()
	before := bytes.Clone(body)
	err := ParseUsageBatch(body, reused)
	if !bytes.Equal(before, body) {
		t.Fatal("the parser writes to the body")
	}
	want := refParse(body)
	code := Code("")
	if err != nil {
		code = err.Code
	}
	if code != want.code {
		t.Fatalf("request: parser %v, reference %q", err, want.code)
	}
	if err != nil {
		return
	}
	if reused.BatchID != want.batchID || reused.Total() != len(want.events) {
		t.Fatalf("batch id %q and %d events, want %q and %d", reused.BatchID, reused.Total(), want.batchID, len(want.events))
	}
	events, rejected := reused.Events, reused.Rejected
	for i, w := range want.events {
		w.event.Index = uint32(i)
		if len(rejected) > 0 && rejected[0].Index == uint32(i) {
			r := rejected[0]
			rejected = rejected[1:]
			if !w.faults[r.Code] || r.Code == CodeMissingField && len(w.faults) > 1 {
				t.Fatalf("event %d: parser %s %q, reference %v", i, r.Code, r.Detail, slices.Sorted(maps.Keys(w.faults)))
			}
			if r.EventID != w.event.EventID || r.AppID != w.event.AppID {
				t.Fatalf("event %d: identity %q of %q, want %q of %q", i, r.EventID, r.AppID, w.event.EventID, w.event.AppID)
			}
			if r.Digest != xxhash.Sum64(w.compact) {
				t.Fatalf("event %d: digest is not that of %q", i, w.compact)
			}
			if r.Detail == "" || len(r.Detail) > 200 || !utf8.ValidString(r.Detail) {
				t.Fatalf("event %d: detail %q", i, r.Detail)
			}
			continue
		}
		if len(w.faults) > 0 {
			t.Fatalf("event %d: taken, reference %v", i, slices.Sorted(maps.Keys(w.faults)))
		}
		if d := cmp.Diff(w.event, events[0]); d != "" {
			t.Fatalf("event %d: %s", i, d)
		}
		events = events[1:]
	}
}

func usageSeeds() []string {
	e := eventJSON
	full := e("workflow_id", `"w"`, "total_tokens", "2000", "tenant_id", `"t"`, "chat_id", `"c"`, "run_id", `"r"`, "agent_name", `"ag"`,
		"invocation_id", `"i"`, "cached", "true", "cached_tokens", "1", "reasoning_tokens", "2", "cost", "0.25", "duration_sec", "1.5e1",
		"metadata", `{"b":[1,2.50,{"z":null}],"a":"\u00e9\ud834\udd1e"}`)
	seeds := []string{
		requestJSON(e()), requestJSON(full), requestJSON(e(), full, e()), requestJSON("{}", "5", "null", e()),
		`{"events":[]}`, `{"events":[` + e() + `],"batch_id":null}`, `[]`, `{}`, `null`, `"x"`, ``, ` `, requestJSON(e()) + "x",
		requestJSON(e())[:120], strings.ReplaceAll(requestJSON(full), ",", " ,\n\t"), `{"a":1,"a":2,"events":[{}]}`,
		"{\"x\":\"\xff\",\"events\":[{}]}", `{"x":"\ud800","events":[{}]}`, `{"\u0065vents":[{}],"batch\u005fid":"\u0041"}`,
		requestJSON(addMember(e(), `"model":"m"`)), requestJSON(addMember(e(), `"x":{"y":1,"y":2}`)), requestJSON(addMember(e(), "\"\xff\":1")),
		requestJSON(addMember(e(), `"\ud800":1,"\ud800":2`)), requestJSON(addMember(e("model", ""), `"mod\u0065l":"m"`)),
		requestJSON(e("app_id", "")), requestJSON(e("x", nested("[", "]", 61))), requestJSON(e("x", nested("[", "]", 62))),
		requestJSON(e("metadata", nested(`{"a":`, "}", 61))), requestJSON(e("metadata", nested(`{"a":`, "}", 62))),
		`{"x":` + nested("[", "]", 63) + `,"events":[{}]}`, `{"x":` + nested("[", "]", 64) + `,"events":[{}]}`,
		requestJSON(append(slices.Repeat([]string{e("app_id", "")}, 999), e())...),
	}
	for key, values := range memberSeeds() {
		for _, v := range values {
			seeds = append(seeds, requestJSON(e(key, v)))
		}
	}
	return append(seeds, summarySeeds()...)
}

// memberSeeds are values to try for a member of an event.
func memberSeeds() map[string][]string {
	return map[string][]string{
		"event_id": {`"\ud800"`, `"\udc00\ud800"`, `"\ud834\udd1e"`, "\"\xff\"", "\"\xed\xa0\x80\"", "\"\xe2\x82\"", `"` + strings.Repeat("x", 128) + `"`, `"` + strings.Repeat("é", 129) + `"`, `""`, "null", "5", `"\"\\\/\b\f\n\r\t\u0000"`, "\"\x7f\"", "\"\x1f\""},
		"app_id":   {`" .*>%/\\\"\u0000\u001f\u007f"`, `"` + strings.Repeat("𝄞", 128) + `"`, `"` + strings.Repeat(`\ud834\udd1e`, 129) + `"`},
		"timestamp": {
			`"2026-02-30T00:00:00Z"`, `"2024-02-29t23:59:59.123456789123z"`, `"2026-01-01T00:00:00+23:59"`, `"2026-01-01T00:00:00-00:00"`, `"1677-09-21T00:12:43.145224191Z"`,
			`"2262-04-11T23:47:16.854775808Z"`, `"2026-01-01T00:00:60Z"`, `"2026-01-01 00:00:00Z"`, `"2026-01-01T00:00:00"`, `"2026-01-01T00:00:00\u005a"`, `"0000-02-29T00:00:00Z"`,
		},
		"input_tokens": {"5.0", "1e3", "-0", "-1", "01", "+1", ".5", "1.", "NaN", "Infinity", "-Infinity", "1000000000", "1000000001", "0", `"1"`, "99999999999999999999"},
		"cost":         {"1e-05", "1.10", "0.1000000000000", `"1e-9"`, `"1e-10"`, "1e9", "1000000000.000000001", "-0", "-1", "0e999999999999", "1e999999999999", "1e-999999999999", `""`, `" 1"`, `"NaN"`},
		"duration_sec": {"1e9", "1.5", "-0", "-1e-400", "1e-400", "1e400", "0.1e1"},
		"metadata": {
			`{"e":9007199254740993,"d":1E400,"c":1e21,"b":1e-7,"a":0.000001,"\u0000":-0.0}`, `{"\ufb33":1,"\ud83d\ude00":2,"\r":3,"1":4,"\u20ac":5}`,
			`{"k":"` + strings.Repeat("x", 4096-8) + `"}`, `{"k":"` + strings.Repeat("x", 4096-7) + `"}`, `{"k":"` + strings.Repeat(`\u0041`, 1000) + `"}`, `[]`, `{"a":{"a":1,"a":1}}`, `{"n":100000000000000000000000.5}`,
		},
		"cached": {"false", "truE", "1", "null"},
	}
}

func FuzzParseUsageBatch(f *testing.F) {
	for _, s := range usageSeeds() {
		f.Add([]byte(s))
	}
	var reused ParsedBatch
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) <= 1<<18 {
			compareWithReference(t, body, &reused)
		}
	})
}

// FuzzUsageEventMember spends its time inside of one member of a good event.
func FuzzUsageEventMember(f *testing.F) {
	for key, values := range memberSeeds() {
		for _, v := range values {
			f.Add(key, v)
		}
	}
	for _, key := range []string{"cost", "metadata", "duration_sec", "x", `\u0063ost`, "timestamp", "total_tokens"} {
		f.Add(key, `[{"a":1.5e-3,"b":"\n"},null]`)
		f.Add(key, `{"b":[1,20e20,0.10],"a":"2026-01-26T15:30:00Z"}`)
	}
	var reused ParsedBatch
	f.Fuzz(func(t *testing.T, key, value string) {
		if len(key)+len(value) > 1<<16 || strings.Contains(key, `"`) {
			return
		}
		compareWithReference(t, []byte(requestJSON(eventJSON(), eventJSON(key, value), eventJSON())), &reused)
	})
}

func FuzzParseInstant(f *testing.F) {
	for _, s := range []string{"2026-01-26T15:30:00Z", "2024-02-29t23:59:59.999999999999+14:00", "1677-09-21T00:12:43.145224192Z", "2262-04-11T23:47:16.854775807Z", "1970-01-01T00:00:00.1-23:59"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseInstant(s)
		want, code := refInstant(s)
		if err == nil && (code != "" || got != want) || err != nil && err.Code != code {
			t.Fatalf("%q: %d %v, want %d %q", s, got, err, want, code)
		}
	})
}

func FuzzDecimal(f *testing.F) {
	for _, s := range []string{"0", "-0.0", "1e-05", "1.10", "123456789.987654321", "1e9", "-12.5e-3", "9007199254740993", "1e21", "999999999999999999999", "0.0000012", "5e-324", "1.7976931348623157e308"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, whole, ok := scanNumber(s)
		if ok = ok && n == len(s); ok != refNumberForm.MatchString(s) {
			t.Fatalf("%q: a number is %v", s, ok)
		}
		if !ok || len(s) > 4096 {
			return
		}
		if whole != !strings.ContainsAny(s, ".eE") {
			t.Fatalf("%q: whole is %v", s, whole)
		}
		nanos, code := parseCost(s)
		if want, wantCode := refCost(&refNode{kind: '0', raw: jsontext.Value(s)}); nanos != want || code != wantCode {
			t.Fatalf("%q: %d %q, want %d %q", s, nanos, code, want, wantCode)
		}
		if got, want := string(appendCanonicalNumber(nil, s)), refNumber(s); got != want {
			t.Fatalf("%q: canonical %s, want %s", s, got, want)
		}
	})
}

// The reference itself must tell what the tables say about depth, which no
// fuzzer reaches.
func TestReferenceAtHardDepth(t *testing.T) {
	var b ParsedBatch
	for _, n := range []int{9_997, 9_998, 20_000} {
		compareWithReference(t, []byte(requestJSON(eventJSON("x", nested("[", "]", n)))), &b)
	}
}
