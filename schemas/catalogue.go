package schemas

import (
	"bytes"
	"slices"
)

// Catalogue is the content of the configuration subscriptions: the plans that users can
// have (contract §5.1).
type Catalogue struct {
	Plans   []CataloguePlan
	Default string // name of the plan of a user without a subscription
}

// CataloguePlan is one plan of the catalogue.
type CataloguePlan struct {
	Name     string
	Tier     Tier     // empty: follows from the name
	Unlocked []string // plugins; * is all
	Plugins  map[string]string
}

// ParseCatalogue reads a catalogue. null is none.
func ParseCatalogue(text []byte) (*Catalogue, *Error) {
	v, err := readJSONValue(bytes.Clone(text))
	if err != nil || v.null() {
		return nil, err
	}
	r := manifestReader{}
	c := &Catalogue{Default: string(TierFree)}
	plans := false
	if r.fields(nil, v, readers{
		"subscription_plans": func(at *fieldPath, v jsonValue) {
			plans = true
			r.plans(at, v, c)
		},
		"settings": func(at *fieldPath, v jsonValue) {
			r.fields(at, v, readers{"default_plan": func(at *fieldPath, v jsonValue) { r.text(at, v, &c.Default, 1, MaxNameChars) }})
		},
	}) && !plans {
		r.missing((*fieldPath)(nil).under("subscription_plans"))
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func (r *manifestReader) plans(at *fieldPath, v jsonValue, c *Catalogue) {
	if v.is() != '[' {
		r.fault(at, "list_type", "must be a list, not %s", kindOf(v.is()))
		return
	}
	i := 0
	v.each(func(_ string, v jsonValue) {
		at := at.under(i)
		i++
		var p CataloguePlan
		if !r.fields(at, v, readers{
			"name": func(at *fieldPath, v jsonValue) { r.text(at, v, &p.Name, 1, MaxNameChars) },
			"tier": func(at *fieldPath, v jsonValue) {
				if i := r.choice(at, v, wordsOf(tiers)); i >= 0 {
					p.Tier = tiers[i]
				}
			},
			"plugins_unlocked": func(at *fieldPath, v jsonValue) { r.texts(at, v, &p.Unlocked) },
			"plugins":          func(at *fieldPath, v jsonValue) { p.Plugins = r.names(at, v) },
		}) {
			return
		}
		switch {
		case p.Name == "":
			if !r.faulty(at.under("name")) {
				r.missing(at.under("name"))
			}
		case c.Plan(p.Name) != nil:
			r.fault(at.under("name"), "repeated", "%v is the name of another plan, too", shown(p.Name))
		}
		c.Plans = append(c.Plans, p)
	})
}

// Plan gives the plan of a name, nil when the catalogue does not know it.
func (c *Catalogue) Plan(name string) *CataloguePlan {
	if c == nil {
		return nil
	}
	for i := range c.Plans {
		if c.Plans[i].Name == name {
			return &c.Plans[i]
		}
	}
	return nil
}

// TierOf is the tier of a plan: its name when that is one, else what the catalogue
// says, else free.
func (c *Catalogue) TierOf(plan string) Tier {
	if KnownTier(plan) {
		return Tier(plan)
	}
	if p := c.Plan(plan); p != nil && p.Tier != "" {
		return p.Tier
	}
	return TierFree
}

// Unlocks reports whether a plan opens a plugin; one that the catalogue does not know
// opens none.
func (p *CataloguePlan) Unlocks(plugin string) bool {
	return p != nil && (slices.Contains(p.Unlocked, "*") || slices.Contains(p.Unlocked, plugin))
}
