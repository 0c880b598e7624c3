package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"grout/bus"
	"grout/cmd/grout/app"
	"grout/cmd/grout/load"
)

// benchPlugin is a plugin that gives back what it is sent, as one would write it.
type benchPlugin struct {
	kind    string
	program string // that must be on the machine; empty: none
	files   map[string]string
	// serve runs what is not grout's to start, beside a server; nil: nothing.
	serve func(ctx context.Context, s *server, data string) (stop func() error, err error)
}

const (
	benchQueue = 4096 // lets every caller wait

	// firstCalls of each caller have all workers of a plugin started before anything is
	// measured.
	firstCalls = 8
	// answersWithin is how long a plugin may take to load, or to be found.
	answersWithin = 30 * time.Second
	// benchTokenLife is longer than any line takes.
	benchTokenLife = 24 * time.Hour
)

// benchLimits are those of every plugin that is measured: the defaults, but for the queue.
func benchLimits() string {
	return fmt.Sprintf("limits: {queue: %d, queue_timeout: 60s}\n", benchQueue)
}

func benchPlugins() []benchPlugin {
	worker, _ := scaffolds.ReadFile("scaffold/node/worker.mjs")
	return []benchPlugin{
		{"python", "python3", map[string]string{
			"plugin.yaml": "name: echo\n" + benchLimits(),
			"logic.py":    "def execute(data):\n    return {\"text\": data[\"text\"]}\n",
		}, nil},
		{"node", "node", map[string]string{
			"plugin.yaml": "name: echo\nruntime: {kind: process, command: [node, worker.mjs]}\n" + benchLimits(),
			"worker.mjs":  string(worker),
			"logic.mjs":   "export const execute = (data) => ({ text: data.text });\n",
		}, nil},
		{"nats", "", map[string]string{
			"plugin.yaml": "name: echo\nruntime: {kind: nats}\n" + benchLimits(),
		}, serveEcho},
		{"go", "", map[string]string{
			"plugin.yaml": "name: echo\nruntime: {kind: go, entry: echo}\n" + benchLimits(),
		}, nil},
	}
}

// pluginRow is a kind of plugin with so many callers.
type pluginRow struct {
	Kind   string   `json:"kind"`
	Plugin string   `json:"plugin"`
	Marks  []string `json:"marks"`
	PeakMB *float64 `json:"server_peak_mb"` // without the plugin's processes

	Closed benchRun  `json:"closed"`
	Open   *benchRun `json:"open"`
	Due    float64   `json:"open_calls_per_sec_due"`
}

var pluginColumns = []column[pluginRow]{
	{"", "plugin", 8, func(r *pluginRow) string { return r.Plugin }},
	{"", "callers", 8, func(r *pluginRow) string { return fmt.Sprint(r.Closed.Connections) }},
	{"closed loop", "calls/s", 11, func(r *pluginRow) string { return thousands(int64(r.Closed.RequestRate)) }},
	{"closed loop", "p50", 7, func(r *pluginRow) string { return compact(&r.Closed.P50) }},
	{"closed loop", "p99", 7, func(r *pluginRow) string { return compact(&r.Closed.P99) }},
	{"closed loop", "p99.9", 7, func(r *pluginRow) string { return compact(&r.Closed.P999) }},
	{"closed loop", "µs/call", 8, func(r *pluginRow) string { return compact(r.Closed.CPU) }},
	{"closed loop", "steal", 6, func(r *pluginRow) string { return share(r.Closed.Steal) }},
	{"closed loop", "other", 6, func(r *pluginRow) string { return share(r.Closed.Others) }},
	{"open loop", "p50", 9, func(r *pluginRow) string { return r.ofOpen(func() string { return compact(&r.Open.P50) }) }},
	{"open loop", "p99", 7, func(r *pluginRow) string { return r.ofOpen(func() string { return compact(&r.Open.P99) }) }},
	{"open loop", "p99.9", 7, func(r *pluginRow) string { return r.ofOpen(func() string { return compact(&r.Open.P999) }) }},
	{"open loop", "steal", 6, func(r *pluginRow) string { return r.ofOpen(func() string { return share(r.Open.Steal) }) }},
	{"open loop", "other", 6, func(r *pluginRow) string { return r.ofOpen(func() string { return share(r.Open.Others) }) }},
	{"server", "max MB", 8, func(r *pluginRow) string { return compact(r.PeakMB) }},
}

func (r *pluginRow) ofOpen(text func() string) string {
	if r.Open == nil {
		return "-"
	}
	return text()
}

