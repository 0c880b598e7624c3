package store

import (
	"bytes"
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// What is due at an instant stands in `due` (class, instant, kind, key), in order of
// instants. A tick is written as soon as the first row of what is due soon is; the rest
// waits for the ticks that come anyway.
type dueClass byte

const (
	dueSoon dueClass = iota + 1
	dueLater
)

// dueKind is what is due.
type dueKind byte

const (
	duePeriod dueKind = iota + 1 // key: scope
	dueHold                      // key: place
	dueLease                     // key: of the lease
	dueRun                       // key: place
)

func keyDue(class dueClass, at int64, kind dueKind, key []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{byte(class)}, uint64(max(at, 0)))
	return append(append(b, byte(kind)), key...)
}

const dueHead = 1 + 8 + 1

// Due is one thing that is due: the period of a scope's budget is over, or a hold, or a
// run is to be looked at.
type Due struct {
	At    int64
	AppID string
	Scope schemas.Scope // of a budget
	Hold  *Held
	Run   *Run // both nil: a period
}

func (tx *Tx) putDue(key []byte) error {
	tx.dueChanged = true
	return faultOf("write what is due", tx.put(bucketDue, key, []byte{}))
}

func (tx *Tx) notDue(key []byte) error {
	tx.dueChanged = true
	_, err := tx.delete(bucketDue, key)
	return faultOf("write what is due", err)
}

// NextDue gives the first thing that is due at or before handler time, nil when
// nothing is. Whoever carries it out takes it away, a period by Keep, a hold by
// ChangeHold, a run by ChangeRun with another DueAt.
func (tx *Tx) NextDue() (*Due, error) {
	c := tx.bucket(bucketDue).cursor()
	k, _ := c.first()
	if k == nil || dueClass(k[0]) != dueSoon || len(k) < dueHead {
		return nil, faultOf("read what is due", c.err)
	}
	d := &Due{At: int64(binary.BigEndian.Uint64(k[1:]))}
	if d.At > tx.applied.Now {
		return nil, nil
	}
	r := newReader(k[dueHead:])
	switch dueKind(k[dueHead-1]) {
	case duePeriod:
		d.AppID, d.Scope = r.scope()
	case dueHold:
		h, err := tx.HoldAt(r.place())
		if err != nil {
			return nil, err
		}
		if h == nil {
			return nil, &Fault{"read what is due", errDamaged}
		}
		d.Hold, d.AppID = h, h.AppID
	case dueRun:
		run, err := tx.RunAt(r.place())
		if err != nil {
			return nil, err
		}
		if run == nil || run.DueAt != d.At {
			return nil, &Fault{"read what is due", errDamaged}
		}
		d.Run, d.AppID = run, run.AppID
	default:
		r.Fail()
	}
	return d, faultOf("read what is due", r.Err)
}

// EndLeases removes leases that have ended, at most so many, and says how many.
func (tx *Tx) EndLeases(most int) (n int, err error) {
	for ; n < most; n++ {
		c := tx.bucket(bucketDue).cursor()
		k, _ := c.seek([]byte{byte(dueLater)})
		if k == nil || int64(binary.BigEndian.Uint64(k[1:])) > tx.applied.Now {
			return n, faultOf("read what is due", c.err)
		}
		k = bytes.Clone(k)
		if _, err := tx.delete(bucketLeases, k[dueHead:]); err != nil {
			return n, &Fault{"remove lease", err}
		}
		if _, err := tx.delete(bucketDue, k); err != nil {
			return n, &Fault{"write what is due", err}
		}
	}
	return n, nil
}

// firstDue reads when a tick is due; 0 when nothing waits for one.
func firstDue(t reading) (int64, error) {
	c := t.bucket(bucketDue).cursor()
	k, _ := c.first()
	if k == nil || dueClass(k[0]) != dueSoon {
		return 0, c.err
	}
	if len(k) < dueHead {
		return 0, errDamaged
	}
	return int64(binary.BigEndian.Uint64(k[1:])), nil
}

// noteDue reads when the next tick is due, once the transaction has changed it.
func (tx *Tx) noteDue() (err error) {
	if tx.dueChanged {
		tx.nextDue, err = firstDue(tx)
	}
	return faultOf("read what is due", err)
}

func (s *Store) loadDue(bolt *bbolt.Tx) (err error) {
	s.nextDue, err = firstDue(&Look{bolt: bolt})
	return err
}

// NextDue is the instant at which a tick is due, 0 when nothing waits for one. The
// channel is closed when it has changed.
func (s *Store) NextDue() (at time.Time, changed <-chan struct{}) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.nextDue != 0 {
		at = time.Unix(0, s.nextDue)
	}
	return at, s.dueMoved
}

// setNextDue shows when the next tick is due. The caller holds mu.
func (s *Store) setNextDue(at int64) {
	if s.nextDue == at {
		return
	}
	s.nextDue = at
	close(s.dueMoved)
	s.dueMoved = make(chan struct{})
}
