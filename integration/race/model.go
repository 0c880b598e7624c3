package race

import (
	"net/http"
	"time"

	"github.com/anishathalye/porcupine"
)

// Linear searches an order in which the steps, done one after the other, would have
// been answered as they were; lost ones may stand anywhere after their call. It is false
// when there is none, and undecided when the search takes too long.
func (r *LinearRound) Linear(limit time.Duration) (linear, decided bool, faults []string) {
	model := porcupine.Model{
		Init: func() any { return books{} },
		Step: func(state, in, out any) (bool, any) {
			next, want := r.next(state.(books), in.(input))
			o := out.(output)
			if o.lost { // whatever it was answered
				return true, next
			}
			return o == want, next
		},
	}
	result := porcupine.CheckOperationsTimeout(model, r.history, limit)
	return result == porcupine.Ok, result != porcupine.Unknown, r.bad
}

// Count gives the steps of a round, and how many of them were lost.
func (r *LinearRound) Count() (n, lost int) {
	for i := range r.history {
		if r.history[i].Output.(output).lost {
			lost++
		}
	}
	return len(r.history), lost
}

// next does a step on the books and gives its answer.
func (r *LinearRound) next(b books, in input) (books, output) {
	h := &b.holds[in.id]
	out := output{status: http.StatusOK}
	switch in.kind {
	case stepReserve:
		switch {
		case h.state == open:
			out.status = http.StatusCreated
		case h.state != unknown:
			out.status = http.StatusConflict
		case !r.fits(&b, in):
			out.status = http.StatusPaymentRequired
		default:
			out.status, h.state = http.StatusCreated, open
		}
	case stepSettle:
		out = r.settle(&b, in)
	case stepExtend, stepRelease:
		switch {
		case h.state == unknown:
			out.status = http.StatusNotFound
		case h.state == open && in.kind == stepRelease:
			h.state = released
		case h.state == released && in.kind == stepRelease, h.state == open:
		default:
			out.status = http.StatusConflict
		}
	case stepCheck:
		out.allowed = r.fits(&b, in)
	case stepRead:
		for _, at := range touches(in.user, 0) {
			out.standing[at] = Figures{r.limit[at], b.used[at], r.reserved(&b, at)}
		}
	case stepUse:
		b.use(in.user, in.model, in.tokens)
	}
	return b, out
}

func (r *LinearRound) settle(b *books, in input) (out output) {
	h := &b.holds[in.id]
	out.status = http.StatusOK
	switch {
	case h.state == unknown:
		out.status = http.StatusNotFound
		return out
	case h.state == settled && int(h.by) != in.caller:
		out.status = http.StatusConflict
		return out
	case h.state != settled:
		h.late, h.excess = h.state != open, max(0, in.tokens-r.sizes[in.id].tokens)
		h.state, h.by = settled, int8(in.caller)
		b.use(in.user, in.model, in.tokens)
	}
	out.late, out.excess = h.late, h.excess
	return out
}

func (b *books) use(user, model int, tokens int64) {
	for _, at := range touches(user, model) {
		b.used[at] += tokens
	}
}

func (r *LinearRound) reserved(b *books, limit int) (sum int64) {
	for i, h := range b.holds {
		if h.state != open {
			continue
		}
		for _, at := range touches(r.sizes[i].user, r.sizes[i].model) {
			if at == limit {
				sum += r.sizes[i].tokens
			}
		}
	}
	return sum
}

// fits is contract §5.2.8 for hard budgets.
func (r *LinearRound) fits(b *books, in input) bool {
	for _, at := range touches(in.user, in.model) {
		sum := b.used[at] + r.reserved(b, at)
		if sum+in.tokens > r.limit[at] || in.tokens == 0 && sum >= r.limit[at] {
			return false
		}
	}
	return true
}
