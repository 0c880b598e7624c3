package handlers

import (
	"grout/schemas"
	"grout/store"
)

// cancel ends a run that goes on; whoever carries it out sees that it has ended
// (contract §6).
func (e *engine) cancel(tx *store.Tx, c Command, p *schemas.RunCancel) (Result, error) {
	books, subject := e.open(tx, c), schemas.RunSubject(p.RunID)
	r, err := books.run(p.RunID)
	switch {
	case err != nil:
		return Result{}, err
	case r == nil:
		return refuseAt(tx, c, subject, noRun()), nil
	case r.Status.Ended():
		return refuseAt(tx, c, subject, runOver()), nil
	}
	event := endOf(&r.Run, schemas.StepRunCancelled, c.Now)
	if r.Open() {
		err = books.end(r, &ending{event: event, durationMs: max(0, c.Now-r.Execution.AcceptedAt) / 1e6})
	} else {
		err = books.stop(r, &event)
	}
	if err != nil {
		return Result{}, err
	}
	return answered(schemas.AppendRunEnded(nil, r.ID, r.Status)), books.close()
}

// publish makes known what a plugin says during its run.
func (e *engine) publish(tx *store.Tx, c Command, p *schemas.PluginPublication) (Result, error) {
	books := e.open(tx, c)
	r, err := books.run(p.RunID)
	switch {
	case err != nil:
		return Result{}, err
	case r == nil || r.Execution == nil:
		return refused(noRun()), nil
	case p.Number <= r.Execution.Published: // it was written again
		return done(), nil
	case !r.Open():
		return refused(runOver()), nil
	case p.Number > schemas.MaxPublications:
		return refused(schemas.Errorf(schemas.CodeLimitExceeded, "A run publishes at most %d events", schemas.MaxPublications)), nil
	}
	next := r.Clone()
	next.Execution.Published = p.Number
	if err := tx.ChangeRun(r, &next); err != nil {
		return Result{}, err
	}
	books.emit(schemas.PublishedKind(p.Name), r.AppID, schemas.RunSubject(r.ID), schemas.PublishedFact(&r.Run, p).AppendJSON)
	return done(), nil
}
