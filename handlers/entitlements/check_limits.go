package entitlements

import (
	"maps"
	"slices"

	"grout/schemas"
)

// limits judges rate limits, the calls of the plugin, what the action takes, and the
// limit that is asked about.
func (j *judge) limits(r *schemas.EntitlementCheck) {
	asked := r.Limit == ""
	if rules := j.view.rules(); rules != nil && r.Plugin != "" {
		asked = j.pluginLimits(rules, r) || asked
	}
	asked = j.calls(r) || asked
	asked = j.rateLimits(r) || asked
	if asked {
		return
	}
	if j.allocation(r) {
		return
	}
	j.add(schemas.Judgement{Rule: "5.2.4", Name: r.Limit, Because: schemas.ReasonNotListed, Limited: true, Limit: schemas.Unlimited, Remaining: schemas.Unlimited, Needed: r.Needed}, "", "")
}

// allocation judges a limit that is asked about by the name of an allocation.
func (j *judge) allocation(r *schemas.EntitlementCheck) (named bool) {
	for _, b := range Budgets(j.view.Layers) {
		if t, ok := b.Terms(r.Limit); ok {
			j.budget(t, r.Needed)
			named = true
		}
	}
	return named
}

// pluginLimits judges what the action takes, and the limit that is asked about when it
// is one of the plugin's.
func (j *judge) pluginLimits(rules *schemas.PluginEntitlements, r *schemas.EntitlementCheck) (asked bool) {
	needs := maps.Clone(rules.Actions[r.Action].Consumes)
	if _, own := rules.Limits[r.Limit]; own {
		if needs == nil {
			needs = map[string]int64{}
		}
		needs[r.Limit] = max(needs[r.Limit], r.Needed)
		asked = true
	}
	tier := j.view.PluginTier(j.plugin)
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		rule, limit, ok := PluginLimit(rules, tier, name)
		if !ok {
			continue
		}
		j.pluginLimit(name, rule, limit, needs[name])
	}
	return asked
}

func (j *judge) pluginLimit(name string, rule schemas.PluginLimit, limit, needed int64) {
	v := j.view
	s := schemas.Judgement{
		Rule: "5.4", Name: name, Plugin: j.plugin, Scope: v.own(), Because: schemas.ReasonAllowed, Enforced: schemas.EnforceHard,
		Limited: true, Limit: limit, Remaining: limit, Needed: needed, Cap: rule.Cap, Takes: j.takes,
	}
	if !rule.Cap {
		c := RollConsumption(v.Consumed[name], rule.Reset, v.Now)
		s.Used, s.Reserved, s.Remaining = c.Used, c.Reserved, Remaining(limit, c.Used, c.Reserved)
		s.Period, s.ResetsAt = PeriodAt(rule.Reset, v.Now)
		if needed > 0 {
			if j.consumes == nil {
				j.consumes = map[string]int64{}
			}
			j.consumes[name] = needed
		}
	}
	if limit >= 0 && needed > s.Remaining {
		s.Says, s.Because = schemas.VerdictHard, schemas.ReasonLimitExceeded
	}
	j.add(s, schemas.CodeLimitExceeded, "Insufficient %s: need %d, have %d", name, needed, s.Remaining)
}

// own is the scope in which somebody uses up consumables.
func (v *View) own() schemas.Scope { return schemas.ScopesOf(v.TenantID, v.UserID)[0] }

// calls judges how often the plugin is called in a period.
func (j *judge) calls(r *schemas.EntitlementCheck) (asked bool) {
	n := NeedsOf(j.view.Layers, r)
	if n.Calls == nil {
		return false
	}
	v, limit := j.view, n.Calls.Limit
	c := RollConsumption(v.Calls[n.Calls.Key], n.Calls.Period, v.Now)
	s := schemas.Judgement{
		Rule: "5.2.11", Name: "calls_per_period", Plugin: j.plugin, Takes: r.Count, Scope: n.Calls.Key.Scope, Below: n.Calls.Below, Revision: n.Calls.Revision,
		Because: schemas.ReasonAllowed, Enforced: schemas.EnforceHard, Limited: true, Limit: limit,
		Used: c.Used, Reserved: c.Reserved, Remaining: Remaining(limit, c.Used, c.Reserved), Needed: 1,
	}
	s.Period, s.ResetsAt = PeriodAt(n.Calls.Period, v.Now)
	if limit >= 0 && s.Remaining < 1 {
		s.Says, s.Because = schemas.VerdictHard, schemas.ReasonLimitExceeded
	}
	j.add(s, schemas.CodeLimitExceeded, "Insufficient calls of plugin '%s': need 1, have %d", j.plugin, s.Remaining)
	return r.Limit == s.Name
}

// rateLimits judges the rate limits of the section that holds. Those that a request
// does not come near are left out.
func (j *judge) rateLimits(r *schemas.EntitlementCheck) (asked bool) {
	n := NeedsOf(j.view.Layers, r)
	for _, rate := range n.Rates {
		j.rate(rate)
		asked = asked || rate.Key.Name == r.Limit
	}
	return asked
}

func (j *judge) rate(n RateNeed) {
	v := j.view
	s := schemas.Judgement{
		Rule: "5.2.11", Name: n.Key.Name, Scope: n.Key.Scope, Below: n.Below, Revision: n.Revision, Because: schemas.ReasonAllowed,
		Enforced: schemas.EnforceHard, Limited: true, Limit: n.Limit, Remaining: n.Limit, Needed: n.Needed, Takes: n.Counts,
	}
	code, because := schemas.CodeRateLimited, schemas.ReasonRateLimited
	detail := "Rate limit " + n.Key.Name + " reached: need %d, have %d"
	state := schemas.RateState{Scope: n.Key.Scope, Name: n.Key.Name, Limit: n.Limit, Window: n.Span}
	switch {
	case n.Leases:
		because = schemas.ReasonTooManyRuns
		list := v.Leases[n.Key.Scope]
		s.Used = int64(len(list))
		for _, l := range list {
			if s.ResetsAt == 0 || l.ExpiresAt < s.ResetsAt {
				s.ResetsAt = l.ExpiresAt
			}
		}
		s.Period, _ = PeriodAt(schemas.PeriodHourly, v.Now)
		state.ResetsAt = s.ResetsAt
	case n.Span > 0:
		w := v.Windows[n.Key]
		if w.Span != n.Span {
			w = schemas.RateWindow{Span: n.Span}
		}
		s.Used = UsedInWindow(w, v.Now)
		s.Period = floorDiv(v.Now, n.Span) * n.Span
		if n.Limit >= 0 {
			s.ResetsAt = FreeAt(w, v.Now, n.Limit, n.Needed)
			state.ResetsAt = FreeAt(w, v.Now, n.Limit, 1)
		}
	default:
		s.Cap = true
		code, because = schemas.CodeLimitExceeded, schemas.ReasonLimitExceeded
		detail = "Insufficient " + n.Key.Name + ": need %d, have %d"
	}
	s.Remaining = Remaining(n.Limit, s.Used, 0)
	state.Used, state.Remaining = s.Used, s.Remaining
	if n.Limit >= 0 && n.Needed > s.Remaining || n.Leases && n.Needed > MaxLeasesAtOnce {
		s.Says, s.Because = schemas.VerdictHard, because
	}
	if n.Limit >= 0 && (n.Leases || n.Span > 0) {
		j.rates = append(j.rates, state)
	}
	j.add(s, code, detail, n.Needed, s.Remaining)
}
