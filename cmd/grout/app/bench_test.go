package app_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"grout/cmd/grout/app"
	"grout/cmd/grout/load"
)

// BenchmarkIngest posts batches of new events, mixed over 50 apps, 100 users each,
// 20 workflows and 5 models, and waits for every answer: durable and applied. The
// load shares the machine's processors with the server.
func BenchmarkIngest(b *testing.B) {
	for _, c := range []struct{ events, conns int }{{1000, 16}, {100, 16}, {10, 16}, {1, 16}, {1, 64}, {1, 256}} {
		b.Run(fmt.Sprintf("events=%d/conns=%d", c.events, c.conns), func(b *testing.B) { benchmarkIngest(b, c.events, c.conns) })
	}
}

func benchmarkIngest(b *testing.B, events, conns int) {
	cfg := app.DefaultConfig()
	cfg.DataDir = filepath.Join(b.TempDir(), "data")
	cfg.HTTPAddr, cfg.NATSListen, cfg.LogLevel = "127.0.0.1:0", "", "error"
	cfg.InternalKeys = app.Secret{Values: []string{"key"}}
	node, err := app.Start(context.Background(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	target, err := load.NewTarget(node.URL, "key")
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	r, err := load.Run(context.Background(), target, load.Plan{Events: events, Connections: conns, Requests: int64(b.N)})
	b.StopTimer()
	if err != nil || len(r.Errors) > 0 {
		b.Errorf("%v %v", err, r.Errors)
	}
	b.ReportMetric(float64(b.N*events)/r.Elapsed.Seconds(), "events/s")
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(r.Latencies.Quantile(.5))/1e6, "p50-ms")
	b.ReportMetric(float64(r.Latencies.Quantile(.99))/1e6, "p99-ms")
	if err := node.Stop(); err != nil {
		b.Error(err)
	}
}
