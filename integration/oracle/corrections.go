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

// correction voids or amends one event that was answered as counted.
type correction struct {
	e    *event
	what string // void or amend
	to   counts
	body []byte
}

// nextCorrection makes a correction of an event that has none yet; nil when none
// is found. Only events of apps that nobody watches are voided, since a void lets
// a sum go back.
func (b *books) nextCorrection() *correction {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.order) == 0 {
		return nil
	}
	e := b.order[b.rng.IntN(len(b.order))]
	if e.corrected {
		return nil
	}
	e.corrected = true
	k := &correction{e: e, what: "amend", to: e.original()}
	doc := map[string]any{"app_id": e.AppID, "reason": "oracle"}
	if (e.AppID == summaryApp || slices.Contains(oddApps, e.AppID)) && b.rng.IntN(2) == 0 {
		k.what, k.to = "void", counts{}
	} else {
		k.to.input, k.to.output = b.rng.Int64N(7000), b.rng.Int64N(7000)
		k.to.total = k.to.input + k.to.output
		doc["input_tokens"], doc["output_tokens"] = k.to.input, k.to.output
	}
	k.body, _ = json.Marshal(doc)
	return k
}

// correct sends a correction until it is answered, and books it.
func (c *campaign) correct(ctx context.Context, k *correction) {
	for ctx.Err() == nil {
		err := c.postCorrection(ctx, k)
		if err == nil {
			c.books.corrected(k)
			return
		}
		c.books.unanswered()
		select {
		case <-time.After(resendAfter):
		case <-ctx.Done():
		}
	}
}

func (c *campaign) postCorrection(ctx context.Context, k *correction) error {
	c.server.inFlight.Add(1)
	defer c.server.inFlight.Add(-1)
	path := fmt.Sprintf("%s/api/usage/events/%s/%s", c.server.base(), url.PathEscape(k.e.EventID), k.what)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(k.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Internal-API-Key", process.InternalKey)
	status, _, body, err := do(req)
	switch {
	case err != nil:
		return err
	case status == http.StatusServiceUnavailable, status == http.StatusAccepted:
		return fmt.Errorf("status %d", status)
	case status != http.StatusOK:
		c.wrong("%s of %q: status %d: %.300s", k.what, k.e.key(), status, body)
		return fmt.Errorf("status %d", status)
	}
	var a struct {
		Status     string `json:"status"`
		Adjustment sums   `json:"adjustment"`
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return err
	}
	if got, want := a.Adjustment.counts(), k.to.minus(k.e.original()); got != want && k.e.AppID != summaryApp {
		c.wrong("%s of %q is answered %+v, want %+v", k.what, k.e.key(), got, want)
	}
	return nil
}

func (c counts) minus(d counts) counts {
	return counts{c.events - d.events, c.input - d.input, c.output - d.output, c.total - d.total, c.nanos - d.nanos}
}

func (s *sums) counts() counts {
	cost := s.Cost
	sign := int64(1)
	if len(cost) > 0 && cost[0] == '-' {
		cost, sign = cost[1:], -1
	}
	return counts{s.Events, s.Input, s.Output, s.Total, sign * nanos(cost)}
}

func (b *books) corrected(k *correction) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k.e.now = k.to
	if k.what == "void" {
		b.v.Voided++
	} else {
		b.v.Amended++
	}
}

// checkCorrection compares a fact about a correction with the books.
func (b *books) checkCorrection(f *fact, seen map[string]bool, fault func(string, ...any)) {
	k := f.Data.AppID + "\x00" + f.Data.EventID
	e := b.counted[k]
	switch {
	case e == nil || !e.corrected:
		fault("fact %s corrects %q, which nobody asked for", f.ID, k)
		return
	case seen[k]:
		fault("the correction of %q is in two facts", k)
	}
	seen[k] = true
	if got, want := f.Data.Adjustment.counts(), e.now.minus(e.original()); got != want && e.AppID != summaryApp {
		fault("fact %s corrects %q by %+v, want %+v", f.ID, k, got, want)
	}
}
