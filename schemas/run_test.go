package schemas

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// goldenRunEvent says everything that an event can say.
func goldenRunEvent() RunEvent {
	return RunEvent{
		Index: 3, Step: StepRunFailed, Status: RunFailed, RunID: "run \"1\"", EventID: "e-1", AppID: "app-1", Timestamp: goldenInstant, Sequence: 7, Attempt: 2,
		ChatID: "chat-1", UserID: "u", TenantID: "t", Plugin: "notes", WorkflowName: "invoice", ParentRunID: "run-0", Agent: "Writer", PreviousAgent: "Reader",
		Tool: "search", Message: "it failed\n", Summary: "none", Error: "no such file", Code: "E_FILE", HasCost: true, HasTokens: true,
		Cost: AmountOf(12_500_000), TotalTokens: 2000, Metadata: []byte(`{"a":1}`),
	}
}

func goldenRun() *Run {
	return &Run{
		ID: "run-1", AppID: "app-1", UserID: "u", TenantID: "t", ChatID: "chat-1", Plugin: "notes", Status: RunFailed, Attempt: 2,
		Error: "no such file", Code: string(CodePluginError),
		Execution: &Execution{Action: "create", Consumes: map[string]int64{"items": 2, "b": 1}, DurationMs: 12},
	}
}

// runSamples has data of the facts about runs and executions.
func runSamples() map[string]func([]byte) []byte {
	samples := map[string]func([]byte) []byte{
		PluginExecuted.Name: ExecutedFact(goldenRun()).AppendJSON,
		PluginFailed.Name:   ExecutionErrorFact(goldenRun()).AppendJSON,
	}
	for step := StepRunStarted; step <= StepToolCompleted; step++ {
		e := RunEvent{Step: step, Status: step.Statuses()[0], RunID: "run-1", EventID: "e-1", AppID: "app-1", Timestamp: goldenInstant, Sequence: 1, Attempt: 1}
		if step == StepRunFailed {
			e = goldenRunEvent()
		}
		samples[step.Kind()] = RunFact(&e).AppendJSON
	}
	return samples
}

func TestRunFactsFollowTheirSchemas(t *testing.T) {
	for kind, data := range runSamples() {
		name := kind
		if strings.HasPrefix(kind, orchestration) {
			name = "run-event"
		}
		if err := compile(t, name+".json", nil, "").Validate(unmarshal(t, data(nil))); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	published := PublishedFact(goldenRun(), &PluginPublication{Name: "report.ready", Data: []byte(`[1]`)}).AppendJSON(nil)
	if err := compile(t, "plugin-published.json", nil, "").Validate(unmarshal(t, published)); err != nil {
		t.Error(err)
	}
	golden(t, "plugin_published_v1.golden", append(published, '\n'))
}

// Every step has its kind, and says what it may say.
func TestRunSteps(t *testing.T) {
	for step := StepRunStarted; step <= StepToolCompleted; step++ {
		ended := step.Ends() != RunInProgress
		if ended && (EndStep(step.Ends()) != step || step.Statuses()[0] != step.Ends() || len(step.Statuses()) != 1) {
			t.Errorf("%s ends as %s", step, step.Ends())
		}
		if ended != step.Ends().Ended() {
			t.Errorf("%s: %s", step, step.Ends())
		}
		if !slices.Contains(FactKinds(), step.Kind()) {
			t.Errorf("no kind of fact tells of %s", step)
		}
		if runStepKinds[step-1] != step.Kind() {
			t.Errorf("%s is read as %s", step.Kind(), runStepKinds[step-1])
		}
	}
	for s := RunInProgress; s <= RunCancelled; s++ {
		if got, ok := RunStatusNamed(s.String()); !ok || got != s {
			t.Errorf("%s is read as %s", s, got)
		}
	}
	for _, name := range []string{"", "running", "Completed"} {
		if s, ok := RunStatusNamed(name); ok {
			t.Errorf("%q is %s", name, s)
		}
	}
}

func runPayloads() map[string]payload {
	usage := goldenUsageEvents()[0]
	return map[string]payload{
		"plugin_execute": &PluginExecution{
			RunID: "run-1", Plugin: "notes", Action: "create", UserID: "u", TenantID: "t", Username: "ann", ChatID: "chat-1", Roles: []string{"admin", ""},
			Superadmin: true, Key: "k-1", BodyDigest: [16]byte{1, 2, 3}, Data: []byte(`{"a":1}`), Timeout: 30 * second, QueueTimeout: 5 * second, Rerun: true, Keep: true,
		},
		"plugin_finish": &ExecutionEnd{
			RunID: "run-1", Attempt: 2, Code: CodePluginError, Detail: "no such file", Result: []byte(`{"error":"x"}`), DurationMs: 12, Usage: []UsageEvent{usage},
		},
		"plugin_rerun":         &ExecutionRerun{"run-1", 1},
		"plugin_publish":       &PluginPublication{"run-1", 1, 2, "report.ready", []byte(`{"pages":3}`)},
		"run_cancel":           &RunCancel{"run-1", "u"},
		"orchestration_report": &RunReport{Events: []RunEvent{goldenRunEvent(), {Step: StepAgentStarted, Status: RunInProgress, RunID: "r", EventID: "e", Implicit: true}}},
	}
}

func TestRunPayloads(t *testing.T) {
	for name, want := range runPayloads() {
		form := want.EncodePayload(nil)
		goldenBytes(t, name+"_payload_v1.golden", form)
		got := reflect.New(reflect.TypeOf(want).Elem()).Interface().(payload)
		if err := got.DecodePayload(form); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got, equalEvents, cmp.Comparer(func(a, b Amount) bool { return a == b })); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if err := got.DecodePayload(append([]byte("\x02"), form[1:]...)); err == nil {
			t.Errorf("%s: another form is read", name)
		}
		if err := got.DecodePayload(append(form[:len(form):len(form)], 0)); err == nil {
			t.Errorf("%s: a byte more is read", name)
		}
		for n := range form {
			if err := got.DecodePayload(form[:n]); err == nil {
				t.Errorf("%s: cut to %d bytes it is read", name, n)
			}
		}
	}
}

