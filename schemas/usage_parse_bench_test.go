package schemas

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// loadBody is a request of the shape that peers/load sends.
func loadBody(events int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	uuid := func() string {
		return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", rng.Uint32(), rng.IntN(1<<16), rng.IntN(1<<12), rng.IntN(1<<12), rng.Uint64()>>16)
	}
	now := time.Date(2026, 1, 26, 15, 30, 0, 0, time.UTC)
	b := fmt.Appendf(nil, `{"batch_id":"%s","events":[`, uuid())
	for i := range events {
		if i > 0 {
			b = append(b, ',')
		}
		app := rng.IntN(50)
		in, out := 100+rng.IntN(4000), 10+rng.IntN(2000)
		b = fmt.Appendf(b, `{"event_id":"%s","timestamp":"%s","app_id":"app_%04d","user_id":"user_%04d_%06d","workflow_id":"wf_%06d","model":"model-%02d",`+
			`"input_tokens":%d,"output_tokens":%d,"total_tokens":%d}`, uuid(),
			now.Add(-time.Duration(rng.IntN(60_000))*time.Millisecond).Format("2006-01-02T15:04:05.000Z"),
			app, app, rng.IntN(100), rng.IntN(20), rng.IntN(5), in, out, in+out)
	}
	return append(b, `]}`...)
}

func BenchmarkParseUsageBatch(b *testing.B) {
	for _, events := range []int{1, 10, 1000} {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			body := loadBody(events)
			var batch ParsedBatch
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := ParseUsageBatch(body, &batch); err != nil || len(batch.Events) != events {
					b.Fatal(err, batch.Rejected)
				}
			}
			b.ReportMetric(float64(events*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
