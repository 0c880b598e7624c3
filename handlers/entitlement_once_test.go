package handlers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"grout/schemas"
	"grout/store"
)

func countOf(list []string, part string) (n int) {
	for _, l := range list {
		if strings.Contains(l, part) {
			n++
		}
	}
	return n
}

// Contract §5.2.13: a threshold is told once per scope, period and threshold. A sync that
// is the first command of a period and changes the allocations tells it twice.
func TestThresholdToldTwiceBySyncAtRollOver(t *testing.T) {
	w := newEntitled(t)
	const budget = `{"version":"1.1","app_id":"a","user_id":"u","plan":{"tier":"pro"},"token_budget":{"period":"daily","total_tokens":{"limit":100,"enforcement":"hard"}%s}}`
	w.syncText(fmt.Sprintf(budget, ""))
	w.used("u", "", "m", 80, w.now+int64(20*time.Hour)) // of tomorrow
	w.told()
	w.now += int64(24 * time.Hour)
	w.syncText(fmt.Sprintf(budget, `,"input_tokens":{"limit":1000,"enforcement":"none"}`))
	list := w.told()
	if n := countOf(list, "budget.threshold_reached user/u total_tokens 75"); n != 1 {
		t.Errorf("75%% was told %d times:\n%s", n, strings.Join(list, "\n"))
	}
	w.recounted()
}

// The same with a limit that the new manifest raises: the threshold of the old one is told
// although it does not hold any more, and nothing clears it.
func TestThresholdOfAReplacedManifest(t *testing.T) {
	w := newEntitled(t)
	const budget = `{"version":"1.1","app_id":"a","user_id":"u","plan":{"tier":"pro"},"token_budget":{"period":"daily","total_tokens":{"limit":%d,"enforcement":"hard"}%s}}`
	w.syncText(fmt.Sprintf(budget, 100, ""))
	w.used("u", "", "m", 120, w.now+int64(20*time.Hour))
	w.told()
	w.now += int64(24 * time.Hour)
	w.syncText(fmt.Sprintf(budget, 1000000, `,"input_tokens":{"limit":1000000,"enforcement":"none"}`))
	list := w.told()
	if n := countOf(list, "budget.threshold_reached") + countOf(list, "budget.exceeded"); n != 0 {
		t.Errorf("nothing is near 1,000,000:\n%s", strings.Join(list, "\n"))
	}
}

const monetized = `{"monetization":true,"enforce":true}`

// Contract §5.2.13: limit_reached is told once per scope, limit and period. The calls of
// two plugins are two limits.
func TestCallsOfTwoPlugins(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"plugins":{"per_plugin_limits":{"p":{"calls_per_period":1,"period":"daily"},"q":{"calls_per_period":1,"period":"monthly"}}}`)
	w.now += int64(26 * time.Hour) // the day and the month begin at other instants
	w.told()
	for _, plugin := range []string{"p", "q", "p", "q", "p", "q"} {
		w.check(schemas.EntitlementCheck{UserID: "u", Plugin: plugin, Needed: 1, Count: true})
	}
	list := w.told()
	if n := countOf(list, "entitlement.limit_reached"); n != 2 {
		t.Errorf("limit_reached was told %d times, of 2 limits:\n%s", n, strings.Join(list, "\n"))
	}
}

// The same, of the same period: the second plugin's limit is never told.
func TestCallsOfTwoPluginsOfOnePeriod(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"plugins":{"per_plugin_limits":{"p":{"calls_per_period":1,"period":"daily"},"q":{"calls_per_period":1,"period":"daily"}}}`)
	w.told()
	for _, plugin := range []string{"p", "q", "p", "q"} {
		w.check(schemas.EntitlementCheck{UserID: "u", Plugin: plugin, Needed: 1, Count: true})
	}
	list := w.told()
	if n := countOf(list, "entitlement.limit_reached"); n != 2 {
		t.Errorf("limit_reached was told %d times, of 2 limits:\n%s", n, strings.Join(list, "\n"))
	}
}

