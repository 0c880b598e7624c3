package strict

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// flaw is what is wrong with a clumsy server.
type flaw int

const (
	sound        flaw = iota
	checkThenAdd      // looks whether it fits, is somewhere else for a moment, and adds
	addThenCheck      // adds, is somewhere else for a moment, looks, and takes away again
	leaky             // what has expired stays reserved
	forgetful         // half of what is released is not given back
)

// clumsy is a server of budgets as one would write it in an hour.
type clumsy struct {
	flaw  flaw
	mu    sync.Mutex
	terms []Terms
	used  []int64
	holds map[string]*clumsyHold
	gone  int // releases so far
}

type clumsyHold struct {
	Use
	expires time.Time
	state   uint8
	event   string
	answer  map[string]any
}

func newClumsy(f flaw, terms []Terms, base []Use) *clumsy {
	c := &clumsy{flaw: f, terms: terms, used: make([]int64, len(terms)), holds: map[string]*clumsyHold{}}
	for i := range base {
		c.use(&base[i])
	}
	return c
}

func (c *clumsy) use(u *Use) {
	for i := range c.terms {
		if c.terms[i].Touches(u) {
			c.used[i] += u.Tokens
		}
	}
}

func (c *clumsy) reserved(i int) (sum int64) {
	for _, h := range c.holds {
		if h.state == open && c.terms[i].Touches(&h.Use) && (c.flaw == leaky || time.Now().Before(h.expires)) {
			sum += h.Tokens
		}
	}
	return sum
}

func (c *clumsy) fits(u *Use) bool {
	for i := range c.terms {
		sum := c.used[i] + c.reserved(i)
		if c.terms[i].Touches(u) && (sum+u.Tokens > c.terms[i].Effective() || u.Tokens == 0 && sum >= c.terms[i].Effective()) {
			return false
		}
	}
	return true
}

const elsewhereFor = 20 * time.Millisecond

// elsewhere lets others work.
func (c *clumsy) elsewhere() {
	c.mu.Unlock()
	<-time.After(elsewhereFor)
	c.mu.Lock()
}

func (c *clumsy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var body struct {
		User   string `json:"user_id"`
		Model  string
		Tokens int64  `json:"estimated_tokens"`
		TTL    int    `json:"ttl_seconds"`
		ID     string `json:"reservation_id"`
		Event  string `json:"event_id"`
		Input  int64  `json:"input_tokens"`
		Output int64  `json:"output_tokens"`
		Events []struct {
			User  string `json:"user_id"`
			Model string
			Input int64 `json:"input_tokens"`
		}
	}
	_ = json.NewDecoder(req.Body).Decode(&body)
	u := Use{body.User, body.Model, body.Tokens}
	c.mu.Lock()
	defer c.mu.Unlock()
	status, answer := http.StatusOK, map[string]any{}
	path := strings.TrimPrefix(req.URL.Path, "/api/budgets/reservations")
	id, what, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch h := c.holds[id]; {
	case req.Method == http.MethodGet && path == "":
		answer = c.list()
	case req.Method == http.MethodGet:
		answer = c.standing(req.FormValue("user_id"))
	case strings.HasSuffix(path, "/check"):
		answer["allowed"] = c.fits(&u)
	case strings.HasSuffix(path, "/ingest"):
		for _, e := range body.Events {
			c.use(&Use{e.User, e.Model, e.Input})
		}
	case path == "":
		status, answer = c.reserve(body.ID, u, body.TTL)
	case h == nil:
		status = http.StatusNotFound
	case what == "settle":
		status, answer = c.settle(h, body.Event, body.Input+body.Output)
	case what == "extend" && h.state != open, req.Method == http.MethodDelete && h.state == settled:
		status = http.StatusConflict
	case req.Method == http.MethodDelete && h.state == open:
		if c.gone++; c.flaw != forgetful || c.gone%2 == 0 {
			h.state = released
		}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer)
}

func (c *clumsy) reserve(id string, u Use, ttl int) (int, map[string]any) {
	if h := c.holds[id]; h != nil {
		if h.state != open || !time.Now().Before(h.expires) {
			return http.StatusConflict, nil
		}
		return http.StatusCreated, h.answer
	}
	h := &clumsyHold{Use: u, expires: time.Now().Add(time.Duration(ttl) * time.Second), state: open}
	h.answer = map[string]any{"reservation_id": id, "expires_at": h.expires.Format(time.RFC3339Nano)}
	switch c.flaw {
	case checkThenAdd:
		if !c.fits(&u) {
			return http.StatusPaymentRequired, nil
		}
		c.elsewhere()
	case addThenCheck:
		c.holds[id] = h
		c.elsewhere()
		h.state = released
		if !c.fits(&u) {
			delete(c.holds, id)
			return http.StatusPaymentRequired, nil
		}
		h.state = open
	default:
		if !c.fits(&u) {
			return http.StatusPaymentRequired, nil
		}
	}
	c.holds[id] = h
	return http.StatusCreated, h.answer
}

func (c *clumsy) settle(h *clumsyHold, event string, tokens int64) (int, map[string]any) {
	switch {
	case h.state == settled && h.event != event:
		return http.StatusConflict, nil
	case h.state != settled:
		h.answer = map[string]any{"late": h.state != open || !time.Now().Before(h.expires), "excess": max(0, tokens-h.Tokens)}
		h.state, h.event = settled, event
		c.use(&Use{h.User, h.Model, tokens})
	}
	return http.StatusOK, h.answer
}

func (c *clumsy) list() map[string]any {
	list := []any{}
	for id, h := range c.holds {
		if h.state == open && time.Now().Before(h.expires) {
			list = append(list, map[string]any{"reservation_id": id, "expires_at": h.expires.Format(time.RFC3339Nano)})
		}
	}
	return map[string]any{"reservations": list}
}

func (c *clumsy) standing(user string) map[string]any {
	var budgets []any
	for i := range c.terms {
		t := &c.terms[i]
		if t.User != "" && t.User != user {
			continue
		}
		scope, name := "app", "total_tokens"
		if t.User != "" {
			scope = "user"
		}
		if t.Model != "" {
			name = fmt.Sprint("model:", t.Model)
		}
		budgets = append(budgets, map[string]any{"scope": scope, "allocations": []any{
			map[string]any{"name": name, "effective_limit": t.Effective(), "used": c.used[i], "reserved": c.reserved(i)},
		}})
	}
	return map[string]any{"budgets": budgets}
}
