package schemas

import (
	"fmt"
	"slices"
	"strings"
)

// maxFieldErrors bounds how many faults of one body are listed.
const maxFieldErrors = 100

// jsonValue is one value of a text that was read to its end without a fault.
type jsonValue struct{ text string }

// readJSONValue reads a whole body. Its error has the code INVALID_JSON, or
// VALIDATION_ERROR when the body is nested too deeply.
func readJSONValue(body []byte) (jsonValue, *Error) {
	p := usageParser{jsonScanner: jsonScanner{text: viewString(body), at: "body"}}
	p.peek()
	start := p.pos
	if !p.skip() {
		return jsonValue{}, p.err
	}
	text := p.text[start:p.pos]
	if !p.end() {
		return jsonValue{}, p.err
	}
	if p.tooDeep {
		return jsonValue{}, depthError()
	}
	return jsonValue{text}, nil
}

// is tells by its first byte what the value is: one of { [ " t f n 0.
func (v jsonValue) is() byte {
	if v.text == "" {
		return 0
	}
	if c := v.text[0]; c != '-' && c-'0' > 9 {
		return c
	}
	return '0'
}

func (v jsonValue) null() bool { return v.text == "" || v.text[0] == 'n' }

// string gives the text of a string.
func (v jsonValue) string() jsonText {
	s := jsonScanner{text: v.text}
	t, _ := s.str()
	return t
}

// each visits the members of an object or the elements of a list, in their order.
func (v jsonValue) each(visit func(name string, value jsonValue)) {
	s := jsonScanner{text: v.text}
	object := v.text[0] == '{'
	for more, _ := s.enter(); more; more, _ = s.next() {
		name := ""
		if object {
			name, _, _ = s.name()
		}
		s.peek()
		from, keys := s.pos, len(s.keys)
		s.skip()
		s.keys = s.keys[:keys]
		visit(name, jsonValue{s.text[from:s.pos]})
	}
}

// fieldReader reads the fields of a body and lists what is wrong with them.
type fieldReader struct {
	faults []FieldError
	many   bool // there are more than are listed
}

// at is where a field stands; the zero value is the body itself.
type fieldPath struct {
	up   *fieldPath
	name any
}

func (p *fieldPath) loc() []any {
	if p == nil {
		return []any{"body"}
	}
	return append(p.up.loc(), p.name)
}

func (p *fieldPath) String() string {
	var b strings.Builder
	for i, step := range p.loc()[1:] {
		if _, index := step.(int); !index && i > 0 {
			b.WriteByte('.')
		}
		switch s := step.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", s)
		default:
			text := fmt.Sprint(s)
			if q := shown(text).String(); len(q) != len(text)+2 {
				text = q
			}
			b.WriteString(text)
		}
	}
	if b.Len() == 0 {
		return "the body"
	}
	return b.String()
}

func (p *fieldPath) under(name any) *fieldPath { return &fieldPath{p, name} }

// fault lists what is wrong with a field; its message begins with the field's name.
func (r *fieldReader) fault(at *fieldPath, kind, format string, args ...any) {
	if len(r.faults) >= maxFieldErrors {
		r.many = true
		return
	}
	r.faults = append(r.faults, FieldError{Loc: at.loc(), Msg: at.String() + " " + fmt.Sprintf(format, args...), Type: kind})
}

// err is the error of all that was found, nil when nothing was.
func (r *fieldReader) err() *Error {
	if r.faults == nil {
		return nil
	}
	const most = 10 // in the text; all of them are in the list
	msgs := make([]string, 0, most+1)
	for _, f := range r.faults[:min(len(r.faults), most)] {
		msgs = append(msgs, f.Msg)
	}
	if more := len(r.faults) - most; more > 0 {
		msgs = append(msgs, fmt.Sprintf("and %d more", more))
	}
	return &Error{Code: CodeValidation, Detail: strings.Join(msgs, "; "), Fields: r.faults}
}

// fields reads an object whose keys are known: those that are not are ignored, those
// with null are absent. False: the value is no object.
func (r *fieldReader) fields(at *fieldPath, v jsonValue, known map[string]func(*fieldPath, jsonValue)) bool {
	if !r.object(at, v) {
		return false
	}
	v.each(func(name string, value jsonValue) {
		if read := known[name]; read != nil && !value.null() {
			read(at.under(name), value)
		}
	})
	return true
}