// Contract §5.2.13: feature_blocked is told once per scope, feature and period. The period
// depends on who asks, so two who ask in turn let it be told for ever.
func TestFeatureBlockedOfTheApp(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"features":{"x":false}`)
	w.syncText(`{"version":"1.1","app_id":"a","user_id":"u","plan":{"tier":"pro"},"token_budget":{"period":"daily","total_tokens":{"limit":100}}}`)
	w.now += int64(26 * time.Hour) // March 2: days and months begin at other instants
	w.told()
	for range 3 {
		w.check(schemas.EntitlementCheck{UserID: "u", Feature: "x", Needed: 1, Count: true})
		w.check(schemas.EntitlementCheck{UserID: "v", Feature: "x", Needed: 1, Count: true})
	}
	list := w.told()
	if n := countOf(list, "entitlement.feature_blocked app/a x"); n > 2 {
		t.Errorf("one feature of one scope was told %d times in a day:\n%s", n, strings.Join(list, "\n"))
	}
}

// A consumable of a plugin that is named calls has nothing to do with per_plugin_limits.
func TestConsumableNamedCalls(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigSwitches, monetized)
	w.config(schemas.ConfigPluginPrefix+"p", `{"schema_version":"1.0","plugin":"p","limits":{"calls":{"default":2,"reset":"daily"}},"actions":{"run":{"consumes":{"calls":1}}}}`)
	w.syncText(`{"version":"1.1","app_id":"a","user_id":"u","plan":{"tier":"pro"},"plugins":{"per_plugin_limits":{"p":{"calls_per_period":100,"period":"daily"}}}}`)
	for i := range 3 { // none of them consumes: only executions do
		if _, d := w.check(schemas.EntitlementCheck{UserID: "u", Plugin: "p", Action: "run", Needed: 1, Count: true}); !d.Allowed {
			t.Errorf("check %d: %s %s", i, d.Reason, d.Detail)
		}
	}
}

// ... and with another reset, one lets the other begin anew: more calls than are allowed.
func TestConsumableResetsCalls(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigSwitches, monetized)
	w.config(schemas.ConfigPluginPrefix+"p", `{"schema_version":"1.0","plugin":"p","limits":{"calls":{"default":1000,"reset":"daily"}},"actions":{"run":{"consumes":{"calls":1}}}}`)
	w.syncText(`{"version":"1.1","app_id":"a","user_id":"u","plan":{"tier":"pro"},"plugins":{"per_plugin_limits":{"p":{"calls_per_period":3,"period":"monthly"}}}}`)
	w.now += int64(24 * time.Hour)
	allowed := 0
	for range 6 {
		if _, d := w.check(schemas.EntitlementCheck{UserID: "u", Plugin: "p", Action: "run", Needed: 1, Count: true}); d.Allowed {
			allowed++
		}
		err := w.store.Update(func(tx *store.Tx) error {
			b := (&engine{newLibrary()}).open(tx, Command{CommandFrame: &schemas.CommandFrame{AppID: "a"}, Now: w.now})
			a := &action{AppID: "a", UserID: "u", Plugin: "p", Name: "run", Consumes: map[string]int64{"calls": 1}}
			if err := b.setAside(a); err != nil {
				return err
			}
			return b.giveBack(a)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if allowed > 3 {
		t.Errorf("%d calls of 3 were allowed", allowed)
	}
}

// Reserved is the sum over open holds (design), also when that is large for a while.
func TestReservedSaturates(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"token_budget":{"period":"monthly","total_tokens":{"limit":-1}}`)
	const holds = 1025
	each := func(kind string, payload func(id string) []byte) {
		var group []schemas.CommandFrame
		for i := range holds {
			group = append(group, w.frame(kind, "a", payload(fmt.Sprint("r", i))))
			if len(group) == 500 || i == holds-1 {
				w.apply(group...)
				group = nil
			}
		}
	}
	each(schemas.ReserveBudget.Name, func(id string) []byte {
		r := schemas.BudgetReserve{ReservationID: id, UserID: "u", Tokens: schemas.Tokens{Total: schemas.MaxLimit}, TTL: 3600}
		return r.EncodePayload(nil)
	})
	w.sync(`,"token_budget":{"period":"monthly","total_tokens":{"limit":100,"enforcement":"hard"}}`)
	each(schemas.ReleaseBudget.Name, func(id string) []byte { return (&schemas.BudgetRelease{ReservationID: id}).EncodePayload(nil) })
	want(t, "all released", w.counters(wholeApp), "total_tokens 03-01T00 used 0 imported 0 reserved 0 carry 0")
	w.recounted()
	if o := w.reserve("big", "u", "", "", 1_000_000, 60); o.Code == "" {
		t.Errorf("1,000,000 of 100 were granted: %s", o.Body)
	}
}

