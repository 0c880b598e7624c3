package store

import (
	"strings"
	"sync"

	"grout/schemas"
)

// maxNewestBytes bounds the contents of manifests that are remembered.
const maxNewestBytes = 32 << 20

// newestManifests remembers the newest manifests of scopes, and which have none: a
// decision asks for three of them, and reads no history. What it says holds for whoever
// sees everything up to the last change.
type newestManifests struct {
	mu      sync.RWMutex
	of      map[manifestOf]*ManifestVersion // nil: the scope has none
	bytes   int
	changed uint64 // log position of the last message that brought a manifest
}

type manifestOf struct {
	app   string
	scope schemas.Scope
}

// rowBytes is about what an entry takes beside its content.
const rowBytes = 256

// get gives what is remembered for somebody who sees everything up to a log position.
func (n *newestManifests) get(key manifestOf, at uint64) (v *ManifestVersion, known bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	v, known = n.of[key]
	return v, known && n.changed <= at
}

// keep remembers what somebody has read who sees everything up to a log position.
func (n *newestManifests) keep(key manifestOf, v *ManifestVersion, at uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed > at {
		return
	}
	size := rowBytes
	if v != nil {
		size += len(v.Content)
	}
	if n.bytes += size; n.of == nil || n.bytes > maxNewestBytes {
		n.of, n.bytes = map[manifestOf]*ManifestVersion{}, size
	}
	key.app, key.scope.ID = strings.Clone(key.app), strings.Clone(key.scope.ID)
	n.of[key] = v
}

// change forgets the scopes that the message at a log position brought manifests for.
func (n *newestManifests) change(scopes map[manifestOf]bool, at uint64) {
	if len(scopes) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for key := range scopes {
		delete(n.of, key)
	}
	n.changed = at
}
