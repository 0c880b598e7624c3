package handlers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

// told tells what an outcome says: accepted, duplicates, and the codes by index.
func outcomeLine(o schemas.IngestOutcome) string {
	line := fmt.Sprintf("%d accepted %d duplicates %d rejected", o.Accepted, o.Duplicates, o.Rejected)
	for _, e := range o.Errors {
		line += fmt.Sprintf(" %d:%s", e.Index, e.Code)
	}
	return line
}

// The rules of contract §6, one by one, each event judged by itself.
func TestReports(t *testing.T) {
	type ev = schemas.RunEvent
	w := newEntitled(t)
	for _, c := range []struct {
		name   string
		report []ev
		want   string
		run    string
	}{
		{
			"a life", []ev{
				{RunID: "a", Step: schemas.StepRunStarted, EventID: "a1", UserID: "u", WorkflowName: "w", ChatID: "chat"},
				{RunID: "a", Step: schemas.StepAgentStarted, EventID: "a2", Agent: "Writer"},
				{RunID: "a", Step: schemas.StepToolStarted, EventID: "a3", Tool: "t"},
				{RunID: "a", Step: schemas.StepToolCompleted, EventID: "a4", Status: schemas.RunFailed},
				{RunID: "a", Step: schemas.StepAgentCompleted, EventID: "a5"},
				{RunID: "a", Step: schemas.StepRunCompleted, EventID: "a6", Summary: "done", HasTokens: true, TotalTokens: 12},
			}, "6 accepted 0 duplicates 0 rejected", "completed attempt 1 sequence 6",
		},
		{
			"a second terminal, and anything after it", []ev{
				{RunID: "a", Step: schemas.StepRunFailed}, {RunID: "a", Step: schemas.StepRunCompleted}, {RunID: "a", Step: schemas.StepAgentStarted},
			}, "0 accepted 0 duplicates 3 rejected 0:RUN_FINISHED 1:RUN_FINISHED 2:RUN_FINISHED", "completed attempt 1 sequence 6",
		},
		{
			"repeats", []ev{
				{RunID: "a", Step: schemas.StepRunStarted, EventID: "a1"}, {RunID: "a", Step: schemas.StepRunCompleted, EventID: "a6"}, {RunID: "other", Step: schemas.StepRunFailed, EventID: "a2"},
			}, "0 accepted 3 duplicates 0 rejected", "completed attempt 1 sequence 6",
		},
		{
			"the next attempt", []ev{
				{RunID: "a", Step: schemas.StepRunStarted, EventID: "a7"},
				{RunID: "a", Step: schemas.StepRunStarted, EventID: "a8"},
				{RunID: "a", Step: schemas.StepRunFailed, EventID: "a9", Error: "boom", Code: "X"},
				{RunID: "a", Step: schemas.StepRunStarted, EventID: "a10"},
				{RunID: "a", Step: schemas.StepRunStarted, EventID: "a7"},
			}, "3 accepted 1 duplicates 1 rejected 1:RUN_ALREADY_STARTED", "in_progress attempt 3 sequence 9",
		},
		{
			"an implied start",
			[]ev{{RunID: "b", Step: schemas.StepToolStarted, EventID: "b1"}},
			"1 accepted 0 duplicates 0 rejected", "in_progress attempt 1 sequence 2 implicit",
		},
		{
			"which is filled in",
			[]ev{{RunID: "b", Step: schemas.StepRunStarted, EventID: "b2", UserID: "u", WorkflowName: "w"}, {RunID: "b", Step: schemas.StepRunStarted, EventID: "b3"}},
			"1 accepted 0 duplicates 1 rejected 1:RUN_ALREADY_STARTED", "in_progress attempt 1 sequence 3",
		},
		{
			"an end of an unknown run",
			[]ev{{RunID: "c", Step: schemas.StepRunCancelled}, {RunID: "c", Step: schemas.StepRunStarted}},
			"2 accepted 0 duplicates 0 rejected", "in_progress attempt 2 sequence 3",
		},
		{
			"of another app",
			[]ev{{RunID: "d", AppID: "b", Step: schemas.StepRunStarted}, {RunID: "d", AppID: "a", Step: schemas.StepRunStarted}},
			"1 accepted 0 duplicates 1 rejected 0:APP_MISMATCH", "in_progress attempt 1 sequence 1",
		},
	} {
		want(t, c.name, outcomeLine(w.report(c.report...)), c.want)
		want(t, c.name, w.runLine(c.report[0].RunID), c.run)
	}
	want(t, "events of a", strings.Join(w.eventsOf("a"), "\n"), strings.Join([]string{
		"1 run_started in_progress", "1 agent_started in_progress", "1 tool_started in_progress", "1 tool_completed failed", "1 agent_completed completed",
		"1 run_completed completed", "2 run_started in_progress", "2 run_failed failed X", "3 run_started in_progress",
	}, "\n"))
	want(t, "events of b", strings.Join(w.eventsOf("b"), "\n"), "1 run_started in_progress implicit\n1 tool_started in_progress\n1 run_started in_progress")
	if r := w.runNamed("b"); r.UserID != "u" || r.WorkflowName != "w" {
		t.Errorf("%+v", r.Run)
	}
	if got := w.runLine("other"); got != "none" {
		t.Errorf("a repeat made a run: %s", got)
	}
}

