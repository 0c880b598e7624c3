package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// Names of the request/reply services (contract §8).
const (
	ServiceName     = "grout"
	servicePrefix   = "mozaiks.v1.svc."
	serviceGroup    = "grout" // one node answers, wherever several serve
	servicePending  = 4096    // requests of an endpoint that wait to be looked at
	servicePendingB = 64 << 20
	serviceBytes    = 128 << 20 // of requests that are being answered
)

// Endpoint is one service: what it is called, and what answers.
type Endpoint struct {
	Name              string // budgets.reserve, at mozaiks.v1.svc.budgets.reserve
	Description       string
	Request, Response string // their JSON Schemas, for whoever looks at the service
	MaxBytes          int    // of a request's data
	Most              int    // requests that are answered at once; more are refused
	Serve             func(ctx context.Context, header map[string][]string, data []byte) Answer
	// TooLarge and Busy are answers to what is not served.
	TooLarge, Busy func() Answer
}

// Answer is what a service says. Code is empty when it did what was asked, else the
// number of the status that HTTP would have.
type Answer struct {
	Header       map[string][]string
	Data         []byte
	Code, Detail string
}

// Endpoints are services that run on a connection, which stays the caller's.
type Endpoints struct {
	nc      *nats.Conn
	service micro.Service
	ctx     context.Context
	cancel  context.CancelFunc
	mu      sync.Mutex
	running sync.WaitGroup
	stopped bool                       // guarded by mu; nothing begins to run after it
	bytes   atomic.Int64               // of requests that are being answered
	counts  map[string]*endpointCounts // by endpoint
}

// endpointCounts is what an endpoint has done since it serves. `nats micro stats` shows
// it as data: its own figures tell how long requests took to be handed over.
type endpointCounts struct {
	answered, errors, refused, nanos atomic.Int64
}

type endpointStats struct {
	Answered  int64   `json:"answered"`
	Errors    int64   `json:"errors"`
	Refused   int64   `json:"refused"` // of them, because too many or too large
	AverageMs float64 `json:"average_ms"`
}

func (c *endpointCounts) stats() endpointStats {
	s := endpointStats{Answered: c.answered.Load(), Errors: c.errors.Load(), Refused: c.refused.Load()}
	if n := s.Answered - s.Refused; n > 0 {
		s.AverageMs = float64(c.nanos.Load()) / float64(n) / 1e6
	}
	return s
}

// ServeEndpoints serves on a connection in grout's own account. The version is that of the
// program, as semantic versioning writes it.
func ServeEndpoints(nc *nats.Conn, version string, list []Endpoint) (_ *Endpoints, err error) {
	e := &Endpoints{nc: nc, counts: map[string]*endpointCounts{}}
	for _, one := range list {
		e.counts[endpointName(one.Name)] = &endpointCounts{}
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			e.Close(0)
		}
	}()
	e.service, err = micro.AddService(nc, micro.Config{
		Name: ServiceName, Version: version, QueueGroup: serviceGroup,
		Description:  "Checks, budgets, usage, plugins and runs: the same answers as over HTTP",
		StatsHandler: func(of *micro.Endpoint) any { return e.counts[of.Name].stats() },
	})
	if err != nil {
		return nil, fmt.Errorf("add the service %s: %w", ServiceName, err)
	}
	for _, one := range list {
		err = e.service.AddEndpoint(endpointName(one.Name), e.handler(one),
			micro.WithEndpointSubject(servicePrefix+one.Name),
			micro.WithEndpointPendingLimits(servicePending, servicePendingB),
			micro.WithEndpointMetadata(map[string]string{
				"description": one.Description, "request_schema": one.Request, "response_schema": one.Response,
			}))
		if err != nil {
			return nil, fmt.Errorf("add the endpoint %s: %w", one.Name, err)
		}
	}
	if err := nc.FlushTimeout(flushTimeout); err != nil {
		return nil, fmt.Errorf("serve %s>: %w", servicePrefix, err)
	}
	return e, nil
}

// endpointName is the name of an endpoint, which has no dots.
func endpointName(name string) string { return strings.ReplaceAll(name, ".", "-") }

// handler answers each request in a goroutine of its own, as many at once as the endpoint
// may have. What nobody waits for is not done.
func (e *Endpoints) handler(one Endpoint) micro.Handler {
	free, counts := make(chan struct{}, max(one.Most, 1)), e.counts[endpointName(one.Name)]
	return micro.HandlerFunc(func(r micro.Request) {
		switch {
		case !replies(r.Reply()):
			return
		case len(r.Data()) > one.MaxBytes:
			counts.refused.Add(1)
			e.respond(counts, r.Reply(), one.TooLarge())
			return
		}
		size := int64(len(r.Data()))
		if !e.take(free, size) {
			counts.refused.Add(1)
			e.respond(counts, r.Reply(), one.Busy())
			return
		}
		if !e.begin() {
			return
		}
		go func() {
			defer e.running.Done()
			defer func() {
				e.bytes.Add(-size)
				<-free
			}()
			begin := time.Now()
			answer := one.Serve(e.ctx, r.Headers(), r.Data())
			counts.nanos.Add(int64(time.Since(begin)))
			e.respond(counts, r.Reply(), answer)
		}()
	})
}

// take counts one more request of an endpoint, when there is room for it.
func (e *Endpoints) take(free chan struct{}, size int64) bool {
	select {
	case free <- struct{}{}:
	default:
		return false
	}
	if e.bytes.Add(size) > serviceBytes {
		e.bytes.Add(-size)
		<-free
		return false
	}
	return true
}

func (e *Endpoints) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.stopped {
		e.running.Add(1)
	}
	return !e.stopped
}

// replies reports whether an answer goes to somebody who waits, and nowhere else: a reply
// subject is under no permission, and what grout says must not appear under a subject of
// its own.
func replies(subject string) bool {
	return strings.HasPrefix(subject, nats.InboxPrefix) || strings.HasPrefix(subject, "_R_.")
}

// respond answers past the library, which counts without a lock what it answers itself.
func (e *Endpoints) respond(counts *endpointCounts, to string, a Answer) {
	counts.answered.Add(1)
	m := &nats.Msg{Subject: to, Data: a.Data, Header: nats.Header(a.Header)}
	if m.Header == nil {
		m.Header = nats.Header{}
	}
	if a.Code != "" {
		counts.errors.Add(1)
		m.Header[micro.ErrorCodeHeader], m.Header[micro.ErrorHeader] = []string{a.Code}, []string{oneLine(a.Detail)}
	}
	_ = e.nc.PublishMsg(m) // whoever asked asks again
}

// oneLine makes a text fit into a header.
func oneLine(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
	if len(s) > 1024 {
		s = strings.ToValidUTF8(s[:1024], "")
	}
	if s = strings.TrimSpace(s); s == "" {
		return "error"
	}
	return s
}

// Close takes no more requests, waits for those that are being answered, no longer than
// it is told, and ends them.
func (e *Endpoints) Close(most time.Duration) {
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	if e.service != nil {
		if err := e.service.Stop(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			_ = e.nc.FlushTimeout(apiTimeout)
		}
	}
	done := make(chan struct{})
	go func() { e.running.Wait(); close(done) }()
	wait := time.NewTimer(most)
	defer wait.Stop()
	select {
	case <-done:
	case <-wait.C:
	}
	e.cancel()
	<-done // what is answered ends with its context
}
