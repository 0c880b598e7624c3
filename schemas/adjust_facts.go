package schemas

import (
	"encoding/json"
	"strconv"
)

// UsageAdjustedData is the data of usage.voided and usage.amended: one event of
// an app, what was added to the sums, and what the event counts for now.
type UsageAdjustedData struct {
	AppID        string   `json:"app_id"`
	EventID      string   `json:"event_id"`
	Timestamp    string   `json:"timestamp"`
	UserID       string   `json:"user_id"`
	Model        string   `json:"model"`
	TenantID     string   `json:"tenant_id,omitempty"`
	WorkflowID   string   `json:"workflow_id,omitempty"`
	ChatID       string   `json:"chat_id,omitempty"`
	RunID        string   `json:"run_id,omitempty"`
	AgentName    string   `json:"agent_name,omitempty"`
	InvocationID string   `json:"invocation_id,omitempty"`
	Adjustment   SumsData `json:"adjustment"`
	Effective    SumsData `json:"effective"`
	Reason       string   `json:"reason,omitempty"`
}

// SumsData is UsageSums on the wire. The cost is an exact decimal.
type SumsData struct {
	Events          int64       `json:"events"`
	InputTokens     int64       `json:"input_tokens"`
	OutputTokens    int64       `json:"output_tokens"`
	TotalTokens     int64       `json:"total_tokens"`
	CachedTokens    int64       `json:"cached_tokens"`
	ReasoningTokens int64       `json:"reasoning_tokens"`
	Cost            json.Number `json:"cost"`
}

// CommandRefusedData is the data of command.refused (contract §8).
type CommandRefusedData struct {
	Code   Code   `json:"code"`
	Detail string `json:"detail"`
}

// AppendUsageAdjusted adds the data of usage.voided or usage.amended.
func AppendUsageAdjusted(dst []byte, e *UsageEvent, adjustment, effective *UsageSums, reason string) []byte {
	dst = append(dst, `{"app_id":`...)
	dst = AppendJSONString(dst, e.AppID)
	dst = append(dst, `,"event_id":`...)
	dst = AppendJSONString(dst, e.EventID)
	dst = append(dst, `,"timestamp":"`...)
	dst = AppendInstant(dst, e.Timestamp)
	dst = append(dst, `","user_id":`...)
	dst = AppendJSONString(dst, e.UserID)
	dst = append(dst, `,"model":`...)
	dst = AppendJSONString(dst, e.Model)
	dst = appendTextField(dst, `,"tenant_id":`, e.TenantID)
	dst = appendTextField(dst, `,"workflow_id":`, e.WorkflowID)
	dst = appendTextField(dst, `,"chat_id":`, e.ChatID)
	dst = appendTextField(dst, `,"run_id":`, e.RunID)
	dst = appendTextField(dst, `,"agent_name":`, e.AgentName)
	dst = appendTextField(dst, `,"invocation_id":`, e.InvocationID)
	dst = append(dst, `,"adjustment":{`...)
	dst = AppendSumFields(dst, adjustment)
	dst = append(dst, `},"effective":{`...)
	dst = AppendSumFields(dst, effective)
	dst = append(dst, '}')
	dst = appendTextField(dst, `,"reason":`, reason)
	return append(dst, '}')
}

// AppendAdjusted adds the answer to a correction (contract §7).
func AppendAdjusted(dst []byte, eventID string, status EventStatus, adjustment *UsageSums) []byte {
	dst = append(dst, `{"event_id":`...)
	dst = AppendJSONString(dst, eventID)
	dst = append(dst, `,"status":`...)
	dst = AppendJSONString(dst, string(status))
	dst = append(dst, `,"adjustment":{`...)
	dst = AppendSumFields(dst, adjustment)
	return append(dst, '}', '}')
}

// AppendJSON adds the data of command.refused.
func (d *CommandRefusedData) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"code":`...)
	dst = AppendJSONString(dst, string(d.Code))
	dst = append(dst, `,"detail":`...)
	dst = AppendJSONString(dst, d.Detail)
	return append(dst, '}')
}

// AppendSumFields adds the members of an object of sums, without its braces.
func AppendSumFields(dst []byte, s *UsageSums) []byte {
	for _, f := range [...]struct {
		name string
		n    int64
	}{
		{`"events":`, s.Events},
		{`,"input_tokens":`, s.InputTokens},
		{`,"output_tokens":`, s.OutputTokens},
		{`,"total_tokens":`, s.TotalTokens},
		{`,"cached_tokens":`, s.CachedTokens},
		{`,"reasoning_tokens":`, s.ReasoningTokens},
	} {
		dst = append(dst, f.name...)
		dst = strconv.AppendInt(dst, f.n, 10)
	}
	dst = append(dst, `,"cost":`...)
	return AppendAmount(dst, s.Cost)
}
