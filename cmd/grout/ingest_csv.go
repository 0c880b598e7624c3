package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"grout/schemas"
)

// usageEvent is an event as the ingest endpoint reads it (contract §7).
type usageEvent struct {
	EventID         string          `json:"event_id"`
	Timestamp       string          `json:"timestamp"`
	AppID           string          `json:"app_id"`
	UserID          string          `json:"user_id"`
	Model           string          `json:"model"`
	InputTokens     int64           `json:"input_tokens"`
	OutputTokens    int64           `json:"output_tokens"`
	TotalTokens     *int64          `json:"total_tokens,omitempty"`
	CachedTokens    int64           `json:"cached_tokens,omitempty"`
	ReasoningTokens int64           `json:"reasoning_tokens,omitempty"`
	TenantID        string          `json:"tenant_id,omitempty"`
	WorkflowID      string          `json:"workflow_id,omitempty"`
	ChatID          string          `json:"chat_id,omitempty"`
	RunID           string          `json:"run_id,omitempty"`
	AgentName       string          `json:"agent_name,omitempty"`
	InvocationID    string          `json:"invocation_id,omitempty"`
	Cached          bool            `json:"cached,omitempty"`
	Cost            string          `json:"cost,omitempty"`
	DurationSec     float64         `json:"duration_sec,omitempty"`
	Metadata        json.RawMessage `json:"metadata,omitempty"`
}

// row is one record of the file.
type row struct {
	event usageEvent
	at    time.Time // as the file has it
	line  int
	bytes int64 // of the file, with the lines skipped before it
}

// csvField is a field of an event that a column or a constant can fill.
type csvField struct {
	name     string
	aliases  []string // other names of columns, as plainName writes them
	required bool
	set      func(r *row, text string) error
}

var csvFields = []csvField{
	{"event_id", nil, true, words(func(r *row) *string { return &r.event.EventID }, schemas.MaxIDChars)},
	{"timestamp", []string{"time", "ts", "datetime", "eventts", "createdat"}, true, func(r *row, t string) (err error) {
		r.at, err = parseInstant(t)
		return err
	}},
	{"app_id", []string{"app"}, true, words(func(r *row) *string { return &r.event.AppID }, schemas.MaxIDChars)},
	{"user_id", []string{"user"}, true, words(func(r *row) *string { return &r.event.UserID }, schemas.MaxIDChars)},
	{"model", []string{"modelname", "modelid"}, true, words(func(r *row) *string { return &r.event.Model }, schemas.MaxNameChars)},
	{"input_tokens", []string{"contexttokens", "prompttokens", "tokensin"}, true, tokens(func(r *row) *int64 { return &r.event.InputTokens })},
	{"output_tokens", []string{"generatedtokens", "completiontokens", "tokensout"}, true, tokens(func(r *row) *int64 { return &r.event.OutputTokens })},
	{"total_tokens", nil, false, func(r *row, t string) error {
		r.event.TotalTokens = new(int64)
		return tokens(func(r *row) *int64 { return r.event.TotalTokens })(r, t)
	}},
	{"cached_tokens", nil, false, tokens(func(r *row) *int64 { return &r.event.CachedTokens })},
	{"reasoning_tokens", nil, false, tokens(func(r *row) *int64 { return &r.event.ReasoningTokens })},
	{"tenant_id", []string{"tenant"}, false, words(func(r *row) *string { return &r.event.TenantID }, schemas.MaxIDChars)},
	{"workflow_id", []string{"workflow", "workflowname"}, false, words(func(r *row) *string { return &r.event.WorkflowID }, schemas.MaxNameChars)},
	{"chat_id", []string{"chat"}, false, words(func(r *row) *string { return &r.event.ChatID }, schemas.MaxIDChars)},
	{"run_id", []string{"run"}, false, words(func(r *row) *string { return &r.event.RunID }, schemas.MaxIDChars)},
	{"agent_name", []string{"agent"}, false, words(func(r *row) *string { return &r.event.AgentName }, schemas.MaxNameChars)},
	{"invocation_id", nil, false, words(func(r *row) *string { return &r.event.InvocationID }, schemas.MaxIDChars)},
	{"cached", nil, false, func(r *row, t string) (err error) {
		if r.event.Cached, err = strconv.ParseBool(t); err != nil {
			return fmt.Errorf("%q is neither true nor false", t)
		}
		return nil
	}},
	{"cost", nil, false, words(func(r *row) *string { return &r.event.Cost }, schemas.MaxIDChars)},
	{"duration_sec", []string{"duration", "durationseconds"}, false, func(r *row, t string) (err error) {
		d, err := strconv.ParseFloat(t, 64)
		if err != nil || d < 0 || math.IsNaN(d) || math.IsInf(d, 0) {
			return fmt.Errorf("%q is not a number of seconds", t)
		}
		r.event.DurationSec = d
		return nil
	}},
	{"metadata", nil, false, func(r *row, t string) error {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(t)); err != nil || t[0] != '{' {
			return fmt.Errorf("%q is not a JSON object", abbreviate(t))
		}
		r.event.Metadata = compact.Bytes()
		return nil
	}},
}

