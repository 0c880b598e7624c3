package entitlements

import (
	"fmt"
	"slices"

	"grout/schemas"
)

// Check judges a request by every rule that it touches, in the order of contract §4:
// the plugin, its features, the plan, budgets, limits and rates. Nothing is counted.
func Check(v *View, r *schemas.EntitlementCheck) schemas.Decision {
	j := judge{view: v, ended: PlanEnd(v.Layers, v.Now), plugin: r.Plugin}
	return j.check(r)
}

// Execute judges an execution as Check does; what its action needs of the plugin's
// limits is taken.
func Execute(v *View, r *schemas.EntitlementCheck) schemas.Decision {
	j := judge{view: v, ended: PlanEnd(v.Layers, v.Now), plugin: r.Plugin, takes: true}
	return j.check(r)
}

func (j *judge) check(r *schemas.EntitlementCheck) schemas.Decision {
	if r.Plugin != "" {
		j.access()
	}
	j.features(r)
	j.plan()
	if j.asksBudgets(r) {
		j.budgets(r.Model, r.Tokens)
	}
	j.failure()
	j.limits(r)
	return j.decision()
}

// Reserve judges a reservation: every allocation of every scope must have room
// (contract §5.3).
func Reserve(v *View, r *schemas.BudgetReserve) schemas.Decision {
	j := judge{view: v, ended: PlanEnd(v.Layers, v.Now), takes: true}
	j.plan()
	j.budgets(r.Model, r.Tokens)
	j.failure()
	return j.decision()
}

// Recorded is the decision that is noted beside usage that was counted, which is never
// refused (contract §5.2.9): it says what lies above its limit now.
func Recorded(v *View, model string) schemas.Decision {
	j := judge{view: v, ended: PlanEnd(v.Layers, v.Now), recorded: true}
	j.plan()
	j.budgets(model, schemas.Tokens{})
	d := j.decision()
	d.Allowed, d.Code, d.Detail = true, "", ""
	return d
}

// judge collects what the rules say of one request.
type judge struct {
	view     *View
	ended    Ending
	plugin   string
	recorded bool // what is judged has happened
	takes    bool // tokens, or what the action needs, are taken
	hard     bool // an allocation that is touched is enforced
	list     []judged
	rates    []schemas.RateState
	consumes map[string]int64
}

// judged is a judgement with the words for a refusal.
type judged struct {
	schemas.Judgement
	code   schemas.Code
	detail string
}

func (j *judge) add(s schemas.Judgement, code schemas.Code, format string, args ...any) {
	if j.list == nil {
		j.list = make([]judged, 0, 6)
	}
	e := judged{Judgement: s}
	if s.Says == schemas.VerdictHard {
		e.code, e.detail = code, fmt.Sprintf(format, args...)
	}
	j.list = append(j.list, e)
}

// decision is what all judgements come to: the first hard one, else the first soft one,
// else the first warning, else the tightest limit.
func (j *judge) decision() schemas.Decision {
	d := schemas.Decision{Rates: j.rates, WouldConsume: j.consumes}
	best := -1
	d.Judgements = make([]schemas.Judgement, 0, len(j.list))
	for i := range j.list {
		d.Judgements = append(d.Judgements, j.list[i].Judgement)
		if best < 0 || decides(&j.list[i].Judgement, &j.list[best].Judgement) {
			best = i
		}
	}
	if best < 0 {
		d.Allowed, d.Reason = true, schemas.ReasonAllowed
		return d
	}
	b := &j.list[best]
	d.Judgement, d.Verdict, d.Reason, d.Code, d.Detail = b.Judgement, b.Says, b.Because, b.code, b.detail
	d.Allowed = b.Says != schemas.VerdictHard || !j.view.Switches.Enforce
	return d
}

// decides reports whether a judgement goes before an earlier one.
func decides(s, earlier *schemas.Judgement) bool {
	if s.Says != earlier.Says {
		return s.Says > earlier.Says
	}
	if s.Says != schemas.VerdictAllow || !s.Limited || s.Limit < 0 {
		return false
	}
	return !earlier.Limited || earlier.Limit < 0 || s.Remaining < earlier.Remaining
}

// access judges whether somebody may use the plugin at all.
func (j *judge) access() {
	v := j.view
	if !v.Switches.Monetization {
		return
	}
	s := schemas.Judgement{Rule: "5.4", Name: j.plugin, Because: schemas.ReasonAllowed}
	if l := pluginLayer(v.Layers); l != nil {
		s.Scope, s.Below, s.Revision = l.Scope, l.Below, l.Revision
	}
	switch {
	case v.Plugin != nil && v.Plugin.Broken != "":
		s.Says, s.Because = schemas.VerdictHard, schemas.ReasonPluginBroken
		j.add(s, schemas.CodeForbidden, "The entitlements of plugin '%s' cannot be read: %s", j.plugin, v.Plugin.Broken)
	case !v.MayUse(j.plugin):
		s.Rule, s.Says, s.Because = "5.2.4", schemas.VerdictHard, schemas.ReasonPluginBlocked
		j.add(s, schemas.CodeForbidden, "Access denied: Subscription does not allow '%s'.", j.plugin)
	default:
		j.add(s, "", "")
	}
}

// features judges what is asked for and what the action requires.
func (j *judge) features(r *schemas.EntitlementCheck) {
	var names []string
	if rules := j.view.rules(); rules != nil && r.Action != "" {
		names = append(names, rules.Actions[r.Action].Requires...)
	}
	if r.Feature != "" && !slices.Contains(names, r.Feature) {
		names = append(names, r.Feature)
	}
	for _, name := range names {
		j.feature(name)
	}
}

