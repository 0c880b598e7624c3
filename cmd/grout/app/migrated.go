package app

import (
	"context"
	"log/slog"
	"time"

	"grout/store"
)

// StoreFormat is the format of the store files that this release writes; older ones are
// brought over.
const StoreFormat = store.Format

// afterMigration tells that a store was brought over from an older format, and takes
// a snapshot before anything is applied: those of the older format cannot be used, and
// what an earlier release has decided is not decided again.
func afterMigration(ctx context.Context, s *store.Store, dir string, logger *slog.Logger) {
	m := s.Migrated()
	if m == nil {
		return
	}
	logger.Info("the store was brought over to the format of this release; the older file was kept",
		"from", m.From, "to", m.To, "rows", m.Rows, "took", m.Took.Round(time.Millisecond).String(), "kept", m.Kept)
	if snap, err := s.Snapshot(ctx, dir, time.Now(), nil); err != nil {
		logger.Error("no snapshot could be taken of the store that was brought over", "error", err)
	} else {
		logger.Info("snapshot taken", "sequence", snap.Position.Seq, "bytes", snap.Bytes)
	}
}
