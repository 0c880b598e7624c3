package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"grout/schemas"
)

// A rate limit of a scope counts in a row of `rate_windows` (app, scope, limit; form 1:
// form, span, newest sub-window, counts). A lease is a row of `leases` (app, scope, limit, id;
// form 1: form, expiry) for each scope that it counts in.

func appendWindow(b []byte, w *schemas.RateWindow) []byte {
	b = binary.AppendVarint(append(b, 1), w.Span)
	b = binary.AppendVarint(b, w.Newest)
	for _, n := range w.Counts {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func parseWindow(v []byte) (w schemas.RateWindow, err error) {
	r := newReader(v)
	r.Form(1)
	w.Span, w.Newest = r.Varint(), r.Varint()
	for i := range w.Counts {
		w.Counts[i] = r.Varint()
	}
	if len(r.B) > 0 {
		r.Fail()
	}
	return w, r.Err
}

func readWindow(t reading, app string, scope schemas.Scope, limit string) (schemas.RateWindow, error) {
	v, err := t.bucket(bucketWindows).get(keyNamed(app, scope, limit))
	if err != nil || v == nil {
		return schemas.RateWindow{}, err
	}
	return parseWindow(v)
}

// Window gives what a rate limit of a scope has counted.
func (tx *Tx) Window(app string, scope schemas.Scope, limit string) (schemas.RateWindow, error) {
	w, err := readWindow(tx, app, scope, limit)
	return w, faultOf("read rate window", err)
}

// Window is as Tx.Window, of what is committed.
func (l *Look) Window(app string, scope schemas.Scope, limit string) (schemas.RateWindow, error) {
	return readWindow(l, app, scope, limit)
}

// PutWindow stores what a rate limit of a scope has counted.
func (tx *Tx) PutWindow(app string, scope schemas.Scope, limit string, w *schemas.RateWindow) error {
	return faultOf("write rate window", tx.put(bucketWindows, keyNamed(app, scope, limit), appendWindow(nil, w)))
}

// parseOne reads form 1 of a row of one number.
func parseOne(v []byte) (n int64, err error) {
	r := newReader(v)
	r.Form(1)
	n = r.Varint()
	if len(r.B) > 0 {
		r.Fail()
	}
	return n, r.Err
}

// readLeases lists what is open after an instant, by id.
func readLeases(t reading, app string, scope schemas.Scope, limit string, now int64) (list []schemas.Lease, err error) {
	prefix := keyNamed(app, scope, limit)
	c := t.bucket(bucketLeases).cursor()
	for k, v := c.seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.next() {
		r := newReader(k[len(prefix):])
		l := schemas.Lease{ID: r.text()}
		if l.ExpiresAt, err = parseOne(v); err != nil || r.Err != nil {
			return nil, fmt.Errorf("lease at %x: %w", k, errDamaged)
		}
		if l.ExpiresAt > now {
			list = append(list, l)
		}
	}
	return list, c.err
}

// Leases lists the leases of a scope that have not ended at handler time.
func (tx *Tx) Leases(app string, scope schemas.Scope, limit string) ([]schemas.Lease, error) {
	l, err := readLeases(tx, app, scope, limit, tx.applied.Now)
	return l, faultOf("read leases", err)
}

// Leases lists the leases of a scope that have not ended at an instant.
func (l *Look) Leases(app string, scope schemas.Scope, limit string, now int64) ([]schemas.Lease, error) {
	return readLeases(l, app, scope, limit, now)
}

// Lease gives something of a scope a place until an instant, or moves that instant.
func (tx *Tx) Lease(app string, scope schemas.Scope, limit, id string, expires int64) error {
	if err := tx.EndLease(app, scope, limit, id); err != nil {
		return err
	}
	key := keyNamed(app, scope, limit, id)
	if err := tx.add(bucketLeases, key, binary.AppendVarint([]byte{1}, expires)); err != nil {
		return &Fault{"write lease", err}
	}
	return faultOf("write lease", tx.add(bucketDue, keyDue(dueLater, expires, dueLease, key), []byte{}))
}

// EndLease gives the place back; one that is not there is as good.
func (tx *Tx) EndLease(app string, scope schemas.Scope, limit, id string) error {
	key := keyNamed(app, scope, limit, id)
	v, err := tx.bucket(bucketLeases).get(key)
	if err != nil || v == nil {
		return faultOf("read lease", err)
	}
	expires, err := parseOne(v)
	if err != nil {
		return &Fault{"read lease", err}
	}
	if _, err := tx.delete(bucketDue, keyDue(dueLater, expires, dueLease, key)); err != nil {
		return &Fault{"remove lease", err}
	}
	_, err = tx.delete(bucketLeases, key)
	return faultOf("remove lease", err)
}
