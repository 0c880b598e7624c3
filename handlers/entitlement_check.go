package handlers

import (
	"strconv"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// check judges a request and, when it is allowed, counts it (contract §5.2.11, §5.3).
func (e *engine) check(tx *store.Tx, c Command, r *schemas.EntitlementCheck) (Result, error) {
	if c.AppID == "" {
		return Result{}, errNoApp
	}
	books := e.open(tx, c)
	done, err := books.expireDue(c.AppID)
	if err != nil {
		return Result{}, err
	}
	if !done {
		return refuseAt(tx, c, "app/"+c.AppID, manyDue()), books.close()
	}
	v, err := books.view(&Question{AppID: c.AppID, UserID: r.UserID, TenantID: r.TenantID, Check: r})
	if err != nil {
		return Result{}, err
	}
	d := entitlements.Check(v, r)
	if err := books.tell(&d, r.Plugin); err != nil {
		return Result{}, err
	}
	if d.Allowed && r.Count {
		own := leases{v.Now + entitlements.LeaseFor, func(n int64) string { return leaseID(c, n) }}
		if err := books.consume(v, r, own); err != nil {
			return Result{}, err
		}
	}
	return answered(d.AppendCheck(nil, c.AppID, false)), books.close()
}

// leases are given to the runs that a check admits: until when, and the name of each.
type leases struct {
	until int64
	id    func(n int64) string
}

// consume counts what a check that counts came near, and tells of it.
func (b *books) consume(v *entitlements.View, r *schemas.EntitlementCheck, own leases) error {
	n := entitlements.NeedsOf(v.Layers, r)
	taken := map[string]int64{}
	for _, rate := range n.Rates {
		if !rate.Counts {
			continue
		}
		taken[rate.Key.Name] = rate.Needed
		if err := b.countRate(v, rate, own); err != nil {
			return err
		}
	}
	if n.Calls != nil {
		c := v.Calls[n.Calls.Key]
		c.Used++
		if err := b.tx.PutCalls(v.AppID, n.Calls.Key.Scope, n.Calls.Key.Name, c); err != nil {
			return err
		}
		taken["calls_per_period"] = 1
	}
	b.consumed(v.AppID, v.TenantID, v.UserID, r.Plugin, r.Action, taken)
	return nil
}

func (b *books) countRate(v *entitlements.View, n entitlements.RateNeed, own leases) error {
	if !n.Leases {
		w := entitlements.CountInWindow(v.Windows[n.Key], n.Span, v.Now, n.Needed)
		return b.tx.PutWindow(v.AppID, n.Key.Scope, n.Key.Name, &w)
	}
	for i := range n.Needed {
		if err := b.tx.Lease(v.AppID, n.Key.Scope, n.Key.Name, own.id(i), own.until); err != nil {
			return err
		}
	}
	return nil
}

// leaseID names a lease after the command that was given it.
func leaseID(c Command, n int64) string {
	id := schemas.FactID(schemas.Cause{ID: c.ID, Source: c.Source}, 0)
	if n > 0 {
		id += "/" + strconv.FormatInt(n, 10)
	}
	return id
}

// consumed tells what was used up.
func (b *books) consumed(app, tenant, user, plugin, action string, taken map[string]int64) {
	if len(taken) == 0 {
		return
	}
	d := schemas.EntitlementConsumedData{AppID: app, UserID: user, TenantID: tenant, Plugin: plugin, Action: action, Consumed: taken}
	scope := schemas.ScopesOf(tenant, user)[0]
	b.emit(schemas.EntitlementConsumed.Name, app, budgetSubject(scope, app), d.AppendJSON)
}
