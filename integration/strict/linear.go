package strict

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// What one step of a caller is.
const (
	stepReserve = iota
	stepSettle
	stepExtend
	stepRelease
	stepCheck
	stepRead
	stepUse
	steps
)

// Reservations of a linear round, and what it has limits of: the app, its two users and
// one of its two models.
const (
	linearIDs   = 32
	linearUsers = 2
	limits      = 2 + linearUsers
)

// input is a step as it is asked for.
type input struct {
	kind   int
	id     int // of a reservation, with user, model and tokens of its own
	user   int
	model  int
	tokens int64
	caller int
	event  string // what it records
}

// output is what a step was answered; lost when it was not.
type output struct {
	lost     bool
	status   int
	late     bool
	excess   int64
	allowed  bool
	standing [limits]Figures
}

// held is one reservation in a state of the books.
type held struct {
	state  uint8 // one of those below
	by     int8  // whose event has settled it
	late   bool
	excess int8
}

const (
	unknown = iota
	open
	settled
	released
)

// books are everything that a round's answers follow from. What is reserved follows from
// the holds; it is kept because a search asks for it at every step.
type books struct {
	used, reserved figures
	holds          [linearIDs]held
}

// figures are one for each limit.
type figures [limits]int64

// add counts tokens in the limits that a user and a model have.
func (f *figures) add(user, model int, tokens int64) {
	f[0] += tokens
	f[2+user] += tokens
	if model == 0 {
		f[1] += tokens
	}
}

// LinearRound is what callers do to the budgets of a new app, one step after another,
// each step sent once.
type LinearRound struct {
	App     string
	Callers [][]input
	sizes   [linearIDs]input // user, model and tokens of each reservation
	limit   [limits]int64
	history []porcupine.Operation
	mu      sync.Mutex
	lost    int
	bad     []string
}

// NewLinearRound draws a round.
func NewLinearRound(app string, rng *rand.Rand, callers, count int) *LinearRound {
	r := &LinearRound{App: app, Callers: make([][]input, callers), limit: [limits]int64{60, 35, 40, 40}}
	for i := range r.sizes {
		r.sizes[i] = input{user: rng.IntN(linearUsers), model: rng.IntN(2), tokens: 1 + rng.Int64N(12)}
	}
	for i := range r.Callers {
		for n := range count {
			id := rng.IntN(linearIDs)
			in := r.sizes[id]
			in.id, in.caller = id, i
			switch draw := rng.IntN(100); {
			case draw < 38:
				in.kind = stepReserve
			case draw < 52:
				in.kind, in.tokens, in.event = stepSettle, settledWith(id, i), fmt.Sprintf("e-%d-%d", id, i)
			case draw < 58:
				in.kind = stepExtend
			case draw < 76:
				in.kind = stepRelease
			case draw < 86:
				in.kind, in.tokens = stepCheck, rng.Int64N(20)
			case draw < 97:
				in.kind = stepRead
			default:
				in.kind, in.tokens, in.event = stepUse, rng.Int64N(3), fmt.Sprintf("use-%d-%d", i, n)
			}
			r.Callers[i] = append(r.Callers[i], in)
		}
	}
	return r
}

// settledWith is what a caller settles a reservation with: little, or more than is held.
func settledWith(id, caller int) int64 { return int64((id*7 + caller*3) % 5) }

// Manifests are the round's limits as they are synced.
func (r *LinearRound) Manifests() []map[string]any {
	return (&Round{App: r.App, Terms: r.terms()}).Manifests()
}

func (r *LinearRound) terms() []Terms {
	list := []Terms{{Limit: r.limit[0]}, {Model: model(0), Limit: r.limit[1]}}
	for i := range linearUsers {
		list = append(list, Terms{User: user(i), Limit: r.limit[2+i]})
	}
	return list
}

// touches reports whether tokens of a user and a model count in a limit.
func touches(limit, user, model int) bool {
	return limit == 0 || limit == 2+user || limit == 1 && model == 0
}

