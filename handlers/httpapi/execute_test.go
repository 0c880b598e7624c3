package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"grout/schemas"
)

// executionLog takes plugin.execute and answers it like the rulebook.
type executionLog struct {
	memoryCommands
	decide func(x *schemas.PluginExecution) (Pending, error)

	mu    sync.Mutex
	taken []schemas.PluginExecution
}

func (l *executionLog) Submit(_ int, f schemas.CommandFrame) (Pending, error) {
	if f.Kind != schemas.ExecutePlugin.Name {
		return nil, fmt.Errorf("a command of kind %s", f.Kind)
	}
	var x schemas.PluginExecution
	if err := x.DecodePayload(append([]byte(nil), f.Payload...)); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.taken = append(l.taken, x)
	l.mu.Unlock()
	if l.decide != nil {
		return l.decide(&x)
	}
	return begun(x.RunID), nil
}

func outcomeOf(o schemas.CommandOutcome) Pending {
	return memoryPending{stored: &Receipt{Seq: 1}, applied: &Receipt{Seq: 1, Outcome: o.Append(nil)}}
}

func begun(run string) Pending {
	return outcomeOf(schemas.CommandOutcome{Body: schemas.AppendExecuted(nil, run, 1)})
}

func (l *executionLog) commands() []schemas.PluginExecution {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]schemas.PluginExecution(nil), l.taken...)
}

// executing is a server whose plugin x answers by a function.
type executing struct {
	*server
	log *executionLog
}

func serveExecutions(t *testing.T, answer func(x *schemas.PluginExecution, e *memoryExecution), change ...func(*Options)) *executing {
	t.Helper()
	log := &executionLog{}
	s := serve(t, append([]func(*Options){knownUsers, func(o *Options) { o.Commands = log }}, change...)...)
	log.decide = func(x *schemas.PluginExecution) (Pending, error) {
		s.plugins.mu.Lock()
		e := s.plugins.expects[len(s.plugins.expects)-1]
		s.plugins.mu.Unlock()
		if answer != nil {
			answer(x, e)
		}
		return begun(x.RunID), nil
	}
	return &executing{s, log}
}

func completes(result string) func(*schemas.PluginExecution, *memoryExecution) {
	return func(_ *schemas.PluginExecution, e *memoryExecution) {
		e.answer <- PluginAnswer{Status: schemas.RunCompleted, Result: []byte(result)}
	}
}

func failsWith(code schemas.Code, detail string) func(*schemas.PluginExecution, *memoryExecution) {
	return func(_ *schemas.PluginExecution, e *memoryExecution) {
		e.answer <- PluginAnswer{Status: schemas.RunFailed, Code: code, Detail: detail}
	}
}

func TestExecute(t *testing.T) {
	s := serveExecutions(t, completes(`{"n": 1.0}`))
	for _, path := range []string{"/api/execute/x", "/api/plugins/x/execute"} {
		a := s.do("POST", path, `{"q":1,"user_id":"mallory","action":"gen","chat_id":"c-1"}`, asAnn, "Content-Type: text/plain").is(200).body(`{"n": 1.0}`)
		x := s.log.commands()[len(s.log.commands())-1]
		a.has("X-Mozaiks-Run-Id", x.RunID)
		if string(x.Data) != `{"q":1,"action":"gen","chat_id":"c-1"}` || x.UserID != "ann" || x.Username != "Ann" || x.Action != "gen" || x.ChatID != "c-1" ||
			len(x.Roles) != 1 || x.Superadmin || x.Key != "" || x.Keep || x.Timeout != int64(5*time.Second) || x.QueueTimeout != int64(time.Second) {
			t.Errorf("the command is %+v", x)
		}
	}
	e := s.plugins.expects[0]
	if e.Token != annToken || e.App != "app_1" || e.Ticket == nil || <-e.how != "wait" {
		t.Errorf("expected %+v", e.Expected)
	}
	if strings.Contains(s.logs.String(), "SECRET") {
		t.Error("the token is in the log")
	}
}

