package app

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const liveApps, liveChats = 3, 5

// postLive posts usage and run events of chats from several callers at once.
func postLive(t *testing.T, url string, round int) {
	post := func(path string, body any) {
		text, err := json.Marshal(body)
		if err != nil {
			t.Error(err)
			return
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, bytes.NewReader(text))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Internal-API-Key", "key")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
	}
	var all sync.WaitGroup
	for caller := range 8 {
		all.Go(func() {
			r := rand.New(rand.NewPCG(uint64(round), uint64(caller)))
			for n := range 6 {
				app, chat := fmt.Sprint("app-", r.IntN(liveApps)), fmt.Sprint("c", r.IntN(liveChats))
				now := time.Now().UTC().Format(time.RFC3339Nano)
				if r.IntN(2) == 0 {
					run := fmt.Sprintf("r-%d-%d-%d", round, caller, n)
					for _, kind := range []string{"orchestration.run_started", "orchestration.run_completed"} {
						post("/api/orchestration/events", map[string]any{"app_id": app, "run_id": run, "chat_id": chat, "user_id": "u", "kind": kind, "timestamp": now})
					}
					continue
				}
				var events []map[string]any
				for i := range 1 + r.IntN(600) {
					events = append(events, map[string]any{
						"event_id": fmt.Sprintf("e-%d-%d-%d-%d", round, caller, n, i), "timestamp": now, "app_id": fmt.Sprint("app-", r.IntN(liveApps)), "user_id": "u",
						"model": "m", "input_tokens": 1, "output_tokens": 1, "chat_id": fmt.Sprint("c", r.IntN(liveChats)),
					})
				}
				post("/api/usage/ingest", map[string]any{"events": events})
			}
		})
	}
	all.Wait()
}

// followApp reads an app's stream of events from its beginning until a run has started,
// and holds that nothing is missing, twice or out of order: facts in the app, and items in
// each chat.
func followApp(ctx context.Context, url, app, until string) (chats map[string]uint64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/events/stream?last_event_id=0&app_id="+app, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Internal-API-Key", "key")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	cut := time.AfterFunc(30*time.Second, func() { resp.Body.Close() })
	defer cut.Stop()
	chats = map[string]uint64{}
	facts, id, begun := uint64(0), "", false
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		if name == "id" {
			id = value
		}
		if name != "data" {
			continue
		}
		var e struct {
			Type string
			Data struct {
				RunID string `json:"run_id"`
			}
			ChatID   string `json:"chat_id"`
			Sequence uint64
		}
		if err := json.Unmarshal([]byte(value), &e); err != nil {
			return nil, err
		}
		if strings.HasPrefix(e.Type, "agui.") {
			continue
		}
		_, text, _ := strings.Cut(id, "-")
		fact, err := strconv.ParseUint(text, 10, 64)
		if err != nil || fact != facts && fact != facts+1 || e.Type == "stream.reset" {
			return nil, fmt.Errorf("%s: %s %s comes behind fact %d", app, e.Type, id, facts)
		}
		facts = fact
		if e.Sequence > 0 {
			if chats[e.ChatID]++; chats[e.ChatID] != e.Sequence {
				return nil, fmt.Errorf("%s: item %d of chat %s comes where %d is due", app, e.Sequence, e.ChatID, chats[e.ChatID])
			}
		}
		begun = begun || e.Data.RunID == until
		if begun && e.Type == "chat.orchestration.run_started" {
			return chats, nil
		}
	}
	return nil, fmt.Errorf("%s: the stream ends behind fact %d: %w", app, facts, cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
}

// The live streams give all that happened in an app, in one order: while it happens, from
// a ring, and after a restart, from the stream.
func TestLiveStreamsAreWhole(t *testing.T) {
	cfg := testConfig(t, 4)
	n := serve(t, cfg)
	var watching sync.WaitGroup
	seen := make([]map[string]uint64, liveApps)
	for app := range liveApps {
		watching.Go(func() {
			var err error
			if seen[app], err = followApp(t.Context(), n.url, fmt.Sprint("app-", app), "the-end"); err != nil {
				t.Error(err)
			}
		})
	}
	for round := range 3 {
		postLive(t, n.url, round)
	}
	for app := range liveApps {
		body := fmt.Sprintf(`{"app_id":"app-%d","run_id":"the-end","chat_id":"end","user_id":"u","kind":"orchestration.run_started","timestamp":"%s"}`, app, time.Now().UTC().Format(time.RFC3339Nano))
		if status, text := ask(t, n.url, http.MethodPost, "/api/orchestration/events", json.RawMessage(body)); status != http.StatusOK {
			t.Fatalf("%d: %s", status, text)
		}
	}
	watching.Wait()
	n.stop()
	n = serve(t, cfg)
	defer n.stop()
	for app := range liveApps {
		again, err := followApp(t.Context(), n.url, fmt.Sprint("app-", app), "the-end")
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(again) != fmt.Sprint(seen[app]) || len(again) != liveChats+1 {
			t.Errorf("app-%d: %v, and after a restart %v", app, seen[app], again)
		}
	}
}
