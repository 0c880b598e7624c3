package schemas

import (
	"bytes"
	"crypto/sha256"
)

// ParseManifest reads the JSON of a manifest of version 1.0 or 1.1 (contract §5.1).
// Texts and content of the result are its own. The code of the error is INVALID_JSON,
// PAYLOAD_TOO_LARGE or VALIDATION_ERROR, which names every field at fault and, for the
// older shape, its new place.
func ParseManifest(body []byte) (*Manifest, *Error) {
	if len(body) > MaxManifestBytes {
		return nil, manifestTooLarge(len(body))
	}
	v, err := readJSONValue(bytes.Clone(body))
	if err != nil {
		return nil, err
	}
	return manifestOf(v)
}

func manifestTooLarge(n int) *Error {
	return Errorf(CodePayloadTooLarge, "The manifest has %d bytes: at most %d", n, MaxManifestBytes)
}

func manifestOf(v jsonValue) (*Manifest, *Error) {
	r := manifestReader{}
	m := r.manifest(v)
	if err := r.err(); err != nil {
		return nil, err
	}
	content, ok := canonicalJSON(v.text, MaxManifestBytes)
	if !ok {
		return nil, manifestTooLarge(len(v.text))
	}
	m.Content, m.Digest = content, manifestDigest(content)
	return m, nil
}

// manifestDigest hashes canonical content without the members that say nothing about
// what it means.
func manifestDigest(content []byte) [sha256.Size]byte {
	h := sha256.New()
	jsonValue{viewString(content)}.each(func(name string, value jsonValue) {
		if name != "revision" && name != "correlation_id" {
			h.Write(appendText(appendText(nil, name), value.text))
		}
	})
	return [sha256.Size]byte(h.Sum(nil))
}

// manifestReader reads the sections of a manifest.
type manifestReader struct{ fieldReader }

type readers = map[string]func(*fieldPath, jsonValue)

func (r *manifestReader) manifest(v jsonValue) *Manifest {
	m := &Manifest{}
	given := map[string]bool{}
	older := false
	known := readers{
		"version": func(at *fieldPath, v jsonValue) {
			if i := r.choice(at, v, []string{"1.0", "1.1"}); i >= 0 {
				m.Version = [...]string{"1.0", "1.1"}[i]
			}
		},
		"app_id":    func(at *fieldPath, v jsonValue) { r.text(at, v, &m.AppID, 1, MaxIDChars) },
		"user_id":   func(at *fieldPath, v jsonValue) { r.text(at, v, &m.UserID, 1, MaxIDChars) },
		"tenant_id": func(at *fieldPath, v jsonValue) { r.text(at, v, &m.TenantID, 1, MaxIDChars) },
		"revision": func(at *fieldPath, v jsonValue) {
			m.Revision = new(int64)
			r.number(at, v, m.Revision, 0, MaxLimit)
		},
		"plan":         func(at *fieldPath, v jsonValue) { r.plan(at, v, &m.Plan) },
		"token_budget": func(at *fieldPath, v jsonValue) { m.Budget = r.budget(at, v) },
		"features": func(at *fieldPath, v jsonValue) {
			if v.is() == '[' {
				older = true
				r.fault(at, "older_shape", "must be an object: write each name of the list as features.<name> with the value true")
				return
			}
			m.Features = map[string]bool{}
			r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) {
				var on bool
				r.flag(at, v, &on)
				m.Features[name] = on
			})
		},
		"rate_limits":    func(at *fieldPath, v jsonValue) { m.RateLimits = r.limits(at, v) },
		"plugins":        func(at *fieldPath, v jsonValue) { m.Plugins = r.plugins(at, v) },
		"overrides":      func(at *fieldPath, v jsonValue) { m.Overrides = r.overrides(at, v) },
		"observability":  func(at *fieldPath, v jsonValue) { r.object(at, v) },
		"metadata":       func(at *fieldPath, v jsonValue) { r.object(at, v) },
		"source":         func(at *fieldPath, v jsonValue) { r.text(at, v, &m.Source, 0, MaxNameChars) },
		"correlation_id": func(at *fieldPath, v jsonValue) { r.text(at, v, &m.CorrelationID, 0, MaxNameChars) },
		"tier": func(at *fieldPath, _ jsonValue) {
			older = true
			r.fault(at, "older_shape", "stands at plan.tier now")
		},
		"enforcement": func(at *fieldPath, _ jsonValue) {
			older = true
			r.fault(at, "older_shape", "stands in each allocation now, as token_budget.total_tokens.enforcement")
		},
	}
	for name, read := range known {
		known[name] = func(at *fieldPath, v jsonValue) {
			given[name] = true
			read(at, v)
		}
	}
	if !r.fields(nil, v, known) {
		return m
	}
	for _, name := range [...]string{"version", "app_id", "plan"} {
		if !given[name] && !(older && name == "version") {
			r.missing((*fieldPath)(nil).under(name))
		}
	}
	return m
}

func (r *manifestReader) plan(at *fieldPath, v jsonValue, p *Plan) {
	p.Status = PlanActive
	tier := false
	if !r.fields(at, v, readers{
		"id":   func(at *fieldPath, v jsonValue) { r.text(at, v, &p.ID, 0, MaxNameChars) },
		"name": func(at *fieldPath, v jsonValue) { r.text(at, v, &p.Name, 0, MaxNameChars) },
		"tier": func(at *fieldPath, v jsonValue) {
			tier = true
			if i := r.choice(at, v, wordsOf(tiers)); i >= 0 {
				p.Tier = tiers[i]
			}
		},
		"status": func(at *fieldPath, v jsonValue) {
			if i := r.choice(at, v, wordsOf(planStatuses)); i >= 0 {
				p.Status = planStatuses[i]
			}
		},
		"billing_period": func(at *fieldPath, v jsonValue) { r.text(at, v, &p.BillingPeriod, 0, MaxNameChars) },
		"expires_at":     func(at *fieldPath, v jsonValue) { p.ExpiresAt = r.instant(at, v) },
	}) {
		return
	}
	if !tier {
		r.missing(at.under("tier"))
	}
}

