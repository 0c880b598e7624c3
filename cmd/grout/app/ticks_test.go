package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/bus"
	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// simulated is a wall clock that tests move, beside the machine's own time.
type simulated struct {
	begin   time.Time
	moved   atomic.Int64 // by somebody who sets the clock
	elapsed atomic.Int64 // time that passes
}

func (c *simulated) now() time.Time {
	return c.begin.Add(time.Duration(c.moved.Load() + c.elapsed.Load()))
}

func (c *simulated) uptime() time.Duration { return time.Duration(c.elapsed.Load()) + 1 }

func (c *simulated) into(cfg *Config) {
	cfg.now, cfg.uptime, cfg.tickLook = c.now, c.uptime, 2*time.Millisecond
}

// post sends events and gives status and body.
func post(t testing.TB, url string, body any) (int, []byte) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url+"/api/usage/ingest", bytes.NewReader(text))
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
	return resp.StatusCode, answer
}

func usageEvent(id string, app int, at time.Time) map[string]any {
	return map[string]any{
		"event_id": id, "timestamp": at.UTC().Format(time.RFC3339Nano), "app_id": fmt.Sprint("app-", app), "user_id": "u", "model": "m",
		"input_tokens": 1, "output_tokens": 1,
	}
}

// least gives the smallest value of a metric over the partitions.
func least(t testing.TB, url, name string) float64 {
	t.Helper()
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	v := math.Inf(1)
	for _, m := range regexp.MustCompile(`(?m)^`+name+`\{.*\} (.*)$`).FindAllSubmatch(text, -1) {
		n, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		v = min(v, n)
	}
	return v
}

// eventually polls until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for !holds() {
		select {
		case <-poll.C:
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		}
	}
}

