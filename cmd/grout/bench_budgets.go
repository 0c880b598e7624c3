package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"grout/cmd/grout/load"
)

// raceTokens are left in the budget that everybody wants at the end of a line, and
// racers asks for one of them each.
const (
	raceTokens = 1000
	racers     = 2 * raceTokens
)

// budgetKinds are what is measured of budgets.
var budgetKinds = []load.Kind{load.Check, load.Count, load.Reserve}

// budgetRow is one kind of operation with so many callers.
type budgetRow struct {
	Kind      string   `json:"kind"`
	Operation string   `json:"operation"`
	Apps      int      `json:"apps"`
	Users     int      `json:"users_with_a_budget"`
	Marks     []string `json:"marks"`
	PeakMB    *float64 `json:"server_peak_mb"`

	Closed    benchRun       `json:"closed"`
	Open      *benchRun      `json:"open"`
	Due       float64        `json:"open_operations_per_sec_due"`
	First     reserveFigures `json:"closed_first_request"`
	OpenFirst reserveFigures `json:"open_first_request"`
	// Overshoot is what was granted beyond what was left; below zero, what was left
	// and granted to nobody.
	Overshoot *int64 `json:"overshoot_tokens"`
}

// reserveFigures are latencies of the first request of an operation, in milliseconds.
type reserveFigures struct {
	P50 float64 `json:"p50_ms"`
	P99 float64 `json:"p99_ms"`
}

func firstOf(r *load.Result) reserveFigures {
	return reserveFigures{float64(r.First.Quantile(.5)) / 1e6, float64(r.First.Quantile(.99)) / 1e6}
}

var budgetColumns = []column[budgetRow]{
	{"", "operation", 14, func(r *budgetRow) string { return r.Operation }},
	{"", "callers", 8, func(r *budgetRow) string { return fmt.Sprint(r.Closed.Connections) }},
	{"closed loop", "ops/s", 11, func(r *budgetRow) string { return thousands(int64(r.Closed.RequestRate)) }},
	{"closed loop", "p50", 7, func(r *budgetRow) string { return compact(&r.Closed.P50) }},
	{"closed loop", "p99", 7, func(r *budgetRow) string { return compact(&r.Closed.P99) }},
	{"closed loop", "p99.9", 7, func(r *budgetRow) string { return compact(&r.Closed.P999) }},
	{"closed loop", "µs/op", 7, func(r *budgetRow) string { return compact(r.Closed.CPU) }},
	{"closed loop", "steal", 6, func(r *budgetRow) string { return share(r.Closed.Steal) }},
	{"closed loop", "other", 6, func(r *budgetRow) string { return share(r.Closed.Others) }},
	{"its first request", "p50", 9, func(r *budgetRow) string { return compact(&r.First.P50) }},
	{"its first request", "p99", 9, func(r *budgetRow) string { return compact(&r.First.P99) }},
	{"open loop", "p50", 9, func(r *budgetRow) string { return r.ofOpen(func() string { return compact(&r.Open.P50) }) }},
	{"open loop", "p99", 7, func(r *budgetRow) string { return r.ofOpen(func() string { return compact(&r.Open.P99) }) }},
	{"open loop", "p99.9", 7, func(r *budgetRow) string { return r.ofOpen(func() string { return compact(&r.Open.P999) }) }},
	{"open loop", "steal", 6, func(r *budgetRow) string { return r.ofOpen(func() string { return share(r.Open.Steal) }) }},
	{"open loop", "other", 6, func(r *budgetRow) string { return r.ofOpen(func() string { return share(r.Open.Others) }) }},
	{"its first request", "p50", 9, func(r *budgetRow) string { return r.ofOpen(func() string { return compact(&r.OpenFirst.P50) }) }},
	{"its first request", "p99", 9, func(r *budgetRow) string { return r.ofOpen(func() string { return compact(&r.OpenFirst.P99) }) }},
	{"", "overshoot", 11, func(r *budgetRow) string {
		if r.Overshoot == nil {
			return "-"
		}
		return fmt.Sprint(*r.Overshoot)
	}},
}

