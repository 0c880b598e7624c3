package entitlements

import (
	"slices"

	"grout/schemas"
)

// Layer is a manifest that applies to somebody, and where it stands.
type Layer struct {
	Scope    schemas.Scope // that of the app for the layer below it, too
	Below    bool          // from file, environment or the control plane
	Revision int64
	At       int64 // handler time when it came, nanoseconds since 1970 UTC
	Manifest *schemas.Manifest
}

// View is all that a decision about somebody follows from, as of one instant. Whoever
// makes it has brought counters, windows and consumptions to the period of Now, and has
// left out leases and holds that have ended.
type View struct {
	AppID    string
	UserID   string
	TenantID string
	Now      int64
	Layers   []Layer // user, tenant, app, below: those that there are, in this order

	Counters map[CounterKey]schemas.Counter
	Windows  map[LimitKey]schemas.RateWindow
	Calls    map[LimitKey]schemas.Consumption // per_plugin_limits, by scope and plugin
	Leases   map[schemas.Scope][]schemas.Lease

	Plugin    *schemas.PluginEntitlements // of the plugin that is asked about; nil: it has no rules
	Consumed  map[string]schemas.Consumption
	Catalogue *schemas.Catalogue // nil: there is none
	Switches  schemas.Switches

	// Failed says why something that a decision needs could not be read; empty: nothing
	// failed (contract §5.2.12).
	Failed string
}

// CounterKey names one allocation of a scope's budget.
type CounterKey struct {
	Scope      schemas.Scope
	Allocation string
}

// LimitKey names a rate limit of a scope, or the calls of a plugin.
type LimitKey struct {
	Scope schemas.Scope
	Name  string
}

// Budget is the token budget of one scope, with what is granted beside it.
type Budget struct {
	Scope    schemas.Scope
	Below    bool
	Revision int64
	Promo    int64 // promotional tokens: those that stand in the same scope
	*schemas.TokenBudget
}

// Budgets lists the budgets that all must allow, the most specific scope first
// (contract §5.2.3). In the scope of the app the layer below it gives what the app's
// own manifest does not have.
func Budgets(layers []Layer) []Budget {
	var list []Budget
	for _, l := range layers {
		if l.Manifest.Budget == nil || len(list) > 0 && list[len(list)-1].Scope == l.Scope {
			continue
		}
		b := Budget{Scope: l.Scope, Below: l.Below, Revision: l.Revision, TokenBudget: l.Manifest.Budget}
		if o := overridesOf(layersOf(layers, l.Scope)); o != nil {
			b.Promo = o.PromotionalTokens
		}
		list = append(list, b)
	}
	return list
}

// layersOf gives the layers of one scope.
func layersOf(layers []Layer, scope schemas.Scope) []Layer {
	from := slices.IndexFunc(layers, func(l Layer) bool { return l.Scope == scope })
	if from < 0 {
		return nil
	}
	to := from
	for to < len(layers) && layers[to].Scope == scope {
		to++
	}
	return layers[from:to]
}

func overridesOf(layers []Layer) *schemas.Overrides {
	for _, l := range layers {
		if l.Manifest.Overrides != nil {
			return l.Manifest.Overrides
		}
	}
	return nil
}

// Terms are what a budget says of one allocation.
type Terms struct {
	Scope       schemas.Scope
	Below       bool
	Revision    int64
	Allocation  string
	Period      schemas.Period
	Limit       int64
	Promo       int64 // of the total only
	Burst       int64
	Rollover    bool
	Enforcement schemas.Enforcement
	Pushed      int64 // used, as the manifest says
}

// Key names the counter of the allocation.
func (t Terms) Key() CounterKey { return CounterKey{t.Scope, t.Allocation} }

// Terms gives what the budget says of an allocation; false when it does not name it.
func (b Budget) Terms(name string) (Terms, bool) {
	t := Terms{
		Scope: b.Scope, Below: b.Below, Revision: b.Revision, Allocation: name,
		Period: b.Period, Burst: b.Burst, Rollover: b.Rollover,
	}
	var a *schemas.Allocation
	switch name {
	case schemas.AllocationTotal:
		a, t.Promo = b.Total, b.Promo
	case schemas.AllocationInput:
		a = b.Input
	case schemas.AllocationOutput:
		a = b.Output
	default:
		if model, ok := schemas.ModelOf(name); ok {
			if limit, named := b.PerModel[model]; named {
				a = &limit
			}
		}
	}
	if a == nil {
		return Terms{}, false
	}
	t.Limit, t.Enforcement, t.Pushed = a.Limit, a.Enforcement, a.Used
	return t, true
}

// Touched lists the allocations that tokens of a model count in, over all budgets, in
// the order in which they are judged. Without a model no model's allocation is touched.
func Touched(layers []Layer, model string) []Terms {
	var list []Terms
	for _, b := range Budgets(layers) {
		for _, name := range [...]string{schemas.AllocationTotal, schemas.AllocationInput, schemas.AllocationOutput, schemas.ModelAllocation(model)} {
			if t, ok := b.Terms(name); ok {
				list = append(list, t)
			}
		}
	}
	return list
}
