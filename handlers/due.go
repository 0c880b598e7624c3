package handlers

import (
	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// maxDue bounds what one command carries out of what is due.
const maxDue = 4096

// carryOut ends holds, runs, leases and periods that are due at a tick. What is more than one
// tick can do waits for the next one, which comes at once.
func (e *engine) carryOut(tx *store.Tx, c Command) error {
	books := e.open(tx, c)
	for range maxDue {
		d, err := tx.NextDue()
		if err != nil {
			return err
		}
		if d == nil {
			break
		}
		switch {
		case d.Hold != nil:
			err = books.expire(d.Hold)
		case d.Run != nil:
			err = books.runDue(d.Run)
		default:
			_, err = books.budget(d.AppID, d.Scope)
		}
		if err != nil {
			return err
		}
	}
	if _, err := tx.EndLeases(maxDue); err != nil {
		return err
	}
	return books.close()
}

// expireDue ends the holds of an app that are due, before anything is decided that they
// stand in the way of. done is false when there are more of them than one command ends.
func (b *books) expireDue(app string) (done bool, err error) {
	list, err := b.tx.OpenHolds(app, b.command.Now, maxDue+1)
	if err != nil {
		return false, err
	}
	for i, h := range list {
		if i == maxDue {
			return false, nil
		}
		if err := b.expire(h); err != nil {
			return false, err
		}
	}
	return true, nil
}

// expire ends a hold whose time is over.
func (b *books) expire(h *store.Held) error {
	next := entitlements.Expire(h.Hold, b.command.Now)
	b.emit(schemas.BudgetExpired.Name, h.AppID, holdSubject(h.ID), schemas.ExpiredFact(&next).AppendJSON)
	return b.change(h, &next)
}

// change lets a hold be what a rule has made of it, and lets the budgets that it held
// of hold it no more when it is closed.
func (b *books) change(h *store.Held, next *schemas.Hold) error {
	closes := h.State == schemas.HoldOpen && next.State != schemas.HoldOpen
	if err := b.tx.ChangeHold(h, next); err != nil || !closes {
		return err
	}
	return b.hold(&h.Hold, -1)
}

// hold adds the tokens of a hold to what is reserved in its scopes, or takes them away
// once it is closed.
func (b *books) hold(h *schemas.Hold, sign int64) error {
	t := schemas.Tokens{Total: sign * h.Tokens.Total, Input: sign * h.Tokens.Input, Output: sign * h.Tokens.Output}
	var full []*store.Budget
	if err := b.each(h.AppID, h.TenantID, h.UserID, func(x *store.Budget) {
		if !x.Hold(h.Model, t) {
			full = append(full, x)
		}
		b.touch(x)
	}); err != nil {
		return err
	}
	for _, x := range full {
		if err := b.tx.Reserve(x); err != nil {
			return err
		}
	}
	return nil
}

func holdSubject(id string) string { return "reservation/" + id }
