package schemas

import (
	"encoding/json"
	"slices"
	"strconv"
)

// UsageRecordedData is the data of usage.recorded: accepted events of one app
// and command group, in numbered parts of at most MaxEventsPerPart (contract §7).
type UsageRecordedData struct {
	AppID    string          `json:"app_id"`
	BatchIDs []string        `json:"batch_ids"`
	Part     int             `json:"part"`
	Parts    int             `json:"parts"`
	Events   []RecordedEvent `json:"events"`
}

// RecordedEvent is an accepted event as facts show it. Optional fields that are
// absent, empty or zero are left out.
type RecordedEvent struct {
	EventID         string          `json:"event_id"`
	Timestamp       string          `json:"timestamp"`
	AppID           string          `json:"app_id"`
	UserID          string          `json:"user_id"`
	Model           string          `json:"model"`
	InputTokens     int64           `json:"input_tokens"`
	OutputTokens    int64           `json:"output_tokens"`
	TotalTokens     int64           `json:"total_tokens"`
	TenantID        string          `json:"tenant_id,omitempty"`
	WorkflowID      string          `json:"workflow_id,omitempty"`
	ChatID          string          `json:"chat_id,omitempty"`
	RunID           string          `json:"run_id,omitempty"`
	AgentName       string          `json:"agent_name,omitempty"`
	InvocationID    string          `json:"invocation_id,omitempty"`
	CachedTokens    int64           `json:"cached_tokens,omitempty"`
	ReasoningTokens int64           `json:"reasoning_tokens,omitempty"`
	Cost            json.Number     `json:"cost,omitempty"`
	DurationSec     float64         `json:"duration_sec,omitempty"`
	Cached          bool            `json:"cached,omitempty"`
	Metadata        json.RawMessage `json:"metadata,omitempty"`

	// A summary states its chat's totals and is no event of its own. Counted is what
	// was added to the sums when that is not all of the counts above.
	Summary          bool      `json:"summary,omitempty"`
	Counted          *SumsData `json:"counted,omitempty"`
	CoveredBySummary bool      `json:"covered_by_summary,omitempty"` // only the event itself is counted
}

// UsageRejectedData is the data of usage.rejected: the events of one app and
// command group that were refused, the first 1,000 and their number.
type UsageRejectedData struct {
	AppID    string            `json:"app_id"`
	Count    int               `json:"count"`
	Rejected []RejectedInBatch `json:"rejected"`
}

// RejectedInBatch is one refused event.
type RejectedInBatch struct {
	BatchID string `json:"batch_id"`
	Index   uint32 `json:"index"`
	EventID string `json:"event_id,omitempty"`
	Code    Code   `json:"code"`
	Detail  string `json:"detail"`
}

// AppendUsageRecorded adds the data of one part of usage.recorded.
func AppendUsageRecorded(dst []byte, app string, batchIDs []string, part, parts int, events []UsageEvent) []byte {
	dst = append(dst, `{"app_id":`...)
	dst = AppendJSONString(dst, app)
	dst = append(dst, `,"batch_ids":[`...)
	for i, id := range batchIDs {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendJSONString(dst, id)
	}
	dst = append(dst, `],"part":`...)
	dst = strconv.AppendInt(dst, int64(part), 10)
	dst = append(dst, `,"parts":`...)
	dst = strconv.AppendInt(dst, int64(parts), 10)
	dst = append(dst, `,"events":[`...)
	dst = slices.Grow(dst, 280*len(events))
	for i := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendRecordedEvent(dst, &events[i])
	}
	return append(dst, ']', '}')
}

func appendRecordedEvent(dst []byte, e *UsageEvent) []byte {
	dst = append(dst, `{"event_id":`...)
	dst = AppendJSONString(dst, e.EventID)
	dst = append(dst, `,"timestamp":"`...)
	dst = AppendInstant(dst, e.Timestamp)
	dst = append(dst, `","app_id":`...)
	dst = AppendJSONString(dst, e.AppID)
	dst = append(dst, `,"user_id":`...)
	dst = AppendJSONString(dst, e.UserID)
	dst = append(dst, `,"model":`...)
	dst = AppendJSONString(dst, e.Model)
	dst = append(dst, `,"input_tokens":`...)
	dst = strconv.AppendInt(dst, e.InputTokens, 10)
	dst = append(dst, `,"output_tokens":`...)
	dst = strconv.AppendInt(dst, e.OutputTokens, 10)
	dst = append(dst, `,"total_tokens":`...)
	dst = strconv.AppendInt(dst, e.TotalTokens, 10)
	dst = appendTextField(dst, `,"tenant_id":`, e.TenantID)
	dst = appendTextField(dst, `,"workflow_id":`, e.WorkflowID)
	dst = appendTextField(dst, `,"chat_id":`, e.ChatID)
	dst = appendTextField(dst, `,"run_id":`, e.RunID)
	dst = appendTextField(dst, `,"agent_name":`, e.AgentName)
	dst = appendTextField(dst, `,"invocation_id":`, e.InvocationID)
	if e.CachedTokens != 0 {
		dst = append(dst, `,"cached_tokens":`...)
		dst = strconv.AppendInt(dst, e.CachedTokens, 10)
	}
	if e.ReasoningTokens != 0 {
		dst = append(dst, `,"reasoning_tokens":`...)
		dst = strconv.AppendInt(dst, e.ReasoningTokens, 10)
	}
	if e.Cost != 0 {
		dst = append(dst, `,"cost":`...)
		dst = AppendCost(dst, e.Cost)
	}
	if e.DurationSec != 0 {
		dst = append(dst, `,"duration_sec":`...)
		dst = strconv.AppendFloat(dst, e.DurationSec, 'g', -1, 64)
	}
	if e.Cached {
		dst = append(dst, `,"cached":true`...)
	}
	if len(e.Metadata) > 0 {
		dst = append(dst, `,"metadata":`...)
		dst = append(dst, e.Metadata...)
	}
	if e.Summary {
		dst = append(dst, `,"summary":true`...)
	}
	if e.Counted != nil {
		dst = append(dst, `,"counted":{`...)
		dst = append(AppendSumFields(dst, e.Counted), '}')
	}
	if e.CoveredBySummary() {
		dst = append(dst, `,"covered_by_summary":true`...)
	}
	return append(dst, '}')
}

func appendTextField(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(dst, name...)
	return AppendJSONString(dst, value)
}
