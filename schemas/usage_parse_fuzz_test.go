package schemas

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// The reference is slow and shares nothing with the parser: go-json-experiment
// reads the JSON, time.Parse the instants, math/big the decimals. It knows every
// fault of an event, the parser reports the first.

type refNode struct {
	kind    jsontext.Kind
	raw     jsontext.Value
	depth   int // containers around it, itself included
	names   []refNode
	members []refNode // of an object or array
}

type refEvent struct {
	event   UsageEvent // without a fault: all; else the identity
	faults  map[Code]bool
	compact []byte
}

type refBatch struct {
	code    Code // of the refusal of the whole request
	batchID string
	events  []refEvent
}

var refLenient = jsonv2.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func refParse(body []byte) (out refBatch) {
	dec := jsontext.NewDecoder(bytes.NewReader(body), refLenient)
	raw, err := dec.ReadValue()
	if err != nil {
		if strings.Contains(err.Error(), "exceeded max depth") {
			return refBatch{code: CodeValidation}
		}
		return refBatch{code: CodeInvalidJSON}
	}
	raw = raw.Clone()
	if _, err := dec.ReadToken(); err != io.EOF {
		return refBatch{code: CodeInvalidJSON}
	}
	top := refRead(jsontext.NewDecoder(bytes.NewReader(raw), refLenient), 0)
	misshapen := false
	faults := map[Code]bool{}
	if top.kind != '{' {
		refWalk(&top, faults)
		misshapen = true
	}
	seen := map[string]bool{}
	for i := range top.names {
		value := &top.members[i]
		if !top.names[i].raw.IsValid() {
			faults[CodeInvalidText] = true
		}
		name := refText(&top.names[i])
		if seen[name] {
			faults[CodeRepeatedKey] = true
		}
		seen[name] = true
		switch {
		case name == "events" && value.kind == '[':
			for j := range value.members {
				out.events = append(out.events, refReadEvent(&value.members[j]))
			}
			continue
		case name == "events":
			misshapen = true
		case name == "batch_id" && value.kind == '"':
			out.batchID = refText(value)
			n := utf8.RuneCountInString(out.batchID)
			misshapen = misshapen || n < 1 || n > 128
		case name == "batch_id" && value.kind != 'n':
			misshapen = true
		}
		refWalk(value, faults)
	}
	switch {
	case len(out.events) > 20_000:
		return refBatch{code: CodeTooManyEvents}
	case faults[CodeInvalidText] || faults[CodeRepeatedKey]:
		return refBatch{code: CodeInvalidJSON}
	case misshapen || faults[CodeTooDeep] || len(out.events) == 0:
		return refBatch{code: CodeValidation}
	}
	return out
}

func refRead(dec *jsontext.Decoder, depth int) (n refNode) {
	n.kind = dec.PeekKind()
	n.depth = depth
	if n.kind != '{' && n.kind != '[' {
		v, err := dec.ReadValue()
		if err != nil {
			panic(err)
		}
		n.raw = v.Clone()
		return n
	}
	n.depth++
	if _, err := dec.ReadToken(); err != nil {
		panic(err)
	}
	for dec.PeekKind() != '}' && dec.PeekKind() != ']' {
		if n.kind == '{' {
			n.names = append(n.names, refRead(dec, n.depth))
		}
		n.members = append(n.members, refRead(dec, n.depth))
	}
	if _, err := dec.ReadToken(); err != nil {
		panic(err)
	}
	return n
}

func refText(n *refNode) string {
	b, _ := jsontext.AppendUnquote(nil, n.raw)
	return string(b)
}

// refWalk finds the faults that any value may have.
func refWalk(n *refNode, faults map[Code]bool) {
	if n.kind == '"' && !n.raw.IsValid() {
		faults[CodeInvalidText] = true
	}
	if n.depth > 64 {
		faults[CodeTooDeep] = true
	}
	seen := map[string]bool{}
	for i := range n.names {
		refWalk(&n.names[i], faults)
		name := refText(&n.names[i])
		if seen[name] {
			faults[CodeRepeatedKey] = true
		}
		seen[name] = true
	}
	for i := range n.members {
		refWalk(&n.members[i], faults)
	}
}

