package schemas

import (
	"bytes"
	"encoding/base64"
	"maps"
	"mime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of the attributes of a CloudEvent that others publish, which are those that
// grout's own have.
const (
	maxAttributeBytes = 1024
	maxAttributeName  = 64
	maxAttributes     = 64
)

// publicEvent is what a message holds: a CloudEvent, or plain JSON, which has no type.
type publicEvent struct {
	id, source, kind string
	contentType      string
	time             int64 // nanoseconds since 1970 UTC; timed says that there is one
	timed            bool
	correlation      string
	trace            string
	data             []byte
	faults           []string
	decoded          *Error // why the text of the event is none
}

func (e *publicEvent) fault(format string, args ...any) {
	const most = 10
	if len(e.faults) < most {
		e.faults = append(e.faults, Errorf("", format, args...).Detail)
	}
}

// err is what is wrong with the attributes; nil when nothing is.
func (e *publicEvent) err() *Error {
	if e.faults == nil {
		return nil
	}
	return Errorf(CodeValidation, "%s", strings.Join(e.faults, "; "))
}

// readPublicEvent reads a message in whichever form it is: binary mode when it has one of
// the headers of binaryAttributes, structured mode by its content type, or without one
// when it is an object with specversion, else plain JSON (contract §8). What could be
// read is in the event also when there is an error.
func readPublicEvent(m *StreamMessage) (e publicEvent, err *Error) {
	binary := false
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		values := m.Header[name]
		switch name = strings.ToLower(name); {
		case name == "content-type" && (len(values) != 1 || e.contentType != ""):
			e.fault("the header Content-Type is there more than once")
		case name == "content-type":
			e.contentType = values[0]
		case name == "content-encoding" && !slices.Equal(values, []string{"identity"}):
			return e, Errorf(CodeMediaType, "Content-Encoding %v is not supported: send the data as they are", shown(strings.Join(values, ", ")))
		}
		binary = binary || slices.Contains(binaryAttributes, name)
	}
	media, params, fault := mime.ParseMediaType(e.contentType)
	structured := fault == nil && (media == "application/cloudevents" || media == "application/cloudevents+json")
	switch charset := params["charset"]; {
	case structured && charset != "" && !strings.EqualFold(charset, "utf-8"):
		return e, Errorf(CodeMediaType, "Charset %v is not supported: JSON is UTF-8", shown(charset))
	case structured:
		e.structured(m.Data)
	case binary:
		e.binary(m)
	case e.contentType == "" && holdsSpecVersion(m.Data):
		e.structured(m.Data)
	default:
		e.plain(m)
	}
	if e.decoded != nil { // the text of the event is none
		return e, e.decoded
	}
	if err := e.err(); err != nil {
		return e, err
	}
	if !isJSONMedia(e.contentType) || !structured && media != "" && media != "application/json" {
		return e, Errorf(CodeMediaType, "Content-Type %v is not supported: the data of a command are application/json", shown(e.contentType))
	}
	return e, nil
}

var binaryAttributes = []string{"ce-specversion", "ce-id", "ce-source", "ce-type"}

// holdsSpecVersion tells an event from data: it is an object with a member specversion.
func holdsSpecVersion(data []byte) (found bool) {
	if !bytes.Contains(data, []byte(`specversion"`)) {
		return false
	}
	p := newEventReader(data)
	if p.peek() != '{' {
		return false
	}
	p.members(func(name string) bool {
		found = found || name == "specversion"
		return !found && p.skip()
	})
	return found
}

// plain reads a message without attributes: its id is what its publisher has numbered it
// by, and is completed by whoever knows the stream.
func (e *publicEvent) plain(m *StreamMessage) {
	e.data = m.Data
	for _, name := range slices.Sorted(maps.Keys(m.Header)) {
		values := m.Header[name]
		if !strings.EqualFold(name, "Nats-Msg-Id") {
			continue
		}
		if len(values) != 1 || e.id != "" {
			e.fault("the header Nats-Msg-Id is there more than once")
			return
		}
		e.set("Nats-Msg-Id", values[0], &e.id)
	}
}

// set takes the text of an attribute.
func (e *publicEvent) set(name, text string, to *string) {
	switch {
	case len(text) > maxAttributeBytes:
		e.fault("%s is longer than %d bytes", name, maxAttributeBytes)
	case !utf8.ValidString(text):
		e.fault("%s is not UTF-8", name)
	case strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }):
		e.fault("%s holds a control character", name)
	case to != nil:
		*to = text
	}
}

