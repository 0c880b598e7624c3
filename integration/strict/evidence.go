package strict

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/anishathalye/porcupine"
)

// evidence is what the server shows when all callers are done. By it and the answers it
// is known of a step without an answer until when it can have been carried out.
type evidence struct {
	at     int64
	status [linearIDs]int // what extending a reservation is answered
	events map[string]bool
}

// Look asks for evidence. What it asks are steps of the round too.
func (r *LinearRound) Look(ctx context.Context, c *Client) error {
	e := evidence{events: map[string]bool{}}
	for id := range linearIDs {
		in := r.sizes[id]
		in.kind, in.id, in.caller = stepExtend, id, len(r.Callers)
		method, path, body := r.request(in)
		a, err := c.Do(ctx, method, path, body)
		if err != nil {
			return err
		}
		e.status[id] = a.Status
		r.history = append(r.history, porcupine.Operation{ClientId: in.caller, Input: in, Call: a.First, Output: output{status: a.Status}, Return: a.Returned})
	}
	cursor := ""
	for {
		a, err := c.Do(ctx, http.MethodGet, "/api/usage/events?limit=1000&app_id="+url.QueryEscape(r.App)+cursor, nil)
		if err != nil {
			return err
		}
		var page struct {
			Events []struct {
				ID string `json:"event_id"`
			}
			Next *string `json:"next_cursor"`
		}
		if err := a.into(&page); err != nil || a.Status != http.StatusOK {
			return fmt.Errorf("the events: status %d, %.200q, %w", a.Status, a.Body, err)
		}
		for _, event := range page.Events {
			e.events[event.ID] = true
		}
		if page.Next == nil {
			break
		}
		cursor = "&cursor=" + url.QueryEscape(*page.Next)
	}
	e.at = time.Now().UnixNano()
	r.decideLost(&e)
	return nil
}

// decideLost leaves out lost steps that evidence shows to have changed nothing, and ends
// the others with the first answer that shows them, or another one in their stead, to be
// done: behind that they change nothing. Whatever order there is without this is one
// with it, and the other way round.
func (r *LinearRound) decideLost(e *evidence) {
	var kept []porcupine.Operation
	for _, op := range r.history {
		if op.Output.(output).lost {
			if op.Return = r.end(e, op.Input.(input)); op.Return < op.Call {
				continue
			}
		}
		kept = append(kept, op)
	}
	r.history = kept
}

// end is the instant from which a lost step changes nothing; 0 when it never did.
func (r *LinearRound) end(e *evidence, in input) int64 {
	status := e.status[in.id]
	switch {
	case in.event != "" && !e.events[in.event],
		in.kind == stepReserve && status == http.StatusNotFound,
		in.kind == stepRelease && status != http.StatusConflict:
		return 0
	}
	at := e.at
	for i := range r.history {
		if out := r.history[i].Output.(output); !out.lost && shows(r.history[i].Input.(input), out.status, in) {
			at = min(at, r.history[i].Return)
		}
	}
	return at
}

// shows says whether the answer to a step shows that another one about the same
// reservation is done, or can do nothing any more.
func shows(step input, status int, other input) bool {
	if step.id != other.id || step.kind > stepRelease {
		return false
	}
	switch other.kind {
	case stepReserve: // there is a hold
		return status != http.StatusNotFound && status != http.StatusPaymentRequired
	case stepRelease: // it is closed
		return status == http.StatusConflict || status == http.StatusOK && (step.kind == stepSettle || step.kind == stepRelease)
	case stepSettle: // it is settled, and only the event that is there has settled it
		return step.kind == stepSettle && status != http.StatusNotFound
	}
	return false
}
