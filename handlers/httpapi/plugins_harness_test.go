package httpapi

import (
	"context"
	"sync"
	"time"

	"grout/schemas"
)

// memoryPlugins stands for the host and the effect.
type memoryPlugins struct {
	known  map[string]Plugin
	broken map[string]bool
	judge  func(x *schemas.PluginExecution) (schemas.Decision, bool, error)
	enter  func(ctx context.Context, name string) (Ticket, error)
	expect func(e Expected) error

	mu      sync.Mutex
	expects []*memoryExecution
	listed  []Subject
}

func newMemoryPlugins() *memoryPlugins {
	return &memoryPlugins{
		known: map[string]Plugin{
			"x": {Name: "x", DisplayName: "X", Description: "Plugin for x", Version: "1.0.0", Enabled: true, Backend: "logic.py", Timeout: 5 * time.Second, QueueTimeout: time.Second},
		},
	}
}

func (m *memoryPlugins) Loaded() int { return 0 }

func (m *memoryPlugins) List(_ context.Context, who Subject) (list []Plugin, err error) {
	m.listed = append(m.listed, who)
	for _, p := range m.known {
		list = append(list, p)
	}
	return list, nil
}

func (m *memoryPlugins) Find(name string) (Plugin, error) {
	if m.broken[name] {
		return Plugin{}, schemas.Errorf(schemas.CodePluginLoadFailed, "Plugin '%s' not found.", name)
	}
	p, ok := m.known[name]
	if !ok {
		return p, schemas.Errorf(schemas.CodeNotFound, "Plugin '%s' not found or disabled", name)
	}
	return p, nil
}

func (m *memoryPlugins) JudgeExecution(_ context.Context, _ string, x *schemas.PluginExecution) (schemas.Decision, bool, error) {
	if m.judge == nil {
		return schemas.Decision{Allowed: true}, false, nil
	}
	return m.judge(x)
}

func (m *memoryPlugins) Enter(ctx context.Context, name string) (Ticket, error) {
	if m.enter == nil {
		return &memoryTicket{}, nil
	}
	return m.enter(ctx, name)
}

type memoryTicket struct{ left int }

func (t *memoryTicket) Leave() { t.left++ }

func (m *memoryPlugins) Expect(e Expected) (Execution, error) {
	if m.expect != nil {
		if err := m.expect(e); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	x := &memoryExecution{Expected: e, answer: make(chan PluginAnswer, 1), how: make(chan string, 1)}
	m.expects = append(m.expects, x)
	return x, nil
}

// memoryExecution notes in which of the ways it was left.
type memoryExecution struct {
	Expected
	answer chan PluginAnswer
	how    chan string
}

func (x *memoryExecution) Wait(ctx context.Context) (PluginAnswer, bool) {
	x.how <- "wait"
	select {
	case a := <-x.answer:
		return a, true
	case <-ctx.Done():
		return PluginAnswer{}, false
	}
}

func (x *memoryExecution) Leave() { x.how <- "leave" }

func (x *memoryExecution) Drop() { x.how <- "drop" }

// memoryRuns stands for the store.
type memoryRuns struct {
	mu    sync.Mutex
	runs  map[string]*schemas.Run
	keys  map[string]string
	ended func(ctx context.Context, id string) (*schemas.Run, error)
	list  func(q schemas.RunQuery) (schemas.RunPage, error)
	page  func(behind int64, limit int) (RunEventPage, error)
	usage func(ctx context.Context, r *schemas.Run) (*schemas.RunUsage, error)
}

func (m *memoryRuns) put(r *schemas.Run) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.runs == nil {
		m.runs, m.keys = map[string]*schemas.Run{}, map[string]string{}
	}
	m.runs[r.AppID+"/"+r.ID] = r
	if r.Execution != nil && r.Execution.Key != "" {
		m.keys[r.AppID+"/"+r.UserID+"/"+r.Plugin+"/"+r.Execution.Key] = r.ID
	}
}

func (m *memoryRuns) Run(_ context.Context, app, id string) (*schemas.Run, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runs[app+"/"+id], nil
}

func (m *memoryRuns) RunList(_ context.Context, q schemas.RunQuery) (schemas.RunPage, error) {
	if m.list == nil {
		return schemas.RunPage{}, nil
	}
	return m.list(q)
}

func (m *memoryRuns) RunEvents(_ context.Context, _, _ string, behind int64, limit int) (RunEventPage, error) {
	if m.page == nil {
		return RunEventPage{}, nil
	}
	return m.page(behind, limit)
}

func (m *memoryRuns) RunUsage(ctx context.Context, app, id string) (*schemas.RunUsage, error) {
	m.mu.Lock()
	r := m.runs[app+"/"+id]
	m.mu.Unlock()
	if m.usage == nil {
		return &schemas.RunUsage{Run: r}, nil
	}
	return m.usage(ctx, r)
}

func (m *memoryRuns) RunOfKey(_ context.Context, app, user, plugin, key string) (*schemas.Run, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runs[app+"/"+m.keys[app+"/"+user+"/"+plugin+"/"+key]], nil
}

func (m *memoryRuns) Ended(ctx context.Context, app, id string) (*schemas.Run, error) {
	if m.ended == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return m.ended(ctx, id)
}
