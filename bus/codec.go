package bus

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
	"github.com/nats-io/nats.go"

	"grout/schemas"
)

const (
	ceHeader          = "ce-"
	contentTypeHeader = "content-type"
	structuredType    = "application/cloudevents"
	groupContentType  = "application/vnd.grout.command-group"
	groupSource       = "//mozaiks.ai/grout/"
	extReplyTo        = "replyto"
	maxAttribute      = 1024 // bytes of one attribute, not escaped
	maxAttributes     = 64
)

// errNotAnEvent says that a message is neither form of a CloudEvent.
var errNotAnEvent = errors.New("the message is not a CloudEvent")

// EncodeBinary writes an event into a message in binary mode: attributes as ce-
// headers, percent-encoded as in the HTTP binding, and the data as they are. The
// message keeps its subject and its other headers.
func EncodeBinary(m *nats.Msg, e *event.Event) error {
	if err := e.Validate(); err != nil {
		return fmt.Errorf("the event is not valid: %w", err)
	}
	if e.SpecVersion() != event.CloudEventsVersionV1 {
		return fmt.Errorf("specversion %s is not written", e.SpecVersion())
	}
	if m.Header == nil {
		m.Header = make(nats.Header, 8)
	}
	w := attributeWriter{h: m.Header}
	w.put("specversion", event.CloudEventsVersionV1)
	w.put("id", e.ID())
	w.put("source", e.Source())
	w.put("type", e.Type())
	w.putIf("subject", e.Subject())
	w.putIf("dataschema", e.DataSchema())
	if t := e.Time(); !t.IsZero() {
		w.put("time", t.UTC().Format(time.RFC3339Nano))
	}
	for name, value := range e.Extensions() {
		text, err := types.Format(value)
		if err != nil {
			return fmt.Errorf("attribute %s: %w", name, err)
		}
		w.put(name, text)
	}
	if ct := e.DataContentType(); ct != "" {
		w.header(contentTypeHeader, "datacontenttype", ct)
	}
	m.Data = e.Data()
	return w.err
}

type attributeWriter struct {
	h   nats.Header
	err error
}

func (w *attributeWriter) putIf(name, value string) {
	if value != "" {
		w.put(name, value)
	}
}

func (w *attributeWriter) put(name, value string) {
	if !attributeName(name) {
		w.fail(fmt.Errorf("attribute name %q is not lower-case letters and digits", name))
		return
	}
	w.header(ceHeader+name, name, value)
}

func (w *attributeWriter) header(key, name, value string) {
	if err := checkAttribute(value); err != nil {
		w.fail(fmt.Errorf("attribute %s: %w", name, err))
		return
	}
	if key == contentTypeHeader { // a header of its own, not an encoded attribute
		for i := range len(value) {
			if value[i] > 0x7e {
				w.fail(errors.New("attribute datacontenttype: not ASCII"))
				return
			}
		}
		w.h[key] = []string{value}
		return
	}
	w.h[key] = []string{escapeAttribute(value)}
}

