package plugins

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestResultIsPassedOnAsItIs(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `null`, `true`, `"text"`, `12`, `-0.50`, `1e400`, `123456789012345678901234567890.10`,
		`{"b":1, "a" : 1.00,"é":"\u00e9\/"}`, `[1,{"error":"deep"}]`, `{"a":{"_usage":[1],"error":1}}`,
		`{"error":null}`, `{"error":false,"x":1}`, `{"error":0}`, `{"error":0.0}`, `{"error":-0}`, `{"error":0e9}`, `{"error":""}`, `{"error":[]}`, `{"error":{ }}`,
		`{"error_code":"X"}`,
	} {
		if a := judge([]byte(" "+text+"\n"), 1<<20); a.Code != "" || string(a.Result) != text || a.Usage != nil {
			t.Errorf("%s: %+v, result %s", text, a, a.Result)
		}
	}
}

func TestResultsWithAnErrorFail(t *testing.T) {
	for _, c := range []struct{ text, code, detail string }{
		{`{"error":"no such item"}`, "PLUGIN_ERROR", "no such item"},
		{`{"error":"no such item","error_code":"NO_ITEM"}`, "NO_ITEM", "no such item"},
		{`{"error_code":"NO_ITEM","x":1,"error":"a\nb"}`, "NO_ITEM", "a\nb"},
		{`{"error":"x","error_code":""}`, "PLUGIN_ERROR", "x"},
		{`{"error":"x","error_code":"not a code"}`, "PLUGIN_ERROR", "x"},
		{`{"error":"x","error_code":404}`, "PLUGIN_ERROR", "x"},
		{`{"error":"x","error_code":null}`, "PLUGIN_ERROR", "x"},
		{`{"error":"x","error_code":"` + strings.Repeat("A", 129) + `"}`, "PLUGIN_ERROR", "x"},
		{`{"error":true}`, "PLUGIN_ERROR", "true"},
		{`{"error":1}`, "PLUGIN_ERROR", "1"},
		{`{"error":" "}`, "PLUGIN_ERROR", " "},
		{`{"error":{"message":"m"}}`, "PLUGIN_ERROR", `{"message":"m"}`},
		{`{"error":[0]}`, "PLUGIN_ERROR", `[0]`},
		{`{"error":"` + strings.Repeat("é", 5000) + `"}`, "PLUGIN_ERROR", strings.Repeat("é", 2048) + "…"},
	} {
		a := judge([]byte(c.text), 1<<20)
		if string(a.Code) != c.code || a.Detail != c.detail || a.Result != nil {
			t.Errorf("%.80s: %s %.80q %s", c.text, a.Code, a.Detail, a.Result)
		}
	}
}

func TestWhatIsNoResult(t *testing.T) {
	for text, want := range map[string]string{
		``: "not JSON: it is empty", ` `: "empty", `{`: "not JSON", `{"a":1}}`: "not JSON", `{"a":1} {}`: "not JSON", `{"a":1,}`: "not JSON", `NaN`: "not JSON", `{"a":NaN}`: "not JSON",
		`{"a":1,"a":2}`: "not JSON", `{"x":{"a":1,"a":2}}`: "not JSON", "\"\xff\"": "not JSON", `"\ud800"`: "not JSON", `{'a':1}`: "not JSON", `[1`: "not JSON", `1 2`: "not JSON",
		`{"a":"` + strings.Repeat("x", 100) + `"}`: "its result has 108 bytes, at most 100 are taken",
	} {
		a := judge([]byte(text), 100)
		if a.Code != "PLUGIN_ERROR" || !strings.HasPrefix(a.Detail, "Error executing plugin: ") || !strings.Contains(a.Detail, want) || a.Result != nil {
			t.Errorf("%.40q: %s %q", text, a.Code, a.Detail)
		}
	}
}

func TestUsageIsTakenOut(t *testing.T) {
	for _, c := range []struct{ text, rest, usage string }{
		{`{"_usage":[1]}`, `{}`, `[1]`},
		{`{ "_usage" : [1] }`, `{ }`, `[1]`},
		{`{"_usage":[1],"a":1.0}`, `{"a":1.0}`, `[1]`},
		{`{ "_usage":[1] , "a":1.0 }`, `{"a":1.0 }`, `[1]`},
		{`{"a":1.0,"_usage":[1]}`, `{"a":1.0}`, `[1]`},
		{`{"a":1.0 , "_usage":[1]
		}`, "{\"a\":1.0\n\t\t}", `[1]`},
		{`{"a":1.0,"_usage":{"x":"}"},"b":2}`, `{"a":1.0,"b":2}`, `{"x":"}"}`},
		{`{"a":1,"\u005fusage":null,"b":2}`, `{"a":1,"b":2}`, `null`},
	} {
		if a := judge([]byte(c.text), 1<<20); a.Code != "" || string(a.Result) != c.rest || string(a.Usage) != c.usage {
			t.Errorf("%s: %+v\n%s\n%s", c.text, a, a.Result, a.Usage)
		}
	}
	if a := judge([]byte(`{"error":"x","_usage":[2]}`), 1<<20); a.Code == "" || string(a.Usage) != `[2]` {
		t.Errorf("usage of a failed call: %+v", a)
	}
}

func TestWithoutUsageEverythingElseStays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-d_]{0,3}`), 0, 5, rapid.ID).Draw(t, "keys")
		at := rapid.IntRange(0, len(keys)).Draw(t, "at")
		blank := rapid.SampledFrom([]string{"", " ", "\n\t"})
		var text strings.Builder
		want := map[string]any{}
		text.WriteString("{" + blank.Draw(t, "blank"))
		for i, key := range slices.Insert(slices.Clone(keys), at, "_usage") {
			if i > 0 {
				text.WriteString("," + blank.Draw(t, "blank"))
			}
			name, _ := json.Marshal(key)
			text.WriteString(string(name) + blank.Draw(t, "blank") + ":" + blank.Draw(t, "blank") + `[1,{"_usage":2}]` + blank.Draw(t, "blank"))
			want[key] = []any{1.0, map[string]any{"_usage": 2.0}}
		}
		text.WriteString("}")
		delete(want, "_usage")
		a := judge([]byte(text.String()), 1<<20)
		var got map[string]any
		if err := json.Unmarshal(a.Result, &got); err != nil || a.Code != "" {
			t.Fatalf("%q becomes %q: %v %s", text.String(), a.Result, err, a.Detail)
		}
		if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
			t.Fatalf("%q becomes %q", text.String(), a.Result)
		}
	})
}

func FuzzResult(f *testing.F) {
	for _, s := range []string{`{"_usage":[],"error":"x"}`, `{"a":1,"_usage":{}}`, `[`, `{"_usage":1}x`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a := judge(text, 1<<16)
		switch {
		case a.Code == "" && !json.Valid(a.Result):
			t.Errorf("%q gives %q", text, a.Result)
		case a.Code != "" && a.Result != nil:
			t.Errorf("%q fails and gives %q", text, a.Result)
		}
	})
}
