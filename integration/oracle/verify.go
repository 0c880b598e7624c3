package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
)

type sums struct {
	Events int64       `json:"events"`
	Input  int64       `json:"input_tokens"`
	Output int64       `json:"output_tokens"`
	Total  int64       `json:"total_tokens"`
	Cost   json.Number `json:"cost"`
}

type report struct {
	Rows []struct {
		Start time.Time `json:"window_start"`
		User  string    `json:"user_id"`
		Model string    `json:"model"`
		sums
	} `json:"rows"`
	Totals sums `json:"totals"`
}

func usage(ctx context.Context, base string, query url.Values) (*report, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/usage?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	status, _, body, err := do(req)
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("status %d: %.300s", status, body)
	}
	r := &report{}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	return r, d.Decode(r)
}

// nanos reads a decimal number exactly.
func nanos(n json.Number) int64 {
	whole, frac, _ := bytes.Cut([]byte(n), []byte("."))
	for len(frac) < 9 {
		frac = append(frac, '0')
	}
	v, _ := strconv.ParseInt(string(whole)+string(frac), 10, 64)
	return v
}

type cell struct {
	app, user, model string
	hour             int64
}

// verify compares the books with what the server answers and with every fact.
func verify(ctx context.Context, b *books, s *server, v *Verdict) error {
	want := map[cell]*[5]int64{}
	apps := map[string]bool{}
	for _, e := range b.counted {
		if e.AppID == summaryApp {
			continue
		}
		apps[e.AppID] = true
		c := cell{e.AppID, e.UserID, e.Model, e.hour}
		if want[c] == nil {
			want[c] = &[5]int64{}
		}
		for i, n := range [5]int64{e.now.events, e.now.input, e.now.output, e.now.total, e.now.nanos} {
			want[c][i] += n
		}
	}
	fault := func(format string, args ...any) {
		if len(v.Faults) < 50 {
			v.Faults = append(v.Faults, fmt.Sprintf(format, args...))
		}
	}
	for app := range apps {
		r, err := usage(ctx, s.base(), url.Values{"app_id": {app}, "window": {"hour"}, "group_by": {"user_id,model"}})
		if err != nil {
			return err
		}
		for _, row := range r.Rows {
			c := cell{app, row.User, row.Model, row.Start.Unix()}
			got := [5]int64{row.Events, row.Input, row.Output, row.Total, nanos(row.Cost)}
			if want[c] == nil || *want[c] != got {
				fault("%+v: have %v, want %v", c, got, want[c])
			}
			delete(want, c)
		}
	}
	for c, n := range want {
		if *n == ([5]int64{}) {
			continue // all of it is voided
		}
		fault("%+v: no row, want %v", c, *n)
	}
	if err := verifyChats(ctx, b, s, v, fault); err != nil {
		return err
	}
	return verifyFacts(ctx, b, s, v, fault)
}

// fact is what the oracle reads of a structured CloudEvent.
type fact struct {
	ID       string `json:"id"`
	Source   string `json:"source"`
	Type     string `json:"type"`
	Key      string `json:"partitionkey"`
	Sequence string `json:"sequence"`

	ChatSequence string `json:"chatsequence"`

	Data struct {
		AppID      string          `json:"app_id"`
		ChatID     string          `json:"chat_id"`
		Deltas     []delta         `json:"deltas"`
		Part       int             `json:"part"`
		Parts      int             `json:"parts"`
		EventID    string          `json:"event_id"`
		Adjustment sums            `json:"adjustment"`
		Events     []recordedEvent `json:"events"`
	} `json:"data"`
}

type recordedEvent struct {
	event
	Cost    json.Number `json:"cost"`
	Counted *sums       `json:"counted"`
}

func nextFact(ctx context.Context, facts jetstream.MessagesContext) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 700*time.Millisecond)
	defer cancel()
	return facts.Next(jetstream.NextContext(ctx))
}

func verifyFacts(ctx context.Context, b *books, s *server, v *Verdict, fault func(string, ...any)) error {
	address := s.current().NATS
	if s.cluster != nil {
		address = s.cluster.nodes.URLs()
	}
	nc, err := nats.Connect(address, nats.UserInfo("consumer", process.ConsumerPassword))
	if err != nil {
		return fmt.Errorf("connect as consumer: %w", err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.OrderedConsumer(ctx, "MOZAIKS_EVT", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return fmt.Errorf("make consumer: %w", err)
	}
	facts, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("read MOZAIKS_EVT: %w", err)
	}
	defer facts.Stop()
	seen := map[string]bool{}
	ids := map[string]bool{}
	adjusted := map[string]bool{}
	var total booked
	told := newItems(b)
	sequences := map[string]uint64{}
	deadline := time.Now().Add(60 * time.Second)
	quiet := 0
	for quiet < 3 {
		m, err := nextFact(ctx, facts)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil || errors.Is(err, jetstream.ErrNoMessages) {
			quiet++
			if (len(seen) < len(b.counted) || !told.complete() || len(adjusted) < v.Voided+v.Amended) && time.Now().Before(deadline) {
				quiet = 0 // the relay is still at work
			}
			continue
		}
		if err != nil && s.cluster != nil && time.Now().Before(deadline) {
			time.Sleep(200 * time.Millisecond) // a leader has changed
			continue
		}
		if err != nil {
			return fmt.Errorf("read MOZAIKS_EVT: %w", err)
		}
		quiet = 0
		v.Facts++
		var f fact
		if err := json.Unmarshal(m.Data(), &f); err != nil {
			fault("fact on %s: %v", m.Subject(), err)
			continue
		}
		if id := f.Source + " " + f.ID; ids[id] {
			fault("fact %s appears twice", id)
		} else {
			ids[id] = true
		}
		n, _ := strconv.ParseUint(f.Sequence, 10, 64)
		if n != sequences[f.Key]+1 {
			fault("app %q: fact %d follows %d", f.Key, n, sequences[f.Key])
		}
		sequences[f.Key] = n
		switch f.Type {
		case "ai.mozaiks.usage.voided.v1", "ai.mozaiks.usage.amended.v1":
			b.checkCorrection(&f, adjusted, fault)
			total.adjustment(&f)
			continue
		case "ai.mozaiks.chat.usage_delta.v1":
			told.take(b, &f, fault)
			continue
		case "ai.mozaiks.usage.recorded.v1":
		default:
			continue
		}
		for i := range f.Data.Events {
			e := &f.Data.Events[i]
			k := e.key()
			w := b.counted[k]
			switch {
			case w == nil:
				fault("fact %s holds %q, which was never answered as counted", f.ID, k)
			case seen[k]:
				fault("event %q is recorded twice", k)
			case w.InputTokens != e.InputTokens, w.OutputTokens != e.OutputTokens, w.UserID != e.UserID, w.Model != e.Model, w.nanos != nanos(e.Cost), w.AppID != f.Data.AppID, w.ChatID != e.ChatID, w.Summary != e.Summary:
				fault("event %q is recorded as %+v, sent as %+v", k, e.event, *w)
			}
			seen[k] = true
			total.event(e)
		}
	}
	if want := b.summaryTotals(); total.sum != want {
		fault("facts sum up to %+v for app %q, want %+v", total.sum, summaryApp, want)
	}
	told.check(b, fault)
	for k, e := range b.counted {
		if !seen[k] {
			fault("event %q is in no fact", k)
		}
		if e.corrected && !adjusted[k] {
			fault("the correction of event %q is in no fact", k)
		}
	}
	return nil
}
