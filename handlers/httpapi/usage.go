package httpapi

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

const (
	// readLimit is how long one read of the store may take.
	readLimit = 30 * time.Second
	// maxReportRows bounds a report; more rows are TOO_MANY_ROWS.
	maxReportRows = 100_000
)

// usage serves GET /api/usage (contract §7).
func (s *Server) usage(c echo.Context) error {
	r := c.Request()
	q, csv, err := s.usageQuery(r.URL.RawQuery)
	if err != nil {
		return err
	}
	if q.AppID, q.UserID, err = callerOf(c).scope(s, q.AppID, q.UserID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	report, err := s.Reads.Usage(ctx, q.UsageQuery)
	if err != nil {
		return fmt.Errorf("usage report: %w", err)
	}
	c.Response().Header().Set("Vary", "Accept")
	if csv == formatCSV || csv == "" && acceptsCSV(r.Header["Accept"]) {
		return sendCSV(c, &q, &report)
	}
	return sendReport(c, &q, &report)
}

const (
	formatCSV  = "csv"
	formatJSON = "json"
)

// reportQuery is a query and which of its ends are open.
type reportQuery struct {
	schemas.UsageQuery
	fromOpen, toOpen bool
}

// usageQuery reads the parameters of GET /api/usage.
func (s *Server) usageQuery(raw string) (reportQuery, string, error) {
	p, err := readQuery(raw, "app_id", "tenant_id", "user_id", "model", "workflow_id", "from", "to", "window", "group_by", "format")
	if err != nil {
		return reportQuery{}, "", err
	}
	q := reportQuery{UsageQuery: schemas.UsageQuery{
		AppID:      p.text("app_id", s.AppID, schemas.MaxIDChars),
		TenantID:   p.text("tenant_id", "", schemas.MaxIDChars),
		UserID:     p.text("user_id", "", schemas.MaxIDChars),
		Model:      p.text("model", "", schemas.MaxNameChars),
		WorkflowID: p.text("workflow_id", "", schemas.MaxNameChars),
		Window: oneOf(p, "window", schemas.WindowNone,
			schemas.WindowHour, schemas.WindowDay, schemas.WindowMonth, schemas.WindowNone),
		GroupBy: p.dimensions(),
		MaxRows: maxReportRows,
	}}
	format := oneOf(p, "format", "", formatCSV, formatJSON)
	from, to := p.hour("from"), p.hour("to")
	q.From, q.fromOpen = from.or(schemas.FirstHour)
	q.To, q.toOpen = to.or(schemas.LastHour)
	if from.given && to.given && from.aligned && to.aligned && q.From >= q.To {
		p.fault("to", "to must be after from", "value_error")
	}
	if err := p.err(); err != nil {
		return reportQuery{}, "", err
	}
	return q, format, alignment(from, to)
}

// oneOf reads a parameter with a fixed set of values.
func oneOf[T ~string](q query, name string, absent T, values ...T) T {
	v, given := q.get(name)
	if !given {
		return absent
	}
	if slices.Contains(values, T(v)) {
		return T(v)
	}
	names := make([]string, len(values))
	for i, known := range values {
		names[i] = string(known)
	}
	q.fault(name, name+" must be one of "+strings.Join(names, ", "), "enum")
	return absent
}

var dimensions = []schemas.Dimension{schemas.ByApp, schemas.ByTenant, schemas.ByUser, schemas.ByWorkflow, schemas.ByModel}

// dimensions reads group_by: names separated by commas, each at most once.
func (q query) dimensions() []schemas.Dimension {
	v, given := q.get("group_by")
	if !given {
		return nil
	}
	var list []schemas.Dimension
	for name := range strings.SplitSeq(v, ",") {
		d := schemas.Dimension(name)
		switch {
		case !slices.Contains(dimensions, d):
			q.fault("group_by", "group_by must hold app_id, tenant_id, user_id, workflow_id or model, separated by commas", "enum")
			return nil
		case slices.Contains(list, d):
			q.fault("group_by", "group_by names "+name+" twice", "repeated")
			return nil
		}
		list = append(list, d)
	}
	return list
}

// hourText is one end of a report as a caller gave it.
type hourText struct {
	name           string
	given, aligned bool
	hour           int64 // since 1970 UTC
}

// or gives the hour, or the open end.
func (h hourText) or(open int64) (hour int64, isOpen bool) {
	if !h.given {
		return open, true
	}
	return h.hour, false
}

func (q query) hour(name string) hourText {
	v, given := q.get(name)
	if !given {
		return hourText{name: name}
	}
	nanos, err := schemas.ParseInstant(v)
	if err != nil {
		msg := name + " " + err.Detail
		if strings.Contains(v, " ") {
			msg += " (a + of the zone is sent as %2B)"
		}
		q.fault(name, msg, "datetime")
		return hourText{name: name}
	}
	const perHour = int64(time.Hour)
	h := hourText{name: name, given: true, aligned: nanos%perHour == 0, hour: nanos / perHour}
	if nanos < 0 {
		q.fault(name, name+" must not be before 1970", "value_error")
	}
	return h
}

// alignment judges whether the given ends are on the hour in UTC.
func alignment(ends ...hourText) error {
	e := schemas.Error{Code: schemas.CodeWindowAlignment}
	var names []string
	for _, h := range ends {
		if h.given && !h.aligned {
			names = append(names, h.name)
			e.Fields = append(e.Fields, queryFault(h.name, h.name+" must be on the hour (UTC)", "window_alignment"))
		}
	}
	if names == nil {
		return nil
	}
	e.Detail = strings.Join(names, " and ") + " must be on the hour (UTC)"
	return &e
}

// acceptsCSV tells whether the Accept headers want CSV more than JSON: text/csv
// is named, and application/json is not named with at least the same weight.
func acceptsCSV(headers []string) bool {
	csv, json := -1.0, -1.0
	for _, h := range headers {
		for item := range strings.SplitSeq(h, ",") {
			media, params, _ := strings.Cut(item, ";")
			switch media = strings.ToLower(strings.TrimSpace(media)); media {
			case "text/csv":
				csv = max(csv, quality(params))
			case "application/json":
				json = max(json, quality(params))
			}
		}
	}
	return csv > 0 && csv > json
}

// quality reads the weight of a media range; an unreadable one is 0.
func quality(params string) float64 {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(p, "=")
		if strings.EqualFold(strings.TrimSpace(name), "q") {
			q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil || q < 0 || q > 1 {
				return 0
			}
			return q
		}
	}
	return 1
}
