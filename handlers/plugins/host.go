package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"grout/schemas"
)

// DefaultTimeout is how long a call may take (contract §4).
const DefaultTimeout = 30 * time.Second

// Options say how a Host runs plugins.
type Options struct {
	// Dir holds a folder for each plugin. It need not be there.
	Dir string
	// Only are the names of the plugins that are looked at; none: all are.
	Only []string
	// StateDir is where grout keeps what belongs to plugins: their homes, the shim and
	// their logs.
	StateDir string
	// Timeout is that of plugins which name none; 0 is DefaultTimeout.
	Timeout time.Duration
	// Hide are paths that plugins must not see.
	Hide []string
	// Exe is this program, which starts workers as `grout plugin-worker`; empty: the
	// running executable.
	Exe string
	// User is who workers run as; nil: grout's own user.
	User *Credential
	// Bus reaches plugins of kind nats; nil: there are none.
	Bus Requester
	// Go are the functions that plugins of kind go may name as their entry, beside those
	// that are built in.
	Go map[string]Func
	// Env is the environment of grout, of which workers get a little.
	Env    []string
	Logger *slog.Logger
}

// Credential is the user that workers run as.
type Credential struct{ UID, GID uint32 }

// Func is a plugin of kind go. It must return once ctx ends: nothing else can end it.
type Func func(ctx context.Context, data []byte, publish func(name string, data []byte) error) ([]byte, error)

// Host finds plugins and calls them.
type Host struct {
	o        Options
	log      *slog.Logger
	runtimes map[string]runtime
	logs     *logs
	loads    chan struct{} // permits to load a plugin while others do

	mu      sync.Mutex
	pools   map[string]*pool
	ctx     context.Context // of Run; nil before it
	stopped bool
	live    map[worker]struct{}
	work    sync.WaitGroup // everything that Run has begun

	// Of look alone.
	watches map[string]*watch
	trouble string // why the directory cannot be read
}

// Info is what is told of a plugin. One that does not load is not enabled and has an
// Error.
type Info struct {
	Name, DisplayName, Description, Version string
	Backend                                 string // what runs it: the file of its code, else its kind
	Error                                   string
	Enabled                                 bool
	Kind                                    string // process, nats or go
	Limits                                  Limits
	RetryOnCrash                            bool
	Path                                    string // its folder
}

// Loaded reports whether the plugin can be called.
func (i *Info) Loaded() bool { return i.Enabled && i.Error == "" }

// Stat is what a plugin does at present, and what it did since the start.
type Stat struct {
	Name                   string
	Workers, Busy, Waiting int
	Calls, Crashes, Starts uint64
	Reloads                uint64
}

// New looks at the directory once and starts nothing.
func New(o Options) (*Host, error) {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Timeout < 0 || o.Timeout > maxTimeout {
		return nil, fmt.Errorf("plugins: a time limit of %s is not between 0 and %s", o.Timeout, maxTimeout)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []*string{&o.Dir, &o.StateDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return nil, fmt.Errorf("plugins: find %s: %w", *dir, err)
		}
		*dir = abs
	}
	process, err := newProcessRuntime(&o)
	if err != nil {
		return nil, fmt.Errorf("plugins: %w", err)
	}
	return newHost(o, process), nil
}

func newHost(o Options, process runtime) *Host {
	h := &Host{
		o: o, log: o.Logger, pools: map[string]*pool{}, watches: map[string]*watch{}, logs: newLogs(o.StateDir), loads: make(chan struct{}, loadsAtOnce),
		runtimes: map[string]runtime{kindProcess: process, kindGo: newGoRuntime(o.Go), kindNATS: newNATSRuntime(o.Bus)},
	}
	h.look()
	return h
}

// List tells of every plugin that was found, by name.
func (h *Host) List() []Info {
	all := h.all()
	infos := make([]Info, 0, len(all))
	for _, p := range all {
		infos = append(infos, p.info())
	}
	return infos
}

// Stats tells what every plugin does, by name.
func (h *Host) Stats() []Stat {
	all := h.all()
	stats := make([]Stat, 0, len(all))
	for _, p := range all {
		stats = append(stats, p.stat())
	}
	return stats
}

func (h *Host) all() []*pool {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*pool, 0, len(h.pools))
	for _, p := range h.pools {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b *pool) int { return strings.Compare(a.name, b.name) })
	return all
}

func (h *Host) pool(name string) *pool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pools[name]
}

// Find gives a plugin that can be called. Its error is a *schemas.Error: NOT_FOUND, or
// PLUGIN_LOAD_FAILED (contract §4).
func (h *Host) Find(name string) (Info, error) {
	p := h.pool(name)
	if p == nil {
		return Info{}, notFound(name)
	}
	info := p.info()
	if err := callable(&info); err != nil {
		return Info{}, err
	}
	return info, nil
}

// callable tells why a plugin cannot be called; nil when it can.
func callable(i *Info) error {
	switch {
	case i.Error != "":
		return loadFailed(i.Name)
	case !i.Enabled:
		return notFound(i.Name)
	}
	return nil
}

// Enter waits for a free worker of a plugin. Its error is a *schemas.Error as of Find, or
// PLUGIN_BUSY, or that of ctx. A ticket is left when it is no longer needed.
func (h *Host) Enter(ctx context.Context, name string) (*Ticket, error) {
	p := h.pool(name)
	if p == nil {
		return nil, notFound(name)
	}
	return p.enter(ctx)
}

// errStopped is why calls end when the host does.
var errStopped = errors.New("grout is stopping")

func notFound(name string) error {
	return schemas.Errorf(schemas.CodeNotFound, "Plugin '%s' not found or disabled", shortName(name))
}

func loadFailed(name string) error {
	return schemas.Errorf(schemas.CodePluginLoadFailed, "Plugin '%s' not found.", shortName(name))
}

func busy(name string) error {
	return schemas.BusyPlugin(name)
}

// shortName bounds what is repeated of a name that somebody sent.
func shortName(name string) string {
	if len(name) <= schemas.MaxIDChars {
		return strings.ToValidUTF8(name, "�")
	}
	return strings.ToValidUTF8(name[:schemas.MaxIDChars], "�") + "…"
}
