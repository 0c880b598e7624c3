package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
)

// RuntimeVersion is the contract's version, told by every answer (contract §1).
const RuntimeVersion = "1.0.0"

const (
	headerVersion     = "X-Mozaiks-Runtime-Version"
	headerCorrelation = "X-Mozaiks-Correlation-Id"
	maxCorrelation    = 128
)

// observe wraps every request, those that match no route included: headers of
// contract §1, errors and panics in their shape, one log line, metrics.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begin := time.Now()
		id := correlationID(c.Request().Header)
		h := c.Response().Header()
		h.Set(headerVersion, RuntimeVersion)
		h.Set(headerCorrelation, id)
		h.Set("Cache-Control", "no-store")
		c.Set(headerCorrelation, id)
		s.origins.answer(c)
		s.metrics.inFlight.Inc()
		defer s.metrics.inFlight.Dec()

		err := s.contained(next, c)
		if err != nil && !c.Response().Committed {
			s.refuse(c, err)
		}
		s.record(c, id, time.Since(begin), err)
		if p, ok := err.(*panicked); ok && p.halfway {
			panic(http.ErrAbortHandler) // the caller must not take half an answer for a whole one
		}
		return nil
	}
}

// correlationID follows the rules of contract §1.
func correlationID(h http.Header) string {
	id := h.Get(headerCorrelation)
	if id == "" {
		id = h.Get("X-Correlation-Id")
	}
	if id == "" || len(id) > maxCorrelation || strings.ContainsFunc(id, func(r rune) bool { return r < ' ' || r > '~' }) {
		return uuid.NewString()
	}
	return id
}

func correlationOf(c echo.Context) string {
	id, _ := c.Get(headerCorrelation).(string)
	return id
}

// panicked is a panic of a handler as an error, with its stack for the log.
type panicked struct {
	value   any
	stack   []byte
	halfway bool // part of an answer had been sent
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v\n%s", p.value, p.stack) }

// contained runs a handler. Panics become errors; a path that exists with other
// methods is 405 for all of them, OPTIONS included. Echo lets the last parameter
// of a pattern run over slashes; here it is exactly one segment.
func (s *Server) contained(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{value: v, stack: debug.Stack(), halfway: c.Response().Committed}
		}
	}()
	if !sameSegments(c.Path(), echo.GetPath(c.Request())) {
		return echo.ErrNotFound
	}
	if _, known := c.Get(echo.ContextKeyHeaderAllow).(string); known {
		if s.origins.preflight(c) {
			return nil
		}
		c.Response().Header().Set("Allow", s.allowed(c.Path()))
		return echo.ErrMethodNotAllowed
	}
	return next(c)
}

// sameSegments tells whether a path has as many segments as its pattern, none of
// them empty at the end.
func sameSegments(pattern, path string) bool {
	return strings.Count(pattern, "/") == strings.Count(path, "/") && (path == pattern || !strings.HasSuffix(path, "/"))
}

// allowed lists the methods of a path of the table.
func (s *Server) allowed(path string) string {
	var methods []string
	for _, r := range s.routes() {
		if r.path != path {
			continue
		}
		methods = append(methods, r.method)
		if r.method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	return strings.Join(methods, ", ")
}

// record writes the one log line of a request and counts it. Query strings,
// keys and bodies are in neither.
func (s *Server) record(c echo.Context, id string, took time.Duration, err error) {
	route := c.Path()
	if !s.patterns[route] {
		route = "unmatched"
	}
	status := c.Response().Status
	method := knownMethod(c.Request().Method)
	service := serviceOf(c.Request()) != nil // counted there
	if !service {
		s.metrics.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	}
	if !service && c.Get(streamed) == nil {
		s.metrics.duration.WithLabelValues(route).Observe(took.Seconds())
	}

	level := slog.LevelInfo
	switch {
	case status == http.StatusInternalServerError:
		level = slog.LevelError
	case status > http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	ctx := c.Request().Context()
	if !s.Logger.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs,
		slog.String("correlation_id", id),
		slog.String("method", method),
		slog.String("route", route),
		slog.Int("status", status),
		slog.Duration("duration", took),
		slog.Int64("bytes_in", max(c.Request().ContentLength, 0)),
		slog.Int64("bytes_out", c.Response().Size))
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	s.Logger.LogAttrs(ctx, level, "request", attrs...)
}

// knownMethod bounds what a caller can put into labels and the log.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "other"
}
