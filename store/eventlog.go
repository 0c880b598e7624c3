package store

import (
	"bytes"
	"encoding/binary"

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
}

// putEvents writes the events of a message.
func (tx *Tx) putEvents(seq uint64, list []recorded) error {
	for chunk := 0; len(list) > 0; chunk++ {
		n := chunkLength(list)
		v := appendChunk(nil, list[:n])
		if err := tx.add(bucketEvents, keyChunk(seq, chunk), v); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// chunkLength takes as many events as surely fit: every number counts with its
// greatest length, and a text wherever it differs from the one before it.
func chunkLength(list []recorded) int {
	const (
		head   = 32 // of the chunk and of its block
		row    = 48 // flags, index, length of the id, time, three texts, two counts and a run
		count  = 5  // of at most a billion
		amount = 9  // cost, duration
		ref    = 3
		sums   = 1 + 7*binary.MaxVarintLen64
	)
	size := head
	var last schemas.UsageEvent
	for i := range list {
		e := list[i].event
		size += row + len(e.EventID) + len(e.Metadata)
		for _, n := range [...]int64{e.TotalTokens - e.InputTokens - e.OutputTokens, e.CachedTokens, e.ReasoningTokens} {
			if n != 0 {
				size += count
			}
		}
		if e.Summary {
			size += 5 * (amount - count)
		}
		if e.Counted != nil {
			size += sums
		}
		if e.Cost != 0 || e.DurationSec != 0 || len(e.Metadata) > 0 {
			size += 2*amount + ref
		}
		for i, s := range [...][2]string{
			{e.AppID, last.AppID},
			{e.UserID, last.UserID},
			{e.Model, last.Model},
			{e.TenantID, last.TenantID},
			{e.WorkflowID, last.WorkflowID},
			{e.ChatID, last.ChatID},
			{e.RunID, last.RunID},
			{e.AgentName, last.AgentName},
			{e.InvocationID, last.InvocationID},
		} {
			if s[0] != s[1] {
				size += len(s[0]) + 2
			}
			if i >= 3 && s[0] != "" {
				size += ref
			}
		}
		if size > maxChunkBytes && i > 0 {
			return i
		}
		last = *e
	}
	return len(list)
}

func appendChunk(b []byte, list []recorded) []byte {
	b = append(b, 1)
	b = binary.AppendUvarint(b, uint64(len(list)))
	var runs []byte
	n, last := 0, int64(0)
	for i := 0; i < len(list); n++ {
		j := i
		for j < len(list) && list[j].command == list[i].command {
			j++
		}
		runs = binary.AppendVarint(runs, int64(list[i].command)-last)
		runs = binary.AppendUvarint(runs, uint64(j-i))
		last, i = int64(list[i].command), j
	}
	b = binary.AppendUvarint(b, uint64(n))
	b = append(b, runs...)
	return schemas.AppendUsageBlock(b, len(list), func(i int) *schemas.UsageEvent { return list[i].event })
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
