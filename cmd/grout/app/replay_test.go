package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
	"grout/store"
)

// running is a node in this process.
type running struct {
	url  string
	stop func()
}

func serve(t *testing.T, cfg Config) running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	out := &announced{ready: make(chan string, 1)}
	go func() { ended <- Run(ctx, cfg, out) }()
	select {
	case url := <-out.ready:
		return running{url, func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}}
	case err := <-ended:
		cancel()
		t.Fatal(err)
		return running{}
	}
}

// announced takes the address out of what is printed at the start.
type announced struct{ ready chan string }

func (a *announced) Write(p []byte) (int, error) {
	if _, rest, ok := bytes.Cut(p, []byte("HTTP  ")); ok {
		url, _, _ := bytes.Cut(rest, []byte(" "))
		a.ready <- string(url)
	}
	return len(p), nil
}

// dataDir is a directory that goes with the test. A NATS server that has ended may still
// put a batch away in it, so what cannot be removed is tried again.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "grout-app-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		again, enough := time.NewTicker(10*time.Millisecond), time.After(10*time.Second)
		defer again.Stop()
		for err := os.RemoveAll(dir); err != nil; err = os.RemoveAll(dir) {
			select {
			case <-again.C:
			case <-enough:
				t.Errorf("remove the data directory: %v", err)
				return
			}
		}
	})
	return filepath.Join(dir, "data")
}

func testConfig(t *testing.T, partitions int) Config {
	cfg := DefaultConfig()
	cfg.DataDir = dataDir(t)
	cfg.HTTPAddr, cfg.NATSListen = "127.0.0.1:0", ""
	cfg.Partitions, cfg.FoldEvery, cfg.LogLevel = partitions, 500, "error"
	cfg.InternalKeys = Secret{Values: []string{"key"}}
	return cfg
}

// history posts the same requests whenever it is called with the same seed.
func postHistory(t *testing.T, url string, seed uint64, requests int, base time.Time) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 5))
	var bodies [][]byte
	var old []map[string]any
	for n := range requests {
		var body []byte
		if len(bodies) > 0 && r.IntN(8) == 0 {
			body = bodies[r.IntN(len(bodies))]
		} else {
			var events []map[string]any
			for i := range 1 + r.IntN(60) {
				e := map[string]any{
					"event_id": fmt.Sprintf("e-%d-%d", n, i), "timestamp": base.Add(-time.Duration(r.Int64N(int64(40 * time.Hour)))).Format(time.RFC3339Nano),
					"app_id": fmt.Sprintf("app-%d", r.IntN(7)), "user_id": fmt.Sprintf("u%d", r.IntN(5)), "model": fmt.Sprintf("m%d", r.IntN(2)),
					"input_tokens": r.IntN(1000), "output_tokens": r.IntN(100),
				}
				if len(old) > 0 && r.IntN(9) == 0 {
					e = old[r.IntN(len(old))]
				}
				if r.IntN(30) == 0 {
					e = map[string]any{"app_id": "app-1", "event_id": "broken"}
				} else {
					old = append(old, e)
				}
				events = append(events, e)
			}
			id := fmt.Sprint("batch-", n)
			if n > 3 && r.IntN(10) == 0 {
				id = fmt.Sprint("batch-", r.IntN(n))
			}
			var err error
			if body, err = json.Marshal(map[string]any{"batch_id": id, "events": events}); err != nil {
				t.Fatal(err)
			}
			bodies = append(bodies, body)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/usage/ingest", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Internal-API-Key", "key")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusConflict {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
}

// One history, posted to one partition and to four, gives the same digest for
// every app.
func TestAppDigestsAgree(t *testing.T) {
	base := time.Now().UTC()
	digests := map[int]map[string]string{}
	for _, partitions := range []int{1, 4} {
		cfg := testConfig(t, partitions)
		n := serve(t, cfg)
		postHistory(t, n.url, 3, 150, base)
		n.stop()
		digests[partitions] = map[string]string{}
		for p := range partitions {
			s, err := store.Open(storePath(cfg.DataDir, p), store.Options{Partition: p, Partitions: partitions, FoldEvery: cfg.FoldEvery})
			if err != nil {
				t.Fatal(err)
			}
			d, err := s.AppDigests(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for app, sum := range d {
				if _, twice := digests[partitions][app]; twice {
					t.Errorf("app %q is in two partitions", app)
				}
				digests[partitions][app] = sum
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(digests[1]) != 7 {
		t.Errorf("%d apps, want 7", len(digests[1]))
	}
	if d := cmp.Diff(digests[1], digests[4]); d != "" {
		t.Errorf("P=1 and P=4 differ:\n%s", d)
	}
}

// The command stream of a node, replayed from its files with 1, 7 and 64 messages
// in a transaction, gives the bytes of the node's own store.
func TestReplayOfRealStream(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprint("P=", partitions), func(t *testing.T) {
			cfg := testConfig(t, partitions)
			n := serve(t, cfg)
			postHistory(t, n.url, 8, 120, time.Now().UTC())
			n.stop()
			for p := range partitions {
				own := withoutOutbox(dumpOf(t, storePath(cfg.DataDir, p), cfg, p))
				var first []byte
				for _, per := range []int{1, 7, 64} {
					path := filepath.Join(t.TempDir(), "replay.db")
					replayFiles(t, cfg, p, per, path)
					got := dumpOf(t, path, cfg, p)
					if first == nil {
						first = got
					}
					if !bytes.Equal(got, first) {
						t.Errorf("partition %d: %d messages a transaction give other bytes than 1", p, per)
					}
					if !bytes.Equal(withoutOutbox(got), own) {
						t.Errorf("partition %d: a replay gives other bytes than the node's own store", p)
					}
				}
			}
		})
	}
}

func dumpOf(t *testing.T, path string, cfg Config, partition int) []byte {
	t.Helper()
	s, err := store.Open(path, store.Options{Partition: partition, Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var b bytes.Buffer
	if err := s.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// withoutOutbox leaves out rows that wait for a relay: a node has published its own.
func withoutOutbox(dump []byte) []byte {
	var out []byte
	for line := range bytes.Lines(dump) {
		if !bytes.HasPrefix(line, []byte("outbox_")) {
			out = append(out, line...)
		}
	}
	return out
}

// replayFiles applies a partition's stream, from the files of a node, to a new store.
func replayFiles(t *testing.T, cfg Config, partition, perTransaction int, path string) {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	b, err := openOffline(t.Context(), cfg, "replay", logger)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s, err := store.Open(path, store.Options{Partition: partition, Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	want := checkpointOf(t, storePath(cfg.DataDir, partition), cfg, partition)
	if _, err := replay(t.Context(), b.Bus, s, partition, want.Seq, perTransaction, logger); err != nil {
		t.Fatal(err)
	}
	if got := s.Checkpoint(); got != want {
		t.Errorf("the replay ended at %+v, the node at %+v", got, want)
	}
}

func checkpointOf(t *testing.T, path string, cfg Config, partition int) schemas.Checkpoint {
	t.Helper()
	s, err := store.Open(path, store.Options{Partition: partition, Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.Checkpoint()
}
