package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// statusOf is the HTTP status of each code (contract §1). A code that is missing
// here is a fault of ours.
var statusOf = map[schemas.Code]int{
	schemas.CodeUnauthorized:      http.StatusUnauthorized,
	schemas.CodeForbidden:         http.StatusForbidden,
	schemas.CodeNotFound:          http.StatusNotFound,
	schemas.CodeMethodNotAllowed:  http.StatusMethodNotAllowed,
	schemas.CodeUpgradeRequired:   http.StatusUpgradeRequired,
	schemas.CodeInvalidJSON:       http.StatusBadRequest,
	schemas.CodeInvalidRequest:    http.StatusBadRequest,
	schemas.CodeValidation:        http.StatusUnprocessableEntity,
	schemas.CodeWindowAlignment:   http.StatusUnprocessableEntity,
	schemas.CodeTooManyRows:       http.StatusUnprocessableEntity,
	schemas.CodeSumTooLarge:       http.StatusUnprocessableEntity,
	schemas.CodePayloadTooLarge:   http.StatusRequestEntityTooLarge,
	schemas.CodeTooManyEvents:     http.StatusRequestEntityTooLarge,
	schemas.CodeMediaType:         http.StatusUnsupportedMediaType,
	schemas.CodeBatchConflict:     http.StatusConflict,
	schemas.CodeEventVoided:       http.StatusConflict,
	schemas.CodeEventExpired:      http.StatusGone,
	schemas.CodeEventIsSummary:    http.StatusConflict,
	schemas.CodeAppMismatch:       http.StatusBadRequest,
	schemas.CodeStaleRevision:     http.StatusConflict,
	schemas.CodeReservationOver:   http.StatusConflict,
	schemas.CodeAlreadySettled:    http.StatusConflict,
	schemas.CodeLetterClosed:      http.StatusConflict,
	schemas.CodeLetterGone:        http.StatusGone,
	schemas.CodeNotRetryable:      http.StatusConflict,
	schemas.CodeBudgetExceeded:    http.StatusPaymentRequired,
	schemas.CodePlanExpired:       http.StatusPaymentRequired,
	schemas.CodeFeatureGated:      http.StatusForbidden,
	schemas.CodeLimitExceeded:     http.StatusTooManyRequests,
	schemas.CodeRateLimited:       http.StatusTooManyRequests,
	schemas.CodePluginLoadFailed:  http.StatusNotFound,
	schemas.CodePluginBusy:        http.StatusServiceUnavailable,
	schemas.CodePluginTimeout:     http.StatusInternalServerError,
	schemas.CodePluginError:       http.StatusInternalServerError,
	schemas.CodeWorkerLost:        http.StatusInternalServerError,
	schemas.CodeKeyReused:         http.StatusUnprocessableEntity,
	schemas.CodeRunStarted:        http.StatusConflict,
	schemas.CodeRunFinished:       http.StatusConflict,
	schemas.CodeRunCancelled:      http.StatusConflict,
	schemas.CodeTimestampTooOld:   http.StatusUnprocessableEntity, // of a settlement, as the next two
	schemas.CodeTimestampInFuture: http.StatusUnprocessableEntity,
	schemas.CodeConflict:          http.StatusConflict,
	schemas.CodeTotalBelowSum:     http.StatusUnprocessableEntity,
	schemas.CodeWebhookDisabled:   http.StatusConflict,
	schemas.CodeUnavailable:       http.StatusServiceUnavailable,
	schemas.CodeClockJump:         http.StatusServiceUnavailable,
	schemas.CodeStoreDamaged:      http.StatusServiceUnavailable,
	schemas.CodeNotConfigured:     http.StatusServiceUnavailable,
	schemas.CodeTimeout:           http.StatusRequestTimeout,
	schemas.CodeInternal:          http.StatusInternalServerError,
}

// retryAfterSeconds is when a caller may try again what was unavailable. Ids make
// the repetition harmless (contract §7).
const retryAfterSeconds = "1"

// unavailable is a 503 whose cause, if there is one, is for the log only.
func unavailable(detail string, cause error) error {
	e := schemas.Errorf(schemas.CodeUnavailable, "%s", detail)
	if cause == nil {
		return e
	}
	return fmt.Errorf("%w: %w", e, cause)
}

// invalid is a 422 that names the fields at fault.
func invalid(detail string, fields ...schemas.FieldError) error {
	return &schemas.Error{Code: schemas.CodeValidation, Detail: detail, Fields: fields}
}

// problemOf gives what a caller is told about err. The text of an unexpected
// error stays in the log.
func problemOf(err error) *schemas.Error {
	var known *schemas.Error
	if errors.As(err, &known) && statusOf[known.Code] != 0 {
		return known
	}
	var routing *echo.HTTPError
	if errors.As(err, &routing) {
		switch routing.Code {
		case http.StatusNotFound:
			return schemas.Errorf(schemas.CodeNotFound, "Not found")
		case http.StatusMethodNotAllowed:
			return schemas.Errorf(schemas.CodeMethodNotAllowed, "Method not allowed")
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return schemas.Errorf(schemas.CodeUnavailable, "The answer took too long")
	}
	return schemas.Errorf(schemas.CodeInternal, "Internal server error")
}

// refuse answers with an error in the shape of contract §1.
func (s *Server) refuse(c echo.Context, err error) {
	p := problemOf(err)
	status := statusOf[p.Code]
	h := c.Response().Header()
	switch p.Code {
	case schemas.CodeUnauthorized:
		h.Set("WWW-Authenticate", "Bearer")
	case schemas.CodeUnavailable, schemas.CodeClockJump, schemas.CodePluginBusy:
		h.Set("Retry-After", retryAfterSeconds)
	}
	// A broken connection is all that can go wrong, and nobody is left to be told.
	_ = sendJSON(c, status, appendProblem(nil, p, status))
}

func appendProblem(b []byte, p *schemas.Error, status int) []byte {
	b = append(b, `{"detail":`...)
	b = appendAnyText(b, p.Detail)
	b = append(b, `,"error_code":`...)
	b = appendAnyText(b, string(p.Code))
	b = append(b, `,"status_code":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	if len(p.Fields) > 0 {
		b = append(b, `,"errors":[`...)
		for i, f := range p.Fields {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, `{"loc":`...)
			b = appendLoc(b, f.Loc)
			b = append(b, `,"msg":`...)
			b = appendAnyText(b, f.Msg)
			b = append(b, `,"type":`...)
			b = appendAnyText(b, f.Type)
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// appendLoc writes a path of field names and list indexes.
func appendLoc(b []byte, loc []any) []byte {
	b = append(b, '[')
	for i, step := range loc {
		if i > 0 {
			b = append(b, ',')
		}
		switch v := step.(type) {
		case int:
			b = strconv.AppendInt(b, int64(v), 10)
		default:
			b = appendAnyText(b, fmt.Sprint(v))
		}
	}
	return append(b, ']')
}

// appendAnyText writes text that may hold bytes a caller sent, which need not be
// Unicode.
func appendAnyText(b []byte, s string) []byte {
	return schemas.AppendJSONString(b, strings.ToValidUTF8(s, "\uFFFD"))
}

// sendJSON sends a whole JSON body.
func sendJSON(c echo.Context, status int, body []byte) error {
	w := c.Response()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, err := w.Write(body)
	return err
}
