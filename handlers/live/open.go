package live

import (
	"context"
	"errors"
	"fmt"

	"grout/schemas"
)

// Open makes a reader. It waits until the place to begin is known, at most as long as ctx
// allows. Its errors are ErrAhead, ErrForeign, ErrBusy, ErrClosed and ErrUnavailable.
func (h *Hub) Open(ctx context.Context, f Filter, from From) (*Reader, error) {
	if h.readers.Add(1) > int64(h.opts.MaxReaders) {
		h.readers.Add(-1)
		return nil, ErrBusy
	}
	r := &Reader{hub: h, feed: h.facts, filter: f, key: schemas.EscapeToken(f.AppID), subject: schemas.FactsOfApp(f.AppID)}
	if f.ChatID != "" {
		r.feed, r.subject = h.chats, schemas.FactsOfChat(f.AppID, f.ChatID)
		r.key += "." + schemas.EscapeToken(f.ChatID)
	}
	r.wake, r.closing, r.place = make(chan struct{}, 1), make(chan struct{}), -1
	r.feed.join(r)
	err := r.begin(ctx, from)
	if err == nil {
		return r, nil
	}
	r.Close()
	if errors.Is(err, ErrAhead) || errors.Is(err, ErrForeign) || errors.Is(err, ErrClosed) {
		return nil, err
	}
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// begin finds the place. The end of the feed is noted before the store is asked: what
// has a higher number than the store says comes behind it.
func (r *Reader) begin(ctx context.Context, from From) error {
	if err := r.feed.await(ctx); err != nil {
		return err
	}
	r.feed.mu.Lock()
	r.gen, r.behind = r.feed.gen, r.feed.ring.end
	r.feed.mu.Unlock()
	app, err := r.hub.opts.Numbers.Series(ctx, r.filter.AppID, "")
	if err != nil {
		return err
	}
	series := app
	if r.filter.ChatID != "" {
		if series, err = r.hub.opts.Numbers.Series(ctx, r.filter.AppID, r.filter.ChatID); err != nil {
			return err
		}
		if r.filter.UserID != "" && series.Owner != "" {
			if r.owner = series.Owner == r.filter.UserID; !r.owner {
				return ErrForeign
			}
		}
	}
	if r.last = (Position{Sub: -1}); app.Last > 0 { // else whatever the app will have follows, in any stream
		r.last = Position{StreamSeq: r.behind, Sub: -1, FactSeq: app.Last}
	}
	r.number, r.counted = series.Last, true
	switch {
	case from.Number != nil:
		r.last = Position{Sub: -1} // not known before the first item
		return r.beginBehind(ctx, *from.Number, series)
	case from.Position != nil:
		if from.Position.FactSeq > 0 {
			r.part = *from.Position
		}
		r.last = *from.Position // who is cut off before the first item has come goes on from there
		// When all was published, and nothing follows the place, all was seen.
		all, err := r.hub.opts.Numbers.Relayed(ctx, r.filter.AppID, series.Mark)
		if err != nil {
			return err
		}
		r.counted = all
		return r.beginAt(ctx, *from.Position, app.Last, series)
	}
	return nil
}

// beginBehind begins behind a number of the series.
func (r *Reader) beginBehind(ctx context.Context, n uint64, series Series) error {
	if n > series.Last {
		return ErrAhead
	}
	if r.number = n; n == series.Last {
		return nil
	}
	r.owe(series)
	to, err := r.locate(ctx, n, series.Last)
	if err != nil {
		return err
	}
	r.behind = to.behind
	return nil
}

// beginAt begins behind a place of the stream. A place whose fact is not where it was,
// because the stream was made anew or the fact has expired, is found again by the number
// that the fact has in its app.
func (r *Reader) beginAt(ctx context.Context, p Position, given uint64, series Series) error {
	if p.FactSeq > given {
		return ErrAhead
	}
	st, err := r.hub.state(ctx)
	if err != nil {
		return err
	}
	if p.FactSeq == 0 {
		switch {
		case p.StreamSeq > st.Last:
			return ErrAhead
		case p.StreamSeq == 0, p.StreamSeq+1 < st.First, p.Sub >= 0 && p.StreamSeq < st.First:
			r.expired(max(st.First, 1)-1, series)
			return nil
		}
		return r.beginThere(ctx, p)
	}
	probe := &Reader{hub: r.hub, feed: r.hub.facts, filter: Filter{AppID: r.filter.AppID}, key: schemas.EscapeToken(r.filter.AppID), subject: schemas.FactsOfApp(r.filter.AppID)}
	i, _, err := probe.look(ctx, p.StreamSeq)
	if err != nil {
		return err
	}
	if i != nil && i.seq == p.StreamSeq {
		if f, err := i.fact(); err == nil && f.factSeq == p.FactSeq {
			return r.beginThere(ctx, p)
		}
	}
	seen := p.FactSeq
	if p.Sub >= 0 {
		seen--
	}
	// The ring may still be of the stream before.
	to, err := probe.search(ctx, seen, given, 0)
	if err != nil {
		return err
	}
	if r.filter.ChatID == "" {
		r.number, r.counted, r.part = seen, true, p
		if r.owe(series); to.known {
			r.behind = to.behind
		}
		return nil
	}
	switch {
	case to.known:
		return r.beginAfter(ctx, probe, to.behind, p, series)
	case seen == given: // all was seen
		r.counted = true
	case !r.counted: // what follows is not published again yet
		return ErrUnavailable
	default:
		r.expired(r.behind, series)
	}
	return nil
}

// beginAfter begins a chat with what its app has behind a sequence, but for facts that
// were seen.
func (r *Reader) beginAfter(ctx context.Context, probe *Reader, behind uint64, p Position, series Series) error {
	i, _, err := probe.look(ctx, behind+1)
	if err != nil {
		return err
	}
	if i == nil {
		return ErrUnavailable // it was there before
	}
	if f, err := i.fact(); err == nil && (f.factSeq > p.FactSeq+1 || p.Sub >= 0 && f.factSeq > p.FactSeq) { // also the rest of a fact
		r.expired(behind, series)
		return nil
	}
	for range framesAtOnce { // facts that were published again may stand before
		if i, _, err = r.numbered(ctx, behind+1); err != nil || i == nil {
			return err
		}
		f, err := i.fact()
		if err != nil {
			return err
		}
		first, last := r.numbers(f)
		r.behind, r.counted = behind, first != 0
		switch {
		case !r.counted:
			return nil
		case f.factSeq > p.FactSeq:
			r.number = first - 1
			return nil
		case f.factSeq == p.FactSeq && p.Sub >= 0:
			r.number = first + uint64(min(p.Sub, len(f.deltas)-1))
			return nil
		}
		behind, r.number = i.seq, last
	}
	return nil
}

// expired begins with what is left, behind a sequence: a series that does not begin with
// its first number there is reset.
func (r *Reader) expired(behind uint64, series Series) {
	r.behind, r.number, r.counted = behind, 0, true
	r.owe(series)
}

// beginThere begins behind a place that is in the stream, or was.
func (r *Reader) beginThere(ctx context.Context, p Position) error {
	i, _, err := r.numbered(ctx, max(p.StreamSeq, 1))
	if err != nil {
		return err
	}
	if i == nil { // nothing follows
		return nil
	}
	f, err := i.fact()
	if err != nil {
		return err
	}
	first, last := r.numbers(f)
	r.behind, r.counted = i.seq-1, true
	switch {
	case first == 0:
		r.counted = false
	case i.seq != p.StreamSeq:
		r.number = first - 1
	case p.Sub < 0:
		r.number = last
	case r.filter.ChatID != "":
		r.number = first + uint64(min(p.Sub, len(f.deltas)-1))
	default:
		r.number, r.part = first-1, p
	}
	return nil
}
