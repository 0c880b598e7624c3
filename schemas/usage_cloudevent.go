package schemas

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"mime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MaxCloudEvents is how many CloudEvents one request may hold.
const MaxCloudEvents = 100

// IngestEvent is a CloudEvent that asks for a batch to be counted (contract §7).
type IngestEvent struct {
	ID, Source string
	Summary    bool   // its type says that data is a chat.usage_summary
	Data       []byte // the batch as JSON text; part of the body but for data_base64
	Err        *Error // why this element of a list is refused; the rest is empty then
	at         []any  // where Data stands in the body
}

// ParseBatch reads the batch of the event into b, as ParseUsageBatch does. A batch
// without batch_id gets one that follows from the event's source and id, so that
// the event sent again is recognised.
func (e *IngestEvent) ParseBatch(b *ParsedBatch) *Error {
	if err := parseBatch(e.Data, b, e.Summary); err != nil {
		return err.below(e.at)
	}
	if b.BatchID == "" {
		text := binary.AppendUvarint(nil, uint64(len(e.Source)))
		text = append(text, e.Source...)
		text = append(text, e.ID...)
		sum := sha256.Sum256(text)
		b.BatchID = "ce-" + hex.EncodeToString(sum[:16])
	}
	return nil
}

// below gives the error of a part of the body as one of the body.
func (e *Error) below(at []any) *Error {
	if len(at) == 0 {
		return e
	}
	moved := &Error{Code: e.Code, Detail: e.Detail}
	for _, f := range e.Fields {
		f.Loc = slices.Concat(f.Loc[:1], at, f.Loc[1:])
		moved.Fields = append(moved.Fields, f)
	}
	return moved
}

// ParseIngestEvent reads a body of application/cloudevents+json.
func ParseIngestEvent(body []byte) (IngestEvent, *Error) {
	p := newEventReader(body)
	var e IngestEvent
	ok := p.element(&e, []any{"body"})
	if ok = ok && p.end(); !ok {
		return IngestEvent{}, p.err
	}
	return e, e.Err
}

// ParseIngestEvents reads a body of application/cloudevents-batch+json. What is
// wrong with an element of a readable list is in its Err.
func ParseIngestEvents(body []byte) ([]IngestEvent, *Error) {
	p := newEventReader(body)
	if p.peek() != '[' {
		if !p.skip() || !p.end() {
			return nil, p.err
		}
		return nil, validation([]FieldError{{[]any{"body"}, "the body must be a list of CloudEvents", "list_type"}})
	}
	list := []IngestEvent{}
	more, ok := p.enter()
	for ok && more {
		if len(list) == MaxCloudEvents {
			return nil, Errorf(CodeTooManyEvents, "more than %d CloudEvents in one request: split it", MaxCloudEvents)
		}
		list = append(list, IngestEvent{})
		p.inItem, p.fault, p.at = true, jsonFault{}, ""
		ok = p.element(&list[len(list)-1], []any{"body", len(list) - 1})
		p.inItem = false
		if ok {
			more, ok = p.next()
		}
	}
	if !ok || !p.end() {
		return nil, p.err
	}
	return list, nil
}

// BinaryIngestEvent makes an event of the ce- headers of a request, given by
// attribute (values is what the header with the prefix holds), and of its body.
func BinaryIngestEvent(values func(attribute string) []string, contentType string, body []byte) (IngestEvent, *Error) {
	a := eventAttributes{}
	var faults []FieldError
	for i, name := range attributeNames {
		switch v := values(name); {
		case name == "datacontenttype":
			a[i] = contentType
		case len(v) > 1:
			faults = append(faults, FieldError{[]any{"header", "ce-" + name}, name + " is there more than once", "repeated"})
		case len(v) == 1:
			text, ok := percentDecoded(v[0])
			if !ok {
				faults = append(faults, FieldError{[]any{"header", "ce-" + name}, name + " is not percent-encoded UTF-8", "value_error"})
			}
			a[i] = text
		}
	}
	if faults == nil {
		faults = a.judge(func(name string) []any { return []any{"header", "ce-" + name} })
	}
	if faults != nil {
		return IngestEvent{}, validation(faults)
	}
	return IngestEvent{ID: a[1], Source: a[2], Summary: a.summary(), Data: body}, nil
}

func validation(faults []FieldError) *Error {
	msgs := make([]string, len(faults))
	for i, f := range faults {
		msgs[i] = f.Msg
	}
	return &Error{Code: CodeValidation, Detail: strings.Join(msgs, "; "), Fields: faults}
}

// eventAttributes are the values of attributeNames; empty is the same as absent.
type eventAttributes [len(attributeNames)]string

var attributeNames = [...]string{"specversion", "id", "source", "type", "datacontenttype", "time"}

func (a *eventAttributes) summary() bool { return a[3] == TypeOf(usageSummary) }

