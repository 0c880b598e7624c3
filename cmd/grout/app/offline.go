package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"grout/bus"
)

// offline is the bus of a data directory that no server works on: for tools. It
// holds the directory's lock and listens nowhere.
type offline struct {
	*bus.Bus
	lock   io.Closer
	server *bus.Server
	conn   *nats.Conn
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
	o.server, err = bus.StartServer(bus.ServerOptions{Dir: filepath.Join(cfg.DataDir, "nats"), MaxStore: maxStore(cfg), Logger: logger})
	if err != nil {
		return nil, err
	}
	for _, f := range o.server.Found() {
		logger.Error(f.Name + ": " + f.Detail)
	}
	if o.conn, err = o.server.Connect("grout-" + tool); err != nil {
		return nil, err
	}
	o.Bus, err = bus.Open(ctx, o.conn, busConfig(cfg, nil))
	return o, err
}

// Close stops the server and gives the lock back.
func (o *offline) Close() error {
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
