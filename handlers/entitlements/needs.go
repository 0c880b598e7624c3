package entitlements

import (
	"maps"
	"slices"

	"grout/schemas"
)

// Needs is what a check looks at beside budgets and consumables, and what is counted
// when it counts.
type Needs struct {
	Rates []RateNeed // by name
	Calls *CallNeed  // nil: the plugin's calls are not bounded
}

// RateNeed is one entry of the section rate_limits that a check comes near.
type RateNeed struct {
	Key      LimitKey
	Below    bool
	Revision int64
	Limit    int64
	Needed   int64
	Span     int64 // of its window; 0: it has none
	Leases   bool  // it bounds how many runs hold a lease
	Counts   bool  // Needed is counted, or a lease given, when the check counts
}

// CallNeed is the entry of per_plugin_limits for the plugin.
type CallNeed struct {
	Key      LimitKey // its name is that of the plugin
	Below    bool
	Revision int64
	Limit    int64
	Period   schemas.Period
}

// MaxLeasesAtOnce is how many runs one check admits at most.
const MaxLeasesAtOnce = 100

// NeedsOf says what a check comes near (contract §5.2.11). Requests are counted by every
// check that counts; a lease is for runs: checks of a plugin, and those that ask for it.
func NeedsOf(layers []Layer, r *schemas.EntitlementCheck) Needs {
	var n Needs
	if l := pluginLayer(layers); l != nil && r.Plugin != "" {
		if calls, bound := l.Manifest.Plugins.Limits[r.Plugin]; bound {
			n.Calls = &CallNeed{Key: LimitKey{l.Scope, r.Plugin}, Below: l.Below, Revision: l.Revision, Limit: calls.Calls, Period: calls.Period}
		}
	}
	l := rateLayer(layers)
	if l == nil {
		return n
	}
	bare := r.Feature == "" && r.Limit == "" && r.Model == "" && !r.Asked
	for _, name := range slices.Sorted(maps.Keys(l.Manifest.RateLimits)) {
		need := RateNeed{
			Key: LimitKey{l.Scope, name}, Below: l.Below, Revision: l.Revision, Limit: l.Manifest.RateLimits[name],
			Needed: 1, Span: SpanOf(name), Leases: name == ConcurrentRuns,
		}
		asked := r.Limit == name
		if asked {
			need.Needed = r.Needed
		}
		switch {
		case need.Span > 0:
			need.Counts = r.Count
			asked = asked || r.Count || r.Plugin != "" || bare
		case need.Leases:
			// Nobody waits for a place among those without a limit.
			need.Counts = r.Count && (asked || r.Plugin != "") && need.Limit >= 0 && need.Needed <= MaxLeasesAtOnce
			asked = asked || r.Plugin != ""
		}
		if asked {
			n.Rates = append(n.Rates, need)
		}
	}
	return n
}
