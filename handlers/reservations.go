package handlers

import (
	"errors"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

var errNoApp = errors.New("the command names no app")

// reserve holds tokens of every budget that they touch, or of none (contract §5.3).
func (e *engine) reserve(tx *store.Tx, c Command, r *schemas.BudgetReserve) (Result, error) {
	if c.AppID == "" {
		return Result{}, errNoApp
	}
	subject := holdSubject(r.ReservationID)
	books := e.open(tx, c)
	have, err := tx.Hold(c.AppID, r.ReservationID)
	if err != nil {
		return Result{}, err
	}
	done, err := books.expireDue(c.AppID)
	if err != nil {
		return Result{}, err
	}
	if have != nil {
		if have, err = tx.HoldAt(have.Place); err != nil {
			return Result{}, err
		}
		if why := entitlements.Repeated(&have.Hold, c.Now); why != nil {
			return refuseAt(tx, c, subject, why), books.close()
		}
		return answered(have.Answer), books.close()
	}
	if !done {
		return refuseAt(tx, c, subject, manyDue()), books.close()
	}
	v, err := books.view(&Question{AppID: c.AppID, UserID: r.UserID, TenantID: r.TenantID})
	if err != nil {
		return Result{}, err
	}
	d := entitlements.Reserve(v, r)
	if err := books.tell(&d, ""); err != nil {
		return Result{}, err
	}
	if !d.Allowed {
		return books.refused(subject, &d), books.close()
	}
	h := entitlements.Grant(c.AppID, r, c.Now)
	h.Answer = schemas.AppendReserved(nil, &h, &d)
	if _, err := tx.PutHold(c.Index, &h); err != nil {
		return Result{}, err
	}
	if err := books.hold(&h, 1); err != nil {
		return Result{}, err
	}
	return answered(h.Answer), books.close()
}

// manyDue refuses what cannot be decided before more has ended than one command ends.
func manyDue() *schemas.Error {
	return schemas.Errorf(schemas.CodeUnavailable, "More than %d reservations of the app have just expired; try again", maxDue)
}

// view gives what a decision follows from, once the budgets of those it is about are in
// the period of handler time.
func (b *books) view(q *Question) (*entitlements.View, error) {
	if err := b.each(q.AppID, q.TenantID, q.UserID, func(*store.Budget) {}); err != nil {
		return nil, err
	}
	return b.engine.view(txState{b.tx}, q, b.command.Now)
}

// refused gives a command that a decision refuses its one outcome. Its answer tells
// where the limit stands.
func (b *books) refused(subject string, d *schemas.Decision) Result {
	c := b.command
	data := schemas.CommandRefusedData{Code: d.Code, Detail: d.Detail}
	b.emit(schemas.CommandRefused.Name, c.AppID, subject, data.AppendJSON)
	o := schemas.CommandOutcome{Code: d.Code, Detail: d.Detail, Body: d.AppendCheck(nil, c.AppID, false)}
	return Result{Outcome: o.Append(nil)}
}

// tell files the facts that a decision is told by once in a period (contract §5.2.13).
func (b *books) tell(d *schemas.Decision, plugin string) error {
	app := b.command.AppID
	for _, t := range entitlements.Tellings(d) {
		first, err := b.tx.Tell(app, t.Scope, t.Name(), t.Period)
		if err != nil {
			return err
		}
		if !first {
			continue
		}
		subject := budgetSubject(t.Scope, app)
		if t.Blocked {
			b.emit(schemas.EntitlementBlocked.Name, app, subject, schemas.FeatureFact(app, plugin, &t.Judgement).AppendJSON)
		} else {
			b.emit(schemas.EntitlementLimit.Name, app, subject, schemas.LimitFact(app, plugin, &t.Judgement).AppendJSON)
		}
	}
	return nil
}

// held gives the hold that a command is about, ended when it is due; nil when the app
// has none of the id.
func (b *books) held(id string) (*store.Held, error) {
	if b.command.AppID == "" {
		return nil, errNoApp
	}
	h, err := b.tx.Hold(b.command.AppID, id)
	if err != nil || h == nil || !entitlements.Ended(&h.Hold, b.command.Now) {
		return h, err
	}
	return h, b.expire(h)
}

func noHold() *schemas.Error {
	return schemas.Errorf(schemas.CodeNotFound, "The app has no reservation with this id")
}

// extend moves the end of an open hold (contract §5.3).
func (e *engine) extend(tx *store.Tx, c Command, r *schemas.BudgetExtend) (Result, error) {
	books, subject := e.open(tx, c), holdSubject(r.ReservationID)
	h, err := books.held(r.ReservationID)
	if err != nil {
		return Result{}, err
	}
	if h == nil {
		return refuseAt(tx, c, subject, noHold()), nil
	}
	next, why := entitlements.Extend(h.Hold, r.TTL, c.Now)
	if why != nil {
		return refuseAt(tx, c, subject, why), books.close()
	}
	if err := books.change(h, &next); err != nil {
		return Result{}, err
	}
	return answered(schemas.AppendExtended(nil, &next)), books.close()
}

// release gives a hold back (contract §5.3).
func (e *engine) release(tx *store.Tx, c Command, r *schemas.BudgetRelease) (Result, error) {
	books, subject := e.open(tx, c), holdSubject(r.ReservationID)
	h, err := books.held(r.ReservationID)
	if err != nil {
		return Result{}, err
	}
	if h == nil {
		return refuseAt(tx, c, subject, noHold()), nil
	}
	next, again, why := entitlements.Release(h.Hold, c.Now)
	if why != nil {
		return refuseAt(tx, c, subject, why), books.close()
	}
	if !again {
		if err := books.change(h, &next); err != nil {
			return Result{}, err
		}
	}
	return answered(schemas.AppendReleased(nil, &next)), books.close()
}
