package store

import (
	"bytes"
	"encoding/binary"
	"errors"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// maxScannedRuns bounds what one page looks at, so that a filter which fits nothing costs
// no more than that.
const maxScannedRuns = 20_000

// Run gives a run of an app by its id, with the result when one is kept, as it was
// committed; nil when there is none.
func (s *Store) Run(app, id string) (*Run, error) {
	fp, _ := schemas.FingerprintOf(schemas.IDRun, app, id, nil)
	return s.runAt(&fp, func(l *Look, r *Run) (err error) {
		if r.Execution != nil && r.Execution.HasResult {
			r.Result, err = readRunBody(l, r, bodyResult)
		}
		return err
	})
}

// RunOfKey gives the run that an idempotency key of a user and plugin stands for, as it
// was committed, with its result; nil when there is none. How long it does is for the
// caller to judge, by Execution.AcceptedAt.
func (s *Store) RunOfKey(app, user, plugin, key string) (*Run, error) {
	fp := runKey(app, user, plugin, key)
	r, err := s.runAt(&fp, func(l *Look, r *Run) (err error) {
		if r.Execution != nil && r.Execution.HasResult {
			r.Result, err = readRunBody(l, r, bodyResult)
		}
		return err
	})
	if r != nil && (r.Execution == nil || r.Execution.Key != key) {
		r = nil
	}
	return r, err
}

// runAt finds a run by what leads to it and lets more be read of it.
func (s *Store) runAt(fp *schemas.Fingerprint, more func(*Look, *Run) error) (r *Run, err error) {
	defer s.db.shield(&err)()
	bolt, ordinal, e, err := s.beginAt(fp)
	if bolt != nil {
		defer func() { _ = bolt.Rollback() }()
	}
	if err != nil || ordinal == 0 {
		return nil, err
	}
	l := &Look{bolt: bolt}
	r, err = readRun(l, homeOf(&e))
	if err != nil || r == nil {
		return nil, err
	}
	return r, more(l, r)
}

// RunEvents lists the events of a run behind a sequence, at most so many, in order; found
// is false when there is no such run.
func (s *Store) RunEvents(app, id string, behind int64, limit int) (list []RunEventText, found bool, err error) {
	fp, _ := schemas.FingerprintOf(schemas.IDRun, app, id, nil)
	r, err := s.runAt(&fp, func(l *Look, r *Run) error {
		above, err := readLine(l.bolt)
		if err == nil {
			list, err = r.runEvents(l, &above, behind, limit)
		}
		return err
	})
	return list, r != nil, err
}

// Runs lists runs of an app, without results, newest first.
func (s *Store) Runs(q schemas.RunQuery) (page schemas.RunPage, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		page, err = runPage(&Look{bolt: bolt}, &q)
		return err
	})
	return page, err
}

func runPage(l *Look, q *schemas.RunQuery) (page schemas.RunPage, err error) {
	above, err := readLine(l.bolt)
	if err != nil {
		return page, err
	}
	prefix := appendText(nil, q.AppID)
	bound := after(prefix)
	if q.Before != (schemas.RunPlace{}) {
		bound = keyRunOfApp(q.AppID, Place(q.Before))
	}
	c := l.bucket(bucketRunsByApp).cursor()
	scanned := 0
	for k, _ := c.before(bound); bytes.HasPrefix(k, prefix); k, _ = c.prev() {
		r := newReader(k[len(prefix):])
		at := r.place()
		if r.Err != nil || len(r.B) > 0 {
			return page, errDamaged
		}
		if above.below(at.Seq) {
			break
		}
		if len(page.Runs) == q.Limit || scanned == maxScannedRuns {
			page.More = true
			break
		}
		scanned++
		run, err := readRun(l, at)
		if err == nil && run == nil {
			err = errDamaged
		}
		if err != nil {
			return page, err
		}
		if page.Next = schemas.RunPlace(at); q.Wants(&run.Run) {
			page.Runs = append(page.Runs, &run.Run)
		}
	}
	return page, c.err
}

