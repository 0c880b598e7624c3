package schemas

// EntitlementsData is the answer of GET /api/v1/entitlements/{app_id} (contract §5.1).
// Of an app that was never synced it has app, plan, budget, features, rate limits and
// a synced_at of null.
type EntitlementsData struct {
	AppID       string               `json:"app_id"`
	UserID      string               `json:"user_id,omitempty"`
	TenantID    string               `json:"tenant_id,omitempty"`
	Version     string               `json:"version,omitempty"`
	Revision    *int64               `json:"revision,omitempty"`
	Plan        PlanData             `json:"plan"`
	TokenBudget BudgetData           `json:"token_budget"`
	Features    map[string]bool      `json:"features"`
	RateLimits  map[string]int64     `json:"rate_limits"`
	Plugins     *PluginRulesData     `json:"plugins,omitempty"`
	Overrides   *OverridesData       `json:"overrides,omitempty"`
	Source      string               `json:"source,omitempty"`
	Budgets     []BudgetStandingData `json:"budgets,omitempty"`
	SyncedAt    *string              `json:"synced_at"`
}

// PlanData is a plan on the wire.
type PlanData struct {
	ID            string     `json:"id,omitempty"`
	Name          string     `json:"name,omitempty"`
	Tier          Tier       `json:"tier"`
	Status        PlanStatus `json:"status,omitempty"`
	BillingPeriod string     `json:"billing_period,omitempty"`
	ExpiresAt     string     `json:"expires_at,omitempty"`
}

// BudgetData is a token budget on the wire, with what stands for it now.
type BudgetData struct {
	Period         string                    `json:"period"`
	Total          *AllocationData           `json:"total_tokens,omitempty"`
	Input          *AllocationData           `json:"input_tokens,omitempty"`
	Output         *AllocationData           `json:"output_tokens,omitempty"`
	PerModel       map[string]AllocationData `json:"per_model_limits,omitempty"`
	Rollover       *bool                     `json:"rollover,omitempty"`
	BurstAllowance *int64                    `json:"burst_allowance,omitempty"`
}

// AllocationData is one limit of a budget.
type AllocationData struct {
	Limit       int64  `json:"limit"`
	Used        int64  `json:"used"`
	Reserved    *int64 `json:"reserved,omitempty"`
	Enforcement string `json:"enforcement"`
}

// PluginRulesData is the section plugins on the wire.
type PluginRulesData struct {
	Allowed []string                   `json:"allowed"`
	Blocked []string                   `json:"blocked"`
	Tiers   map[string]string          `json:"tiers"`
	Limits  map[string]PluginCallsData `json:"per_plugin_limits,omitempty"`
}

// PluginCallsData is an entry of per_plugin_limits.
type PluginCallsData struct {
	Calls  int64  `json:"calls_per_period"`
	Period string `json:"period"`
}

// OverridesData is the section overrides on the wire.
type OverridesData struct {
	PromotionalTokens int64               `json:"promotional_tokens"`
	FeaturePreviews   []string            `json:"feature_previews"`
	TrialExtension    *TrialExtensionData `json:"trial_extension,omitempty"`
}

// TrialExtensionData moves the end of a plan.
type TrialExtensionData struct {
	Until  string `json:"until,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// BudgetStandingData is how the budget of one scope stands.
type BudgetStandingData struct {
	Scope       string                   `json:"scope"`
	ScopeID     string                   `json:"scope_id"`
	Period      string                   `json:"period"`
	PeriodStart *string                  `json:"period_start"`
	ResetsAt    *string                  `json:"resets_at"`
	Allocations []AllocationStandingData `json:"allocations"`
}

// AllocationStandingData is how one allocation stands.
type AllocationStandingData struct {
	Name           string `json:"name"`
	Limit          int64  `json:"limit"`
	EffectiveLimit int64  `json:"effective_limit"`
	Used           int64  `json:"used"`
	Reserved       int64  `json:"reserved"`
	Remaining      int64  `json:"remaining"`
	Enforcement    string `json:"enforcement"`
}

// AppendJSON adds the answer.
func (e *EntitlementsData) AppendJSON(dst []byte) []byte { return appendJSON(dst, e) }

// NeverSynced is the answer about an app that no manifest is known of.
func NeverSynced(app string) EntitlementsData {
	return EntitlementsData{
		AppID: app, Plan: PlanData{Tier: TierUnlimited, Name: "Open Source"},
		TokenBudget: UnlimitedBudget(), Features: map[string]bool{}, RateLimits: map[string]int64{},
	}
}

// UnlimitedBudget is that of somebody who has none.
func UnlimitedBudget() BudgetData {
	return BudgetData{
		Period: PeriodUnlimited.String(),
		Total:  &AllocationData{Limit: Unlimited, Enforcement: EnforceNone.String()},
	}
}