// Each stage refuses before the next one is asked (contract §4).
func TestExecuteOrder(t *testing.T) {
	var asked []string
	note := func(stage string) { asked = append(asked, stage) }
	s := serveExecutions(t, completes(`{}`))
	s.plugins.broken = map[string]bool{"broken": true}
	s.plugins.judge = func(*schemas.PluginExecution) (schemas.Decision, bool, error) {
		note("judge")
		return schemas.Decision{Code: schemas.CodeForbidden, Detail: "Access denied: Subscription does not allow 'x'."}, true, nil
	}
	s.plugins.enter = func(context.Context, string) (Ticket, error) {
		note("enter")
		return nil, schemas.Errorf(schemas.CodePluginBusy, "Plugin 'x' is busy")
	}
	s.do("POST", "/api/execute/none", `not json`, "-").is(401, schemas.CodeUnauthorized).detail("Not authenticated")
	s.do("POST", "/api/execute/none", `not json`, asNobody).is(401, schemas.CodeUnauthorized).detail("Could not validate credentials")
	s.do("POST", "/api/execute/none", `not json`, asAnn).is(404).body(`{"detail":"Plugin 'none' not found or disabled","error_code":"NOT_FOUND","status_code":404}`)
	s.do("POST", "/api/execute/broken", `not json`, asAnn).is(404).body(`{"detail":"Plugin 'broken' not found.","error_code":"PLUGIN_LOAD_FAILED","status_code":404}`)
	for _, body := range []string{`not json`, ``, `[]`, `"x"`, `1`, `null`, `{"a":1}{}`, `{"a":1,"a":2}`, `{"a":"\ud800"}`} {
		s.do("POST", "/api/execute/x", body, asAnn).is(400).body(`{"detail":"Invalid JSON payload","error_code":"INVALID_JSON","status_code":400}`)
	}
	if asked != nil {
		t.Errorf("asked %v before", asked)
	}
	dry := `{"_entitlement_dry_run":true}`
	for _, body := range []string{`{}`, dry} {
		s.do("POST", "/api/execute/x", body, asAnn).is(403).body(`{"detail":"Access denied: Subscription does not allow 'x'.","error_code":"FORBIDDEN","status_code":403}`)
	}
	s.plugins.judge = func(*schemas.PluginExecution) (schemas.Decision, bool, error) {
		note("judge")
		return schemas.Decision{Allowed: true, WouldConsume: map[string]int64{"items": 1}}, false, nil
	}
	s.do("POST", "/api/execute/x", dry, asAnn).is(200).body(`{"dry_run":true,"allowed":true,"would_consume":{"items":1}}`)
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(503).has("Retry-After", "1").body(`{"detail":"Plugin 'x' is busy","error_code":"PLUGIN_BUSY","status_code":503}`)
	if got := fmt.Sprint(asked); got != "[judge judge judge judge enter]" {
		t.Errorf("asked %s", got)
	}
	if len(s.log.commands()) != 0 {
		t.Error("a refusal made a command")
	}
}

// A refusal that is news enters the log, without a worker being kept for it.
func TestExecuteRefusedInTheLog(t *testing.T) {
	s := serveExecutions(t, nil)
	refusal := schemas.Decision{Code: schemas.CodeLimitExceeded, Detail: "Insufficient items: need 1, have 0"}
	refusal.Limited, refusal.ResetsAt = true, time.Unix(1_769_441_400+90, 0).UnixNano()
	s.plugins.judge = func(*schemas.PluginExecution) (schemas.Decision, bool, error) { return refusal, false, nil }
	s.plugins.enter = func(context.Context, string) (Ticket, error) { return nil, errors.New("nobody may ask") }
	s.log.decide = func(*schemas.PluginExecution) (Pending, error) {
		return outcomeOf(schemas.CommandOutcome{Code: refusal.Code, Detail: refusal.Detail, Body: refusal.AppendCheck(nil, "app_1", false)}), nil
	}
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(429).has("Retry-After", "90").body(`{"detail":"Insufficient items: need 1, have 0","error_code":"LIMIT_EXCEEDED","status_code":429}`)
	if e := s.plugins.expects[0]; e.Ticket != nil || <-e.how != "drop" {
		t.Errorf("%+v was not dropped", e.Expected)
	}
}

