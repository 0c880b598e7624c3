package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"grout/integration/process"
)

// wrongClock moves the clock of processes.
type wrongClock struct{ path string }

func newWrongClock(t *testing.T) *wrongClock {
	c := &wrongClock{filepath.Join(t.TempDir(), "clock")}
	c.set(t, 0)
	return c
}

// set replaces the file whole: it is read at any time.
func (c *wrongClock) set(t *testing.T, by time.Duration) {
	t.Helper()
	part := c.path + ".part"
	if err := os.WriteFile(part, []byte(by.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(part, c.path); err != nil {
		t.Fatal(err)
	}
}

func (c *wrongClock) env() string { return "GROUT_CLOCK_FILE=" + c.path }

// clockEvents are events with a stamp of their own, of several apps.
func clockEvents(id string, at time.Time) map[string]any {
	var events []any
	for i := range 8 {
		events = append(events, map[string]any{
			"event_id": fmt.Sprint(id, "-", i), "timestamp": at.UTC().Format(time.RFC3339), "app_id": fmt.Sprint("app-", i), "user_id": "u", "model": "m",
			"input_tokens": 1, "output_tokens": 1,
		})
	}
	return map[string]any{"events": events}
}

func sendClockEvents(t *testing.T, p *process.Process, id string, at time.Time, status, accepted, duplicates int) {
	t.Helper()
	a := request(t, p, http.MethodPost, "/api/usage/ingest", clockEvents(id, at)).want(t, status)
	var r struct {
		Accepted, Duplicates, Rejected int
		Code                           string `json:"error_code"`
	}
	a.into(t, &r)
	if status != http.StatusOK && r.Code != "CLOCK_JUMP" || r.Accepted != accepted || r.Duplicates != duplicates || r.Rejected != 0 {
		t.Fatalf("%s: %s", id, a.body)
	}
}

// A clock that is set while grout runs is noticed before it judges anything; one that
// is wrong at the start expires nothing and rejects nothing, and is set right by a reset.
func TestClockJumps(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		clock := newWrongClock(t)
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions, clock.env())
		begin := time.Now()
		sendClockEvents(t, p, "first", begin, 200, 8, 0)
		for i, by := range []time.Duration{time.Minute, -time.Minute, 2 * time.Hour, -2 * time.Hour, 40 * 24 * time.Hour, -40 * 24 * time.Hour} {
			clock.set(t, by)
			id := fmt.Sprint("jump-", i)
			if by.Abs() > 5*time.Minute {
				sendClockEvents(t, p, id, time.Now(), 503, 0, 0)
			} else {
				sendClockEvents(t, p, id, time.Now(), 200, 8, 0)
			}
			clock.set(t, 0)
			if by.Abs() > 5*time.Minute {
				sendClockEvents(t, p, id, time.Now(), 200, 8, 0)
			}
		}
		p.Kill()

		ahead := 40 * 24 * time.Hour
		clock.set(t, ahead)
		p = start(t, data, partitions, clock.env())
		sendClockEvents(t, p, "true", time.Now(), 503, 0, 0) // too old only if the clock is right
		sendClockEvents(t, p, "ahead", begin.Add(ahead), 200, 8, 0)
		steps := regexp.MustCompile(`(?m)^grout_clock_steps_total\{partition="\d"\} 1$`)
		waits := regexp.MustCompile(`(?m)^grout_expiry_wait_ticks\{partition="\d"\} 24$`)
		metrics := func() string { return string(request(t, p, http.MethodGet, "/metrics", nil).want(t, 200).body) }
		within(t, "the step is told", func() bool {
			text := metrics()
			return len(steps.FindAllString(text, -1)) == partitions && len(waits.FindAllString(text, -1)) == partitions
		})
		sendClockEvents(t, p, "true", time.Now(), 503, 0, 0)
		stop(t, p)

		clock.set(t, 0)
		p = start(t, data, partitions, clock.env())
		sendClockEvents(t, p, "late", time.Now(), 503, 0, 0)
		stop(t, p)
		for _, step := range []string{"show", "reset"} {
			cmd := exec.CommandContext(t.Context(), grout, "clock", step, "-o", "json", "--data-dir", data, "--partitions", fmt.Sprint(partitions))
			cmd.Env = append(os.Environ(), clock.env())
			out, err := cmd.Output()
			var list []struct {
				Reset   bool
				Steps   int
				Wait    int    `json:"wait_ticks"`
				Expired string `json:"expired_until"`
			}
			if err != nil || json.Unmarshal(out, &list) != nil || len(list) != partitions {
				t.Fatalf("clock %s: %v %s", step, err, out)
			}
			for _, st := range list {
				if st.Reset != (step == "reset") || st.Steps != 1 || st.Wait != 24 || st.Expired != "" {
					t.Errorf("clock %s: %s", step, out)
				}
			}
		}
		p = start(t, data, partitions, clock.env())
		sendClockEvents(t, p, "late", time.Now(), 200, 8, 0)
		sendClockEvents(t, p, "true", time.Now(), 200, 8, 0)
		sendClockEvents(t, p, "first", begin, 200, 0, 8)
		total := 0
		for app := range 8 {
			var sums struct{ Totals struct{ Events int } }
			request(t, p, http.MethodGet, fmt.Sprint("/api/usage?window=none&app_id=app-", app), nil).want(t, 200).into(t, &sums)
			total += sums.Totals.Events
		}
		if want := 8 * (1 + 6 + 1 + 1 + 1); total != want {
			t.Errorf("%d events are counted, want %d", total, want)
		}
		stop(t, p)
	})
}

// within polls until something holds.
func within(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for !holds() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		}
	}
}
