package handlers

import (
	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// settle books what a hold came to, in full whatever it is, and closes the hold
// (contract §5.3).
func (e *engine) settle(tx *store.Tx, c Command, r *schemas.BudgetSettle) (Result, error) {
	books, subject := e.open(tx, c), holdSubject(r.ReservationID)
	if _, err := books.expireDue(c.AppID); err != nil { // for the decision beside it; what is more waits
		return Result{}, err
	}
	h, err := books.held(r.ReservationID)
	if err != nil {
		return Result{}, err
	}
	if h == nil {
		return refuseAt(tx, c, subject, noHold()), books.close()
	}
	event := r.SettledEvent(&h.Hold, c.Now)
	next, s, why := entitlements.Settle(h.Hold, &event, c.Now)
	if s.Again {
		return answered(h.Answer), books.close()
	}
	if why == nil {
		why = judgeSettled(&event, c.Now)
	}
	if why == nil {
		why, err = books.book(&event)
	}
	if err != nil {
		return Result{}, err
	}
	if why != nil {
		return refuseAt(tx, c, subject, why), books.close()
	}
	if err := books.change(h, &next); err != nil { // what was held stands for what is booked now
		return Result{}, err
	}
	v, err := books.view(&Question{AppID: c.AppID, UserID: event.UserID, TenantID: event.TenantID})
	if err != nil {
		return Result{}, err
	}
	d := entitlements.Recorded(v, event.Model)
	next.Answer = schemas.AppendSettled(nil, &next, s.Excess, s.Late, d.Verdict)
	if err := tx.ChangeHold(h, &next); err != nil {
		return Result{}, err
	}
	return answered(next.Answer), books.close()
}

// judgeSettled says what is wrong with the usage of a settlement, once hold and command
// have filled in what it left out.
func judgeSettled(e *schemas.UsageEvent, now int64) *schemas.Error {
	if e.UserID == "" {
		return schemas.Errorf(schemas.CodeValidation, "user_id is missing, and the reservation names none")
	}
	if code, detail := judgeAge(e.Timestamp, now); code != "" {
		return schemas.Errorf(code, "%s", detail)
	}
	return nil
}

// book records the usage of a settlement as a batch of one event. Usage that was
// recorded before is not counted again.
func (b *books) book(e *schemas.UsageEvent) (*schemas.Error, error) {
	if err := b.prepare(e.AppID, e.TenantID, e.UserID); err != nil {
		return nil, err
	}
	print := schemas.PrintOf(e)
	entry, err := b.tx.RecordUsage(b.command.Index, e, &print)
	if err != nil {
		return nil, err
	}
	part := store.Part{AppID: e.AppID, Outcome: store.PartNew, First: b.tx.Place(b.command.Index)}
	switch entry {
	case store.Conflict:
		return schemas.Errorf(schemas.CodeConflict, "event_id was used before for an event with other content, which stays counted"), nil
	case store.Duplicate:
		part.Duplicates = 1
	case store.Entered:
		part.Accepted = 1
		b.recorded(e)
	}
	_, err = b.tx.PutBatch(b.command.Index, &store.Batch{BatchID: b.command.ID, Made: true, Parts: []store.Part{part}})
	return nil, err
}
