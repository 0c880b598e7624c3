package schemas

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// RunEvent is one event of a run's lifecycle. What a source leaves out is zero; a field
// that contract §6 gives another kind is taken and told as well.
type RunEvent struct {
	Index     uint32 // place in the request
	Step      RunStep
	Status    RunStatus
	RunID     string
	EventID   string
	AppID     string // of the command; a parsed event may name none
	Timestamp int64  // nanoseconds since 1970 UTC
	Sequence  int64  // given by the handler, from 1 in a run
	Attempt   int64  // of the run, given by the handler
	Implicit  bool   // a start that nobody reported

	ChatID        string
	UserID        string
	TenantID      string
	Plugin        string
	WorkflowName  string
	ParentRunID   string
	Agent         string
	PreviousAgent string
	Tool          string
	Message       string
	Summary       string
	Error         string
	Code          string
	HasCost       bool
	HasTokens     bool
	Cost          Amount
	TotalTokens   int64
	Metadata      []byte // canonical JSON object
}

// texts lists the texts of an event in the order of its stored form.
func (e *RunEvent) texts() [16]*string {
	return [...]*string{
		&e.RunID, &e.EventID, &e.ChatID, &e.UserID, &e.TenantID, &e.Plugin, &e.WorkflowName, &e.ParentRunID,
		&e.Agent, &e.PreviousAgent, &e.Tool, &e.Message, &e.Summary, &e.Error, &e.Code, &e.AppID,
	}
}

// Digest covers what an event says, and not where it stood or what handlers gave it: two
// events with one id and different digests are not the same event.
func (e *RunEvent) Digest() uint64 {
	c := *e
	c.Index, c.Sequence, c.Attempt, c.Implicit, c.AppID = 0, 0, 0, false, ""
	return xxhash.Sum64(appendRunEvent(nil, &c))
}

const (
	eventImplicit = 1 << iota
	eventHasCost
	eventHasTokens
)

// appendRunEvent adds the stored form of an event.
func appendRunEvent(dst []byte, e *RunEvent) []byte {
	dst = append(dst, byte(e.Step), byte(e.Status), boolByte(e.Implicit)*eventImplicit|boolByte(e.HasCost)*eventHasCost|boolByte(e.HasTokens)*eventHasTokens)
	dst = binary.AppendUvarint(dst, uint64(e.Index))
	for _, n := range [...]int64{e.Timestamp, e.Sequence, e.Attempt} {
		dst = binary.AppendVarint(dst, n)
	}
	for _, s := range e.texts() {
		dst = appendText(dst, *s)
	}
	if e.HasCost {
		dst = AppendAmountVarint(dst, e.Cost)
	}
	if e.HasTokens {
		dst = binary.AppendVarint(dst, e.TotalTokens)
	}
	return appendBytes(dst, e.Metadata)
}

// minRunEvent is what an event takes at least.
const minRunEvent = 3 + 1 + 3 + 16 + 1

// runEvent reads what appendRunEvent wrote. Texts point into what is read.
func (r *Wire) runEvent() (e RunEvent) {
	e.Step, e.Status = RunStep(r.Byte()), RunStatus(r.Byte())
	flags := r.Byte()
	e.Implicit, e.HasCost, e.HasTokens = flags&eventImplicit != 0, flags&eventHasCost != 0, flags&eventHasTokens != 0
	e.Index = r.Uint32()
	e.Timestamp, e.Sequence, e.Attempt = r.Varint(), r.Varint(), r.Varint()
	for _, s := range e.texts() {
		*s = r.Text()
	}
	if e.HasCost {
		e.Cost = r.Amount()
	}
	if e.HasTokens {
		e.TotalTokens = r.Varint()
	}
	e.Metadata = r.Bytes(r.Uvarint())
	if flags >= eventHasTokens<<1 || e.RunID == "" || e.EventID == "" ||
		e.Step < StepRunStarted || e.Step > StepToolCompleted || !slices.Contains(e.Step.Statuses(), e.Status) {
		r.Fail()
	}
	return e
}
