package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"grout/schemas"
)

// Service is a request/reply service (contract §8): a route of this server for those who
// ask over another transport, and whom that transport has let in. The data of a request is
// the body that HTTP takes, with what HTTP has in the path, the query or the token; the
// answer is that of HTTP.
type Service struct {
	Name, Description string
	Request, Response string // JSON Schemas
	MaxBytes          int    // of the data
	Slow              bool   // an answer may take as long as a plugin
	read              func(s *Server, data []byte) (*serviceCall, error)
}

// serviceCall is a request of a service, as the route takes it.
type serviceCall struct {
	method, path string
	query        url.Values
	body         []byte
	who          caller
}

type viaService struct{}

// serviceOf gives the call of a service that a request is; nil when it came over HTTP.
func serviceOf(r *http.Request) *serviceCall {
	call, _ := r.Context().Value(viaService{}).(*serviceCall)
	return call
}

const maxServiceBytes = 1 << 20

var usageFields = []string{"app_id", "tenant_id", "user_id", "model", "workflow_id", "from", "to", "window", "group_by"}

func idField(says string) map[string]any {
	return map[string]any{"type": "string", "minLength": 1, "maxLength": schemas.MaxIDChars, "description": says}
}

// Services are all there are.
func Services() []Service {
	reservation := map[string]any{"reservation_id": idField("The reservation.")}
	return []Service{
		{
			Name: "entitlements.check", Description: "What somebody may do (contract §5.3)", MaxBytes: maxServiceBytes,
			Request: schemas.ServiceSchema("entitlement-check", nil), Response: schemas.ServiceSchema("check-result", nil),
			read: bodyService(http.MethodPost, "/api/entitlements/check"),
		},
		{
			Name: "budgets.reserve", Description: "Holds tokens of every budget that they touch, all or nothing", MaxBytes: maxServiceBytes,
			Request: schemas.ServiceSchema("budget-reservation", nil), Response: schemas.ServiceSchema("reservation-granted", nil),
			read: bodyService(http.MethodPost, "/api/budgets/reservations"),
		},
		{
			Name: "budgets.settle", Description: "Books the usage that a reservation came to", MaxBytes: maxServiceBytes,
			Request:  schemas.ServiceSchema("reservation-settlement", reservation, "reservation_id"),
			Response: schemas.ServiceSchema("reservation-settled", nil),
			read:     holdService(http.MethodPost, "/settle"),
		},
		{
			Name: "budgets.extend", Description: "Holds a reservation for longer", MaxBytes: maxServiceBytes,
			Request:  schemas.ServiceSchema("reservation-extension", reservation, "reservation_id"),
			Response: schemas.ServiceSchema("reservation-extended", nil),
			read:     holdService(http.MethodPost, "/extend"),
		},
		{
			Name: "budgets.release", Description: "Gives a reservation back", MaxBytes: maxServiceBytes,
			Request: schemas.ServiceSchema("service-release", nil), Response: schemas.ServiceSchema("reservation-released", nil),
			read: holdService(http.MethodDelete, ""),
		},
		{
			Name: "usage.query", Description: "What was used, by window and group (GET /api/usage)", MaxBytes: maxServiceBytes,
			Request: schemas.ServiceSchema("service-usage", nil), Response: schemas.ServiceSchema("usage-report", nil),
			read: readUsageService,
		},
		{
			Name: "plugins.execute", Description: "Runs a plugin for a user, who has no roles and no token here", MaxBytes: schemas.MaxExecuteBytes + 64<<10,
			Request: schemas.ServiceSchema("service-execute", nil), Response: `{"description":"What the plugin answered, verbatim."}`, Slow: true,
			read: readExecuteService,
		},
		{
			Name: "runs.get", Description: "A run, with its result while that is kept", MaxBytes: maxServiceBytes,
			Request: schemas.ServiceSchema("service-run", nil), Response: schemas.ServiceSchema("run", nil),
			read: readRunService,
		},
	}
}

// bodyService is for a route that finds all it needs in the body.
func bodyService(method, path string) func(*Server, []byte) (*serviceCall, error) {
	return func(_ *Server, data []byte) (*serviceCall, error) {
		return &serviceCall{method: method, path: path, body: data, who: *keyCaller}, nil
	}
}

// holdService is for a route about one reservation.
func holdService(method, action string) func(*Server, []byte) (*serviceCall, error) {
	return func(_ *Server, data []byte) (*serviceCall, error) {
		app, id, err := schemas.ParseServiceID(data, "reservation_id")
		if err != nil {
			return nil, err
		}
		call := &serviceCall{method: method, path: "/api/budgets/reservations/" + url.PathEscape(id) + action, who: *keyCaller}
		if action == "" {
			call.query = appQuery(app)
		} else {
			call.body = data
		}
		return call, nil
	}
}

func appQuery(app string) url.Values {
	if app == "" {
		return nil
	}
	return url.Values{"app_id": {app}}
}