// binary reads a message in binary mode.
func (e *publicEvent) binary(m *StreamMessage) {
	e.data = m.Data
	var a eventAttributes
	seen := map[string]bool{}
	for _, header := range slices.Sorted(maps.Keys(m.Header)) {
		values := m.Header[header]
		name, ok := strings.CutPrefix(strings.ToLower(header), "ce-")
		if !ok {
			continue
		}
		if !attributeName(name) || len(seen) == maxAttributes {
			e.fault("attribute %v has no usable name, or is one too many", shown(name))
			continue
		}
		if len(values) != 1 || seen[name] {
			e.fault("%s is there more than once", name)
			continue
		}
		seen[name] = true
		text, ok := percentDecoded(values[0])
		if len(values[0]) > 3*maxAttributeBytes {
			text, ok = values[0], true // too long in any form
		}
		if !ok {
			e.fault("%s is not percent-encoded UTF-8", name)
			continue
		}
		e.attribute(name, text, &a)
	}
	if a[4] != "" || seen["data"] || seen["data_base64"] {
		e.fault("datacontenttype and data are no attributes of a message in binary mode")
	}
	a[4] = e.contentType
	e.judge(&a)
}

// attribute takes one attribute of either mode.
func (e *publicEvent) attribute(name, text string, a *eventAttributes) {
	to := (*string)(nil)
	if i := slices.Index(attributeNames[:], name); i >= 0 {
		to = &a[i]
	}
	switch name {
	case "correlationid":
		to = &e.correlation
	case "traceparent":
		to = &e.trace
	}
	e.set(name, text, to)
}

func attributeName(s string) bool {
	for i := range len(s) {
		if (s[i] < 'a' || s[i] > 'z') && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != "" && len(s) <= maxAttributeName
}

// judge takes in the attributes that every event has.
func (e *publicEvent) judge(a *eventAttributes) {
	for i, name := range attributeNames[:4] {
		if a[i] == "" && e.faults == nil {
			e.fault("%s is missing or empty", name)
		}
	}
	if v := a[0]; v != "" && v != "1.0" {
		e.fault("specversion must be 1.0, not %v", shown(v))
	}
	e.id, e.source, e.kind, e.contentType = a[1], a[2], a[3], a[4]
	if a[5] == "" {
		return
	}
	at, err := ParseInstant(a[5])
	if err != nil {
		e.fault("time %s", err.Detail)
		return
	}
	e.time, e.timed = at, true
}

// structured reads an event in JSON.
func (e *publicEvent) structured(data []byte) {
	p := newEventReader(data)
	m := eventMembers{loc: []any{"body"}}
	if c := p.peek(); c != '{' {
		e.decoded = Errorf(CodeValidation, "a CloudEvent must be an object, not %s", kindOf(c))
		if !p.skip() || !p.end() {
			e.decoded = p.err
		}
		return
	}
	n := 0
	ok := p.members(func(name string) bool {
		n++
		return p.note(name) && p.publicMember(e, &m, name, n)
	}) && p.end()
	switch {
	case !ok:
		e.decoded = p.err
		return
	case p.tooDeep:
		e.decoded = depthError()
		return
	}
	for _, f := range m.faults {
		e.fault("%s", f.Msg)
	}
	e.judge(&m.attributes)
	switch {
	case m.data != nil && m.encoded != "":
		e.fault("data and data_base64 exclude each other")
	case m.encoded != "":
		var err error
		if e.data, err = base64.StdEncoding.Strict().DecodeString(m.encoded); err != nil {
			e.fault("data_base64 is not base64")
		}
	case m.data == nil:
		e.fault("data is missing")
	default:
		e.data = m.data
	}
}

// publicMember reads the value of one member of an event, the n-th.
func (p *eventReader) publicMember(e *publicEvent, m *eventMembers, name string, n int) bool {
	c := p.peek()
	switch {
	case name == "data" || name == "data_base64":
		return p.eventMember(m, name)
	case !attributeName(name), n > maxAttributes:
		e.fault("attribute %v has no usable name, or is one too many", shown(name))
		return p.skip()
	case c == '"':
		t, good, ok := p.plainText()
		if good {
			e.attribute(name, t.decoded(), &m.attributes)
		}
		return ok && p.err == nil
	case c == '{' || c == '[' || c != 'n' && slices.Contains(attributeNames[:], name):
		e.fault("%s must be a string, not %s", name, kindOf(c))
	}
	return p.skip()
}

// correlationOf is the correlation id that travels on: at most 128 printable ASCII
// characters (contract §1), else none.
func correlationOf(text string) string {
	if len(text) > MaxIDChars {
		return ""
	}
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return ""
		}
	}
	return text
}

// CreatedOf gives the creation of the stream that an id of a message without one names;
// 0 when it is another id.
func CreatedOf(id string, seq uint64) int64 {
	text, ok := strings.CutSuffix(id, "-"+strconv.FormatUint(seq, 10))
	created, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		return 0
	}
	return created
}

// numbered is the id of a message that has none: its place in its stream.
func numbered(created int64, seq uint64) string {
	return strconv.FormatInt(created, 10) + "-" + strconv.FormatUint(seq, 10)
}
