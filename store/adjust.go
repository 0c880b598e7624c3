package store

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Adjustment is a compensating entry: what a correction added to the sums of the
// row that its event was counted in. Nothing is edited (contract §7); the newest
// entry of an event tells what the event counts for.
type Adjustment struct {
	AppID     string
	EventID   string
	Status    schemas.EventStatus // EventVoided or EventAmended
	Hour      uint32
	TenantID  string
	UserID    string
	Workflow  string
	Model     string
	Delta     schemas.UsageSums // what this entry added
	Effective schemas.UsageSums // what the event counts for after it
	Reason    string

	// Of an event in a chat: what the event says after it, and by how much that moved,
	// which is what moves the sums of the chat's deltas. Elsewhere they are Effective
	// and Delta.
	ChatID string
	Stated schemas.UsageSums
	Change schemas.UsageSums
}

var adjustmentStatuses = [...]schemas.EventStatus{schemas.EventVoided, schemas.EventAmended}

// append gives the stored form. Form 1: form, status, app, event id, hour, tenant,
// user, workflow, model, delta, effective, reason. Form 2, of an event in a chat, goes
// on with chat id, stated, change.
func (a *Adjustment) append(b []byte) []byte {
	form := byte(1)
	if a.ChatID != "" {
		form = 2
	}
	b = append(b, form, byte(slices.Index(adjustmentStatuses[:], a.Status)))
	b = appendText(b, a.AppID)
	b = appendText(b, a.EventID)
	b = binary.AppendUvarint(b, uint64(a.Hour))
	b = appendRest(b, a.TenantID, a.UserID, a.Workflow, a.Model)
	b = a.Delta.Append(b)
	b = a.Effective.Append(b)
	b = appendText(b, a.Reason)
	if a.ChatID != "" {
		b = appendText(b, a.ChatID)
		b = a.Stated.Append(b)
		b = a.Change.Append(b)
	}
	return b
}

func parseAdjustment(v []byte) (*Adjustment, error) {
	r := newReader(v)
	form := r.Byte()
	if form != 1 && form != 2 {
		r.Fail()
	}
	status := int(r.Byte())
	if status >= len(adjustmentStatuses) {
		r.Fail()
		status = 0
	}
	a := &Adjustment{
		Status: adjustmentStatuses[status], AppID: r.text(), EventID: r.text(), Hour: uint32(r.Uvarint()),
		TenantID: r.text(), UserID: r.text(), Workflow: r.text(), Model: r.text(),
		Delta: r.Sums(), Effective: r.Sums(), Reason: r.text(),
	}
	a.Stated, a.Change = a.Effective, a.Delta
	if form == 2 {
		a.ChatID, a.Stated, a.Change = r.text(), r.Sums(), r.Sums()
	}
	if len(r.B) > 0 || form == 2 && a.ChatID == "" {
		r.Fail()
	}
	return a, r.Err
}

// readAdjustment gives the entry of the command at a place.
func readAdjustment(bolt *bbolt.Tx, p Place) (*Adjustment, error) {
	v, err := bucketOf(bolt, bucketAdjustments).get(keyCommand(p.Seq, p.Index))
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, errDamaged
	}
	return parseAdjustment(v)
}

// Recorded is an event in the log and what it counts for.
type Recorded struct {
	Event schemas.UsageEvent // as it was recorded
	Last  *Adjustment        // its newest; nil when nobody corrected it
}

// Effective is what the event counts for now.
func (r *Recorded) Effective() schemas.UsageSums {
	if r.Last != nil {
		return r.Last.Effective
	}
	return schemas.CountedOf(&r.Event)
}

// Stated is what the event says now: what corrections are made of. In a chat with a
// summary that may be more than it counts for.
func (r *Recorded) Stated() schemas.UsageSums {
	if r.Last != nil {
		return r.Last.Stated
	}
	return schemas.SumsOf(&r.Event)
}

// Event gives an event of an app, or nil when the app has none of this id.
func (tx *Tx) Event(app, eventID string) (*Recorded, error) {
	fp, scratch := schemas.FingerprintOf(schemas.IDEvent, app, eventID, nil)
	own, entry, err := tx.find(&fp)
	if err != nil || own == 0 {
		return nil, faultOf("read id log", err)
	}
	rec := &Recorded{}
	if rec.Event, err = tx.recorded(app, eventID, entry.seq); err != nil {
		return nil, &Fault{"read event log", err}
	}
	fp, _ = schemas.FingerprintOf(schemas.IDAdjustment, app, eventID, scratch)
	ordinal, entry, err := tx.find(&fp)
	if err != nil {
		return nil, &Fault{"read id log", err}
	}
	if ordinal > own { // an older one corrected an expired event of the same id
		rec.Last, err = readAdjustment(tx.bolt, placeOf(entry.ref))
	}
	return rec, faultOf("read adjustment", err)
}

