package handlers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

var runSteps = []schemas.RunStep{
	schemas.StepRunStarted, schemas.StepAgentStarted, schemas.StepAgentCompleted, schemas.StepToolStarted, schemas.StepToolCompleted,
	schemas.StepRunCompleted, schemas.StepRunFailed, schemas.StepRunCancelled,
}

// The states of a run, and what every event makes of it. What is not shown is refused.
func Example_runs() {
	for s := runUnknown; s <= runExecuted; s++ {
		var to []runState
		for _, step := range runSteps {
			if next, may := nextRun[s][step]; may && !slices.Contains(to, next) {
				to = append(to, next)
			}
		}
		slices.Sort(to)
		for _, next := range to {
			var steps []string
			for _, step := range runSteps {
				if n, may := nextRun[s][step]; may && n == next {
					steps = append(steps, step.String())
				}
			}
			fmt.Printf("%-9s → %-9s %s\n", s, next, strings.Join(steps, ", "))
		}
	}
	// Output:
	// unknown   → implied   agent_started, agent_completed, tool_started, tool_completed
	// unknown   → reported  run_started
	// unknown   → ended     run_completed, run_failed, run_cancelled
	// implied   → implied   agent_started, agent_completed, tool_started, tool_completed
	// implied   → reported  run_started
	// implied   → ended     run_completed, run_failed, run_cancelled
	// reported  → reported  agent_started, agent_completed, tool_started, tool_completed
	// reported  → ended     run_completed, run_failed, run_cancelled
	// executing → executing agent_started, agent_completed, tool_started, tool_completed
	// executing → executed  run_completed, run_failed, run_cancelled
	// ended     → reported  run_started
}

// A run that stands in a state, as its table says.
func runIn(s runState) *schemas.Run {
	r := &schemas.Run{ID: "r", AppID: "a", Status: schemas.RunInProgress, Attempt: 2, Sequence: 5, StartedAt: 1, UpdatedAt: 2}
	switch s {
	case runUnknown:
		return nil
	case runImplied:
		r.Implicit = true
	case runExecuting:
		r.Execution = &schemas.Execution{HasData: true}
	case runEnded, runExecuted:
		r.Status, r.EndedAt, r.Error, r.Code, r.HasTokens, r.TotalTokens = schemas.RunFailed, 3, "e", "C", true, 9
	}
	if s == runExecuted {
		r.Execution = &schemas.Execution{}
	}
	return r
}

// Every event in every state: the states agree with what runs say of themselves, refusals
// have the codes of contract §6, and sequences and attempts count without gaps.
func TestRunRules(t *testing.T) {
	const now = int64(100)
	for s := runUnknown; s <= runExecuted; s++ {
		for _, step := range runSteps {
			name := fmt.Sprint(step, " of a run that is ", s)
			have := runIn(s)
			if stateOf(have) != s {
				t.Fatalf("%s: it is %s", name, stateOf(have))
			}
			to, may := nextRun[s][step]
			why := judgeStep(s, step, true)
			wanted := schemas.Code("")
			switch {
			case s == runEnded || s == runExecuted:
				if !may {
					wanted = schemas.CodeRunFinished
				}
			case s == runExecuting && step.Ends().Ended():
				wanted = schemas.CodeForbidden
			case !may:
				wanted = schemas.CodeRunStarted
			}
			if got := codeOf(why); got != wanted {
				t.Errorf("%s: %q, want %q", name, got, wanted)
			}
			if judgeStep(s, step, false) != nil == may {
				t.Errorf("%s: grout itself may do what the table says", name)
			}
			if !may {
				continue
			}
			e := schemas.RunEvent{RunID: "r", AppID: "a", EventID: "e1", Step: step, Status: step.Statuses()[0], ChatID: "c"}
			next, events := advance(have, &e, now)
			if got := stateOf(&next); got != to && !(s == runUnknown && to == runEnded && got == runEnded) {
				t.Errorf("%s: it became %s, want %s", name, got, to)
			}
			checkAdvance(t, name, have, &next, events, &e, now)
		}
	}
}

func codeOf(why *schemas.Error) schemas.Code {
	if why == nil {
		return ""
	}
	return why.Code
}

