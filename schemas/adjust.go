package schemas

import "encoding/binary"

// MaxReasonChars bounds the reason of a correction.
const MaxReasonChars = 1_000

// EventVoid is the payload of usage.void: an event of the command's app counts
// no more (contract §7).
type EventVoid struct {
	EventID string
	Reason  string
}

// EventAmendment is the payload of usage.amend: an event of the command's app
// counts with other values (contract §7).
type EventAmendment struct {
	EventID string
	Reason  string
	Values  UsageValues
}

// UsageValues are new absolute values of an event. What Given does not name
// stays as it is.
type UsageValues struct {
	Given           UsageFields
	InputTokens     int64
	OutputTokens    int64
	TotalTokens     int64
	CachedTokens    int64
	ReasoningTokens int64
	Cost            int64 // nano-units
}

// UsageFields is a set of the values of an event that can be amended.
type UsageFields uint8

// The values that can be amended.
const (
	GivenInput UsageFields = 1 << iota
	GivenOutput
	GivenTotal
	GivenCached
	GivenReasoning
	GivenCost

	givenAll = 1<<iota - 1
)

// each lists the values in the order of their bits.
func (v *UsageValues) each() [6]*int64 {
	return [...]*int64{&v.InputTokens, &v.OutputTokens, &v.TotalTokens, &v.CachedTokens, &v.ReasoningTokens, &v.Cost}
}

// EncodePayload gives the stored form inside a command. Form 1: form, event id,
// reason.
func (v *EventVoid) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1)
	dst = appendText(dst, v.EventID)
	return appendText(dst, v.Reason)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (v *EventVoid) DecodePayload(src []byte) error {
	r := Wire{B: src}
	v.EventID, v.Reason = r.adjustment()
	return r.end()
}

// EncodePayload gives the stored form inside a command. Form 1: form, event id,
// reason, set of the given values, then each of them.
func (a *EventAmendment) EncodePayload(dst []byte) []byte {
	dst = append(dst, 1)
	dst = appendText(dst, a.EventID)
	dst = appendText(dst, a.Reason)
	dst = append(dst, byte(a.Values.Given))
	for i, n := range a.Values.each() {
		if a.Values.Given&(1<<i) != 0 {
			dst = binary.AppendUvarint(dst, uint64(*n))
		}
	}
	return dst
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (a *EventAmendment) DecodePayload(src []byte) error {
	r := Wire{B: src}
	a.EventID, a.Reason = r.adjustment()
	a.Values = UsageValues{Given: UsageFields(r.Byte())}
	if a.Values.Given == 0 || a.Values.Given&^givenAll != 0 {
		r.Fail()
	}
	for i, n := range a.Values.each() {
		if a.Values.Given&(1<<i) == 0 {
			continue
		}
		if *n = int64(r.Uvarint()); *n < 0 || *n > MaxCostNanos { // the widest range there is
			r.Fail()
		}
	}
	return r.end()
}

// adjustment reads what both payloads begin with.
func (r *Wire) adjustment() (eventID, reason string) {
	if r.Byte() != 1 {
		r.Fail()
	}
	eventID, reason = r.Text(), r.Text()
	if eventID == "" {
		r.Fail()
	}
	return eventID, reason
}

// end is the fault of the whole form: bytes behind it are one.
func (r *Wire) end() error {
	if r.Err == nil && len(r.B) > 0 {
		r.Fail()
	}
	return r.Err
}

// EventStatus tells what an event in the log counts for.
type EventStatus string

// What an event can count for.
const (
	EventCounted EventStatus = "counted"
	EventVoided  EventStatus = "voided"  // for nothing
	EventAmended EventStatus = "amended" // with other values
)

// SumsOf is what an event says. A summary is no event of its own.
func SumsOf(e *UsageEvent) UsageSums {
	events := int64(1)
	if e.Summary {
		events = 0
	}
	return UsageSums{
		Events: events, InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens,
		CachedTokens: e.CachedTokens, ReasoningTokens: e.ReasoningTokens, Cost: AmountOf(e.Cost),
	}
}

// CountedOf is what an event counts for as long as nobody corrects it.
func CountedOf(e *UsageEvent) UsageSums {
	if e.Counted != nil {
		return *e.Counted
	}
	return SumsOf(e)
}

// Minus gives s − o. Their counts are of few events, far from what int64 can hold.
func (s UsageSums) Minus(o UsageSums) UsageSums {
	return UsageSums{
		Events: s.Events - o.Events, InputTokens: s.InputTokens - o.InputTokens, OutputTokens: s.OutputTokens - o.OutputTokens,
		TotalTokens: s.TotalTokens - o.TotalTokens, CachedTokens: s.CachedTokens - o.CachedTokens,
		ReasoningTokens: s.ReasoningTokens - o.ReasoningTokens, Cost: s.Cost.Sub(o.Cost),
	}
}
