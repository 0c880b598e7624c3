package handlers

import (
	"encoding/json"

	"grout/schemas"
	"grout/store"
)

// retryLetter carries out the command of a dead letter, in the place of its own. Both are
// one: the letter waits no more exactly when its command has had its outcome, so a retry
// that is repeated gives the same answer and does nothing. A command that dies again dies
// with its letter, which says so; no other one is filed.
func (t *Table) retryLetter(tx *store.Tx, c Command, p *schemas.LetterRetry) (Result, error) {
	l, err := tx.Letter(p.ID)
	switch {
	case err != nil:
		return Result{}, err
	case l == nil:
		return refused(noLetter()), nil
	case l.Status == schemas.LetterDropped:
		return refused(schemas.Errorf(schemas.CodeLetterClosed, "The dead letter was dropped")), nil
	case l.Status == schemas.LetterRetried:
		return answered(l.AppendJSON(nil)), nil
	}
	row, known := t.rows[p.Frame.Kind]
	if !known || !schemas.Retryable(p.Frame.Kind) {
		return diedAgain(tx, l, schemas.Errorf(schemas.CodeUnknownKind, "no command of the kind %q is sent again", p.Frame.Kind))
	}
	payload, err := row.decode(p.Frame.Payload)
	if err != nil {
		return diedAgain(tx, l, schemas.Errorf(schemas.CodeUndecodable, "the payload of %s cannot be read: %v", p.Frame.Kind, err))
	}
	tx.Resume(c.Index, &p.Frame)
	result, err := t.call(tx, Command{&p.Frame, c.Index, c.Now}, payload)
	if err != nil {
		return Result{}, err
	}
	l.Status, l.Attempts = schemas.LetterRetried, l.Attempts+1
	l.Outcome = outcomeOfLetter(result.Outcome)
	if err := tx.CloseLetter(l); err != nil {
		return Result{}, err
	}
	return answered(l.AppendJSON(nil)), nil
}

func noLetter() *schemas.Error {
	return schemas.Errorf(schemas.CodeNotFound, "There is no dead letter with this id")
}

func diedAgain(tx *store.Tx, l *store.Letter, why *schemas.Error) (Result, error) {
	l.Code, l.Reason = why.Code, why.Detail
	if err := tx.DiedAgain(l); err != nil {
		return Result{}, err
	}
	return answered(l.AppendJSON(nil)), nil
}

// retryDied is what is left of a retry whose command cannot be applied this time either.
func retryDied(tx *store.Tx, p *schemas.LetterRetry, why *schemas.Error) ([]byte, error) {
	l, err := tx.Letter(p.ID)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return refused(noLetter()).Outcome, nil
	}
	result, err := diedAgain(tx, l, why)
	return result.Outcome, err
}

// outcomeOfLetter is what a letter says of the outcome of its command.
func outcomeOfLetter(stored []byte) (o schemas.CommandOutcome) {
	if o.Decode(stored) == nil {
		o.Body = append([]byte(nil), o.Body...)
	} else {
		var batch schemas.IngestOutcome
		if batch.Decode(stored) != nil {
			return schemas.CommandOutcome{}
		}
		if o = (schemas.CommandOutcome{}); batch.Conflict {
			o.Code, o.Detail = schemas.CodeBatchConflict, "The batch was sent before with other events; nothing was applied"
			return o
		}
		o.Body, _ = json.Marshal(struct { // numbers always encode
			Accepted   int `json:"accepted"`
			Duplicates int `json:"duplicates"`
			Rejected   int `json:"rejected"`
		}{batch.Accepted, batch.Duplicates, batch.Rejected})
	}
	if len(o.Body) > schemas.MaxKeptLetterResult {
		o.Body = nil
	}
	return o
}

// dropLetter ends the wait of a letter that nobody wants.
func dropLetter(tx *store.Tx, _ Command, p *schemas.LetterDrop) (Result, error) {
	l, err := tx.Letter(p.ID)
	switch {
	case err != nil:
		return Result{}, err
	case l == nil:
		return refused(noLetter()), nil
	case l.Status == schemas.LetterRetried:
		return refused(schemas.Errorf(schemas.CodeLetterClosed, "The command of the dead letter was sent again and has its outcome")), nil
	case l.Status == schemas.LetterDropped:
		return answered(l.AppendJSON(nil)), nil
	}
	l.Status = schemas.LetterDropped
	if err := tx.CloseLetter(l); err != nil {
		return Result{}, err
	}
	return answered(l.AppendJSON(nil)), nil
}
