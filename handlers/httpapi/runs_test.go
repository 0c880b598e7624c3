package httpapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"grout/schemas"
)

// runLog takes commands about runs and answers by a function.
type runLog struct {
	memoryCommands
	mu     sync.Mutex
	frames []schemas.CommandFrame
	answer func(f *schemas.CommandFrame) Pending
}

func (l *runLog) Submit(_ int, f schemas.CommandFrame) (Pending, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frames = append(l.frames, f)
	return l.answer(&f), nil
}

func annsRun(id string, status schemas.RunStatus) *schemas.Run {
	at := time.Date(2026, 1, 26, 15, 30, 0, 0, time.UTC).UnixNano()
	return &schemas.Run{
		ID: id, AppID: "app_1", UserID: "ann", Plugin: "x", WorkflowName: "x", Status: status, Attempt: 1, Sequence: 2, StartedAt: at, UpdatedAt: at,
		Execution: &schemas.Execution{},
	}
}

func TestRunOne(t *testing.T) {
	s := serve(t, knownUsers)
	r := annsRun("r 1", schemas.RunCompleted)
	r.EndedAt, r.HasTokens, r.TotalTokens, r.HasCost, r.Cost, r.Result = r.StartedAt+1e9, true, 7, true, schemas.AmountOf(1_500_000_000), []byte(`{"a":1}`)
	s.runs.put(r)
	const text = `{"run_id":"r 1","app_id":"app_1","user_id":"ann","tenant_id":null,"chat_id":"r 1","plugin":"x","action":null,"workflow_name":"x","parent_run_id":null,` +
		`"status":"completed","started_at":"2026-01-26T15:30:00Z","updated_at":"2026-01-26T15:30:00Z","ended_at":"2026-01-26T15:30:01Z","summary":null,"error":null,"code":null,` +
		`"attempt":1,"sequence":2,"implicit":false,"cost":1.5,"total_tokens":7,"result":{"a":1}}`
	for _, who := range []string{asAnn, asAdmin, "X-Internal-API-Key: " + internalKey} {
		s.do("GET", "/api/runs/r%201", nil, who).is(200).body(text)
	}
	s.do("GET", "/api/runs/r%201?app_id=other", nil).is(404).body(`{"detail":"The app has no run with this id","error_code":"NOT_FOUND","status_code":404}`)
	s.do("GET", "/api/runs/r%201?app_id=other", nil, asAnn).is(404).detail("The app has no run with this id")
	s.do("GET", "/api/runs/none", nil, asAnn).is(404).detail("The app has no run with this id")
	r.UserID = "ben"
	s.do("GET", "/api/runs/r%201", nil, asAnn).is(404).detail("The app has no run with this id")
	s.do("GET", "/api/runs/r%201/events", nil, asAnn).is(404).detail("The app has no run with this id")
	s.do("POST", "/api/runs/r%201/cancel", nil, asAnn).is(404).detail("The app has no run with this id")
	s.do("GET", "/api/runs/r%201", nil, "-").is(401)
}

