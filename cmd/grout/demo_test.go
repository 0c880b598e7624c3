package main

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"
)

// TestDemo runs the real thing.
func TestDemo(t *testing.T) {
	dir := clean(t)
	code, stdout, stderr := grout(t, "demo", "--once", "--dir", dir)
	if code != 0 {
		t.Fatalf("exit %d: %s\n%s", code, stderr, stdout)
	}
	for _, want := range []string{"listens on http://127.0.0.1:", " 0 rejected", "nothing was counted twice", "facts (usage.recorded) were published", "app lab", "gpt-4o-mini", "█", "the data directory is removed"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("it does not say %q:\n%s", want, stdout)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDemoDay(t *testing.T) {
	end := time.Date(2026, 1, 31, 15, 20, 0, 0, time.UTC)
	events := demoDay(end, 7)
	if len(events) < 3000 || len(events) > 8000 {
		t.Errorf("%d events", len(events))
	}
	ids, apps, last := map[string]bool{}, map[string]int{}, ""
	for _, e := range events {
		if ids[e.EventID] || e.Timestamp < last || e.Timestamp < "2026-01-30T15:20" || e.Timestamp > "2026-01-31T15:20" || e.InputTokens < 1 || e.OutputTokens < 0 {
			t.Fatalf("%+v", e)
		}
		ids[e.EventID], last = true, e.Timestamp
		apps[e.AppID]++
	}
	if len(apps) != len(demoApps) || apps["shop"] < apps["lab"] {
		t.Errorf("events by app: %v", apps)
	}
	evening, night := demoApps[0].activity(end.Add(4*time.Hour)), demoApps[0].activity(end.Add(15*time.Hour))
	if evening < .9 || night > .2 || math.IsNaN(night) {
		t.Errorf("activity %f in the evening, %f at night", evening, night)
	}
}

func TestBench(t *testing.T) {
	dir := clean(t)
	args := []string{"bench", "--dir", dir, "--events", "1,20", "--connections", "4", "--duration", "500ms", "--warmup", "20ms"}
	code, stdout, stderr := grout(t, append(args, "-o", "json")...)
	var r benchReport
	if err := json.Unmarshal([]byte(stdout), &r); code != 0 || err != nil {
		t.Fatalf("exit %d, %v: %s\n%s", code, err, stderr, stdout)
	}
	if len(r.Runs) != 2 || r.Machine.Cores < 1 || r.Machine.Disk == "" || r.Durability == "" {
		t.Errorf("%+v", r)
	}
	for _, run := range r.Runs {
		if run.Requests < 1 || len(run.Errors) > 0 || run.P50 <= 0 || run.P50 > run.P99 || run.P99 > run.P999 || run.P999 > run.Max || run.EventRate < run.RequestRate {
			t.Errorf("%+v", run)
		}
	}
	code, stdout, stderr = grout(t, append(args[:3:3], "--events", "5", "--connections", "4", "--duration", "200ms", "--rate", "500")...)
	if code != 0 || !strings.Contains(stdout, "open, 500 events/s due") || !strings.Contains(stdout, "p99.9 ms") {
		t.Errorf("exit %d: %s\n%s", code, stderr, stdout)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestBenchFaults(t *testing.T) {
	clean(t)
	for _, args := range [][]string{
		{"--events", "0"},
		{"--events", "20001"},
		{"--connections", "0"},
		{"--duration", "1ms"},
		{"--rate", "-1"},
		{"--url", "http://127.0.0.1:1", "--dir", "x"},
		{"--key-file", "x"},
	} {
		if code, _, stderr := grout(t, append([]string{"bench"}, args...)...); code != 2 {
			t.Errorf("%q: exit %d, %s", args, code, stderr)
		}
	}
	t.Setenv("INTERNAL_API_KEY", "k")
	if code, _, stderr := grout(t, "bench", "--url", "http://127.0.0.1:1", "--duration", "20ms"); code != 1 || !strings.Contains(stderr, "connect to 127.0.0.1:1") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}
