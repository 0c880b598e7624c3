package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// reserve serves POST /api/budgets/reservations (contract §5.3). What is sure to be
// refused is refused without a command; what is granted is granted in the log.
func (s *Server) reserve(c echo.Context) error {
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	app, r, fault := schemas.ParseBudgetReserve(body.bytes)
	body.release()
	if fault != nil {
		return fault
	}
	app = cmp.Or(app, s.AppID)
	made := r.ReservationID == ""
	if made {
		r.ReservationID = uuid.NewString()
	}
	err = s.judgeEarly(c, func(ctx context.Context) error { return s.Entitlements.JudgeReserve(ctx, app, &r, made) })
	var answer []byte
	var applied bool
	if err == nil {
		answer, applied, err = s.run(c, schemas.ReserveBudget.Name, app, r.EncodePayload(nil))
	}
	s.reserved(applied, err)
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "reservation_id", r.ReservationID)
	}
	return sendJSON(c, http.StatusCreated, answer)
}

// reserved counts what became of a reservation.
func (s *Server) reserved(granted bool, err error) {
	known := (*schemas.Error)(nil)
	switch {
	case granted:
		s.metrics.decisions.WithLabelValues("reserve", "granted").Inc()
	case errors.As(err, &known) && statusOf[known.Code] == http.StatusPaymentRequired:
		s.metrics.decisions.WithLabelValues("reserve", schemas.VerdictHard.String()).Inc()
	}
}

// settle serves POST /api/budgets/reservations/{reservation_id}/settle.
func (s *Server) settle(c echo.Context) error {
	return s.changeHold(c, schemas.SettleBudget.Name, func(id string, body []byte) (string, HoldChange, []byte, *schemas.Error) {
		app, b, err := schemas.ParseBudgetSettle(body)
		if err != nil {
			return "", HoldChange{}, nil, err
		}
		b.ReservationID = id
		event := schemas.UsageEvent{EventID: strings.Clone(b.Event.EventID)} // body is reused
		return strings.Clone(app), HoldChange{ID: id, Settle: &event}, b.EncodePayload(nil), nil
	})
}

// extend serves POST /api/budgets/reservations/{reservation_id}/extend.
func (s *Server) extend(c echo.Context) error {
	return s.changeHold(c, schemas.ExtendBudget.Name, func(id string, body []byte) (string, HoldChange, []byte, *schemas.Error) {
		app, b, err := schemas.ParseBudgetExtend(body)
		if err != nil {
			return "", HoldChange{}, nil, err
		}
		b.ReservationID = id
		return app, HoldChange{ID: id, Extend: true}, b.EncodePayload(nil), nil
	})
}

// changeHold takes one command about a reservation whose body names the app.
func (s *Server) changeHold(c echo.Context, kind string, read func(id string, body []byte) (string, HoldChange, []byte, *schemas.Error)) error {
	id, err := idParam(c, "reservation_id")
	if err != nil {
		return err
	}
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	app, change, payload, fault := read(id, body.bytes)
	body.release()
	if fault != nil {
		return fault
	}
	return s.runHold(c, kind, cmp.Or(app, s.AppID), change, payload)
}

// release serves DELETE /api/budgets/reservations/{reservation_id}.
func (s *Server) release(c echo.Context) error {
	id, err := idParam(c, "reservation_id")
	if err != nil {
		return err
	}
	p, err := readQuery(c.Request().URL.RawQuery, "app_id")
	if err != nil {
		return err
	}
	app := p.text("app_id", s.AppID, schemas.MaxIDChars)
	if err := p.err(); err != nil {
		return err
	}
	return s.runHold(c, schemas.ReleaseBudget.Name, app, HoldChange{ID: id, Release: true}, (&schemas.BudgetRelease{ReservationID: id}).EncodePayload(nil))
}

func (s *Server) runHold(c echo.Context, kind, app string, change HoldChange, payload []byte) error {
	if err := s.judgeEarly(c, func(ctx context.Context) error { return s.Entitlements.JudgeHold(ctx, app, change) }); err != nil {
		return err
	}
	answer, applied, err := s.run(c, kind, app, payload)
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "reservation_id", change.ID)
	}
	return sendJSON(c, http.StatusOK, answer)
}

// holds serves GET /api/budgets/reservations: the open ones of an app, those that end
// first before others.
func (s *Server) holds(c echo.Context) error {
	p, err := readQuery(c.Request().URL.RawQuery, "app_id", "limit", "cursor")
	if err != nil {
		return err
	}
	app, limit := p.text("app_id", s.AppID, schemas.MaxIDChars), p.number("limit", defaultPage, 1, maxPage)
	var from HoldPlace
	if text, given := p.get("cursor"); given {
		n, err := fmt.Sscanf(text, "%d.%d.%d", &from.ExpiresAt, &from.Seq, &from.Index)
		if err != nil || n != 3 || from.text() != text {
			p.fault("cursor", "cursor must be the next_cursor of a page", "value_error")
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	page, err := s.Entitlements.Holds(ctx, app, from, limit)
	if err != nil {
		return fmt.Errorf("open reservations: %w", err)
	}
	return sendJSON(c, http.StatusOK, appendHolds(nil, &page))
}

func (p HoldPlace) text() string { return fmt.Sprintf("%d.%d.%d", p.ExpiresAt, p.Seq, p.Index) }

func appendHolds(b []byte, page *HoldPage) []byte {
	b = append(b, `{"reservations":[`...)
	for i := range page.Holds {
		h := &page.Holds[i]
		if i > 0 {
			b = append(b, ',')
		}
		for j, f := range [...]struct{ name, value string }{
			{"reservation_id", h.ID},
			{"app_id", h.AppID},
			{"user_id", h.UserID},
			{"tenant_id", h.TenantID},
			{"model", h.Model},
			{"granted_at", schemas.InstantText(h.GrantedAt)},
			{"expires_at", schemas.InstantText(h.ExpiresAt)},
		} {
			b = append(b, "{,"[min(j, 1)])
			b = append(appendAnyText(b, f.name), ':')
			if f.value == "" {
				b = append(b, "null"...)
			} else {
				b = appendAnyText(b, f.value)
			}
		}
		b = strconv.AppendInt(append(b, `,"estimated_tokens":`...), h.Tokens.Total, 10)
		b = strconv.AppendInt(append(b, `,"estimated_input_tokens":`...), h.Tokens.Input, 10)
		b = strconv.AppendInt(append(b, `,"estimated_output_tokens":`...), h.Tokens.Output, 10)
		b = append(b, '}')
	}
	b = append(b, `],"next_cursor":`...)
	if !page.More {
		return append(b, "null}"...)
	}
	return append(appendAnyText(b, page.Next.text()), '}')
}
