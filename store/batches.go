package store

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// PartOutcome says what a command did with its part of a batch.
type PartOutcome byte

// What becomes of a part.
const (
	PartNew      PartOutcome = iota // applied by this command
	PartReplayed                    // had been applied by an earlier command; First tells which
	PartConflict                    // refused: the batch id stands for other events of the app
	PartCarried                     // no part of this command, remembered from earlier ones
)

// Batch is the record of an ingest command: what became of each app's part.
// The newest record of a batch id knows the parts of all commands that used it.
type Batch struct {
	BatchID string
	Made    bool
	At      int64 // handler time of the command, set by PutBatch: nanoseconds since 1970 UTC
	Parts   []Part
	Errors  []schemas.EventError // of new and conflicting parts, by index
}

// Part is one app's share of a batch.
type Part struct {
	AppID      string
	Digest     [16]byte
	Outcome    PartOutcome
	Accepted   uint32
	Duplicates uint32
	Rejected   uint32
	First      Place // of the command that applied the part
}

// Place is where a command stands in its partition's log.
type Place struct {
	Seq   uint64 // log position of its message
	Index uint32
}

// The reference of a batch in the id log is its place: 52 bits of log position and
// 12 of index.
const placeIndexBits = 12

func (p Place) ref() uint64 { return p.Seq<<placeIndexBits | uint64(p.Index) }

func placeOf(ref uint64) Place {
	return Place{Seq: ref >> placeIndexBits, Index: uint32(ref & (1<<placeIndexBits - 1))}
}

// Known gives what the batch id stands for in an app, or nil. A conflicting part
// is what was refused, not what the id stands for.
func (b *Batch) Known(app string) *Part {
	for i := range b.Parts {
		if p := &b.Parts[i]; p.AppID == app && p.Outcome != PartConflict {
			return p
		}
	}
	return nil
}

func (b *Batch) append(dst []byte) []byte {
	made := byte(0)
	if b.Made {
		made = 1
	}
	dst = append(dst, 1, made)
	dst = binary.AppendVarint(dst, b.At)
	dst = appendText(dst, b.BatchID)
	dst = binary.AppendUvarint(dst, uint64(len(b.Parts)))
	for i := range b.Parts {
		p := &b.Parts[i]
		dst = appendText(dst, p.AppID)
		dst = append(dst, p.Digest[:]...)
		dst = append(dst, byte(p.Outcome))
		for _, n := range [...]uint64{uint64(p.Accepted), uint64(p.Duplicates), uint64(p.Rejected), p.First.Seq, uint64(p.First.Index)} {
			dst = binary.AppendUvarint(dst, n)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Errors)))
	for i := range b.Errors {
		e := &b.Errors[i]
		dst = binary.AppendUvarint(dst, uint64(e.Index))
		for _, s := range [...]string{e.EventID, e.AppID, string(e.Code), e.Detail} {
			dst = appendText(dst, s)
		}
	}
	return dst
}

func parseBatch(v []byte) (*Batch, error) {
	r := newReader(v)
	r.Form(1)
	b := &Batch{Made: r.Byte() == 1, At: r.Varint(), BatchID: r.text()}
	for range r.Count(23) {
		b.Parts = append(b.Parts, Part{
			AppID: r.text(), Digest: r.digest(), Outcome: PartOutcome(r.Byte()),
			Accepted: uint32(r.Uvarint()), Duplicates: uint32(r.Uvarint()), Rejected: uint32(r.Uvarint()),
			First: Place{r.Uvarint(), uint32(r.Uvarint())},
		})
	}
	for range r.Count(5) {
		b.Errors = append(b.Errors, schemas.EventError{
			Index: uint32(r.Uvarint()), EventID: r.text(), AppID: r.text(), Code: schemas.Code(r.text()), Detail: r.text(),
		})
	}
	return b, r.Err
}

// readBatch gives the record of the command at a place, or nil.
func readBatch(bolt *bbolt.Tx, p Place) (*Batch, error) {
	v, err := bucketOf(bolt, bucketBatches).get(keyCommand(p.Seq, p.Index))
	if v == nil {
		return nil, err
	}
	return parseBatch(v)
}

// forget leaves out the parts whose command has expired: what the batch id stood for
// in their apps is no longer known.
func (b *Batch) forget(above *line) {
	b.Parts = slices.DeleteFunc(b.Parts, func(p Part) bool { return above.below(p.First.Seq) })
}

// outcome sums what a record says of the parts that want wants. Counts and errors
// of replayed parts are those of the command that applied them; its errors are not
// told any more when it has expired.
func (b *Batch) outcome(bolt *bbolt.Tx, above *line, want func(*Part) bool) (schemas.IngestOutcome, error) {
	o := schemas.IngestOutcome{Replayed: true, Conflict: true}
	seen := 0
	for i := range b.Parts {
		p := &b.Parts[i]
		if !want(p) {
			continue
		}
		seen++
		o.Accepted += int(p.Accepted)
		o.Duplicates += int(p.Duplicates)
		o.Rejected += int(p.Rejected)
		o.Replayed = o.Replayed && p.Outcome == PartReplayed
		o.Conflict = o.Conflict && p.Outcome == PartConflict
		errors := b.Errors
		switch {
		case p.Outcome != PartReplayed && p.Outcome != PartCarried:
		case above.below(p.First.Seq):
			errors = nil
		default:
			first, err := readBatch(bolt, p.First)
			if err != nil {
				return o, err
			}
			if first == nil {
				return o, errDamaged
			}
			errors = first.Errors
		}
		for _, e := range errors {
			if e.AppID == p.AppID {
				o.Errors = append(o.Errors, e)
			}
		}
	}
	if seen == 0 {
		o.Replayed, o.Conflict = false, false
	}
	o.Tidy()
	return o, nil
}

// own wants the parts that a command itself held.
func own(p *Part) bool { return p.Outcome != PartCarried }
