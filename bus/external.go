package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ExternalOptions say how a NATS cluster of somebody else's is reached, in the account
// that holds grout's streams.
type ExternalOptions struct {
	// URLs are the addresses of the nodes. They hold no password.
	URLs []string
	// User with PasswordFile or Password, CredsFile or NKeyFile say who grout is there.
	// The files are read at every connection, so what is in them may change.
	User, Password, PasswordFile, CredsFile, NKeyFile string
	// CAFile is what certificates of the nodes are judged by; CertFile and KeyFile are
	// grout's own.
	CAFile, CertFile, KeyFile string
	// Beside are files of the server inside a grout on this machine, which a tool of that
	// grout trusts as they are.
	Beside TLSFiles
	Logger *slog.Logger
}

// Bounds of an external connection. A node that answers no pings is left for another one.
const (
	externalDial     = 2 * time.Second
	externalPing     = 2 * time.Second
	externalPingsOut = 2
	externalFlush    = 5 * time.Second
	externalDelay    = 2 * time.Second // at most, between two tries of all nodes
)

// ConnectExternal connects to a cluster. The connection tries to come back for as long
// as it is not closed; while it is away whatever is sent fails at once.
func ConnectExternal(o ExternalOptions, name string) (*nats.Conn, error) {
	opts, err := externalOptions(&o, name)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(strings.Join(o.URLs, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to the NATS cluster %s: %w", strings.Join(o.URLs, ","), err)
	}
	return nc, nil
}

func externalOptions(o *ExternalOptions, name string) ([]nats.Option, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	log := o.Logger.With("connection", name)
	opts := []nats.Option{
		nats.Name(name), nats.Timeout(externalDial), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1), nats.IgnoreAuthErrorAbort(),
		nats.PingInterval(externalPing), nats.MaxPingsOutstanding(externalPingsOut), nats.FlusherTimeout(externalFlush),
		nats.CustomReconnectDelay(reconnectDelay),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the connection to the NATS cluster is lost; trying again", "error", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info("connected to the NATS cluster again", "node", nc.ConnectedServerName(), "reconnects", nc.Stats().Reconnects)
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			log.Warn("bus connection", "subject", subject, "error", err)
		}),
	}
	who, err := o.identity()
	if err != nil {
		return nil, err
	}
	opts = append(opts, who...)
	if o.CAFile != "" {
		opts = append(opts, nats.RootCAs(o.CAFile))
	}
	if o.CertFile != "" {
		opts = append(opts, nats.ClientCert(o.CertFile, o.KeyFile))
	}
	beside, err := o.Beside.Beside()
	return append(opts, beside...), err
}

// identity tells the nodes who connects.
func (o *ExternalOptions) identity() ([]nats.Option, error) {
	switch {
	case o.CredsFile != "":
		return []nats.Option{nats.UserCredentials(o.CredsFile)}, nil
	case o.NKeyFile != "":
		opt, err := nats.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the NKey seed %s: %w", o.NKeyFile, err)
		}
		return []nats.Option{opt}, nil
	case o.PasswordFile != "":
		if _, err := readPassword(o.PasswordFile); err != nil {
			return nil, err
		}
		return []nats.Option{nats.UserInfoHandler(func() (string, string) {
			password, err := readPassword(o.PasswordFile)
			if err != nil {
				o.Logger.Error("the password for the NATS cluster cannot be read", "error", err)
			}
			return o.User, password
		})}, nil
	case o.User != "":
		return []nats.Option{nats.UserInfo(o.User, o.Password)}, nil
	}
	return nil, nil
}

const maxPasswordFile = 4 << 10

func readPassword(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read the password for the NATS cluster: %w", err)
	}
	if info.Size() > maxPasswordFile {
		return "", fmt.Errorf("read the password for the NATS cluster: %s has more than %d bytes", path, maxPasswordFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the password for the NATS cluster: %w", err)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// reconnectDelay is how long it waits after every node was tried in vain.
func reconnectDelay(attempts int) time.Duration {
	return jitter(min(50*time.Millisecond<<min(max(attempts-1, 0), 10), externalDelay))
}

// CheckURL judges an address of a node.
func CheckURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.User != nil:
		return errors.New("takes no user or password, which would be shown with it; set NATS_USER and NATS_PASSWORD, NATS_CREDS or NATS_NKEY")
	case u.Scheme != "nats" && u.Scheme != "tls", u.Host == "":
		return fmt.Errorf("%q is not the address of a NATS server; write nats://host:4222 or tls://host:4222, separated by commas", u.Redacted())
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "":
		return errors.New("takes no path, query or fragment")
	}
	return nil
}

