package plugins

import (
	"encoding/json"
	"strconv"
	"strings"

	"grout/schemas"
)

// typeOf names the type of a value of a file.
func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return "the text " + shown(v)
	case json.Number:
		return "the number " + v.String()
	case bool:
		return strconv.FormatBool(v)
	case []any:
		return "a list"
	}
	return "an object"
}

// quoteHint says how a number becomes a text.
func quoteHint(v any) string {
	switch v.(type) {
	case json.Number, bool:
		return ": put it in quotes"
	}
	return ""
}

// shown quotes a text of a file, shortened.
func shown(text string) string { return strconv.QuoteToGraphic(shortText(text, 80)) }

// suggestion names the field that was probably meant.
func suggestion(name string, known []string) string {
	if best := schemas.Nearest(name, known); best != "" {
		return " (did you mean " + best + "?)"
	}
	return " (known are " + strings.Join(known, ", ") + ")"
}
