package app

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"grout/handlers/deliver"
	"grout/schemas"
	"grout/store"
)

// webhookPartition keeps where webhooks stand: they read the facts of all partitions.
const webhookPartition = 0

// deliveries are the effects that leave the house. They outlive the nodes that they read
// from, so what is known of their failures does, too.
type deliveries struct {
	cfg      *Config
	logger   *slog.Logger
	alarms   *alarms
	upstream []*deliver.Upstream // by partition; none: usage is not reported
	webhooks []*deliver.Webhook
}

func newDeliveries(cfg *Config, logger *slog.Logger, alarms *alarms) *deliveries {
	d := &deliveries{cfg: cfg, logger: logger, alarms: alarms}
	raise := func(a schemas.Alarm) { alarms.raise(logger, a) }
	if cfg.reportsUpstream() {
		for number := range cfg.Partitions {
			d.upstream = append(d.upstream, deliver.NewUpstream(deliver.UpstreamOptions{
				URL: cfg.PlatformURL, Key: cfg.PlatformKey.Values[0], Batch: cfg.UsageBatch, Flush: cfg.UsageFlush,
				RetryFirst: min(time.Second, cfg.UsageRetryMost), RetryMost: cfg.UsageRetryMost, MarkEvery: cfg.deliveryMark,
				Logger: logger.With("delivery", deliver.UpstreamName, "partition", number), Alarm: raise, Partition: number,
			}))
		}
	}
	for i := range cfg.Webhooks {
		w := &cfg.Webhooks[i]
		d.webhooks = append(d.webhooks, deliver.NewWebhook(deliver.WebhookOptions{
			Name: w.Name, URL: w.URL, Kinds: w.Kinds, Apps: w.Apps, Disabled: !w.Enabled,
			Keys: w.keys(logger), Targets: cfg.WebhookTargets, Timeout: cfg.WebhookTimeout,
			RetryFirst: min(time.Second, cfg.WebhookRetryMost), RetryMost: cfg.WebhookRetryMost, MarkEvery: cfg.deliveryMark,
			Logger: logger, Alarm: raise,
		}))
	}
	return d
}

// factsAtStart is what the stream of facts ended with before a relay of this node
// published anything.
type factsAtStart struct {
	created int64
	last    uint64
}

func (n *node) noteFacts(ctx context.Context) (err error) {
	n.facts.created, _, n.facts.last, err = n.bus.FactsState(ctx)
	return err
}

// beginDeliveries lets deliveries that are new begin before commands are taken, so that
// none of what those say is left out. What cannot be written now is tried again by the
// delivery itself.
func (n *node) beginDeliveries(ctx context.Context) {
	d := n.deliveries
	for _, p := range n.partitions {
		if int(p.number) < len(d.upstream) {
			n.beginDelivery(ctx, p, schemas.DeliveryStand{Name: deliver.UpstreamName, Source: schemas.DeliverEvents})
		}
		if p.number != webhookPartition {
			continue
		}
		n.forgetWebhooks(ctx, p)
		for _, w := range d.webhooks {
			if w.Options().Disabled { // one that never worked begins when it does
				continue
			}
			n.beginDelivery(ctx, p, schemas.DeliveryStand{Name: w.DeliveryName(), Source: schemas.DeliverFacts, Seq: n.facts.last + 1, Stream: n.facts.created})
		}
	}
}

func (n *node) beginDelivery(ctx context.Context, p *partition, stand schemas.DeliveryStand) {
	have, err := p.store.Delivery(stand.Name)
	if err == nil && have == nil {
		err = n.markDelivery(ctx, p, &schemas.DeliveryMark{Op: schemas.DeliveryBegin, Stand: stand})
	}
	if err != nil && ctx.Err() == nil {
		n.logger.Warn("a delivery could not be begun; it will be tried again", "delivery", stand.Name, "error", err)
	}
}