// OpenExecutions lists executions that have not ended, with their data, in the order in
// which they were stored, those behind a place, at most so many. The channel is closed when a commit after
// this look opens or ends one.
func (s *Store) OpenExecutions(behind Place, limit int) (list []*Run, changed <-chan struct{}, err error) {
	s.mu.RLock()
	changed = s.runs.changed
	s.mu.RUnlock()
	err = s.Look(func(l *Look) error {
		return l.eachOpenRun(behind, func(r *Run) (err error) {
			if len(list) == limit {
				return errEnough
			}
			if r.Execution.HasData {
				r.Data, err = readRunBody(l, r, bodyData)
			}
			list = append(list, r)
			return err
		})
	})
	return list, changed, err
}

// OpenExecution gives the execution at a place with its data; nil when it has ended.
func (s *Store) OpenExecution(at Place) (r *Run, err error) {
	err = s.db.View(func(bolt *bbolt.Tx) error {
		l := &Look{bolt: bolt}
		have, err := readRun(l, at)
		if err != nil || have == nil || !have.Open() {
			return err
		}
		if have.Execution.HasData {
			have.Data, err = readRunBody(l, have, bodyData)
		}
		r = have
		return err
	})
	return r, err
}

// eachOpenRun calls do with the executions that have not ended, behind a place, until it
// has had enough.
func (l *Look) eachOpenRun(behind Place, do func(*Run) error) error {
	begin := []byte(nil)
	if behind != (Place{}) {
		begin = append(keyCommand(behind.Seq, behind.Index), 0)
	}
	c := l.bucket(bucketOpenRuns).cursor()
	for k, _ := c.seek(begin); k != nil; k, _ = c.next() {
		if len(k) != 12 {
			return errDamaged
		}
		r, err := readRun(l, Place{binary.BigEndian.Uint64(k), binary.BigEndian.Uint32(k[8:])})
		if err == nil && (r == nil || !r.Open()) {
			err = errDamaged
		}
		if err == nil {
			err = do(r)
		}
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return c.err
}

// runName names a run of an app.
type runName struct{ app, id string }

// runWatch tells who waits for runs what was committed. The store's mu guards it.
type runWatch struct {
	changed chan struct{} // closed when an execution was opened or has ended
	waiting map[runName]map[chan struct{}]struct{}
}

func newRunWatch() runWatch {
	return runWatch{make(chan struct{}), map[runName]map[chan struct{}]struct{}{}}
}

// RunEnded gives a channel that is closed once a run of an app has ended, also when it had
// ended before; its run may not be there yet. Whoever asks calls stop when he waits no more.
func (s *Store) RunEnded(app, id string) (ended <-chan struct{}, stop func(), err error) {
	name, ch := runName{app, id}, make(chan struct{})
	s.mu.Lock()
	if s.runs.waiting[name] == nil {
		s.runs.waiting[name] = map[chan struct{}]struct{}{}
	}
	s.runs.waiting[name][ch] = struct{}{}
	s.mu.Unlock()
	stop = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if delete(s.runs.waiting[name], ch); len(s.runs.waiting[name]) == 0 {
			delete(s.runs.waiting, name)
		}
	}
	fp, _ := schemas.FingerprintOf(schemas.IDRun, app, id, nil)
	r, err := s.runAt(&fp, func(*Look, *Run) error { return nil })
	if err != nil {
		stop()
		return nil, nil, err
	}
	if r != nil && r.Status.Ended() {
		s.mu.Lock()
		s.endedFor(name, ch)
		s.mu.Unlock()
	}
	return ch, stop, nil
}

// endedFor closes a channel that nobody has closed yet. The caller holds mu.
func (s *Store) endedFor(name runName, ch chan struct{}) {
	if _, waits := s.runs.waiting[name][ch]; waits {
		close(ch)
		delete(s.runs.waiting[name], ch)
	}
}

// mergeRuns tells of what the transaction did to runs. The caller holds mu.
func (s *Store) mergeRuns() {
	for _, name := range s.stage.ended {
		for ch := range s.runs.waiting[name] {
			s.endedFor(name, ch)
		}
		delete(s.runs.waiting, name)
	}
	if s.stage.opened {
		close(s.runs.changed)
		s.runs.changed = make(chan struct{})
	}
}
