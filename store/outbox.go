package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Rows of an outbox wait until the relay has published them. A literal row is a
// rendered message. A usage row stands for all usage.recorded facts of a message, a
// row of deltas for all chat.usage_delta facts: they name ranges of the event log, and
// the relay renders them (architecture §2.6).
//
//	literal, form 1: subject, data
//	usage,   form 2: time, causes, apps × (app, events, first sequence, cause)
//	deltas,  form 3: see deltaRow
const (
	rowLiteral = 1
	rowUsage   = 2
	rowDeltas  = 3
)

var destinations = [...]string{schemas.DestFacts, schemas.DestDeadLetters}

func destinationIndex(dest string) int { return slices.Index(destinations[:], dest) }

type usageRow struct {
	time   int64
	causes []factCause
	apps   []usageRange
}

// factCause is the command, or the group, that facts follow from, with what
// travels along.
type factCause struct {
	schemas.Cause
	correlation, traceparent string
}

// usageRange is one app's events of a message; they follow those of the app before it.
type usageRange struct {
	app      string
	events   int
	sequence uint64 // of the first part
	cause    int
}

func (u *usageRange) parts() int { return partsOf(u.events) }

// partsOf is how many facts tell of so many events.
func partsOf(events int) int {
	return (events + schemas.MaxEventsPerPart - 1) / schemas.MaxEventsPerPart
}

func (w *usageRow) append(b []byte) []byte {
	b = append(b, rowUsage)
	b = binary.AppendVarint(b, w.time)
	b = appendCauses(b, w.causes)
	b = binary.AppendUvarint(b, uint64(len(w.apps)))
	for _, a := range w.apps {
		b = appendText(b, a.app)
		b = binary.AppendUvarint(b, uint64(a.events))
		b = binary.AppendUvarint(b, a.sequence)
		b = binary.AppendUvarint(b, uint64(a.cause))
	}
	return b
}

func appendCauses(b []byte, causes []factCause) []byte {
	b = binary.AppendUvarint(b, uint64(len(causes)))
	for _, c := range causes {
		b = appendRest(b, c.ID, c.Source, c.correlation, c.traceparent)
	}
	return b
}

func (r *reader) causes() (list []factCause) {
	for range r.Count(4) {
		list = append(list, factCause{schemas.Cause{ID: r.text(), Source: r.text()}, r.text(), r.text()})
	}
	return list
}

func parseUsageRow(v []byte) (w usageRow, err error) {
	r := newReader(v)
	r.Form(rowUsage)
	w.time, w.causes = r.Varint(), r.causes()
	for range r.Count(4) {
		a := usageRange{app: r.text(), events: int(r.Uvarint()), sequence: r.Uvarint(), cause: int(r.Uvarint())}
		if a.cause >= len(w.causes) {
			r.Fail()
		}
		w.apps = append(w.apps, a)
	}
	return w, r.Err
}

func appendLiteral(subject string, data []byte) []byte {
	b := make([]byte, 0, len(subject)+len(data)+8)
	b = append(b, rowLiteral)
	b = appendText(b, subject)
	return append(b, data...)
}

// rowFacts is the number of facts that a row stands for.
func rowFacts(v []byte) (int, error) {
	if len(v) == 0 {
		return 0, errDamaged
	}
	switch v[0] {
	case rowLiteral:
		return 1, nil
	case rowDeltas:
		w, err := parseDeltaRow(v)
		return w.facts(), err
	}
	w, err := parseUsageRow(v)
	n := 0
	for i := range w.apps {
		n += w.apps[i].parts()
	}
	return n, err
}

// emitUsage writes the rows of the facts usage.recorded and usage.rejected. Facts
// of a whole message stand after those of its commands.
func (tx *Tx) emitUsage() error {
	u := &tx.usage
	index := uint32(len(tx.message.Commands))
	if u.sum > 0 {
		row := usageRow{time: tx.applied.Now}
		facts := 0
		places := map[causeSet]int{}
		for _, a := range u.apps {
			if len(a.events) == 0 {
				continue
			}
			r := usageRange{app: a.app, events: len(a.events), cause: tx.causeAt(a.causes, places, &row.causes)}
			first, err := tx.sequences(a.app, r.parts())
			if err != nil {
				return err
			}
			r.sequence = first
			row.apps = append(row.apps, r)
			facts += r.parts()
		}
		if err := tx.putRow(schemas.DestFacts, index, row.append(nil), facts); err != nil {
			return err
		}
		tx.factN += uint32(facts)
	}
	for _, a := range u.apps {
		if a.refused == 0 {
			continue
		}
		data := schemas.UsageRejectedData{AppID: a.app, Count: a.refused, Rejected: a.rejected}
		f := commandFact{
			kind: schemas.UsageRejected.Name, app: a.app, subject: "app/" + a.app, time: tx.applied.Now,
			cause: tx.causeOf(a.refusals), data: data.AppendJSON,
		}
		if err := tx.emit(index, &f); err != nil {
			return err
		}
	}
	return nil
}

