package integration

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
)

// trace is a file of real calls that lies beside the project, not in it. CI has it.
func trace(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../shared/data/azure_llm_2023_code.csv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is missing, and CI needs it", path)
		}
		t.Skipf("%s does not lie beside the project; CI runs this test", path)
	}
	return path
}

const (
	traceEvents = 8819
	traceInput  = 18_059_974
	traceOutput = 245_896
)

// summary is what `grout ingest -o json` prints.
type summary struct {
	Events     int `json:"events"`
	Accepted   int `json:"accepted"`
	Duplicates int `json:"duplicates"`
	Rejected   int `json:"rejected"`
	Batches    int `json:"batches"`
	Replayed   int `json:"replayed_batches"`
}

func ingest(t *testing.T, p *process.Process, args ...string) summary {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), grout, append([]string{"ingest", "--url", p.URL, "-o", "json"}, args...)...)
	cmd.Env = append(os.Environ(), "INTERNAL_API_KEY="+process.InternalKey)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s\n%s", err, out, errorText(err))
	}
	var s summary
	if err := json.Unmarshal(out, &s); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return s
}

func errorText(err error) []byte {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Stderr
	}
	return nil
}

// Real calls, sent as a batch file, repeated, and repeated in another order and
// cut: every one is counted once, and hourly rows are what the file says.
func TestTrace(t *testing.T) {
	path := trace(t)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		p := start(t, filepath.Join(t.TempDir(), "data"), partitions)
		base := time.Now().UTC().AddDate(0, 0, -1)
		from := time.Date(base.Year(), base.Month(), base.Day(), 12, 0, 0, 0, time.UTC)
		args := []string{path, "--app", "a", "--user", "u", "--model", "m", "--shift-to", from.Format(time.RFC3339)}

		if s := ingest(t, p, args...); s.Accepted != traceEvents || s.Duplicates != 0 || s.Rejected != 0 || s.Replayed != 0 {
			t.Errorf("first run: %+v", s)
		}
		checkTrace(t, p, path, from)
		if s := ingest(t, p, args...); s.Accepted != traceEvents || s.Replayed != s.Batches || s.Batches == 0 {
			t.Errorf("the same again: %+v, want the first answers, flagged", s)
		}
		if s := ingest(t, p, append(args, "--shuffle", "7", "--batch-ids", "other")...); s.Duplicates != traceEvents || s.Accepted != 0 || s.Replayed != 0 {
			t.Errorf("shuffled, with new batch ids: %+v, want duplicates", s)
		}
		checkTrace(t, p, path, from)
		_, times := recorded(t, facts(t, p, func(list []fact) bool { e, _ := recorded(t, list); return len(e) >= traceEvents }))
		if len(times) != traceEvents {
			t.Errorf("%d events in facts, want %d", len(times), traceEvents)
		}
		for id, n := range times {
			if n != 1 {
				t.Errorf("event %q is in %d facts", id, n)
			}
		}
		stop(t, p)
	})
}

type hourRow struct {
	Start  time.Time `json:"window_start"`
	Events int64     `json:"events"`
	Input  int64     `json:"input_tokens"`
	Output int64     `json:"output_tokens"`
}

func checkTrace(t *testing.T, p *process.Process, path string, from time.Time) {
	t.Helper()
	var report struct {
		Rows   []hourRow `json:"rows"`
		Totals hourRow   `json:"totals"`
	}
	request(t, p, "GET", "/api/usage?app_id=a&window=hour", nil).want(t, 200).into(t, &report)
	if want := (hourRow{Events: traceEvents, Input: traceInput, Output: traceOutput}); report.Totals != want {
		t.Errorf("totals %+v, want %+v", report.Totals, want)
	}
	if d := cmp.Diff(traceHours(t, path, from), report.Rows); d != "" {
		t.Errorf("hourly rows differ from the file's (-file +grout):\n%s", d)
	}
}

// traceHours sums the file by plain means.
func traceHours(t *testing.T, path string, from time.Time) []hourRow {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var first time.Time
	var out []hourRow
	for i, row := range rows[1:] {
		at, err := time.Parse("2006-01-02 15:04:05.9999999", row[0])
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = at
		}
		hour := from.Add(at.Sub(first)).Truncate(time.Hour)
		if len(out) == 0 || !out[len(out)-1].Start.Equal(hour) {
			out = append(out, hourRow{Start: hour})
		}
		last := &out[len(out)-1]
		in, _ := strconv.ParseInt(row[1], 10, 64)
		tokens, _ := strconv.ParseInt(row[2], 10, 64)
		last.Events++
		last.Input += in
		last.Output += tokens
	}
	return out
}

// An app id may hold every character; it comes back in answers, subjects and facts.
func TestOddApps(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		p := start(t, filepath.Join(t.TempDir(), "data"), partitions)
		apps := []string{"a.b*c>d%e f\"g\\h/i", "приложение", "\x00\x01\x7f", "%41", "A", " ", "?#&=", "€😀"}
		var events []any
		for i, app := range apps {
			events = append(events, map[string]any{
				"event_id": fmt.Sprint("e", i), "timestamp": time.Now().UTC().Format(time.RFC3339), "app_id": app,
				"user_id": "u", "model": "m", "input_tokens": i + 1, "output_tokens": 0,
			})
		}
		request(t, p, "POST", "/api/usage/ingest", map[string]any{"batch_id": "odd", "events": events}).want(t, 200)
		for i, app := range apps {
			var r struct {
				App    string  `json:"app_id"`
				Totals hourRow `json:"totals"`
			}
			request(t, p, "GET", "/api/usage?app_id="+queryEscape(app), nil).want(t, 200).into(t, &r)
			if r.App != app || r.Totals.Input != int64(i+1) || r.Totals.Events != 1 {
				t.Errorf("app %q: %+v", app, r)
			}
		}
		seen := map[string]bool{}
		for _, f := range facts(t, p, func(list []fact) bool { return len(list) >= len(apps) }) {
			seen[f.App] = true
		}
		for _, app := range apps {
			if !seen[app] {
				t.Errorf("no fact of app %q", app)
			}
		}
	})
}
