package live

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"grout/schemas"
)

// itemOverhead is what an item takes beside its subject and data.
const itemOverhead = 768

// item is one fact of the stream. All readers share it; it is read once, when the first
// of them needs it.
type item struct {
	seq      uint64
	app, of  string // tokens of the subject
	subject  string
	data     []byte
	once     sync.Once
	readable fact
	err      error
}

func newItem(m *schemas.StreamMessage) (*item, bool) {
	app, _, of, ok := schemas.FactSubjectTokens(m.Subject)
	return &item{seq: m.Seq, app: app, of: of, subject: m.Subject, data: m.Data}, ok
}

func (i *item) size() int { return len(i.data) + len(i.subject) + itemOverhead }

func (i *item) fact() (*fact, error) {
	i.once.Do(func() {
		if i.err = i.readable.read(i.data); i.err == nil {
			i.err = i.readable.name(i.app, i.of)
		}
		if i.err != nil {
			i.err = fmt.Errorf("message %d on %s: %w", i.seq, i.subject, i.err)
		}
	})
	return &i.readable, i.err
}

// span is a part of an item's data.
type span struct{ from, to uint32 }

func (s span) of(data []byte) []byte { return data[s.from:s.to:s.to] }

// fact is what the live streams need of a CloudEvent.
type fact struct {
	kind      string
	app, chat string
	run       string
	time      string
	factSeq   uint64
	chatSeq   uint64 // 0: it has no number
	data      span
	deltas    []span // of chat.usage_delta
}

var errFact = errors.New("not a fact of grout's")

// name takes over what the subject says. It ends with a chat only where the fact has a
// number in it: what plugins publish has names with dots, and ends with a part of its kind.
func (f *fact) name(app, of string) (err error) {
	if f.app, err = schemas.UnescapeToken(app); err != nil || f.chatSeq == 0 {
		return err
	}
	f.chat, err = schemas.UnescapeToken(of)
	return err
}

// last is the last number in the chat.
func (f *fact) last() uint64 { return f.chatSeq + uint64(max(len(f.deltas), 1)) - 1 }

func (f *fact) read(data []byte) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	err := members(d, func(name string) error {
		switch name {
		case "type", "subject", "time", "sequence", schemas.ChatSequenceAttribute:
			return f.attribute(d, name)
		case "data":
			v, err := d.ReadValue()
			f.data = spanOf(d, v)
			return err
		}
		return d.SkipValue()
	})
	if err != nil {
		return err
	}
	if f.kind == "" || f.data == (span{}) {
		return errFact
	}
	if f.kind == schemas.ChatUsageDelta.Name {
		return f.readDeltas(data)
	}
	return nil
}

func (f *fact) attribute(d *jsontext.Decoder, name string) (err error) {
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != '"' {
		return fmt.Errorf("%w: its %s is no text", errFact, name)
	}
	text := t.String()
	switch name {
	case "type":
		if f.kind = strings.TrimSuffix(strings.TrimPrefix(text, "ai.mozaiks."), ".v1"); schemas.TypeOf(f.kind) != text {
			return fmt.Errorf("%w: its type is %q", errFact, text)
		}
	case "subject":
		f.run, _ = strings.CutPrefix(text, "run/")
		if f.run == text {
			f.run = ""
		}
	case "time":
		f.time = text
	case "sequence":
		f.factSeq, err = strconv.ParseUint(text, 10, 63)
	case schemas.ChatSequenceAttribute:
		f.chatSeq, err = strconv.ParseUint(text, 10, 63)
	}
	return err
}

// readDeltas finds the elements of data.deltas.
func (f *fact) readDeltas(data []byte) error {
	d := jsontext.NewDecoder(bytes.NewBuffer(f.data.of(data)), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	err := members(d, func(name string) error {
		if name != "deltas" {
			return d.SkipValue()
		}
		if t, err := d.ReadToken(); err != nil || t.Kind() != '[' {
			return errors.Join(errFact, err)
		}
		for d.PeekKind() != ']' {
			v, err := d.ReadValue()
			if err != nil {
				return err
			}
			s := spanOf(d, v)
			f.deltas = append(f.deltas, span{f.data.from + s.from, f.data.from + s.to})
		}
		_, err := d.ReadToken()
		return err
	})
	if err == nil && len(f.deltas) == 0 {
		err = fmt.Errorf("%w: it holds no deltas", errFact)
	}
	return err
}

// members visits the members of the object that comes next.
func members(d *jsontext.Decoder, visit func(name string) error) error {
	t, err := d.ReadToken()
	if err != nil {
		return err
	}
	if t.Kind() != '{' {
		return errFact
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return err
		}
		if err := visit(name.String()); err != nil {
			return err
		}
	}
	_, err = d.ReadToken()
	return err
}

// spanOf is where the value that was just read stands in the whole text.
func spanOf(d *jsontext.Decoder, v jsontext.Value) span {
	end := d.InputOffset()
	return span{uint32(end - int64(len(v))), uint32(end)}
}

// typeOf is the type of a kind on the live streams.
func typeOf(kind string) string {
	if strings.HasPrefix(kind, "orchestration.") {
		return typePrefix + kind
	}
	return kind
}

// frames adds the frames of an item, from a part on, as far as they fit.
func (i *item) frames(f *fact, from int, dst []Frame, room int) (_ []Frame, next int) {
	frame := Frame{
		Type: typeOf(f.kind), Kind: f.kind, AppID: f.app, ChatID: f.chat, RunID: f.run, Timestamp: f.time, StreamSeq: i.seq, FactSeq: f.factSeq,
	}
	if f.kind != schemas.ChatUsageDelta.Name {
		frame.Data, frame.Sequence, frame.Sub = f.data.of(i.data), f.chatSeq, -1
		return append(dst, frame), 1
	}
	for ; from < len(f.deltas) && len(dst) < room; from++ {
		frame.Data, frame.Sub = f.deltas[from].of(i.data), from
		if f.chatSeq > 0 {
			frame.Sequence = f.chatSeq + uint64(from)
		}
		dst = append(dst, frame)
	}
	return dst, from
}

// parts is how many frames an item makes.
func (f *fact) parts() int { return max(len(f.deltas), 1) }
