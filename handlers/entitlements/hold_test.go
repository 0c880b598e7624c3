package entitlements

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
)

func holdIn(state schemas.HoldState) schemas.Hold {
	h := Grant("a", &schemas.BudgetReserve{ReservationID: "r", UserID: "u", TenantID: "t", Model: "m", Tokens: schemas.Tokens{Total: 30, Input: 20, Output: 10}, TTL: 60}, now)
	if state != schemas.HoldOpen {
		h.State, h.ClosedAt = state, now+second
	}
	if state == schemas.HoldSettled {
		h.EventID = "e"
	}
	return h
}

// What every command makes of a hold in every state.
func TestHoldStates(t *testing.T) {
	code := func(err *schemas.Error) string {
		if err == nil {
			return "ok"
		}
		return string(err.Code)
	}
	const open, over = 10 * second, 60 * second
	for _, c := range []struct {
		state                                    schemas.HoldState
		after                                    int64
		settle, other, extend, release, repeated string
	}{
		{schemas.HoldOpen, open, "ok", "ok", "ok", "ok", "ok"},
		{schemas.HoldOpen, over - 1, "ok", "ok", "ok", "ok", "ok"},
		{schemas.HoldOpen, over, "late", "late", "RESERVATION_CLOSED", "RESERVATION_CLOSED", "RESERVATION_CLOSED"},
		{schemas.HoldExpired, over, "late", "late", "RESERVATION_CLOSED", "RESERVATION_CLOSED", "RESERVATION_CLOSED"},
		{schemas.HoldReleased, open, "late", "late", "RESERVATION_CLOSED", "again", "RESERVATION_CLOSED"},
		{schemas.HoldSettled, open, "again", "ALREADY_SETTLED", "RESERVATION_CLOSED", "RESERVATION_CLOSED", "RESERVATION_CLOSED"},
	} {
		h, at := holdIn(c.state), now+c.after
		settle := func(id string) string {
			next, s, err := Settle(h, &schemas.UsageEvent{EventID: id, TotalTokens: 25, InputTokens: 20, OutputTokens: 5}, at)
			switch {
			case err != nil:
				if d := cmp.Diff(h, next); d != "" {
					t.Errorf("refused and changed: %s", d)
				}
				return code(err)
			case s.Again:
				return "again"
			case next.State != schemas.HoldSettled || next.EventID != id || next.ClosedAt != at || next.Settled != (schemas.Tokens{Total: 25, Input: 20, Output: 5}):
				t.Errorf("settled as %+v", next)
			case s.Late:
				return "late"
			}
			return "ok"
		}
		extend := func() string { _, err := Extend(h, 60, at); return code(err) }
		release := func() string {
			next, again, err := Release(h, at)
			switch {
			case err != nil:
				return code(err)
			case again:
				return "again"
			case next.State != schemas.HoldReleased || next.ClosedAt != at:
				t.Errorf("released as %+v", next)
			}
			return "ok"
		}
		for what, got := range map[string][2]string{
			"settle": {settle("e"), c.settle}, "settle with another": {settle("f"), c.other}, "extend": {extend(), c.extend},
			"release": {release(), c.release}, "repeat": {code(Repeated(&h, at)), c.repeated},
		} {
			if got[0] != got[1] {
				t.Errorf("state %d, %d s: %s says %s, want %s", c.state, c.after/second, what, got[0], got[1])
			}
		}
		if ended := Ended(&h, at); ended != (c.state == schemas.HoldOpen && c.after >= over) {
			t.Errorf("state %d, %d s: ended %v", c.state, c.after/second, ended)
		}
	}
	if h := Expire(holdIn(schemas.HoldOpen), now+over); h.State != schemas.HoldExpired || h.ClosedAt != now+over {
		t.Errorf("%+v", h)
	}
}

func TestSettleForMoreThanWasHeld(t *testing.T) {
	for used, want := range map[int64]int64{0: 0, 29: 0, 30: 0, 31: 1, schemas.MaxTokenCount: schemas.MaxTokenCount - 30} {
		_, s, err := Settle(holdIn(schemas.HoldOpen), &schemas.UsageEvent{EventID: "e", TotalTokens: used}, now)
		if err != nil || s.Excess != want || s.Late {
			t.Errorf("%d: %+v %v", used, s, err)
		}
	}
}

func TestExtend(t *testing.T) {
	h := holdIn(schemas.HoldOpen)
	for _, c := range []struct{ after, seconds, want int64 }{
		{0, 60, 60}, {10, 60, 70}, {59, 3600, 3659}, {10, 1, 60},
	} {
		next, err := Extend(h, c.seconds, now+c.after*second)
		if err != nil || next.ExpiresAt != now+c.want*second || next.State != schemas.HoldOpen {
			t.Errorf("%+v: %d s, %v", c, (next.ExpiresAt-now)/second, err)
		}
	}
	h.ExpiresAt = now + schemas.MaxHoldAge - 10*second
	if next, err := Extend(h, 3600, h.ExpiresAt-second); err != nil || next.ExpiresAt != now+schemas.MaxHoldAge {
		t.Errorf("extended beyond 30 days: %v", err)
	}
	h.ExpiresAt = now + schemas.MaxHoldAge
	if next, err := Extend(h, 3600, h.ExpiresAt-second); err != nil || next.ExpiresAt != h.ExpiresAt {
		t.Errorf("extended beyond 30 days: %v", err)
	}
}

