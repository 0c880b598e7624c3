package app

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"grout/bus"
	"grout/handlers"
	"grout/store"
)

// replay applies a partition's stream up to a sequence of the store's own epoch.
func replay(ctx context.Context, b *bus.Bus, s *store.Store, number int, to uint64, perTransaction int, logger *slog.Logger) (messages int64, err error) {
	return replayTo(ctx, b, s, number, s.Epoch(), to, perTransaction, logger)
}

// replayTo applies a partition's stream up to a message of an epoch.
func replayTo(ctx context.Context, b *bus.Bus, s *store.Store, number int, epoch uint32, to uint64, perTransaction int, logger *slog.Logger) (messages int64, err error) {
	there := func() bool {
		at := s.Applied()
		return at.Epoch > epoch || at.Epoch == epoch && at.Seq >= to
	}
	if there() {
		return 0, nil
	}
	source := b.NewSource(number).Of(s)
	defer source.Close()
	loop := handlers.NewLoop(handlers.LoopOptions{
		Store: s, Source: source, Table: handlers.NewTable(), DecodeGroup: bus.DecodeGroupMessage, Logger: logger,
		Reply: func(string, string, [][]byte) error { return nil }, Until: to, MaxMessages: perTransaction,
	})
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { done <- loop.Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return loop.Applied(), errors.Join(err, ctx.Err())
		case <-tick.C:
			if there() {
				cancel()
				return loop.Applied(), <-done
			}
		}
	}
}
