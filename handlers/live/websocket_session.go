package live

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"grout/schemas"
)

// socket is one that is open. One goroutine sends and one reads.
type socket struct {
	Socket
	t    *Transports
	conn net.Conn
	ws   *websocket.Conn

	cursor cursor        // of the goroutine that sends
	swap   chan cursor   // the one that takes its place
	last   atomic.Uint64 // number that was sent last

	out  sync.Mutex // held while a frame is written
	busy atomic.Bool

	mu     sync.Mutex
	ending bool
	wake   context.CancelFunc // ends the wait for frames
}

func newSocket(t *Transports, s Socket, conn net.Conn, ws *websocket.Conn, c cursor) *socket {
	return &socket{Socket: s, t: t, conn: conn, ws: ws, cursor: c, swap: make(chan cursor, 1), wake: func() {}}
}

// ending is why a socket is closed.
type ending struct {
	code   websocket.StatusCode
	reason string
}

func (e *ending) Error() string { return e.reason }

var (
	errExpired = &ending{closeUnauthorized, "The token has expired"}
	errChatter = &ending{closeChatter, "Too many frames"}
	errBinary  = &ending{websocket.StatusUnsupportedData, "Only frames of text are read here"}
	errTooBig  = &ending{websocket.StatusMessageTooBig, "A frame may have 64 KiB"}
	errGone    = errors.New("the client is gone")
)

func (s *socket) run() {
	ctx, cancel := context.WithCancelCause(s.t.ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, s.hurry)()
	if !s.Expires.IsZero() {
		defer time.AfterFunc(s.Expires.Sub(s.t.Now()), func() { cancel(errExpired) }).Stop()
	}
	defer s.pinging(cancel)()
	var reader sync.WaitGroup
	reader.Go(func() { cancel(s.contained(ctx, s.read)) })
	cancel(s.contained(ctx, s.send))
	s.close(context.Cause(ctx))
	reader.Wait()
	s.cursor.Close()
	select {
	case c := <-s.swap:
		c.Close()
	default:
	}
}

// contained keeps a fault of one socket from the others.
func (s *socket) contained(ctx context.Context, work func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	return work(ctx)
}

// hurry bounds what is under way once the socket is to end.
func (s *socket) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ending = true
	_ = s.conn.SetWriteDeadline(time.Now().Add(closeLimit))
}

// limit bounds the next write; zero: what follows is not bounded.
func (s *socket) limit(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return
	}
	at := time.Time{}
	if d > 0 {
		at = time.Now().Add(d)
	}
	_ = s.conn.SetWriteDeadline(at)
}

// close says why, and waits a little for the other side.
func (s *socket) close(why error) {
	end := &ending{websocket.StatusInternalError, "Internal server error"}
	switch {
	case errors.As(why, &end):
	case errors.Is(why, errGone):
		_ = s.ws.CloseNow()
		return
	case errors.Is(why, ErrForeign):
		end = &ending{closeForbidden, "The chat is not yours"}
	case s.t.ctx.Err() != nil || errors.Is(why, ErrClosed):
		end = &ending{closeRestart, "The server is stopping: come back"}
	default:
		s.t.Logger.Error("a socket ends", "error", why)
	}
	_ = s.conn.SetDeadline(time.Now().Add(closeLimit))
	_ = s.ws.Close(end.code, end.reason)
}

// pinging sends a ping now and then; who does not answer is gone.
func (s *socket) pinging(cancel context.CancelCauseFunc) (stop func()) {
	ctx, end := context.WithCancel(context.Background())
	var timer *time.Timer
	made := make(chan struct{})
	timer = time.AfterFunc(s.t.Heartbeat, func() {
		<-made
		ping, done := context.WithTimeout(ctx, pongLimit)
		defer done()
		err := s.ws.Ping(ping)
		switch {
		case ctx.Err() != nil:
		case err != nil && !s.busy.Load(): // while something is written, the limit for that holds
			cancel(errGone)
		default:
			timer.Reset(s.t.Heartbeat)
		}
	})
	close(made)
	return func() {
		end()
		timer.Stop()
	}
}