func TestExecuteFailures(t *testing.T) {
	for _, c := range []struct {
		code   schemas.Code
		detail string
	}{
		{schemas.CodePluginTimeout, "Plugin execution timed out after 30.0 seconds"},
		{schemas.CodePluginError, "Error executing plugin: boom"},
		{schemas.CodeWorkerLost, "grout ended before the plugin had answered"},
		{"MY_CODE", "of my own"},
		{schemas.CodeNotFound, "no such invoice"},
		{schemas.CodeRunCancelled, "I gave up"},
		{schemas.CodePluginBusy, "try my sister"},
	} {
		s := serveExecutions(t, failsWith(c.code, c.detail))
		s.do("POST", "/api/execute/x", `{}`, asAnn).is(500).
			body(fmt.Sprintf(`{"detail":%q,"error_code":%q,"status_code":500}`, c.detail, c.code)).has("X-Mozaiks-Run-Id", s.log.commands()[0].RunID)
	}
	s := serveExecutions(t, func(_ *schemas.PluginExecution, e *memoryExecution) {
		e.answer <- PluginAnswer{Status: schemas.RunCancelled}
	})
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(409).body(`{"detail":"The run was cancelled","error_code":"RUN_CANCELLED","status_code":409}`)
	s = serveExecutions(t, failsWith(schemas.CodePluginBusy, "Plugin 'x' is busy"))
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(503, schemas.CodePluginBusy).has("Retry-After", "1")
}

func TestExecuteAsync(t *testing.T) {
	s := serveExecutions(t, nil)
	a := s.do("POST", "/api/execute/x", `{}`, asAnn, "Prefer: respond-async").is(202).has("Preference-Applied", "respond-async")
	x := s.log.commands()[0]
	a.body(fmt.Sprintf(`{"run_id":%q,"status_url":"/api/runs/%s"}`, x.RunID, x.RunID)).has("Location", "/api/runs/"+x.RunID).has("X-Mozaiks-Run-Id", x.RunID)
	if e := s.plugins.expects[0]; e.Ticket != nil || <-e.how != "leave" || e.Token != annToken || !x.Keep {
		t.Errorf("left %+v for %+v", e.Expected, x)
	}
}

// What is durable and not applied in time is 202; what may be durable is not dropped.
func TestExecuteNotApplied(t *testing.T) {
	s := serveExecutions(t, nil, func(o *Options) { o.WaitLimit = 10 * time.Millisecond })
	s.log.decide = func(*schemas.PluginExecution) (Pending, error) { return memoryPending{stored: &Receipt{Seq: 1}}, nil }
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(202)
	s.log.decide = func(*schemas.PluginExecution) (Pending, error) { return memoryPending{err: errors.New("no ack")}, nil }
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(503, schemas.CodeUnavailable)
	s.log.decide = func(*schemas.PluginExecution) (Pending, error) { return nil, ErrBusy }
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(503, schemas.CodeUnavailable)
	var how []string
	for _, e := range s.plugins.expects {
		how = append(how, <-e.how)
	}
	if got := fmt.Sprint(how); got != "[leave leave drop]" {
		t.Errorf("left by %s", got)
	}
	s.plugins.known["x"] = Plugin{Name: "x", Timeout: 10 * time.Millisecond}
	s.log.decide = nil
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(202) // its end is not in the log in time
}

func keyed(run, key string, x *schemas.PluginExecution, status schemas.RunStatus) *schemas.Run {
	return &schemas.Run{ID: run, AppID: "app_1", UserID: "ann", Plugin: "x", Status: status, Attempt: 1, Execution: &schemas.Execution{Key: key, BodyDigest: x.BodyDigest}}
}

