package store

import (
	"slices"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Facts renders what the outbox of a destination holds after a position, in
// order: at least one message when there is any, at most maxMessages, and no
// more once they reach maxBytes.
func (s *Store) Facts(dest string, after schemas.Position, maxMessages, maxBytes int) ([]schemas.FactMessage, error) {
	var out []schemas.FactMessage
	err := s.db.View(func(bolt *bbolt.Tx) error {
		above, err := readLine(bolt)
		if err != nil {
			return err
		}
		w := renderer{bolt: bolt, above: above, after: after, maxMessages: maxMessages, maxBytes: maxBytes}
		defer func() { out = w.out }()
		from := after
		from.N = 0 // a row of the same command may hold facts on both sides of the position
		c := bucketOf(bolt, outboxBucket(dest)).cursor()
		for k, v := c.seek(from.Append(nil)); k != nil && !w.full(); k, v = c.next() {
			at, err := schemas.ParsePosition(k)
			if err != nil {
				return err
			}
			if err := w.row(at, v); err != nil {
				return err
			}
		}
		return c.err
	})
	return out, err
}

type renderer struct {
	bolt        *bbolt.Tx
	above       line
	after       schemas.Position
	maxMessages int
	maxBytes    int
	out         []schemas.FactMessage
	bytes       int
}

func (w *renderer) full() bool {
	return len(w.out) > 0 && (len(w.out) >= w.maxMessages || w.bytes >= w.maxBytes)
}

func (w *renderer) add(at schemas.Position, subject string, data []byte) {
	header := map[string][]string{"content-type": {"application/cloudevents+json"}}
	w.out = append(w.out, schemas.FactMessage{Subject: subject, Header: header, Data: data, At: at})
	w.bytes += len(data) + len(subject)
}

func (w *renderer) row(at schemas.Position, v []byte) error {
	if len(v) == 0 {
		return errDamaged
	}
	switch v[0] {
	case rowUsage:
		return w.usage(at, v)
	case rowDeltas:
		return w.deltas(at, v)
	}
	if at.Compare(w.after) <= 0 {
		return nil
	}
	r := newReader(v)
	r.Form(rowLiteral)
	subject := r.text()
	if r.Err != nil {
		return r.Err
	}
	w.add(at, subject, slices.Clone(r.B))
	return nil
}

// usage renders the parts that a usage row stands for.
func (w *renderer) usage(at schemas.Position, v []byte) error {
	row, err := parseUsageRow(v)
	if err != nil {
		return err
	}
	seq := logPosition(at.Epoch, at.Seq)
	if w.above.below(seq) { // published before it expired; a replay has filed it again
		return nil
	}
	events := newEventReader(w.bolt, seq)
	batches := batchNames{bolt: w.bolt, seq: seq}
	p := part{seq: seq, events: events, batches: &batches}
	for i := range row.apps {
		a := &row.apps[i]
		left := a.events
		for n := range a.parts() {
			size := min(left, schemas.MaxEventsPerPart)
			left -= size
			here := at
			at.N++
			if here.Compare(w.after) <= 0 {
				if err := events.skip(size); err != nil {
					return err
				}
				continue
			}
			if w.full() {
				return nil
			}
			if err := p.take(size); err != nil {
				return err
			}
			cause := row.causes[a.cause]
			head := schemas.FactHead{
				Kind: schemas.UsageRecorded.Name, AppID: a.app, ID: schemas.FactID(cause.Cause, here.N), Subject: "app/" + a.app,
				Time: row.time, Sequence: a.sequence + uint64(n), Cause: cause.Cause,
				CorrelationID: cause.correlation, TraceParent: cause.traceparent,
			}
			data := schemas.AppendFact(make([]byte, 0, 512+288*size), &head, func(b []byte) []byte {
				return schemas.AppendUsageRecorded(b, a.app, p.names, n+1, a.parts(), p.list)
			})
			w.add(here, schemas.FactSubject(a.app, schemas.UsageRecorded.Name), data)
		}
	}
	return nil
}

// part gathers the events of one fact and the batches they came with.
type part struct {
	seq     uint64
	events  *eventReader
	batches *batchNames
	list    []schemas.UsageEvent
	names   []string
}

func (p *part) take(n int) error {
	p.list, p.names = p.list[:0], p.names[:0]
	last := -1
	for n > 0 {
		events, commands, err := p.events.next(n)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			return errDamaged
		}
		n -= len(events)
		p.list = append(p.list, events...)
		for _, c := range commands {
			if int(c) == last {
				continue
			}
			last = int(c)
			name, err := p.batches.name(c)
			if err != nil {
				return err
			}
			if !slices.Contains(p.names, name) {
				p.names = append(p.names, name)
			}
		}
	}
	return nil
}

// batchNames remembers the batch ids of a message's commands.
type batchNames struct {
	bolt  *bbolt.Tx
	seq   uint64
	heads map[uint32]batchHead
}

// batchHead is what a batch record begins with.
type batchHead struct {
	name string
	at   int64
}

func (b *batchNames) name(command uint32) (string, error) {
	h, err := b.head(command)
	return h.name, err
}

func (b *batchNames) head(command uint32) (batchHead, error) {
	if h, ok := b.heads[command]; ok {
		return h, nil
	}
	v, err := bucketOf(b.bolt, bucketBatches).get(keyCommand(b.seq, command))
	if err != nil {
		return batchHead{}, err
	}
	r := newReader(v)
	r.Form(1)
	r.Byte()
	h := batchHead{at: r.Varint(), name: r.text()}
	if r.Err != nil {
		return batchHead{}, r.Err
	}
	if b.heads == nil {
		b.heads = map[uint32]batchHead{}
	}
	b.heads[command] = h
	return h, nil
}
