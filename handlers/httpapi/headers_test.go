package httpapi

import (
	"strings"
	"testing"
)

func TestPrefersAsync(t *testing.T) {
	for _, c := range []struct {
		headers []string
		want    bool
	}{
		{nil, false},
		{[]string{"respond-async"}, true},
		{[]string{"Respond-Async"}, true},
		{[]string{" respond-async ; foo=bar"}, true},
		{[]string{"wait=10, respond-async"}, true},
		{[]string{"wait=10", "respond-async"}, true},
		{[]string{`respond-async=""`}, true},
		{[]string{`respond-async=yes`}, false},
		{[]string{"respond-asynchronously"}, false},
		{[]string{`foo="a, respond-async"`}, false},
		{[]string{`foo="a\", respond-async, b"`}, false},
		{[]string{`foo="a\\", respond-async`}, true},
		{[]string{"foo;respond-async"}, false},
		{[]string{`"`}, false},
		{[]string{",,;,=,"}, false},
	} {
		if got := prefersAsync(c.headers); got != c.want {
			t.Errorf("%q gives %v", c.headers, got)
		}
	}
}

func TestTraceParent(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for text, want := range map[string]string{
		good: good, "": "", good[:54]: "", good + "-x": "", strings.ToUpper(good): "", "ff" + good[2:]: "",
		"01" + good[2:]: good, "01" + good[2:] + "-more": good, "01" + good[2:] + "more": "",
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": "", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": "",
		"00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01": "", "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01": "",
	} {
		if got := traceParent(text); got != want {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
}
