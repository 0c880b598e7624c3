package plugins

import (
	"strings"
	"testing"
)

func TestReadAnswer(t *testing.T) {
	for text, want := range map[string]answer{
		`{"ready":true}`:                    {ready: true},
		`{"result":{"a":[1]},"extra":2}`:    {result: []byte(`{"a":[1]}`)},
		`{"call":"x","result":null}`:        {call: "x", result: []byte("null")},
		`{"error":"no","error_code":"E_X"}`: {fault: "no", code: "E_X"},
		`{"error":{"a":1}}`:                 {fault: `{"a":1}`},
		`{"error":"","result":1}`:           {result: []byte("1"), fault: "it failed without a text"},
		`{"error":null,"result":1}`:         {result: []byte("1")},
		`{"error":"x","error_code":7}`:      {fault: "x"},
		` { "result" : "a\\nb" } `:          {result: []byte(`"a\\nb"`)},
	} {
		got := readAnswer([]byte(text))
		if got.err != nil || got.ready != want.ready || got.call != want.call || string(got.result) != string(want.result) || got.fault != want.fault || got.code != want.code {
			t.Errorf("%s: %+v", text, got)
		}
	}
	for _, text := range []string{"", "x", "[]", "1", `{`, `{"result":`, `{"result":1`, `{"result":1}}`, `{"result":1} 2`, `{"result" 1}`, `{1:2}`} {
		if got := readAnswer([]byte(text)); got.err == nil {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func TestOneLine(t *testing.T) {
	if got := string(oneLine([]byte("{\n\"a\":\r\n\"é\"}"))); got != "{ \"a\":  \"é\"}" {
		t.Errorf("got %q", got)
	}
	if got := string(oneLine(nil)); got != "{}" {
		t.Errorf("got %q", got)
	}
	long := strings.Repeat("x", 10)
	if got := string(oneLine([]byte(long))); got != long {
		t.Errorf("got %q", got)
	}
}
