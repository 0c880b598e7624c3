package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// RunEventData is the data of the orchestration facts, and an event of
// GET /api/runs/{id}/events (contract §6).
type RunEventData struct {
	Kind          string         `json:"kind"`
	RunID         string         `json:"run_id"`
	Status        string         `json:"status"`
	EventID       string         `json:"event_id"`
	AppID         string         `json:"app_id"`
	ChatID        string         `json:"chat_id,omitempty"`
	Agent         string         `json:"agent,omitempty"`
	Timestamp     string         `json:"timestamp"`
	Sequence      int64          `json:"sequence"`
	Attempt       int64          `json:"attempt"`
	Implicit      bool           `json:"implicit,omitzero"`
	UserID        *string        `json:"user_id,omitzero"`
	TenantID      string         `json:"tenant_id,omitempty"`
	Plugin        string         `json:"plugin,omitempty"`
	WorkflowName  *string        `json:"workflow_name,omitzero"`
	ParentRunID   string         `json:"parent_run_id,omitempty"`
	PreviousAgent string         `json:"previous_agent,omitempty"`
	Tool          string         `json:"tool,omitempty"`
	Message       *string        `json:"message,omitzero"`
	Summary       string         `json:"summary,omitempty"`
	Error         *string        `json:"error,omitzero"`
	Code          *string        `json:"code,omitzero"`
	Cost          jsontext.Value `json:"cost,omitzero"`
	TotalTokens   *int64         `json:"total_tokens,omitzero"`
	Metadata      jsontext.Value `json:"metadata,omitzero"`
}

// RunFact is the data of the fact that tells of an event. A start always has message,
// user_id and workflow_name, a failure message, error and code, empty when unknown.
func RunFact(e *RunEvent) *RunEventData {
	d := &RunEventData{
		Kind: e.Step.Kind(), RunID: e.RunID, Status: e.Status.String(), EventID: e.EventID, AppID: e.AppID, ChatID: e.ChatID,
		Agent: e.Agent, Timestamp: InstantText(e.Timestamp), Sequence: e.Sequence, Attempt: e.Attempt, Implicit: e.Implicit,
		TenantID: e.TenantID, Plugin: e.Plugin, ParentRunID: e.ParentRunID, PreviousAgent: e.PreviousAgent, Tool: e.Tool,
		Summary: e.Summary,
	}
	if len(e.Metadata) > 0 {
		d.Metadata = e.Metadata
	}
	starts, fails := e.Step == StepRunStarted, e.Step == StepRunFailed
	text := func(s string, always bool) *string {
		if s == "" && !always {
			return nil
		}
		return &s
	}
	d.UserID, d.WorkflowName = text(e.UserID, starts), text(e.WorkflowName, starts)
	d.Message = text(e.Message, starts || fails)
	d.Error, d.Code = text(e.Error, fails), text(e.Code, fails)
	if e.HasCost {
		d.Cost = AppendAmount(nil, e.Cost)
	}
	if e.HasTokens {
		d.TotalTokens = &e.TotalTokens
	}
	return d
}