// send sends what there is to see, in its order, until ctx ends.
func (s *socket) send(ctx context.Context) error {
	var b []byte
	for {
		wait, wake := context.WithCancel(ctx)
		s.mu.Lock()
		s.wake = wake
		s.mu.Unlock()
		if s.swapped() {
			wake()
			continue
		}
		frames, err := s.t.next(wait, s.cursor)
		woken := wait.Err() != nil && ctx.Err() == nil
		wake()
		switch {
		case s.swapped(), err != nil && woken: // what was read here follows there
			continue
		case err != nil:
			return err
		}
		for i := range frames {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if b, err = s.show(b[:0], &frames[i]); err != nil {
				return err
			}
		}
		if cap(b) > maxKept {
			b = nil
		}
	}
}

// maxKept is how large a buffer may be that a client keeps between frames.
const maxKept = 16 << 10

// swapped goes on with a reader that has begun elsewhere.
func (s *socket) swapped() bool {
	select {
	case c := <-s.swap:
		s.cursor.Close()
		s.cursor = c
		return true
	default:
		return false
	}
}

// show sends a frame, and its mirror behind it.
func (s *socket) show(b []byte, f *Frame) ([]byte, error) {
	if f.Sequence > 0 {
		s.last.Store(f.Sequence)
	}
	b = appendEnvelope(b, f)
	if err := s.write(b); err != nil || !s.t.AGUI {
		return b, err
	}
	kind, b := mirror(b[:0], f)
	if kind == "" {
		return b, nil
	}
	return b, s.write(b)
}

// write sends a frame. Who takes nothing for a while is told when that is over, and who takes
// nothing for too long is cut off: where it has come to, it knows.
func (s *socket) write(b []byte) error {
	s.out.Lock()
	defer s.out.Unlock()
	s.busy.Store(true)
	defer s.busy.Store(false)
	begin := time.Now()
	err := s.put(b)
	if waited := time.Since(begin); err == nil && waited >= s.t.SlowAfter {
		s.t.slow.Add(1)
		err = s.put(slowFrame(s.Chat, s.last.Load(), s.t.Now(), waited))
	}
	return err
}

func (s *socket) put(b []byte) error {
	s.limit(s.t.WriteLimit)
	err := s.ws.Write(context.Background(), websocket.MessageText, b)
	s.limit(0)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.t.cutOff.Add(1)
		}
		return errGone
	}
	s.t.frames.Add(1)
	return nil
}

// read heeds what the client sends until it is gone.
func (s *socket) read(ctx context.Context) error {
	frames := allowance{}
	for {
		kind, text, err := s.ws.Read(context.Background())
		switch {
		case errors.Is(err, websocket.ErrMessageTooBig):
			s.t.badClients.Add(1)
			return errTooBig
		case err != nil:
			return errGone
		case !frames.take(time.Now()):
			s.t.badClients.Add(1)
			return errChatter
		case kind != websocket.MessageText:
			s.t.badClients.Add(1)
			return errBinary
		}
		fault, err := s.heed(ctx, text)
		if fault != nil {
			s.t.badClients.Add(1)
			err = s.write(errorFrame(s.Chat, s.last.Load(), s.t.Now(), fault))
		}
		if err != nil {
			return err
		}
	}
}

// heed begins anew where the client says that it has come to.
func (s *socket) heed(ctx context.Context, frame []byte) (fault *schemas.Error, err error) {
	last, fault := schemas.ParseLiveResume(frame)
	if fault != nil {
		return fault, nil
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	c, err := s.t.open(ctx, s.filter(), From{Number: &last})
	switch {
	case errors.Is(err, ErrForeign):
		return nil, err
	case errors.Is(err, ErrAhead):
		return schemas.Errorf(schemas.CodeSequenceAhead, "last_sequence is beyond the chat's last number"), nil
	case err != nil:
		return errAway, nil
	}
	select {
	case old := <-s.swap: // it was not begun with
		old.Close()
	default:
	}
	s.swap <- c
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()
	return nil, nil
}

// allowance bounds how often somebody may do something: so often at once, and so often a
// second.
type allowance struct {
	used float64
	at   time.Time
}

func (a *allowance) take(now time.Time) bool {
	const burst, second = 60, 5
	a.used = max(a.used-now.Sub(a.at).Seconds()*second, 0)
	a.at = now
	if a.used+1 > burst {
		return false
	}
	a.used++
	return true
}
