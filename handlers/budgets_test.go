package handlers

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

const monthly = `,"token_budget":{"period":"monthly","total_tokens":{"limit":1000,"enforcement":"hard"}}`

// From a sync over usage to a hold and its settlement, the counter is what usage sums
// up to, and the reservation what is open.
func TestBudgetFromSyncToSettlement(t *testing.T) {
	w := newEntitled(t)
	w.used("u", "", "m", 100, testNow) // before the first manifest: it counts
	o := w.sync(monthly)
	want(t, "answer", string(o.Body), `{"status":"synced","app_id":"a","user_id":null,"tenant_id":null,"synced_at":"2026-03-01T12:00:00Z","previous_tier":null,"new_tier":"pro","revision":1,"error":null}`)
	want(t, "made", w.counters(wholeApp), "total_tokens 03-01T00 used 100 imported 0 reserved 0 carry 0")
	w.used("u", "", "m", 300, testNow)
	w.used("u", "", "m", 70, testNow-int64(24*time.Hour)) // of February
	want(t, "counted", w.counters(wholeApp), "total_tokens 03-01T00 used 400 imported 0 reserved 0 carry 0")
	wantTold(t, w.told(), "entitlement.synced app/a", "subscription.changed app/a")

	if o := w.reserve("r", "u", "", "m", 601, 60); o.Code != schemas.CodeBudgetExceeded || o.Detail != "Token budget exceeded: 400/1000 tokens used." {
		t.Errorf("one too many: %s %s", o.Code, o.Detail)
	}
	if o := w.reserve("r", "u", "", "m", 600, 60); o.Code != "" {
		t.Fatalf("refused: %s %s", o.Code, o.Detail)
	}
	want(t, "held", w.counters(wholeApp), "total_tokens 03-01T00 used 400 imported 0 reserved 600 carry 0")
	if o := w.reserve("s", "u", "", "m", 1, 60); o.Code != schemas.CodeBudgetExceeded {
		t.Errorf("beyond what is held: %s", o.Code)
	}
	o = w.settle("r", "e", 300, 50)
	want(t, "settled", string(o.Body), `{"reservation_id":"r","status":"settled","settled_tokens":350,"excess":0,"late":false,"decision":"allow"}`)
	want(t, "after it", w.counters(wholeApp), "total_tokens 03-01T00 used 750 imported 0 reserved 0 carry 0")
	if again := w.settle("r", "e", 300, 50); string(again.Body) != string(o.Body) {
		t.Errorf("settled again: %s", again.Body)
	}
	if o := w.settle("r", "f", 300, 50); o.Code != schemas.CodeAlreadySettled {
		t.Errorf("settled with another event: %s", o.Code)
	}
	wantTold(t, w.told(), "entitlement.limit_reached app/a total_tokens", "command.refused reservation/r TOKEN_BUDGET_EXCEEDED",
		"command.refused reservation/s TOKEN_BUDGET_EXCEEDED", "budget.threshold_reached app/a total_tokens 75", "command.refused reservation/r ALREADY_SETTLED")
	w.recounted()
}

// Corrections move a counter in the period of their event, and what is told with it.
func TestBudgetFollowsCorrections(t *testing.T) {
	w := newEntitled(t)
	w.sync(monthly)
	w.used("u", "", "m", 950, testNow)
	w.used("u", "", "m", 60, testNow)
	w.told()
	o := w.do(schemas.UsageVoid.Name, "a", (&schemas.EventVoid{EventID: "e3"}).EncodePayload(nil))
	if o.Code != "" {
		t.Fatal(o)
	}
	want(t, "voided", w.counters(wholeApp), "total_tokens 03-01T00 used 950 imported 0 reserved 0 carry 0")
	wantTold(t, w.told(), "budget.threshold_cleared app/a total_tokens 100")
	w.used("u", "", "m", 60, testNow)
	wantTold(t, w.told(), "budget.threshold_reached app/a total_tokens 100", "budget.exceeded app/a total_tokens")
	w.recounted()
}

