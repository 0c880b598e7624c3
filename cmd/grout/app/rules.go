package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// checkRules refuses a store that follows rules which this release does not know, and
// reports whether it follows the newest of those that it knows.
func checkRules(s *store.Store) (newest bool, err error) {
	have, err := handlers.RulesOf(s.Config(schemas.ConfigRules))
	if err == nil && have > handlers.RulesVersion {
		err = handlers.RulesNewer(have)
	}
	return have == handlers.RulesVersion, err
}

// settleRules brings the version of this release's rules into the log of every
// partition before anything that was decided by them (architecture §2.4). The
// release before this one can go on from the snapshots that are taken first.
func (n *node) settleRules(ctx context.Context) error {
	for _, p := range n.partitions {
		if err := n.settlePartition(ctx, p); err != nil {
			return fmt.Errorf("partition %d: set the version of the rules: %w", p.number, err)
		}
	}
	return nil
}

func (n *node) settlePartition(ctx context.Context, p *partition) error {
	newest, err := checkRules(p.store)
	if err != nil || newest {
		return err
	}
	if p.store.Checkpoint().Seq > 0 {
		if err := p.keeper.before(ctx); err != nil {
			return fmt.Errorf("take a snapshot: %w", err)
		}
	}
	change := schemas.Rules{Version: handlers.RulesVersion}.Change()
	now := p.store.Now() // of the newest command: the clock may be wrong
	if now == 0 {
		now = n.cfg.clock()().UnixNano()
	}
	if err := writeCommand(ctx, p.publisher, ownCommand(schemas.ConfigSet.Name, "config", now, change.EncodePayload(nil))); err != nil {
		return err
	}
	if newest, err = checkRules(p.store); err == nil && !newest {
		err = errors.New("the log did not take it")
	}
	return err
}

// before waits for a snapshot of what the log says now.
func (k *keeper) before(ctx context.Context) error {
	taken := make(chan error, 1)
	select {
	case k.asked <- snapshotRequest{func(_ store.Snapshot, err error) { taken <- err }}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-taken:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ConfigVersion is one version of a configuration that is in the log of a partition.
type ConfigVersion struct {
	Partition int       `json:"partition"`
	Name      string    `json:"name"`
	Digest    string    `json:"digest"` // SHA-256
	Bytes     int       `json:"bytes"`
	Time      time.Time `json:"time"`
	Position  uint64    `json:"position"` // in the log
	Current   bool      `json:"current"`
}

// ConfigHistory lists every version of the configuration in the stores of a data
// directory, by partition, name and age. The server must not run.
func ConfigHistory(cfg Config) (list []ConfigVersion, err error) {
	lock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	list = []ConfigVersion{}
	for number := range cfg.Partitions {
		part, err := configOf(cfg, number)
		if err != nil {
			return nil, fmt.Errorf("partition %d: %w", number, err)
		}
		list = append(list, part...)
	}
	return list, nil
}

func configOf(cfg Config, number int) (list []ConfigVersion, err error) {
	s, err := store.Open(storePath(cfg.DataDir, number), store.Options{Partition: number, Partitions: cfg.Partitions, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	versions, err := s.ConfigHistory()
	for _, v := range versions {
		list = append(list, ConfigVersion{
			Partition: number, Name: v.Name, Digest: fmt.Sprintf("%x", v.Digest), Bytes: len(v.Content),
			Time: time.Unix(0, v.At).UTC(), Position: v.Place.Seq, Current: s.Config(v.Name).Place == v.Place,
		})
	}
	return list, err
}
