package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"grout/bus"
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
}

// ResetClock sets the time of every partition that is ahead of the clock back to
// now, by a command in the log; with dry set it only looks. The server must not
// run. Events that were refused as too old meanwhile can be sent again.
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
	s, err := store.Open(storePath(cfg.DataDir, number), store.Options{Partition: number, Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery})
	if err != nil {
		return st, err
	}
	defer s.Close()
	now := cfg.clock()()
	st = ClockState{Partition: number, Applied: time.Unix(0, s.Now()).UTC(), Clock: now.UTC()}
	if dry || !st.Applied.After(now) {
		return st, nil
	}
	frame := schemas.CommandFrame{
		Kind: schemas.ClockSet.Name, ID: uuid.NewString(), Source: "//mozaiks.ai/grout/clock", Time: now.UnixNano(), Accepted: now.UnixNano(),
	}
	frame.Payload = (&schemas.ClockChange{To: now.UnixNano()}).EncodePayload(nil)
	seq, err := b.PublishOne(ctx, number, frame)
	if err != nil {
		return st, err
	}
	if _, err := replay(ctx, b, s, number, seq, 0, logger); err != nil {
		return st, err
	}
	st.Reset = true
	return st, nil
}

func (c *Config) clock() func() time.Time {
	if c.now != nil {
		return c.now
	}
	return time.Now
}
