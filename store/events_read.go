package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// maxScannedChunks bounds what one page looks at, so that a filter which fits
// nothing costs no more than that; the page's end says where to go on.
const maxScannedChunks = 2_000

// Events gives single events, newest first: by descending place in the log. What
// is recorded later stands before every page that was given, so a walk sees each
// event that was there at its beginning once, and none twice.
func (s *Store) Events(ctx context.Context, q schemas.EventQuery) (schemas.EventPage, error) {
	scan := eventScan{q: &q, texts: q.Texts()}
	if err := s.db.View(func(bolt *bbolt.Tx) error { return scan.run(ctx, bolt) }); err != nil {
		return schemas.EventPage{}, err
	}
	err := s.judge(&scan)
	return scan.page, err
}

// eventScan is one walk back through the event log.
type eventScan struct {
	q        *schemas.EventQuery
	texts    [][]byte
	page     schemas.EventPage
	places   []uint64 // log positions of the page's events
	above    line
	events   []schemas.UsageEvent
	commands []uint32
}

func (w *eventScan) run(ctx context.Context, bolt *bbolt.Tx) error {
	c := bucketOf(bolt, bucketEvents).cursor()
	var err error
	if w.above, err = readLine(bolt); err != nil {
		return err
	}
	k, v, below := w.begin(c)
	for n := 1; w.kept(k); n++ {
		if n%64 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		at := schemas.EventPlace{Seq: binary.BigEndian.Uint64(k), Chunk: binary.BigEndian.Uint32(k[8:])}
		full, err := w.chunk(bolt, at, v, below)
		if err != nil || full {
			return err
		}
		if k, v = c.prev(); w.kept(k) && n == maxScannedChunks {
			w.page.More, w.page.Next = true, at
			return nil
		}
		below = ^uint32(0)
	}
	return c.err
}

// kept reports whether a key is that of a chunk which has not expired.
func (w *eventScan) kept(key []byte) bool {
	return key != nil && !w.above.below(binary.BigEndian.Uint64(key))
}

// begin finds the newest chunk that may hold an event before the query's place;
// of that chunk only what stands below an index is meant.
func (w *eventScan) begin(c *cursor) (k, v []byte, below uint32) {
	before := w.q.Before
	if before == (schemas.EventPlace{}) {
		k, v = c.last()
		return k, v, ^uint32(0)
	}
	key := keyChunk(before.Seq, int(before.Chunk))
	if k, v = c.seek(key); bytes.Equal(k, key) {
		return k, v, before.Index
	}
	if k == nil && c.err == nil {
		k, v = c.last()
	} else if k != nil {
		k, v = c.prev()
	}
	return k, v, ^uint32(0)
}

// chunk takes what fits of one chunk, from its end. The page is full when there
// was one more for it: only then is it known that the query goes on.
func (w *eventScan) chunk(bolt *bbolt.Tx, at schemas.EventPlace, v []byte, below uint32) (full bool, err error) {
	for _, text := range w.texts {
		if !bytes.Contains(v, text) {
			return false, nil
		}
	}
	if w.events, w.commands, err = decodeChunk(v, w.events[:0], w.commands[:0]); err != nil {
		return false, err
	}
	names := batchNames{bolt: bolt, seq: at.Seq}
	for i := min(len(w.events), int(below)) - 1; i >= 0; i-- {
		e := &w.events[i]
		if !w.q.Wants(e) {
			continue
		}
		if len(w.page.Events) == w.q.Limit {
			at.Index = uint32(i) + 1
			w.page.More, w.page.Next = true, at
			return true, nil
		}
		w.places = append(w.places, at.Seq)
		head, err := names.head(w.commands[i])
		if err != nil {
			return false, err
		}
		w.page.Events = append(w.page.Events, schemas.LoggedEvent{
			UsageEvent: detached(e), BatchID: strings.Clone(head.name), RecordedAt: head.at, Status: schemas.EventCounted,
		})
	}
	return false, nil
}

// judge tells of each event what became of it. It looks later than the scan did,
// so the table of ids, whose lock comes before the transaction, is held for a few
// lookups only. What has expired since then is left out: what became of it is not
// known any more.
func (s *Store) judge(w *eventScan) error {
	events := w.page.Events
	prints := make([]schemas.Fingerprint, len(events))
	var scratch []byte
	for i := range events {
		prints[i], scratch = schemas.FingerprintOf(schemas.IDAdjustment, events[i].AppID, events[i].EventID, scratch)
	}
	s.idMu.RLock()
	defer s.idMu.RUnlock()
	return s.db.View(func(bolt *bbolt.Tx) error {
		ids := bucketOf(bolt, bucketIDs)
		above, err := readLine(bolt)
		if err != nil {
			return err
		}
		for i := range events {
			if above.below(w.places[i]) {
				w.page.Events, w.page.More = events[:i], false
				return nil
			}
			ordinal, entry, err := s.lookup(ids, above.Ordinal, &prints[i])
			if err != nil {
				return err
			}
			if ordinal == 0 || entry.seq < w.places[i] { // the latter corrected an expired event of the same id
				continue
			}
			a, err := readAdjustment(bolt, placeOf(entry.ref))
			if err != nil {
				return err
			}
			e := &events[i]
			e.Status, e.Effective, e.Reason = a.Status, a.Effective, a.Reason
		}
		return nil
	})
}
