package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// check serves POST /api/entitlements/check (contract §5.3). One that counts is a
// command, unless it is sure to be refused and has nothing new to tell.
func (s *Server) check(c echo.Context) error {
	app, r, err := s.readCheck(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	d, final, err := s.Entitlements.Check(ctx, app, &r, 0)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if !r.Count || final && !d.Allowed {
		if r.Count {
			s.metrics.refusedEarly.WithLabelValues(string(d.Code)).Inc()
		}
		s.rateHeaders(c, &d, d.Allowed)
		return s.answerCheck(c, d.Verdict.String(), d.AppendCheck(nil, app, false))
	}
	answer, applied, err := s.run(c, schemas.CheckEntitlement.Name, app, r.EncodePayload(nil))
	switch {
	case err != nil:
		return err
	case !applied: // nobody could use what is decided later
		return unavailable("The check was not decided in time; try again", nil)
	}
	var said struct {
		Allowed  bool
		Decision string
	}
	if err := json.Unmarshal(answer, &said); err != nil {
		return fmt.Errorf("answer of a check: %w", err)
	}
	if d, _, err := s.Entitlements.Check(ctx, app, &r, 0); err == nil { // with what was counted
		s.rateHeaders(c, &d, said.Allowed)
	}
	return s.answerCheck(c, said.Decision, answer)
}

// explain serves POST /api/entitlements/explain: a check that counts nothing, with every
// rule that was held against it, now or at an instant that has passed.
func (s *Server) explain(c echo.Context) error {
	p, err := readQuery(c.Request().URL.RawQuery, "as_of")
	if err != nil {
		return err
	}
	asOf := p.instant("as_of", 0)
	if err := p.err(); err != nil {
		return err
	}
	app, r, err := s.readCheck(c)
	if err != nil {
		return err
	}
	r.Count = false
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	d, _, err := s.Entitlements.Check(ctx, app, &r, asOf)
	if err != nil {
		return fmt.Errorf("explain: %w", err)
	}
	return sendJSON(c, http.StatusOK, d.AppendCheck(nil, app, true))
}

func (s *Server) readCheck(c echo.Context) (app string, check schemas.EntitlementCheck, err error) {
	body, err := s.readJSON(c.Request())
	if err != nil {
		return "", check, err
	}
	app, check, fault := schemas.ParseEntitlementCheck(body.bytes)
	body.release()
	if fault != nil {
		return "", check, fault
	}
	who := callerOf(c)
	if who.Key {
		return cmp.Or(app, s.AppID), check, nil
	}
	app, err = who.asksForSelf(s, app, &check)
	return app, check, err
}

// asksForSelf lets a user ask what the user may do, without counting it. A tenant has no
// user of this app's for certain, so its budgets are not told.
func (c caller) asksForSelf(s *Server, app string, check *schemas.EntitlementCheck) (string, error) {
	switch {
	case check.Count:
		return "", errUserDenied
	case check.UserID != "" && check.UserID != c.UserID || check.TenantID != "":
		return "", errNotYours
	}
	check.UserID = c.UserID
	return c.appOf(s, app)
}

func (s *Server) answerCheck(c echo.Context, decision string, answer []byte) error {
	s.metrics.decisions.WithLabelValues("check", decision).Inc()
	return sendJSON(c, http.StatusOK, answer)
}

// rateHeaders tells how rate limits stand (draft-ietf-httpapi-ratelimit-headers), and
// when to come back to one that is used up.
func (s *Server) rateHeaders(c echo.Context, d *schemas.Decision, allowed bool) {
	now := s.Now().UnixNano()
	var policies, states []string
	for _, r := range d.Rates {
		if r.Limit < 0 || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }) {
			continue // it cannot be written there
		}
		policy, state := fmt.Sprintf(`"%s";q=%d`, r.Name, r.Limit), fmt.Sprintf(`"%s";r=%d`, r.Name, r.Remaining)
		if r.Window > 0 {
			policy += fmt.Sprintf(";w=%d", ceilSeconds(r.Window))
		} else {
			policy += `;qu="concurrent-requests"`
		}
		if r.ResetsAt > now {
			state += fmt.Sprintf(";t=%d", ceilSeconds(r.ResetsAt-now))
		}
		policies, states = append(policies, policy), append(states, state)
	}
	h := c.Response().Header()
	if len(policies) > 0 {
		h.Set("RateLimit-Policy", strings.Join(policies, ", "))
		h.Set("RateLimit", strings.Join(states, ", "))
	}
	if limited := d.Code == schemas.CodeRateLimited || d.Code == schemas.CodeLimitExceeded; limited && !allowed && d.ResetsAt > now {
		h.Set("Retry-After", strconv.FormatInt(ceilSeconds(d.ResetsAt-now), 10))
	}
}

func ceilSeconds(nanos int64) int64 { return (nanos + 999_999_999) / 1_000_000_000 }
