package store

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// entitlementDigests gives a digest of what entitlements keep of each app. Instants
// that follow from handler time are left out: other apps of the partition move it.
func (s *Store) entitlementDigests() (map[string]*appDigest, error) {
	apps := map[string]*appDigest{}
	add := func(app string, item []byte) {
		if apps[app] == nil {
			apps[app] = &appDigest{}
		}
		apps[app].items = append(apps[app].items, item)
	}
	err := s.db.View(func(bolt *bbolt.Tx) error {
		for _, id := range [...]bucketID{bucketManifests, bucketCounters, bucketHolds, bucketConsumed, bucketTold} {
			c := bucketOf(bolt, id).cursor()
			for k, v := c.first(); k != nil; k, v = c.next() {
				app, item, err := entitlementItem(id, k, v)
				if err != nil {
					return fmt.Errorf("%s at %x: %w", id, k, err)
				}
				if item != nil {
					add(app, item)
				}
			}
			if c.err != nil {
				return c.err
			}
		}
		return nil
	})
	return apps, err
}

// entitlementItem gives what a row says of its app, without where and when it was said.
func entitlementItem(id bucketID, key, value []byte) (app string, item []byte, err error) {
	item = []byte(id.String() + " ")
	switch id {
	case bucketManifests:
		v, err := parseManifest(key, value)
		if err != nil {
			return "", nil, err
		}
		item = binary.AppendVarint(append(item, keyScope(v.AppID, v.Scope)...), v.Revision)
		return v.AppID, append(item, v.Content...), nil
	case bucketHolds:
		h, err := parseHold(value)
		if err != nil {
			return "", nil, err
		}
		h.GrantedAt, h.ExpiresAt, h.ClosedAt, h.Answer = 0, 0, 0, nil
		return h.AppID, appendHold(item, &h), nil
	default:
		r := newReader(key)
		app, _ := r.scope()
		return app, append(append(item, key...), value...), r.Err
	}
}
