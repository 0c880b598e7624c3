package strict

import (
	"hash/maphash"
	"math"
	"net/http"
	"time"

	"github.com/anishathalye/porcupine"
)

// Linear searches an order in which the steps, done one after the other, would have
// been answered as they were; lost ones may stand anywhere after their call. It is false
// when there is none, which the faults then explain, and undecided when the search takes
// too long.
func (r *LinearRound) Linear(limit time.Duration) (linear, decided bool, faults []string) {
	seed := maphash.MakeSeed()
	m := porcupine.Model{
		Init: func() any { return books{} },
		Step: func(state, in, out any) (bool, any) {
			next, want := r.next(state.(books), in.(input))
			o := out.(output)
			return o.lost || o == want, next
		},
		Hash: func(state any) uint64 { return maphash.Comparable(seed, state.(books)) },
	}
	result := porcupine.CheckOperationsTimeout(m, r.history, limit)
	if result == porcupine.Illegal {
		_, info := porcupine.CheckOperationsVerbose(m, r.history, limit)
		r.explain(info.PartialLinearizationsOperations())
	}
	return result == porcupine.Ok, result != porcupine.Unknown, r.bad
}

// explain tells how far the longest order goes, and which steps could be next by their
// time and were answered as nothing explains.
func (r *LinearRound) explain(orders [][][]porcupine.Operation) {
	var longest []porcupine.Operation
	for _, list := range orders {
		for _, order := range list {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	type key struct {
		caller int
		call   int64
	}
	done := map[key]bool{}
	b := books{}
	for _, op := range longest {
		b, _ = r.next(b, op.Input.(input))
		done[key{op.ClientId, op.Call}] = true
	}
	first := int64(math.MaxInt64)
	for _, op := range r.history {
		if !done[key{op.ClientId, op.Call}] {
			first = min(first, op.Return)
		}
	}
	r.fault("%s: after %d of %d steps in order, the last of which is %+v:", r.App, len(longest), len(r.history), longest[max(0, len(longest)-1):])
	for _, op := range r.history {
		if in := op.Input.(input); !done[key{op.ClientId, op.Call}] && op.Call <= first {
			_, want := r.next(b, in)
			r.fault("  %+v, from %d to %d, is answered %+v, should be %+v; the hold is %+v, the limits leave %v", in, op.Call, op.Return, op.Output, want, b.holds[in.id], r.left(&b))
		}
	}
}

func (r *LinearRound) left(b *books) (left [limits]int64) {
	for i := range left {
		left[i] = r.limit[i] - b.used[i] - b.reserved[i]
	}
	return left
}

// Count gives the steps that were answered, and how many were lost.
func (r *LinearRound) Count() (answered, lost int) {
	for i := range r.history {
		if !r.history[i].Output.(output).lost {
			answered++
		}
	}
	return answered, r.lost
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
			r.hold(&b, in.id, 1)
		}
	case stepSettle:
		out = r.settle(&b, in)
	case stepExtend, stepRelease:
		switch {
		case h.state == unknown:
			out.status = http.StatusNotFound
		case h.state == open && in.kind == stepRelease:
			h.state = released
			r.hold(&b, in.id, -1)
		case h.state == released && in.kind == stepRelease, h.state == open:
		default:
			out.status = http.StatusConflict
		}
	case stepCheck:
		out.allowed = r.fits(&b, in)
	case stepRead:
		for at := range limits {
			if touches(at, in.user, 0) {
				out.standing[at] = Figures{r.limit[at], b.used[at], b.reserved[at]}
			}
		}
	case stepUse:
		b.used.add(in.user, in.model, in.tokens)
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
		if h.state == open {
			r.hold(b, in.id, -1)
		}
		h.late, h.excess = h.state != open, int8(max(0, in.tokens-r.sizes[in.id].tokens))
		h.state, h.by = settled, int8(in.caller)
		b.used.add(in.user, in.model, in.tokens)
	}
	out.late, out.excess = h.late, int64(h.excess)
	return out
}

// hold reserves what a reservation asks for, or no longer.
func (r *LinearRound) hold(b *books, id int, sign int64) {
	size := &r.sizes[id]
	b.reserved.add(size.user, size.model, sign*size.tokens)
}

// fits is contract §5.2.8 for hard budgets.
func (r *LinearRound) fits(b *books, in input) bool {
	for at := range limits {
		if !touches(at, in.user, in.model) {
			continue
		}
		sum := b.used[at] + b.reserved[at]
		if sum+in.tokens > r.limit[at] || in.tokens == 0 && sum >= r.limit[at] {
			return false
		}
	}
	return true
}
