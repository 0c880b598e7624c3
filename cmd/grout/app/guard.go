package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"grout/bus"
	"grout/schemas"
	"grout/store"
)

// passGuard compares every partition's streams with its store before anything is
// published (architecture §2, table of deaths). What a store can go on without is an
// alarm: facts that a stream has lost are made again, and a new epoch is started in a
// command stream that has lost what the store has applied.
func (n *node) passGuard(ctx context.Context) error {
	surveys := make([]bus.Survey, len(n.partitions))
	for i, p := range n.partitions {
		var err error
		if surveys[i], err = n.bus.Survey(ctx, p.number, p.store); err != nil {
			return p.explain(n.cfg.DataDir, surveys[i], err)
		}
		if surveys[i].Lost == "" {
			p.loop.Expect(surveys[i].LastOwn)
		}
	}
	for i, p := range n.partitions {
		if err := n.remakeFacts(ctx, p, surveys[i]); err != nil {
			return fmt.Errorf("partition %d: publish facts again: %w", p.number, err)
		}
		if err := n.startEpoch(ctx, p, surveys[i]); err != nil {
			return fmt.Errorf("partition %d: start a new epoch: %w", p.number, err)
		}
	}
	return nil
}

func (n *node) startEpoch(ctx context.Context, p *partition, v bus.Survey) error {
	if v.Lost == "" {
		return nil
	}
	p.epoch = v.Applied.Epoch + 1
	cost := "commands that were answered 202 and not applied yet may be lost"
	if p.restored {
		cost = "the store itself was missing and was restored from a snapshot: everything that was applied behind it, and is not in the stream, is lost"
	}
	n.alarms.raise(n.logger, schemas.Alarm{
		Name: v.Lost, Partition: p.number,
		Detail: fmt.Sprintf("%s; the store is kept as it is, and epoch %d of the stream goes on from it; %s", v.Detail, v.Applied.Epoch+1, cost),
	})
	if v.Begin != nil {
		return nil // it is in the stream already
	}
	seq, err := n.bus.StartEpoch(ctx, v, n.cfg.clock()())
	if err != nil {
		return err
	}
	n.logger.Warn("a new epoch of the command stream has been started", "partition", p.number, "epoch", v.Applied.Epoch+1, "sequence", seq,
		"after_sequence", v.Applied.Seq, "after_epoch", v.Applied.Epoch)
	return nil
}

// keepEpochs takes a snapshot of every partition that has begun an epoch: no older one
// can be replayed into it. A snapshot that fails is the keeper's to try again.
func (n *node) keepEpochs(ctx context.Context) {
	for _, p := range n.partitions {
		list, _ := store.Snapshots(snapshotDir(n.cfg.DataDir, p.number))
		if epoch := p.store.Epoch(); epoch == 1 || len(list) > 0 && list[0].Epoch == epoch {
			continue
		}
		if err := p.keeper.before(ctx); err != nil && ctx.Err() == nil {
			n.logger.Error("the first snapshot of an epoch failed; it will be tried again", "partition", p.number, "error", err)
		}
	}
}

// explain adds to a guard's error what is at hand to go on with.
func (p *partition) explain(dataDir string, v bus.Survey, err error) error {
	var guard *bus.GuardError
	if !errors.As(err, &guard) {
		return fmt.Errorf("partition %d: %w", p.number, err)
	}
	hint := ""
	if guard.Name == bus.StreamHeadLost || guard.Name == bus.EpochGap {
		hint = snapshotHint(dataDir, p.number, v)
	}
	return fmt.Errorf("partition %d: %w%s", p.number, err, hint)
}

// snapshotHint names a snapshot that is newer than the store and within the stream.
func snapshotHint(dataDir string, number int, v bus.Survey) string {
	list, _ := store.Snapshots(snapshotDir(dataDir, number))
	i := slices.IndexFunc(list, func(s store.Snapshot) bool {
		newer := s.Epoch > v.Applied.Epoch || s.Epoch == v.Applied.Epoch && s.Position.Seq > v.Applied.Seq
		return newer && s.Position.Seq >= v.First && s.Position.Seq <= v.Last
	})
	if i < 0 {
		return ""
	}
	return fmt.Sprintf("; the snapshot %s, at %d of epoch %d, is new enough: move the store %s away and start again",
		list[i].Path, list[i].Position.Seq, list[i].Epoch, storePath(dataDir, number))
}

// rebuildable reports whether a new node, which looks at everything again before it
// works, can go on after what the guard has met in a running one.
func rebuildable(g *bus.GuardError) bool {
	switch g.Name {
	case bus.StreamUnreadable, bus.StreamTailLost, bus.StreamRecreated, bus.RelayTailLost:
		return true
	}
	return false
}

// maxAlarms bounds what is kept of a process's alarms; the newest stay.
const maxAlarms = 100

// alarms are what was lost while the process lives.
type alarms struct {
	mu    sync.Mutex
	list  []schemas.Alarm
	count map[alarmKey]int64
}

type alarmKey struct {
	name      string
	partition int
}

func (a *alarms) raise(logger *slog.Logger, alarm schemas.Alarm) {
	logger.Error(alarm.Name+": "+alarm.Detail, "partition", alarm.Partition, "alarm", alarm.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count == nil {
		a.count = map[alarmKey]int64{}
	}
	a.count[alarmKey{alarm.Name, alarm.Partition}]++
	a.list = append(a.list, alarm)
	if len(a.list) > maxAlarms {
		a.list = slices.Clone(a.list[len(a.list)-maxAlarms:])
	}
}

func (a *alarms) all() []schemas.Alarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.list)
}

// each tells how often each alarm was raised.
func (a *alarms) each(tell func(name string, partition int, n int64)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, n := range a.count {
		tell(k.name, k.partition, n)
	}
}
