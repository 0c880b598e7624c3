package httpapi

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"grout/schemas"
)

// query is a query string whose parameters are all known and given at most once.
// Faults of values are collected, so that a caller learns all of them at once.
type query struct {
	values url.Values
	faults *[]schemas.FieldError
}

// readQuery refuses what nobody would look at: a misspelt filter would silently
// report somebody else's usage as well.
func readQuery(raw string, known ...string) (query, error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		msg := "The query string cannot be read: " + err.Error()
		return query{}, invalid(msg, schemas.FieldError{Loc: []any{"query"}, Msg: msg, Type: "value_error"})
	}
	q := query{values: values, faults: new([]schemas.FieldError)}
	for name, given := range values {
		switch {
		case !slices.Contains(known, name):
			q.fault(name, "unknown parameter; "+suggestion(name, known), "extra_forbidden")
		case len(given) > 1:
			q.fault(name, name+" is given more than once", "repeated")
		}
	}
	slices.SortFunc(*q.faults, func(a, b schemas.FieldError) int { return strings.Compare(a.Loc[1].(string), b.Loc[1].(string)) })
	return q, q.err()
}

func (q query) get(name string) (string, bool) {
	v, given := q.values[name]
	if !given {
		return "", false
	}
	return v[0], true
}

// text reads a filter of 1 to limit characters. An empty one is a fault: it would
// mean no filter at all.
func (q query) text(name, absent string, limit int) string {
	v, given := q.get(name)
	if !given {
		return absent
	}
	if n := utf8.RuneCountInString(v); !utf8.ValidString(v) || n < 1 || n > limit {
		q.fault(name, name+" must have 1 to "+strconv.Itoa(limit)+" characters of valid UTF-8", "string_length")
		return ""
	}
	return v
}

func queryFault(name, msg, kind string) schemas.FieldError {
	return schemas.FieldError{Loc: []any{"query", name}, Msg: msg, Type: kind}
}

func (q query) fault(name, msg, kind string) {
	*q.faults = append(*q.faults, queryFault(name, msg, kind))
}

// err is what is wrong with the query so far.
func (q query) err() error {
	if len(*q.faults) == 0 {
		return nil
	}
	msgs := make([]string, len(*q.faults))
	for i, f := range *q.faults {
		msgs[i] = f.Msg
		if f.Type == "extra_forbidden" {
			msgs[i] = strconv.QuoteToASCII(f.Loc[1].(string)) + ": " + f.Msg
		}
	}
	return invalid(strings.Join(msgs, "; "), *q.faults...)
}

// suggestion names the parameter that was probably meant.
func suggestion(name string, known []string) string {
	switch best := schemas.Nearest(name, known); {
	case best != "":
		return "did you mean " + best + "?"
	case len(known) == 0:
		return "there are none here"
	}
	return "known are " + strings.Join(known, ", ")
}
