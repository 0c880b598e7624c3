package app

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"grout/schemas"
	"grout/store"
)

// What is due is carried out then, not at the next hour: nobody has to ask for it.
func TestTicksWhenSomethingIsDue(t *testing.T) {
	cfg := testConfig(t, 1)
	cfg.tickLook = time.Hour
	n := serve(t, cfg)
	var last time.Time
	for i := range 8 {
		app := fmt.Sprint("app-", i)
		last = time.Now()
		postJSON(t, n.url, "/api/internal/entitlement/sync", map[string]any{
			"version": "1.1", "app_id": app, "plan": map[string]any{"tier": "pro"},
			"token_budget": map[string]any{"period": "lifetime", "total_tokens": map[string]any{"limit": 100, "enforcement": "hard"}},
		})
		sendJSON(t, http.MethodPost, n.url, "/api/budgets/reservations", map[string]any{
			"app_id": app, "estimated_tokens": 100, "ttl_seconds": 1 + i/7, "reservation_id": "r",
		})
	}
	eventually(t, "a tick for what is due", func() bool {
		return least(t, n.url, "grout_clock_last_tick_timestamp_seconds") >= float64(last.Add(2*time.Second).UnixNano())/1e9
	})
	n.stop()
	s, err := store.Open(storePath(cfg.DataDir, 0), store.Options{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if at, _ := s.NextDue(); !at.IsZero() {
		t.Errorf("something is due at %v", at)
	}
	for i := range 8 {
		h, err := s.Hold(fmt.Sprint("app-", i), "r")
		if err != nil {
			t.Fatal(err)
		}
		if h == nil || h.State != schemas.HoldExpired {
			t.Errorf("the hold of app %d: %+v", i, h)
		}
	}
	if list, err := s.RecountBudgets(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
