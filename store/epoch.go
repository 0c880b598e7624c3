package store

import (
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// StartEpoch makes the running message the first one of an epoch. It is refused when
// the epoch does not follow from exactly what has been applied: what came in between
// is not in this stream.
func (tx *Tx) StartEpoch(e *schemas.EpochBegin) error {
	own := tx.applied.message()
	if e.N != own.Epoch+1 || e.After != own || e.From != tx.message.Seq || len(tx.message.Commands) != 1 {
		return schemas.Guardf(schemas.EpochGap,
			"message %d of the command stream starts epoch %d behind message %d of epoch %d (stored %s), the store has applied %d of epoch %d; what lies between is not in the stream: a newer snapshot is needed, one of epoch %d",
			tx.message.Seq, e.N, e.After.Seq, e.After.Epoch, time.Unix(0, e.After.StoredAt).UTC().Format(time.RFC3339Nano), own.Seq, own.Epoch, e.N)
	}
	tx.applied.Epoch = e.N
	return nil
}

// message is the last one that was applied.
func (a *applied) message() schemas.AppliedMessage {
	return schemas.AppliedMessage{Epoch: a.Epoch, Seq: a.Seq, StoredAt: a.StoredAt, Digest: a.Digest}
}

// Applied is the last message that was applied; its sequence is 0 when none was.
func (s *Store) Applied() schemas.AppliedMessage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied.message()
}

// Positions lists the last applied messages, oldest first: at most 1,000.
func (s *Store) Positions() (list []schemas.AppliedMessage, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		c := bucketOf(bolt, bucketPositions).cursor()
		for k, v := c.first(); k != nil; k, v = c.next() {
			if len(k) != 8 || len(v) != 24 {
				return errDamaged
			}
			at := binary.BigEndian.Uint64(k)
			m := schemas.AppliedMessage{
				Epoch: uint32(at>>sequenceBits) + firstEpoch, Seq: at & (1<<sequenceBits - 1), StoredAt: int64(binary.BigEndian.Uint64(v)),
			}
			copy(m.Digest[:], v[8:])
			list = append(list, m)
		}
		return c.err
	})
	return list, err
}

// BatchID gives the batch id of the command with the given index of a message, when
// it was an ingest command that was applied.
func (s *Store) BatchID(epoch uint32, seq uint64, index uint32) (id string, known bool, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		b, err := readBatch(bolt, Place{logPosition(epoch, seq), index})
		if b != nil {
			id, known = b.BatchID, true
		}
		return err
	})
	return id, known, err
}

// Origin tells the history of this store from all others: when the stream was created
// that its first message came from. It is 0 while nothing was applied.
func (s *Store) Origin() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.applied.Origin
}

func (tx *Tx) putOrigin() error {
	tx.applied.Origin = tx.message.StreamCreated
	return tx.put(bucketMeta, metaOrigin, binary.BigEndian.AppendUint64(nil, uint64(tx.applied.Origin)))
}

func readOrigin(bolt *bbolt.Tx) (int64, error) {
	v, err := bucketOf(bolt, bucketMeta).get(metaOrigin)
	if err != nil || v == nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, errDamaged
	}
	return int64(binary.BigEndian.Uint64(v)), nil
}
