package entitlements

import (
	"encoding/json"

	"grout/schemas"
)

// injected is what a plugin is told of the entitlements of its user (contract §4).
type injected struct {
	Enforce  bool                     `json:"enforce"`
	Tier     string                   `json:"tier"`
	Features map[string]bool          `json:"features"`
	Limits   map[string]injectedLimit `json:"limits"`
}

// injectedLimit is how a limit of the plugin stands: allowed and remaining are -1
// without an end, remaining is less than allowed − used while other runs hold some.
type injectedLimit struct {
	Allowed   int64 `json:"allowed"`
	Used      int64 `json:"used"`
	Remaining int64 `json:"remaining"`
}

// Injected gives the JSON of _entitlements for a plugin, whose rules the view holds: {}
// without MONETIZATION.
func Injected(v *View, plugin string) []byte {
	if !v.Switches.Monetization {
		return []byte("{}")
	}
	d := injected{Enforce: v.Switches.Enforce, Tier: v.PluginTier(plugin), Features: features(v), Limits: map[string]injectedLimit{}}
	if rules := v.rules(); rules != nil {
		v.injectRules(&d, rules)
	}
	text, err := json.Marshal(d) // maps by name: the same view gives the same bytes
	if err != nil {
		panic(err) // texts, numbers and flags always have a form
	}
	return text
}

// injectRules adds what the plugin's own rules say.
func (v *View) injectRules(d *injected, rules *schemas.PluginEntitlements) {
	ended := PlanEnd(v.Layers, v.Now).Over
	for _, own := range [...]map[string]bool{rules.Features, rules.Tiers[d.Tier].Features} {
		for name := range own {
			d.Features[name] = FeatureAt(v.Layers, name, ended).On
		}
	}
	for name, on := range d.Features {
		preview := FeatureAt(v.Layers, name, ended).Reason == schemas.ReasonPreview
		d.Features[name] = on && (preview || PluginFeature(rules, d.Tier, name))
	}
	for name := range rules.Limits {
		rule, limit, _ := PluginLimit(rules, d.Tier, name)
		l := injectedLimit{Allowed: limit, Remaining: limit}
		if !rule.Cap {
			c := RollConsumption(v.Consumed[name], rule.Reset, v.Now)
			l.Used, l.Remaining = c.Used, Remaining(limit, c.Used, c.Reserved)
		}
		d.Limits[name] = l
	}
}

// Free gives back in a view what a run has set aside of the plugin's limits, so that the
// run itself is told what it may use.
func (v *View) Free(consumes map[string]int64) {
	for name, n := range consumes {
		if c, known := v.Consumed[name]; known {
			v.Consumed[name] = GiveBackConsumable(c, n)
		}
	}
}