// What is reported is told once, in order, under its chat; a report of which nothing was
// taken is refused.
func TestReportsAreTold(t *testing.T) {
	w := newEntitled(t)
	w.report(schemas.RunEvent{RunID: "r", Step: schemas.StepAgentStarted, ChatID: "c"}, schemas.RunEvent{RunID: "r", Step: schemas.StepRunStarted}, schemas.RunEvent{RunID: "r", Step: schemas.StepRunStarted})
	messages, err := w.store.Facts(schemas.DestFacts, schemas.Position{}, 100, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var subjects []string
	for _, m := range messages {
		subjects = append(subjects, m.Subject)
	}
	if wanted := []string{
		"mozaiks.v1.evt.a.orchestration.run_started.c", "mozaiks.v1.evt.a.orchestration.agent_started.c", "mozaiks.v1.evt.a.orchestration.run_started.c",
	}; !slices.Equal(subjects, wanted) {
		t.Errorf("%q", subjects)
	}
	w.told()
	w.report(schemas.RunEvent{RunID: "r", Step: schemas.StepRunStarted})
	wantTold(t, w.told(), "command.refused run/r RUN_ALREADY_STARTED")
	w.report(schemas.RunEvent{RunID: "plain", Step: schemas.StepRunStarted, EventID: "p"})
	w.told()
	w.report(schemas.RunEvent{RunID: "plain", Step: schemas.StepRunStarted, EventID: "p"})
	wantTold(t, w.told())
}

// A plugin's own runtime tells of its agents, not of its end.
func TestReportsOfAnExecution(t *testing.T) {
	w := newExecuting(t, "")
	w.mustExecute(execution("r"))
	o := w.report(
		schemas.RunEvent{RunID: "r", Step: schemas.StepAgentStarted}, schemas.RunEvent{RunID: "r", Step: schemas.StepRunStarted},
		schemas.RunEvent{RunID: "r", Step: schemas.StepRunCompleted}, schemas.RunEvent{RunID: "r", Step: schemas.StepAgentCompleted},
	)
	want(t, "while it runs", outcomeLine(o), "2 accepted 0 duplicates 2 rejected 1:RUN_ALREADY_STARTED 2:FORBIDDEN")
	w.now += int64(99 * time.Second)
	w.tickNow()
	want(t, "open", strings.Join(w.openRuns(), "\n"), `r {"action":"make"}`)
	w.finish(&schemas.ExecutionEnd{RunID: "r", OK: true})
	want(t, "behind its end", outcomeLine(w.report(schemas.RunEvent{RunID: "r", Step: schemas.StepRunStarted})), "0 accepted 0 duplicates 1 rejected 0:RUN_FINISHED")
	want(t, "run", w.runLine("r"), "completed attempt 1 sequence 4")
	want(t, "items", w.items(), "used 2 reserved 0 leases 0")
}

// A run of which nothing is reported any more is lost, after a day or what a switch says.
func TestSilentRuns(t *testing.T) {
	w := newEntitled(t)
	w.report(schemas.RunEvent{RunID: "r", Step: schemas.StepRunStarted}, schemas.RunEvent{RunID: "s", Step: schemas.StepAgentStarted})
	w.now += schemas.RunSilence - 1
	w.report(schemas.RunEvent{RunID: "s", Step: schemas.StepAgentCompleted})
	w.tickNow()
	want(t, "in time", w.runLine("r"), "in_progress attempt 1 sequence 1")
	w.now++
	w.told()
	w.tickNow()
	want(t, "lost", w.runLine("r"), "failed attempt 1 sequence 2 RUN_LOST")
	want(t, "not lost", w.runLine("s"), "in_progress attempt 1 sequence 3 implicit")
	wantTold(t, w.told(), "orchestration.run_failed run/r RUN_LOST")
	want(t, "what comes then", outcomeLine(w.report(schemas.RunEvent{RunID: "r", Step: schemas.StepRunCompleted})), "0 accepted 0 duplicates 1 rejected 0:RUN_FINISHED")

	w.config(schemas.ConfigSwitches, `{"run_silence_seconds":60}`)
	w.report(schemas.RunEvent{RunID: "r", Step: schemas.StepRunStarted})
	w.now += int64(time.Minute)
	w.tickNow()
	want(t, "sooner", w.runLine("r"), "failed attempt 2 sequence 4 RUN_LOST")
	wantCode(t, w.cancelRun("s"), "", `{"run_id":"s","status":"cancelled"}`)
	want(t, "cancelled", w.runLine("s"), "cancelled attempt 1 sequence 4 implicit")
}
