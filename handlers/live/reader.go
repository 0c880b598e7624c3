package live

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"grout/schemas"
)

// Bounds of what a reader has in hand.
const (
	framesAtOnce = 64
	itemsAtOnce  = 16
	replayAtOnce = 64
	bytesAtOnce  = 128 << 10
	// owedEvery is how often an idle reader looks whether what it waits for is gone.
	owedEvery = time.Second
	// gapTries bounds the looks for what is missing in a stream that goes on changing.
	gapTries = 8
)

// Reader is a cursor. It belongs to one goroutine; only Close may be called by others.
type Reader struct {
	hub     *Hub
	feed    *feed
	filter  Filter
	key     string // of its line
	subject string // of what it replays
	wake    chan struct{}
	closing chan struct{}
	closed  atomic.Bool
	place   int // among those that wait on its line, -1: it does not

	gen     uint64
	behind  uint64 // all of the series up to this sequence is seen
	number  uint64 // all of the series up to this number is seen
	counted bool   // number is known
	replay  uint64 // up to this sequence the stream is read and not the ring
	gaps    int    // looks for what is missing, since something was shown
	part    Position
	owed    uint64 // number up to which there is something to get, or to be told of
	mark    schemas.Position

	queue  []*item // that are to be shown
	at     int     // part of the first that comes next
	frames []Frame
	last   Position
	owner  bool // the chat is known to be the user's
}

// Next waits for the frames that follow, at least one; they are good until it is called
// again. A frame of type TypeReset says that something before the next one is gone. It
// bridges times without stream or store by itself; its errors are ErrForeign, ErrClosed
// and that of ctx.
func (r *Reader) Next(ctx context.Context) ([]Frame, error) {
	failures := 0
	for {
		if r.closed.Load() {
			return nil, ErrClosed
		}
		frames, err := r.step(ctx)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == ErrForeign:
			return nil, err
		case err != nil:
			failures++
			r.hub.retries.Add(1)
			if pause(ctx, failures); ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue
		case len(frames) > 0:
			return frames, nil
		}
		failures = 0
	}
}

// step shows what is in hand, or takes more in hand, or waits.
func (r *Reader) step(ctx context.Context) ([]Frame, error) {
	r.frames = r.frames[:0]
	for len(r.queue) > 0 && len(r.frames) < framesAtOnce {
		stop, err := r.show(ctx, r.queue[0])
		if err != nil && len(r.frames) == 0 {
			return nil, err
		}
		if err != nil || stop { // what was shown so far goes first
			break
		}
	}
	if len(r.frames) > 0 || len(r.queue) > 0 {
		return r.frames, nil
	}
	r.queue = nil
	waits, err := r.take(ctx)
	if err != nil || !waits {
		return nil, err
	}
	return r.wait(ctx)
}

// take gets the next items from the ring or from the stream; waits says that there are
// none yet.
func (r *Reader) take(ctx context.Context) (waits bool, err error) {
	f := r.feed
	f.mu.Lock()
	if r.gen != f.gen {
		gen := f.gen
		f.mu.Unlock()
		return false, r.settle(ctx, gen)
	}
	end := f.ring.end
	if r.behind >= f.ring.base && r.behind >= r.replay {
		l := f.ring.line(r.key)
		r.queue = l.from(r.behind, make([]*item, 0, itemsAtOnce), itemsAtOnce, bytesAtOnce)
		if len(r.queue) == 0 {
			r.queue = nil
			r.behind = max(r.behind, end)
			l.wait(r)
		}
		f.mu.Unlock()
		return len(r.queue) == 0, nil
	}
	f.mu.Unlock()
	list, _, err := r.hub.replay(ctx, r.subject, r.behind+1, replayAtOnce, bytesAtOnce)
	if err != nil {
		return false, err
	}
	f.mu.Lock()
	gone := r.gen != f.gen // what was read may be of another stream
	f.mu.Unlock()
	if gone {
		return false, nil
	}
	for n := range list {
		if i, ok := newItem(&list[n]); ok {
			r.queue = append(r.queue, i)
		}
	}
	if len(list) > 0 {
		return false, nil
	}
	// What the tail had brought before was in the stream when it was read, or is gone.
	r.behind, r.replay = max(r.behind, end), 0
	given, err := r.hub.opts.Numbers.Series(ctx, r.filter.AppID, r.filter.ChatID)
	if err == nil {
		r.owe(given)
	}
	return false, err
}

