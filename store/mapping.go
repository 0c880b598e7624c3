package store

import (
	"fmt"

	"go.etcd.io/bbolt"
)

// DropMapped lets go of what the process holds of its mapping of the file, which
// otherwise grows to all that was ever read. The pages stay in the system's cache.
func (s *Store) DropMapped() error {
	return s.db.View(func(bolt *bbolt.Tx) error { // while a transaction is open the mapping does not move
		size := bolt.Size()
		if err := dropMapped(s.db.Info().Data, int(size-size%int64(s.db.Info().PageSize))); err != nil {
			return fmt.Errorf("let go of the mapping of %s: %w", s.path, err)
		}
		return nil
	})
}
