package httpapi

import (
	"context"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// usageReports serves POST /api/billing/usage-events (contract §7). A readable
// list is answered 200 once it is durable, whatever is wrong with its entries,
// because its reporter queues again what was refused and loses newer ones for it.
// What was counted before is accepted: the reporter needs to know only what need
// not be sent again.
func (s *Server) usageReports(c echo.Context) error {
	r := c.Request()
	if err := checkJSON(r.Header); err != nil {
		return err
	}
	u, err := s.readUpload(r, c.Response().Header())
	if err != nil {
		return err
	}
	var req ingestRequest
	var atOnce schemas.IngestOutcome // what is known before anything is applied
	err = s.parse(r.Context(), u, func(text []byte, b *schemas.ParsedBatch) error {
		if err := schemas.ParseUsageReports(text, b); err != nil {
			return err
		}
		req = s.split(b)
		atOnce = reportOutcome(b)
		return nil
	})
	if err != nil {
		return err
	}
	if len(req.shares) == 0 {
		return sendJSON(c, http.StatusOK, appendReportResult(nil, &atOnce))
	}
	if err := s.stamp(c, req.shares); err != nil {
		return err
	}
	s.Fault("accept")
	ctx, cancel := context.WithTimeout(r.Context(), s.WaitLimit)
	defer cancel()
	result, err := s.submit(ctx, req, false)
	if err != nil {
		return err
	}
	if result.applied {
		s.metrics.ingested(&result.outcome)
		atOnce = result.outcome
	}
	return sendJSON(c, http.StatusOK, appendReportResult(nil, &atOnce))
}

// reportOutcome is the answer to a list that is stored and not applied yet: its
// good entries will be judged, and need not be sent again.
func reportOutcome(b *schemas.ParsedBatch) schemas.IngestOutcome {
	o := schemas.IngestOutcome{Accepted: len(b.Events), Rejected: len(b.Rejected)}
	for i := range b.Rejected[:min(len(b.Rejected), schemas.MaxListedErrors)] {
		e := b.Rejected[i].EventError
		o.Errors = append(o.Errors, schemas.EventError{Index: e.Index, EventID: strings.Clone(e.EventID), Code: e.Code, Detail: e.Detail})
	}
	return o
}

func appendReportResult(b []byte, o *schemas.IngestOutcome) []byte {
	b = append(b, `{"accepted":`...)
	b = strconv.AppendInt(b, int64(o.Accepted+o.Duplicates), 10)
	b = append(b, `,"failed":`...)
	b = strconv.AppendInt(b, int64(o.Rejected), 10)
	return append(appendErrors(b, o.Errors), '}')
}
