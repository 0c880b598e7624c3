package schemas

import (
	"fmt"

	"github.com/go-json-experiment/json"
)

const aguiLifecycle = "agui.lifecycle."

// AGUITypes are the types of the frames that mirror orchestration events on the live
// streams for clients that speak AG-UI (contract §6).
var AGUITypes = []string{
	aguiLifecycle + "RunStarted", aguiLifecycle + "RunFinished", aguiLifecycle + "RunError",
	aguiLifecycle + "StepStarted", aguiLifecycle + "StepFinished",
}

// aguiData is an event as AG-UI has it, with the fields of the event that it mirrors: AG-UI
// takes further ones. Its timestamp is AG-UI's, in milliseconds since 1970.
type aguiData struct {
	Type        string       `json:"type"`
	Timestamp   int64        `json:"timestamp"`
	ThreadID    string       `json:"threadId"`
	RunID       string       `json:"runId"`
	ParentRunID string       `json:"parentRunId,omitempty"`
	StepName    string       `json:"stepName,omitempty"`
	Outcome     *aguiOutcome `json:"outcome,omitzero"`
	Message     *string      `json:"message,omitzero"`
	RunEventData
}

type aguiOutcome struct {
	Type string `json:"type"`
}

// AppendAGUI adds the AG-UI event that mirrors an orchestration event, which is the data of
// its fact, and gives the type of its frame; none for events that AG-UI has nothing for.
// thread is the chat of the event, else its run.
func AppendAGUI(dst []byte, thread string, event []byte) (kind string, _ []byte, err error) {
	d := aguiData{}
	if err := json.Unmarshal(event, &d.RunEventData); err != nil {
		return "", dst, fmt.Errorf("read an orchestration event: %w", err)
	}
	switch d.Kind {
	case StepRunStarted.Kind():
		kind, d.Type, d.ParentRunID = AGUITypes[0], "RUN_STARTED", d.RunEventData.ParentRunID
	case StepRunCompleted.Kind():
		kind, d.Type, d.Outcome = AGUITypes[1], "RUN_FINISHED", &aguiOutcome{"success"}
	case StepRunCancelled.Kind():
		kind, d.Type, d.Outcome = AGUITypes[1], "RUN_FINISHED", &aguiOutcome{"cancelled"}
	case StepRunFailed.Kind():
		kind, d.Type = AGUITypes[2], "RUN_ERROR"
		d.Message = d.failure()
	case StepAgentStarted.Kind():
		kind, d.Type, d.StepName = AGUITypes[3], "STEP_STARTED", d.step()
	case StepAgentCompleted.Kind():
		kind, d.Type, d.StepName = AGUITypes[4], "STEP_FINISHED", d.step()
	default:
		return "", dst, nil
	}
	at, fault := ParseInstant(d.RunEventData.Timestamp)
	if fault != nil {
		return "", dst, fmt.Errorf("read the instant of an orchestration event: %w", fault)
	}
	if d.Message == nil {
		d.Message = d.RunEventData.Message
	}
	d.Timestamp, d.ThreadID, d.RunID = at/1e6, d.AppID+":"+thread, d.RunEventData.RunID
	return kind, appendJSON(dst, &d), nil
}

// failure is what went wrong, for people: AG-UI has it in message alone.
func (d *aguiData) failure() *string {
	text := "The run failed"
	for _, said := range []*string{d.RunEventData.Message, d.Error, d.Code} {
		if said != nil && *said != "" {
			text = *said
			break
		}
	}
	return &text
}

// step names a step of an event: its agent.
func (d *aguiData) step() string {
	if d.Agent == "" {
		return "agent"
	}
	return d.Agent
}
