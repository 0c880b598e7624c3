package app

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// External reports whether grout runs on a NATS cluster of somebody else's.
func (c *Config) External() bool { return c.NATSURL != "" }

// natsURLs takes the addresses of the nodes of a cluster.
func natsURLs(t string) error {
	if t == "" {
		return nil
	}
	for one := range strings.SplitSeq(t, ",") {
		if err := bus.CheckURL(strings.TrimSpace(one)); err != nil {
			return err
		}
	}
	return nil
}

// externalOptions say how the cluster is reached.
func externalOptions(cfg *Config, logger *slog.Logger) bus.ExternalOptions {
	o := bus.ExternalOptions{
		User: cfg.NATSUser, PasswordFile: cfg.NATSPasswordFile, CredsFile: cfg.NATSCreds, NKeyFile: cfg.NATSNKey,
		CAFile: cfg.NATSCA, CertFile: cfg.NATSCert, KeyFile: cfg.NATSKey, Logger: logger,
	}
	if len(cfg.NATSPassword.Values) > 0 {
		o.Password = cfg.NATSPassword.Values[0]
	}
	for one := range strings.SplitSeq(cfg.NATSURL, ",") {
		o.URLs = append(o.URLs, strings.TrimSpace(one))
	}
	return o
}

// validateExternal judges what belongs to a cluster.
func (c *Config) validateExternal() error {
	who := 0
	for _, set := range []bool{c.NATSUser != "", c.NATSCreds != "", c.NATSNKey != ""} {
		if set {
			who++
		}
	}
	password := len(c.NATSPassword.Values) > 0
	switch {
	case !c.External(): // the rest may be there for other programs
		return nil
	case who > 1:
		return errors.New("grout is one user of the NATS cluster: set NATS_USER, NATS_CREDS or NATS_NKEY")
	case who == 0 && c.NATSCert == "":
		return errors.New("NATS_URL needs who grout is there: set NATS_USER with NATS_PASSWORD or NATS_PASSWORD_FILE, NATS_CREDS, NATS_NKEY, or NATS_CERT with NATS_KEY")
	case c.NATSUser != "" && !password && c.NATSPasswordFile == "":
		return errors.New("NATS_USER needs NATS_PASSWORD or NATS_PASSWORD_FILE")
	case c.NATSUser != "" && password && c.NATSPasswordFile != "":
		return errors.New("set NATS_PASSWORD or NATS_PASSWORD_FILE, not both")
	case (password || c.NATSPasswordFile != "") && c.NATSUser == "":
		return errors.New("a password for the NATS cluster needs NATS_USER")
	case (c.NATSCert == "") != (c.NATSKey == ""):
		return errors.New("NATS_CERT and NATS_KEY belong together")
	}
	return nil
}

// ownership is this process's claim to the state of a cluster. It outlives the nodes.
type ownership struct {
	cfg     *Config
	logger  *slog.Logger
	conn    atomic.Pointer[nats.Conn]
	lease   atomic.Pointer[bus.Lease] // nil: the cluster was not reached yet
	standby atomic.Pointer[string]    // who else owns the state; nil: it is not waited for
	waiting func(owner string)        // is told who that is
}

// holder names this process in the lease. One data directory has one worker at a time,
// which its lock says: so a process that follows another one there need not wait.
func holder(cfg *Config) (h bus.LeaseHolder, err error) {
	h.PID = os.Getpid()
	if h.Host, err = os.Hostname(); err != nil {
		return h, fmt.Errorf("name this worker: %w", err)
	}
	info, err := os.Stat(filepath.Join(cfg.DataDir, "lock"))
	if err != nil {
		return h, fmt.Errorf("name this worker: %w", err)
	}
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // not on every system
	file := ""
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		file = fmt.Sprint(st.Dev, "/", st.Ino)
	}
	path, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		return h, fmt.Errorf("name this worker: %w", err)
	}
	sum := sha256.Sum256([]byte(strings.Join([]string{h.Host, string(boot), path, file}, "\x00")))
	h.Worker = hex.EncodeToString(sum[:12])
	return h, nil
}

// open connects, once; a cluster that is not there is waited for.
func (o *ownership) open() (lease *bus.Lease, err error) {
	if lease = o.lease.Load(); lease != nil {
		return lease, nil
	}
	h, err := holder(o.cfg)
	if err != nil {
		return nil, err
	}
	conn := o.conn.Load()
	if conn == nil {
		if conn, err = bus.ConnectExternal(externalOptions(o.cfg, o.logger), "grout-lease"); err != nil {
			return nil, err
		}
		o.conn.Store(conn)
	}
	lease, err = bus.NewLease(conn, bus.LeaseOptions{Holder: h, TTL: o.cfg.LeaseTTL, Replicas: o.cfg.NATSReplicas, Logger: o.logger})
	if err == nil {
		o.lease.Store(lease)
	}
	return lease, err
}

// held runs work while the lease is this worker's: it waits for the lease, and ends the
// work when another worker has got it.
func (o *ownership) held(ctx context.Context, work func(context.Context) error) error {
	lease, err := o.open()
	if err != nil {
		return err
	}
	defer o.standby.Store(nil)
	err = lease.Take(ctx, func(h bus.LeaseHolder) {
		owner := h.String()
		o.standby.Store(&owner)
		o.logger.Warn("another grout owns the state of this cluster; standing by until its lease ends", "owner", owner)
		if o.waiting != nil {
			o.waiting(owner)
		}
	})
	if err != nil {
		return err
	}
	o.standby.Store(nil)
	o.logger.Info("this worker owns the state", "bucket", bus.LeaseBucket, "revision", lease.Revision())
	life, lost := context.WithCancel(ctx)
	defer lost()
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx)) // also while the work ends
	defer stop()
	renewals := make(chan error, 1)
	go func() {
		err := lease.Run(renewing)
		lost()
		renewals <- err
	}()
	err = work(life)
	stop()
	return errors.Join(err, <-renewals)
}

