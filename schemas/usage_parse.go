package schemas

import (
	"slices"
	"strconv"
	"strings"
)

// ParseUsageBatch reads the JSON body of POST /api/usage/ingest (contract §1,
// §7) into b, whose slices are emptied and filled again. Every event of a
// readable list is in b.Events or, with the first fault found in it, in
// b.Rejected; ages are not judged here.
//
// The error, which refuses the whole request and leaves b empty, has the code
// INVALID_JSON (text that is not JSON, and repeated keys or bad Unicode outside
// of events), VALIDATION_ERROR (JSON of another shape) or TOO_MANY_EVENTS. Text
// that is not JSON wins over a wrong shape.
//
// Texts of the result are parts of body wherever they had no escapes, so body
// must not change while the result is in use.
//
// An object without a list of events may be one chat.usage_summary, which is a
// batch of one event (usage_summary.go).
func ParseUsageBatch(body []byte, b *ParsedBatch) *Error { return parseBatch(body, b, false) }

// parseBatch reads a request; summary says that it is a summary unless it has a list.
func parseBatch(body []byte, b *ParsedBatch, summary bool) *Error {
	*b = ParsedBatch{Events: b.Events[:0], Rejected: b.Rejected[:0]}
	p := usageParser{b: b, raw: rawSigns{named: summary}, jsonScanner: jsonScanner{
		text: viewString(body), at: "body", frames: make([]jsonFrame, 0, 4), keys: make([]string, 0, 4),
	}}
	if p.request() {
		p.err = p.shapeError()
	}
	if p.err != nil {
		*b = ParsedBatch{Events: b.Events[:0], Rejected: b.Rejected[:0]}
	}
	return p.err
}

// usageParser reads one ingest request.
type usageParser struct {
	jsonScanner
	b      *ParsedBatch
	shape  []FieldError // what is wrong outside of the events
	seen   usageFields  // keys of the event being read
	given  usageFields  // those of them with a value that was taken
	listed bool         // the request has the key events
	raw    rawSigns     // what the request is when it has no list
	summed bool         // counts are those of a chat

	// reported makes it read the entries of a reporter instead of events; it
	// counts how often each content has been there.
	reported map[[16]byte]int
}

// request reads the whole body.
func (p *usageParser) request() bool {
	if p.peek() != '{' {
		p.misshapen("the body must be an object with a list of events", "dict_type", "body")
		return p.skip() && p.end()
	}
	more, ok := p.enter()
	for ok && more {
		if ok = p.member(); ok {
			more, ok = p.next()
		}
	}
	if !ok || !p.end() {
		return false
	}
	switch {
	case p.listed:
	case p.raw.summary():
		return p.summary()
	case p.raw.chat:
		p.misshapen("events is missing: send the list of events, or one chat.usage_summary that says so in event_type", "missing", "body", "events")
	default:
		p.misshapen("events is missing: send the list of events", "missing", "body", "events")
	}
	return true
}

func (p *usageParser) end() bool {
	if p.peek(); p.pos < len(p.text) {
		return p.unexpected("the end of the text")
	}
	return true
}

// member reads one member of the request object.
func (p *usageParser) member() bool {
	name, _, ok := p.name()
	if !ok || !p.note(name) {
		return false
	}
	p.at = name
	switch name {
	case "batch_id":
		if p.reported == nil {
			return p.batchID()
		}
	case "events":
		p.listed = true
		return p.list()
	}
	if p.reported == nil {
		return p.sign(name)
	}
	return p.skip()
}

