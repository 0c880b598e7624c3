package httpapi

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"grout/schemas"
)

const (
	// maxBodyBytesInFlight bounds all request bodies in memory together: 1,024
	// connections with 1,000 events each fit.
	maxBodyBytesInFlight = 256 << 20
	// maxPooledBody is the largest buffer that is kept for the next request, so
	// that a few huge bodies do not stay in memory.
	maxPooledBody = 1 << 20
	firstChunk    = 64 << 10 // buffer for a body of unknown length
)

// budget is a number of bytes that may be taken without waiting.
type budget struct{ free atomic.Int64 }

func (b *budget) take(n int64) bool {
	if b.free.Add(-n) >= 0 {
		return true
	}
	b.free.Add(n)
	return false
}

func (b *budget) give(n int64) { b.free.Add(n) }

var bodyPool = sync.Pool{New: func() any { return new([]byte) }}

// body is a request body in memory. Its bytes are void after release.
type body struct {
	bytes  []byte
	pooled *[]byte
	taken  int64
	budget *budget
}

func (b *body) release() {
	if cap(b.bytes) <= maxPooledBody {
		*b.pooled = b.bytes[:0]
	}
	bodyPool.Put(b.pooled)
	b.budget.give(b.taken)
	*b = body{}
}

// grow makes room for a buffer of n bytes in all, as far as the budget allows.
func (b *body) grow(n int64) bool {
	if n > b.taken {
		if !b.budget.take(n - b.taken) {
			return false
		}
		b.taken = n
	}
	if int64(cap(b.bytes)) < n {
		b.bytes = append(make([]byte, 0, n), b.bytes...)
	}
	return true
}

// readBody reads a whole request body.
func (s *Server) readBody(r *http.Request) (body, error) { return s.readUpTo(r, s.MaxBodyBytes) }

// readUpTo reads a whole request body of at most limit bytes. A stated length
// above the limit is refused before anything is read or allocated.
func (s *Server) readUpTo(r *http.Request, limit int64) (body, error) {
	if r.ContentLength > limit {
		return body{}, tooLarge(limit)
	}
	b := s.newBody()
	err := b.fill(r.Body, r.ContentLength, limit)
	known := (*schemas.Error)(nil)
	switch {
	case err == nil:
		return b, nil
	case errors.Is(err, errTooLong):
		err = tooLarge(limit)
	case !errors.As(err, &known):
		err = readError(err)
	}
	b.release()
	return body{}, err
}

// newBody gives an empty body.
func (s *Server) newBody() body {
	pooled := bodyPool.Get().(*[]byte)
	b := body{bytes: (*pooled)[:0], pooled: pooled, budget: &s.bodies}
	*pooled = nil
	return b
}

// errTooLong is what fill says of more bytes than its limit.
var errTooLong = errors.New("more bytes than the limit")

// fill reads src to the end. What is of unknown length, a negative one, is read
// into a buffer that doubles up to the limit; one byte beyond it tells that there
// is too much.
func (b *body) fill(src io.Reader, length, limit int64) error {
	size := min(firstChunk, limit)
	if length >= 0 {
		size = length
	}
	if !b.grow(size) {
		return errBodiesFull
	}
	for {
		if int64(len(b.bytes)) < size {
			n, err := src.Read(b.bytes[len(b.bytes):size])
			b.bytes = b.bytes[:len(b.bytes)+n]
			if err != nil {
				return atEnd(err)
			}
			continue
		}
		var next [1]byte
		if _, err := io.ReadFull(src, next[:]); err != nil {
			return atEnd(err)
		}
		if size >= limit {
			return errTooLong
		}
		size = min(2*size, limit)
		if !b.grow(size) {
			return errBodiesFull
		}
		b.bytes = append(b.bytes, next[0])
	}
}

var errBodiesFull = schemas.Errorf(schemas.CodeUnavailable, "Too many requests are being read; try again")

func tooLarge(limit int64) error {
	return schemas.Errorf(schemas.CodePayloadTooLarge, "The request body is larger than %d bytes", limit)
}

// atEnd takes the proper end of a reader for no error.
func atEnd(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// readError judges how reading a request ended early: a body that was cut is the
// caller's fault.
func readError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return schemas.Errorf(schemas.CodeTimeout, "The request body took too long to arrive")
	}
	return fmt.Errorf("%w: %w", schemas.Errorf(schemas.CodeInvalidRequest, "The request body ended early or cannot be read"), err)
}

// checkMediaType accepts JSON in UTF-8, sent as it is. No content type is taken
// as JSON (contract §1).
func checkMediaType(h http.Header) error {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return schemas.Errorf(schemas.CodeMediaType, "Content-Encoding %.40q is not supported: send the body as it is", e)
	}
	return checkJSON(h)
}

// checkJSON accepts JSON in UTF-8, whatever packs it.
func checkJSON(h http.Header) error {
	v := h.Get("Content-Type")
	if v == "" || v == "application/json" {
		return nil
	}
	media, params, err := mime.ParseMediaType(v)
	if err != nil || media != "application/json" {
		return schemas.Errorf(schemas.CodeMediaType, "Content-Type %.80q is not supported: send application/json", v)
	}
	if charset, given := params["charset"]; given && !strings.EqualFold(charset, "utf-8") {
		return schemas.Errorf(schemas.CodeMediaType, "Charset %.40q is not supported: JSON is UTF-8", charset)
	}
	return nil
}