func TestIdempotencyKey(t *testing.T) {
	s := serveExecutions(t, completes(`{"first":true}`))
	const key = "Idempotency-Key: k 1"
	first := s.do("POST", "/api/execute/x", `{"a":1,"b":2}`, asAnn, key).is(200).has("Idempotency-Replayed", "")
	x := s.log.commands()[0]
	if x.Key != "k 1" || !x.Keep {
		t.Fatalf("the command is %+v", x)
	}
	run := keyed(x.RunID, x.Key, &x, schemas.RunCompleted)
	run.Result = []byte(`{"first":true}`)
	s.runs.put(run)
	s.plugins.judge = func(*schemas.PluginExecution) (schemas.Decision, bool, error) {
		return schemas.Decision{Code: schemas.CodeForbidden, Detail: "no more"}, true, nil
	}
	again := `{ "b":2, "a":1, "user_id":"somebody" }` // it means the same
	s.do("POST", "/api/execute/x", again, asAnn, key).is(200).body(first.text).has("Idempotency-Replayed", "true").has("X-Mozaiks-Run-Id", x.RunID)
	s.do("POST", "/api/execute/x", `{"a":1}`, asAnn, key).is(422, schemas.CodeKeyReused)
	s.do("POST", "/api/execute/x", `{"a":1`, asAnn, key).is(400, schemas.CodeInvalidJSON)
	s.do("POST", "/api/execute/x", again, asAnn, "Idempotency-Key: k 2").is(403)
	s.do("POST", "/api/execute/x", again, asAdmin, key).is(403) // another user
	s.do("POST", "/api/execute/x", again, asAnn, "Idempotency-Key: "+strings.Repeat("k", 129)).is(422, schemas.CodeValidation)

	run = keyed(x.RunID, x.Key, &x, schemas.RunFailed)
	run.Code, run.Error = "MY_CODE", "of my own"
	s.runs.put(run)
	s.do("POST", "/api/execute/x", again, asAnn, key).is(500).body(`{"detail":"of my own","error_code":"MY_CODE","status_code":500}`).has("Idempotency-Replayed", "true")
	s.runs.put(keyed(x.RunID, x.Key, &x, schemas.RunCancelled))
	s.do("POST", "/api/execute/x", again, asAnn, key).is(409, schemas.CodeRunCancelled)
	if n := len(s.log.commands()); n != 1 {
		t.Errorf("%d commands", n)
	}
}

// Callers with the key of an execution that runs wait for it; those that do not want to
// wait are told where it is.
func TestIdempotencyKeyInFlight(t *testing.T) {
	s := serveExecutions(t, completes(`{"n":1}`))
	var once sync.Once
	done := make(chan struct{})
	s.runs.ended = func(ctx context.Context, id string) (*schemas.Run, error) {
		select {
		case <-done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		x := s.log.commands()[0]
		run := keyed(id, x.Key, &x, schemas.RunCompleted)
		run.Result = []byte(`{"n":1}`)
		return run, nil
	}
	answer := s.log.decide
	s.log.decide = func(x *schemas.PluginExecution) (Pending, error) {
		p, err := answer(x)
		s.runs.put(keyed(x.RunID, x.Key, x, schemas.RunInProgress))
		return p, err
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			a := s.do("POST", "/api/execute/x", `{"q":1}`, asAnn, "Idempotency-Key: k")
			if a.status != 200 || a.text != `{"n":1}` {
				t.Errorf("answered %d %s", a.status, a.text)
			}
			once.Do(func() { close(done) }) // the first one is not waited for by nobody
		})
	}
	all.Wait()
	if n := len(s.log.commands()); n != 1 {
		t.Errorf("%d commands for one key", n)
	}
}

