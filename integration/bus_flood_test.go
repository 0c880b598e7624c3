package integration

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
	"grout/schemas"
)

func decode64(t testing.TB, text string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// callers sends single events over HTTP for a while and gives how long each took.
func callers(t *testing.T, p *process.Process, name string, many int, d time.Duration) (took []time.Duration) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	end := time.Now().Add(d)
	for n := range many {
		all.Go(func() {
			var own []time.Duration
			for i := 0; time.Now().Before(end); i++ {
				body := fmt.Sprintf(`{"events":[{"event_id":"%s-%d-%d","timestamp":%q,"app_id":"http","user_id":"u","model":"m","input_tokens":1,"output_tokens":0}]}`, name, n, i, time.Now().UTC().Format(time.RFC3339))
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL+"/api/usage/ingest", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("X-Internal-API-Key", process.InternalKey)
				began := time.Now()
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				own = append(own, time.Since(began))
				if resp.StatusCode != http.StatusOK {
					t.Errorf("status %d", resp.StatusCode)
					return
				}
			}
			mu.Lock()
			took = append(took, own...)
			mu.Unlock()
		})
	}
	all.Wait()
	slices.Sort(took)
	return took
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// A flood on the bus does not stop HTTP, and every command of it has its outcome. How much
// it moves HTTP is printed.
func TestFloodOnTheBus(t *testing.T) {
	const many, quiet = 8, time.Second
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	callers(t, p, "warm", many, 300*time.Millisecond)
	before := callers(t, p, "before", many, quiet)

	js := publisher(t, p)
	var sent atomic.Int64
	var flooding sync.WaitGroup
	over := make(chan struct{})
	for n := range 8 {
		flooding.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-over:
					return
				default:
				}
				data := fmt.Sprintf(`{"reservation_id":"unknown-%d-%d"}`, n, i)
				if _, err := js.PublishMsg(t.Context(), commandOf("flood", "budget.release", data, "Nats-Msg-Id", fmt.Sprintf("%d-%d", n, i)), jetstream.WithRetryAttempts(0)); err == nil {
					sent.Add(1)
				}
			}
		})
	}
	during := callers(t, p, "during", many, 2*quiet)
	close(over)
	flooding.Wait()
	refused := 0
	facts(t, p, func(l []fact) bool {
		refused = 0
		for _, f := range l {
			if f.Type == schemas.TypeOf(schemas.CommandRefused.Name) && f.App == "flood" {
				refused++
			}
		}
		return refused >= int(sent.Load())
	})
	if refused != int(sent.Load()) {
		t.Errorf("%d outcomes of %d commands", refused, sent.Load())
	}
	a, b := quantile(before, .99), quantile(during, .99)
	t.Logf("HTTP alone: %d requests, p50 %v, p99 %v; beside %d commands in %v on the bus: %d requests, p50 %v, p99 %v (× %.2f)",
		len(before), quantile(before, .5), a, sent.Load(), 2*quiet, len(during), quantile(during, .5), b, float64(b)/float64(a))
	if len(during) == 0 || sent.Load() == 0 {
		t.Error("one of both was stopped")
	}
	stop(t, p)
}
