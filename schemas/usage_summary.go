package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"strings"
)

// usageSummary is the kind by which a summary names itself.
const usageSummary = "chat.usage_summary"

// summaryNames are the spellings a summary's fields have beside those of an event.
var summaryNames = map[string]string{
	"event_ts":                      "timestamp",
	"workflow_name":                 "workflow_id",
	"model_name":                    "model",
	"prompt_tokens":                 "input_tokens",
	"completion_tokens":             "output_tokens",
	"usage_prompt_tokens_final":     "input_tokens",
	"usage_completion_tokens_final": "output_tokens",
	"usage_total_tokens_final":      "total_tokens",
	"usage_total_cost_final":        "cost",
}

// rawSigns are what tells the one summary that a request may be, an object without
// a list of events, from everything else that somebody may send by mistake.
type rawSigns struct {
	named bool // it says that it is one
	other bool // it says that it is something else
	chat  bool
	final bool // its counts are spelt as those of a summary, or of a delta
	delta bool // it has what only a delta has
}

// summary tells whether the request is one. What does not say so must look like the
// reference client's: an event that stands alone, or a delta, counted as a chat's
// total would be counted wrongly without a word.
func (r *rawSigns) summary() bool {
	return r.named || r.chat && r.final && !r.delta && !r.other
}

// sign reads the value of a member of the request.
func (p *usageParser) sign(name string) bool {
	switch name {
	case "type", "event_type", "kind":
		if p.peek() != '"' {
			break
		}
		t, ok := p.str()
		switch {
		case !ok:
			return false
		case t.bad:
			return p.refuse(CodeInvalidText, "%s is not valid Unicode: send UTF-8 without lone surrogates", name)
		case t.decoded() == usageSummary:
			p.raw.named = true
		default:
			p.raw.other = true
		}
		return true
	case "chat_id":
		p.raw.chat = true
	case "cached", "duration_sec", "invocation_id":
		p.raw.delta = true
	default:
		switch summaryNames[name] {
		case "input_tokens", "output_tokens":
			p.raw.final = true
		}
	}
	return p.skip()
}

// summary reads the request, which was read once, again as one summary: a batch of
// one event.
func (p *usageParser) summary() bool {
	p.pos, p.frames, p.keys = 0, append(p.frames[:0], make([]jsonFrame, depthOfEvents)...), p.keys[:0]
	e := p.slot()
	p.begin()
	p.summed = true
	p.peek()
	start := p.pos
	spelt := map[string]string{}
	ok := p.members(func(name string) bool { return p.summaryMember(e, spelt, name) })
	text := p.text[start:p.pos]
	if ok {
		p.finishSummary(e, text)
	}
	p.inItem, p.summed = false, false
	if ok && p.fault.code != "" {
		p.reject(e, text)
		p.fault = jsonFault{}
	}
	return ok
}

// summaryMember reads a field, which has one of its spellings. null is the same as
// absent.
func (p *usageParser) summaryMember(e *UsageEvent, spelt map[string]string, name string) bool {
	field := name
	if f, ok := summaryNames[name]; ok {
		field = f
	}
	switch {
	case p.peek() == 'n':
		return p.word("null")
	case field == "cached", field == "duration_sec", field == "invocation_id": // of one call, not of a chat
		return p.skip()
	case spelt[field] != "":
		p.refuse(CodeRepeatedKey, "%s and %s are the same field: send one of them", spelt[field], name)
		return p.skip()
	}
	spelt[field] = name
	return p.eventMember(e, field)
}

// finishSummary completes a summary and judges it. text is all of it.
func (p *usageParser) finishSummary(e *UsageEvent, text string) {
	p.judgeTotal(e)
	var missing []string
	for _, f := range [...]struct {
		field usageFields
		name  string
	}{
		{fieldTimestamp, "timestamp"},
		{fieldAppID, "app_id"},
		{fieldUserID, "user_id"},
		{fieldChatID, "chat_id"},
		{fieldInputTokens, "input_tokens"},
		{fieldOutputTokens, "output_tokens"},
	} {
		if p.seen&f.field == 0 {
			missing = append(missing, f.name)
		}
	}
	if missing != nil && p.fault.code == "" {
		p.refuse(CodeMissingField, "required and missing: %s", strings.Join(missing, ", "))
	}
	e.Summary = true
	if e.Model == "" {
		e.Model = ModelUnknown
	}
	if e.EventID == "" && p.fault.code == "" {
		form, _ := canonicalJSON(text, math.MaxInt)
		sum := sha256.Sum256(form)
		e.EventID = "sum-" + hex.EncodeToString(sum[:16])
	}
}