// holds reports whether the state is this worker's for certain; without a cluster it is.
func (o *ownership) holds() bool {
	if o == nil {
		return true
	}
	lease := o.lease.Load()
	return lease != nil && lease.Held()
}

// close gives the lease back.
func (o *ownership) close(ctx context.Context) {
	if o == nil {
		return
	}
	if lease := o.lease.Load(); lease != nil {
		if err := lease.Release(ctx); err != nil {
			o.logger.Warn("the lease was not given back; another worker waits for its end", "error", err)
		}
	}
	if conn := o.conn.Load(); conn != nil {
		conn.Close()
	}
}

// why says what keeps a worker on a cluster from its work; empty when nothing does.
func (o *ownership) why() string {
	if o == nil {
		return ""
	}
	lease, owner := o.lease.Load(), o.standby.Load()
	switch {
	case owner != nil:
		return "standby: " + *owner + " owns the state"
	case lease == nil:
		return "the NATS cluster cannot be reached"
	case lease.Revision() > 0 && !lease.Held():
		return "the lease has run out and cannot be renewed: the NATS cluster cannot be reached, or has no quorum"
	}
	return ""
}

// passes reports whether a start on a cluster is worth another try: what keeps it is the
// cluster's, and not what grout was told or holds.
func passes(err error) bool {
	var guard *bus.GuardError
	var setting *bus.SettingError
	var told *schemas.Error
	switch {
	case errors.As(err, &guard):
		return guard.Name == bus.StreamUnreadable || guard.Name == bus.RelayFenced
	case errors.As(err, &setting), errors.Is(err, store.ErrStuck), errors.Is(err, nats.ErrAuthorization):
		return false
	case errors.As(err, &told):
		return told.Code == schemas.CodeUnavailable
	}
	return bus.Passing(err) || errors.Is(err, context.DeadlineExceeded)
}

// connectExternal opens the node's own connection.
func (n *node) connectExternal() (err error) {
	if n.conn, err = bus.ConnectExternal(externalOptions(&n.cfg, n.logger), "grout-"+n.name); err != nil {
		return err
	}
	if n.gate, err = bus.ServeGate(n.conn); err != nil {
		return err
	}
	if n.outside, err = bus.ConnectExternal(externalOptions(&n.cfg, n.logger), "grout-intake-"+n.name); err != nil {
		return err
	}
	n.intake, err = bus.ServeIntake(n.outside)
	return err
}

// natsURL is where others find the bus.
func (n *node) natsURL() string {
	if n.server != nil {
		return n.server.ClientURL()
	}
	first, _, _ := strings.Cut(n.cfg.NATSURL, ",")
	return strings.TrimSpace(first)
}

// faulted is signalled when the embedded server has met a write error.
func (n *node) faulted() <-chan struct{} {
	if n.server != nil {
		return n.server.Faulted()
	}
	return nil
}

// found is what was seen to be lost when the bus was opened.
func (n *node) found() []bus.Found {
	if n.server == nil {
		return n.bus.Found()
	}
	return append(n.server.Found(), n.bus.Found()...)
}

// releaseWithin bounds how long a stop waits for the lease to be given back.
const releaseWithin = 3 * time.Second

// openExternal is what a tool works with on a cluster. It owns the state meanwhile, so no
// grout works on it; whoever only looks needs no more than to be there.
func (o *offline) openExternal(ctx context.Context, cfg Config, tool string, logger *slog.Logger) (err error) {
	if o.conn, err = bus.ConnectExternal(externalOptions(&cfg, logger), "grout-"+tool); err != nil {
		return err
	}
	if tool == toolVerify {
		o.Bus, err = bus.Attach(o.conn, busConfig(cfg, nil))
		return err
	}
	o.owner = &ownership{cfg: &cfg, logger: logger}
	lease, err := o.owner.open()
	if err != nil {
		return err
	}
	taking, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err = lease.Take(taking, func(h bus.LeaseHolder) {
		cancel(fmt.Errorf("another grout owns the state of this cluster: %s; stop it first", h))
	})
	if err != nil {
		o.owner.close(context.WithoutCancel(ctx))
		return errors.Join(context.Cause(taking), err)
	}
	renewing, end := context.WithCancel(context.WithoutCancel(ctx))
	renewals := make(chan error, 1)
	go func() { renewals <- lease.Run(renewing) }()
	o.stop = func() {
		end()
		if err := <-renewals; err != nil {
			logger.Error("the lease was lost while the tool was at work", "error", err)
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseWithin)
		defer cancel()
		o.owner.close(closing)
	}
	limits := busConfig(cfg, nil)
	limits.KeepLimits = true
	o.Bus, err = bus.Open(ctx, o.conn, limits)
	return err
}

// toolVerify only reads.
const toolVerify = "verify"

// runningExternal verifies beside a grout that runs on a cluster, as grout itself.
func (r *verifier) runningExternal(ctx context.Context) ([]Verification, error) {
	nc, err := bus.ConnectExternal(externalOptions(&r.cfg, r.logger), "grout-"+toolVerify)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	return r.attached(ctx, nc)
}

// metrics tell whether this worker owns the state, and how often the cluster was lost.
func (o *ownership) metrics() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "grout_lease_held", Help: "1 when this worker owns the state of the cluster for certain."}, func() float64 {
			if o.holds() {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "grout_nats_reconnects_total", Help: "Times that the connection of the lease to the cluster was lost and came back since the start."}, func() float64 {
			if nc := o.conn.Load(); nc != nil {
				return float64(nc.Stats().Reconnects)
			}
			return 0
		}),
	}
}
