package entitlements

import "grout/schemas"

// Grant makes the hold that a reservation asks for, at handler time now.
func Grant(app string, r *schemas.BudgetReserve, now int64) schemas.Hold {
	return schemas.Hold{
		ID: r.ReservationID, AppID: app, UserID: r.UserID, TenantID: r.TenantID, Model: r.Model, Tokens: r.Tokens,
		GrantedAt: now, ExpiresAt: now + r.TTL*second, State: schemas.HoldOpen,
	}
}

// Ended reports whether an open hold has expired at an instant.
func Ended(h *schemas.Hold, now int64) bool { return h.State == schemas.HoldOpen && now >= h.ExpiresAt }

// Settlement is what settling a hold comes to.
type Settlement struct {
	Again  bool // it was settled with the same event before: nothing changes
	Late   bool // it had ended by then
	Excess int64
}

// Settle books the usage of an event on a hold (contract §5.3): at most one event
// settles it, and none is refused for coming late or being more than was held.
func Settle(h schemas.Hold, e *schemas.UsageEvent, now int64) (schemas.Hold, Settlement, *schemas.Error) {
	if h.State == schemas.HoldSettled {
		if h.EventID != e.EventID {
			return h, Settlement{}, schemas.Errorf(schemas.CodeAlreadySettled, "The reservation was settled with another event")
		}
		return h, Settlement{Again: true}, nil
	}
	s := Settlement{Late: h.State != schemas.HoldOpen || now >= h.ExpiresAt, Excess: max(0, e.TotalTokens-h.Tokens.Total)}
	h.State, h.ClosedAt, h.EventID = schemas.HoldSettled, now, e.EventID
	h.Settled = schemas.Tokens{Total: e.TotalTokens, Input: e.InputTokens, Output: e.OutputTokens}
	return h, s, nil
}

// Extend moves the end of an open hold, never back and never beyond
// schemas.MaxHoldAge after its grant.
func Extend(h schemas.Hold, seconds, now int64) (schemas.Hold, *schemas.Error) {
	if h.State != schemas.HoldOpen || now >= h.ExpiresAt {
		return h, closed(&h)
	}
	h.ExpiresAt = max(h.ExpiresAt, min(now+seconds*second, h.GrantedAt+schemas.MaxHoldAge))
	return h, nil
}

// Release gives a hold back. Releasing it again is the same answer and changes nothing.
func Release(h schemas.Hold, now int64) (next schemas.Hold, again bool, err *schemas.Error) {
	switch {
	case h.State == schemas.HoldReleased:
		return h, true, nil
	case h.State != schemas.HoldOpen || now >= h.ExpiresAt:
		return h, false, closed(&h)
	}
	h.State, h.ClosedAt = schemas.HoldReleased, now
	return h, false, nil
}

// Expire ends a hold whose time is over.
func Expire(h schemas.Hold, now int64) schemas.Hold {
	h.State, h.ClosedAt = schemas.HoldExpired, now
	return h
}

// Repeated judges a reservation whose id is taken: the same answer again while the
// hold is open.
func Repeated(h *schemas.Hold, now int64) *schemas.Error {
	if h.State == schemas.HoldOpen && now < h.ExpiresAt {
		return nil
	}
	return closed(h)
}

var holdStates = map[schemas.HoldState]string{
	schemas.HoldOpen: "has expired", schemas.HoldSettled: "is settled", schemas.HoldReleased: "is released", schemas.HoldExpired: "has expired",
}

func closed(h *schemas.Hold) *schemas.Error {
	return schemas.Errorf(schemas.CodeReservationOver, "The reservation %s", holdStates[h.State])
}