// SettingError says that a server or a stream is set in a way that could lose what
// grout keeps, or that grout cannot work with. Nothing was changed.
type SettingError struct{ What string }

func (e *SettingError) Error() string { return e.What }

func settingf(format string, args ...any) error { return &SettingError{fmt.Sprintf(format, args...)} }

// least is the version of nats-server from which on a batch is published whole or not
// at all.
var least = [2]int{2, 12}

// checkExternal judges the node that the connection has reached.
func checkExternal(nc *nats.Conn, replicas int) error {
	if v, ok := serverVersion(nc.ConnectedServerVersion()); ok && (v[0] < least[0] || v[0] == least[0] && v[1] < least[1]) {
		return settingf("node %s runs nats-server %s; grout needs %d.%d or later, for batches that are published whole or not at all", nc.ConnectedServerName(), nc.ConnectedServerVersion(), least[0], least[1])
	}
	if have := nc.MaxPayload(); have < maxPayload {
		return settingf("node %s takes messages of at most %d bytes; grout needs max_payload: %dMB on every node, for a dead letter holds a whole group of commands", nc.ConnectedServerName(), have, maxPayload>>20)
	}
	if n := len(nc.Servers()); replicas < 3 && n >= 3 {
		return settingf("streams of %d replicas on a cluster of %d nodes: the loss of one node would be the loss of what was acknowledged; set MOZAIKS_NATS_REPLICAS=3", replicas, n)
	}
	return nil
}

func serverVersion(text string) (v [2]int, ok bool) {
	parts := strings.SplitN(text, ".", 3)
	if len(parts) < 2 {
		return v, false
	}
	for i := range v {
		n, err := strconv.Atoi(parts[i])
		if err != nil {
			return v, false
		}
		v[i] = n
	}
	return v, true
}

// Codes of the JetStream API that pass by themselves.
const (
	codeNoPeers         = 10005
	codeNotAvailable    = 10008
	codeNotLeader       = 10009
	codeInsufficient    = 10023
	codeStreamOffline   = 10118
	codeConsumerOffline = 10119
)

// Passing reports whether an error says no more than that a cluster is not there, or
// cannot decide anything at the moment.
func Passing(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		switch api.ErrorCode {
		case codeNoPeers, codeNotAvailable, codeNotLeader, codeInsufficient, codeStreamOffline, codeConsumerOffline:
			return true
		}
		return api.Code == 503 || silent(err)
	}
	for _, passes := range []error{
		nats.ErrNoServers, nats.ErrDisconnected, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting, nats.ErrReconnectBufExceeded,
		nats.ErrStaleConnection, nats.ErrInvalidConnection, ErrSilent, ErrNotStored, ErrClosed, ErrLeaseLost,
	} {
		if errors.Is(err, passes) {
			return true
		}
	}
	return silent(err)
}

// stdConfirm is how long a cluster has to say the same before a loss is believed: a node
// that was the leader, and has not heard that it is no more, answers with the past.
const stdConfirm = 10 * time.Second

// confirmed looks again until what looks like a loss is gone, or has stayed. A look at an
// embedded server is believed at once.
func (b *Bus) confirmed(ctx context.Context, what string, look func() (loss bool, err error)) (err error) {
	began := time.Now()
	for tries := 1; ; tries++ {
		loss, err := look()
		if !loss || !b.cfg.External || time.Since(began) > b.cfg.Confirm && tries > 3 {
			return err
		}
		b.cfg.Logger.Warn("the cluster shows less than it had; looking again", "what", what, "error", err)
		if err := pause(ctx, 5); err != nil {
			return err
		}
	}
}

// isGuard reports whether an error is what a guard found.
func isGuard(err error) bool {
	var g *GuardError
	return errors.As(err, &g)
}
