package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"grout/cmd/grout/load"
)

// matrixHead is the first line of `grout bench --matrix`.
type matrixHead struct {
	Kind       string       `json:"kind"`
	Machine    load.Machine `json:"machine"`
	Durability string       `json:"durability"`
	Server     string       `json:"server"`
	Load       string       `json:"load"`
	Apps       int          `json:"apps"`
	Span       float64      `json:"timestamps_span_sec"`
	Warmup     float64      `json:"warmup_sec"`
	Duration   float64      `json:"duration_sec"`
	OpenShare  float64      `json:"open_share"`
	Floor      bool         `json:"floor"`
	AtLeast    float64      `json:"takes_at_least_sec"`
}

// matrixRow is one combination. Null is what could not be found out.
type matrixRow struct {
	Kind   string   `json:"kind"`
	Stored int64    `json:"stored_ids"`
	Chats  bool     `json:"chats"`
	Apps   int      `json:"apps"`
	Span   float64  `json:"timestamps_span_sec"`
	Fresh  bool     `json:"fresh_server"`
	Marks  []string `json:"marks"` // why the figures are not those of the standard load on a fresh server

	Ready  float64  `json:"start_to_ready_sec"`
	RestMB *float64 `json:"server_rest_mb"`
	PeakMB *float64 `json:"server_peak_mb"`

	Closed  benchRun        `json:"closed"`
	Due     float64         `json:"open_events_per_sec_due"`
	Open    *benchRun       `json:"open"`
	Visible *visibleFigures `json:"visible"` // during the open loop
	Floor   *benchRun       `json:"floor"`
	OfFloor *float64        `json:"of_floor"` // requests a second, compared
	OfEmpty *float64        `json:"of_empty"`

	Left        leftBehind `json:"left"`
	StoreBytes  *float64   `json:"store_bytes_per_event"`
	StreamBytes *float64   `json:"stream_bytes_per_event"`
	CommitMS    *float64   `json:"commit_ms"`
	PerCommit   *float64   `json:"events_per_commit"`
}

// leftBehind is what a closed loop leaves to do.
type leftBehind struct {
	Outbox  int64   `json:"outbox_rows"`
	Backlog int64   `json:"backlog_commands"`
	Drain   float64 `json:"drain_sec"`
	Drained bool    `json:"drained"`
}

// visibleFigures are in milliseconds, from sending an event until a read showed it.
type visibleFigures struct {
	Samples int64            `json:"samples"`
	P50     float64          `json:"p50_ms"`
	P99     float64          `json:"p99_ms"`
	Max     float64          `json:"max_ms"`
	Errors  map[string]int64 `json:"errors"`
}

func newVisibleFigures(v *load.Visibility) *visibleFigures {
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	return &visibleFigures{v.Samples, ms(v.Latencies.Quantile(.5)), ms(v.Latencies.Quantile(.99)), ms(v.Latencies.Max()), v.Errors}
}

// column is one of a table.
type column[Row any] struct {
	group, name string
	width       int
	text        func(r *Row) string
}

type matrixColumn = column[matrixRow]