// settle finds the reader's place in a stream whose sequences mean something else now.
// What has a higher number than the store says comes behind the end noted before.
func (r *Reader) settle(ctx context.Context, gen uint64) error {
	r.feed.mu.Lock()
	end := r.feed.ring.end
	r.feed.mu.Unlock()
	given, err := r.hub.opts.Numbers.Series(ctx, r.filter.AppID, r.filter.ChatID)
	if err != nil {
		return err
	}
	to := place{behind: end}
	if r.owe(given); !r.counted { // nothing was shown: what the client had its place tells
		to.behind = 0
	}
	if r.counted && given.Last > r.number {
		if to, err = r.locate(ctx, r.number, given.Last); err != nil {
			return err
		}
	}
	r.gen, r.behind, r.replay = gen, to.behind, 0
	return nil
}

// owe notes up to which number the reader has something to get, or to be told of.
func (r *Reader) owe(given Series) {
	if r.counted && given.Last > r.number {
		r.owed, r.mark = given.Last, given.Mark
	}
}

// wait sleeps until something has come.
func (r *Reader) wait(ctx context.Context) ([]Frame, error) {
	var timer *time.Timer
	var due <-chan time.Time
	if r.owed > r.number {
		timer = time.NewTimer(owedEvery)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-r.wake:
		return nil, nil
	case <-due:
		return r.miss(ctx)
	case <-r.closing:
		return nil, ErrClosed
	case <-r.hub.ended:
		r.closed.Store(true)
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// miss tells that what the reader is owed is gone from the stream, when all of it was
// published.
func (r *Reader) miss(ctx context.Context) ([]Frame, error) {
	relayed, err := r.hub.opts.Numbers.Relayed(ctx, r.filter.AppID, r.mark)
	if err != nil || !relayed {
		return nil, err
	}
	to, err := r.search(ctx, r.number, r.owed, 0)
	if err != nil {
		return nil, err
	}
	if to.known {
		r.behind = min(r.behind, to.behind)
		r.replay = to.behind + 1
		return nil, nil
	}
	given, err := r.hub.opts.Numbers.Series(ctx, r.filter.AppID, r.filter.ChatID)
	if err != nil {
		return nil, err
	}
	r.reset(r.owed+1, r.behind)
	r.owe(given) // what came meanwhile may be gone as well
	return r.frames, nil
}

// reset tells that what follows begins with a number.
func (r *Reader) reset(first, behind uint64) {
	r.hub.resets.Add(1)
	r.number, r.counted = first-1, true
	data := append(strconv.AppendUint([]byte(`{"first_sequence":`), first, 10), '}')
	f := Frame{
		Type: TypeReset, Kind: TypeReset, Data: json.RawMessage(data), AppID: r.filter.AppID, ChatID: r.filter.ChatID,
		Sub: -1, Timestamp: schemas.InstantText(time.Now().UnixNano()), StreamSeq: behind,
	}
	if r.filter.ChatID != "" {
		// Which fact of the app that is nobody knows: who comes back is told again.
		f.Sequence, f.StreamSeq, f.Sub, f.FactSeq = first-1, r.last.StreamSeq, r.last.Sub, r.last.FactSeq
	} else {
		f.FactSeq = first - 1
	}
	r.last = f.Position()
	r.frames = append(r.frames, f)
}

// show adds the frames of an item that the reader has not seen and may see. stop says
// that the item's turn has not come: the reader has to look elsewhere first.
func (r *Reader) show(ctx context.Context, i *item) (stop bool, err error) {
	f, err := i.fact()
	if err != nil {
		r.hub.fault(i)
		r.done(i, nil)
		return false, nil
	}
	first, last := r.numbers(f)
	switch {
	case r.filter.ChatID != "" && first == 0, r.counted && first != 0 && last <= r.number, r.had(f):
		r.done(i, f)
		return false, nil
	case r.at == 0 && r.counted && first > r.number+1:
		if back, err := r.gap(ctx, i, first); back || err != nil {
			return true, err
		}
	}
	wanted, err := r.wants(ctx, f)
	if err != nil {
		return false, err
	}
	if wanted {
		from := max(r.at, r.seen(i, f))
		before := len(r.frames)
		r.frames, r.at = i.frames(f, from, r.frames, framesAtOnce)
		if len(r.frames) > before {
			r.last = r.frames[len(r.frames)-1].Position()
		}
		if r.at < f.parts() {
			return true, nil
		}
	}
	r.done(i, f)
	return false, nil
}

// had tells whether the client had a fact before the reader began, as its place says: also
// when the fact is published again before the reader knows a number.
func (r *Reader) had(f *fact) bool {
	return f.factSeq != 0 && (f.factSeq < r.part.FactSeq || f.factSeq == r.part.FactSeq && r.part.Sub < 0)
}

// seen is how many parts of an item the client has had before the reader began.
func (r *Reader) seen(i *item, f *fact) int {
	same := r.part.StreamSeq == i.seq
	if r.part.FactSeq != 0 {
		same = r.part.FactSeq == f.factSeq
	}
	if same && len(f.deltas) > 0 {
		return r.part.Sub + 1
	}
	if first, _ := r.numbers(f); r.filter.ChatID != "" && r.counted && first != 0 && r.number >= first {
		return int(r.number - first + 1)
	}
	return 0
}

// done passes an item.
func (r *Reader) done(i *item, f *fact) {
	r.queue[0] = nil
	r.queue, r.at = r.queue[1:], 0
	r.behind = max(r.behind, i.seq)
	if f == nil {
		return
	}
	if first, last := r.numbers(f); first != 0 && (!r.counted || last > r.number) {
		r.number, r.counted, r.gaps = last, true, 0
		if r.filter.ChatID != "" {
			r.hub.index.note(r.gen, r.key, first, i.seq)
		}
	}
	r.last = Position{StreamSeq: i.seq, Sub: -1, FactSeq: f.factSeq}
}

// gap looks for what is missing before an item; elsewhere says that it was found, or may
// come. If not, the reader is told that it is gone.
func (r *Reader) gap(ctx context.Context, i *item, first uint64) (elsewhere bool, err error) {
	given, err := r.hub.opts.Numbers.Series(ctx, r.filter.AppID, r.filter.ChatID)
	if err != nil {
		return false, err
	}
	relayed, err := r.hub.opts.Numbers.Relayed(ctx, r.filter.AppID, given.Mark)
	if err != nil {
		return false, err
	}
	to, err := r.search(ctx, r.number, given.Last, 0)
	switch {
	case err != nil:
		return false, err
	case !to.known && !relayed: // the stream was made anew, and is not published again yet
		return false, ErrUnavailable
	case !to.known || r.gaps >= gapTries:
		r.reset(first, i.seq-1)
		return false, nil
	}
	if r.gaps++; to.first > r.number+1 {
		r.reset(to.first, to.behind)
	}
	r.queue, r.at = nil, 0
	r.behind, r.replay = to.behind, to.behind+1
	return true, nil
}

// wants reports whether a fact is of the reader's filter.
func (r *Reader) wants(ctx context.Context, f *fact) (bool, error) {
	if r.filter.RunID != "" && f.run != r.filter.RunID || !ofKinds(r.filter.Kinds, f.kind) {
		return false, nil
	}
	if r.filter.UserID == "" || r.owner {
		return true, nil
	}
	if f.chat == "" {
		return false, nil
	}
	owner, err := r.hub.owner(ctx, f.app, f.chat, f.last())
	if err != nil {
		return false, err
	}
	mine := owner == r.filter.UserID
	if r.filter.ChatID != "" {
		if !mine {
			return false, ErrForeign
		}
		r.owner = true
	}
	return mine, nil
}

// ofKinds matches a kind, or its type on the live streams, with any of a list of them or
// of what they begin with.
func ofKinds(list []string, kind string) bool {
	of := func(want, name string) bool {
		return name == want || strings.HasPrefix(name, want) && name[len(want)] == '.'
	}
	return len(list) == 0 || slices.ContainsFunc(list, func(want string) bool {
		return of(want, kind) || of(want, typeOf(kind))
	})
}

// Position is behind what Next gave last, and behind what was not of the filter: an idle
// client that is told it resumes from there.
func (r *Reader) Position() Position { return r.last }

// Close gives up the reader.
func (r *Reader) Close() {
	if r.closed.Swap(true) {
		return
	}
	close(r.closing)
	r.feed.leave(r)
	r.hub.readers.Add(-1)
}