func (r *budgetRow) ofOpen(text func() string) string {
	if r.Open == nil {
		return "-"
	}
	return text()
}

// budgets measures checks and reservations, each line with a server of its own.
func (m *matrix) budgets(ctx context.Context) error {
	if !m.o.budgets {
		return nil
	}
	m.report.budgetSection(m.apps())
	for _, kind := range budgetKinds {
		for _, callers := range m.o.callers {
			if err := m.budget(ctx, kind, callers); err != nil {
				return fmt.Errorf("%s with %d callers: %w", kind, callers, err)
			}
		}
	}
	return nil
}

// apps are those that have budgets.
func (m *matrix) apps() int { return min(m.o.apps, 10*load.Apps) }

func (m *matrix) budget(ctx context.Context, kind load.Kind, callers int) (err error) {
	dir, err := os.MkdirTemp(m.base, "budget-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := startServer(ctx, m.program, dir, filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	target, err := load.NewTarget(s.url, s.key)
	if err != nil {
		return err
	}
	if err := load.SetBudgets(ctx, target, m.apps(), raceTokens); err != nil {
		return err
	}
	row := budgetRow{Kind: "budget", Operation: kind.String(), Apps: m.apps(), Users: m.apps() * load.BudgetUsers}
	if m.apps() == 1 {
		row.Marks = append(row.Marks, "one app")
	}
	plan := load.Plan{Kind: kind, Events: 1, Connections: callers, Warmup: m.o.warmup, Duration: m.o.duration, Apps: m.apps(), Process: s.pid()}
	r, err := load.Run(ctx, target, plan)
	if err != nil {
		return err
	}
	row.Closed, row.First = newBenchRun(plan, &r), firstOf(&r)
	if m.o.openShare > 0 && r.Requests > 0 {
		open := plan
		open.Rate, open.Warmup = r.Rate*m.o.openShare, 0
		if r, err = load.Run(ctx, target, open); err != nil {
			return err
		}
		run := newBenchRun(open, &r)
		row.Open, row.OpenFirst, row.Due = &run, firstOf(&r), open.Rate
	}
	if kind == load.Reserve {
		if err := row.race(ctx, target, callers); err != nil {
			return err
		}
	}
	row.PeakMB = known(megabytes(load.ReadProcess(s.pid()).Peak))
	m.report.budget(&row)
	return nil
}

// race lets the callers ask for more than is left.
func (r *budgetRow) race(ctx context.Context, target *load.Target, callers int) error {
	got, err := load.Run(ctx, target, load.Plan{Kind: load.Race, Events: 1, Connections: callers, Requests: racers})
	if err != nil {
		return err
	}
	over := got.Requests - raceTokens
	r.Overshoot = &over
	for what, n := range got.Errors {
		if what != "status 402" {
			r.Marks = append(r.Marks, fmt.Sprintf("race %s: %d", what, n))
		}
	}
	return nil
}

func (p *matrixReport) budgetSection(apps int) {
	if p.json {
		return
	}
	fmt.Fprintf(p.out, "\nBUDGETS, hard, of %d apps, of %d models of each and of %d users of each; overshoot: granted of the last %s tokens of one app, beyond them\n%s",
		apps, load.Models, load.BudgetUsers, thousands(raceTokens), tableHead(budgetColumns))
}

func (p *matrixReport) budget(r *budgetRow) {
	if p.json {
		p.line(r)
		return
	}
	var b strings.Builder
	for _, c := range budgetColumns {
		b.WriteString(pad(c.text(r), c.width))
	}
	row := matrixRow{Marks: r.Marks, Closed: r.Closed, Open: r.Open}
	fmt.Fprintf(p.out, "%s%s\n", b.String(), row.notes())
}
