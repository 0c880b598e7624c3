package handlers

import (
	"errors"
	"math"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// Question is what somebody's entitlements are asked about.
type Question struct {
	AppID    string
	UserID   string
	TenantID string
	Check    *schemas.EntitlementCheck // what rates and consumables are read for; nil: none
	Plugin   string                    // all of whose limits are read; empty: that of Check
	AsOf     int64                     // nanoseconds since 1970 UTC; 0: now
}

// Standing answers what anybody's entitlements are, as of what is committed: the same
// values that a command would be judged by, if it were the next one. It may be asked
// from anywhere.
type Standing struct {
	store   *store.Store
	library *library
}

// NewStanding reads the standing of a partition's apps.
func NewStanding(s *store.Store) *Standing { return &Standing{s, newLibrary()} }

// View gives what a decision follows from at an instant, which is handler time at least.
// Periods that are over have begun anew in it and holds that are due hold nothing.
func (s *Standing) View(q *Question, now int64) (v *entitlements.View, err error) {
	err = s.store.Look(func(l *store.Look) error {
		v, err = s.library.view(l, q, max(now, l.Now()))
		return err
	})
	return v, err
}

// Quiet reports whether nothing would be told of a decision when it were applied: it
// was told in this period already, or is not told. Only then may it be refused without
// a command.
func (s *Standing) Quiet(app string, d *schemas.Decision) (quiet bool, err error) {
	err = s.store.Look(func(l *store.Look) error {
		for _, t := range entitlements.Tellings(d) {
			told, err := l.Told(app, t.Scope, t.Name(), t.Period)
			if err != nil || !told {
				return err
			}
		}
		quiet = true
		return nil
	})
	return quiet, err
}

// Stored gives the newest manifest of a scope; nil when it has none.
func (s *Standing) Stored(app string, scope schemas.Scope) (v *store.ManifestVersion, m *schemas.Manifest, err error) {
	err = s.store.Look(func(l *store.Look) error {
		if v, err = l.Manifest(app, scope, store.Newest); err != nil || v == nil {
			return err
		}
		m, err = s.library.manifest(v)
		return err
	})
	return v, m, err
}

// Hold gives a reservation of an app; nil when there is none, or none any more. One
// that is due may still read as open.
func (s *Standing) Hold(app, id string) (*schemas.Hold, error) {
	h, err := s.store.Hold(app, id)
	if err != nil || h == nil {
		return nil, err
	}
	return &h.Hold, nil
}

// view gathers what a decision follows from. In a transaction whoever asks has brought
// the budgets to the period of now, and has ended what is due.
func (l *library) view(s state, q *Question, now int64) (*entitlements.View, error) {
	asOf := q.AsOf
	if asOf == 0 {
		asOf = store.Newest
	} else {
		now = min(now, asOf)
	}
	v := &entitlements.View{
		AppID: q.AppID, UserID: q.UserID, TenantID: q.TenantID, Now: now,
	}
	var err error
	for _, scope := range schemas.ScopesOf(q.TenantID, q.UserID) { // one that cannot be read hides no other
		layers, err := l.layers(s, q.AppID, []schemas.Scope{scope}, asOf)
		if err := failed(v, err); err != nil {
			return nil, err
		}
		v.Layers = append(v.Layers, layers...)
	}
	v.Switches, err = l.switches(s, asOf)
	if err := failed(v, err); err != nil {
		return nil, err
	}
	v.Catalogue, err = l.catalogue(s, asOf)
	if err := failed(v, err); err != nil {
		return nil, err
	}
	if err := counters(s, v); err != nil {
		return nil, err
	}
	if err := l.plugins(s, v, q, asOf); err != nil {
		return nil, err
	}
	if q.Check == nil {
		return v, nil
	}
	return v, rates(s, v, q.Check)
}

// failed notes in a view that something in the log cannot be read. Any other error
// ends the question.
func failed(v *entitlements.View, err error) error {
	if err == nil {
		return nil
	}
	if u := new(unreadable); errors.As(err, &u) {
		v.Failed = u.Error()
		return nil
	}
	return err
}

// counters reads how the budgets of a view stand.
func counters(s state, v *entitlements.View) error {
	budgets := entitlements.Budgets(v.Layers)
	named := 0
	for _, b := range budgets {
		named += len(b.Allocations())
	}
	v.Counters = make(map[entitlements.CounterKey]schemas.Counter, named)
	for _, b := range budgets {
		have, err := s.Budget(v.AppID, b.Scope)
		if err != nil {
			return err
		}
		next, err := periodOf(s, v.AppID, b, have, v.Now)
		if err != nil {
			return err
		}
		if next == nil { // that of now
			next = have
		}
		for _, name := range b.Allocations() {
			v.Counters[entitlements.CounterKey{Scope: b.Scope, Allocation: name}] = *next.Counter(name)
		}
	}
	look, ok := s.(*store.Look)
	if !ok || len(v.Counters) == 0 {
		return nil
	}
	due, full := int64(0), false
	for _, c := range v.Counters {
		full = full || c.Reserved == math.MaxInt64
	}
	if err := look.EachDueHold(v.AppID, v.Now, func(h *schemas.Hold) {
		due++
		free(v, h)
	}); err != nil || due == 0 || !full {
		return err
	}
	return reserveAgain(look, v)
}

// free takes what a hold holds from the counters of a view.
func free(v *entitlements.View, h *schemas.Hold) {
	for key, c := range v.Counters {
		if store.InScope(h, key.Scope) {
			c.Reserved -= h.Tokens.Amount(key.Allocation, h.Model)
			v.Counters[key] = c
		}
	}
}

// reserveAgain adds up what is held of the counters of a view: one of them was too full
// to know what is left.
func reserveAgain(l *store.Look, v *entitlements.View) error {
	for key, c := range v.Counters {
		c.Reserved = 0
		v.Counters[key] = c
	}
	return l.EachOpenHold(v.AppID, func(h *schemas.Hold) {
		if entitlements.Ended(h, v.Now) {
			return
		}
		for key, c := range v.Counters {
			if n := h.Tokens.Amount(key.Allocation, h.Model); store.InScope(h, key.Scope) {
				c.Reserved += min(n, math.MaxInt64-c.Reserved)
				v.Counters[key] = c
			}
		}
	})
}

func (l *library) plugins(s state, v *entitlements.View, q *Question, asOf int64) (err error) {
	plugin := q.Plugin
	if plugin == "" && q.Check != nil {
		plugin = q.Check.Plugin
	}
	if plugin == "" {
		return nil
	}
	if v.Plugin, err = l.plugin(s, plugin, asOf); err != nil || v.Plugin == nil {
		return err
	}
	scope := schemas.ScopesOf(q.TenantID, q.UserID)[0]
	v.Consumed = map[string]schemas.Consumption{}
	for name, limit := range v.Plugin.Limits {
		if limit.Cap {
			continue
		}
		c, err := s.Consumed(q.AppID, scope, plugin, name)
		if err != nil {
			return err
		}
		v.Consumed[name] = entitlements.RollConsumption(c, limit.Reset, v.Now)
	}
	return nil
}

// rates reads what rate limits and calls have counted, as far as a check comes near them.
func rates(s state, v *entitlements.View, r *schemas.EntitlementCheck) (err error) {
	n := entitlements.NeedsOf(v.Layers, r)
	if len(n.Rates) > 0 {
		v.Windows, v.Leases = map[entitlements.LimitKey]schemas.RateWindow{}, map[schemas.Scope][]schemas.Lease{}
	}
	for _, rate := range n.Rates {
		switch {
		case rate.Leases:
			if v.Leases[rate.Key.Scope], err = s.Leases(v.AppID, rate.Key.Scope, rate.Key.Name, v.Now); err != nil {
				return err
			}
		case rate.Span > 0:
			if v.Windows[rate.Key], err = s.Window(v.AppID, rate.Key.Scope, rate.Key.Name); err != nil {
				return err
			}
		}
	}
	if n.Calls == nil {
		return nil
	}
	c, err := s.Calls(v.AppID, n.Calls.Key.Scope, n.Calls.Key.Name)
	v.Calls = map[entitlements.LimitKey]schemas.Consumption{n.Calls.Key: entitlements.RollConsumption(c, n.Calls.Period, v.Now)}
	return err
}
