package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"grout/schemas"
)

// Held is a hold in the store. It stands at the place of the command that was granted
// it, and expires with the segment of that; its id leads there. While it is open it
// stands in two more orders: by app and expiry, and among what is due. Form 1 (`holds`:
// log position, index): form, state, id, app, user, tenant, model, tokens, granted,
// expires, closed, event id, settled, answer.
type Held struct {
	schemas.Hold
	Place Place
}

func appendTokens(b []byte, t schemas.Tokens) []byte {
	for _, n := range [...]int64{t.Total, t.Input, t.Output} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func (r *reader) tokens() schemas.Tokens {
	return schemas.Tokens{Total: r.Varint(), Input: r.Varint(), Output: r.Varint()}
}

func appendHold(b []byte, h *schemas.Hold) []byte {
	b = append(b, 1, byte(h.State))
	b = appendRest(b, h.ID, h.AppID, h.UserID, h.TenantID, h.Model)
	b = appendTokens(b, h.Tokens)
	for _, n := range [...]int64{h.GrantedAt, h.ExpiresAt, h.ClosedAt} {
		b = binary.AppendVarint(b, n)
	}
	b = appendText(b, h.EventID)
	b = appendTokens(b, h.Settled)
	b = binary.AppendUvarint(b, uint64(len(h.Answer)))
	return append(b, h.Answer...)
}

func parseHold(v []byte) (h schemas.Hold, err error) {
	r := newReader(v)
	r.Form(1)
	h.State = schemas.HoldState(r.Byte())
	h.ID, h.AppID, h.UserID, h.TenantID, h.Model = r.text(), r.text(), r.text(), r.text(), r.text()
	h.Tokens = r.tokens()
	h.GrantedAt, h.ExpiresAt, h.ClosedAt = r.Varint(), r.Varint(), r.Varint()
	h.EventID = r.text()
	h.Settled = r.tokens()
	h.Answer = bytes.Clone(r.Bytes(r.Uvarint()))
	if len(r.B) > 0 || h.State < schemas.HoldOpen || h.State > schemas.HoldExpired {
		r.Fail()
	}
	return h, r.Err
}

func readHold(t reading, at Place) (*Held, error) {
	v, err := t.bucket(bucketHolds).get(keyCommand(at.Seq, at.Index))
	if err != nil || v == nil {
		return nil, err
	}
	h, err := parseHold(v)
	if err != nil {
		return nil, fmt.Errorf("hold at %d/%d: %w", at.Seq, at.Index, err)
	}
	return &Held{h, at}, nil
}

// HoldAt gives the hold that the command at a place was granted; nil when there is none.
func (tx *Tx) HoldAt(at Place) (*Held, error) {
	h, err := readHold(tx, at)
	return h, faultOf("read hold", err)
}

// Hold gives a hold of an app by its id, up to the running command; nil when there is
// none, or none any more.
func (tx *Tx) Hold(app, id string) (*Held, error) {
	fp, _ := schemas.FingerprintOf(schemas.IDHold, app, id, nil)
	ordinal, e, err := tx.find(&fp)
	if err != nil || ordinal == 0 {
		return nil, faultOf("read id log", err)
	}
	h, err := tx.HoldAt(placeOf(e.ref))
	if err == nil && h == nil {
		err = &Fault{"read hold", errDamaged}
	}
	return h, err
}

// PutHold stores what the command with the given index was granted. Reserved of the
// counters is for the caller to move.
func (tx *Tx) PutHold(command uint32, h *schemas.Hold) (*Held, error) {
	at := tx.Place(command)
	if err := tx.add(bucketHolds, keyCommand(at.Seq, at.Index), appendHold(nil, h)); err != nil {
		return nil, &Fault{"write hold", err}
	}
	fp, _ := schemas.FingerprintOf(schemas.IDHold, h.AppID, h.ID, nil)
	if err := tx.enterPlace(schemas.IDHold, &fp, at); err != nil {
		return nil, &Fault{"read id log", err}
	}
	held := &Held{*h, at}
	return held, tx.open(held)
}

// ChangeHold lets a hold be what a rule has made of it. Reserved of the counters is for
// the caller to move.
func (tx *Tx) ChangeHold(h *Held, next *schemas.Hold) error {
	if h.State == schemas.HoldOpen {
		if err := tx.close(h); err != nil {
			return err
		}
	}
	h.Hold = *next
	if err := tx.put(bucketHolds, keyCommand(h.Place.Seq, h.Place.Index), appendHold(nil, &h.Hold)); err != nil {
		return &Fault{"write hold", err}
	}
	if h.State == schemas.HoldOpen {
		return tx.open(h)
	}
	return nil
}

func (h *Held) keyOpen() []byte { return keyOpenHold(h.AppID, h.ExpiresAt, h.Place) }

func (h *Held) keyDue() []byte {
	return keyDue(dueSoon, h.ExpiresAt, dueHold, keyCommand(h.Place.Seq, h.Place.Index))
}

func (tx *Tx) open(h *Held) error {
	if err := tx.add(bucketOpenHolds, h.keyOpen(), []byte{}); err != nil {
		return &Fault{"write hold", err}
	}
	return tx.putDue(h.keyDue())
}

func (tx *Tx) close(h *Held) error {
	was, err := tx.delete(bucketOpenHolds, h.keyOpen())
	if err == nil && !was {
		err = errDamaged
	}
	if err != nil {
		return &Fault{"write hold", err}
	}
	return tx.notDue(h.keyDue())
}

// eachOpenHold calls do with the open holds of an app that end at or before an
// instant, in order of their ends.
func eachOpenHold(t reading, app string, until int64, do func(*Held) error) error {
	prefix := appendText(nil, app)
	c := t.bucket(bucketOpenHolds).cursor()
	for k, _ := c.seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.next() {
		r := newReader(k[len(prefix):])
		if expires := r.instant(); expires > until {
			return nil
		}
		at := r.place()
		if r.Err != nil {
			return r.Err
		}
		h, err := readHold(t, at)
		if err == nil && h == nil {
			err = errDamaged
		}
		if err != nil {
			return err
		}
		if err := do(h); err != nil {
			return err
		}
	}
	return c.err
}

// EachDueHold calls do with the open holds of an app that should have ended by an instant.
func (l *Look) EachDueHold(app string, now int64, do func(*schemas.Hold)) error {
	return eachOpenHold(l, app, now, func(h *Held) error {
		do(&h.Hold)
		return nil
	})
}

// EachOpenHold calls do with the open holds of an app.
func (l *Look) EachOpenHold(app string, do func(*schemas.Hold)) error {
	return l.EachDueHold(app, Newest, do)
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// OpenHolds lists the open holds of an app that end at or before an instant, in order
// of their ends, at most limit of them.
func (tx *Tx) OpenHolds(app string, until int64, limit int) ([]*Held, error) {
	list, err := openHolds(tx, app, until, limit)
	return list, faultOf("read holds", err)
}

// OpenHolds is as Tx.OpenHolds, of what is committed.
func (l *Look) OpenHolds(app string, until int64, limit int) ([]*Held, error) {
	return openHolds(l, app, until, limit)
}

func openHolds(t reading, app string, until int64, limit int) (list []*Held, err error) {
	err = eachOpenHold(t, app, until, func(h *Held) error {
		if len(list) == limit {
			return errEnough
		}
		list = append(list, h)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return list, err
}

// Reserve lets every counter of a budget hold what the app's open holds hold of it, or
// the largest number when that is more.
func (tx *Tx) Reserve(b *Budget) error {
	b.changed = true
	for i := range b.Counters {
		b.Counters[i].Reserved = 0
	}
	return faultOf("read holds", eachOpenHold(tx, b.AppID, Newest, func(h *Held) error {
		if InScope(&h.Hold, b.Scope) {
			b.Hold(h.Model, h.Tokens)
		}
		return nil
	}))
}

// InScope reports whether a hold is one of a scope.
func InScope(h *schemas.Hold, s schemas.Scope) bool {
	switch s.Kind {
	case schemas.ScopeTenant:
		return h.TenantID == s.ID
	case schemas.ScopeUser:
		return h.UserID == s.ID
	}
	return true
}

// Hold gives a hold of an app by its id, as it was committed; nil when there is none.
func (s *Store) Hold(app, id string) (h *Held, err error) {
	fp, _ := schemas.FingerprintOf(schemas.IDHold, app, id, nil)
	defer s.db.shield(&err)()
	bolt, ordinal, e, err := s.beginAt(&fp)
	if bolt != nil {
		defer func() { _ = bolt.Rollback() }()
	}
	if err != nil || ordinal == 0 {
		return nil, err
	}
	return readHold(&Look{bolt: bolt}, placeOf(e.ref))
}