// A refusal is not kept: the next one with the key is judged anew.
func TestIdempotencyKeyOfARefusal(t *testing.T) {
	s := serveExecutions(t, completes(`{}`))
	busy := true
	s.plugins.enter = func(context.Context, string) (Ticket, error) {
		if busy {
			return nil, schemas.Errorf(schemas.CodePluginBusy, "Plugin 'x' is busy")
		}
		return &memoryTicket{}, nil
	}
	s.do("POST", "/api/execute/x", `{}`, asAnn, "Idempotency-Key: k").is(503)
	busy = false
	s.do("POST", "/api/execute/x", `{}`, asAnn, "Idempotency-Key: k").is(200)
}

// What had no worker while it waited in the log did not run: its key does not stand for it.
func TestIdempotencyKeyOfWhatDidNotRun(t *testing.T) {
	s := serveExecutions(t, completes(`{"n":1}`))
	s.do("POST", "/api/execute/x", `{}`, asAnn, "Idempotency-Key: k").is(200)
	x := s.log.commands()[0]
	run := keyed(x.RunID, x.Key, &x, schemas.RunInProgress)
	s.runs.put(run)
	s.runs.ended = func(context.Context, string) (*schemas.Run, error) {
		busy := *run
		busy.Status, busy.Code, busy.Error = schemas.RunFailed, string(schemas.CodePluginBusy), "Plugin 'x' is busy"
		return &busy, nil
	}
	s.do("POST", "/api/execute/x", `{}`, asAnn, "Idempotency-Key: k").is(503, schemas.CodePluginBusy).has("Retry-After", "1").has("Idempotency-Replayed", "")
}

// A chat or run of somebody else is as unknown as one that cannot be: nothing is counted in
// it, nor told there.
func TestExecuteInAForeignChat(t *testing.T) {
	s := serveExecutions(t, completes(`{}`))
	s.reads.chat = func(_, id string) (*schemas.ChatUsage, error) {
		return map[string]*schemas.ChatUsage{"of-ben": {UserID: "ben"}, "of-ann": {UserID: "ann"}}[id], nil
	}
	s.runs.put(&schemas.Run{ID: "run-of-ben", AppID: "app_1", UserID: "ben"})
	s.runs.put(&schemas.Run{ID: "run-of-ann", AppID: "app_1", UserID: "ann"})
	for _, chat := range []string{"of-ben", "run-of-ben"} {
		for _, more := range []string{"", `,"_entitlement_dry_run":true`} {
			s.do("POST", "/api/execute/x", `{"chat_id":"`+chat+`"`+more+`}`, asAnn).is(404, schemas.CodeNotFound).detail("The app has no chat with this id")
		}
	}
	for _, chat := range []string{"of-ann", "run-of-ann", "new"} {
		s.do("POST", "/api/execute/x", `{"chat_id":"`+chat+`"}`, asAnn).is(200)
	}
	s.do("POST", "/api/execute/x", `{"chat_id":"of-ben"}`, asAdmin).is(200)
}

// What callers have sent is in memory while their call waits for a worker, and all of it
// together is bounded; a call that runs, or waits for another one, holds nothing.
func TestExecuteHoldsBoundedMemory(t *testing.T) {
	answers := make(chan *memoryExecution, 3)
	s := serveExecutions(t, func(_ *schemas.PluginExecution, e *memoryExecution) { answers <- e })
	s.api.calls.free.Store(100)
	waits, enter := make(chan struct{}), make(chan struct{})
	s.plugins.enter = func(context.Context, string) (Ticket, error) {
		waits <- struct{}{}
		<-enter
		return &memoryTicket{}, nil
	}
	body := `{"q":"` + strings.Repeat("x", 60) + `"}`
	var all sync.WaitGroup
	all.Go(func() { s.do("POST", "/api/execute/x", body, asAnn).is(200) })
	<-waits
	s.do("POST", "/api/execute/x", body, asAnn).is(503, schemas.CodePluginBusy).has("Retry-After", "1").detail("Plugin 'x' is busy")
	s.do("POST", "/api/execute/x", body, asAnn, "Idempotency-Key: k").is(503, schemas.CodePluginBusy)
	enter <- struct{}{}
	first := <-answers
	all.Go(func() { s.do("POST", "/api/execute/x", body, asAnn).is(200) }) // while the first one runs
	<-waits
	enter <- struct{}{}
	for _, e := range []*memoryExecution{first, <-answers} {
		e.answer <- PluginAnswer{Status: schemas.RunCompleted, Result: []byte(`{}`)}
	}
	all.Wait()
	if n := s.api.calls.free.Load(); n != 100 {
		t.Errorf("%d bytes are free", n)
	}
}

