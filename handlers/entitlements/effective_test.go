package entitlements

import (
	"strings"
	"testing"

	"grout/schemas"
)

// The answer about an app, its tenant and its user, whole.
func TestEffective(t *testing.T) {
	v := viewOf(t, map[string]string{
		"user": `"plan":{"id":"p","name":"Gold","tier":"enterprise","status":"trialing","billing_period":"yearly","expires_at":"2026-03-01T00:00:00Z"},"source":"platform","features":{"canvas":true,"export":false},` +
			`"overrides":{"promotional_tokens":10,"feature_previews":["export"],"trial_extension":{"until":"2026-04-01T00:00:00Z","reason":"r"}},` +
			`"token_budget":{"period":"weekly","total_tokens":{"limit":100,"used":7,"enforcement":"hard"},"per_model_limits":{"m":{"limit":-1}},"burst_allowance":10}`,
		"app": `"rate_limits":{"requests_per_minute":60},"plugins":{"allowed":["notes"],"per_plugin_limits":{"notes":{"calls_per_period":5,"period":"daily"}}},"token_budget":{"period":"lifetime","input_tokens":{"limit":5}}`,
	}).use(t, appScope, schemas.AllocationInput, 3, 4)
	got := Effective(v)
	const want = `{"app_id":"a","user_id":"u","tenant_id":"t","version":"1.1","revision":1,
"plan":{"id":"p","name":"Gold","tier":"enterprise","status":"trialing","billing_period":"yearly","expires_at":"2026-03-01T00:00:00Z"},
"token_budget":{"period":"weekly","total_tokens":{"limit":100,"used":7,"reserved":0,"enforcement":"hard"},"per_model_limits":{"m":{"limit":-1,"used":0,"reserved":0,"enforcement":"none"}},"rollover":false,"burst_allowance":10},
"features":{"canvas":true,"export":true},"rate_limits":{"requests_per_minute":60},
"plugins":{"allowed":["notes"],"blocked":[],"tiers":{},"per_plugin_limits":{"notes":{"calls_per_period":5,"period":"daily"}}},
"overrides":{"promotional_tokens":10,"feature_previews":["export"],"trial_extension":{"until":"2026-04-01T00:00:00Z","reason":"r"}},"source":"platform",
"budgets":[{"scope":"user","scope_id":"u","period":"weekly","period_start":"2026-01-26T00:00:00Z","resets_at":"2026-02-02T00:00:00Z","allocations":[
{"name":"total_tokens","limit":100,"effective_limit":121,"used":7,"reserved":0,"remaining":114,"enforcement":"hard"},
{"name":"model:m","limit":-1,"effective_limit":-1,"used":0,"reserved":0,"remaining":-1,"enforcement":"none"}]},
{"scope":"app","scope_id":"a","period":"lifetime","period_start":null,"resets_at":null,"allocations":[{"name":"input_tokens","limit":5,"effective_limit":5,"used":3,"reserved":4,"remaining":0,"enforcement":"none"}]}],
"synced_at":"2026-01-28T12:34:56Z"}`
	if text := string(got.AppendJSON(nil)); text != strings.ReplaceAll(want, "\n", "") {
		t.Errorf("%s", text)
	}
}

// A manifest below the app's own is nobody's revision.
func TestEffectiveBelow(t *testing.T) {
	got := Effective(viewOf(t, map[string]string{"below": `"features":{"x":true}`}))
	if got.Revision != nil || !got.Features["x"] || got.SyncedAt == nil || got.TokenBudget.Period != "unlimited" || got.Budgets != nil {
		t.Errorf("%+v", got)
	}
}

// Legacy subscription and manifest of the same facts lead to the same decisions
// (contract §5.2.1).
func TestLegacyDecidesLikeAManifest(t *testing.T) {
	c := catalogue(t, plans)
	for _, status := range []string{"active", "trialing", "past_due", "canceled"} {
		for _, plan := range []string{"free", "Gold", "Bronze"} {
			sub, _, err := schemas.ParseSubscription([]byte(`{"userId":"u","plan":"` + plan + `","status":"` + status + `","trialEndDate":"2026-01-15","pluginTiers":{"notes":"pro"}}`))
			if err != nil {
				t.Fatal(err)
			}
			legacy, err := sub.ManifestOf("a", c)
			if err != nil {
				t.Fatal(err)
			}
			ends := ""
			if status == "trialing" {
				ends = `,"expires_at":"2026-01-15T00:00:00Z"`
			}
			v := viewOf(t, map[string]string{
				"user": `"plan":{"name":"` + plan + `","tier":"` + string(c.TierOf(plan)) + `","status":"` + status + `"` + ends + `},"plugins":{"tiers":{"notes":"pro"}}`,
				"app":  total(10, "hard"),
			})
			v.Catalogue, v.Switches.Monetization = c, true
			other := *v
			other.Layers = append([]Layer{{Scope: userScope, Revision: 1, Manifest: legacy}}, v.Layers[1:]...)
			for _, r := range []*schemas.EntitlementCheck{tokens(5), tokens(11), feature("x"), {Plugin: "notes", Needed: 1}, {Plugin: "other", Needed: 1}, {Needed: 1, Count: true}} {
				a, b := Check(v, r), Check(&other, r)
				if verdict(a) != verdict(b) || a.Allowed != b.Allowed || a.Detail != b.Detail {
					t.Errorf("%s %s %+v: %s by a manifest, %s by a subscription", plan, status, r, verdict(a), verdict(b))
				}
			}
			if v.PluginTier("notes") != other.PluginTier("notes") {
				t.Errorf("%s: tier %s by a manifest, %s by a subscription", plan, v.PluginTier("notes"), other.PluginTier("notes"))
			}
		}
	}
}