// A hold that is due holds nothing: not for a command, nor for a read, nor after a tick.
func TestHoldsExpire(t *testing.T) {
	w := newEntitled(t)
	w.sync(monthly)
	w.reserve("r", "u", "", "", 1000, 60)
	w.told()
	w.now += int64(59 * time.Second)
	if o := w.reserve("s", "u", "", "", 1, 60); o.Code != schemas.CodeBudgetExceeded {
		t.Errorf("held: %s", o.Code)
	}
	w.now += int64(time.Second)
	for key, c := range w.view(Question{AppID: "a"}).Counters {
		if c.Reserved != 0 {
			t.Errorf("a read sees %v: %+v", key, c)
		}
	}
	if at, _ := w.store.NextDue(); at.UnixNano() != w.now {
		t.Errorf("due at %v, want %v", at, time.Unix(0, w.now))
	}
	if o := w.reserve("s", "u", "", "", 1000, 60); o.Code != "" {
		t.Errorf("expired: %s %s", o.Code, o.Detail)
	}
	if o := w.extend("r", 60); o.Code != schemas.CodeReservationOver {
		t.Errorf("extended when expired: %s", o.Code)
	}
	o := w.settle("r", "e", 10, 0)
	want(t, "late", string(o.Body), `{"reservation_id":"r","status":"settled","settled_tokens":10,"excess":0,"late":true,"decision":"hard_reject"}`)
	w.now += int64(time.Hour)
	w.tickNow()
	want(t, "after a tick", w.counters(wholeApp), "total_tokens 03-01T00 used 10 imported 0 reserved 0 carry 0")
	wantTold(t, w.told(), "command.refused reservation/s TOKEN_BUDGET_EXCEEDED",
		"budget.reservation_expired reservation/r", "command.refused reservation/r RESERVATION_CLOSED", "budget.reservation_expired reservation/s")
	if at, _ := w.store.NextDue(); !at.Equal(time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("due at %v, want the end of the month", at)
	}
	w.recounted()
}

// What closes a hold closes it once.
func TestClosedHolds(t *testing.T) {
	w := newEntitled(t)
	for name, do := range map[string]func(id string) schemas.CommandOutcome{
		"settled": func(id string) schemas.CommandOutcome { return w.settle(id, "e-"+id, 1, 0) },
		"release": w.release,
	} {
		id := "r-" + name
		w.reserve(id, "u", "", "m", 5, 60)
		first := do(id)
		if again := do(id); first.Code != "" || string(again.Body) != string(first.Body) {
			t.Errorf("%s: %s %s, again %s %s", name, first.Code, first.Body, again.Code, again.Body)
		}
		if o := w.reserve(id, "u", "", "m", 5, 60); o.Code != schemas.CodeReservationOver {
			t.Errorf("%s, reserved again: %s", name, o.Code)
		}
		if o := w.extend(id, 60); o.Code != schemas.CodeReservationOver {
			t.Errorf("%s, extended: %s", name, o.Code)
		}
	}
	if o := w.settle("r-release", "late", 7, 0); !strings.Contains(string(o.Body), `"excess":2,"late":true`) {
		t.Errorf("settled after the release: %s %s", o.Code, o.Body)
	}
	for name, o := range map[string]schemas.CommandOutcome{"settle": w.settle("none", "e", 1, 0), "extend": w.extend("none", 1), "release": w.release("none")} {
		if o.Code != schemas.CodeNotFound {
			t.Errorf("%s of nothing: %s", name, o.Code)
		}
	}
	w.reserve("open", "u", "", "m", 5, 60)
	if a, b := w.reserve("open", "u", "", "m", 5, 60), w.reserve("open", "v", "", "m", 9, 90); string(a.Body) != string(b.Body) || a.Code != "" {
		t.Errorf("the same answer while it is open: %s, %s", a.Body, b.Body)
	}
	w.now += int64(30 * time.Second)
	want(t, "extended", string(w.extend("open", 3600).Body), `{"reservation_id":"open","expires_at":"2026-03-01T13:00:30Z"}`)
}

