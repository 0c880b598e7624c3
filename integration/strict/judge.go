package strict

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
)

// Verdict is what a round came to. Faults are what no order of the server's work explains.
type Verdict struct {
	Granted, Refused, Unsure int
	Beyond                   []string // granted beyond a limit
	Wrongly                  []string // refused although it would have fit at every instant of the call
	Other                    []string
}

// Faults are all of them.
func (v *Verdict) Faults() []string {
	return append(append(append([]string(nil), v.Beyond...), v.Wrongly...), v.Other...)
}

// hold is what is known of a reservation from all calls for it.
type hold struct {
	ask     *Ask
	first   int64 // nobody asked for it before
	granted int64 // it was known to be granted; math.MaxInt64: it is not known
	expires int64 // 0: unknown
	ended   *Ended
	maybe   bool // refused, but an attempt that got no answer may be granted yet
	body    []byte
}

func (h *History) holds(v *Verdict) map[string]*hold {
	all := map[string]*hold{}
	for i := range h.Calls {
		c := &h.Calls[i]
		o := all[c.Ask.ID]
		if o == nil {
			o = &hold{ask: c.Ask, first: math.MaxInt64, granted: math.MaxInt64}
			all[c.Ask.ID] = o
		}
		o.first = min(o.first, c.Answer.First)
		switch {
		case c.Granted:
			o.granted = min(o.granted, c.Answer.Returned)
			o.expires = max(o.expires, c.Expires)
		case c.Answer.Lost:
			o.maybe = true
		}
		if c.Answer.Status == http.StatusCreated {
			if o.body != nil && !bytes.Equal(o.body, c.Answer.Body) {
				v.Other = append(v.Other, fmt.Sprintf("%s is granted with %s and with %s", c.Ask.ID, o.body, c.Answer.Body))
			}
			o.body = c.Answer.Body
		}
	}
	for id, e := range h.Ended {
		if o := all[id]; o != nil {
			o.ended = &e
		}
	}
	return all
}

// known says that the hold was granted for certain.
func (o *hold) known() bool { return o.granted != math.MaxInt64 }

// atLeast is what a hold and its usage come to at an instant, whatever the order was.
func (o *hold) atLeast(at int64) int64 {
	switch e := o.ended; {
	case o.granted > at:
		return 0
	case e != nil && e.Called <= at && e.Settled:
		return o.ask.Spent // held or used, and never more than held
	case e != nil && e.Called <= at:
		return 0
	case o.expires <= at: // or it is not known when
		return 0
	}
	return o.ask.Tokens
}

// voided is what no longer counts of its usage, which was taken back after the race.
func (o *hold) voided() int64 {
	if o.ended == nil || !o.ended.Voided {
		return 0
	}
	return o.ask.Spent
}

// atMost is the most that it can come to at any instant between two.
func (o *hold) atMost(from, to int64) int64 {
	switch e := o.ended; {
	case !o.known() && !o.maybe || o.first > to:
		return 0
	case e != nil && e.Answered != 0 && e.Answered <= from && e.Settled:
		return o.ask.Spent
	case e != nil && e.Answered != 0 && e.Answered <= from:
		return 0
	case o.expires != 0 && o.expires <= from && (e == nil || !e.Late):
		return 0
	}
	return o.ask.Tokens
}

// Judge holds what was answered against what the limits allow.
//
// Granted beyond a limit: at the instant some caller was answered, what was held and
// used for certain is more than the limit. Settlements are of what was held at most, so
// nothing but a grant can bring that about.
//
// Refused wrongly: counting everything that can have been held or used at any instant
// between the last attempt and its answer, the amount would have fit into every
// allocation that it touches.
func (h *History) Judge() (v Verdict) {
	v.Other = append(v.Other, h.bad...)
	holds := h.holds(&v)
	for _, o := range holds {
		switch {
		case o.known():
			v.Granted++
		case o.maybe:
			v.Unsure++
		}
	}
	for i := range h.Round.Terms {
		t := &h.Round.Terms[i]
		room := h.Round.Room(t)
		for _, at := range holds {
			if !at.known() {
				continue
			}
			if sum := sumOf(holds, t, func(o *hold) int64 { return o.atLeast(at.granted) }); sum > room {
				v.Beyond = append(v.Beyond, fmt.Sprintf("%s: %s: %d tokens of %d when %s was answered", h.Round.App, t, sum, room, at.ask.ID))
				break
			}
		}
	}
	for i := range h.Calls {
		c := &h.Calls[i]
		if c.Granted || c.Answer.Status != http.StatusPaymentRequired {
			continue
		}
		v.Refused++
		if o := holds[c.Ask.ID]; o.atLeast(c.Answer.Last) > 0 && o.ended == nil && o.expires > c.Answer.Returned {
			v.Wrongly = append(v.Wrongly, fmt.Sprintf("%s: %s is refused while it is held", h.Round.App, c.Ask.ID))
		}
		if h.fits(holds, c) {
			v.Wrongly = append(v.Wrongly, fmt.Sprintf("%s: %s asks for %d tokens of %s and %s, which are free: %.200s", h.Round.App, c.Ask.ID, c.Ask.Tokens, c.Ask.User, c.Ask.Model, c.Answer.Body))
		}
	}
	return v
}

func (h *History) fits(holds map[string]*hold, c *Call) bool {
	for i := range h.Round.Terms {
		t := &h.Round.Terms[i]
		if !t.Touches(&c.Ask.Use) {
			continue
		}
		others := sumOf(holds, t, func(o *hold) int64 {
			if o.ask.ID == c.Ask.ID {
				return 0
			}
			return o.atMost(c.Answer.Last, c.Answer.Returned)
		})
		if others+c.Ask.Tokens > h.Round.Room(t) {
			return false
		}
	}
	return true
}

func sumOf(holds map[string]*hold, t *Terms, of func(*hold) int64) (sum int64) {
	for _, o := range holds {
		if t.Touches(&o.ask.Use) {
			sum += of(o)
		}
	}
	return sum
}
