package handlers

import (
	"cmp"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

func noRun() *schemas.Error {
	return schemas.Errorf(schemas.CodeNotFound, "The app has no run with this id")
}

func runOver() *schemas.Error { return schemas.Errorf(schemas.CodeRunFinished, "The run has ended") }

// run gives the run that a command is about; nil when the app has none of the id.
func (b *books) run(id string) (*store.Run, error) {
	if b.command.AppID == "" {
		return nil, errNoApp
	}
	return b.tx.Run(b.command.AppID, id)
}

// silence is after what time a run that others report is lost.
func (b *books) silence() (int64, error) {
	w, err := b.switches(txState{b.tx}, store.Newest)
	if err := failed(&entitlements.View{}, err); err != nil {
		return 0, err
	}
	if w.RunSilence == 0 {
		return schemas.RunSilence, nil
	}
	return w.RunSilence * 1e9, nil
}

// tellRun stores events of a run and files their facts, and behind its end what its chat
// has come to; next is the run with these events.
func (b *books) tellRun(r *store.Run, next *schemas.Run, events []schemas.RunEvent) error {
	for i := range events {
		e := &events[i]
		if err := b.tx.AddRunEvent(r, e); err != nil {
			return err
		}
		chat, user := cmp.Or(e.ChatID, e.RunID), cmp.Or(next.UserID, e.UserID)
		if err := b.tx.EmitItem(b.command.Index, e.Step.Kind(), e.AppID, chat, user, schemas.RunSubject(e.RunID), schemas.RunFact(e).AppendJSON); err != nil {
			return err
		}
		if !e.Step.Ends().Ended() {
			continue
		}
		s := schemas.ChatSummary{RunID: e.RunID, WorkflowName: next.WorkflowName}
		if _, err := b.tx.EmitSummary(b.command.Index, e.AppID, chat, user, s, false); err != nil {
			return err
		}
	}
	return nil
}

// ending is how an execution ends.
type ending struct {
	event      schemas.RunEvent
	result     []byte // to keep; nil: none
	durationMs int64
}

// end ends an execution that is open: what was set aside for its action is taken when it
// succeeded and given back otherwise, and its lease is free.
func (b *books) end(r *store.Run, how *ending) error {
	a := actionOf(&r.Run)
	settle := b.giveBack
	if how.event.Step == schemas.StepRunCompleted {
		settle = b.take
	}
	if err := settle(a); err != nil {
		return err
	}
	for _, scope := range schemas.ScopesOf(r.TenantID, r.UserID) {
		if err := b.tx.EndLease(r.AppID, scope, entitlements.ConcurrentRuns, runLease(r.ID)); err != nil {
			return err
		}
	}
	next, events := advance(&r.Run, &how.event, b.command.Now)
	next.Execution.DurationMs, next.DueAt = how.durationMs, 0
	if how.result != nil {
		next.DueAt = wholeMinute(b.command.Now + schemas.ResultKept)
	}
	if err := b.tellRun(r, &next, events); err != nil {
		return err
	}
	if err := b.tx.ChangeRun(r, &next); err != nil {
		return err
	}
	if how.result != nil {
		if err := b.tx.SetRunResult(r, how.result); err != nil {
			return err
		}
	}
	b.tellEnd(&next)
	return nil
}

// tellEnd files the fact about an execution that has ended.
func (b *books) tellEnd(r *schemas.Run) {
	subject := schemas.RunSubject(r.ID)
	switch r.Status {
	case schemas.RunCompleted:
		b.emit(schemas.PluginExecuted.Name, r.AppID, subject, schemas.ExecutedFact(r).AppendJSON)
	case schemas.RunCancelled:
		stopped := *r
		stopped.Error, stopped.Code = "The run was cancelled", string(schemas.CodeRunCancelled)
		b.emit(schemas.PluginFailed.Name, r.AppID, subject, schemas.ExecutionErrorFact(&stopped).AppendJSON)
	default:
		b.emit(schemas.PluginFailed.Name, r.AppID, subject, schemas.ExecutionErrorFact(r).AppendJSON)
	}
}

// actionOf is what an execution does with its plugin.
func actionOf(r *schemas.Run) *action {
	return &action{
		AppID: r.AppID, UserID: r.UserID, TenantID: r.TenantID, Plugin: r.Plugin, Name: r.Execution.Action, Consumes: r.Execution.Consumes,
	}
}

// runLease names the lease of a run.
func runLease(run string) string { return "run/" + run }

// lost ends an execution whose process is gone.
func (b *books) lost(r *store.Run) error {
	return b.end(r, &ending{event: failureOf(&r.Run, schemas.CodeWorkerLost, "The execution was lost", "The plugin's worker was lost before it answered", b.command.Now)})
}
