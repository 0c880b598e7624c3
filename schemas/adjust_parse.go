package schemas

import "strings"

// ParseEventVoid reads the JSON body of …/void (contract §7): app_id and reason,
// both optional. No body at all is an empty one. Texts of the result are parts of
// body wherever they had no escapes. The code of an error is INVALID_JSON or
// VALIDATION_ERROR.
func ParseEventVoid(body []byte) (appID string, v EventVoid, err *Error) {
	if len(body) == 0 {
		return "", v, nil
	}
	return newAdjustmentParser(body).voidOf()
}

func (p *adjustmentParser) voidOf() (appID string, v EventVoid, err *Error) {
	if err := p.parse(p.void); err != nil {
		return "", v, err
	}
	return p.event.AppID, EventVoid{EventID: p.event.EventID, Reason: p.reason}, nil
}

// ParseEventAmendment reads the JSON body of …/amend (contract §7): at least one
// new value, with the ranges of ingest, and app_id and reason, both optional. Its
// errors are those of ParseEventVoid, and TOTAL_BELOW_SUM.
func ParseEventAmendment(body []byte) (appID string, a EventAmendment, err *Error) {
	return newAdjustmentParser(body).amendmentOf()
}

func (p *adjustmentParser) amendmentOf() (appID string, a EventAmendment, err *Error) {
	if err := p.parse(p.amend); err != nil {
		return "", a, err
	}
	e := &p.event
	a.EventID, a.Reason = e.EventID, p.reason
	a.Values = UsageValues{
		InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens,
		CachedTokens: e.CachedTokens, ReasoningTokens: e.ReasoningTokens, Cost: e.Cost,
	}
	for i, f := range [...]usageFields{fieldNewInput, fieldNewOutput, fieldTotalTokens, fieldCachedTokens, fieldReasoningTokens, fieldCost} {
		if p.given&f != 0 {
			a.Values.Given |= 1 << i
		}
	}
	if a.Values.Given == 0 {
		return "", a, amendmentError(CodeValidation, "missing", "send at least one new value: input_tokens, output_tokens, total_tokens, cached_tokens, reasoning_tokens or cost")
	}
	const all = GivenInput | GivenOutput | GivenTotal
	if sum := e.InputTokens + e.OutputTokens; a.Values.Given&all == all && e.TotalTokens < sum {
		err := Errorf(CodeTotalBelowSum, "total_tokens is %d, below input_tokens + output_tokens = %d", e.TotalTokens, sum)
		err.Fields = []FieldError{{Loc: []any{"body", "total_tokens"}, Msg: err.Detail, Type: "total_below_sum"}}
		return "", a, err
	}
	return e.AppID, a, nil
}

func amendmentError(code Code, kind, msg string) *Error {
	return &Error{Code: code, Detail: msg, Fields: []FieldError{{Loc: []any{"body"}, Msg: msg, Type: kind}}}
}

// Fields of a correction. They are optional, unlike those of an event with the
// same name: null is the same as absent.
const (
	fieldReason usageFields = fieldMetadata << (iota + 1)
	fieldOfApp
	fieldNewInput
	fieldNewOutput
	fieldTarget
)

// adjustmentParser reads the body of a correction with the rules for the fields
// of an event.
type adjustmentParser struct {
	usageParser
	event  UsageEvent
	reason string
	named  bool   // the body names what it is about, which HTTP has in its path
	target string // the reservation that it names
}

func newAdjustmentParser(body []byte) *adjustmentParser {
	return &adjustmentParser{usageParser: usageParser{jsonScanner: jsonScanner{text: viewString(body), at: "body"}}}
}

// parse reads the whole body; field reads the value of one key it knows.
func (p *adjustmentParser) parse(field func(name string) (known, ok bool)) *Error {
	if p.object(field) {
		p.err = p.shapeError()
	}
	return p.err
}

func (p *adjustmentParser) object(field func(name string) (known, ok bool)) bool {
	if p.peek() != '{' {
		p.misshapen("the body must be an object", "dict_type", "body")
		return p.skip() && p.end()
	}
	more, ok := p.enter()
	for ok && more {
		name, _, named := p.name()
		if !named {
			return false
		}
		p.at = name
		p.inItem = true
		known, read := field(name)
		p.inItem = false
		switch {
		case !known:
			ok = p.note(name) && p.skip()
		case read:
			ok = p.judge(name)
		default:
			ok = false
		}
		if ok {
			more, ok = p.next()
		}
	}
	return ok && p.end()
}

// judge turns the fault of a field, if it has one, into one of the request.
func (p *adjustmentParser) judge(name string) bool {
	f := p.fault
	p.fault = jsonFault{}
	switch f.code {
	case "":
		return true
	case CodeRepeatedKey, CodeInvalidText: // not what contract §1 calls JSON
		return p.fail(p.pos, f.detail)
	case CodeTooDeep:
		p.tooDeep = true
		return true
	}
	p.misshapen(f.detail, strings.ToLower(string(f.code)), "body", name)
	return true
}

func (p *adjustmentParser) void(name string) (known, ok bool) {
	switch name {
	case "app_id":
		return true, p.id(fieldOfApp, &p.event.AppID, MaxIDChars)
	case "reason":
		return true, p.because()
	case "event_id":
		if p.named {
			return true, p.id(fieldEventID, &p.event.EventID, MaxIDChars)
		}
	}
	return false, false
}

// namedBody is a parser of a body that names what it is about.
func namedBody(body []byte) *adjustmentParser {
	p := newAdjustmentParser(body)
	p.named = true
	return p
}

func (p *adjustmentParser) amend(name string) (known, ok bool) {
	switch name {
	case "input_tokens":
		return true, p.count(fieldNewInput, &p.event.InputTokens)
	case "output_tokens":
		return true, p.count(fieldNewOutput, &p.event.OutputTokens)
	case "total_tokens":
		return true, p.count(fieldTotalTokens, &p.event.TotalTokens)
	case "cached_tokens":
		return true, p.count(fieldCachedTokens, &p.event.CachedTokens)
	case "reasoning_tokens":
		return true, p.count(fieldReasoningTokens, &p.event.ReasoningTokens)
	case "cost":
		return true, p.cost(&p.event)
	}
	return p.void(name)
}

// because reads the reason; an empty one is none.
func (p *adjustmentParser) because() bool {
	if p.again(fieldReason) || p.peek() != '"' {
		return p.other(fieldReason, "a string")
	}
	t, good, ok := p.plainText()
	if !good {
		return ok
	}
	if n := t.chars(); n > MaxReasonChars {
		p.refuse(CodeInvalidLength, "reason must have at most %d characters, not %d", MaxReasonChars, n)
		return true
	}
	p.reason = t.decoded()
	return true
}
