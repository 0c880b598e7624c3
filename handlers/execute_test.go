package handlers

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

const oneAtATime = `,"rate_limits":{"concurrent_workflows":1,"requests_per_hour":100}`

// An execution sets aside what it takes and holds a lease; success takes it, and the end
// is told once.
func TestExecutionSucceeds(t *testing.T) {
	w := newExecuting(t, oneAtATime)
	w.mustExecute(execution("r1"))
	want(t, "running", w.items(), "used 0 reserved 2 leases 1")
	want(t, "run", w.runLine("r1"), "in_progress attempt 1 sequence 1")
	want(t, "open", strings.Join(w.openRuns(), "\n"), `r1 {"action":"make"}`)
	r := w.runNamed("r1")
	if r.ChatID != "r1" || r.WorkflowName != "story" || r.Plugin != "story" || r.UserID != "u" || r.Execution.Consumes["items"] != 2 || !slices.Equal(r.Execution.Roles, []string{"member"}) {
		t.Errorf("%+v %+v", r.Run, r.Execution)
	}
	wantTold(t, w.told(), "entitlement.limit_reached app/a concurrent_workflows", "entitlement.consumed user/u", "orchestration.run_started run/r1")
	o := w.execute(execution("r2"))
	wantCode(t, o, schemas.CodeRateLimited, "")
	if !strings.Contains(string(o.Body), `"resets_at":"2026-03-01T12:01:40Z"`) {
		t.Errorf("a refusal says when there is room again: %s", o.Body)
	}
	wantTold(t, w.told(), "command.refused run/r2 RATE_LIMITED")
	w.now += int64(time.Second)
	end := &schemas.ExecutionEnd{RunID: "r1", OK: true, DurationMs: 900, Result: []byte(`{"unkept":1}`), Usage: []schemas.UsageEvent{
		{Index: 0, Model: "m", InputTokens: 10, OutputTokens: 5, TotalTokens: 15, Cost: 250},
		{Index: 2, Model: "m", TotalTokens: 7, Timestamp: testNow - schemas.MaxEventAge - 1},
	}}
	wantCode(t, w.finish(end), "", `{"run_id":"r1","status":"completed"}`)
	want(t, "ended", w.items(), "used 2 reserved 0 leases 0")
	want(t, "run", w.runLine("r1"), "completed attempt 1 sequence 2")
	if r := w.runNamed("r1"); r.TotalTokens != 22 || r.Cost.String() != "0.00000025" || r.Execution.DurationMs != 900 || r.EndedAt != w.now || len(w.openRuns()) != 0 {
		t.Errorf("%+v", r.Run)
	}
	wantTold(t, w.told(), "entitlement.consumed user/u", "orchestration.run_completed run/r1", "plugin.executed run/r1")
	wantCode(t, w.finish(end), schemas.CodeRunFinished, "")
	w.now += int64(time.Hour)
	wantCode(t, w.finish(end), schemas.CodeRunFinished, "")
	wantTold(t, w.told())
	want(t, "usage", w.usage(), "2 events 22 tokens")
	wantCode(t, w.cancelRun("r1"), schemas.CodeRunFinished, "")
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "other", OK: true}), schemas.CodeNotFound, "")
	w.recounted()
}

// usage sums up what user u of app a has used since the day of the test.
func (w *entitled) usage() string {
	w.t.Helper()
	report, err := w.store.Usage(w.t.Context(), schemas.UsageQuery{AppID: "a", UserID: "u", From: (testNow - schemas.RunSilence) / hourNanos, To: schemas.LastHour, Window: schemas.WindowNone})
	if err != nil {
		w.t.Fatal(err)
	}
	return plural(report.Totals.Events, "events") + " " + plural(report.Totals.TotalTokens, "tokens")
}

