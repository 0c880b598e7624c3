package entitlements

import (
	"cmp"
	"slices"

	"grout/schemas"
)

// subscription is the plan that opens plugins to somebody: the user's, else the
// tenant's, else the catalogue's default, else the app's (contract §5.2.4).
type subscription struct {
	name string // in the catalogue
	tier schemas.Tier
	any  bool // neither a catalogue nor a manifest: everything is open
}

func (v *View) subscription() subscription {
	if len(v.Layers) > 0 && (v.Layers[0].Scope.Kind != schemas.ScopeApp || v.Catalogue == nil) {
		p := &v.Layers[0].Manifest.Plan
		return subscription{name: v.planName(p), tier: p.Tier}
	}
	if v.Catalogue != nil {
		return subscription{name: v.Catalogue.Default, tier: v.Catalogue.TierOf(v.Catalogue.Default)}
	}
	return subscription{tier: schemas.TierUnlimited, any: true}
}

// planName is the name by which the catalogue may know a plan: its name or its id, and
// its tier when it has neither. A plan that is named is not taken for another one.
func (v *View) planName(p *schemas.Plan) string {
	for _, name := range [...]string{p.Name, p.ID} {
		if name != "" && v.Catalogue.Plan(name) != nil {
			return name
		}
	}
	return cmp.Or(p.Name, p.ID, string(p.Tier))
}

// MayUse reports whether somebody may use a plugin at all; always without
// MONETIZATION (contract §5.2.4, 5).
func (v *View) MayUse(plugin string) bool {
	if !v.Switches.Monetization {
		return true
	}
	if l := pluginLayer(v.Layers); l != nil {
		p := l.Manifest.Plugins
		if slices.Contains(p.Blocked, plugin) || len(p.Allowed) > 0 && !slices.Contains(p.Allowed, plugin) {
			return false
		}
	}
	return v.Catalogue == nil || v.Catalogue.Plan(v.subscription().name).Unlocks(plugin)
}

// PluginTier is somebody's tier of a plugin (contract §5.4).
func (v *View) PluginTier(plugin string) string {
	if l := pluginLayer(v.Layers); l != nil {
		if t := l.Manifest.Plugins.Tiers[plugin]; t != "" {
			return t
		}
	}
	s := v.subscription()
	if p := v.Catalogue.Plan(s.name); p != nil && p.Plugins[plugin] != "" {
		return p.Plugins[plugin]
	}
	for _, name := range [...]string{s.name, string(s.tier)} {
		if v.Plugin != nil {
			if _, defined := v.Plugin.Tiers[name]; defined {
				return name
			}
		}
	}
	if s.tier == schemas.TierUnlimited || v.Plugin == nil || len(v.Plugin.Tiers) == 0 && v.Plugin.Broken == "" {
		return string(cmp.Or(s.tier, schemas.TierFree)) // the plugin has no tiers of its own
	}
	return string(schemas.TierFree)
}

// rules gives the rules of the plugin when they hold: with MONETIZATION only.
func (v *View) rules() *schemas.PluginEntitlements {
	if !v.Switches.Monetization || v.Plugin == nil || v.Plugin.Broken != "" {
		return nil
	}
	return v.Plugin
}

// open reports whether a tier has everything: that of a plan without limits, unless the
// plugin defines it otherwise.
func open(p *schemas.PluginEntitlements, tier string) bool {
	_, defined := p.Tiers[tier]
	return !defined && tier == string(schemas.TierUnlimited)
}

// PluginFeature reads a feature of the plugin's own rules; what it does not list is on.
func PluginFeature(p *schemas.PluginEntitlements, tier, name string) bool {
	if open(p, tier) {
		return true
	}
	if on, set := p.Tiers[tier].Features[name]; set {
		return on
	}
	on, listed := p.Features[name]
	return on || !listed
}

// PluginLimit reads a limit of the plugin's own rules; false when it has none of the
// name.
func PluginLimit(p *schemas.PluginEntitlements, tier, name string) (rule schemas.PluginLimit, limit int64, ok bool) {
	rule, ok = p.Limits[name]
	if !ok {
		return rule, schemas.Unlimited, false
	}
	if open(p, tier) {
		return rule, schemas.Unlimited, true
	}
	if n, set := p.Tiers[tier].Limits[name]; set {
		return rule, n, true
	}
	return rule, rule.Default, true
}