// key makes one value of all sets with several commands: their cause is the group.
func (c causeSet) key() causeSet {
	if c.state != 1 {
		return causeSet{state: 2}
	}
	return c
}

// causeAt gives the place in a row's list of what facts follow from. places knows those
// that are in it.
func (tx *Tx) causeAt(c causeSet, places map[causeSet]int, list *[]factCause) int {
	c = c.key()
	place, ok := places[c]
	if !ok {
		place = len(*list)
		places[c] = place
		*list = append(*list, tx.causeOf(c))
	}
	return place
}

func (tx *Tx) causeOf(c causeSet) factCause {
	if c.state != 1 {
		return factCause{Cause: tx.message.Cause}
	}
	f := &tx.message.Commands[c.command]
	return factCause{schemas.Cause{ID: f.ID, Source: f.Source}, f.CorrelationID, f.TraceParent}
}

// commandFact is a fact whose data is rendered when its row is written.
type commandFact struct {
	kind, app, subject string
	about              string // chat or run that its subject ends with; empty: it ends with the kind
	time               int64
	cause              factCause
	apart              string // makes its id one of its own; see EmitApart
	data               func([]byte) []byte
	chat               int          // place in the stage of the chat that it is an item of, + 1
	summary            *chatTelling // in the place of data
}

// Emit files a fact that follows from the command with the given index. It stands
// behind what its message tells of recorded usage: a correction may share the
// message with the event it corrects, and no fact speaks of what is told later.
func (tx *Tx) Emit(command uint32, kind, app, subject string, data func([]byte) []byte) {
	tx.facts = append(tx.facts, commandFact{
		kind: kind, app: app, subject: subject, time: tx.applied.Now, cause: tx.causeOf(causeSet{command: command, state: 1}), data: data,
	})
}

func (tx *Tx) emitFacts() error {
	index := uint32(len(tx.message.Commands))
	for i := range tx.facts {
		f := &tx.facts[i]
		if f.summary != nil {
			told, err := tx.sumUp(f)
			if err != nil {
				return err
			}
			if !told {
				continue
			}
		}
		if err := tx.emit(index, f); err != nil {
			return err
		}
	}
	clear(tx.facts)
	return nil
}

// emit writes the row of one fact.
func (tx *Tx) emit(index uint32, f *commandFact) error {
	sequence, err := tx.sequences(f.app, 1)
	if err != nil {
		return err
	}
	head := schemas.FactHead{
		Kind: f.kind, AppID: f.app, ID: schemas.FactID(schemas.Cause{ID: f.cause.ID, Source: f.cause.Source + f.apart}, tx.factN), Subject: f.subject, Time: f.time,
		Sequence: sequence, Cause: f.cause.Cause, CorrelationID: f.cause.correlation, TraceParent: f.cause.traceparent,
		ChatSequence: tx.number(f),
	}
	to := schemas.FactSubject(f.app, f.kind)
	if f.about != "" {
		to = schemas.FactSubjectOf(f.app, f.kind, f.about)
	}
	data := f.data
	if f.summary != nil {
		f.summary.EventID = head.ID
		data = f.summary.AppendJSON
	}
	row := appendLiteral(to, schemas.AppendFact(nil, &head, data))
	if err := tx.putRow(schemas.DestFacts, index, row, 1); err != nil {
		return err
	}
	tx.factN++
	return nil
}

func (tx *Tx) putRow(dest string, index uint32, row []byte, facts int) error {
	at := schemas.Position{Epoch: tx.applied.Epoch, Seq: tx.message.Seq, Index: index, N: tx.factN}
	tx.added[destinationIndex(dest)]++
	tx.waiting[destinationIndex(dest)] += int64(facts)
	return tx.add(outboxBucket(dest), at.Append(nil), row)
}

// sequences takes n numbers of an app's order of facts and gives the first.
func (tx *Tx) sequences(app string, n int) (uint64, error) {
	last, ok := tx.stage.apps[app]
	if !ok {
		v, err := tx.bucket(bucketApps).get([]byte(app))
		if err != nil {
			return 0, err
		}
		if v != nil {
			r := newReader(v)
			r.Form(1)
			last = r.Uvarint()
			if r.Err != nil {
				return 0, fmt.Errorf("counters of app %q: %w", app, r.Err)
			}
		}
	}
	tx.stage.apps[app] = last + uint64(n)
	return last + 1, nil
}

func (tx *Tx) putApps() error {
	for app, last := range tx.stage.apps {
		if err := tx.put(bucketApps, []byte(app), binary.AppendUvarint([]byte{1}, last)); err != nil {
			return err
		}
	}
	return nil
}

// relayStage holds where a relay stands until a transaction writes it down.
type relayStage struct {
	mu     sync.Mutex
	state  schemas.RelayState
	dirty  bool
	signal chan struct{}
}

