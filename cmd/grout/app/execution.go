package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"grout/handlers"
	"grout/handlers/entitlements"
	"grout/handlers/httpapi"
	"grout/handlers/plugins"
	"grout/schemas"
	"grout/store"
)

// execution is one run of a plugin, from the moment the log says that it is open until the
// log says what came of it.
type execution struct {
	all       *executions
	partition int
	key       runKey
	run       *store.Run
	lost      bool           // an earlier process had it
	taken     time.Time      // from when on it waits for a worker
	expected  *expected      // nil: nobody left anything
	ticket    httpapi.Ticket // nil: it asks for one
	ahead     *ahead         // nil: it was not let in without one
	lane      *lane          // in which it asks; guarded by all.mu

	ctx     context.Context // ends when the plugin is to be stopped
	cancel  context.CancelCauseFunc
	ended   chan struct{} // closed when it is over
	stopped bool          // the process ends before the plugin has answered

	publishing sync.Mutex // one publication follows another into the log
	published  int64      // number of the newest; guarded by publishing
	until      time.Time  // nothing is published any more
}

// do runs the plugin and writes what came of it.
func (e *execution) do() {
	defer e.all.done(e)
	if e.lost && !e.again() {
		return
	}
	began := time.Now()
	end, result := e.call()
	status, ok := e.end(end)
	if !ok {
		return // it stays open
	}
	e.all.metrics.ended(e.run.Plugin, end, status, time.Since(began))
	if e.expected != nil {
		e.expected.answer <- e.answer(end, result, status)
	}
}

// errLost is what comes of an execution whose process has ended.
const errLost = "grout ended before the plugin had answered"

// again lets an execution of an earlier process run once more, when its plugin says that
// it may. False: its end is in the log.
func (e *execution) again() bool {
	if !e.run.Execution.Rerun {
		end := e.endOf(plugins.Answer{Code: schemas.CodeWorkerLost, Detail: errLost})
		if status, ok := e.end(end); ok {
			e.all.metrics.ended(e.run.Plugin, end, status, 0)
		}
		return false
	}
	rerun := schemas.ExecutionRerun{RunID: e.run.ID, Attempt: e.run.Try()}
	o, ok := e.write(e.writing(), schemas.RerunPlugin.Name, rerun.EncodePayload(nil))
	if !ok || o.Code != "" {
		return false
	}
	r, ok := e.read()
	if !ok || r == nil || !r.Open() {
		return false
	}
	e.run, e.taken = r, time.Now()
	return true
}

// call gets a worker and calls the plugin. result is what the plugin said, for whoever
// waits; the log keeps it only when the execution does.
func (e *execution) call() (end *schemas.ExecutionEnd, result []byte) {
	ticket, err := e.enter()
	e.all.asked(e)
	e.leaveAhead()
	if err != nil {
		return e.endOf(e.failure(err)), nil
	}
	defer ticket.Leave()
	if e.run.Data == nil && e.run.Execution.HasData {
		if e.run.Data, err = e.data(); err != nil {
			return e.endOf(e.failure(err)), nil
		}
	}
	e.published, e.until = e.run.Execution.Published, time.Now().Add(time.Duration(e.run.Execution.Timeout))
	c := plugins.Call{RunID: e.key.id, Publish: e.publish, Secret: e.all.tokenOf(e.expected)}
	if c.Input, err = e.input(c.Secret); err != nil {
		return e.endOf(e.failure(err)), nil
	}
	a := ticket.(*plugins.Ticket).Call(e.ctx, c)
	e.all.tempos.note(e.run.Plugin, a.Took)
	if a.Code != "" && e.ctx.Err() != nil {
		a.Code, a.Detail = e.why()
	}
	return e.endOf(a), a.Result
}

// why says why a plugin was stopped.
func (e *execution) why() (schemas.Code, string) {
	if errors.Is(context.Cause(e.ctx), errRunEnded) {
		return schemas.CodeRunCancelled, "The run was cancelled"
	}
	e.stopped = true
	return schemas.CodeWorkerLost, errLost
}

func (e *execution) leaveAhead() {
	if e.ahead != nil {
		e.ahead.Leave()
	}
}

// enterAgain is how long an execution without a worker waits before it asks again while
// the queue of the plugin is full.
const enterAgain = 50 * time.Millisecond

// enter gives the worker that accept has left, else waits for one as long as an execution
// may wait.
func (e *execution) enter() (httpapi.Ticket, error) {
	if e.ticket != nil {
		return e.ticket, nil
	}
	left := time.Duration(e.run.Execution.QueueTimeout) - time.Since(e.taken)
	ctx, cancel := context.WithTimeout(e.ctx, max(left, enterAgain))
	defer cancel()
	for {
		t, err := e.all.host.Enter(ctx, e.run.Plugin)
		if err == nil {
			return t, nil
		}
		known := (*schemas.Error)(nil)
		if errors.As(err, &known) && known.Code != schemas.CodePluginBusy {
			return nil, err
		}
		if !sleep(ctx, enterAgain) {
			if e.ctx.Err() != nil {
				return nil, e.ctx.Err()
			}
			return nil, schemas.BusyPlugin(e.run.Plugin)
		}
	}
}

// failure is what comes of an execution whose plugin could not be called.
func (e *execution) failure(err error) plugins.Answer {
	if e.ctx.Err() != nil {
		code, detail := e.why()
		return plugins.Answer{Code: code, Detail: detail}
	}
	if known := (*schemas.Error)(nil); errors.As(err, &known) {
		return plugins.Answer{Code: known.Code, Detail: known.Detail}
	}
	e.all.logger.Error("a plugin could not be called", "plugin", e.run.Plugin, "run", e.key.id, "error", err)
	return plugins.Answer{Code: schemas.CodePluginError, Detail: "Error executing plugin: it could not be called"}
}