func wordsOf[T ~string](list []T) []string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = string(w)
	}
	return words
}

func (r *manifestReader) budget(at *fieldPath, v jsonValue) *TokenBudget {
	b := &TokenBudget{}
	allocation := func(to **Allocation) func(*fieldPath, jsonValue) {
		return func(at *fieldPath, v jsonValue) {
			a := r.allocation(at, v)
			*to = &a
		}
	}
	if !r.fields(at, v, readers{
		"period":        func(at *fieldPath, v jsonValue) { b.Period = r.period(at, v) },
		"total_tokens":  allocation(&b.Total),
		"input_tokens":  allocation(&b.Input),
		"output_tokens": allocation(&b.Output),
		"per_model_limits": func(at *fieldPath, v jsonValue) {
			b.PerModel = map[string]Allocation{}
			r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) { b.PerModel[name] = r.allocation(at, v) })
			if n := len(b.PerModel); n > MaxModelLimits {
				r.fault(at, "too_long", "must name at most %d models, not %d", MaxModelLimits, n)
			}
		},
		"rollover":        func(at *fieldPath, v jsonValue) { r.flag(at, v, &b.Rollover) },
		"burst_allowance": func(at *fieldPath, v jsonValue) { r.number(at, v, &b.Burst, 0, MaxBurst) },
	}) {
		return b
	}
	if b.Period == 0 && !r.faulty(at.under("period")) {
		r.missing(at.under("period"))
	}
	b.names = b.Allocations()
	return b
}

// faulty reports whether something was listed about a field.
func (r *fieldReader) faulty(at *fieldPath) bool {
	n := len(at.loc())
	for _, f := range r.faults {
		if len(f.Loc) == n && f.Loc[n-1] == at.name && f.Loc[1] == at.loc()[1] {
			return true
		}
	}
	return r.many
}

func (r *manifestReader) period(at *fieldPath, v jsonValue) Period {
	return Period(r.choice(at, v, periodNames[PeriodHourly:]) + 1)
}

func (r *manifestReader) allocation(at *fieldPath, v jsonValue) Allocation {
	var a Allocation
	limit := false
	if r.fields(at, v, readers{
		"limit": func(at *fieldPath, v jsonValue) {
			limit = true
			r.limit(at, v, &a.Limit)
		},
		"used":     func(at *fieldPath, v jsonValue) { r.number(at, v, &a.Used, 0, MaxLimit) },
		"reserved": func(at *fieldPath, v jsonValue) { r.number(at, v, &a.Reserved, 0, MaxLimit) },
		"enforcement": func(at *fieldPath, v jsonValue) {
			a.Enforcement = Enforcement(max(r.choice(at, v, enforcementNames[:]), 0))
		},
	}) && !limit {
		r.missing(at.under("limit"))
	}
	return a
}

// limits reads an object of limits by name.
func (r *manifestReader) limits(at *fieldPath, v jsonValue) map[string]int64 {
	limits := map[string]int64{}
	r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) {
		if v.null() {
			return
		}
		var n int64
		r.limit(at, v, &n)
		limits[name] = n
	})
	return limits
}

func (r *manifestReader) plugins(at *fieldPath, v jsonValue) *PluginRules {
	p := &PluginRules{}
	r.fields(at, v, readers{
		"allowed": func(at *fieldPath, v jsonValue) { r.texts(at, v, &p.Allowed) },
		"blocked": func(at *fieldPath, v jsonValue) { r.texts(at, v, &p.Blocked) },
		"tiers":   func(at *fieldPath, v jsonValue) { p.Tiers = r.names(at, v) },
		"per_plugin_limits": func(at *fieldPath, v jsonValue) {
			p.Limits = map[string]PluginCalls{}
			r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) { p.Limits[name] = r.calls(at, v) })
		},
	})
	return p
}

func (r *manifestReader) names(at *fieldPath, v jsonValue) map[string]string {
	names := map[string]string{}
	r.mapOf(at, v, func(at *fieldPath, name string, v jsonValue) {
		var s string
		r.text(at, v, &s, 1, MaxNameChars)
		names[name] = s
	})
	return names
}

func (r *manifestReader) calls(at *fieldPath, v jsonValue) PluginCalls {
	c := PluginCalls{Calls: Unlimited, Period: PeriodMonthly}
	r.fields(at, v, readers{
		"calls_per_period": func(at *fieldPath, v jsonValue) { r.limit(at, v, &c.Calls) },
		"period":           func(at *fieldPath, v jsonValue) { c.Period = r.period(at, v) },
	})
	return c
}

func (r *manifestReader) overrides(at *fieldPath, v jsonValue) *Overrides {
	o := &Overrides{}
	r.fields(at, v, readers{
		"promotional_tokens": func(at *fieldPath, v jsonValue) { r.number(at, v, &o.PromotionalTokens, 0, MaxLimit) },
		"feature_previews":   func(at *fieldPath, v jsonValue) { r.texts(at, v, &o.FeaturePreviews) },
		"trial_extension": func(at *fieldPath, v jsonValue) {
			r.fields(at, v, readers{
				"until":  func(at *fieldPath, v jsonValue) { o.TrialUntil = r.instant(at, v) },
				"reason": func(at *fieldPath, v jsonValue) { r.text(at, v, &o.TrialReason, 0, MaxReasonChars) },
			})
		},
	})
	return o
}
