package live_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"grout/bus"
	"grout/handlers/live"
)

// BenchmarkReaders has readers watch chats into which facts are published at a rate, and
// prints how long a fact takes to a reader, what a reader that waits takes of memory, and
// what all of it takes of a processor for each frame.
func BenchmarkReaders(b *testing.B) {
	for _, c := range []struct{ readers, chats, rate int }{{1000, 50, 0}, {1000, 50, 1000}, {10000, 500, 1000}} {
		b.Run(fmt.Sprintf("readers=%d/chats=%d/facts=%d", c.readers, c.chats, c.rate), func(b *testing.B) {
			n := newNode(b, bus.Config{FactBytes: 256 << 20})
			h := n.hub(live.Options{})
			ctx, cancel := context.WithCancel(context.Background())
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var all sync.WaitGroup
			var mu sync.Mutex
			var took []time.Duration
			var frames atomic.Int64
			for i := range c.readers {
				r, err := h.Open(ctx, live.Filter{AppID: "a", ChatID: fmt.Sprint("c", i%c.chats)}, live.From{})
				if err != nil {
					b.Fatal(err)
				}
				all.Go(func() {
					defer r.Close()
					for {
						list, err := r.Next(ctx)
						if err != nil {
							return
						}
						now := time.Now()
						frames.Add(int64(len(list)))
						mu.Lock()
						for _, f := range list {
							took = append(took, now.Sub(publishedAt(f.Data)))
						}
						mu.Unlock()
					}
				})
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			cpu, begin := cpuTime(), time.Now()
			const tick, span = 20 * time.Millisecond, 3 * time.Second // the relay gathers for so long
			due := 0
			for range b.N {
				for at := tick; at <= span; at += tick {
					time.Sleep(time.Until(begin.Add(at)))
					from := len(n.given)
					for ; due < int(at.Seconds()*float64(c.rate)); due++ {
						n.fact("a", fmt.Sprint("c", due%c.chats), 0, 300)
					}
					if due > from {
						n.publish(from)
					}
				}
			}
			used, end := cpuTime()-cpu, time.Now()
			deadline := time.Now().Add(10 * time.Second)
			for frames.Load() < int64(len(n.given)*c.readers/c.chats) && time.Now().Before(deadline) {
				runtime.Gosched()
			}
			cancel()
			all.Wait()
			b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/float64(c.readers), "bytes/reader")
			b.ReportMetric(used.Seconds()/end.Sub(begin).Seconds()*100, "%cpu")
			if len(took) > 0 {
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Microseconds())/1e3, "p50-ms")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1e3, "p99-ms")
				b.ReportMetric(float64(len(took)), "frames")
			}
		})
	}
}

// BenchmarkReconnects has many come back at once, each to another place of its chat's
// past, and prints how long it takes until all have read to the end.
func BenchmarkReconnects(b *testing.B) {
	const readers, chats, each = 1000, 50, 200
	n := newNode(b, bus.Config{FactBytes: 256 << 20})
	for i := range chats * each {
		n.fact("a", fmt.Sprint("c", i%chats), 0, 300)
	}
	n.publish(0)
	h := n.hub(live.Options{})
	for b.Loop() {
		var all sync.WaitGroup
		var frames atomic.Int64
		for i := range readers {
			all.Go(func() {
				behind := uint64(i / chats * 10)
				r, err := h.Open(context.Background(), live.Filter{AppID: "a", ChatID: fmt.Sprint("c", i%chats)}, live.From{Number: &behind})
				if err != nil {
					b.Error(err)
					return
				}
				defer r.Close()
				for at := behind; at < each; {
					list, err := r.Next(context.Background())
					if err != nil || list[0].Sequence != at+1 {
						b.Errorf("behind %d: %v, %v", at, list, err)
						return
					}
					at += uint64(len(list))
					frames.Add(int64(len(list)))
				}
			})
		}
		all.Wait()
		s := h.Stats()
		b.ReportMetric(float64(frames.Load()), "frames")
		b.ReportMetric(float64(s.Replays)/readers, "reads/reader")
		b.ReportMetric(float64(s.Searches)/readers, "searches/reader")
	}
}

// publishedAt reads the instant that a fact was made from its padding.
func publishedAt(data []byte) time.Time {
	_, text, _ := strings.Cut(string(data), `"at":`)
	nanos, _ := strconv.ParseInt(strings.TrimSuffix(text, "}"), 10, 64)
	return time.Unix(0, nanos)
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // of this process: cannot fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
