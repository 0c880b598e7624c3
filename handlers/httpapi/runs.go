package httpapi

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// runList serves GET /api/runs (contract §6): runs of an app, newest first.
func (s *Server) runList(c echo.Context) error {
	p, err := readQuery(c.Request().URL.RawQuery, "app_id", "user_id", "status", "plugin", "since", "limit", "cursor")
	if err != nil {
		return err
	}
	named, user := p.text("app_id", "", schemas.MaxIDChars), p.text("user_id", "", schemas.MaxIDChars)
	q := schemas.RunQuery{
		Plugin: p.text("plugin", "", schemas.MaxNameChars), Since: p.instant("since", 0), Limit: p.number("limit", defaultPage, 1, maxPage),
	}
	if text, given := p.get("status"); given {
		var known bool
		if q.Status, known = schemas.RunStatusNamed(text); !known {
			p.fault("status", "status must be one of in_progress, completed, failed, cancelled", "enum")
		}
	}
	if text, given := p.get("cursor"); given {
		var ok bool
		if q.Before, ok = runPlace(text); !ok {
			p.fault("cursor", "cursor must be the next_cursor of a page", "value_error")
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	who := callerOf(c)
	if q.AppID, err = who.appOf(s, named); err != nil {
		return err
	}
	if q.UserID, err = who.userOf(user); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	page, err := s.Runs.RunList(ctx, q)
	if err != nil {
		return fmt.Errorf("list of runs: %w", err)
	}
	return sendRuns(c, &page)
}

func sendRuns(c echo.Context, page *schemas.RunPage) error {
	out := newStream(c, "application/json")
	out.buf = append(out.buf, `{"runs":[`...)
	for i, r := range page.Runs {
		if i > 0 {
			out.buf = append(out.buf, ',')
		}
		out.buf = append(appendRun(out.buf, r), '}')
		if err := out.full(); err != nil {
			return err
		}
	}
	out.buf = append(out.buf, `],"next_cursor":`...)
	if page.More {
		out.buf = appendAnyText(out.buf, fmt.Sprintf("%d.%d", page.Next.Seq, page.Next.Index))
	} else {
		out.buf = append(out.buf, "null"...)
	}
	out.buf = append(out.buf, '}')
	return out.end()
}

func runPlace(text string) (at schemas.RunPlace, ok bool) {
	n, err := fmt.Sscanf(text, "%d.%d", &at.Seq, &at.Index)
	return at, err == nil && n == 2 && at.Seq > 0 && text == fmt.Sprintf("%d.%d", at.Seq, at.Index)
}

// appendRun writes what is told of a run, without the end of the object.
func appendRun(b []byte, r *schemas.Run) []byte {
	b = appendAnyText(append(b, `{"run_id":`...), r.ID)
	b = appendAnyText(append(b, `,"app_id":`...), r.AppID)
	action := ""
	if r.Execution != nil {
		action = r.Execution.Action
	}
	for _, f := range [...]struct{ name, value string }{
		{"user_id", r.UserID},
		{"tenant_id", r.TenantID},
		{"chat_id", r.RunToken()},
		{"plugin", r.Plugin},
		{"action", action},
		{"workflow_name", r.WorkflowName},
		{"parent_run_id", r.ParentRunID},
		{"status", r.Status.String()},
		{"started_at", instantOrEmpty(r.StartedAt)},
		{"updated_at", instantOrEmpty(r.UpdatedAt)},
		{"ended_at", instantOrEmpty(r.EndedAt)},
		{"summary", r.Summary},
		{"error", r.Error},
		{"code", r.Code},
	} {
		b = append(appendAnyText(append(b, ','), f.name), ':')
		b = appendGroup(b, f.value)
	}
	b = strconv.AppendInt(append(b, `,"attempt":`...), r.Attempt, 10)
	b = strconv.AppendInt(append(b, `,"sequence":`...), r.Sequence, 10)
	b = strconv.AppendBool(append(b, `,"implicit":`...), r.Implicit)
	b = append(b, `,"cost":`...)
	if r.HasCost {
		b = schemas.AppendAmount(b, r.Cost)
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"total_tokens":`...)
	if r.HasTokens {
		return strconv.AppendInt(b, r.TotalTokens, 10)
	}
	return append(b, "null"...)
}

func instantOrEmpty(nanos int64) string {
	if nanos == 0 {
		return ""
	}
	return schemas.InstantText(nanos)
}

var errNoRun = schemas.Errorf(schemas.CodeNotFound, "The app has no run with this id")

// runQuery reads what all requests about one run have in common.
func runQuery(c echo.Context, parameters ...string) (id, app string, p query, err error) {
	if id, err = idParam(c, "run_id"); err != nil {
		return "", "", p, err
	}
	if p, err = readQuery(c.Request().URL.RawQuery, append(parameters, "app_id")...); err != nil {
		return "", "", p, err
	}
	return id, p.text("app_id", "", schemas.MaxIDChars), p, p.err()
}

// ownRun gives the run that a request is about. Somebody else's is as unknown as one that
// is not there.
func (s *Server) ownRun(c echo.Context, named, id string) (*schemas.Run, error) {
	who := callerOf(c)
	app, err := who.appOf(s, named)
	if err != nil {
		return nil, errNoRun
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	r, err := s.Runs.Run(ctx, app, id)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read a run: %w", err)
	case r == nil || !who.owns(r.UserID):
		return nil, errNoRun
	}
	return r, nil
}

// askedRun reads the run that a request without further parameters names.
func (s *Server) askedRun(c echo.Context) (*schemas.Run, error) {
	id, app, _, err := runQuery(c)
	if err != nil {
		return nil, err
	}
	return s.ownRun(c, app, id)
}

// runOne serves GET /api/runs/{run_id}: a run, with its result while that is kept.
func (s *Server) runOne(c echo.Context) error {
	r, err := s.askedRun(c)
	if err != nil {
		return err
	}
	b := appendRun(make([]byte, 0, 1024+len(r.Result)), r)
	if r.Result != nil {
		b = append(append(b, `,"result":`...), r.Result...)
	}
	return sendJSON(c, http.StatusOK, append(b, '}'))
}

// runEvents serves GET /api/runs/{run_id}/events: what happened in a run, in order.
func (s *Server) runEvents(c echo.Context) error {
	id, app, p, err := runQuery(c, "limit", "cursor")
	if err != nil {
		return err
	}
	limit, behind := p.number("limit", defaultPage, 1, maxPage), int64(0)
	if text, given := p.get("cursor"); given {
		if behind, err = strconv.ParseInt(text, 10, 64); err != nil || behind < 1 || strings.HasPrefix(text, "+") {
			p.fault("cursor", "cursor must be the next_cursor of a page", "value_error")
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	r, err := s.ownRun(c, app, id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	page, err := s.Runs.RunEvents(ctx, r.AppID, r.ID, behind, limit)
	if err != nil {
		return fmt.Errorf("events of a run: %w", err)
	}
	out := newStream(c, "application/json")
	out.buf = append(out.buf, `{"events":[`...)
	for i := range page.Events {
		if i > 0 {
			out.buf = append(out.buf, ',')
		}
		out.buf = append(out.buf, page.Events[i].JSON...)
		if err := out.full(); err != nil {
			return err
		}
	}
	out.buf = append(out.buf, `],"next_cursor":`...)
	if n := len(page.Events); page.More && n > 0 {
		out.buf = appendAnyText(out.buf, strconv.FormatInt(page.Events[n-1].Sequence, 10))
	} else {
		out.buf = append(out.buf, "null"...)
	}
	out.buf = append(out.buf, '}')
	return out.end()
}

// cancelRun serves POST /api/runs/{run_id}/cancel. The app may stand in the query or in
// the body, which need not be there.
func (s *Server) cancelRun(c echo.Context) error {
	id, app, _, err := runQuery(c)
	if err != nil {
		return err
	}
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	named, _, fault := schemas.ParseEventVoid(body.bytes) // the same fields
	named = strings.Clone(named)
	body.release()
	if fault != nil {
		return fault
	}
	r, err := s.ownRun(c, cmp.Or(app, named), id)
	if err != nil {
		return err
	}
	if r.Status.Ended() { // nothing opens it again but a start of its own
		return schemas.Errorf(schemas.CodeRunFinished, "The run is %s", r.Status)
	}
	cancel := schemas.RunCancel{RunID: r.ID, By: callerOf(c).UserID}
	_, applied, err := s.run(c, schemas.CancelRun.Name, r.AppID, cancel.EncodePayload(nil))
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "run_id", r.ID)
	}
	b := appendAnyText([]byte(`{"run_id":`), r.ID)
	b = appendAnyText(append(b, `,"status":`...), schemas.RunCancelled.String())
	return sendJSON(c, http.StatusOK, append(b, '}'))
}
