package handlers

import (
	"cmp"
	"strings"

	"grout/schemas"
)

// runState is where a run stands between two events (contract §6).
type runState byte

const (
	runUnknown   runState = iota
	runImplied            // it goes on, and nobody has reported its start
	runReported           // it goes on
	runExecuting          // a plugin carries it out, and grout alone ends it
	runEnded
	runExecuted // and ended: nothing follows
)

var runStateNames = [...]string{"unknown", "implied", "reported", "executing", "ended", "executed"}

func (s runState) String() string { return runStateNames[s] }

// nextRun says what an event makes of a run. What it does not name is refused.
var nextRun = map[runState]map[schemas.RunStep]runState{
	runUnknown:   going(runImplied, runEnded, map[schemas.RunStep]runState{schemas.StepRunStarted: runReported}),
	runImplied:   going(runImplied, runEnded, map[schemas.RunStep]runState{schemas.StepRunStarted: runReported}),
	runReported:  going(runReported, runEnded, nil),
	runExecuting: going(runExecuting, runExecuted, nil),
	runEnded:     {schemas.StepRunStarted: runReported}, // the next attempt
	runExecuted:  {},
}

// going adds what every run that has not ended does: agents and tools leave it where it is.
func going(stays, ends runState, more map[schemas.RunStep]runState) map[schemas.RunStep]runState {
	m := map[schemas.RunStep]runState{
		schemas.StepAgentStarted: stays, schemas.StepAgentCompleted: stays, schemas.StepToolStarted: stays, schemas.StepToolCompleted: stays,
		schemas.StepRunCompleted: ends, schemas.StepRunFailed: ends, schemas.StepRunCancelled: ends,
	}
	for step, to := range more {
		m[step] = to
	}
	return m
}

// stateOf gives where a run stands; nil is unknown.
func stateOf(r *schemas.Run) runState {
	switch {
	case r == nil:
		return runUnknown
	case r.Status.Ended() && r.Execution != nil:
		return runExecuted
	case r.Status.Ended():
		return runEnded
	case r.Execution != nil:
		return runExecuting
	case r.Implicit:
		return runImplied
	}
	return runReported
}

// judgeStep says why an event may not follow where a run stands; nil when it may. Who
// reports an execution of a plugin tells of its agents and tools, not of its end.
func judgeStep(s runState, step schemas.RunStep, reported bool) *schemas.Error {
	_, may := nextRun[s][step]
	switch {
	case may && s == runExecuting && reported && step.Ends().Ended():
		return schemas.Errorf(schemas.CodeForbidden, "The run is an execution of a plugin, whose end nobody else reports: cancel it")
	case may:
		return nil
	case s == runEnded, s == runExecuted:
		return schemas.Errorf(schemas.CodeRunFinished, "The run has ended")
	}
	return schemas.Errorf(schemas.CodeRunStarted, "The run has been started and goes on")
}

// advance says what an event makes of a run, nil when the run is unknown, and which events
// that adds to it: one or, when a start is implied, two. The event may follow (judgeStep);
// now is handler time.
func advance(have *schemas.Run, e *schemas.RunEvent, now int64) (next schemas.Run, events []schemas.RunEvent) {
	event := *e
	if event.Timestamp == 0 {
		event.Timestamp = now
	}
	starts := event.Step == schemas.StepRunStarted
	switch {
	case have == nil:
		next = schemas.Run{ID: event.RunID, AppID: event.AppID, Attempt: 1, StartedAt: event.Timestamp}
		if !starts {
			events = append(events, impliedStart(&event))
		}
	case have.Status.Ended():
		next = nextAttempt(have)
	default:
		next = have.Clone()
	}
	if starts {
		next.StartedAt = event.Timestamp
	}
	next.Implicit = !starts && (have == nil || next.Implicit)
	events = append(events, event)
	for i := range events {
		follow(&next, &events[i])
	}
	next.UpdatedAt = now
	return next, events
}

// impliedStart is the start of a run whose first event is another one.
func impliedStart(e *schemas.RunEvent) schemas.RunEvent {
	return schemas.RunEvent{
		Step: schemas.StepRunStarted, Status: schemas.RunInProgress, RunID: e.RunID, AppID: e.AppID, Timestamp: e.Timestamp, Implicit: true,
		EventID: schemas.GivenEventID(e.RunID, 1, schemas.StepRunStarted),
		ChatID:  e.ChatID, UserID: e.UserID, TenantID: e.TenantID, Plugin: e.Plugin, WorkflowName: e.WorkflowName, ParentRunID: e.ParentRunID,
	}
}

