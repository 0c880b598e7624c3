package handlers

import (
	"time"

	"grout/schemas"
	"grout/store"
)

// setClock moves handler time, also back: a command with a stamp from the future
// had moved it ahead of what is true.
func setClock(tx *store.Tx, _ Command, c *schemas.ClockChange) (Result, error) {
	if why := JudgeClockSet(tx.Clock(), c.To); why != nil {
		return refused(why), nil
	}
	tx.SetNow(c.To)
	return done(), nil
}

// JudgeClockSet says why handler time may not be set to an instant; nil when it may.
// The ids of an event that has expired must not be acceptable again: it would be
// counted twice.
func JudgeClockSet(c store.ClockView, to int64) *schemas.Error {
	if c.ExpiredUntil == 0 || to > c.ExpiredUntil+schemas.SegmentKept {
		return nil
	}
	return schemas.Errorf(schemas.CodeClockKept,
		"events that arrived until %s have expired: their repeats would be counted again if the time were set to %s; it may be set to what is later than %s",
		instant(c.ExpiredUntil), instant(to), instant(c.ExpiredUntil+schemas.SegmentKept))
}

// tick notes what the clock shows. Segments and folds follow from it (architecture §4),
// and what is due by then is carried out.
func (e *engine) tick(tx *store.Tx, c Command, _ *schemas.Tick) (Result, error) {
	tx.Tick(decideTick(tx.Clock().Clock, c.Accepted))
	return done(), e.carryOut(tx, c)
}

// decideTick says what a tick at an instant makes of the clock. A step between two
// ticks stops the expiry of segments until enough ticks have followed, each in its
// hour: ticks that come closer together do not count.
func decideTick(c store.Clock, at int64) store.Clock {
	by := at - c.LastTick
	switch {
	case c.LastTick == 0:
		c.Counted = at
	case stepped(by):
		c.Steps++
		c.StepAt, c.StepBy = at, by
		c.Wait, c.Counted = schemas.TicksAfterStep, at
		c.Doubt += max(by, 0)
	case c.Wait > 0 && at-c.Counted >= schemas.TickInterval-schemas.TickTolerance:
		c.Wait--
		c.Counted = at
		if c.Wait == 0 {
			c.Doubt = 0
		}
	}
	c.LastTick = at
	return c
}

// stepped reports whether two ticks are too far apart to be of one clock.
func stepped(by int64) bool {
	const most = schemas.TickInterval + schemas.TickTolerance
	return by > most || by < -most
}

// JudgeOldest says why commands must wait whose oldest event is of an instant; nil when
// they need not. An event that is too old by a clock in doubt, and would not be without
// its last steps, is neither rejected nor counted before the clock is believed.
func JudgeOldest(c store.Clock, oldest, now int64) *schemas.Error {
	doubt, by := c.Doubt, now-c.LastTick
	if c.LastTick != 0 && by > 0 && stepped(by) {
		doubt += by
	}
	if oldest >= now-schemas.MaxEventAge || oldest < now-schemas.MaxEventAge-doubt {
		return nil
	}
	return schemas.Errorf(schemas.CodeClockJump,
		"The clock is ahead by %s, or grout did not run for as long, and an event is too old only if the clock is right: set it right, or send the batch again when %d hourly ticks have shown that it is",
		time.Duration(doubt).Round(time.Second), schemas.TicksAfterStep)
}

// expireSegments drops what ended before an instant (architecture §4). It was sent
// because no row that waits to be published needs it; everything else is judged here.
func expireSegments(tx *store.Tx, _ Command, e *schemas.SegmentExpiry) (Result, error) {
	if why := decideExpiry(tx.Clock(), e.Before); why != nil {
		return refused(why), nil
	}
	if due, err := tx.NextDue(); err != nil {
		return Result{}, err
	} else if due != nil && due.At <= e.Before+schemas.MaxHoldAge { // an open hold would lose its row
		return refused(schemas.Errorf(schemas.CodeSegmentKept, "a tick must come first: something has been due since %s", instant(due.At))), nil
	}
	dropped, err := tx.Expire(e.Before)
	if err != nil {
		return Result{}, err
	}
	if !dropped {
		return refused(schemas.Errorf(schemas.CodeSegmentKept, "no segment ended by %s, or none that is folded", instant(e.Before))), nil
	}
	return done(), nil
}

// decideExpiry says why what ended before an instant must be kept. Time is the
// newest tick's, which no command with a stamp from the future moves.
func decideExpiry(c store.ClockView, before int64) *schemas.Error {
	switch now := min(c.Now, c.LastTick); {
	case c.LastTick == 0:
		return schemas.Errorf(schemas.CodeSegmentKept, "there was no tick yet")
	case c.Wait > 0:
		return schemas.Errorf(schemas.CodeSegmentKept, "the clock made a step at %s: %d hourly ticks must follow before anything expires", instant(c.StepAt), c.Wait)
	case before >= now-schemas.SegmentKept:
		return schemas.Errorf(schemas.CodeSegmentKept, "what ended at %s is kept until %s", instant(before), instant(before+schemas.SegmentKept))
	}
	return nil
}

func instant(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339) }

// done is the outcome of a command of grout's own that was carried out.
func done() Result { return Result{Outcome: (&schemas.CommandOutcome{}).Append(nil)} }

// refused is the outcome of one that was not: it is no fact, for it is nobody's but
// grout's.
func refused(why *schemas.Error) Result {
	return Result{Outcome: (&schemas.CommandOutcome{Code: why.Code, Detail: why.Detail}).Append(nil)}
}
