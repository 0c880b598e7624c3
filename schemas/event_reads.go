package schemas

import "math"

// EventQuery asks for single events of an app, newest first: in descending order
// of their place in the log (contract §7, GET /api/usage/events).
type EventQuery struct {
	AppID      string
	TenantID   string // empty filters are no filter
	UserID     string
	Model      string
	WorkflowID string
	ChatID     string
	RunID      string
	From       int64 // nanoseconds since 1970 UTC, inclusive
	To         int64 // nanoseconds since 1970 UTC, exclusive
	Limit      int
	Before     EventPlace // only what stands before it; the zero place is behind everything
}

// Bounds of an open-ended EventQuery. No acceptable event has either.
const (
	FirstInstant = math.MinInt64
	LastInstant  = math.MaxInt64
)

// EventPlace is where an event stands in the log of its partition. Sequences of
// messages begin at 1.
type EventPlace struct {
	Seq   uint64
	Chunk uint32
	Index uint32
}

// each pairs the filters for texts with what they are held against.
func (q *EventQuery) each(e *UsageEvent) [7][2]string {
	return [...][2]string{
		{q.AppID, e.AppID},
		{q.TenantID, e.TenantID},
		{q.UserID, e.UserID},
		{q.Model, e.Model},
		{q.WorkflowID, e.WorkflowID},
		{q.ChatID, e.ChatID},
		{q.RunID, e.RunID},
	}
}

// Wants tells whether an event is one that is asked for, wherever it stands.
func (q *EventQuery) Wants(e *UsageEvent) bool {
	if e.Timestamp < q.From || e.Timestamp >= q.To {
		return false
	}
	for _, pair := range q.each(e) {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return true
}

// Texts lists the texts that a usage block must hold, byte by byte, to have an
// event that is asked for in it.
func (q *EventQuery) Texts() (list [][]byte) {
	for _, pair := range q.each(&UsageEvent{}) {
		if pair[0] != "" {
			list = append(list, []byte(pair[0]))
		}
	}
	return list
}

// LoggedEvent is an event as it was recorded, and what became of it.
type LoggedEvent struct {
	UsageEvent
	BatchID    string
	RecordedAt int64 // nanoseconds since 1970 UTC: handler time of its command
	Status     EventStatus
	Effective  UsageSums // what it counts for; only when it was corrected
	Reason     string    // of the newest correction
}

// EventPage is the answer to an EventQuery. With More, the query goes on before
// Next; a page may be short, or empty, and have more behind it.
type EventPage struct {
	Events []LoggedEvent
	More   bool
	Next   EventPlace
}

// AppendJSON adds the event as an object.
func (e *LoggedEvent) AppendJSON(dst []byte) []byte {
	dst = appendRecordedEvent(dst, &e.UsageEvent)
	dst = dst[:len(dst)-1] // the object goes on
	dst = append(dst, `,"batch_id":`...)
	dst = AppendJSONString(dst, e.BatchID)
	dst = append(dst, `,"recorded_at":"`...)
	dst = AppendInstant(dst, e.RecordedAt)
	dst = append(dst, `","status":`...)
	dst = AppendJSONString(dst, string(e.Status))
	if e.Status != EventCounted {
		dst = append(dst, `,"effective":{`...)
		dst = AppendSumFields(dst, &e.Effective)
		dst = append(dst, '}')
	}
	dst = appendTextField(dst, `,"reason":`, e.Reason)
	return append(dst, '}')
}

// StoredEventID is how a usage block holds an event's id, byte by byte, so that
// a block can be searched for it without being decoded.
func StoredEventID(id string) []byte {
	var uuid [16]byte
	if parseUUID(&uuid, id) {
		return uuid[:]
	}
	return []byte(id)
}
