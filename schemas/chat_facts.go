package schemas

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
)

// ChatSequenceAttribute is the CloudEvents extension of a fact about a chat: the number of
// its first item in that chat, in decimal digits, not padded. Items are counted per chat
// from 1 without gaps. A fact orchestration.* and a chat.usage_summary are one item each,
// a chat.usage_delta is one for each of its deltas (contract §6).
const ChatSequenceAttribute = "chatsequence"

// ChatItems is how many numbers a fact of a kind takes in its chat when it has so many
// deltas; 0: the kind has no numbers.
func ChatItems(kind string, deltas int) int {
	switch {
	case kind == ChatUsageDelta.Name:
		return deltas
	case kind == ChatUsageSummary.Name, strings.HasPrefix(kind, orchestration):
		return 1
	}
	return 0
}

// ChatSubject is the CloudEvents subject of what is told of a chat's usage.
func ChatSubject(chat string) string { return "chat/" + chat }

// MaxDeltasPerPart is how many deltas a chat.usage_delta has at most.
const MaxDeltasPerPart = MaxEventsPerPart

// ChatUsageDeltaData is the data of chat.usage_delta: the events of a chat that one message
// of the log recorded, in numbered parts (contract §7).
type ChatUsageDeltaData struct {
	AppID  string          `json:"app_id"`
	ChatID string          `json:"chat_id"`
	Part   int             `json:"part"`
	Parts  int             `json:"parts"`
	Deltas []ChatDeltaData `json:"deltas"`
}

// ChatDeltaData is one event of a chat; what it does not say is null.
type ChatDeltaData struct {
	EventID          string  `json:"event_id"`
	EventTS          string  `json:"event_ts"`
	ChatID           string  `json:"chat_id"`
	AppID            string  `json:"app_id"`
	UserID           string  `json:"user_id"`
	WorkflowName     *string `json:"workflow_name"`
	AgentName        *string `json:"agent_name"`
	ModelName        string  `json:"model_name"`
	PromptTokens     int64   `json:"prompt_tokens"`
	CompletionTokens int64   `json:"completion_tokens"`
	TotalTokens      int64   `json:"total_tokens"`
	Cached           bool    `json:"cached"`
	DurationSec      float64 `json:"duration_sec"`
	InvocationID     *string `json:"invocation_id"`
}

// AppendChatUsageDelta adds the data of one part of chat.usage_delta.
func AppendChatUsageDelta(dst []byte, app, chat string, part, parts int, events []UsageEvent) []byte {
	dst = AppendJSONString(append(dst, `{"app_id":`...), app)
	dst = AppendJSONString(append(dst, `,"chat_id":`...), chat)
	dst = strconv.AppendInt(append(dst, `,"part":`...), int64(part), 10)
	dst = strconv.AppendInt(append(dst, `,"parts":`...), int64(parts), 10)
	dst = append(dst, `,"deltas":[`...)
	dst = slices.Grow(dst, 400*len(events))
	for i := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendChatDelta(dst, &events[i])
	}
	return append(dst, ']', '}')
}

func appendChatDelta(dst []byte, e *UsageEvent) []byte {
	dst = AppendJSONString(append(dst, `{"event_id":`...), e.EventID)
	dst = append(AppendInstant(append(dst, `,"event_ts":"`...), e.Timestamp), '"')
	dst = AppendJSONString(append(dst, `,"chat_id":`...), e.ChatID)
	dst = AppendJSONString(append(dst, `,"app_id":`...), e.AppID)
	dst = AppendJSONString(append(dst, `,"user_id":`...), e.UserID)
	dst = appendTextOrNull(append(dst, `,"workflow_name":`...), e.WorkflowID)
	dst = appendTextOrNull(append(dst, `,"agent_name":`...), e.AgentName)
	dst = AppendJSONString(append(dst, `,"model_name":`...), e.Model)
	dst = strconv.AppendInt(append(dst, `,"prompt_tokens":`...), e.InputTokens, 10)
	dst = strconv.AppendInt(append(dst, `,"completion_tokens":`...), e.OutputTokens, 10)
	dst = strconv.AppendInt(append(dst, `,"total_tokens":`...), e.TotalTokens, 10)
	dst = strconv.AppendBool(append(dst, `,"cached":`...), e.Cached)
	dst = strconv.AppendFloat(append(dst, `,"duration_sec":`...), e.DurationSec, 'g', -1, 64)
	dst = appendTextOrNull(append(dst, `,"invocation_id":`...), e.InvocationID)
	return append(dst, '}')
}

func appendTextOrNull(dst []byte, s string) []byte {
	if s == "" {
		return append(dst, "null"...)
	}
	return AppendJSONString(dst, s)
}

// ChatUsageSummaryData is the data of chat.usage_summary, and the answer to a request for
// one: the totals of a chat at the end of the message of the log that told them. They take
// the place of what was told before (contract §7).
type ChatUsageSummaryData struct {
	EventID          string      `json:"event_id"` // that of the fact
	EventTS          string      `json:"event_ts"`
	ChatID           string      `json:"chat_id"`
	AppID            string      `json:"app_id"`
	UserID           string      `json:"user_id"`       // whose the chat is
	RunID            *string     `json:"run_id"`        // that has ended; null on request
	WorkflowName     *string     `json:"workflow_name"` // of the run; null when unknown
	PromptTokens     int64       `json:"usage_prompt_tokens_final"`
	CompletionTokens int64       `json:"usage_completion_tokens_final"`
	TotalTokens      int64       `json:"usage_total_tokens_final"`
	Cost             json.Number `json:"usage_total_cost_final"` // with at most 9 places
}

// ChatSummary is what a chat.usage_summary says.
type ChatSummary struct {
	EventID      string
	At           int64 // nanoseconds since 1970 UTC
	RunID        string
	WorkflowName string
	ChatUsage
}

// AppendJSON adds the data of the fact, which is the answer to whoever asked for it, too.
func (s *ChatSummary) AppendJSON(dst []byte) []byte {
	dst = AppendJSONString(append(dst, `{"event_id":`...), s.EventID)
	dst = append(AppendInstant(append(dst, `,"event_ts":"`...), s.At), '"')
	dst = AppendJSONString(append(dst, `,"chat_id":`...), s.ChatID)
	dst = AppendJSONString(append(dst, `,"app_id":`...), s.AppID)
	dst = AppendJSONString(append(dst, `,"user_id":`...), s.UserID)
	dst = appendTextOrNull(append(dst, `,"run_id":`...), s.RunID)
	dst = appendTextOrNull(append(dst, `,"workflow_name":`...), s.WorkflowName)
	return append(s.Totals.appendFinals(dst), '}')
}

// ChatSummarize is the payload of chat.summarize.
type ChatSummarize struct{ ChatID string }

// EncodePayload gives the stored form. Form 1: form, chat.
func (c *ChatSummarize) EncodePayload(dst []byte) []byte {
	return appendText(append(dst, 1), c.ChatID)
}

// DecodePayload reads what EncodePayload wrote. Texts point into src.
func (c *ChatSummarize) DecodePayload(src []byte) error {
	r := Wire{B: src}
	r.Form(1)
	c.ChatID = r.name()
	return r.end()
}
