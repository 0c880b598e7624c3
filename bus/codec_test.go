package bus

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"grout/schemas"
)

func testEvent() event.Event {
	e := event.New()
	e.SetID("id 1%\"é")
	e.SetSource("//mozaiks.ai/app/%C3%A9/x")
	e.SetType("ai.mozaiks.usage.ingest.v1")
	e.SetSubject("run/π 7")
	e.SetTime(time.Date(2026, 1, 26, 1, 2, 3, 4, time.UTC))
	e.SetDataContentType("application/json")
	e.SetDataSchema("https://example.org/s")
	e.SetExtension("correlationid", "c%20 d")
	e.SetExtension("count", 7)
	e.DataEncoded = []byte(`{"a":1}`)
	return e
}

func binaryOf(t testing.TB, e event.Event) *schemas.StreamMessage {
	t.Helper()
	m := &nats.Msg{}
	if err := EncodeBinary(m, &e); err != nil {
		t.Fatal(err)
	}
	return &schemas.StreamMessage{Header: m.Header, Data: m.Data}
}

func TestBinaryRoundTrip(t *testing.T) {
	e := testEvent()
	m := binaryOf(t, e)
	for name, want := range map[string]string{"ce-id": "id%201%25%22%C3%A9", "ce-source": "//mozaiks.ai/app/%25C3%25A9/x", "ce-count": "7", "content-type": "application/json"} {
		if got := m.Header[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	got := must1(Decode(m))(t)
	e.SetExtension("count", "7") // headers are text
	if d := cmp.Diff(e.String(), got.String()); d != "" {
		t.Error(d)
	}
}

func TestStructured(t *testing.T) {
	head := schemas.FactHead{Kind: "usage.recorded", AppID: "ä.b", ID: "x.0", Subject: "batch/\"b\"", Time: 12345, Sequence: 7, Cause: schemas.Cause{ID: "c", Source: "//s"}}
	data := schemas.AppendFact(nil, &head, func(b []byte) []byte { return append(b, `{"n":1}`...) })
	for _, contentType := range []string{"application/cloudevents+json", "application/cloudevents+json; charset=UTF-8", ""} {
		m := &schemas.StreamMessage{Data: data}
		if contentType != "" {
			m.Header = map[string][]string{"Content-Type": {contentType}}
		}
		e := must1(Decode(m))(t)
		if e.ID() != "x.0" || e.Type() != "ai.mozaiks.usage.recorded.v1" || e.Source() != "//mozaiks.ai/app/%C3%A4.b/grout" || e.Subject() != head.Subject ||
			e.Extensions()["sequence"] != "00000000000000000007" || e.Extensions()["partitionkey"] != "ä.b" || string(e.Data()) != `{"n":1}` {
			t.Errorf("%s", e)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	with := func(key string, values ...string) *schemas.StreamMessage {
		m := binaryOf(t, testEvent())
		if len(values) == 0 {
			delete(m.Header, key)
		} else {
			m.Header[key] = values
		}
		return m
	}
	structured := func(text string) *schemas.StreamMessage {
		return &schemas.StreamMessage{Header: map[string][]string{"content-type": {"application/cloudevents+json"}}, Data: []byte(text)}
	}
	for what, m := range map[string]*schemas.StreamMessage{
		"nothing":              {},
		"plain JSON":           {Data: []byte(`{"a":1}`)},
		"no id":                with("ce-id"),
		"no source":            with("ce-source"),
		"no type":              with("ce-type"),
		"no specversion":       with("ce-specversion"),
		"specversion 0.3":      with("ce-specversion", "0.3"),
		"empty id":             with("ce-id", ""),
		"two ids":              with("ce-id", "a", "b"),
		"ids by case":          with("CE-ID", "a"),
		"CR":                   with("ce-x", "a\rb"),
		"LF":                   with("ce-x", "a\nb"),
		"NUL":                  with("ce-x", "a\x00b"),
		"escaped NUL":          with("ce-x", "a%00b"),
		"escaped LF":           with("ce-id", "a%0Ab"),
		"not ASCII":            with("ce-x", "é"),
		"escape of bad UTF-8":  with("ce-x", "%FF"),
		"broken escape":        with("ce-x", "%G1"),
		"long":                 with("ce-x", strings.Repeat("x", 1025)),
		"bad name":             with("ce-a_b", "x"),
		"bad time":             with("ce-time", "yesterday"),
		"data as header":       with("ce-data", "x"),
		"two content types":    with("Content-Type", "a/b"),
		"bad content type":     with("content-type", "a/b/c"),
		"structured: not JSON": structured(`{`),
		"structured: UTF-8":    structured("{\"specversion\":\"1.0\",\"id\":\"\xff\",\"source\":\"/s\",\"type\":\"t\"}"),
		"structured: no id":    structured(`{"specversion":"1.0","source":"/s","type":"t"}`),
		"structured: LF in id": structured(`{"specversion":"1.0","id":"a\nb","source":"/s","type":"t"}`),
		"structured: 0.3":      structured(`{"specversion":"0.3","id":"a","source":"/s","type":"t"}`),
		"structured: trailing": structured(`{"specversion":"1.0","id":"a","source":"/s","type":"t"} x`),
	} {
		if e, err := Decode(m); err == nil {
			t.Errorf("%s: read as %s", what, e)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for what, change := range map[string]func(*event.Event){
		"no id":         func(e *event.Event) { e.SetID("") },
		"CR in subject": func(e *event.Event) { e.SetSubject("a\rb") },
		"NUL":           func(e *event.Event) { e.SetExtension("x", "\x00") },
		"long":          func(e *event.Event) { e.SetID(strings.Repeat("x", 1025)) },
		"not UTF-8":     func(e *event.Event) { e.SetID("\xff") },
		"content type":  func(e *event.Event) { e.SetDataContentType("a/b\r\nx: y") },
	} {
		e := testEvent()
		change(&e)
		if err := EncodeBinary(&nats.Msg{}, &e); err == nil {
			t.Errorf("%s: written", what)
		}
	}
}

func groupMessage() schemas.StreamMessage {
	return schemas.StreamMessage{
		Header: map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {"g1"}, "ce-source": {"//mozaiks.ai/grout/n"}, "ce-type": {schemas.TypeCommandGroup},
			"ce-replyto": {"mozaiks.v1.reply.n"}, "content-type": {groupContentType},
		},
		Data: schemas.AppendGroup(nil, []schemas.CommandFrame{command("a", "p"), command("b", "")}),
	}
}

func TestDecodeGroupMessage(t *testing.T) {
	g := must1(DecodeGroupMessage(groupMessage()))(t)
	if g.ID != "g1" || g.ReplyTo != "mozaiks.v1.reply.n" || len(g.Commands) != 2 || g.Commands[1].ID != "b" {
		t.Errorf("%+v", g)
	}
	silent := groupMessage()
	delete(silent.Header, "ce-replyto")
	if g := must1(DecodeGroupMessage(silent))(t); g.ReplyTo != "" {
		t.Errorf("%+v", g)
	}
	for what, change := range map[string]func(*schemas.StreamMessage){
		"a fact":            func(m *schemas.StreamMessage) { m.Header["ce-type"] = []string{"ai.mozaiks.usage.recorded.v1"} },
		"another source":    func(m *schemas.StreamMessage) { m.Header["ce-source"] = []string{"//mozaiks.ai/app/x"} },
		"another form":      func(m *schemas.StreamMessage) { m.Header["content-type"] = []string{"application/json"} },
		"a reply elsewhere": func(m *schemas.StreamMessage) { m.Header["ce-replyto"] = []string{"$JS.API.STREAM.DELETE.X"} },
		"a reply to many":   func(m *schemas.StreamMessage) { m.Header["ce-replyto"] = []string{"mozaiks.v1.reply.>"} },
		"a reply further":   func(m *schemas.StreamMessage) { m.Header["ce-replyto"] = []string{"mozaiks.v1.reply.a.b"} },
		"no reply node":     func(m *schemas.StreamMessage) { m.Header["ce-replyto"] = []string{"mozaiks.v1.reply."} },
		"cut data":          func(m *schemas.StreamMessage) { m.Data = m.Data[:5] },
		"no data":           func(m *schemas.StreamMessage) { m.Data = nil },
		"an unknown form":   func(m *schemas.StreamMessage) { m.Data[0] = 9 },
		"no headers":        func(m *schemas.StreamMessage) { m.Header = nil },
	} {
		m := groupMessage()
		change(&m)
		if _, err := DecodeGroupMessage(m); err == nil {
			t.Errorf("%s: read", what)
		}
	}
}

func FuzzDecodeBinary(f *testing.F) {
	f.Add("id%20", "//s", "t", "x", "v", "application/json", []byte("{}"))
	f.Add("%", "", "\n", "a-b", "%C3%A9", "", []byte(nil))
	f.Fuzz(func(t *testing.T, id, source, kind, name, value, contentType string, data []byte) {
		m := &schemas.StreamMessage{Header: map[string][]string{
			"ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {source}, "ce-type": {kind}, "ce-" + name: {value}, "content-type": {contentType},
		}, Data: data}
		_, _ = DecodeGroupMessage(*m)
		e, err := Decode(m)
		if err != nil || isStructured(contentType) {
			return
		}
		again, err := Decode(binaryOf(t, e))
		if err != nil {
			t.Fatalf("%v: %s", err, e)
		}
		if again.ID() != e.ID() || again.Source() != e.Source() || again.Type() != e.Type() || !bytes.Equal(again.Data(), e.Data()) || !cmp.Equal(again.Extensions(), e.Extensions()) {
			t.Fatalf("%s\n%s", e, again)
		}
	})
}

func FuzzDecodeStructured(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"a","source":"/s","type":"t","x":1,"y":true,"z":"é","time":"2026-01-26T00:00:00Z","data":{"a":[1]}}`))
	f.Add([]byte(`{"specversion":"1.0","id":"a","source":"/s","type":"t","data_base64":"AAE="}`))
	f.Add([]byte(`{"specversion":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Decode(&schemas.StreamMessage{Data: data})
		if err != nil {
			return
		}
		again, err := Decode(binaryOf(t, e))
		if err != nil {
			t.Fatalf("%v: %s", err, e)
		}
		if again.ID() != e.ID() || again.Source() != e.Source() || again.Type() != e.Type() || !bytes.Equal(again.Data(), e.Data()) || len(again.Extensions()) != len(e.Extensions()) {
			t.Fatalf("%s\n%s", e, again)
		}
	})
}
