package plugins

import (
	"encoding/json"
	"strconv"
	"strings"
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
	best, distance := "", 3
	if len(name) <= 64 {
		for _, k := range known {
			if d := editDistance(name, k); d < distance {
				best, distance = k, d
			}
		}
	}
	if best != "" {
		return " (did you mean " + best + "?)"
	}
	return " (known are " + strings.Join(known, ", ") + ")"
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
