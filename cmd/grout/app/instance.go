package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Instance is a grout that runs in this process.
type Instance struct {
	URL     string // of the HTTP API
	NATSURL string // empty when NATS does not listen
	cancel  context.CancelFunc
	ended   chan struct{}
	err     error // of its end
}

// Start runs grout outside of production and returns once it is ready. It stops
// when ctx ends or Stop is called.
func Start(ctx context.Context, cfg Config) (*Instance, error) {
	if cfg.InProduction() {
		return nil, errors.New("an instance inside of another program is for development only")
	}
	ctx, cancel := context.WithCancel(ctx)
	i := &Instance{cancel: cancel, ended: make(chan struct{})}
	ready := announcement(make(chan string, 1))
	go func() {
		defer close(i.ended)
		i.err = Run(ctx, cfg, ready)
	}()
	select {
	case text := <-ready:
		i.URL, i.NATSURL = addressIn(text, "HTTP"), addressIn(text, "NATS")
		return i, nil
	case <-i.ended:
		cancel()
		if i.err == nil {
			return nil, fmt.Errorf("it ended before it was ready: %w", context.Cause(ctx))
		}
		return nil, i.err
	}
}

// Ended is closed when the instance has stopped, also by itself.
func (i *Instance) Ended() <-chan struct{} { return i.ended }

// Stop stops it, waits until everything is on disk, and gives the error of its
// end.
func (i *Instance) Stop() error {
	i.cancel()
	<-i.ended
	return i.err
}

// announcement takes what Run prints when it is ready.
type announcement chan string

func (a announcement) Write(p []byte) (int, error) {
	select {
	case a <- string(p):
	default:
	}
	return len(p), nil
}

// addressIn takes an address out of what announce prints.
func addressIn(text, name string) string {
	_, rest, found := strings.Cut(text, "\n  "+name+"  ")
	if !found {
		return ""
	}
	url, _, _ := strings.Cut(rest, " ")
	return url
}
