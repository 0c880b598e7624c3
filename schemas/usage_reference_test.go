package schemas

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
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
	if !seen["events"] && refIsSummary(&top) {
		deeper := refRead(jsontext.NewDecoder(bytes.NewReader(raw), refLenient), 2)
		out.events = []refEvent{refReadSummary(&deeper)}
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
	refFields(&out, n, 1e9, "event_id", "timestamp", "app_id", "user_id", "model", "input_tokens", "output_tokens")
	return out
}

// refIsSummary is the rule of usage_summary.go about an object without a list.
func refIsSummary(n *refNode) bool {
	has := func(list ...string) bool {
		for i := range n.names {
			if slices.Contains(list, refText(&n.names[i])) {
				return true
			}
		}
		return false
	}
	named, other := false, false
	for i := range n.names {
		if name := refText(&n.names[i]); (name == "type" || name == "kind" || name == "event_type") && n.members[i].kind == '"' {
			own := refText(&n.members[i]) == "chat.usage_summary"
			named, other = named || own, other || !own
		}
	}
	spelt := has("prompt_tokens", "completion_tokens", "usage_prompt_tokens_final", "usage_completion_tokens_final")
	return named || has("chat_id") && spelt && !other && !has("cached", "duration_sec", "invocation_id")
}

// refReadSummary gives the fields of a summary their names in an event.
func refReadSummary(n *refNode) refEvent {
	out := refEvent{faults: map[Code]bool{}, compact: refCompact(nil, n)}
	refWalk(n, out.faults)
	plain := refNode{kind: n.kind, depth: n.depth}
	there := map[string]bool{}
	for i := range n.members {
		name := refText(&n.names[i])
		switch name {
		case "event_ts":
			name = "timestamp"
		case "workflow_name":
			name = "workflow_id"
		case "model_name":
			name = "model"
		case "prompt_tokens", "usage_prompt_tokens_final":
			name = "input_tokens"
		case "completion_tokens", "usage_completion_tokens_final":
			name = "output_tokens"
		case "usage_total_tokens_final":
			name = "total_tokens"
		case "usage_total_cost_final":
			name = "cost"
		case "cached", "duration_sec", "invocation_id":
			continue
		}
		if n.members[i].kind == 'n' {
			continue
		}
		if there[name] {
			out.faults[CodeRepeatedKey] = true
			continue
		}
		there[name] = true
		quoted, _ := jsontext.AppendQuote(nil, name)
		plain.names = append(plain.names, refNode{kind: '"', raw: quoted})
		plain.members = append(plain.members, n.members[i])
	}
	refFields(&out, &plain, 1e12, "timestamp", "app_id", "user_id", "chat_id", "input_tokens", "output_tokens")
	e := &out.event
	e.Summary = true
	if e.Model == "" {
		e.Model = "unknown"
	}
	if e.EventID == "" && len(out.faults) == 0 {
		sum := sha256.Sum256(refCanonical(nil, n))
		e.EventID = fmt.Sprintf("sum-%x", sum[:16])
	}
	return out
}

// refFields reads the members of an event.
func refFields(out *refEvent, n *refNode, most int64, required ...string) {
	e := &out.event
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
			*counts[name], code = refCount(value, most)
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

func refCount(n *refNode, most int64) (int64, Code) {
	if n.kind != '0' {
		return 0, CodeInvalidType
	}
	i, ok := new(big.Int).SetString(string(n.raw), 10)
	if !ok || string(n.raw) == "-0" {
		return 0, CodeInvalidNumber
	}
	if i.Sign() < 0 || i.Cmp(big.NewInt(most)) > 0 {
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
	if string(b) == "{}" {
		return nil, ""
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
