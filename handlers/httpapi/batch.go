package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"grout/schemas"
)

// maxCommandRefs bounds how many commands one status URL may name.
const maxCommandRefs = 64

// batchStatus serves GET /api/usage/batches/{batch_id}: the result of the very
// request a status URL was given for, or, by app, of the batch id.
func (s *Server) batchStatus(c echo.Context) error {
	id, err := pathParam(c, "batch_id")
	if err != nil {
		return err
	}
	q, err := readQuery(c.Request().URL.RawQuery, "app_id", "request")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), readLimit)
	defer cancel()
	status, found, err := s.findBatch(ctx, id, q)
	if err != nil {
		return fmt.Errorf("status of a batch: %w", err)
	}
	if status.BatchID == "" && !status.Applied {
		status.BatchID = id // commands that wait are not decoded for this
	}
	if !found || status.BatchID != id {
		return schemas.Errorf(schemas.CodeNotFound, "Batch not found")
	}
	state := "applied"
	if !status.Applied {
		// What some of its commands did is no result of the request.
		state, status.Outcome = "accepted", schemas.IngestOutcome{}
	}
	b := append(make([]byte, 0, 256+128*len(status.Outcome.Errors)), `{"batch_id":`...)
	b = appendAnyText(b, status.BatchID)
	b = append(b, `,"status":"`...)
	b = append(b, state...)
	b = append(b, '"')
	b = appendCounts(b, &status.Outcome)
	return sendJSON(c, http.StatusOK, append(b, '}'))
}

func (s *Server) findBatch(ctx context.Context, id string, q query) (schemas.BatchStatus, bool, error) {
	if text, given := q.get("request"); given {
		refs, err := s.parseRefs(text)
		if err != nil || refs == nil {
			return schemas.BatchStatus{}, false, err
		}
		return s.Reads.BatchByRef(ctx, refs)
	}
	app := q.text("app_id", s.AppID, schemas.MaxIDChars)
	if err := q.err(); err != nil {
		return schemas.BatchStatus{}, false, err
	}
	return s.Reads.BatchByID(ctx, app, id)
}

// parseRefs reads the references of a status URL. No references and no error: one
// of them names a partition that does not exist, so nothing can be found.
func (s *Server) parseRefs(text string) ([]schemas.CommandRef, error) {
	parts := strings.Split(text, ",")
	if len(parts) > maxCommandRefs {
		return nil, badRefs(fmt.Sprintf("request names more than %d commands", maxCommandRefs))
	}
	refs := make([]schemas.CommandRef, 0, len(parts))
	for _, part := range parts {
		ref, ok := parseRef(part)
		if !ok {
			return nil, badRefs("request must hold partition.sequence.index, separated by commas, as a status URL does")
		}
		if slices.Contains(refs, ref) {
			return nil, badRefs("request names a command twice")
		}
		refs = append(refs, ref)
	}
	for _, ref := range refs {
		if ref.Partition >= s.Partitions {
			return nil, nil
		}
	}
	return refs, nil
}

func parseRef(s string) (schemas.CommandRef, bool) {
	fields := strings.Split(s, ".")
	if len(fields) != 3 {
		return schemas.CommandRef{}, false
	}
	partition, err1 := strconv.ParseUint(fields[0], 10, 31)
	seq, err2 := strconv.ParseUint(fields[1], 10, 64)
	index, err3 := strconv.ParseUint(fields[2], 10, 32)
	ref := schemas.CommandRef{Partition: int(partition), Seq: seq, Index: uint32(index)}
	return ref, err1 == nil && err2 == nil && err3 == nil && seq > 0
}

func badRefs(msg string) error { return invalid(msg, queryFault("request", msg, "value_error")) }

// pathParam gives a parameter of the path as it was meant. Echo matches, and
// hands out, the escaped path whenever there is one.
func pathParam(c echo.Context, name string) (string, error) {
	v := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return v, nil
	}
	text, err := url.PathUnescape(v)
	if err != nil {
		return "", echo.ErrNotFound
	}
	return text, nil
}
