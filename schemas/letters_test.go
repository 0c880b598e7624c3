package schemas

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

func TestLetterID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(label string) (Cause, uint32, OriginalMessage) {
			text := rapid.SampledFrom([]string{"", "a", "ab", "b", "a\x00", "//mozaiks.ai/grout/http"})
			return Cause{text.Draw(t, label+" id"), text.Draw(t, label+" source")}, rapid.Uint32Range(0, 2).Draw(t, label+" n"),
				OriginalMessage{Subject: text.Draw(t, label+" subject"), Data: []byte(text.Draw(t, label+" data")), Sequence: rapid.Uint64().Draw(t, label+" sequence")}
		}
		a, m, x := draw("a")
		b, n, y := draw("b")
		same := a == b && m == n && x.Subject == y.Subject && string(x.Data) == string(y.Data)
		if (LetterID(a, m, &x) == LetterID(b, n, &y)) != same {
			t.Fatalf("%v %d %+v and %v %d %+v", a, m, x, b, n, y)
		}
		if LetterID(a, m, &x) == FactID(a, m) || len(LetterID(a, m, &x)) > MaxIDChars {
			t.Fatal("the id of a letter is one of a fact")
		}
	})
}

func TestLetterPayloads(t *testing.T) {
	retry := LetterRetry{ID: "l", Frame: CommandFrame{Kind: "usage.void", AppID: "a", ID: "c", Source: "s", Time: -5, Accepted: 7, CorrelationID: "x", TraceParent: "y", Payload: []byte{1, 2}}}
	drop := LetterDrop{ID: "l"}
	var gotRetry LetterRetry
	var gotDrop LetterDrop
	if err := gotRetry.DecodePayload(retry.EncodePayload(nil)); err != nil || cmp.Diff(retry, gotRetry) != "" {
		t.Errorf("%v %s", err, cmp.Diff(retry, gotRetry))
	}
	if err := gotDrop.DecodePayload(drop.EncodePayload(nil)); err != nil || gotDrop != drop {
		t.Errorf("%v %+v", err, gotDrop)
	}
	for _, b := range [][]byte{nil, {1}, {2, 1, 'l'}, append(drop.EncodePayload(nil), 0)} {
		if err := new(LetterDrop).DecodePayload(b); err == nil {
			t.Errorf("drop: %x is taken", b)
		}
	}
	two := AppendGroup(appendText([]byte{1}, "l"), []CommandFrame{retry.Frame, retry.Frame})
	for _, b := range [][]byte{nil, {1}, two, append(retry.EncodePayload(nil), 0), retry.EncodePayload(nil)[:20]} {
		if err := new(LetterRetry).DecodePayload(b); err == nil {
			t.Errorf("retry: %x is taken", b)
		}
	}
	if n := len(retry.EncodePayload(nil)) - retry.Frame.FrameSize(); n > RetryRoom/2 {
		t.Errorf("a retry takes %d bytes more than its command", n)
	}
}