// Architecture §2.4: a handler first resolves what is due in the scopes it touches. The
// decision of a settlement counts holds that have ended.
func TestSettleCountsEndedHolds(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"token_budget":{"period":"monthly","total_tokens":{"limit":100,"enforcement":"soft"}}`)
	w.reserve("short", "u", "", "", 80, 1)
	w.reserve("long", "u", "", "", 50, 600)
	w.now += int64(time.Minute)
	o := w.settle("long", "e", 50, 0)
	if !strings.Contains(string(o.Body), `"decision":"allow"`) {
		t.Errorf("50 of 100 are used, and nothing is held: %s", o.Body)
	}
}

// Contract §5.2.4: a plan that the catalogue does not know unlocks nothing.
func TestUnknownLegacyPlan(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigSwitches, monetized)
	w.config(schemas.ConfigCatalogue, `{"subscription_plans":[{"name":"free","plugins_unlocked":["story"]}],"settings":{"default_plan":"free"}}`)
	sub, _, err := schemas.ParseSubscription([]byte(`{"userId":"u","plan":"no_such_plan","status":"active"}`))
	if err != nil {
		t.Fatal(err)
	}
	w.do(schemas.SyncSubscription.Name, "a", (&schemas.SubscriptionSync{Subscription: sub}).EncodePayload(nil))
	if v := w.view(Question{AppID: "a", UserID: "u"}); v.MayUse("story") {
		t.Errorf("the plan no_such_plan unlocks story")
	}
}

// A legacy body of an allowed size must not end among the dead letters.
func TestLargeSubscription(t *testing.T) {
	w := newEntitled(t)
	var tiers []string
	for i := range 700 {
		tiers = append(tiers, fmt.Sprintf(`"p%d":"%s"`, i, strings.Repeat("<", 200)))
	}
	sub, _, fault := schemas.ParseSubscription([]byte(`{"userId":"u","plan":"pro","status":"active","pluginTiers":{` + strings.Join(tiers, ",") + `}}`))
	if fault != nil {
		t.Fatal(fault)
	}
	if _, err := w.try(w.frame(schemas.SyncSubscription.Name, "a", (&schemas.SubscriptionSync{Subscription: sub}).EncodePayload(nil))); err != nil {
		t.Errorf("%d bytes of a body: %v", len(sub.Content), err)
	}
}

// Contract §5.2.6, 13: inside a period a threshold is told once, and a pushed figure is not
// lowered, also when a manifest without a budget has stood in between.
func TestBudgetThatComesBack(t *testing.T) {
	w := newEntitled(t)
	const budget = `,"token_budget":{"period":"monthly","total_tokens":{"limit":100,"used":%d,"enforcement":"hard"}}`
	w.sync(fmt.Sprintf(budget, 80))
	w.sync(`,"features":{"x":true}`)
	w.sync(fmt.Sprintf(budget, 0))
	want(t, "pushed", w.counters(wholeApp), "total_tokens 03-01T00 used 80 imported 80 reserved 0 carry 0")
	w.sync(fmt.Sprintf(budget, 80))
	list := w.told()
	if n := countOf(list, "budget.threshold_reached app/a total_tokens 75"); n != 1 {
		t.Errorf("75%% was told %d times in one period, and never cleared:\n%s", n, strings.Join(list, "\n"))
	}
}

// What is carried over is fixed for the whole period (contract §5.2.8).
func TestCarryThatComesBack(t *testing.T) {
	w := newEntitled(t)
	const budget = `,"token_budget":{"period":"daily","rollover":true,"total_tokens":{"limit":100,"enforcement":"hard"}}`
	w.sync(budget)
	w.now += int64(24 * time.Hour)
	w.sync(budget + `,"features":{"x":true}`)
	want(t, "carried", w.counters(wholeApp), "total_tokens 03-02T00 used 0 imported 0 reserved 0 carry 100")
	w.sync("")
	w.sync(budget)
	want(t, "carried still", w.counters(wholeApp), "total_tokens 03-02T00 used 0 imported 0 reserved 0 carry 100")
}

// Contract §5.2.12: a failure inside a check refuses under hard and is flagged otherwise. What
// cannot be read (here the catalogue) must not end the command among the dead letters.
func TestFailureInsideACheck(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigCatalogue, `{"subscription_plans":5}`)
	r := schemas.BudgetReserve{ReservationID: "r", UserID: "u", Tokens: schemas.Tokens{Total: 1}, TTL: 60}
	if _, err := w.try(w.frame(schemas.ReserveBudget.Name, "a", r.EncodePayload(nil))); err != nil {
		t.Errorf("a reservation without any hard budget: %v", err)
	}
}

// Contract §5.2.13: limit_reached is told once a period. A counted check takes nothing of a
// token budget: told for what it only asked about, the fact is missing when the limit is reached.
func TestCheckTellsOfWhatItDoesNotTake(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"token_budget":{"period":"monthly","total_tokens":{"limit":100,"enforcement":"hard"}}`)
	w.told()
	if _, d := w.check(schemas.EntitlementCheck{UserID: "u", Needed: 1, Asked: true, Tokens: schemas.Tokens{Total: 100}, Count: true}); !d.Allowed {
		t.Fatalf("%+v", d)
	}
	if list := w.told(); countOf(list, "limit_reached") != 0 {
		t.Errorf("0 of 100 are used or reserved, and it is told: %s", strings.Join(list, "\n"))
	}
	w.reserve("r", "u", "", "", 100, 60)
	if list := w.told(); countOf(list, "limit_reached") != 1 {
		t.Errorf("100 of 100 are reserved, and nothing is told: %s", strings.Join(list, "\n"))
	}
}

