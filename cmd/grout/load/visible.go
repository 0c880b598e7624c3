package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Visibility is how long it took from sending an event until a read showed it.
type Visibility struct {
	Latencies Histogram
	Samples   int64
	Errors    map[string]int64
}

// visibleLimit is how long an event may take to show.
const visibleLimit = 10 * time.Second

// Visible sends an event of a user that was never there, asks for the sums of that
// user until they hold it, and does so again after each pause until the time is
// over or ctx ends.
func Visible(ctx context.Context, t *Target, pause, duration time.Duration) Visibility {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	p := prober{target: t, client: &http.Client{Transport: transport, Timeout: visibleLimit}}
	v := Visibility{Errors: map[string]int64{}}
	for end := time.Now().Add(duration); time.Now().Before(end) && ctx.Err() == nil; {
		took, err := p.probe(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			v.Errors[err.Error()]++
		default:
			v.Samples++
			v.Latencies.Add(took)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return v
}

type prober struct {
	target *Target
	client *http.Client
}

func (p *prober) probe(ctx context.Context) (time.Duration, error) {
	start := time.Now()
	user := fmt.Sprintf("visible_%016x%016x", rand.Uint64(), rand.Uint64())
	event := fmt.Sprintf(`{"events":[{"event_id":"%s","timestamp":"%s","app_id":"app_0000","user_id":"%s","model":"model-00","input_tokens":1,"output_tokens":1}]}`,
		user, start.UTC().Format(time.RFC3339), user)
	if _, err := p.ask(ctx, http.MethodPost, p.target.path, event); err != nil {
		return 0, err
	}
	query := url.Values{"app_id": {"app_0000"}, "user_id": {user}, "from": {start.UTC().Truncate(time.Hour).Format(time.RFC3339)}}
	path := strings.TrimSuffix(p.target.path, "/ingest") + "?" + query.Encode()
	for time.Since(start) < visibleLimit {
		text, err := p.ask(ctx, http.MethodGet, path, "")
		if err != nil {
			return 0, err
		}
		var sums struct{ Totals struct{ Events int64 } }
		if err := json.Unmarshal(text, &sums); err != nil {
			return 0, errors.New("the sums cannot be read")
		}
		if sums.Totals.Events == 1 {
			return time.Since(start), nil
		}
	}
	return 0, errors.New("not visible in time")
}

func (p *prober) ask(ctx context.Context, method, path, text string) ([]byte, error) {
	scheme := "http://"
	if p.target.secure {
		scheme = "https://"
	}
	req, err := http.NewRequestWithContext(ctx, method, scheme+p.target.host+path, strings.NewReader(text))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Internal-API-Key", p.target.key)
	if text != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, errConnection
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := io.Copy(&answer, resp.Body); err != nil {
		return nil, errConnection
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return answer.Bytes(), nil
}
