package store

import (
	"context"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// BatchOfApp gives what is known of an app's part of a batch.
func (s *Store) BatchOfApp(ctx context.Context, app, batchID string) (st schemas.BatchStatus, found bool, err error) {
	if err := ctx.Err(); err != nil {
		return st, false, err
	}
	fp, _ := schemas.FingerprintOf(schemas.IDBatch, "", batchID, nil)
	// The lock comes first: the table must not point beyond the transaction.
	s.idMu.RLock()
	bolt, err := s.db.Begin(false)
	if err != nil {
		s.idMu.RUnlock()
		return st, false, err
	}
	defer func() { _ = bolt.Rollback() }()
	ordinal, e, err := s.lookup(bucketOf(bolt, bucketIDs), &fp)
	s.idMu.RUnlock()
	if err != nil || ordinal == 0 {
		return st, false, err
	}
	b, err := readBatch(bolt, placeOf(e.ref))
	if err != nil {
		return st, false, err
	}
	if b == nil {
		return st, false, errDamaged
	}
	if b.Known(app) == nil {
		return st, false, nil
	}
	st.BatchID, st.Applied = b.BatchID, true
	st.Outcome, err = b.outcome(bolt, func(p *Part) bool { return p.AppID == app && p.Outcome != PartConflict })
	return st, err == nil, err
}

// BatchAt gives the outcome of the command at a place. Applied is false when the
// partition has not come that far.
func (s *Store) BatchAt(seq uint64, index uint32) (st schemas.BatchStatus, found bool, err error) {
	if s.Checkpoint().Seq < seq {
		return st, true, nil
	}
	err = s.db.View(func(bolt *bbolt.Tx) error {
		b, err := readBatch(bolt, Place{seq, index})
		if err != nil || b == nil {
			return err
		}
		found = true
		st.BatchID, st.Applied = b.BatchID, true
		st.Outcome, err = b.outcome(bolt, own)
		return err
	})
	return st, found, err
}
