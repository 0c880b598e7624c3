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
	case r.Open() && overslept(r, b.command.Now):
		next := r.Clone()
		return b.prolong(r, &next)
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

// asleep is by how much a tick is late that grout wrote when it ran again.
const asleep = 10 * int64(1e9)

// overslept reports whether the deadline of an execution that may run again passed while
// grout did not run: whether it does has not been decided then.
func overslept(r *store.Run, now int64) bool {
	x := r.Execution
	return x.Rerun && x.Reruns < schemas.MaxReruns && now-r.DueAt > asleep
}

// prolong gives an execution, and its lease, the whole of its time again.
func (b *books) prolong(r *store.Run, next *schemas.Run) error {
	next.Execution.AcceptedAt = b.command.Now
	next.DueAt = dueOf(next, 0)
	if err := b.leaseAgain(next); err != nil {
		return err
	}
	return b.tx.ChangeRun(r, next)
}

func (b *books) silent(r *store.Run) error {
	e := failureOf(&r.Run, schemas.CodeRunLost, "The run was lost", "Nothing more was reported of the run", b.command.Now)
	return b.stop(r, &e)
}

// stop ends a run that others report.
func (b *books) stop(r *store.Run, e *schemas.RunEvent) error {
	next, events := advance(&r.Run, e, b.command.Now)
	next.DueAt = 0
	if err := b.tellRun(r, &next, events); err != nil {
		return err
	}
	return b.tx.ChangeRun(r, &next)
}