func fieldByName(name string) *csvField {
	if i := slices.IndexFunc(csvFields, func(f csvField) bool { return f.name == name }); i >= 0 {
		return &csvFields[i]
	}
	return nil
}

func words(field func(*row) *string, most int) func(*row, string) error {
	return func(r *row, t string) error {
		if !utf8.ValidString(t) {
			return errors.New("is not UTF-8 text")
		}
		if n := utf8.RuneCountInString(t); n > most {
			return fmt.Errorf("has %d characters; at most %d are allowed", n, most)
		}
		*field(r) = t
		return nil
	}
}

func tokens(field func(*row) *int64) func(*row, string) error {
	return func(r *row, t string) error {
		n, err := strconv.ParseUint(t, 10, 63)
		if err != nil || n > schemas.MaxTokenCount {
			return fmt.Errorf("%q is not a whole number from 0 to %d", abbreviate(t), schemas.MaxTokenCount)
		}
		*field(r) = int64(n)
		return nil
	}
}

func abbreviate(t string) string {
	if len(t) <= 60 {
		return t
	}
	return strings.ToValidUTF8(t[:60], "") + "…"
}

// parseInstant reads RFC 3339, the same with a blank for the T and with or
// without a zone (then UTC), and seconds or milliseconds since 1970.
func parseInstant(t string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02T15:04:05"} {
		if at, err := time.Parse(layout, t); err == nil {
			return usable(t, at.UTC())
		}
	}
	whole, fraction, _ := strings.Cut(t, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	switch nanos, ferr := strconv.ParseUint((fraction + "000000000")[:9], 10, 32); {
	case err != nil || ferr != nil || len(fraction) > 9:
	case n < 1e11:
		return usable(t, time.Unix(int64(n), int64(nanos)).UTC())
	case n < 1e14 && fraction == "":
		return usable(t, time.UnixMilli(int64(n)).UTC())
	}
	return time.Time{}, fmt.Errorf("%q is not an instant; use RFC 3339, 2006-01-02 15:04:05 (UTC), or seconds or milliseconds since 1970", abbreviate(t))
}

// usable keeps instants where differences fit a time.Duration.
func usable(t string, at time.Time) (time.Time, error) {
	if y := at.Year(); y < 1970 || y >= 2200 {
		return time.Time{}, fmt.Errorf("%q is not between the years 1970 and 2200", abbreviate(t))
	}
	return at, nil
}

// csvPlan says how the records of a file become events.
type csvPlan struct {
	columns    map[string]string // field → column name; an empty name leaves the field alone
	constant   map[string]string // field → value for every row
	idPrefix   string            // of the ids of rows without an event_id
	defaultApp string            // when neither says which app
}

// badRow is a record that cannot be an event.
type badRow struct {
	line   int
	column string // empty when it concerns the whole record
	err    error
	unit   string // what line counts [line]
	part   string // what column names [column]
}

func (e *badRow) Error() string {
	unit, part := cmp.Or(e.unit, "line"), cmp.Or(e.part, "column")
	if e.column == "" {
		return fmt.Sprintf("%s %d: %v", unit, e.line, e.err)
	}
	return fmt.Sprintf("%s %d, %s %s: %v", unit, e.line, part, e.column, e.err)
}

// csvSource reads events from a CSV file, one record at a time.
type csvSource struct {
	in       *csv.Reader
	template row
	columns  []csvColumn // in the order of the table of fields
	idPrefix string
	records  int64
	offset   int64 // bytes read up to and including the last row
}

type csvColumn struct {
	field *csvField
	index int
	name  string
}