// A new period begins at 0 with what is carried over, whoever comes first in it.
func TestPeriodsRoll(t *testing.T) {
	daily := `,"token_budget":{"period":"daily","rollover":true,"total_tokens":{"limit":1000,"enforcement":"hard"}}`
	day := int64(24 * time.Hour)
	for _, c := range []struct {
		name  string
		days  int64
		ahead int64 // used with a stamp ahead of time, in the day after
		by    func(*entitled)
		want  string
		told  []string
	}{
		{"by a tick", 1, 0, (*entitled).tickNow, "total_tokens 03-02T00 used 0 imported 0 reserved 5 carry 600", []string{"entitlement.period_reset app/a"}},
		{"by usage", 1, 0, func(w *entitled) { w.used("u", "", "m", 7, w.now) }, "total_tokens 03-02T00 used 7 imported 0 reserved 5 carry 600", []string{"entitlement.period_reset app/a"}},
		{"by a reservation", 1, 0, func(w *entitled) { w.reserve("s", "", "", "", 9, 60) }, "total_tokens 03-02T00 used 0 imported 0 reserved 14 carry 600", []string{"entitlement.period_reset app/a"}},
		{"what was ahead of time counts", 1, 30, (*entitled).tickNow, "total_tokens 03-02T00 used 30 imported 0 reserved 5 carry 600", []string{"entitlement.period_reset app/a"}},
		{"after two days", 2, 30, (*entitled).tickNow, "total_tokens 03-03T00 used 0 imported 0 reserved 0 carry 970", []string{"entitlement.period_reset app/a"}},
		{"after ten days", 10, 30, (*entitled).tickNow, "total_tokens 03-11T00 used 0 imported 0 reserved 0 carry 1000", []string{"entitlement.period_reset app/a"}},
		{"by another manifest", 1, 0, func(w *entitled) {
			w.sync(strings.Replace(daily, "1000", "2000", 1))
		}, "total_tokens 03-02T00 used 0 imported 0 reserved 5 carry 600", []string{"entitlement.period_reset app/a", "entitlement.synced app/a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newEntitled(t)
			w.sync(daily)
			w.used("u", "", "m", 400, testNow)
			if c.ahead > 0 {
				w.used("u", "", "m", c.ahead, testNow+day)
			}
			midnight := time.Date(2026, 3, 1+int(c.days), 0, 0, 0, 0, time.UTC).UnixNano()
			if c.days == 1 { // a hold that is open over midnight
				w.now = midnight - int64(30*time.Minute)
				w.reserve("r", "", "", "", 5, 3600)
			}
			w.now = midnight
			w.told()
			read := w.view(Question{AppID: "a"}).Counters
			c.by(w)
			want(t, "counter", w.counters(wholeApp), c.want)
			for _, x := range read {
				if got := fmt.Sprint("carry ", x.Carry); !strings.HasSuffix(c.want, got) {
					t.Errorf("a read sees %s", got)
				}
			}
			wantTold(t, w.told(), c.told...)
			w.recounted()
		})
	}
}

// Inside a period what was pushed, carried and told holds, also when a manifest without
// the budget has stood in between.
func TestBudgetComesBack(t *testing.T) {
	const daily = `,"token_budget":{"period":"daily","rollover":true,"total_tokens":{"limit":100,"used":%d,"enforcement":"hard"}}`
	w := newEntitled(t)
	w.now += int64(24 * time.Hour)
	w.sync(fmt.Sprintf(daily, 80))
	w.sync("")
	w.used("u", "", "m", 3, w.now)
	w.sync(fmt.Sprintf(daily, 0))
	want(t, "pushed", w.counters(wholeApp), "total_tokens 03-02T00 used 83 imported 80 reserved 0 carry 0")
	w.now += int64(24 * time.Hour)
	w.sync(fmt.Sprintf(daily, 1))
	w.sync("")
	w.sync(fmt.Sprintf(daily, 0))
	want(t, "carried", w.counters(wholeApp), "total_tokens 03-03T00 used 1 imported 1 reserved 0 carry 17")
	told := w.told()
	if n := strings.Count(strings.Join(told, "\n"), "threshold_reached app/a total_tokens 75"); n != 1 {
		t.Errorf("75%% was told %d times:\n%s", n, strings.Join(told, "\n"))
	}
	w.sync("")
	w.now += int64(24 * time.Hour)
	w.tickNow()
	want(t, "not named in the new period", w.counters(wholeApp), "")
}

