package strict

import (
	"fmt"
	"math/rand/v2"
)

// Use is tokens that somebody asks for, or has used.
type Use struct {
	User, Model string
	Tokens      int64
}

// Terms are one allocation of a budget, which is hard.
type Terms struct {
	User  string // whose budget it is; empty: the app's
	Model string // of which model; empty: all tokens
	Limit int64
	Burst int64 // percent, of the whole budget
}

// Touches says whether tokens count there.
func (t *Terms) Touches(u *Use) bool {
	return (t.User == "" || t.User == u.User) && (t.Model == "" || t.Model == u.Model)
}

// Effective is the limit that holds (contract §5.2.8).
func (t *Terms) Effective() int64 { return t.Limit * (100 + t.Burst) / 100 }

func (t *Terms) String() string {
	return fmt.Sprintf("user %q model %q of %d", t.User, t.Model, t.Effective())
}

// Ending is how a hold ends that is granted.
type Ending int

// The ways a hold ends.
const (
	Settle Ending = iota
	Release
	Expire
)

// Ask is what one caller asks for. Callers with the same id ask for the same.
type Ask struct {
	ID string
	Use
	TTL    int // seconds
	Ending Ending
	Spent  int64 // what it is settled with, at most Tokens
}

// Round is a race for the last tokens of a new app.
type Round struct {
	App   string
	Terms []Terms
	Base  []Use // used before
	Asks  []Ask
	Churn bool // holds end while others still race
}

const (
	users     = 4
	largest   = 9    // tokens of one ask
	longTTL   = 3600 // seconds; it does not end by itself
	shortTTL  = 1
	twinShare = 10 // one of so many callers repeats another one's request
)

// NewRound draws a round: an app, three of its four users, and one of two models have
// a limit that the callers exceed together.
func NewRound(app string, rng *rand.Rand, callers int) *Round {
	r := &Round{App: app, Churn: rng.IntN(2) == 0}
	total := int64(callers) * (largest + 1) / 2 // what is asked for, about
	part := func(least, most int64) int64 { return total*least/100 + rng.Int64N(max(1, total*(most-least)/100)) }
	for i := range users {
		r.Base = append(r.Base, Use{user(i), model(i % 2), part(1, 10)})
	}
	burst := int64(rng.IntN(3) * 10)
	r.Terms = []Terms{{Limit: part(10, 60), Burst: burst}, {Model: model(0), Limit: part(5, 40), Burst: burst}}
	for i := range users - 1 {
		r.Terms = append(r.Terms, Terms{User: user(i), Limit: part(2, 20), Burst: int64(rng.IntN(2) * 25)})
	}
	for i := range r.Terms { // what is drawn is the room; what was used comes to it
		t := &r.Terms[i]
		t.Limit += r.Used(t)
	}
	twins := callers / twinShare
	for i := range callers - twins {
		a := Ask{
			ID: fmt.Sprintf("%s-%d", app, i), TTL: longTTL, Ending: Ending(rng.IntN(3)),
			Use: Use{user(rng.IntN(users)), model(rng.IntN(2)), 1 + rng.Int64N(largest)},
		}
		a.Spent = rng.Int64N(a.Tokens + 1)
		if a.Ending == Expire {
			a.TTL = shortTTL + rng.IntN(2)
		}
		r.Asks = append(r.Asks, a)
	}
	r.Asks = append(r.Asks, r.Asks[:twins]...)
	rng.Shuffle(len(r.Asks), func(i, j int) { r.Asks[i], r.Asks[j] = r.Asks[j], r.Asks[i] })
	return r
}

func user(i int) string { return fmt.Sprintf("u%d", i) }

func model(i int) string { return fmt.Sprintf("m%d", i) }

// Used is what was used before the race.
func (r *Round) Used(t *Terms) (sum int64) {
	for i := range r.Base {
		if t.Touches(&r.Base[i]) {
			sum += r.Base[i].Tokens
		}
	}
	return sum
}

// Room is what the race is for.
func (r *Round) Room(t *Terms) int64 { return t.Effective() - r.Used(t) }

// Manifests are the round's limits as they are synced.
func (r *Round) Manifests() (list []map[string]any) {
	byUser := map[string]map[string]any{}
	for i := range r.Terms {
		t := &r.Terms[i]
		budget := byUser[t.User]
		if budget == nil {
			budget = map[string]any{"period": "lifetime", "burst_allowance": t.Burst}
			byUser[t.User] = budget
			m := map[string]any{"version": "1.1", "app_id": r.App, "plan": map[string]any{"tier": "pro"}, "token_budget": budget}
			if t.User != "" {
				m["user_id"] = t.User
			}
			list = append(list, m)
		}
		allocation := map[string]any{"limit": t.Limit, "enforcement": "hard"}
		if t.Model == "" {
			budget["total_tokens"] = allocation
		} else {
			budget["per_model_limits"] = map[string]any{t.Model: allocation}
		}
	}
	return list
}

// Events are what was used before, as it is recorded.
func (r *Round) Events(now string) (list []map[string]any) {
	for i, u := range r.Base {
		list = append(list, map[string]any{
			"event_id": fmt.Sprintf("%s-base-%d", r.App, i), "timestamp": now, "app_id": r.App, "user_id": u.User, "model": u.Model,
			"input_tokens": u.Tokens, "output_tokens": 0,
		})
	}
	return list
}
