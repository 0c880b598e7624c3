package plugins

import (
	"context"
	"errors"

	"grout/schemas"
)

// Kinds of plugins (contract §4).
const (
	kindProcess = "process"
	kindNATS    = "nats"
	kindGo      = "go"
)

// runtime starts the workers of plugins of one kind.
type runtime interface {
	// start brings up a worker that can be called at once. Its error is the text that
	// people read for a plugin that does not load. ctx bounds the start only; when start
	// fails, nothing of the worker is left.
	start(ctx context.Context, p *plugin) (worker, error)
}

// worker takes calls of one version of a plugin, one at a time.
type worker interface {
	// call sends the input and waits for what comes of it. When ctx ends it returns soon,
	// with context.Cause(ctx) as the fault, and by then nothing that the call started runs
	// any more. A worker that can be called again afterwards has not closed gone.
	call(ctx context.Context, c *Call) reply
	// gone is closed when the worker takes no calls any more.
	gone() <-chan struct{}
	// stop ends the worker with everything that it started, and returns when that is so.
	// It may be called more than once, and while a call runs.
	stop()
}

// reply is what came of a call, before the rules of results.
type reply struct {
	result []byte       // JSON text, when fault is nil
	fault  error        // raised, died, said nothing: its text goes to the caller
	code   schemas.Code // the plugin's own code of the fault; may be empty
}

// without hides a secret, before anything is cut or logged of what came.
func (r reply) without(secret string) reply {
	r.result = hide(r.result, secret)
	if r.fault != nil {
		if text := r.fault.Error(); hideText(text, secret) != text {
			r.fault = errors.New(hideText(text, secret))
		}
	}
	return r
}

// plugin is one version of a plugin as it was found on disk. It never changes.
type plugin struct {
	manifest
	dir string // its folder, absolute and without symbolic links
	log *pluginLog
}
