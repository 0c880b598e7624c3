package app

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"grout/bus"
	"grout/handlers"
	"grout/handlers/httpapi"
	"grout/schemas"
	"grout/store"
)

// How long the pump waits before it tries again what the log does not take now, how long
// for a clock that has made a step to be set right, how long for outcomes, and how long
// messages stay in their stream once they are in the log.
const (
	pumpAgain       = 10 * time.Millisecond
	pumpAgainAtMost = time.Second
	pumpDoubts      = 10 * time.Minute
	pumpOutcomes    = 2 * time.Second
	pumpRemoves     = 100 * time.Millisecond
	pumpRemovesAt   = 1000 // messages
	pumpTellsAfter  = 10 * time.Second
)

// pump brings what others have published for a partition into its log, in order
// (architecture §2.1): a command, or a dead letter of a message that is none. A message is
// removed once its group is stored. What is read again after a crash is known by its
// source and id, so a repeat does nothing. Nothing is skipped: while the log takes no
// commands the pump waits, and the stream fills up.
type pump struct {
	node      *node
	partition *partition
	inbox     *bus.Inbox
	stats     *pumpStats
	logger    *slog.Logger
	fault     func(point string)

	share   share
	through uint64    // sequence of the newest message in the log
	created int64     // of its stream
	brought int       // messages in the log that are not removed yet
	since   time.Time // of the first of them
}

// startPumps begins to read what others publish. It returns when that works.
func (n *node) startPumps(ctx context.Context, s *stage) error {
	for _, p := range n.partitions {
		if err := p.inbox.Open(ctx); err != nil {
			return err
		}
		s.run(n.newPump(p).Run)
	}
	return nil
}

func (n *node) newPump(p *partition) *pump {
	return &pump{node: n, partition: p, inbox: p.inbox, stats: &p.pumped, logger: n.logger.With("partition", p.number), fault: faultHook()}
}

// Run works until ctx ends, or the stream cannot be read.
func (u *pump) Run(ctx context.Context) error {
	defer u.inbox.Close()
	for ctx.Err() == nil {
		if err := u.remove(ctx); err != nil {
			return err
		}
		most, bytes := u.share.of(u.partition.publisher)
		wait, cancel := ctx, context.CancelFunc(func() {})
		if u.brought > 0 { // they are removed soon, also when nothing follows
			wait, cancel = context.WithTimeout(ctx, pumpRemoves)
		}
		list, err := u.inbox.Next(wait, most, bytes)
		cancel()
		if ctx.Err() != nil {
			break
		}
		if err != nil && len(list) == 0 && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if !u.bring(ctx, list) {
			break
		}
	}
	return nil
}

// remove takes what is in the log out of its stream, in pieces.
func (u *pump) remove(ctx context.Context) error {
	if u.brought == 0 || u.brought < pumpRemovesAt && time.Since(u.since) < pumpRemoves {
		return nil
	}
	if err := u.inbox.Remove(ctx, u.created, u.through); err != nil {
		if ctx.Err() == nil {
			u.logger.Warn("published commands that are in the log could not be removed from their stream; they will be", "error", err)
		}
		u.since = time.Now()
		return nil
	}
	u.brought = 0
	return nil
}

// bring stores messages as commands of as few groups as half of one each holds. False:
// ctx has ended before all of them were stored.
func (u *pump) bring(ctx context.Context, list []schemas.StreamMessage) bool {
	var unit brought
	for i := range list {
		c := u.read(ctx, &list[i])
		if ctx.Err() != nil {
			return false
		}
		if !unit.fits(&c.CommandFrame) {
			if !u.store(ctx, &unit) {
				return false
			}
			unit = brought{}
		}
		unit.add(&c, &list[i])
	}
	return u.store(ctx, &unit)
}

// brought is what one group is going to hold of the messages.
type brought struct {
	frames  []schemas.CommandFrame
	made    []from // for each frame
	bytes   int
	through uint64
}

// from is what a command was made of.
type from struct {
	message *schemas.StreamMessage
	stored  bool  // its time is when the message was stored
	oldest  int64 // timestamp of its oldest event
}