// AppendJSON adds the data.
func (d *RunEventData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// RunSubject is the CloudEvents subject of what is told of a run.
func RunSubject(run string) string { return "run/" + run }

// RunToken is the last token of the subject of a run's facts: the chat, else the run
// (contract §8).
func (r *Run) RunToken() string {
	if r.ChatID != "" {
		return r.ChatID
	}
	return r.ID
}

// GivenEventID is the id of an event that grout itself adds to a run: the same in every
// replay, and nobody's else.
func GivenEventID(run string, attempt int64, step RunStep) string {
	h := sha256.New()
	h.Write(appendText(nil, run))
	h.Write([]byte{byte(attempt), byte(attempt >> 8), byte(attempt >> 16), byte(attempt >> 24), byte(step)})
	return "grout-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// PluginExecutedData is the data of plugin.executed.
type PluginExecutedData struct {
	AppID      string           `json:"app_id"`
	RunID      string           `json:"run_id"`
	ChatID     string           `json:"chat_id"`
	UserID     string           `json:"user_id"`
	TenantID   string           `json:"tenant_id,omitempty"`
	Plugin     string           `json:"plugin"`
	Action     string           `json:"action,omitempty"`
	Attempt    int64            `json:"attempt"`
	DurationMs int64            `json:"duration_ms"`
	Consumed   map[string]int64 `json:"consumed,omitempty"`
}

// ExecutedFact is the data of plugin.executed about an execution that succeeded.
func ExecutedFact(r *Run) *PluginExecutedData {
	return &PluginExecutedData{
		AppID: r.AppID, RunID: r.ID, ChatID: r.RunToken(), UserID: r.UserID, TenantID: r.TenantID, Plugin: r.Plugin,
		Action: r.Execution.Action, Attempt: r.Attempt, DurationMs: r.Execution.DurationMs, Consumed: r.Execution.Consumes,
	}
}

// AppendJSON adds the data.
func (d *PluginExecutedData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// PluginErrorData is the data of plugin.execution_error.
type PluginErrorData struct {
	AppID      string `json:"app_id"`
	RunID      string `json:"run_id"`
	ChatID     string `json:"chat_id"`
	UserID     string `json:"user_id"`
	TenantID   string `json:"tenant_id,omitempty"`
	Plugin     string `json:"plugin"`
	Action     string `json:"action,omitempty"`
	Attempt    int64  `json:"attempt"`
	DurationMs int64  `json:"duration_ms"`
	Error      string `json:"error"`
	ErrorCode  string `json:"error_code"`
}

// ExecutionErrorFact is the data of plugin.execution_error about an execution that failed.
func ExecutionErrorFact(r *Run) *PluginErrorData {
	return &PluginErrorData{
		AppID: r.AppID, RunID: r.ID, ChatID: r.RunToken(), UserID: r.UserID, TenantID: r.TenantID, Plugin: r.Plugin,
		Action: r.Execution.Action, Attempt: r.Attempt, DurationMs: r.Execution.DurationMs, Error: r.Error, ErrorCode: r.Code,
	}
}

// AppendJSON adds the data.
func (d *PluginErrorData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

// PluginPublishedData is the data of a fact plugin.<name> that a plugin made known.
type PluginPublishedData struct {
	AppID    string         `json:"app_id"`
	RunID    string         `json:"run_id"`
	ChatID   string         `json:"chat_id"`
	UserID   string         `json:"user_id"`
	TenantID string         `json:"tenant_id,omitempty"`
	Plugin   string         `json:"plugin"`
	Name     string         `json:"name"`
	Data     jsontext.Value `json:"data"`
}

// PublishedFact is the data of what a plugin publishes during a run.
func PublishedFact(r *Run, p *PluginPublication) *PluginPublishedData {
	return &PluginPublishedData{
		AppID: r.AppID, RunID: r.ID, ChatID: r.RunToken(), UserID: r.UserID, TenantID: r.TenantID, Plugin: r.Plugin,
		Name: p.Name, Data: p.Data,
	}
}

// AppendJSON adds the data.
func (d *PluginPublishedData) AppendJSON(dst []byte) []byte { return appendJSON(dst, d) }

const pluginFacts = "plugin."

// PublishedKind is the kind of the fact with a name.
func PublishedKind(name string) string { return pluginFacts + name }

// PublishedName reports whether a plugin may publish under a name: [a-z][a-z0-9_.]{0,127},
// without an empty token, and none of grout's own facts.
func PublishedName(name string) bool {
	if len(name) < 1 || len(name) > 128 || name == "executed" || name == "execution_error" {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z':
		case i > 0 && (c >= '0' && c <= '9' || c == '_' || c == '.'):
		default:
			return false
		}
	}
	return !strings.HasSuffix(name, ".") && !strings.Contains(name, "..")
}