func TestRunPayloadsThatCannotBe(t *testing.T) {
	execution := func(change func(*PluginExecution)) payload {
		p := *runPayloads()["plugin_execute"].(*PluginExecution)
		change(&p)
		return &p
	}
	end := func(change func(*ExecutionEnd)) payload {
		e := *runPayloads()["plugin_finish"].(*ExecutionEnd)
		change(&e)
		return &e
	}
	report := func(change func(*RunEvent)) payload {
		e := goldenRunEvent()
		change(&e)
		return &RunReport{Events: []RunEvent{e}}
	}
	for name, p := range map[string]payload{
		"execution without run":          execution(func(p *PluginExecution) { p.RunID = "" }),
		"without plugin":                 execution(func(p *PluginExecution) { p.Plugin = "" }),
		"without user":                   execution(func(p *PluginExecution) { p.UserID = "" }),
		"without timeout":                execution(func(p *PluginExecution) { p.Timeout = 0 }),
		"timeout too long":               execution(func(p *PluginExecution) { p.Timeout = MaxPluginTimeout + 1 }),
		"queue timeout too long":         execution(func(p *PluginExecution) { p.QueueTimeout = MaxPluginTimeout + 1 }),
		"negative timeout":               execution(func(p *PluginExecution) { p.Timeout = -1 }),
		"data too large":                 execution(func(p *PluginExecution) { p.Data = make([]byte, MaxExecuteBytes+1) }),
		"too many roles":                 execution(func(p *PluginExecution) { p.Roles = make([]string, MaxRolesPerUser+1) }),
		"end without run":                end(func(e *ExecutionEnd) { e.RunID = "" }),
		"end of no attempt":              end(func(e *ExecutionEnd) { e.Attempt = 0 }),
		"failed without code":            end(func(e *ExecutionEnd) { e.Code = "" }),
		"succeeded with code":            end(func(e *ExecutionEnd) { e.OK = true }),
		"result too large":               end(func(e *ExecutionEnd) { e.Result = make([]byte, MaxExecuteBytes+1) }),
		"usage is a summary":             end(func(e *ExecutionEnd) { e.Usage[0].Summary = true }),
		"too much usage":                 end(func(e *ExecutionEnd) { e.Usage = make([]UsageEvent, MaxRunUsage+1) }),
		"rerun of no attempt":            &ExecutionRerun{"r", 0},
		"publication without name":       &PluginPublication{"r", 1, 1, "", []byte(`1`)},
		"grout's own fact":               &PluginPublication{"r", 1, 1, "executed", []byte(`1`)},
		"publication without its number": &PluginPublication{"r", 1, 0, "a", []byte(`1`)},
		"published garbage":              &PluginPublication{"r", 1, 1, "a", []byte(`{`)},
		"published nothing":              &PluginPublication{"r", 1, 1, "a", nil},
		"published too much":             &PluginPublication{"r", 1, 1, "a", []byte(`"` + strings.Repeat("x", MaxPublishedBytes) + `"`)},
		"cancel of no run":               &RunCancel{"", "u"},
		"empty report":                   &RunReport{},
		"event without run":              report(func(e *RunEvent) { e.RunID = "" }),
		"event without id":               report(func(e *RunEvent) { e.EventID = "" }),
		"event of no step":               report(func(e *RunEvent) { e.Step = 0 }),
		"event of an unknown step":       report(func(e *RunEvent) { e.Step = StepToolCompleted + 1 }),
		"status contradicts":             report(func(e *RunEvent) { e.Status = RunCompleted }),
	} {
		again := reflect.New(reflect.TypeOf(p).Elem()).Interface().(payload)
		if err := again.DecodePayload(p.EncodePayload(nil)); err == nil {
			t.Errorf("%s: is read as %+v", name, again)
		}
	}
}

