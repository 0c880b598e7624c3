package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"slices"
	"strconv"
)

// Models that the entries of a reporter get when they name none.
const (
	ModelNone    = "none"    // no model was called
	ModelUnknown = "unknown" // tokens of a model that is not known
)

// ParseUsageReports reads the JSON body of POST /api/billing/usage-events
// (contract §7) into b, as ParseUsageBatch does; an empty list is no error here.
//
// An entry says event_type, event_id, app_id, user_id, tenant_id and timestamp;
// everything else an event has, and event_id and tenant_id when they are not
// beside it, is in its object data. null is the same as absent. The types
// feature_usage and api_call are events without tokens, and of model "none"
// unless they name one; every other type reports tokens, of model "unknown"
// unless it names one.
//
// Without event_id, an entry's id follows from its content and from how many
// equal entries stand before it, whatever else is in the list: an entry that is
// sent again in other company is the same event.
func ParseUsageReports(body []byte, b *ParsedBatch) *Error {
	*b = ParsedBatch{Events: b.Events[:0], Rejected: b.Rejected[:0]}
	p := usageParser{b: b, reported: map[[16]byte]int{}, jsonScanner: jsonScanner{
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

// usageReport is what an entry holds beside the fields of its event.
type usageReport struct {
	kind     string
	id       string // of its data
	tenantID string // of its data
}

// report reads one entry of a reporter's list into e.
func (p *usageParser) report(e *UsageEvent) bool {
	if p.peek() != '{' {
		p.refuse(CodeNotAnObject, "the event must be an object, not %s", kindOf(p.peek()))
		return p.skip()
	}
	start := p.pos
	var r usageReport
	ok := p.members(func(name string) bool {
		switch name {
		case "event_type":
			return p.note(name) && p.eventType(&r)
		case "data":
			return p.note(name) && p.reportData(e, &r)
		case "event_id", "app_id", "user_id", "tenant_id", "timestamp":
			return p.reportMember(e, name)
		}
		return p.note(name) && p.skip()
	})
	if ok {
		p.finishReport(e, &r, p.text[start:p.pos])
	}
	return ok
}

// members reads the object at pos and hands over the name of each member, to
// have its value read.
func (p *usageParser) members(value func(name string) bool) bool {
	more, ok := p.enter()
	for ok && more {
		name, good, named := p.name()
		if !named {
			return false
		}
		p.at = name
		if good {
			ok = value(name)
		} else {
			ok = p.skip()
		}
		if ok {
			more, ok = p.next()
		}
	}
	return ok
}

func (p *usageParser) eventType(r *usageReport) bool {
	switch p.peek() {
	case 'n':
		return p.word("null")
	case '"':
		t, good, ok := p.plainText()
		if good {
			r.kind = t.decoded()
		}
		return ok
	}
	p.refuse(CodeInvalidType, "event_type must be a string, not %s", kindOf(p.peek()))
	return p.skip()
}

// reportMember reads a field of an event, whose absence null stands for.
func (p *usageParser) reportMember(e *UsageEvent, name string) bool {
	if i := slices.Index(requiredNames[:], name); i >= 0 && p.peek() == 'n' {
		if p.again(1 << i) {
			return p.skip()
		}
		return p.word("null")
	}
	return p.eventMember(e, name)
}

// reportData reads the data of an entry. What belongs beside it is not looked
// at, but for the ids: those count when there are none beside it.
func (p *usageParser) reportData(e *UsageEvent, r *usageReport) bool {
	switch p.peek() {
	case '{':
	case 'n':
		return p.word("null")
	default:
		p.refuse(CodeInvalidType, "data must be an object, not %s", kindOf(p.peek()))
		return p.skip()
	}
	const both = fieldEventID | fieldTenantID
	seen, given, id, tenantID := p.seen, p.given, e.EventID, e.TenantID
	p.seen, p.given, e.EventID, e.TenantID = 0, 0, "", ""
	ok := p.members(func(name string) bool {
		switch name {
		case "app_id", "user_id", "timestamp":
			return p.note(name) && p.skip()
		}
		return p.reportMember(e, name)
	})
	r.id, r.tenantID = e.EventID, e.TenantID
	e.EventID, e.TenantID = id, tenantID
	p.seen, p.given = seen|p.seen&^both, given|p.given&^both
	return ok
}

// finishReport completes the event of an entry and judges it. text is the entry.
func (p *usageParser) finishReport(e *UsageEvent, r *usageReport, text string) {
	model := ModelUnknown
	if r.kind == "feature_usage" || r.kind == "api_call" {
		model = ModelNone
		e.InputTokens, e.OutputTokens, e.TotalTokens, e.CachedTokens, e.ReasoningTokens = 0, 0, 0, 0, 0
		p.given = p.given&^fieldTotalTokens | summedFields
	}
	if p.given&fieldModel == 0 {
		e.Model = model
	}
	if e.EventID == "" {
		e.EventID = r.id
	}
	if e.TenantID == "" {
		e.TenantID = r.tenantID
	}
	p.given |= fieldModel | fieldEventID
	p.seen = p.given // null is the same as absent
	p.finish(e)
	if e.EventID == "" && p.fault.code == "" {
		e.EventID = p.reportID(text)
	}
}

// reportID derives the id of an entry without faults from its content.
func (p *usageParser) reportID(text string) string {
	form, _ := canonicalJSON(text, math.MaxInt)
	sum := sha256.Sum256(form)
	key := [16]byte(sum[:])
	p.reported[key]++
	return "rep-" + hex.EncodeToString(key[:]) + "." + strconv.Itoa(p.reported[key])
}
