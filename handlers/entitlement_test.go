package handlers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// A manifest that is sent again is the same answer and nothing else; an older one
// changes nothing.
func TestSyncAgain(t *testing.T) {
	w := newEntitled(t)
	first := w.syncText(`{"version":"1.1","app_id":"a","plan":{"tier":"free"}}`)
	w.now += int64(time.Hour)
	second := w.syncText(`{"version":"1.1","app_id":"a","plan":{"tier":"pro"},"correlation_id":"x"}`)
	w.told()
	w.now += int64(time.Hour)
	again := w.syncText(`{"version":"1.1","app_id":"a","plan":{"tier":"pro"},"revision":2}`)
	want(t, "again", string(again.Body), string(second.Body))
	if !strings.Contains(string(again.Body), `"synced_at":"2026-03-01T13:00:00Z","previous_tier":"free","new_tier":"pro","revision":2`) {
		t.Errorf("answered %s", again.Body)
	}
	wantTold(t, w.told())
	if o := w.syncText(`{"version":"1.1","app_id":"a","plan":{"tier":"free"},"revision":2}`); o.Code != schemas.CodeStaleRevision {
		t.Errorf("stale: %s", o.Code)
	}
	wantTold(t, w.told(), "command.refused app/a STALE_REVISION")
	v := w.view(Question{AppID: "a", AsOf: testNow + int64(time.Minute)})
	if len(v.Layers) != 1 || v.Layers[0].Manifest.Plan.Tier != schemas.TierFree || v.Layers[0].Revision != 1 {
		t.Errorf("as of the first hour: %+v", v.Layers)
	}
	if v := w.view(Question{AppID: "a", AsOf: testNow - 1}); len(v.Layers) != 0 {
		t.Errorf("before the first: %+v", v.Layers)
	}
	_ = first
}

// The same facts by either body lead to the same decisions.
func TestLegacyAndManifestAgree(t *testing.T) {
	decide := func(send func(*entitled)) string {
		w := newEntitled(t)
		w.config(schemas.ConfigSwitches, `{"monetization":true,"enforce":true}`)
		w.config(schemas.ConfigCatalogue, `{"subscription_plans":[{"name":"gold","tier":"pro","plugins_unlocked":["story"]},{"name":"free","plugins_unlocked":[]}],"settings":{"default_plan":"free"}}`)
		send(w)
		var list []string
		for _, plugin := range []string{"story", "other"} {
			for _, user := range []string{"u", "v"} {
				_, d := w.check(schemas.EntitlementCheck{UserID: user, Plugin: plugin, Needed: 1, Count: true})
				list = append(list, fmt.Sprint(plugin, " ", user, " ", d.Allowed, " ", d.Reason, " ", d.Detail))
			}
		}
		return strings.Join(list, "\n")
	}
	for _, status := range []string{"active", "cancelled", "paused"} {
		legacy := decide(func(w *entitled) {
			sub, _, err := schemas.ParseSubscription([]byte(`{"userId":"u","plan":"gold","status":"` + status + `"}`))
			if err != nil {
				t.Fatal(err)
			}
			o := w.do(schemas.SyncSubscription.Name, "a", (&schemas.SubscriptionSync{Subscription: sub}).EncodePayload(nil))
			want(t, "answer", string(o.Body), `{"success":true,"user_id":"u","plan":"gold","status":"`+status+`"}`)
		})
		named := map[string]string{"active": "active", "cancelled": "canceled", "paused": "past_due"}[status]
		manifest := decide(func(w *entitled) {
			w.syncText(`{"version":"1.1","app_id":"a","user_id":"u","plan":{"name":"gold","tier":"pro","status":"` + named + `"}}`)
		})
		want(t, status, legacy, manifest)
	}
}

