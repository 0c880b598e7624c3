package store

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// A counter that says anything but what its usage and its holds come to is found.
func TestRecountFindsDifferences(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "s.db"), Options{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const at = 500_000 * hourSpan
	event := schemas.UsageEvent{EventID: "e", AppID: "a", UserID: "u", Model: "m", Timestamp: at, InputTokens: 5, OutputTokens: 2, TotalTokens: 7}
	print := schemas.PrintOf(&event)
	user := schemas.Scope{Kind: schemas.ScopeUser, ID: "u"}
	if err := s.Update(func(tx *Tx) error {
		tx.Begin(Message{Seq: 1, StreamCreated: 1, Commands: []schemas.CommandFrame{{AppID: "a"}}})
		if _, err := tx.RecordUsage(0, &event, &print); err != nil {
			return err
		}
		if _, err := tx.PutHold(0, &schemas.Hold{ID: "h", AppID: "a", UserID: "u", Model: "m", Tokens: schemas.Tokens{Total: 3}, State: schemas.HoldOpen, ExpiresAt: at}); err != nil {
			return err
		}
		for _, b := range []*Budget{
			{AppID: "a", Scope: schemas.Scope{Kind: schemas.ScopeApp}, Period: schemas.PeriodLifetime, Counters: []schemas.Counter{
				{Allocation: schemas.AllocationTotal, Used: 17, Imported: 10, Reserved: 3},
				{Allocation: schemas.AllocationInput, Used: 4},
				{Allocation: schemas.ModelAllocation("other"), Used: 0, Reserved: 1},
			}},
			{AppID: "a", Scope: user, Period: schemas.PeriodHourly, Start: at + hourSpan, End: at + 2*hourSpan, Counters: []schemas.Counter{
				{Allocation: schemas.AllocationTotal, Used: 7, Reserved: 3},
			}},
			{AppID: "b", Scope: user, Period: schemas.PeriodLifetime, Counters: []schemas.Counter{{Allocation: schemas.AllocationTotal}}},
		} {
			if err := tx.PutBudget(b); err != nil {
				return err
			}
		}
		return tx.End()
	}); err != nil {
		t.Fatal(err)
	}
	got, err := s.RecountBudgets(t.Context())
	want := []BudgetDifference{
		{"a", "app", "a", "input_tokens", "used", 4, 5},
		{"a", "app", "a", "model:other", "reserved", 1, 0},
		{"a", "user", "u", "total_tokens", "used", 7, 0},
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}
