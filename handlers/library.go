package handlers

import (
	"fmt"
	"sync"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

// maxLibraryBytes bounds the texts that a library remembers the meaning of.
const maxLibraryBytes = 32 << 20

// library remembers manifests and configurations that it has read. What stands at a
// place of the log never changes.
type library struct {
	mu    sync.Mutex
	read  map[store.Place]any
	bytes int
}

func newLibrary() *library { return &library{read: map[store.Place]any{}} }

// meaning gives what the text that came with the command at a place means.
func meaning[T any](l *library, at store.Place, content []byte, parse func([]byte) (T, *schemas.Error)) (T, error) {
	l.mu.Lock()
	known, ok := l.read[at].(T)
	l.mu.Unlock()
	if ok {
		return known, nil
	}
	v, fault := parse(content)
	if fault != nil {
		return v, fault
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes += len(content); l.bytes > maxLibraryBytes {
		clear(l.read)
		l.bytes = len(content)
	}
	l.read[at] = v
	return v, nil
}

// unreadable says that something in the log cannot be read. A check that needs it has
// failed (contract §5.2.12); a handler that cannot do without it has, too.
type unreadable struct {
	what string
	why  error
}

func (u *unreadable) Error() string { return fmt.Sprintf("%s cannot be read: %v", u.what, u.why) }

func unreadableConfig(name string, why error) error {
	return &unreadable{"configuration " + name, why}
}

func (l *library) manifest(v *store.ManifestVersion) (*schemas.Manifest, error) {
	m, err := meaning(l, v.Place, v.Content, schemas.ParseManifest)
	if err != nil {
		return nil, &unreadable{fmt.Sprintf("the manifest of %s %q", v.Scope.Kind, v.Scope.IDIn(v.AppID)), err}
	}
	return m, nil
}

// state is what the entitlements of somebody are read from: the running transaction,
// or what is committed.
type state interface {
	Config(name string, asOf int64) (*store.ConfigVersion, error)
	Manifest(app string, scope schemas.Scope, asOf int64) (*store.ManifestVersion, error)
	Budget(app string, scope schemas.Scope) (*store.Budget, error)
	Usage(q *store.UsageQuestion) (store.ScopeUsage, error)
	Window(app string, scope schemas.Scope, limit string) (schemas.RateWindow, error)
	Leases(app string, scope schemas.Scope, limit string, now int64) ([]schemas.Lease, error)
	Calls(app string, scope schemas.Scope, plugin string) (schemas.Consumption, error)
	Consumed(app string, scope schemas.Scope, plugin, limit string) (schemas.Consumption, error)
}

// txState is the running transaction, which knows no past.
type txState struct{ *store.Tx }

func (t txState) Config(name string, _ int64) (*store.ConfigVersion, error) {
	return t.Tx.Config(name), nil
}

func (t txState) Manifest(app string, scope schemas.Scope, _ int64) (*store.ManifestVersion, error) {
	return t.Tx.Manifest(app, scope)
}

func (t txState) Leases(app string, scope schemas.Scope, limit string, _ int64) ([]schemas.Lease, error) {
	return t.Tx.Leases(app, scope, limit)
}

// layers lists the manifests that apply in scopes of an app, which come from the most
// specific one to the app. Beside an error stand those before it.
func (l *library) layers(s state, app string, scopes []schemas.Scope, asOf int64) (list []entitlements.Layer, err error) {
	for _, scope := range scopes {
		v, err := s.Manifest(app, scope, asOf)
		if err != nil {
			return nil, err
		}
		if v != nil {
			m, err := l.manifest(v)
			if err != nil {
				return nil, err
			}
			list = append(list, entitlements.Layer{Scope: scope, Revision: v.Revision, At: v.At, Manifest: m})
		}
		if scope.Kind != schemas.ScopeApp {
			continue
		}
		below, at, err := l.below(s, asOf)
		if err != nil {
			return list, err
		}
		if below != nil && below.AppID == app {
			list = append(list, entitlements.Layer{Scope: scope, Below: true, At: at, Manifest: below})
		}
	}
	return list, nil
}

// below gives the manifest that lies below that of its app, and since when.
func (l *library) below(s state, asOf int64) (*schemas.Manifest, int64, error) {
	v, err := s.Config(schemas.ConfigManifest, asOf)
	if err != nil || v == nil {
		return nil, 0, err
	}
	b, err := meaning(l, v.Place, v.Content, schemas.ParseBelow)
	if err != nil {
		return nil, 0, unreadableConfig(v.Name, err)
	}
	return b.Manifest, v.At, nil
}

// catalogue gives the plans that there are; nil without any.
func (l *library) catalogue(s state, asOf int64) (*schemas.Catalogue, error) {
	v, err := s.Config(schemas.ConfigCatalogue, asOf)
	if err != nil || v == nil {
		return nil, err
	}
	c, err := meaning(l, v.Place, v.Content, schemas.ParseCatalogue)
	if err != nil {
		return nil, unreadableConfig(v.Name, err)
	}
	return c, nil
}

func (l *library) switches(s state, asOf int64) (schemas.Switches, error) {
	v, err := s.Config(schemas.ConfigSwitches, asOf)
	if err != nil || v == nil {
		return schemas.Switches{Enforce: true}, err
	}
	w, err := meaning(l, v.Place, v.Content, schemas.ParseSwitches)
	if err != nil {
		return w, unreadableConfig(v.Name, err)
	}
	return w, nil
}

// plugin gives the rules of a plugin; nil when it has none.
func (l *library) plugin(s state, name string, asOf int64) (*schemas.PluginEntitlements, error) {
	v, err := s.Config(schemas.ConfigPluginPrefix+name, asOf)
	if err != nil || v == nil {
		return nil, err
	}
	return meaning(l, v.Place, v.Content, func(content []byte) (*schemas.PluginEntitlements, *schemas.Error) {
		return schemas.ParsePluginConfig(name, content), nil
	})
}
