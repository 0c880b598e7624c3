package store

import (
	"encoding/binary"

	"grout/schemas"
)

// EmitItem is as Emit, of a fact that is an item of a chat: it takes the next number of
// the chat, and its subject ends with the chat. user is whose the chat is when it is new.
func (tx *Tx) EmitItem(command uint32, kind, app, chat, user, subject string, data func([]byte) []byte) error {
	at, err := tx.chat(chatKey{app, chat}, user)
	if err != nil {
		return err
	}
	tx.Emit(command, kind, app, subject, data)
	f := &tx.facts[len(tx.facts)-1]
	f.about, f.chat = chat, at+1
	return nil
}

// chatTelling is a summary on its way into a fact.
type chatTelling struct {
	schemas.ChatSummary
	always bool // also when the chat has no usage
}

// EmitSummary files a chat.usage_summary. It tells the totals at the end of the message,
// when all deltas that stand before it are counted, and nothing of a chat without usage
// unless always. What it returns is complete once the message has ended.
func (tx *Tx) EmitSummary(command uint32, app, chat, user string, s schemas.ChatSummary, always bool) (*schemas.ChatSummary, error) {
	t := &chatTelling{s, always}
	if err := tx.EmitItem(command, schemas.ChatUsageSummary.Name, app, chat, user, schemas.ChatSubject(chat), nil); err != nil {
		return nil, err
	}
	t.At, t.AppID, t.ChatID = tx.applied.Now, app, chat
	tx.facts[len(tx.facts)-1].summary = t
	return &t.ChatSummary, nil
}

// sumUp gives a summary its totals; told is false when there is nothing to tell.
func (tx *Tx) sumUp(f *commandFact) (told bool, err error) {
	all, err := tx.chatNow(&tx.stage.chats.list[f.chat-1])
	if err != nil {
		return false, err
	}
	f.summary.UserID, f.summary.Totals = all.user, all.counted()
	return f.summary.always || all.used(), nil
}

// number takes the next number of the chat that a fact is an item of; 0: of none.
func (tx *Tx) number(f *commandFact) uint64 {
	if f.chat == 0 {
		return 0
	}
	c := &tx.stage.chats.list[f.chat-1]
	if c.message.others == 0 {
		tx.items = append(tx.items, f.chat-1)
	}
	c.message.others++
	c.last++
	return c.last
}

// HasChat reports whether an app has a chat, up to the running command.
func (tx *Tx) HasChat(app, chat string) (bool, error) {
	key := chatKey{app, chat}
	if tx.stage.chats.index[key] > 0 {
		return true, nil
	}
	fp := chatPrint(key)
	ordinal, err := tx.store.chatOrdinal(tx.bucket(bucketChatIDs), &fp)
	return ordinal != 0, faultOf("read chat", err)
}

// deltaRow stands for all chat.usage_delta facts of a message. The events of its chats lie
// chat by chat in the event log. Form 3: time, causes, apps × (app, events before those of
// its first chat and behind what the app before it has, first sequence, chats × (events,
// number of the first, cause)).
type deltaRow struct {
	time   int64
	causes []factCause
	apps   []deltaApp
}

type deltaApp struct {
	app      string
	before   int
	sequence uint64 // of the first part of the first chat
	chats    []deltaRange
}

// deltaRange is one chat's events of a message.
type deltaRange struct {
	events int
	first  uint64 // number of the first in the chat
	cause  int
}

func (w *deltaRow) facts() (n int) {
	for i := range w.apps {
		for _, c := range w.apps[i].chats {
			n += partsOf(c.events)
		}
	}
	return n
}

func (w *deltaRow) append(b []byte) []byte {
	b = append(b, rowDeltas)
	b = binary.AppendVarint(b, w.time)
	b = appendCauses(b, w.causes)
	b = binary.AppendUvarint(b, uint64(len(w.apps)))
	for i := range w.apps {
		a := &w.apps[i]
		b = appendText(b, a.app)
		b = binary.AppendUvarint(b, uint64(a.before))
		b = binary.AppendUvarint(b, a.sequence)
		b = binary.AppendUvarint(b, uint64(len(a.chats)))
		for _, c := range a.chats {
			b = binary.AppendUvarint(b, uint64(c.events))
			b = binary.AppendUvarint(b, c.first)
			b = binary.AppendUvarint(b, uint64(c.cause))
		}
	}
	return b
}

// maxDeltas is more than a message has events.
const maxDeltas = 1 << 30

func parseDeltaRow(v []byte) (w deltaRow, err error) {
	r := newReader(v)
	r.Form(rowDeltas)
	w.time, w.causes = r.Varint(), r.causes()
	for range r.Count(4) {
		a := deltaApp{app: r.text(), before: int(r.most(maxDeltas)), sequence: r.Uvarint()}
		n := r.Count(3)
		a.chats = make([]deltaRange, n)
		for i := range a.chats {
			c := deltaRange{events: int(r.most(maxDeltas)), first: r.Uvarint(), cause: int(r.most(maxDeltas))}
			if c.cause >= len(w.causes) || c.events == 0 {
				r.Fail()
			}
			a.chats[i] = c
		}
		w.apps = append(w.apps, a)
	}
	if len(r.B) > 0 {
		r.Fail()
	}
	return w, r.Err
}