// Hourly ticks cut the log into segments, of which the first ones expire after a month
// in which grout did not run and a day of ticks. With one partition and with four every app has the same digest, and a replay of the
// log gives every row of the store.
func TestTicksOverWeeks(t *testing.T) {
	digests := map[int]map[string]string{}
	for _, partitions := range []int{1, 4} {
		clock := &simulated{begin: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
		cfg := testConfig(t, partitions)
		clock.into(&cfg)
		cfg.LogLevel = "error"
		n := serve(t, cfg)
		r := rand.New(rand.NewPCG(31, 32))
		var sent []map[string]any
		for hour := range 120 {
			if hour == 60 {
				clock.elapsed.Add(int64(33 * 24 * time.Hour))
			}
			clock.elapsed.Add(int64(time.Hour))
			now := clock.now()
			eventually(t, "a tick", func() bool {
				return least(t, n.url, "grout_clock_last_tick_timestamp_seconds") >= float64(now.Unix())
			})
			if hour%3 != 0 {
				continue
			}
			oldest, doubt := 40*24*time.Hour, hour >= 60 && hour < 60+schemas.TicksAfterStep
			if doubt { // what is too old only by this clock would be answered 503
				oldest = 33 * 24 * time.Hour
			}
			var events []map[string]any
			for i := range 1 + r.IntN(6) {
				e := usageEvent(fmt.Sprintf("e-%d-%d", hour, i), r.IntN(7), now.Add(-time.Duration(r.Int64N(int64(oldest)))))
				if len(sent) > 0 && r.IntN(3) == 0 && !doubt {
					e = sent[r.IntN(len(sent))]
				}
				sent = append(sent, e)
				events = append(events, e)
			}
			if status, body := post(t, n.url, map[string]any{"batch_id": fmt.Sprint("b-", hour), "events": events}); status != http.StatusOK {
				t.Fatalf("%d %s", status, body)
			}
		}
		eventually(t, "an expiry", func() bool {
			return least(t, n.url, "grout_expired_until_timestamp_seconds") >= float64(clock.begin.Add(24*time.Hour).Unix())
		})
		if steps := least(t, n.url, "grout_clock_steps_total"); steps != 1 {
			t.Errorf("%v steps", steps)
		}
		n.stop()
		digests[partitions] = expiredDigests(t, cfg)
		if list := verifyAll(t, cfg); list != "" {
			t.Error(list)
		}
	}
	if len(digests[1]) != 7 {
		t.Errorf("%d apps", len(digests[1]))
	}
	if d := cmp.Diff(digests[1], digests[4]); d != "" {
		t.Errorf("P=1 and P=4 differ:\n%s", d)
	}
}

func expiredDigests(t *testing.T, cfg Config) map[string]string {
	t.Helper()
	all := map[string]string{}
	for p := range cfg.Partitions {
		s, err := store.Open(storePath(cfg.DataDir, p), store.Options{Partition: p, Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.AppDigests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for app, sum := range d {
			all[app] = sum
		}
		if s.Clock().ExpiredUntil == 0 {
			t.Errorf("nothing has expired in partition %d", p)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// The clock is set while four senders are at work, by little and by much, forth and
// back. Every event has its true time: it is counted or to be sent again, never
// refused, nothing expires, and sent again it is known.
func TestClockIsSetWhileIngesting(t *testing.T) {
	for _, partitions := range []int{1, 4} {
		t.Run(fmt.Sprint("P=", partitions), func(t *testing.T) {
			clock := &simulated{begin: time.Now()}
			cfg := testConfig(t, partitions)
			clock.into(&cfg)
			cfg.ticks = 10 * time.Millisecond // of the clock: the more often it is looked at
			n := serve(t, cfg)
			var counted, busy atomic.Int64
			var senders sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			events := make([][]map[string]any, 4)
			for k := range events {
				senders.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						e := usageEvent(fmt.Sprintf("e-%d-%d", k, i), i%7, clock.begin.Add(time.Duration(clock.elapsed.Load())))
						for ctx.Err() == nil {
							if accepted(t, n.url, e, &busy) {
								events[k] = append(events[k], e)
								counted.Add(1)
								break
							}
						}
					}
				})
			}
			progress := func(of *atomic.Int64) {
				t.Helper()
				from := of.Load()
				eventually(t, "requests", func() bool {
					clock.elapsed.Add(int64(time.Millisecond))
					return of.Load() >= from+12 || t.Failed()
				})
			}
			progress(&counted)
			for _, by := range []time.Duration{time.Minute, -time.Minute, 2 * time.Hour, -2 * time.Hour, 40 * 24 * time.Hour, -40 * 24 * time.Hour} {
				clock.moved.Store(int64(by))
				if by.Abs() == time.Minute {
					progress(&counted)
				} else {
					progress(&busy)
				}
				clock.moved.Store(0)
				progress(&counted)
			}
			cancel()
			senders.Wait()
			if until := least(t, n.url, "grout_expired_until_timestamp_seconds"); until != 0 {
				t.Errorf("something has expired: %v", until)
			}
			total := 0
			for _, list := range events {
				total += len(list)
				for chunk := range chunks(list, 100) {
					var a struct{ Accepted, Duplicates, Rejected int }
					status, body := post(t, n.url, map[string]any{"events": chunk})
					if err := json.Unmarshal(body, &a); err != nil || status != http.StatusOK || a.Duplicates != len(chunk) {
						t.Fatalf("sent again: %d %s %v", status, body, err)
					}
				}
			}
			n.stop()
			if list := verifyAll(t, cfg); list != "" {
				t.Error(list)
			}
			t.Logf("%d counted, %d times to be sent again", total, busy.Load())
		})
	}
}

func chunks[T any](list []T, n int) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(list) > 0 {
			end := min(n, len(list))
			if !yield(list[:end]) {
				return
			}
			list = list[end:]
		}
	}
}

// accepted sends an event and tells whether it is counted; an answer that is neither
// that nor 503 is a fault.
func accepted(t *testing.T, url string, e map[string]any, busy *atomic.Int64) bool {
	status, body := post(t, url, map[string]any{"events": []any{e}})
	var a struct{ Accepted, Duplicates int }
	switch {
	case status == http.StatusServiceUnavailable && strings.Contains(string(body), "CLOCK_JUMP"):
		busy.Add(1)
		return false
	case status == http.StatusOK && json.Unmarshal(body, &a) == nil && a.Accepted+a.Duplicates == 1:
		return true
	}
	t.Errorf("%d %s", status, body)
	return true
}

// verifyAll replays the log from its beginning and says what differs.
func verifyAll(t *testing.T, cfg Config) string {
	t.Helper()
	var out strings.Builder
	for p := range cfg.Partitions {
		own := withoutOutbox(dumpOf(t, storePath(cfg.DataDir, p), cfg, p))
		path := filepath.Join(t.TempDir(), "replay.db")
		replayFiles(t, cfg, p, 64, path)
		if got := withoutOutbox(dumpOf(t, path, cfg, p)); !bytes.Equal(own, got) {
			fmt.Fprintf(&out, "partition %d: a replay gives other rows\n", p)
		}
	}
	return out.String()
}

// The first start writes the version of the rules, once; a later one nothing. A store
// that follows newer rules is refused, and an older one gets its snapshot first.
func TestRulesVersion(t *testing.T) {
	cfg := testConfig(t, 2)
	for range 2 {
		serve(t, cfg).stop()
		list, err := ConfigHistory(cfg)
		if err != nil || len(list) != 2 || list[0].Name != schemas.ConfigRules || !list[0].Current || list[1].Partition != 1 || list[0].Bytes == 0 {
			t.Fatalf("%+v %v", list, err)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(snapshotDir(cfg.DataDir, 0), "*.json")); len(names) != 0 {
		t.Errorf("snapshots without need: %v", names)
	}

	// A log that began before there were versions: its first message is no config.set.
	old := testConfig(t, 1)
	withOffline(t, old, func(b *bus.Bus) {
		if _, err := b.PublishOne(t.Context(), 0, ownCommand(schemas.ClockTick.Name, "test", time.Now().UnixNano(), (&schemas.Tick{}).EncodePayload(nil))); err != nil {
			t.Fatal(err)
		}
	})
	serve(t, old).stop()
	if names, _ := filepath.Glob(filepath.Join(snapshotDir(old.DataDir, 0), "*.json")); len(names) != 1 {
		t.Errorf("snapshots before the rules: %v", names)
	}
	list, err := ConfigHistory(old)
	if err != nil || len(list) != 1 || list[0].Position != 2 {
		t.Errorf("%+v %v", list, err)
	}

	// A newer release has worked on it.
	withOffline(t, cfg, func(b *bus.Bus) {
		newer := schemas.Rules{Version: handlers.RulesVersion + 1}.Change()
		if _, err := b.PublishOne(t.Context(), 1, ownCommand(schemas.ConfigSet.Name, "test", time.Now().UnixNano(), newer.EncodePayload(nil))); err != nil {
			t.Fatal(err)
		}
	})
	err = Run(t.Context(), cfg, io.Discard)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("version %d of the rules and this release knows version %d", handlers.RulesVersion+1, handlers.RulesVersion)) {
		t.Errorf("a log with newer rules: %v", err)
	}
}

// withOffline works on the command stream of a node that is not running.
func withOffline(t *testing.T, cfg Config, do func(*bus.Bus)) {
	t.Helper()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := openOffline(t.Context(), cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	do(b.Bus)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A reset of the clock that would let expired events count again is refused and says
// why.
func TestResetRefused(t *testing.T) {
	clock := &simulated{begin: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	cfg := testConfig(t, 1)
	clock.into(&cfg)
	n := serve(t, cfg)
	tick := func(by time.Duration) {
		t.Helper()
		clock.elapsed.Add(int64(by))
		eventually(t, "a tick", func() bool {
			return least(t, n.url, "grout_clock_last_tick_timestamp_seconds") >= float64(clock.now().Unix())
		})
	}
	for range 25 {
		tick(time.Hour)
	}
	truth := clock.elapsed.Load()
	tick(40 * 24 * time.Hour)
	for range 24 {
		tick(time.Hour)
	}
	eventually(t, "an expiry", func() bool { return least(t, n.url, "grout_expired_until_timestamp_seconds") > 0 })
	n.stop()
	clock.elapsed.Store(truth)
	list, err := ResetClock(t.Context(), cfg, false, slog.New(slog.DiscardHandler))
	if err != nil || len(list) != 1 || list[0].Reset || !strings.Contains(list[0].Refused, "have expired") || list[0].Steps != 1 || list[0].ExpiredUntil.IsZero() {
		t.Errorf("%+v %v", list, err)
	}
}
