package entitlements

import "grout/schemas"

// Telling is a fact that a decision is told by once in a period (contract §5.2.13).
type Telling struct {
	Blocked bool // entitlement.feature_blocked; else entitlement.limit_reached
	schemas.Judgement
}

// Name is under which it is remembered that it was told, beside scope and period.
func (t *Telling) Name() string {
	what := "limit:"
	if t.Blocked {
		what = "feature:"
	}
	if t.Plugin != "" {
		what += t.Plugin + ":"
	}
	return what + t.Judgement.Name
}

// Tellings lists what a decision tells when its command is applied: limits that it was
// refused for or that it took the last of, and features that are off. Scopes of features
// without a layer are the app's.
func Tellings(d *schemas.Decision) []Telling {
	var list []Telling
	for _, s := range d.Judgements {
		if s.Scope.Kind == 0 {
			s.Scope.Kind = schemas.ScopeApp
		}
		switch {
		case s.Limited && s.Limit >= 0 && s.Because != schemas.ReasonPlanExpired && (s.Says > schemas.VerdictAllow || d.Allowed && lastOf(&s)):
			list = append(list, Telling{Judgement: s})
		case !s.Limited && s.Says == schemas.VerdictHard && (s.Because == schemas.ReasonFeatureOff || s.Because == schemas.ReasonPlanExpired && s.Name != "plan"):
			list = append(list, Telling{Blocked: true, Judgement: s})
		}
	}
	return list
}

// lastOf reports whether what is taken is all that is left of an enforced limit.
func lastOf(s *schemas.Judgement) bool {
	return s.Takes && s.Enforced != schemas.EnforceNone && !s.Cap && s.Needed > 0 && s.Needed >= s.Remaining
}
