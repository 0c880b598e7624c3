package handlers

import (
	"grout/schemas"
	"grout/store"
)

// report takes events of runs that others carry out, each judged by itself (contract §6).
func (e *engine) report(tx *store.Tx, c Command, p *schemas.RunReport) (Result, error) {
	if c.AppID == "" {
		return Result{}, errNoApp
	}
	in := reporting{books: e.open(tx, c), runs: map[string]*followed{}}
	var err error
	if in.silence, err = in.books.silence(); err != nil {
		return Result{}, err
	}
	for i := range p.Events {
		e := p.Events[i]
		why, err := in.take(&e)
		if err != nil {
			return Result{}, err
		}
		if why != nil {
			in.outcome.Rejected++
			in.outcome.Errors = append(in.outcome.Errors, schemas.EventError{Index: e.Index, EventID: e.EventID, AppID: c.AppID, Code: why.Code, Detail: why.Detail})
		}
	}
	if err := in.write(); err != nil {
		return Result{}, err
	}
	o := &in.outcome
	o.Rejected += len(p.Rejected)
	o.Errors = append(o.Errors, p.Rejected...)
	all := o.Rejected == len(p.Events)+len(p.Rejected)
	o.Tidy()
	if all { // nothing else tells of the command
		why := schemas.CommandRefusedData{Code: o.Errors[0].Code, Detail: o.Errors[0].Detail}
		subject := "app/" + c.AppID
		if len(p.Events) > 0 {
			subject = schemas.RunSubject(p.Events[0].RunID)
		}
		in.books.emit(schemas.CommandRefused.Name, c.AppID, subject, why.AppendJSON)
	}
	return Result{Outcome: o.Append(nil)}, in.books.close()
}

// reporting is one run of report. What changes of a run is written once, behind all its
// events.
type reporting struct {
	books   *books
	silence int64
	outcome schemas.IngestOutcome
	runs    map[string]*followed
	order   []*followed
}

// followed is a run that events are reported of.
type followed struct {
	run     *store.Run // nil: unknown
	next    schemas.Run
	changed bool
}

// take judges one event and, when it is new and may follow, adds it to its run.
func (in *reporting) take(e *schemas.RunEvent) (*schemas.Error, error) {
	b := in.books
	if e.AppID != "" && e.AppID != b.command.AppID {
		return schemas.Errorf(schemas.CodeAppMismatch, "The event belongs to another app than its command"), nil
	}
	e.AppID = b.command.AppID
	_, known, err := b.tx.RunEventKnown(e.AppID, e.EventID)
	if err != nil {
		return nil, err
	}
	if known {
		in.outcome.Duplicates++
		return nil, nil
	}
	f, err := in.of(e.RunID)
	if err != nil {
		return nil, err
	}
	if why := judgeStep(stateOf(f.current()), e.Step, true); why != nil {
		return why, nil
	}
	in.outcome.Accepted++
	if err := b.tx.EnterRunEvent(e.AppID, e.EventID, e.Digest()); err != nil {
		return nil, err
	}
	return nil, in.add(f, e)
}

// of gives a run as the events before have left it.
func (in *reporting) of(id string) (*followed, error) {
	if f := in.runs[id]; f != nil {
		return f, nil
	}
	r, err := in.books.run(id)
	if err != nil {
		return nil, err
	}
	f := &followed{run: r}
	if r != nil {
		f.next = r.Clone()
	}
	in.runs[id] = f
	in.order = append(in.order, f)
	return f, nil
}

func (f *followed) current() *schemas.Run {
	if f.run == nil {
		return nil
	}
	return &f.next
}

func (in *reporting) add(f *followed, e *schemas.RunEvent) (err error) {
	next, events := advance(f.current(), e, in.books.command.Now)
	next.DueAt = dueOf(&next, in.silence)
	f.next = next
	if f.run == nil {
		if f.run, err = in.books.tx.PutRun(&f.next, nil); err != nil {
			return err
		}
	} else {
		f.changed = true
	}
	return in.books.tellRun(f.run, &f.next, events)
}

func (in *reporting) write() error {
	for _, f := range in.order {
		if !f.changed {
			continue
		}
		if err := in.books.tx.ChangeRun(f.run, &f.next); err != nil {
			return err
		}
	}
	return nil
}