// Failure and cancel give back; what a plugin has burnt by then is counted all the same.
func TestExecutionFailsOrIsCancelled(t *testing.T) {
	w := newExecuting(t, oneAtATime)
	w.mustExecute(execution("r1"))
	w.told()
	burnt := []schemas.UsageEvent{{Model: "m", TotalTokens: 9, InputTokens: 9}}
	end := &schemas.ExecutionEnd{RunID: "r1", Code: schemas.CodePluginError, Detail: "Error executing plugin: boom", Usage: burnt}
	wantCode(t, w.finish(end), "", `{"run_id":"r1","status":"failed"}`)
	want(t, "failed", w.items(), "used 0 reserved 0 leases 0")
	want(t, "run", w.runLine("r1"), "failed attempt 1 sequence 2 PLUGIN_ERROR")
	wantTold(t, w.told(), "orchestration.run_failed run/r1 PLUGIN_ERROR", "plugin.execution_error run/r1")
	if r := w.runNamed("r1"); r.Error != "Error executing plugin: boom" {
		t.Errorf("%+v", r.Run)
	}

	w.mustExecute(execution("r2"))
	w.told()
	wantCode(t, w.cancelRun("r2"), "", `{"run_id":"r2","status":"cancelled"}`)
	wantTold(t, w.told(), "orchestration.run_cancelled run/r2", "plugin.execution_error run/r2")
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "r2", OK: true, Usage: burnt}), schemas.CodeRunFinished, "")
	want(t, "cancelled", w.items(), "used 0 reserved 0 leases 0")
	want(t, "run", w.runLine("r2"), "cancelled attempt 1 sequence 2")
	want(t, "usage", w.usage(), "2 events 18 tokens")
	wantCode(t, w.cancelRun("r2"), schemas.CodeRunFinished, "")
	wantCode(t, w.cancelRun("none"), schemas.CodeNotFound, "")
	wantTold(t, w.told(), "command.refused run/r2 RUN_FINISHED", "command.refused run/none NOT_FOUND")
	w.recounted()
}

// The same run id is the same execution, or somebody else's.
func TestExecutionOfTheSameRun(t *testing.T) {
	w := newExecuting(t, "")
	w.mustExecute(execution("r1"))
	w.mustExecute(execution("r1"))
	want(t, "once", w.items(), "used 0 reserved 2 leases 0")
	wantCode(t, w.execute(execution("r1", func(p *schemas.PluginExecution) { p.BodyDigest[0]++ })), schemas.CodeRunStarted, "")
	wantCode(t, w.execute(execution("r1", func(p *schemas.PluginExecution) { p.UserID = "v" })), schemas.CodeRunStarted, "")
	w.report(schemas.RunEvent{RunID: "x", Step: schemas.StepRunStarted})
	wantCode(t, w.execute(execution("x")), schemas.CodeRunStarted, "")
	w.finish(&schemas.ExecutionEnd{RunID: "r1", OK: true})
	w.mustExecute(execution("r1"))
	want(t, "once", w.items(), "used 2 reserved 0 leases 0")
}

// An idempotency key stands for its first execution for a day, by user and plugin;
// refusals do not count.
func TestIdempotencyKeys(t *testing.T) {
	w := newExecuting(t, "")
	first := func(id string) string { return `{"run_id":"` + id + `","attempt":1}` }
	w.mustExecute(execution("r1", keyed("k")))
	wantCode(t, w.execute(execution("r2", keyed("k"))), "", first("r1"))
	wantCode(t, w.execute(execution("r3", keyed("k"), func(p *schemas.PluginExecution) { p.BodyDigest[0]++ })), schemas.CodeKeyReused, "")
	w.mustExecute(execution("r4", keyed("k"), func(p *schemas.PluginExecution) { p.UserID = "v" }))
	w.mustExecute(execution("r5", keyed("other")))
	want(t, "two of u", w.items(), "used 0 reserved 4 leases 0")
	wantCode(t, w.execute(execution("r6", keyed("third"))), schemas.CodeLimitExceeded, "")
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "r1", OK: true, Result: []byte(`{"n":1}`)}), "", "")
	want(t, "kept", w.runLine("r1"), `completed attempt 1 sequence 2 {"n":1}`)
	w.finish(&schemas.ExecutionEnd{RunID: "r5", Code: schemas.CodePluginTimeout, Detail: "late"})
	w.mustExecute(execution("r6", keyed("third"))) // what was refused is no run
	w.finish(&schemas.ExecutionEnd{RunID: "r6", Code: schemas.CodePluginBusy, Detail: schemas.BusyPlugin(w.runNamed("r6").Plugin).Detail})
	w.mustExecute(execution("r6a", keyed("third"))) // what had no worker did not run
	wantCode(t, w.execute(execution("r6b", keyed("third"))), "", first("r6a"))
	w.now += schemas.ResultKept - 1
	wantCode(t, w.execute(execution("r7", keyed("k"))), "", first("r1"))
	wantCode(t, w.execute(execution("r7", keyed("other"))), "", first("r5")) // failures are replayed, too
	w.tickNow()
	want(t, "kept", w.runLine("r1"), `completed attempt 1 sequence 2 {"n":1}`)
	w.now++
	w.tickNow()
	want(t, "gone", w.runLine("r1"), `completed attempt 1 sequence 2`)
	w.mustExecute(execution("r7", keyed("k"), func(p *schemas.PluginExecution) { p.BodyDigest[0] = 9 }))
	w.recounted()
}