// The digest of an event is that of what it says, wherever it stands and whatever
// handlers gave it.
func TestRunEventDigest(t *testing.T) {
	e := goldenRunEvent()
	same := e
	same.Index, same.Sequence, same.Attempt, same.Implicit, same.AppID = 9, 9, 9, true, "another"
	if same.Digest() != e.Digest() {
		t.Error("the place of an event shows in its digest")
	}
	for i := range len(e.texts()) - 1 { // the last is the app, which is that of its command
		other := goldenRunEvent()
		*other.texts()[i] += "x"
		if other.Digest() == e.Digest() {
			t.Errorf("text %d of an event does not show in its digest", i)
		}
	}
	for name, change := range map[string]func(*RunEvent){
		"timestamp": func(e *RunEvent) { e.Timestamp++ }, "cost": func(e *RunEvent) { e.Cost = AmountOf(1) }, "no cost": func(e *RunEvent) { e.HasCost = false },
		"tokens": func(e *RunEvent) { e.TotalTokens++ }, "metadata": func(e *RunEvent) { e.Metadata = nil }, "status": func(e *RunEvent) { e.Status = RunCompleted },
	} {
		other := goldenRunEvent()
		if change(&other); other.Digest() == e.Digest() {
			t.Errorf("%s does not show in the digest", name)
		}
	}
}

func TestClonedRunsShareNothingThatChanges(t *testing.T) {
	r := goldenRun()
	c := r.Clone()
	c.Execution.Reruns, c.Status = 3, RunCompleted
	if r.Execution.Reruns != 0 || r.Status != RunFailed {
		t.Errorf("%+v", r)
	}
	bare := (&Run{ID: "r"}).Clone()
	if bare.Execution != nil || bare.Open() {
		t.Errorf("%+v", bare)
	}
}

func TestPublishedNames(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "report.ready": true, "a_1.b2": true, strings.Repeat("a", 128): true, "executed.x": true,
		"": false, "1a": false, "_a": false, ".a": false, "a.": false, "a..b": false, "A": false, "a b": false, "a*": false, "a>": false, "ä": false,
		strings.Repeat("a", 129): false, "executed": false, "execution_error": false,
	} {
		if got := PublishedName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
		if kind := PublishedKind(name); want && (kind != escapeKind(kind) || TypeOf(kind) != "ai.mozaiks.plugin."+name+".v1") {
			t.Errorf("%q cannot stand in a subject", kind)
		}
	}
}

func TestClipText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		n := rapid.IntRange(0, 40).Draw(t, "characters")
		got := ClipText(s, n)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > n {
			t.Fatalf("%q cut to %d is %q", s, n, got)
		}
		if utf8.ValidString(s) && utf8.RuneCountInString(s) <= n && got != s {
			t.Fatalf("%q cut to %d is %q", s, n, got)
		}
	})
}

// The ids that grout makes differ for whatever differs.
func TestGivenEventIDs(t *testing.T) {
	seen := map[string]bool{}
	for _, run := range []string{"a", "b"} {
		for _, attempt := range []int64{1, 2, 256, 1 << 31} {
			for step := StepRunStarted; step <= StepRunCancelled; step++ {
				id := GivenEventID(run, attempt, step)
				if seen[id] || len(id) > MaxIDChars || id != GivenEventID(run, attempt, step) {
					t.Errorf("%s of %s, %d, %s", id, run, attempt, step)
				}
				seen[id] = true
			}
		}
	}
}

func FuzzDecodeRunPayloads(f *testing.F) {
	for _, p := range runPayloads() {
		for _, b := range hostileSeeds(p.EncodePayload(nil)) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range []payload{&PluginExecution{}, &ExecutionEnd{}, &ExecutionRerun{}, &PluginPublication{}, &RunCancel{}, &RunReport{}} {
			if p.DecodePayload(data) != nil {
				continue
			}
			if e, ok := p.(*ExecutionEnd); ok {
				normal(e.Usage)
				e.Code, e.Detail = Code(ClipText(string(e.Code), MaxIDChars)), ClipText(e.Detail, MaxRunTextChars)
			}
			again := reflect.New(reflect.TypeOf(p).Elem()).Interface().(payload)
			if err := again.DecodePayload(p.EncodePayload(nil)); err != nil {
				t.Fatalf("%T: %v", p, err)
			}
			if !reflect.DeepEqual(p, again) {
				if d := cmp.Diff(p, again, equalEvents, cmp.Comparer(func(a, b Amount) bool { return a == b })); d != "" {
					t.Fatalf("%T: %s", p, d)
				}
			}
		}
	})
}