// The log knows the key of an execution that this node has not heard of.
func TestIdempotencyKeyInTheLog(t *testing.T) {
	s := serveExecutions(t, nil)
	s.log.decide = func(x *schemas.PluginExecution) (Pending, error) {
		run := keyed("first", x.Key, x, schemas.RunCompleted)
		run.Result = []byte(`{"by":"another"}`)
		s.runs.put(run)
		return begun("first"), nil
	}
	s.do("POST", "/api/execute/x", `{}`, asAnn, "Idempotency-Key: k").is(200).body(`{"by":"another"}`).has("X-Mozaiks-Run-Id", "first").has("Idempotency-Replayed", "true")
	if how := <-s.plugins.expects[0].how; how != "drop" {
		t.Errorf("left by %s", how)
	}
}

// The limits of a connection are those of short requests; an execution may take longer.
func TestExecuteLongerThanTheConnection(t *testing.T) {
	log := &executionLog{}
	s := serveWith(t, func(h *http.Server) { h.ReadTimeout, h.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond }, knownUsers, func(o *Options) { o.Commands = log })
	log.decide = func(x *schemas.PluginExecution) (Pending, error) {
		e := s.plugins.expects[0]
		time.AfterFunc(200*time.Millisecond, func() { e.answer <- PluginAnswer{Status: schemas.RunCompleted, Result: []byte(`{}`)} })
		return begun(x.RunID), nil
	}
	s.do("POST", "/api/execute/x", `{}`, asAnn).is(200)
}

func TestExecuteBodyLimits(t *testing.T) {
	s := serveExecutions(t, completes(`{}`))
	s.plugins.known["small"] = Plugin{Name: "small", MaxInputBytes: 10, Timeout: time.Second}
	s.do("POST", "/api/execute/small", `{"a":12345}`, asAnn).is(413, schemas.CodePayloadTooLarge)
	s.do("POST", "/api/execute/small", `{"a":1234}`, asAnn).is(200)
	s.do("POST", "/api/execute/x", `{"a":"`+strings.Repeat("a", 4<<20)+`"}`, asAnn).is(413, schemas.CodePayloadTooLarge)
	s.do("POST", "/api/execute/x", `{}`, asAnn, "Content-Encoding: gzip").is(415, schemas.CodeMediaType)
	s.do("POST", "/api/execute/x", strings.Repeat(`{"a":`, 65)+"1"+strings.Repeat("}", 65), asAnn).is(422, schemas.CodeValidation)
}

func TestPluginNames(t *testing.T) {
	s := serveExecutions(t, completes(`{}`))
	for path, name := range map[string]string{
		"..": "..", "a%2Fb": "a/b", "..%2F..%2Fetc": "../../etc", "a%00b": "a\x00b", "X": "X", "%20": " ", "x.y": "x.y",
	} {
		var said struct{ Detail string }
		a := s.do("POST", "/api/execute/"+path, `{}`, asAnn).is(404, schemas.CodeNotFound)
		if err := json.Unmarshal([]byte(a.text), &said); err != nil || said.Detail != "Plugin '"+name+"' not found or disabled" {
			t.Errorf("%s: %s %v", path, a.text, err)
		}
	}
	s.do("POST", "/api/execute/", `{}`, asAnn).is(404)
	s.do("POST", "/api/execute/x/y", `{}`, asAnn).is(404)
}
