package handlers

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"grout/schemas"
)

// BenchmarkExpiry applies messages beside a million ids that wait to be removed, and
// beside none: it prints how long a message of 1,000 events takes, with its commit.
// Each waits for the disk, so what is added is the work of the purge.
func BenchmarkExpiry(b *testing.B) {
	const day, size = 1000, 1000 // messages of the day that expires, events of each
	for _, expiring := range []bool{false, true} {
		b.Run(fmt.Sprint("expiring=", expiring), func(b *testing.B) {
			s := openStore(b, filepath.Join(b.TempDir(), "s.db"), 0, 1, 250_000)
			defer s.Close()
			w := newWorld(b, s)
			n := 0
			frame := func(at int64) schemas.CommandFrame {
				events := make([]schemas.UsageEvent, size)
				for i := range events {
					n++
					events[i] = schemas.UsageEvent{
						EventID: fmt.Sprintf("%08x-0000-4000-8000-%012x", n, n*7919), Timestamp: at, AppID: fmt.Sprint("app-", n%50), UserID: fmt.Sprint("u-", n%997),
						WorkflowID: fmt.Sprint("wf-", n%20), Model: fmt.Sprint("m-", n%5), InputTokens: 1000, OutputTokens: 200, TotalTokens: 1200,
					}
				}
				return batchFrames(fmt.Sprint("b-", n), at, 1, events...)[0]
			}
			w.tick(testNow)
			for range day {
				w.apply(frame(testNow))
				w.history.groups[len(w.history.groups)-1] = nil
			}
			at := testNow
			for range 37 * 24 {
				at += testHour
				w.tick(at)
			}
			w.published()
			full := s.Stats()
			if expiring {
				before, ok, err := s.Expirable()
				if err != nil || !ok {
					b.Fatal(ok, err)
				}
				w.expire(at, before)
			}
			var took []time.Duration
			var cpu time.Duration
			for b.Loop() {
				b.StopTimer()
				f := frame(at)
				b.StartTimer()
				start, used := time.Now(), cpuTime()
				w.apply(f)
				took = append(took, time.Since(start))
				cpu += cpuTime() - used
				w.history.groups[len(w.history.groups)-1] = nil
			}
			slices.Sort(took)
			st := s.Stats()
			b.ReportMetric(float64(cpu.Microseconds())/float64(len(took)), "cpu-µs")
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-µs")
			b.ReportMetric(float64(st.IDs), "ids")
			b.ReportMetric(float64(st.IDBytes)/float64(1<<20), "table-MiB")
			b.ReportMetric(float64(st.FileBytes-full.FileBytes)/float64(1<<20), "grown-MiB")
		})
	}
}

// cpuTime is what the process has used: unlike the time of day it does not tell what
// else the machine was doing.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
