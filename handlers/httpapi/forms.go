package httpapi

import (
	"context"
	"errors"
	"mime"
	"net/http"
	"strings"

	"grout/schemas"
)

// bodyForm is how the events of an ingest request are written (contract §7).
type bodyForm int

const (
	formBatch       bodyForm = iota // a JSON object with a list of events
	formLines                       // an event per line
	formEvent                       // a CloudEvent as JSON
	formEvents                      // a list of CloudEvents as JSON
	formBinaryEvent                 // a CloudEvent whose attributes are headers
)

var formOfMedia = map[string]bodyForm{
	"application/json":                   formBatch,
	"application/x-ndjson":               formLines,
	"application/jsonlines":              formLines,
	"application/cloudevents+json":       formEvent,
	"application/cloudevents-batch+json": formEvents,
}

// binaryHeaders are the headers of which one makes a request a CloudEvent in
// binary mode, so that a missing one is noticed.
var binaryHeaders = []string{"Ce-Specversion", "Ce-Id", "Ce-Source", "Ce-Type"}

// formOf tells the form of an ingest body from its headers. No content type is
// taken as JSON (contract §1).
func formOf(h http.Header) (bodyForm, error) {
	form := formBatch
	if v := h.Get("Content-Type"); v != "" && v != "application/json" {
		media, params, err := mime.ParseMediaType(v)
		known := false
		if err == nil {
			form, known = formOfMedia[media]
		}
		if !known {
			return 0, schemas.Errorf(schemas.CodeMediaType,
				"Content-Type %.80q is not supported: send application/json, application/x-ndjson, or a CloudEvent as application/cloudevents+json or application/cloudevents-batch+json", v)
		}
		if charset, given := params["charset"]; given && !strings.EqualFold(charset, "utf-8") {
			return 0, schemas.Errorf(schemas.CodeMediaType, "Charset %.40q is not supported: JSON is UTF-8", charset)
		}
	}
	if form == formEvent || form == formEvents {
		return form, nil
	}
	for _, name := range binaryHeaders {
		if _, given := h[name]; !given {
			continue
		}
		if form != formBatch {
			return 0, schemas.Errorf(schemas.CodeMediaType, "A CloudEvent in binary mode holds application/json, not application/x-ndjson")
		}
		return formBinaryEvent, nil
	}
	return form, nil
}

// readForm parses the text of a request that holds one batch.
func readForm(form bodyForm, h http.Header, text []byte, b *schemas.ParsedBatch) error {
	var err *schemas.Error
	switch form {
	case formLines:
		err = schemas.ParseUsageLines(text, b)
	case formEvent:
		var e schemas.IngestEvent
		if e, err = schemas.ParseIngestEvent(text); err == nil {
			err = e.ParseBatch(b)
		}
	case formBinaryEvent:
		var e schemas.IngestEvent
		attribute := func(name string) []string { return h.Values("Ce-" + name) }
		if e, err = schemas.BinaryIngestEvent(attribute, h.Get("Content-Type"), text); err == nil {
			err = e.ParseBatch(b)
		}
	default:
		err = schemas.ParseUsageBatch(text, b)
	}
	return plain(err)
}

// plain keeps a nil *schemas.Error from becoming an error that is not nil.
func plain(err *schemas.Error) error {
	if err == nil {
		return nil
	}
	return err
}

// upload is a request body as sent, which is unpacked when it is parsed.
type upload struct {
	body   body
	coding coding
}

// readUpload reads a body that may be compressed.
func (s *Server) readUpload(r *http.Request, answer http.Header) (upload, error) {
	c, err := codingOf(r.Header)
	if err != nil {
		answer.Set("Accept-Encoding", "gzip, zstd")
		return upload{}, err
	}
	b, err := s.readBody(r)
	return upload{b, c}, err
}

// parse unpacks a body and has it read; the batch is for read to use and its
// texts are void afterwards. It releases the body, and uses one of the tokens of
// s.parsing, because unpacking and parsing are bound by the processor and what
// they make is larger than the body.
func (s *Server) parse(ctx context.Context, u upload, read func(text []byte, b *schemas.ParsedBatch) error) error {
	defer func() { u.body.release() }()
	select {
	case s.parsing <- struct{}{}:
		defer func() { <-s.parsing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if u.coding != identity {
		unpacked, err := s.unpack(u)
		if err != nil {
			return err
		}
		u.body.release()
		u.body = unpacked
	}
	parsed := batchPool.Get().(*schemas.ParsedBatch)
	defer func() {
		if cap(parsed.Events) <= maxPooledEvents {
			forget(parsed)
			batchPool.Put(parsed)
		}
	}()
	return read(u.body.bytes, parsed)
}

// forget drops the texts of a batch, which point into a body.
func forget(b *schemas.ParsedBatch) {
	clear(b.Events)
	clear(b.Rejected)
}

// unavailableError tells whether err is a 503 of ours, which the same request may
// not meet again.
func unavailableError(err error) bool {
	var known *schemas.Error
	return errors.As(err, &known) && statusOf[known.Code] == http.StatusServiceUnavailable
}