func TestRunList(t *testing.T) {
	s := serve(t, knownUsers)
	var asked []schemas.RunQuery
	s.runs.list = func(q schemas.RunQuery) (schemas.RunPage, error) {
		asked = append(asked, q)
		return schemas.RunPage{Runs: []*schemas.Run{annsRun("r", schemas.RunInProgress)}, More: true, Next: schemas.RunPlace{Seq: 7, Index: 3}}, nil
	}
	s.do("GET", "/api/runs?user_id=ben&status=failed&plugin=x&since=2026-01-26T15:30:00Z&limit=5&cursor=9.1&app_id=other", nil).is(200)
	want := schemas.RunQuery{AppID: "other", UserID: "ben", Plugin: "x", Status: schemas.RunFailed, Since: 1_769_441_400e9, Limit: 5, Before: schemas.RunPlace{Seq: 9, Index: 1}}
	if asked[0] != want {
		t.Errorf("asked for %+v", asked[0])
	}
	if got := s.do("GET", "/api/runs", nil, asAnn).is(200).json()["next_cursor"]; got != "7.3" || asked[1].UserID != "ann" || asked[1].AppID != "app_1" || asked[1].Limit != 100 {
		t.Errorf("next_cursor %v, asked for %+v", got, asked[1])
	}
	s.do("GET", "/api/runs", nil, asAdmin).is(200)
	if asked[2].UserID != "" {
		t.Errorf("a superadmin asked for %+v", asked[2])
	}
	s.do("GET", "/api/runs?user_id=ben", nil, asAnn).is(404)
	s.do("GET", "/api/runs?app_id=other", nil, asAnn).is(404)
	for _, query := range []string{"status=done", "limit=0", "limit=1001", "cursor=x", "cursor=7", "since=now", "staus=failed", "user_id="} {
		s.do("GET", "/api/runs?"+query, nil, asAnn).is(422, schemas.CodeValidation)
	}
}

func TestRunEvents(t *testing.T) {
	s := serve(t, knownUsers)
	s.runs.put(annsRun("r", schemas.RunInProgress))
	event := schemas.RunFact(&schemas.RunEvent{Step: schemas.StepRunStarted, Status: schemas.RunInProgress, RunID: "r", EventID: "e", AppID: "app_1", Sequence: 3, Attempt: 1})
	s.runs.page = func(behind int64, limit int) (RunEventPage, error) {
		if behind != 2 || limit != 1 {
			t.Errorf("asked for %d behind %d", limit, behind)
		}
		return RunEventPage{Events: []RunEvent{{3, event.AppendJSON(nil)}}, More: true}, nil
	}
	s.do("GET", "/api/runs/r/events?cursor=2&limit=1", nil, asAnn).is(200).body(`{"events":[` + string(event.AppendJSON(nil)) + `],"next_cursor":"3"}`)
	s.do("GET", "/api/runs/r/events?cursor=-2", nil, asAnn).is(422)
}

func TestCancelRun(t *testing.T) {
	log := &runLog{}
	s := serve(t, knownUsers, func(o *Options) { o.Commands = log })
	log.answer = func(f *schemas.CommandFrame) Pending {
		return outcomeOf(schemas.CommandOutcome{Body: schemas.AppendRunEnded(nil, "r", schemas.RunCancelled)})
	}
	s.runs.put(annsRun("r", schemas.RunInProgress))
	s.do("POST", "/api/runs/r/cancel", nil, asAnn).is(200).body(`{"run_id":"r","status":"cancelled"}`)
	s.do("POST", "/api/runs/r/cancel", `{"app_id":"app_1"}`).is(200)
	s.do("POST", "/api/runs/r/cancel", `{"app_id":"other"}`).is(404)
	s.do("POST", "/api/runs/r/cancel", `{"app_id":1}`).is(422)
	var c schemas.RunCancel
	if err := c.DecodePayload(log.frames[0].Payload); err != nil || c != (schemas.RunCancel{RunID: "r", By: "ann"}) || log.frames[0].AppID != "app_1" || len(log.frames) != 2 {
		t.Errorf("the command is %+v, %v, of %d", c, err, len(log.frames))
	}
	log.answer = func(*schemas.CommandFrame) Pending {
		return outcomeOf(schemas.CommandOutcome{Code: schemas.CodeRunFinished, Detail: "The run has ended"})
	}
	s.do("POST", "/api/runs/r/cancel", nil, asAnn).is(409, schemas.CodeRunFinished)
	s.runs.put(annsRun("r", schemas.RunFailed))
	s.do("POST", "/api/runs/r/cancel", nil, asAnn).is(409).body(`{"detail":"The run is failed","error_code":"RUN_FINISHED","status_code":409}`)
	if len(log.frames) != 3 {
		t.Errorf("%d commands", len(log.frames))
	}
}

