package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

// appOf gives an app of a partition.
func appOf(partition, partitions int) string {
	for n := 0; ; n++ {
		if app := fmt.Sprint("app-", n); schemas.PartitionOf(app, partitions) == partition {
			return app
		}
	}
}

func ask(t *testing.T, url, method, path string, body any) (int, string) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Internal-API-Key", "key")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

func eventOf(app, id string) map[string]any {
	return map[string]any{
		"event_id": id, "timestamp": time.Now().UTC().Format(time.RFC3339), "app_id": app, "user_id": "u", "model": "m", "input_tokens": 1, "output_tokens": 1,
	}
}

// flipPages changes bits all over the pages of a file that are in use, where it lies.
func flipPages(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 2 * 4096; at+4096 <= len(b); at += 4096 {
		if len(bytes.Trim(b[at:at+4096], "\x00")) > 0 {
			for i := 40; i < 4096; i += 61 {
				b[at+i] ^= 0x40
			}
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt(b, 0)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A start with a damaged file keeps that partition apart and serves the others; what
// would reach both is refused whole, before any of it is published.
func TestQuarantine(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprint("P=", partitions), func(t *testing.T) {
			cfg := testConfig(t, partitions)
			n := serve(t, cfg)
			postHistory(t, n.url, 3, 40, time.Now().UTC())
			n.stop()
			const bad = 0
			path := storePath(cfg.DataDir, bad)
			flipPages(t, path)
			damaged, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			n = serve(t, cfg)
			check := func(method, path string, body any, status int, texts ...string) {
				t.Helper()
				got, answer := ask(t, n.url, method, path, body)
				if got != status {
					t.Errorf("%s %s: %d %s", method, path, got, answer)
				}
				for _, text := range texts {
					if !strings.Contains(answer, text) {
						t.Errorf("%s %s: %s, without %q", method, path, answer, text)
					}
				}
			}
			lost := appOf(bad, partitions)
			check("GET", "/health", nil, 200)
			check("GET", "/info", nil, 200, `"ready":false`)
			check("GET", "/ready", nil, 503, "STORE_DAMAGED", path, "grout repair")
			check("GET", "/metrics", nil, 200, `grout_partition_quarantined{partition="0"} 1`)
			for _, p := range []string{"/api/usage?app_id=" + lost, "/api/usage/events?app_id=" + lost, "/api/usage/batches/batch-1?app_id=" + lost, "/api/usage/batches/b?request=0.1.0"} {
				check("GET", p, nil, 503, "STORE_DAMAGED")
			}
			check("POST", "/api/usage/events/e/void", map[string]any{"app_id": lost}, 503, "STORE_DAMAGED")
			check("POST", "/api/usage/ingest", map[string]any{"events": []any{eventOf(lost, "x")}}, 503, "STORE_DAMAGED")
			if partitions > 1 {
				other := appOf(3, partitions)
				check("GET", "/metrics", nil, 200, `grout_partition_quarantined{partition="3"} 0`)
				both := map[string]any{"events": []any{eventOf(other, "both"), eventOf(lost, "both")}}
				check("POST", "/api/usage/ingest", both, 503, "STORE_DAMAGED")
				check("POST", "/api/usage/ingest", map[string]any{"events": []any{eventOf(other, "both")}}, 200, `"accepted":1,"duplicates":0`)
				check("GET", "/api/usage?app_id="+other, nil, 200, `"totals"`)
			}
			n.stop()
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
				t.Errorf("the damaged file was written to (%v)", err)
			}
		})
	}
}

// Damage that a read meets while the server works is answered by name, and ends in
// quarantine without a restart of the process.
func TestQuarantineWhileRunning(t *testing.T) {
	cfg := testConfig(t, 4)
	n := serve(t, cfg)
	postHistory(t, n.url, 3, 40, time.Now().UTC())
	flipPages(t, storePath(cfg.DataDir, 0))
	lost, other := appOf(0, 4), appOf(3, 4)
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		status, answer := ask(t, n.url, "GET", "/api/usage/events?app_id="+lost, nil)
		if status == 200 && !strings.Contains(answer, `"events":[]`) {
			t.Fatalf("answered from a damaged file: %.300s", answer)
		}
		_, ready := ask(t, n.url, "GET", "/ready", nil)
		if status == 503 && strings.Contains(ready, "STORE_DAMAGED") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no quarantine: %d %s, %s", status, answer, ready)
		}
		<-tick.C
	}
	if status, answer := ask(t, n.url, "POST", "/api/usage/ingest", map[string]any{"events": []any{eventOf(other, "e")}}); status != 200 {
		t.Errorf("a partition beside it: %d %s", status, answer)
	}
	n.stop()
}