func (w *attributeWriter) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func attributeName(s string) bool {
	for i := range len(s) {
		if (s[i] < 'a' || s[i] > 'z') && (s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// checkAttribute refuses what the CloudEvents type String does not allow.
func checkAttribute(s string) error {
	switch {
	case len(s) > maxAttribute:
		return fmt.Errorf("longer than %d bytes", maxAttribute)
	case !utf8.ValidString(s):
		return errors.New("not UTF-8")
	}
	for _, r := range s {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return errors.New("holds a control character")
		}
	}
	return nil
}

const hexUpper = "0123456789ABCDEF"

func escapedByte(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '%' }

func escapeAttribute(s string) string {
	n := 0
	for i := range len(s) {
		if escapedByte(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	out := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; escapedByte(c) {
			out = append(out, '%', hexUpper[c>>4], hexUpper[c&15])
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

// unescapeAttribute takes spaces and quotes as they are too, since others send them so.
func unescapeAttribute(s string) (string, error) {
	if len(s) > 3*maxAttribute {
		return "", fmt.Errorf("longer than %d bytes", maxAttribute)
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return "", errors.New("holds a character that must be percent-encoded")
		}
	}
	if strings.Contains(s, "%") {
		var err error
		if s, err = url.PathUnescape(s); err != nil {
			return "", err
		}
	}
	return s, checkAttribute(s)
}

// Decode reads the CloudEvent of a message in binary or structured mode. A message
// that is neither gives an error; its data point into the message.
func Decode(m *schemas.StreamMessage) (event.Event, error) {
	contentType := ""
	binary := false
	for key, values := range m.Header {
		switch name := strings.ToLower(key); {
		case name == contentTypeHeader && len(values) == 1 && contentType == "":
			contentType = values[0]
		case name == contentTypeHeader:
			return event.Event{}, errors.New("header content-type stands twice")
		case name == ceHeader+"specversion":
			binary = true
		}
	}
	switch {
	case isStructured(contentType):
		return decodeStructured(m.Data)
	case binary:
		return decodeBinary(m, contentType)
	case contentType == "" && holdsSpecVersion(m.Data):
		return decodeStructured(m.Data)
	}
	return event.Event{}, errNotAnEvent
}

func isStructured(contentType string) bool {
	mediaType, _, _ := strings.Cut(contentType, ";")
	mediaType = strings.ToLower(strings.TrimSpace(mediaType))
	return mediaType == structuredType || mediaType == structuredType+"+json"
}

func holdsSpecVersion(data []byte) bool {
	var head struct {
		SpecVersion *string `json:"specversion"`
	}
	return len(data) > 0 && json.Unmarshal(data, &head) == nil && head.SpecVersion != nil
}

func decodeStructured(data []byte) (event.Event, error) {
	if !utf8.Valid(data) {
		return event.Event{}, errors.New("the event is not UTF-8")
	}
	if !json.Valid(data) {
		return event.Event{}, errors.New("the event is not JSON")
	}
	e := event.New()
	if err := e.UnmarshalJSON(data); err != nil {
		return event.Event{}, fmt.Errorf("the event is not readable: %w", err)
	}
	return e, checkEvent(&e)
}

// checkEvent holds a decoded event to the same rules in both modes.
func checkEvent(e *event.Event) error {
	if e.SpecVersion() != event.CloudEventsVersionV1 {
		return fmt.Errorf("specversion %s is not read", e.SpecVersion())
	}
	if err := e.Validate(); err != nil {
		return fmt.Errorf("the event is not valid: %w", err)
	}
	if len(e.Extensions()) > maxAttributes {
		return fmt.Errorf("the event has more than %d extensions", maxAttributes)
	}
	for _, a := range [...]struct{ name, value string }{
		{"id", e.ID()},
		{"source", e.Source()},
		{"type", e.Type()},
		{"subject", e.Subject()},
		{"dataschema", e.DataSchema()},
		{"datacontenttype", e.DataContentType()},
	} {
		if err := checkAttribute(a.value); err != nil {
			return fmt.Errorf("attribute %s: %w", a.name, err)
		}
	}
	for name, value := range e.Extensions() {
		text, err := types.Format(value)
		if err == nil {
			err = checkAttribute(text)
		}
		if err == nil && !attributeName(name) {
			err = errors.New("its name is not lower-case letters and digits")
		}
		if err != nil {
			return fmt.Errorf("attribute %q: %w", name, err)
		}
	}
	return nil
}

func decodeBinary(m *schemas.StreamMessage, contentType string) (event.Event, error) {
	e := event.New()
	seen := make(map[string]bool, 8)
	for key, values := range m.Header {
		name := strings.ToLower(key)
		if !strings.HasPrefix(name, ceHeader) {
			continue
		}
		name = name[len(ceHeader):]
		if len(values) != 1 || seen[name] {
			return event.Event{}, fmt.Errorf("attribute %q stands more than once", name)
		}
		if len(seen) > maxAttributes || !attributeName(name) {
			return event.Event{}, fmt.Errorf("attribute %q has no usable name, or is one too many", name)
		}
		seen[name] = true
		value, err := unescapeAttribute(values[0])
		if err == nil {
			err = setAttribute(&e, name, value)
		}
		if err != nil {
			return event.Event{}, fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	if contentType != "" {
		e.SetDataContentType(contentType)
	}
	e.DataEncoded = m.Data
	return e, checkEvent(&e)
}

func setAttribute(e *event.Event, name, value string) error {
	switch name {
	case "specversion":
		if value != event.CloudEventsVersionV1 {
			return fmt.Errorf("%q is not read", value)
		}
		return nil
	case "id":
		return e.Context.SetID(value)
	case "source":
		return e.Context.SetSource(value)
	case "type":
		return e.Context.SetType(value)
	case "subject":
		return e.Context.SetSubject(value)
	case "dataschema":
		return e.Context.SetDataSchema(value)
	case "time":
		t, err := types.ParseTime(value)
		if err != nil {
			return err
		}
		return e.Context.SetTime(t)
	case "datacontenttype", "data", "data_base64":
		return errors.New("is no header of its own in binary mode")
	}
	return e.Context.SetExtension(name, value)
}

// DecodeGroupMessage reads a message of MOZAIKS_CMD. Anything that grout would not
// have written is an error. Texts and payloads point into the message.
func DecodeGroupMessage(m schemas.StreamMessage) (schemas.Group, error) {
	e, err := Decode(&m)
	if err != nil {
		return schemas.Group{}, err
	}
	g := schemas.Group{ID: e.ID(), Source: e.Source()}
	switch {
	case e.Type() != schemas.TypeCommandGroup:
		return g, fmt.Errorf("type %s is not %s", strconv.Quote(e.Type()), schemas.TypeCommandGroup)
	case e.DataContentType() != groupContentType:
		return g, fmt.Errorf("content type %s is not %s", strconv.Quote(e.DataContentType()), groupContentType)
	case !strings.HasPrefix(g.Source, groupSource):
		return g, fmt.Errorf("source %s is not grout's", strconv.Quote(g.Source))
	}
	g.ReplyTo, _ = e.Extensions()[extReplyTo].(string)
	if g.ReplyTo != "" && !isReplySubject(g.ReplyTo) {
		return g, fmt.Errorf("replyto %s is not a reply subject", strconv.Quote(g.ReplyTo))
	}
	if g.Commands, err = schemas.DecodeGroup(m.Data); err != nil {
		return g, fmt.Errorf("read group %s: %w", g.ID, err)
	}
	return g, nil
}

func isReplySubject(s string) bool {
	at := strings.LastIndexByte(s, '.')
	node, err := schemas.UnescapeToken(s[at+1:])
	return err == nil && node != "" && s == schemas.ReplySubject(node)
}
