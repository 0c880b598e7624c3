package app

import (
	"context"
	"sync"
	"time"

	"grout/handlers/httpapi"
	"grout/schemas"
)

// Bounds of what is kept in memory for executions whose commands are not applied yet.
const (
	maxExpected      = 20_000
	maxExpectedBytes = 64 << 20 // of tokens
	// expectedFor is how long a token is kept for a command that may be in the log.
	expectedFor = 5 * time.Minute
)

// expected is what accept leaves for the execution of a run: what the log never holds.
type expected struct {
	all   *executions
	key   runKey
	token string

	mu     sync.Mutex
	ticket httpapi.Ticket // nil: none, or it was taken or left

	answer chan httpapi.PluginAnswer // takes one
}

// expect keeps what an execution needs until its command is applied.
func (x *executions) expect(e httpapi.Expected) (*expected, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	size := int64(len(e.Token))
	if x.stopping {
		return nil, errNotWorking
	}
	if len(x.expected) >= maxExpected || x.bytes+size > maxExpectedBytes {
		return nil, schemas.BusyPlugin(e.Plugin)
	}
	x.bytes += size
	one := &expected{
		all: x, key: runKey{e.App, e.Run}, token: e.Token, ticket: e.Ticket,
		answer: make(chan httpapi.PluginAnswer, 1),
	}
	x.expected[one.key] = one
	return one, nil
}

// free lets go of a token, for the one who needs it or for nobody. The caller holds mu.
func (x *executions) free(e *expected) (token string) {
	token = e.token
	x.bytes -= int64(len(token))
	e.token = ""
	return token
}

// tokenOf gives the token of an execution, once.
func (x *executions) tokenOf(e *expected) string {
	if e == nil {
		return ""
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.free(e)
}

// leave gives the worker back.
func (e *expected) leave() {
	if t := e.takeTicket(); t != nil {
		t.Leave()
	}
}

func (e *expected) takeTicket() httpapi.Ticket {
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.ticket
	e.ticket = nil
	return t
}

// Drop implements httpapi.Execution: the log has refused the command.
func (e *expected) Drop() {
	x := e.all
	x.mu.Lock()
	if x.expected[e.key] == e {
		delete(x.expected, e.key)
		x.free(e)
	}
	x.mu.Unlock()
	e.leave()
}

// Leave implements httpapi.Execution. A worker is not kept waiting for a command that is
// not applied yet; the token is, for some time.
func (e *expected) Leave() {
	x := e.all
	x.mu.Lock()
	waits := x.expected[e.key] == e
	x.mu.Unlock()
	if waits {
		e.leave()
		time.AfterFunc(expectedFor, e.Drop)
	}
}

// Wait implements httpapi.Execution.
func (e *expected) Wait(ctx context.Context) (a httpapi.PluginAnswer, ended bool) {
	select {
	case a = <-e.answer:
		return a, true
	case <-ctx.Done():
		e.Leave()
		return a, false
	}
}
