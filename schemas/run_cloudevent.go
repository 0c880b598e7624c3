package schemas

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
)

// ParseRunCloudEvent reads one event of the ce- headers of a request, given by attribute
// (values is what the header with the prefix holds), and of its body.
func ParseRunCloudEvent(values func(attribute string) []string, contentType string, body []byte) (report ParsedReport, err *Error) {
	head, err := binaryHead(values, contentType)
	if err != nil {
		return report, err
	}
	return parseRunOf(body, head)
}

// parseRunOf reads one event that a CloudEvent holds.
func parseRunOf(body []byte, head *runHead) (report ParsedReport, err *Error) {
	v, err := readJSONValue(bytes.Clone(body))
	if err != nil {
		return report, err
	}
	r := runReader{}
	e := RunEvent{}
	r.event(nil, v, &e, head)
	if err := r.err(); err != nil {
		return report, err
	}
	return ParsedReport{Events: []RunEvent{e}, Single: true}, nil
}

// runHead is what the attributes of a CloudEvent say of the event that it holds.
type runHead struct{ id, source, kind, time string }

// element reads an event, or the CloudEvent that holds one.
func (r *runReader) element(at *fieldPath, v jsonValue, e *RunEvent) {
	if !r.object(at, v) {
		return
	}
	cloud := false
	v.each(func(name string, _ jsonValue) { cloud = cloud || name == "specversion" })
	if !cloud {
		r.event(at, v, e, nil)
		return
	}
	a, data := eventAttributes{}, jsonValue{}
	encoded := ""
	known := readers{
		"data":        func(_ *fieldPath, v jsonValue) { data = v },
		"data_base64": func(at *fieldPath, v jsonValue) { r.text(at, v, &encoded, 1, MaxExecuteBytes) },
	}
	for i, name := range attributeNames {
		known[name] = func(at *fieldPath, v jsonValue) { r.text(at, v, &a[i], 1, MaxExecuteBytes) }
	}
	r.fields(at, v, known)
	head := r.head(at, &a)
	place := at.under("data")
	switch {
	case len(r.faults) > 0:
	case encoded != "" && data.text != "":
		r.fault(at.under("data_base64"), "value_error", "and data exclude each other")
	case encoded != "":
		text, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if err != nil {
			r.fault(at.under("data_base64"), "value_error", "is not base64")
			return
		}
		inner, fault := readJSONValue(text)
		if fault != nil {
			r.fault(at.under("data_base64"), "value_error", "holds no event: %s", fault.Detail)
			return
		}
		r.event(at.under("data_base64"), inner, e, head)
	case data.text == "":
		r.missing(place)
	default:
		r.event(place, data, e, head)
	}
}

// head judges the attributes of a CloudEvent.
func (r *runReader) head(at *fieldPath, a *eventAttributes) *runHead {
	for i, name := range attributeNames[:4] {
		if a[i] == "" {
			r.missing(at.under(name))
		}
	}
	if v := a[0]; v != "" && v != "1.0" {
		r.fault(at.under("specversion"), "value_error", "must be 1.0, not %v", shown(v))
	}
	head := &runHead{id: a[1], source: a[2], kind: a[3], time: a[5]}
	if a[3] != "" && head.step() == 0 {
		r.fault(at.under("type"), "enum", "must be that of an orchestration event, such as %s, not %v", TypeOf(StepRunStarted.Kind()), shown(a[3]))
	}
	if !isJSONMedia(a[4]) {
		r.fault(at.under("datacontenttype"), "value_error", "must be application/json, not %v", shown(a[4]))
	}
	if a[5] != "" {
		if _, err := ParseInstant(a[5]); err != nil {
			r.fault(at.under("time"), "datetime_parsing", "%s", err.Detail)
		}
	}
	return head
}

func (h *runHead) step() RunStep {
	for s := StepRunStarted; s <= StepToolCompleted; s++ {
		if h.kind == TypeOf(s.Kind()) {
			return s
		}
	}
	return 0
}

// binaryHead reads the attributes of a CloudEvent in headers.
func binaryHead(values func(attribute string) []string, contentType string) (*runHead, *Error) {
	r, a := runReader{}, eventAttributes{}
	at := func(name string) *fieldPath { return &fieldPath{&fieldPath{name: "header"}, "ce-" + name} }
	for i, name := range attributeNames {
		switch v := values(name); {
		case name == "datacontenttype":
			a[i] = contentType
		case len(v) > 1:
			r.fault(at(name), "repeated", "is there more than once")
		case len(v) == 1:
			text, ok := percentDecoded(v[0])
			if !ok {
				r.fault(at(name), "value_error", "is not percent-encoded UTF-8")
			}
			a[i] = text
		}
	}
	if r.faults == nil {
		head := r.head(&fieldPath{name: "header"}, &a)
		if r.faults == nil {
			return head, nil
		}
	}
	for i := range r.faults { // they stand in no body
		r.faults[i].Loc = r.faults[i].Loc[1:]
	}
	return nil, r.err()
}

// fill lets the CloudEvent around an event say what the event leaves out.
func (r *runReader) fill(at *fieldPath, e *RunEvent, head *runHead, timed bool) bool {
	step := head.step()
	if e.Step == 0 && !r.faulty(at.under("kind")) {
		e.Step = step
	}
	if e.Step != 0 && e.Step != step {
		r.fault(at.under("kind"), "enum", "must be that of the CloudEvent's type, %s, not %s", step.Kind(), e.Step.Kind())
	}
	if e.EventID == "" {
		text := append(appendText(nil, head.source), head.id...)
		sum := sha256.Sum256(text)
		e.EventID = "ce-" + hex.EncodeToString(sum[:16])
	}
	if !timed && head.time != "" {
		e.Timestamp, _ = ParseInstant(head.time)
		return true
	}
	return timed
}