func refReadEvent(n *refNode) refEvent {
	out := refEvent{faults: map[Code]bool{}, compact: refCompact(nil, n)}
	refWalk(n, out.faults)
	if n.kind != '{' {
		out.faults[CodeNotAnObject] = true
		return out
	}
	e := &out.event
	required := []string{"event_id", "timestamp", "app_id", "user_id", "model", "input_tokens", "output_tokens"}
	texts := map[string]*string{
		"event_id": &e.EventID, "app_id": &e.AppID, "user_id": &e.UserID, "model": &e.Model, "workflow_id": &e.WorkflowID,
		"tenant_id": &e.TenantID, "chat_id": &e.ChatID, "run_id": &e.RunID, "agent_name": &e.AgentName, "invocation_id": &e.InvocationID,
	}
	counts := map[string]*int64{
		"input_tokens": &e.InputTokens, "output_tokens": &e.OutputTokens, "total_tokens": &e.TotalTokens,
		"cached_tokens": &e.CachedTokens, "reasoning_tokens": &e.ReasoningTokens,
	}
	taken := map[string]bool{}
	seen := map[string]bool{}
	for i := range n.members {
		name, value := refText(&n.names[i]), &n.members[i]
		if seen[name] || !n.names[i].raw.IsValid() {
			continue
		}
		seen[name] = true
		if value.kind == 'n' && !slices.Contains(required, name) {
			continue
		}
		var code Code
		switch {
		case texts[name] != nil:
			*texts[name], code = refID(value, name)
		case counts[name] != nil:
			*counts[name], code = refCount(value)
		case name == "timestamp":
			e.Timestamp, code = refTimestamp(value)
		case name == "cached":
			e.Cached = value.kind == 't'
			if value.kind != 't' && value.kind != 'f' {
				code = CodeInvalidType
			}
		case name == "cost":
			e.Cost, code = refCost(value)
		case name == "duration_sec":
			e.DurationSec, code = refDuration(value)
		case name == "metadata":
			e.Metadata, code = refMetadata(value)
		}
		if code != "" {
			out.faults[code] = true
		}
		taken[name] = code == ""
	}
	if taken["input_tokens"] && taken["output_tokens"] {
		if sum := e.InputTokens + e.OutputTokens; !taken["total_tokens"] {
			e.TotalTokens = sum
		} else if e.TotalTokens < sum {
			out.faults[CodeTotalBelowSum] = true
		}
	}
	for _, name := range required {
		if !seen[name] {
			out.faults[CodeMissingField] = true
		}
	}
	return out
}

func refID(n *refNode, name string) (string, Code) {
	limit := 128
	if name == "model" || name == "workflow_id" {
		limit = 256
	}
	if n.kind != '"' {
		return "", CodeInvalidType
	}
	if !n.raw.IsValid() {
		return "", CodeInvalidText
	}
	s := refText(n)
	if c := len([]rune(s)); c < 1 || c > limit {
		return "", CodeInvalidLength
	}
	return s, ""
}

func refCount(n *refNode) (int64, Code) {
	if n.kind != '0' {
		return 0, CodeInvalidType
	}
	i, ok := new(big.Int).SetString(string(n.raw), 10)
	if !ok || string(n.raw) == "-0" {
		return 0, CodeInvalidNumber
	}
	if i.Sign() < 0 || i.Cmp(big.NewInt(1e9)) > 0 {
		return 0, CodeOutOfRange
	}
	return i.Int64(), ""
}

func refTimestamp(n *refNode) (int64, Code) {
	if n.kind != '"' {
		return 0, CodeInvalidType
	}
	if !n.raw.IsValid() {
		return 0, CodeInvalidText
	}
	return refInstant(refText(n))
}

var refInstantForm = regexp.MustCompile(`^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$`)

func refInstant(s string) (int64, Code) {
	if !refInstantForm.MatchString(s) {
		return 0, CodeInvalidTimestamp
	}
	at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(s))
	if err != nil {
		return 0, CodeInvalidTimestamp
	}
	nanos := new(big.Int).Mul(big.NewInt(at.Unix()), big.NewInt(1e9))
	nanos.Add(nanos, big.NewInt(int64(at.Nanosecond())))
	switch {
	case nanos.IsInt64():
		return nanos.Int64(), ""
	case nanos.Sign() < 0:
		return 0, CodeTimestampTooOld
	}
	return 0, CodeTimestampInFuture
}

var refNumberForm = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

func refCost(n *refNode) (int64, Code) {
	text := string(n.raw)
	if n.kind == '"' {
		if !n.raw.IsValid() {
			return 0, CodeInvalidText
		}
		text = refText(n)
	} else if n.kind != '0' {
		return 0, CodeInvalidType
	}
	if !refNumberForm.MatchString(text) {
		return 0, CodeInvalidNumber
	}
	r, size := refRat(text)
	switch {
	case size == 0 && r.Sign() == 0:
		return 0, ""
	case r.Sign() < 0:
		return 0, CodeOutOfRange
	case size > 0:
		return 0, CodeOutOfRange
	case size < 0:
		return 0, CodeInvalidNumber
	}
	r.Mul(r, big.NewRat(1e9, 1))
	if !r.IsInt() {
		return 0, CodeInvalidNumber
	}
	if r.Num().Cmp(big.NewInt(1e18)) > 0 {
		return 0, CodeOutOfRange
	}
	return r.Num().Int64(), ""
}

