package live

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"grout/schemas"
)

// Options of a hub. Zero values take the defaults.
type Options struct {
	Source  Source
	Numbers Numbers
	Logger  *slog.Logger

	RingBytes  int           // of what a feed keeps of the stream's end: 32 MiB
	MaxReaders int           // 20,000
	Replays    int           // reads of the stream at once: 8
	Linger     time.Duration // a feed that nobody reads goes on for so long: 30 s
}

func (o *Options) defaults() {
	o.RingBytes = cmp.Or(o.RingBytes, 32<<20)
	o.MaxReaders = cmp.Or(o.MaxReaders, 20_000)
	o.Replays = cmp.Or(o.Replays, 8)
	o.Linger = cmp.Or(o.Linger, 30*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// Hub reads the stream once for all who watch it. It has two feeds, so that who watches
// chats does not make it read what is recorded of usage.
type Hub struct {
	opts   Options
	chats  *feed
	facts  *feed
	index  index
	owners owners
	turns  chan struct{}
	ended  chan struct{}

	readers                                              atomic.Int64
	replays, replayed, searches, resets, retries, faults atomic.Int64
}

// New makes a hub; Run runs it. Open waits for that.
func New(opts Options) *Hub {
	opts.defaults()
	h := &Hub{opts: opts, turns: make(chan struct{}, opts.Replays), ended: make(chan struct{})}
	h.chats = newFeed(h, "chats", schemas.SubjectsChatFacts, func(i *item) string { return i.app + "." + i.of })
	h.facts = newFeed(h, "facts", schemas.SubjectsFacts, func(i *item) string { return i.app })
	return h
}

// Run works until ctx ends, once. It survives whatever happens to the stream.
func (h *Hub) Run(ctx context.Context) error {
	defer close(h.ended)
	var feeds sync.WaitGroup
	for _, f := range []*feed{h.chats, h.facts} {
		feeds.Go(func() { f.run(ctx) })
	}
	feeds.Wait()
	return nil
}

// fault tells of a message that is no fact of grout's.
func (h *Hub) fault(i *item) {
	if h.faults.Add(1) <= 10 {
		h.opts.Logger.Error("a message of the stream of facts cannot be read and is not shown", "sequence", i.seq, "subject", i.subject, "error", i.err)
	}
}

// Stats say what the hub does and has done since the start.
type Stats struct {
	Readers  int64
	Replays  int64 // reads of the stream for readers that were behind
	Replayed int64 // messages that they brought
	Reading  int   // of them at work
	Searches int64 // for the place of a number
	Resets   int64
	Retries  int64 // of readers that the stream or the store did not answer
	Faults   int64 // messages that could not be read
	Feeds    []FeedStats
}

// FeedStats are those of a feed.
type FeedStats struct {
	Name      string
	Up        bool
	Readers   int
	Items     int
	Bytes     int
	Delivered int64
	Restarts  int64
	Lag       time.Duration // from the stream to the ring, of the newest facts
}

// Stats tells.
func (h *Hub) Stats() Stats {
	s := Stats{
		Readers: h.readers.Load(), Replays: h.replays.Load(), Replayed: h.replayed.Load(), Reading: len(h.turns), Searches: h.searches.Load(),
		Resets: h.resets.Load(), Retries: h.retries.Load(), Faults: h.faults.Load(),
	}
	for _, f := range []*feed{h.chats, h.facts} {
		f.mu.Lock()
		s.Feeds = append(s.Feeds, FeedStats{
			Name: f.name, Up: f.up, Readers: f.readers, Items: len(f.ring.items) - f.ring.head, Bytes: f.ring.bytes,
			Delivered: f.delivered.Load(), Restarts: f.restarts.Load(), Lag: time.Duration(f.behind.Load()),
		})
		f.mu.Unlock()
	}
	return s
}

// maxOwners bounds the owners of chats that are remembered.
const maxOwners = 50_000

// owners remembers whose chats are; a chat's owner never changes.
type owners struct {
	mu    sync.Mutex
	chats map[[2]string]string
}

// ownerTries is how often the store is asked about a chat that it does not know yet.
const ownerTries = 6

// owner gives whose a chat is that has come to a number; empty: nobody's. A fact may be
// here before the store shows what it was committed with, so one that is not as far is
// asked again.
func (h *Hub) owner(ctx context.Context, app, chat string, number uint64) (string, error) {
	key := [2]string{app, chat}
	h.owners.mu.Lock()
	owner, known := h.owners.chats[key]
	h.owners.mu.Unlock()
	if known {
		return owner, nil
	}
	s, err := h.opts.Numbers.Series(ctx, app, chat)
	for try := 1; err == nil && s.Owner == "" && s.Last < number && try < ownerTries; try++ {
		if pause(ctx, try); ctx.Err() != nil {
			return "", ctx.Err()
		}
		s, err = h.opts.Numbers.Series(ctx, app, chat)
	}
	if err != nil || s.Owner == "" {
		return "", err
	}
	h.owners.mu.Lock()
	defer h.owners.mu.Unlock()
	if h.owners.chats == nil || len(h.owners.chats) >= maxOwners {
		h.owners.chats = map[[2]string]string{}
	}
	h.owners.chats[key] = s.Owner
	return s.Owner, nil
}
