package store

import (
	"bytes"
	"encoding/binary"
	"slices"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// The event log keeps the accepted events of every message, grouped by app, in
// chunks of at most maxChunkBytes. Form 1 of a chunk:
//
//	form, events n, runs r, r × (command index delta, events), usage block
//
// A run says which command of the group its events came with.
const maxChunkBytes = 64 << 10

// recorded is an accepted event and the command it came with.
type recorded struct {
	event   *schemas.UsageEvent
	command uint32
	chat    uint32 // of a delta: place of its chat in the stage + 1
}

// putEvents writes the events of a message.
func (tx *Tx) putEvents(seq uint64, list []recorded) error {
	for chunk := 0; len(list) > 0; chunk++ {
		v, n := appendChunk(nil, list)
		if err := tx.add(bucketEvents, keyChunk(seq, chunk), v); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// appendChunk adds a chunk of as many events as fit, and tells of how many.
func appendChunk(b []byte, list []recorded) ([]byte, int) {
	const (
		head = 1 + 2*binary.MaxVarintLen64
		run  = 5 // of at most a thousand commands and twenty thousand events
	)
	block, n := schemas.AppendUsageBlockWithin(nil, len(list), maxChunkBytes-head, run, func(i int) *schemas.UsageEvent { return list[i].event })
	list = list[:n]
	b = append(b, 1)
	b = binary.AppendUvarint(b, uint64(n))
	runs := make([]byte, 0, 64)
	count, last := 0, int64(0)
	for i := 0; i < n; count++ {
		j := i
		for j < n && list[j].command == list[i].command {
			j++
		}
		runs = binary.AppendVarint(runs, int64(list[i].command)-last)
		runs = binary.AppendUvarint(runs, uint64(j-i))
		last, i = int64(list[i].command), j
	}
	b = slices.Grow(b, len(runs)+len(block)+head+sealSize)
	b = binary.AppendUvarint(b, uint64(count))
	b = append(b, runs...)
	return append(b, block...), n
}

// decodeChunk adds the events of a chunk and the commands they came with. Texts
// point into the transaction that v belongs to.
func decodeChunk(v []byte, events []schemas.UsageEvent, commands []uint32) ([]schemas.UsageEvent, []uint32, error) {
	r := newReader(v)
	r.Form(1)
	n := r.Count(1)
	last, left := int64(0), uint64(n)
	for range r.Count(2) {
		last += r.Varint()
		run := r.most(left)
		left -= run
		for range run {
			commands = append(commands, uint32(last))
		}
	}
	if r.Err != nil {
		return events, commands, r.Err
	}
	events, rest, err := schemas.DecodeUsageBlock(r.B, events)
	if err == nil && (len(rest) > 0 || len(events) != len(commands)) {
		err = errDamaged
	}
	return events, commands, err
}

// chunkSize is the number of events of a chunk.
func chunkSize(v []byte) (int, error) {
	r := newReader(v)
	r.Form(1)
	n := r.Count(1)
	return n, r.Err
}

// eventReader walks the events of one message in the order of the log.
type eventReader struct {
	seq      []byte
	cursor   *cursor
	k, v     []byte
	events   []schemas.UsageEvent
	commands []uint32
	at       int // place of the next event inside events
}

func newEventReader(tx *bbolt.Tx, seq uint64) *eventReader {
	r := &eventReader{seq: keySeq(seq), cursor: bucketOf(tx, bucketEvents).cursor()}
	r.k, r.v = r.cursor.seek(r.seq)
	return r
}

func (r *eventReader) load() (bool, error) {
	if r.k == nil || !bytes.HasPrefix(r.k, r.seq) {
		return false, r.cursor.err
	}
	var err error
	r.events, r.commands, err = decodeChunk(r.v, r.events[:0], r.commands[:0])
	r.at = 0
	r.k, r.v = r.cursor.next()
	return err == nil, err
}

// next gives up to n events that lie together; none at the end of the message.
// They are valid until the next call.
func (r *eventReader) next(n int) ([]schemas.UsageEvent, []uint32, error) {
	if r.at == len(r.events) {
		if ok, err := r.load(); !ok {
			return nil, nil, err
		}
	}
	end := min(len(r.events), r.at+n)
	events, commands := r.events[r.at:end], r.commands[r.at:end]
	r.at = end
	return events, commands, nil
}

// skip passes over n events; whole chunks are not decoded.
func (r *eventReader) skip(n int) error {
	if have := min(n, len(r.events)-r.at); have > 0 {
		r.at += have
		n -= have
	}
	for n > 0 && r.k != nil && bytes.HasPrefix(r.k, r.seq) {
		size, err := chunkSize(r.v)
		if err != nil {
			return err
		}
		if size > n {
			if _, err := r.load(); err != nil {
				return err
			}
			r.at = n
			return nil
		}
		n -= size
		r.k, r.v = r.cursor.next()
	}
	return r.cursor.err
}
