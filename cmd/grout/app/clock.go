package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"grout/bus"
	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// maxClockStep is how far the wall clock may stand behind what has been applied,
// or part from the clock that nobody sets, before commands are refused
// (architecture §2.4).
const maxClockStep = 5 * time.Minute

// wallClock judges the clock that stamps commands. A stamp from the future would
// be the time of everything that follows, and make good events too old for ever.
type wallClock struct {
	now    func() time.Time
	uptime func() time.Duration // never set by anybody; goes on while the machine sleeps
	began  time.Duration        // 1970 to the start, by the wall clock, less uptime then
}

func newWallClock(now func() time.Time, uptime func() time.Duration) *wallClock {
	c := &wallClock{now: now, uptime: uptime}
	c.began = c.offset()
	return c
}

// offset is constant as long as nobody sets the wall clock.
func (c *wallClock) offset() time.Duration { return time.Duration(c.now().UnixNano()) - c.uptime() }

// jumped says what is wrong with the clock, given the time up to which commands
// have been applied; empty when nothing is.
func (c *wallClock) jumped(applied int64) string {
	if behind := time.Duration(applied - c.now().UnixNano()); behind > maxClockStep {
		return fmt.Sprintf("The clock is %s behind the last command; set it right, or, if it is right and was wrong before, stop grout and run: grout clock reset", behind.Round(time.Second))
	}
	if step := c.offset() - c.began; step.Abs() > maxClockStep {
		return fmt.Sprintf("The clock was moved by %s while grout runs; set it back, or restart grout if it is right now", step.Round(time.Second))
	}
	return ""
}

// refuses says why a command that was stamped at an instant may not be taken; empty
// when it may. A stamp may be of a time at which the clock was wrong, although it is
// right now.
func (c *wallClock) refuses(stamp, applied int64) string {
	if why := c.jumped(applied); why != "" {
		return why
	}
	if ahead := time.Duration(stamp - c.now().UnixNano()); ahead > maxClockStep {
		return fmt.Sprintf("The clock was set back by %s meanwhile; try again", ahead.Round(time.Second))
	}
	return ""
}

// uptime reads the clock that counts from the start of the machine.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return time.Since(processStart)
	}
	return time.Duration(t.Nano())
}

var processStart = time.Now()

// ClockState is what `grout clock` tells of a partition.
type ClockState struct {
	Partition int       `json:"partition"`
	Applied   time.Time `json:"applied_time"` // of the newest command
	Clock     time.Time `json:"clock"`        // now
	Reset     bool      `json:"reset"`
	Refused   string    `json:"refused,omitempty"` // why it may not be reset

	LastTick     time.Time `json:"last_tick,omitzero"`
	Steps        uint64    `json:"steps"` // of the clock between ticks, since the store was made
	LastStep     time.Time `json:"last_step,omitzero"`
	StepSeconds  int64     `json:"last_step_seconds"`
	WaitTicks    uint64    `json:"wait_ticks"` // hourly ticks until segments expire again
	ExpiredUntil time.Time `json:"expired_until,omitzero"`
}

// clockState tells what a store knows of time.
func clockState(number int, s *store.Store, now time.Time) ClockState {
	c := s.Clock()
	at := func(nanos int64) (t time.Time) {
		if nanos != 0 {
			t = time.Unix(0, nanos).UTC()
		}
		return t
	}
	return ClockState{
		Partition: number, Applied: time.Unix(0, c.Now).UTC(), Clock: now.UTC(),
		LastTick: at(c.LastTick), Steps: c.Steps, LastStep: at(c.StepAt), StepSeconds: int64(time.Duration(c.StepBy).Seconds()),
		WaitTicks: c.Wait, ExpiredUntil: at(c.ExpiredUntil),
	}
}

// ResetClock sets the time of every partition that is ahead of the clock back to
// now, by a command in the log; with dry set it only looks. The server must not
// run. Events that were refused as too old meanwhile can be sent again. It is refused
// when ids have expired that would be needed again.
func ResetClock(ctx context.Context, cfg Config, dry bool, logger *slog.Logger) (list []ClockState, err error) {
	b, err := openOffline(ctx, cfg, "clock", logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	for p := range cfg.Partitions {
		st, err := resetPartition(ctx, cfg, b.Bus, p, dry, logger)
		if err != nil {
			return list, fmt.Errorf("partition %d: %w", p, err)
		}
		list = append(list, st)
	}
	return list, nil
}

func resetPartition(ctx context.Context, cfg Config, b *bus.Bus, number int, dry bool, logger *slog.Logger) (st ClockState, err error) {
	s, err := openOwn(cfg, number, dry)
	if err != nil {
		return st, err
	}
	defer s.Close()
	now := cfg.clock()()
	st = clockState(number, s, now)
	if dry || !st.Applied.After(now) {
		return st, nil
	}
	if why := handlers.JudgeClockSet(s.Clock(), now.UnixNano()); why != nil {
		st.Refused = why.Detail
		return st, nil
	}
	// Whatever stands behind a loss in the stream would be of another history.
	switch v, err := b.Survey(ctx, number, s); {
	case err != nil:
		return st, err
	case v.Lost != "":
		return st, fmt.Errorf("%s: %s; start the server once, which goes on in a new epoch, and then reset the clock", v.Lost, v.Detail)
	}
	change := schemas.ClockChange{To: now.UnixNano()}
	seq, err := b.PublishOne(ctx, number, ownCommand(schemas.ClockSet.Name, "clock", now.UnixNano(), change.EncodePayload(nil)))
	if err != nil {
		return st, err
	}
	if _, err := replay(ctx, b, s, number, seq, 0, logger); err != nil {
		return st, err
	}
	if why := handlers.JudgeClockSet(s.Clock(), now.UnixNano()); why != nil { // something expired on the way
		st.Refused = why.Detail
		return st, nil
	}
	st.Reset = true
	return st, nil
}

func (c *Config) clock() func() time.Time {
	if c.now != nil {
		return c.now
	}
	if now := clockHook(); now != nil {
		return now
	}
	return time.Now
}

func (c *Config) uptimeClock() func() time.Duration {
	if c.uptime != nil {
		return c.uptime
	}
	return uptime
}
