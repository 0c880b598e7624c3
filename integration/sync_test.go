package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
)

// A sync without a revision that is repeated, at the same time, later and after a kill,
// is answered the same and makes one version and one fact, whatever way it comes.
func TestRepeatedSync(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		const callers = 20
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		service := []string{"X-Internal-API-Key", "", "Authorization", "Bearer " + process.ServiceKey}
		syncs := []struct {
			app, path, body, versions string
			header                    []string
		}{
			{"a", "/api/internal/entitlement/sync", `{"version":"1.1","app_id":"a","plan":{"tier":"pro"},"unknown":[1,{"x":null}]}`, "", nil},
			{"b", "/api/v1/entitlements/b/sync", `{"version":"1.0","app_id":"b","tenant_id":"t","plan":{"tier":"starter"}}`, "?tenant_id=t", service},
			{"c", "/api/internal/subscription/sync", `{"userId":"u","plan":"pro","status":"active","appId":"c"}`, "?user_id=u", nil},
			{"d", "/api/internal/subscription/sync", `{"version":"1.1","app_id":"d","user_id":"u","plan":{"tier":"pro"}}`, "?user_id=u", nil},
		}
		first := map[string]string{}
		for round := range 3 {
			for _, s := range syncs {
				answers := make([]string, callers)
				var group sync.WaitGroup
				for i := range callers {
					group.Go(func() {
						answers[i] = string(request(t, p, "POST", s.path, s.body, s.header...).want(t, 200).body)
					})
				}
				group.Wait()
				for _, a := range answers {
					if first[s.app] == "" {
						first[s.app] = a
					}
					if a != first[s.app] {
						t.Errorf("round %d: %s is answered %s, was %s", round, s.body, a, first[s.app])
					}
				}
				var page struct{ Versions []json.RawMessage }
				request(t, p, "GET", "/api/v1/entitlements/"+s.app+"/versions"+s.versions, nil).want(t, 200).into(t, &page)
				if len(page.Versions) != 1 {
					t.Errorf("round %d: %d versions of %s", round, len(page.Versions), s.body)
				}
			}
			if round == 0 {
				p.Kill()
				p = start(t, data, partitions)
			}
		}
		times := map[string]int{}
		for _, f := range facts(t, p, func(list []fact) bool { return len(list) >= 2*len(syncs) }) {
			times[strings.TrimPrefix(f.Subject, "mozaiks.v1.evt.")]++
		}
		for _, s := range syncs {
			if times[s.app+".entitlement.synced"] != 1 || times[s.app+".subscription.changed"] != 1 {
				t.Errorf("facts of %s: %v", s.body, times)
			}
		}
		stop(t, p)
	})
}

// A flat subscription and a manifest that say the same lead to the same decisions and
// the same reservations, whatever the status of the plan is.
func TestLegacyStatusesDecideAlike(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	config := filepath.Join(filepath.Dir(data), "config")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	catalogue := `{"subscription_plans":[{"name":"free","plugins_unlocked":[]},{"name":"gold","tier":"pro","plugins_unlocked":["notes"],"plugins":{"notes":"gold"}}],"settings":{"default_plan":"free"}}`
	if err := os.WriteFile(filepath.Join(config, "subscription_config.json"), []byte(catalogue), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, data, 1, "MONETIZATION=1")
	request(t, p, "POST", "/api/internal/entitlement/sync", `{"version":"1.1","app_id":"a","plan":{"tier":"pro"},"features":{"f":true,"g":false},
		"token_budget":{"period":"daily","total_tokens":{"limit":1000000,"enforcement":"hard"}}}`).want(t, 200)
	seen := map[string]bool{}
	for said, meant := range map[string]string{
		"active": "active", "trialing": "trialing", "past_due": "past_due", "unpaid": "past_due", "incomplete": "past_due", "paused": "past_due", "dreaming": "past_due",
		"canceled": "canceled", "cancelled": "canceled", "incomplete_expired": "canceled", "inactive": "canceled",
	} {
		for _, plan := range []struct{ name, tier string }{{"gold", "pro"}, {"free", "free"}, {"enterprise", "enterprise"}, {"unheard of", "free"}} {
			legacy, manifest := "l-"+said+"-"+plan.name, "m-"+said+"-"+plan.name
			request(t, p, "POST", "/api/internal/subscription/sync", fmt.Sprintf(`{"user_id":%q,"plan":%q,"status":%q,"app_id":"a","plugin_tiers":{"other":"gold"}}`, legacy, plan.name, said)).want(t, 200)
			request(t, p, "POST", "/api/internal/entitlement/sync", fmt.Sprintf(`{"version":"1.1","app_id":"a","user_id":%q,"plan":{"id":%q,"name":%q,"tier":%q,"status":%q},"plugins":{"tiers":{"other":"gold"}}}`,
				manifest, plan.name, plan.name, plan.tier, meant)).want(t, 200)
			for _, ask := range []string{`"plugin":"notes"`, `"plugin":"other"`, `"feature":"f"`, `"feature":"g"`, `"feature":"h"`, `"estimated_tokens":5`, `"plugin":"notes","count":true`} {
				both := [2]map[string]any{}
				for i, user := range []string{legacy, manifest} {
					request(t, p, "POST", "/api/entitlements/check", fmt.Sprintf(`{"app_id":"a","user_id":%q,%s}`, user, ask)).want(t, 200).into(t, &both[i])
					delete(both[i], "scope_id")
				}
				seen[fmt.Sprint(both[0]["allowed"], " ", both[0]["reason"])] = true
				if d := cmp.Diff(both[0], both[1]); d != "" {
					t.Errorf("%s, %s, %s (-legacy +manifest):\n%s", said, plan.name, ask, d)
				}
			}
			statuses := [2]int{}
			for i, user := range []string{legacy, manifest} {
				statuses[i] = request(t, p, "POST", "/api/budgets/reservations", fmt.Sprintf(`{"app_id":"a","user_id":%q,"estimated_tokens":1,"ttl_seconds":3600}`, user)).status
			}
			seen[fmt.Sprint(statuses[0])] = true
			if statuses[0] != statuses[1] {
				t.Errorf("%s, %s: reservations are answered %d for the subscription and %d for the manifest", said, plan.name, statuses[0], statuses[1])
			}
		}
	}
	for _, must := range []string{"201", "402", "true allowed", "true not_listed", "false feature_disabled", "false plan_expired", "false plugin_not_allowed"} {
		if !seen[must] {
			t.Errorf("%q was never decided: %v", must, seen)
		}
	}
	stop(t, p)
}
