package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"grout/bus"
	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// ticker writes the ticks of a partition into its log, every hour and as soon as
// something is due, and after each of them the command that lets old segments expire,
// when nothing needs them any more (architecture §2.4, §4).
type ticker struct {
	store     *store.Store
	loop      *handlers.Loop
	publisher *bus.Publisher
	clock     *wallClock
	every     time.Duration // between ticks
	look      time.Duration // how often it is looked whether one is due
	logger    *slog.Logger

	steps  uint64 // told so far
	silent bool   // because the clock is wrong, which is told
}

const (
	// tickWait bounds the wait for an outcome. Without one the command is written again.
	tickWait = 10 * time.Second
	tickLook = 10 * time.Second
	// dueGap is how long what is due may wait for more that is, so that one tick serves all.
	dueGap = 100 * time.Millisecond
)

// Run works until ctx ends. What fails is tried again; it stops nothing.
func (t *ticker) Run(ctx context.Context) error {
	t.steps = t.store.Clock().Steps
	look := time.NewTicker(t.look)
	defer look.Stop()
	for {
		err := t.step(ctx)
		if err != nil && ctx.Err() == nil {
			t.logger.Warn("a tick could not be written; it will be tried again", "error", err)
		}
		if !t.wait(ctx, look.C, err != nil) {
			return nil
		}
	}
}

// wait returns when it is time to look again, and false when ctx has ended: something
// is due, or was not when the wait began, or the time to look has come. After an error
// it is not sooner than that.
func (t *ticker) wait(ctx context.Context, look <-chan time.Time, failed bool) bool {
	at, changed := t.store.NextDue()
	var due <-chan time.Time
	switch {
	case failed:
		changed = nil
	case !at.IsZero():
		timer := time.NewTimer(max(at.Sub(t.clock.now())+time.Millisecond, dueGap))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-look:
	case <-due:
	case <-changed:
	case <-ctx.Done():
		return false
	}
	return true
}

func (t *ticker) step(ctx context.Context) error {
	now := t.clock.now().UnixNano()
	if !t.loop.CaughtUp() || !tickDue(t.store.Clock().LastTick, now, t.every) && !t.due(now) {
		return nil
	}
	if why := t.clock.refuses(now, t.store.Now()); why != "" {
		if !t.silent {
			t.logger.Warn("the clock is wrong: until it is right there are no ticks, and commands are refused", "reason", why)
		}
		t.silent = true
		return nil
	}
	t.silent = false
	if err := t.write(ctx, ownCommand(schemas.ClockTick.Name, "clock", now, (&schemas.Tick{}).EncodePayload(nil))); err != nil {
		return err
	}
	t.tell()
	return t.expire(ctx)
}

// due reports whether something waits for a tick.
func (t *ticker) due(now int64) bool {
	at, _ := t.store.NextDue()
	return !at.IsZero() && at.UnixNano() <= now
}

// tickDue reports whether a tick is due: the last one is old, or of a time to come,
// which a clock that was set back has left.
func tickDue(last, now int64, every time.Duration) bool {
	return last == 0 || time.Duration(now-last).Abs() >= every
}

// tell says what the newest tick has shown.
func (t *ticker) tell() {
	c := t.store.Clock()
	if c.Steps != t.steps {
		t.steps = c.Steps
		t.logger.Warn("the clock has made a step, or grout did not run: nothing expires until hourly ticks have followed",
			"by", time.Duration(c.StepBy).Round(time.Second).String(), "at", time.Unix(0, c.StepAt).UTC(), "ticks", c.Wait)
	}
}

func (t *ticker) expire(ctx context.Context) error {
	before, ok, err := t.store.Expirable()
	if err != nil || !ok {
		return err
	}
	e := schemas.SegmentExpiry{Before: before}
	if err := t.write(ctx, ownCommand(schemas.SegmentExpire.Name, "clock", t.clock.now().UnixNano(), e.EncodePayload(nil))); err != nil {
		return err
	}
	t.logger.Info("what has expired leaves the store", "arrived_until", time.Unix(0, t.store.Clock().ExpiredUntil).UTC())
	return nil
}

// write brings a command into the log and waits until it is applied.
func (t *ticker) write(ctx context.Context, f schemas.CommandFrame) error {
	if why := t.clock.refuses(f.Accepted, t.store.Now()); why != "" {
		return schemas.Errorf(schemas.CodeClockJump, "%s", why)
	}
	return writeCommand(ctx, t.publisher, f)
}

// ownCommand makes a command that only grout writes; source is the part of it that does.
func ownCommand(kind, source string, now int64, payload []byte) schemas.CommandFrame {
	return schemas.CommandFrame{
		Kind: kind, ID: uuid.Must(uuid.NewV7()).String(), Source: "//mozaiks.ai/grout/" + source, Time: now, Accepted: now, Payload: payload,
	}
}

// writeCommand brings a command of grout's own into the log and waits until it is
// applied. A refusal is an error that says why.
func writeCommand(ctx context.Context, p *bus.Publisher, f schemas.CommandFrame) error {
	o, err := commandOutcome(ctx, p, f)
	if err == nil && o.Code != "" {
		return schemas.Errorf(o.Code, "%s", o.Detail)
	}
	return err
}

// errDead says that a command could not be applied; writing it again would not help.
var errDead = errors.New("it went to the dead letters")

// commandOutcome is writeCommand for whoever looks at refusals.
func commandOutcome(ctx context.Context, p *bus.Publisher, f schemas.CommandFrame) (o schemas.CommandOutcome, err error) {
	pending, err := p.Submit(f)
	if err != nil {
		return o, fmt.Errorf("write %s: %w", f.Kind, err)
	}
	ctx, cancel := context.WithTimeout(ctx, tickWait)
	defer cancel()
	receipt, err := pending.Wait(ctx)
	switch {
	case err != nil:
		return o, fmt.Errorf("write %s: %w", f.Kind, err)
	case receipt.Dead:
		return o, fmt.Errorf("write %s: %w", f.Kind, errDead)
	case receipt.Outcome == nil:
		return o, fmt.Errorf("write %s: it is in the log and was not applied in time", f.Kind)
	}
	if err := o.Decode(receipt.Outcome); err != nil {
		return o, fmt.Errorf("outcome of %s: %w", f.Kind, err)
	}
	return o, nil
}
