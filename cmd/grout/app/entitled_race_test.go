package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"
)

func answerOf(t *testing.T, method, url string, body any) (int, string) {
	text, _ := json.Marshal(body)
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Internal-API-Key", "key")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(answer)
}

func syncHardBudget(t *testing.T, url string) {
	postJSON(t, url, "/api/internal/entitlement/sync", map[string]any{
		"version": "1.1", "app_id": "a", "plan": map[string]any{"tier": "pro"},
		"token_budget": map[string]any{"period": "lifetime", "total_tokens": map[string]any{"limit": 100, "enforcement": "hard"}},
	})
}

// Contract §5.3: a repeated reservation_id is the same answer again while it is open, also
// when the repetition comes at the same time. Nobody else reserves here.
func TestSameReservationAtOnce(t *testing.T) {
	n := serve(t, testConfig(t, 1))
	defer n.stop()
	syncHardBudget(t, n.url)
	for i := 0; i < 40 && !t.Failed(); i++ {
		var all sync.WaitGroup
		for range 12 {
			all.Go(func() {
				status, answer := answerOf(t, http.MethodPost, n.url+"/api/budgets/reservations", map[string]any{
					"app_id": "a", "estimated_tokens": 100, "ttl_seconds": 600, "reservation_id": fmt.Sprint("r", i),
				})
				if status != http.StatusCreated {
					t.Errorf("round %d: the same reservation, which is open, is answered %d %s", i, status, answer)
				}
			})
		}
		all.Wait()
		answerOf(t, http.MethodDelete, fmt.Sprint(n.url, "/api/budgets/reservations/r", i, "?app_id=a"), nil)
	}
}

// Contract §5.2.9, §5.3: what was reserved with a 202 can be settled: its command is in the
// log before that of the settlement.
func TestSettleBehindAn202(t *testing.T) {
	cfg := testConfig(t, 1)
	cfg.WaitLimit = 3 * time.Millisecond
	n := serve(t, cfg)
	defer n.stop()
	seen := 0
	for i := 0; i < 1000 && seen < 20 && !t.Failed(); i++ {
		status, _ := answerOf(t, http.MethodPost, n.url+"/api/budgets/reservations", map[string]any{
			"app_id": "a", "user_id": "u", "estimated_tokens": 100, "ttl_seconds": 600, "reservation_id": fmt.Sprint("r", i),
		})
		if status != http.StatusAccepted {
			continue
		}
		seen++
		status, answer := answerOf(t, http.MethodPost, fmt.Sprint(n.url, "/api/budgets/reservations/r", i, "/settle"), map[string]any{
			"app_id": "a", "event_id": fmt.Sprint("e", i), "input_tokens": 10, "output_tokens": 5,
		})
		if status == http.StatusNotFound {
			t.Errorf("round %d: accepted with 202, and its settlement is answered %d %s", i, status, answer)
		}
	}
	if seen == 0 {
		t.Error("nothing was answered 202: the test has shown nothing")
	}
}