// judge lists what is wrong with the attributes.
func (a *eventAttributes) judge(loc func(name string) []any) (faults []FieldError) {
	fault := func(name, msg, kind string) { faults = append(faults, FieldError{loc(name), msg, kind}) }
	for i, name := range attributeNames[:4] {
		if a[i] == "" {
			fault(name, name+" is missing or empty", "missing")
		}
	}
	if v := a[0]; v != "" && v != "1.0" {
		fault("specversion", "specversion must be 1.0, not "+shown(v).String(), "value_error")
	}
	if want := TypeOf(UsageIngest.Name); a[3] != "" && a[3] != want && !a.summary() {
		fault("type", "type must be "+want+" or "+TypeOf(usageSummary)+", not "+shown(a[3]).String(), "value_error")
	}
	if !isJSONMedia(a[4]) {
		fault("datacontenttype", "datacontenttype must be application/json, not "+shown(a[4]).String(), "value_error")
	}
	if a[5] != "" {
		if _, err := ParseInstant(a[5]); err != nil {
			fault("time", "time "+err.Detail, "datetime")
		}
	}
	return faults
}

func isJSONMedia(v string) bool {
	if v == "" {
		return true
	}
	media, params, err := mime.ParseMediaType(v)
	charset := params["charset"]
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json")) &&
		(charset == "" || strings.EqualFold(charset, "utf-8"))
}

// eventReader reads CloudEvents in JSON.
type eventReader struct {
	usageParser
	body []byte
}

func newEventReader(body []byte) *eventReader {
	return &eventReader{usageParser{jsonScanner: jsonScanner{text: viewString(body), at: "body"}}, body}
}

// eventMembers are the members of one event in JSON as read.
type eventMembers struct {
	loc        []any // of the event
	attributes eventAttributes
	data       []byte // JSON text, empty for none
	encoded    string // data_base64
	faults     []FieldError
}

func (m *eventMembers) at(name string) []any { return slices.Concat(m.loc, []any{name}) }

func (m *eventMembers) fault(name, msg, kind string) {
	m.faults = append(m.faults, FieldError{m.at(name), msg, kind})
}

// element reads the event at pos, which stands at loc of the request. ok is false
// when the text cannot be read any further.
func (p *eventReader) element(e *IngestEvent, loc []any) (ok bool) {
	if c := p.peek(); c != '{' {
		e.Err = validation([]FieldError{{loc, "a CloudEvent must be an object, not " + kindOf(c), "dict_type"}})
		return p.skip()
	}
	m := eventMembers{loc: loc}
	if !p.members(func(name string) bool { return p.note(name) && p.eventMember(&m, name) }) {
		return false
	}
	switch {
	case p.tooDeep || p.fault.code == CodeTooDeep:
		e.Err = depthError()
	case p.fault.code != "":
		e.Err = Errorf(CodeInvalidJSON, "%s", p.fault.detail)
	default:
		*e = m.event()
	}
	return true
}

// eventMember reads the value of one member.
func (p *eventReader) eventMember(m *eventMembers, name string) bool {
	i := slices.Index(attributeNames[:], name)
	c := p.peek()
	switch {
	case name == "data":
		start := p.pos
		if !p.skipData() {
			return false
		}
		if c != 'n' {
			m.data = p.body[start:p.pos]
		}
		return true
	case i < 0 && name != "data_base64": // extensions
		return p.skip()
	case c == 'n':
		return p.word("null")
	case c != '"':
		m.fault(name, name+" must be a string, not "+kindOf(c), "string_type")
		return p.skip()
	}
	t, good, ok := p.plainText()
	switch {
	case good && i >= 0:
		m.attributes[i] = t.decoded()
	case good:
		m.encoded = t.decoded()
	}
	return ok && p.err == nil
}

// skipData passes over the data, whose faults are for ParseUsageBatch to find.
func (p *eventReader) skipData() bool {
	item, fault := p.inItem, p.fault
	p.inItem, p.fault = true, jsonFault{code: CodeInvalidJSON}
	ok := p.skip()
	p.inItem, p.fault = item, fault
	return ok
}

// event makes the event of its members, or says what is wrong with them.
func (m *eventMembers) event() IngestEvent {
	if m.faults == nil {
		m.faults = m.attributes.judge(m.at)
	}
	e := IngestEvent{ID: m.attributes[1], Source: m.attributes[2], Summary: m.attributes.summary(), Data: m.data, at: m.at("data")[1:]}
	switch {
	case m.data != nil && m.encoded != "":
		m.fault("data_base64", "data and data_base64 exclude each other", "value_error")
	case m.encoded != "":
		var err error
		if e.Data, err = base64.StdEncoding.Strict().DecodeString(m.encoded); err != nil {
			m.fault("data_base64", "data_base64 is not base64", "value_error")
		}
		e.at = m.at("data_base64")[1:]
	case m.data == nil:
		m.fault("data", "data is missing: send a batch of usage events", "missing")
	}
	if m.faults != nil {
		return IngestEvent{Err: validation(m.faults)}
	}
	return e
}

// percentDecoded reads the value of a ce- header (CloudEvents HTTP binding 1.0.2,
// §3.1.3.2).
func percentDecoded(v string) (string, bool) {
	if n := len(v); n >= 2 && v[0] == '"' && v[n-1] == '"' {
		unquoted, err := strconv.Unquote(v)
		if err != nil {
			return "", false
		}
		v = unquoted
	}
	if !strings.Contains(v, "%") {
		return v, utf8.ValidString(v)
	}
	b := make([]byte, 0, len(v))
	for i := 0; i < len(v); i++ {
		if v[i] != '%' {
			b = append(b, v[i])
			continue
		}
		if i+2 >= len(v) {
			return "", false
		}
		n, err := strconv.ParseUint(v[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(n))
		i += 2
	}
	return string(b), utf8.Valid(b)
}
