package handlers

import (
	"cmp"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// execute judges an execution of a plugin and opens the run that carries it out (contract
// §4). What it takes is set aside until plugin.finish.
func (e *engine) execute(tx *store.Tx, c Command, p *schemas.PluginExecution) (Result, error) {
	if c.AppID == "" {
		return Result{}, errNoApp
	}
	books, subject := e.open(tx, c), schemas.RunSubject(p.RunID)
	before, why, err := books.executedBefore(p)
	if err != nil {
		return Result{}, err
	}
	if why != nil {
		return refuseAt(tx, c, subject, why), nil
	}
	if before != nil {
		return answered(schemas.AppendExecuted(nil, before.ID, before.Try())), nil
	}
	done, err := books.expireDue(c.AppID)
	if err != nil {
		return Result{}, err
	}
	if !done {
		return refuseAt(tx, c, subject, manyDue()), books.close()
	}
	check := checkOf(p.Plugin, p.Action, p.UserID, p.TenantID)
	v, err := books.view(&Question{AppID: c.AppID, UserID: p.UserID, TenantID: p.TenantID, Check: check})
	if err != nil {
		return Result{}, err
	}
	d := entitlements.Execute(v, check)
	if err := books.tell(&d, p.Plugin); err != nil {
		return Result{}, err
	}
	if !d.Allowed {
		return books.refused(subject, &d), books.close()
	}
	r, err := books.begin(p, v, check, &d)
	if err != nil {
		return Result{}, err
	}
	return answered(schemas.AppendExecuted(nil, r.ID, r.Try())), books.close()
}

// checkOf is the check that an execution must pass, and is counted by.
func checkOf(plugin, action, user, tenant string) *schemas.EntitlementCheck {
	return &schemas.EntitlementCheck{Plugin: plugin, Action: action, UserID: user, TenantID: tenant, Needed: 1, Count: true}
}

// executedBefore gives the run that stands for an execution already: that of its id, or
// of its idempotency key.
func (b *books) executedBefore(p *schemas.PluginExecution) (*store.Run, *schemas.Error, error) {
	r, err := b.run(p.RunID)
	if err != nil {
		return nil, nil, err
	}
	if r != nil {
		if !same(r, p) {
			return nil, schemas.Errorf(schemas.CodeRunStarted, "The run id stands for another run"), nil
		}
		return r, nil, nil
	}
	if p.Key == "" {
		return nil, nil, nil
	}
	r, err = b.tx.RunOfKey(b.command.AppID, p.UserID, p.Plugin, p.Key)
	if err != nil || r == nil || r.WasBusy() || b.command.Now-r.Execution.AcceptedAt >= schemas.ResultKept {
		return nil, nil, err
	}
	if r.Execution.BodyDigest != p.BodyDigest {
		return nil, schemas.Errorf(schemas.CodeKeyReused, "The idempotency key was used with another body"), nil
	}
	return r, nil, nil
}

// same reports whether a run was begun by an execution with the same content.
func same(r *store.Run, p *schemas.PluginExecution) bool {
	x := r.Execution
	return x != nil && r.Plugin == p.Plugin && r.UserID == p.UserID && r.TenantID == p.TenantID && x.Key == p.Key && x.BodyDigest == p.BodyDigest
}

// begin counts an execution that may run, sets aside what it takes, and opens its run.
func (b *books) begin(p *schemas.PluginExecution, v *entitlements.View, check *schemas.EntitlementCheck, d *schemas.Decision) (*store.Run, error) {
	now := b.command.Now
	start := schemas.RunEvent{
		Step: schemas.StepRunStarted, Status: schemas.RunInProgress, RunID: p.RunID, AppID: b.command.AppID,
		EventID: schemas.GivenEventID(p.RunID, 1, schemas.StepRunStarted), ChatID: cmp.Or(p.ChatID, p.RunID),
		UserID: p.UserID, TenantID: p.TenantID, Plugin: p.Plugin, WorkflowName: p.Plugin,
	}
	next, events := advance(nil, &start, now)
	next.Execution = &schemas.Execution{
		Action: p.Action, Consumes: d.WouldConsume, Username: p.Username, Roles: p.Roles, Superadmin: p.Superadmin,
		Key: p.Key, BodyDigest: p.BodyDigest, Rerun: p.Rerun, Keep: p.Keep || p.Key != "",
		Timeout: p.Timeout, QueueTimeout: p.QueueTimeout, AcceptedAt: now,
		CorrelationID: b.command.CorrelationID, TraceParent: b.command.TraceParent,
	}
	next.DueAt = dueOf(&next, 0)
	if err := b.consume(v, check, leases{next.DueAt, func(int64) string { return runLease(p.RunID) }}); err != nil {
		return nil, err
	}
	if err := b.setAside(actionOf(&next)); err != nil {
		return nil, err
	}
	r, err := b.tx.PutRun(&next, p.Data)
	if err != nil {
		return nil, err
	}
	if p.Key != "" {
		if err := b.tx.EnterRunKey(r); err != nil {
			return nil, err
		}
	}
	return r, b.tellRun(r, &next, events)
}
