package integration

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
)

// wave is a crowd of callers that want one token each of somebody's budgets.
type wave struct {
	user, model string
	callers     int
	granted     int // what the limits leave, to the token
}

// Callers that race for the last tokens of two scopes and a model get all that is left
// and nothing beyond, also when the server is killed under them: who got no answer asks
// again under the same id. Then everything is settled or given back, and nothing is held.
func TestRaceForTheLastTokens(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		r := &race{t: t, data: data, partitions: partitions, client: &http.Client{
			Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 20 * time.Second,
		}}
		t.Cleanup(r.client.CloseIdleConnections)
		r.move(start(t, data, partitions))
		for round := range 6 {
			app := fmt.Sprint("race-", round)
			r.sync(app)
			for n, w := range []wave{{"ann", "m", 90, 60}, {"ben", "m", 60, 20}, {"ben", "n", 60, 20}, {"cay", "n", 20, 0}} {
				ids := r.run(app, n, w, round%3 == 1 && n == 0)
				if len(ids) != w.granted {
					t.Errorf("round %d: %s got %d tokens of model %s, the limits leave %d", round, w.user, len(ids), w.model, w.granted)
				}
				r.end(app, w, ids)
			}
			want := map[string]string{"app total_tokens": "100+0 of 100", "app model:m": "80+0 of 80"}
			got := entitled(t, r.process.Load(), app).standing()
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("round %d at its end (-want +got):\n%s", round, d)
			}
		}
		stop(t, r.process.Load())
		if list, code, text := verify(t, data, partitions, nil); code != 0 {
			t.Errorf("verify ends with %d, %s, %+v", code, text, list)
		}
	})
}

type race struct {
	t          *testing.T
	data       string
	partitions int
	client     *http.Client
	process    atomic.Pointer[process.Process]
}

func (r *race) move(p *process.Process) { r.process.Store(p) }

func (r *race) sync(app string) {
	budget := func(who string, total int, more string) {
		request(r.t, r.process.Load(), "POST", "/api/internal/entitlement/sync", fmt.Sprintf(`{"version":"1.1","app_id":%q,%s"plan":{"tier":"pro"},
			"token_budget":{"period":"lifetime","total_tokens":{"limit":%d,"enforcement":"hard"}%s}}`, app, who, total, more)).want(r.t, 200)
	}
	budget("", 100, `,"per_model_limits":{"m":{"limit":80,"enforcement":"hard"}}`)
	budget(`"user_id":"ann",`, 60, "")
	budget(`"user_id":"ben",`, 60, "")
}

// run lets the callers of a wave race and gives the ids of what was granted.
func (r *race) run(app string, n int, w wave, kill bool) (granted []string) {
	var group sync.WaitGroup
	var mu sync.Mutex
	answered := make(chan struct{}, w.callers)
	for c := range w.callers {
		group.Go(func() {
			id := fmt.Sprintf("%s-%d-%d", app, n, c)
			status := r.ask("POST", "/api/budgets/reservations", fmt.Sprintf(`{"app_id":%q,"user_id":%q,"model":%q,"estimated_tokens":1,"ttl_seconds":3600,"reservation_id":%q}`, app, w.user, w.model, id))
			answered <- struct{}{}
			switch status {
			case http.StatusCreated:
				mu.Lock()
				granted = append(granted, id)
				mu.Unlock()
			case http.StatusPaymentRequired:
			default:
				r.t.Errorf("a reservation is answered %d", status)
			}
		})
	}
	if kill {
		for range w.callers / 3 {
			<-answered
		}
		r.process.Load().Kill()
		r.move(start(r.t, r.data, r.partitions))
	}
	group.Wait()
	return granted
}

// ask repeats a request until it has an answer that is not one of passing trouble.
func (r *race) ask(method, path, body string) int {
	deadline := time.Now().Add(time.Minute)
	for {
		status, err := r.once(method, path, body)
		if err == nil && status < 500 && status != http.StatusAccepted || time.Now().After(deadline) {
			return status
		}
		select {
		case <-time.After(5 * time.Millisecond): // the next process listens somewhere else
		case <-r.t.Context().Done():
			return status
		}
	}
}

func (r *race) once(method, path, body string) (int, error) {
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.process.Load().URL+path, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	resp, err := r.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// end releases every reservation once and settles another in its place, so that all
// that was granted ends as used; all of it at once.
func (r *race) end(app string, w wave, ids []string) {
	var group sync.WaitGroup
	for n, id := range ids {
		group.Go(func() {
			if n%2 == 0 { // given back, it is there for somebody else
				if status := r.ask("DELETE", "/api/budgets/reservations/"+id+"?app_id="+url.QueryEscape(app), ""); status != http.StatusOK {
					r.t.Errorf("a release is answered %d", status)
				}
				again := fmt.Sprintf(`{"app_id":%q,"user_id":%q,"model":%q,"estimated_tokens":1,"ttl_seconds":3600,"reservation_id":"again-%s"}`, app, w.user, w.model, id)
				if status := r.ask("POST", "/api/budgets/reservations", again); status != http.StatusCreated {
					r.t.Errorf("what was given back is not there: %d", status)
				}
				id = "again-" + id
			}
			if status := r.ask("POST", "/api/budgets/reservations/"+id+"/settle", fmt.Sprintf(`{"app_id":%q,"event_id":%q,"input_tokens":1,"output_tokens":0}`, app, id)); status != http.StatusOK {
				r.t.Errorf("a settlement is answered %d", status)
			}
		})
	}
	group.Wait()
}