// endOf is what the log is told of an answer.
func (e *execution) endOf(a plugins.Answer) *schemas.ExecutionEnd {
	end := &schemas.ExecutionEnd{
		RunID: e.run.ID, Attempt: e.run.Try(), OK: a.Code == "", Code: a.Code, Detail: a.Detail, DurationMs: a.Took.Milliseconds(),
	}
	if e.run.Execution.Keep && end.OK {
		end.Result = a.Result
	}
	if a.Usage == nil {
		return end
	}
	usage, rejected, fault := schemas.ParseRunUsage(a.Usage)
	if len(usage) > schemas.MaxRunUsage {
		usage, fault = usage[:schemas.MaxRunUsage], schemas.Errorf(schemas.CodeTooManyEvents, "more than %d events", schemas.MaxRunUsage)
	}
	end.Usage = usage
	if schemas.MaxCommandBytes-len(end.Result) < len(a.Usage)+len(a.Detail)+64<<10 { // both have no room in one command
		for i := range end.Usage {
			end.Usage[i].Metadata = nil
		}
	}
	if fault != nil || len(rejected) > 0 {
		reason := ""
		if fault != nil {
			reason = fault.Error()
		} else {
			reason = fmt.Sprintf("event %d: %s: %s", rejected[0].Index, rejected[0].Code, rejected[0].Detail)
		}
		e.all.logger.Warn("not all of the usage that a plugin reports can be counted", "plugin", e.run.Plugin, "run", e.key.id, "rejected", len(rejected), "reason", reason)
	}
	return end
}

// look reads of the partition. While its node is being opened anew it is waited for, as
// long as a call may take.
func (e *execution) look(read func(*partition) error) error {
	ctx, cancel := context.WithTimeout(e.ctx, max(time.Duration(e.run.Execution.Timeout), lastWrite))
	defer cancel()
	for wait := writeAgain; ; wait = min(2*wait, writeAgainAtMost) {
		err := error(errNotWorking)
		if p := e.all.current(e.partition); p != nil {
			err = read(p)
		}
		if err == nil || errors.Is(err, errRunEnded) || !sleep(ctx, wait) {
			return err
		}
	}
}

// data reads the client's object again.
func (e *execution) data() (data []byte, err error) {
	err = e.look(func(p *partition) error {
		r, err := p.store.OpenExecution(e.run.Place)
		switch {
		case err != nil:
			return err
		case r == nil || r.ID != e.run.ID:
			return errRunEnded
		}
		data = r.Data
		return nil
	})
	return data, err
}

// input makes what the plugin is given (contract §4).
func (e *execution) input(token string) ([]byte, error) {
	r := e.run
	c := schemas.PluginCaller{
		AppID: r.AppID, UserID: r.UserID, Username: r.Execution.Username, Roles: r.Execution.Roles, Superadmin: r.Execution.Superadmin,
		Token: token,
	}
	var v *entitlements.View
	err := e.look(func(p *partition) (err error) {
		v, err = p.standing.View(&handlers.Question{AppID: r.AppID, UserID: r.UserID, TenantID: r.TenantID, Plugin: r.Plugin}, e.all.now(p))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("entitlements of a plugin: %w", err)
	}
	v.Free(r.Execution.Consumes)
	c.Entitlements = entitlements.Injected(v, r.Plugin)
	size := len(r.Data) + len(c.Token) + len(c.Entitlements) + 512
	return schemas.AppendPluginInput(make([]byte, 0, size), r.Data, &c), nil
}

// publish makes known what a plugin says while it runs.
func (e *execution) publish(name string, data []byte) error {
	p := schemas.PluginPublication{RunID: e.run.ID, Attempt: e.run.Try(), Name: name, Data: data}
	if fault := p.Judge(); fault != nil {
		return errors.New(fault.Detail)
	}
	e.publishing.Lock()
	defer e.publishing.Unlock()
	if e.published >= schemas.MaxPublications { // the log need not know of each
		return fmt.Errorf("a run publishes at most %d events", schemas.MaxPublications)
	}
	e.published++
	p.Number = e.published
	ctx, cancel := context.WithDeadline(e.ctx, e.until) // the plugin waits, and must end in time
	defer cancel()
	o, ok := e.write(ctx, schemas.PublishPlugin.Name, p.EncodePayload(nil))
	switch {
	case !ok:
		return errors.New("it could not be brought into the log in time")
	case o.Code != "":
		return errors.New(o.Detail)
	}
	return nil
}

// watch stops the plugin when its run has ended: it was cancelled, or its time is over. It
// ends with the execution, or with the node, whose successor watches again.
func (e *execution) watch(node context.Context, p *partition) {
	ended, stop, err := p.store.RunEnded(e.key.app, e.key.id)
	if err != nil {
		e.all.logger.Error("a run cannot be watched", "run", e.key.id, "error", err)
		return
	}
	defer stop()
	select {
	case <-ended:
		e.cancel(errRunEnded)
	case <-e.ended:
	case <-node.Done():
	}
}

// read gives the run as it is committed, nil when it is gone, however long it takes until
// that can be read. False: the process ends before.
func (e *execution) read() (r *store.Run, ok bool) {
	for wait := writeAgain; ; wait = min(2*wait, writeAgainAtMost) {
		if p := e.all.current(e.partition); p != nil {
			r, err := p.store.Run(e.key.app, e.key.id)
			if err == nil {
				return r, true
			}
			e.all.logger.Error("a run cannot be read", "run", e.key.id, "error", err)
		}
		if !sleep(e.writing(), wait) {
			return nil, false
		}
	}
}