// plugins measures executions, each line with a server of its own.
func (m *matrix) plugins(ctx context.Context) error {
	if !m.o.plugins {
		return nil
	}
	m.report.pluginSection()
	for _, p := range benchPlugins() {
		if p.program != "" {
			if _, err := exec.LookPath(p.program); err != nil {
				m.report.pluginLeftOut(p.kind, p.program+" is not on this machine")
				continue
			}
		}
		for _, callers := range m.o.executers {
			if err := m.plugin(ctx, &p, callers); err != nil {
				return fmt.Errorf("%s plugin with %d callers: %w", p.kind, callers, err)
			}
		}
	}
	return nil
}

func (m *matrix) plugin(ctx context.Context, p *benchPlugin, callers int) (err error) {
	dir, err := os.MkdirTemp(m.base, "plugin-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	folder := filepath.Join(dir, "plugins", "echo")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(p.files[name]), 0o644); err != nil {
			return err
		}
	}
	data := filepath.Join(dir, "data")
	s, err := startServer(ctx, m.program, dir, data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	if p.serve != nil {
		stop, err := p.serve(ctx, s, data)
		if err != nil {
			return err
		}
		defer func() { _ = stop() }()
	}
	return m.executions(ctx, s, data, p, callers)
}

func (m *matrix) executions(ctx context.Context, s *server, data string, p *benchPlugin, callers int) error {
	cfg := app.DefaultConfig()
	cfg.DataDir = data
	token, err := app.UserToken(&cfg, app.TokenUser{ID: "bench"}, benchTokenLife)
	if err != nil {
		return err
	}
	target, err := load.NewTarget(s.url, s.key)
	if err != nil {
		return err
	}
	row := pluginRow{Kind: "plugin", Plugin: p.kind}
	plan := load.Plan{
		Kind: load.Execute, Plugin: "echo", Token: token, Events: 1, Connections: callers,
		Warmup: m.o.warmup, Duration: m.o.duration, Process: s.pid(),
	}
	if err := startWorkers(ctx, target, plan); err != nil {
		return err
	}
	r, err := load.Run(ctx, target, plan)
	if err != nil {
		return err
	}
	row.Closed = newBenchRun(plan, &r)
	if m.o.openShare > 0 && r.Requests > 0 {
		open := plan
		open.Rate, open.Warmup = r.Rate*m.o.openShare, 0
		if r, err = load.Run(ctx, target, open); err != nil {
			return err
		}
		run := newBenchRun(open, &r)
		row.Open, row.Due = &run, open.Rate
	}
	row.PeakMB = known(megabytes(load.ReadProcess(s.pid()).Peak))
	m.report.plugin(&row)
	return nil
}

// startWorkers calls the plugin until it answers, and then so often that all of its workers
// have started.
func startWorkers(ctx context.Context, target *load.Target, plan load.Plan) error {
	one := plan
	one.Warmup, one.Connections, one.Requests = 0, 1, 1
	for end := time.Now().Add(answersWithin); ; {
		r, err := load.Run(ctx, target, one)
		switch {
		case err != nil:
			return err
		case r.Requests > 0:
			one.Connections, one.Requests = plan.Connections, int64(firstCalls*plan.Connections)
			_, err = load.Run(ctx, target, one)
			return err
		case time.Now().After(end):
			return fmt.Errorf("the plugin did not answer within %s: %v", answersWithin, r.Errors)
		}
		if err := sleep(ctx, noticePause); err != nil {
			return err
		}
	}
}

func (p *matrixReport) pluginSection() {
	if p.json {
		return
	}
	fmt.Fprintf(p.out, "\nPLUGINS that give back the 100 bytes they are sent, with default limits but for the queue; a call is a run with its facts, durable before it begins and when it is answered; other: the plugin's processes, too\n%s",
		tableHead(pluginColumns))
}

func (p *matrixReport) pluginLeftOut(kind, why string) {
	if p.json {
		p.line(map[string]string{"kind": "plugin", "plugin": kind, "left_out": why})
		return
	}
	fmt.Fprintf(p.out, " %7s not measured: %s\n", kind, why)
}

func (p *matrixReport) plugin(r *pluginRow) {
	if p.json {
		p.line(r)
		return
	}
	var b strings.Builder
	for _, c := range pluginColumns {
		b.WriteString(pad(c.text(r), c.width))
	}
	row := matrixRow{Marks: r.Marks, Closed: r.Closed, Open: r.Open}
	fmt.Fprintf(p.out, "%s%s\n", b.String(), row.notes())
}

// serveEcho runs the service that the plugin on NATS is, in this process.
func serveEcho(_ context.Context, s *server, data string) (stop func() error, err error) {
	password, err := app.ReadSecret(app.SecretPath(data, app.PluginPasswordFile))
	if err != nil {
		return nil, err
	}
	return bus.RunService(s.nats, password, "echo", func(request []byte) ([]byte, error) {
		var in struct {
			Text string `json:"text"`
		}
		if err := json.Unmarshal(request, &in); err != nil {
			return nil, err
		}
		return json.Marshal(&in)
	})
}
