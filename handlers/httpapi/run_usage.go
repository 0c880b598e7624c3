package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

const (
	// runUsageLimit is how long the usage of a run may be waited for and summed.
	runUsageLimit = 5 * time.Second
	// maxRunSums is how many such sums are made at a time: each walks the event log.
	maxRunSums = 2
)

// runUsage serves GET /api/runs/{run_id}/usage: what the events of a run count for, in all
// and by agent.
func (s *Server) runUsage(c echo.Context) error {
	r, err := s.askedRun(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), runUsageLimit)
	defer cancel()
	u, err := s.sumRun(ctx, r)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && c.Request().Context().Err() == nil:
		return schemas.Errorf(schemas.CodeUnavailable, "The usage of the run could not be summed within %s; GET /api/usage/events has its events page by page", runUsageLimit)
	case err != nil:
		return fmt.Errorf("usage of a run: %w", err)
	case u == nil: // it has expired meanwhile
		return errNoRun
	}
	return sendJSON(c, http.StatusOK, s.appendRunUsage(nil, u))
}

func (s *Server) sumRun(ctx context.Context, r *schemas.Run) (*schemas.RunUsage, error) {
	select {
	case s.summing <- struct{}{}:
		defer func() { <-s.summing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.Runs.RunUsage(ctx, r.AppID, r.ID)
}

func (s *Server) appendRunUsage(b []byte, u *schemas.RunUsage) []byte {
	r := u.Run
	b = appendAnyText(append(b, `{"run_id":`...), r.ID)
	b = appendAnyText(append(b, `,"app_id":`...), r.AppID)
	b = appendGroup(append(b, `,"chat_id":`...), r.RunToken())
	b = appendGroup(append(b, `,"user_id":`...), r.UserID)
	b = appendAnyText(append(b, `,"status":`...), r.Status.String())
	b = appendGroup(append(b, `,"started_at":`...), instantOrEmpty(r.StartedAt))
	b = appendGroup(append(b, `,"ended_at":`...), instantOrEmpty(r.EndedAt))
	until := r.EndedAt
	if !r.Status.Ended() {
		until = s.Now().UnixNano()
	}
	b = schemas.AppendAmount(append(b, `,"duration_sec":`...), schemas.AmountOf(max(0, until-r.StartedAt)))
	b = appendGroup(append(b, `,"expired_until":`...), instantOrEmpty(u.ExpiredUntil))
	b = u.Totals.AppendFields(append(b, `,"totals":{`...))
	b = append(b, `},"agents":[`...)
	for i := range u.Agents {
		a := &u.Agents[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = appendAnyText(append(b, `{"agent_name":`...), a.Agent)
		b = append(a.AppendFields(append(b, ',')), '}')
	}
	return append(b, `]}`...)
}