// emitDeltas numbers the deltas of the message and writes the row of their facts.
func (tx *Tx) emitDeltas() error {
	row := deltaRow{time: tx.applied.Now}
	facts, before := 0, 0
	places := map[causeSet]int{}
	for _, a := range tx.usage.apps {
		if len(a.chats) == 0 {
			before += len(a.events)
			continue
		}
		d := deltaApp{app: a.app, before: before + tx.outside(a), chats: make([]deltaRange, 0, len(a.chats))}
		before = 0
		parts := 0
		for _, at := range a.chats {
			c := &tx.stage.chats.list[at]
			n := c.message.deltas
			d.chats = append(d.chats, deltaRange{n, c.last + 1, tx.causeAt(c.message.causes, places, &row.causes)})
			parts += partsOf(n)
			c.last += uint64(n)
			c.told += uint64(n)
			c.message = chatInMessage{}
		}
		var err error
		if d.sequence, err = tx.sequences(a.app, parts); err != nil {
			return err
		}
		row.apps = append(row.apps, d)
		facts += parts
	}
	if facts == 0 {
		return nil
	}
	if err := tx.putRow(schemas.DestFacts, uint32(len(tx.message.Commands)), row.append(nil), facts); err != nil {
		return err
	}
	tx.factN += uint32(facts)
	return nil
}

// deltas renders the parts that a row of deltas stands for.
func (w *renderer) deltas(at schemas.Position, v []byte) error {
	row, err := parseDeltaRow(v)
	if err != nil {
		return err
	}
	last := at
	if last.N += uint32(row.facts()) - 1; last.Compare(w.after) <= 0 {
		return nil
	}
	seq := logPosition(at.Epoch, at.Seq)
	if w.above.below(seq) { // as in usage
		return nil
	}
	d := deltaRenderer{renderer: w, row: &row, at: at, events: newEventReader(w.bolt, seq)}
	for i := range row.apps {
		a := &row.apps[i]
		d.skip += a.before
		sequence := a.sequence
		for _, c := range a.chats {
			full, err := d.chat(a.app, c, sequence)
			if err != nil || full {
				return err
			}
			sequence += uint64(partsOf(c.events))
		}
	}
	return nil
}

// deltaRenderer walks the events of a message, chat by chat.
type deltaRenderer struct {
	*renderer
	row    *deltaRow
	at     schemas.Position // of the next fact
	events *eventReader
	skip   int // events between where the reader stands and that fact's
	list   []schemas.UsageEvent
}

// chat renders the facts of one chat until there are enough.
func (d *deltaRenderer) chat(app string, c deltaRange, sequence uint64) (full bool, err error) {
	left := c.events
	for n := range partsOf(c.events) {
		size := min(left, schemas.MaxDeltasPerPart)
		first := c.first + uint64(c.events-left)
		left -= size
		here := d.at
		d.at.N++
		if here.Compare(d.after) <= 0 {
			d.skip += size
			continue
		}
		if d.full() {
			return true, nil
		}
		events, err := d.take(app, size)
		if err != nil {
			return false, err
		}
		chat, cause := events[0].ChatID, d.row.causes[c.cause]
		head := schemas.FactHead{
			Kind: schemas.ChatUsageDelta.Name, AppID: app, ID: schemas.FactID(cause.Cause, here.N), Subject: schemas.ChatSubject(chat),
			Time: d.row.time, Sequence: sequence + uint64(n), ChatSequence: first, Cause: cause.Cause,
			CorrelationID: cause.correlation, TraceParent: cause.traceparent,
		}
		data := schemas.AppendFact(make([]byte, 0, 768+384*size), &head, func(b []byte) []byte {
			return schemas.AppendChatUsageDelta(b, app, chat, n+1, partsOf(c.events), events)
		})
		d.add(here, schemas.FactSubjectOf(app, schemas.ChatUsageDelta.Name, chat), data)
	}
	return false, nil
}

// take gives n events, which must be deltas of one chat of an app. They are valid until
// the next call.
func (d *deltaRenderer) take(app string, n int) ([]schemas.UsageEvent, error) {
	if err := d.events.skip(d.skip); err != nil {
		return nil, err
	}
	d.skip = 0
	list, _, err := d.events.next(n)
	if len(list) < n && err == nil { // they go on in the next chunk
		d.list = append(d.list[:0], list...)
		for len(list) > 0 && len(d.list) < n && err == nil {
			list, _, err = d.events.next(n - len(d.list))
			d.list = append(d.list, list...)
		}
		list = d.list
	}
	if err != nil {
		return nil, err
	}
	if len(list) != n {
		return nil, errDamaged
	}
	for i := range list {
		if e := &list[i]; e.AppID != app || e.ChatID == "" || e.ChatID != list[0].ChatID || e.Summary {
			return nil, errDamaged
		}
	}
	return list, nil
}
