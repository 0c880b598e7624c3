package integration

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"grout/integration/process"
)

// While the disk takes no more, ingest answers 503 and never a false 2xx, and
// readiness turns red. When space returns it works again by itself, and what was
// answered is there, once.
func TestFullDisk(t *testing.T) {
	rounds := max(1, kills(t)/10)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		p := start(t, filepath.Join(t.TempDir(), "data"), partitions, "MOZAIKS_WAIT_LIMIT=2s")
		counted := 0
		batch := 0
		// send tries one batch until it is counted, or once.
		send := func(until time.Time) bool {
			batch++
			body := map[string]any{"batch_id": fmt.Sprint("b", batch), "events": someEvents("full", fmt.Sprint("b", batch), 200)}
			for {
				a := request(t, p, "POST", "/api/usage/ingest", body)
				switch a.status {
				case http.StatusOK:
					counted += 200
					return true
				case http.StatusAccepted: // durable: the same again tells when it is counted
				case http.StatusServiceUnavailable:
					if until.IsZero() {
						batch-- // the same batch later
						return false
					}
				default:
					t.Fatalf("status %d: %.300s", a.status, a.body)
				}
				if !until.IsZero() && time.Now().After(until) {
					t.Fatalf("it did not work again within the time: %s", p.Log())
				}
				pause(t, 50*time.Millisecond)
			}
		}
		for round := range rounds {
			for range 5 {
				send(time.Now().Add(10 * time.Second))
			}
			limit(t, p, uint64(4<<10*(1+round%8)))
			refused := false
			for range 40 {
				if !send(time.Time{}) {
					refused = true
					break
				}
			}
			if !refused {
				t.Error("nothing was refused while the disk was full")
			}
			pause(t, 300*time.Millisecond)
			limit(t, p, unix.RLIM_INFINITY)
			began := time.Now()
			send(began.Add(10 * time.Second))
			t.Logf("round %d: counting again after %s", round, time.Since(began).Round(time.Millisecond))
		}
		var r struct {
			Totals hourRow `json:"totals"`
		}
		request(t, p, "GET", "/api/usage?app_id=full", nil).want(t, 200).into(t, &r)
		if r.Totals.Events != int64(counted) {
			t.Errorf("%d events are counted, %d were answered", r.Totals.Events, counted)
		}
		_, times := recorded(t, facts(t, p, func(list []fact) bool { e, _ := recorded(t, list); return len(e) >= counted }))
		for id, n := range times {
			if n != 1 {
				t.Errorf("event %q is in %d facts", id, n)
			}
		}
		stop(t, p)
	})
}

// limit bounds the size of the files that the process may write, which is how a
// full disk looks to it; unix.RLIM_INFINITY lifts it.
func limit(t *testing.T, p *process.Process, bytes uint64) {
	t.Helper()
	if err := unix.Prlimit(p.PID(), unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
		if strings.Contains(err.Error(), "not permitted") {
			t.Fatalf("the limit cannot be set here: %v", err)
		}
		t.Fatal(err)
	}
}

func pause(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
}
