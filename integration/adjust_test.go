package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
	"grout/schemas"
)

// adjustEvent is an event as these tests send it.
func adjustEvent(app, id string, at time.Time) map[string]any {
	return map[string]any{
		"event_id": id, "timestamp": at.Format(time.RFC3339Nano), "app_id": app, "user_id": "u", "model": "m",
		"input_tokens": 1500, "output_tokens": 500, "cost": "0.0375",
	}
}

func totals(t *testing.T, p *process.Process, app string) (sums schemas.SumsData) {
	t.Helper()
	var r struct{ Totals schemas.SumsData }
	request(t, p, "GET", "/api/usage?app_id="+queryEscape(app), nil).want(t, 200).into(t, &r)
	return r.Totals
}

type corrected struct {
	EventID    string           `json:"event_id"`
	Status     string           `json:"status"`
	Adjustment schemas.SumsData `json:"adjustment"`
}

func correct(t *testing.T, p *process.Process, id, what, body string, status int) (c corrected) {
	t.Helper()
	request(t, p, "POST", "/api/usage/events/"+id+"/"+what, body).want(t, status).into(t, &c)
	return c
}

type loggedEvent struct {
	ID        string            `json:"event_id"`
	Batch     string            `json:"batch_id"`
	Status    string            `json:"status"`
	Recorded  time.Time         `json:"recorded_at"`
	Effective *schemas.SumsData `json:"effective"`
}

// walk reads all pages of a list of events, newest first.
func walk(t *testing.T, p *process.Process, query string) (list []loggedEvent) {
	t.Helper()
	cursor := ""
	for {
		var page struct {
			Events []loggedEvent
			Next   *string `json:"next_cursor"`
		}
		request(t, p, "GET", "/api/usage/events?"+query+cursor, nil).want(t, 200).into(t, &page)
		list = append(list, page.Events...)
		if page.Next == nil {
			return list
		}
		cursor = "&cursor=" + queryEscape(*page.Next)
	}
}

// Corrections of the real program: answers, sums, single events and facts agree,
// and stay through an orderly stop and a kill.
func TestCorrectionsSurvive(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		const app = "app_1"
		now := time.Now().UTC()
		batch := map[string]any{"batch_id": "b-1", "events": []any{
			adjustEvent(app, "e-1", now), adjustEvent(app, "e-2", now), adjustEvent(app, "e-3", now), adjustEvent("app_2", "e-1", now),
		}}
		request(t, p, "POST", "/api/usage/ingest", batch).want(t, 200)

		amend := `{"app_id":"app_1","input_tokens":1400,"reason":"invoice"}`
		amended := correct(t, p, "e-1", "amend", amend, 200)
		if want := (corrected{"e-1", "amended", schemas.SumsData{InputTokens: -100, TotalTokens: -100, Cost: "0"}}); amended != want {
			t.Errorf("amended: %+v, want %+v", amended, want)
		}
		p.Kill()
		p = start(t, data, partitions)
		if again := correct(t, p, "e-1", "amend", amend, 200); again != amended {
			t.Errorf("amended again after a kill: %+v, want %+v", again, amended)
		}
		voided := correct(t, p, "e-1", "void", `{"app_id":"app_1"}`, 200)
		if want := (corrected{"e-1", "voided", schemas.SumsData{Events: -1, InputTokens: -1400, OutputTokens: -500, TotalTokens: -1900, Cost: "-0.0375"}}); voided != want {
			t.Errorf("voided: %+v, want %+v", voided, want)
		}
		correct(t, p, "e-1", "amend", amend, 409)
		correct(t, p, "e-9", "void", `{"app_id":"app_1"}`, 404)
		correct(t, p, "e-2", "amend", `{"app_id":"app_1","cost":"0.01"}`, 200)
		correct(t, p, "e-1", "void", `{"app_id":"app_2"}`, 200)
		stop(t, p)

		p = start(t, data, partitions)
		if again := correct(t, p, "e-1", "void", `{"app_id":"app_1","reason":"later"}`, 200); again != voided {
			t.Errorf("voided again after a restart: %+v, want %+v", again, voided)
		}
		request(t, p, "POST", "/api/usage/ingest", map[string]any{"batch_id": "b-2", "events": batch["events"]}).want(t, 200)
		wantTotals := schemas.SumsData{Events: 2, InputTokens: 3000, OutputTokens: 1000, TotalTokens: 4000, Cost: "0.0475"}
		if got := totals(t, p, app); got != wantTotals {
			t.Errorf("totals %+v, want %+v", got, wantTotals)
		}
		if got := totals(t, p, "app_2"); got != (schemas.SumsData{Cost: "0"}) {
			t.Errorf("totals of app_2 %+v, want none", got)
		}
		status := map[string]string{}
		for _, e := range walk(t, p, "app_id="+app+"&limit=2") {
			status[e.ID] = e.Status
			if e.Batch != "b-1" || e.Recorded.Before(now.Add(-time.Minute)) || (e.Effective == nil) != (e.Status == "counted") {
				t.Errorf("%+v", e)
			}
		}
		if d := cmp.Diff(map[string]string{"e-1": "voided", "e-2": "amended", "e-3": "counted"}, status); d != "" {
			t.Errorf("status of events (-want +got):\n%s", d)
		}
		list := facts(t, p, func(list []fact) bool { return len(list) >= 8 })
		checkCorrectionFacts(t, list)
		stop(t, p)
	})
}

