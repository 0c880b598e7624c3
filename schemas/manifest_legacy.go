package schemas

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Subscription is the flat legacy body (contract §5.1). Any text is a plan or a status.
type Subscription struct {
	AppID           string // empty: that of the command
	UserID          string
	Plan            string
	Status          string // as sent
	BillingCycle    string
	NextBillingDate *int64 // nanoseconds since 1970 UTC
	TrialEndDate    *int64
	StripeID        string
	PluginTiers     map[string]string
	Content         []byte // canonical JSON of all of it
}

// ParseSubscription reads the body of POST /api/internal/subscription/sync: the flat
// legacy one, or a manifest. Exactly one of both is given, or an error as that of
// ParseManifest.
func ParseSubscription(body []byte) (*Subscription, *Manifest, *Error) {
	if len(body) > MaxManifestBytes {
		return nil, nil, manifestTooLarge(len(body))
	}
	v, err := readJSONValue(bytes.Clone(body))
	if err != nil {
		return nil, nil, err
	}
	if looksLikeManifest(v) {
		m, err := manifestOf(v)
		return nil, m, err
	}
	r := manifestReader{}
	s := r.subscription(v)
	if err := r.err(); err != nil {
		return nil, nil, err
	}
	content, ok := canonicalJSON(v.text, MaxManifestBytes)
	if !ok {
		return nil, nil, manifestTooLarge(len(v.text))
	}
	s.Content = content
	return s, nil, nil
}

// looksLikeManifest tells a manifest from the flat body by its version and by the shape
// of its plan.
func looksLikeManifest(v jsonValue) bool {
	if v.is() != '{' {
		return false
	}
	manifest := false
	v.each(func(name string, value jsonValue) {
		switch name {
		case "version", "token_budget":
			manifest = true
		case "plan":
			manifest = manifest || value.is() == '{'
		}
	})
	return manifest
}

// subscriptionFields has the names of the fields in both spellings.
var subscriptionFields = [...][2]string{
	{"user_id", "userId"},
	{"plan", "plan"},
	{"status", "status"},
	{"billing_cycle", "billingCycle"},
	{"next_billing_date", "nextBillingDate"},
	{"trial_end_date", "trialEndDate"},
	{"stripe_subscription_id", "stripeSubscriptionId"},
	{"app_id", "appId"},
	{"plugin_tiers", "pluginTiers"},
}

func (r *manifestReader) subscription(v jsonValue) *Subscription {
	s := &Subscription{}
	given := map[string]string{}
	read := []func(*fieldPath, jsonValue){
		func(at *fieldPath, v jsonValue) { r.text(at, v, &s.UserID, 1, MaxIDChars) },
		func(at *fieldPath, v jsonValue) { r.text(at, v, &s.Plan, 1, MaxNameChars) },
		func(at *fieldPath, v jsonValue) { r.text(at, v, &s.Status, 1, MaxNameChars) },
		func(at *fieldPath, v jsonValue) { r.text(at, v, &s.BillingCycle, 0, MaxNameChars) },
		func(at *fieldPath, v jsonValue) { s.NextBillingDate = r.date(at, v) },
		func(at *fieldPath, v jsonValue) { s.TrialEndDate = r.date(at, v) },
		func(at *fieldPath, v jsonValue) { r.text(at, v, &s.StripeID, 0, MaxNameChars) },
		func(at *fieldPath, v jsonValue) { r.text(at, v, &s.AppID, 1, MaxIDChars) },
		func(at *fieldPath, v jsonValue) { s.PluginTiers = r.names(at, v) },
	}
	known := readers{}
	for i, names := range subscriptionFields {
		for _, name := range names {
			known[name] = func(at *fieldPath, v jsonValue) {
				if other := given[names[0]]; other != "" {
					r.fault(at, "repeated", "says the same as %s: send one of them", other)
					return
				}
				given[names[0]] = name
				read[i](at, v)
			}
		}
	}
	if !r.fields(nil, v, known) {
		return s
	}
	for _, names := range subscriptionFields[:3] {
		if given[names[0]] == "" {
			r.missing((*fieldPath)(nil).under(names[1]))
		}
	}
	return s
}

// date reads an instant, or a day, which is its midnight in UTC.
func (r *fieldReader) date(at *fieldPath, v jsonValue) *int64 {
	if v.is() == '"' {
		if text := v.string().decoded(); len(text) == len("2006-01-02") {
			if n, err := ParseInstant(text + "T00:00:00Z"); err == nil {
				return &n
			}
			r.fault(at, "date_parsing", "%v is no day of the calendar: write it like 2026-01-26", shown(text))
			return nil
		}
	}
	return r.instant(at, v)
}

// planStatusOf says what a status of the legacy body means; known is false for what
// nobody has listed.
func planStatusOf(text string) (status PlanStatus, known bool) {
	switch t := strings.ToLower(strings.TrimSpace(text)); t {
	case "cancelled", "incomplete_expired", "inactive":
		return PlanCanceled, true
	case "unpaid", "incomplete", "paused":
		return PlanPastDue, true
	default:
		if slices.Contains(planStatuses, PlanStatus(t)) {
			return PlanStatus(t), true
		}
		return PlanPastDue, false
	}
}

// ManifestOf is the manifest of scope user that a subscription stands for, made through
// the catalogue, which may be nil (contract §5.1, §5.2.1).
func (s *Subscription) ManifestOf(app string, c *Catalogue) (*Manifest, *Error) {
	type object = map[string]any
	status, known := planStatusOf(s.Status)
	plan := object{"id": s.Plan, "name": s.Plan, "tier": c.TierOf(s.Plan), "status": status}
	if s.BillingCycle != "" {
		plan["billing_period"] = s.BillingCycle
	}
	if status == PlanTrialing && s.TrialEndDate != nil {
		plan["expires_at"] = InstantText(*s.TrialEndDate)
	}
	beside := object{"subscription_status": s.Status}
	if !known {
		beside["unknown_status"] = true
	}
	if s.NextBillingDate != nil {
		beside["next_billing_date"] = InstantText(*s.NextBillingDate)
	}
	if s.TrialEndDate != nil {
		beside["trial_end_date"] = InstantText(*s.TrialEndDate)
	}
	if s.StripeID != "" {
		beside["stripe_subscription_id"] = s.StripeID
	}
	m := object{"version": "1.1", "app_id": app, "user_id": s.UserID, "plan": plan, "metadata": beside, "source": "subscription"}
	if s.PluginTiers != nil {
		m["plugins"] = object{"tiers": s.PluginTiers}
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, Errorf(CodeInternal, "manifest of a subscription: %v", err)
	}
	return ParseManifest(text)
}

// UnknownStatus reports whether the status is one that nobody has listed: it is taken
// as past due and flagged in the fact.
func (s *Subscription) UnknownStatus() bool {
	_, known := planStatusOf(s.Status)
	return !known
}
