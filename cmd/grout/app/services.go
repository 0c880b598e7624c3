package app

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"grout/bus"
	"grout/handlers/httpapi"
	"grout/schemas"
)

// Requests of one NATS service that a node answers at once, and how long one may take;
// those of plugins end with the limits of their plugin.
const (
	maxQuickServices = 256
	maxSlowServices  = 1024
	quickService     = 60 * time.Second
	answerHeaderRoom = 64 << 10
	servicesEnd      = 2 * time.Second // for answers on their way at a stop
)

// statusHeader tells whoever asked a NATS service the status that HTTP has for the answer.
const statusHeader = "Grout-Status"

// serveServices offers what HTTP answers as NATS services. stop waits for those that are
// being answered no longer than it is told.
func (n *node) serveServices() (stop func(wait time.Duration), err error) {
	none := func(time.Duration) {}
	conn, err := n.serviceConnection()
	if err != nil {
		return none, err
	}
	most := int(conn.MaxPayload()) - answerHeaderRoom
	var list []bus.Endpoint
	for _, s := range httpapi.Services() {
		list = append(list, n.endpoint(&s, most))
	}
	e, err := bus.ServeEndpoints(conn, semanticVersion(Version()), list)
	if err != nil {
		conn.Close()
		return none, fmt.Errorf("offer NATS services: %w", err)
	}
	var once sync.Once
	return func(wait time.Duration) {
		once.Do(func() {
			e.Close(wait)
			conn.Close()
		})
	}, nil
}

// serviceConnection is one of their own, so that a flood of requests holds up nothing else.
func (n *node) serviceConnection() (*nats.Conn, error) {
	name := "grout-services-" + n.name
	if n.server == nil {
		return bus.ConnectExternal(externalOptions(&n.cfg, n.logger), name)
	}
	return n.server.Connect(name)
}

func (n *node) endpoint(s *httpapi.Service, most int) bus.Endpoint {
	e := bus.Endpoint{
		Name: s.Name, Description: s.Description, Request: s.Request, Response: s.Response, MaxBytes: s.MaxBytes, Most: maxQuickServices,
		TooLarge: n.refusing(s, schemas.Errorf(schemas.CodePayloadTooLarge, "The request is larger than %d bytes", s.MaxBytes)),
		Busy:     n.refusing(s, schemas.Errorf(schemas.CodeUnavailable, "Too many requests are being answered; try again")),
	}
	if s.Slow {
		e.Most = maxSlowServices
	}
	e.Serve = func(ctx context.Context, header map[string][]string, data []byte) bus.Answer {
		api := n.api.Load()
		if api == nil {
			return notServing()
		}
		if !s.Slow {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, quickService)
			defer cancel()
		}
		return serviceAnswer(api.Serve(ctx, s, header, data, most))
	}
	return e
}

func (n *node) refusing(s *httpapi.Service, why error) func() bus.Answer {
	return func() bus.Answer {
		api := n.api.Load()
		if api == nil {
			return notServing()
		}
		return serviceAnswer(api.RefuseService(s, why))
	}
}

// notServing is the answer before the API is there to give one.
func notServing() bus.Answer {
	return bus.Answer{Code: strconv.Itoa(http.StatusServiceUnavailable), Detail: errNotWorking.Detail}
}

func serviceAnswer(a httpapi.ServiceAnswer) bus.Answer {
	out := bus.Answer{Data: a.Body, Header: map[string][]string{statusHeader: {strconv.Itoa(a.Status)}}}
	for name, values := range a.Header {
		if name != "Content-Length" && name != "Cache-Control" {
			out.Header[name] = values
		}
	}
	if a.Status >= http.StatusBadRequest {
		out.Code, out.Detail = strconv.Itoa(a.Status), a.Detail
	}
	return out
}

var semantic = regexp.MustCompile(`^v?((0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)([-+][0-9A-Za-z.+-]+)?)$`)

// semanticVersion is the program's version as services have to state theirs.
func semanticVersion(v string) string {
	if semantic.MatchString(v) {
		return strings.TrimPrefix(v, "v")
	}
	return "0.0.0"
}
