package plugins

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"grout/schemas"
)

// Keys of a result that grout reads (contract §4).
const (
	keyError     = "error"
	keyErrorCode = "error_code"
	keyUsage     = "_usage"
)

// judge makes the answer of what a plugin gave back. A result is passed on byte for byte,
// but for its key _usage.
func judge(text []byte, most int64) Answer {
	text = bytes.Trim(text, " \t\r\n")
	if int64(len(text)) > most {
		return noResult(fmt.Errorf("its result has %d bytes, at most %d are taken", len(text), most))
	}
	r, err := readResult(text)
	if err != nil {
		return noResult(fmt.Errorf("its result is not JSON: %w", err))
	}
	a := Answer{Usage: bytes.Clone(r.usage.value)}
	if !truthy(r.fault) {
		a.Result = r.without(r.usage)
		return a
	}
	a.Code, a.Detail = schemas.CodePluginError, shortText(plain(r.fault), maxDetail)
	if code := plain(r.code); len(r.code) > 0 && r.code[0] == '"' && ownCode(code) {
		a.Code = schemas.Code(code)
	}
	return a
}

func noResult(err error) Answer {
	return Answer{Code: schemas.CodePluginError, Detail: errorExecuting(err.Error())}
}

var codeShape = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,127}$`)

// ownCode reports whether a plugin can have this as a code of its own.
func ownCode(code string) bool { return codeShape.MatchString(code) }

// member is where a member of an object stands in its text.
type member struct {
	from, to int    // from behind the value before it, or the brace, to its own end
	first    bool   // nothing is before it
	value    []byte // nil: there is none
}

// resultText is a result that was read.
type resultText struct {
	text        []byte
	fault, code []byte
	usage       member
}

// readResult reads a result, which must be one JSON value: UTF-8, every key once.
func readResult(text []byte) (resultText, error) {
	r := resultText{text: text}
	if len(text) == 0 {
		return r, errors.New("it is empty")
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(text))
	if text[0] != '{' {
		if err := d.SkipValue(); err != nil {
			return r, err
		}
		return r, ended(d)
	}
	if _, err := d.ReadToken(); err != nil {
		return r, err
	}
	for first := true; d.PeekKind() == '"'; first = false {
		from := int(d.InputOffset())
		key, err := d.ReadToken()
		if err != nil {
			return r, err
		}
		name := key.String()
		value, err := d.ReadValue()
		if err != nil {
			return r, err
		}
		switch to := int(d.InputOffset()); name {
		case keyError:
			r.fault = bytes.Clone(value)
		case keyErrorCode:
			r.code = bytes.Clone(value)
		case keyUsage:
			r.usage = member{from: from, to: to, first: first, value: bytes.Clone(value)}
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return r, err
	}
	return r, ended(d)
}

// ended tells whether nothing follows.
func ended(d *jsontext.Decoder) error {
	_, err := d.ReadToken()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = errors.New("something follows it")
	}
	return err
}

// without gives the text without a member.
func (r *resultText) without(m member) []byte {
	if m.value == nil {
		return r.text
	}
	head, tail := r.text[:m.from], r.text[m.to:]
	if m.first { // the comma that follows goes, too
		rest := bytes.TrimLeft(tail, " \t\r\n")
		if rest[0] == ',' {
			tail = bytes.TrimLeft(rest[1:], " \t\r\n")
		}
	}
	return append(bytes.Clone(head), tail...)
}

// truthy reports whether Python takes a value for true; no value is not.
func truthy(value []byte) bool {
	if len(value) == 0 {
		return false
	}
	switch value[0] {
	case 'n', 'f':
		return false
	case '"', '{', '[':
		inner := bytes.Trim(value[1:len(value)-1], " \t\r\n")
		return len(inner) > 0 || value[0] == '"' && len(value) > 2
	case 't':
		return true
	}
	n, err := strconv.ParseFloat(string(value), 64)
	return n != 0 || err != nil && n != 0
}

// plain is a value as people read it: a text without its quotes.
func plain(value []byte) string {
	if len(value) > 0 && value[0] == '"' {
		if text, err := jsontext.AppendUnquote(nil, value); err == nil {
			return string(text)
		}
	}
	return string(value)
}
