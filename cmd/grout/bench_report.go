package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"grout/cmd/grout/load"
)

// benchReport is the outcome of `grout bench`.
type benchReport struct {
	Server     string       `json:"server"`
	Durability string       `json:"durability"`
	Loop       string       `json:"loop"`
	Machine    load.Machine `json:"machine"` // where the load came from
	Runs       []benchRun   `json:"runs"`
}

// benchRun is one combination. Latencies are in milliseconds, of requests that
// were answered as they should.
type benchRun struct {
	Events      int              `json:"events_per_request"`
	Connections int              `json:"connections"`
	Seconds     float64          `json:"duration_sec"`
	Requests    int64            `json:"requests"`
	RequestRate float64          `json:"requests_per_sec"`
	EventRate   float64          `json:"events_per_sec"`
	P50         float64          `json:"p50_ms"`
	P99         float64          `json:"p99_ms"`
	P999        float64          `json:"p99_9_ms"`
	Max         float64          `json:"max_ms"`
	Errors      map[string]int64 `json:"errors"`
	Missed      int64            `json:"missed"`
	Busy        *float64         `json:"busy"`  // share of the processors in use; null: unknown
	Own         *float64         `json:"own"`   // share of them in use by this process
	Steal       *float64         `json:"steal"` // share of them given to others by the host
}

func newBenchRun(p load.Plan, r *load.Result) benchRun {
	known := func(share float64) *float64 {
		if share < 0 {
			return nil
		}
		return &share
	}
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	rate := float64(r.Requests) / r.Elapsed.Seconds()
	return benchRun{
		Events: p.Events, Connections: p.Connections, Seconds: r.Elapsed.Seconds(), Requests: r.Requests,
		RequestRate: rate, EventRate: rate * float64(p.Events),
		P50: ms(r.Latencies.Quantile(.5)), P99: ms(r.Latencies.Quantile(.99)), P999: ms(r.Latencies.Quantile(.999)), Max: ms(r.Latencies.Max()),
		Errors: r.Errors, Missed: r.Missed, Busy: known(r.Shares.Busy), Own: known(r.Shares.Own), Steal: known(r.Shares.Steal),
	}
}

const (
	benchHead = "%12s %6s %11s %11s %9s %9s %9s %7s %6s %6s %6s\n"
	benchLine = "%12s %6s %11s %11s %9.2f %9.2f %9.2f %7s %6s %6s %6s%s\n"
)

// printHead tells what is measured, and where.
func (r *benchReport) printHead(w io.Writer) {
	m := &r.Machine
	fmt.Fprintf(w, "server      %s\n", r.Server)
	fmt.Fprintf(w, "durability  %s\n", r.Durability)
	fmt.Fprintf(w, "loop        %s\n", r.Loop)
	fmt.Fprintf(w, "machine     %d cores, GOMAXPROCS %d, %s, %s", m.Cores, m.GOMAXPROCS, m.System, m.Go)
	if m.Processor != "" {
		fmt.Fprintf(w, ", %s", m.Processor)
	}
	fmt.Fprintln(w, "; the load runs on it too")
	if m.Disk != "" {
		fmt.Fprintf(w, "disk        %s, 4 KiB synced in %s\n", m.Disk, m.Sync.Round(time.Microsecond))
	}
	if m.InMemory {
		fmt.Fprintln(w, "warning     this is no disk: nothing survives, and syncing costs nothing; choose another --dir")
	}
	fmt.Fprintln(w)
	fmt.Fprintf(w, benchHead, "events/req", "conns", "req/s", "events/s", "p50 ms", "p99 ms", "p99.9 ms", "errors", "busy", "own", "steal")
}

func (r *benchRun) print(w io.Writer) {
	share := func(s *float64) string {
		if s == nil {
			return "?"
		}
		return fmt.Sprintf("%.0f%%", 100**s)
	}
	failed := int64(0)
	var notes []string
	for _, what := range slices.Sorted(maps.Keys(r.Errors)) {
		failed += r.Errors[what]
		notes = append(notes, fmt.Sprintf("%s: %d", what, r.Errors[what]))
	}
	if r.Missed > 0 {
		notes = append(notes, fmt.Sprintf("missed: %d", r.Missed))
	}
	note := ""
	if notes != nil {
		note = "  " + strings.Join(notes, ", ")
	}
	fmt.Fprintf(w, benchLine, thousands(int64(r.Events)), thousands(int64(r.Connections)), thousands(int64(r.RequestRate)), thousands(int64(r.EventRate)),
		r.P50, r.P99, r.P999, thousands(failed), share(r.Busy), share(r.Own), share(r.Steal), note)
}
