package integration

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
	"grout/schemas"
)

type chatUsage struct {
	ChatID string      `json:"chat_id"`
	AppID  string      `json:"app_id"`
	UserID string      `json:"user_id"`
	Events int64       `json:"events"`
	Input  int64       `json:"usage_prompt_tokens_final"`
	Output int64       `json:"usage_completion_tokens_final"`
	Total  int64       `json:"usage_total_tokens_final"`
	Cost   json.Number `json:"usage_total_cost_final"`
}

func chatOf(t *testing.T, p *process.Process, app, chat string) (c chatUsage) {
	t.Helper()
	request(t, p, "GET", "/api/chats/"+url.PathEscape(chat)+"/usage?app_id="+queryEscape(app), nil).want(t, 200).into(t, &c)
	return c
}

// Chats of the real program (the total is a figure of its own, not the sum of two): deltas and summaries by every way in, corrections, a
// kill and a restart; totals, single events and facts agree.
func TestChats(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		const app, chat = "app 1", "chat/1 é"
		now := time.Now().UTC()
		delta := func(id string, input, output int64) map[string]any {
			return map[string]any{
				"event_id": id, "timestamp": now.Format(time.RFC3339Nano), "app_id": app, "user_id": "u", "model": "m", "chat_id": chat,
				"input_tokens": input, "output_tokens": output, "cost": "0.5",
			}
		}
		summary := func(id string, input, output int64) map[string]any {
			return map[string]any{
				"event_id": id, "event_ts": now.Format("2006-01-02T15:04:05.000000-07:00"), "chat_id": chat, "app_id": app, "user_id": "v",
				"workflow_name": "w", "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
			}
		}
		want := chatUsage{ChatID: chat, AppID: app, UserID: "u", Cost: "0"}
		check := func(what string, events, input, output, total int64, cost json.Number) {
			t.Helper()
			want.Events, want.Input, want.Output, want.Total, want.Cost = events, input, output, total, cost
			if d := cmp.Diff(want, chatOf(t, p, app, chat)); d != "" {
				t.Errorf("%s (-want +got):\n%s", what, d)
			}
			if got := totals(t, p, app); got.InputTokens != input || got.OutputTokens != output || got.Events != events || got.Cost != cost {
				t.Errorf("%s: the app has %+v", what, got)
			}
		}
		request(t, p, "GET", "/api/chats/none/usage?app_id="+queryEscape(app), nil).want(t, 404)
		request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": []any{delta("d-1", 10, 5), delta("d-2", 20, 5)}}).want(t, 200)
		check("deltas", 2, 30, 10, 40, "1")
		request(t, p, "POST", "/api/usage/ingest", summary("s-1", 25, 10)).want(t, 200)
		check("a summary below them", 2, 30, 10, 40, "1")
		basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("core:"+process.InternalKey))
		request(t, p, "POST", "/api/usage/ingest", summary("s-2", 100, 10), "X-Internal-API-Key", "", "Authorization", basic).want(t, 200)
		check("a summary above them, with Basic", 2, 100, 10, 110, "1")
		p.Kill()
		p = start(t, data, partitions)
		check("after a kill", 2, 100, 10, 110, "1")
		packed, err := json.Marshal(summary("s-2", 100, 10))
		if err != nil {
			t.Fatal(err)
		}
		request(t, p, "POST", "/api/usage/ingest", zipped(t, packed), "Content-Encoding", "gzip").want(t, 200)
		check("the same again, compressed", 2, 100, 10, 110, "1")
		request(t, p, "POST", "/api/usage/ingest", map[string]any{"events": []any{delta("d-3", 50, 30)}}).want(t, 200)
		check("a delta that is covered in part", 3, 100, 40, 120, "1.5")
		request(t, p, "POST", "/api/usage/events/d-1/void", `{"app_id":"app 1"}`).want(t, 200)
		check("a void", 2, 100, 35, 110, "1")
		request(t, p, "POST", "/api/usage/events/s-2/void", `{"app_id":"app 1"}`).want(t, 409)
		for _, bad := range []map[string]any{
			{"type": "chat.usage_summary", "app_id": app},
			{"chat_id": chat, "app_id": app, "user_id": "u", "event_ts": "2026", "prompt_tokens": 1, "completion_tokens": 1},
		} {
			var o struct{ Accepted, Rejected int }
			if request(t, p, "POST", "/api/usage/ingest", bad).want(t, 200).into(t, &o); o.Accepted != 0 || o.Rejected != 1 {
				t.Errorf("%v: %+v", bad, o)
			}
		}
		request(t, p, "POST", "/api/usage/ingest", delta("d-9", 1, 1)).want(t, 422) // an event alone is no summary
		stop(t, p)
		p = start(t, data, partitions)
		check("after a restart", 2, 100, 35, 110, "1")
		request(t, p, "GET", "/api/usage/events?app_id="+queryEscape(app)+"&chat_id="+queryEscape(chat), nil).want(t, 200)

		var s schemas.ChatUsageSummaryData
		request(t, p, "POST", "/api/chats/"+url.PathEscape(chat)+"/usage/summary", map[string]any{"app_id": app}).want(t, 200).into(t, &s)
		if s.ChatID != chat || s.AppID != app || s.UserID != "u" || s.PromptTokens != 100 || s.CompletionTokens != 35 || s.TotalTokens != 110 || s.Cost != "1" || s.RunID != nil {
			t.Errorf("the summary is %+v", s)
		}
		request(t, p, "POST", "/api/chats/none/usage/summary", map[string]any{"app_id": app}).want(t, 404)

		list := facts(t, p, func(list []fact) bool {
			return len(list) > 0 && list[len(list)-1].Type == schemas.TypeOf(schemas.ChatUsageSummary.Name)
		})
		checkItems(t, list, chat, []string{
			"1 chat.usage_delta [d-1 d-2]", "3 chat.usage_delta [d-3]", "4 chat.usage_summary [] " + s.EventID,
		})
		checkChatFacts(t, list, schemas.SumsData{Events: 2, InputTokens: 100, OutputTokens: 35})
	})
}

