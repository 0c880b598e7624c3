package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"grout/bus"
	"grout/store"
)

// offline is the bus of a data directory that no server works on: for tools. It
// holds the directory's lock and listens nowhere.
type offline struct {
	*bus.Bus
	lock   io.Closer
	server *bus.Server
	conn   *nats.Conn
	owner  *ownership
	stop   func()
}

func openOffline(ctx context.Context, cfg Config, tool string, logger *slog.Logger) (_ *offline, err error) {
	lock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	return openLocked(ctx, cfg, tool, logger, lock)
}

// openLocked is openOffline for a tool that holds the lock, which it gives away; nil
// keeps it.
func openLocked(ctx context.Context, cfg Config, tool string, logger *slog.Logger, lock io.Closer) (_ *offline, err error) {
	o := &offline{lock: lock}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	if cfg.External() {
		return o, o.openExternal(ctx, cfg, tool, logger)
	}
	o.server, err = bus.StartServer(bus.ServerOptions{Dir: filepath.Join(cfg.DataDir, "nats"), Logger: logger})
	if err != nil {
		return nil, err
	}
	for _, f := range o.server.Found() {
		logger.Error(f.Name + ": " + f.Detail)
	}
	if o.conn, err = o.server.Connect("grout-" + tool); err != nil {
		return nil, err
	}
	limits := busConfig(cfg, nil)
	limits.KeepLimits = true
	o.Bus, err = bus.Open(ctx, o.conn, limits)
	return o, err
}

// openOwn opens the store of a partition for a tool. One that is missing is not made: an
// empty one in its place would keep the next start from restoring a snapshot.
func openOwn(cfg Config, number int, readOnly bool) (*store.Store, error) {
	path := storePath(cfg.DataDir, number)
	if info, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil, fmt.Errorf("the store %s is missing: start the server, which restores it from its newest snapshot, or run grout repair: %w", path, fs.ErrNotExist)
	}
	return store.Open(path, store.Options{Partition: number, Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery, ReadOnly: readOnly})
}

// Close stops the server and gives the lock back.
func (o *offline) Close() error {
	if o.stop != nil {
		o.stop()
	}
	if o.conn != nil {
		o.conn.Close()
	}
	if o.server != nil {
		o.server.Shutdown()
	}
	if o.lock != nil {
		return o.lock.Close()
	}
	return nil
}
