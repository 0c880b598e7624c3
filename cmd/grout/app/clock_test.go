package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestWallClock(t *testing.T) {
	wall, up := time.Unix(1_000_000, 0), time.Hour
	c := newWallClock(func() time.Time { return wall }, func() time.Duration { return up })
	applied := func() int64 { return wall.UnixNano() }
	for _, step := range []struct {
		name     string
		by, wait time.Duration // the clock is set by, and time passes
		fine     bool
	}{
		{"a day passes", 0, 24 * time.Hour, true},
		{"set by a minute", time.Minute, 0, true},
		{"and by two more", 2 * time.Minute, 0, true},
		{"set by 2 hours", 2 * time.Hour, 0, false},
		{"and back", -2 * time.Hour, 0, true},
		{"set back by 10 minutes", -10 * time.Minute, 0, false},
		{"and forth", 10 * time.Minute, 0, true},
		{"set by 40 days", 40 * 24 * time.Hour, time.Hour, false},
	} {
		wall, up = wall.Add(step.by+step.wait), up+step.wait
		if why := c.jumped(applied()); (why == "") != step.fine {
			t.Errorf("%s: %q", step.name, why)
		}
	}
	c = newWallClock(func() time.Time { return wall }, func() time.Duration { return up })
	if why := c.jumped(wall.Add(5 * time.Minute).UnixNano()); why != "" {
		t.Errorf("5 minutes behind: %s", why)
	}
	if why := c.jumped(wall.Add(5*time.Minute + 1).UnixNano()); !strings.Contains(why, "grout clock reset") {
		t.Errorf("more than 5 minutes behind: %q", why)
	}
}

// After a start with a clock that is 40 days ahead nothing is refused as too old:
// requests are answered 503 until the time is reset, and then counted.
func TestClockAhead(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		cfg := testConfig(t, partitions)
		ahead := 40 * 24 * time.Hour
		cfg.now = func() time.Time { return time.Now().Add(ahead) }
		post := func(url, id string, at time.Time) (int, string) {
			var events []string
			for i := range 8 {
				events = append(events, fmt.Sprintf(`{"event_id":"%s-%d","timestamp":"%s","app_id":"app-%d","user_id":"u","model":"m","input_tokens":1,"output_tokens":1}`,
					id, i, at.UTC().Format(time.RFC3339), i))
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/usage/ingest", bytes.NewReader([]byte(`{"events":[`+strings.Join(events, ",")+`]}`)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-Internal-API-Key", "key")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(body)
		}
		n := serve(t, cfg)
		if status, body := post(n.url, "early", time.Now().Add(ahead)); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		n.stop()

		cfg.now = nil
		logger := slog.New(slog.DiscardHandler)
		in := serve(t, cfg)
		if status, body := post(in.url, "now", time.Now()); status != 503 || !strings.Contains(body, "CLOCK_JUMP") {
			t.Errorf("with a time ahead: %d %s", status, body)
		}
		in.stop()
		for _, want := range []bool{true, false} { // the second time nothing is to be done
			list, err := ResetClock(t.Context(), cfg, false, logger)
			if err != nil {
				t.Fatal(err)
			}
			for _, st := range list {
				if st.Reset != (want && st.Applied.After(st.Clock)) {
					t.Errorf("%+v", st)
				}
			}
		}
		n = serve(t, cfg)
		status, body := post(n.url, "now", time.Now())
		var r struct{ Accepted int }
		if err := json.Unmarshal([]byte(body), &r); err != nil || status != 200 || r.Accepted != 8 {
			t.Errorf("after the reset: %d %s", status, body)
		}
		n.stop()
		list, err := Verify(t.Context(), cfg, VerifyOptions{FromStart: true}, logger)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list {
			if v.Verdict != VerdictEqual {
				t.Errorf("%+v", v)
			}
		}
	}
}
