package plugins

import "context"

// Check looks at the directory once, loads every plugin that is looked at and tells of all of them. It calls
// none. It waits until all have loaded or have not, or ctx ends.
func Check(ctx context.Context, o Options) ([]Info, error) {
	h, err := New(o)
	if err != nil {
		return nil, err
	}
	return h.check(ctx)
}

func (h *Host) check(ctx context.Context) ([]Info, error) {
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- h.Run(run) }()
	for _, p := range h.all() {
		p.loaded(ctx)
	}
	infos := h.List()
	stop()
	if err := <-ended; err != nil {
		return nil, err
	}
	return infos, ctx.Err()
}

// loaded waits until the plugin has loaded or has not, or ctx ends.
func (p *pool) loaded(ctx context.Context) {
	p.mu.Lock()
	g := p.current
	p.mu.Unlock()
	if g == nil {
		return
	}
	select {
	case <-g.tried:
	case <-g.ctx.Done():
	case <-ctx.Done():
	}
}
