package store

import (
	"grout/schemas"
)

// Entry is what entering an event came to.
type Entry int

// What entering an event can come to.
const (
	Entered   Entry = iota // new
	Duplicate              // there already, with the same content
	Conflict               // there already, with other content
)

// messageUsage collects what the commands of a message record, by app.
type messageUsage struct {
	apps  []*appUsage
	index map[string]*appUsage
	last  *appUsage
	sum   int
}

type appUsage struct {
	app      string
	events   []recorded
	chats    []int // places in the stage of the chats of its deltas, in order of first appearance
	rejected []schemas.RejectedInBatch
	refused  int
	causes   causeSet // of the events
	refusals causeSet // of the rejected
}

// causeSet remembers one command, and whether there was another.
type causeSet struct {
	command uint32
	state   byte // 0 none, 1 one, 2 several
}

func (c *causeSet) add(command uint32) {
	switch {
	case c.state == 0:
		c.command, c.state = command, 1
	case c.command != command:
		c.state = 2
	}
}

func (u *messageUsage) reset() { *u = messageUsage{index: map[string]*appUsage{}} }

func (u *messageUsage) of(app string) *appUsage {
	if u.last != nil && u.last.app == app {
		return u.last
	}
	a := u.index[app]
	if a == nil {
		a = &appUsage{app: app}
		u.index[app] = a
		u.apps = append(u.apps, a)
	}
	u.last = a
	return a
}

// order gives the events of the message app by app, in order of first appearance, and
// those of an app chat by chat behind those of none: facts about either are ranges.
func (tx *Tx) order() []recorded {
	u := &tx.usage
	if len(u.apps) == 1 && len(u.apps[0].chats) == 0 {
		return u.apps[0].events
	}
	all := make([]recorded, 0, u.sum)
	for _, a := range u.apps {
		if len(a.chats) == 0 {
			all = append(all, a.events...)
		} else {
			all = tx.byChat(all, a)
		}
	}
	return all
}

func (tx *Tx) byChat(all []recorded, a *appUsage) []recorded {
	list := tx.stage.chats.list
	other, next := len(all), len(all)+tx.outside(a)
	all = all[:other+len(a.events)]
	for _, at := range a.chats {
		m := &list[at].message
		m.next, next = next, next+m.deltas
	}
	for _, r := range a.events {
		if r.chat == 0 {
			all[other] = r
			other++
			continue
		}
		m := &list[r.chat-1].message
		all[m.next] = r
		m.next++
	}
	return all
}

// outside is how many events of an app are no deltas of chats.
func (tx *Tx) outside(a *appUsage) int {
	n := len(a.events)
	for _, at := range a.chats {
		n -= tx.stage.chats.list[at].message.deltas
	}
	return n
}

// RecordUsage enters an event of the command with the given index and, when it
// is new, records it. The event must not change until Update has returned.
func (tx *Tx) RecordUsage(command uint32, e *schemas.UsageEvent, p *schemas.EventPrint) (Entry, error) {
	ordinal, have, err := tx.find(&p.ID)
	if err != nil {
		return 0, &Fault{"read id log", err}
	}
	if ordinal != 0 {
		if have.ref == p.Digest {
			return Duplicate, nil
		}
		return Conflict, nil
	}
	tx.enter(schemas.IDEvent, &p.ID, p.Digest, 0)
	a, r := tx.usage.of(e.AppID), recorded{event: e, command: command}
	if e.ChatID != "" {
		at, err := tx.countInChat(command, e)
		if err != nil {
			return 0, err
		}
		if !e.Summary {
			if tx.stage.chats.list[at].message.deltas == 1 {
				a.chats = append(a.chats, at)
			}
			r.chat = uint32(at) + 1
		}
	}
	a.events = append(a.events, r)
	a.causes.add(command)
	tx.usage.sum++
	return Entered, nil
}

// RejectUsage notes refused events of an app for the fact usage.rejected: their
// number, and those of them that are listed.
func (tx *Tx) RejectUsage(command uint32, app string, count int, listed []schemas.RejectedInBatch) {
	if count == 0 || app == "" {
		return
	}
	a := tx.usage.of(app)
	a.refused += count
	a.refusals.add(command)
	room := schemas.MaxListedErrors - len(a.rejected)
	a.rejected = append(a.rejected, listed[:min(room, len(listed))]...)
}

// Batch gives the newest record of a batch id and the place of its command, or nil.
func (tx *Tx) Batch(batchID string) (*Batch, Place, error) {
	fp, _ := schemas.FingerprintOf(schemas.IDBatch, "", batchID, nil)
	ordinal, e, err := tx.find(&fp)
	if err != nil || ordinal == 0 {
		return nil, Place{}, faultOf("read id log", err)
	}
	p := placeOf(e.ref)
	b, err := readBatch(tx.bolt, p)
	if err == nil && b == nil {
		err = errDamaged
	}
	if err == nil {
		b.forget(&tx.segments.Line)
	}
	return b, p, faultOf("read batch", err)
}

func faultOf(doing string, err error) error {
	if err == nil {
		return nil
	}
	return &Fault{doing, err}
}

// PutBatch stores what became of the command with the given index and, unless
// grout made the batch id, enters the id. It returns the outcome.
func (tx *Tx) PutBatch(command uint32, b *Batch) (schemas.IngestOutcome, error) {
	at := tx.Place(command)
	b.At = tx.applied.Now
	if err := tx.add(bucketBatches, keyCommand(at.Seq, at.Index), b.append(nil)); err != nil {
		return schemas.IngestOutcome{}, &Fault{"write batch", err}
	}
	if !b.Made && b.changes() {
		fp, _ := schemas.FingerprintOf(schemas.IDBatch, "", b.BatchID, nil)
		if err := tx.enterPlace(schemas.IDBatch, &fp, at); err != nil {
			return schemas.IngestOutcome{}, &Fault{"read id log", err}
		}
	}
	o, err := b.outcome(tx.bolt, &tx.segments.Line, own)
	return o, faultOf("read batch", err)
}

// changes reports whether the record knows more than an earlier one: a command
// that only replays or conflicts leaves the id where it stands.
func (b *Batch) changes() bool {
	for i := range b.Parts {
		if b.Parts[i].Outcome == PartNew {
			return true
		}
	}
	return false
}
