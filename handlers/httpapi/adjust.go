package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
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
	r := c.Request()
	eventID, err := idParam(c, "event_id")
	if err != nil {
		return err
	}
	if err := checkMediaType(r.Header); err != nil {
		return err
	}
	body, err := s.readBody(r)
	if err != nil {
		return err
	}
	app, payload, fault := read(eventID, body.bytes)
	app = strings.Clone(app) // a part of the body
	body.release()
	if fault != nil {
		return fault
	}
	if app == "" {
		app = s.AppID
	}
	now := s.Now().UnixNano()
	frame := schemas.CommandFrame{
		Kind: kind, AppID: app, ID: uuid.Must(uuid.NewV7()).String(), Source: commandSource, Time: now, Accepted: now,
		CorrelationID: correlationOf(c), TraceParent: traceParent(r.Header.Get("Traceparent")), Payload: payload,
	}
	s.Fault("accept")

	ctx, cancel := context.WithTimeout(r.Context(), s.WaitLimit)
	defer cancel()
	pending, err := s.Commands.Submit(schemas.PartitionOf(app, s.Partitions), frame)
	if err != nil {
		return submitError(err)
	}
	receipt, err := pending.Wait(ctx)
	if err != nil {
		return unavailable("The command log did not confirm; try again", err)
	}
	return answerCorrection(c, eventID, receipt)
}

func answerCorrection(c echo.Context, eventID string, receipt Receipt) error {
	switch {
	case receipt.Dead:
		return schemas.Errorf(schemas.CodeInternal, "The correction could not be applied: its command went to the dead letters")
	case receipt.Outcome == nil:
		b := appendAnyText([]byte(`{"event_id":`), eventID)
		return sendJSON(c, http.StatusAccepted, append(b, `,"status":"accepted"}`...))
	}
	var o schemas.CommandOutcome
	if err := o.Decode(receipt.Outcome); err != nil {
		return fmt.Errorf("outcome of a correction at %d.%d: %w", receipt.Seq, receipt.Index, err)
	}
	if o.Code != "" {
		return schemas.Errorf(o.Code, "%s", o.Detail)
	}
	return sendJSON(c, http.StatusOK, o.Body)
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
