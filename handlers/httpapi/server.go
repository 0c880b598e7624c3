package httpapi

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// Options are everything a Server needs. Commands, Reads, Entitlements, Plugins, Runs and
// Health are required;
// the zero value of the others stands for the default in brackets.
type Options struct {
	AppID, AppTier, AppName string
	Port                    func() int // for GET /info [0]

	// Accepted keys (contract §3). An empty list closes its door; empty keys in
	// a list are ignored.
	InternalKeys, ServiceKeys []string

	Users Users // who user tokens speak for [none are accepted]

	Partitions   int           // [1]
	MaxBodyBytes int64         // of one request body as sent [16 MiB]
	WaitLimit    time.Duration // after it an accepted request is answered 202 [10 s]
	Version      string        // of the program, told by the metric grout_build_info

	MaxUnpackedBytes int64 // of one compressed request body [64 MiB]

	Commands     Commands
	Reads        Reads
	Entitlements Entitlements
	Health       Health
	Plugins      Plugins
	Runs         Runs
	Live         Live        // [none]
	DeadLetters  DeadLetters // [none]
	Webhooks     Webhooks    // [none]

	// Origins of pages that may ask beside those of this server itself, as browsers write
	// them (contract §1).
	Origins []string

	Logger   *slog.Logger         // [nowhere]
	Registry *prometheus.Registry // served by GET /metrics [a new one]
	Now      func() time.Time     // [time.Now]

	// Fault is called at named points by fault tests: "accept" after a request
	// was read and found valid, before anything of it is submitted.
	Fault func(point string)
}

func (o Options) withDefaults() Options {
	if o.Port == nil {
		o.Port = func() int { return 0 }
	}
	o.Partitions = max(o.Partitions, 1)
	if o.MaxBodyBytes <= 0 {
		o.MaxBodyBytes = 16 << 20
	}
	if o.MaxUnpackedBytes <= 0 {
		o.MaxUnpackedBytes = 64 << 20
	}
	if o.WaitLimit <= 0 {
		o.WaitLimit = 10 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Live == nil {
		o.Live = noLive{}
	}
	if o.Webhooks == nil {
		o.Webhooks = noWebhooks{}
	}
	if o.DeadLetters == nil {
		o.DeadLetters = noDeadLetters{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Fault == nil {
		o.Fault = func(string) {}
	}
	return o
}

// Server answers HTTP requests. It starts nothing and listens nowhere.
type Server struct {
	Options
	internal, service keyring
	origins           origins
	echo              *echo.Echo
	metrics           *metrics
	bodies            budget
	calls             budget // what callers of plugins have sent, until it is in the log
	unpackers         unpackers
	parsing           chan struct{} // one token for each batch being parsed
	summing           chan struct{} // one token for each run whose usage is being summed
	patterns          map[string]bool
	flights           flights
	stopped           atomic.Bool
}

// New makes a server and registers its metrics.
func New(o Options) *Server {
	o = o.withDefaults()
	s := &Server{
		Options:  o,
		internal: newKeyring(o.InternalKeys),
		service:  newKeyring(o.ServiceKeys),
		origins:  origins(o.Origins),
		metrics:  newMetrics(o.Registry, o.Version),
		parsing:  make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
		summing:  make(chan struct{}, maxRunSums),
		patterns: map[string]bool{},
	}
	s.bodies.free.Store(max(maxBodyBytesInFlight, o.MaxBodyBytes+o.MaxUnpackedBytes))
	s.calls.free.Store(maxCallBytesInFlight)
	s.echo = s.router()
	return s
}

// router makes the Echo instance from the table of routes.
func (s *Server) router() *echo.Echo {
	e := echo.New()
	e.Logger.SetOutput(io.Discard) // the request log is ours
	e.IPExtractor = echo.ExtractIPDirect()
	e.Use(s.observe)
	for _, r := range s.routes() {
		s.patterns[r.path] = true
		h := s.guard(r)
		e.Add(r.method, r.path, h)
		if r.method == http.MethodGet {
			e.Add(http.MethodHead, r.path, h)
		}
	}
	return e
}

// Handler is what serves the requests.
func (s *Server) Handler() http.Handler { return s.echo }

// HTTPServer makes a server around Handler with limits on time and headers. Its
// owner listens, serves and shuts it down.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           s.echo,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       60 * time.Second,
		WriteTimeout:      90 * time.Second,
		IdleTimeout:       120 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(s.Logger.Handler(), slog.LevelWarn),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
}

// StopAccepting begins the end: new writes are answered 503 and their connections
// closed, running ones finish.
func (s *Server) StopAccepting() { s.stopped.Store(true) }
