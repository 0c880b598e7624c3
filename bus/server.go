package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// Limits of the embedded server.
const (
	maxPayload = 12 << 20
	// maxControlLine holds a subject of three escaped ids (about 4 KB) and a reply.
	maxControlLine = 16 << 10
	maxConnections = 1024
	maxPending     = 64 << 20
	maxJSMemory    = 64 << 20
	defaultStore   = 1 << 60 // the limits of the streams are the bound
	startTimeout   = 30 * time.Second
	startPoll      = 20 * time.Millisecond // how soon a fatal error is noticed
)

// ServerOptions say how the embedded NATS server runs.
type ServerOptions struct {
	// Dir is the JetStream store directory.
	Dir string
	// Listen is the TCP address; port 0 picks a free one, an empty text means no
	// listener at all, so that only Connect reaches the server.
	Listen string
	// Doors say who gets in. SetDoors changes them.
	Doors Doors
	// TLS makes every connection over TCP an encrypted one, when it names a certificate.
	TLS TLSFiles
	// WebSocket is where browsers connect, as the user consumer; an empty text means
	// nowhere. Without TLS it must be a loopback address.
	WebSocket string
	// Origins are those of pages that may connect there, as https://host; without any
	// only pages of the same origin may.
	Origins []string
	// MaxStore limits what JetStream may store, in bytes; 0 leaves it to the
	// limits of the streams.
	MaxStore int64
	// Logger receives the server's warnings and errors; nil drops them.
	Logger *slog.Logger
}

// Server is the embedded NATS server.
type Server struct {
	ns       *server.Server
	log      *slog.Logger
	dir      string
	password string // of the user grout; lives in memory only
	listens  bool
	browsers bool // they have a listener
	door     *doorkeeper
	accounts []string // publishers that have one
	certs    *certificates
	gateConn *nats.Conn
	gate     *Gate
	logs     *serverLog
	down     sync.Once
	found    []Found
}

// Found is the damage in streams that was met and mended at the start.
func (s *Server) Found() []Found { return s.found }

// Faulted is signalled when a stream has met a write error. The server does not
// recover from one, and answers nothing for that stream, until it is started anew.
// It says so in its log alone, so that is where it is heard; a stream that is silent
// without a word ends the Publisher, later, with ErrSilent.
func (s *Server) Faulted() <-chan struct{} { return s.logs.faulted }

