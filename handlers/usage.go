package handlers

import (
	"cmp"
	"slices"

	"grout/schemas"
	"grout/store"
)

// maxCarriedParts bounds how many apps one batch id is remembered for. Beyond it
// a repeated batch is judged event by event, which counts the same.
const maxCarriedParts = 4096

// ingestUsage counts the events of a batch, each once for ever (contract §7).
func (e *engine) ingestUsage(tx *store.Tx, c Command, b *schemas.UsageBatch) (Result, error) {
	var prior *store.Batch
	if !b.Made {
		var err error
		if prior, _, err = tx.Batch(b.BatchID); err != nil {
			return Result{}, err
		}
	}
	record := &store.Batch{BatchID: b.BatchID, Made: b.Made, Parts: decideParts(prior, b.Parts, tx.Place(c.Index))}
	in := ingest{tx: tx, command: c, batch: b, books: e.open(tx, c), parts: map[string]*store.Part{}, listed: map[string][]schemas.RejectedInBatch{}}
	for i := range b.Parts {
		in.parts[b.Parts[i].AppID] = &record.Parts[i]
	}
	if err := in.events(); err != nil {
		return Result{}, err
	}
	if err := in.books.close(); err != nil {
		return Result{}, err
	}
	in.refused()
	in.report(record)
	outcome, err := tx.PutBatch(c.Index, record)
	if err != nil {
		return Result{}, err
	}
	return Result{Outcome: outcome.Append(nil)}, nil
}

// decideParts says for each part of a batch whether it is new, the same again, or
// in conflict with what the batch id stands for; the parts of the batch come
// first, in their order. When anything is new the record becomes the one that is
// asked next time, so it also carries what earlier ones know.
func decideParts(prior *store.Batch, parts []schemas.BatchPart, at store.Place) []store.Part {
	out := make([]store.Part, 0, len(parts))
	fresh := false
	for _, p := range parts {
		part := store.Part{AppID: p.AppID, Digest: p.Digest, Outcome: store.PartNew, First: at}
		if known := known(prior, p.AppID); known != nil {
			part.Outcome = store.PartConflict
			if known.Digest == p.Digest {
				part = *known
				part.Outcome = store.PartReplayed
			}
		}
		fresh = fresh || part.Outcome == store.PartNew
		out = append(out, part)
	}
	if !fresh || prior == nil {
		return out
	}
	own := map[string]bool{}
	for i := range out {
		own[out[i].AppID] = out[i].Outcome != store.PartConflict
	}
	for _, p := range prior.Parts {
		if p.Outcome == store.PartConflict || own[p.AppID] || len(out) >= maxCarriedParts {
			continue
		}
		p.Outcome = store.PartCarried
		out = append(out, p)
	}
	return out
}

func known(prior *store.Batch, app string) *store.Part {
	if prior == nil {
		return nil
	}
	return prior.Known(app)
}

// judgeAge says whether an event's timestamp is acceptable at an instant
// (contract §7). Ids are kept longer than any acceptable timestamp.
func judgeAge(timestamp, now int64) (schemas.Code, string) {
	switch {
	case timestamp > now+schemas.MaxEventAhead:
		return schemas.CodeTimestampInFuture, "timestamp is more than 24 hours ahead of the server's clock"
	case timestamp < now-schemas.MaxEventAge:
		return schemas.CodeTimestampTooOld, "timestamp is older than 34 days"
	}
	return "", ""
}

// ingest is one run of ingestUsage.
type ingest struct {
	tx      *store.Tx
	command Command
	batch   *schemas.UsageBatch
	books   *books
	parts   map[string]*store.Part
	errors  []schemas.EventError                 // of all apps, for the answer
	listed  map[string][]schemas.RejectedInBatch // by app, for the facts
}

// note lists a refused event, for the answer and for the fact of its app.
func (in *ingest) note(e schemas.EventError) {
	in.errors = append(in.errors, e)
	in.listed[e.AppID] = append(in.listed[e.AppID], schemas.RejectedInBatch{
		BatchID: in.batch.BatchID, Index: e.Index, EventID: e.EventID, Code: e.Code, Detail: e.Detail,
	})
}

func (in *ingest) events() error {
	b := in.batch
	var part *store.Part
	for i := range b.Events {
		e := &b.Events[i]
		if part == nil || part.AppID != e.AppID {
			part = in.parts[e.AppID]
		}
		switch part.Outcome {
		case store.PartReplayed:
			continue
		case store.PartConflict:
			in.refuse(part, e, schemas.CodeBatchConflict, batchConflict)
			continue
		}
		if code, detail := judgeAge(e.Timestamp, in.command.Now); code != "" {
			in.refuse(part, e, code, detail)
			continue
		}
		if err := in.books.prepare(e.AppID, e.TenantID, e.UserID); err != nil {
			return err
		}
		entry, err := in.tx.RecordUsage(in.command.Index, e, &b.Prints[i])
		if err != nil {
			return err
		}
		switch entry {
		case store.Entered:
			part.Accepted++
			in.books.recorded(e)
		case store.Duplicate:
			part.Duplicates++
		case store.Conflict:
			in.refuse(part, e, schemas.CodeConflict, "event_id was used before for an event with other content, which stays counted")
		}
	}
	return nil
}

const batchConflict = "batch_id was used before for other events of this app; nothing of it was applied"

func (in *ingest) refuse(part *store.Part, e *schemas.UsageEvent, code schemas.Code, detail string) {
	part.Rejected++
	in.note(schemas.EventError{Index: e.Index, EventID: e.EventID, AppID: e.AppID, Code: code, Detail: detail})
}

// refused adds what was refused while the request was read.
func (in *ingest) refused() {
	for _, p := range in.batch.Parts {
		if part := in.parts[p.AppID]; part.Outcome != store.PartReplayed {
			part.Rejected += p.Rejected
		}
	}
	for _, e := range in.batch.Rejected {
		switch in.parts[e.AppID].Outcome {
		case store.PartReplayed:
			continue
		case store.PartConflict:
			e.Code, e.Detail = schemas.CodeBatchConflict, batchConflict
		}
		in.note(e)
	}
	slices.SortStableFunc(in.errors, func(a, b schemas.EventError) int { return cmp.Compare(a.Index, b.Index) })
	in.errors = in.errors[:min(len(in.errors), schemas.MaxListedErrors)]
	for app, list := range in.listed { // each by itself: the order of the map is not seen
		slices.SortStableFunc(list, func(a, b schemas.RejectedInBatch) int { return cmp.Compare(a.Index, b.Index) })
		in.listed[app] = list[:min(len(list), schemas.MaxListedErrors)]
	}
}

// report puts the errors into the record and hands what is listed to usage.rejected.
func (in *ingest) report(record *store.Batch) {
	record.Errors = in.errors
	for _, p := range in.batch.Parts {
		if part := in.parts[p.AppID]; part.Outcome != store.PartReplayed {
			in.tx.RejectUsage(in.command.Index, p.AppID, int(part.Rejected), in.listed[p.AppID])
		}
	}
}
