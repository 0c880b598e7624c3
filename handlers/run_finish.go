package handlers

import (
	"cmp"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// finish writes down what an execution came to. A run that has ended stays as it is,
// while the usage that its plugin reports is counted all the same (contract §5.2.9).
func (e *engine) finish(tx *store.Tx, c Command, p *schemas.ExecutionEnd) (Result, error) {
	books := e.open(tx, c)
	r, err := books.run(p.RunID)
	if err != nil {
		return Result{}, err
	}
	if r == nil || r.Execution == nil {
		return refused(noRun()), nil
	}
	used, err := books.bookRun(&r.Run, p)
	if err != nil {
		return Result{}, err
	}
	if !r.Open() {
		return refused(runOver()), books.close()
	}
	how := ending{durationMs: p.DurationMs}
	if p.OK {
		how.event = endOf(&r.Run, schemas.StepRunCompleted, c.Now)
		if r.Execution.Keep && len(p.Result) > 0 {
			how.result = p.Result
		}
	} else {
		how.event = failureOf(&r.Run, p.Code, "The plugin failed", p.Detail, c.Now)
	}
	how.event.HasCost, how.event.Cost, how.event.HasTokens, how.event.TotalTokens = used.cost != schemas.Amount{}, used.cost, len(p.Usage) > 0, used.tokens
	if err := books.end(r, &how); err != nil {
		return Result{}, err
	}
	return answered(schemas.AppendRunEnded(nil, r.ID, r.Status)), books.close()
}

// runUsage is what the events of an execution sum up to.
type runUsage struct {
	cost   schemas.Amount
	tokens int64
}

// bookRun records the usage of an execution as a batch of its own. An instant at which it
// could not have been counted becomes that of the command: it was used all the same.
func (b *books) bookRun(r *schemas.Run, p *schemas.ExecutionEnd) (sum runUsage, err error) {
	if len(p.Usage) == 0 {
		return sum, nil
	}
	if err := b.prepare(r.AppID, r.TenantID, r.UserID); err != nil {
		return sum, err
	}
	part := store.Part{AppID: r.AppID, Outcome: store.PartNew, First: b.tx.Place(b.command.Index)}
	events := make([]schemas.UsageEvent, len(p.Usage)) // they must not change any more
	for i := range p.Usage {
		e := &events[i]
		*e = p.Usage[i]
		e.EventID = schemas.RunUsageID(r.ID, p.Attempt, int(e.Index))
		e.AppID, e.UserID, e.TenantID, e.RunID, e.ChatID = r.AppID, r.UserID, r.TenantID, r.ID, r.RunToken()
		e.WorkflowID = cmp.Or(e.WorkflowID, r.WorkflowName)
		if code, _ := judgeAge(e.Timestamp, b.command.Now); code != "" {
			e.Timestamp = b.command.Now
		}
		print := schemas.PrintOf(e)
		entry, err := b.tx.RecordUsage(b.command.Index, e, &print)
		if err != nil {
			return sum, err
		}
		if entry == store.Entered {
			part.Accepted++
			b.recorded(e)
		} else { // the same end again, at another instant
			part.Duplicates++
		}
		sum.cost = sum.cost.Add(schemas.AmountOf(e.Cost))
		sum.tokens += e.TotalTokens
	}
	_, err = b.tx.PutBatch(b.command.Index, &store.Batch{BatchID: b.command.ID, Made: true, Parts: []store.Part{part}})
	return sum, err
}

// rerun lets an execution run once more whose process is gone; one that was rerun as often
// as it may is lost.
func (e *engine) rerun(tx *store.Tx, c Command, p *schemas.ExecutionRerun) (Result, error) {
	books := e.open(tx, c)
	r, err := books.run(p.RunID)
	switch {
	case err != nil:
		return Result{}, err
	case r == nil || r.Execution == nil:
		return refused(noRun()), nil
	case !r.Open():
		return refused(runOver()), nil
	case p.Attempt < r.Try(): // it was counted before
		return answered(schemas.AppendExecuted(nil, r.ID, r.Try())), nil
	case !r.Execution.Rerun, r.Execution.Reruns >= schemas.MaxReruns:
		if err := books.lost(r); err != nil {
			return Result{}, err
		}
		return refused(schemas.Errorf(schemas.CodeWorkerLost, "%s", r.Error)), books.close()
	}
	next := r.Clone()
	next.Execution.Reruns++
	if err := books.prolong(r, &next); err != nil {
		return Result{}, err
	}
	return answered(schemas.AppendExecuted(nil, r.ID, r.Try())), books.close()
}

// leaseAgain moves the lease of an execution to its new deadline.
func (b *books) leaseAgain(r *schemas.Run) error {
	layers, err := b.layers(txState{b.tx}, r.AppID, schemas.ScopesOf(r.TenantID, r.UserID), store.Newest)
	if err := failed(&entitlements.View{}, err); err != nil {
		return err
	}
	for _, n := range entitlements.NeedsOf(layers, checkOf(r.Plugin, r.Execution.Action, r.UserID, r.TenantID)).Rates {
		if !n.Leases || !n.Counts {
			continue
		}
		if err := b.tx.Lease(r.AppID, n.Key.Scope, n.Key.Name, runLease(r.ID), r.DueAt); err != nil {
			return err
		}
	}
	return nil
}
