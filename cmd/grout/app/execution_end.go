package app

import (
	"context"
	"errors"
	"time"

	"grout/bus"
	"grout/handlers/httpapi"
	"grout/schemas"
	"grout/store"
)

// end brings what came of an execution into the log, however long that takes, and gives
// what the run is then: it may have been cancelled meanwhile. False: the process ends
// before, or the plugin runs again in the next one.
func (e *execution) end(end *schemas.ExecutionEnd) (status schemas.RunStatus, ok bool) {
	if e.stopped && e.run.Execution.Rerun {
		return 0, false
	}
	// What a run burnt counts although it has ended.
	if !errors.Is(context.Cause(e.ctx), errRunEnded) || len(end.Usage) > 0 {
		o, ok := e.write(e.writing(), schemas.FinishPlugin.Name, end.EncodePayload(nil))
		switch {
		case !ok:
			return 0, false
		case o.Code == "" && end.OK:
			return schemas.RunCompleted, true
		case o.Code == "":
			return schemas.RunFailed, true
		}
	}
	r, ok := e.read()
	if ok && r == nil { // its store was lost, and with it all that the run had done to it
		r = &store.Run{Run: e.run.Clone()}
		r.Status, r.Code, r.Error = schemas.RunFailed, string(schemas.CodeWorkerLost), "The run was lost with the store that held it"
	}
	if !ok {
		return 0, false
	}
	e.run = r
	return r.Status, true
}

// answer is what whoever waits is told. A run that ended otherwise than by what the plugin
// said is told as the log has it.
func (e *execution) answer(end *schemas.ExecutionEnd, result []byte, status schemas.RunStatus) httpapi.PluginAnswer {
	a := httpapi.PluginAnswer{Status: status, Result: result, Code: end.Code, Detail: end.Detail}
	switch {
	case status == schemas.RunCompleted && !end.OK, status == schemas.RunFailed && (end.OK || e.run.Code != "" && e.run.Code != string(end.Code)):
		a.Result, a.Code, a.Detail = e.run.Result, schemas.Code(e.run.Code), e.run.Error
	}
	return a
}

// How long a command of the effect waits before it is written again.
const (
	writeAgain       = 20 * time.Millisecond
	writeAgainAtMost = 2 * time.Second
	// lastWrite is how long the end of a process waits for the log.
	lastWrite = 5 * time.Second
)

// writing gives the context in which commands are written: it ends some time after the
// process has begun to stop what runs.
func (e *execution) writing() context.Context { return e.all.writes }

// write brings a command into the log and waits for its outcome. It is written again
// until that is known; twice is once. False: ctx ends before.
func (e *execution) write(ctx context.Context, kind string, payload []byte) (o schemas.CommandOutcome, ok bool) {
	told := false
	for wait := writeAgain; ; wait = min(2*wait, writeAgainAtMost) {
		p := e.all.current(e.partition)
		err := error(errNotWorking)
		if p != nil {
			o, err = e.submit(ctx, p, kind, payload)
		}
		switch {
		case err == nil:
			return o, true
		case errors.Is(err, errDead), errors.Is(err, bus.ErrTooLarge): // the run ends when its time is over
			e.all.logger.Error("what came of a run cannot be applied", "run", e.key.id, "kind", kind, "error", err)
			return o, false
		}
		if !told && p != nil && !errors.Is(err, bus.ErrBusy) && ctx.Err() == nil {
			told = true
			e.all.logger.Warn("what came of a run is not in the log yet; it will be written again", "run", e.key.id, "kind", kind, "error", err)
		}
		if !sleep(ctx, wait) {
			return o, false
		}
	}
}

// submit writes one command about the execution. It belongs to the request that plugin.execute
// came with.
func (e *execution) submit(ctx context.Context, p *partition, kind string, payload []byte) (schemas.CommandOutcome, error) {
	f := ownCommand(kind, "plugins", e.all.now(p), payload)
	f.AppID, f.CorrelationID, f.TraceParent = e.key.app, e.run.Execution.CorrelationID, e.run.Execution.TraceParent
	return commandOutcome(ctx, p.publisher, f)
}

// now is the instant of a command of grout's own: a clock that is wrong says nothing, and
// then it is that of the newest command.
func (x *executions) now(p *partition) int64 {
	now := x.nodes.clock.now().UnixNano()
	if x.nodes.clock.refuses(now, p.store.Now()) != "" {
		return p.store.Now()
	}
	return now
}
