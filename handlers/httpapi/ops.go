package httpapi

import (
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
)

// health says that the process answers; it checks no dependency (contract §2).
func (s *Server) health(c echo.Context) error {
	b := append([]byte(nil), `{"status":"healthy","app_id":`...)
	b = appendAnyText(b, s.AppID)
	b = append(b, `,"app_tier":`...)
	b = appendAnyText(b, s.AppTier)
	b = strconv.AppendInt(append(b, `,"plugins_loaded":`...), int64(s.Plugins.Loaded()), 10)
	return sendJSON(c, http.StatusOK, append(b, '}'))
}

// ready says whether grout can do its work (contract §2).
func (s *Server) ready(c echo.Context) error {
	ok, reason := s.Health.Ready()
	if !ok {
		b := append([]byte(nil), `{"status":"not_ready","reason":`...)
		b = appendAnyText(b, reason)
		b = append(b, `,"app_id":`...)
		b = appendAnyText(b, s.AppID)
		return sendJSON(c, http.StatusServiceUnavailable, append(b, '}'))
	}
	b := append([]byte(nil), `{"status":"ready","app_id":`...)
	b = appendAnyText(b, s.AppID)
	b = append(b, `,"app_tier":`...)
	b = appendAnyText(b, s.AppTier)
	if list := s.Health.Alarms(); len(list) > 0 {
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		b = append(append(b, `,"alarms":`...), text...)
	}
	if n := s.DeadLetters.Waiting(); n > 0 {
		b = strconv.AppendInt(append(b, `,"dead_letters":`...), n, 10)
	}
	if list := s.Webhooks.Trouble(); len(list) > 0 {
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		b = append(append(b, `,"deliveries":`...), text...)
	}
	return sendJSON(c, http.StatusOK, append(b, '}'))
}

// info names what runs here (contract §2).
func (s *Server) info(c echo.Context) error {
	ready, _ := s.Health.Ready()
	b := append([]byte(nil), `{"app_id":`...)
	b = appendAnyText(b, s.AppID)
	b = append(b, `,"app_tier":`...)
	b = appendAnyText(b, s.AppTier)
	b = append(b, `,"app_name":`...)
	b = appendAnyText(b, s.AppName)
	b = append(b, `,"port":`...)
	b = strconv.AppendInt(b, int64(s.Port()), 10)
	b = append(b, `,"ready":`...)
	b = strconv.AppendBool(b, ready)
	return sendJSON(c, http.StatusOK, append(b, '}'))
}

// document serves an API description.
func document(text []byte) echo.HandlerFunc {
	return func(c echo.Context) error { return sendJSON(c, http.StatusOK, text) }
}
