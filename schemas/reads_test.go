package schemas

import (
	"bytes"
	"cmp"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestUsageSumsSaturate(t *testing.T) {
	for _, c := range []struct {
		a, b, want int64
		exact      bool
	}{
		{0, 0, 0, true},
		{1, 2, 3, true},
		{math.MaxInt64 - 1, 1, math.MaxInt64, true},
		{math.MaxInt64, 0, math.MaxInt64, true},
		{math.MaxInt64, 1, math.MinInt64, false},
		{math.MaxInt64, math.MaxInt64, -2, false},
		{1, math.MaxInt64, math.MinInt64, false},
		{math.MinInt64, math.MaxInt64, -1, true},
		{math.MaxInt64, math.MinInt64, -1, true},
		{math.MinInt64, 0, math.MinInt64, true},
		{math.MinInt64 + 1, -1, math.MinInt64, true},
		{math.MinInt64, -1, math.MaxInt64, false},
		{-1, math.MinInt64, math.MaxInt64, false},
		{math.MinInt64, math.MinInt64, 0, false},
	} {
		all := func(n int64) UsageSums { return UsageSums{n, n, n, n, n, n, AmountOf(0)} }
		got, add := all(c.a), all(c.b)
		if exact := got.Add(&add); got != all(c.want) || exact != c.exact {
			t.Errorf("%d + %d: %v %v, want %d %v", c.a, c.b, got, exact, c.want, c.exact)
		}
	}
	// One count beyond its end leaves the others exact.
	s := UsageSums{Events: 1, TotalTokens: math.MaxInt64}
	if s.Add(&UsageSums{Events: 1, TotalTokens: 1}) || s != (UsageSums{Events: 2, TotalTokens: math.MinInt64}) {
		t.Errorf("%+v", s)
	}
}

func TestUsageSumsAreExactBelowTheEnds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int64().Draw(t, "a"), rapid.Int64().Draw(t, "b")
		sum := new(big.Int).Add(big.NewInt(a), big.NewInt(b))
		s := UsageSums{InputTokens: a}
		exact := s.Add(&UsageSums{InputTokens: b})
		if exact != sum.IsInt64() || exact && s.InputTokens != sum.Int64() {
			t.Fatalf("%d + %d: %d %v", a, b, s.InputTokens, exact)
		}
	})
}

func TestPositions(t *testing.T) {
	draw := func(t *rapid.T, label string) Position {
		n := rapid.OneOf(rapid.Uint32(), rapid.SampledFrom([]uint32{0, 1, math.MaxUint32}))
		return Position{n.Draw(t, label), rapid.Uint64().Draw(t, label), n.Draw(t, label), n.Draw(t, label)}
	}
	rapid.Check(t, func(t *rapid.T) {
		p, q := draw(t, "p"), draw(t, "q")
		x, y := p.Append(nil), q.Append([]byte{1})[1:]
		if cmp.Compare(p.Compare(q), 0) != bytes.Compare(x, y) || p.Compare(q) != -q.Compare(p) {
			t.Fatalf("%v and %v sort otherwise than %x and %x", p, q, x, y)
		}
		if back, err := ParsePosition(x); err != nil || back != p || len(x) != PositionSize {
			t.Fatalf("%v came back as %v: %v", p, back, err)
		}
		if _, err := ParsePosition(x[1:]); err == nil {
			t.Fatal("19 bytes are a position")
		}
	})
}
