package schemas

import "strings"

// usageFields is a set of the fields of an event.
type usageFields uint32

const (
	fieldEventID usageFields = 1 << iota // the required ones come first
	fieldTimestamp
	fieldAppID
	fieldUserID
	fieldModel
	fieldInputTokens
	fieldOutputTokens
	fieldWorkflowID
	fieldTotalTokens
	fieldTenantID
	fieldChatID
	fieldRunID
	fieldAgentName
	fieldInvocationID
	fieldCached
	fieldCachedTokens
	fieldReasoningTokens
	fieldCost
	fieldDuration
	fieldMetadata

	requiredFields = fieldWorkflowID - 1
	summedFields   = fieldInputTokens | fieldOutputTokens
)

// event reads one element of the list into e. Its faults go to p.fault; reading
// goes on behind the first one, for the sake of the event's identity.
func (p *usageParser) event(e *UsageEvent) bool {
	if p.peek() != '{' {
		p.refuse(CodeNotAnObject, "the event must be an object, not %s", kindOf(p.peek()))
		return p.skip()
	}
	more, ok := p.enter()
	for ok && more {
		name, good, named := p.name()
		if !named {
			return false
		}
		p.at = name
		if good {
			ok = p.eventMember(e, name)
		} else {
			ok = p.skip()
		}
		if ok {
			more, ok = p.next()
		}
	}
	if ok {
		p.finish(e)
	}
	return ok
}

// eventMember reads the value of one key of an event.
func (p *usageParser) eventMember(e *UsageEvent, name string) bool {
	switch name {
	case "event_id":
		return p.id(fieldEventID, &e.EventID, MaxIDChars)
	case "timestamp":
		return p.timestamp(e)
	case "app_id":
		return p.id(fieldAppID, &e.AppID, MaxIDChars)
	case "user_id":
		return p.id(fieldUserID, &e.UserID, MaxIDChars)
	case "model":
		return p.id(fieldModel, &e.Model, MaxNameChars)
	case "input_tokens":
		return p.count(fieldInputTokens, &e.InputTokens)
	case "output_tokens":
		return p.count(fieldOutputTokens, &e.OutputTokens)
	case "workflow_id":
		return p.id(fieldWorkflowID, &e.WorkflowID, MaxNameChars)
	case "total_tokens":
		return p.count(fieldTotalTokens, &e.TotalTokens)
	case "tenant_id":
		return p.id(fieldTenantID, &e.TenantID, MaxIDChars)
	case "chat_id":
		return p.id(fieldChatID, &e.ChatID, MaxIDChars)
	case "run_id":
		return p.id(fieldRunID, &e.RunID, MaxIDChars)
	case "agent_name":
		return p.id(fieldAgentName, &e.AgentName, MaxIDChars)
	case "invocation_id":
		return p.id(fieldInvocationID, &e.InvocationID, MaxIDChars)
	case "cached":
		return p.flag(fieldCached, &e.Cached)
	case "cached_tokens":
		return p.count(fieldCachedTokens, &e.CachedTokens)
	case "reasoning_tokens":
		return p.count(fieldReasoningTokens, &e.ReasoningTokens)
	case "cost":
		return p.cost(e)
	case "duration_sec":
		return p.duration(e)
	case "metadata":
		return p.metadata(e)
	}
	return p.note(name) && p.skip()
}

// finish judges the event as a whole.
func (p *usageParser) finish(e *UsageEvent) {
	p.judgeTotal(e)
	if missing := requiredFields &^ p.seen; missing != 0 && p.fault.code == "" {
		p.refuse(CodeMissingField, "required and missing: %s", missing.names())
	}
}

// judgeTotal fills in a total that is missing.
func (p *usageParser) judgeTotal(e *UsageEvent) {
	if p.given&summedFields == summedFields {
		sum := e.InputTokens + e.OutputTokens
		if p.given&fieldTotalTokens == 0 {
			e.TotalTokens = sum
		} else if e.TotalTokens < sum {
			p.refuse(CodeTotalBelowSum, "total_tokens is %d, below input_tokens + output_tokens = %d", e.TotalTokens, sum)
		}
	}
}

var requiredNames = [...]string{"event_id", "timestamp", "app_id", "user_id", "model", "input_tokens", "output_tokens"}

// names lists the required fields of the set.
func (f usageFields) names() string {
	var list []string
	for i, name := range requiredNames {
		if f&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, ", ")
}

// again tells that f was there before, which it records. The value that counts
// for the event's identity is the first one.
func (p *usageParser) again(f usageFields) bool {
	if p.seen&f != 0 {
		p.repeated(p.at)
		return true
	}
	p.seen |= f
	return false
}

// other reads a value that is not of the kind f wants. null is the same as
// absent for an optional field.
func (p *usageParser) other(f usageFields, want string) bool {
	c := p.peek()
	if c == 'n' && f&requiredFields == 0 {
		return p.word("null")
	}
	p.refuse(CodeInvalidType, "%s must be %s, not %s", p.at, want, kindOf(c))
	return p.skip()
}

func kindOf(c byte) string {
	switch c {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}

// plainText reads a string; good is false when it is not valid Unicode.
func (p *usageParser) plainText() (t jsonText, good, ok bool) {
	if t, ok = p.str(); !ok || !t.bad {
		return t, ok, ok
	}
	p.refuse(CodeInvalidText, "%s is not valid Unicode: send UTF-8 without lone surrogates", p.at)
	return t, false, true
}

// id reads a text of 1 to limit characters.
func (p *usageParser) id(f usageFields, dst *string, limit int) bool {
	if p.again(f) || p.peek() != '"' {
		return p.other(f, "a string")
	}
	t, good, ok := p.plainText()
	if !good {
		return ok
	}
	if n := t.chars(); n < 1 || n > limit {
		p.refuse(CodeInvalidLength, "%s must have 1 to %d characters, not %d", p.at, limit, n)
		return true
	}
	*dst = t.decoded()
	p.given |= f
	return true
}

func (p *usageParser) flag(f usageFields, dst *bool) bool {
	c := p.peek()
	if p.again(f) || c != 't' && c != 'f' {
		return p.other(f, "true or false")
	}
	*dst = c == 't'
	p.given |= f
	return p.scalar(c)
}

func (p *usageParser) timestamp(e *UsageEvent) bool {
	if p.again(fieldTimestamp) || p.peek() != '"' {
		return p.other(fieldTimestamp, "a string with an RFC 3339 instant")
	}
	t, good, ok := p.plainText()
	if !good {
		return ok
	}
	nanos, err := ParseInstant(t.decoded())
	if err != nil {
		p.refuse(err.Code, "timestamp %s", err.Detail)
		return true
	}
	e.Timestamp = nanos
	p.given |= fieldTimestamp
	return true
}

// metadata reads an object and keeps its canonical form. The limit is for that
// form, so that one content is judged alike however it is written.
func (p *usageParser) metadata(e *UsageEvent) bool {
	if p.again(fieldMetadata) || p.peek() != '{' {
		return p.other(fieldMetadata, "an object")
	}
	start := p.pos
	if !p.skip() {
		return false
	}
	if p.fault.code != "" {
		return true
	}
	form, ok := canonicalJSON(p.text[start:p.pos], MaxMetadataBytes)
	if !ok {
		p.refuse(CodeMetadataTooLarge, "metadata must have at most %d bytes as compact JSON", MaxMetadataBytes)
		return true
	}
	if len(form) > len("{}") { // an empty object is the same as none
		e.Metadata = form
	}
	p.given |= fieldMetadata
	return true
}
