package schemas

// EntitlementSyncedData is the data of entitlement.synced: a scope has a new version of
// its manifest, however it came.
type EntitlementSyncedData struct {
	AppID         string     `json:"app_id"`
	UserID        string     `json:"user_id,omitempty"`
	TenantID      string     `json:"tenant_id,omitempty"`
	Version       string     `json:"version"`
	Revision      int64      `json:"revision"`
	PreviousTier  Tier       `json:"previous_tier,omitempty"`
	NewTier       Tier       `json:"new_tier"`
	PlanStatus    PlanStatus `json:"plan_status"`
	ExpiresAt     string     `json:"expires_at,omitempty"`
	Source        string     `json:"source,omitempty"`
	SyncedAt      string     `json:"synced_at"`
	UnknownStatus bool       `json:"unknown_status,omitzero"`
}

// SyncedFact is the data of entitlement.synced about a version stored at an instant.
// Previous is the tier before, empty for the first.
func SyncedFact(m *Manifest, previous Tier, revision, at int64) *EntitlementSyncedData {
	d := &EntitlementSyncedData{
		AppID: m.AppID, UserID: m.UserID, TenantID: m.TenantID, Version: m.Version, Revision: revision,
		PreviousTier: previous, NewTier: m.Plan.Tier, PlanStatus: m.Plan.Status, Source: m.Source, SyncedAt: InstantText(at),
	}
	if m.Plan.ExpiresAt != nil {
		d.ExpiresAt = InstantText(*m.Plan.ExpiresAt)
	}
	return d
}

