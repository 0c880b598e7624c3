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
	o := &offline{}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	if o.lock, err = lockDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	o.server, err = bus.StartServer(bus.ServerOptions{Dir: filepath.Join(cfg.DataDir, "nats"), MaxStore: maxStore(cfg), Logger: logger})
	if err != nil {
		return nil, err
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
