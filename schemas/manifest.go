package schemas

import (
	"crypto/sha256"
	"maps"
	"slices"
)

// Limits of manifests and of what stands beside them (contract §5.1).
const (
	MaxManifestBytes = 512 << 10
	MaxLimit         = 1<<53 - 1 // of every limit and every pushed figure
	MaxBurst         = 1000      // percent
	MaxModelLimits   = 1000      // of one budget
)

// Manifest is what an app, a tenant or a user is entitled to (contract §5.1). A nil
// section is absent, which is not the same as an empty one: what is absent comes from
// the next scope (contract §5.2.3).
type Manifest struct {
	Version       string
	AppID         string
	UserID        string
	TenantID      string
	Revision      *int64 // as sent; nil: the next one
	Plan          Plan
	Budget        *TokenBudget
	Features      map[string]bool
	RateLimits    map[string]int64
	Plugins       *PluginRules
	Overrides     *Overrides
	Source        string
	CorrelationID string

	Content []byte // canonical JSON of all of it, unknown fields included
	// Digest is that of the content without revision and correlation id: manifests
	// with the same one mean the same.
	Digest [sha256.Size]byte
}

// Scope is what the manifest is aimed at. A user's stands in the user's scope
// whichever tenant it names.
func (m *Manifest) Scope() Scope {
	switch {
	case m.UserID != "":
		return Scope{ScopeUser, m.UserID}
	case m.TenantID != "":
		return Scope{ScopeTenant, m.TenantID}
	}
	return Scope{Kind: ScopeApp}
}

// Tier is the level of a plan.
type Tier string

// The tiers there are.
const (
	TierFree       Tier = "free"
	TierStarter    Tier = "starter"
	TierPro        Tier = "pro"
	TierEnterprise Tier = "enterprise"
	TierUnlimited  Tier = "unlimited"
)

var tiers = []Tier{TierFree, TierStarter, TierPro, TierEnterprise, TierUnlimited}

// KnownTier reports whether a text is a tier.
func KnownTier(s string) bool { return slices.Contains(tiers, Tier(s)) }

// PlanStatus is where a plan stands. Trialing and past due ones are active
// (contract §5.2.10).
type PlanStatus string

// What a plan can be.
const (
	PlanActive   PlanStatus = "active"
	PlanTrialing PlanStatus = "trialing"
	PlanPastDue  PlanStatus = "past_due"
	PlanCanceled PlanStatus = "canceled"
)

var planStatuses = []PlanStatus{PlanActive, PlanTrialing, PlanPastDue, PlanCanceled}

// Plan is the section plan of a manifest.
type Plan struct {
	ID            string
	Name          string
	Tier          Tier
	Status        PlanStatus
	BillingPeriod string
	ExpiresAt     *int64 // nanoseconds since 1970 UTC; nil: never
}

// TokenBudget is the section token_budget. A nil or missing allocation is unlimited.
type TokenBudget struct {
	Period   Period
	Total    *Allocation
	Input    *Allocation
	Output   *Allocation
	PerModel map[string]Allocation
	Rollover bool
	Burst    int64 // percent

	names []string // see Allocations
}

// Allocations lists the names of the budget's allocations: total, input, output, then
// the models in order of their names. Nobody changes the list.
func (b *TokenBudget) Allocations() []string {
	if b.names != nil {
		return b.names
	}
	names := make([]string, 0, 3+len(b.PerModel))
	for _, a := range [...]struct {
		name string
		a    *Allocation
	}{{AllocationTotal, b.Total}, {AllocationInput, b.Input}, {AllocationOutput, b.Output}} {
		if a.a != nil {
			names = append(names, a.name)
		}
	}
	for _, model := range slices.Sorted(maps.Keys(b.PerModel)) {
		names = append(names, ModelAllocation(model))
	}
	return names
}

// Allocation is one limit of a budget.
type Allocation struct {
	Limit       int64 // Unlimited, or up to MaxLimit
	Used        int64 // as pushed
	Reserved    int64 // as pushed; nothing follows from it
	Enforcement Enforcement
}

// PluginRules is the section plugins.
type PluginRules struct {
	Allowed []string // empty: all
	Blocked []string
	Tiers   map[string]string
	Limits  map[string]PluginCalls
}

// PluginCalls bounds how often a plugin is called in a period.
type PluginCalls struct {
	Calls  int64
	Period Period
}

// Overrides is the section overrides.
type Overrides struct {
	PromotionalTokens int64
	FeaturePreviews   []string
	TrialUntil        *int64 // trial_extension.until
	TrialReason       string
}

var periodNames = [...]string{
	PeriodHourly: "hourly", PeriodDaily: "daily", PeriodWeekly: "weekly", PeriodMonthly: "monthly",
	PeriodLifetime: "lifetime", PeriodUnlimited: "unlimited",
}

func (p Period) String() string {
	if p < PeriodHourly || p > PeriodUnlimited {
		return "unknown"
	}
	return periodNames[p]
}

// PeriodNamed gives the period of a name, 0 for none.
func PeriodNamed(name string) Period {
	return Period(max(slices.Index(periodNames[:], name), 0))
}

var enforcementNames = [...]string{EnforceNone: "none", EnforceWarn: "warn", EnforceSoft: "soft", EnforceHard: "hard"}

func (e Enforcement) String() string {
	if e > EnforceHard {
		return "unknown"
	}
	return enforcementNames[e]
}

// Amount is what the tokens count for in an allocation, when they are of a model
// (contract §5.3); 0 in one that they do not touch.
func (t Tokens) Amount(allocation, model string) int64 {
	switch allocation {
	case AllocationTotal:
		return t.Total
	case AllocationInput:
		return t.Input
	case AllocationOutput:
		return t.Output
	}
	if model != "" && allocation == ModelAllocation(model) {
		return t.Total
	}
	return 0
}
