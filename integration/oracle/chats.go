package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"grout/integration/process"
)

// summaryApp is the one app whose chats get summaries: what an event adds to a row
// depends on the order of arrival there, and only the totals do not.
const summaryApp = "chats é"

// rawSummary is a summary as the reference client sends it.
type rawSummary struct {
	EventID          string `json:"event_id"`
	EventTS          string `json:"event_ts"`
	ChatID           string `json:"chat_id"`
	AppID            string `json:"app_id"`
	UserID           string `json:"user_id"`
	WorkflowName     string `json:"workflow_name,omitempty"`
	PromptTokens     int64  `json:"prompt_tokens"`
	CompletionTokens int64  `json:"completion_tokens"`
	TotalTokens      int64  `json:"total_tokens"`
	Cost             string `json:"cost,omitempty"`
}

// chatName says which chat a new event belongs to, if any.
func (b *books) chatName(app string) string {
	switch {
	case app == summaryApp:
		return fmt.Sprintf("s/%d", b.rng.IntN(12))
	case b.rng.IntN(2) == 0:
		return fmt.Sprintf("chat %d", b.rng.IntN(20))
	}
	return ""
}

// nextSummary makes a request of one summary, at times of one that was sent before:
// around what is known of the chat, so that it covers some of its events and not others.
func (b *books) nextSummary() *request {
	r := &request{id: fmt.Sprintf("summary-%d", b.serial), made: true}
	if len(b.summaries) > 0 && b.rng.IntN(4) == 0 {
		r.repeated = []*event{b.summaries[b.rng.IntN(len(b.summaries))]}
		r.body = r.repeated[0].raw()
		return r
	}
	e := b.newEvent(0)
	e.AppID, e.ChatID = summaryApp, b.chatName(summaryApp)
	e.Model, e.Summary = "unknown", true
	known, _ := b.chat(e.AppID, e.ChatID)
	around := func(n int64) int64 { return n/2 + b.rng.Int64N(n+1000) }
	e.InputTokens, e.OutputTokens, e.nanos = around(known.input), around(known.output), around(known.nanos)
	e.TotalTokens = e.InputTokens + e.OutputTokens
	e.Cost = fmt.Sprintf("%d.%09d", e.nanos/1e9, e.nanos%1e9)
	r.fresh, r.body = []*event{e}, e.raw()
	return r
}

func (e *event) raw() []byte {
	text, _ := json.Marshal(rawSummary{
		e.EventID, e.Timestamp, e.ChatID, e.AppID, e.UserID, e.WorkflowID, e.InputTokens, e.OutputTokens, e.TotalTokens, e.Cost,
	})
	return text
}

func (c counts) plus(d counts) counts {
	return counts{c.events + d.events, c.input + d.input, c.output + d.output, c.total + d.total, c.nanos + d.nanos}
}

func (c counts) most(d counts) counts {
	return counts{max(c.events, d.events), max(c.input, d.input), max(c.output, d.output), max(c.total, d.total), max(c.nanos, d.nanos)}
}

// chat is what a chat must have used by the books, and its users.
func (b *books) chat(app, chat string) (counts, []string) {
	var deltas, high counts
	var users []string
	for _, e := range b.counted {
		if e.AppID != app || e.ChatID != chat {
			continue
		}
		users = append(users, e.UserID)
		if e.Summary {
			high = high.most(e.now)
		} else {
			deltas = deltas.plus(e.now)
		}
	}
	return deltas.most(high), users
}

// verifyChats compares every chat with the books, and the app whose chats have
// summaries with the sum of its chats.
func verifyChats(ctx context.Context, b *books, s *server, v *Verdict, fault func(string, ...any)) error {
	type key struct{ app, chat string }
	chats := map[key]bool{}
	for _, e := range b.counted {
		if e.ChatID != "" {
			chats[key{e.AppID, e.ChatID}] = true
		}
		if e.Summary {
			v.Summaries++
		}
	}
	v.Chats = len(chats)
	for k := range chats {
		want, users := b.chat(k.app, k.chat)
		got, user, err := chatUsage(ctx, s.base(), k.app, k.chat)
		if err != nil {
			return err
		}
		if got != want || !slices.Contains(users, user) {
			fault("chat %q of %q has %+v and belongs to %q, want %+v and one of %d users", k.chat, k.app, got, user, want, len(users))
		}
	}
	r, err := usage(ctx, s.base(), url.Values{"app_id": {summaryApp}})
	if err != nil {
		return err
	}
	if got, want := r.Totals.counts(), b.summaryTotals(); got != want {
		fault("app %q has %+v, its chats have %+v", summaryApp, got, want)
	}
	return nil
}

// summaryTotals is what the app whose chats have summaries must have used.
func (b *books) summaryTotals() (sum counts) {
	chats := map[string]bool{}
	for _, e := range b.counted {
		if e.AppID == summaryApp {
			chats[e.ChatID] = true
		}
	}
	for chat := range chats {
		used, _ := b.chat(summaryApp, chat)
		sum = sum.plus(used)
	}
	return sum
}

func chatUsage(ctx context.Context, base, app, chat string) (c counts, user string, err error) {
	path := fmt.Sprintf("%s/api/chats/%s/usage?app_id=%s", base, url.PathEscape(chat), url.QueryEscape(app))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	if err != nil {
		return c, "", err
	}
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	status, _, body, err := do(req)
	if err != nil || status != http.StatusOK {
		return c, "", fmt.Errorf("chat %q of %q: status %d: %.300s: %w", chat, app, status, body, err)
	}
	var a struct {
		User   string      `json:"user_id"`
		Events int64       `json:"events"`
		Input  int64       `json:"usage_prompt_tokens_final"`
		Output int64       `json:"usage_completion_tokens_final"`
		Total  int64       `json:"usage_total_tokens_final"`
		Cost   json.Number `json:"usage_total_cost_final"`
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	err = d.Decode(&a)
	return counts{a.Events, a.Input, a.Output, a.Total, nanos(a.Cost)}, a.User, err
}

// booked adds up what facts say was counted in the app whose chats have summaries.
type booked struct{ sum counts }

// event takes an event of a fact: what is counted of it, or all of it.
func (k *booked) event(e *recordedEvent) {
	switch {
	case e.AppID != summaryApp:
	case e.Counted != nil:
		k.sum = k.sum.plus(e.Counted.counts())
	default:
		all := counts{1, e.InputTokens, e.OutputTokens, e.TotalTokens, nanos(e.Cost)}
		if e.Summary {
			all.events = 0
		}
		k.sum = k.sum.plus(all)
	}
}

func (k *booked) adjustment(f *fact) {
	if f.Data.AppID == summaryApp {
		k.sum = k.sum.plus(f.Data.Adjustment.counts())
	}
}

// hourOf is the hour that an instant of an event lies in.
func hourOf(at time.Time) int64 { return at.Truncate(time.Hour).Unix() }