// refRat is the value of a JSON number. A size of 1 or -1 stands for a value too
// large or too small for the reference to hold; only the sign is right then.
func refRat(text string) (*big.Rat, int) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	m, ok := new(big.Rat).SetString(mantissa)
	if !ok {
		panic(text)
	}
	if exponent == "" || m.Sign() == 0 {
		return m, 0
	}
	e, ok := new(big.Int).SetString(exponent, 10)
	if !ok {
		panic(text)
	}
	const most = 20_000
	switch n := e.Int64(); {
	case !e.IsInt64() || n > most+int64(len(text)) || n < -most-int64(len(text)):
		return m, e.Sign()
	default:
		ten := new(big.Int).Exp(big.NewInt(10), new(big.Int).Abs(e), nil)
		if n < 0 {
			return m.Quo(m, new(big.Rat).SetInt(ten)), 0
		}
		return m.Mul(m, new(big.Rat).SetInt(ten)), 0
	}
}

func refDuration(n *refNode) (float64, Code) {
	if n.kind != '0' {
		return 0, CodeInvalidType
	}
	var f float64
	if err := json.Unmarshal(n.raw, &f); err != nil || f > 1e9 {
		return 0, CodeOutOfRange
	}
	if r, _ := refRat(string(n.raw)); r.Sign() < 0 {
		return 0, CodeOutOfRange
	}
	return math.Abs(f), ""
}

func refMetadata(n *refNode) ([]byte, Code) {
	if n.kind != '{' {
		return nil, CodeInvalidType
	}
	faults := map[Code]bool{}
	refWalk(n, faults)
	for code := range faults {
		return nil, code
	}
	b := refCanonical(nil, n)
	if len(b) > 4096 {
		return nil, CodeMetadataTooLarge
	}
	return b, ""
}

func refCanonical(dst []byte, n *refNode) []byte {
	switch n.kind {
	case '{':
		order := make([]int, len(n.names))
		for i := range order {
			order[i] = i
		}
		slices.SortFunc(order, func(i, j int) int {
			return slices.Compare(utf16.Encode([]rune(refText(&n.names[i]))), utf16.Encode([]rune(refText(&n.names[j]))))
		})
		dst = append(dst, '{')
		for k, i := range order {
			if k > 0 {
				dst = append(dst, ',')
			}
			dst = append(refCanonical(dst, &n.names[i]), ':')
			dst = refCanonical(dst, &n.members[i])
		}
		return append(dst, '}')
	case '[':
		dst = append(dst, '[')
		for i := range n.members {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = refCanonical(dst, &n.members[i])
		}
		return append(dst, ']')
	case '"':
		dst, _ = jsontext.AppendQuote(dst, refText(n))
		return dst
	case '0':
		return append(dst, refNumber(string(n.raw))...)
	}
	return append(dst, n.raw...)
}

// refNumber is RFC 8785 where that keeps the value, else all digits in the same
// layout.
func refNumber(text string) string {
	r, size := refRat(text)
	if size != 0 {
		return string(appendCanonicalNumber(nil, text)) // beyond the reference
	}
	if f, _ := strconv.ParseFloat(text, 64); !math.IsInf(f, 0) {
		if s, _ := refRat(strconv.FormatFloat(f, 'e', -1, 64)); s.Cmp(r) == 0 {
			return string(jsontext.AppendFloat(nil, f+0, 64)) // -0 + 0 is 0
		}
	}
	sign := ""
	if r.Sign() < 0 {
		sign = "-"
		r.Neg(r)
	}
	places, _ := r.FloatPrec() // exact, the denominator has no other factors than 2 and 5
	whole, part, _ := strings.Cut(r.FloatString(places), ".")
	part = strings.TrimRight(part, "0")
	switch {
	case whole != "0" && len(whole) <= 21 && part == "":
		return sign + whole
	case whole != "0" && len(whole) <= 21:
		return sign + whole + "." + part
	case whole == "0" && !strings.HasPrefix(part, "000000"):
		return sign + "0." + part
	}
	exponent := len(whole) - 1
	if whole == "0" {
		exponent = len(strings.TrimLeft(part, "0")) - len(part) - 1
	}
	digits := strings.TrimRight(strings.TrimLeft(whole+part, "0"), "0")
	if len(digits) > 1 {
		digits = digits[:1] + "." + digits[1:]
	}
	return fmt.Sprintf("%s%se%+d", sign, digits, exponent)
}

func refCompact(dst []byte, n *refNode) []byte {
	if n.kind != '{' && n.kind != '[' {
		return append(dst, n.raw...)
	}
	dst = append(dst, byte(n.kind))
	for i := range n.members {
		if i > 0 {
			dst = append(dst, ',')
		}
		if n.kind == '{' {
			dst = append(refCompact(dst, &n.names[i]), ':')
		}
		dst = refCompact(dst, &n.members[i])
	}
	return append(dst, byte(n.kind)+2)
}

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
	return seeds
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
