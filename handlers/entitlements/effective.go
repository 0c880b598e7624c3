package entitlements

import (
	"slices"

	"grout/schemas"
)

// Effective is what somebody is entitled to, section by section, with how every budget
// stands (contract §5.1, §5.2.3).
func Effective(v *View) schemas.EntitlementsData {
	if len(v.Layers) == 0 {
		return schemas.NeverSynced(v.AppID)
	}
	top := v.Layers[0]
	m := top.Manifest
	e := schemas.EntitlementsData{
		AppID: v.AppID, UserID: v.UserID, TenantID: v.TenantID, Version: m.Version, Plan: planData(&m.Plan),
		TokenBudget: schemas.UnlimitedBudget(), Features: features(v), RateLimits: map[string]int64{},
		Source: m.Source, SyncedAt: schemas.InstantOrNull(top.At),
	}
	if !top.Below {
		e.Revision = &top.Revision
	}
	if l := rateLayer(v.Layers); l != nil {
		e.RateLimits = l.Manifest.RateLimits
	}
	if l := pluginLayer(v.Layers); l != nil {
		e.Plugins = pluginData(l.Manifest.Plugins)
	}
	if o := overridesOf(v.Layers); o != nil {
		e.Overrides = overridesData(o)
	}
	for i, b := range Budgets(v.Layers) {
		if i == 0 {
			e.TokenBudget = budgetData(v, b)
		}
		e.Budgets = append(e.Budgets, standing(v, b))
	}
	return e
}

func planData(p *schemas.Plan) schemas.PlanData {
	d := schemas.PlanData{ID: p.ID, Name: p.Name, Tier: p.Tier, Status: p.Status, BillingPeriod: p.BillingPeriod}
	if p.ExpiresAt != nil {
		d.ExpiresAt = schemas.InstantText(*p.ExpiresAt)
	}
	return d
}

// features gives every feature that a layer names, as it reads now.
func features(v *View) map[string]bool {
	ended := PlanEnd(v.Layers, v.Now).Over
	list := map[string]bool{}
	read := func(name string) { list[name] = FeatureAt(v.Layers, name, ended).On }
	if l := sectionOf(v.Layers, func(m *schemas.Manifest) bool { return m.Features != nil }); l != nil {
		for name := range l.Manifest.Features {
			read(name)
		}
	}
	if o := overridesOf(v.Layers); o != nil {
		for _, name := range o.FeaturePreviews {
			read(name)
		}
	}
	return list
}

func pluginData(p *schemas.PluginRules) *schemas.PluginRulesData {
	d := &schemas.PluginRulesData{
		Allowed: slices.Concat([]string{}, p.Allowed), Blocked: slices.Concat([]string{}, p.Blocked), Tiers: p.Tiers,
	}
	if p.Tiers == nil {
		d.Tiers = map[string]string{}
	}
	if p.Limits != nil {
		d.Limits = map[string]schemas.PluginCallsData{}
		for name, c := range p.Limits {
			d.Limits[name] = schemas.PluginCallsData{Calls: c.Calls, Period: c.Period.String()}
		}
	}
	return d
}

func overridesData(o *schemas.Overrides) *schemas.OverridesData {
	d := &schemas.OverridesData{PromotionalTokens: o.PromotionalTokens, FeaturePreviews: slices.Concat([]string{}, o.FeaturePreviews)}
	if o.TrialUntil != nil || o.TrialReason != "" {
		d.TrialExtension = &schemas.TrialExtensionData{Reason: o.TrialReason}
		if o.TrialUntil != nil {
			d.TrialExtension.Until = schemas.InstantText(*o.TrialUntil)
		}
	}
	return d
}

// counterOf gives the counter of an allocation, a fresh one when nothing was counted.
func (v *View) counterOf(t Terms) schemas.Counter {
	if c, known := v.Counters[t.Key()]; known {
		return c
	}
	return t.NewCounter(v.Now, 0, 0)
}

func budgetData(v *View, b Budget) schemas.BudgetData {
	d := schemas.BudgetData{Period: b.Period.String(), Rollover: &b.Rollover, BurstAllowance: &b.Burst}
	for _, name := range b.Allocations() {
		t, _ := b.Terms(name)
		c := v.counterOf(t)
		a := schemas.AllocationData{Limit: t.Limit, Used: c.Used, Reserved: &c.Reserved, Enforcement: t.Enforcement.String()}
		switch name {
		case schemas.AllocationTotal:
			d.Total = &a
		case schemas.AllocationInput:
			d.Input = &a
		case schemas.AllocationOutput:
			d.Output = &a
		default:
			if d.PerModel == nil {
				d.PerModel = map[string]schemas.AllocationData{}
			}
			model, _ := schemas.ModelOf(name)
			d.PerModel[model] = a
		}
	}
	return d
}

func standing(v *View, b Budget) schemas.BudgetStandingData {
	start, end := PeriodAt(b.Period, v.Now)
	d := schemas.BudgetStandingData{
		Scope: b.Scope.Kind.String(), ScopeID: b.Scope.IDIn(v.AppID), Period: b.Period.String(),
		Allocations: []schemas.AllocationStandingData{},
	}
	if !Endless(b.Period) {
		from, to := schemas.InstantText(start), schemas.InstantText(end)
		d.PeriodStart, d.ResetsAt = &from, &to
	}
	for _, name := range b.Allocations() {
		t, _ := b.Terms(name)
		c := v.counterOf(t)
		limit := t.Effective(c.Carry)
		d.Allocations = append(d.Allocations, schemas.AllocationStandingData{
			Name: name, Limit: t.Limit, EffectiveLimit: limit, Used: c.Used, Reserved: c.Reserved,
			Remaining: Remaining(limit, c.Used, c.Reserved), Enforcement: t.Enforcement.String(),
		})
	}
	return d
}