func (r *fieldReader) object(at *fieldPath, v jsonValue) bool {
	if v.is() != '{' {
		r.fault(at, "dict_type", "must be an object, not %s", kindOf(v.is()))
		return false
	}
	return true
}

// missing lists a required field that is absent.
func (r *fieldReader) missing(at *fieldPath) { r.fault(at, "missing", "is required and missing") }

// text reads a string of least to most characters.
func (r *fieldReader) text(at *fieldPath, v jsonValue, dst *string, least, most int) {
	if v.is() != '"' {
		r.fault(at, "string_type", "must be a string, not %s", kindOf(v.is()))
		return
	}
	t := v.string()
	switch n := t.chars(); {
	case n < least:
		r.fault(at, "string_too_short", "must have at least %d characters, not %d", least, n)
	case n > most:
		r.fault(at, "string_too_long", "must have at most %d characters, not %d", most, n)
	default:
		*dst = t.decoded()
	}
}

// texts reads a list of names.
func (r *fieldReader) texts(at *fieldPath, v jsonValue, dst *[]string) {
	if v.is() != '[' {
		r.fault(at, "list_type", "must be a list, not %s", kindOf(v.is()))
		return
	}
	i := 0
	v.each(func(_ string, value jsonValue) {
		var s string
		r.text(at.under(i), value, &s, 1, MaxNameChars)
		*dst = append(*dst, s)
		i++
	})
}

// choice reads one of a few words.
func (r *fieldReader) choice(at *fieldPath, v jsonValue, words []string) (index int) {
	if v.is() == '"' {
		if i := slices.Index(words, v.string().decoded()); i >= 0 {
			return i
		}
		r.fault(at, "enum", "must be one of %s, not %v", strings.Join(words, ", "), shown(v.string().decoded()))
		return -1
	}
	r.fault(at, "enum", "must be one of %s, not %s", strings.Join(words, ", "), kindOf(v.is()))
	return -1
}

func (r *fieldReader) flag(at *fieldPath, v jsonValue, dst *bool) {
	if c := v.is(); c != 't' && c != 'f' {
		r.fault(at, "bool_type", "must be true or false, not %s", kindOf(c))
		return
	}
	*dst = v.text[0] == 't'
}

// number reads an integer that is written as one.
func (r *fieldReader) number(at *fieldPath, v jsonValue, dst *int64, least, most int64) {
	if v.is() != '0' {
		r.fault(at, "int_type", "must be a whole number, not %s", kindOf(v.is()))
		return
	}
	_, whole, _ := scanNumber(v.text)
	if !whole || v.text == "-0" {
		r.fault(at, "int_type", "must be written as a whole number, without fraction or exponent, not %v", shown(v.text))
		return
	}
	n, ok := wholeNumber(v.text)
	if !ok || n < least || n > most {
		r.fault(at, "out_of_range", "must be %d to %d, not %v", least, most, shown(v.text))
		return
	}
	*dst = n
}

// wholeNumber reads an integer of at most 18 digits.
func wholeNumber(text string) (n int64, ok bool) {
	negative := text[0] == '-'
	if negative {
		text = text[1:]
	}
	if len(text) > 18 {
		return 0, false
	}
	for i := range len(text) {
		n = n*10 + int64(text[i]-'0')
	}
	if negative {
		n = -n
	}
	return n, true
}

// instant reads an RFC 3339 instant.
func (r *fieldReader) instant(at *fieldPath, v jsonValue) *int64 {
	if v.is() != '"' {
		r.fault(at, "datetime_type", "must be a string with an RFC 3339 instant, not %s", kindOf(v.is()))
		return nil
	}
	n, err := ParseInstant(v.string().decoded())
	if err != nil {
		r.fault(at, "datetime_parsing", "%s", err.Detail)
		return nil
	}
	return &n
}

// limit reads a limit: −1 or more.
func (r *fieldReader) limit(at *fieldPath, v jsonValue, dst *int64) {
	r.number(at, v, dst, Unlimited, MaxLimit)
}

// mapOf reads an object whose keys are the caller's own names.
func (r *fieldReader) mapOf(at *fieldPath, v jsonValue, read func(at *fieldPath, name string, v jsonValue)) bool {
	if !r.object(at, v) {
		return false
	}
	v.each(func(name string, value jsonValue) {
		if n := len([]rune(name)); n < 1 || n > MaxNameChars {
			r.fault(at.under(name), "string_length", "is no name: it must have 1 to %d characters", MaxNameChars)
			return
		}
		read(at.under(name), name, value)
	})
	return true
}
