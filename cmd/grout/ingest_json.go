package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// eventSource reads the events of a file.
type eventSource interface {
	// next gives the next event; io.EOF after the last one, and *badRow for what is
	// none, after which it can go on.
	next() (row, error)
	// mapping describes which column fills which field; empty when keys do.
	mapping() string
}

// Formats of files.
const (
	formatCSV    = "csv"
	formatNDJSON = "ndjson"
	formatJSON   = "json"
)

func newSource(file io.Reader, format string, plan csvPlan) (eventSource, error) {
	if format == formatCSV {
		return newCSVSource(file, plan)
	}
	s := &jsonSource{plan: plan, unit: "line"}
	if err := s.template.fill(plan); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(file, 1<<16)
	if err := skipMark(in); err != nil {
		return nil, err
	}
	if format == formatNDJSON {
		s.read = (&lineReader{in: in}).next
		return s, nil
	}
	s.unit = "event"
	list := &listReader{in: jsontext.NewDecoder(in, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
	s.read = list.next
	return s, list.open()
}

// skipMark passes over a byte order mark.
func skipMark(in *bufio.Reader) error {
	if mark, _ := in.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, err := in.Discard(len(mark))
		return err
	}
	return nil
}

// piece is the text of one event.
type piece struct {
	text   []byte // valid until the next one is read
	number int    // line, or event of the list, from 1
	bytes  int64  // of the file, with what was skipped before it
}

// jsonSource reads events from JSON objects whose keys are taken like columns.
type jsonSource struct {
	read     func() (piece, error)
	unit     string // what the number of a piece counts
	plan     csvPlan
	template row

	keys    string      // for which columns were settled
	columns []csvColumn // of objects with these keys
}

func (s *jsonSource) mapping() string { return "" }

func (s *jsonSource) bad(p piece, key string, err error) *badRow {
	return &badRow{line: p.number, column: key, err: err, unit: s.unit, part: "key"}
}

func (s *jsonSource) next() (row, error) {
	p, err := s.read()
	if bad := (*badRow)(nil); errors.As(err, &bad) || err != nil {
		return row{}, err
	}
	var fields map[string]jsontext.Value // repeated keys and bad UTF-8 are errors
	if err := json.Unmarshal(p.text, &fields); err != nil {
		return row{}, s.bad(p, "", fmt.Errorf("is no JSON object: %w", err))
	}
	if fields == nil {
		return row{}, s.bad(p, "", errors.New("is null and no object"))
	}
	if err := s.settle(fields); err != nil {
		return row{}, err
	}
	r := s.template
	r.line, r.bytes = p.number, p.bytes
	given := map[string]bool{}
	for _, c := range s.columns {
		text, err := plainText(fields[c.name])
		if err == nil && text == "" {
			if !c.field.required {
				continue
			}
			err = fmt.Errorf("is empty, but %s is required", c.field.name)
		}
		if err == nil {
			err = c.field.set(&r, text)
		}
		if err != nil {
			return row{}, s.bad(p, c.name, err)
		}
		given[c.field.name] = true
	}
	return r, s.complete(&r, p, given)
}

// complete fills in what the object does not say, as far as that is known.
func (s *jsonSource) complete(r *row, p piece, given map[string]bool) error {
	if r.event.AppID == "" {
		r.event.AppID = s.plan.defaultApp
		given["app_id"] = s.plan.defaultApp != ""
	}
	if r.event.EventID == "" {
		if s.plan.idPrefix == "" {
			return s.bad(p, "", errors.New("has no event_id, and standard input has no name to make one of; give --event-id-prefix"))
		}
		r.event.EventID = s.plan.idPrefix + "-" + strconv.Itoa(p.number)
	}
	for i := range csvFields {
		f := &csvFields[i]
		_, constant := s.plan.constant[f.name]
		if f.required && f.name != "event_id" && !constant && !given[f.name] {
			return s.bad(p, "", fmt.Errorf("has no %s; name its key with --map %s=Key or give a value with --set %s=value", f.name, f.name, f.name))
		}
	}
	return nil
}

// settle finds which key fills which field. Most objects have the keys of the one
// before.
func (s *jsonSource) settle(fields map[string]jsontext.Value) error {
	header := make([]string, 0, len(fields))
	for key, value := range fields {
		if value.Kind() != 'n' {
			header = append(header, key)
		}
	}
	slices.Sort(header)
	keys := strings.Join(header, "\x00")
	if keys == s.keys && s.columns != nil {
		return nil
	}
	s.keys, s.columns = keys, []csvColumn{}
	for i := range csvFields {
		f := &csvFields[i]
		wanted := s.plan.columns[f.name]
		if wanted != "" && !slices.ContainsFunc(header, func(h string) bool { return strings.EqualFold(h, wanted) }) {
			continue // not in this object
		}
		index, err := columnOf(f, header, s.plan)
		if err != nil {
			return err
		}
		if index >= 0 {
			s.columns = append(s.columns, csvColumn{f, index, header[index]})
		}
	}
	return nil
}

// plainText gives a value as a CSV file would hold it.
func plainText(v jsontext.Value) (string, error) {
	if v.Kind() != '"' {
		return string(v), nil
	}
	var text string
	err := json.Unmarshal(v, &text)
	return strings.TrimSpace(text), err
}
