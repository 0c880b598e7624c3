package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"grout/schemas"
)

// Bounds of one sum of a run: what is decoded, remembered and answered.
const (
	maxRunUsageEvents      = 2_000_000
	maxRunUsageCorrections = 200_000
	maxRunUsageAgents      = 10_000
)

// RunUsage sums up what the events of a run count for, as it was committed at one
// instant; nil when there is no such run. A sum beyond the bounds is TOO_MANY_ROWS, never
// a part of it.
func (s *Store) RunUsage(ctx context.Context, app, id string) (u *schemas.RunUsage, err error) {
	fp, _ := schemas.FingerprintOf(schemas.IDRun, app, id, nil)
	_, err = s.runAt(&fp, func(l *Look, r *Run) error {
		w := runSum{ctx: ctx, run: r, left: maxRunUsageEvents, agents: map[string]*schemas.RunTotals{}}
		from, expired, err := r.usageFrom(l)
		if err == nil {
			err = w.sum(l.bolt, from)
		}
		if err != nil {
			return err
		}
		u, err = w.usage()
		if u != nil {
			u.ExpiredUntil = expired
		}
		return err
	})
	return u, err
}

// usageFrom is the log position behind which all usage of a run lies, and until when what
// arrived may be missing. An event is stamped at most MaxEventAhead after it arrives, so
// what a run used since its start cannot have come earlier than that before it; of a run
// that was told of later than it started, its first message bounds nothing.
func (r *Run) usageFrom(l *Look) (from uint64, expired int64, err error) {
	above, err := readLine(l.bolt)
	if err != nil {
		return 0, 0, err
	}
	events, err := r.runEvents(l, &above, 0, 1)
	if err != nil || r.Sequence > 0 && (len(events) == 0 || events[0].Sequence > 1) { // its first message has expired
		return above.Position, above.Until, err
	}
	home, begin := r.Place.Seq, min(r.homed, r.StartedAt)
	moved := len(r.earlier) > 0
	if moved {
		home = r.earlier[0].place.Seq
	}
	c := l.bucket(bucketSegments).cursor()
	for k, v := c.before(keySeq(home + 1)); k != nil; k, v = c.prev() {
		g, err := parseSegment(k, v)
		if err != nil {
			return 0, 0, err
		}
		if moved { // when it got its first home is known by the segment only
			begin, moved = min(begin, g.Start), false
		}
		if g.Until <= begin-schemas.MaxEventAhead || g.First <= above.Position {
			from = g.First
			break
		}
	}
	if above.Position > 0 && from <= above.Position {
		from = above.Position
		if above.Until > begin-schemas.MaxEventAhead {
			expired = above.Until
		}
	}
	return from, expired, c.err
}

// runSum is one walk over the event log for a run.
type runSum struct {
	ctx       context.Context
	run       *Run
	left      int
	passed    int
	corrected map[string]correctedEvent // by event id
	agents    map[string]*schemas.RunTotals
	events    []schemas.UsageEvent
	commands  []uint32
}

// correctedEvent is what the newest correction of an event has made of it.
type correctedEvent struct {
	seq       uint64
	effective schemas.UsageSums
	voided    bool
}

func (w *runSum) sum(bolt *bbolt.Tx, from uint64) error {
	if err := w.corrections(bolt, from); err != nil {
		return err
	}
	c := bucketOf(bolt, bucketEvents).cursor()
	app, id := []byte(w.run.AppID), []byte(w.run.ID)
	for k, v := c.seek(keySeq(from)); len(k) == 12; k, v = c.next() {
		if err := w.pass(); err != nil {
			return err
		}
		if !bytes.Contains(v, id) || !bytes.Contains(v, app) {
			continue
		}
		if err := w.chunk(binary.BigEndian.Uint64(k), v); err != nil {
			return err
		}
	}
	return c.err
}

