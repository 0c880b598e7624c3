package main

import (
	"fmt"
	"io"
	"maps"
	"runtime"
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
	Load       string       `json:"load"`
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

	// Of a server in a process of its own.
	CPU    *float64 `json:"server_cpu_us_per_event,omitempty"`
	Others *float64 `json:"others,omitempty"` // share of the processors in use by neither the server nor this process
}

func newBenchRun(p load.Plan, r *load.Result) benchRun {
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	run := benchRun{
		Events: p.Events, Connections: p.Connections, Seconds: r.Elapsed.Seconds(), Requests: r.Requests,
		RequestRate: r.Rate, EventRate: r.Rate * float64(p.Events),
		P50: ms(r.Latencies.Quantile(.5)), P99: ms(r.Latencies.Quantile(.99)), P999: ms(r.Latencies.Quantile(.999)), Max: ms(r.Latencies.Max()),
		Errors: r.Errors, Missed: r.Missed, Busy: known(r.Shares.Busy), Own: known(r.Shares.Own), Steal: known(r.Shares.Steal),
	}
	if events := float64(r.Answered) * float64(p.Events); p.Process != 0 && r.Process >= 0 && events > 0 {
		run.CPU = known(perEvent(r.Process, events))
		if r.Shares.Busy >= 0 && r.Shares.Own >= 0 {
			run.Others = known(max(0, r.Shares.Busy-r.Shares.Own-r.Process.Seconds()/r.Elapsed.Seconds()/float64(runtime.NumCPU())))
		}
	}
	return run
}

// perEvent is in microseconds.
func perEvent(cpu time.Duration, events float64) float64 { return float64(cpu) / 1e3 / events }

// megabytes of 10⁶ bytes.
func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// known is nil for what could not be found out.
func known(value float64) *float64 {
	if value < 0 {
		return nil
	}
	return &value
}

const (
	benchHead = "%12s %6s %11s %11s %9s %9s %9s %7s %6s %6s %6s\n"
	benchLine = "%12s %6s %11s %11s %9.2f %9.2f %9.2f %7s %6s %6s %6s%s\n"
)

// printHead tells what is measured, and where.
func (r *benchReport) printHead(w io.Writer) {
	fmt.Fprintf(w, "server      %s\n", r.Server)
	fmt.Fprintf(w, "durability  %s\n", r.Durability)
	fmt.Fprintf(w, "loop        %s\n", r.Loop)
	fmt.Fprintf(w, "load        %s\n", r.Load)
	printMachine(w, &r.Machine)
	fmt.Fprintln(w)
	fmt.Fprintf(w, benchHead, "events/req", "conns", "req/s", "events/s", "p50 ms", "p99 ms", "p99.9 ms", "errors", "busy", "own", "steal")
}

func printMachine(w io.Writer, m *load.Machine) {
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
}

// failures counts what did not go as it should, and names it.
func (r *benchRun) failures() (failed int64, notes []string) {
	for _, what := range slices.Sorted(maps.Keys(r.Errors)) {
		failed += r.Errors[what]
		notes = append(notes, fmt.Sprintf("%s: %d", what, r.Errors[what]))
	}
	if r.Missed > 0 {
		notes = append(notes, fmt.Sprintf("missed: %d", r.Missed))
	}
	return failed, notes
}

func share(s *float64) string {
	if s == nil {
		return "?"
	}
	return fmt.Sprintf("%.0f%%", 100**s)
}

func (r *benchRun) print(w io.Writer) {
	failed, notes := r.failures()
	note := ""
	if notes != nil {
		note = "  " + strings.Join(notes, ", ")
	}
	fmt.Fprintf(w, benchLine, thousands(int64(r.Events)), thousands(int64(r.Connections)), thousands(int64(r.RequestRate)), thousands(int64(r.EventRate)),
		r.P50, r.P99, r.P999, thousands(failed), share(r.Busy), share(r.Own), share(r.Steal), note)
}