// Run lets the callers do their steps at the same time.
func (r *LinearRound) Run(ctx context.Context, c *Client) {
	var group sync.WaitGroup
	for _, list := range r.Callers {
		group.Go(func() {
			for _, in := range list {
				if !r.step(ctx, c, in) {
					return
				}
			}
		})
	}
	group.Wait()
}

// step does one of them. It is false when the round is over.
func (r *LinearRound) step(ctx context.Context, c *Client, in input) bool {
	method, path, body := r.request(in)
	text, err := json.Marshal(body)
	if err != nil {
		r.fault("%v", err)
		return false
	}
	for {
		base, moved := c.Place.at()
		op := porcupine.Operation{ClientId: in.caller, Input: in, Call: time.Now().UnixNano()}
		status, answer, err := c.once(ctx, method, base+path, text)
		op.Return = time.Now().UnixNano()
		if err == nil && definite(status) {
			if op.Output, err = readOutput(in, status, answer); err != nil {
				r.fault("step %+v: %v", in, err)
			}
			r.add(op)
			return true
		}
		reached := sent(err)
		if reached {
			op.Output, op.Return = output{lost: true}, math.MaxInt64
			r.add(op)
		}
		again := time.NewTimer(againAfter)
		select {
		case <-moved:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if reached || ctx.Err() != nil {
			return ctx.Err() == nil
		}
	}
}

// add notes a step. One that changes nothing and has no answer tells nothing.
func (r *LinearRound) add(op porcupine.Operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if op.Output.(output).lost {
		r.lost++
		if kind := op.Input.(input).kind; kind == stepRead || kind == stepCheck || kind == stepExtend {
			return
		}
	}
	r.history = append(r.history, op)
}

func (r *LinearRound) fault(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bad = append(r.bad, fmt.Sprintf(format, args...))
}

func (r *LinearRound) request(in input) (method, path string, body any) {
	id := fmt.Sprintf("%s-%d", r.App, in.id)
	at := "/api/budgets/reservations/" + id
	switch in.kind {
	case stepReserve:
		return http.MethodPost, "/api/budgets/reservations", map[string]any{
			"app_id": r.App, "user_id": user(in.user), "model": model(in.model), "estimated_tokens": in.tokens, "ttl_seconds": longTTL, "reservation_id": id,
		}
	case stepSettle:
		return http.MethodPost, at + "/settle", map[string]any{
			"app_id": r.App, "event_id": in.event, "input_tokens": in.tokens, "output_tokens": 0,
		}
	case stepExtend:
		return http.MethodPost, at + "/extend", map[string]any{"app_id": r.App, "ttl_seconds": longTTL}
	case stepRelease:
		return http.MethodDelete, at + "?app_id=" + url.QueryEscape(r.App), nil
	case stepCheck:
		return http.MethodPost, "/api/entitlements/check", map[string]any{
			"app_id": r.App, "user_id": user(in.user), "model": model(in.model), "estimated_tokens": in.tokens,
		}
	case stepRead:
		return http.MethodGet, "/api/v1/entitlements/" + url.PathEscape(r.App) + "?user_id=" + user(in.user), nil
	}
	return http.MethodPost, "/api/usage/ingest", map[string]any{"events": []any{map[string]any{
		"event_id": in.event, "timestamp": time.Now().UTC().Format(time.RFC3339Nano), "app_id": r.App,
		"user_id": user(in.user), "model": model(in.model), "input_tokens": in.tokens, "output_tokens": 0,
	}}}
}

func readOutput(in input, status int, text []byte) (out output, err error) {
	out.status = status
	a := Answer{Status: status, Body: text}
	switch {
	case in.kind == stepRead:
		all, err := readStanding(&a)
		if err != nil {
			return out, err
		}
		out.standing[0], out.standing[1] = all[allocation{false, ""}], all[allocation{false, model(0)}]
		out.standing[2+in.user] = all[allocation{true, ""}]
	case status == http.StatusOK && in.kind == stepSettle:
		var said struct {
			Late   bool
			Excess int64
		}
		err = a.into(&said)
		out.late, out.excess = said.Late, said.Excess
	case status == http.StatusOK && in.kind == stepCheck:
		var said struct{ Allowed bool }
		err = a.into(&said)
		out.allowed = said.Allowed
	}
	return out, err
}
