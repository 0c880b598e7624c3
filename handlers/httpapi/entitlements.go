package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// syncEntitlement serves POST /api/internal/entitlement/sync (contract §5.1).
func (s *Server) syncEntitlement(c echo.Context) error {
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	m, fault := schemas.ParseManifest(body.bytes)
	body.release()
	if fault != nil {
		return fault
	}
	return s.syncManifest(c, m)
}

// syncApp serves POST /api/v1/entitlements/{app_id}/sync (contract §5.1).
func (s *Server) syncApp(c echo.Context) error {
	app, err := idParam(c, "app_id")
	if err != nil {
		return err
	}
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	m, fault := schemas.ParseManifest(body.bytes)
	body.release()
	switch {
	case fault != nil:
		return fault
	case m.AppID != app:
		return schemas.Errorf(schemas.CodeAppMismatch, "app_id mismatch: URL has '%s', body has '%s'", app, m.AppID)
	}
	return s.syncManifest(c, m)
}

// syncSubscription serves POST /api/internal/subscription/sync: the flat legacy body, or
// a manifest (contract §5.1).
func (s *Server) syncSubscription(c echo.Context) error {
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	sub, m, fault := schemas.ParseSubscription(body.bytes)
	body.release()
	switch {
	case fault != nil:
		return fault
	case m != nil:
		return s.syncManifest(c, m)
	}
	app := cmp.Or(sub.AppID, s.AppID)
	answer, applied, err := s.run(c, schemas.SyncSubscription.Name, app, (&schemas.SubscriptionSync{Subscription: sub}).EncodePayload(nil))
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "user_id", sub.UserID)
	}
	return sendJSON(c, http.StatusOK, answer)
}

// syncManifest takes a manifest. A revision that is not higher than the stored one only
// gets staler, so it is refused without a command.
func (s *Server) syncManifest(c echo.Context, m *schemas.Manifest) error {
	if err := s.judgeEarly(c, func(ctx context.Context) error { return s.Entitlements.JudgeSync(ctx, m) }); err != nil {
		return err
	}
	answer, applied, err := s.run(c, schemas.SyncEntitlement.Name, m.AppID, (&schemas.ManifestSync{Manifest: m}).EncodePayload(nil))
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "app_id", m.AppID)
	}
	return sendJSON(c, http.StatusOK, answer)
}

// judgeEarly judges by what is committed before anything enters the log, so that no
// flood of what is refused fills it. Whoever asks has seen no later answer.
func (s *Server) judgeEarly(c echo.Context, judge func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	err := judge(ctx)
	if err == nil {
		return nil
	}
	if known := (*schemas.Error)(nil); errors.As(err, &known) {
		s.metrics.refusedEarly.WithLabelValues(string(known.Code)).Inc()
	}
	return fmt.Errorf("judge by what is committed: %w", err)
}

// entitled serves GET /api/v1/entitlements/{app_id} (contract §5.1).
func (s *Server) entitled(c echo.Context) error {
	app, err := idParam(c, "app_id")
	if err != nil {
		return err
	}
	p, err := readQuery(c.Request().URL.RawQuery, "user_id", "tenant_id", "as_of")
	if err != nil {
		return err
	}
	who := Subject{App: app, User: p.text("user_id", "", schemas.MaxIDChars), Tenant: p.text("tenant_id", "", schemas.MaxIDChars)}
	asOf := p.instant("as_of", 0)
	if err := p.err(); err != nil {
		return err
	}
	by := callerOf(c)
	if who.App, who.User, err = by.scope(s, who.App, who.User); err != nil {
		return err
	}
	if who.Tenant != "" && !by.wholeApp() {
		return errNotYours
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	answer, err := s.Entitlements.Entitled(ctx, who, asOf)
	if err != nil {
		return fmt.Errorf("entitlements: %w", err)
	}
	return sendJSON(c, http.StatusOK, answer)
}

// syncedApps serves GET /api/v1/entitlements (contract §5.1).
func (s *Server) syncedApps(c echo.Context) error {
	if _, err := readQuery(c.Request().URL.RawQuery); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	apps, err := s.Entitlements.SyncedApps(ctx)
	if err != nil {
		return fmt.Errorf("synced apps: %w", err)
	}
	b := []byte(`{"apps":[`)
	for i, app := range apps {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendAnyText(b, app)
	}
	b = strconv.AppendInt(append(b, `],"count":`...), int64(len(apps)), 10)
	return sendJSON(c, http.StatusOK, append(b, '}'))
}

// Versions of a manifest on a page. A page of large ones is short.
const (
	defaultVersions = 20
	maxVersions     = 100
	maxVersionBytes = 4 << 20
)

// versions serves GET /api/v1/entitlements/{app_id}/versions: the manifests of one
// scope, newest first.
func (s *Server) versions(c echo.Context) error {
	app, err := idParam(c, "app_id")
	if err != nil {
		return err
	}
	p, err := readQuery(c.Request().URL.RawQuery, "user_id", "tenant_id", "limit", "cursor")
	if err != nil {
		return err
	}
	user, tenant := p.text("user_id", "", schemas.MaxIDChars), p.text("tenant_id", "", schemas.MaxIDChars)
	q := VersionQuery{App: app, Scope: schemas.ScopesOf(tenant, user)[0], Limit: p.number("limit", defaultVersions, 1, maxVersions)}
	if user != "" && tenant != "" {
		p.fault("tenant_id", "tenant_id and user_id are two scopes: ask for one of them", "value_error")
	}
	if text, given := p.get("cursor"); given {
		var ok bool
		if q.Before, ok = versionPlace(text); !ok {
			p.fault("cursor", "cursor must be the next_cursor of a page", "value_error")
		}
	}
	if err := p.err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	page, err := s.Entitlements.Versions(ctx, q)
	if err != nil {
		return fmt.Errorf("versions of a manifest: %w", err)
	}
	return sendJSON(c, http.StatusOK, appendVersions(nil, &page))
}

func appendVersions(b []byte, page *VersionPage) []byte {
	b = append(b, `{"versions":[`...)
	more, last := page.More, VersionPlace{}
	for i := range page.Versions {
		v := &page.Versions[i]
		if i > 0 && len(b)+len(v.Manifest) > maxVersionBytes {
			more = true
			break
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(append(b, `{"revision":`...), v.Revision, 10)
		b = appendAnyText(append(b, `,"synced_at":`...), schemas.InstantText(v.At))
		from := "manifest"
		if v.Legacy {
			from = "subscription"
		}
		b = appendAnyText(append(b, `,"synced_as":`...), from)
		b = appendAnyText(append(b, `,"correlation_id":`...), v.CorrelationID)
		b = append(append(b, `,"manifest":`...), v.Manifest...)
		b = append(b, '}')
		last = v.Place
	}
	b = append(b, `],"next_cursor":`...)
	if !more {
		return append(b, "null}"...)
	}
	return append(appendAnyText(b, fmt.Sprintf("%d.%d", last.Seq, last.Index)), '}')
}

func versionPlace(text string) (at VersionPlace, ok bool) {
	seq, index, _ := strings.Cut(text, ".")
	n, err := strconv.ParseUint(seq, 10, 64)
	i, err2 := strconv.ParseUint(index, 10, 32)
	return VersionPlace{n, uint32(i)}, err == nil && err2 == nil && n > 0
}
