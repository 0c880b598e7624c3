package store

import (
	"fmt"

	"go.etcd.io/bbolt"
)

// FactSequence gives the number of an app's last fact; 0: there is none.
func (s *Store) FactSequence(app string) (last uint64, err error) {
	defer s.db.shield(&err)()
	err = s.db.View(func(bolt *bbolt.Tx) error {
		v, err := bucketOf(bolt, bucketApps).get([]byte(app))
		if err != nil || v == nil {
			return err
		}
		r := newReader(v)
		r.Form(1)
		last = r.Uvarint()
		return r.Err
	})
	if err != nil {
		return 0, fmt.Errorf("counters of app %q: %w", app, err)
	}
	return last, nil
}