var matrixColumns = []matrixColumn{
	{"", "ev/req", 7, func(r *matrixRow) string { return fmt.Sprint(r.Closed.Events) }},
	{"", "conns", 6, func(r *matrixRow) string { return fmt.Sprint(r.Closed.Connections) }},
	{"closed loop", "events/s", 11, func(r *matrixRow) string { return thousands(int64(r.Closed.EventRate)) }},
	{"closed loop", "p50", 7, func(r *matrixRow) string { return compact(&r.Closed.P50) }},
	{"closed loop", "p99", 7, func(r *matrixRow) string { return compact(&r.Closed.P99) }},
	{"closed loop", "p99.9", 7, func(r *matrixRow) string { return compact(&r.Closed.P999) }},
	{"closed loop", "µs/ev", 7, func(r *matrixRow) string { return compact(r.Closed.CPU) }},
	{"closed loop", "steal", 6, func(r *matrixRow) string { return share(r.Closed.Steal) }},
	{"closed loop", "other", 6, func(r *matrixRow) string { return share(r.Closed.Others) }},
	{"open loop", "p50", 9, func(r *matrixRow) string { return r.ofOpen(func(o *benchRun) string { return compact(&o.P50) }) }},
	{"open loop", "p99", 7, func(r *matrixRow) string { return r.ofOpen(func(o *benchRun) string { return compact(&o.P99) }) }},
	{"open loop", "p99.9", 7, func(r *matrixRow) string { return r.ofOpen(func(o *benchRun) string { return compact(&o.P999) }) }},
	{"open loop", "µs/ev", 7, func(r *matrixRow) string { return r.ofOpen(func(o *benchRun) string { return compact(o.CPU) }) }},
	{"open loop", "steal", 6, func(r *matrixRow) string { return r.ofOpen(func(o *benchRun) string { return share(o.Steal) }) }},
	{"open loop", "other", 6, func(r *matrixRow) string { return r.ofOpen(func(o *benchRun) string { return share(o.Others) }) }},
	{"visible", "p50", 9, func(r *matrixRow) string {
		return r.ofVisible(func(v *visibleFigures) string { return compact(&v.P50) })
	}},
	{"visible", "p99", 7, func(r *matrixRow) string {
		return r.ofVisible(func(v *visibleFigures) string { return compact(&v.P99) })
	}},
	{"left at the end", "outbox", 9, func(r *matrixRow) string { return thousands(r.Left.Outbox) }},
	{"left at the end", "backlog", 8, func(r *matrixRow) string { return thousands(r.Left.Backlog) }},
	{"left at the end", "drain s", 8, func(r *matrixRow) string { return r.Left.time() }},
	{"commit", "ms", 7, func(r *matrixRow) string { return compact(r.CommitMS) }},
	{"commit", "events", 7, func(r *matrixRow) string { return compact(r.PerCommit) }},
	{"bytes/event", "store", 8, func(r *matrixRow) string { return compact(r.StoreBytes) }},
	{"bytes/event", "stream", 7, func(r *matrixRow) string { return compact(r.StreamBytes) }},
	{"server", "rest MB", 9, func(r *matrixRow) string { return compact(r.RestMB) }},
	{"server", "max MB", 8, func(r *matrixRow) string { return compact(r.PeakMB) }},
	{"server", "ready s", 8, func(r *matrixRow) string { return compact(&r.Ready) }},
}

var (
	floorColumns = []matrixColumn{
		{"floor", "req/s", 10, func(r *matrixRow) string { return thousands(int64(r.Floor.RequestRate)) }},
		{"floor", "share", 6, func(r *matrixRow) string { return share(r.OfFloor) }},
	}
	emptyColumn = matrixColumn{"of", "empty", 7, func(r *matrixRow) string { return compact(r.OfEmpty) }}
)

func (l *leftBehind) time() string {
	if !l.Drained {
		return fmt.Sprintf(">%.0f", l.Drain)
	}
	return compact(&l.Drain)
}

func (r *matrixRow) ofOpen(text func(*benchRun) string) string {
	if r.Open == nil {
		return "-"
	}
	return text(r.Open)
}

func (r *matrixRow) ofVisible(text func(*visibleFigures) string) string {
	if r.Visible == nil || r.Visible.Samples == 0 {
		return "-"
	}
	return text(r.Visible)
}

// compact writes three figures that count, whole numbers above.
func compact(v *float64) string {
	switch {
	case v == nil:
		return "?"
	case *v >= 99.95:
		return thousands(int64(*v + .5))
	case *v >= 9.995:
		return fmt.Sprintf("%.1f", *v)
	case *v < 0:
		return fmt.Sprintf("%.0f", *v)
	}
	return fmt.Sprintf("%.2f", *v)
}

// notes are what stands behind a row.
func (r *matrixRow) notes() string {
	notes := append([]string(nil), r.Marks...)
	of := func(what string, run *benchRun) {
		if run != nil {
			if _, failed := run.failures(); failed != nil {
				notes = append(notes, what+" "+strings.Join(failed, ", "))
			}
		}
	}
	of("closed", &r.Closed)
	of("open", r.Open)
	of("floor", r.Floor)
	if r.Visible != nil && len(r.Visible.Errors) > 0 {
		v := benchRun{Errors: r.Visible.Errors}
		of("visible", &v)
	}
	if len(notes) == 0 {
		return ""
	}
	return "  [" + strings.Join(notes, "; ") + "]"
}

