package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"

	"grout/bus"
	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// notRepublished are kinds that tell of one stream: another has its own.
var notRepublished = []string{schemas.EpochStart.Name}

// notRecorded are kinds that no node writes within a test's time.
var notRecorded = []string{schemas.EpochStart.Name, schemas.SegmentExpire.Name, schemas.ClockSet.Name}

// Every command that a node has taken, published again with its time to one partition
// and to four, gives every app what it had.
func TestRecordedCommandsForAnyPartitioning(t *testing.T) {
	cfg := testConfig(t, 1)
	cfg.FoldEvery, cfg.ticks = 200, 20*time.Millisecond
	runs := newRunsHistory(t, &cfg)
	cfg.PlatformURL, cfg.PlatformKey = "http://127.0.0.1:1", Secret{Values: []string{"key"}} // a delivery begins
	cfg.NATSListen, cfg.PlatformPasswords = "127.0.0.1:0", Secret{Values: []string{"platform-password"}}
	i := startInstance(t, cfg)
	postHistory(t, i.URL, 12, 60, time.Now().UTC())
	postCorrections(t, i.URL)
	postChats(t, i.URL)
	postEntitlements(t, i.URL)
	postCommands(t, i)
	runs.post(t, i.URL)
	stopInstance(t, i)
	n := serve(t, cfg)
	runs.rerun(t, n.url)
	n.stop()
	lettersHistory(t, cfg)
	commands := recordedCommands(t, cfg)
	kinds := map[string]int{}
	for _, c := range commands {
		kinds[c.frame.Kind]++
	}
	for _, kind := range slices.Concat(schemas.CommandKinds(), schemas.InternalKinds()) {
		if kinds[kind] == 0 && !slices.Contains(notRecorded, kind) {
			t.Errorf("no command of kind %s was recorded: the history of this test must have one", kind)
		}
	}
	want := digestsOf(t, storePath(cfg.DataDir, 0), 0, 1)
	if len(want) < 7 {
		t.Errorf("%d apps", len(want))
	}
	for _, partitions := range []int{1, 4} {
		for _, per := range []int{1, 7, 64} {
			got := map[string]string{}
			for p := range partitions {
				path := filepath.Join(t.TempDir(), "s.db")
				republish(t, path, p, partitions, per, commands)
				for app, digest := range digestsOf(t, path, p, partitions) {
					if got[app] != "" {
						t.Errorf("app %q is in two partitions", app)
					}
					got[app] = digest
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%d partitions, %d messages a transaction (-recorded +republished):\n%s", partitions, per, d)
			}
		}
	}
}

func digestsOf(t *testing.T, path string, number, partitions int) map[string]string {
	t.Helper()
	s, err := store.Open(path, store.Options{Partition: number, Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	d, err := s.AppDigests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addLetters(t, s, d)
	return d
}

func postJSON(t *testing.T, url, path string, body any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, bytes.NewReader(text))
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
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d", path, resp.StatusCode)
	}
}

func eventNow(app, id, chat string, tokens int) map[string]any {
	e := map[string]any{
		"event_id": id, "timestamp": time.Now().UTC().Format(time.RFC3339Nano), "app_id": app, "user_id": "u", "model": "m",
		"input_tokens": tokens, "output_tokens": 5,
	}
	if chat != "" {
		e["chat_id"] = chat
	}
	return e
}

func postCorrections(t *testing.T, url string) {
	t.Helper()
	for i := range 12 {
		app, id := fmt.Sprint("app-", i%7), fmt.Sprint("corrected-", i)
		postJSON(t, url, "/api/usage/ingest", map[string]any{"events": []any{eventNow(app, id, "", 100)}})
		if i%3 > 0 {
			postJSON(t, url, "/api/usage/events/"+id+"/amend", map[string]any{"app_id": app, "input_tokens": i})
		}
		if i%2 > 0 {
			postJSON(t, url, "/api/usage/events/"+id+"/void", map[string]any{"app_id": app, "reason": "r"})
		}
	}
}

// postChats lets summaries come before, between and behind the deltas of their chats.
func postChats(t *testing.T, url string) {
	t.Helper()
	for i := range 24 {
		app, chat := fmt.Sprint("app-", i%7), fmt.Sprint("chat-", i%4)
		if i%3 == 0 {
			postJSON(t, url, "/api/usage/ingest", map[string]any{
				"type": "chat.usage_summary", "app_id": app, "chat_id": chat, "user_id": "u", "event_ts": time.Now().UTC().Format(time.RFC3339Nano),
				"usage_prompt_tokens_final": 40 * i, "usage_completion_tokens_final": 3 * i, "usage_total_tokens_final": 43 * i,
			})
			continue
		}
		id := fmt.Sprint("delta-", i)
		postJSON(t, url, "/api/usage/ingest", map[string]any{"events": []any{eventNow(app, id, chat, 90)}})
		if i%5 == 0 {
			postJSON(t, url, "/api/usage/events/"+id+"/amend", map[string]any{"app_id": app, "input_tokens": i})
		}
		if i%4 == 1 {
			postJSON(t, url, "/api/chats/"+chat+"/usage/summary", map[string]any{"app_id": app})
		}
	}
}

// postEntitlements lets some of what is held be settled, given back, or expire.
func postEntitlements(t *testing.T, url string) {
	t.Helper()
	for i := range 14 {
		app := fmt.Sprint("app-", i%7)
		budget := map[string]any{"period": []string{"hourly", "monthly", "lifetime"}[i%3], "total_tokens": map[string]any{"limit": 5000 * i, "enforcement": "hard"}}
		manifest := map[string]any{
			"version": "1.1", "app_id": app, "plan": map[string]any{"tier": "pro"}, "token_budget": budget,
			"rate_limits": map[string]any{"requests_per_minute": 3 + i%2, "concurrent_workflows": 1},
		}
		if i >= 7 {
			manifest["user_id"] = "u"
		}
		postJSON(t, url, "/api/internal/entitlement/sync", manifest)
		postJSON(t, url, "/api/internal/subscription/sync", map[string]any{"userId": "v", "plan": "pro", "status": "active", "appId": app})
		postJSON(t, url, "/api/usage/ingest", map[string]any{"events": []any{eventNow(app, fmt.Sprint("budgeted-", i), "", 40)}})
		for range 5 {
			postJSON(t, url, "/api/entitlements/check", map[string]any{"app_id": app, "user_id": "u", "count": true})
		}
		reserve := map[string]any{"app_id": app, "user_id": "u", "model": "m", "estimated_tokens": 100, "ttl_seconds": 1 + i%4*900}
		for _, what := range []string{"settle", "extend", "release", "forget"} {
			reserve["reservation_id"] = fmt.Sprint(what, i)
			sendJSON(t, http.MethodPost, url, "/api/budgets/reservations", reserve)
			path := fmt.Sprint("/api/budgets/reservations/", what, i)
			switch what {
			case "settle":
				sendJSON(t, http.MethodPost, url, path+"/settle", map[string]any{"app_id": app, "event_id": path, "input_tokens": 30 * i, "output_tokens": 5})
			case "extend":
				sendJSON(t, http.MethodPost, url, path+"/extend", map[string]any{"app_id": app, "ttl_seconds": 1000})
			case "release":
				sendJSON(t, http.MethodDelete, url, path+"?app_id="+app, nil)
			}
		}
	}
}

// postCommands publishes commands that are carried out, refused, refused by their node,
// and what is none, each of them twice.
func postCommands(t *testing.T, i *Instance) {
	t.Helper()
	js := platform(t, i.NATSURL)
	published := int64(0)
	for n := range 7 {
		app := fmt.Sprint("app-", n)
		for kind, data := range map[string]string{
			"usage.void":     `{"event_id":"unknown"}`,
			"budget.reserve": `{"estimated_tokens":1,"ttl_seconds":3600}`,
			"plugin.execute": `{"plugin":"none","user_id":"u"}`,
			"usage.amend":    `{`,
		} {
			for range 2 {
				m := nats.NewMsg(schemas.CommandSubject(app, kind))
				m.Data = []byte(data)
				m.Header.Set("Nats-Msg-Id", kind)
				if _, err := js.PublishMsg(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				published++
			}
		}
	}
	pumped(t, i.URL, published)
}

// sendJSON sends what may be refused.
func sendJSON(t *testing.T, method, url, path string, body any) {
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
	if resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusUnprocessableEntity || resp.StatusCode == http.StatusUnauthorized {
		answer, _ := io.ReadAll(resp.Body)
		t.Fatalf("%s %s: status %d %s", method, path, resp.StatusCode, answer)
	}
}

// recordedCommand is a command with the number of its group, and the subject of that,
// which the id of a dead letter follows from.
type recordedCommand struct {
	group   int
	subject string
	frame   schemas.CommandFrame
}

// recordedCommands reads the command stream of a node with one partition.
func recordedCommands(t *testing.T, cfg Config) (list []recordedCommand) {
	t.Helper()
	b, err := openOffline(t.Context(), cfg, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	last, err := b.LastCommand(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	source := b.NewSource(0)
	defer source.Close()
	if _, err := source.Open(t.Context(), schemas.Checkpoint{}); err != nil {
		t.Fatal(err)
	}
	for n, at := 0, uint64(0); at < last; n++ {
		m, err := source.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		at = m.Seq
		m.Data = bytes.Clone(m.Data)
		g, err := bus.DecodeGroupMessage(m)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Commands {
			if !slices.Contains(notRepublished, c.Kind) {
				list = append(list, recordedCommand{n, m.Subject, c})
			}
		}
	}
	return list
}

// shareOf gives a partition's share of a command: of an ingest command what is of its
// apps, of another the whole when its app, or no app at all, is the partition's.
func shareOf(t *testing.T, c schemas.CommandFrame, number, partitions int) (_ schemas.CommandFrame, any bool) {
	t.Helper()
	if c.Kind != schemas.UsageIngest.Name {
		return c, c.AppID == "" || schemas.PartitionOf(c.AppID, partitions) == number
	}
	var b schemas.UsageBatch
	if err := b.DecodePayload(c.Payload); err != nil {
		t.Fatal(err)
	}
	lowest := partitions
	for _, p := range b.Parts {
		if p.AppID != "" {
			lowest = min(lowest, schemas.PartitionOf(p.AppID, partitions))
		}
	}
	foreign := func(app string) bool {
		if app == "" {
			return number != lowest%partitions
		}
		return schemas.PartitionOf(app, partitions) != number
	}
	b.Parts = slices.DeleteFunc(b.Parts, func(p schemas.BatchPart) bool { return foreign(p.AppID) })
	b.Events = slices.DeleteFunc(b.Events, func(e schemas.UsageEvent) bool { return foreign(e.AppID) })
	b.Rejected = slices.DeleteFunc(b.Rejected, func(e schemas.EventError) bool { return foreign(e.AppID) })
	c.Payload = b.EncodePayload(nil)
	return c, len(b.Parts) > 0
}

// republished is the stream of one partition.
type republished struct {
	subject string
	groups  [][]schemas.CommandFrame
	next    int
}

func (s *republished) Open(context.Context, schemas.Checkpoint) (int64, error) { return 1, nil }

func (s *republished) Next(ctx context.Context) (schemas.StreamMessage, error) {
	if s.next == len(s.groups) {
		<-ctx.Done()
		return schemas.StreamMessage{}, ctx.Err()
	}
	g := s.groups[s.next]
	s.next++
	return schemas.StreamMessage{Subject: s.subject, Seq: uint64(s.next), Time: time.Unix(0, g[0].Accepted), Data: schemas.AppendGroup(nil, g)}, nil
}

func republish(t *testing.T, path string, number, partitions, perTransaction int, commands []recordedCommand) {
	t.Helper()
	src := &republished{}
	last := -1
	for _, c := range commands {
		frame, any := shareOf(t, c.frame, number, partitions)
		if !any {
			continue
		}
		if c.group != last {
			src.subject, src.groups, last = c.subject, append(src.groups, nil), c.group
		}
		at := len(src.groups) - 1
		src.groups[at] = append(src.groups[at], frame)
	}
	s, err := store.Open(path, store.Options{Partition: number, Partitions: partitions, FoldEvery: 200})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	left := len(src.groups)
	loop := handlers.NewLoop(handlers.LoopOptions{
		Store: s, Source: src, Table: handlers.NewTable(), Logger: slog.New(slog.DiscardHandler), MaxMessages: perTransaction,
		DecodeGroup: func(m schemas.StreamMessage) (schemas.Group, error) {
			list, err := schemas.DecodeGroup(m.Data)
			return schemas.Group{ID: fmt.Sprint(m.Seq), Source: "//test", ReplyTo: "reply", Commands: list}, err
		},
		Reply: func(string, string, [][]byte) error {
			if left--; left == 0 {
				cancel()
			}
			return nil
		},
	})
	if err := loop.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Fatalf("%d groups were not applied", left)
	}
}
