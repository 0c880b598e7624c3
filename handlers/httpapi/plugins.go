package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
)

// plugins serves GET /api/plugins and its alias (contract §4): the plugins that there are,
// with MONETIZATION those that the user may use.
func (s *Server) plugins(c echo.Context) error {
	if _, err := readQuery(c.Request().URL.RawQuery); err != nil {
		return err
	}
	who := callerOf(c)
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	list, err := s.Plugins.List(ctx, Subject{App: who.App, User: who.UserID})
	if err != nil {
		return fmt.Errorf("list of plugins: %w", err)
	}
	b := []byte(`{"plugins":[`)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendPlugin(b, &list[i])
	}
	return sendJSON(c, http.StatusOK, append(b, ']', '}'))
}

func appendPlugin(b []byte, p *Plugin) []byte {
	b = appendAnyText(append(b, `{"name":`...), p.Name)
	b = appendAnyText(append(b, `,"display_name":`...), p.DisplayName)
	b = appendAnyText(append(b, `,"description":`...), p.Description)
	b = appendAnyText(append(b, `,"version":`...), p.Version)
	b = strconv.AppendBool(append(b, `,"enabled":`...), p.Enabled)
	b = appendAnyText(append(b, `,"backend":`...), p.Backend)
	if p.Error != "" {
		b = appendAnyText(append(b, `,"error":`...), p.Error)
	}
	return append(b, '}')
}
