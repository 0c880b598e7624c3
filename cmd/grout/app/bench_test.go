package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
	cfg := DefaultConfig()
	cfg.DataDir = filepath.Join(b.TempDir(), "data")
	cfg.HTTPAddr, cfg.NATSListen, cfg.LogLevel = "127.0.0.1:0", "", "error"
	cfg.InternalKeys = Secret{Values: []string{"key"}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	out := &announced{ready: make(chan string, 1)}
	go func() { ended <- Run(ctx, cfg, out) }()
	addr := strings.TrimPrefix(<-out.ready, "http://")

	var left atomic.Int64
	left.Store(int64(b.N))
	latencies := make([][]time.Duration, conns)
	var group sync.WaitGroup
	bodies := make([]*loadBody, conns)
	for i := range conns {
		bodies[i] = newLoadBody(uint64(i), events)
	}
	b.ResetTimer()
	for i := range conns {
		group.Go(func() {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer conn.Close()
			in := bufio.NewReader(conn)
			for left.Add(-1) >= 0 {
				bodies[i].renew()
				start := time.Now()
				if _, err := conn.Write(bodies[i].raw); err != nil {
					b.Error(err)
					return
				}
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					b.Errorf("status %d", resp.StatusCode)
					return
				}
				latencies[i] = append(latencies[i], time.Since(start))
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N*events)/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(0, "ns/op")
	all := slices.Concat(latencies...)
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(all[len(all)/2])/1e6, "p50-ms")
		b.ReportMetric(float64(all[len(all)*99/100])/1e6, "p99-ms")
	}
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}

// loadBody is a request whose ids are written over between two sends.
type loadBody struct {
	raw []byte
	ids []int
	rng *rand.Rand
}

func newLoadBody(seed uint64, events int) *loadBody {
	l := &loadBody{rng: rand.New(rand.NewPCG(seed, 17))}
	blank := strings.Repeat("0", 36)
	js := []byte(`{"batch_id":"` + blank + `","events":[`)
	l.ids = append(l.ids, len(`{"batch_id":"`))
	now := time.Now().UTC()
	for i := range events {
		if i > 0 {
			js = append(js, ',')
		}
		js = append(js, `{"event_id":"`...)
		l.ids = append(l.ids, len(js))
		in, out, app := 100+l.rng.IntN(4000), 10+l.rng.IntN(2000), l.rng.IntN(50)
		js = fmt.Appendf(js, `%s","timestamp":"%s","app_id":"app_%04d","user_id":"user_%04d_%06d","workflow_id":"wf_%06d","model":"model-%02d","input_tokens":%d,"output_tokens":%d,"total_tokens":%d}`,
			blank, now.Add(-time.Duration(l.rng.IntN(60_000))*time.Millisecond).Format("2006-01-02T15:04:05.000Z"), app, app, l.rng.IntN(100), l.rng.IntN(20), l.rng.IntN(5), in, out, in+out)
	}
	js = append(js, `]}`...)
	head := fmt.Sprintf("POST /api/usage/ingest HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-Internal-API-Key: key\r\nContent-Length: %d\r\n\r\n", len(js))
	l.raw = append([]byte(head), js...)
	for i := range l.ids {
		l.ids[i] += len(head)
	}
	return l
}

func (l *loadBody) renew() {
	const hex = "0123456789abcdef"
	for _, at := range l.ids {
		hi, lo := l.rng.Uint64(), l.rng.Uint64()
		for i := range 36 {
			switch i {
			case 8, 13, 18, 23:
				l.raw[at+i] = '-'
				continue
			}
			l.raw[at+i] = hex[hi&15]
			hi = hi>>4 | lo<<60
			lo >>= 4
		}
	}
}
