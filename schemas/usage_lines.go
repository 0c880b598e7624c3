package schemas

import (
	"strings"

	"github.com/cespare/xxhash/v2"
)

// depthOfEvents is how deep the events of a batch stand: in an object, in a list.
// Events in other forms are read as if they stood there too, so that one event is
// judged alike however it was sent.
const depthOfEvents = 2

// ParseUsageLines reads the application/x-ndjson body of POST /api/usage/ingest
// (contract §7): an event a line, ended by LF or CRLF or the end of the text;
// blank lines do not count. A line that is not JSON is that event's error
// INVALID_JSON, with the identity read before the fault.
//
// Everything else is as with ParseUsageBatch. The body is refused as a whole with
// INVALID_JSON for a byte order mark, VALIDATION_ERROR without any event, or
// TOO_MANY_EVENTS.
func ParseUsageLines(body []byte, b *ParsedBatch) *Error {
	*b = ParsedBatch{Events: b.Events[:0], Rejected: b.Rejected[:0]}
	err := parseLines(viewString(body), b)
	if err != nil {
		*b = ParsedBatch{Events: b.Events[:0], Rejected: b.Rejected[:0]}
	}
	return err
}

func parseLines(text string, b *ParsedBatch) *Error {
	if strings.HasPrefix(text, "\ufeff") {
		return Errorf(CodeInvalidJSON, "not valid JSON at byte 0: the text begins with a byte order mark")
	}
	p := usageParser{b: b, jsonScanner: jsonScanner{
		frames: make([]jsonFrame, depthOfEvents, 8), keys: make([]string, 0, 4),
	}}
	for line := range strings.SplitSeq(text, "\n") {
		line = strings.Trim(line, " \t\r")
		if line == "" {
			continue
		}
		if b.Total() == MaxEventsPerBatch {
			return tooManyEvents()
		}
		p.line(line)
	}
	if b.Total() == 0 {
		msg := "the body must hold at least one event, each in a line of its own"
		return &Error{Code: CodeValidation, Detail: msg, Fields: []FieldError{{Loc: []any{"body"}, Msg: msg, Type: "too_short"}}}
	}
	return nil
}

func tooManyEvents() *Error {
	return Errorf(CodeTooManyEvents, "more than %d events in one batch: split it", MaxEventsPerBatch)
}

// line reads one event.
func (p *usageParser) line(line string) {
	p.text, p.pos, p.err = line, 0, nil
	p.frames, p.keys = p.frames[:depthOfEvents], p.keys[:0]
	e := p.slot()
	p.begin()
	ok := p.event(e) && p.end()
	p.inItem = false
	switch {
	case ok && p.fault.code == "":
		return
	case ok:
		p.reject(e, line)
	default:
		if p.err.Code == CodeInvalidJSON { // else it is too deep, as p.fault says
			p.fault = jsonFault{code: p.err.Code, detail: p.err.Detail}
		}
		p.rejectAs(e, xxhash.Sum64String(line))
	}
	p.fault = jsonFault{}
}
