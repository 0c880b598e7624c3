package entitlements

import (
	"slices"
	"time"

	"grout/schemas"
)

// Ending tells that a plan is over, and why (contract §5.2.10). The zero value: it is
// not.
type Ending struct {
	Over   bool
	Detail string
	Layer  Layer
}

// PlanEnd says whether the plan of somebody is over: the app's own plan first, which
// refuses whatever the more specific one says (contract §5.2.3).
func PlanEnd(layers []Layer, now int64) Ending {
	app := slices.IndexFunc(layers, func(l Layer) bool { return l.Scope.Kind == schemas.ScopeApp })
	if app >= 0 {
		if e := planEnd(layers[app:], now); e.Over {
			return e
		}
	}
	if app != 0 {
		return planEnd(layers, now)
	}
	return Ending{}
}

// planEnd judges the plan of the most specific layer.
func planEnd(layers []Layer, now int64) Ending {
	if len(layers) == 0 {
		return Ending{}
	}
	l := layers[0]
	p := &l.Manifest.Plan
	if p.Status == schemas.PlanCanceled {
		return Ending{true, "Plan is canceled.", l}
	}
	if p.ExpiresAt == nil {
		return Ending{}
	}
	at := *p.ExpiresAt
	if o := overridesOf(layers); o != nil && o.TrialUntil != nil {
		at = max(at, *o.TrialUntil)
	}
	if now < at {
		return Ending{}
	}
	return Ending{true, "Plan expired at " + time.Unix(0, at).UTC().Format(time.RFC3339Nano) + ".", l}
}

// Feature is how a feature reads for somebody.
type Feature struct {
	On     bool
	Reason schemas.Reason
	Layer  *Layer // that says so; nil: none does
}

// FeatureAt reads a feature of the manifests (contract §5.2.4, 10).
func FeatureAt(layers []Layer, name string, ended bool) Feature {
	f := Feature{On: true, Reason: schemas.ReasonNotListed}
	for i := range layers {
		if layers[i].Manifest.Features == nil {
			continue
		}
		if on, listed := layers[i].Manifest.Features[name]; listed {
			f = Feature{on, schemas.ReasonAllowed, &layers[i]}
			if !on {
				f.Reason = schemas.ReasonFeatureOff
			}
		}
		break
	}
	if !(f.On && f.Layer != nil) {
		if l := previews(layers, name); l != nil {
			f = Feature{true, schemas.ReasonPreview, l}
		}
	}
	if ended && f.On && f.Layer != nil {
		f.On, f.Reason = false, schemas.ReasonPlanExpired
	}
	return f
}

// previews gives the layer whose overrides turn a feature on.
func previews(layers []Layer, name string) *Layer {
	for i := range layers {
		if o := layers[i].Manifest.Overrides; o != nil {
			if slices.Contains(o.FeaturePreviews, name) {
				return &layers[i]
			}
			return nil
		}
	}
	return nil
}

// sectionOf gives the most specific layer that has a section.
func sectionOf(layers []Layer, has func(*schemas.Manifest) bool) *Layer {
	for i := range layers {
		if has(layers[i].Manifest) {
			return &layers[i]
		}
	}
	return nil
}

func rateLayer(layers []Layer) *Layer {
	return sectionOf(layers, func(m *schemas.Manifest) bool { return m.RateLimits != nil })
}

func pluginLayer(layers []Layer) *Layer {
	return sectionOf(layers, func(m *schemas.Manifest) bool { return m.Plugins != nil })
}
