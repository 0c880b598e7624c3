package handlers

import (
	"grout/schemas"
	"grout/store"
)

// once carries out a command that somebody else has published, unless it was carried out
// before: its source and id stand for what they stood for first (contract §8). A repeat
// gets the outcome of then and is told by no second fact; another command with the same
// id, or one that is too old for its id to be known still, is refused, once. What dies is
// not remembered, so that it can be sent again.
func (t *Table) once(tx *store.Tx, c Command, payload any) (Result, error) {
	digest := schemas.CommandDigest(c.Kind, payload, c.Payload)
	known, err := tx.KnownCommand(c.CommandFrame, nil)
	if err != nil {
		return Result{}, err
	}
	switch {
	case known != nil && known.Digest == digest:
		return again(known), nil
	case known != nil:
		return conflict(tx, c, digest)
	}
	var r Result
	if why := judgeTime(c); why != nil {
		r = refuseApart(tx, c, why)
	} else if r, err = t.rows[c.Kind].apply(tx, c, payload); err != nil {
		return Result{}, err
	}
	return r, tx.EnterCommand(c.Index, c.CommandFrame, nil, &store.KnownCommand{Digest: digest, Outcome: r.Outcome})
}

// again is what a repeat is answered. Of an outcome that was too long to keep only the
// facts tell.
func again(known *store.KnownCommand) Result {
	if len(known.Outcome) == 0 {
		return done()
	}
	return Result{Outcome: known.Outcome}
}

// conflict refuses a command whose id stands for another one.
func conflict(tx *store.Tx, c Command, digest [16]byte) (Result, error) {
	known, err := tx.KnownCommand(c.CommandFrame, digest[:])
	if err != nil {
		return Result{}, err
	}
	if known != nil {
		return again(known), nil
	}
	r := refuseApart(tx, c, schemas.Errorf(schemas.CodeCommandConflict, "The id was used before by its source for a command with other data, which stands"))
	return r, tx.EnterCommand(c.Index, c.CommandFrame, digest[:], &store.KnownCommand{Digest: digest, Outcome: r.Outcome})
}

// judgeTime says why the time of a command cannot be believed, or its id may have been
// forgotten: ids are kept longer than any acceptable time. Grout's own is its own.
func judgeTime(c Command) *schemas.Error {
	if schemas.OwnSource(c.Source) {
		return nil
	}
	switch {
	case c.Time > c.Now+schemas.MaxEventAhead:
		return schemas.Errorf(schemas.CodeTimestampInFuture, "The time of the command is more than 24 hours ahead of the server's clock")
	case c.Time < c.Now-schemas.MaxEventAge:
		return schemas.Errorf(schemas.CodeTimestampTooOld, "The time of the command is more than 34 days ago: whether it was carried out before is no longer known")
	}
	return nil
}

// refuseApart is refuseAt for a command whose id may be that of another one.
func refuseApart(tx *store.Tx, c Command, why *schemas.Error) Result {
	data := schemas.CommandRefusedData{Code: why.Code, Detail: why.Detail}
	tx.EmitApart(c.Index, schemas.CommandRefused.Name, c.AppID, "app/"+c.AppID, data.AppendJSON)
	return Result{Outcome: (&schemas.CommandOutcome{Code: why.Code, Detail: why.Detail}).Append(nil)}
}

// refuseCommand tells of a command that its node has refused.
func refuseCommand(tx *store.Tx, c Command, p *schemas.CommandRefusal) (Result, error) {
	return refuseAt(tx, c, p.Subject, &schemas.Error{Code: p.Code, Detail: p.Detail}), nil
}

// fileLetter files a message that is no command.
func fileLetter(tx *store.Tx, c Command, p *schemas.LetterFiling) (Result, error) {
	l := &schemas.DeadLetter{
		AppID: c.AppID, Kind: p.Kind, Cause: p.Cause, CorrelationID: c.CorrelationID, TraceParent: c.TraceParent,
		Code: p.Code, Reason: p.Reason, Attempts: 1, Original: p.Original,
	}
	if l.Cause.ID == "" {
		l.Cause = schemas.Cause{ID: c.ID, Source: c.Source}
	}
	l.ID = schemas.LetterID(schemas.Cause{ID: c.ID, Source: c.Source}, 0, &l.Original)
	return done(), tx.DeadLetter(c.Index, l)
}