// forgetWebhooks removes the places of webhooks that are not configured any more.
func (n *node) forgetWebhooks(ctx context.Context, p *partition) {
	list, err := p.store.Deliveries()
	for i := range list {
		known := !deliver.IsWebhook(list[i].Name)
		for _, w := range n.deliveries.webhooks {
			known = known || w.DeliveryName() == list[i].Name
		}
		if known || err != nil {
			continue
		}
		err = n.markDelivery(ctx, p, &schemas.DeliveryMark{Op: schemas.DeliveryRemove, Stand: list[i]})
		n.logger.Info("a webhook that is not configured any more is forgotten", "delivery", list[i].Name)
	}
	if err != nil && ctx.Err() == nil {
		n.logger.Warn("places of webhooks that are gone could not be removed", "error", err)
	}
}

func (n *node) markDelivery(ctx context.Context, p *partition, m *schemas.DeliveryMark) error {
	if err := m.Validate(); err != nil {
		return err
	}
	now := n.clock.now().UnixNano()
	if n.clock.refuses(now, p.store.Now()) != "" {
		now = p.store.Now() // what was delivered does not wait for the clock, and does not move it
	}
	return writeCommand(ctx, p.publisher, ownCommand(schemas.MarkDelivery.Name, "deliver", now, m.EncodePayload(nil)))
}

// deliver runs what reads from this node in stages of its own.
func (n *node) deliver(work *stage) {
	d := n.deliveries
	for _, p := range n.partitions {
		ledger := &ledger{n, p}
		if p.number < len(d.upstream) {
			work.run(func(ctx context.Context) error { return d.upstream[p.number].Run(ctx, ledger, &eventLog{n, p.store}) })
		}
		if p.number != webhookPartition {
			continue
		}
		for _, w := range d.webhooks {
			work.run(func(ctx context.Context) error {
				return w.Run(ctx, ledger, &factLog{n}, n.facts.created, n.facts.last)
			})
		}
	}
}

// ledger keeps where deliveries stand in the log of a partition.
type ledger struct {
	node *node
	*partition
}

func (l *ledger) Stand(name string) (*schemas.DeliveryStand, error) { return l.store.Delivery(name) }

func (l *ledger) Mark(ctx context.Context, m *schemas.DeliveryMark) error {
	return l.node.markDelivery(ctx, l.partition, m)
}

// eventLog reads the events of a partition, as long as the state is this process's.
type eventLog struct {
	node *node
	*store.Store
}

func (e *eventLog) EventsBehind(ctx context.Context, seq uint64, index uint32, most int) (schemas.SentPage, error) {
	if !e.node.owner.holds() {
		return schemas.SentPage{}, errNotWorking
	}
	return e.Store.EventsBehind(ctx, seq, index, most)
}

// factLog reads the stream of facts, as long as the state is this process's.
type factLog struct{ *node }

func (f *factLog) State(ctx context.Context) (created int64, first, last uint64, err error) {
	return f.bus.FactsState(ctx)
}

func (f *factLog) From(ctx context.Context, seq uint64, messages, bytes int) ([]schemas.StreamMessage, error) {
	if !f.owner.holds() {
		return nil, errNotWorking
	}
	list, _, err := f.bus.ReplayFacts(ctx, schemas.SubjectsFacts, seq, messages, bytes)
	return list, err
}

func (f *factLog) Published() (n int64) {
	for _, p := range f.partitions {
		n += p.relays[schemas.DestFacts].Stats().Facts
	}
	return n
}

// Deliveries for /ready: those that are not well.
func (d *deliveries) unwell() (list []schemas.DeliveryTrouble) {
	add := func(name string, s deliver.Status) {
		switch s.State {
		case deliver.StateFailing:
			list = append(list, schemas.DeliveryTrouble{Name: name, State: string(s.State), Detail: s.LastError, Since: schemas.InstantText(s.Since.UnixNano())})
		case deliver.StateStopped:
			list = append(list, schemas.DeliveryTrouble{Name: name, State: string(s.State), Detail: s.Stand.Stopped, Since: schemas.InstantText(s.Stand.StoppedAt)})
		}
	}
	for number, u := range d.upstream {
		name := deliver.UpstreamName
		if len(d.upstream) > 1 {
			name = fmt.Sprintf("%s of partition %d", name, number)
		}
		add(name, u.Status())
	}
	for _, w := range d.webhooks {
		add(w.DeliveryName(), w.Status())
	}
	return list
}
