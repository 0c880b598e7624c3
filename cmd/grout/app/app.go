// Package app wires the parts of grout together by hand: which part gets what is
// all in app.go and node.go. It may import everything.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"grout/handlers/httpapi"
	"grout/handlers/plugins"
)

// Run serves until ctx ends, then stops in the direction of the flow: HTTP first,
// then the node behind it.
func Run(ctx context.Context, cfg Config, out io.Writer) error {
	started := time.Now()
	signal.Ignore(syscall.SIGXFSZ) // a file size limit is an error of the write, which heals
	lock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := plugins.Undumpable(); err != nil {
		return fmt.Errorf("keep the memory of this process from plugins: %w", err)
	}
	if err := LoadSecrets(&cfg); err != nil {
		return err
	}
	var deaf func()
	cfg.hangups, deaf = hangups()
	defer deaf()
	logger := newLogger(os.Stderr, cfg)
	listener, err := net.Listen("tcp", cfg.HTTPAddr)
	if err != nil {
		return fmt.Errorf("listen for HTTP: %w (choose another address with MOZAIKS_HTTP_ADDR or PORT)", err)
	}
	defer listener.Close()

	failed := make(chan error, 1)
	host := newSupervisor(cfg, logger, func(n *node) { n.announce(out, listener.Addr(), time.Since(started)) })
	host.standsBy(func(owner string) { logger.Info("standby", "http", listener.Addr().String(), "owner", owner) })
	tokens, err := newUsers(&cfg, logger, host.registry)
	if err != nil {
		return err
	}
	pool, err := host.hostPlugins()
	if err != nil {
		return err
	}
	hub := host.newHub()
	watching, err := newLivePort(&host.cfg, hub, logger, host.registry)
	if err != nil {
		return err
	}
	workers := startStage(failed)
	workers.run(pool.Run)
	nodes := startStage(failed)
	nodes.run(host.Run)
	streams := startStage(failed)
	streams.run(hub.Run)
	options := host.apiOptions(listener)
	options.Users, options.Live, options.Origins = tokens.port(), watching, cfg.AllowedOrigins
	api := httpapi.New(options)
	host.api.Store(api)
	server := api.HTTPServer()
	web := startStage(failed)
	web.run(tokens.run)
	web.run(func(context.Context) error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve HTTP: %w", err)
		}
		return nil
	})
	select {
	case <-ctx.Done():
	case err = <-failed:
	}

	logger.Info("stopping")
	api.StopAccepting()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), cmp.Or(cfg.drain, cfg.DrainLimit))
	defer cancel()
	watching.Stop(drain)
	if err := server.Shutdown(drain); err != nil {
		logger.Warn("requests were cut off; their senders will repeat them", "error", err)
		_ = server.Close()
	}
	web.stop()
	streams.stop()
	if err != nil { // nothing may reach the log any more
		cancel()
	}
	host.executions.finish(drain)
	nodes.stop()
	workers.stop()
	select {
	case late := <-failed:
		err = errors.Join(err, late)
	default:
	}
	if err == nil {
		logger.Info("stopped")
	}
	return err
}