func TestLetterJSON(t *testing.T) {
	l := Letter{
		Status: LetterRetried, ID: "l", AppID: "a", Kind: "usage.void", Code: CodePoison, Reason: "r", Attempts: 2, FiledAt: 1e18, DiedAt: 1e18, ClosedAt: 2e18,
		Cause: Cause{"c", "s"}, Subject: "mozaiks.v1.grp.0", Sequence: 3, Bytes: 4, Outcome: CommandOutcome{Body: []byte(`{"a":1}`)},
	}
	schema := compile(t, "letter.json", nil, "")
	for _, l := range []Letter{l, {Status: LetterWaiting, ID: "l", Attempts: 1}, {Status: LetterRetried, ID: "l", Attempts: 1, Outcome: CommandOutcome{Code: CodeNotFound, Detail: "d"}}} {
		text := l.AppendJSON(nil)
		if err := schema.Validate(unmarshal(t, text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if text := string(l.AppendJSON(nil)); !strings.Contains(text, `"outcome":{"code":null,"detail":null,"result":{"a":1}}`) {
		t.Error(text)
	}
	for _, s := range []LetterStatus{LetterWaiting, LetterRetried, LetterDropped} {
		if got, ok := LetterStatusNamed(s.String()); !ok || got != s {
			t.Errorf("%s: %v %v", s, got, ok)
		}
	}
	for _, name := range []string{"", "all", "gone"} {
		if _, ok := LetterStatusNamed(name); ok {
			t.Errorf("%q is a status", name)
		}
	}
}

func TestServiceRequests(t *testing.T) {
	for _, x := range []struct{ data, app, id, code string }{
		{`{"run_id":"r"}`, "", "r", ""},
		{`{"run_id":"r","app_id":"a","more":[1]}`, "a", "r", ""},
		{`{"run_id":"r","app_id":null}`, "", "r", ""},
		{`{}`, "", "", "VALIDATION_ERROR"},
		{`{"run_id":""}`, "", "", "VALIDATION_ERROR"},
		{`{"run_id":1}`, "", "", "VALIDATION_ERROR"},
		{`{"run_id":"` + strings.Repeat("x", 129) + `"}`, "", "", "VALIDATION_ERROR"},
		{`[]`, "", "", "VALIDATION_ERROR"},
		{``, "", "", "INVALID_JSON"},
		{`{"run_id":"a","run_id":"b"}`, "", "", "INVALID_JSON"},
		{"{\"run_id\":\"\xff\"}", "", "", "INVALID_JSON"},
	} {
		app, id, err := ParseServiceID([]byte(x.data), "run_id")
		code := ""
		if err != nil {
			code = string(err.Code)
		}
		if code != x.code || code == "" && (app != x.app || id != x.id) {
			t.Errorf("%s: %q %q %v", x.data, app, id, err)
		}
	}
	for data, good := range map[string]bool{
		`{"plugin":"p","user_id":"u","data":{"x":1}}`: true, `{"plugin":"p","user_id":"u"}`: false, `{"user_id":"u","data":{}}`: false,
		`{"plugin":"p","data":{}}`: false, `{"plugin":"p","user_id":"u","data":"x"}`: false, `{"plugin":"p","user_id":"u","data":null}`: false,
	} {
		x, err := ParseServiceExecution([]byte(data))
		if (err == nil) != good || good && (x.Plugin != "p" || x.UserID != "u" || string(x.Data) != `{"x":1}`) {
			t.Errorf("%s: %+v %v", data, x, err)
		}
	}
	got, err := ParseServiceQuery([]byte(`{"a":"x","b":["y","z"],"c":5,"d":null}`), "a", "b", "c", "d")
	if want := map[string]string{"a": "x", "b": "y,z", "c": "5"}; err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v %v", got, err)
	}
	for _, data := range []string{`{"e":1}`, `{"a":true}`, `{"a":{}}`, `{"a":[1]}`, `5`, `{"a":"` + strings.Repeat("x", 257) + `"}`} {
		if _, err := ParseServiceQuery([]byte(data), "a"); err == nil {
			t.Errorf("%s is taken", data)
		}
	}
}

// TestServiceSchemasStandAlone: what services tell of themselves has no references out.
func TestServiceSchemasStandAlone(t *testing.T) {
	for _, name := range []string{"check-result", "usage-report", "run", "service-usage"} {
		text := ServiceSchema(name, map[string]any{"more": map[string]any{"type": "string"}}, "more")
		var doc map[string]any
		if err := json.Unmarshal([]byte(text), &doc); err != nil {
			t.Fatal(err)
		}
		for _, ref := range refsOf(doc) {
			path, local := strings.CutPrefix(ref, "#/")
			if !local || at(doc, strings.Split(path, "/")...) == nil {
				t.Errorf("%s: %q leads nowhere", name, ref)
			}
		}
		if required, _ := doc["required"].([]any); !slices.Contains(required, any("more")) {
			t.Errorf("%s: required are %v", name, required)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource("mem:///x", unmarshal(t, []byte(text))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Compile("mem:///x"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if JSONSchema("run") == nil || strings.Contains(string(JSONSchema("run")), "$defs") {
		t.Error("the schema itself has changed")
	}
}
