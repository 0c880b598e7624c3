package schemas

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
)

// A usage block is the stored form of a list of events, inside commands and in
// the event log alike: a dictionary of the texts that repeat, then one row an
// event. Form 1:
//
//	form, texts n, n × text, base time, events n, n × row
//	row: flags, index delta, id, time − base, refs of app, user, model, then
//	     what the flags announce, in the order of the flags
const usageBlockForm = 1

const (
	rowUUID = 1 << iota // the id is a lower-case UUID, stored as 16 bytes
	rowTenant
	rowWorkflow
	rowChat
	rowRun
	rowAgent
	rowInvocation
	rowTotal // the total is more than input + output
	rowCachedTokens
	rowReasoning
	rowCost
	rowDuration
	rowCached
	rowMetadata
	rowSummary // the counts are the totals of a chat
	rowCounted // what was counted is not all of it; only in the event log
)

type dictionary struct {
	refs  map[string]uint64
	texts []string
}

var dictionaries = sync.Pool{New: func() any { return &dictionary{refs: map[string]uint64{}} }}

func (d *dictionary) ref(s string) uint64 {
	if r, ok := d.refs[s]; ok {
		return r
	}
	r := uint64(len(d.texts))
	d.refs[s] = r
	d.texts = append(d.texts, s)
	return r
}

// release empties the dictionary: its texts point into buffers that others reuse.
func (d *dictionary) release() {
	clear(d.refs)
	clear(d.texts)
	d.texts = d.texts[:0]
	if cap(d.texts) <= 4096 {
		dictionaries.Put(d)
	}
}

// AppendUsageBlock adds the stored form of n events.
func AppendUsageBlock(dst []byte, n int, at func(int) *UsageEvent) []byte {
	dst, _ = AppendUsageBlockWithin(dst, n, math.MaxInt, 0, at)
	return dst
}

// AppendUsageBlockWithin adds the stored form of as many of n events as take at most
// room bytes, each with beside more, and at least of one; it tells of how many.
func AppendUsageBlockWithin(dst []byte, n, room, beside int, at func(int) *UsageEvent) ([]byte, int) {
	const head = 2 + 3*binary.MaxVarintLen64 // form, numbers of texts and events, base
	d := dictionaries.Get().(*dictionary)
	defer d.release()
	rows := make([]byte, 0, min(48*n+64, room))
	var base int64
	if n > 0 {
		base = at(0).Timestamp
	}
	next, taken, size, known := int64(0), 0, head, 0
	for ; taken < n; taken++ {
		e := at(taken)
		before := len(rows)
		rows = appendUsageRow(rows, d, e, base, next)
		for _, s := range d.texts[known:] {
			size += len(s) + 2 // no text is longer than 16,383 bytes
		}
		size += len(rows) - before + beside
		if size > room && taken > 0 {
			rows = rows[:before]
			break
		}
		next, known = int64(e.Index)+1, len(d.texts)
	}
	texts := d.texts[:known]
	dst = slices.Grow(dst, len(rows)+32*len(texts)+32)
	dst = append(dst, usageBlockForm)
	dst = binary.AppendUvarint(dst, uint64(len(texts)))
	for _, s := range texts {
		dst = appendText(dst, s)
	}
	dst = binary.AppendVarint(dst, base)
	dst = binary.AppendUvarint(dst, uint64(taken))
	return append(dst, rows...), taken
}

