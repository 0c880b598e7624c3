package handlers

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"grout/schemas"
)

// Costs whose sums are far beyond an int64, with voids and amends among them, come to
// the same bytes and the exact totals, however many messages share a transaction.
func TestSumsBeyondAnInt64(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			groups, want := dearHistory(seed)
			var first []byte
			for _, per := range []int{1, 7, 64} {
				s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 12)
				defer s.Close()
				applyGroups(t, s, groups, per)
				if got := totalsOf(t, s, "a"); got.Cost != want {
					t.Errorf("%d messages a transaction: the cost is %v, want %v", per, got.Cost, want)
				}
				if s.Overflowed() {
					t.Errorf("%d messages a transaction: costs have overflowed", per)
				}
				b := dump(t, s)
				if first == nil {
					first = b
				}
				if !bytes.Equal(first, b) {
					t.Errorf("%d messages a transaction give other bytes than 1: %s", per, firstDifference(first, b))
				}
			}
		})
	}
}

// dearHistory makes events at the greatest cost, half of them of one chat, of which
// some are voided and some amended later, and gives the cost of all that counts.
func dearHistory(seed uint64) (groups [][]schemas.CommandFrame, cost schemas.Amount) {
	r := rand.New(rand.NewPCG(seed, 4))
	most := schemas.AmountOf(schemas.MaxCostNanos)
	for n := range 60 {
		e := adjustEvent(fmt.Sprint("e-", n))
		e.Cost = schemas.MaxCostNanos
		if r.IntN(2) == 0 {
			e.ChatID = "chat"
		}
		groups = append(groups, []schemas.CommandFrame{ingestFrame(fmt.Sprint("i", n), testNow, e)})
		cost = cost.Add(most)
		switch r.IntN(4) {
		case 0:
			groups = append(groups, []schemas.CommandFrame{voidFrame(fmt.Sprint("v", n), testNow, "a", e.EventID, "")})
			cost = cost.Sub(most)
		case 1:
			less := schemas.UsageValues{Given: schemas.GivenCost, Cost: int64(n)}
			groups = append(groups, []schemas.CommandFrame{amendFrame(fmt.Sprint("a", n), testNow, "a", e.EventID, "", less)})
			cost = cost.Sub(most).Add(schemas.AmountOf(less.Cost))
		}
	}
	return groups, cost
}