func newRelayStage() *relayStage { return &relayStage{signal: make(chan struct{}, 1)} }

func (r *relayStage) wake() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// done notes that a position has been written down; a newer one stays to be.
func (r *relayStage) done(st schemas.RelayState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == st {
		r.dirty = false
	}
}

func (s *Store) loadOutbox(bolt *bbolt.Tx) error {
	for i, dest := range destinations {
		v, err := bucketOf(bolt, bucketMeta).get(metaRelayed(dest))
		if err != nil {
			return err
		}
		st, err := parseRelayState(v)
		if err != nil {
			return fmt.Errorf("relay to %s: %w", dest, err)
		}
		s.relay[dest].state = st
		c := bucketOf(bolt, outboxBucket(dest)).cursor()
		rows, facts := 0, 0
		for k, v := c.first(); k != nil; k, v = c.next() {
			n, err := rowFacts(v)
			if err != nil {
				return fmt.Errorf("outbox of %s at %x: %w", dest, k, err)
			}
			rows, facts = rows+1, facts+n
		}
		if c.err != nil {
			return c.err
		}
		s.stats.outbox[i].Store(int64(rows))
		s.stats.waiting[i].Store(int64(facts))
	}
	return nil
}

// Relayed tells where the relay to a destination stands.
func (s *Store) Relayed(dest string) (schemas.RelayState, error) {
	r := s.relay[dest]
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, nil
}

// MarkRelayed notes that everything up to st has been published. It becomes
// durable with the next transaction or Settle; until then the marker in the
// destination stream says it.
func (s *Store) MarkRelayed(dest string, st schemas.RelayState) error {
	r := s.relay[dest]
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.dirty = st, true
	return nil
}

// Wake is signalled after a commit that added rows.
func (s *Store) Wake(dest string) <-chan struct{} { return s.relay[dest].signal }

// Unsettled reports whether MarkRelayed noted something that is not durable yet.
func (s *Store) Unsettled() bool {
	for _, r := range s.relay {
		r.mu.Lock()
		dirty := r.dirty
		r.mu.Unlock()
		if dirty {
			return true
		}
	}
	return false
}

// Settle writes down where the relays stand. It is called by the goroutine that updates.
func (s *Store) Settle() error {
	return s.Update(func(*Tx) error { return nil })
}

func (tx *Tx) settleRelays() error {
	for i, dest := range destinations {
		r := tx.store.relay[dest]
		r.mu.Lock()
		st, dirty := r.state, r.dirty
		r.mu.Unlock()
		tx.settled[i] = st
		if !dirty {
			continue
		}
		rows, facts, err := tx.deleteRows(outboxBucket(dest), st.After)
		if err != nil {
			return &Fault{"delete published rows", err}
		}
		tx.deleted[i] = int64(rows)
		tx.waiting[i] -= int64(facts)
		if err := tx.put(bucketMeta, metaRelayed(dest), appendRelayState(nil, st)); err != nil {
			return &Fault{"write position of relay", err}
		}
	}
	return nil
}

// deleteRows removes the rows all of whose facts stand at or before a position. It
// goes on behind what it has removed, as purgeBucket does.
func (tx *Tx) deleteRows(id bucketID, after schemas.Position) (rows, facts int, err error) {
	c := tx.bucket(id).cursor()
	end := after.Append(nil)
	var gone []byte
	for k, v := c.first(); k != nil && bytes.Compare(k, end) <= 0; k, v = c.seek(gone) {
		last, err := schemas.ParsePosition(k)
		if err != nil {
			return rows, facts, err
		}
		n, err := rowFacts(v)
		if err != nil {
			return rows, facts, err
		}
		last.N += uint32(n) - 1
		if last.Compare(after) > 0 {
			return rows, facts, nil
		}
		gone = append(gone[:0], k...)
		if err := tx.remove(c, k); err != nil {
			return rows, facts, err
		}
		rows, facts = rows+1, facts+n
	}
	return rows, facts, c.err
}

// appendRelayState gives form 2; form 1 ended before the stream's creation.
func appendRelayState(b []byte, st schemas.RelayState) []byte {
	b = append(b, 2)
	b = st.After.Append(b)
	b = binary.AppendUvarint(b, st.MarkerSeq)
	return binary.AppendVarint(b, st.StreamCreated)
}

func parseRelayState(v []byte) (st schemas.RelayState, err error) {
	if v == nil {
		return st, nil
	}
	r := newReader(v)
	form := r.Byte()
	if form != 1 && form != 2 {
		r.Fail()
	}
	if at := r.Bytes(schemas.PositionSize); at != nil {
		st.After, err = schemas.ParsePosition(at)
	}
	st.MarkerSeq = r.Uvarint()
	if form == 2 {
		st.StreamCreated = r.Varint()
	}
	if r.Err != nil {
		err = r.Err
	}
	return st, err
}
