package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// printUsage asks for a report and prints it. JSON and CSV are printed as the
// server gives them.
func printUsage(ctx context.Context, from *sender, q url.Values, groups []string, format string, chart bool, measure string, out io.Writer) error {
	if format != "table" {
		q.Set("format", format)
	}
	text, err := from.get(ctx, "/api/usage", q)
	if err != nil {
		return err
	}
	switch format {
	case "csv":
		_, err = out.Write(text)
		return err
	case "json":
		_, err = out.Write(append(text, '\n'))
		return err
	}
	report, err := usageOf(text, groups)
	if err != nil {
		return err
	}
	if chart {
		return report.chart(out, measure)
	}
	return report.table(out, groups)
}

// layouts show the begin of a window.
var layouts = map[string]string{"hour": "2006-01-02 15:04", "day": "2006-01-02", "month": "2006-01"}

// table prints a row a line, and the totals.
func (r *usageReport) table(out io.Writer, groups []string) error {
	fmt.Fprintf(out, "app %s, times in UTC\n\n", printable(r.AppID))
	var t textTable
	if r.Window != "none" {
		t.columns(r.Window)
	}
	for _, g := range groups {
		t.columns(g)
	}
	keys := len(t.head)
	t.numbers("events", "input", "output", "total")
	cached, reasoning := r.Totals.CachedTokens > 0, r.Totals.ReasoningTokens > 0
	if cached {
		t.numbers("cached")
	}
	if reasoning {
		t.numbers("reasoning")
	}
	t.numbers("cost")
	add := func(cells []string, s *usageSums) {
		for _, n := range []int64{s.Events, s.InputTokens, s.OutputTokens, s.TotalTokens} {
			cells = append(cells, thousands(n))
		}
		if cached {
			cells = append(cells, thousands(s.CachedTokens))
		}
		if reasoning {
			cells = append(cells, thousands(s.ReasoningTokens))
		}
		t.rows = append(t.rows, append(cells, s.Cost.String()))
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		cells := make([]string, 0, len(t.head))
		if r.Window != "none" {
			cells = append(cells, row.Start.UTC().Format(layouts[r.Window]))
		}
		for _, g := range row.Group {
			cells = append(cells, cmp.Or(printable(g), "-"))
		}
		add(cells, &row.usageSums)
	}
	if keys > 0 {
		total := make([]string, keys)
		total[0] = "total"
		add(total, &r.Totals)
	}
	return t.print(out)
}

// chart draws a bar for each row. Windows without events are drawn, too, when the
// windows are all there is.
func (r *usageReport) chart(out io.Writer, measure string) error {
	var bars []bar
	var expected time.Time
	for i := range r.Rows {
		row := &r.Rows[i]
		var label []string
		if layout := layouts[r.Window]; layout != "" {
			for next := expected; !next.IsZero() && next.Before(row.Start) && len(bars) < maxBars && len(row.Group) == 0; next = after(next, r.Window) {
				bars = append(bars, bar{label: next.Format(layout), text: "0"})
			}
			label = append(label, row.Start.UTC().Format(layout))
			expected = after(row.Start.UTC(), r.Window)
		}
		for _, g := range row.Group {
			label = append(label, cmp.Or(printable(g), "-"))
		}
		value, text := row.of(measure)
		bars = append(bars, bar{label: cmp.Or(strings.Join(label, "  "), "total"), value: value, text: text})
	}
	_, total := r.Totals.of(measure)
	if len(bars) > maxBars {
		return fmt.Errorf("a chart of %d bars is too long; ask for less, or for a longer --window", len(bars))
	}
	fmt.Fprintf(out, "%s of app %s, %s in all, times in UTC\n\n", strings.ReplaceAll(measure, "_", " "), printable(r.AppID), total)
	return drawBars(out, bars)
}

const maxBars = 1000

// after gives the begin of the next window.
func after(at time.Time, window string) time.Time {
	switch window {
	case "hour":
		return at.Add(time.Hour)
	case "day":
		return at.AddDate(0, 0, 1)
	}
	return at.AddDate(0, 1, 0)
}

// of gives what a measure says of the sums.
func (s *usageSums) of(measure string) (value float64, text string) {
	if measure == "cost" {
		value, _ = s.Cost.Float64()
		return value, s.Cost.String()
	}
	n := map[string]int64{"total_tokens": s.TotalTokens, "input_tokens": s.InputTokens, "output_tokens": s.OutputTokens, "events": s.Events}[measure]
	return float64(n), thousands(n)
}

// printable makes text of others harmless for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsGraphic(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// columnsOf reads the environment variable of the same name.
func columnsOf(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 80
	}
	return n
}