func (p *usageParser) batchID() bool {
	switch p.peek() {
	case 'n':
		return p.word("null")
	case '"':
	default:
		p.misshapen("batch_id must be a string", "string_type", "body", "batch_id")
		return p.skip()
	}
	t, ok := p.str()
	if !ok {
		return false
	}
	if t.bad {
		return p.refuse(CodeInvalidText, "batch_id is not valid Unicode: send UTF-8 without lone surrogates")
	}
	switch n := t.chars(); {
	case n < 1:
		p.misshapen("batch_id must have at least 1 character", "string_too_short", "body", "batch_id")
	case n > MaxIDChars:
		p.misshapen("batch_id must have at most "+strconv.Itoa(MaxIDChars)+" characters", "string_too_long", "body", "batch_id")
	default:
		p.b.BatchID = t.decoded()
	}
	return true
}

func (p *usageParser) list() bool {
	if p.peek() != '[' {
		p.misshapen("events must be a list", "list_type", "body", "events")
		return p.skip()
	}
	more, ok := p.enter()
	if ok && !more && p.reported == nil {
		p.misshapen("events must hold at least one event", "too_short", "body", "events")
	}
	for ok && more {
		if p.b.Total() == MaxEventsPerBatch && p.peek() != ']' {
			p.err = tooManyEvents()
			return false
		}
		if ok = p.item(); ok {
			more, ok = p.next()
		}
	}
	return ok
}

// item reads one element of the list into b.Events or b.Rejected.
func (p *usageParser) item() bool {
	p.peek()
	start := p.pos
	e := p.slot()
	p.begin()
	ok := false
	if p.reported != nil {
		ok = p.report(e)
	} else {
		ok = p.event(e)
	}
	p.inItem = false
	if ok && p.fault.code != "" {
		p.reject(e, p.text[start:p.pos])
		p.fault = jsonFault{}
	}
	return ok
}

// begin makes what follows the content of one event.
func (p *usageParser) begin() {
	p.inItem, p.fault, p.seen, p.given, p.at = true, jsonFault{}, 0, 0, ""
}

// slot adds an empty event, so that it is read where it is going to stay.
func (p *usageParser) slot() *UsageEvent {
	n := len(p.b.Events)
	if n == cap(p.b.Events) {
		const usualEvent = 256 // bytes of JSON
		p.b.Events = slices.Grow(p.b.Events, min((len(p.text)-p.pos)/usualEvent+8, MaxEventsPerBatch-p.b.Total()))
	}
	p.b.Events = p.b.Events[:n+1]
	e := &p.b.Events[n]
	*e = UsageEvent{Index: uint32(p.b.Total() - 1)}
	return e
}

// reject takes the event back out of b.Events.
func (p *usageParser) reject(e *UsageEvent, text string) {
	p.rejectAs(e, compactDigest(text))
}

func (p *usageParser) rejectAs(e *UsageEvent, digest uint64) {
	p.b.Rejected = append(p.b.Rejected, RejectedEvent{
		EventError: EventError{Index: e.Index, EventID: e.EventID, AppID: e.AppID, Code: p.fault.code, Detail: p.fault.detail},
		Digest:     digest,
	})
	p.b.Events = p.b.Events[:len(p.b.Events)-1]
}

// misshapen records what is wrong with the request although it is JSON.
func (p *usageParser) misshapen(msg, kind string, loc ...any) {
	p.shape = append(p.shape, FieldError{Loc: loc, Msg: msg, Type: kind})
}

// shapeError is the error of a request that is JSON of the wrong shape, else nil.
func (p *usageParser) shapeError() *Error {
	if p.tooDeep {
		return depthError()
	}
	if p.shape == nil {
		return nil
	}
	msgs := make([]string, len(p.shape))
	for i, f := range p.shape {
		msgs[i] = f.Msg
	}
	return &Error{Code: CodeValidation, Detail: strings.Join(msgs, "; "), Fields: p.shape}
}

func depthError() *Error {
	msg := "the body is nested too deeply: at most " + strconv.Itoa(MaxJSONDepth) + " levels"
	return &Error{Code: CodeValidation, Detail: msg, Fields: []FieldError{{Loc: []any{"body"}, Msg: msg, Type: "too_deep"}}}
}
