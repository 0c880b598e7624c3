package store

import (
	"bytes"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Bounds of a transaction that puts rows back.
const (
	againRows  = 1000
	againBytes = 4 << 20
)

// PutBack takes rows of an outbox from another store that has applied the same
// messages: those with facts behind after and up to upTo which this one has published
// and deleted. unmade are rows whose events this store no longer has. It is called by
// the goroutine that updates.
func (s *Store) PutBack(dest string, from *Store, after, upTo schemas.Position) (made, unmade int64, err error) {
	at := after
	at.N = 0 // a row of the same command may hold facts on both sides of the position
	for next := at.Append(nil); next != nil; {
		var rows []outboxRow
		if rows, next, err = from.rowsFrom(dest, next, after, upTo); err != nil {
			return made, unmade, err
		}
		err = s.Update(func(tx *Tx) error {
			for _, r := range rows {
				added, lost, err := tx.putBack(dest, r.key, r.value)
				if err != nil {
					return &Fault{"put back a row of the outbox", err}
				}
				made, unmade = made+added, unmade+lost
			}
			return nil
		})
		if err != nil {
			return made, unmade, err
		}
	}
	return made, unmade, nil
}

type outboxRow struct{ key, value []byte }

// rowsFrom copies rows that hold facts behind a position, and says where the next
// ones begin; nil at the end.
func (s *Store) rowsFrom(dest string, from []byte, after, upTo schemas.Position) (rows []outboxRow, next []byte, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		c, size := bucketOf(bolt, outboxBucket(dest)).cursor(), 0
		for k, v := c.seek(from); k != nil; k, v = c.next() {
			last, err := schemas.ParsePosition(k)
			if err != nil {
				return err
			}
			if last.Compare(upTo) > 0 {
				break
			}
			if len(rows) >= againRows || size >= againBytes {
				next = bytes.Clone(k)
				break
			}
			facts, err := rowFacts(v)
			if err != nil {
				return err
			}
			if last.N += uint32(facts) - 1; last.Compare(after) > 0 {
				rows = append(rows, outboxRow{bytes.Clone(k), bytes.Clone(v)})
				size += len(v)
			}
		}
		return c.err
	})
	return rows, next, err
}

func (tx *Tx) putBack(dest string, key, value []byte) (added, unmade int64, err error) {
	id := outboxBucket(dest)
	have, err := tx.bucket(id).get(key)
	if err != nil || have != nil {
		return 0, 0, err
	}
	at, err := schemas.ParsePosition(key)
	if err != nil {
		return 0, 0, err
	}
	if value[0] != rowLiteral {
		events, err := tx.bucket(bucketEvents).get(keyChunk(logPosition(at.Epoch, at.Seq), 0))
		if err != nil {
			return 0, 0, err
		}
		if events == nil || tx.segments.Line.below(logPosition(at.Epoch, at.Seq)) { // expired
			return 0, 1, nil
		}
	}
	facts, err := rowFacts(value)
	if err != nil {
		return 0, 0, err
	}
	tx.added[destinationIndex(dest)]++
	tx.waiting[destinationIndex(dest)] += int64(facts)
	return 1, 0, tx.add(id, bytes.Clone(key), value)
}

// Rewind has the relay to a destination go on from a position that it has passed.
func (s *Store) Rewind(dest string, st schemas.RelayState) error {
	err := s.Update(func(tx *Tx) error {
		return faultOf("write position of relay", tx.put(bucketMeta, metaRelayed(dest), appendRelayState(nil, st)))
	})
	if err != nil {
		return err
	}
	r := s.relay[dest]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.dirty = st, false
	return nil
}

// FirstRow gives the position of the first row of an outbox; ok is false when it has
// none.
func (s *Store) FirstRow(dest string) (at schemas.Position, ok bool, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		c := bucketOf(bolt, outboxBucket(dest)).cursor()
		k, _ := c.first()
		if k == nil {
			return c.err
		}
		ok = true
		at, err = schemas.ParsePosition(k)
		return err
	})
	return at, ok, err
}
