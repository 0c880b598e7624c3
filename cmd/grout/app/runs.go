package app

import (
	"context"
	"time"

	"grout/handlers/httpapi"
	"grout/schemas"
)

// runPort gives httpapi the runs.
type runPort supervisor

// catchUpLook is how often it is looked whether what is in the log shows.
const catchUpLook = 2 * time.Millisecond

// Run implements httpapi.Runs. What the log has taken and the store does not show yet is
// waited for: somebody may have been answered 202 about it.
func (r *runPort) Run(ctx context.Context, app, id string) (*schemas.Run, error) {
	p, err := (*reads)(r).partitionOf(app)
	if err != nil {
		return nil, err
	}
	confirmed := p.publisher.Confirmed()
	for {
		shown := p.store.Checkpoint().Seq
		run, err := p.store.Run(app, id)
		switch {
		case err != nil:
			return nil, err
		case run != nil:
			return &run.Run, nil
		case shown >= confirmed:
			return nil, nil
		}
		if !sleep(ctx, catchUpLook) {
			return nil, schemas.Errorf(schemas.CodeUnavailable, "The store is catching up with its log; try again")
		}
	}
}

// RunList implements httpapi.Runs.
func (r *runPort) RunList(_ context.Context, q schemas.RunQuery) (schemas.RunPage, error) {
	p, err := (*reads)(r).partitionOf(q.AppID)
	if err != nil {
		return schemas.RunPage{}, err
	}
	return p.store.Runs(q)
}

// RunEvents implements httpapi.Runs.
func (r *runPort) RunEvents(_ context.Context, app, id string, behind int64, limit int) (page httpapi.RunEventPage, err error) {
	p, err := (*reads)(r).partitionOf(app)
	if err != nil {
		return page, err
	}
	list, _, err := p.store.RunEvents(app, id, behind, limit+1)
	if len(list) > limit {
		page.More, list = true, list[:limit]
	}
	for _, e := range list {
		page.Events = append(page.Events, httpapi.RunEvent(e))
	}
	return page, err
}

// RunUsage implements httpapi.Runs.
func (r *runPort) RunUsage(ctx context.Context, app, id string) (*schemas.RunUsage, error) {
	p, err := (*reads)(r).partitionOf(app)
	if err != nil {
		return nil, err
	}
	return p.store.RunUsage(ctx, app, id)
}

// RunOfKey implements httpapi.Runs. A key stands for a run that ran for a day (contract §4).
func (r *runPort) RunOfKey(_ context.Context, app, user, plugin, key string) (*schemas.Run, error) {
	p, err := (*reads)(r).partitionOf(app)
	if err != nil {
		return nil, err
	}
	run, err := p.store.RunOfKey(app, user, plugin, key)
	if err != nil || run == nil || run.WasBusy() {
		return nil, err
	}
	now, _ := (*entitled)(r).now(p)
	if max(now, p.store.Now())-run.Execution.AcceptedAt >= schemas.ResultKept {
		return nil, nil
	}
	return &run.Run, nil
}

// Ended implements httpapi.Runs.
func (r *runPort) Ended(ctx context.Context, app, id string) (*schemas.Run, error) {
	for {
		p, err := (*reads)(r).partitionOf(app)
		if err != nil {
			return nil, err
		}
		ended, stop, err := p.store.RunEnded(app, id)
		if err != nil {
			return nil, err
		}
		look := time.NewTimer(time.Second) // the node may be another one by then
		select {
		case <-ended:
		case <-look.C:
		case <-ctx.Done():
		}
		look.Stop()
		stop()
		run, err := p.store.Run(app, id)
		switch {
		case err != nil:
			return nil, err
		case run == nil:
			return nil, schemas.Errorf(schemas.CodeNotFound, "The app has no run with this id")
		case run.Status.Ended():
			return &run.Run, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}