func (b *brought) fits(f *schemas.CommandFrame) bool {
	return len(b.frames) == 0 || len(b.frames) < maxShare && b.bytes+f.FrameSize() <= maxShareBytes
}

func (b *brought) add(c *schemas.PublicCommand, m *schemas.StreamMessage) {
	b.frames, b.made = append(b.frames, c.CommandFrame), append(b.made, from{m, c.Stored, c.Oldest})
	b.bytes += c.FrameSize()
	b.through = m.Seq
}

// settle puts aside what only a clock in doubt calls too old, as dead letters: sent again
// when the clock is believed or set right, they are judged. Until that was possible for a
// while they wait, and so does the group.
func (b *brought) settle(clock store.Clock, now int64, created int64) error {
	for i := range b.made {
		why := handlers.JudgeOldest(clock, b.made[i].oldest, now)
		if why == nil {
			continue
		}
		if clock.Doubt == 0 || now-clock.StepAt < int64(pumpDoubts) { // without: the next tick notes the step
			return why
		}
		c := schemas.PublicCommand{Oldest: b.made[i].oldest, CommandFrame: b.frames[i]}
		c = c.Letter(b.made[i].message, created, why)
		b.frames[i], b.made[i].oldest = c.CommandFrame, c.Oldest
	}
	return nil
}

// stamp says when the commands were accepted. A message cannot have been stored later: one
// that seems to was stored while the clock was wrong, and is no fault of its publisher.
func (b *brought) stamp(now int64) {
	for i := range b.frames {
		b.frames[i].Accepted = now
		if b.made[i].stored {
			b.frames[i].Time = min(b.frames[i].Time, now)
		}
	}
}

// read makes a command of a message, whatever it holds.
func (u *pump) read(ctx context.Context, m *schemas.StreamMessage) schemas.PublicCommand {
	c, fault := schemas.DecodePublic(m, u.inbox.Created())
	if fault != nil {
		return c.Letter(m, u.inbox.Created(), fault)
	}
	if c.Execution != nil {
		u.judge(ctx, &c)
	}
	return c
}

// store brings one group's commands into the log, however long that takes.
func (u *pump) store(ctx context.Context, unit *brought) bool {
	if len(unit.frames) == 0 {
		return true
	}
	began, told := time.Now(), false
	for wait := pumpAgain; ; wait = min(2*wait, pumpAgainAtMost) {
		pending, err := u.submit(ctx, unit)
		if err == nil {
			u.stored(unit)
			u.outcomes(ctx, pending)
			return ctx.Err() == nil
		}
		u.stats.waiting(err)
		if !told && time.Since(began) > pumpTellsAfter && ctx.Err() == nil {
			told = true
			u.logger.Warn("published commands wait: the log does not take them", "error", err)
		}
		if !sleep(ctx, wait) {
			return false
		}
	}
}

func (u *pump) submit(ctx context.Context, unit *brought) ([]*bus.Pending, error) {
	now := u.node.clock.now().UnixNano()
	p := u.partition
	if err := u.node.takes(p, now); err != nil {
		return nil, err
	}
	if err := unit.settle(p.store.Clock().Clock, now, u.inbox.Created()); err != nil {
		return nil, err
	}
	unit.stamp(now)
	pending, err := p.publisher.SubmitAll(unit.frames)
	if err != nil {
		return nil, err
	}
	return pending, pending[0].Confirmed(ctx) // they are in one group
}

// stored notes that messages need not stay in their stream.
func (u *pump) stored(unit *brought) {
	u.stats.waiting(nil)
	if u.fault != nil {
		u.fault("pump.stored")
	}
	if u.brought == 0 {
		u.since = time.Now()
	}
	u.brought += len(unit.frames)
	u.through, u.created = unit.through, u.inbox.Created()
	u.stats.brought.Add(int64(len(unit.frames)))
}