// matrixReport prints what is measured when it is measured: a table, or a line of
// JSON for each.
type matrixReport struct {
	json    bool
	out     io.Writer
	columns []matrixColumn
}

func (p *matrixReport) line(v any) {
	enc := json.NewEncoder(p.out)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)
}

func (p *matrixReport) head(h *matrixHead) {
	if p.json {
		p.line(h)
		return
	}
	printMachine(p.out, &h.Machine)
	fmt.Fprintf(p.out, "durability  %s\n", h.Durability)
	fmt.Fprintf(p.out, "server      %s\n", h.Server)
	fmt.Fprintf(p.out, "load        %s\n", h.Load)
	fmt.Fprintf(p.out, "each line   %.3gs to warm up, %.3gs in closed loop, as long again in open loop at %.0f%% of that, one event at a time watched until a read shows it\n",
		h.Warmup, h.Duration, 100*h.OpenShare)
	fmt.Fprintf(p.out, "units       latencies in ms; µs/ev: processor time of the server for an event; other: share of the processors used by neither; MB: memory; ?: unknown\n")
	fmt.Fprintf(p.out, "takes       more than %s\n", time.Duration(h.AtLeast*1e9).Round(time.Second))
}

func (p *matrixReport) stored(s *storedData) {
	if p.json {
		p.line(s)
		return
	}
	fmt.Fprintf(p.out, "\n%s ids in %s: ", thousands(s.Events), s.dir)
	if s.Reused {
		fmt.Fprintf(p.out, "filled %s, then", s.Made.Format(time.DateTime))
	} else {
		fmt.Fprint(p.out, "filled now,")
	}
	fmt.Fprintf(p.out, " at %s events/s, %s µs of the server an event, steal %s, drained in %s s, %s bytes an event in the store, %s bytes of memory an id, at most %s MB\n",
		thousands(int64(s.Rate)), compact(&s.CPU), share(s.Steal), compact(&s.Drain), compact(&s.StoreByte), compact(&s.IDBytes), compact(&s.PeakMB))
}

func (p *matrixReport) section(stored int64, chats, floor bool) {
	p.columns = matrixColumns[:len(matrixColumns):len(matrixColumns)]
	if floor {
		p.columns = append(p.columns, floorColumns...)
	}
	title := "EMPTY, "
	if stored > 0 {
		p.columns = append(p.columns, emptyColumn)
		title = thousands(stored) + " IDS STORED, one server for all lines (warm, and each adds ids), "
	}
	if chats {
		title += "every event with a chat id"
	} else {
		title += "no chat ids"
	}
	if p.json {
		return
	}
	fmt.Fprintf(p.out, "\n%s\n%s", title, tableHead(p.columns))
}

// tableHead is two lines: groups over the columns that belong to them, and names.
func tableHead[Row any](columns []column[Row]) string {
	var groups, names strings.Builder
	for i := 0; i < len(columns); {
		width, j := 0, i
		for ; j < len(columns) && columns[j].group == columns[i].group; j++ {
			width += columns[j].width
			names.WriteString(pad(columns[j].name, columns[j].width))
		}
		title := columns[i].group
		if title != "" {
			// Begins where the first column of the group does.
			lead := columns[i].width - utf8.RuneCountInString(columns[i].name)
			title = strings.Repeat(" ", lead) + title
		}
		groups.WriteString(title + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(title))))
		i = j
	}
	return strings.TrimRight(groups.String(), " ") + "\n" + names.String() + "\n"
}

// pad puts a text at the right of a column.
func pad(text string, width int) string {
	return strings.Repeat(" ", max(1, width-utf8.RuneCountInString(text))) + text
}

func (p *matrixReport) row(r *matrixRow) {
	if p.json {
		p.line(r)
		return
	}
	var b strings.Builder
	for _, c := range p.columns {
		b.WriteString(pad(c.text(r), c.width))
	}
	fmt.Fprintf(p.out, "%s%s\n", b.String(), r.notes())
}