// newCSVSource reads the header and settles which column fills which field.
func newCSVSource(file io.Reader, plan csvPlan) (*csvSource, error) {
	buffered := bufio.NewReaderSize(file, 1<<16)
	s := &csvSource{idPrefix: plan.idPrefix}
	if err := skipMark(buffered); err != nil {
		return nil, err
	}
	s.in = csv.NewReader(buffered)
	s.in.ReuseRecord = true
	header, err := s.in.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("is empty; the first line must name the columns")
	}
	if err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	header = slices.Clone(header)
	for i := range header {
		header[i] = strings.TrimSpace(header[i])
	}
	if err := s.template.fill(plan); err != nil {
		return nil, err
	}
	for i := range csvFields {
		f := &csvFields[i]
		index, err := columnOf(f, header, plan)
		if err != nil {
			return nil, err
		}
		switch _, constant := plan.constant[f.name]; {
		case index >= 0:
			s.columns = append(s.columns, csvColumn{f, index, header[index]})
		case f.name == "app_id" && !constant && plan.defaultApp != "":
			s.template.event.AppID = plan.defaultApp
		case f.required && !constant && f.name != "event_id":
			return nil, usagef("no column for %s among %s; name one with --map %s=Column or give a value with --set %s=value",
				f.name, strings.Join(header, ", "), f.name, f.name)
		}
	}
	return s, nil
}

// fill sets the fields that have one value for every row.
func (r *row) fill(plan csvPlan) error {
	for name, text := range plan.constant {
		if text == "" {
			return usagef("value for %s is empty", name)
		}
		if err := fieldByName(name).set(r, text); err != nil {
			return usagef("value for %s: %w", name, err)
		}
	}
	return nil
}

// columnOf finds the column of a field: the one that was named, else the one
// called like the field, else the only one with another usual name.
func columnOf(f *csvField, header []string, plan csvPlan) (int, error) {
	wanted, named := plan.columns[f.name]
	if _, constant := plan.constant[f.name]; constant || named && wanted == "" {
		return -1, nil
	}
	rules := []func(string) bool{
		func(h string) bool { return plainName(h) == plainName(f.name) },
		func(h string) bool { return slices.Contains(f.aliases, plainName(h)) },
	}
	if named {
		rules = []func(string) bool{
			func(h string) bool { return h == wanted },
			func(h string) bool { return strings.EqualFold(h, wanted) },
		}
	}
	for _, rule := range rules {
		found := -1
		for i, h := range header {
			if !rule(h) {
				continue
			}
			if found >= 0 {
				return -1, usagef("columns %s and %s could both be %s; choose with --map %s=Column", header[found], h, f.name, f.name)
			}
			found = i
		}
		if found >= 0 {
			return found, nil
		}
	}
	if named {
		return -1, usagef("no column %s for %s; the file has %s", wanted, f.name, strings.Join(header, ", "))
	}
	return -1, nil
}

// plainName reduces a column's name to what matters in it.
func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

// mapping describes the settled columns, as --map would name them.
func (s *csvSource) mapping() string {
	parts := make([]string, len(s.columns))
	for i, c := range s.columns {
		parts[i] = c.field.name + "=" + c.name
	}
	return strings.Join(parts, ",")
}

// next gives the next record; io.EOF after the last one, and *badRow for one
// that is no event, after which it can go on.
func (s *csvSource) next() (row, error) {
	record, err := s.in.Read()
	if errors.Is(err, io.EOF) {
		return row{}, io.EOF
	}
	s.records++
	if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
		return row{}, &badRow{line: parse.StartLine, err: fmt.Errorf("%w (at line %d, byte %d)", parse.Err, parse.Line, parse.Column)}
	}
	if err != nil {
		return row{}, err
	}
	r := s.template
	r.line, _ = s.in.FieldPos(0)
	r.bytes = s.in.InputOffset() - s.offset
	s.offset += r.bytes
	for _, c := range s.columns {
		text := strings.TrimSpace(record[c.index])
		if text == "" {
			if c.field.required {
				return row{}, &badRow{line: r.line, column: c.name, err: fmt.Errorf("is empty, but %s is required", c.field.name)}
			}
			continue
		}
		if err := c.field.set(&r, text); err != nil {
			return row{}, &badRow{line: r.line, column: c.name, err: err}
		}
	}
	if r.event.EventID == "" {
		r.event.EventID = s.idPrefix + "-" + strconv.FormatInt(s.records, 10)
	}
	return r, nil
}