func readUsageService(_ *Server, data []byte) (*serviceCall, error) {
	values, err := schemas.ParseServiceQuery(data, usageFields...)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for name, value := range values {
		q.Set(name, value)
	}
	return &serviceCall{method: http.MethodGet, path: "/api/usage", query: q, who: *keyCaller}, nil
}

func readRunService(_ *Server, data []byte) (*serviceCall, error) {
	app, id, err := schemas.ParseServiceID(data, "run_id")
	if err != nil {
		return nil, err
	}
	return &serviceCall{method: http.MethodGet, path: "/api/runs/" + url.PathEscape(id), query: appQuery(app), who: *keyCaller}, nil
}

// readExecuteService lets a plugin run for the user that the request names, who is nobody
// but that: no roles, no superadmin, no token (contract §8).
func readExecuteService(s *Server, data []byte) (*serviceCall, error) {
	x, err := schemas.ParseServiceExecution(data)
	if err != nil {
		return nil, err
	}
	if x.AppID == "" {
		x.AppID = s.AppID
	}
	return &serviceCall{
		method: http.MethodPost, path: "/api/execute/" + url.PathEscape(x.Plugin), body: x.Data, who: caller{App: x.AppID, UserID: x.UserID},
	}, nil
}

// ServiceAnswer is what a service says: the status that HTTP would have, and the answer.
type ServiceAnswer struct {
	Status int
	Header http.Header
	Body   []byte
	Detail string // of an error
}

// headers of a request that mean the same as over HTTP.
var serviceHeaders = []string{"Prefer", headerKey, "Traceparent", headerCorrelation, "X-Correlation-Id"}

// Serve answers a request of a service whose data is JSON. An answer has at most so many
// bytes.
func (s *Server) Serve(ctx context.Context, service *Service, header map[string][]string, data []byte, most int) ServiceAnswer {
	begin := time.Now()
	a := s.serve(ctx, service, header, data, most)
	s.metrics.services.WithLabelValues(service.Name, strconv.Itoa(a.Status)).Inc()
	s.metrics.serviceDuration.WithLabelValues(service.Name).Observe(time.Since(begin).Seconds())
	return a
}

func (s *Server) serve(ctx context.Context, service *Service, header map[string][]string, data []byte, most int) ServiceAnswer {
	call, err := service.read(s, data)
	if err != nil {
		return s.serviceError(err)
	}
	target := call.path
	if call.query != nil {
		target += "?" + call.query.Encode()
	}
	r, err := http.NewRequestWithContext(context.WithValue(ctx, viaService{}, call), call.method, target, bytes.NewReader(call.body))
	if err != nil {
		return s.serviceError(fmt.Errorf("request of the service %s: %w", service.Name, err))
	}
	for _, name := range serviceHeaders {
		if v := headerValue(header, name); v != "" {
			r.Header.Set(name, v)
		}
	}
	w := &answerWriter{header: http.Header{}, most: most}
	s.echo.ServeHTTP(w, r)
	switch {
	case w.full:
		return s.serviceError(schemas.Errorf(schemas.CodeTooManyRows, "The answer has more than %d bytes: ask for less of it", most))
	case w.status == 0:
		return s.serviceError(fmt.Errorf("the service %s gave no answer", service.Name))
	}
	a := ServiceAnswer{Status: w.status, Header: w.header, Body: w.body.Bytes()}
	if w.status >= http.StatusBadRequest {
		a.Detail = detailOf(a.Body, w.status)
	}
	return a
}

// headerValue finds a header however it is spelled: NATS leaves names as they are.
func headerValue(h map[string][]string, name string) string {
	for key, values := range h {
		if strings.EqualFold(key, name) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

// RefuseService is the answer to a request of a service that is not looked at.
func (s *Server) RefuseService(service *Service, err error) ServiceAnswer {
	a := s.serviceError(err)
	s.metrics.services.WithLabelValues(service.Name, strconv.Itoa(a.Status)).Inc()
	return a
}

// serviceError is the answer that says an error, as HTTP would.
func (s *Server) serviceError(err error) ServiceAnswer {
	p := problemOf(err)
	status := statusOf[p.Code]
	if status == http.StatusInternalServerError {
		s.Logger.Error("a service could not answer", "error", err)
	}
	h := http.Header{headerVersion: {RuntimeVersion}}
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfterSeconds)
	}
	return ServiceAnswer{Status: status, Header: h, Body: appendProblem(nil, p, status), Detail: p.Detail}
}

// detailOf is what the body of an error says to people.
func detailOf(body []byte, status int) string {
	values := schemas.TextMember(body, "detail")
	if values == "" {
		return strconv.Itoa(status) + " " + http.StatusText(status)
	}
	return values
}

// answerWriter keeps an answer, up to a number of bytes.
type answerWriter struct {
	header http.Header
	status int
	body   bytes.Buffer
	most   int
	full   bool
}

func (w *answerWriter) Header() http.Header { return w.header }

func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *answerWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.body.Len()+len(b) > w.most {
		w.full = true
		return 0, fmt.Errorf("the answer has more than %d bytes", w.most)
	}
	return w.body.Write(b)
}