// StartServer starts the embedded server. It is ready when StartServer returns;
// a taken port is an error that names the address.
func StartServer(o ServerOptions) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := o.Doors.Check(); err != nil {
		return nil, err
	}
	opts, certs, err := serverOptions(o)
	if err != nil {
		return nil, err
	}
	if err := exposeStreams(o.Dir); err != nil { // a server that was killed has left them hidden
		return nil, err
	}
	if err := mendMetadata(o.Dir, o.Logger); err != nil {
		return nil, err
	}
	found, err := mendTails(o.Dir, o.Logger)
	if err != nil {
		return nil, err
	}
	if err := hideStreams(o.Dir); err != nil {
		return nil, err
	}
	s := &Server{log: o.Logger, dir: o.Dir, found: found, password: rand.Text(), listens: o.Listen != "", browsers: o.WebSocket != "", accounts: o.Doors.names(), certs: certs}
	logs := &serverLog{log: o.Logger, fatal: make(chan string, 1), faulted: make(chan struct{}, 1)}
	s.logs = logs
	s.door = newDoorkeeper(o.Doors, s.password)
	opts.CustomClientAuthentication = s.door
	if s.ns, err = server.NewServer(opts); err != nil {
		return nil, fmt.Errorf("make the NATS server: %w", err)
	}
	s.door.account, s.door.away = s.ns.LookupAccount, s.ns.DisconnectClientByID
	s.door.present = func(id uint64) bool { return s.ns.GetClient(id) != nil }
	s.ns.SetLoggerV2(logs, false, false, false)
	if err := s.start(logs, o); err != nil {
		s.Shutdown()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(logs *serverLog, o ServerOptions) error {
	s.ns.Start()
	for limit := time.Now().Add(startTimeout); ; {
		ready := s.ns.ReadyForConnections(startPoll)
		select {
		case text := <-logs.fatal:
			return fmt.Errorf("start the NATS server on %q in %s: %s", o.Listen, o.Dir, text)
		default:
		}
		if ready {
			break
		}
		if time.Now().After(limit) {
			return fmt.Errorf("the NATS server on %q was not ready within %s", o.Listen, startTimeout)
		}
	}
	if !s.ns.JetStreamEnabled() {
		return fmt.Errorf("JetStream did not start in %s", o.Dir)
	}
	if err := streamsLinked(o.Dir); err != nil {
		return err
	}
	var err error
	if s.gateConn, err = s.Connect("grout gate"); err != nil {
		return err
	}
	s.gate, err = ServeGate(s.gateConn)
	return err
}

func serverOptions(o ServerOptions) (*server.Options, *certificates, error) {
	if o.Dir == "" {
		return nil, nil, errors.New("the NATS server needs a store directory")
	}
	opts := &server.Options{}
	if err := opts.ProcessConfigString(AccountsConfig(o.Doors.names(), nil)); err != nil {
		return nil, nil, fmt.Errorf("read the accounts: %w", err)
	}
	opts.ServerName = "grout"
	opts.NoSigs, opts.NoLog = true, true
	opts.DisableJetStreamBanner = true
	opts.JetStream, opts.StoreDir = true, o.Dir
	opts.SyncAlways = true
	opts.JetStreamMaxMemory = maxJSMemory
	if opts.JetStreamMaxStore = o.MaxStore; o.MaxStore == 0 {
		opts.JetStreamMaxStore = defaultStore
	}
	opts.MaxPayload, opts.MaxControlLine = maxPayload, maxControlLine
	opts.MaxConn, opts.MaxSubs, opts.MaxPending = maxConnections, 4096, maxPending
	opts.WriteDeadline = 10 * time.Second
	opts.PingInterval, opts.MaxPingsOut = 30*time.Second, 3
	opts.AuthTimeout, opts.TLSTimeout = 2, 5
	opts.AlwaysEnableNonce = true // which a NKey signs
	certs, err := o.TLS.load()
	if err != nil {
		return nil, nil, err
	}
	if certs != nil {
		opts.TLSConfig = certs.config()
	}
	if err := o.webSocket(opts); err != nil {
		return nil, nil, err
	}
	if o.Listen == "" {
		opts.DontListen = true
		return opts, certs, nil
	}
	opts.Host, opts.Port, err = splitAddress(o.Listen)
	return opts, certs, err
}

// splitAddress gives host and port as the server takes them.
func splitAddress(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, fmt.Errorf("the NATS address %q is not host:port: %w", address, err)
	}
	if port, err = strconv.Atoi(text); err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("the NATS address %q has no usable port", address)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// A server that cannot open a stream, be it for an error of the disk that passes,
// removes the directory of the stream with all that is in it. So while a server runs
// the directories are elsewhere, and it finds links to them: what it removes is a
// link. Each step can be cut off; exposeStreams puts back whatever it finds.
func hideStreams(dir string) error {
	streams, hidden := streamsDir(dir), hiddenDir(dir)
	entries, err := os.ReadDir(streams)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.MkdirAll(hidden, 0o700)
	}
	if err != nil {
		return fmt.Errorf("look at the streams: %w", err)
	}
	target, err := filepath.Rel(streams, hidden)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") { // the server is removing it
			continue
		}
		err := os.Rename(filepath.Join(streams, e.Name()), filepath.Join(hidden, e.Name()))
		if err == nil {
			err = os.Symlink(filepath.Join(target, e.Name()), filepath.Join(streams, e.Name()))
		}
		if err != nil {
			return fmt.Errorf("hide stream %s from removal: %w", e.Name(), err)
		}
	}
	return nil
}

// stagedBatches is where a server puts aside the atomic batches of a stream.
const stagedBatches = "batches"

// hiddenDir is where the streams are while a server runs.
func hiddenDir(dir string) string { return filepath.Join(dir, "streams") }

