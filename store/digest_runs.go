package store

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// runDigests gives a digest of each app's runs, of their events and of what stands beside
// them, as far as they have not expired. Homes and instants are left out.
func (s *Store) runDigests() (map[string]*appDigest, error) {
	apps := map[string]*appDigest{}
	add := func(app string, item []byte) {
		if apps[app] == nil {
			apps[app] = &appDigest{}
		}
		apps[app].items = append(apps[app].items, item)
	}
	err := s.db.View(func(bolt *bbolt.Tx) error {
		above, err := readLine(bolt)
		if err != nil {
			return err
		}
		l := &Look{bolt: bolt}
		c := l.bucket(bucketRuns).cursor()
		for k, v := c.seek(keySeq(above.Position)); k != nil; k, v = c.next() {
			app, item, err := runItem(l, k, v)
			if err != nil {
				return err
			}
			add(app, item)
		}
		if c.err != nil {
			return c.err
		}
		c = l.bucket(bucketRunEvents).cursor()
		for k, v := c.seek(keySeq(above.Position)); k != nil; k, v = c.next() {
			app, item, err := runEventItem(k, v)
			if err != nil {
				return err
			}
			add(app, item)
		}
		return c.err
	})
	return apps, err
}

func runItem(l *Look, key, value []byte) (app string, item []byte, err error) {
	at := newReader(key)
	r, err := parseRun(at.place(), value)
	if err != nil {
		return "", nil, err
	}
	item = []byte("run ")
	if x := r.Execution; x != nil {
		x.AcceptedAt = 0
		for _, body := range [...]struct {
			has  bool
			what runBody
		}{{x.HasData, bodyData}, {x.HasResult, bodyResult}} {
			if !body.has {
				continue
			}
			content, err := readRunBody(l, r, body.what)
			if err != nil {
				return "", nil, err
			}
			sum := sha256.Sum256(content)
			item = append(append(item, byte(body.what)), sum[:]...)
		}
	}
	r.StartedAt, r.UpdatedAt, r.EndedAt, r.DueAt, r.homed, r.earlier = 0, 0, 0, 0, 0, nil
	return r.AppID, r.append(item), nil
}

func runEventItem(key, value []byte) (app string, item []byte, err error) {
	if len(value) == 0 || value[0] != 1 {
		return "", nil, fmt.Errorf("event of a run at %x: %w", key, errDamaged)
	}
	var e schemas.RunEventData
	if err := json.Unmarshal(value[1:], &e); err != nil {
		return "", nil, fmt.Errorf("event of a run at %x: %w", key, errDamaged)
	}
	e.Timestamp = ""
	return e.AppID, e.AppendJSON([]byte("run event ")), nil
}
