package httpapi

import (
	"net/http"
	"net/url"
	"strconv"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// answerApplied is the 200 or 409 of an ingest request (contract §7).
func (s *Server) answerApplied(c echo.Context, batchID string, o *schemas.IngestOutcome) error {
	if o.Conflict {
		return batchConflict(batchID)
	}
	if o.Replayed {
		c.Response().Header().Set("Idempotency-Replayed", "true")
	}
	s.metrics.ingested(o)
	return sendJSON(c, http.StatusOK, appendResult(make([]byte, 0, 256+128*len(o.Errors)), batchID, o))
}

func batchConflict(batchID string) error {
	return schemas.Errorf(schemas.CodeBatchConflict, "Batch %q was sent before with other events; nothing was applied", batchID)
}

func appendResult(b []byte, batchID string, o *schemas.IngestOutcome) []byte {
	b = append(b, `{"batch_id":`...)
	b = appendAnyText(b, batchID)
	b = appendCounts(b, o)
	return append(b, '}')
}

// appendCounts writes what ingest answers and batch results have in common.
func appendCounts(b []byte, o *schemas.IngestOutcome) []byte {
	b = append(b, `,"accepted":`...)
	b = strconv.AppendInt(b, int64(o.Accepted), 10)
	b = append(b, `,"duplicates":`...)
	b = strconv.AppendInt(b, int64(o.Duplicates), 10)
	b = append(b, `,"rejected":`...)
	b = strconv.AppendInt(b, int64(o.Rejected), 10)
	b = append(b, `,"failed":`...)
	b = strconv.AppendInt(b, int64(o.Rejected), 10)
	return appendErrors(b, o.Errors)
}

func appendErrors(b []byte, list []schemas.EventError) []byte {
	b = append(b, `,"errors":[`...)
	for i := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendEventError(b, &list[i])
	}
	return append(b, ']')
}

func appendEventError(b []byte, e *schemas.EventError) []byte {
	b = append(b, `{"index":`...)
	b = strconv.AppendUint(b, uint64(e.Index), 10)
	b = append(b, `,"event_id":`...)
	if e.EventID == "" {
		b = append(b, "null"...)
	} else {
		b = appendAnyText(b, e.EventID)
	}
	b = append(b, `,"code":`...)
	b = appendAnyText(b, string(e.Code))
	b = append(b, `,"detail":`...)
	b = appendAnyText(b, e.Detail)
	return append(b, '}')
}

// answerAccepted is the 202 of a request that is durable and not applied yet.
func answerAccepted(c echo.Context, batchID string, refs []schemas.CommandRef) error {
	location := statusURL(batchID, refs)
	c.Response().Header().Set("Location", location)
	return sendJSON(c, http.StatusAccepted, appendAccepted(make([]byte, 0, 256), batchID, location))
}

func appendAccepted(b []byte, batchID, location string) []byte {
	b = append(b, `{"batch_id":`...)
	b = appendAnyText(b, batchID)
	b = append(b, `,"status":"accepted","status_url":`...)
	b = appendAnyText(b, location)
	return append(b, '}')
}

// statusURL names the result of one request: its commands, not only its batch
// id, which another request may carry as well (contract §7).
func statusURL(batchID string, refs []schemas.CommandRef) string {
	b := append([]byte("/api/usage/batches/"), url.PathEscape(batchID)...)
	b = append(b, "?request="...)
	for i, r := range refs {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(r.Partition), 10)
		b = append(b, '.')
		b = strconv.AppendUint(b, r.Seq, 10)
		b = append(b, '.')
		b = strconv.AppendUint(b, uint64(r.Index), 10)
	}
	return string(b)
}
