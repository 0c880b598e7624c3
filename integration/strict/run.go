package strict

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// Call is one caller's reservation.
type Call struct {
	Ask     *Ask
	Granted bool // now or, when it is over already, before
	Answer  Answer
	Expires int64 // 0: unknown
}

// Ended is the end of a hold that somebody gave it.
type Ended struct {
	Called, Answered int64
	Settled          bool
	Late             bool
	Voided           bool // what it was settled with counts no more
}

// History is what is known of a round from its answers.
type History struct {
	Round *Round
	Calls []Call
	Ended map[string]Ended // by id
	mu    sync.Mutex
	bad   []string // answers that nothing allows
}

func (h *History) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bad = append(h.bad, fmt.Sprintf(format, args...))
}

// Run lets all callers of a round ask at the same time.
func Run(ctx context.Context, c *Client, r *Round) *History {
	h := &History{Round: r, Calls: make([]Call, len(r.Asks)), Ended: map[string]Ended{}}
	begin := make(chan struct{})
	var group sync.WaitGroup
	for i := range r.Asks {
		group.Go(func() {
			<-begin
			h.reserve(ctx, c, i)
			if r.Churn && h.Calls[i].Granted {
				h.end(ctx, c, h.Calls[i].Ask)
			}
		})
	}
	close(begin)
	group.Wait()
	return h
}

// End gives every hold the end that is meant for it, if it has none yet.
func (h *History) End(ctx context.Context, c *Client) {
	var group sync.WaitGroup
	for i := range h.Calls {
		if h.Calls[i].Granted {
			group.Go(func() { h.end(ctx, c, h.Calls[i].Ask) })
		}
	}
	group.Wait()
}

func (h *History) reserve(ctx context.Context, c *Client, i int) {
	ask := &h.Round.Asks[i]
	call := &h.Calls[i]
	call.Ask = ask
	var err error
	call.Answer, err = c.Do(ctx, http.MethodPost, "/api/budgets/reservations", map[string]any{
		"app_id": h.Round.App, "user_id": ask.User, "model": ask.Model, "estimated_tokens": ask.Tokens, "ttl_seconds": ask.TTL, "reservation_id": ask.ID,
	})
	if err != nil {
		h.fault("%s: %v", ask.ID, err)
		return
	}
	switch call.Answer.Status {
	case http.StatusCreated:
		var said struct {
			ID      string    `json:"reservation_id"`
			Expires time.Time `json:"expires_at"`
		}
		if err := call.Answer.into(&said); err != nil || said.ID != ask.ID {
			h.fault("%s: answered about %q, %v", ask.ID, said.ID, err)
		}
		call.Granted, call.Expires = true, said.Expires.UnixNano()
	case http.StatusConflict: // RESERVATION_CLOSED: what was granted has ended
		call.Granted = true
	case http.StatusPaymentRequired:
	default:
		h.fault("%s: status %d, %.200q", ask.ID, call.Answer.Status, call.Answer.Body)
	}
}

// claim says whether a hold is still to be ended, and that it is ended now.
func (h *History) claim(id string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ended := h.Ended[id]; ended {
		return false
	}
	h.Ended[id] = Ended{Called: time.Now().UnixNano()}
	return true
}

func (h *History) end(ctx context.Context, c *Client, ask *Ask) {
	if ask.Ending == Expire || !h.claim(ask.ID) {
		return
	}
	path := "/api/budgets/reservations/" + url.PathEscape(ask.ID)
	method, body := http.MethodDelete, any(nil)
	if ask.Ending == Settle {
		method, body = http.MethodPost, settlement(h.Round.App, ask)
		path += "/settle"
	} else {
		path += "?app_id=" + url.QueryEscape(h.Round.App)
	}
	a, err := c.Do(ctx, method, path, body)
	if err != nil || a.Status != http.StatusOK {
		h.fault("%s: ending it is answered %d, %.200q, %v", ask.ID, a.Status, a.Body, err)
		return
	}
	var said struct {
		Late   bool
		Excess int64
	}
	if err := a.into(&said); err != nil || said.Late || said.Excess != 0 {
		h.fault("%s: it was open, and is settled with %+v, %v", ask.ID, said, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Ended[ask.ID] = Ended{Called: a.First, Answered: a.Returned, Settled: ask.Ending == Settle}
}

func settlement(app string, ask *Ask) map[string]any {
	input := ask.Spent / 2
	return map[string]any{"app_id": app, "event_id": "e-" + ask.ID, "input_tokens": input, "output_tokens": ask.Spent - input}
}

// SettleLate settles a hold that has expired: its usage counts although it holds nothing.
func (h *History) SettleLate(ctx context.Context, c *Client, ask *Ask) {
	a, err := c.Do(ctx, http.MethodPost, "/api/budgets/reservations/"+url.PathEscape(ask.ID)+"/settle", settlement(h.Round.App, ask))
	var said struct{ Late bool }
	if err == nil && a.Status == http.StatusOK {
		err = a.into(&said)
	}
	if err != nil || !said.Late {
		h.fault("%s: a settlement after the end is answered %d, %.200q, %v", ask.ID, a.Status, a.Body, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Ended[ask.ID] = Ended{Called: a.First, Answered: a.Returned, Settled: true, Late: true}
}

// Over is when every hold of the round has ended by itself that nobody ends.
func (h *History) Over() (at time.Time) {
	for i := range h.Calls {
		if c := &h.Calls[i]; c.Granted && c.Ask.Ending == Expire {
			if end := time.Unix(0, c.Expires); end.After(at) {
				at = end
			}
		}
	}
	return at
}

// Voided says that the usage a hold was settled with was taken back.
func (h *History) Voided(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e := h.Ended[id]
	e.Voided = true
	h.Ended[id] = e
}
