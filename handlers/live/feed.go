package live

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// feed is a tail of the stream and the ring that it fills. It works while it has
// readers, and a while longer.
type feed struct {
	hub     *Hub
	name    string
	subject string
	keyOf   func(*item) string

	mu      sync.Mutex
	ring    *ring
	created int64
	gen     uint64 // raised when sequences do not mean what they meant
	up      bool   // ring and sequences can be relied on
	ready   chan struct{}
	readers int
	last    *item // delivered last: tells whether the stream is still the one that was read
	rest    *time.Timer
	asleep  context.CancelFunc
	wanted  chan struct{}

	delivered atomic.Int64
	restarts  atomic.Int64
	behind    atomic.Int64 // nanoseconds that the newest item took from the stream to here
}

func newFeed(h *Hub, name, subject string, keyOf func(*item) string) *feed {
	return &feed{
		hub: h, name: name, subject: subject, keyOf: keyOf, ring: newRing(h.opts.RingBytes),
		ready: make(chan struct{}), wanted: make(chan struct{}, 1),
	}
}

// run tails the stream whenever somebody reads, until ctx ends.
func (f *feed) run(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		if !f.demanded() {
			f.sleep()
			select {
			case <-f.wanted:
			case <-ctx.Done():
				return
			}
			continue
		}
		on, cancel := context.WithCancel(ctx)
		f.mu.Lock()
		f.asleep = cancel
		f.mu.Unlock()
		worked, err := f.follow(on)
		stopped := on.Err() != nil
		cancel()
		if worked {
			failures = 0
		}
		if stopped {
			continue
		}
		f.restarts.Add(1)
		if failures++; failures == 1 && !errors.Is(err, ErrUnavailable) {
			f.hub.opts.Logger.Warn("the live streams follow the facts anew", "feed", f.name, "error", err)
		}
		pause(ctx, failures)
	}
}

// pause waits before another try: 50 ms, doubled up to 2 s, half of it at random.
func pause(ctx context.Context, failures int) {
	wait := min(50*time.Millisecond<<min(failures-1, 10), 2*time.Second)
	t := time.NewTimer(wait/2 + rand.N(wait/2+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// follow tails the stream until that fails; worked says that it brought something.
func (f *feed) follow(ctx context.Context) (worked bool, err error) {
	after, err := f.begin(ctx)
	if err != nil {
		return false, err
	}
	tail, err := f.hub.opts.Source.Tail(ctx, f.subject, after)
	if err != nil {
		return false, err
	}
	defer tail.Close()
	if err := f.check(ctx, after); err != nil {
		return false, err
	}
	f.mu.Lock()
	if !f.up {
		f.up = true
		close(f.ready)
	}
	f.mu.Unlock()
	for {
		list, err := tail.Next(ctx)
		if len(list) > 0 {
			worked = true
			items := make([]*item, 0, len(list))
			for n := range list {
				i, ok := newItem(&list[n])
				if !ok {
					f.hub.fault(i)
					continue
				}
				items = append(items, i)
			}
			f.add(items)
			f.behind.Store(int64(time.Since(list[len(list)-1].Time)))
		}
		if err != nil {
			return worked, err
		}
	}
}

// begin finds where the tail begins: behind what is in the ring, when the stream shows
// that it is still the one that it came from, else at the stream's end.
func (f *feed) begin(ctx context.Context) (after uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	st, err := f.hub.opts.Source.State(ctx)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	up, created, end, last := f.up, f.created, f.ring.end, f.last
	f.mu.Unlock()
	same := up && created == st.Created && end <= st.Last && last != nil && st.First <= last.seq
	if same {
		if same, err = f.holds(ctx, last); err != nil {
			return 0, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if same {
		return end, nil
	}
	if up {
		f.gen++
		f.hub.opts.Logger.Info("the stream of facts may not be the one that was read before; readers look for their places in it", "feed", f.name, "ended", end, "ends", st.Last)
	}
	f.created, f.last = st.Created, nil
	f.ring.clear(st.Last)
	for _, l := range f.ring.lines {
		l.wakeAll()
	}
	return st.Last, nil
}

// check looks whether the stream is still the one that begin has seen, now that the tail
// would end with it.
func (f *feed) check(ctx context.Context, after uint64) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	st, err := f.hub.opts.Source.State(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && (st.Created != f.created || st.Last < after) {
		err = errors.New("the stream was made anew")
	}
	return err
}

// holds reports whether the stream has a message where it came from.
func (f *feed) holds(ctx context.Context, i *item) (bool, error) {
	list, _, err := f.hub.opts.Source.Replay(ctx, i.subject, i.seq, 1, 1)
	if err != nil {
		return false, err
	}
	return len(list) == 1 && list[0].Seq == i.seq && bytes.Equal(list[0].Data, i.data), nil
}

func (f *feed) add(items []*item) {
	if len(items) == 0 {
		return
	}
	f.delivered.Add(int64(len(items)))
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, i := range items {
		l := f.ring.add(f.keyOf(i), i)
		l.wakeAll()
	}
	f.last = items[len(items)-1]
	f.ring.shrink(f.keyOf)
}

// join counts a reader and gives its line.
func (f *feed) join(r *Reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rest != nil {
		f.rest.Stop()
		f.rest = nil
	}
	if f.readers++; f.readers == 1 {
		select {
		case f.wanted <- struct{}{}:
		default:
		}
	}
	f.ring.line(r.key).readers++
}

func (f *feed) leave(r *Reader) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.ring.line(r.key)
	l.forget(r)
	if l.readers--; l.readers == 0 && l.head == len(l.items) {
		delete(f.ring.lines, r.key)
	}
	if f.readers--; f.readers == 0 {
		f.rest = time.AfterFunc(f.hub.opts.Linger, f.endIfIdle)
	}
}

func (f *feed) endIfIdle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == 0 && f.asleep != nil {
		f.asleep()
	}
}

func (f *feed) demanded() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.readers > 0
}

// sleep gives up the ring.
func (f *feed) sleep() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers > 0 || !f.up {
		return
	}
	f.up, f.ready, f.last = false, make(chan struct{}), nil
	f.ring.clear(0)
}

// await waits until the feed knows the stream.
func (f *feed) await(ctx context.Context) error {
	f.mu.Lock()
	ready := f.ready
	f.mu.Unlock()
	select {
	case <-ready:
		select {
		case <-f.hub.ended:
			return ErrClosed
		default:
		}
		return nil
	case <-f.hub.ended:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
