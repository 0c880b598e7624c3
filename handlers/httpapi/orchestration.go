package httpapi

import (
	"context"
	"math"
	"net/http"
	"strconv"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// maxReportedApps bounds the apps of one report: each of them is a command of its own.
const maxReportedApps = 100

// reportRuns serves POST /api/orchestration/events (contract §6): events of runs that
// others carry out, one or a list.
func (s *Server) reportRuns(c echo.Context) error {
	report, err := s.readReport(c)
	if err != nil {
		return err
	}
	outcome := schemas.IngestOutcome{Rejected: len(report.Rejected), Errors: report.Rejected}
	if len(report.Events) > 0 {
		req, err := s.sharesOf(c, report)
		if err != nil {
			return err
		}
		s.Fault("accept")
		ctx, cancel := context.WithTimeout(c.Request().Context(), s.WaitLimit)
		defer cancel()
		result, err := s.submit(ctx, req, false)
		if err != nil {
			return err
		}
		if !result.applied { // the same again gives the result
			b := strconv.AppendInt([]byte(`{"status":"accepted","events":`), int64(len(report.Events)), 10)
			return sendJSON(c, http.StatusAccepted, append(b, '}'))
		}
		outcome.Merge(&result.outcome)
	}
	if report.Single && len(outcome.Errors) == 1 {
		return refusedEvent(&outcome.Errors[0])
	}
	outcome.Tidy()
	b := appendCounts(make([]byte, 0, 128+128*len(outcome.Errors)), &outcome)
	b[0] = '{' // in place of the comma
	return sendJSON(c, http.StatusOK, append(b, '}'))
}

// refusedEvent is the answer to a request with one event, when that is refused.
func refusedEvent(e *schemas.EventError) error {
	if statusOf[e.Code] == 0 {
		return invalid(e.Detail, schemas.FieldError{Loc: []any{"body"}, Msg: e.Detail, Type: string(e.Code)})
	}
	return schemas.Errorf(e.Code, "%s", e.Detail)
}

func (s *Server) readReport(c echo.Context) (report schemas.ParsedReport, err error) {
	r := c.Request()
	form, err := formOf(r.Header)
	if err == nil && form == formLines {
		err = schemas.Errorf(schemas.CodeMediaType, "Content-Type application/x-ndjson is not supported here: send application/json or CloudEvents")
	}
	if err != nil {
		return report, err
	}
	u, err := s.readUpload(r, c.Response().Header())
	if err != nil {
		return report, err
	}
	defer func() { u.body.release() }()
	if u.coding != identity {
		unpacked, err := s.unpack(u)
		if err != nil {
			return report, err
		}
		u.body.release()
		u.body = unpacked
	}
	var fault *schemas.Error
	if form == formBinaryEvent {
		attribute := func(name string) []string { return r.Header.Values("Ce-" + name) }
		report, fault = schemas.ParseRunCloudEvent(attribute, r.Header.Get("Content-Type"), u.body.bytes)
	} else {
		report, fault = schemas.ParseRunReport(u.body.bytes)
	}
	return report, plain(fault)
}

// sharesOf makes a command of the events of each app.
func (s *Server) sharesOf(c echo.Context, report schemas.ParsedReport) (req ingestRequest, err error) {
	apps := report.ByApp(s.AppID)
	if len(apps) > maxReportedApps {
		return req, schemas.Errorf(schemas.CodeTooManyEvents, "The events are of %d apps, at most %d are taken at once", len(apps), maxReportedApps)
	}
	now := s.Now().UnixNano()
	for _, a := range apps {
		f := schemas.CommandFrame{
			Kind: schemas.ReportRuns.Name, AppID: a.AppID, ID: uuid.Must(uuid.NewV7()).String(), Source: commandSource, Time: now, Accepted: now,
			CorrelationID: correlationOf(c), TraceParent: traceParent(c.Request().Header.Get("Traceparent")), Payload: a.Report.EncodePayload(nil),
		}
		if n := f.FrameSize(); n > schemas.MaxCommandBytes {
			return req, schemas.Errorf(schemas.CodePayloadTooLarge,
				"The events take %d bytes in the log, the limit is %d: send fewer of them per request", n, schemas.MaxCommandBytes)
		}
		req.shares = append(req.shares, share{schemas.PartitionOf(a.AppID, s.Partitions), math.MaxInt64, f})
	}
	return req, nil
}
