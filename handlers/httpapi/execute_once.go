package httpapi

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// flight is a request with an idempotency key whose execution is being decided. Others
// with the same key wait for that.
type flight struct{ decided chan struct{} }

// flights are those of this node. What another node does is decided in the log.
type flights struct {
	mu  sync.Mutex
	all map[flightKey]*flight
}

type flightKey struct{ app, user, plugin, key string }

// begin gives the flight of a key; first when there was none, and then end must be called.
func (f *flights) begin(k flightKey) (one *flight, first bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[k]; one != nil {
		return one, false
	}
	if f.all == nil {
		f.all = map[flightKey]*flight{}
	}
	one = &flight{make(chan struct{})}
	f.all[k] = one
	return one, true
}

func (f *flights) end(k flightKey, one *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.all[k] == one {
		delete(f.all, k)
		close(one.decided)
	}
}

// executeOnce runs a plugin, or gives what an earlier request with the same idempotency
// key came to; one in flight is waited for (contract §4).
func (s *Server) executeOnce(c echo.Context, x *call) error {
	k := flightKey{x.who.App, x.run.UserID, x.run.Plugin, x.run.Key}
	for {
		one, first := s.flights.begin(k)
		if first {
			x.decided = func() { s.flights.end(k, one) }
			defer x.decided()
			return s.executeFirst(c, x)
		}
		select {
		case <-one.decided:
		case <-c.Request().Context().Done():
			return fmt.Errorf("wait for another request with the key: %w", c.Request().Context().Err())
		}
	}
}

func (s *Server) executeFirst(c echo.Context, x *call) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	run, err := s.Runs.RunOfKey(ctx, x.who.App, x.run.UserID, x.run.Plugin, x.run.Key)
	cancel()
	switch {
	case err != nil:
		return fmt.Errorf("run of an idempotency key: %w", err)
	case run == nil:
		return s.executeNew(c, x)
	}
	return s.replay(c, x, run)
}

// replayOf answers with the run that the log knows for the key.
func (s *Server) replayOf(c echo.Context, x *call, id string) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	run, err := s.Runs.Run(ctx, x.who.App, id)
	cancel()
	switch {
	case err != nil:
		return fmt.Errorf("run of an idempotency key: %w", err)
	case run == nil:
		return fmt.Errorf("the run %s of an idempotency key is gone", id)
	}
	return s.replay(c, x, run)
}

// replay answers with what the first request with the key came to; what has not ended is
// waited for.
func (s *Server) replay(c echo.Context, x *call, run *schemas.Run) error {
	if run.Execution == nil || run.Execution.BodyDigest != x.run.BodyDigest {
		return schemas.Errorf(schemas.CodeKeyReused, "Idempotency-Key %q was used with another body", x.run.Key)
	}
	x.isDecided()
	x.letGo()
	replayed := func() { c.Response().Header().Set(headerReplayed, "true") }
	if !run.Status.Ended() {
		if x.async {
			replayed()
			c.Response().Header().Set("Preference-Applied", "respond-async")
			return answerLater(c, run.ID)
		}
		ctx, cancel := s.forCall(c, x)
		ended, err := s.Runs.Ended(ctx, run.AppID, run.ID)
		cancel()
		switch {
		case err != nil && c.Request().Context().Err() == nil && errors.Is(err, context.DeadlineExceeded):
			replayed()
			return answerLater(c, run.ID)
		case err != nil:
			return fmt.Errorf("wait for run %s: %w", run.ID, err)
		}
		run = ended
	}
	if !run.WasBusy() {
		replayed()
	}
	if run.Status == schemas.RunCompleted && run.Result == nil {
		return fmt.Errorf("the result of run %s is gone", run.ID)
	}
	a := PluginAnswer{Status: run.Status, Result: run.Result, Code: schemas.Code(run.Code), Detail: run.Error}
	return s.answerCall(c, x, run.ID, &a)
}
