package schemas

import (
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

func aguiSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	text, err := os.ReadFile("testdata/agui-lifecycle.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mem:///agui.json", unmarshal(t, text)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("mem:///agui.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every mirror is an event of AG-UI as published, and says what its origin says.
func TestAGUIEventsFollowThePublishedSchema(t *testing.T) {
	schema := aguiSchema(t)
	full := goldenRunEvent()
	for _, c := range []struct {
		step             RunStep
		frame, kind, has string
	}{
		{StepRunStarted, "agui.lifecycle.RunStarted", "RUN_STARTED", `"parentRunId":"run-0"`},
		{StepRunCompleted, "agui.lifecycle.RunFinished", "RUN_FINISHED", `"outcome":{"type":"success"}`},
		{StepRunCancelled, "agui.lifecycle.RunFinished", "RUN_FINISHED", `"outcome":{"type":"cancelled"}`},
		{StepRunFailed, "agui.lifecycle.RunError", "RUN_ERROR", `"code":"E_FILE"`},
		{StepAgentStarted, "agui.lifecycle.StepStarted", "STEP_STARTED", `"stepName":"Writer"`},
		{StepAgentCompleted, "agui.lifecycle.StepFinished", "STEP_FINISHED", `"stepName":"Writer"`},
		{StepToolStarted, "", "", ""},
		{StepToolCompleted, "", "", ""},
	} {
		e := full
		e.Step, e.Status = c.step, c.step.Statuses()[0]
		frame, text, err := AppendAGUI([]byte("x"), "chat-1", RunFact(&e).AppendJSON(nil))
		if err != nil || frame != c.frame {
			t.Errorf("%s: %q, %v", c.step, frame, err)
			continue
		}
		text = text[1:]
		if frame == "" {
			if len(text) != 0 {
				t.Errorf("%s: %s", c.step, text)
			}
			continue
		}
		if err := schema.Validate(unmarshal(t, text)); err != nil {
			t.Errorf("%s: %v\n%s", c.step, err, text)
		}
		for _, want := range []string{`{"type":"` + c.kind + `","timestamp":`, `"threadId":"app-1:chat-1","runId":"run \"1\"`, c.has, `"message":"it failed\n"`, `"kind":"` + c.step.Kind() + `"`} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: %s is not in %s", c.step, want, text)
			}
		}
	}
}

// A law: whatever an event leaves out, its mirror is one that AG-UI takes.
func TestEveryMirrorIsAnAGUIEvent(t *testing.T) {
	schema := aguiSchema(t)
	rapid.Check(t, func(r *rapid.T) {
		e := goldenRunEvent()
		for i, text := range e.texts() {
			if i != 0 && i != 15 && rapid.Bool().Draw(r, "empty") {
				*text = ""
			}
		}
		e.Step = RunStep(rapid.IntRange(int(StepRunStarted), int(StepToolCompleted)).Draw(r, "step"))
		e.Status, e.Implicit = e.Step.Statuses()[0], rapid.Bool().Draw(r, "implicit")
		if rapid.Bool().Draw(r, "no metadata") {
			e.Metadata = nil
		}
		frame, text, err := AppendAGUI(nil, e.RunID, RunFact(&e).AppendJSON(nil))
		if err != nil {
			r.Fatal(err)
		}
		if frame == "" {
			return
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
		if err != nil {
			r.Fatalf("%v: %s", err, text)
		}
		if err := schema.Validate(v); err != nil {
			r.Fatalf("%v: %s", err, text)
		}
	})
	if _, _, err := AppendAGUI(nil, "c", []byte(`{"kind":7}`)); err == nil {
		t.Error("what is no event was mirrored")
	}
}

func FuzzParseLiveResume(f *testing.F) {
	for _, seed := range []string{`{"type":"client.resume","last_sequence":7}`, `{"type":"x"}`, `[]`, ``, `{"type":"client.resume","last_sequence":-0}`, "{\"type\":\"\xff\"}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		n, fault := ParseLiveResume(frame)
		if fault == nil && (!strings.Contains(string(frame), "last_sequence") && !strings.Contains(string(frame), `\u`) || n > 1<<63-1) {
			t.Errorf("%q was taken as %d", frame, n)
		}
		if fault != nil && (n != 0 || fault.Detail == "" || len(fault.Detail) > 2000) {
			t.Errorf("%q: %d %v", frame, n, fault)
		}
	})
}
