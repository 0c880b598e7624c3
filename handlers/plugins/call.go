package plugins

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"grout/schemas"
)

// Call is what a plugin is called with.
type Call struct {
	RunID string
	Input []byte // JSON object, what grout adds included
	// Publish takes what the plugin publishes while it runs; nil: nothing. Its error is
	// told to the plugin.
	Publish func(name string, data []byte) error
	// Secret is text of the input that must go nowhere else, the caller's token: where the
	// plugin writes it into its answer, its log or what it publishes, it is replaced.
	Secret string
}

// publish passes on what the plugin publishes.
func (c *Call) publish(name string, data []byte) error {
	if c.Publish == nil {
		return errors.New("nothing can be published here")
	}
	return c.Publish(hideText(name, c.Secret), hide(data, c.Secret))
}

// Answer is what came of a call. It succeeded when Code is empty.
type Answer struct {
	Result []byte // JSON text as the plugin wrote it, without _usage
	Usage  []byte // the raw value of _usage; nil when there was none
	Code   schemas.Code
	Detail string
	Took   time.Duration
}

// inputRoom is what grout may add to the input of a client.
const inputRoom = 1 << 20

// Why a call is ended before the plugin has answered.
var (
	errTimedOut  = errors.New("the call took longer than it may")
	errCancelled = errors.New("the run was cancelled")
)

// Ticket is a worker that waits for one call.
type Ticket struct {
	gen *generation

	mu     sync.Mutex
	worker worker
	state  ticketState
	left   bool
}

type ticketState int

const (
	ticketFresh ticketState = iota
	ticketCalling
	ticketUsed
)

// Info tells which version of the plugin the ticket is for.
func (t *Ticket) Info() Info { return t.gen.plugin.infoOf(t.gen.plugin.dir) }

// begin reports whether the ticket is still good for a call.
func (t *Ticket) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != ticketFresh || t.left {
		return false
	}
	t.state = ticketCalling
	return true
}

// end gives the worker back when the ticket was left during the call.
func (t *Ticket) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = ticketUsed
	if t.left {
		t.gen.leave(t.worker)
	}
}

// Leave gives the worker back, after the call when there is one. It may be called more
// than once.
func (t *Ticket) Leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.left {
		return
	}
	t.left = true
	if t.state != ticketCalling {
		t.gen.leave(t.worker)
	}
}

// Call calls the plugin. It ends by the plugin's time limit, or soon after ctx does, and
// so does everything that the call started. A ticket is good for one call.
func (t *Ticket) Call(ctx context.Context, c Call) Answer {
	t.gen.plugin.log.hide(c.Secret)
	a := t.call(ctx, &c)
	a.Result, a.Usage, a.Detail = hide(a.Result, c.Secret), hide(a.Usage, c.Secret), hideText(a.Detail, c.Secret)
	return a
}

func (t *Ticket) call(ctx context.Context, c *Call) Answer {
	began := time.Now()
	p := t.gen.plugin
	if !t.begin() {
		return failed(errors.New("a ticket is good for one call"), "", began)
	}
	defer t.end()
	if most := p.Limits.MaxInputBytes + inputRoom; int64(len(c.Input)) > most {
		return failed(fmt.Errorf("the input has %d bytes, at most %d are taken", len(c.Input), most), "", began)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(t.gen.pool.host.context(), func() { cancel(errStopped) })
	defer stop()
	timer := time.AfterFunc(p.Limits.Timeout, func() { cancel(errTimedOut) })
	defer timer.Stop()
	w, err := t.ready(ctx)
	if err != nil {
		return p.ended(ctx, reply{fault: err}, began)
	}
	r := w.call(ctx, c).without(c.Secret)
	t.gen.called(ctx, w, &r)
	return p.ended(ctx, r, began)
}

// ready gives the worker, or another one when it has ended while it waited.
func (t *Ticket) ready(ctx context.Context) (worker, error) {
	t.mu.Lock()
	w := t.worker
	t.mu.Unlock()
	select {
	case <-w.gone():
	default:
		return w, nil
	}
	next, err := t.gen.replace(ctx, w)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.worker = next
	return next, nil
}

// ended makes the answer of a reply (contract §4).
func (p *plugin) ended(ctx context.Context, r reply, began time.Time) Answer {
	if r.fault == nil {
		a := judge(r.result, p.Limits.MaxOutputBytes)
		a.Took = time.Since(began)
		return a
	}
	if !endedBy(ctx, r.fault) {
		return failed(r.fault, r.code, began)
	}
	cause := context.Cause(ctx)
	a := Answer{Took: time.Since(began)}
	switch {
	case errors.Is(cause, errTimedOut):
		a.Code, a.Detail = schemas.CodePluginTimeout, "Plugin execution timed out after "+seconds(p.Limits.Timeout)+" seconds"
	case errors.Is(cause, errStopped):
		a.Code, a.Detail = schemas.CodeWorkerLost, errorExecuting(errStopped.Error())
	default:
		a.Code, a.Detail = schemas.CodeRunCancelled, "The run was cancelled."
	}
	return a
}

func failed(fault error, code schemas.Code, began time.Time) Answer {
	if !ownCode(string(code)) {
		code = schemas.CodePluginError
	}
	return Answer{Code: code, Detail: errorExecuting(fault.Error()), Took: time.Since(began)}
}

// maxDetail bounds what is told of an error, in bytes.
const maxDetail = 4 << 10

func errorExecuting(text string) string {
	return "Error executing plugin: " + shortText(text, maxDetail)
}

// shortText bounds a text and makes valid Unicode of it.
func shortText(text string, most int) string {
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.ToValidUTF8(text, "�")
}

// seconds writes a duration the way Python writes a float.
func seconds(d time.Duration) string {
	text := strconv.FormatFloat(d.Seconds(), 'f', -1, 64)
	if !strings.Contains(text, ".") {
		text += ".0"
	}
	return text
}