func checkAdvance(t *testing.T, name string, have, next *schemas.Run, events []schemas.RunEvent, e *schemas.RunEvent, now int64) {
	t.Helper()
	before, attempt := int64(0), int64(1)
	if have != nil {
		before, attempt = have.Sequence, have.Attempt
		if have.Status.Ended() {
			attempt++
		}
	}
	wantEvents := 1
	if have == nil && e.Step != schemas.StepRunStarted {
		wantEvents = 2
	}
	if len(events) != wantEvents || next.Sequence != before+int64(wantEvents) || next.Attempt != attempt || next.UpdatedAt != now {
		t.Errorf("%s: %d events, sequence %d, attempt %d", name, len(events), next.Sequence, next.Attempt)
	}
	for i, x := range events {
		if x.Sequence != before+int64(i)+1 || x.Attempt != attempt || x.ChatID != "c" || x.Timestamp != now || x.AppID != "a" {
			t.Errorf("%s: event %+v", name, x)
		}
	}
	if first := events[0]; first.Implicit != (wantEvents == 2) || first.Implicit && (first.Step != schemas.StepRunStarted || first.EventID == e.EventID) {
		t.Errorf("%s: first event %+v", name, first)
	}
	if next.Status.Ended() != (next.EndedAt != 0) {
		t.Errorf("%s: %s, ended %d", name, next.Status, next.EndedAt)
	}
	if have != nil && have.Status.Ended() && (next.Error+next.Code != "" || next.HasTokens || next.Implicit) {
		t.Errorf("%s: the next attempt knows what came of the last: %+v", name, next)
	}
}

// A start says whose a run is, what comes first fills in what it did not say; the chat of
// a run stays the first one.
func TestWhoseARunIs(t *testing.T) {
	agent := schemas.RunEvent{RunID: "r", AppID: "a", Step: schemas.StepAgentStarted, Status: schemas.RunInProgress, EventID: "1", Timestamp: 7, UserID: "u1", ChatID: "c1"}
	r, _ := advance(nil, &agent, 10)
	if !r.Implicit || r.UserID != "u1" || r.ChatID != "c1" || r.StartedAt != 7 {
		t.Errorf("%+v", r)
	}
	start := schemas.RunEvent{
		RunID: "r", AppID: "a", Step: schemas.StepRunStarted, Status: schemas.RunInProgress, EventID: "2", Timestamp: 5,
		UserID: "u2", ChatID: "c2", WorkflowName: "w", ParentRunID: "p", TenantID: "t", Message: "hello",
	}
	r, events := advance(&r, &start, 11)
	if r.Implicit || r.UserID != "u2" || r.ChatID != "c1" || r.WorkflowName != "w" || r.ParentRunID != "p" || r.TenantID != "t" || r.StartedAt != 5 || r.Message != "hello" {
		t.Errorf("%+v", r)
	}
	if len(events) != 1 || events[0].Implicit || events[0].Sequence != 3 || events[0].ChatID != "c1" {
		t.Errorf("%+v", events)
	}
	again := start
	again.EventID, again.UserID, again.TenantID = "3", "u3", "t3"
	r.Status = schemas.RunCompleted
	if r, _ = advance(&r, &again, 12); r.Attempt != 2 || r.UserID != "u2" || r.TenantID != "t" {
		t.Errorf("the next attempt gave the run, and what its owner has done, to somebody else: %+v", r)
	}
	x := schemas.Run{ID: "x", AppID: "a", UserID: "own", Status: schemas.RunInProgress, Attempt: 1, Sequence: 1, Execution: &schemas.Execution{}}
	if x, _ = advance(&x, &agent, 12); x.UserID != "own" {
		t.Errorf("a report gave an execution to somebody else: %+v", x)
	}
}

func TestWhenARunIsDue(t *testing.T) {
	reported := schemas.Run{Status: schemas.RunInProgress, UpdatedAt: 100}
	for silence, want := range map[int64]int64{50: int64(time.Minute), int64(time.Minute) - 100: int64(time.Minute), int64(time.Minute): 2 * int64(time.Minute)} {
		if got := dueOf(&reported, silence); got != want {
			t.Errorf("%d after a silence of %d, want %d", got, silence, want)
		}
	}
	executing := schemas.Run{Status: schemas.RunInProgress, UpdatedAt: 900, Execution: &schemas.Execution{AcceptedAt: 100, Timeout: 7, QueueTimeout: 3}}
	if got := dueOf(&executing, 50); got != 110+schemas.ExecutionGrace {
		t.Error(got)
	}
	executing.Status = schemas.RunCompleted
	if got := dueOf(&executing, 50); got != 0 {
		t.Error(got)
	}
}

func TestClip(t *testing.T) {
	long := strings.Repeat("é", schemas.MaxRunTextChars+3)
	for in, want := range map[string]int{"": 0, "short": 5, long: schemas.MaxRunTextChars, long[:2*schemas.MaxRunTextChars]: schemas.MaxRunTextChars} {
		if got := len([]rune(clip(in))); got != want {
			t.Errorf("%.5s…: %d characters, want %d", in, got, want)
		}
	}
	if got := clip("a\xffb"); got != "a�b" {
		t.Errorf("%q", got)
	}
}