func appendUsageRow(b []byte, d *dictionary, e *UsageEvent, base, next int64) []byte {
	var flags uint64
	set := func(on bool, f uint64) {
		if on {
			flags |= f
		}
	}
	var id [16]byte
	isUUID := parseUUID(&id, e.EventID)
	set(isUUID, rowUUID)
	set(e.TenantID != "", rowTenant)
	set(e.WorkflowID != "", rowWorkflow)
	set(e.ChatID != "", rowChat)
	set(e.RunID != "", rowRun)
	set(e.AgentName != "", rowAgent)
	set(e.InvocationID != "", rowInvocation)
	set(e.TotalTokens != e.InputTokens+e.OutputTokens, rowTotal)
	set(e.CachedTokens != 0, rowCachedTokens)
	set(e.ReasoningTokens != 0, rowReasoning)
	set(e.Cost != 0, rowCost)
	set(e.DurationSec != 0, rowDuration)
	set(e.Cached, rowCached)
	set(len(e.Metadata) > 0, rowMetadata)
	set(e.Summary, rowSummary)
	set(e.Counted != nil, rowCounted)

	b = binary.AppendUvarint(b, flags)
	b = binary.AppendVarint(b, int64(e.Index)-next)
	if isUUID {
		b = append(b, id[:]...)
	} else {
		b = appendText(b, e.EventID)
	}
	b = binary.AppendVarint(b, e.Timestamp-base)
	b = binary.AppendUvarint(b, d.ref(e.AppID))
	b = binary.AppendUvarint(b, d.ref(e.UserID))
	b = binary.AppendUvarint(b, d.ref(e.Model))
	for _, s := range [...]string{e.TenantID, e.WorkflowID, e.ChatID, e.RunID, e.AgentName, e.InvocationID} {
		if s != "" {
			b = binary.AppendUvarint(b, d.ref(s))
		}
	}
	b = binary.AppendUvarint(b, uint64(e.InputTokens))
	b = binary.AppendUvarint(b, uint64(e.OutputTokens))
	if flags&rowTotal != 0 {
		b = binary.AppendUvarint(b, uint64(e.TotalTokens))
	}
	for _, n := range [...]int64{e.CachedTokens, e.ReasoningTokens, e.Cost} {
		if n != 0 {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	if flags&rowDuration != 0 {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(e.DurationSec))
	}
	if flags&rowMetadata != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Metadata)))
		b = append(b, e.Metadata...)
	}
	if e.Counted != nil {
		for _, n := range e.Counted.counts() {
			b = binary.AppendUvarint(b, uint64(*n))
		}
		b = binary.AppendUvarint(b, e.Counted.Cost.low) // never more than the event's own
	}
	return b
}

// DecodeUsageBlock adds the events of a block to events and returns what follows
// the block. Texts point into src, but for UUIDs.
func DecodeUsageBlock(src []byte, events []UsageEvent) ([]UsageEvent, []byte, error) {
	r := Wire{B: src}
	events, err := r.usageBlock(events)
	return events, r.B, err
}

func (r *Wire) usageBlock(events []UsageEvent) ([]UsageEvent, error) {
	if r.Byte() != usageBlockForm {
		r.Fail()
		return events, r.Err
	}
	texts := make([]string, r.Count(1))
	for i := range texts {
		texts[i] = r.Text()
	}
	base := r.Varint()
	n := r.Count(8)
	events = slices.Grow(events, n)
	uuids := make([]byte, 0, 36*n) // one allocation for all; grown by nobody, so views stay valid
	next := int64(0)
	for range n {
		var e UsageEvent
		uuids = r.usageRow(&e, texts, base, next, uuids)
		if r.Err != nil {
			return events, r.Err
		}
		next = int64(e.Index) + 1
		events = append(events, e)
	}
	return events, r.Err
}

func (r *Wire) usageRow(e *UsageEvent, texts []string, base, next int64, uuids []byte) []byte {
	flags := r.Uvarint()
	index := next + r.Varint()
	if index < 0 || index > math.MaxUint32 {
		r.Fail()
	}
	e.Index = uint32(index)
	if flags&rowUUID != 0 {
		if id := r.Bytes(16); id != nil {
			at := len(uuids)
			uuids = appendUUID(uuids, id)
			e.EventID = viewString(uuids[at:])
		}
	} else {
		e.EventID = r.Text()
	}
	e.Timestamp = base + r.Varint()
	ref := func() string {
		i := r.Uvarint()
		if i >= uint64(len(texts)) {
			r.Fail()
			return ""
		}
		return texts[i]
	}
	e.AppID, e.UserID, e.Model = ref(), ref(), ref()
	for i, s := range [...]*string{&e.TenantID, &e.WorkflowID, &e.ChatID, &e.RunID, &e.AgentName, &e.InvocationID} {
		if flags&(rowTenant<<i) != 0 {
			*s = ref()
		}
	}
	e.InputTokens, e.OutputTokens = int64(r.Uvarint()), int64(r.Uvarint())
	e.TotalTokens = e.InputTokens + e.OutputTokens
	if flags&rowTotal != 0 {
		e.TotalTokens = int64(r.Uvarint())
	}
	for i, n := range [...]*int64{&e.CachedTokens, &e.ReasoningTokens, &e.Cost} {
		if flags&(rowCachedTokens<<i) != 0 {
			*n = int64(r.Uvarint())
		}
	}
	if flags&rowDuration != 0 {
		e.DurationSec = r.Float()
	}
	e.Cached = flags&rowCached != 0
	if flags&rowMetadata != 0 {
		e.Metadata = r.Bytes(r.Uvarint())
	}
	e.Summary = flags&rowSummary != 0
	if flags&rowCounted != 0 {
		e.Counted = new(UsageSums)
		for _, n := range e.Counted.counts() {
			*n = int64(r.Uvarint())
		}
		e.Counted.Cost = AmountOf(int64(r.Uvarint()))
	}
	return uuids
}