func (j *judge) feature(name string) {
	v := j.view
	f := FeatureAt(v.Layers, name, j.ended.Over)
	s := schemas.Judgement{Rule: "5.2.4", Name: name, Because: f.Reason}
	if f.Layer != nil {
		s.Scope, s.Below, s.Revision = f.Layer.Scope, f.Layer.Below, f.Layer.Revision
	}
	tier := v.planTier()
	if rules := v.rules(); rules != nil {
		tier = v.PluginTier(j.plugin)
		if f.On && f.Reason != schemas.ReasonPreview && !PluginFeature(rules, tier, name) {
			f.On, s.Rule, s.Because = false, "5.4", schemas.ReasonFeatureOff
			s.Plugin, s.Scope, s.Below, s.Revision = j.plugin, v.own(), false, 0 // whose tier it is
		}
	}
	s.Period = v.toldPeriod(s.Scope)
	switch {
	case f.On:
		j.add(s, "", "")
	case s.Because == schemas.ReasonPlanExpired:
		s.Rule, s.Says = "5.2.10", schemas.VerdictHard
		j.add(s, schemas.CodePlanExpired, "%s", j.ended.Detail)
	default:
		s.Says = schemas.VerdictHard
		j.add(s, schemas.CodeFeatureGated, "Feature '%s' not available on %s tier", name, tier)
	}
}

// planTier is the tier that a refusal names.
func (v *View) planTier() string {
	if len(v.Layers) == 0 {
		return string(schemas.TierUnlimited)
	}
	return string(v.Layers[0].Manifest.Plan.Tier)
}

// toldPeriod is the period in which a feature that a scope blocks is told once: that of
// the scope's budget, else the month. Who asks makes no difference.
func (v *View) toldPeriod(scope schemas.Scope) int64 {
	if scope.Kind == 0 {
		scope.Kind = schemas.ScopeApp
	}
	period := schemas.PeriodMonthly
	for _, b := range Budgets(v.Layers) {
		if b.Scope == scope {
			period = b.Period
		}
	}
	start, _ := PeriodAt(period, v.Now)
	return start
}

// plan judges a plan that is over: it refuses executions, and is flagged elsewhere.
func (j *judge) plan() {
	if !j.ended.Over {
		return
	}
	l := j.ended.Layer
	s := schemas.Judgement{
		Rule: "5.2.10", Name: "plan", Scope: l.Scope, Below: l.Below, Revision: l.Revision,
		Says: schemas.VerdictWarn, Because: schemas.ReasonPlanExpired,
	}
	if j.plugin != "" && j.view.Switches.Monetization {
		s.Says = schemas.VerdictHard
	}
	j.add(s, schemas.CodePlanExpired, "%s", j.ended.Detail)
}

// asksBudgets reports whether a check is about tokens: it names some, or a model, or a
// plugin, which burns them, or nothing else.
func (j *judge) asksBudgets(r *schemas.EntitlementCheck) bool {
	return r.Asked || r.Tokens != (schemas.Tokens{}) || r.Model != "" || r.Plugin != "" || r.Feature == "" && r.Limit == ""
}

func (j *judge) budgets(model string, tokens schemas.Tokens) {
	for _, t := range Touched(j.view.Layers, model) {
		j.budget(t, tokens.Amount(t.Allocation, model))
	}
}

// budget judges one allocation (contract §5.2.8).
func (j *judge) budget(t Terms, needed int64) {
	c := j.view.counterOf(t)
	limit := t.Effective(c.Carry)
	s := schemas.Judgement{
		Rule: "5.2.8", Name: t.Allocation, Scope: t.Scope, Below: t.Below, Revision: t.Revision, Because: schemas.ReasonAllowed,
		Limited: true, Limit: limit, Used: c.Used, Reserved: c.Reserved, Remaining: Remaining(limit, c.Used, c.Reserved),
		ResetsAt: c.End, Needed: needed, Enforced: t.Enforcement, Period: c.Start, Takes: j.takes,
	}
	j.hard = j.hard || t.Enforcement == schemas.EnforceHard
	s.Says = overLimit(t.Enforcement, limit, add(c.Used, c.Reserved), needed, j.recorded)
	if s.Says != schemas.VerdictAllow {
		s.Because = schemas.ReasonBudgetExceeded
	}
	if j.ended.Over && t.Enforcement == schemas.EnforceHard {
		s.Rule, s.Says, s.Because = "5.2.10", schemas.VerdictHard, schemas.ReasonPlanExpired
		j.add(s, schemas.CodePlanExpired, "%s", j.ended.Detail)
		return
	}
	j.add(s, schemas.CodeBudgetExceeded, "Token budget exceeded: %d/%d tokens used.", c.Used, limit)
}

// overLimit says what an enforcement makes of a need beside what is taken. A hard limit
// that is reached refuses even what needs nothing, unless it happened already.
func overLimit(e schemas.Enforcement, limit, taken, needed int64, happened bool) schemas.Verdict {
	if limit < 0 {
		return schemas.VerdictAllow
	}
	over := add(taken, needed) > limit
	switch e {
	case schemas.EnforceHard:
		if over || needed == 0 && taken >= limit && !happened {
			return schemas.VerdictHard
		}
	case schemas.EnforceSoft:
		if over {
			return schemas.VerdictSoft
		}
	case schemas.EnforceWarn:
		if over {
			return schemas.VerdictWarn
		}
	}
	return schemas.VerdictAllow
}

// failure judges a check that could not see all it needs (contract §5.2.12).
func (j *judge) failure() {
	if j.view.Failed == "" {
		return
	}
	s := schemas.Judgement{Rule: "5.2.12", Says: schemas.VerdictWarn, Because: schemas.ReasonCheckFailed}
	if j.hard {
		s.Says = schemas.VerdictHard
	}
	j.add(s, schemas.CodeUnavailable, "The check failed: %s", j.view.Failed)
}
