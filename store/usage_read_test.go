package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
)

// report answers a query from the events themselves, with the calendar of the
// standard library.
func (o *oracle) report(q *schemas.UsageQuery) schemas.UsageReport {
	out := schemas.UsageReport{Rows: []schemas.UsageRow{}}
	rows := map[string]*schemas.UsageRow{}
	for i := range o.events {
		e := &o.events[i]
		at := time.Unix(0, e.Timestamp).UTC()
		if e.AppID != q.AppID || at.Before(time.Unix(q.From*3600, 0)) || !at.Before(time.Unix(q.To*3600, 0)) ||
			q.TenantID != "" && q.TenantID != e.TenantID || q.UserID != "" && q.UserID != e.UserID ||
			q.WorkflowID != "" && q.WorkflowID != e.WorkflowID || q.Model != "" && q.Model != e.Model {
			continue
		}
		var row schemas.UsageRow
		switch q.Window {
		case schemas.WindowHour:
			row.WindowStart = time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), 0, 0, 0, time.UTC)
			row.WindowEnd = row.WindowStart.Add(time.Hour)
		case schemas.WindowDay:
			row.WindowStart = time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, time.UTC)
			row.WindowEnd = time.Date(at.Year(), at.Month(), at.Day()+1, 0, 0, 0, 0, time.UTC)
		case schemas.WindowMonth:
			row.WindowStart = time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
			row.WindowEnd = time.Date(at.Year(), at.Month()+1, 1, 0, 0, 0, 0, time.UTC)
		default:
			if q.From != schemas.FirstHour {
				row.WindowStart = time.Unix(q.From*3600, 0).UTC()
			}
			if q.To != schemas.LastHour {
				row.WindowEnd = time.Unix(q.To*3600, 0).UTC()
			}
		}
		for _, d := range q.GroupBy {
			switch d {
			case schemas.ByApp:
				row.Group = append(row.Group, e.AppID)
			case schemas.ByTenant:
				row.Group = append(row.Group, e.TenantID)
			case schemas.ByUser:
				row.Group = append(row.Group, e.UserID)
			case schemas.ByWorkflow:
				row.Group = append(row.Group, e.WorkflowID)
			case schemas.ByModel:
				row.Group = append(row.Group, e.Model)
			}
		}
		key := strconv.FormatInt(row.WindowStart.Unix(), 10)
		for _, s := range row.Group {
			key += strconv.Quote(s)
		}
		if rows[key] == nil {
			rows[key] = &row
		}
		for _, sums := range []*schemas.UsageSums{&rows[key].UsageSums, &out.Totals} {
			sums.Events++
			sums.InputTokens += e.InputTokens
			sums.OutputTokens += e.OutputTokens
			sums.TotalTokens += e.TotalTokens
			sums.CachedTokens += e.CachedTokens
			sums.ReasoningTokens += e.ReasoningTokens
			sums.Cost = sums.Cost.Add(schemas.AmountOf(e.Cost))
		}
	}
	for _, row := range rows {
		out.Rows = append(out.Rows, *row)
	}
	slices.SortFunc(out.Rows, func(a, b schemas.UsageRow) int {
		return cmp.Or(a.WindowStart.Compare(b.WindowStart), slices.Compare(a.Group, b.Group))
	})
	return out
}

// Apps whose names lie close together in every order of keys.
var closeApps = []string{"a", "a\x00", "a\x00\x00", "ab", "b", "\x00", "\x01", "ÿ", "ÿÿ", "\U0010ffff", "\U0010ffffa", strings.Repeat("ÿ", 64), strings.Repeat("a", 128)}

// Hours at which a calendar turns, and hours around them.
var turningHours = func() (hours []int64) {
	for _, at := range []time.Time{
		time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
		time.Date(2024, 3, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC), // summer time begins somewhere
		time.Date(2100, 2, 28, 23, 0, 0, 0, time.UTC),
		time.Date(2100, 3, 1, 0, 0, 0, 0, time.UTC),
	} {
		for d := int64(-1); d <= 1; d++ {
			hours = append(hours, max(0, at.Unix()/3600+d))
		}
	}
	return hours
}()

func TestUsageAgreesWithTheOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := openAt(t, filepath.Join(rapidDir(t), "s.db"), Options{FoldEvery: rapid.SampledFrom([]int{4, 20, 1000}).Draw(t, "fold every")})
		defer closeStore(t, s)
		hour := rapid.SampledFrom(turningHours)
		app := rapid.SampledFrom(closeApps)
		name := rapid.SampledFrom([]string{"u", "v", "", "u\x00", "\x01", strings.Repeat("𝄞", 256)})
		var want oracle
		for seq := range rapid.IntRange(1, 12).Draw(t, "messages") {
			m := message{seq: uint64(seq + 1), requests: []request{{batch: fmt.Sprint(seq)}}}
			for i := range rapid.IntRange(0, 8).Draw(t, "events") {
				inside := rapid.SampledFrom([]int64{0, 1, hourSpan / 2, hourSpan - 1}).Draw(t, "inside the hour")
				m.requests[0].events = append(m.requests[0].events, schemas.UsageEvent{
					EventID: fmt.Sprintf("%d-%d", seq, i), AppID: app.Draw(t, "app"), Timestamp: hour.Draw(t, "hour")*hourSpan + inside,
					TenantID: name.Draw(t, "tenant"), UserID: "u" + name.Draw(t, "user"), WorkflowID: name.Draw(t, "workflow"), Model: "m" + name.Draw(t, "model"),
					InputTokens: int64(i), OutputTokens: 1, TotalTokens: int64(i) + 2, CachedTokens: 3, ReasoningTokens: 4, Cost: 5,
				})
			}
			want.apply(&m)
			apply(t, s, 1, m)
		}
		filter := rapid.OneOf(rapid.Just(""), name)
		for range 6 {
			q := schemas.UsageQuery{
				AppID:  app.Draw(t, "app asked for"),
				Window: rapid.SampledFrom([]schemas.Window{schemas.WindowHour, schemas.WindowDay, schemas.WindowMonth, schemas.WindowNone}).Draw(t, "window"),
				From:   rapid.OneOf(rapid.Just(int64(schemas.FirstHour)), hour).Draw(t, "from"),
				To:     rapid.OneOf(rapid.Just(int64(schemas.LastHour)), hour).Draw(t, "to"),
			}
			q.TenantID, q.WorkflowID = filter.Draw(t, "tenant asked for"), filter.Draw(t, "workflow asked for")
			if u := filter.Draw(t, "user asked for"); u != "" {
				q.UserID = "u" + u
			}
			if m := filter.Draw(t, "model asked for"); m != "" {
				q.Model = "m" + m
			}
			dimensions := rapid.Permutation([]schemas.Dimension{schemas.ByApp, schemas.ByTenant, schemas.ByUser, schemas.ByWorkflow, schemas.ByModel}).Draw(t, "dimensions")
			q.GroupBy = dimensions[:rapid.IntRange(0, len(dimensions)).Draw(t, "group by")]
			report := want.report(&q)
			q.MaxRows = rapid.SampledFrom([]int{0, len(report.Rows), max(1, len(report.Rows)-1)}).Draw(t, "rows at most")
			got, err := s.Usage(context.Background(), q)
			if q.MaxRows > 0 && len(report.Rows) > q.MaxRows {
				var e *schemas.Error
				if !errors.As(err, &e) || e.Code != schemas.CodeTooManyRows {
					t.Fatalf("%d rows of at most %d: %v", len(report.Rows), q.MaxRows, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := gocmp.Diff(report, got); d != "" {
				t.Fatalf("%+v\n%s", q, d)
			}
		}
	})
}