// nextAttempt is a run that begins again: whose it is and its sequence go on, what came of
// it before does not.
func nextAttempt(r *schemas.Run) schemas.Run {
	return schemas.Run{
		ID: r.ID, AppID: r.AppID, UserID: r.UserID, TenantID: r.TenantID, ChatID: r.ChatID, Plugin: r.Plugin,
		WorkflowName: r.WorkflowName, ParentRunID: r.ParentRunID, Attempt: r.Attempt + 1, Sequence: r.Sequence,
	}
}

// follow lets a run say what an event says, and gives the event what only the run knows.
// The chat of a run is the first that is named: the subjects of its facts do not change.
func follow(r *schemas.Run, e *schemas.RunEvent) {
	r.Sequence++
	e.AppID, e.Sequence, e.Attempt = r.AppID, r.Sequence, r.Attempt
	r.ChatID = cmp.Or(r.ChatID, e.ChatID)
	e.ChatID = r.ChatID
	if r.Execution == nil { // whose it is was decided when it was accepted
		belong(r, e)
	}
	r.Status = e.Step.Ends()
	if r.Status.Ended() {
		r.EndedAt, r.Summary = e.Timestamp, e.Summary
		r.HasCost, r.Cost, r.HasTokens, r.TotalTokens = e.HasCost, e.Cost, e.HasTokens, e.TotalTokens
	}
	if r.Status == schemas.RunFailed {
		r.Error, r.Code = cmp.Or(e.Error, e.Message), e.Code
	}
}

// belong takes in whose a run is: a start says so, other events fill in what is not known.
// A later attempt makes a run nobody else's: it would give away what was told before.
func belong(r *schemas.Run, e *schemas.RunEvent) {
	starts := e.Step == schemas.StepRunStarted
	for _, f := range [...]struct {
		to   *string
		says string
		held bool
	}{
		{&r.UserID, e.UserID, r.Attempt > 1},
		{&r.TenantID, e.TenantID, r.Attempt > 1},
		{&r.Plugin, e.Plugin, false},
		{&r.WorkflowName, e.WorkflowName, false},
		{&r.ParentRunID, e.ParentRunID, false},
	} {
		if f.says != "" && (starts && !f.held || *f.to == "") {
			*f.to = f.says
		}
	}
	if starts {
		r.Message = cmp.Or(e.Message, r.Message)
	}
}

// dueOf is when a tick has to look at a run: at the deadline of an execution, and when a
// run that others report has said nothing for too long; 0: never.
func dueOf(r *schemas.Run, silence int64) int64 {
	switch {
	case r.Status.Ended():
		return 0
	case r.Execution != nil:
		return r.Execution.Deadline(r.Execution.AcceptedAt)
	}
	return wholeMinute(r.UpdatedAt + silence)
}

// wholeMinute moves an instant to the next full minute: what need not be exact takes no
// tick for each run.
func wholeMinute(at int64) int64 {
	const minute = hourNanos / 60
	return (at + minute - 1) / minute * minute
}

// endOf is the event with which grout itself ends a run.
func endOf(r *schemas.Run, step schemas.RunStep, now int64) schemas.RunEvent {
	return schemas.RunEvent{
		Step: step, Status: step.Ends(), RunID: r.ID, AppID: r.AppID, Timestamp: now, EventID: schemas.GivenEventID(r.ID, r.Attempt, step),
	}
}

// failureOf is that of a run that failed.
func failureOf(r *schemas.Run, code schemas.Code, message, detail string, now int64) schemas.RunEvent {
	e := endOf(r, schemas.StepRunFailed, now)
	e.Code, e.Message, e.Error = string(code), message, clip(detail)
	return e
}

// clip keeps the beginning of a text that is too long for a fact, and what is no UTF-8
// out of it.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= schemas.MaxRunTextChars {
		return s
	}
	n := 0
	for i := range s {
		if n == schemas.MaxRunTextChars {
			return s[:i]
		}
		n++
	}
	return s
}
