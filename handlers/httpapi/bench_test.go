package httpapi

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"grout/schemas"
)

// nullCommands answers at once that all events count.
type nullCommands struct{ outcome []byte }

func (n nullCommands) Admits(int, int64) error { return nil }

func (n nullCommands) Submit(int, schemas.CommandFrame) (Pending, error) {
	return memoryPending{applied: &Receipt{Seq: 1, Outcome: n.outcome}}, nil
}

// BenchmarkIngest is the cost of HTTP alone: read, parse, split, encode, answer.
func BenchmarkIngest(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			events := make([]string, n)
			for i := range events {
				events[i] = event(fmt.Sprintf("0b8ab9a0-6f4e-4c55-9b8f-%012x", i), fmt.Sprint("app_", i%50))
			}
			text := batch("", events...)
			h := New(Options{
				AppID: "a", InternalKeys: []string{internalKey},
				Commands: nullCommands{(&schemas.IngestOutcome{Accepted: n}).Append(nil)},
			}).Handler()
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/api/usage/ingest", strings.NewReader(text))
				r.Header.Set("X-Internal-API-Key", internalKey)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
