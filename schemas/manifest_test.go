package schemas

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// equalBudgets leaves out what follows from the rest.
var equalBudgets = cmpopts.IgnoreUnexported(TokenBudget{})

const fullManifest = `{
 "version":"1.1","app_id":"app_1","user_id":"user_1","tenant_id":"tenant_1","revision":7,
 "plan":{"id":"p1","name":"Pro","tier":"pro","status":"trialing","billing_period":"monthly","expires_at":"2026-04-01T00:00:00+02:00"},
 "token_budget":{"period":"weekly","total_tokens":{"limit":1000,"used":10,"reserved":5,"enforcement":"hard"},"input_tokens":{"limit":-1},
  "output_tokens":{"limit":0,"enforcement":"soft"},"per_model_limits":{"gpt-4":{"limit":9007199254740991,"enforcement":"warn"}},"rollover":true,"burst_allowance":20},
 "features":{"canvas":true,"export":false},
 "rate_limits":{"requests_per_minute":60,"concurrent_workflows":-1},
 "plugins":{"allowed":["notes"],"blocked":["beta"],"tiers":{"notes":"gold"},"per_plugin_limits":{"notes":{"calls_per_period":5,"period":"daily"}}},
 "overrides":{"promotional_tokens":100,"feature_previews":["export"],"trial_extension":{"until":"2026-05-01T00:00:00Z","reason":"sorry"}},
 "observability":{"level":"debug"},"metadata":{"z":1,"a":[1,2]},"source":"platform","correlation_id":"c-1","future_field":{"kept":true}
}`

func TestParseManifest(t *testing.T) {
	revision, ends, until := int64(7), int64(1_774_994_400)*second, int64(1_777_593_600)*second
	want := &Manifest{
		Version: "1.1", AppID: "app_1", UserID: "user_1", TenantID: "tenant_1", Revision: &revision,
		Plan: Plan{ID: "p1", Name: "Pro", Tier: TierPro, Status: PlanTrialing, BillingPeriod: "monthly", ExpiresAt: &ends},
		Budget: &TokenBudget{
			Period: PeriodWeekly, Total: &Allocation{1000, 10, 5, EnforceHard}, Input: &Allocation{Limit: -1},
			Output: &Allocation{Enforcement: EnforceSoft}, PerModel: map[string]Allocation{"gpt-4": {Limit: MaxLimit, Enforcement: EnforceWarn}}, Rollover: true, Burst: 20,
		},
		Features: map[string]bool{"canvas": true, "export": false}, RateLimits: map[string]int64{"requests_per_minute": 60, "concurrent_workflows": -1},
		Plugins:   &PluginRules{[]string{"notes"}, []string{"beta"}, map[string]string{"notes": "gold"}, map[string]PluginCalls{"notes": {5, PeriodDaily}}},
		Overrides: &Overrides{100, []string{"export"}, &until, "sorry"}, Source: "platform", CorrelationID: "c-1",
	}
	got := goldenManifest(t)
	if !strings.Contains(string(got.Content), `"future_field":{"kept":true}`) || !json.Valid(got.Content) {
		t.Errorf("content %s", got.Content)
	}
	if got.Scope() != (Scope{ScopeUser, "user_1"}) {
		t.Errorf("scope %v", got.Scope())
	}
	want.Content, want.Digest = got.Content, got.Digest
	if d := cmp.Diff(want, got, equalBudgets); d != "" {
		t.Error(d)
	}
	again, err := ParseManifest(got.Content)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, again, equalBudgets); d != "" {
		t.Errorf("its own content: %s", d)
	}
}

