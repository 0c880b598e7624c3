package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"grout/cmd/grout/load"
)

const (
	cellDrainLimit = time.Minute
	floorWithin    = 10 * time.Second
	floorWarmup    = 200 * time.Millisecond
	visiblePause   = 10 * time.Millisecond
)

// matrixDefaults are those of the flags that were not given.
func (o *benchOptions) matrixDefaults(given func(flag string) bool) {
	if !given("connections") {
		o.connections, o.callers, o.executers = []int{1, 8, 16, 64, 256}, []int{1, 64}, []int{1, 16, 64}
	} else {
		o.callers, o.executers = o.connections, o.connections
	}
	if !given("duration") {
		o.duration = 2500 * time.Millisecond
	}
}

func (o *benchOptions) checkMatrix() error {
	switch {
	case !o.matrix && (o.stored != "" || o.cache != "" || o.floor != ""):
		return usagef("--stored, --cache and --floor belong to --matrix")
	case o.matrix && (o.url != "" || o.rate > 0):
		return usagef("--matrix starts its own servers and finds its own rate; leave out --url and --rate")
	case o.chats != "with" && o.chats != "without" && o.chats != "both":
		return usagef("--chats is with, without or both")
	case o.openShare < 0 || o.openShare > 2:
		return usagef("--open-share is from 0 to 2")
	}
	_, err := o.storedCounts()
	return err
}

