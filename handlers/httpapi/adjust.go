package httpapi

import (
	"cmp"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// voidEvent serves POST /api/usage/events/{event_id}/void (contract §7).
func (s *Server) voidEvent(c echo.Context) error {
	return s.correct(c, schemas.UsageVoid.Name, func(eventID string, body []byte) (string, []byte, *schemas.Error) {
		app, v, err := schemas.ParseEventVoid(body)
		v.EventID = eventID
		return app, v.EncodePayload(nil), err
	})
}

// amendEvent serves POST /api/usage/events/{event_id}/amend (contract §7).
func (s *Server) amendEvent(c echo.Context) error {
	return s.correct(c, schemas.UsageAmend.Name, func(eventID string, body []byte) (string, []byte, *schemas.Error) {
		app, a, err := schemas.ParseEventAmendment(body)
		a.EventID = eventID
		return app, a.EncodePayload(nil), err
	})
}

// correct takes one correction: read, submit, wait, answer. Its rules are judged
// where it is applied.
func (s *Server) correct(c echo.Context, kind string, read func(eventID string, body []byte) (app string, payload []byte, err *schemas.Error)) error {
	eventID, err := idParam(c, "event_id")
	if err != nil {
		return err
	}
	body, err := s.readJSON(c.Request())
	if err != nil {
		return err
	}
	app, payload, fault := read(eventID, body.bytes)
	app = strings.Clone(app) // a part of the body
	body.release()
	if fault != nil {
		return fault
	}
	answer, applied, err := s.run(c, kind, cmp.Or(app, s.AppID), payload)
	switch {
	case err != nil:
		return err
	case !applied:
		return accepted(c, "event_id", eventID)
	}
	return sendJSON(c, http.StatusOK, answer)
}

// idParam gives an id of the path.
func idParam(c echo.Context, name string) (string, error) {
	id, err := pathParam(c, name)
	if err != nil {
		return "", err
	}
	if id == "" {
		return "", echo.ErrNotFound
	}
	if n := utf8.RuneCountInString(id); !utf8.ValidString(id) || n > schemas.MaxIDChars {
		msg := name + " must have 1 to " + strconv.Itoa(schemas.MaxIDChars) + " characters of valid UTF-8"
		return "", invalid(msg, schemas.FieldError{Loc: []any{"path", name}, Msg: msg, Type: "string_length"})
	}
	return id, nil
}
