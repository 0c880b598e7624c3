package strict

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Figures are how one allocation stands.
type Figures struct{ Effective, Used, Reserved int64 }

// allocation names one of those that a user sees.
type allocation struct {
	user  bool // of the user's budget, not of the app's
	model string
}

// standing reads how the budgets of an app and of one of its users stand.
func (c *Client) standing(ctx context.Context, app, user string) (map[allocation]Figures, Answer, error) {
	path := "/api/v1/entitlements/" + url.PathEscape(app)
	if user != "" {
		path += "?user_id=" + url.QueryEscape(user)
	}
	a, err := c.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, a, err
	}
	all, err := readStanding(&a)
	return all, a, err
}

func readStanding(a *Answer) (map[allocation]Figures, error) {
	var said struct {
		Budgets []struct {
			Scope       string
			Allocations []struct {
				Name           string
				Effective      int64 `json:"effective_limit"`
				Used, Reserved int64
			}
		}
	}
	if err := a.into(&said); err != nil || a.Status != http.StatusOK {
		return nil, fmt.Errorf("the standing of budgets: status %d, %.200q, %w", a.Status, a.Body, err)
	}
	all := map[allocation]Figures{}
	for _, b := range said.Budgets {
		for _, x := range b.Allocations {
			key := allocation{user: b.Scope == "user"}
			if x.Name != "total_tokens" {
				_, _ = fmt.Sscanf(x.Name, "model:%s", &key.model)
			}
			all[key] = Figures{x.Effective, x.Used, x.Reserved}
		}
	}
	return all, nil
}

// Compare asks how the budgets stand while nobody else does anything, and holds that
// against the answers. quiet says that every hold has ended: then the figures are exact.
func (h *History) Compare(ctx context.Context, c *Client, quiet bool) {
	v := Verdict{}
	holds := h.holds(&v)
	for i := range h.Round.Terms {
		t := &h.Round.Terms[i]
		all, a, err := c.standing(ctx, h.Round.App, t.User)
		if err != nil {
			h.fault("%v", err)
			return
		}
		f, known := all[allocation{t.User != "", t.Model}]
		sum, base := f.Used+f.Reserved, h.Round.Used(t)
		voided := sumOf(holds, t, func(o *hold) int64 { return o.voided() })
		least := base - voided + sumOf(holds, t, func(o *hold) int64 { return o.atLeast(a.Returned) })
		most := base - voided + sumOf(holds, t, func(o *hold) int64 { return o.atMost(a.First, a.Returned) })
		if !known || f.Effective != t.Effective() || sum < least || sum > most {
			h.fault("%s: %s stands at %+v, should be between %d and %d", h.Round.App, t, f, least, most)
		}
		if quiet && f.Reserved != 0 {
			h.fault("%s: %s has leaked %d tokens", h.Round.App, t, f.Reserved)
		}
	}
}

// Open lists the open reservations of the round, takes those for granted whose calls
// have no certain outcome, and misses those that must be there.
func (h *History) Open(ctx context.Context, c *Client) (n int) {
	open := map[string]int64{}
	cursor := ""
	for {
		a, err := c.Do(ctx, http.MethodGet, "/api/budgets/reservations?limit=1000&app_id="+url.QueryEscape(h.Round.App)+cursor, nil)
		var page struct {
			Reservations []struct {
				ID      string    `json:"reservation_id"`
				Expires time.Time `json:"expires_at"`
			}
			Next *string `json:"next_cursor"`
		}
		if err == nil && a.Status == http.StatusOK {
			err = a.into(&page)
		}
		if err != nil || a.Status != http.StatusOK {
			h.fault("%s: the open reservations: status %d, %.200q, %v", h.Round.App, a.Status, a.Body, err)
			return 0
		}
		for _, r := range page.Reservations {
			open[r.ID] = r.Expires.UnixNano()
		}
		if page.Next == nil {
			h.compareOpen(open, a.First, a.Returned)
			return len(open)
		}
		cursor = "&cursor=" + url.QueryEscape(*page.Next)
	}
}

func (h *History) compareOpen(open map[string]int64, from, to int64) {
	v := Verdict{}
	holds := h.holds(&v)
	for id, expires := range open {
		switch o := holds[id]; {
		case o == nil:
			h.fault("%s is held, and nobody asked for it", id)
		case !o.known() && !o.maybe:
			h.fault("%s is held, and was refused", id)
		case !o.known():
			h.found(id, expires, to)
		case o.ended != nil && o.ended.Answered != 0:
			h.fault("%s is held, and was ended", id)
		}
	}
	for id, o := range holds {
		if _, there := open[id]; !there && o.known() && o.ended == nil && o.expires > to && o.granted < from {
			h.fault("%s was granted, and is not held", id)
		}
	}
}

func (h *History) found(id string, expires, at int64) {
	for i := range h.Calls {
		if c := &h.Calls[i]; c.Ask.ID == id {
			c.Granted, c.Expires, c.Answer.Returned = true, expires, at
		}
	}
}
