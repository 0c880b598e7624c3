package store

import (
	"encoding/binary"

	"grout/schemas"
)

// What entitlements keep lies by app and scope, so that all of a scope, and all of an
// app, lies together.

// keyScope begins the keys of what belongs to a scope of an app.
func keyScope(app string, scope schemas.Scope) []byte {
	b := appendText(make([]byte, 0, len(app)+len(scope.ID)+32), app)
	return appendText(append(b, byte(scope.Kind)), scope.ID)
}

// keyNamed is the key of what a scope has under names.
func keyNamed(app string, scope schemas.Scope, names ...string) []byte {
	return appendRest(keyScope(app, scope), names...)
}

func keyManifest(app string, scope schemas.Scope, at Place) []byte {
	return append(keyScope(app, scope), keyCommand(at.Seq, at.Index)...)
}

// keyOpenHold orders the open holds of an app by their expiry.
func keyOpenHold(app string, expires int64, at Place) []byte {
	b := binary.BigEndian.AppendUint64(appendText(nil, app), uint64(expires))
	return append(b, keyCommand(at.Seq, at.Index)...)
}

// scope reads what keyScope wrote.
func (r *reader) scope() (app string, scope schemas.Scope) {
	app = r.text()
	scope.Kind = schemas.ScopeKind(r.Byte())
	scope.ID = r.text()
	if scope.Kind < schemas.ScopeApp || scope.Kind > schemas.ScopeUser {
		r.Fail()
	}
	return app, scope
}

// place reads what keyCommand wrote.
func (r *reader) place() (p Place) {
	if b := r.Bytes(12); b != nil {
		p = Place{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])}
	}
	return p
}

// instant reads an instant of a key.
func (r *reader) instant() int64 {
	if b := r.Bytes(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// reading is a transaction in which rows are read: the running one or a look.
type reading interface{ bucket(id bucketID) bucket }

// after gives the first key behind all that begin with a prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// before puts a cursor on the last key below a bound.
func (c *cursor) before(bound []byte) (key, value []byte) {
	k, _ := c.seek(bound)
	switch {
	case c.err != nil:
		return nil, nil
	case k == nil || bound == nil:
		return c.last()
	default:
		return c.prev()
	}
}

// delete removes a row and reports whether it was there.
func (tx *Tx) delete(id bucketID, key []byte) (bool, error) {
	c := tx.bucket(id).cursor()
	k, _ := c.seek(key)
	if c.err != nil || string(k) != string(key) {
		return false, c.err
	}
	return true, tx.remove(c, k)
}
