package handlers

import (
	"grout/schemas"
	"grout/store"
)

// runDue carries out what is due of a run: an execution past its deadline has lost its
// worker, a run that others report and that says nothing more is lost, and a result has
// been kept for long enough.
func (b *books) runDue(r *store.Run) error {
	switch {
	case r.Open():
		return b.lost(r)
	case !r.Status.Ended():
		return b.silent(r)
	}
	if err := b.tx.DropRunResult(r); err != nil {
		return err
	}
	next := r.Clone()
	next.DueAt = 0
	return b.tx.ChangeRun(r, &next)
}

func (b *books) silent(r *store.Run) error {
	e := failureOf(&r.Run, schemas.CodeRunLost, "The run was lost", "Nothing more was reported of the run", b.command.Now)
	return b.stop(r, &e)
}

// stop ends a run that others report.
func (b *books) stop(r *store.Run, e *schemas.RunEvent) error {
	next, events := advance(&r.Run, e, b.command.Now)
	next.DueAt = 0
	if err := b.tellRun(r, events); err != nil {
		return err
	}
	return b.tx.ChangeRun(r, &next)
}
