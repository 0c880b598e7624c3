package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// What a run has used, over HTTP and as it is printed.
func TestRunUsageIsTold(t *testing.T) {
	url := running(t)
	ask := func(method, path, body string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Internal-API-Key", "the-internal-key")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s %s: %d, %v: %s", method, path, resp.StatusCode, err, text)
		}
		return string(text)
	}
	start := time.Now().UTC().Add(-time.Minute).Truncate(time.Second)
	at, end := start.Format(time.RFC3339), start.Add(2500*time.Millisecond).Format(time.RFC3339Nano)
	event := func(id, more string) string {
		return fmt.Sprintf(`{"event_id":%q,"timestamp":%q,"app_id":"shop","user_id":"ann","model":"m","input_tokens":1000,"output_tokens":500,"cost":0.1,"duration_sec":0.1,%s}`, id, at, more)
	}
	ask("POST", "/api/usage/ingest", `{"events":[`+strings.Join([]string{
		event("1", `"run_id":"r1","agent_name":"writer"`), event("2", `"run_id":"r1","agent_name":"writer"`), event("3", `"run_id":"r1","agent_name":"planner"`),
		event("4", `"chat_id":"r1"`), event("5", `"run_id":"r2","chat_id":"r1"`),
	}, ",")+`]}`)
	tell := func(kind, id, at string) {
		t.Helper()
		ask("POST", "/api/orchestration/events", fmt.Sprintf(`{"kind":"orchestration.%s","run_id":"r1","event_id":%q,"app_id":"shop","user_id":"ann","workflow_name":"w","message":"m","timestamp":%q}`, kind, id, at))
	}
	tell("run_started", "s", at)
	tell("run_completed", "e", end)
	ask("POST", "/api/usage/events/2/void", `{"app_id":"shop"}`)
	ask("POST", "/api/usage/events/3/amend", `{"app_id":"shop","cost":0.25}`)
	figures := func(events, tokens int, cost, seconds string) string {
		return fmt.Sprintf(`"events":%d,"input_tokens":%d,"output_tokens":%d,"total_tokens":%d,"cached_tokens":0,"reasoning_tokens":0,"cost":%s,"duration_sec":%s}`,
			events, tokens*2, tokens, tokens*3, cost, seconds)
	}
	want := fmt.Sprintf(`{"run_id":"r1","app_id":"shop","chat_id":"r1","user_id":"ann","status":"completed","started_at":%q,"ended_at":%q,"duration_sec":2.5,"expired_until":null,"totals":{`, at, end) +
		figures(3, 1500, "0.45", "0.3") + `,"agents":[{"agent_name":"",` + figures(1, 500, "0.1", "0.1") + `,{"agent_name":"planner",` + figures(1, 500, "0.25", "0.1") +
		`,{"agent_name":"writer",` + figures(1, 500, "0.1", "0.1") + `]}`
	if got := ask("GET", "/api/runs/r1/usage?app_id=shop", ""); got != want {
		t.Errorf("%s, want\n%s", got, want)
	}

	code, out, stderr := grout(t, "runs", "show", "r1", "--url", url)
	table := "agent events input output tokens cost seconds\n- 1 1,000 500 1,500 0.1 0.1\nplanner 1 1,000 500 1,500 0.25 0.1\nwriter 1 1,000 500 1,500 0.1 0.1\n(all) 3 3,000 1,500 4,500 0.45 0.3\n"
	if code != 0 || stderr != "" || !strings.Contains(plain(out), table) {
		t.Errorf("exit %d, %s\n%s", code, stderr, plain(out))
	}
	if code, out, stderr := grout(t, "runs", "show", "r1", "--url", url, "--after", "1"); code != 0 || strings.Contains(out, "run_started") || !strings.Contains(out, "run_completed") {
		t.Errorf("behind the first event: exit %d, %s\n%s", code, stderr, out)
	}
	var shown struct {
		Usage struct{ Totals struct{ Cost json.Number } }
	}
	if _, out, _ := grout(t, "runs", "show", "r1", "--url", url, "-o", "json"); json.Unmarshal([]byte(out), &shown) != nil || shown.Usage.Totals.Cost != "0.45" {
		t.Errorf("%s", out)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -999: "-999", -1000: "-1,000", -123456: "-123,456"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is %q", n, got)
		}
	}
}
