package handlers

import (
	"grout/schemas"
	"grout/store"
)

// summarize tells the totals of a chat (contract §7). The answer is what the fact says: the
// totals at the end of the message, when everything of it is counted.
func (e *engine) summarize(tx *store.Tx, c Command, p *schemas.ChatSummarize) (Result, error) {
	if c.AppID == "" {
		return Result{}, errNoApp
	}
	known, err := tx.HasChat(c.AppID, p.ChatID)
	if err != nil {
		return Result{}, err
	}
	if !known {
		return refuseAt(tx, c, schemas.ChatSubject(p.ChatID), schemas.Errorf(schemas.CodeNotFound, "The app has no chat with this id")), nil
	}
	s, err := tx.EmitSummary(c.Index, c.AppID, p.ChatID, "", schemas.ChatSummary{}, true)
	if err != nil {
		return Result{}, err
	}
	return Result{Later: func() []byte { return answered(s.AppendJSON(nil)).Outcome }}, nil
}
