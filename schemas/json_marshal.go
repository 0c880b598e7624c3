package schemas

import (
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
)

// sortedKeys gives the keys of a map in the order of their text.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// appendJSON adds a value whose types always have a JSON form. The same value gives the
// same bytes: members of a struct in their order, those of a map by name.
func appendJSON(dst []byte, v any) []byte {
	text, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		panic(fmt.Sprintf("JSON of a %T: %v", v, err))
	}
	return append(dst, text...)
}
