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
	node, target := startBench(b)
	benchmarkLoad(b, node, target, load.Plan{Events: events, Connections: conns, Requests: int64(b.N)}, events, "events/s")
}

func startBench(b *testing.B) (*app.Instance, *load.Target) {
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
	return node, target
}

func benchmarkLoad(b *testing.B, node *app.Instance, target *load.Target, p load.Plan, each int, unit string) {
	b.ResetTimer()
	r, err := load.Run(context.Background(), target, p)
	b.StopTimer()
	if err != nil || len(r.Errors) > 0 {
		b.Errorf("%v %v", err, r.Errors)
	}
	b.ReportMetric(float64(b.N*each)/r.Elapsed.Seconds(), unit)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(r.Latencies.Quantile(.5))/1e6, "p50-ms")
	b.ReportMetric(float64(r.Latencies.Quantile(.99))/1e6, "p99-ms")
	if err := node.Stop(); err != nil {
		b.Error(err)
	}
}

// BenchmarkBudgets asks for checks, and for reservations that are settled, of apps,
// users and models that all have hard budgets.
func BenchmarkBudgets(b *testing.B) {
	for _, kind := range []load.Kind{load.Check, load.Count, load.Reserve} {
		for _, conns := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/conns=%d", kind, conns), func(b *testing.B) { benchmarkBudgets(b, kind, conns) })
		}
	}
}

func benchmarkBudgets(b *testing.B, kind load.Kind, conns int) {
	node, target := startBench(b)
	if err := load.SetBudgets(context.Background(), target, 0, 1); err != nil {
		b.Fatal(err)
	}
	benchmarkLoad(b, node, target, load.Plan{Kind: kind, Connections: conns, Requests: int64(b.N)}, 1, "ops/s")
}
