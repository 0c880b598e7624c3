package entitlements

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// The tests of this file walk contract §5.2 rule by rule. A case gives the manifests of
// an app, its tenant t and its user u, and what was counted; what is asked is always
// asked about both.

// now is a Thursday: 2026-01-29T12:34:56Z, in ISO week 5.
var now = at("2026-01-29T12:34:56Z")

func at(text string) int64 {
	n, err := schemas.ParseInstant(text)
	if err != nil {
		panic(err)
	}
	return n
}

func days(n int64) int64 { return n * 24 * int64(time.Hour) }

// manifest makes one of scope: below, app, tenant or user.
func manifest(t testing.TB, scope, sections string) Layer {
	t.Helper()
	plan := ""
	if !strings.Contains(sections, `"plan"`) {
		plan = `,"plan":{"name":"Pro","tier":"pro"}`
	}
	if sections != "" {
		sections = "," + sections
	}
	who := map[string]string{"below": "", "app": "", "tenant": `,"tenant_id":"t"`, "user": `,"user_id":"u"`}[scope]
	m, err := schemas.ParseManifest([]byte(`{"version":"1.1","app_id":"a"` + who + plan + sections + `}`))
	if err != nil {
		t.Fatalf("%s: %v", sections, err)
	}
	return Layer{Scope: m.Scope(), Below: scope == "below", Revision: 1, At: now - days(1), Manifest: m}
}

// viewOf gives a view with the manifests of scopes.
func viewOf(t testing.TB, scopes map[string]string) *View {
	t.Helper()
	v := &View{
		AppID: "a", UserID: "u", TenantID: "t", Now: now, Switches: schemas.Switches{Enforce: true},
		Counters: map[CounterKey]schemas.Counter{}, Windows: map[LimitKey]schemas.RateWindow{}, Calls: map[LimitKey]schemas.Consumption{},
		Leases: map[schemas.Scope][]schemas.Lease{}, Consumed: map[string]schemas.Consumption{},
	}
	for _, scope := range []string{"user", "tenant", "app", "below"} {
		if sections, ok := scopes[scope]; ok {
			v.Layers = append(v.Layers, manifest(t, scope, sections))
		}
	}
	return v
}

// use counts on a budget of the view.
func (v *View) use(t testing.TB, scope schemas.Scope, allocation string, used, reserved int64) *View {
	t.Helper()
	for _, b := range Budgets(v.Layers) {
		if terms, ok := b.Terms(allocation); ok && b.Scope == scope {
			v.Counters[terms.Key()] = terms.NewCounter(v.Now, used, reserved)
			return v
		}
	}
	t.Fatalf("no budget of %v has %s", scope, allocation)
	return nil
}

var (
	appScope    = schemas.Scope{Kind: schemas.ScopeApp}
	tenantScope = schemas.Scope{Kind: schemas.ScopeTenant, ID: "t"}
	userScope   = schemas.Scope{Kind: schemas.ScopeUser, ID: "u"}
)

func tokens(n int64) *schemas.EntitlementCheck {
	return &schemas.EntitlementCheck{Needed: 1, Asked: true, Tokens: schemas.Tokens{Total: n}}
}

func feature(name string) *schemas.EntitlementCheck {
	return &schemas.EntitlementCheck{Needed: 1, Feature: name}
}

func total(limit int64, enforcement string) string {
	return fmt.Sprintf(`"token_budget":{"period":"monthly","total_tokens":{"limit":%d,"enforcement":%q}}`, limit, enforcement)
}

func verdict(d schemas.Decision) string { return d.Verdict.String() + " " + string(d.Reason) }