// recorded gives the event that a message recorded, the running one included.
func (tx *Tx) recorded(app, eventID string, seq uint64) (schemas.UsageEvent, error) {
	if seq == tx.log() {
		for _, r := range tx.usage.index[app].events {
			if r.event.EventID == eventID {
				return *r.event, nil
			}
		}
		return schemas.UsageEvent{}, errDamaged
	}
	var events []schemas.UsageEvent
	var commands []uint32
	prefix, needle := keySeq(seq), schemas.StoredEventID(eventID)
	c := tx.bucket(bucketEvents).cursor()
	for k, v := c.seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.next() {
		if !bytes.Contains(v, needle) {
			continue
		}
		var err error
		if events, commands, err = decodeChunk(v, events[:0], commands[:0]); err != nil {
			return schemas.UsageEvent{}, err
		}
		for i := range events {
			if e := &events[i]; e.EventID == eventID && e.AppID == app {
				return detached(e), nil
			}
		}
	}
	if c.err != nil {
		return schemas.UsageEvent{}, c.err
	}
	return schemas.UsageEvent{}, errDamaged
}

// detached copies an event so that it outlives the transaction it was read in.
func detached(e *schemas.UsageEvent) schemas.UsageEvent {
	out := *e
	for _, s := range [...]*string{
		&out.EventID, &out.AppID, &out.TenantID, &out.UserID, &out.WorkflowID, &out.Model,
		&out.ChatID, &out.RunID, &out.AgentName, &out.InvocationID,
	} {
		*s = strings.Clone(*s)
	}
	out.Metadata = bytes.Clone(e.Metadata)
	return out
}

// Adjust lets an event say other sums, as the command with the given index wants, and
// returns the compensating entry.
func (tx *Tx) Adjust(command uint32, rec *Recorded, status schemas.EventStatus, stated schemas.UsageSums, reason string) (*Adjustment, error) {
	e := &rec.Event
	a := &Adjustment{
		AppID: e.AppID, EventID: e.EventID, Status: status, Hour: hourOf(e.Timestamp),
		TenantID: e.TenantID, UserID: e.UserID, Workflow: e.WorkflowID, Model: e.Model,
		Reason: reason, ChatID: e.ChatID, Stated: stated, Change: stated.Minus(rec.Stated()),
	}
	a.Delta, a.Effective = a.Change, rec.Effective()
	if e.ChatID != "" {
		at, err := tx.chat(chatKey{e.AppID, e.ChatID}, e.UserID)
		if err != nil {
			return nil, err
		}
		c := &tx.stage.chats.list[at]
		c.counts = true
		a.Delta = c.add(&a.Change)
	}
	a.Effective.Add(&a.Delta)
	at := tx.Place(command)
	if err := tx.add(bucketAdjustments, keyCommand(at.Seq, at.Index), a.append(nil)); err != nil {
		return nil, &Fault{"write adjustment", err}
	}
	fp, _ := schemas.FingerprintOf(schemas.IDAdjustment, a.AppID, a.EventID, nil)
	if err := tx.enterPlace(schemas.IDAdjustment, &fp, at); err != nil {
		return nil, &Fault{"read id log", err}
	}
	tx.stage.adjustments = append(tx.stage.adjustments, a)
	tx.adjusted++
	return a, nil
}

// loadAdjustments replays the entries behind what the aggregates in the bucket
// hold, like loadOverlay the events.
func loadAdjustments(bolt *bbolt.Tx, fold *foldState, chats *chatLoader, frozen, live *adder) error {
	c := bucketOf(bolt, bucketAdjustments).cursor()
	for k, v := c.seek(keySeq(fold.Folded + 1)); k != nil; k, v = c.next() {
		a, err := parseAdjustment(v)
		if err != nil {
			return err
		}
		to := live
		if binary.BigEndian.Uint64(k) <= fold.To {
			to = frozen
		}
		to.addAdjustment(a)
		if err := chats.addAdjustment(to.to, a); err != nil {
			return err
		}
	}
	return c.err
}
