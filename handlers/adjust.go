package handlers

import (
	"errors"

	"grout/schemas"
	"grout/store"
)

// voidUsage lets an event count no more (contract §7).
func (e *engine) voidUsage(tx *store.Tx, c Command, v *schemas.EventVoid) (Result, error) {
	return e.correct(tx, c, v.EventID, v.Reason, decideVoid)
}

// amendUsage lets an event count with other values (contract §7).
func (e *engine) amendUsage(tx *store.Tx, c Command, a *schemas.EventAmendment) (Result, error) {
	return e.correct(tx, c, a.EventID, a.Reason, func(s standing) (standing, *schemas.Error) {
		return decideAmend(s, &a.Values)
	})
}

// standing is what an event says: its sums, and whether and how it was corrected.
type standing struct {
	status schemas.EventStatus
	sums   schemas.UsageSums
}

// decideVoid takes back what an event counts for.
func decideVoid(standing) (standing, *schemas.Error) {
	return standing{status: schemas.EventVoided}, nil
}

// decideAmend puts new values in the place of those that are given. The total
// follows input and output when one of them is given and it is not; it is never
// below their sum (contract §7).
func decideAmend(s standing, v *schemas.UsageValues) (standing, *schemas.Error) {
	if s.status == schemas.EventVoided {
		return s, schemas.Errorf(schemas.CodeEventVoided, "The event was voided; what is voided stays so")
	}
	next := s.sums
	for _, f := range [...]struct {
		field schemas.UsageFields
		to    *int64
		value int64
	}{
		{schemas.GivenInput, &next.InputTokens, v.InputTokens},
		{schemas.GivenOutput, &next.OutputTokens, v.OutputTokens},
		{schemas.GivenTotal, &next.TotalTokens, v.TotalTokens},
		{schemas.GivenCached, &next.CachedTokens, v.CachedTokens},
		{schemas.GivenReasoning, &next.ReasoningTokens, v.ReasoningTokens},
	} {
		if v.Given&f.field != 0 {
			*f.to = f.value
		}
	}
	if v.Given&schemas.GivenCost != 0 {
		next.Cost = schemas.AmountOf(v.Cost)
	}
	sum := next.InputTokens + next.OutputTokens
	if v.Given&(schemas.GivenInput|schemas.GivenOutput) != 0 && v.Given&schemas.GivenTotal == 0 {
		next.TotalTokens = sum
	}
	if next.TotalTokens < sum {
		return s, schemas.Errorf(schemas.CodeTotalBelowSum, "total_tokens is %d, below input_tokens + output_tokens = %d", next.TotalTokens, sum)
	}
	return standing{schemas.EventAmended, next}, nil
}

// correct is the shell around both rules. A correction that was made before is
// answered as it was then, however old its event has become, and is no new fact;
// one that would change something is bound to the age of what can be ingested.
func (e *engine) correct(tx *store.Tx, c Command, eventID, reason string, decide func(standing) (standing, *schemas.Error)) (Result, error) {
	if c.AppID == "" {
		return Result{}, errors.New("the command names no app")
	}
	rec, err := tx.Event(c.AppID, eventID)
	if err != nil {
		return Result{}, err
	}
	if rec == nil {
		return refuse(tx, c, eventID, schemas.Errorf(schemas.CodeNotFound, "The app has no event with this id")), nil
	}
	if rec.Event.Summary {
		return refuse(tx, c, eventID, schemas.Errorf(schemas.CodeEventIsSummary, "The event is the summary of a chat, which is not corrected: send a higher one, or correct the chat's events")), nil
	}
	now := standing{schemas.EventCounted, rec.Stated()}
	if rec.Last != nil {
		now.status = rec.Last.Status
	}
	next, refused := decide(now)
	if refused == nil && next == now {
		return adjusted(eventID, rec.Last), nil
	}
	if code, _ := judgeAge(rec.Event.Timestamp, c.Now); code == schemas.CodeTimestampTooOld {
		refused = schemas.Errorf(schemas.CodeEventExpired, "The event is older than 34 days: what it counts for is final")
	}
	if refused != nil {
		return refuse(tx, c, eventID, refused), nil
	}
	books := e.open(tx, c)
	if err := books.prepare(c.AppID, rec.Event.TenantID, rec.Event.UserID); err != nil {
		return Result{}, err
	}
	entry, err := tx.Adjust(c.Index, rec, next.status, next.sums, reason)
	if err != nil {
		return Result{}, err
	}
	kind := schemas.UsageAmended.Name
	if next.status == schemas.EventVoided {
		kind = schemas.UsageVoided.Name
	}
	tx.Emit(c.Index, kind, c.AppID, subjectOf(eventID), func(b []byte) []byte {
		return schemas.AppendUsageAdjusted(b, &rec.Event, &entry.Delta, &entry.Effective, reason)
	})
	books.count(entry.Hour, entry.Model, &entry.Delta)
	return adjusted(eventID, entry), books.close()
}

func subjectOf(eventID string) string { return "event/" + eventID }

func adjusted(eventID string, a *store.Adjustment) Result {
	o := schemas.CommandOutcome{Body: schemas.AppendAdjusted(nil, eventID, a.Status, &a.Delta)}
	return Result{Outcome: o.Append(nil)}
}

// refuse gives a command about an event that a rule refuses its one outcome.
func refuse(tx *store.Tx, c Command, eventID string, why *schemas.Error) Result {
	return refuseAt(tx, c, subjectOf(eventID), why)
}