// What is absent, null or left to its default; an empty section is a section.
func TestManifestDefaults(t *testing.T) {
	for text, want := range map[string]Manifest{
		`{"version":"1.0","app_id":"a","plan":{"tier":"free"}}`: {Version: "1.0", Plan: Plan{Tier: TierFree, Status: PlanActive}},
		`{"version":"1.1","app_id":"a","plan":{"tier":"unlimited","status":null,"expires_at":null},"token_budget":null,"features":null,"rate_limits":null,"plugins":null,"overrides":null,"revision":null,"user_id":null}`: {Version: "1.1", Plan: Plan{Tier: TierUnlimited, Status: PlanActive}},
		`{"version":"1.1","app_id":"a","plan":{"tier":"free"},"features":{},"rate_limits":{},"plugins":{},"overrides":{},"token_budget":{"period":"lifetime"}}`: {
			Version: "1.1", Plan: Plan{Tier: TierFree, Status: PlanActive}, Features: map[string]bool{}, RateLimits: map[string]int64{}, Plugins: &PluginRules{}, Overrides: &Overrides{}, Budget: &TokenBudget{Period: PeriodLifetime},
		},
		`{"version":"1.1","app_id":"a","plan":{"tier":"free"},"plugins":{"per_plugin_limits":{"p":{}}},"overrides":{"trial_extension":{}}}`: {
			Version: "1.1", Plan: Plan{Tier: TierFree, Status: PlanActive}, Plugins: &PluginRules{Limits: map[string]PluginCalls{"p": {Unlimited, PeriodMonthly}}}, Overrides: &Overrides{},
		},
	} {
		got, err := ParseManifest([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		want.AppID, want.Content, want.Digest = "a", got.Content, got.Digest
		if d := cmp.Diff(&want, got, equalBudgets); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

func TestManifestScope(t *testing.T) {
	for text, want := range map[string]Scope{"": {Kind: ScopeApp}, `"tenant_id":"t",`: {ScopeTenant, "t"}, `"user_id":"u",`: {ScopeUser, "u"}} {
		m, err := ParseManifest([]byte(`{` + text + `"version":"1.1","app_id":"a","plan":{"tier":"free"}}`))
		if err != nil || m.Scope() != want {
			t.Errorf("%s %v %v", text, m, err)
		}
	}
}

// Manifests that mean the same have one digest, however they are written; revision and
// correlation id are not part of it.
func TestManifestDigest(t *testing.T) {
	base := `"app_id":"a","plan":{"tier":"free","id":"x"},"version":"1.1"`
	digest := func(text string) [32]byte {
		m, err := ParseManifest([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return m.Digest
	}
	want := digest(`{` + base + `}`)
	for _, same := range []string{
		`{"revision":3,` + base + `}`, `{` + base + `,"correlation_id":"c"}`, ` {"version" : "1.1", "plan":{"id":"\u0078","tier":"free"},"app_id":"a"} `,
	} {
		if digest(same) != want {
			t.Errorf("%s is another manifest", same)
		}
	}
	for _, other := range []string{`{` + base + `,"source":"s"}`, `{` + base + `,"x":1}`, `{` + base + `,"features":{}}`, strings.Replace(`{`+base+`}`, "free", "pro", 1)} {
		if digest(other) == want {
			t.Errorf("%s is the same manifest", other)
		}
	}
}

// replaced gives the full manifest with a part of it written otherwise.
func replaced(part, by string) string {
	if !strings.Contains(fullManifest, part) {
		panic(part)
	}
	return strings.Replace(fullManifest, part, by, 1)
}

// Every fault names its field.
func TestBadManifests(t *testing.T) {
	for name, c := range map[string]struct{ text, field, kind string }{
		"version":           {replaced(`"1.1"`, `"2.0"`), "version", "enum"},
		"version a number":  {replaced(`"1.1"`, `1.1`), "version", "enum"},
		"no version":        {replaced(`"version":"1.1",`, ``), "version", "missing"},
		"no app":            {replaced(`"app_id":"app_1",`, ``), "app_id", "missing"},
		"app null":          {replaced(`"app_id":"app_1",`, `"app_id":null,`), "app_id", "missing"},
		"app empty":         {replaced(`"app_1"`, `""`), "app_id", "string_too_short"},
		"app long":          {replaced(`app_1`, strings.Repeat("é", MaxIDChars+1)), "app_id", "string_too_long"},
		"user a number":     {replaced(`"user_1"`, `7`), "user_id", "string_type"},
		"revision":          {replaced(`"revision":7`, `"revision":-1`), "revision", "out_of_range"},
		"revision a text":   {replaced(`"revision":7`, `"revision":"7"`), "revision", "int_type"},
		"plan a text":       {replaced(`{"id":"p1"`, `"pro","x":{"id":"p1"`), "plan", "dict_type"},
		"no plan":           {`{"version":"1.1","app_id":"a"}`, "plan", "missing"},
		"no tier":           {replaced(`"tier":"pro",`, ``), "plan.tier", "missing"},
		"tier":              {replaced(`"tier":"pro"`, `"tier":"gold"`), "plan.tier", "enum"},
		"tier in capitals":  {replaced(`"tier":"pro"`, `"tier":"Pro"`), "plan.tier", "enum"},
		"status":            {replaced(`trialing`, `cancelled`), "plan.status", "enum"},
		"no real day":       {replaced(`2026-04-01T`, `2026-02-30T`), "plan.expires_at", "datetime_parsing"},
		"a day alone":       {replaced(`2026-04-01T00:00:00+02:00`, `2026-04-01`), "plan.expires_at", "datetime_parsing"},
		"the year 9999":     {replaced(`2026-04-01T`, `9999-12-31T`), "plan.expires_at", "datetime_parsing"},
		"the year 1":        {replaced(`2026-04-01T`, `0001-01-01T`), "plan.expires_at", "datetime_parsing"},
		"expiry a number":   {replaced(`"2026-04-01T00:00:00+02:00"`, `1774994400`), "plan.expires_at", "datetime_type"},
		"period":            {replaced(`weekly`, `yearly`), "token_budget.period", "enum"},
		"no period":         {replaced(`"period":"weekly",`, ``), "token_budget.period", "missing"},
		"budget a list":     {replaced(`"token_budget":{`, `"token_budget":[],"x":{`), "token_budget", "dict_type"},
		"limit −2":          {replaced(`"limit":1000`, `"limit":-2`), "token_budget.total_tokens.limit", "out_of_range"},
		"limit 2⁵³":         {replaced(`9007199254740991`, `9007199254740992`), "token_budget.per_model_limits.gpt-4.limit", "out_of_range"},
		"limit of 30 nines": {replaced(`9007199254740991`, strings.Repeat("9", 30)), "token_budget.per_model_limits.gpt-4.limit", "out_of_range"},
		"limit 1e3":         {replaced(`"limit":1000`, `"limit":1e3`), "token_budget.total_tokens.limit", "int_type"},
		"limit 1000.0":      {replaced(`"limit":1000`, `"limit":1000.0`), "token_budget.total_tokens.limit", "int_type"},
		"limit a text":      {replaced(`"limit":1000`, `"limit":"1000"`), "token_budget.total_tokens.limit", "int_type"},
		"no limit":          {replaced(`"limit":1000,`, ``), "token_budget.total_tokens.limit", "missing"},
		"limit null":        {replaced(`"limit":1000,`, `"limit":null,`), "token_budget.total_tokens.limit", "missing"},
		"used −1":           {replaced(`"used":10`, `"used":-1`), "token_budget.total_tokens.used", "out_of_range"},
		"reserved −1":       {replaced(`"reserved":5`, `"reserved":-1`), "token_budget.total_tokens.reserved", "out_of_range"},
		"enforcement":       {replaced(`"enforcement":"hard"`, `"enforcement":"block"`), "token_budget.total_tokens.enforcement", "enum"},
		"rollover":          {replaced(`"rollover":true`, `"rollover":1`), "token_budget.rollover", "bool_type"},
		"burst −1":          {replaced(`"burst_allowance":20`, `"burst_allowance":-1`), "token_budget.burst_allowance", "out_of_range"},
		"burst 1001":        {replaced(`"burst_allowance":20`, `"burst_allowance":1001`), "token_budget.burst_allowance", "out_of_range"},
		"burst a fraction":  {replaced(`"burst_allowance":20`, `"burst_allowance":0.2`), "token_budget.burst_allowance", "int_type"},
		"feature a text":    {replaced(`"canvas":true`, `"canvas":"on"`), "features.canvas", "bool_type"},
		"feature null":      {replaced(`"canvas":true`, `"canvas":null`), "features.canvas", "bool_type"},
		"rate −2":           {replaced(`"requests_per_minute":60`, `"requests_per_minute":-2`), "rate_limits.requests_per_minute", "out_of_range"},
		"allowed a text":    {replaced(`["notes"]`, `"notes"`), "plugins.allowed", "list_type"},
		"blocked a number":  {replaced(`["beta"]`, `["x",7]`), "plugins.blocked[1]", "string_type"},
		"plugin tier":       {replaced(`"notes":"gold"`, `"notes":1`), "plugins.tiers.notes", "string_type"},
		"calls":             {replaced(`"calls_per_period":5`, `"calls_per_period":-2`), "plugins.per_plugin_limits.notes.calls_per_period", "out_of_range"},
		"promotion":         {replaced(`"promotional_tokens":100`, `"promotional_tokens":-1`), "overrides.promotional_tokens", "out_of_range"},
		"until":             {replaced(`2026-05-01T`, `2026-13-01T`), "overrides.trial_extension.until", "datetime_parsing"},
		"metadata":          {replaced(`{"z":1,"a":[1,2]}`, `[]`), "metadata", "dict_type"},
		"a list":            {`[]`, "", "dict_type"},
		"a number":          {`7`, "", "dict_type"},
		"null":              {`null`, "", "dict_type"},
		"odd name":          {replaced(`"canvas":true`, `"a.b c":7`), `features.a.b c`, "bool_type"},
		"no name":           {replaced(`"canvas":true`, `"":true`), `features.`, "string_length"},
	} {
		_, err := ParseManifest([]byte(c.text))
		if err == nil || err.Code != CodeValidation {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !slices.ContainsFunc(err.Fields, func(f FieldError) bool { return pathOf(f) == c.field && f.Type == c.kind }) {
			t.Errorf("%s: %+v, want %s at %s", name, err.Fields, c.kind, c.field)
		}
		if len(err.Fields) != 1 {
			t.Errorf("%s: more than one field: %+v", name, err.Fields)
		}
	}
}

// pathOf writes where a fault is as the tests spell it.
func pathOf(f FieldError) string {
	var b strings.Builder
	for i, step := range f.Loc[1:] {
		if n, ok := step.(int); ok {
			fmt.Fprintf(&b, "[%d]", n)
			continue
		}
		if i > 0 {
			b.WriteByte('.')
		}
		fmt.Fprint(&b, step)
	}
	return b.String()
}

func TestManifestsThatAreNoJSON(t *testing.T) {
	for _, text := range []string{``, `{`, fullManifest + `}`, `{"version":"1.1","version":"1.1"}`, replaced(`"z":1`, `"a":1`), replaced(`"sorry"`, `"\ud800"`), replaced(`"sorry"`, "\"\xff\""), replaced(`"limit":1000`, `"limit":01`)} {
		if _, err := ParseManifest([]byte(text)); err == nil || err.Code != CodeInvalidJSON {
			t.Errorf("%.40s: %v", text, err)
		}
	}
	deep := replaced(`"z":1`, `"z":`+strings.Repeat("[", MaxJSONDepth)+strings.Repeat("]", MaxJSONDepth))
	if _, err := ParseManifest([]byte(deep)); err == nil || err.Code != CodeValidation {
		t.Errorf("too deep: %v", err)
	}
	if _, err := ParseManifest(make([]byte, 10<<20)); err == nil || err.Code != CodePayloadTooLarge {
		t.Errorf("10 MB: %v", err)
	}
	if _, _, err := ParseSubscription(make([]byte, 10<<20)); err == nil || err.Code != CodePayloadTooLarge {
		t.Errorf("10 MB: %v", err)
	}
}

// The older shape names the new place of each of its fields, all at once.
func TestOlderManifest(t *testing.T) {
	const older = `{"app_id":"a","tier":"pro","features":["canvas"],"enforcement":"hard","token_budget":{"period":"monthly","total_tokens":{"limit":5}}}`
	for _, parse := range []func([]byte) *Error{
		func(b []byte) *Error { _, err := ParseManifest(b); return err },
		func(b []byte) *Error { _, _, err := ParseSubscription(b); return err },
	} {
		err := parse([]byte(older))
		if err == nil || err.Code != CodeValidation {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, f := range err.Fields {
			got[pathOf(f)] = f.Type
		}
		if d := cmp.Diff(map[string]string{"tier": "older_shape", "features": "older_shape", "enforcement": "older_shape", "plan": "missing"}, got); d != "" {
			t.Error(d)
		}
		for _, place := range []string{"plan.tier", "features.<name>", "token_budget.total_tokens.enforcement"} {
			if !strings.Contains(err.Detail, place) {
				t.Errorf("%q does not name %s", err.Detail, place)
			}
		}
	}
}

// A body of nothing but faults is answered with few of them.
func TestManyFaults(t *testing.T) {
	var features []string
	for i := range 20_000 {
		features = append(features, fmt.Sprintf(`"f%d":7`, i))
	}
	_, err := ParseManifest([]byte(`{"version":"1.1","app_id":"a","plan":{"tier":"free"},"features":{` + strings.Join(features, ",") + `}}`))
	if err == nil || len(err.Fields) != maxFieldErrors || len(err.Detail) > 2000 {
		t.Errorf("%d faults, %d bytes", len(err.Fields), len(err.Detail))
	}
	models := make([]string, MaxModelLimits+1)
	for i := range models {
		models[i] = fmt.Sprintf(`"m%d":{"limit":1}`, i)
	}
	_, err = ParseManifest([]byte(`{"version":"1.1","app_id":"a","plan":{"tier":"free"},"token_budget":{"period":"daily","per_model_limits":{` + strings.Join(models, ",") + `}}}`))
	if err == nil || len(err.Fields) != 1 || err.Fields[0].Type != "too_long" {
		t.Errorf("too many models: %v", err)
	}
}

// What the parser takes the schema takes, and the reverse.
func TestManifestSchemaAgreesWithTheParser(t *testing.T) {
	schema := compile(t, "manifest.json", nil, "")
	for _, text := range []string{
		fullManifest, `{"version":"1.1","app_id":"a","plan":{"tier":"free"}}`,
		`{"version":"1.1","app_id":"a","plan":{"tier":"free"},"token_budget":null,"features":null,"rate_limits":{"x":null},"user_id":null}`,
		`{"version":"1.1","app_id":"a","plan":{"tier":"free","status":null},"token_budget":{"period":"daily","total_tokens":null,"burst_allowance":1000}}`,
		replaced(`"1.1"`, `"2.0"`), replaced(`"app_1"`, `""`), replaced(`"revision":7`, `"revision":-1`), replaced(`"tier":"pro"`, `"tier":"gold"`),
		replaced(`trialing`, `cancelled`), replaced(`weekly`, `yearly`), replaced(`"limit":1000`, `"limit":-2`), replaced(`9007199254740991`, `9007199254740992`),
		replaced(`"limit":1000,`, ``), replaced(`"used":10`, `"used":-1`), replaced(`"enforcement":"hard"`, `"enforcement":"block"`), replaced(`"rollover":true`, `"rollover":1`),
		replaced(`"burst_allowance":20`, `"burst_allowance":1001`), replaced(`"canvas":true`, `"canvas":null`), replaced(`"requests_per_minute":60`, `"requests_per_minute":-2`),
		replaced(`["notes"]`, `"notes"`), replaced(`["beta"]`, `[""]`), replaced(`"notes":"gold"`, `"notes":1`), replaced(`"promotional_tokens":100`, `"promotional_tokens":-1`),
		replaced(`{"z":1,"a":[1,2]}`, `[]`), replaced(`"canvas":true`, `"":true`), replaced(`2026-05-01T`, `2026-13-01T`), `{}`, `[]`,
	} {
		_, err := ParseManifest([]byte(text))
		if verdict := schema.Validate(unmarshal(t, []byte(text))); (verdict == nil) != (err == nil) {
			t.Errorf("%s\nthe parser says %v, the schema %v", text, err, verdict)
		}
	}
}

func TestSubscription(t *testing.T) {
	catalogue, err := ParseCatalogue([]byte(`{"subscription_plans":[{"name":"Gold","tier":"enterprise","plugins_unlocked":["*"],"plugins":{"notes":"gold"}},{"name":"Basic","plugins_unlocked":["notes"]}],"settings":{"default_plan":"Basic"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if catalogue.Default != "Basic" || !catalogue.Plan("Gold").Unlocks("x") || catalogue.Plan("Basic").Unlocks("x") || !catalogue.Plan("Basic").Unlocks("notes") || catalogue.Plan("None").Unlocks("notes") {
		t.Errorf("%+v", catalogue)
	}
	for name, c := range map[string]struct {
		text    string
		tier    Tier
		status  PlanStatus
		unknown bool
		ends    string
	}{
		"a tier":             {`{"userId":"u","plan":"pro","status":"active"}`, TierPro, PlanActive, false, ""},
		"snake case":         {`{"user_id":"u","plan":"starter","status":"active","billing_cycle":"yearly"}`, TierStarter, PlanActive, false, ""},
		"the catalogue's":    {`{"userId":"u","plan":"Gold","status":"active"}`, TierEnterprise, PlanActive, false, ""},
		"no tier there":      {`{"userId":"u","plan":"Basic","status":"past_due"}`, TierFree, PlanPastDue, false, ""},
		"unknown plan":       {`{"userId":"u","plan":"Nobody knows","status":"trialing"}`, TierFree, PlanTrialing, false, ""},
		"cancelled":          {`{"userId":"u","plan":"pro","status":"cancelled"}`, TierPro, PlanCanceled, false, ""},
		"canceled":           {`{"userId":"u","plan":"pro","status":"canceled"}`, TierPro, PlanCanceled, false, ""},
		"incomplete_expired": {`{"userId":"u","plan":"pro","status":"incomplete_expired"}`, TierPro, PlanCanceled, false, ""},
		"inactive":           {`{"userId":"u","plan":"pro","status":"INACTIVE"}`, TierPro, PlanCanceled, false, ""},
		"unpaid":             {`{"userId":"u","plan":"pro","status":"unpaid"}`, TierPro, PlanPastDue, false, ""},
		"incomplete":         {`{"userId":"u","plan":"pro","status":"incomplete"}`, TierPro, PlanPastDue, false, ""},
		"paused":             {`{"userId":"u","plan":"pro","status":"paused"}`, TierPro, PlanPastDue, false, ""},
		"any other":          {`{"userId":"u","plan":"pro","status":"weird"}`, TierPro, PlanPastDue, true, ""},
		"trial by day":       {`{"userId":"u","plan":"pro","status":"trialing","trialEndDate":"2026-02-28"}`, TierPro, PlanTrialing, false, "2026-02-28T00:00:00Z"},
		"trial by instant":   {`{"userId":"u","plan":"pro","status":"trialing","trial_end_date":"2026-02-28T12:00:00+01:00"}`, TierPro, PlanTrialing, false, "2026-02-28T11:00:00Z"},
		"trial that is over": {`{"userId":"u","plan":"pro","status":"active","trialEndDate":"2026-02-28","nextBillingDate":"2026-03-28"}`, TierPro, PlanActive, false, ""},
	} {
		s, m, err := ParseSubscription([]byte(c.text))
		if err != nil || m != nil {
			t.Fatalf("%s: %v %v", name, err, m)
		}
		made, err := s.ManifestOf("a", catalogue)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ends := ""
		if made.Plan.ExpiresAt != nil {
			ends = InstantText(*made.Plan.ExpiresAt)
		}
		if made.Scope() != (Scope{ScopeUser, "u"}) || made.Plan.Tier != c.tier || made.Plan.Status != c.status || made.Plan.Name != s.Plan || s.UnknownStatus() != c.unknown || ends != c.ends {
			t.Errorf("%s: %+v unknown %v, ends %q", name, made.Plan, s.UnknownStatus(), ends)
		}
		if again, err := s.ManifestOf("a", catalogue); err != nil || again.Digest != made.Digest {
			t.Errorf("%s: made twice it is another: %v", name, err)
		}
	}
}

func TestSubscriptionIsAManifestOfItsFacts(t *testing.T) {
	s, _, err := ParseSubscription([]byte(`{"userId":"u","plan":"pro","status":"trialing","trialEndDate":"2026-02-28","pluginTiers":{"notes":"gold"},"appId":"b"}`))
	if err != nil || s.AppID != "b" {
		t.Fatal(s, err)
	}
	legacy, err := s.ManifestOf("b", nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseManifest([]byte(`{"version":"1.1","app_id":"b","user_id":"u","plan":{"id":"pro","name":"pro","tier":"pro","status":"trialing","expires_at":"2026-02-28T00:00:00Z"},"plugins":{"tiers":{"notes":"gold"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	legacy.Content, legacy.Digest, legacy.Source = m.Content, m.Digest, ""
	if d := cmp.Diff(m, legacy, equalBudgets); d != "" {
		t.Error(d)
	}
}

func TestBadSubscriptions(t *testing.T) {
	for text, want := range map[string]string{
		`{}`: "userId missing plan missing status missing",
		`{"userId":"u","user_id":"u","plan":"p","status":"active"}`:                   "user_id repeated",
		`{"userId":7,"plan":"p","status":"active"}`:                                   "userId string_type",
		`{"userId":"u","plan":"","status":"active"}`:                                  "plan string_too_short",
		`{"userId":"u","plan":"p","status":null}`:                                     "status missing",
		`{"userId":"u","plan":"p","status":"active","nextBillingDate":"2026-02-30"}`:  "nextBillingDate date_parsing",
		`{"userId":"u","plan":"p","status":"active","nextBillingDate":"tomorrow"}`:    "nextBillingDate datetime_parsing",
		`{"userId":"u","plan":"p","status":"active","trial_end_date":17}`:             "trial_end_date datetime_type",
		`{"userId":"u","plan":"p","status":"active","pluginTiers":{"notes":1}}`:       "pluginTiers.notes string_type",
		`{"userId":"u","plan":"p","status":"active","pluginTiers":["notes"]}`:         "pluginTiers dict_type",
		`{"userId":"u","plan":["p"],"status":"active"}`:                               "plan string_type",
		`{"app_id":"a","userId":"u","plan":{"tier":"gold"},"version":"1.1"}`:          "plan.tier enum",
		`{"app_id":"a","user_id":"u","plan":{"tier":"pro"}}`:                          "version missing",
		`{"app_id":"a","user_id":"u","plan":"pro","status":"active","version":"1.1"}`: "plan dict_type",
		`7`: " dict_type",
	} {
		_, _, err := ParseSubscription([]byte(text))
		if err == nil || err.Code != CodeValidation {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		for _, f := range err.Fields {
			got = append(got, pathOf(f)+" "+f.Type)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", text, got, want)
		}
	}
	schema := compile(t, "subscription.json", nil, "")
	for text, good := range map[string]bool{
		`{"userId":"u","plan":"p","status":"x"}`: true, `{"user_id":"u","plan":"p","status":"x","appId":null}`: true,
		`{"plan":"p","status":"x"}`: false, `{"userId":"u","status":"x"}`: false, `{"userId":"u","plan":"p","status":""}`: false,
	} {
		_, _, err := ParseSubscription([]byte(text))
		if verdict := schema.Validate(unmarshal(t, []byte(text))); (verdict == nil) != good || (err == nil) != good {
			t.Errorf("%s: the parser says %v, the schema %v", text, err, verdict)
		}
	}
}

func TestCatalogue(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                           "subscription_plans missing",
		`{"subscription_plans":{}}`:    "subscription_plans list_type",
		`{"subscription_plans":[{}]}`:  "subscription_plans[0].name missing",
		`{"subscription_plans":["x"]}`: "subscription_plans[0] dict_type",
		`{"subscription_plans":[{"name":"a"},{"name":"a"}]}`:           "subscription_plans[1].name repeated",
		`{"subscription_plans":[{"name":"a","tier":"gold"}]}`:          "subscription_plans[0].tier enum",
		`{"subscription_plans":[{"name":"a","plugins_unlocked":"*"}]}`: "subscription_plans[0].plugins_unlocked list_type",
		`{"subscription_plans":[{"name":"a","plugins":{"p":7}}]}`:      "subscription_plans[0].plugins.p string_type",
		`{"subscription_plans":[{"name":7}]}`:                          "subscription_plans[0].name string_type",
		`{"subscription_plans":[],"settings":{"default_plan":""}}`:     "settings.default_plan string_too_short",
	} {
		_, err := ParseCatalogue([]byte(text))
		if err == nil || len(err.Fields) != 1 || pathOf(err.Fields[0])+" "+err.Fields[0].Type != want {
			t.Errorf("%s: %+v, want %s", text, err, want)
		}
	}
	if c, err := ParseCatalogue([]byte(`null`)); c != nil || err != nil {
		t.Errorf("null is %v %v", c, err)
	}
	c, err := ParseCatalogue([]byte(`{"subscription_plans":[]}`))
	if err != nil || c.Default != "free" || c.TierOf("x") != TierFree || c.TierOf("pro") != TierPro {
		t.Errorf("%v %v", c, err)
	}
	if (*Catalogue)(nil).Plan("x").Unlocks("y") || (*Catalogue)(nil).TierOf("x") != TierFree {
		t.Error("no catalogue knows a plan")
	}
}

const notesRules = `{"schema_version":"1.0","plugin":"notes","features":{"export":{"default":false},"share":{},"print":null},
 "limits":{"items":{"default":5},"pages":{"type":"cap","default":10},"calls":{"reset":"never","default":-1}},
 "tiers":{"gold":{"inherits":"pro","limits":{"items":-1}},"pro":{"inherits":"free","features":{"export":true},"limits":{"items":50}},"free":{"limits":{"pages":2}}},
 "actions":{"create":{"requires_features":["share"],"consumes":{"items":1,"pages":3}}}}`

func TestPluginEntitlements(t *testing.T) {
	p, err := ParsePluginEntitlements("notes", []byte(notesRules))
	if err != nil {
		t.Fatal(err)
	}
	want := &PluginEntitlements{
		Plugin: "notes", Features: map[string]bool{"export": false, "share": true, "print": true},
		Limits: map[string]PluginLimit{"items": {false, PeriodMonthly, 5}, "pages": {true, PeriodMonthly, 10}, "calls": {false, PeriodLifetime, -1}},
		Tiers: map[string]PluginTier{
			"free": {map[string]bool{}, map[string]int64{"pages": 2}},
			"pro":  {map[string]bool{"export": true}, map[string]int64{"items": 50, "pages": 2}},
			"gold": {map[string]bool{"export": true}, map[string]int64{"items": -1, "pages": 2}},
		},
		Actions: map[string]PluginAction{"create": {[]string{"share"}, map[string]int64{"items": 1, "pages": 3}}},
	}
	if d := cmp.Diff(want, p); d != "" {
		t.Error(d)
	}
	if got := ParsePluginConfig("notes", []byte(notesRules)); !cmp.Equal(want, got) {
		t.Errorf("as configuration: %+v", got)
	}
	if got := ParsePluginConfig("notes", []byte(`null`)); got != nil {
		t.Errorf("null: %+v", got)
	}
	for content, reason := range map[string]string{`{"broken":"no such file"}`: "no such file", `{"schema_version":"2.0"}`: "schema_version", `[`: "JSON", `7`: "object"} {
		if got := ParsePluginConfig("notes", []byte(content)); got == nil || !strings.Contains(got.Broken, reason) {
			t.Errorf("%s: %+v", content, got)
		}
	}
}

func TestBadPluginEntitlements(t *testing.T) {
	with := func(rest string) string { return `{"schema_version":"1.0",` + rest + `}` }
	for text, want := range map[string]string{
		`{}`:                                            "schema_version missing",
		`{"schema_version":1.0}`:                        "schema_version enum",
		with(`"plugin":"other"`):                        "plugin mismatch",
		with(`"features":["export"]`):                   "features dict_type",
		with(`"features":{"export":true}`):              "features.export dict_type",
		with(`"features":{"export":{"default":1}}`):     "features.export.default bool_type",
		with(`"limits":{"items":{"type":"meter"}}`):     "limits.items.type enum",
		with(`"limits":{"items":{"reset":"hourly"}}`):   "limits.items.reset enum",
		with(`"limits":{"items":{"default":-2}}`):       "limits.items.default out_of_range",
		with(`"tiers":{"pro":{"limits":{"items":1}}}`):  "tiers.pro.limits.items unknown",
		with(`"tiers":{"pro":{"features":{"x":"on"}}}`): "tiers.pro.features.x bool_type",
		with(`"tiers":{"pro":{"inherits":"free"}}`):     "tiers.pro.inherits unknown",
		with(`"tiers":{"a":{"inherits":"a"}}`):          "tiers.a.inherits cyclic",
		with(`"tiers":{"x":{},"a":{"inherits":"b"},"b":{"inherits":"c"},"c":{"inherits":"b"}}`): "tiers.a.inherits cyclic",
		with(`"actions":{"create":{"consumes":{"items":1}}}`):                                   "actions.create.consumes.items unknown",
		with(`"limits":{"items":{}},"actions":{"create":{"consumes":{"items":-1}}}`):            "actions.create.consumes.items out_of_range",
		with(`"actions":{"create":{"requires_features":"x"}}`):                                  "actions.create.requires_features list_type",
	} {
		_, err := ParsePluginEntitlements("notes", []byte(text))
		if err == nil || len(err.Fields) != 1 || pathOf(err.Fields[0])+" "+err.Fields[0].Type != want {
			t.Errorf("%s: %+v, want %s", text, err, want)
		}
	}
	tiers := make([]string, maxPluginTiers+1)
	for i := range tiers {
		tiers[i] = fmt.Sprintf(`"t%d":{"inherits":"t%d"}`, i, i+1)
	}
	if _, err := ParsePluginEntitlements("notes", []byte(with(`"tiers":{`+strings.Join(tiers, ",")+`}`))); err == nil || err.Fields[0].Type != "too_long" {
		t.Errorf("too many tiers: %v", err)
	}
}

// A chain of tiers reads the same in whatever order the tiers are written.
func TestTiersInherit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "tiers")
		var text []string
		for i := range n {
			inherits := ""
			if i > 0 {
				inherits = fmt.Sprintf(`"inherits":"t%d",`, i-1)
			}
			text = append(text, fmt.Sprintf(`"t%d":{%s"limits":{"l%d":%d,"all":%d}}`, i, inherits, i, i, i))
		}
		text = rapid.Permutation(text).Draw(t, "order")
		var limits []string
		for i := range n {
			limits = append(limits, fmt.Sprintf(`"l%d":{}`, i))
		}
		p, err := ParsePluginEntitlements("p", []byte(`{"schema_version":"1.0","limits":{"all":{},`+strings.Join(limits, ",")+`},"tiers":{`+strings.Join(text, ",")+`}}`))
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			want := map[string]int64{"all": int64(i)}
			for j := range i + 1 {
				want[fmt.Sprintf("l%d", j)] = int64(j)
			}
			if d := cmp.Diff(want, p.Tiers[fmt.Sprintf("t%d", i)].Limits); d != "" {
				t.Fatalf("t%d: %s", i, d)
			}
		}
	})
}

func TestConfigOfEntitlements(t *testing.T) {
	b, err := ParseBelow([]byte(`{"source":"file","manifest":` + fullManifest + `}`))
	if err != nil || b.Source != "file" || b.Manifest == nil || b.Manifest.Digest != goldenManifest(t).Digest {
		t.Errorf("%+v %v", b, err)
	}
	for _, none := range []string{`{"source":"env","manifest":null}`, `{"source":"env"}`} {
		if b, err := ParseBelow([]byte(none)); err != nil || b.Source != "env" || b.Manifest != nil {
			t.Errorf("%s: %+v %v", none, b, err)
		}
	}
	for _, bad := range []string{`{`, `[]`, `{"source":7}`, `{"source":"file","manifest":{}}`} {
		if _, err := ParseBelow([]byte(bad)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
	for text, want := range map[string]Switches{
		`{}`: {Enforce: true}, `{"monetization":true}`: {Monetization: true, Enforce: true}, `{"enforce":false}`: {},
		`{"run_silence_seconds":3600}`: {Enforce: true, RunSilence: 3600},
	} {
		if s, err := ParseSwitches([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %+v %v", text, s, err)
		}
	}
	for _, bad := range []string{`{"enforce":1}`, `{"run_silence_seconds":0}`, `{"run_silence_seconds":1209601}`} {
		if _, err := ParseSwitches([]byte(bad)); err == nil {
			t.Errorf("%s is read", bad)
		}
	}
}

func TestParseChecksAndReservations(t *testing.T) {
	app, c, err := ParseEntitlementCheck([]byte(`{"app_id":"a","user_id":"u","tenant_id":null,"plugin":"p","action":"x","feature":"f","limit":"l","needed":3,"model":"m","estimated_tokens":0,"count":true,"other":[1]}`))
	if want := (EntitlementCheck{"u", "", "p", "x", "f", "l", "m", 3, Tokens{}, true, true}); err != nil || app != "a" || c != want {
		t.Errorf("%q %+v %v", app, c, err)
	}
	if _, c, err := ParseEntitlementCheck([]byte(`{}`)); err != nil || c != (EntitlementCheck{Needed: 1}) {
		t.Errorf("%+v %v", c, err)
	}
	app, b, err := ParseBudgetReserve([]byte(`{"app_id":"a","user_id":"u","tenant_id":"t","model":"m","estimated_tokens":30,"estimated_input_tokens":20,"estimated_output_tokens":10,"ttl_seconds":3600,"reservation_id":"r"}`))
	if want := (BudgetReserve{"r", "u", "t", "m", Tokens{30, 20, 10}, 3600}); err != nil || app != "a" || b != want {
		t.Errorf("%q %+v %v", app, b, err)
	}
	if _, b, err := ParseBudgetReserve([]byte(`{"estimated_tokens":0}`)); err != nil || b != (BudgetReserve{TTL: 60}) {
		t.Errorf("%+v %v", b, err)
	}
	if app, e, err := ParseBudgetExtend([]byte(`{"app_id":"a","ttl_seconds":1}`)); err != nil || app != "a" || e.TTL != 1 {
		t.Errorf("%+v %v", e, err)
	}
	schemas := map[string]func(string) *Error{
		"entitlement-check":     func(s string) *Error { _, _, err := ParseEntitlementCheck([]byte(s)); return err },
		"budget-reservation":    func(s string) *Error { _, _, err := ParseBudgetReserve([]byte(s)); return err },
		"reservation-extension": func(s string) *Error { _, _, err := ParseBudgetExtend([]byte(s)); return err },
		"reservation-settlement": func(s string) *Error {
			_, _, err := ParseBudgetSettle([]byte(s))
			return err
		},
	}
	for text, want := range map[string]string{
		`{"estimated_tokens":1}`:                                 "entitlement-check budget-reservation",
		`{"estimated_tokens":-1}`:                                "",
		`{"estimated_tokens":1,"ttl_seconds":0}`:                 "entitlement-check",
		`{"estimated_tokens":1,"ttl_seconds":3601}`:              "entitlement-check",
		`{"estimated_tokens":9007199254740992}`:                  "",
		`{"estimated_tokens":null}`:                              "entitlement-check",
		`{"ttl_seconds":5}`:                                      "entitlement-check reservation-extension",
		`{"needed":-1}`:                                          "",
		`{"needed":0,"count":null}`:                              "entitlement-check",
		`{"count":1}`:                                            "",
		`{"user_id":""}`:                                         "",
		`{"event_id":"e","input_tokens":1,"output_tokens":2}`:    "entitlement-check reservation-settlement",
		`{"event_id":"e","input_tokens":1}`:                      "entitlement-check",
		`{"event_id":"e","input_tokens":1,"output_tokens":null}`: "entitlement-check",
		`{"event_id":null,"input_tokens":1,"output_tokens":2}`:   "entitlement-check",
		`{"event_id":"e","input_tokens":1,"output_tokens":2,"model":null,"user_id":null,"timestamp":null,"app_id":null,"cost":"1.5"}`: "entitlement-check reservation-settlement",
		`{"event_id":"e","input_tokens":1,"output_tokens":2,"model":""}`:                                                              "",
		`{"event_id":"e","input_tokens":1,"output_tokens":2,"total_tokens":1000000001}`:                                               "entitlement-check",
		`[]`: "",
	} {
		var taken []string
		for _, name := range []string{"entitlement-check", "budget-reservation", "reservation-extension", "reservation-settlement"} {
			err := schemas[name](text)
			if err == nil {
				taken = append(taken, name)
			} else if err.Code != CodeValidation || len(err.Fields) == 0 {
				t.Errorf("%s %s: %+v", name, text, err)
			}
			if verdict := compile(t, name+".json", nil, "").Validate(unmarshal(t, []byte(text))); (verdict == nil) != (err == nil) {
				t.Errorf("%s %s: the parser says %v, the schema %v", name, text, err, verdict)
			}
		}
		if got := strings.Join(taken, " "); got != want {
			t.Errorf("%s is taken as %q, want %q", text, got, want)
		}
	}
}

func TestParseBudgetSettle(t *testing.T) {
	app, b, err := ParseBudgetSettle([]byte(`{"app_id":"a","event_id":"e","timestamp":"1970-01-01T00:00:01Z","model":"m","input_tokens":3,"output_tokens":4,"cost":"0.5","metadata":{"b":1,"a":2}}`))
	want := BudgetSettle{Event: UsageEvent{EventID: "e", Timestamp: second, Model: "m", InputTokens: 3, OutputTokens: 4, TotalTokens: 7, Cost: 500_000_000, Metadata: []byte(`{"a":2,"b":1}`)}, Timed: true}
	if err != nil || app != "a" {
		t.Fatal(app, err)
	}
	if d := cmp.Diff(want, b); d != "" {
		t.Error(d)
	}
	if _, b, err := ParseBudgetSettle([]byte(`{"event_id":"e","input_tokens":3,"output_tokens":4,"timestamp":null}`)); err != nil || b.Timed {
		t.Errorf("%+v %v", b, err)
	}
	for text, code := range map[string]Code{
		`{"event_id":"e","input_tokens":3,"output_tokens":4,"total_tokens":6}`:         CodeTotalBelowSum,
		`{"event_id":"e","input_tokens":3,"output_tokens":4,"model":null,"model":"m"}`: CodeInvalidJSON,
		`{"event_id":"e","input_tokens":3,"output_tokens":4,"model":"m","model":null}`: CodeInvalidJSON,
		`{"event_id":"e","input_tokens":3,"output_tokens":4,"event_id":"e"}`:           CodeInvalidJSON,
		`{"event_id":"e","input_tokens":3,"output_tokens":4,"timestamp":"yesterday"}`:  CodeValidation,
		`{`: CodeInvalidJSON,
	} {
		if _, _, err := ParseBudgetSettle([]byte(text)); err == nil || err.Code != code {
			t.Errorf("%s: %v, want %s", text, err, code)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, s := range []string{fullManifest, notesRules, `{"userId":"u","plan":"pro","status":"x","trialEndDate":"2026-02-28"}`, `{"subscription_plans":[{"name":"a"}]}`, `{"version":"1.1","app_id":"a","plan":{"tier":"free"}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseManifest(data); err == nil {
			again, err := ParseManifest(m.Content)
			if err != nil || again.Digest != m.Digest {
				t.Fatalf("its own content: %v", err)
			}
			if d := cmp.Diff(m, again, equalBudgets); d != "" {
				t.Fatal(d)
			}
		} else if err.Code == CodeValidation && len(err.Fields) == 0 {
			t.Fatalf("no field is named: %v", err)
		}
		if s, _, err := ParseSubscription(data); err == nil && s != nil {
			if _, err := s.ManifestOf("a", nil); err != nil {
				t.Fatalf("a subscription that makes no manifest: %v", err)
			}
		}
		_, _ = ParseCatalogue(data)
		_ = ParsePluginConfig("p", data)
		_, _, _ = ParseEntitlementCheck(data)
		_, _, _ = ParseBudgetReserve(data)
		_, _, _ = ParseBudgetSettle(data)
	})
}
