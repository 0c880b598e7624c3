package entitlements

import (
	"math"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
)

// The effective limit is what contract §5.2.8 writes, in numbers without end.
func TestEffectiveLimitIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limited := rapid.OneOf(rapid.Int64Range(0, schemas.MaxLimit), rapid.Int64Range(0, 100))
		terms := Terms{Limit: limited.Draw(t, "limit"), Promo: limited.Draw(t, "promo"), Burst: rapid.Int64Range(0, schemas.MaxBurst).Draw(t, "burst"), Rollover: true}
		carry := limited.Draw(t, "carry")
		want := new(big.Int).Add(big.NewInt(terms.Limit), big.NewInt(terms.Promo))
		want.Mul(want, big.NewInt(100+terms.Burst))
		want.Div(want, big.NewInt(100))
		want.Add(want, big.NewInt(carry))
		if got := terms.Effective(carry); want.Cmp(big.NewInt(got)) != 0 {
			t.Fatalf("%d, want %v", got, want)
		}
	})
}

// Periods tile time: every instant lies in one, it begins where the one before ends,
// and weeks and months are those of the calendar.
func TestPeriodsTileTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom([]schemas.Period{schemas.PeriodHourly, schemas.PeriodDaily, schemas.PeriodWeekly, schemas.PeriodMonthly}).Draw(t, "period")
		n := rapid.Int64Range(math.MinInt64/2, math.MaxInt64/10*9).Draw(t, "instant")
		start, end := PeriodAt(p, n)
		if n < start || n >= end {
			t.Fatalf("%s is not in %s–%s", schemas.InstantText(n), schemas.InstantText(start), schemas.InstantText(end))
		}
		if s, e := PeriodAt(p, end); s != end || e <= s {
			t.Fatalf("what follows begins at %s", schemas.InstantText(s))
		}
		if s, e := PeriodBefore(p, start); e != start || s >= e {
			t.Fatalf("what precedes ends at %s", schemas.InstantText(e))
		}
		a, b, c := time.Unix(0, start).UTC(), time.Unix(0, n).UTC(), time.Unix(0, end-1).UTC()
		switch p {
		case schemas.PeriodWeekly:
			ya, wa := a.ISOWeek()
			yb, wb := b.ISOWeek()
			yc, wc := c.ISOWeek()
			if ya != yb || wa != wb || yc != yb || wc != wb || a.Weekday() != time.Monday {
				t.Fatalf("week %d of %d from %v to %v", wb, yb, a, c)
			}
		case schemas.PeriodMonthly:
			if a.Month() != b.Month() || c.Month() != b.Month() || a.Day() != 1 {
				t.Fatalf("%v from %v to %v", b, a, c)
			}
		}
	})
}

// A counter that is told of what it stands at, however it got there, has told exactly
// the thresholds that it stands above.
func TestCrossingsDependOnWhereACounterStands(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		terms := Terms{Limit: rapid.Int64Range(-1, 50).Draw(t, "limit")}
		var c schemas.Counter
		told := map[int]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			c.Used = rapid.Int64Range(-10, 100).Draw(t, "used")
			if rapid.IntRange(0, 5).Draw(t, "change") == 0 {
				terms.Limit = rapid.Int64Range(-1, 50).Draw(t, "limit")
			}
			var list []Crossing
			c, list = terms.Crossings(c)
			for _, x := range list {
				if told[x.Percent] == !x.Cleared && x.Percent != 0 {
					t.Fatalf("%+v is told again", x)
				}
				told[x.Percent] = !x.Cleared
			}
			for _, percent := range Thresholds {
				if above := terms.Limit >= 0 && c.Used > 0 && 100*c.Used >= int64(percent)*terms.Limit; told[percent] != above {
					t.Fatalf("%d of %d: %d %% was told: %v", c.Used, terms.Limit, percent, told[percent])
				}
			}
			if _, again := terms.Crossings(c); len(again) > 0 {
				t.Fatalf("told twice: %+v", again)
			}
		}
	})
}

// A view's maps have no order that shows: the same question has the same answer, byte
// for byte.
func TestDecisionsAreDeterministic(t *testing.T) {
	v := viewOf(t, map[string]string{"user": `"features":{"a":true,"b":false,"c":true},"rate_limits":{"requests_per_minute":9,"requests_per_hour":9,"requests_per_day":9},` +
		`"token_budget":{"period":"daily","total_tokens":{"limit":9,"enforcement":"hard"},"per_model_limits":{"x":{"limit":1},"y":{"limit":1},"z":{"limit":1}}}`})
	r := &schemas.EntitlementCheck{Plugin: "p", Model: "x", Needed: 1, Count: true}
	first := Check(v, r)
	answer := Effective(v)
	text := string(answer.AppendJSON(nil))
	for range 100 {
		if d := cmp.Diff(first, Check(v, r)); d != "" {
			t.Fatal(d)
		}
		again := Effective(v)
		if got := string(again.AppendJSON(nil)); got != text {
			t.Fatalf("%s\n%s", got, text)
		}
	}
}

func TestSaturation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		edge := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{math.MinInt64, math.MinInt64 + 1, -1, 0, 1, math.MaxInt64}))
		a, b := edge.Draw(t, "a"), edge.Draw(t, "b")
		clamp := func(n *big.Int) int64 {
			switch {
			case n.IsInt64():
				return n.Int64()
			case n.Sign() < 0:
				return math.MinInt64
			}
			return math.MaxInt64
		}
		x, y := big.NewInt(a), big.NewInt(b)
		if got, want := add(a, b), clamp(new(big.Int).Add(x, y)); got != want {
			t.Fatalf("%d + %d = %d, want %d", a, b, got, want)
		}
		if got, want := sub(a, b), clamp(new(big.Int).Sub(x, y)); got != want {
			t.Fatalf("%d − %d = %d, want %d", a, b, got, want)
		}
	})
}