func (o *benchOptions) storedCounts() (counts []int64, err error) {
	for text := range strings.SplitSeq(o.stored, ",") {
		if o.stored == "" {
			return nil, nil
		}
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || n < storedPerRequest || n%storedPerRequest != 0 || n > 1_000_000_000 {
			return nil, usagef("--stored are multiples of %d up to 1000000000", storedPerRequest)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

// withChats are the values to measure.
func (o *benchOptions) withChats() []bool {
	switch o.chats {
	case "with":
		return []bool{true}
	case "without":
		return []bool{false}
	}
	return []bool{false, true}
}

// matrix measures a server process for every combination.
type matrix struct {
	o       *benchOptions
	program string
	base    string // where data directories are made, and removed
	floor   *load.Target
	report  matrixReport
	empty   map[matrixKey]float64 // events a second of servers that were empty
}

type matrixKey struct {
	chats               bool
	events, connections int
}

func runMatrix(ctx context.Context, o *benchOptions, asJSON bool, out io.Writer) (err error) {
	m := &matrix{o: o, report: matrixReport{json: asJSON, out: out}, empty: map[matrixKey]float64{}}
	if m.program, err = os.Executable(); err != nil {
		return err
	}
	if m.base, err = os.MkdirTemp(o.dir, "grout-bench-"); err != nil {
		return fmt.Errorf("make a directory to throw away: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.base)) }()
	stop, err := m.startFloor(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	err = m.run(ctx)
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// startFloor starts the program that answers without doing anything, if there is one.
func (m *matrix) startFloor(ctx context.Context) (stop func() error, err error) {
	if m.o.floor == "" {
		return func() error { return nil }, nil
	}
	path, err := filepath.Abs(m.o.floor)
	if err != nil {
		return nil, err
	}
	var c *child
	m.floor, c, err = startFloor(ctx, path)
	if err != nil {
		return nil, err
	}
	return func() error { return c.stop(syscall.SIGKILL, floorWithin) }, nil
}

func startFloor(ctx context.Context, path string) (*load.Target, *child, error) {
	var url string
	c, err := startChild(ctx, exec.Command(path), floorWithin, func(line []byte) bool {
		url = string(bytes.TrimSpace(line))
		return strings.HasPrefix(url, "http://")
	})
	if err != nil {
		return nil, nil, fmt.Errorf("start the floor: %w", err)
	}
	target, err := load.NewTarget(url, "bench")
	if err != nil {
		return nil, nil, errors.Join(err, c.stop(syscall.SIGKILL, floorWithin))
	}
	return target, c, nil
}

func (m *matrix) run(ctx context.Context) error {
	counts, err := m.o.storedCounts()
	if err != nil {
		return err
	}
	m.report.head(&matrixHead{
		Kind: "machine", Machine: load.ReadMachine(m.base), Durability: durability,
		Server: "a new process for each line, `grout serve` with default settings, request log to a pipe, no snapshots meanwhile",
		Load:   m.o.load(), Apps: m.o.apps, Span: m.o.span.Seconds(), Warmup: m.o.warmup.Seconds(), Duration: m.o.duration.Seconds(), OpenShare: m.o.openShare,
		Floor: m.floor != nil, AtLeast: m.atLeast(len(counts)).Seconds(),
	})
	for _, chats := range m.o.withChats() {
		if len(m.o.events) == 0 {
			break
		}
		m.report.section(0, chats, m.floor != nil)
		err := m.cells(func(events, connections int) error { return m.fresh(ctx, chats, events, connections) })
		if err != nil {
			return err
		}
	}
	if err := m.budgets(ctx); err != nil {
		return err
	}
	if err := m.plugins(ctx); err != nil {
		return err
	}
	if err := m.live(ctx); err != nil {
		return err
	}
	for _, n := range counts {
		stored, err := m.prepareStored(ctx, n)
		if err != nil {
			return err
		}
		m.report.stored(stored)
		for _, chats := range m.o.withChats() {
			if err := m.full(ctx, stored, chats); err != nil {
				return err
			}
		}
	}
	return nil
}

// load tells what is sent.
func (o *benchOptions) load() string {
	switch {
	case len(o.events) > 0:
		return o.mix()
	case o.live:
		return "usage events of chats that are watched"
	}
	return "calls of one plugin by one user"
}

func (m *matrix) cells(measure func(events, connections int) error) error {
	for _, events := range m.o.events {
		for _, connections := range m.o.connections {
			if err := measure(events, connections); err != nil {
				return err
			}
		}
	}
	return nil
}

// atLeast is how long it takes when nothing has to be started, filled or waited for.
func (m *matrix) atLeast(stored int) time.Duration {
	cell := m.o.warmup + m.o.duration
	if m.o.openShare > 0 {
		cell += m.o.duration
	}
	beside := time.Duration(0)
	if m.o.budgets {
		beside += cell * time.Duration(len(budgetKinds)*len(m.o.callers))
	}
	if m.o.plugins {
		beside += cell * time.Duration(len(benchPlugins())*len(m.o.executers))
	}
	if m.o.live {
		beside += m.o.duration * time.Duration(len(liveLoads))
	}
	if m.floor != nil {
		cell += floorWarmup + m.o.duration/2
	}
	return beside + cell*time.Duration(len(m.o.events)*len(m.o.connections)*len(m.o.withChats())*(1+stored))
}

// fresh measures one combination with a server that is empty.
func (m *matrix) fresh(ctx context.Context, chats bool, events, connections int) (err error) {
	dir, err := os.MkdirTemp(m.base, "cell-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := startServer(ctx, m.program, dir, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	row := matrixRow{Kind: "cell", Chats: chats, Fresh: true, Ready: s.ready.Seconds(), RestMB: known(megabytes(load.ReadProcess(s.pid()).Resident))}
	if err := m.cell(ctx, s, filepath.Join(dir, "data"), &row, events, connections); err != nil {
		return err
	}
	m.empty[matrixKey{chats, events, connections}] = row.Closed.EventRate
	m.report.row(&row)
	return nil
}

// full measures all combinations with one server on a copy of what is stored.
// A copy for each would take longer than measuring.
func (m *matrix) full(ctx context.Context, stored *storedData, chats bool) (err error) {
	dir, err := os.MkdirTemp(m.base, "stored-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	data := filepath.Join(dir, "data")
	if err := copyTree(ctx, filepath.Join(stored.dir, "data"), data); err != nil {
		return fmt.Errorf("copy what is stored: %w", err)
	}
	s, err := startServer(ctx, m.program, dir, data)
	if err != nil {
		return fmt.Errorf("%w\n(if its form is of another version, remove %s)", err, stored.dir)
	}
	defer func() { err = errors.Join(err, s.end()) }()
	rest := known(megabytes(load.ReadProcess(s.pid()).Resident))
	m.report.section(stored.Events, chats, m.floor != nil)
	return m.cells(func(events, connections int) error {
		row := matrixRow{Kind: "cell", Chats: chats, Stored: stored.Events, Ready: s.ready.Seconds(), RestMB: rest}
		if err := load.ForgetPeak(s.pid()); err != nil {
			row.Marks = append(row.Marks, "peak of all lines")
		}
		if err := m.cell(ctx, s, data, &row, events, connections); err != nil {
			return err
		}
		if empty := m.empty[matrixKey{chats, events, connections}]; empty > 0 {
			row.OfEmpty = known(row.Closed.EventRate / empty)
		}
		m.report.row(&row)
		return nil
	})
}

// cell fills the row of one combination.
func (m *matrix) cell(ctx context.Context, s *server, data string, row *matrixRow, events, connections int) error {
	target, err := load.NewTarget(s.url, s.key)
	if err != nil {
		return err
	}
	plan := load.Plan{
		Events: events, Connections: connections, Warmup: m.o.warmup, Duration: m.o.duration,
		Apps: m.o.apps, Chats: row.Chats, Span: m.o.span, Process: s.pid(),
	}
	if m.o.apps == 1 {
		row.Marks = append(row.Marks, "one app")
	}
	if !row.Fresh {
		row.Marks = append(row.Marks, "warm")
	}
	row.Apps, row.Span = m.o.apps, m.o.span.Seconds()
	if err := m.closed(ctx, s, target, data, row, &plan); err != nil {
		return err
	}
	if m.o.openShare > 0 && row.Closed.Requests > 0 {
		if err := m.open(ctx, target, row, plan); err != nil {
			return err
		}
	}
	row.PeakMB = known(megabytes(load.ReadProcess(s.pid()).Peak))
	return m.besides(ctx, row, plan)
}

// closed measures what the server can do, and what that leaves behind.
func (m *matrix) closed(ctx context.Context, s *server, target *load.Target, data string, row *matrixRow, plan *load.Plan) error {
	before, err := readState(ctx, s.url, data)
	if err != nil {
		return err
	}
	r, err := load.Run(ctx, target, *plan)
	if err != nil {
		return err
	}
	row.Closed = newBenchRun(*plan, &r)
	end, err := readState(ctx, s.url, data)
	if err != nil {
		return err
	}
	after, took, ok, err := drain(ctx, s.url, data, cellDrainLimit)
	if err != nil {
		return err
	}
	row.Left = leftBehind{Outbox: end.outbox, Backlog: end.backlog + end.queue, Drain: took.Seconds(), Drained: ok}
	if n := float64(after.events - before.events); n > 0 {
		row.StoreBytes, row.StreamBytes = known(float64(after.storeBytes-before.storeBytes)/n), known(float64(after.streamBytes-before.streamBytes)/n)
		if tx := after.transactions - before.transactions; tx > 0 {
			row.CommitMS, row.PerCommit = known((after.commit-before.commit)/tx*1e3), known(n/tx)
		}
	}
	return nil
}

// open measures latencies at a load that the server can bear, and beside it how
// long it takes until a read shows an event.
func (m *matrix) open(ctx context.Context, target *load.Target, row *matrixRow, plan load.Plan) error {
	plan.Rate, plan.Warmup = row.Closed.RequestRate*m.o.openShare, 0
	seen := make(chan load.Visibility, 1)
	go func() { seen <- load.Visible(ctx, target, visiblePause, plan.Duration) }()
	r, err := load.Run(ctx, target, plan)
	v := <-seen
	if err != nil {
		return err
	}
	run := newBenchRun(plan, &r)
	row.Open, row.Due = &run, plan.Rate*float64(plan.Events)
	row.Visible = newVisibleFigures(&v)
	return nil
}

// besides measures what HTTP alone allows.
func (m *matrix) besides(ctx context.Context, row *matrixRow, plan load.Plan) error {
	if m.floor == nil {
		return nil
	}
	plan.Warmup, plan.Duration, plan.Process, plan.Answer = floorWarmup, plan.Duration/2, 0, http.StatusAccepted
	r, err := load.Run(ctx, m.floor, plan)
	if err != nil {
		return err
	}
	run := newBenchRun(plan, &r)
	row.Floor = &run
	if run.RequestRate > 0 {
		row.OfFloor = known(row.Closed.RequestRate / run.RequestRate)
	}
	return nil
}
