package schemas

import (
	"bytes"
	"slices"
	"strings"
)

// maxPluginTiers bounds the chains in which tiers inherit.
const maxPluginTiers = 100

// PluginEntitlements are a plugin's own rules: its entitlements.yaml as JSON
// (contract §5.4).
type PluginEntitlements struct {
	Plugin   string
	Features map[string]bool // by default
	Limits   map[string]PluginLimit
	Tiers    map[string]PluginTier // with what they inherit
	Actions  map[string]PluginAction
	Broken   string // why the file cannot be used: the plugin is closed then
}

// PluginLimit defines a limit of a plugin.
type PluginLimit struct {
	Cap     bool   // bounds one action and is not used up
	Reset   Period // PeriodLifetime: never
	Default int64
}

// PluginTier is what a tier sets; the rest is as by default.
type PluginTier struct {
	Features map[string]bool
	Limits   map[string]int64
}

// PluginAction is what an action of a plugin requires and takes.
type PluginAction struct {
	Requires []string
	Consumes map[string]int64
}

// ParsePluginConfig reads the content of the configuration plugin.<name>: the rules as
// JSON, null when there are none (nil), or {"broken":"reason"}. What cannot be read is
// broken, too, and its reason names the field.
func ParsePluginConfig(plugin string, content []byte) *PluginEntitlements {
	v, err := readJSONValue(bytes.Clone(content))
	if err != nil {
		return &PluginEntitlements{Plugin: plugin, Broken: err.Detail}
	}
	if v.null() {
		return nil
	}
	broken := ""
	if v.is() == '{' {
		v.each(func(name string, v jsonValue) {
			if name == "broken" && v.is() == '"' {
				broken = v.string().decoded()
			}
		})
	}
	if broken != "" {
		return &PluginEntitlements{Plugin: plugin, Broken: broken}
	}
	p, err := pluginEntitlementsOf(plugin, v)
	if err != nil {
		return &PluginEntitlements{Plugin: plugin, Broken: err.Detail}
	}
	return p
}

// ParsePluginEntitlements reads the rules of a plugin. Its error names every field at
// fault.
func ParsePluginEntitlements(plugin string, text []byte) (*PluginEntitlements, *Error) {
	v, err := readJSONValue(bytes.Clone(text))
	if err != nil {
		return nil, err
	}
	return pluginEntitlementsOf(plugin, v)
}

func pluginEntitlementsOf(plugin string, v jsonValue) (*PluginEntitlements, *Error) {
	r := pluginReader{out: &PluginEntitlements{
		Plugin: plugin, Features: map[string]bool{}, Limits: map[string]PluginLimit{},
		Tiers: map[string]PluginTier{}, Actions: map[string]PluginAction{},
	}, inherits: map[string]string{}}
	r.read(v)
	if r.faults == nil {
		r.inherit()
	}
	if r.faults == nil {
		r.resolve()
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return r.out, nil
}

// pluginReader reads the rules of one plugin.
type pluginReader struct {
	manifestReader
	out      *PluginEntitlements
	tiers    []string          // in the order of the text
	inherits map[string]string // tier → the one it inherits from
}

func (r *pluginReader) read(v jsonValue) {
	version := false
	p := r.out
	if !r.fields(nil, v, readers{
		"schema_version": func(at *fieldPath, v jsonValue) {
			version = true
			r.choice(at, v, []string{"1.0"})
		},
		"plugin": func(at *fieldPath, v jsonValue) {
			var name string
			r.text(at, v, &name, 1, MaxNameChars)
			if name != "" && name != p.Plugin {
				r.fault(at, "mismatch", "is %v in the rules of the plugin %v", shown(name), shown(p.Plugin))
			}
		},
		"features": func(at *fieldPath, v jsonValue) {
			r.definitions(at, v, func(at *fieldPath, name string, v jsonValue) {
				on := true
				r.fields(at, v, readers{"default": func(at *fieldPath, v jsonValue) { r.flag(at, v, &on) }})
				p.Features[name] = on
			})
		},
		"limits": func(at *fieldPath, v jsonValue) {
			r.definitions(at, v, func(at *fieldPath, name string, v jsonValue) { p.Limits[name] = r.limitRule(at, v) })
		},
		"tiers": func(at *fieldPath, v jsonValue) {
			r.definitions(at, v, r.tier)
			if n := len(r.tiers); n > maxPluginTiers {
				r.fault(at, "too_long", "must name at most %d tiers, not %d", maxPluginTiers, n)
			}
		},
		"actions": func(at *fieldPath, v jsonValue) {
			r.definitions(at, v, func(at *fieldPath, name string, v jsonValue) { p.Actions[name] = r.action(at, v) })
		},
	}) {
		return
	}
	if !version {
		r.missing((*fieldPath)(nil).under("schema_version"))
	}
}

// definitions reads an object of definitions by name; one without a value, as YAML
// writes it, is as by default.
func (r *pluginReader) definitions(at *fieldPath, v jsonValue, read func(*fieldPath, string, jsonValue)) {
	r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) {
		if v.null() {
			v = jsonValue{"{}"}
		}
		read(at, name, v)
	})
}