// EncodePayload gives the stored form of the batch inside a command. Form 1:
// form, made, batch id, parts, usage block, errors.
func (b *UsageBatch) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1, boolByte(b.Made))
	dst = appendText(dst, b.BatchID)
	dst = binary.AppendUvarint(dst, uint64(len(b.Parts)))
	for _, p := range b.Parts {
		dst = appendText(dst, p.AppID)
		dst = append(dst, p.Digest[:]...)
		dst = binary.AppendUvarint(dst, uint64(p.Rejected))
	}
	dst = AppendUsageBlock(dst, len(b.Events), func(i int) *UsageEvent { return &b.Events[i] })
	return appendEventErrors(dst, b.Rejected)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (b *UsageBatch) DecodePayload(src []byte) error {
	r := Wire{B: src}
	if r.Byte() != 1 {
		r.Fail()
	}
	b.Made = r.Byte() == 1
	b.BatchID = r.Text()
	n := r.Count(18)
	b.Parts = make([]BatchPart, 0, n)
	for range n {
		p := BatchPart{AppID: r.Text()}
		copy(p.Digest[:], r.Bytes(16))
		p.Rejected = r.Uint32()
		b.Parts = append(b.Parts, p)
	}
	if r.Err != nil {
		return r.Err
	}
	b.Events, _ = r.usageBlock(b.Events[:0])
	for i := range b.Events {
		if b.Events[i].Counted != nil { // nobody asks to be counted for less
			r.Fail()
		}
	}
	b.Rejected = r.eventErrors()
	if r.Err == nil && len(r.B) > 0 {
		r.Fail()
	}
	if r.Err != nil {
		return r.Err
	}
	b.print()
	return nil
}

// print fills Prints, so that the hashing is done where batches are decoded and
// not where they are applied one after another.
// OldestEvent gives the timestamp of the oldest usage event of a command, in nanoseconds
// since 1970 UTC; math.MaxInt64 when it has none.
func (c *CommandFrame) OldestEvent() int64 {
	oldest := int64(math.MaxInt64)
	var b UsageBatch
	if c.Kind == UsageIngest.Name && b.DecodePayload(c.Payload) == nil {
		for i := range b.Events {
			oldest = min(oldest, b.Events[i].Timestamp)
		}
	}
	return oldest
}

func (b *UsageBatch) print() {
	b.Prints = slices.Grow(b.Prints[:0], len(b.Events))[:len(b.Events)]
	var scratch []byte
	for i := range b.Events {
		scratch = b.Prints[i].of(&b.Events[i], scratch)
	}
}

func (p *EventPrint) of(e *UsageEvent, scratch []byte) []byte {
	p.ID, scratch = FingerprintOf(IDEvent, e.AppID, e.EventID, scratch)
	p.Digest, scratch = ContentDigest(e, scratch)
	return scratch
}

// PrintOf gives what the id log keeps of an event.
func PrintOf(e *UsageEvent) (p EventPrint) {
	p.of(e, nil)
	return p
}

func appendEventErrors(dst []byte, list []EventError) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for i := range list {
		e := &list[i]
		dst = binary.AppendUvarint(dst, uint64(e.Index))
		dst = appendText(dst, e.EventID)
		dst = appendText(dst, e.AppID)
		dst = appendText(dst, string(e.Code))
		dst = appendText(dst, e.Detail)
	}
	return dst
}

func (r *Wire) eventErrors() []EventError {
	n := r.Count(5)
	if n == 0 {
		return nil
	}
	list := make([]EventError, 0, n)
	for range n {
		list = append(list, EventError{Index: r.Uint32(), EventID: r.Text(), AppID: r.Text(), Code: Code(r.Text()), Detail: r.Text()})
	}
	return list
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}