// world is a budget with its holds, moved by the rules alone.
type world struct {
	view  *View
	holds map[string]schemas.Hold
	used  int64
}

func (w *world) reserved() (n int64) {
	for _, h := range w.holds {
		if h.State == schemas.HoldOpen {
			n += h.Tokens.Total
		}
	}
	return n
}

// Whatever is asked in whatever order: at the instant of a grant nothing lies above the
// limit, nothing that fits is refused, and what was held is settled, released, expired
// or still open (contract §5.2.13).
func TestGrantsStayBelowTheLimit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.Int64Range(0, 100).Draw(rt, "limit")
		burst := rapid.SampledFrom([]int64{0, 10, 100}).Draw(rt, "burst")
		w := &world{holds: map[string]schemas.Hold{}}
		w.view = viewOf(t, map[string]string{"app": fmt.Sprintf(`"token_budget":{"period":"lifetime","burst_allowance":%d,"total_tokens":{"limit":%d,"enforcement":"hard"}}`, burst, limit)})
		effective := limit * (100 + burst) / 100
		granted := map[schemas.HoldState]int64{}
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			w.view.Now += rapid.Int64Range(0, 40).Draw(rt, "seconds") * second
			for id, h := range w.holds {
				if Ended(&h, w.view.Now) {
					w.holds[id] = Expire(h, w.view.Now)
				}
			}
			w.view.use(t, appScope, schemas.AllocationTotal, w.used, w.reserved())
			id := fmt.Sprint(rapid.IntRange(0, i).Draw(rt, "hold"))
			h, known := w.holds[id]
			n := rapid.Int64Range(0, 40).Draw(rt, "tokens")
			switch rapid.SampledFrom([]string{"reserve", "reserve", "settle", "release", "extend", "usage"}).Draw(rt, "do") {
			case "usage":
				w.used += n
			case "settle":
				if known {
					next, s, err := Settle(h, &schemas.UsageEvent{EventID: id, TotalTokens: n}, w.view.Now)
					if err == nil && !s.Again {
						w.holds[id], w.used = next, w.used+n
					}
				}
			case "release":
				if next, _, err := Release(h, w.view.Now); known && err == nil {
					w.holds[id] = next
				}
			case "extend":
				if next, err := Extend(h, n+1, w.view.Now); known && err == nil {
					w.holds[id] = next
				}
			case "reserve":
				if known {
					continue
				}
				r := &schemas.BudgetReserve{ReservationID: id, Tokens: schemas.Tokens{Total: n}, TTL: 60}
				taken := w.used + w.reserved()
				fits := taken+n <= effective && (n > 0 || taken < effective)
				if d := Reserve(w.view, r); d.Allowed != fits {
					rt.Fatalf("%d more beside %d of %d: %s", n, taken, effective, verdict(d))
				} else if d.Allowed {
					w.holds[id] = Grant("a", r, w.view.Now)
				}
			}
		}
		all := int64(0)
		for _, h := range w.holds {
			granted[h.State] += h.Tokens.Total
			all += h.Tokens.Total
		}
		if sum := granted[schemas.HoldOpen] + granted[schemas.HoldSettled] + granted[schemas.HoldReleased] + granted[schemas.HoldExpired]; sum != all {
			rt.Fatalf("%d of %d are accounted for", sum, all)
		}
	})
}

// What runs set aside is taken or given back; limits hold however they interleave.
func TestConsumables(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 5
		c := RollConsumption(schemas.Consumption{}, schemas.PeriodMonthly, now)
		running := int64(0)
		used := int64(0)
		at := now
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "month") == 0 {
				at += days(31)
				used = 0
			}
			c = RollConsumption(c, schemas.PeriodMonthly, at)
			switch rapid.IntRange(0, 2).Draw(t, "do") {
			case 0:
				if Remaining(limit, c.Used, c.Reserved) >= 1 {
					c = ReserveConsumable(c, 1)
					running++
				}
			case 1:
				if running > 0 {
					c = TakeConsumable(c, 1)
					running--
					used++
				}
			case 2:
				if running > 0 {
					c = GiveBackConsumable(c, 1)
					running--
				}
			}
			if c.Used != used || c.Reserved != running || c.Used+c.Reserved > limit {
				t.Fatalf("%+v, want %d used and %d set aside", c, used, running)
			}
		}
	})
	for name, got := range map[string]schemas.Consumption{
		"taken twice":      TakeConsumable(schemas.Consumption{Used: 1}, 1),
		"given back twice": GiveBackConsumable(schemas.Consumption{Used: 1}, 1),
	} {
		if got != (schemas.Consumption{Used: 1}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
