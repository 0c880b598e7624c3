package schemas

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// IngestOutcome is what became of one usage.ingest command, and the sum of
// several when a request was split over partitions.
type IngestOutcome struct {
	Accepted   int
	Duplicates int
	Rejected   int
	Errors     []EventError // by index, at most MaxListedErrors
	Replayed   bool         // every part had been applied by an earlier command of the batch
	Conflict   bool         // every part was refused: the batch id stands for other events
}

// Append adds the stored form, in which outcomes travel to whoever waits.
func (o *IngestOutcome) Append(dst []byte) []byte {
	dst = append(dst, 1, boolByte(o.Replayed)|boolByte(o.Conflict)<<1)
	dst = binary.AppendUvarint(dst, uint64(o.Accepted))
	dst = binary.AppendUvarint(dst, uint64(o.Duplicates))
	dst = binary.AppendUvarint(dst, uint64(o.Rejected))
	return appendEventErrors(dst, o.Errors)
}

// Decode reads what Append wrote. Texts point into src.
func (o *IngestOutcome) Decode(src []byte) error {
	r := Wire{B: src}
	if r.Byte() != 1 {
		r.Fail()
	}
	flags := r.Byte()
	*o = IngestOutcome{
		Replayed: flags&1 != 0, Conflict: flags&2 != 0,
		Accepted: int(r.Uint32()), Duplicates: int(r.Uint32()), Rejected: int(r.Uint32()),
		Errors: r.eventErrors(),
	}
	if r.Err == nil && len(r.B) > 0 {
		r.Fail()
	}
	return r.Err
}

// Merge adds the outcome of another part of the same request.
func (o *IngestOutcome) Merge(p *IngestOutcome) {
	o.Accepted += p.Accepted
	o.Duplicates += p.Duplicates
	o.Rejected += p.Rejected
	o.Replayed = o.Replayed && p.Replayed
	o.Conflict = o.Conflict && p.Conflict
	o.Errors = append(o.Errors, p.Errors...)
	o.Tidy()
}

// Tidy orders the errors by index and keeps the first MaxListedErrors.
func (o *IngestOutcome) Tidy() {
	slices.SortStableFunc(o.Errors, func(a, b EventError) int { return cmp.Compare(a.Index, b.Index) })
	if len(o.Errors) > MaxListedErrors {
		o.Errors = o.Errors[:MaxListedErrors]
	}
}

// CommandOutcome is what became of a command other than usage.ingest: refused by a
// rule, with a code, or done, with the body of its answer.
type CommandOutcome struct {
	Code   Code
	Detail string
	Body   []byte // JSON
}

// Append adds the stored form. Form 2: form, code, detail, body.
func (o *CommandOutcome) Append(dst []byte) []byte {
	dst = append(dst, 2)
	dst = appendText(dst, string(o.Code))
	dst = appendText(dst, o.Detail)
	dst = binary.AppendUvarint(dst, uint64(len(o.Body)))
	return append(dst, o.Body...)
}

// Decode reads what Append wrote. Texts and body point into src.
func (o *CommandOutcome) Decode(src []byte) error {
	r := Wire{B: src}
	if r.Byte() != 2 {
		r.Fail()
	}
	*o = CommandOutcome{Code: Code(r.Text()), Detail: r.Text(), Body: r.Bytes(r.Uvarint())}
	return r.end()
}

// AppendReplies adds the outcomes of a group's commands, in their order, in the
// form in which they travel to the node that published the group.
func AppendReplies(dst []byte, outcomes [][]byte) []byte {
	dst = append(dst, 1)
	dst = binary.AppendUvarint(dst, uint64(len(outcomes)))
	for _, o := range outcomes {
		dst = binary.AppendUvarint(dst, uint64(len(o)))
		dst = append(dst, o...)
	}
	return dst
}

// DecodeReplies reads what AppendReplies wrote. The outcomes point into src.
func DecodeReplies(src []byte) ([][]byte, error) {
	r := Wire{B: src}
	if r.Byte() != 1 {
		r.Fail()
	}
	outcomes := make([][]byte, r.Count(1))
	for i := range outcomes {
		outcomes[i] = r.Bytes(r.Uvarint())
	}
	if r.Err == nil && len(r.B) > 0 {
		r.Fail()
	}
	return outcomes, r.Err
}