// An execution whose worker has gone ends at its deadline, by a tick; a rerun has a new
// one, and there are only so many.
func TestExecutionIsLost(t *testing.T) {
	w := newExecuting(t, oneAtATime)
	w.mustExecute(execution("r1"))
	w.now += int64(100*time.Second) - 1
	w.tickNow()
	want(t, "in time", w.runLine("r1"), "in_progress attempt 1 sequence 1")
	w.now++
	w.tickNow()
	want(t, "lost", w.runLine("r1"), "failed attempt 1 sequence 2 WORKER_LOST")
	want(t, "given back", w.items(), "used 0 reserved 0 leases 0")

	again := func(p *schemas.PluginExecution) { p.Rerun = true }
	w.mustExecute(execution("r2", again))
	for i := range int64(schemas.MaxReruns) {
		w.now += int64(time.Minute)
		wantCode(t, w.rerun("r2", i+1), "", `{"run_id":"r2","attempt":`+string(rune('2'+i))+`}`)
		wantCode(t, w.rerun("r2", i+1), "", `{"run_id":"r2","attempt":`+string(rune('2'+i))+`}`) // counted once
		want(t, "leased", w.items(), "used 0 reserved 2 leases 1")
	}
	w.tickNow()
	want(t, "runs on", w.runLine("r2"), "in_progress attempt 1 sequence 1")
	w.told()
	wantCode(t, w.rerun("r2", schemas.MaxReruns+1), schemas.CodeWorkerLost, "")
	wantTold(t, w.told(), "orchestration.run_failed run/r2 WORKER_LOST", "plugin.execution_error run/r2")
	want(t, "given back", w.items(), "used 0 reserved 0 leases 0")
	wantCode(t, w.rerun("r2", 5), schemas.CodeRunFinished, "")
	wantCode(t, w.rerun("none", 1), schemas.CodeNotFound, "")

	w.mustExecute(execution("r3"))
	wantCode(t, w.rerun("r3", 1), schemas.CodeWorkerLost, "") // it did not ask to be run again
	want(t, "lost", w.runLine("r3"), "failed attempt 1 sequence 2 WORKER_LOST")
}

// The usage of every try of an execution counts once.
func TestUsageOfTries(t *testing.T) {
	w := newExecuting(t, "")
	w.mustExecute(execution("r", func(p *schemas.PluginExecution) { p.Rerun = true }))
	w.rerun("r", 1)
	usage := []schemas.UsageEvent{{Model: "m", TotalTokens: 4, InputTokens: 4}}
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "r", Attempt: 2, OK: true, Usage: usage}), "", "")
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "r", Attempt: 1, OK: true, Usage: usage}), schemas.CodeRunFinished, "")
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "r", Attempt: 2, OK: true, Usage: usage}), schemas.CodeRunFinished, "")
	want(t, "usage", w.usage(), "2 events 8 tokens")
	w.recounted()
}