func (w *runSum) pass() error {
	if w.passed++; w.passed%64 == 0 {
		return w.ctx.Err()
	}
	return nil
}

// corrections remembers those of the app: each lies behind its event.
func (w *runSum) corrections(bolt *bbolt.Tx, from uint64) error {
	w.corrected = map[string]correctedEvent{}
	app := []byte(w.run.AppID)
	c := bucketOf(bolt, bucketAdjustments).cursor()
	for k, v := c.seek(keySeq(from)); len(k) == 12; k, v = c.next() {
		if err := w.pass(); err != nil {
			return err
		}
		if !bytes.Contains(v, app) {
			continue
		}
		a, err := parseAdjustment(v)
		if err != nil {
			return err
		}
		if a.AppID != w.run.AppID {
			continue
		}
		w.corrected[strings.Clone(a.EventID)] = correctedEvent{binary.BigEndian.Uint64(k), a.Effective, a.Status == schemas.EventVoided}
		if len(w.corrected) > maxRunUsageCorrections {
			return tooMuchUsage("events corrected", maxRunUsageCorrections)
		}
	}
	return c.err
}

func tooMuchUsage(what string, most int) error {
	return schemas.Errorf(schemas.CodeTooManyRows, "The usage of the run cannot be summed at once: more than %d %s since it began; GET /api/usage/events has the events page by page", most, what)
}

func (w *runSum) chunk(seq uint64, v []byte) (err error) {
	size, err := chunkSize(v)
	if err != nil {
		return err
	}
	if w.left -= size; w.left < 0 {
		return tooMuchUsage("events beside and of it", maxRunUsageEvents)
	}
	if w.events, w.commands, err = decodeChunk(v, w.events[:0], w.commands[:0]); err != nil {
		return err
	}
	for i := range w.events {
		if e := &w.events[i]; w.has(e) {
			if err := w.add(seq, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// has tells whether an event is of the run: it names it, or no run and the chat that is
// the run itself.
func (w *runSum) has(e *schemas.UsageEvent) bool {
	return e.AppID == w.run.AppID && (e.RunID == w.run.ID || e.RunID == "" && e.ChatID == w.run.ID)
}

func (w *runSum) add(seq uint64, e *schemas.UsageEvent) error {
	t := schemas.RunTotals{UsageSums: schemas.CountedOf(e), Duration: nanosOf(e.DurationSec)}
	if a, is := w.corrected[e.EventID]; is && a.seq >= seq { // else it corrected an expired event of the same id
		if t.UsageSums = a.effective; a.voided {
			t.Duration = schemas.Amount{}
		}
	}
	to := w.agents[e.AgentName]
	if to == nil {
		if len(w.agents) == maxRunUsageAgents {
			return tooMuchUsage("agents", maxRunUsageAgents)
		}
		to = &schemas.RunTotals{}
		w.agents[strings.Clone(e.AgentName)] = to
	}
	if !to.Add(&t) {
		return errSumTooLarge
	}
	return nil
}

var errSumTooLarge = schemas.Errorf(schemas.CodeSumTooLarge, "a count of the run is beyond 9223372036854775807")

// nanosOf makes a duration a number that adds up exactly in any order.
func nanosOf(seconds float64) schemas.Amount {
	return schemas.AmountOf(int64(math.Round(seconds * 1e9)))
}

func (w *runSum) usage() (*schemas.RunUsage, error) {
	u := &schemas.RunUsage{Run: &w.run.Run}
	for name, t := range w.agents {
		u.Agents = append(u.Agents, schemas.AgentTotals{Agent: name, RunTotals: *t})
	}
	slices.SortFunc(u.Agents, func(a, b schemas.AgentTotals) int { return strings.Compare(a.Agent, b.Agent) })
	for i := range u.Agents {
		if !u.Totals.Add(&u.Agents[i].RunTotals) {
			return nil, errSumTooLarge
		}
	}
	return u, nil
}
