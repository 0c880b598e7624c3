package app

import (
	"context"
	"errors"
	"fmt"

	"grout/bus"
	"grout/handlers"
	"grout/handlers/httpapi"
	"grout/schemas"
	"grout/store"
)

// Bounds of what may wait before commands are refused and /ready turns red.
const (
	maxBacklogMessages = 2000
	maxOutboxRows      = 200_000
	maxOutboxFacts     = 20_000_000 // of those rows
)

// backlog is what a partition still has to apply and to publish.
func (p *partition) backlog() (messages, rows int64) {
	messages = max(int64(p.source.Pending()), p.publisher.Acked()-p.loop.Applied(), 0)
	st := p.store.Stats()
	return messages, st.FactRows + st.DeadLetterRows
}

func (p *partition) behind() string {
	messages, rows := p.backlog()
	switch {
	case messages > maxBacklogMessages:
		return fmt.Sprintf("partition %d has %d groups of commands to apply", p.number, messages)
	case rows > maxOutboxRows+p.remade:
		return fmt.Sprintf("partition %d has %d rows of facts to publish", p.number, rows)
	}
	if facts := p.store.Stats().Facts; facts > maxOutboxFacts && p.remade == 0 {
		return fmt.Sprintf("partition %d has %d facts to publish", p.number, facts)
	}
	return ""
}

// commands takes commands for httpapi.
type commands supervisor

func (c *commands) Admits(number int, oldest int64) error {
	n := c.current.Load()
	if n == nil {
		return errNotWorking
	}
	p, err := n.partition(number)
	if err != nil {
		return err
	}
	if why := handlers.JudgeOldest(p.store.Clock().Clock, oldest, c.clock.now().UnixNano()); why != nil {
		return why
	}
	return nil
}

func (c *commands) Submit(number int, f schemas.CommandFrame) (httpapi.Pending, error) {
	n := c.current.Load()
	if n == nil {
		return nil, errNotWorking
	}
	p, err := n.partition(number)
	if err != nil {
		return nil, err
	}
	if err := n.takes(p, f.Accepted); err != nil {
		return nil, err
	}
	pending, err := p.publisher.Submit(f)
	if errors.Is(err, bus.ErrBusy) {
		return nil, fmt.Errorf("%w: %w", httpapi.ErrBusy, err)
	}
	if err != nil {
		return nil, err
	}
	return &pendingCommand{pending, p.store}, nil
}

type pendingCommand struct {
	*bus.Pending
	store *store.Store
}

func (p *pendingCommand) Stored(ctx context.Context) (httpapi.Receipt, error) {
	return p.receipt(p.Pending.Stored(ctx))
}

func (p *pendingCommand) Wait(ctx context.Context) (httpapi.Receipt, error) {
	return p.receipt(p.Pending.Wait(ctx))
}

// receipt tells places of the log instead of the stream's.
func (p *pendingCommand) receipt(r bus.Receipt, err error) (httpapi.Receipt, error) {
	if r.Seq != 0 {
		r.Seq = p.store.LogPosition(r.Seq)
	}
	return httpapi.Receipt(r), err
}

// reads answers httpapi from the partition that an app belongs to.
type reads supervisor

var errNotWorking = schemas.Errorf(schemas.CodeUnavailable, "The store is not available; try again")

// partitionOf gives the partition of an app once it shows everything that was ever
// answered: a sum that goes back after a restart would be a wrong one.
func (r *reads) partitionOf(app string) (*partition, error) {
	n := r.current.Load()
	if n == nil {
		return nil, errNotWorking
	}
	p, err := n.partition(schemas.PartitionOf(app, n.cfg.Partitions))
	if err != nil {
		return nil, err
	}
	if !p.loop.CaughtUp() {
		return nil, schemas.Errorf(schemas.CodeUnavailable, "The store is catching up with its log; try again")
	}
	return p, nil
}

func (r *reads) Usage(ctx context.Context, q schemas.UsageQuery) (schemas.UsageReport, error) {
	p, err := r.partitionOf(q.AppID)
	if err != nil {
		return schemas.UsageReport{}, err
	}
	return p.store.Usage(ctx, q)
}

func (r *reads) Events(ctx context.Context, q schemas.EventQuery) (schemas.EventPage, error) {
	p, err := r.partitionOf(q.AppID)
	if err != nil {
		return schemas.EventPage{}, err
	}
	return p.store.Events(ctx, q)
}

func (r *reads) Chat(ctx context.Context, app, chatID string) (*schemas.ChatUsage, error) {
	p, err := r.partitionOf(app)
	if err != nil {
		return nil, err
	}
	return p.store.Chat(ctx, app, chatID)
}

func (r *reads) BatchByID(ctx context.Context, app, batchID string) (schemas.BatchStatus, bool, error) {
	p, err := r.partitionOf(app)
	if err != nil {
		return schemas.BatchStatus{}, false, err
	}
	return p.store.BatchOfApp(ctx, app, batchID)
}

func (r *reads) BatchByRef(ctx context.Context, refs []schemas.CommandRef) (schemas.BatchStatus, bool, error) {
	var sum schemas.BatchStatus
	n := r.current.Load()
	if n == nil {
		return sum, false, errNotWorking
	}
	for i, ref := range refs {
		if err := ctx.Err(); err != nil {
			return sum, false, err
		}
		if ref.Partition < 0 || ref.Partition >= n.cfg.Partitions {
			return sum, false, nil
		}
		p, err := n.partition(ref.Partition)
		if err != nil {
			return sum, false, err
		}
		st, found, err := p.store.BatchAt(ref.Seq, ref.Index)
		if err != nil || !found {
			return sum, false, err
		}
		if i == 0 {
			sum = st
			continue
		}
		if st.Applied && sum.Applied && st.BatchID != sum.BatchID {
			return sum, false, nil
		}
		sum.Applied = sum.Applied && st.Applied
		sum.Outcome.Merge(&st.Outcome)
	}
	return sum, len(refs) > 0, nil
}

// health tells httpapi whether the node can do its work (contract §2).
type health supervisor

func (h *health) Ready() (bool, string) {
	n := h.current.Load()
	if why := h.owner.why(); why != "" {
		return false, why
	}
	if n == nil {
		return false, "the store and the bus are being opened"
	}
	for _, p := range n.partitions {
		if why := h.clock.jumped(p.store.Now()); why != "" {
			return false, why
		}
	}
	if !n.guarded.Load() {
		return false, "the streams are being compared with the stores"
	}
	if !n.settled.Load() {
		return false, "rules and configuration are being brought into the log"
	}
	if why := n.damage(); why != "" {
		return false, why
	}
	if ok, why := n.ready(); !ok {
		return false, why
	}
	for _, p := range n.partitions {
		if !p.inbox.Reading() {
			return false, fmt.Sprintf("partition %d cannot read what others publish", p.number)
		}
	}
	return true, ""
}

func (h *health) Alarms() []schemas.Alarm { return h.alarms.all() }

func (n *node) ready() (bool, string) {
	if !n.conn.IsConnected() {
		return false, "the bus is not connected"
	}
	for _, p := range n.partitions {
		if !p.loop.CaughtUp() {
			return false, fmt.Sprintf("partition %d is catching up with its log", p.number)
		}
		if why := p.behind(); why != "" {
			return false, why
		}
	}
	return true, ""
}
