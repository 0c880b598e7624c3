package store

import "grout/schemas"

// runKey is what an idempotency key is known by: user, plugin and key.
func runKey(app, user, plugin, key string) schemas.Fingerprint {
	fp, _ := schemas.FingerprintOf(schemas.IDRunKey, app, string(appendRest(nil, user, plugin, key)), nil)
	return fp
}

// EnterRunKey lets an idempotency key of a user and plugin stand for a run that the
// running message has stored, whatever it stood for before.
func (tx *Tx) EnterRunKey(r *Run) error {
	fp := runKey(r.AppID, r.UserID, r.Plugin, r.Execution.Key)
	return tx.enterHome(schemas.IDRunKey, &fp, r)
}

// RunOfKey gives the run that an idempotency key of a user and plugin stands for; nil
// when it stands for none. How long it does is for the caller to judge.
func (tx *Tx) RunOfKey(app, user, plugin, key string) (*Run, error) {
	fp := runKey(app, user, plugin, key)
	ordinal, e, err := tx.find(&fp)
	if err != nil || ordinal == 0 {
		return nil, faultOf("read id log", err)
	}
	r, err := tx.RunAt(homeOf(&e)) // it may have moved: the key is long over then
	if r != nil && (r.Execution == nil || r.Execution.Key != key) {
		r = nil
	}
	return r, err
}

// RunEventKnown gives the digest of the reported event that an id stands for.
func (tx *Tx) RunEventKnown(app, id string) (digest uint64, known bool, err error) {
	fp, _ := schemas.FingerprintOf(schemas.IDRunEvent, app, id, nil)
	ordinal, e, err := tx.find(&fp)
	return e.ref, ordinal != 0, faultOf("read id log", err)
}

// EnterRunEvent notes that a reported event was taken.
func (tx *Tx) EnterRunEvent(app, id string, digest uint64) error {
	fp, _ := schemas.FingerprintOf(schemas.IDRunEvent, app, id, nil)
	from, _, err := tx.find(&fp)
	if err == nil {
		tx.enter(schemas.IDRunEvent, &fp, digest, from)
	}
	return faultOf("read id log", err)
}