// §5.2.2: what is the same again, what follows, what is stale.
func TestRule2Revisions(t *testing.T) {
	parse := func(text string) *schemas.Manifest {
		m, err := schemas.ParseManifest([]byte(`{"version":"1.1","app_id":"a","plan":{"tier":"free"}` + text + `}`))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	have := &Stored{Revision: 5, Digest: parse("").Digest}
	for name, c := range map[string]struct {
		have     *Stored
		text     string
		revision int64
		again    bool
		code     schemas.Code
	}{
		"the first":                          {nil, ``, 1, false, ""},
		"the first with a revision":          {nil, `,"revision":9`, 9, false, ""},
		"the first with revision 0":          {nil, `,"revision":0`, 0, false, ""},
		"the same without a revision":        {have, ``, 5, true, ""},
		"the same with its revision":         {have, `,"revision":5`, 5, true, ""},
		"the same, other correlation id":     {have, `,"correlation_id":"x"`, 5, true, ""},
		"the same with a higher revision":    {have, `,"revision":6`, 6, false, ""},
		"the same with a lower revision":     {have, `,"revision":4`, 5, false, schemas.CodeStaleRevision},
		"another without a revision":         {have, `,"source":"x"`, 6, false, ""},
		"another with the stored revision":   {have, `,"source":"x","revision":5`, 5, false, schemas.CodeStaleRevision},
		"another with a lower revision":      {have, `,"source":"x","revision":0`, 5, false, schemas.CodeStaleRevision},
		"another with the next revision":     {have, `,"source":"x","revision":6`, 6, false, ""},
		"another with a much higher one":     {have, `,"source":"x","revision":9007199254740991`, schemas.MaxLimit, false, ""},
		"an unknown field makes another one": {have, `,"unknown":1`, 6, false, ""},
	} {
		revision, again, err := DecideSync(c.have, parse(c.text))
		code := schemas.Code("")
		if err != nil {
			code = err.Code
		}
		if revision != c.revision || again != c.again || code != c.code {
			t.Errorf("%s: %d %v %v", name, revision, again, err)
		}
	}
}

// §5.2.3: each section whole from the most specific scope, budgets of all scopes.
func TestRule3Scopes(t *testing.T) {
	v := viewOf(t, map[string]string{
		"user":   `"features":{"x":false},"plan":{"tier":"starter"}`,
		"tenant": `"features":{"x":true,"y":false},"rate_limits":{"requests_per_minute":5}`,
		"app":    `"rate_limits":{"requests_per_hour":7,"requests_per_minute":1},"plugins":{"blocked":["p"]},` + total(10, "hard"),
		"below":  `"overrides":{"feature_previews":["z"]},"plugins":{"blocked":["q"]},` + total(1, "hard"),
	})
	e := Effective(v)
	if e.Plan.Tier != "starter" || e.Overrides == nil || e.Plugins.Blocked[0] != "p" {
		t.Errorf("%+v", e)
	}
	if d := cmp.Diff(map[string]bool{"x": false, "z": true}, e.Features); d != "" {
		t.Errorf("features, whole from the user: %s", d)
	}
	if d := cmp.Diff(map[string]int64{"requests_per_minute": 5}, e.RateLimits); d != "" {
		t.Errorf("rate limits, whole from the tenant: %s", d)
	}
	if len(e.Budgets) != 1 || e.Budgets[0].Allocations[0].Limit != 10 {
		t.Errorf("the app's budget stands above the layer below: %+v", e.Budgets)
	}

	all := viewOf(t, map[string]string{"user": total(10, "hard"), "tenant": total(20, "soft"), "app": "", "below": total(30, "hard")})
	for _, c := range []struct {
		user, tenant, app, needed int64
		want                      string
		scope                     schemas.Scope
	}{
		{0, 0, 0, 10, "allow allowed", userScope},
		{0, 0, 0, 11, "hard_reject budget_exceeded", userScope},
		{0, 0, 25, 5, "allow allowed", appScope},
		{0, 0, 26, 5, "hard_reject budget_exceeded", appScope},
		{0, 16, 0, 4, "allow allowed", tenantScope},
		{0, 17, 0, 4, "soft_reject budget_exceeded", tenantScope},
		{8, 17, 28, 3, "hard_reject budget_exceeded", userScope},
		{0, 17, 28, 3, "hard_reject budget_exceeded", appScope},
	} {
		all.use(t, userScope, schemas.AllocationTotal, c.user, 0).use(t, tenantScope, schemas.AllocationTotal, c.tenant, 0).use(t, appScope, schemas.AllocationTotal, c.app, 0)
		d := Check(all, tokens(c.needed))
		if verdict(d) != c.want || d.Scope != c.scope {
			t.Errorf("%+v: %s in %v", c, verdict(d), d.Scope)
		}
		r := Reserve(all, &schemas.BudgetReserve{Tokens: schemas.Tokens{Total: c.needed}})
		if verdict(r) != c.want || r.Allowed != d.Allowed {
			t.Errorf("%+v: reserving says %s", c, verdict(r))
		}
	}

	for name, c := range map[string]struct {
		scopes map[string]string
		over   bool
		scope  schemas.Scope
	}{
		"a canceled app plan refuses whatever a user's says": {map[string]string{"user": "", "app": `"plan":{"tier":"pro","status":"canceled"}`}, true, appScope},
		"the app's own stands above the one below":           {map[string]string{"app": "", "below": `"plan":{"tier":"pro","status":"canceled"}`}, false, schemas.Scope{}},
		"the one below when there is no other":               {map[string]string{"user": "", "below": `"plan":{"tier":"pro","status":"canceled"}`}, true, appScope},
		"a user's canceled plan":                             {map[string]string{"user": `"plan":{"tier":"pro","status":"canceled"}`, "app": ""}, true, userScope},
		"a user's plan stands above the tenant's":            {map[string]string{"user": "", "tenant": `"plan":{"tier":"pro","status":"canceled"}`}, false, schemas.Scope{}},
		"nobody has any":                                     {nil, false, schemas.Scope{}},
	} {
		got := PlanEnd(viewOf(t, c.scopes).Layers, now)
		if got.Over != c.over || got.Layer.Scope != c.scope {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// §5.2.4: features, no manifest, plugins under MONETIZATION.
func TestRule4Features(t *testing.T) {
	v := viewOf(t, map[string]string{
		"user": `"features":{"on":true,"off":false,"early":false},"overrides":{"feature_previews":["early","other"]}`,
		"app":  `"features":{"elsewhere":false}`,
	})
	for name, want := range map[string]string{
		"on": "allow allowed", "off": "hard_reject feature_disabled", "early": "allow feature_preview", "other": "allow feature_preview",
		"unlisted": "allow not_listed", "elsewhere": "allow not_listed",
	} {
		d := Check(v, feature(name))
		if verdict(d) != want || d.Allowed != (d.Verdict == schemas.VerdictAllow) {
			t.Errorf("%s: %s", name, verdict(d))
		}
	}
	d := Check(v, feature("off"))
	if d.Code != schemas.CodeFeatureGated || d.Detail != "Feature 'off' not available on pro tier" {
		t.Errorf("%s %q", d.Code, d.Detail)
	}

	none := viewOf(t, nil)
	for name, r := range map[string]*schemas.EntitlementCheck{
		"a feature": feature("x"), "tokens": tokens(math.MaxInt64), "a limit": {Limit: "items", Needed: schemas.MaxLimit},
		"a plugin": {Plugin: "p", Action: "a", Needed: 1, Count: true}, "nothing": {Needed: 1},
	} {
		if d := Check(none, r); !d.Allowed || d.Verdict != schemas.VerdictAllow {
			t.Errorf("without a manifest %s is %s", name, verdict(d))
		}
	}
	text, err := json.Marshal(Effective(none))
	if err != nil || !strings.Contains(string(text), `"Open Source"`) {
		t.Errorf("%s %v", text, err)
	}
}

const plans = `{"subscription_plans":[{"name":"free","plugins_unlocked":["notes"],"plugins":{"notes":"basic"}},{"name":"Gold","tier":"enterprise","plugins_unlocked":["*"]}],"settings":{"default_plan":"free"}}`

func catalogue(t testing.TB, text string) *schemas.Catalogue {
	t.Helper()
	c, err := schemas.ParseCatalogue([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRule4Plugins(t *testing.T) {
	rules, err := schemas.ParsePluginEntitlements("notes", []byte(`{"schema_version":"1.0","limits":{"items":{"default":1}},"tiers":{"basic":{"limits":{"items":2}},"pro":{"limits":{"items":3}},"Gold":{"limits":{"items":4}},"free":{"limits":{"items":5}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		scopes    map[string]string
		catalogue string
		plugin    string
		may       bool
		tier      string
		limit     int64
	}{
		"no subscription: the default plan":      {nil, plans, "notes", true, "basic", 2},
		"no subscription, a locked plugin":       {nil, plans, "other", false, "free", 5},
		"an app's plan is no subscription":       {map[string]string{"app": `"plan":{"name":"Gold","tier":"enterprise"}`}, plans, "other", false, "free", 5},
		"a plan of the catalogue":                {map[string]string{"user": `"plan":{"name":"Gold","tier":"enterprise"}`}, plans, "other", true, "Gold", 4},
		"by its id":                              {map[string]string{"user": `"plan":{"id":"Gold","tier":"enterprise"}`}, plans, "other", true, "Gold", 4},
		"by its tier":                            {map[string]string{"user": `"plan":{"tier":"free"}`}, plans, "notes", true, "basic", 2},
		"of the tenant":                          {map[string]string{"tenant": `"plan":{"name":"Gold","tier":"pro"}`}, plans, "other", true, "Gold", 4},
		"one that the catalogue does not know":   {map[string]string{"user": `"plan":{"name":"Bronze","tier":"pro"}`}, plans, "notes", false, "pro", 3},
		"the manifest's tier of the plugin":      {map[string]string{"user": `"plan":{"name":"Gold","tier":"pro"},"plugins":{"tiers":{"notes":"basic"}}`}, plans, "notes", true, "basic", 2},
		"no catalogue, no manifest":              {nil, "", "other", true, "unlimited", schemas.Unlimited},
		"no catalogue: every plugin is open":     {map[string]string{"app": `"plan":{"tier":"pro"}`}, "", "other", true, "pro", 3},
		"a tier that the plugin does not define": {map[string]string{"user": `"plan":{"tier":"starter"}`}, "", "notes", true, "free", 5},
		"the unlimited tier":                     {map[string]string{"user": `"plan":{"tier":"unlimited"}`}, "", "notes", true, "unlimited", schemas.Unlimited},
		"blocked":                                {map[string]string{"app": `"plugins":{"blocked":["notes"]}`}, "", "notes", false, "pro", 3},
		"not among the allowed":                  {map[string]string{"app": `"plugins":{"allowed":["x"]}`}, "", "notes", false, "pro", 3},
		"among the allowed":                      {map[string]string{"app": `"plugins":{"allowed":["notes"]}`}, "", "notes", true, "pro", 3},
		"allowed and blocked":                    {map[string]string{"app": `"plugins":{"allowed":["notes"],"blocked":["notes"]}`}, "", "notes", false, "pro", 3},
	} {
		v := viewOf(t, c.scopes)
		v.Plugin, v.Switches.Monetization = rules, true
		if c.catalogue != "" {
			v.Catalogue = catalogue(t, c.catalogue)
		}
		tier := v.PluginTier(c.plugin)
		_, limit, _ := PluginLimit(rules, tier, "items")
		if may := v.MayUse(c.plugin); may != c.may || tier != c.tier || limit != c.limit {
			t.Errorf("%s: may %v, tier %s, limit %d", name, may, tier, limit)
		}
		d := Check(v, &schemas.EntitlementCheck{Plugin: c.plugin, Needed: 1})
		if d.Allowed != c.may || !c.may && (d.Code != schemas.CodeForbidden || d.Detail != "Access denied: Subscription does not allow '"+c.plugin+"'.") {
			t.Errorf("%s: %s %s %q", name, verdict(d), d.Code, d.Detail)
		}
		v.Switches.Monetization = false
		if d := Check(v, &schemas.EntitlementCheck{Plugin: c.plugin, Needed: 1}); !d.Allowed || !v.MayUse(c.plugin) {
			t.Errorf("%s: without MONETIZATION it is %s", name, verdict(d))
		}
	}
}

// §5.2.5: what is enforced without MONETIZATION, and what not enforcing means.
func TestRule5Switches(t *testing.T) {
	scopes := map[string]string{"app": `"rate_limits":{"requests_per_minute":0},` + total(0, "hard")}
	for _, r := range []*schemas.EntitlementCheck{tokens(1), {Needed: 1, Count: true, Feature: "x"}} {
		v := viewOf(t, scopes)
		if d := Check(v, r); d.Allowed || d.Verdict != schemas.VerdictHard {
			t.Errorf("%+v: %s", r, verdict(d))
		}
		v.Switches.Enforce = false
		if d := Check(v, r); !d.Allowed || d.Verdict != schemas.VerdictHard || d.Code == "" {
			t.Errorf("not enforced, %+v: %s %v", r, verdict(d), d.Allowed)
		}
	}
	v := viewOf(t, scopes)
	v.Switches.Enforce = false
	if d := Reserve(v, &schemas.BudgetReserve{Tokens: schemas.Tokens{Total: 1}}); !d.Allowed || d.Verdict != schemas.VerdictHard {
		t.Errorf("not enforced, reserving is %s", verdict(d))
	}
}

// §5.2.6: the pushed figure never lowers a counter inside a period.
func TestRule6Pushed(t *testing.T) {
	for _, c := range []struct{ used, pushed, want, imported int64 }{
		{0, 0, 0, 0},
		{0, 1, 1, 1},
		{5, 4, 5, 0},
		{5, 5, 5, 0},
		{5, 6, 6, 1},
		{-3, 0, -3, 0},
		{-3, 1, 1, 4},
		{0, schemas.MaxLimit, schemas.MaxLimit, schemas.MaxLimit},
		{math.MaxInt64, schemas.MaxLimit, math.MaxInt64, 0},
	} {
		got := Import(schemas.Counter{Used: c.used}, c.pushed)
		if got.Used != c.want || got.Imported != c.imported {
			t.Errorf("%+v: %+v", c, got)
		}
	}
	twice := Import(Import(schemas.Counter{Used: 5}, 10), 12)
	if twice.Used != 12 || twice.Imported != 7 {
		t.Errorf("pushed twice: %+v", twice)
	}
	if again := Import(twice, 12); again != twice {
		t.Errorf("pushed again: %+v", again)
	}
	terms := Terms{Allocation: schemas.AllocationTotal, Period: schemas.PeriodMonthly, Limit: 100, Rollover: true, Pushed: 40}
	c := terms.NewCounter(now, 30, 7)
	if c.Used != 40 || c.Imported != 10 || c.Reserved != 7 || c.Carry != 0 {
		t.Errorf("usage from before the first manifest counts: %+v", c)
	}
	next := terms.Roll(c, c.End, 2, c.Used)
	if next.Used != 2 || next.Imported != 0 || next.Carry != 60 || next.Reserved != 7 || next.Start != c.End {
		t.Errorf("nothing imported and nothing pushed begins a period: %+v", next)
	}
}

// §5.2.7: calendar periods in UTC, at their edges.
func TestRule7Periods(t *testing.T) {
	for _, c := range []struct{ period, at, start, end string }{
		{"hourly", "2026-01-29T12:34:56.789Z", "2026-01-29T12:00:00Z", "2026-01-29T13:00:00Z"},
		{"hourly", "2026-12-31T23:59:59.999999999Z", "2026-12-31T23:00:00Z", "2027-01-01T00:00:00Z"},
		{"daily", "2026-01-29T00:00:00Z", "2026-01-29T00:00:00Z", "2026-01-30T00:00:00Z"},
		{"daily", "2026-01-28T23:59:59.999999999Z", "2026-01-28T00:00:00Z", "2026-01-29T00:00:00Z"},
		{"daily", "2026-01-29T00:30:00+01:00", "2026-01-28T00:00:00Z", "2026-01-29T00:00:00Z"},
		{"daily", "2024-02-29T12:00:00Z", "2024-02-29T00:00:00Z", "2024-03-01T00:00:00Z"},
		{"daily", "2025-02-28T23:00:00Z", "2025-02-28T00:00:00Z", "2025-03-01T00:00:00Z"},
		{"weekly", "2026-01-29T12:00:00Z", "2026-01-26T00:00:00Z", "2026-02-02T00:00:00Z"},
		{"weekly", "2026-01-26T00:00:00Z", "2026-01-26T00:00:00Z", "2026-02-02T00:00:00Z"},
		{"weekly", "2026-02-01T23:59:59.999999999Z", "2026-01-26T00:00:00Z", "2026-02-02T00:00:00Z"},
		// 2026 has an ISO week 53, which ends in 2027; 2025 begins in its week 1 of 2024.
		{"weekly", "2026-12-31T12:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{"weekly", "2027-01-03T23:59:59Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z"},
		{"weekly", "2024-12-30T00:00:00Z", "2024-12-30T00:00:00Z", "2025-01-06T00:00:00Z"},
		{"weekly", "2024-02-29T00:00:00Z", "2024-02-26T00:00:00Z", "2024-03-04T00:00:00Z"},
		{"monthly", "2024-02-29T23:59:59.999999999Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"},
		{"monthly", "2026-02-28T23:59:59Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"},
		{"monthly", "2026-12-31T00:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"monthly", "1969-12-31T23:59:59Z", "1969-12-01T00:00:00Z", "1970-01-01T00:00:00Z"},
	} {
		p := schemas.PeriodNamed(c.period)
		start, end := PeriodAt(p, at(c.at))
		if start != at(c.start) || end != at(c.end) {
			t.Errorf("%s at %s: %s to %s", c.period, c.at, schemas.InstantText(start), schemas.InstantText(end))
		}
		counter := schemas.Counter{Period: p, Start: start, End: end}
		for instant, inside := range map[int64]bool{start: true, start - 1: false, end - 1: true, end: false} {
			if Contains(counter, instant) != inside || Left(counter, instant) == inside {
				t.Errorf("%s from %s: %s inside is %v", c.period, c.start, schemas.InstantText(instant), !inside)
			}
		}
		if !Precedes(counter, end) || Precedes(counter, start) || Precedes(counter, end+days(40)) {
			t.Errorf("%s from %s: does not directly precede the next one", c.period, c.start)
		}
		before, until := PeriodBefore(p, start)
		if until != start || before >= start {
			t.Errorf("%s before %s: %s to %s", c.period, c.start, schemas.InstantText(before), schemas.InstantText(until))
		}
	}
	for _, p := range []schemas.Period{schemas.PeriodLifetime, schemas.PeriodUnlimited} {
		if start, end := PeriodAt(p, now); start != 0 || end != 0 || !Endless(p) || Left(schemas.Counter{Period: p}, math.MinInt64) {
			t.Errorf("%s has an end: %d %d", p, start, end)
		}
	}
	for _, p := range []schemas.Period{schemas.PeriodHourly, schemas.PeriodDaily, schemas.PeriodWeekly, schemas.PeriodMonthly} {
		for _, n := range []int64{math.MinInt64, math.MaxInt64, 0} {
			if start, end := PeriodAt(p, n); start > n || end < n || start >= end || end == n && n != math.MaxInt64 {
				t.Errorf("%s at %d: %d to %d", p, n, start, end)
			}
		}
	}
}

// §5.2.8: the effective limit.
func TestRule8Effective(t *testing.T) {
	for _, c := range []struct{ limit, promo, burst, carry, want int64 }{
		{0, 0, 0, 0, 0},
		{1, 0, 0, 0, 1},
		{-1, 100, 50, 100, -1},
		{100, 0, 0, 0, 100},
		{100, 50, 0, 0, 150},
		{100, 50, 10, 0, 165},
		{100, 50, 10, 7, 172},
		{99, 0, 10, 0, 108}, // 108.9
		{1, 0, 99, 0, 1},
		{1, 0, 100, 0, 2},
		{10, 0, 1000, 0, 110},
		{schemas.MaxLimit, 0, 0, 0, schemas.MaxLimit},
		{schemas.MaxLimit, schemas.MaxLimit, 1000, schemas.MaxLimit, 22*schemas.MaxLimit + schemas.MaxLimit},
	} {
		terms := Terms{Limit: c.limit, Promo: c.promo, Burst: c.burst, Rollover: true}
		if got := terms.Effective(c.carry); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
		if terms.Rollover = false; c.carry > 0 && c.limit >= 0 && terms.Effective(c.carry) != c.want-c.carry {
			t.Errorf("%+v: carried without rollover", c)
		}
	}
	for _, c := range []struct {
		limit, promo, used, want int64
		rollover                 bool
		period                   schemas.Period
	}{
		{100, 0, 60, 40, true, schemas.PeriodMonthly},
		{100, 0, 100, 0, true, schemas.PeriodMonthly},
		{100, 0, 130, 0, true, schemas.PeriodMonthly},
		{100, 20, 60, 60, true, schemas.PeriodMonthly},
		{100, 0, 0, 100, true, schemas.PeriodHourly},
		{100, 0, -5, 105, true, schemas.PeriodMonthly},
		{100, 0, 60, 0, false, schemas.PeriodMonthly},
		{-1, 0, 60, 0, true, schemas.PeriodMonthly},
		{100, 0, 60, 0, true, schemas.PeriodLifetime},
	} {
		if got := (Terms{Limit: c.limit, Promo: c.promo, Rollover: c.rollover, Period: c.period}).CarryFrom(c.used); got != c.want {
			t.Errorf("%+v: carries %d", c, got)
		}
	}
	v := viewOf(t, map[string]string{
		"user": `"overrides":{"promotional_tokens":50},"token_budget":{"period":"daily","burst_allowance":10,"total_tokens":{"limit":100},"input_tokens":{"limit":100},"per_model_limits":{"m":{"limit":100}}}`,
		"app":  total(100, "hard"),
	})
	for name, want := range map[string]int64{schemas.AllocationTotal: 165, schemas.AllocationInput: 110, schemas.ModelAllocation("m"): 110} {
		if terms, ok := Budgets(v.Layers)[0].Terms(name); !ok || terms.Effective(0) != want {
			t.Errorf("%s: %d, want %d: promotional tokens raise the total alone", name, terms.Effective(0), want)
		}
	}
	if terms, _ := Budgets(v.Layers)[1].Terms(schemas.AllocationTotal); terms.Effective(0) != 100 {
		t.Error("a user's promotional tokens raise the app's limit")
	}
}

// §5.2.8: decisions at the limit, for every enforcement. The effective limit is 100.
func TestRule8Decisions(t *testing.T) {
	for _, c := range []struct {
		used, reserved, needed int64
		hard, soft, warn       bool // whether the limit bites
	}{
		{0, 0, 0, false, false, false},
		{0, 0, 1, false, false, false},
		{0, 0, 99, false, false, false},
		{0, 0, 100, false, false, false},
		{0, 0, 101, true, true, true},
		{99, 0, 0, false, false, false},
		{99, 0, 1, false, false, false},
		{99, 0, 2, true, true, true},
		{100, 0, 0, true, false, false}, // reached, not above
		{100, 0, 1, true, true, true},
		{101, 0, 0, true, true, true},
		{0, 100, 0, true, false, false},
		{50, 49, 1, false, false, false},
		{50, 50, 0, true, false, false},
		{50, 50, 1, true, true, true},
		{-10, 0, 110, false, false, false},
		{-10, 0, 111, true, true, true},
		{schemas.MaxLimit, schemas.MaxLimit, schemas.MaxLimit, true, true, true},
		{math.MaxInt64, math.MaxInt64, 1, true, true, true},
	} {
		for enforcement, bites := range map[string]bool{"hard": c.hard, "soft": c.soft, "warn": c.warn, "none": false} {
			want := "allow allowed"
			if bites {
				want = map[string]string{"hard": "hard_reject", "soft": "soft_reject", "warn": "warn"}[enforcement] + " budget_exceeded"
			}
			v := viewOf(t, map[string]string{"app": total(100, enforcement)}).use(t, appScope, schemas.AllocationTotal, c.used, c.reserved)
			for what, d := range map[string]schemas.Decision{
				"check": Check(v, tokens(c.needed)), "reserve": Reserve(v, &schemas.BudgetReserve{Tokens: schemas.Tokens{Total: c.needed}}),
			} {
				if verdict(d) != want || d.Allowed != (d.Verdict != schemas.VerdictHard) {
					t.Errorf("%s %s %+v: %s, allowed %v", enforcement, what, c, verdict(d), d.Allowed)
				}
				if d.Limit != 100 || d.Used != c.used || d.Reserved != c.reserved || d.Remaining != max(0, sub(100, add(c.used, c.reserved))) {
					t.Errorf("%s %s %+v: %+v", enforcement, what, c, d.Judgement)
				}
				if d.ResetsAt != at("2026-02-01T00:00:00Z") {
					t.Errorf("resets at %s", schemas.InstantText(d.ResetsAt))
				}
				if hard := d.Verdict == schemas.VerdictHard; hard != (d.Code == schemas.CodeBudgetExceeded) || hard && d.Detail != fmt.Sprintf("Token budget exceeded: %d/100 tokens used.", c.used) {
					t.Errorf("%s %s %+v: %s %q", enforcement, what, c, d.Code, d.Detail)
				}
			}
		}
	}
	for _, enforcement := range []string{"none", "warn", "soft", "hard"} {
		v := viewOf(t, map[string]string{"app": total(-1, enforcement)}).use(t, appScope, schemas.AllocationTotal, schemas.MaxLimit, schemas.MaxLimit)
		if d := Check(v, tokens(schemas.MaxLimit)); verdict(d) != "allow allowed" || d.Remaining != schemas.Unlimited || d.Limit != schemas.Unlimited {
			t.Errorf("−1 under %s is %s, %+v", enforcement, verdict(d), d.Judgement)
		}
		zero := viewOf(t, map[string]string{"app": total(0, enforcement)})
		if d := Check(zero, tokens(0)); (d.Verdict == schemas.VerdictHard) != (enforcement == "hard") {
			t.Errorf("0 of 0 under %s is %s", enforcement, verdict(d))
		}
	}
}

// §5.2.8 and §5.3: every allocation that tokens touch.
func TestRule8Allocations(t *testing.T) {
	const budget = `"token_budget":{"period":"monthly","total_tokens":{"limit":100,"enforcement":"hard"},"input_tokens":{"limit":10,"enforcement":"hard"},
		"output_tokens":{"limit":20,"enforcement":"hard"},"per_model_limits":{"m":{"limit":50,"enforcement":"hard"}}}`
	for _, c := range []struct {
		model  string
		tokens schemas.Tokens
		want   string // the allocation that refuses
	}{
		{"", schemas.Tokens{Total: 100, Input: 10, Output: 20}, ""},
		{"m", schemas.Tokens{Total: 50, Input: 10, Output: 20}, ""},
		{"m", schemas.Tokens{Total: 51}, "model:m"},
		{"n", schemas.Tokens{Total: 100}, ""},
		{"m", schemas.Tokens{Total: 101}, "total_tokens"},
		{"", schemas.Tokens{Total: 30, Input: 11}, "input_tokens"},
		{"", schemas.Tokens{Total: 30, Output: 21}, "output_tokens"},
	} {
		v := viewOf(t, map[string]string{"app": budget})
		d := Check(v, &schemas.EntitlementCheck{Needed: 1, Model: c.model, Asked: true, Tokens: c.tokens})
		if d.Allowed != (c.want == "") || !d.Allowed && d.Name != c.want {
			t.Errorf("%+v: %s at %s", c, verdict(d), d.Name)
		}
		if r := Reserve(v, &schemas.BudgetReserve{Model: c.model, Tokens: c.tokens}); r.Allowed != d.Allowed || r.Name != d.Name {
			t.Errorf("%+v: reserving is %s at %s", c, verdict(r), r.Name)
		}
	}
	v := viewOf(t, map[string]string{"app": budget})
	if d := Check(v, &schemas.EntitlementCheck{Limit: "input_tokens", Needed: 11}); d.Allowed || d.Name != "input_tokens" {
		t.Errorf("an allocation asked for as a limit: %s", verdict(d))
	}
	if got := Touched(v.Layers, "m"); len(got) != 4 || got[3].Allocation != "model:m" {
		t.Errorf("%+v", got)
	}
	if got := Touched(v.Layers, ""); len(got) != 3 {
		t.Errorf("%+v", got)
	}
}

// §5.2.9: what was used is flagged and never refused.
func TestRule9Recorded(t *testing.T) {
	for enforcement, want := range map[string]string{"hard": "hard_reject", "soft": "soft_reject", "warn": "warn", "none": "allow"} {
		for used, over := range map[int64]bool{99: false, 100: false, 101: true} {
			d := Recorded(viewOf(t, map[string]string{"app": total(100, enforcement)}).use(t, appScope, schemas.AllocationTotal, used, 0), "m")
			if !over && d.Verdict != schemas.VerdictAllow || over && d.Verdict.String() != want || !d.Allowed || d.Code != "" {
				t.Errorf("%s at %d: %s", enforcement, used, verdict(d))
			}
		}
	}
}

// §5.2.10: plans that are over.
func TestRule10Plans(t *testing.T) {
	ends := func(text, more string) string {
		return `"plan":{"tier":"pro","expires_at":"` + text + `"}` + more
	}
	const until = `,"overrides":{"trial_extension":{"until":"2026-02-10T00:00:00Z"}}`
	for name, c := range map[string]struct {
		sections, at string
		over         bool
	}{
		"before its end":             {ends("2026-01-29T12:34:56Z", ""), "2026-01-29T12:34:55.999999999Z", false},
		"at its end":                 {ends("2026-01-29T12:34:56Z", ""), "2026-01-29T12:34:56Z", true},
		"extended":                   {ends("2026-01-01T00:00:00Z", until), "2026-02-09T23:59:59Z", false},
		"at the end of an extension": {ends("2026-01-01T00:00:00Z", until), "2026-02-10T00:00:00Z", true},
		"extended to before its end": {ends("2026-03-01T00:00:00Z", until), "2026-02-28T00:00:00Z", false},
		"an extension of no end":     {`"plan":{"tier":"pro"}` + until, "2030-01-01T00:00:00Z", false},
		"canceled and extended":      {`"plan":{"tier":"pro","status":"canceled"}` + until, "2026-01-01T00:00:00Z", true},
		"past due":                   {`"plan":{"tier":"pro","status":"past_due"}`, "2026-01-01T00:00:00Z", false},
		"trialing":                   {`"plan":{"tier":"pro","status":"trialing"}`, "2026-01-01T00:00:00Z", false},
	} {
		if got := PlanEnd([]Layer{manifest(t, "app", c.sections)}, at(c.at)); got.Over != c.over {
			t.Errorf("%s: %+v", name, got)
		}
	}

	for status, detail := range map[string]string{
		`"status":"canceled"`:                   "Plan is canceled.",
		`"expires_at":"2026-01-01T00:00:00.5Z"`: "Plan expired at 2026-01-01T00:00:00.5Z.",
	} {
		v := viewOf(t, map[string]string{"app": `"plan":{"tier":"pro",` + status + `},"features":{"on":true,"off":false},"overrides":{"feature_previews":["early"]},` +
			`"token_budget":{"period":"monthly","total_tokens":{"limit":-1,"enforcement":"hard"},"input_tokens":{"limit":5,"enforcement":"soft"}}`})
		for name, want := range map[string]string{"on": "hard_reject plan_expired", "early": "hard_reject plan_expired", "off": "hard_reject feature_disabled", "unlisted": "warn plan_expired"} {
			if d := Check(v, feature(name)); verdict(d) != want {
				t.Errorf("%s %s: %s", status, name, verdict(d))
			}
		}
		if d := cmp.Diff(map[string]bool{"on": false, "off": false, "early": false}, Effective(v).Features); d != "" {
			t.Errorf("%s: %s", status, d)
		}
		d := Check(v, tokens(1))
		r := Reserve(v, &schemas.BudgetReserve{Tokens: schemas.Tokens{Total: 1}})
		if d.Code != schemas.CodePlanExpired || d.Detail != detail || r.Code != schemas.CodePlanExpired || r.Allowed {
			t.Errorf("%s: a hard budget says %s %s %q", status, verdict(d), d.Code, d.Detail)
		}
		soft := viewOf(t, map[string]string{"app": `"plan":{"tier":"pro",` + status + `},` + total(10, "soft")})
		for needed, want := range map[int64]string{10: "warn plan_expired", 11: "soft_reject budget_exceeded"} {
			if d := Check(soft, tokens(needed)); verdict(d) != want || !d.Allowed {
				t.Errorf("%s: a soft budget says %s of %d", status, verdict(d), needed)
			}
		}
		run := &schemas.EntitlementCheck{Plugin: "p", Needed: 1}
		if d := Check(soft, run); verdict(d) != "warn plan_expired" {
			t.Errorf("%s: an execution without MONETIZATION is %s", status, verdict(d))
		}
		soft.Switches.Monetization = true
		if d := Check(soft, run); d.Allowed || d.Code != schemas.CodePlanExpired || d.Detail != detail {
			t.Errorf("%s: an execution is %s %s", status, verdict(d), d.Code)
		}
		if d := Check(viewOf(t, map[string]string{"app": `"plan":{"tier":"pro","status":"past_due"},` + total(10, "hard")}), tokens(10)); verdict(d) != "allow allowed" {
			t.Errorf("past due is active: %s", verdict(d))
		}
	}
}

// §5.2.12: what could not be read refuses under hard and is flagged otherwise.
func TestRule12Failures(t *testing.T) {
	for enforcement, want := range map[string]string{"hard": "hard_reject check_failed", "soft": "warn check_failed", "warn": "warn check_failed", "none": "warn check_failed"} {
		v := viewOf(t, map[string]string{"app": total(10, enforcement)})
		v.Failed = "the catalogue cannot be read"
		for _, d := range []schemas.Decision{Check(v, tokens(1)), Reserve(v, &schemas.BudgetReserve{Tokens: schemas.Tokens{Total: 1}})} {
			if verdict(d) != want || d.Allowed != (enforcement != "hard") || !d.Allowed && (d.Code != schemas.CodeUnavailable || !strings.Contains(d.Detail, v.Failed)) {
				t.Errorf("%s: %s %s %q", enforcement, verdict(d), d.Code, d.Detail)
			}
		}
	}
}

// §5.2.13: thresholds fire once, and again only after they were cleared.
func TestRule13Thresholds(t *testing.T) {
	terms := Terms{Allocation: schemas.AllocationTotal, Period: schemas.PeriodMonthly, Limit: 1000}
	c := terms.NewCounter(now, 0, 0)
	text := func(list []Crossing) string {
		var words []string
		for _, x := range list {
			switch {
			case x.Exceeded:
				words = append(words, "exceeded")
			case x.Cleared:
				words = append(words, fmt.Sprintf("−%d", x.Percent))
			default:
				words = append(words, fmt.Sprintf("%d", x.Percent))
			}
		}
		return strings.Join(words, " ")
	}
	for _, step := range []struct {
		used int64
		want string
	}{
		{0, ""},
		{749, ""},
		{750, "75"},
		{750, ""},
		{899, ""},
		{900, "90"},
		{999, ""},
		{1000, "100"},
		{1001, "exceeded"},
		{5000, ""},
		{1000, ""},
		{1001, "exceeded"},
		{999, "−100"},
		{1000, "100"},
		{899, "−90 −100"},
		{749, "−75"},
		{1001, "75 90 100 exceeded"},
		{0, "−75 −90 −100"},
	} {
		c.Used = step.used
		var list []Crossing
		c, list = terms.Crossings(c)
		if got := text(list); got != step.want {
			t.Errorf("at %d: %q, want %q", step.used, got, step.want)
		}
	}
	for name, c := range map[string]struct {
		terms Terms
		c     schemas.Counter
		want  string
	}{
		"nothing used of nothing":      {Terms{Limit: 0}, schemas.Counter{}, ""},
		"one used of nothing":          {Terms{Limit: 0}, schemas.Counter{Used: 1}, "75 90 100 exceeded"},
		"unlimited":                    {Terms{Limit: -1}, schemas.Counter{Used: math.MaxInt64}, ""},
		"unlimited since":              {Terms{Limit: -1}, schemas.Counter{Used: 10, Told: 15}, "−75 −90 −100"},
		"a raised limit":               {Terms{Limit: 100}, schemas.Counter{Used: 80, Told: 7}, "−90 −100"},
		"what is held does not count":  {Terms{Limit: 100}, schemas.Counter{Used: 10, Reserved: 90}, ""},
		"the carry counts":             {Terms{Limit: 100, Rollover: true}, schemas.Counter{Used: 100, Carry: 100}, ""},
		"burst counts":                 {Terms{Limit: 100, Burst: 100}, schemas.Counter{Used: 150}, "75"},
		"of the greatest limit":        {Terms{Limit: schemas.MaxLimit}, schemas.Counter{Used: schemas.MaxLimit}, "75 90 100"},
		"below zero":                   {Terms{Limit: 100}, schemas.Counter{Used: -5}, ""},
		"the greatest number there is": {Terms{Limit: 1}, schemas.Counter{Used: math.MaxInt64}, "75 90 100 exceeded"},
	} {
		if _, list := c.terms.Crossings(c.c); text(list) != c.want {
			t.Errorf("%s: %q, want %q", name, text(list), c.want)
		}
	}
}

// §5.2.13: what a decision is told by, once in a period.
func TestRule13Tellings(t *testing.T) {
	names := func(d schemas.Decision) string {
		var list []string
		for _, x := range Tellings(&d) {
			list = append(list, x.Scope.Kind.String()+" "+x.Name()+" "+schemas.InstantText(x.Period))
		}
		return strings.Join(list, ", ")
	}
	const month, minute = " 2026-01-01T00:00:00Z", " 2026-01-29T12:34:00Z"
	hard := map[string]string{"app": `"features":{"off":false},` + total(100, "hard")}
	for name, c := range map[string]struct {
		d    schemas.Decision
		want string
	}{
		"room is left":          {Check(viewOf(t, hard), tokens(99)), ""},
		"the last of a check":   {Check(viewOf(t, hard), tokens(100)), ""},
		"the last":              {Reserve(viewOf(t, hard), &schemas.BudgetReserve{Tokens: tokens(100).Tokens}), "app limit:total_tokens" + month},
		"too much":              {Check(viewOf(t, hard), tokens(101)), "app limit:total_tokens" + month},
		"nothing of the last":   {Check(viewOf(t, hard), tokens(0)), ""},
		"a limit for nothing":   {Check(viewOf(t, map[string]string{"app": total(100, "none")}), tokens(200)), ""},
		"unlimited":             {Check(viewOf(t, map[string]string{"app": total(-1, "hard")}), tokens(200)), ""},
		"a plan that is over":   {Check(viewOf(t, map[string]string{"app": `"plan":{"tier":"pro","status":"canceled"},` + total(100, "hard")}), tokens(200)), ""},
		"a feature":             {Check(viewOf(t, hard), feature("off")), "app feature:off" + month},
		"a feature that is on":  {Check(viewOf(t, hard), feature("on")), ""},
		"a feature of a user":   {Check(viewOf(t, map[string]string{"user": `"features":{"off":false}`}), feature("off")), "user feature:off" + month},
		"the last of a minute":  {Check(viewOf(t, map[string]string{"app": `"rate_limits":{"requests_per_minute":1}`}), &schemas.EntitlementCheck{Count: true, Needed: 1}), "app limit:requests_per_minute" + minute},
		"a cap is not used up":  {Check(viewOf(t, map[string]string{"app": `"rate_limits":{"projects":5}`}), &schemas.EntitlementCheck{Limit: "projects", Needed: 5}), ""},
		"more than a cap":       {Check(viewOf(t, map[string]string{"app": `"rate_limits":{"projects":5}`}), &schemas.EntitlementCheck{Limit: "projects", Needed: 6}), "app limit:projects 1970-01-01T00:00:00Z"},
		"refused for something": {Check(viewOf(t, map[string]string{"app": `"features":{"off":false},"rate_limits":{"requests_per_minute":1}`}), &schemas.EntitlementCheck{Feature: "off", Count: true, Needed: 1}), "app feature:off" + month},
	} {
		if got := names(c.d); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
