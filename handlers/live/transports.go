package live

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"grout/schemas"
)

// TransportOptions of the ways in which people watch. Zero values take the defaults in
// brackets.
type TransportOptions struct {
	AGUI                   bool // mirrors are sent
	MaxClients, MaxPerUser int  // sockets and streams [10,000], of one user [100]

	Heartbeat  time.Duration // between signs of life of a stream and of a socket [15 s]
	WriteLimit time.Duration // who takes nothing for so long is cut off [30 s]
	SlowAfter  time.Duration // who takes nothing for so long is told [5 s]
	Logger     *slog.Logger
	Now        func() time.Time // [time.Now]
}

func (o *TransportOptions) defaults() {
	o.MaxClients, o.MaxPerUser = cmp.Or(o.MaxClients, 10_000), cmp.Or(o.MaxPerUser, 100)
	o.Heartbeat, o.WriteLimit, o.SlowAfter = cmp.Or(o.Heartbeat, 15*time.Second), cmp.Or(o.WriteLimit, 30*time.Second), cmp.Or(o.SlowAfter, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
}

// cursor is a reader, of one client.
type cursor interface {
	Next(ctx context.Context) ([]Frame, error)
	Close()
}

// Transports are the sockets and streams of a process. They outlive whatever the readers
// behind them read from.
type Transports struct {
	TransportOptions
	open func(ctx context.Context, f Filter, from From) (cursor, error)

	ctx      context.Context // of all of them; ends at Stop
	cancel   context.CancelFunc
	sessions sync.WaitGroup
	farewell chan struct{} // one token for each refused socket whose end is waited for

	mu      sync.Mutex
	clients int
	users   map[string]int

	sockets, streams                          atomic.Int64
	frames, slow, cutOff, refused, badClients atomic.Int64
}

// farewells is how many refused sockets may be waited for: others are closed behind the word
// that says why.
const farewells = 64

// NewTransports makes what shows the items of a hub.
func NewTransports(hub *Hub, o TransportOptions) *Transports {
	return newTransports(func(ctx context.Context, f Filter, from From) (cursor, error) {
		r, err := hub.Open(ctx, f, from)
		if err != nil {
			return nil, err
		}
		return r, nil
	}, o)
}

func newTransports(open func(context.Context, Filter, From) (cursor, error), o TransportOptions) *Transports {
	o.defaults()
	t := &Transports{TransportOptions: o, open: open, users: map[string]int{}, farewell: make(chan struct{}, farewells)}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// Stop tells all clients to come back, and waits until they have gone or ctx ends.
func (t *Transports) Stop(ctx context.Context) {
	t.mu.Lock()
	t.cancel()
	t.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		t.sessions.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
}

// LiveStats are what metrics tell.
type LiveStats struct {
	Sockets, Streams                   int64 // open now
	Frames, Slow, CutOff, Refused, Bad int64 // since the start
}

// Stats tells what was done since the start.
func (t *Transports) Stats() LiveStats {
	return LiveStats{
		Sockets: t.sockets.Load(), Streams: t.streams.Load(), Frames: t.frames.Load(),
		Slow: t.slow.Load(), CutOff: t.cutOff.Load(), Refused: t.refused.Load(), Bad: t.badClients.Load(),
	}
}

var (
	errStopping = schemas.Errorf(schemas.CodeUnavailable, "The server is shutting down")
	errCrowded  = schemas.Errorf(schemas.CodeUnavailable, "Too many live streams are open; try again")
	errGreedy   = schemas.Errorf(schemas.CodeRateLimited, "Too many live streams of this user are open")
	errAway     = schemas.Errorf(schemas.CodeUnavailable, "The stream of facts is not available; try again")
	errNoChat   = schemas.Errorf(schemas.CodeNotFound, "The app has no chat with this id")
)

// enter counts a client in; leave counts it out. Who does not come in is told.
func (t *Transports) enter(user string) (leave func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ctx.Err() != nil:
		return nil, errStopping
	case t.clients >= t.MaxClients:
		t.refused.Add(1)
		return nil, errCrowded
	case user != "" && t.users[user] >= t.MaxPerUser:
		t.refused.Add(1)
		return nil, errGreedy
	}
	t.clients++
	t.sessions.Add(1)
	if user != "" {
		t.users[user]++
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.clients--
		if user != "" {
			if t.users[user]--; t.users[user] <= 0 {
				delete(t.users, user)
			}
		}
		t.sessions.Done()
	}, nil
}

// again is how long it is waited before a stream that is not available is asked again.
const again = 250 * time.Millisecond

// next gives the frames that follow, and waits while there is nothing that could give any: a
// node that is built anew is no reason to send people away.
func (t *Transports) next(ctx context.Context, c cursor) ([]Frame, error) {
	for {
		frames, err := c.Next(ctx)
		if err == nil || !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			return frames, err
		}
		wait := time.NewTimer(again)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, ctx.Err()
		}
	}
}

// openLimit is how long somebody waits for the place where to begin. When all come back at
// once they wait for each other, and who gave up early would only wait again.
const openLimit = 30 * time.Second

// openFor opens a reader within the time that a request may take.
func (t *Transports) openFor(r *http.Request, f Filter, from From) (cursor, error) {
	ctx, cancel := context.WithTimeout(r.Context(), openLimit)
	defer cancel()
	return t.open(ctx, f, from)
}

// unavailable is what a caller is told when a reader could not be opened.
func unavailable(err error) error {
	var known *schemas.Error
	switch {
	case errors.Is(err, ErrBusy):
		return errCrowded
	case errors.As(err, &known):
		return err
	}
	return errors.Join(errAway, err)
}
