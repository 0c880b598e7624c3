package store

import (
	"encoding/binary"

	"grout/schemas"
)

// What users have used up of consumables of plugins, and scopes of the calls of a
// plugin, stands in `consumed` (app, scope, plugin and, of a consumable, limit; form 1:
// form, start, used, reserved). What is told once in a period stands in `told` (app, scope, name; form 1:
// form, start of the period).

func readConsumed(t reading, app string, scope schemas.Scope, plugin, limit string) (c schemas.Consumption, err error) {
	v, err := t.bucket(bucketConsumed).get(keyNamed(app, scope, plugin, limit))
	if err != nil || v == nil {
		return c, err
	}
	return parseConsumed(v)
}

func appendConsumed(b []byte, c schemas.Consumption) []byte {
	b = append(b, 1)
	for _, n := range [...]int64{c.Start, c.Used, c.Reserved} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func parseConsumed(v []byte) (c schemas.Consumption, err error) {
	r := newReader(v)
	r.Form(1)
	c = schemas.Consumption{Start: r.Varint(), Used: r.Varint(), Reserved: r.Varint()}
	if len(r.B) > 0 {
		r.Fail()
	}
	return c, r.Err
}

// Consumed gives how a scope stands with a limit of a plugin; the zero value when
// nothing was used up.
func (tx *Tx) Consumed(app string, scope schemas.Scope, plugin, limit string) (schemas.Consumption, error) {
	c, err := readConsumed(tx, app, scope, plugin, limit)
	return c, faultOf("read what is consumed", err)
}

// Consumed is as Tx.Consumed, of what is committed.
func (l *Look) Consumed(app string, scope schemas.Scope, plugin, limit string) (schemas.Consumption, error) {
	return readConsumed(l, app, scope, plugin, limit)
}

// Calls gives how often a scope has called a plugin. Its key has no limit, so it is
// none of the plugin's own.
func (tx *Tx) Calls(app string, scope schemas.Scope, plugin string) (schemas.Consumption, error) {
	c, err := readCalls(tx, app, scope, plugin)
	return c, faultOf("read calls", err)
}

// Calls is as Tx.Calls, of what is committed.
func (l *Look) Calls(app string, scope schemas.Scope, plugin string) (schemas.Consumption, error) {
	return readCalls(l, app, scope, plugin)
}

func readCalls(t reading, app string, scope schemas.Scope, plugin string) (c schemas.Consumption, err error) {
	v, err := t.bucket(bucketConsumed).get(keyNamed(app, scope, plugin))
	if err != nil || v == nil {
		return c, err
	}
	return parseConsumed(v)
}

// PutCalls stores how often a scope has called a plugin.
func (tx *Tx) PutCalls(app string, scope schemas.Scope, plugin string, c schemas.Consumption) error {
	return faultOf("write calls", tx.put(bucketConsumed, keyNamed(app, scope, plugin), appendConsumed(nil, c)))
}

// PutConsumed stores how a scope stands with a limit of a plugin.
func (tx *Tx) PutConsumed(app string, scope schemas.Scope, plugin, limit string, c schemas.Consumption) error {
	return faultOf("write what is consumed", tx.put(bucketConsumed, keyNamed(app, scope, plugin, limit), appendConsumed(nil, c)))
}

// Told reports whether something was told of a scope in the period that began at an
// instant.
func (l *Look) Told(app string, scope schemas.Scope, name string, period int64) (bool, error) {
	v, err := l.bucket(bucketTold).get(keyNamed(app, scope, name))
	if err != nil || v == nil {
		return false, err
	}
	told, err := parseOne(v)
	return told == period, err
}

// Tell notes that something was told of a scope in the period that began at an instant,
// and reports whether it had not been.
func (tx *Tx) Tell(app string, scope schemas.Scope, name string, period int64) (first bool, err error) {
	key := keyNamed(app, scope, name)
	v, err := tx.bucket(bucketTold).get(key)
	if err != nil {
		return false, &Fault{"read what was told", err}
	}
	if v != nil {
		if told, err := parseOne(v); err != nil || told == period {
			return false, faultOf("read what was told", err)
		}
	}
	return true, faultOf("write what was told", tx.put(bucketTold, key, binary.AppendVarint([]byte{1}, period)))
}
