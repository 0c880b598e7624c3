package schemas

import (
	"encoding/binary"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// bigOf gives an amount as a number of any size.
func bigOf(a Amount) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(a.high), 64)
	return n.Add(n, new(big.Int).SetUint64(a.low))
}

func drawAmount(t *rapid.T) Amount {
	a := Amount{rapid.Int64().Draw(t, "high"), rapid.Uint64().Draw(t, "low")}
	switch rapid.IntRange(0, 2).Draw(t, "size") {
	case 0:
		return AmountOf(int64(a.low))
	case 1:
		a.high = rapid.Int64Range(-3, 3).Draw(t, "small")
	}
	return a
}

func TestAmountsCountLikeBigNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawAmount(t), drawAmount(t)
		x, y := bigOf(a), bigOf(b)
		if got := a.Cmp(b); got != x.Cmp(y) {
			t.Fatalf("%v against %v: %d", x, y, got)
		}
		if a.Max(b) != b.Max(a) || a.Max(b).Cmp(a) < 0 || a.Max(b).Cmp(b) < 0 {
			t.Fatalf("greater of %v and %v: %v", x, y, a.Max(b))
		}
		if a.Add(b).Sub(b) != a || a.Add(b) != b.Add(a) {
			t.Fatalf("%v + %v − %v is %v", x, y, y, a.Add(b).Sub(b))
		}
		if sum := new(big.Int).Add(x, y); sum.BitLen() < 127 && bigOf(a.Add(b)).Cmp(sum) != 0 {
			t.Fatalf("%v + %v = %v", x, y, bigOf(a.Add(b)))
		}
		units := new(big.Rat).SetFrac(x, big.NewInt(NanosPerUnit)).FloatString(9)
		units = strings.TrimSuffix(strings.TrimRight(units, "0"), ".")
		if got := a.String(); got != units {
			t.Fatalf("%v nano-units are %q, want %q", x, got, units)
		}
	})
}

func TestAmountVarints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawAmount(t)
		r := Wire{B: append(AppendAmountVarint(nil, a), 7)}
		if got := r.Amount(); got != a || r.Err != nil || r.Byte() != 7 {
			t.Fatalf("%v came back as %v: %v", bigOf(a), bigOf(got), r.Err)
		}
		n := rapid.Int64().Draw(t, "n")
		if got, want := AppendAmountVarint(nil, AmountOf(n)), binary.AppendVarint(nil, n); string(got) != string(want) {
			t.Fatalf("%d: %x, want %x", n, got, want)
		}
	})
	for _, b := range [][]byte{nil, {0x80}, []byte(strings.Repeat("\xff", 19)), []byte(strings.Repeat("\xff", 18) + "\x04"), []byte(strings.Repeat("\x80", 30))} {
		r := Wire{B: b}
		if a := r.Amount(); r.Err == nil {
			t.Errorf("%x was read as %v", b, a)
		}
	}
	for _, a := range []Amount{{math.MinInt64, 0}, {math.MaxInt64, math.MaxUint64}, {0, math.MaxUint64}, {-1, 0}} {
		r := Wire{B: AppendAmountVarint(nil, a)}
		if got := r.Amount(); got != a || r.Err != nil || len(r.B) > 0 {
			t.Errorf("%v came back as %v: %v", bigOf(a), bigOf(got), r.Err)
		}
	}
}

func TestMostUnitsAreWritten(t *testing.T) {
	for _, c := range []struct {
		a    Amount
		want string
	}{
		{Amount{}, "0"},
		{AmountOf(-1), "-0.000000001"},
		{AmountOf(math.MinInt64), "-9223372036.854775808"},
		{Amount{0, math.MaxUint64}, "18446744073.709551615"},
		{Amount{1, 0}, "18446744073.709551616"},
		{Amount{math.MaxInt64, math.MaxUint64}, "170141183460469231731687303715.884105727"},
		{Amount{math.MinInt64, 0}, "-170141183460469231731687303715.884105728"},
	} {
		if got := c.a.String(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}