// Contract §5.2.13: a settlement of an unknown reservation ends what is due, which begins a
// period; the threshold that is reached in it is told then, too.
func TestUnknownSettlementRolls(t *testing.T) {
	w := newEntitled(t)
	w.syncText(`{"version":"1.1","app_id":"a","user_id":"u","plan":{"tier":"pro"},"token_budget":{"period":"daily","total_tokens":{"limit":100,"enforcement":"hard"}}}`)
	w.reserve("due", "u", "", "", 10, 60)
	w.used("u", "", "m", 80, w.now+int64(20*time.Hour)) // of tomorrow
	w.told()
	w.now += int64(24 * time.Hour)
	w.settle("unknown", "e", 1, 1)
	w.tickNow()
	list := w.told()
	if n := countOf(list, "budget.threshold_reached user/u total_tokens 75"); n != 1 {
		t.Errorf("80 of 100 are used, and 75%% was told %d times:\n%s", n, strings.Join(list, "\n"))
	}
}

// The same of a configuration that is written again with the same content, as after a
// time-out: it begins the period of the app's budget and leaves.
func TestSameConfigRolls(t *testing.T) {
	w := newEntitled(t)
	const below = `{"source":"file","manifest":{"version":"1.1","app_id":"a","plan":{"tier":"pro"},"token_budget":{"period":"daily","total_tokens":{"limit":100,"enforcement":"hard"}}}}`
	w.config(schemas.ConfigManifest, below)
	w.used("u", "", "m", 80, w.now+int64(20*time.Hour)) // of tomorrow
	w.told()
	w.now += int64(24 * time.Hour)
	w.config(schemas.ConfigManifest, below)
	w.tickNow()
	list := w.told()
	if n := countOf(list, "budget.threshold_reached app/a total_tokens 75"); n != 1 {
		t.Errorf("80 of 100 are used, and 75%% was told %d times:\n%s", n, strings.Join(list, "\n"))
	}
}
