package live

import (
	"context"
	"slices"
	"sort"
	"time"

	"grout/schemas"
)

const (
	askTimeout = 5 * time.Second
	// nearEnough is how much of a series is rather read than searched.
	nearEnough = 64
)

// place is where a series goes on behind a number.
type place struct {
	behind uint64 // read on behind this sequence
	known  bool   // something follows there
	first  uint64 // number of the item that comes next; 0: not looked at
}

// numbers are those that an item takes in the reader's series; zero: none.
func (r *Reader) numbers(f *fact) (first, last uint64) {
	if r.filter.ChatID == "" {
		return f.factSeq, f.factSeq
	}
	if f.chatSeq == 0 {
		return 0, 0
	}
	return f.chatSeq, f.last()
}

// locate looks for a place from which the reader soon comes to the first item of the
// series with a number above n; last is the last number that was given.
func (r *Reader) locate(ctx context.Context, n, last uint64) (place, error) {
	if p, ok := r.locateInRing(n); ok {
		return p, nil
	}
	return r.search(ctx, n, last, nearEnough)
}

// search looks in the stream for the first item with a number above n, or for one that is
// at most so many numbers before it. Numbers rise along the stream but where facts were
// published again; then any place will do at which a number above n follows one that is
// not.
func (r *Reader) search(ctx context.Context, n, last, near uint64) (place, error) {
	r.hub.searches.Add(1)
	r.feed.mu.Lock()
	gen, end := r.feed.gen, r.feed.ring.end
	r.feed.mu.Unlock()
	st, err := r.hub.state(ctx)
	if err != nil {
		return place{}, err
	}
	found := place{behind: end}
	var low, high uint64
	if near > 0 { // else somebody is told what is gone: a stream that has changed unseen is no reason
		low, high = r.hub.index.around(gen, r.key, n)
	}
	low = max(low, max(st.First, 1)-1)
	if near > 0 && high > low && high <= st.Last {
		found, last = place{behind: high - 1, known: true}, 0
	} else {
		high = st.Last + 1
	}
	// The first look tells how much there is; most series are short.
	i, left, err := r.numbered(ctx, low+1)
	if err != nil || i == nil {
		return found, err
	}
	switch {
	case r.lastOf(i) > n, near > 0 && left <= near:
		return r.placeOf(i), nil
	case left == 0:
		return place{behind: end}, nil
	}
	seen := r.lastOf(i)
	low = i.seq
	for guess := true; low+1 < high; guess = !guess {
		if near > 0 && n-seen <= near {
			return place{behind: low, known: true}, nil
		}
		middle := low + (high-low)/2
		if guess && last > n && n > seen { // numbers may well be spread evenly
			ahead := float64(high-low) * float64(n-seen-min(near/2, n-seen)) / float64(last+1-seen)
			middle = min(max(low+uint64(ahead), low+1), high-1)
		}
		i, _, err := r.numbered(ctx, middle)
		switch {
		case err != nil:
			return place{}, err
		case i == nil || i.seq >= high:
			high = middle
		case r.lastOf(i) <= n:
			low, seen = i.seq, r.lastOf(i)
		default:
			found, high, last = r.placeOf(i), middle, r.lastOf(i)
		}
	}
	return found, nil
}

func (r *Reader) placeOf(i *item) place {
	p := place{behind: i.seq - 1, known: true}
	if f, err := i.fact(); err == nil {
		p.first, _ = r.numbers(f)
	}
	return p
}

// lastOf is the last number of an item; 0: it has none.
func (r *Reader) lastOf(i *item) uint64 {
	f, err := i.fact()
	if err != nil {
		return 0 // whoever comes to it tells
	}
	_, last := r.numbers(f)
	return last
}

// locateInRing knows the place when the ring holds the item and the one before it.
func (r *Reader) locateInRing(n uint64) (place, bool) {
	r.feed.mu.Lock()
	var items []*item
	if l := r.feed.ring.lines[r.key]; l != nil {
		items = slices.Clone(l.items[l.head:])
	}
	r.feed.mu.Unlock()
	at := sort.Search(len(items), func(at int) bool { return r.lastOf(items[at]) > n })
	if at == len(items) {
		return place{}, false
	}
	p := r.placeOf(items[at])
	return p, p.first <= n+1
}

// numbered is as look, past messages that have no number in the series: they do not tell
// on which side of them a number is.
func (r *Reader) numbered(ctx context.Context, from uint64) (_ *item, left uint64, err error) {
	for most := 1; ; most = replayAtOnce {
		list, left, err := r.hub.replay(ctx, r.subject, from, most, bytesAtOnce)
		if err != nil || len(list) == 0 {
			return nil, 0, err
		}
		for n := range list {
			if i, ok := newItem(&list[n]); ok && r.lastOf(i) > 0 {
				return i, left + uint64(len(list)-n-1), nil
			}
		}
		from = list[len(list)-1].Seq + 1
	}
}

// look reads the first message of the series from a sequence on.
func (r *Reader) look(ctx context.Context, from uint64) (*item, uint64, error) {
	list, left, err := r.hub.replay(ctx, r.subject, from, 1, 1)
	if err != nil || len(list) == 0 {
		return nil, 0, err
	}
	i, ok := newItem(&list[0])
	if !ok {
		return nil, 0, errFact
	}
	return i, left, nil
}

// replay reads the stream when it is this reader's turn.
func (h *Hub) replay(ctx context.Context, subject string, from uint64, messages, bytes int) ([]schemas.StreamMessage, uint64, error) {
	select {
	case h.turns <- struct{}{}: // who waits is served in order
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	defer func() { <-h.turns }()
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	list, left, err := h.opts.Source.Replay(ctx, subject, from, messages, bytes)
	h.replays.Add(1)
	h.replayed.Add(int64(len(list)))
	return list, left, err
}

func (h *Hub) state(ctx context.Context) (StreamState, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return h.opts.Source.State(ctx)
}