// outcomes waits for what becomes of the commands, so that no more of them wait to be
// applied than one group has.
func (u *pump) outcomes(ctx context.Context, pending []*bus.Pending) {
	ctx, cancel := context.WithTimeout(ctx, pumpOutcomes)
	defer cancel()
	for _, p := range pending {
		r, err := p.Wait(ctx)
		switch {
		case err != nil || r.Outcome == nil && !r.Dead: // the facts tell
		case r.Dead:
			u.stats.dead.Add(1)
		default:
			u.stats.outcome(r.Outcome)
		}
	}
}

// judge judges an execution by what only a node knows, as a request over HTTP is judged
// before it enters the log, and gives it the limits of its plugin. A refusal is logged as
// what became of the command.
func (u *pump) judge(ctx context.Context, c *schemas.PublicCommand) {
	x := c.Execution
	if why := u.allow(ctx, c.AppID, c); why != nil {
		c.Refuse(why, schemas.RunSubject(x.RunID))
		return
	}
	c.Payload = x.EncodePayload(nil)
}

func (u *pump) allow(ctx context.Context, app string, c *schemas.PublicCommand) *schemas.Error {
	x := c.Execution
	if u.node.executions == nil {
		return schemas.Errorf(schemas.CodeNotFound, "Plugin '%s' not found or disabled", x.Plugin)
	}
	plugin, err := (*pluginPort)(u.node.executions).Find(x.Plugin)
	if err != nil {
		if known := (*schemas.Error)(nil); errors.As(err, &known) {
			return known
		}
		return schemas.Errorf(schemas.CodePluginLoadFailed, "Plugin '%s' not found.", x.Plugin)
	}
	switch {
	case c.DryRun:
		return schemas.Errorf(schemas.CodeInvalidRequest, "A dry run is answered, and nobody waits for this command: ask over HTTP")
	case plugin.MaxInputBytes > 0 && int64(len(x.Data)) > plugin.MaxInputBytes:
		return schemas.Errorf(schemas.CodePayloadTooLarge, "data has %d bytes: at most %d", len(x.Data), plugin.MaxInputBytes)
	}
	x.Plugin, x.Timeout, x.QueueTimeout, x.Rerun = plugin.Name, int64(plugin.Timeout), int64(plugin.QueueTimeout), plugin.Rerun
	return u.mayTalkIn(ctx, app, x)
}

// mayTalkIn refuses a chat that is somebody else's, or a run of somebody else.
func (u *pump) mayTalkIn(ctx context.Context, app string, x *schemas.PluginExecution) *schemas.Error {
	if x.ChatID == "" {
		return nil
	}
	for wait := pumpAgain; ; wait = min(2*wait, pumpAgainAtMost) {
		owned, err := u.owned(ctx, app, x)
		switch {
		case err == nil && !owned:
			return schemas.Errorf(schemas.CodeNotFound, "The app has no chat with this id")
		case err == nil:
			return nil
		}
		u.stats.waiting(err)
		if !sleep(ctx, wait) { // nothing is brought any more
			return nil
		}
	}
}

func (u *pump) owned(ctx context.Context, app string, x *schemas.PluginExecution) (bool, error) {
	chat, err := u.partition.store.Chat(ctx, app, x.ChatID)
	if err != nil || chat != nil && chat.UserID != x.UserID {
		return false, err
	}
	run, err := u.partition.store.Run(app, x.ChatID)
	return run == nil || run.UserID == x.UserID, err
}

// takes tells why a partition takes no command now that is accepted at an instant.
func (n *node) takes(p *partition, accepted int64) error {
	if why := n.clock.refuses(accepted, p.store.Now()); why != "" {
		return schemas.Errorf(schemas.CodeClockJump, "%s", why)
	}
	if !n.guarded.Load() || !n.settled.Load() || p.store.Epoch() < p.epoch {
		return errNotWorking
	}
	if why := p.behind(); why != "" {
		return &busyError{why}
	}
	return nil
}

// busyError says why the backlog is full.
type busyError struct{ why string }

func (e *busyError) Error() string { return httpapi.ErrBusy.Error() + ": " + e.why }

// Unwrap makes it one that httpapi knows.
func (e *busyError) Unwrap() error { return httpapi.ErrBusy }
