package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// runReader reads the fields of events.
type runReader struct{ fieldReader }

// code is that of the first fault, as that of a single event in a list.
func (r *runReader) code() Code {
	f := &r.faults[0]
	switch f.Type {
	case "missing":
		return CodeMissingField
	case "dict_type":
		if len(f.Loc) == 1 {
			return CodeNotAnObject
		}
	case "string_too_short", "string_too_long":
		return CodeInvalidLength
	case "datetime_parsing":
		return CodeInvalidTimestamp
	case "int_type", "decimal_parsing":
		return CodeInvalidNumber
	case "out_of_range":
		return CodeOutOfRange
	case "enum":
		return CodeInvalidValue
	case "too_large":
		return CodeMetadataTooLarge
	case "value_error":
		return CodeInvalidValue
	}
	return CodeInvalidType
}

// event reads the fields of one event; head is that of the CloudEvent around it, nil when
// there is none.
func (r *runReader) event(at *fieldPath, v jsonValue, e *RunEvent, head *runHead) {
	known := r.eventTexts(e)
	timed := false
	known["kind"] = func(at *fieldPath, v jsonValue) {
		if i := r.choice(at, v, runStepKinds); i >= 0 {
			e.Step = RunStep(i + 1)
		}
	}
	known["status"] = func(at *fieldPath, v jsonValue) {
		if i := r.choice(at, v, runStatusNames[1:]); i >= 0 {
			e.Status = RunStatus(i + 1)
		}
	}
	known["timestamp"] = func(at *fieldPath, v jsonValue) {
		timed = true
		if n := r.instant(at, v); n != nil {
			e.Timestamp = *n
		}
	}
	known["cost"] = func(at *fieldPath, v jsonValue) { r.cost(at, v, e) }
	known["total_tokens"] = func(at *fieldPath, v jsonValue) {
		r.number(at, v, &e.TotalTokens, 0, MaxSummaryCount)
		e.HasTokens = true
	}
	known["metadata"] = func(at *fieldPath, v jsonValue) { r.metadata(at, v, e) }
	before := len(r.faults)
	if !r.fields(at, v, known) {
		return
	}
	if head != nil {
		timed = r.fill(at, e, head, timed)
	}
	if e.RunID == "" && !r.faulty(at.under("run_id")) {
		r.missing(at.under("run_id"))
	}
	r.step(at, e)
	if e.EventID == "" && !timed {
		r.fault(at.under("timestamp"), "missing", "is required and missing: without it and event_id an event cannot be told from its repeat")
	}
	if e.EventID == "" && len(r.faults) == before {
		sum := sha256.Sum256(appendRunEvent(nil, e.content()))
		e.EventID = "event-" + hex.EncodeToString(sum[:16])
	}
}

// eventTexts reads the texts of an event.
func (r *runReader) eventTexts(e *RunEvent) readers {
	known := r.owner(&e.AppID, &e.UserID, &e.TenantID)
	for _, f := range [...]struct {
		name        string
		dst         *string
		least, most int
	}{
		{"run_id", &e.RunID, 1, MaxIDChars},
		{"event_id", &e.EventID, 1, MaxIDChars},
		{"chat_id", &e.ChatID, 1, MaxIDChars},
		{"parent_run_id", &e.ParentRunID, 1, MaxIDChars},
		{"workflow_name", &e.WorkflowName, 0, MaxNameChars},
		{"agent", &e.Agent, 0, MaxNameChars},
		{"previous_agent", &e.PreviousAgent, 0, MaxNameChars},
		{"tool", &e.Tool, 0, MaxNameChars},
		{"message", &e.Message, 0, MaxRunTextChars},
		{"summary", &e.Summary, 0, MaxRunTextChars},
		{"error", &e.Error, 0, MaxRunTextChars},
		{"code", &e.Code, 0, MaxIDChars},
	} {
		known[f.name] = func(at *fieldPath, v jsonValue) { r.text(at, v, f.dst, f.least, f.most) }
	}
	return known
}

// step judges kind and status, which follows from the kind when it is missing.
func (r *runReader) step(at *fieldPath, e *RunEvent) {
	if e.Step == 0 {
		if !r.faulty(at.under("kind")) {
			r.missing(at.under("kind"))
		}
		return
	}
	statuses := e.Step.Statuses()
	if e.Status == 0 {
		e.Status = statuses[0]
	}
	if !slices.Contains(statuses, e.Status) {
		r.fault(at.under("status"), "enum", "contradicts the kind: %s has %s, not %s", e.Step.Kind(), statuses[0], e.Status)
	}
	if e.Step == StepRunStarted && e.UserID == "" && !r.faulty(at.under("user_id")) {
		r.missing(at.under("user_id"))
	}
}

// content is what an event says, wherever it stood in its request and whether or not it
// named its app.
func (e *RunEvent) content() *RunEvent {
	c := *e
	c.Index, c.AppID = 0, ""
	return &c
}

func (r *runReader) cost(at *fieldPath, v jsonValue, e *RunEvent) {
	text := v.text
	switch v.is() {
	case '0':
	case '"':
		text = v.string().decoded()
	default:
		r.fault(at, "decimal_type", "must be a number or a string that holds one, not %s", kindOf(v.is()))
		return
	}
	if n, _, number := scanNumber(text); !number || n != len(text) {
		r.fault(at, "decimal_parsing", "must hold a number as JSON writes it, not %v", shown(text))
		return
	}
	nanos, code := parseCost(text)
	switch code {
	case "":
		e.Cost, e.HasCost = AmountOf(nanos), true
	case CodeOutOfRange:
		r.fault(at, "out_of_range", "must be 0 to %d, not %v", MaxCostNanos/NanosPerUnit, shown(text))
	default:
		r.fault(at, "decimal_parsing", "must have at most 9 decimal places, not %v", shown(text))
	}
}

func (r *runReader) metadata(at *fieldPath, v jsonValue, e *RunEvent) {
	if !r.object(at, v) {
		return
	}
	form, ok := canonicalJSON(v.text, MaxMetadataBytes)
	if !ok {
		r.fault(at, "too_large", "must have at most %d bytes as compact JSON", MaxMetadataBytes)
		return
	}
	if len(form) > len("{}") { // an empty object is the same as none
		e.Metadata = form
	}
}

// runStepKinds are the kinds of the steps, in their order.
var runStepKinds = func() (list []string) {
	for s := StepRunStarted; s <= StepToolCompleted; s++ {
		list = append(list, s.Kind())
	}
	return list
}()
