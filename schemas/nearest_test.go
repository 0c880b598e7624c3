package schemas

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	known := []string{"from", "to", "group_by", "MOZAIKS_HTTP_ADDR"}
	for name, want := range map[string]string{
		"form": "from", "FROM": "from", "groupby": "group_by", "MOZAIKS_HTPADDRESS": "MOZAIKS_HTTP_ADDR",
		"t": "to", "colour": "", "": "", strings.Repeat("x", 65): "",
	} {
		if got := Nearest(name, known); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}
