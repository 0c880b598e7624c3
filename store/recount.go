package store

import (
	"bytes"
	"context"
	"fmt"

	"grout/schemas"
)

// BudgetDifference is a counter that is not what a recount gives.
type BudgetDifference struct {
	AppID      string `json:"app_id"`
	Scope      string `json:"scope"`
	ScopeID    string `json:"scope_id"`
	Allocation string `json:"allocation"`
	What       string `json:"what"` // used or reserved
	Counted    int64  `json:"counted"`
	Recounted  int64  `json:"recounted"`
}

// RecountBudgets compares every counter with the usage of its period, what was imported
// left out, and what is reserved of it with the app's open holds.
func (s *Store) RecountBudgets(ctx context.Context) (list []BudgetDifference, err error) {
	err = s.Look(func(l *Look) error {
		c := l.bucket(bucketCounters).cursor()
		for k, _ := c.first(); k != nil; {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r := newReader(k)
			app := r.text()
			if r.Err != nil {
				return fmt.Errorf("counters at %x: %w", k, errDamaged)
			}
			found, err := l.recount(ctx, app)
			if err != nil {
				return fmt.Errorf("app %q: %w", app, err)
			}
			list = append(list, found...)
			k, _ = c.seek(after(appendText(nil, app)))
		}
		return c.err
	})
	return list, err
}

// recounted is a budget as it is stored, and as it is counted again.
type recounted struct{ stored, again *Budget }

// recount goes through the usage of an app once for all of its budgets.
func (l *Look) recount(ctx context.Context, app string) (list []BudgetDifference, err error) {
	budgets, order := map[schemas.Scope]recounted{}, []recounted(nil)
	prefix := appendText(nil, app)
	c := l.bucket(bucketCounters).cursor()
	for k, v := c.seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.next() {
		x := recounted{}
		if x.stored, err = parseBudget(k, v); err == nil {
			x.again, err = parseBudget(k, v)
		}
		if err != nil {
			return nil, err
		}
		for i := range x.again.Counters {
			x.again.Counters[i].Used, x.again.Counters[i].Reserved = 0, 0
		}
		budgets[x.stored.Scope], order = x, append(order, x)
	}
	if c.err != nil {
		return nil, c.err
	}
	if err := l.countAgain(ctx, app, budgets); err != nil {
		return nil, err
	}
	for _, x := range order {
		list = x.differences(list)
	}
	return list, nil
}

func (l *Look) countAgain(ctx context.Context, app string, budgets map[schemas.Scope]recounted) error {
	each := func(tenant, user string, do func(*Budget)) {
		for _, scope := range schemas.ScopesOf(tenant, user) {
			if x, ok := budgets[scope]; ok {
				do(x.again)
			}
		}
	}
	var fault error
	row := func(hour uint32, rest string, sums *schemas.UsageSums) {
		f, err := parseRest(rest)
		if err != nil {
			fault = err
			return
		}
		t := schemas.Tokens{Total: sums.TotalTokens, Input: sums.InputTokens, Output: sums.OutputTokens}
		each(f.tenant, f.user, func(b *Budget) { b.Count(hour, f.model, t) })
	}
	if err := l.rows(ctx, app, schemas.FirstHour, schemas.LastHour, row); err != nil {
		return err
	}
	if fault != nil {
		return fault
	}
	return eachOpenHold(l, app, Newest, func(h *Held) error {
		each(h.TenantID, h.UserID, func(b *Budget) { b.Hold(h.Model, h.Tokens) })
		return nil
	})
}

func (x recounted) differences(list []BudgetDifference) []BudgetDifference {
	b := x.stored
	for i := range b.Counters {
		was, is := &b.Counters[i], &x.again.Counters[i]
		for _, f := range [...]struct {
			what           string
			counted, again int64
		}{{"used", was.Used - was.Imported, is.Used}, {"reserved", was.Reserved, is.Reserved}} {
			if f.counted != f.again {
				list = append(list, BudgetDifference{b.AppID, b.Scope.Kind.String(), b.Scope.IDIn(b.AppID), was.Allocation, f.what, f.counted, f.again})
			}
		}
	}
	return list
}