func TestListPlugins(t *testing.T) {
	s := serve(t, knownUsers)
	const text = `{"plugins":[{"name":"x","display_name":"X","description":"Plugin for x","version":"1.0.0","enabled":true,"backend":"logic.py"}]}`
	s.do("GET", "/api/plugins", nil, asAnn).is(200).body(text)
	s.do("GET", "/api/available-plugins", nil, asAnn).is(200).body(text)
	s.plugins.known["x"] = Plugin{Name: "x", Error: "no logic.py"}
	s.do("GET", "/api/plugins", nil, asAnn).is(200).body(`{"plugins":[{"name":"x","display_name":"","description":"","version":"","enabled":false,"backend":"","error":"no logic.py"}]}`)
	if got := fmt.Sprint(s.plugins.listed); got != "[{app_1 ann } {app_1 ann } {app_1 ann }]" {
		t.Errorf("listed for %s", got)
	}
	s.do("GET", "/api/plugins", nil, "Authorization: Bearer "+serviceKey).is(401)
	s.do("GET", "/api/plugins?all=1", nil, asAnn).is(422)
}

func TestReportRuns(t *testing.T) {
	log := &runLog{}
	s := serve(t, func(o *Options) { o.Commands = log })
	log.answer = func(f *schemas.CommandFrame) Pending {
		var r schemas.RunReport
		if err := r.DecodePayload(f.Payload); err != nil {
			t.Error(err)
		}
		o := schemas.IngestOutcome{Accepted: len(r.Events)}
		if r.Events[0].RunID == "over" {
			o = schemas.IngestOutcome{Rejected: 1, Errors: []schemas.EventError{{Index: r.Events[0].Index, EventID: r.Events[0].EventID, Code: schemas.CodeRunFinished, Detail: "The run has ended"}}}
		}
		return memoryPending{stored: &Receipt{Seq: 1}, applied: &Receipt{Seq: 1, Outcome: o.Append(nil)}}
	}
	const path = "/api/orchestration/events"
	one := func(app, run, kind string) string {
		return fmt.Sprintf(`{"kind":"orchestration.%s","run_id":%q,"app_id":%q,"event_id":"e-%s","user_id":"u","workflow_name":"w","message":"m","timestamp":"2026-01-26T15:30:00Z"}`, kind, run, app, run)
	}
	s.do("POST", path, one("a", "r", "run_started")).is(200).body(`{"accepted":1,"duplicates":0,"rejected":0,"failed":0,"errors":[]}`)
	s.do("POST", path, "["+one("a", "r", "run_started")+","+one("b", "r", "run_started")+","+one("c", "over", "run_completed")+`,{"kind":"x"}]`).is(200)
	if len(log.frames) != 4 || log.frames[1].AppID != "a" || log.frames[2].AppID != "b" {
		t.Errorf("%d commands", len(log.frames))
	}
	s.do("POST", path, one("c", "over", "run_completed")).is(409).body(`{"detail":"The run has ended","error_code":"RUN_FINISHED","status_code":409}`)
	s.do("POST", path, `{"kind":"orchestration.run_started"}`).is(422, schemas.CodeValidation)
	s.do("POST", path, `[`).is(400, schemas.CodeInvalidJSON)
	s.do("POST", path, `{}`, "Content-Type: application/x-ndjson").is(415)
	s.do("POST", path, one("a", "r", "run_started"), "Ce-Specversion: 1.0", "Ce-Id: 1", "Ce-Source: s", "Ce-Type: "+schemas.TypeOf(schemas.StepRunStarted.Kind()), "Content-Type: application/json").is(200)
	log.answer = func(*schemas.CommandFrame) Pending { return memoryPending{stored: &Receipt{Seq: 1}} }
	slow := serve(t, func(o *Options) { o.Commands, o.WaitLimit = log, 10*time.Millisecond })
	slow.do("POST", path, one("a", "r", "run_started")).is(202).body(`{"status":"accepted","events":1}`)
}