// What a plugin publishes is a fact while it runs, and no more than so often.
func TestPublications(t *testing.T) {
	w := newExecuting(t, "")
	w.mustExecute(execution("r", func(p *schemas.PluginExecution) { p.ChatID = "c" }))
	w.told()
	number := int64(0)
	page := func(run string) []byte {
		number++
		return (&schemas.PluginPublication{RunID: run, Attempt: 1, Number: number, Name: "story.page", Data: []byte(`{"page":1}`)}).EncodePayload(nil)
	}
	say := func(run string) schemas.CommandOutcome { return w.do(schemas.PublishPlugin.Name, "a", page(run)) }
	wantCode(t, say("r"), "", "")
	wantTold(t, w.told(), "plugin.story.page run/r story.page")
	var group []schemas.CommandFrame
	for range schemas.MaxPublications - 1 {
		group = append(group, w.frame(schemas.PublishPlugin.Name, "a", page("r")))
	}
	w.apply(group...)
	w.told()
	wantCode(t, say("r"), schemas.CodeLimitExceeded, "")
	wantCode(t, say("none"), schemas.CodeNotFound, "")
	w.finish(&schemas.ExecutionEnd{RunID: "r", OK: true})
	w.told()
	wantCode(t, say("r"), schemas.CodeRunFinished, "")
	wantTold(t, w.told())
}

// A consumable of 10 lets 10 of 100 through, however they interleave with their ends;
// what fails makes room for others.
func TestConsumableOfTen(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigSwitches, `{"monetization":true,"enforce":true}`)
	w.config(schemas.ConfigPluginPrefix+"story", `{"schema_version":"1.0","plugin":"story","limits":{"items":{"default":10,"reset":"never"}},"actions":{"make":{"consumes":{"items":1}}}}`)
	w.sync("")
	r := rand.New(rand.NewPCG(1, 2))
	var open []string
	succeeded, failed, refused := 0, 0, 0
	end := func() {
		i := r.IntN(len(open))
		id := open[i]
		open = slices.Delete(open, i, i+1)
		if r.IntN(3) == 0 {
			failed++
			w.finish(&schemas.ExecutionEnd{RunID: id, Code: schemas.CodePluginError, Detail: "x"})
			return
		}
		succeeded++
		w.finish(&schemas.ExecutionEnd{RunID: id, OK: true})
	}
	for i := range 100 {
		id := "r" + plural(int64(i), "")
		switch o := w.execute(execution(id)); o.Code {
		case "":
			open = append(open, id)
		case schemas.CodeLimitExceeded:
			refused++
		default:
			t.Fatal(o)
		}
		if len(open) > 0 && r.IntN(3) > 0 {
			end()
		}
		if len(open)+succeeded > 10 {
			t.Fatalf("%d open and %d succeeded", len(open), succeeded)
		}
	}
	for len(open) > 0 {
		end()
	}
	if succeeded != 10 || failed == 0 || refused != 100-succeeded-failed {
		t.Errorf("%d succeeded, %d failed, %d were refused", succeeded, failed, refused)
	}
	want(t, "items", w.items(), "used 10 reserved 0 leases 0")
}

// Rules that go away while a plugin runs, or change, lose nothing that was counted.
func TestRulesChangeDuringAnExecution(t *testing.T) {
	w := newExecuting(t, "")
	w.mustExecute(execution("r0"))
	w.finish(&schemas.ExecutionEnd{RunID: "r0", OK: true})
	for i, rules := range []string{"null", `{"broken":"line 1"}`, strings.Replace(storyRules, `"default":5`, `"type":"cap","default":5`, 1)} {
		id := "r" + plural(int64(i+1), "")
		w.mustExecute(execution(id))
		w.config(schemas.ConfigPluginPrefix+"story", rules)
		w.finish(&schemas.ExecutionEnd{RunID: id, Code: schemas.CodePluginError, Detail: "x"})
		w.config(schemas.ConfigPluginPrefix+"story", storyRules)
		want(t, rules, w.items(), "used 2 reserved 0 leases 0")
	}
}
