package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"grout/schemas"
)

// ManifestVersion is what a scope of an app was entitled to from a command on
// (contract §5.2.2). Versions are kept. Form 1 (`manifests`: app, scope, log position,
// index): form, how it came, revision, handler time, source, correlation id, content.
type ManifestVersion struct {
	AppID         string
	Scope         schemas.Scope
	Place         Place
	At            int64 // handler time: nanoseconds since 1970 UTC
	Revision      int64
	Legacy        bool // made of a subscription
	Source        string
	CorrelationID string
	Content       []byte // canonical JSON of the whole manifest
}

func (v *ManifestVersion) append(b []byte) []byte {
	legacy := byte(0)
	if v.Legacy {
		legacy = 1
	}
	b = append(b, 1, legacy)
	b = binary.AppendVarint(b, v.Revision)
	b = binary.AppendVarint(b, v.At)
	b = appendRest(b, v.Source, v.CorrelationID)
	b = binary.AppendUvarint(b, uint64(len(v.Content)))
	return append(b, v.Content...)
}

func parseManifest(key, value []byte) (*ManifestVersion, error) {
	k, r := newReader(key), newReader(value)
	v := &ManifestVersion{}
	v.AppID, v.Scope = k.scope()
	v.Place = k.place()
	r.Form(1)
	v.Legacy = r.Byte() == 1
	v.Revision, v.At = r.Varint(), r.Varint()
	v.Source, v.CorrelationID = r.text(), r.text()
	v.Content = bytes.Clone(r.Bytes(r.Uvarint()))
	if k.Err != nil || r.Err != nil || len(k.B)+len(r.B) > 0 {
		return nil, fmt.Errorf("manifest at %x: %w", key, errDamaged)
	}
	return v, nil
}

// readManifest gives a scope's newest version of an instant, nil when it had none. For
// handler time that was set back, the order of the log decides.
func readEntitled(t reading, app string, scope schemas.Scope, asOf int64) (*ManifestVersion, error) {
	prefix := keyScope(app, scope)
	c := t.bucket(bucketManifests).cursor()
	for k, v := c.before(after(prefix)); bytes.HasPrefix(k, prefix); k, v = c.prev() {
		m, err := parseManifest(k, v)
		if err != nil || m.At <= asOf {
			return m, err
		}
	}
	return nil, c.err
}

// Newest is later than anything that is stored.
const Newest = schemas.LastInstant

// Manifest gives the newest manifest of a scope, up to the running command; nil when
// it has none.
func (tx *Tx) Manifest(app string, scope schemas.Scope) (*ManifestVersion, error) {
	key := manifestOf{app, scope}
	if tx.stage.manifests[key] {
		m, err := readEntitled(tx, app, scope, Newest)
		return m, faultOf("read manifest", err)
	}
	committed := logPosition(tx.store.applied.Epoch, tx.store.applied.Seq)
	if m, known := tx.store.newest.get(key, committed); known {
		return m, nil
	}
	m, err := readEntitled(tx, app, scope, Newest)
	if err == nil {
		tx.store.newest.keep(key, m, committed)
	}
	return m, faultOf("read manifest", err)
}

// ManifestBefore gives the version before one; nil for the first.
func (tx *Tx) ManifestBefore(v *ManifestVersion) (*ManifestVersion, error) {
	c := tx.bucket(bucketManifests).cursor()
	k, value := c.before(keyManifest(v.AppID, v.Scope, v.Place))
	if !bytes.HasPrefix(k, keyScope(v.AppID, v.Scope)) {
		return nil, faultOf("read manifest", c.err)
	}
	m, err := parseManifest(k, value)
	return m, faultOf("read manifest", err)
}

// PutManifest stores what a scope is entitled to from the command with the given index
// on. Place and instant are set here.
func (tx *Tx) PutManifest(command uint32, v *ManifestVersion) error {
	v.Place, v.At = tx.Place(command), tx.applied.Now
	if tx.stage.manifests == nil {
		tx.stage.manifests = map[manifestOf]bool{}
	}
	tx.stage.manifests[manifestOf{strings.Clone(v.AppID), schemas.Scope{Kind: v.Scope.Kind, ID: strings.Clone(v.Scope.ID)}}] = true
	return faultOf("write manifest", tx.put(bucketManifests, keyManifest(v.AppID, v.Scope, v.Place), v.append(nil)))
}

// Manifest gives the newest manifest of a scope at an instant, by handler time; nil
// when it had none.
func (l *Look) Manifest(app string, scope schemas.Scope, asOf int64) (*ManifestVersion, error) {
	if asOf != Newest {
		return readEntitled(l, app, scope, asOf)
	}
	key := manifestOf{app, scope}
	if m, known := l.store.newest.get(key, l.at); known {
		return m, nil
	}
	m, err := readEntitled(l, app, scope, Newest)
	if err == nil {
		l.store.newest.keep(key, m, l.at)
	}
	return m, err
}

// ManifestHistory lists the versions of a scope's manifest, the newest first, at most
// limit of them that are older than the command at before; the zero place is no bound.
func (l *Look) ManifestHistory(app string, scope schemas.Scope, before Place, limit int) (list []*ManifestVersion, err error) {
	prefix := keyScope(app, scope)
	bound := after(prefix)
	if before != (Place{}) {
		bound = keyManifest(app, scope, before)
	}
	c := l.bucket(bucketManifests).cursor()
	for k, v := c.before(bound); bytes.HasPrefix(k, prefix) && len(list) < limit; k, v = c.prev() {
		m, err := parseManifest(k, v)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, c.err
}

// ManifestApps lists the apps that were ever synced, in order of their names' length
// and text.
func (s *Store) ManifestApps(ctx context.Context) (apps []string, err error) {
	err = s.Look(func(l *Look) error {
		c := l.bucket(bucketManifests).cursor()
		for k, _ := c.first(); k != nil; {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r := newReader(k)
			app := r.text()
			if r.Err != nil {
				return errDamaged
			}
			apps = append(apps, app)
			k, _ = c.seek(after(appendText(nil, app)))
		}
		return c.err
	})
	return apps, err
}

// ScopesOfApp lists the scopes of an app that were ever synced, at most limit of them.
func (l *Look) ScopesOfApp(app string, limit int) (scopes []schemas.Scope, err error) {
	prefix := appendText(nil, app)
	c := l.bucket(bucketManifests).cursor()
	for k, _ := c.seek(prefix); bytes.HasPrefix(k, prefix) && len(scopes) < limit; {
		r := newReader(k)
		_, scope := r.scope()
		if r.Err != nil {
			return nil, errDamaged
		}
		scopes = append(scopes, scope)
		k, _ = c.seek(after(keyScope(app, scope)))
	}
	return scopes, c.err
}
