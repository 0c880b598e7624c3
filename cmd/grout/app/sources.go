package app

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"grout/schemas"
)

// Where the manifest below all that are synced can come from.
const (
	SourceLocal        = "local"
	SourceEnv          = "env"
	SourceControlPlane = "control_plane"
)

// Names of files that are configuration.
const (
	CatalogueFile    = "subscription_config.json"
	PluginLimitsFile = "entitlements.yaml"
)

// sourceLook is how often files are looked at; an edit counts within two seconds.
const sourceLook = time.Second

// wanted is a configuration as its source states it now.
type wanted struct {
	name    string
	content []byte
	// initial is what a log that never heard of the name is taken to say, so it need
	// not be written there.
	initial bool
}

// sources bring the configuration that lies outside of the log into it: files, the
// environment, and a control plane (architecture §2.4). What a source does not give,
// because it is away or broken, stays as it was. They outlive the nodes.
type sources struct {
	cfg    *Config
	logger *slog.Logger
	files  fileCache
	remote remoteManifest

	changed atomic.Int64 // configurations that were written into a log

	mu     sync.Mutex
	states map[string]*sourceState // by name of the source
}

// sourceState is how a source was when it was last looked at.
type sourceState struct {
	fault    string // empty: it was read
	failures int64
}

func newSources(cfg *Config, logger *slog.Logger) *sources {
	s := &sources{cfg: cfg, logger: logger, states: map[string]*sourceState{}}
	s.files.read = map[string]*readFile{}
	if cfg.EntitlementSource == SourceControlPlane {
		s.remote.open(cfg)
	}
	return s
}

// Names of the sources, in logs and metrics.
const (
	sourceManifest  = "manifest"
	sourceCatalogue = "catalogue"
	sourcePlugins   = "plugins"
)

// look reads everything that is on this machine. known are the names that some log
// knows, so that what is gone from the disk can be taken back. faults are, by source,
// what could not be read.
func (s *sources) look(known []string) (list []wanted, faults map[string]error) {
	faults = map[string]error{}
	keep := func(source string, w []wanted, err error) {
		faults[source] = err
		s.note(source, err, lastHolds)
		if err == nil {
			list = append(list, w...)
		}
	}
	switches := schemas.Switches{Monetization: s.cfg.Monetization, Enforce: s.cfg.Enforce}
	if s.cfg.RunSilence != time.Duration(schemas.RunSilence) {
		switches.RunSilence = int64(s.cfg.RunSilence / time.Second)
	}
	list = append(list, wanted{schemas.ConfigSwitches, mustJSON(switches), switches == schemas.Switches{Enforce: true}})
	w, err := s.catalogue()
	keep(sourceCatalogue, w, err)
	w, err = s.plugins(known)
	keep(sourcePlugins, w, err)
	if s.cfg.EntitlementSource != SourceControlPlane {
		w, err = s.localManifest()
		keep(sourceManifest, w, err)
	}
	return list, faults
}

const lastHolds = "what it said before still holds"

// note keeps how a source was, and tells when that changes, and what follows from it.
func (s *sources) note(source string, err error, follows string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.states[source]
	if st == nil {
		st = &sourceState{}
		s.states[source] = st
	}
	text := ""
	if err != nil {
		text = oneLine(err)
		st.failures++
	}
	if text == st.fault {
		return
	}
	if text == "" {
		s.logger.Info("a source of configuration can be read again", "source", source)
	} else {
		s.logger.Error("a source of configuration cannot be used", "source", source, "error", text, "follows", follows)
	}
	st.fault = text
}

// each tells how every source is.
func (s *sources) each(tell func(source string, ok bool, failures int64)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.states)) {
		tell(name, s.states[name].fault == "", s.states[name].failures)
	}
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own types
	}
	return b
}

// settleSources brings what is on this machine into the logs before anything is decided
// by it. Without anything known from before, a source that cannot be used refuses the
// start: nobody could say what is allowed.
func (n *node) settleSources(ctx context.Context) error {
	list, faults := n.sources.look(n.configNames())
	for source, name := range map[string]string{sourceManifest: schemas.ConfigManifest, sourceCatalogue: schemas.ConfigCatalogue} {
		if err := faults[source]; err != nil && !slices.Contains(n.configNames(), name) {
			return fmt.Errorf("the %s cannot be used, and no earlier one is known: %w", source, err)
		}
	}
	if err := n.configure(ctx, list); err != nil {
		return fmt.Errorf("bring the configuration into the log: %w", err)
	}
	n.settled.Store(true)
	return nil
}

// followSources keeps the logs up to date with what is on this machine until ctx ends.
func (n *node) followSources(ctx context.Context) error {
	look := time.NewTicker(cmp.Or(n.cfg.sourceLook, sourceLook))
	defer look.Stop()
	told := ""
	for {
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
		list, _ := n.sources.look(n.configNames())
		err := n.configure(ctx, list)
		if err == nil || ctx.Err() != nil {
			told = ""
		} else if err.Error() != told {
			told = err.Error()
			n.logger.Warn("configuration could not be written into the log; it will be tried again", "error", err)
		}
	}
}

// configNames lists every name that a log of this node knows.
func (n *node) configNames() (names []string) {
	for _, p := range n.partitions {
		for _, name := range p.store.ConfigNames() {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// configure writes what differs from the log into the log of every partition.
func (n *node) configure(ctx context.Context, list []wanted) (err error) {
	for _, w := range list {
		for _, p := range n.partitions {
			if why := n.configurePartition(ctx, p, w); why != nil {
				err = errors.Join(err, fmt.Errorf("partition %d: configuration %s: %w", p.number, w.name, why))
			}
		}
	}
	return err
}

func (n *node) configurePartition(ctx context.Context, p *partition, w wanted) error {
	have := p.store.Config(w.name)
	if have == nil && w.initial || have != nil && have.Digest == sha256.Sum256(w.content) {
		return nil
	}
	change := schemas.NewConfigChange(w.name, w.content)
	if err := change.Validate(); err != nil {
		return err
	}
	now := n.clock.now().UnixNano()
	if n.clock.refuses(now, p.store.Now()) != "" {
		now = p.store.Now() // configuration does not wait for the clock, and does not move it
	}
	if err := writeCommand(ctx, p.publisher, ownCommand(schemas.ConfigSet.Name, "config", now, change.EncodePayload(nil))); err != nil {
		return err
	}
	n.sources.changed.Add(1)
	n.logger.Info("configuration is in the log", "name", w.name, "partition", p.number, "bytes", len(w.content), "sha256", fmt.Sprintf("%.12x", change.Digest))
	return nil
}

// pluginOf gives the plugin whose rules a name of the configuration stands for.
func pluginOf(name string) (string, bool) { return strings.CutPrefix(name, schemas.ConfigPluginPrefix) }