// The manifest below an app gives what the app's own does not have, in the partition of
// the app alone.
func TestManifestBelow(t *testing.T) {
	w := newEntitled(t)
	below := func(limit int) string {
		return fmt.Sprintf(`{"source":"file","manifest":{"version":"1.1","app_id":"a","plan":{"tier":"free"},"token_budget":{"period":"daily","total_tokens":{"limit":%d,"enforcement":"hard"}}}}`, limit)
	}
	w.used("u", "", "m", 30, testNow)
	w.config(schemas.ConfigManifest, below(100))
	want(t, "below", w.counters(wholeApp), "total_tokens 03-01T00 used 30 imported 0 reserved 0 carry 0")
	if o := w.reserve("r", "", "", "", 71, 60); o.Code != schemas.CodeBudgetExceeded {
		t.Errorf("beyond it: %s", o.Code)
	}
	w.sync(monthly)
	want(t, "its own", w.counters(wholeApp), "total_tokens 03-01T00 used 30 imported 0 reserved 0 carry 0")
	if o := w.reserve("r", "", "", "", 71, 60); o.Code != "" {
		t.Errorf("its own: %s", o.Code)
	}
	w.sync("")
	want(t, "below again", w.counters(wholeApp), "total_tokens 03-01T00 used 30 imported 0 reserved 71 carry 0")
	w.config(schemas.ConfigManifest, `{"source":"file","manifest":null}`)
	want(t, "none, to the end of the day", w.counters(wholeApp), "total_tokens 03-01T00 used 30 imported 0 reserved 71 carry 0")
	if v := w.view(Question{AppID: "a"}); len(v.Counters) != 0 {
		t.Errorf("a view has %+v", v.Counters)
	}
	w.release("r")
	w.now += int64(24 * time.Hour)
	w.tickNow()
	want(t, "none", w.counters(wholeApp), "")
	w.recounted()

	s := openStore(t, t.TempDir()+"/s.db", 1-schemas.PartitionOf("a", 2), 2, 300)
	defer s.Close()
	applyGroups(t, s, [][]schemas.CommandFrame{{ownFrame(schemas.ConfigSet.Name, testNow, schemas.NewConfigChange(schemas.ConfigManifest, []byte(below(5))).EncodePayload(nil))}}, 1)
	if err := s.Look(func(l *store.Look) error {
		b, err := l.Budget("a", wholeApp)
		if b != nil {
			t.Errorf("a partition has counters of an app that is not its own: %+v", b)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// A check that counts is bounded by the window of its scope, and by leases that end by
// themselves; what is told of it is told once.
func TestCountedChecks(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"rate_limits":{"requests_per_minute":2,"concurrent_workflows":1},"features":{"off":false}`)
	w.told()
	ask := func(c schemas.EntitlementCheck) schemas.CheckData {
		t.Helper()
		c.Count, c.Needed = true, 1
		_, d := w.check(c)
		return d
	}
	rate := schemas.EntitlementCheck{Limit: "requests_per_minute"}
	for i, allowed := range []bool{true, true, false, false} {
		if d := ask(rate); d.Allowed != allowed {
			t.Errorf("request %d: %+v", i, d)
		}
	}
	wantTold(t, w.told(), "entitlement.consumed app/a", "entitlement.limit_reached app/a requests_per_minute", "entitlement.consumed app/a")
	w.now += int64(61 * time.Second)
	run := schemas.EntitlementCheck{Limit: "concurrent_workflows"}
	if d := ask(run); !d.Allowed {
		t.Errorf("the first run: %+v", d)
	}
	if d := ask(run); d.Allowed || d.ResetsAt == nil || *d.ResetsAt != schemas.InstantText(w.now+entitlements.LeaseFor) {
		t.Errorf("the second: %+v", d)
	}
	w.told()
	w.now += entitlements.LeaseFor
	if d := ask(run); !d.Allowed {
		t.Errorf("after the first has ended: %+v", d)
	}
	w.now += entitlements.LeaseFor
	w.tickNow()
	w.told()
	for range 2 {
		if d := ask(schemas.EntitlementCheck{Feature: "off"}); d.Allowed || d.Reason != schemas.ReasonFeatureOff {
			t.Errorf("a feature that is off: %+v", d)
		}
		w.now += int64(time.Minute)
	}
	told := w.told()
	wantTold(t, told, "entitlement.feature_blocked app/a off")
	w.config(schemas.ConfigSwitches, `{"monetization":false,"enforce":false}`)
	if d := ask(schemas.EntitlementCheck{Feature: "off"}); !d.Allowed || d.Decision != "hard_reject" {
		t.Errorf("nothing is enforced: %+v", d)
	}
}

// What would be told once is quiet afterwards, so that only the first refusal of a
// period is a command.
func TestQuietRefusals(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"token_budget":{"period":"daily","total_tokens":{"limit":10,"enforcement":"hard"}}`)
	standing := NewStanding(w.store)
	r := schemas.BudgetReserve{ReservationID: "r", Tokens: schemas.Tokens{Total: 11}, TTL: 60}
	quiet := func() bool {
		t.Helper()
		d := entitlements.Reserve(w.view(Question{AppID: "a"}), &r)
		if d.Allowed {
			t.Fatalf("allowed: %+v", d)
		}
		q, err := standing.Quiet("a", &d)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	if quiet() {
		t.Error("quiet before the first")
	}
	if o := w.reserve("r", "", "", "", 11, 60); o.Code != schemas.CodeBudgetExceeded {
		t.Fatal(o)
	}
	if !quiet() {
		t.Error("told twice")
	}
	w.now += int64(24 * time.Hour)
	if quiet() {
		t.Error("quiet in a new period")
	}
}

// A tick ends a bounded number of what is due, and the rest is due for the next.
func TestDueIsBounded(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"token_budget":{"period":"lifetime","total_tokens":{"limit":100000,"enforcement":"hard"}}`)
	var group []schemas.CommandFrame
	for i := range maxDue + 10 {
		r := schemas.BudgetReserve{ReservationID: fmt.Sprint("r", i), Tokens: schemas.Tokens{Total: 1}, TTL: 60}
		group = append(group, w.frame(schemas.ReserveBudget.Name, "a", r.EncodePayload(nil)))
	}
	grant := func(w *entitled) {
		for part := range slices.Chunk(group, 500) {
			w.apply(part...)
		}
	}
	grant(w)
	w.now += int64(time.Minute)
	if o := w.reserve("more", "", "", "", 1, 60); o.Code != schemas.CodeUnavailable {
		t.Errorf("while more is due than one command ends: %s %s", o.Code, o.Detail)
	}
	if o := w.reserve("more", "", "", "", 1, 60); o.Code != "" {
		t.Errorf("then: %s %s", o.Code, o.Detail)
	}
	want(t, "counter", w.counters(wholeApp), "total_tokens always used 0 imported 0 reserved 1 carry 0")

	w = newEntitled(t)
	grant(w)
	w.now += int64(time.Minute)
	w.tickNow()
	if at, _ := w.store.NextDue(); at.IsZero() {
		t.Error("one tick has ended everything")
	}
	w.tickNow()
	if at, _ := w.store.NextDue(); !at.IsZero() {
		t.Errorf("still due: %v", at)
	}
}

// What runs have set aside no other can take; it is used up or given back.
func TestConsumables(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigSwitches, `{"monetization":true,"enforce":true}`)
	w.config(schemas.ConfigPluginPrefix+"story", `{"schema_version":"1.0","plugin":"story","limits":{"items":{"default":5},"size":{"type":"cap","default":3}},"actions":{"make":{"consumes":{"items":2,"size":3}}}}`)
	w.sync("")
	w.told()
	a := &action{AppID: "a", UserID: "u", Plugin: "story", Name: "make", Consumes: map[string]int64{"items": 2}}
	e := &engine{newLibrary()}
	in := func(do func(*books) error) {
		t.Helper()
		w.n++
		n := uint64(len(w.history.groups) + 1)
		w.history.groups = append(w.history.groups, nil)
		if err := w.store.Update(func(tx *store.Tx) error {
			frame := w.frame(schemas.ClockTick.Name, "a", nil)
			tx.Begin(store.Message{Seq: n, StreamCreated: 1, Commands: []schemas.CommandFrame{frame}})
			b := e.open(tx, Command{&frame, 0, tx.Command(&frame)})
			if err := do(b); err != nil {
				return err
			}
			return tx.End()
		}); err != nil {
			t.Fatal(err)
		}
	}
	allowed := func() bool {
		c := &schemas.EntitlementCheck{UserID: "u", Plugin: "story", Action: "make", Needed: 1}
		d := entitlements.Check(w.view(Question{AppID: "a", UserID: "u", Check: c}), c)
		return d.Allowed
	}
	for step, c := range []struct {
		do   func(*books) error
		then bool
	}{
		{func(*books) error { return nil }, true},
		{func(b *books) error { return b.setAside(a) }, true},
		{func(b *books) error { return b.setAside(a) }, false},
		{func(b *books) error { return b.giveBack(a) }, true},
		{func(b *books) error { return b.take(a) }, true},
		{func(b *books) error { return b.setAside(a) }, false},
		{func(b *books) error { return b.take(a) }, false},
	} {
		in(c.do)
		if got := allowed(); got != c.then {
			t.Errorf("step %d: allowed %t", step, got)
		}
	}
	wantTold(t, w.told(), "entitlement.consumed user/u", "entitlement.consumed user/u")
	w.now += int64(31 * 24 * time.Hour)
	if !allowed() {
		t.Error("a new month is not a new month")
	}
}

// Segments with open holds are kept until a tick has ended those.
func TestOpenHoldsKeepTheirSegment(t *testing.T) {
	w := newEntitled(t)
	w.tickNow()
	w.sync(monthly)
	w.reserve("r", "", "", "", 10, 3600)
	for range 40 * 24 {
		w.now += int64(time.Hour)
		if w.now < testNow+10*24*int64(time.Hour) {
			w.extend("r", 3600)
		}
		w.tickNow()
		w.published()
	}
	if before, ok, err := w.store.Expirable(); err != nil || !ok {
		t.Fatalf("nothing expires: %v %v", ok, err)
	} else if o := w.world.expire(w.now, before); o.Code != "" {
		t.Fatalf("%s %s", o.Code, o.Detail)
	}
	if o := w.release("r"); o.Code != schemas.CodeNotFound {
		t.Errorf("the hold of an expired segment: %s", o.Code)
	}
	want(t, "counter", w.counters(wholeApp), "total_tokens 03-01T00 used 0 imported 0 reserved 0 carry 0")

	w = newEntitled(t)
	w.tickNow()
	w.reserve("r", "", "", "", 10, 3600)
	far := testNow + 60*24*int64(time.Hour)
	if o := w.world.own(schemas.SegmentExpire.Name, far, (&schemas.SegmentExpiry{Before: testNow + 1}).EncodePayload(nil)); o.Code != schemas.CodeSegmentKept {
		t.Errorf("with an open hold: %q %s", o.Code, o.Detail)
	}
	w.recounted()
}

// What cannot be read makes a check fail, which refuses under hard and is flagged
// otherwise (contract §5.2.12); it poisons no command.
func TestCheckThatFails(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigCatalogue, `{"subscription_plans":5}`)
	if o := w.reserve("r", "u", "", "", 1, 60); !strings.Contains(string(o.Body), `"decision":"warn","reason":"check_failed"`) {
		t.Errorf("without a hard budget: %s %s", o.Code, o.Body)
	}
	w.sync(monthly)
	if o := w.reserve("s", "u", "", "", 1, 60); o.Code != schemas.CodeUnavailable {
		t.Errorf("with one: %s %s", o.Code, o.Body)
	}
	sub, _, err := schemas.ParseSubscription([]byte(`{"userId":"u","plan":"gold","status":"active"}`))
	if err != nil {
		t.Fatal(err)
	}
	if o := w.do(schemas.SyncSubscription.Name, "a", (&schemas.SubscriptionSync{Subscription: sub}).EncodePayload(nil)); o.Code != schemas.CodeUnavailable {
		t.Errorf("a subscription without its catalogue: %s %s", o.Code, o.Body)
	}
}

// The calls of a plugin are none of its consumables, whatever those are called.
func TestCallsAndConsumables(t *testing.T) {
	w := newEntitled(t)
	w.config(schemas.ConfigSwitches, `{"monetization":true,"enforce":true}`)
	w.config(schemas.ConfigPluginPrefix+"p", `{"schema_version":"1.0","plugin":"p","limits":{"calls":{"default":2,"reset":"daily"}},"actions":{"run":{"consumes":{"calls":1}}}}`)
	w.syncText(`{"version":"1.1","app_id":"a","user_id":"u","plan":{"tier":"pro"},"plugins":{"per_plugin_limits":{"p":{"calls_per_period":4,"period":"daily"}}}}`)
	for i := range 6 { // none of them consumes: only executions do
		if _, d := w.check(schemas.EntitlementCheck{UserID: "u", Plugin: "p", Action: "run", Needed: 1, Count: true}); d.Allowed != (i < 4) {
			t.Errorf("check %d: %s %s", i, d.Reason, d.Detail)
		}
	}
}