func TestUsageWindows(t *testing.T) {
	s := openNew(t, Options{})
	at := func(text string) int64 {
		nanos, err := schemas.ParseInstant(text)
		if err != nil {
			t.Fatal(err)
		}
		return nanos
	}
	m := message{seq: 1, requests: []request{{batch: "b"}}}
	for i, text := range []string{
		"2023-12-31T23:59:59.999999999Z", "2024-01-01T00:00:00Z", "2024-02-29T23:59:59Z", "2024-03-01T00:00:00Z", "2025-02-28T23:00:00Z", "2025-03-01T00:30:00Z",
	} {
		m.requests[0].events = append(m.requests[0].events, schemas.UsageEvent{EventID: fmt.Sprint(i), AppID: "a", UserID: "u", Model: "m", Timestamp: at(text)})
	}
	apply(t, s, 1, m)
	for window, want := range map[schemas.Window][]string{
		schemas.WindowMonth: {"2023-12-01T00 2024-01-01T00", "2024-01-01T00 2024-02-01T00", "2024-02-01T00 2024-03-01T00", "2024-03-01T00 2024-04-01T00", "2025-02-01T00 2025-03-01T00", "2025-03-01T00 2025-04-01T00"},
		schemas.WindowDay:   {"2023-12-31T00 2024-01-01T00", "2024-01-01T00 2024-01-02T00", "2024-02-29T00 2024-03-01T00", "2024-03-01T00 2024-03-02T00", "2025-02-28T00 2025-03-01T00", "2025-03-01T00 2025-03-02T00"},
		schemas.WindowHour:  {"2023-12-31T23 2024-01-01T00", "2024-01-01T00 2024-01-01T01", "2024-02-29T23 2024-03-01T00", "2024-03-01T00 2024-03-01T01", "2025-02-28T23 2025-03-01T00", "2025-03-01T00 2025-03-01T01"},
		schemas.WindowNone:  {"0001-01-01T00 0001-01-01T00"},
	} {
		report, err := s.Usage(t.Context(), schemas.UsageQuery{AppID: "a", To: schemas.LastHour, Window: window})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, row := range report.Rows {
			got = append(got, row.WindowStart.Format("2006-01-02T15")+" "+row.WindowEnd.Format("2006-01-02T15"))
		}
		if d := gocmp.Diff(want, got); d != "" || report.Totals.Events != 6 {
			t.Errorf("%s: %d events\n%s", window, report.Totals.Events, d)
		}
	}
}

func TestUsageOfCancelledRequest(t *testing.T) {
	s := openNew(t, Options{FoldEvery: 1})
	apply(t, s, 1, randomHistory(1, 20)...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Usage(ctx, schemas.UsageQuery{AppID: "a", To: schemas.LastHour}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, _, err := s.BatchOfApp(ctx, "a", "b"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// A scan stops on its way, too.
	fill := message{seq: 100, requests: []request{{batch: "fill"}}}
	for i := range 3000 {
		fill.requests[0].events = append(fill.requests[0].events, schemas.UsageEvent{
			EventID: fmt.Sprint(i), AppID: "a", UserID: fmt.Sprint(i), Model: "m", Timestamp: testNow,
		})
	}
	apply(t, s, 1, fill, message{seq: 101})
	for seq := uint64(102); s.fold.To != 0 || s.fold.Live != 0; seq++ {
		apply(t, s, 1, message{seq: seq, requests: []request{{batch: "x", events: []schemas.UsageEvent{{EventID: fmt.Sprint("x", seq), AppID: "b", UserID: "u", Model: "m"}}}}})
		if s.fold.Folded >= 100 {
			break
		}
	}
	ending := &endingContext{Context: t.Context(), left: 1}
	if _, err := s.Usage(ending, schemas.UsageQuery{AppID: "a", To: schemas.LastHour}); !errors.Is(err, context.Canceled) {
		t.Errorf("a scan of 3,000 rows went on: %v", err)
	}
}

// endingContext is cancelled after it was asked a number of times.
type endingContext struct {
	context.Context
	left int
}

func (c *endingContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}
