package schemas

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
)

// ParseRunUsage reads what a plugin reports in _usage (contract §4): a list of events of
// contract §7 without ids and owner, which come from its run; what it says of those is
// passed over. A timestamp that is missing stays 0, the instant of the run's end. Events
// with a fault are in rejected, each with the first one; the error refuses the whole list.
// Texts of the events may be parts of text.
func ParseRunUsage(text []byte) (events []UsageEvent, rejected []EventError, err *Error) {
	var b ParsedBatch
	p := usageParser{b: &b, jsonScanner: jsonScanner{text: viewString(text), at: "_usage"}}
	if p.runUsage() {
		p.err = p.shapeError()
	}
	if p.err != nil {
		return nil, nil, p.err
	}
	for i := range b.Rejected {
		rejected = append(rejected, b.Rejected[i].EventError)
	}
	return b.Events, rejected, nil
}

// runUsage reads the whole text.
func (p *usageParser) runUsage() bool {
	switch p.peek() {
	case 'n':
		return p.word("null") && p.end()
	case '[':
	default:
		p.misshapen("_usage must be a list of usage events", "list_type", "_usage")
		return p.skip() && p.end()
	}
	more, ok := p.enter()
	for ok && more {
		if p.b.Total() == MaxRunUsage && p.peek() != ']' {
			p.err = tooManyEvents()
			return false
		}
		if ok = p.runEvent(); ok {
			more, ok = p.next()
		}
	}
	return ok && p.end()
}

// runEvent reads one element of the list.
func (p *usageParser) runEvent() bool {
	p.peek()
	start := p.pos
	e := p.slot()
	p.begin()
	var ok bool
	if p.peek() != '{' {
		p.refuse(CodeNotAnObject, "the event must be an object, not %s", kindOf(p.peek()))
		ok = p.skip()
	} else if ok = p.members(func(name string) bool { return p.runMember(e, name) }); ok {
		p.judgeTotal(e)
		if missing := (fieldModel | summedFields) &^ p.seen; missing != 0 && p.fault.code == "" {
			p.refuse(CodeMissingField, "required and missing: %s", missing.names())
		}
	}
	p.inItem = false
	if ok && p.fault.code != "" {
		p.reject(e, p.text[start:p.pos])
		p.fault = jsonFault{}
	}
	return ok
}

// runMember reads one field of an event whose ids and owner are those of its run.
func (p *usageParser) runMember(e *UsageEvent, name string) bool {
	switch name {
	case "event_id", "app_id", "user_id", "tenant_id", "chat_id", "run_id":
		return p.note(name) && p.skip()
	case "timestamp":
		if p.peek() == 'n' {
			return p.note(name) && p.word("null")
		}
	}
	return p.eventMember(e, name)
}

// RunUsageID is the id of an event that a run reports at its end: the same for the same
// place of the same attempt, and nobody's else.
func RunUsageID(run string, attempt int64, index int) string {
	h := sha256.New()
	h.Write(appendText(nil, run))
	h.Write(binary.AppendVarint(binary.AppendVarint(nil, attempt), int64(index)))
	return "run-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// Try numbers the calls of an execution: it goes up by one with each rerun. It is the
// attempt that plugin.finish, plugin.rerun and plugin.publish speak of.
func (r *Run) Try() int64 { return r.Attempt + r.Execution.Reruns }
