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
	defer s.db.shield(&err)()
	bolt, ordinal, e, err := s.beginAt(&fp)
	if bolt != nil {
		defer func() { _ = bolt.Rollback() }()
	}
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
	above, err := readLine(bolt)
	if err != nil {
		return st, false, err
	}
	b.forget(&above)
	if b.Known(app) == nil {
		return st, false, nil
	}
	st.BatchID, st.Applied = b.BatchID, true
	st.Outcome, err = b.outcome(bolt, &above, func(p *Part) bool { return p.AppID == app && p.Outcome != PartConflict })
	return st, err == nil, err
}

// beginAt opens a look at a committed id. The lock comes first: the table must not
// point beyond the transaction.
func (s *Store) beginAt(fp *schemas.Fingerprint) (bolt *bbolt.Tx, ordinal uint64, e idEntry, err error) {
	s.idMu.RLock()
	defer s.idMu.RUnlock()
	look, err := s.db.Begin(false)
	if err != nil {
		return nil, 0, e, err
	}
	defer func() {
		if bolt == nil { // a damaged page ended it
			_ = look.Rollback()
		}
	}()
	above, err := readLine(look) // it may be ahead of the table
	if err == nil {
		ordinal, e, err = s.lookup(bucketOf(look, bucketIDs), above.Ordinal, fp)
	}
	return look, ordinal, e, err
}

// LogPosition places a message of the command stream as it is now among those of all
// epochs: what BatchAt asks for.
func (s *Store) LogPosition(seq uint64) uint64 { return logPosition(s.Epoch(), seq) }

// BatchAt gives the outcome of the command at a log position and index. Applied is
// false when the partition has not come that far.
func (s *Store) BatchAt(seq uint64, index uint32) (st schemas.BatchStatus, found bool, err error) {
	s.mu.RLock()
	applied := logPosition(s.applied.Epoch, s.applied.Seq)
	s.mu.RUnlock()
	if applied < seq {
		return st, true, nil
	}
	err = s.db.View(func(bolt *bbolt.Tx) error {
		above, err := readLine(bolt)
		if err != nil || above.below(seq) {
			return err
		}
		b, err := readBatch(bolt, Place{seq, index})
		if err != nil || b == nil {
			return err
		}
		found = true
		st.BatchID, st.Applied = b.BatchID, true
		st.Outcome, err = b.outcome(bolt, &above, own)
		return err
	})
	return st, found, err
}