// AppendJSON adds the data.
func (d *EntitlementSyncedData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// SubscriptionChangedData is the data of subscription.changed: the plan of a scope has
// another name, tier or status than before. Previous ones are absent for the first.
type SubscriptionChangedData struct {
	AppID          string     `json:"app_id"`
	UserID         string     `json:"user_id,omitempty"`
	TenantID       string     `json:"tenant_id,omitempty"`
	Plan           string     `json:"plan"`
	Tier           Tier       `json:"tier"`
	Status         PlanStatus `json:"status"`
	PreviousPlan   string     `json:"previous_plan,omitempty"`
	PreviousTier   Tier       `json:"previous_tier,omitempty"`
	PreviousStatus PlanStatus `json:"previous_status,omitempty"`
}

// SubscriptionFact is the data of subscription.changed; nil when the plan of the
// manifest is the one before, which is nil for none.
func SubscriptionFact(m *Manifest, before *Plan) *SubscriptionChangedData {
	d := &SubscriptionChangedData{
		AppID: m.AppID, UserID: m.UserID, TenantID: m.TenantID, Plan: m.Plan.Title(), Tier: m.Plan.Tier, Status: m.Plan.Status,
	}
	if before == nil {
		return d
	}
	d.PreviousPlan, d.PreviousTier, d.PreviousStatus = before.Title(), before.Tier, before.Status
	if d.PreviousPlan == d.Plan && d.PreviousTier == d.Tier && d.PreviousStatus == d.Status {
		return nil
	}
	return d
}

// Title is what a plan is called: its name, else its id, else its tier.
func (p *Plan) Title() string {
	switch {
	case p.Name != "":
		return p.Name
	case p.ID != "":
		return p.ID
	}
	return string(p.Tier)
}

// AppendJSON adds the data.
func (d *SubscriptionChangedData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// EntitlementConsumedData is the data of entitlement.consumed: what a check that counts,
// or an action, has used up, by the name of the limit.
type EntitlementConsumedData struct {
	AppID    string           `json:"app_id"`
	UserID   string           `json:"user_id,omitempty"`
	TenantID string           `json:"tenant_id,omitempty"`
	Plugin   string           `json:"plugin,omitempty"`
	Action   string           `json:"action,omitempty"`
	Consumed map[string]int64 `json:"consumed"`
}

// AppendJSON adds the data.
func (d *EntitlementConsumedData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// LimitReachedData is the data of entitlement.limit_reached, told once per scope, limit
// and period: nothing is left of a limit, or less than was asked for.
type LimitReachedData struct {
	AppID    string  `json:"app_id"`
	Scope    string  `json:"scope"`
	ScopeID  string  `json:"scope_id"`
	Plugin   string  `json:"plugin,omitempty"`
	Name     string  `json:"name"`
	Decision string  `json:"decision"`
	Limit    int64   `json:"limit"`
	Used     int64   `json:"used"`
	Reserved int64   `json:"reserved"`
	Needed   int64   `json:"needed"`
	ResetsAt *string `json:"resets_at"`
}

// LimitFact is the data of entitlement.limit_reached: how the limit stood when it was
// asked.
func LimitFact(app, plugin string, j *Judgement) *LimitReachedData {
	return &LimitReachedData{
		AppID: app, Scope: j.Scope.Kind.String(), ScopeID: j.Scope.IDIn(app), Plugin: plugin, Name: j.Name, Decision: j.Says.String(),
		Limit: j.Limit, Used: j.Used, Reserved: j.Reserved, Needed: j.Needed, ResetsAt: InstantOrNull(j.ResetsAt),
	}
}

// AppendJSON adds the data.
func (d *LimitReachedData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// FeatureBlockedData is the data of entitlement.feature_blocked, told once per scope,
// feature and period.
type FeatureBlockedData struct {
	AppID   string `json:"app_id"`
	Scope   string `json:"scope"`
	ScopeID string `json:"scope_id"`
	Plugin  string `json:"plugin,omitempty"`
	Feature string `json:"feature"`
	Reason  Reason `json:"reason"`
}

// FeatureFact is the data of entitlement.feature_blocked.
func FeatureFact(app, plugin string, j *Judgement) *FeatureBlockedData {
	return &FeatureBlockedData{
		AppID: app, Scope: j.Scope.Kind.String(), ScopeID: j.Scope.IDIn(app), Plugin: plugin, Feature: j.Name, Reason: j.Because,
	}
}

// AppendJSON adds the data.
func (d *FeatureBlockedData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// PeriodResetData is the data of entitlement.period_reset: the budget of a scope begins
// a new period.
type PeriodResetData struct {
	AppID         string                `json:"app_id"`
	Scope         string                `json:"scope"`
	ScopeID       string                `json:"scope_id"`
	Period        string                `json:"period"`
	PreviousStart string                `json:"previous_start"`
	PeriodStart   string                `json:"period_start"`
	ResetsAt      string                `json:"resets_at"`
	Allocations   []AllocationResetData `json:"allocations"`
}

// AllocationResetData is what an allocation takes into a new period.
type AllocationResetData struct {
	Name         string `json:"name"`
	PreviousUsed int64  `json:"previous_used"` // in the period that was counted last
	Carry        int64  `json:"carry"`
	Used         int64  `json:"used"`
	Reserved     int64  `json:"reserved"`
}

// ResetFact is the data of entitlement.period_reset; before and after are the counters
// of a scope's budget, in the same order and at least one.
func ResetFact(app string, scope Scope, before, after []Counter) *PeriodResetData {
	d := &PeriodResetData{
		AppID: app, Scope: scope.Kind.String(), ScopeID: scope.IDIn(app), Period: after[0].Period.String(),
		PreviousStart: InstantText(before[0].Start), PeriodStart: InstantText(after[0].Start), ResetsAt: InstantText(after[0].End),
	}
	for i, c := range after {
		d.Allocations = append(d.Allocations, AllocationResetData{c.Allocation, before[i].Used, c.Carry, c.Used, c.Reserved})
	}
	return d
}

// AppendJSON adds the data.
func (d *PeriodResetData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// BudgetStandingFact is the data of budget.threshold_reached, budget.threshold_cleared
// (Threshold in percent) and budget.exceeded (no threshold).
type BudgetStandingFact struct {
	AppID       string  `json:"app_id"`
	Scope       string  `json:"scope"`
	ScopeID     string  `json:"scope_id"`
	Allocation  string  `json:"allocation"`
	Period      string  `json:"period"`
	PeriodStart *string `json:"period_start"`
	ResetsAt    *string `json:"resets_at"`
	Threshold   int     `json:"threshold,omitzero"`
	Limit       int64   `json:"limit"`
	Effective   int64   `json:"effective_limit"`
	Used        int64   `json:"used"`
	Reserved    int64   `json:"reserved"`
	Enforcement string  `json:"enforcement"`
}

// BudgetFact is the data of the facts about a budget that follow from where a counter
// stands; threshold is 0 for budget.exceeded.
func BudgetFact(app string, scope Scope, c *Counter, threshold int, limit, effective int64, e Enforcement) *BudgetStandingFact {
	d := &BudgetStandingFact{
		AppID: app, Scope: scope.Kind.String(), ScopeID: scope.IDIn(app), Allocation: c.Allocation, Period: c.Period.String(),
		Threshold: threshold, Limit: limit, Effective: effective, Used: c.Used, Reserved: c.Reserved, Enforcement: e.String(),
	}
	if c.End != 0 {
		start, end := InstantText(c.Start), InstantText(c.End)
		d.PeriodStart, d.ResetsAt = &start, &end
	}
	return d
}

// AppendJSON adds the data.
func (d *BudgetStandingFact) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// ReservationExpiredData is the data of budget.reservation_expired: what a hold held is
// free again.
type ReservationExpiredData struct {
	AppID         string `json:"app_id"`
	ReservationID string `json:"reservation_id"`
	UserID        string `json:"user_id,omitempty"`
	TenantID      string `json:"tenant_id,omitempty"`
	Model         string `json:"model,omitempty"`
	TotalTokens   int64  `json:"total_tokens"`
	InputTokens   int64  `json:"input_tokens"`
	OutputTokens  int64  `json:"output_tokens"`
	GrantedAt     string `json:"granted_at"`
	ExpiresAt     string `json:"expires_at"`
}

// ExpiredFact is the data of budget.reservation_expired.
func ExpiredFact(h *Hold) *ReservationExpiredData {
	return &ReservationExpiredData{
		AppID: h.AppID, ReservationID: h.ID, UserID: h.UserID, TenantID: h.TenantID, Model: h.Model,
		TotalTokens: h.Tokens.Total, InputTokens: h.Tokens.Input, OutputTokens: h.Tokens.Output,
		GrantedAt: InstantText(h.GrantedAt), ExpiresAt: InstantText(h.ExpiresAt),
	}
}

// AppendJSON adds the data.
func (d *ReservationExpiredData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }
