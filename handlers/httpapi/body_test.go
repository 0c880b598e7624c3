package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"grout/schemas"
)

func (s *server) request(ctx context.Context, body any) *http.Request {
	s.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case string:
		r = strings.NewReader(b)
	case io.Reader:
		r = b
	}
	req, err := http.NewRequestWithContext(ctx, "POST", s.http.URL+"/api/usage/ingest", r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-Internal-API-Key", internalKey)
	return req
}

// padded makes a valid body of exactly n bytes.
func padded(t *testing.T, n int) string {
	t.Helper()
	b := batch("b", event("e", "a"))
	if n < len(b) {
		t.Fatalf("a body has at least %d bytes", len(b))
	}
	return b + strings.Repeat(" ", n-len(b))
}

// chunked hides the length of a body.
func chunked(text string) io.Reader { return io.MultiReader(strings.NewReader(text)) }

func TestBodyLimit(t *testing.T) {
	for _, limit := range []int{1000, firstChunk - 1, firstChunk, firstChunk + 1, 3 * firstChunk, 1 << 20} {
		s := serve(t, func(o *Options) { o.MaxBodyBytes = int64(limit) })
		message := fmt.Sprintf("The request body is larger than %d bytes", limit)
		s.send(s.request(context.Background(), padded(t, limit))).is(200)
		s.send(s.request(context.Background(), chunked(padded(t, limit)))).is(200)
		s.send(s.request(context.Background(), iotest.OneByteReader(strings.NewReader(padded(t, 900))))).is(200)
		s.send(s.request(context.Background(), padded(t, limit+1))).is(413, schemas.CodePayloadTooLarge).detail(message)
		s.send(s.request(context.Background(), chunked(padded(t, limit+1)))).is(413, schemas.CodePayloadTooLarge).detail(message)
		s.send(s.request(context.Background(), chunked(padded(t, 2*limit)))).is(413)
		if free := s.api.bodies.free.Load(); free != maxBodyBytesInFlight {
			t.Errorf("%d bytes were not given back", maxBodyBytesInFlight-free)
		}
	}
}

// TestStatedLengthIsRefusedAtOnce: not one byte of the body is needed.
func TestStatedLengthIsRefusedAtOnce(t *testing.T) {
	s := serve(t)
	a := s.raw("POST /api/usage/ingest HTTP/1.1\r\nHost: x\r\nX-Internal-API-Key: " + internalKey + "\r\nContent-Length: 16777217\r\n\r\n")
	a.is(413, schemas.CodePayloadTooLarge)
}

