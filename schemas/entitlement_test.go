package schemas

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const day = 24 * hour

// goldenInstant is 2026-03-20T09:46:40.123456789Z.
const goldenInstant = int64(1_774_000_000_123_456_789)

func goldenManifest(t testing.TB) *Manifest {
	t.Helper()
	m, err := ParseManifest([]byte(fullManifest))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// entitlementSamples has data of the facts about entitlements.
func entitlementSamples() map[string]func([]byte) []byte {
	ends := goldenInstant + day
	m := &Manifest{AppID: "app-1", UserID: "u \"1\"", TenantID: "t", Version: "1.1", Source: "platform", Plan: Plan{Name: "Pro", Tier: TierPro, Status: PlanTrialing, ExpiresAt: &ends}}
	synced := SyncedFact(m, TierFree, 7, goldenInstant)
	synced.UnknownStatus = true
	user := Scope{ScopeUser, "u \"1\""}
	c := Counter{Allocation: ModelAllocation("gpt-4"), Period: PeriodMonthly, Start: goldenInstant, End: ends, Used: 1010, Imported: 3, Reserved: 20, Carry: 5, Told: 7}
	endless := Counter{Allocation: AllocationTotal, Period: PeriodLifetime, Used: -1}
	j := &Judgement{Name: "items", Scope: user, Says: VerdictHard, Because: ReasonFeatureOff, Limited: true, Limit: 5, Used: 5, Needed: 1, ResetsAt: ends}
	next := c
	next.Used, next.Carry = 0, 12
	return map[string]func([]byte) []byte{
		EntitlementSynced.Name:   synced.AppendJSON,
		SubscriptionChanged.Name: SubscriptionFact(m, &Plan{ID: "free", Tier: TierFree, Status: PlanActive}).AppendJSON,
		EntitlementConsumed.Name: (&EntitlementConsumedData{AppID: "app-1", UserID: "u", TenantID: "t", Plugin: "notes", Action: "create", Consumed: map[string]int64{"b": 2, "a": 1}}).AppendJSON,
		EntitlementLimit.Name:    LimitFact("app-1", "notes", j).AppendJSON,
		EntitlementBlocked.Name:  FeatureFact("app-1", "", j).AppendJSON,
		EntitlementReset.Name:    ResetFact("app-1", Scope{Kind: ScopeApp}, []Counter{c}, []Counter{next}).AppendJSON,
		BudgetReached.Name:       BudgetFact("app-1", user, &c, 90, 1000, 1100, EnforceHard).AppendJSON,
		BudgetCleared.Name:       BudgetFact("app-1", Scope{ScopeTenant, "t"}, &endless, 75, 1000, 1000, EnforceNone).AppendJSON,
		BudgetExceeded.Name:      BudgetFact("app-1", Scope{Kind: ScopeApp}, &c, 0, 1000, 1000, EnforceSoft).AppendJSON,
		BudgetExpired.Name: ExpiredFact(&Hold{
			ID: "r \"1\"", AppID: "app-1", UserID: "u", TenantID: "t", Model: "gpt-4", Tokens: Tokens{30, 20, 10}, GrantedAt: goldenInstant, ExpiresAt: ends,
		}).AppendJSON,
	}
}

func TestEntitlementFactsFollowTheirSchemas(t *testing.T) {
	types := map[string]struct {
		schema string
		data   any
	}{
		EntitlementSynced.Name:   {"entitlement.synced", EntitlementSyncedData{}},
		SubscriptionChanged.Name: {"subscription.changed", SubscriptionChangedData{}},
		EntitlementConsumed.Name: {"entitlement.consumed", EntitlementConsumedData{}},
		EntitlementLimit.Name:    {"entitlement.limit_reached", LimitReachedData{}},
		EntitlementBlocked.Name:  {"entitlement.feature_blocked", FeatureBlockedData{}},
		EntitlementReset.Name:    {"entitlement.period_reset", PeriodResetData{}},
		BudgetReached.Name:       {"budget-standing", BudgetStandingFact{}},
		BudgetCleared.Name:       {"budget-standing", BudgetStandingFact{}},
		BudgetExceeded.Name:      {"budget-standing", BudgetStandingFact{}},
		BudgetExpired.Name:       {"budget.reservation_expired", ReservationExpiredData{}},
	}
	for kind, data := range entitlementSamples() {
		want := types[kind]
		checkAnswer(t, want.schema, reflect.TypeOf(want.data))
		if err := compile(t, want.schema+".json", nil, "").Validate(unmarshal(t, data(nil))); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
	checkStruct(t, "allocation-reset", readJSON(t, JSONSchema("allocation-reset")), reflect.TypeFor[AllocationResetData]())
}

// Optional fields are left out, and a threshold that is none is one of them.
func TestEntitlementFactsLeaveOutWhatIsAbsent(t *testing.T) {
	bare := &Manifest{AppID: "a", Version: "1.0", Plan: Plan{Tier: TierFree, Status: PlanActive}}
	for text, data := range map[string]interface{ AppendJSON([]byte) []byte }{
		`{"app_id":"a","version":"1.0","revision":1,"new_tier":"free","plan_status":"active","synced_at":"1970-01-01T00:00:01Z"}`:                                                                       SyncedFact(bare, "", 1, second),
		`{"app_id":"a","plan":"free","tier":"free","status":"active"}`:                                                                                                                                  SubscriptionFact(bare, nil),
		`{"app_id":"a","scope":"app","scope_id":"a","allocation":"","period":"lifetime","period_start":null,"resets_at":null,"limit":1,"effective_limit":2,"used":0,"reserved":0,"enforcement":"none"}`: BudgetFact("a", Scope{Kind: ScopeApp}, &Counter{Period: PeriodLifetime}, 0, 1, 2, EnforceNone),
	} {
		if got := string(data.AppendJSON(nil)); got != text {
			t.Errorf("%s\nwant %s", got, text)
		}
	}
	if f := SubscriptionFact(bare, &bare.Plan); f != nil {
		t.Errorf("the same plan is a change: %+v", f)
	}
}

const second = int64(1e9)

func TestAnswersAreTheirGoTypes(t *testing.T) {
	for name, value := range map[string]any{
		"synced": SyncedData{}, "subscription-synced": SubscriptionSyncedData{}, "judgement": JudgementData{},
		"reservation-granted": ReservedData{}, "reservation-settled": SettledData{}, "reservation-extended": ExtendedData{},
		"reservation-released": ReleasedData{}, "allocation-standing": AllocationStandingData{}, "budget-scope": BudgetStandingData{},
		"live-allocation": AllocationData{}, "live-budget": BudgetData{}, "effective-plan": PlanData{},
		"effective-overrides": OverridesData{}, "effective-plugins": PluginRulesData{},
		"check-result": CheckData{}, "entitlements": EntitlementsData{},
	} {
		checkAnswer(t, name, reflect.TypeOf(value))
	}
}

// checkAnswer is checkStruct for what has fields that may be null.
func checkAnswer(t *testing.T, name string, typ reflect.Type) {
	t.Helper()
	schema := readJSON(t, JSONSchema(name))
	for _, p := range schema["properties"].(map[string]any) {
		if m, ok := p.(map[string]any); ok {
			if list, ok := m["type"].([]any); ok {
				m["type"] = list[0]
			}
		}
	}
	checkStruct(t, name, schema, typ)
}

func TestAnswersFollowTheirSchemas(t *testing.T) {
	h := Hold{ID: "r", AppID: "a", ExpiresAt: goldenInstant, Settled: Tokens{Total: 9}}
	j := Judgement{Rule: "5.2.8", Name: AllocationTotal, Scope: Scope{Kind: ScopeApp}, Revision: 2, Limited: true, Limit: 100, Used: 10, Reserved: 20, Remaining: 70, Needed: 30, ResetsAt: goldenInstant, Because: ReasonAllowed}
	low := j
	low.Below, low.Says = true, VerdictHard
	bare := Judgement{Rule: "5.2.4", Because: ReasonNotListed}
	d := Decision{Allowed: true, Reason: ReasonAllowed, Judgement: j, Judgements: []Judgement{j, low, bare}, WouldConsume: map[string]int64{"items": 1}}
	none := Decision{Allowed: true, Reason: ReasonAllowed}
	sub, _, err := ParseSubscription([]byte(`{"userId":"u","plan":"Gold","status":"Cancelled"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ schema, text, want string }{
		{"synced", string(AppendSynced(nil, goldenManifest(t), "", 3, goldenInstant)), `{"status":"synced","app_id":"app_1","user_id":"user_1","tenant_id":"tenant_1","synced_at":"2026-03-20T09:46:40.123456789Z","previous_tier":null,"new_tier":"pro","revision":3,"error":null}`},
		{"subscription-synced", string(AppendSubscriptionSynced(nil, sub)), `{"success":true,"user_id":"u","plan":"Gold","status":"Cancelled"}`},
		{"check-result", string(d.AppendCheck(nil, "a", false)), `{"allowed":true,"decision":"allow","reason":"allowed","scope":"app","scope_id":"a","name":"total_tokens","limit":100,"used":10,"reserved":20,"remaining":70,"resets_at":"2026-03-20T09:46:40.123456789Z","would_consume":{"items":1}}`},
		{"check-result", string(none.AppendCheck(nil, "a", true)), `{"allowed":true,"decision":"allow","reason":"allowed","scope":null,"scope_id":null,"name":null,"limit":null,"used":null,"reserved":null,"remaining":null,"resets_at":null,"would_consume":{}}`},
		{"check-result", string(d.AppendCheck(nil, "a", true)), ""},
		{"reservation-granted", string(AppendReserved(nil, &h, &d)), `{"reservation_id":"r","expires_at":"2026-03-20T09:46:40.123456789Z","decision":"allow","reason":"allowed","scope":"app","scope_id":"a","name":"total_tokens","limit":100,"used":10,"reserved":50,"remaining":40,"resets_at":"2026-03-20T09:46:40.123456789Z"}`},
		{"reservation-settled", string(AppendSettled(nil, &h, 3, true, VerdictSoft)), `{"reservation_id":"r","status":"settled","settled_tokens":9,"excess":3,"late":true,"decision":"soft_reject"}`},
		{"reservation-extended", string(AppendExtended(nil, &h)), `{"reservation_id":"r","expires_at":"2026-03-20T09:46:40.123456789Z"}`},
		{"reservation-released", string(AppendReleased(nil, &h)), `{"reservation_id":"r","status":"released"}`},
		{"entitlements", string(neverSynced("a")), `{"app_id":"a","plan":{"name":"Open Source","tier":"unlimited"},"token_budget":{"period":"unlimited","total_tokens":{"limit":-1,"used":0,"enforcement":"none"}},"features":{},"rate_limits":{},"synced_at":null}`},
	} {
		if c.want != "" && c.text != c.want {
			t.Errorf("%s\n%s\nwant\n%s", c.schema, c.text, c.want)
		}
		if err := compile(t, c.schema+".json", nil, "").Validate(unmarshal(t, []byte(c.text))); err != nil {
			t.Errorf("%s: %v", c.text, err)
		}
	}
}

func neverSynced(app string) []byte {
	e := NeverSynced(app)
	return e.AppendJSON(nil)
}

func TestScopeAndNames(t *testing.T) {
	for text, got := range map[string]interface{ String() string }{
		"user": ScopeUser, "unknown": ScopeKind(0), "monthly": PeriodMonthly, "hard": EnforceHard, "soft_reject": VerdictSoft,
	} {
		if got.String() != text {
			t.Errorf("%v, want %s", got, text)
		}
	}
	if Period(0).String() != "unknown" || Enforcement(9).String() != "unknown" || Verdict(9).String() != "unknown" || PeriodNamed("yearly") != 0 || PeriodNamed("") != 0 || PeriodNamed("daily") != PeriodDaily {
		t.Error("a name for what is none")
	}
	tokens := Tokens{30, 20, 10}
	for allocation, want := range map[string]int64{AllocationTotal: 30, AllocationInput: 20, AllocationOutput: 10, ModelAllocation("m"): 30, ModelAllocation("n"): 0, ModelAllocation(""): 0, "x": 0} {
		if got := tokens.Amount(allocation, "m"); got != want {
			t.Errorf("%s: %d, want %d", allocation, got, want)
		}
	}
	if got := tokens.Amount(ModelAllocation(""), ""); got != 0 {
		t.Errorf("tokens of no model count %d", got)
	}
}

// payload is what every command's payload can do.
type payload interface {
	EncodePayload([]byte) []byte
	DecodePayload([]byte) error
}

func goldenPayloads(t testing.TB) map[string]payload {
	sub, _, err := ParseSubscription([]byte(`{"userId":"u","plan":"Gold","status":"active","pluginTiers":{"notes":"pro"}}`))
	if err != nil {
		t.Fatal(err)
	}
	event := goldenUsageEvents()[0]
	event.AppID, event.Index = "", 0
	return map[string]payload{
		"entitlement_sync":  &ManifestSync{goldenManifest(t)},
		"subscription_sync": &SubscriptionSync{sub},
		"budget_reserve":    &BudgetReserve{"r-1", "u", "t", "gpt-4", Tokens{30, 20, 10}, 60},
		"budget_settle":     &BudgetSettle{"r-1", event, true},
		"budget_extend":     &BudgetExtend{"r-1", 3600},
		"budget_release":    &BudgetRelease{"r-1"},
		"entitlement_check": &EntitlementCheck{"u", "t", "notes", "create", "canvas", "items", "gpt-4", 2, Tokens{300, 20, 10}, true, true},
	}
}

func TestEntitlementPayloads(t *testing.T) {
	for name, want := range goldenPayloads(t) {
		form := want.EncodePayload(nil)
		goldenBytes(t, name+"_payload_v1.golden", form)
		got := reflect.New(reflect.TypeOf(want).Elem()).Interface().(payload)
		if err := got.DecodePayload(form); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if d := cmp.Diff(want, got, equalEvents, equalBudgets); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		if err := got.DecodePayload(append([]byte("\x02"), form[1:]...)); err == nil {
			t.Errorf("%s: another form is read", name)
		}
		if err := got.DecodePayload(append(form[:len(form):len(form)], 0)); err == nil {
			t.Errorf("%s: a byte more is read", name)
		}
		for n := range form {
			if err := got.DecodePayload(form[:n]); err == nil {
				t.Errorf("%s: cut to %d bytes it is read", name, n)
			}
		}
	}
}

func TestEntitlementPayloadsThatCannotBe(t *testing.T) {
	text := func(s string) string { return string(appendText(nil, s)) }
	for name, c := range map[string]struct {
		into payload
		form string
	}{
		"no reservation":                       {&BudgetRelease{}, "\x01\x00"},
		"no seconds":                           {&BudgetExtend{}, "\x01\x01r\x00"},
		"too many seconds":                     {&BudgetExtend{}, "\x01\x01r\x91\x1c"},
		"negative tokens":                      {&BudgetReserve{}, "\x01\x01r\x00\x00\x00" + strings.Repeat("\xff", 9) + "\x01\x00\x00\x3c"},
		"unknown flag":                         {&EntitlementCheck{}, "\x01\x04" + strings.Repeat("\x00", 11)},
		"manifest is none":                     {&ManifestSync{}, "\x01" + text(`{}`)},
		"no JSON":                              {&ManifestSync{}, "\x01" + text(`{`)},
		"it is a manifest":                     {&SubscriptionSync{}, "\x01" + text(fullManifest)},
		"settled by nothing":                   {&BudgetSettle{}, string(AppendUsageBlock([]byte("\x01\x01r\x00"), 0, nil))},
		"settled by two":                       {&BudgetSettle{}, string(encodeBlock([]byte("\x01\x01r\x00"), goldenUsageEvents()[:2]))},
		"settled by a total":                   {&BudgetSettle{}, string(encodeBlock([]byte("\x01\x01r\x00"), []UsageEvent{{EventID: "e", Summary: true}}))},
		"neither with a timestamp nor without": {&BudgetSettle{}, string(encodeBlock([]byte("\x01\x01r\x02"), []UsageEvent{{EventID: "e"}}))},
	} {
		if err := c.into.DecodePayload([]byte(c.form)); err == nil {
			t.Errorf("%s: is read as %+v", name, c.into)
		}
	}
}

func TestSettledEvent(t *testing.T) {
	h := &Hold{AppID: "a", UserID: "u", TenantID: "t", Model: "m"}
	given := UsageEvent{EventID: "e", UserID: "v", TenantID: "s", Model: "n", Timestamp: 5}
	for name, c := range map[string]struct {
		settle BudgetSettle
		hold   *Hold
		want   UsageEvent
	}{
		"nothing given":    {BudgetSettle{Event: UsageEvent{EventID: "e"}}, h, UsageEvent{EventID: "e", AppID: "a", UserID: "u", TenantID: "t", Model: "m", Timestamp: 9}},
		"all given":        {BudgetSettle{Event: given, Timed: true}, h, UsageEvent{EventID: "e", AppID: "a", UserID: "v", TenantID: "s", Model: "n", Timestamp: 5}},
		"at the very zero": {BudgetSettle{Event: UsageEvent{EventID: "e"}, Timed: true}, h, UsageEvent{EventID: "e", AppID: "a", UserID: "u", TenantID: "t", Model: "m"}},
		"no model at all":  {BudgetSettle{Event: UsageEvent{EventID: "e"}}, &Hold{AppID: "a", UserID: "u"}, UsageEvent{EventID: "e", AppID: "a", UserID: "u", Model: ModelUnknown, Timestamp: 9}},
	} {
		if d := cmp.Diff(c.want, c.settle.SettledEvent(c.hold, 9)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestReserveAndCheckPayloadsSurvive(t *testing.T) {
	text := rapid.StringN(0, MaxIDChars, -1)
	limited := rapid.Int64Range(0, MaxLimit)
	rapid.Check(t, func(t *rapid.T) {
		tokens := Tokens{limited.Draw(t, "total"), limited.Draw(t, "input"), limited.Draw(t, "output")}
		b := BudgetReserve{"r" + text.Draw(t, "id"), text.Draw(t, "user"), text.Draw(t, "tenant"), text.Draw(t, "model"), tokens, rapid.Int64Range(1, MaxHoldSeconds).Draw(t, "ttl")}
		c := EntitlementCheck{Needed: limited.Draw(t, "needed"), Tokens: tokens, Asked: rapid.Bool().Draw(t, "asked"), Count: rapid.Bool().Draw(t, "count")}
		for _, s := range c.texts() {
			*s = text.Draw(t, "text")
		}
		var b2 BudgetReserve
		var c2 EntitlementCheck
		if err := b2.DecodePayload(b.EncodePayload(nil)); err != nil || b2 != b {
			t.Fatalf("%v: %+v, want %+v", err, b2, b)
		}
		if err := c2.DecodePayload(c.EncodePayload(nil)); err != nil || c2 != c {
			t.Fatalf("%v: %+v, want %+v", err, c2, c)
		}
	})
}

func FuzzDecodeEntitlementPayloads(f *testing.F) {
	for _, p := range goldenPayloads(f) {
		for _, b := range hostileSeeds(p.EncodePayload(nil)) {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range []payload{&ManifestSync{}, &SubscriptionSync{}, &BudgetReserve{}, &BudgetSettle{}, &BudgetExtend{}, &BudgetRelease{}, &EntitlementCheck{}} {
			if p.DecodePayload(data) != nil {
				continue
			}
			if s, ok := p.(*BudgetSettle); ok {
				s.Event.DurationSec += 0
			}
			again := reflect.New(reflect.TypeOf(p).Elem()).Interface().(payload)
			if err := again.DecodePayload(p.EncodePayload(nil)); err != nil {
				t.Fatalf("%T: %v", p, err)
			}
			if !reflect.DeepEqual(p, again) {
				if d := cmp.Diff(p, again, equalEvents, equalBudgets); d != "" {
					t.Fatalf("%T: %s", p, d)
				}
			}
		}
	})
}