func TestRunUsage(t *testing.T) {
	s := serve(t, knownUsers)
	r := annsRun("r 1", schemas.RunCompleted)
	r.EndedAt, r.ChatID = r.StartedAt+1_500_000_000, "c"
	s.runs.put(r)
	one := schemas.RunTotals{
		UsageSums: schemas.UsageSums{Events: 2, InputTokens: 3, OutputTokens: 4, TotalTokens: 7, CachedTokens: 1, ReasoningTokens: 1, Cost: schemas.AmountOf(1)},
		Duration:  schemas.AmountOf(2_500_000_000),
	}
	s.runs.usage = func(_ context.Context, r *schemas.Run) (*schemas.RunUsage, error) {
		return &schemas.RunUsage{Run: r, Totals: one, Agents: []schemas.AgentTotals{{RunTotals: schemas.RunTotals{}}, {Agent: "x \"y\"", RunTotals: one}}, ExpiredUntil: r.StartedAt}, nil
	}
	const (
		figures = `"events":2,"input_tokens":3,"output_tokens":4,"total_tokens":7,"cached_tokens":1,"reasoning_tokens":1,"cost":0.000000001,"duration_sec":2.5`
		zeros   = `"events":0,"input_tokens":0,"output_tokens":0,"total_tokens":0,"cached_tokens":0,"reasoning_tokens":0,"cost":0,"duration_sec":0`
		text    = `{"run_id":"r 1","app_id":"app_1","chat_id":"c","user_id":"ann","status":"completed","started_at":"2026-01-26T15:30:00Z","ended_at":"2026-01-26T15:30:01.5Z","duration_sec":1.5,` +
			`"expired_until":"2026-01-26T15:30:00Z","totals":{` + figures + `},"agents":[{"agent_name":"",` + zeros + `},{"agent_name":"x \"y\"",` + figures + `}]}`
	)
	for _, who := range []string{asAnn, asAdmin, "X-Internal-API-Key: " + internalKey} {
		s.do("GET", "/api/runs/r%201/usage", nil, who).is(200).body(text)
	}
	s.do("GET", "/api/runs/r%201/usage?limit=1", nil).is(422, schemas.CodeValidation)
	s.do("GET", "/api/runs/r%201/usage?app_id=other", nil).is(404, schemas.CodeNotFound)
	s.do("GET", "/api/runs/none/usage", nil, asAnn).is(404).detail("The app has no run with this id")
	s.do("GET", "/api/runs/r%201/usage", nil, "-").is(401)
	for want, answer := range map[int]error{
		422: schemas.Errorf(schemas.CodeTooManyRows, "too many"),
		503: fmt.Errorf("walk: %w", context.DeadlineExceeded),
		500: errors.New("disk is gone"),
	} {
		s.runs.usage = func(context.Context, *schemas.Run) (*schemas.RunUsage, error) { return nil, answer }
		s.do("GET", "/api/runs/r%201/usage", nil, asAnn).is(want)
	}
	s.runs.usage = func(context.Context, *schemas.Run) (*schemas.RunUsage, error) { return nil, nil } // expired meanwhile
	s.do("GET", "/api/runs/r%201/usage", nil, asAnn).is(404)
	s.runs.usage = nil
	r.Status, r.EndedAt = schemas.RunInProgress, 0
	if a := s.do("GET", "/api/runs/r%201/usage", nil, asAnn).is(200).json(); a["ended_at"] != nil || a["duration_sec"] == nil || fmt.Sprint(a["agents"]) != "[]" {
		t.Errorf("%v", a)
	}
	r.UserID = "ben"
	s.do("GET", "/api/runs/r%201/usage", nil, asAnn).is(404).detail("The app has no run with this id")
	s.do("GET", "/api/runs/r%201/usage", nil, asAdmin).is(200)
}
