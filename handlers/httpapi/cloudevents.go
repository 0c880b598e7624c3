package httpapi

import (
	"context"
	"net/http"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// eventIngest is one CloudEvent of a list: a request of its own, or the reason
// why it is none.
type eventIngest struct {
	ingestRequest
	err     error
	waiting []Pending
	result  ingestResult
}

// ingestEvents serves a list of CloudEvents (contract §7): each is answered like a
// request of its own, in order. A 503 of one is the answer to all, because a
// caller may look at the status alone and repeating is harmless.
func (s *Server) ingestEvents(c echo.Context, u upload) error {
	r := c.Request()
	var list []eventIngest
	err := s.parse(r.Context(), u, func(text []byte, b *schemas.ParsedBatch) (err error) {
		list, err = s.readEvents(text, b)
		return err
	})
	if err != nil {
		return err
	}
	for i := range list {
		if e := &list[i]; e.err == nil {
			e.err = s.stamp(c, e.shares)
		}
	}
	s.Fault("accept")

	ctx, cancel := context.WithTimeout(r.Context(), s.WaitLimit)
	defer cancel()
	async := prefersAsync(r.Header["Prefer"])
	if err := s.submitEvents(ctx, list, async); err != nil {
		return err
	}
	if async {
		c.Response().Header().Set("Preference-Applied", "respond-async")
	}
	b := append(make([]byte, 0, 256*len(list)), `{"results":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = s.appendEventResult(b, &list[i])
	}
	return sendJSON(c, http.StatusOK, append(b, ']', '}'))
}

// readEvents parses a list of CloudEvents. The limit on events holds for all of
// them together.
func (s *Server) readEvents(text []byte, b *schemas.ParsedBatch) ([]eventIngest, error) {
	events, bad := schemas.ParseIngestEvents(text)
	if bad != nil {
		return nil, bad
	}
	list := make([]eventIngest, len(events))
	total := 0
	for i := range events {
		bad := events[i].Err
		if bad == nil {
			bad = events[i].ParseBatch(b)
		}
		if bad != nil {
			list[i].err = bad
			continue
		}
		if total += b.Total(); total > schemas.MaxEventsPerBatch {
			return nil, schemas.Errorf(schemas.CodeTooManyEvents, "more than %d events in one request: split it", schemas.MaxEventsPerBatch)
		}
		list[i].ingestRequest = s.split(b)
		forget(b)
	}
	return list, nil
}

// submitEvents hands all events to the log before it waits for any, so that they
// share its groups.
func (s *Server) submitEvents(ctx context.Context, list []eventIngest, async bool) error {
	for i := range list {
		if list[i].err != nil {
			continue
		}
		if err := s.admitShares(list[i].shares); err != nil {
			return err
		}
	}
	for i := range list {
		e := &list[i]
		if e.err != nil {
			continue
		}
		if e.waiting, e.err = s.enqueue(e.ingestRequest); e.err != nil {
			for _, before := range list[:i] {
				abandon(before.waiting)
			}
			return e.err
		}
	}
	for i := range list {
		e := &list[i]
		if e.err != nil {
			continue
		}
		if e.result, e.err = await(ctx, e.ingestRequest, e.waiting, async); unavailableError(e.err) {
			for _, after := range list[i+1:] {
				abandon(after.waiting)
			}
			return e.err
		}
	}
	return nil
}

// appendEventResult writes what the event would have been answered alone.
func (s *Server) appendEventResult(b []byte, e *eventIngest) []byte {
	o := &e.result.outcome
	switch {
	case e.err == nil && !e.result.applied:
		return appendAccepted(b, e.batchID, statusURL(e.batchID, e.result.refs))
	case e.err == nil && o.Conflict:
		e.err = batchConflict(e.batchID)
	case e.err == nil:
		s.metrics.ingested(o)
		return appendResult(b, e.batchID, o)
	}
	p := problemOf(e.err)
	return appendProblem(b, p, statusOf[p.Code])
}