// exposeStreams puts the streams back to where the server has its own.
func exposeStreams(dir string) error {
	entries, err := os.ReadDir(hiddenDir(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = os.MkdirAll(streamsDir(dir), 0o700)
	}
	if err != nil {
		return fmt.Errorf("look at the streams: %w", err)
	}
	for _, e := range entries {
		if err := exposeStream(filepath.Join(hiddenDir(dir), e.Name()), filepath.Join(streamsDir(dir), e.Name())); err != nil {
			return fmt.Errorf("put stream %s back: %w", e.Name(), err)
		}
	}
	return nil
}

// exposeStream moves a stream to the place where a link to it may be. A server that
// has just been stopped after a write error may still be making directories for a
// batch there; they hold nothing that was confirmed.
func exposeStream(hidden, place string) (err error) {
	for range 10 {
		info, lost := os.Lstat(place)
		switch {
		case lost != nil: // there is nothing
		case info.Mode().Type() == fs.ModeSymlink:
			err = os.Remove(place)
		case onlyStaged(place):
			err = os.RemoveAll(place)
		default:
			return fmt.Errorf("it is there twice, as a copy that follows links makes it of a server that was killed: keep one of %s and %s, the one that is newer, and move the other away", place, hidden)
		}
		if err != nil {
			return err
		}
		if err = os.Rename(hidden, place); !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return err
}

// onlyStaged reports whether a directory holds at most what a server puts aside for
// atomic batches that are not committed.
func onlyStaged(dir string) bool {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != stagedBatches {
			return false
		}
	}
	return err == nil
}

// streamsLinked tells whether the server has removed a stream while it started.
func streamsLinked(dir string) error {
	entries, err := os.ReadDir(hiddenDir(dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at the streams: %w", err)
	}
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(streamsDir(dir), e.Name())); err != nil {
			return fmt.Errorf("the NATS server could not open stream %s, as its log says: %w", e.Name(), err)
		}
	}
	return nil
}

// Connect makes an in-process connection in account GROUT, as grout itself. It
// does not come back after Shutdown.
func (s *Server) Connect(name string) (*nats.Conn, error) {
	nc, err := nats.Connect("", nats.InProcessServer(s.ns), nats.Name(name),
		nats.UserInfo(userGrout, s.password), nats.MaxReconnects(20), nats.ReconnectWait(50*time.Millisecond),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			s.log.Warn("bus connection", "connection", name, "subject", subject, "error", err)
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	return nc, nil
}

// ClientURL is where other programs connect; empty when the server does not listen.
func (s *Server) ClientURL() string {
	if !s.listens {
		return ""
	}
	return s.ns.ClientURL()
}

// Shutdown stops the server and waits until it is down.
func (s *Server) Shutdown() {
	s.down.Do(func() {
		if s.gate != nil {
			s.gate.Close()
		}
		if s.gateConn != nil {
			s.gateConn.Close()
		}
		s.ns.Shutdown()
		s.ns.WaitForShutdown()
		if err := exposeStreams(s.dir); err != nil {
			s.log.Warn("streams stay where the server cannot remove them until the next start", "error", err)
		}
	})
}

// serverLog passes the server's warnings and errors on. A fatal error is kept for
// StartServer, which returns it; the default would end the process.
type serverLog struct {
	log     *slog.Logger
	fatal   chan string
	faulted chan struct{}
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) Warnf(format string, args ...any) {
	if strings.HasPrefix(format, "Maximum payloads over") {
		return // maxPayload is meant
	}
	l.write(slog.LevelWarn, format, args)
}

func (l *serverLog) Errorf(format string, args ...any) {
	l.write(slog.LevelError, format, args)
	if strings.Contains(strings.ToLower(format), "critical write error") {
		select {
		case l.faulted <- struct{}{}:
		default:
		}
	}
}

func (l *serverLog) Fatalf(format string, args ...any) {
	select {
	case l.fatal <- fmt.Sprintf(format, args...):
	default:
		l.write(slog.LevelError, format, args)
	}
}

func (l *serverLog) write(level slog.Level, format string, args []any) {
	l.log.Log(context.Background(), level, strings.TrimSpace(fmt.Sprintf(format, args...)), "part", "nats")
}