// TestChunkedBodyNeverTakesMoreThanTheLimit looks at the buffer itself.
func TestChunkedBodyNeverTakesMoreThanTheLimit(t *testing.T) {
	var space budget
	space.free.Store(1 << 40)
	for _, limit := range []int64{10, firstChunk, 100_000, 1 << 20} {
		b := body{pooled: new([]byte), budget: &space}
		err := b.fill(io.LimitReader(zeros{}, 1<<30), -1, limit)
		if !errors.Is(err, errTooLong) {
			t.Errorf("limit %d: %v", limit, err)
		}
		if int64(cap(b.bytes)) > limit || b.taken > limit {
			t.Errorf("limit %d: the buffer has %d bytes, %d are taken", limit, cap(b.bytes), b.taken)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestBodiesInFlightAreBounded(t *testing.T) {
	s := serve(t)
	s.api.bodies.free.Store(1000)
	s.send(s.request(context.Background(), padded(t, 1001))).is(503, schemas.CodeUnavailable).has("Retry-After", "1")
	s.send(s.request(context.Background(), chunked(padded(t, 500)))).is(503) // its first buffer is larger
	s.send(s.request(context.Background(), padded(t, 1000))).is(200)
	if free := s.api.bodies.free.Load(); free != 1000 {
		t.Errorf("%d bytes are free, want 1000", free)
	}
}

// TestParsingIsBounded: a request that cannot be parsed before its client goes
// away gives back what it holds.
func TestParsingIsBounded(t *testing.T) {
	s := serve(t)
	for range cap(s.api.parsing) {
		s.api.parsing <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.http.Client().Do(s.request(ctx, padded(t, 200))); err == nil {
		t.Fatal("a request was parsed although all tokens are taken")
	}
	for range cap(s.api.parsing) {
		<-s.api.parsing
	}
	s.send(s.request(context.Background(), padded(t, 200))).is(200)
}

// raw writes bytes to the server, closes its side, and reads the answer.
func (s *server) raw(text string) *answer {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		s.t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		s.t.Fatal(err)
	}
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	validator.Check(s.t, req, resp, got.Bytes())
	return &answer{t: s.t, status: resp.StatusCode, header: resp.Header, text: got.String()}
}

func TestBodyThatEndsEarly(t *testing.T) {
	s := serve(t)
	head := "POST /api/usage/ingest HTTP/1.1\r\nHost: x\r\nX-Internal-API-Key: " + internalKey + "\r\n"
	whole := batch("b", event("e", "a"))
	for name, text := range map[string]string{
		"stated length":         head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(whole)+1, whole),
		"nothing came":          head + "Content-Length: 10\r\n\r\n",
		"inside a chunk":        head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s", len(whole)+1, whole),
		"without the last one":  head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(whole), whole),
		"chunk of odd length":   head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
		"at the buffer's limit": head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", firstChunk, padded(t, firstChunk)),
	} {
		t.Run(name, func(t *testing.T) {
			s.raw(text).is(400, schemas.CodeInvalidRequest).detail("The request body ended early or cannot be read")
		})
	}
	if n := len(s.commands.all()); n != 0 {
		t.Errorf("%d commands were submitted", n)
	}
}

func TestSlowBody(t *testing.T) {
	s := serveWith(t, func(h *http.Server) { h.ReadTimeout = 50 * time.Millisecond })
	r, w := io.Pipe()
	defer w.Close()
	s.send(s.request(context.Background(), r)).is(408, schemas.CodeTimeout)
}

func TestMediaTypes(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		header string
		status int
	}{
		{"Content-Type: application/json", 200},
		{"Content-Type: application/json; charset=utf-8", 200},
		{"Content-Type: Application/JSON;charset=\"UTF-8\"", 200},
		{"Content-Type: application/json; profile=x", 200},
		{"Content-Type: ", 200},
		{"X: y", 200},
		{"Content-Encoding: identity", 200},
		{"Content-Type: application/json; charset=latin1", 415},
		{"Content-Type: application/x-ndjson", 200},
		{"Content-Type: application/jsonlines; charset=UTF-8", 200},
		{"Content-Type: application/x-ndjson; charset=latin1", 415},
		{"Content-Type: application/cloudevents+json; charset=latin1", 415},
		{"Content-Type: application/cloudevents", 415},
		{"Content-Type: text/plain", 415},
		{"Content-Type: application/json; charset", 415},
		{"Content-Type: \xff/\xfe", 415},
		{"Content-Encoding: ", 200},
		{"Content-Encoding: IDENTITY", 200},
		{"Content-Encoding: br", 415},
		{"Content-Encoding: identity, zstd", 415},
		{"Content-Encoding: gzip, gzip", 415},
	} {
		a := s.do("POST", "/api/usage/ingest", batch("b", event("e", "a")), c.header).is(c.status)
		if c.status == 415 {
			a.is(415, schemas.CodeMediaType)
		}
		if coding, is := strings.CutPrefix(c.header, "Content-Encoding: "); is && c.status == 415 {
			a.has("Accept-Encoding", "gzip, zstd").detail(fmt.Sprintf("Content-Encoding %q is not supported: send gzip, zstd, or the body as it is", coding))
		} else {
			a.has("Accept-Encoding", "")
		}
	}
}
