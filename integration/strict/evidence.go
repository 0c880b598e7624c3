package strict

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"time"

	"github.com/anishathalye/porcupine"
)

// evidence is what the server shows when all callers are done. By it most of the steps
// without an answer are known to have been carried out, or not.
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
// those that it shows to have been carried out. The others stay open.
func (r *LinearRound) decideLost(e *evidence) {
	var kept []porcupine.Operation
	for _, op := range r.history {
		if op.Output.(output).lost {
			happened, certain := r.decide(e, &op)
			if !happened {
				continue
			}
			if certain {
				op.Return = e.at
			}
		}
		kept = append(kept, op)
	}
	r.history = kept
}

func (r *LinearRound) decide(e *evidence, op *porcupine.Operation) (happened, certain bool) {
	in := op.Input.(input)
	if in.kind == stepUse {
		return e.events[in.event], true
	}
	if in.kind == stepSettle && !e.events[in.event] {
		return false, true
	}
	over := map[int][]int{stepReserve: {http.StatusNotFound}, stepRelease: {http.StatusNotFound, http.StatusOK}}
	for _, status := range over[in.kind] {
		if e.status[in.id] == status { // it would not be so
			return false, true
		}
	}
	// Whoever was answered the same may have come before it, or have done it alone.
	first := int64(math.MaxInt64)
	for i := range r.history {
		other, out := r.history[i].Input.(input), r.history[i].Output.(output)
		if other.kind == in.kind && other.id == in.id && (in.kind != stepSettle || other.caller == in.caller) && (out.lost || out.status < http.StatusMultipleChoices) && r.history[i].Call != op.Call {
			if !out.lost {
				first = min(first, r.history[i].Return)
			} else {
				first = min(first, math.MaxInt64-1)
			}
		}
	}
	if in.kind == stepRelease && first == math.MaxInt64 {
		return true, false // it may have been settled instead
	}
	return first >= op.Call, first == math.MaxInt64
}