// checkChatFacts adds up what facts say was counted.
func checkChatFacts(t *testing.T, list []fact, want schemas.SumsData) {
	t.Helper()
	var got schemas.SumsData
	add := func(d *schemas.SumsData) {
		got.Events += d.Events
		got.InputTokens += d.InputTokens
		got.OutputTokens += d.OutputTokens
	}
	events, _ := recorded(t, list)
	for _, e := range events {
		counted := e.Counted
		if counted == nil {
			counted = &schemas.SumsData{Events: 1, InputTokens: e.InputTokens, OutputTokens: e.OutputTokens}
			if e.Summary {
				counted.Events = 0
			}
		}
		add(counted)
	}
	for _, f := range list {
		var d schemas.UsageAdjustedData
		if f.Type == schemas.TypeOf(schemas.UsageVoided.Name) {
			if err := json.Unmarshal(f.Data, &d); err != nil {
				t.Fatal(err)
			}
			add(&d.Adjustment)
		}
	}
	if got != want {
		t.Errorf("facts sum up to %+v, want %+v", got, want)
	}
	if s1 := events["app 1\x00s-1"]; !s1.Summary || s1.Counted == nil || s1.Model != "unknown" || fmt.Sprint(s1.InputTokens, s1.Counted.InputTokens) != "25 0" {
		t.Errorf("the summary below the sum is recorded as %+v", s1)
	}
}

func zipped(t *testing.T, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// checkItems holds the facts that are items of a chat against what they must be.
func checkItems(t *testing.T, list []fact, chat string, want []string) {
	t.Helper()
	var got []string
	for _, f := range list {
		kind := strings.TrimSuffix(strings.TrimPrefix(f.Type, "ai.mozaiks."), ".v1")
		if !strings.HasPrefix(kind, "chat.") {
			continue
		}
		if !strings.HasSuffix(f.Subject, "."+kind+"."+schemas.EscapeToken(chat)) {
			t.Errorf("%s is on %s", kind, f.Subject)
		}
		var d struct {
			EventID string                  `json:"event_id"`
			Deltas  []schemas.ChatDeltaData `json:"deltas"`
		}
		if err := json.Unmarshal(f.Data, &d); err != nil {
			t.Fatal(err)
		}
		ids := []string{}
		for _, delta := range d.Deltas {
			ids = append(ids, delta.EventID)
		}
		got = append(got, strings.TrimSpace(fmt.Sprint(f.InChat, " ", kind, " ", ids, " ", d.EventID)))
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("items of the chat (-want +got):\n%s", d)
	}
}