// checkCorrectionFacts: every change is in one fact, behind the one that tells of
// its event, and every refusal in one.
func checkCorrectionFacts(t *testing.T, list []fact) {
	t.Helper()
	subjects := map[string]int{}
	known := map[string]bool{}
	for _, f := range list {
		subjects[f.Subject]++
		var d struct {
			EventID string                  `json:"event_id"`
			Events  []schemas.RecordedEvent `json:"events"`
		}
		if err := json.Unmarshal(f.Data, &d); err != nil {
			t.Fatal(err)
		}
		for _, e := range d.Events {
			known[e.AppID+" "+e.EventID] = true
		}
		if d.EventID != "" && !known[f.App+" "+d.EventID] {
			t.Errorf("%s tells of %s before its event is told", f.Subject, d.EventID)
		}
	}
	want := map[string]int{
		"mozaiks.v1.evt.app_1.usage.recorded": 1, "mozaiks.v1.evt.app_2.usage.recorded": 1,
		"mozaiks.v1.evt.app_1.usage.amended": 2, "mozaiks.v1.evt.app_1.usage.voided": 1, "mozaiks.v1.evt.app_2.usage.voided": 1,
		"mozaiks.v1.evt.app_1.command.refused": 2,
	}
	if d := cmp.Diff(want, subjects); d != "" {
		t.Errorf("facts (-want +got):\n%s", d)
	}
}

// A walk over the pages sees every event that was there when it began once, while
// others come in all the time.
func TestWalkDuringIngest(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	now := time.Now().UTC()
	post := func(batch, n int) error { // also from another goroutine, which must not end the test
		var events []any
		for i := range n {
			events = append(events, adjustEvent([]string{"a", "b"}[i%2], fmt.Sprintf("e-%d-%d", batch, i), now))
		}
		body, err := json.Marshal(map[string]any{"events": events})
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+"/api/usage/ingest", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("X-Internal-API-Key", process.InternalKey)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("ingest answered %d", resp.StatusCode)
		}
		return nil
	}
	want := map[string]bool{}
	for batch := range 20 {
		if err := post(batch, 100); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < 100; i += 2 {
			want[fmt.Sprintf("e-%d-%d", batch, i)] = true
		}
	}
	ended, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		for batch := 20; ; batch++ {
			select {
			case <-ended:
				failed <- nil
				return
			default:
			}
			if err := post(batch, 10); err != nil {
				failed <- err
				return
			}
		}
	}()
	seen, order := map[string]int{}, []string{}
	for _, e := range walk(t, p, "app_id=a&limit=37") {
		seen[e.ID]++
		order = append(order, e.ID)
	}
	close(ended)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	for id := range want {
		if seen[id] != 1 {
			t.Errorf("event %s was seen %d times", id, seen[id])
		}
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("event %s was seen %d times", id, n)
		}
	}
	if last := order[len(order)-1]; last != "e-0-0" {
		t.Errorf("the oldest is %s", last)
	}
	stop(t, p)
}

// Killed at random between corrections: what was answered stays, what was not is
// made by the same request again, and nothing is taken back twice.
func TestKillBetweenCorrections(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := start(t, data, 1)
	const n = 60
	var events []any
	for i := range n {
		events = append(events, adjustEvent("a", fmt.Sprint("e", i), time.Now().UTC()))
	}
	request(t, p, "POST", "/api/usage/ingest", map[string]any{"batch_id": "b", "events": events}).want(t, 200)
	answered := map[int]corrected{}
	for i := range n {
		answered[i] = correct(t, p, fmt.Sprint("e", i), []string{"void", "amend"}[i%2], `{"app_id":"a","output_tokens":7}`, 200)
		if i%20 == 10 {
			p.Kill()
			p = start(t, data, 1)
			for j := range answered {
				if again := correct(t, p, fmt.Sprint("e", j), []string{"void", "amend"}[j%2], `{"app_id":"a","output_tokens":7}`, 200); again != answered[j] {
					t.Errorf("e%d: %+v, want %+v", j, again, answered[j])
				}
			}
		}
	}
	want := schemas.SumsData{Events: n / 2, InputTokens: 1500 * n / 2, OutputTokens: 7 * n / 2, TotalTokens: 1507 * n / 2, Cost: "1.125"}
	if got := totals(t, p, "a"); got != want {
		t.Errorf("totals %+v, want %+v", got, want)
	}
	list := facts(t, p, func(list []fact) bool { return len(list) >= n+1 })
	if len(list) != n+1 {
		t.Errorf("%d facts, want %d", len(list), n+1)
	}
	stop(t, p)
}
