package live

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"grout/schemas"
)

// Stream is a stream of Server-Sent Events as it was asked for; whoever asked was judged.
type Stream struct {
	App, Chat, Run string   // empty: any
	Kinds          []string // none: any
	User           string   // whose chats are seen; empty: everybody's
	Head           bool     // headers alone
	After          string   // id of the last event that was seen; empty: what happens from now on
	Expires        time.Time
}

// Stream sends events until the caller is gone or may see no more. With an error, nothing
// was sent.
func (t *Transports) Stream(w http.ResponseWriter, r *http.Request, s Stream) error {
	from := From{}
	if s.After != "" {
		at, err := ParsePosition(s.After)
		if err != nil {
			msg := "The id of the last event is not one that was sent here"
			return &schemas.Error{Code: schemas.CodeValidation, Detail: msg, Fields: []schemas.FieldError{{Loc: []any{"query", "last_event_id"}, Msg: msg, Type: "value_error"}}}
		}
		from.Position = &at
	}
	leave, err := t.enter(s.User)
	if err != nil {
		return err
	}
	defer leave()
	c, err := t.openFor(r, Filter{AppID: s.App, ChatID: s.Chat, RunID: s.Run, Kinds: s.Kinds, UserID: s.User}, from)
	switch {
	case errors.Is(err, ErrForeign):
		return errNoChat
	case errors.Is(err, ErrAhead):
		msg := "The id of the last event lies in the future"
		return &schemas.Error{Code: schemas.CodeValidation, Detail: msg, Fields: []schemas.FieldError{{Loc: []any{"query", "last_event_id"}, Msg: msg, Type: "value_error"}}}
	case err != nil:
		return unavailable(err)
	}
	defer c.Close()
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // of proxies that would wait for the end
	if s.Head {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	t.streams.Add(1)
	defer t.streams.Add(-1)
	out := &events{t: t, w: w, control: http.NewResponseController(w)}
	_ = out.control.SetReadDeadline(time.Time{}) // the limit of the server is for a request, which this one is at its end
	w.WriteHeader(http.StatusOK)
	out.follow(r, c, s.Expires)
	return nil
}

// events is a stream that has begun.
type events struct {
	t       *Transports
	w       http.ResponseWriter
	control *http.ResponseController

	mu    sync.Mutex // held while something is written
	ended bool
}

// comeBack is how long clients are told to wait before they come back, spread so that they
// do not all come at once.
func comeBack() []byte {
	return append(strconv.AppendInt([]byte("retry: "), 1000+rand.Int64N(2000), 10), "\n\n"...)
}

func (e *events) follow(r *http.Request, c cursor, expires time.Time) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(e.t.ctx, func() { cancel(errStopping) })()
	if !expires.IsZero() {
		defer time.AfterFunc(expires.Sub(e.t.Now()), func() { cancel(errExpired) }).Stop()
	}
	defer e.beating(cancel)()
	begin := comeBack()
	if at, ok := c.(interface{ Position() Position }); ok { // who is cut off before the first event goes on from here
		begin = append(append(append(begin, "id: "...), at.Position().String()...), "\n\n"...)
	}
	if e.send(begin) != nil {
		return
	}
	for {
		frames, err := e.t.next(ctx, c)
		if err == nil {
			err = e.show(ctx, frames)
		}
		if err == nil {
			continue
		}
		switch why := context.Cause(ctx); {
		case errors.Is(why, errStopping), errors.Is(err, ErrClosed):
			_ = e.send(append([]byte(": the server is stopping: come back\n"), comeBack()...))
		case errors.Is(why, errExpired):
			_ = e.send([]byte(": the token has expired\n\n"))
		case errors.Is(err, ErrForeign):
			_ = e.send([]byte(": the chat is somebody else's\n\n"))
		case why == nil && !errors.Is(err, errGone):
			e.t.Logger.Error("a stream of events ends", "error", err)
		}
		return
	}
}

// pieces is how much of what is there is written at once.
const pieces = 32 << 10

// show sends frames, each with its mirror behind it.
func (e *events) show(ctx context.Context, frames []Frame) error {
	b := make([]byte, 0, 2<<10)
	for i := range frames {
		f := &frames[i]
		id := f.Position().String()
		b = appendEvent(b, id, f.Type, appendEnvelope(nil, f))
		n := int64(1)
		if e.t.AGUI {
			if kind, text := mirror(nil, f); kind != "" {
				b = appendEvent(b, id, kind, text)
				n++
			}
		}
		e.t.frames.Add(n)
		if len(b) < pieces && i < len(frames)-1 {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := e.send(b); err != nil {
			return err
		}
		b = b[:0]
	}
	return nil
}

// appendEvent adds an event. JSON may have line breaks between its tokens, which this format
// has no place for inside of a line.
func appendEvent(b []byte, id, kind string, data []byte) []byte {
	b = append(append(append(b, "id: "...), id...), "\nevent: "...)
	b = append(append(b, kind...), '\n')
	for line := range bytes.FieldsFuncSeq(data, func(r rune) bool { return r == '\n' || r == '\r' }) {
		b = append(append(append(b, "data: "...), line...), '\n')
	}
	return append(b, '\n')
}

// send writes, as long as the other side takes something now and then.
func (e *events) send(b []byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	begin := time.Now()
	if err := e.put(b); err != nil {
		return err
	}
	if waited := time.Since(begin); waited >= e.t.SlowAfter {
		e.t.slow.Add(1)
		return e.put(fmt.Appendf(nil, ": slow: nothing could be sent for %d ms, and nothing was left out\n\n", waited.Milliseconds()))
	}
	return nil
}

func (e *events) put(b []byte) error {
	if e.ended {
		return errGone
	}
	_ = e.control.SetWriteDeadline(time.Now().Add(e.t.WriteLimit))
	_, err := e.w.Write(b)
	if err == nil {
		err = e.control.Flush()
	}
	if err != nil {
		e.ended = true
		if isTimeout(err) {
			e.t.cutOff.Add(1)
		}
		return errGone
	}
	return nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// beating sends a comment now and then, so that nobody on the way takes the connection for
// dead, and who is gone is noticed.
func (e *events) beating(cancel context.CancelCauseFunc) (stop func()) {
	var timer *time.Timer
	made := make(chan struct{})
	timer = time.AfterFunc(e.t.Heartbeat, func() {
		<-made
		if e.mu.TryLock() { // else something is being sent
			err := e.put([]byte(":\n\n"))
			e.mu.Unlock()
			if err != nil {
				cancel(errGone)
				return
			}
		}
		timer.Reset(e.t.Heartbeat)
	})
	close(made)
	return func() {
		timer.Stop()
		e.mu.Lock() // what is written here ends before the answer does
		defer e.mu.Unlock()
		e.ended = true
	}
}