// resets names the periods after which a consumable begins anew.
var resets = []string{"monthly", "daily", "weekly", "never"}

func (r *pluginReader) limitRule(at *fieldPath, v jsonValue) PluginLimit {
	l := PluginLimit{Reset: PeriodMonthly}
	r.fields(at, v, readers{
		"type": func(at *fieldPath, v jsonValue) { l.Cap = r.choice(at, v, []string{"consumable", "cap"}) == 1 },
		"reset": func(at *fieldPath, v jsonValue) {
			if i := r.choice(at, v, resets); i >= 0 {
				l.Reset = [...]Period{PeriodMonthly, PeriodDaily, PeriodWeekly, PeriodLifetime}[i]
			}
		},
		"default": func(at *fieldPath, v jsonValue) { r.limit(at, v, &l.Default) },
	})
	return l
}

func (r *pluginReader) tier(at *fieldPath, name string, v jsonValue) {
	t := PluginTier{Features: map[string]bool{}}
	r.tiers = append(r.tiers, name)
	r.fields(at, v, readers{
		"inherits": func(at *fieldPath, v jsonValue) {
			var from string
			r.text(at, v, &from, 1, MaxNameChars)
			r.inherits[name] = from
		},
		"features": func(at *fieldPath, v jsonValue) {
			r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) {
				var on bool
				r.flag(at, v, &on)
				t.Features[name] = on
			})
		},
		"limits": func(at *fieldPath, v jsonValue) { t.Limits = r.limits(at, v) },
	})
	if t.Limits == nil {
		t.Limits = map[string]int64{}
	}
	r.out.Tiers[name] = t
}

func (r *pluginReader) action(at *fieldPath, v jsonValue) PluginAction {
	a := PluginAction{Consumes: map[string]int64{}}
	r.fields(at, v, readers{
		"requires_features": func(at *fieldPath, v jsonValue) { r.texts(at, v, &a.Requires) },
		"consumes": func(at *fieldPath, v jsonValue) {
			r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) {
				var n int64
				r.number(at, v, &n, 0, MaxLimit)
				a.Consumes[name] = n
			})
		},
	})
	return a
}

// inherit refuses tiers that inherit from what is not there, or from themselves.
func (r *pluginReader) inherit() {
	checked := map[string]bool{} // tiers whose chain is known to end
	for _, name := range r.tiers {
		at := (*fieldPath)(nil).under("tiers").under(name).under("inherits")
		var chain []string
		for t := name; !checked[t]; {
			if slices.Contains(chain, t) {
				r.fault(at, "cyclic", "leads back to where it began: %s", strings.Join(append(chain, t), " → "))
				break
			}
			chain = append(chain, t)
			from, more := r.inherits[t]
			if !more {
				break
			}
			if _, known := r.out.Tiers[from]; !known {
				if t == name {
					r.fault(at, "unknown", "names the tier %v, which is not there", shown(from))
				}
				break
			}
			t = from
		}
		if len(r.faults) > 0 {
			return
		}
		for _, t := range chain {
			checked[t] = true
		}
	}
}

// resolve gives every tier what it inherits. The chains end.
func (r *pluginReader) resolve() {
	done := map[string]bool{}
	for _, name := range r.tiers {
		chain := []string{name}
		for t := name; !done[t]; {
			from, more := r.inherits[t]
			if !more {
				break
			}
			chain = append(chain, from)
			t = from
		}
		for i := len(chain) - 1; i >= 0; i-- {
			t := chain[i]
			if from, more := r.inherits[t]; more && !done[t] {
				inheritTier(r.out.Tiers[t], r.out.Tiers[from])
			}
			done[t] = true
		}
	}
	r.references()
}

func inheritTier(to, from PluginTier) {
	for name, on := range from.Features {
		if _, own := to.Features[name]; !own {
			to.Features[name] = on
		}
	}
	for name, n := range from.Limits {
		if _, own := to.Limits[name]; !own {
			to.Limits[name] = n
		}
	}
}

// references refuses actions and tiers that name what is not defined.
func (r *pluginReader) references() {
	p := r.out
	root := (*fieldPath)(nil)
	for _, name := range r.tiers {
		for _, limit := range sortedKeys(p.Tiers[name].Limits) {
			if _, known := p.Limits[limit]; !known {
				r.fault(root.under("tiers").under(name).under("limits").under(limit), "unknown", "sets a limit that is not defined under limits")
			}
		}
	}
	for _, name := range sortedKeys(p.Actions) {
		for _, limit := range sortedKeys(p.Actions[name].Consumes) {
			if _, known := p.Limits[limit]; !known {
				r.fault(root.under("actions").under(name).under("consumes").under(limit), "unknown", "takes of a limit that is not defined under limits")
			}
		}
	}
}
