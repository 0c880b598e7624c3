package schemas

import (
	"encoding/binary"
	"strconv"
	"time"
)

// UsageQuery asks for sums of usage (contract §7, GET /api/usage).
type UsageQuery struct {
	AppID      string
	TenantID   string // empty filters are no filter
	UserID     string
	Model      string
	WorkflowID string
	From       int64 // hours since 1970 UTC, inclusive
	To         int64 // hours since 1970 UTC, exclusive
	Window     Window
	GroupBy    []Dimension // without repeats, in the order asked for
	MaxRows    int         // more rows are TOO_MANY_ROWS
}

// Bounds of an open-ended query, in hours since 1970 UTC.
const (
	FirstHour = 0
	LastHour  = 1<<32 - 1
)

// Window is the length of the calendar windows (UTC) that a report is cut into.
type Window string

// The windows there are.
const (
	WindowHour  Window = "hour"
	WindowDay   Window = "day"
	WindowMonth Window = "month"
	WindowNone  Window = "none"
)

// Dimension is what a report can be grouped by.
type Dimension string

// The dimensions there are.
const (
	ByApp      Dimension = "app_id"
	ByTenant   Dimension = "tenant_id"
	ByUser     Dimension = "user_id"
	ByWorkflow Dimension = "workflow_id"
	ByModel    Dimension = "model"
)

// UsageSums are counts of one row. Costs are exact. Counts are added modulo 2⁶⁴, so that
// no order of additions and corrections shows in the result, and one that passes what an
// int64 holds is noticed.
type UsageSums struct {
	Events          int64
	InputTokens     int64
	OutputTokens    int64
	TotalTokens     int64
	CachedTokens    int64
	ReasoningTokens int64
	Cost            Amount
}

// UsageRow is one window and group of a report.
type UsageRow struct {
	WindowStart time.Time // zero when the report is open at that end
	WindowEnd   time.Time
	Group       []string // one value for each dimension of the query, in its order
	UsageSums
}

// UsageReport is the answer to a UsageQuery, rows by window, then by group.
type UsageReport struct {
	Rows   []UsageRow
	Totals UsageSums
}

// BatchStatus is what is known of an ingest request.
type BatchStatus struct {
	BatchID string
	Applied bool // false: durably accepted, not applied yet
	Outcome IngestOutcome
}

// CommandRef places one command of a request: what a status URL carries.
type CommandRef struct {
	Partition int
	Seq       uint64
	Index     uint32
}

// Checkpoint is how far a partition has applied its command stream, and what the
// guard compares the stream with (architecture §2, table of deaths).
type Checkpoint struct {
	StreamCreated int64 // nanoseconds since 1970 UTC; 0 before the first message
	Seq           uint64
	StoredAt      int64    // when the stream stored the last applied message
	Digest        [16]byte // of the last applied message
}

// MessageDigest identifies a message of the command stream for the guard.
func MessageDigest(data []byte) [16]byte { return digest16(data) }

// RelayState is where a partition's relay to one destination stream stands.
type RelayState struct {
	After     Position // everything up to here has been published
	MarkerSeq uint64   // stream sequence of the marker that said so; 0 for none
	// StreamCreated tells the stream from one that was made anew; nanoseconds since
	// 1970 UTC, 0 while nothing was published.
	StreamCreated int64
}

// Destination streams of the relay.
const (
	DestFacts       = "evt"
	DestDeadLetters = "dlq"
)

// counts lists the sums but the cost, in the order in which they are stored.
func (s *UsageSums) counts() [6]*int64 {
	return [...]*int64{&s.Events, &s.InputTokens, &s.OutputTokens, &s.TotalTokens, &s.CachedTokens, &s.ReasoningTokens}
}

// UsageSumsFields is how many numbers UsageSums has.
const UsageSumsFields = 7

// Append adds the stored form: a varint each.
func (s *UsageSums) Append(dst []byte) []byte {
	for _, n := range s.counts() {
		dst = binary.AppendVarint(dst, *n)
	}
	return AppendAmountVarint(dst, s.Cost)
}

// Sums reads what UsageSums.Append wrote.
func (r *Wire) Sums() (s UsageSums) {
	for _, n := range s.counts() {
		*n = r.Varint()
	}
	s.Cost = r.Amount()
	return s
}

// Max gives the greater of s and o, sum by sum.
func (s UsageSums) Max(o UsageSums) UsageSums {
	from := o.counts()
	for i, n := range s.counts() {
		*n = max(*n, *from[i])
	}
	s.Cost = s.Cost.Max(o.Cost)
	return s
}

// ChatUsage is what is known of a chat (contract §7, GET /api/chats/{id}/usage).
type ChatUsage struct {
	AppID, ChatID string
	UserID        string    // of the first of its events, of usage or of a run, that names one
	Totals        UsageSums // sum of its deltas or highest summary, sum by sum; 0 without usage
	Sequence      uint64    // number of its last item (ChatSequenceAttribute)
}

// AppendJSON adds the answer about the chat.
func (c *ChatUsage) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"chat_id":`...)
	dst = AppendJSONString(dst, c.ChatID)
	dst = append(dst, `,"app_id":`...)
	dst = AppendJSONString(dst, c.AppID)
	dst = append(dst, `,"user_id":`...)
	dst = AppendJSONString(dst, c.UserID)
	dst = strconv.AppendInt(append(dst, `,"events":`...), c.Totals.Events, 10)
	return append(c.Totals.appendFinals(dst), '}')
}

// appendFinals adds the totals of a chat as members that follow others.
func (s *UsageSums) appendFinals(dst []byte) []byte {
	dst = strconv.AppendInt(append(dst, `,"usage_prompt_tokens_final":`...), s.InputTokens, 10)
	dst = strconv.AppendInt(append(dst, `,"usage_completion_tokens_final":`...), s.OutputTokens, 10)
	dst = strconv.AppendInt(append(dst, `,"usage_total_tokens_final":`...), s.TotalTokens, 10)
	return AppendAmount(append(dst, `,"usage_total_cost_final":`...), s.Cost)
}

// Add adds o. It reports whether every count still fits: one that does not is wrong by
// 2⁶⁴ until as much is taken away again.
func (s *UsageSums) Add(o *UsageSums) bool {
	exact := true
	from := o.counts()
	for i, to := range s.counts() {
		sum := *to + *from[i]
		exact = exact && (*from[i] == 0 || (sum > *to) == (*from[i] > 0))
		*to = sum
	}
	s.Cost = s.Cost.Add(o.Cost)
	return exact
}
