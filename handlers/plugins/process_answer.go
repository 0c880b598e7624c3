package plugins

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"grout/schemas"
)

// readReady reads what ends the handshake.
func readReady(line []byte) (python string, err error) {
	a := readAnswer(line)
	switch {
	case a.err != nil:
		err = fmt.Errorf(`it did not say {"ready":true}: %w`, a.err)
	case a.fault != "":
		err = errors.New(a.fault)
	case !a.ready:
		err = errors.New(`it did not say {"ready":true} when it was greeted`)
	}
	return a.python, err
}

// answer is a line of the plugin that ends a call.
type answer struct {
	ready  bool
	python string // of the shim: what it runs by
	call   string
	result []byte
	fault  string
	code   schemas.Code
	err    error
}

// readAnswer reads such a line. Members that grout does not know are passed over.
func readAnswer(line []byte) answer {
	var a answer
	d := jsontext.NewDecoder(bytes.NewBuffer(line), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return answer{err: errors.New("it wrote something that is not a JSON object")}
	}
	for d.PeekKind() == '"' {
		key, err := d.ReadToken()
		if err != nil {
			return answer{err: fmt.Errorf("its answer is not JSON: %w", err)}
		}
		name := key.String()
		value, err := d.ReadValue()
		if err != nil {
			return answer{err: fmt.Errorf("its answer is not JSON: %w", err)}
		}
		switch name {
		case "ready":
			a.ready = string(value) == "true"
		case "python":
			a.python = plain(value)
		case "call":
			a.call = plain(value)
		case "result":
			a.result = bytes.Clone(value)
		case "error":
			if string(value) != "null" {
				a.fault = shortText(plain(value), 2*maxDetail)
			}
			if value[0] == '"' && a.fault == "" {
				a.fault = "it failed without a text"
			}
		case "error_code":
			if value[0] == '"' {
				a.code = schemas.Code(plain(value))
			}
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return answer{err: fmt.Errorf("its answer is not JSON: %w", err)}
	}
	if err := ended(d); err != nil {
		return answer{err: fmt.Errorf("its answer is not JSON: %w", err)}
	}
	return a
}

// readPublication reads {"publish":{"name":…,"data":…,"ack":…}}.
func readPublication(line []byte) (name string, data []byte, ack bool, err error) {
	var said struct {
		Publish struct {
			Name string          `json:"name"`
			Data json.RawMessage `json:"data"`
			Ack  bool            `json:"ack"`
		} `json:"publish"`
	}
	if err := json.Unmarshal(line, &said); err != nil {
		return "", nil, false, fmt.Errorf("what it publishes is not JSON: %w", err)
	}
	if said.Publish.Name == "" {
		return "", nil, said.Publish.Ack, errors.New("what it publishes has no name")
	}
	if len(said.Publish.Data) == 0 {
		said.Publish.Data = json.RawMessage("{}")
	}
	return said.Publish.Name, said.Publish.Data, said.Publish.Ack, nil
}

// oneLine puts JSON on one line: line feeds are only between its values.
func oneLine(text []byte) []byte {
	if len(text) == 0 {
		return []byte("{}")
	}
	if !bytes.ContainsAny(text, "\r\n") {
		return text
	}
	return bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, text)
}
