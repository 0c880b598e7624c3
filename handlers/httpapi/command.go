package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// readJSON reads the whole body of a request that takes JSON.
func (s *Server) readJSON(r *http.Request) (body, error) {
	if err := checkMediaType(r.Header); err != nil {
		return body{}, err
	}
	return s.readBody(r)
}

// run brings one command into the log and waits for its outcome. applied is false when
// it is durable and was not applied within the wait limit. A refusal is an error.
func (s *Server) run(c echo.Context, kind, app string, payload []byte) (answer []byte, applied bool, err error) {
	o, applied, err := s.runCommand(c.Request().Context(), c, kind, app, payload)
	if err == nil && o.Code != "" {
		err = schemas.Errorf(o.Code, "%s", o.Detail)
	}
	if err != nil {
		return nil, false, err
	}
	return o.Body, applied, nil
}

// errMaybeStored is inside the error of a command that may be in the log all the same.
var errMaybeStored = errors.New("the command may be stored")

// runCommand is run for whoever looks at refusals; ctx is for how long the caller waits.
func (s *Server) runCommand(ctx context.Context, c echo.Context, kind, app string, payload []byte) (o schemas.CommandOutcome, applied bool, err error) {
	return s.runCommandIn(ctx, c, schemas.PartitionOf(app, s.Partitions), kind, app, payload)
}

// runCommandIn is runCommand for a partition that the app need not say.
func (s *Server) runCommandIn(ctx context.Context, c echo.Context, partition int, kind, app string, payload []byte) (o schemas.CommandOutcome, applied bool, err error) {
	now := s.Now().UnixNano()
	frame := schemas.CommandFrame{
		Kind: kind, AppID: app, ID: uuid.Must(uuid.NewV7()).String(), Source: commandSource, Time: now, Accepted: now,
		CorrelationID: correlationOf(c), TraceParent: traceParent(c.Request().Header.Get("Traceparent")), Payload: payload,
	}
	s.Fault("accept")

	ctx, cancel := context.WithTimeout(ctx, s.WaitLimit)
	defer cancel()
	pending, err := s.Commands.Submit(partition, frame)
	if err != nil {
		return o, false, submitError(err)
	}
	receipt, err := pending.Wait(ctx)
	switch {
	case err != nil:
		return o, false, fmt.Errorf("%w: %w", unavailable("The command log did not confirm; try again", err), errMaybeStored)
	case receipt.Dead:
		return o, false, schemas.Errorf(schemas.CodeInternal, "The request could not be applied: its command went to the dead letters")
	case receipt.Outcome == nil:
		return o, false, nil
	}
	if err := o.Decode(receipt.Outcome); err != nil {
		return o, false, fmt.Errorf("outcome of %s at %d.%d: %w", kind, receipt.Seq, receipt.Index, err)
	}
	return o, true, nil
}

// accepted answers 202: what was asked for is durable and not applied yet. It names
// what it was about.
func accepted(c echo.Context, field, value string) error {
	b := appendAnyText([]byte{'{'}, field)
	b = appendAnyText(append(b, ':'), value)
	return sendJSON(c, http.StatusAccepted, append(b, `,"status":"accepted"}`...))
}
