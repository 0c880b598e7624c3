package store

import (
	"slices"

	"grout/schemas"
)

// Run is a run in the store. It stands at its home: the log position of the message that
// stored it, and its number there; id and index by app lead to it. A change moves a run
// whose home is old to the message of the change, so that the row, the id and the events
// of a run that goes on never expire with an old segment. While a run can become due it
// stands in `due`, and an execution that has not ended in `open_runs`.
type Run struct {
	schemas.Run
	Place   Place
	homed   int64 // handler time when it got its home
	earlier []earlierHome
}

// earlierHome is where the events of a run up to a sequence stand.
type earlierHome struct {
	place   Place
	through int64
}

// homeKept is how old the home of a run that is changed may be. With the silence after
// which a run is lost it is less than what Expirable keeps for whatever is due.
const homeKept = 7 * 24 * hourSpan

func readRun(t reading, at Place) (*Run, error) {
	v, err := t.bucket(bucketRuns).get(keyCommand(at.Seq, at.Index))
	if err != nil || v == nil {
		return nil, err
	}
	return parseRun(at, v)
}

// RunAt gives the run whose home is a place; nil when there is none.
func (tx *Tx) RunAt(at Place) (*Run, error) {
	r, err := readRun(tx, at)
	return r, faultOf("read run", err)
}

// homeOf is where the run stands to which an entry of the id log leads: beside what else
// its message entered.
func homeOf(e *idEntry) Place { return Place{e.seq, uint32(e.ref)} }

// Run gives a run of an app by its id, up to the running command, without data and
// result; nil when there is none, or none any more.
func (tx *Tx) Run(app, id string) (*Run, error) {
	fp, _ := schemas.FingerprintOf(schemas.IDRun, app, id, nil)
	ordinal, e, err := tx.find(&fp)
	if err != nil || ordinal == 0 {
		return nil, faultOf("read id log", err)
	}
	r, err := tx.RunAt(homeOf(&e))
	if err == nil && r == nil {
		err = &Fault{"read run", errDamaged}
	}
	return r, err
}

// PutRun stores a new run of the running command. UpdatedAt becomes handler time. What
// data holds, the client's object of an execution, goes when the execution has ended.
func (tx *Tx) PutRun(next *schemas.Run, data []byte) (*Run, error) {
	r := &Run{Run: next.Clone()}
	r.Data, r.Result = nil, nil
	tx.home(r)
	if r.Execution != nil {
		r.Execution.HasData, r.Execution.HasResult = data != nil, false
		if data != nil {
			if err := tx.putRunBody(r, bodyData, data); err != nil {
				return nil, err
			}
		}
	}
	return r, tx.settleRun(r)
}

// home gives a run its place: behind the runs that the message has stored before.
func (tx *Tx) home(r *Run) {
	r.Place, r.homed = Place{tx.log(), tx.runs}, tx.applied.Now
	tx.runs++
}

// settleRun writes a run that got its home in this message.
func (tx *Tx) settleRun(r *Run) error {
	r.UpdatedAt = tx.applied.Now
	if err := tx.add(bucketRuns, r.key(), r.append(nil)); err != nil {
		return &Fault{"write run", err}
	}
	if err := tx.add(bucketRunsByApp, keyRunOfApp(r.AppID, r.Place), []byte{}); err != nil {
		return &Fault{"write run", err}
	}
	fp, _ := schemas.FingerprintOf(schemas.IDRun, r.AppID, r.ID, nil)
	if err := tx.enterHome(schemas.IDRun, &fp, r); err != nil {
		return err
	}
	return tx.openRun(r)
}

func (tx *Tx) enterHome(kind schemas.IDKind, fp *schemas.Fingerprint, r *Run) error {
	from, _, err := tx.find(fp)
	if err == nil {
		tx.enter(kind, fp, uint64(r.Place.Index), from)
	}
	return faultOf("read id log", err)
}

// ChangeRun lets a run be what a rule has made of it; r is that afterwards. UpdatedAt
// becomes handler time. The client's object goes when an execution has ended.
func (tx *Tx) ChangeRun(r *Run, next *schemas.Run) error {
	if err := tx.closeRun(r); err != nil {
		return err
	}
	ends := !r.Status.Ended() && next.Status.Ended()
	was := r.Execution
	r.Run = next.Clone()
	r.Data, r.Result = nil, nil
	if x := r.Execution; x != nil && was != nil { // what is stored is not the rule's to say
		x.HasData, x.HasResult = was.HasData, was.HasResult
	}
	if ends {
		tx.stage.ended = append(tx.stage.ended, runName{r.AppID, r.ID})
		if err := tx.dropRunBody(r, bodyData); err != nil {
			return err
		}
	}
	if tx.applied.Now-r.homed >= homeKept && !r.Open() && (r.Execution == nil || !r.Execution.HasResult) {
		return tx.moveRun(r)
	}
	r.UpdatedAt = tx.applied.Now
	if err := tx.put(bucketRuns, r.key(), r.append(nil)); err != nil {
		return &Fault{"write run", err}
	}
	return tx.openRun(r)
}

// moveRun gives a run a new home. Its events stay where they are.
func (tx *Tx) moveRun(r *Run) error {
	if _, err := tx.delete(bucketRuns, r.key()); err != nil {
		return &Fault{"move run", err}
	}
	if _, err := tx.delete(bucketRunsByApp, keyRunOfApp(r.AppID, r.Place)); err != nil {
		return &Fault{"move run", err}
	}
	r.earlier = slices.DeleteFunc(r.earlier, func(e earlierHome) bool { return tx.segments.Line.below(e.place.Seq) })
	r.earlier = append(r.earlier, earlierHome{r.Place, r.Sequence})
	tx.home(r)
	return tx.settleRun(r)
}

func (r *Run) key() []byte { return keyCommand(r.Place.Seq, r.Place.Index) }

func (r *Run) keyDue() []byte { return keyDue(dueSoon, r.DueAt, dueRun, r.key()) }

func (tx *Tx) openRun(r *Run) error {
	if r.Open() {
		tx.stage.opened = true
		if err := tx.add(bucketOpenRuns, r.key(), []byte{}); err != nil {
			return &Fault{"write run", err}
		}
	}
	if r.DueAt != 0 {
		return tx.putDue(r.keyDue())
	}
	return nil
}

func (tx *Tx) closeRun(r *Run) error {
	if r.Open() {
		tx.stage.opened = true
		was, err := tx.delete(bucketOpenRuns, r.key())
		if err == nil && !was {
			err = errDamaged
		}
		if err != nil {
			return &Fault{"write run", err}
		}
	}
	if r.DueAt != 0 {
		return tx.notDue(r.keyDue())
	}
	return nil
}

// keyRunOfApp orders the runs of an app by their homes.
func keyRunOfApp(app string, at Place) []byte {
	return append(appendText(nil, app), keyCommand(at.Seq, at.Index)...)
}

// forgetRun removes the row by app of a run that has expired.
func (tx *Tx) forgetRun(key, value []byte) error {
	at := newReader(key)
	r, err := parseRun(at.place(), value)
	if err != nil {
		return err
	}
	_, err = tx.delete(bucketRunsByApp, keyRunOfApp(r.AppID, r.Place))
	return err
}
