package plugins

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"grout/schemas"
)

// Requester reaches services on the bus.
type Requester interface {
	// Request sends a message to one of those that listen on a subject and passes on what
	// comes back until receive wants no more, or ctx ends. When nobody listens the error is
	// a *schemas.Error with the code NOT_FOUND.
	Request(ctx context.Context, subject string, header map[string]string, data []byte, receive func(header map[string][]string, data []byte) (more bool)) error
	// Service gives the subject at which the service of a name takes requests; the same
	// error when there is none.
	Service(ctx context.Context, name string) (subject string, err error)
}

// Headers of what goes to services and comes back.
const (
	headerRun     = "Grout-Run"
	headerTimeout = "Grout-Timeout-Ms"
	headerPublish = "Grout-Publish" // the message is no answer but something to publish, under this name
	headerError   = "Nats-Service-Error"
	headerCode    = "Nats-Service-Error-Code"
)

// natsRuntime calls services elsewhere.
type natsRuntime struct{ bus Requester }

func newNATSRuntime(bus Requester) *natsRuntime { return &natsRuntime{bus} }

func (r *natsRuntime) start(ctx context.Context, p *plugin) (worker, error) {
	if r.bus == nil {
		return nil, errors.New("runtime.kind: there is no NATS here")
	}
	subject := p.Subject
	if subject == "" {
		var err error
		if subject, err = r.bus.Service(ctx, p.Name); err != nil {
			return nil, fmt.Errorf("find the NATS service %s: %w", p.Name, detailOf(err))
		}
	}
	return &natsWorker{bus: r.bus, subject: subject, found: p.Subject == "", timeout: strconv.FormatInt(p.Limits.Timeout.Milliseconds(), 10), most: p.Limits.MaxOutputBytes, ended: make(chan struct{})}, nil
}

// natsWorker is the right to one call at a time. What a service does with a call that has
// ended is its own affair; its answer is dropped.
type natsWorker struct {
	bus     Requester
	subject string
	found   bool // by discovery, so it may be elsewhere now
	timeout string
	most    int64
	once    sync.Once
	ended   chan struct{}
}

func (w *natsWorker) call(ctx context.Context, c *Call) reply {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var r reply
	answered := false
	err := w.bus.Request(ctx, w.subject, map[string]string{headerRun: c.RunID, headerTimeout: w.timeout}, c.Input,
		func(header map[string][]string, data []byte) bool {
			if names := header[headerPublish]; len(names) > 0 {
				if err := c.publish(names[0], data); err != nil {
					r, answered = reply{fault: fmt.Errorf("publish %s: %w", shown(names[0]), err)}, true
				}
				return !answered
			}
			r, answered = replyOf(header, data), true
			return false
		})
	switch {
	case answered:
		return r
	case ctx.Err() != nil:
		return reply{fault: context.Cause(ctx)}
	case err == nil:
		err = errors.New("the NATS service has not answered")
	}
	if w.found {
		w.stop()
	}
	var known *schemas.Error
	if errors.As(err, &known) && known.Code == schemas.CodeNotFound {
		err = fmt.Errorf("no NATS service answers on %s", w.subject)
	}
	return reply{fault: err}
}

// replyOf reads an answer by the conventions of NATS services.
func replyOf(header map[string][]string, data []byte) reply {
	text, code := header[headerError], header[headerCode]
	if len(text) == 0 && len(code) == 0 {
		return reply{result: data}
	}
	r := reply{fault: errors.New("the NATS service failed")}
	if len(text) > 0 && text[0] != "" {
		r.fault = errors.New(text[0])
	}
	if len(code) > 0 {
		r.code = schemas.Code(code[0])
	}
	return r
}

func (w *natsWorker) gone() <-chan struct{} { return w.ended }

func (w *natsWorker) stop() { w.once.Do(func() { close(w.ended) }) }

// detailOf is what people read of an error.
func detailOf(err error) error {
	var known *schemas.Error
	if errors.As(err, &known) {
		return errors.New(known.Detail)
	}
	return err
}