// A sync that comes first in a period tells what follows from the new manifest alone.
func TestSyncBeginsAPeriod(t *testing.T) {
	const daily = `,"token_budget":{"period":"daily","total_tokens":{"limit":%d,"enforcement":"hard"},"input_tokens":{"limit":%[1]d}}`
	for limit, told := range map[int][]string{
		100:   {"entitlement.synced app/a", "budget.threshold_reached app/a input_tokens 75", "budget.threshold_reached app/a total_tokens 75"},
		10000: {"entitlement.synced app/a"},
	} {
		w := newEntitled(t)
		w.sync(strings.Replace(monthly, "monthly", "daily", 1))
		w.used("u", "", "m", 80, w.now+int64(20*time.Hour)) // of tomorrow
		w.told()
		w.now += int64(24 * time.Hour)
		w.sync(fmt.Sprintf(daily, limit))
		wantTold(t, w.told(), told...)
		w.recounted()
	}
}

// A counter that holds more than a number can say is right again once that is less.
func TestReservedBeyondNumbers(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"token_budget":{"period":"monthly","total_tokens":{"limit":-1}}`)
	const holds = 1030 // of 2⁵³ − 1 each
	each := func(kind string, payload func(i int) []byte) {
		for from := 0; from < holds; from += 515 {
			var group []schemas.CommandFrame
			for i := from; i < from+515; i++ {
				group = append(group, w.frame(kind, "a", payload(i)))
			}
			w.apply(group...)
		}
	}
	each(schemas.ReserveBudget.Name, func(i int) []byte {
		r := schemas.BudgetReserve{ReservationID: fmt.Sprint("r", i), Tokens: schemas.Tokens{Total: schemas.MaxLimit}, TTL: 60}
		if i >= holds-2 {
			r.TTL = 3600
		}
		return r.EncodePayload(nil)
	})
	w.recounted()
	w.release("r0")
	w.release(fmt.Sprint("r", holds-1))
	w.now += int64(time.Minute)
	for key, c := range w.view(Question{AppID: "a"}).Counters {
		if c.Reserved != schemas.MaxLimit {
			t.Errorf("a read sees %v: %+v", key, c)
		}
	}
	w.tickNow()
	want(t, "counter", w.counters(wholeApp), fmt.Sprintf("total_tokens 03-01T00 used 0 imported 0 reserved %d carry 0", int64(schemas.MaxLimit)))
	w.recounted()
}

// The decision beside a settlement counts no hold that has ended, and what is due is
// carried out also when the reservation is not known.
func TestSettlementEndsWhatIsDue(t *testing.T) {
	w := newEntitled(t)
	w.sync(`,"token_budget":{"period":"monthly","total_tokens":{"limit":100,"enforcement":"soft"}}`)
	w.reserve("short", "u", "", "", 80, 1)
	w.reserve("long", "u", "", "", 50, 600)
	w.now += int64(time.Minute)
	if o := w.settle("long", "e", 50, 0); !strings.Contains(string(o.Body), `"decision":"allow"`) {
		t.Errorf("50 of 100 are used, and nothing is held: %s", o.Body)
	}
	w.reserve("short too", "u", "", "", 10, 1)
	w.told()
	w.now += int64(time.Minute)
	w.settle("unknown", "e", 1, 0)
	wantTold(t, w.told(), "budget.reservation_expired reservation/short too", "command.refused reservation/unknown NOT_FOUND")
}
