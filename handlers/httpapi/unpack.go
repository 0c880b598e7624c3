package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"grout/schemas"
)

// coding is a Content-Encoding that bodies may have.
type coding int

const (
	identity coding = iota
	codingGzip
	codingZstd
)

// maxZstdWindow is what RFC 9659 lets a sender ask of the memory of a receiver.
const maxZstdWindow = 8 << 20

// codingOf reads the Content-Encoding headers: one coding at most.
func codingOf(h http.Header) (coding, error) {
	values := h["Content-Encoding"]
	if len(values) == 0 {
		return identity, nil
	}
	if len(values) == 1 {
		switch strings.ToLower(strings.TrimSpace(values[0])) {
		case "", "identity":
			return identity, nil
		case "gzip", "x-gzip":
			return codingGzip, nil
		case "zstd":
			return codingZstd, nil
		}
	}
	return identity, schemas.Errorf(schemas.CodeMediaType,
		"Content-Encoding %.80q is not supported: send gzip, zstd, or the body as it is", strings.Join(values, ", "))
}

// unpackers are readers to be used again. They hold no body while they wait.
type unpackers struct{ gzip, zstd sync.Pool }

// unpack gives the whole text of a compressed body, whose bytes in memory count
// like those of any body.
func (s *Server) unpack(u upload) (body, error) {
	out := s.newBody()
	err := s.unpackInto(&out, u)
	if err == nil {
		return out, nil
	}
	out.release()
	known := (*schemas.Error)(nil)
	switch {
	case errors.As(err, &known):
		return body{}, err
	case errors.Is(err, errTooLong), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return body{}, schemas.Errorf(schemas.CodePayloadTooLarge, "The unpacked request body is larger than %d bytes", s.MaxUnpackedBytes)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return body{}, schemas.Errorf(schemas.CodeInvalidRequest, "Unpacking the request body takes a window of more than %d bytes (RFC 9659)", maxZstdWindow)
	}
	return body{}, fmt.Errorf("%w: %w", schemas.Errorf(schemas.CodeInvalidRequest, "The request body cannot be unpacked: it is damaged, or not what Content-Encoding says"), err)
}

func (s *Server) unpackInto(out *body, u upload) error {
	packed := bytes.NewReader(u.body.bytes)
	if u.coding == codingGzip {
		r, _ := s.unpackers.gzip.Get().(*gzip.Reader)
		if r == nil {
			r = new(gzip.Reader)
		}
		defer func() {
			_ = r.Reset(bytes.NewReader(nil)) // fails, and lets go of the body
			s.unpackers.gzip.Put(r)
		}()
		if err := r.Reset(packed); err != nil {
			return cut(err)
		}
		return out.fill(r, -1, s.MaxUnpackedBytes)
	}
	r, _ := s.unpackers.zstd.Get().(*zstd.Decoder)
	if r == nil {
		var err error
		// One goroutine, so that a reader that is dropped leaves nothing behind.
		r, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(uint64(max(s.MaxUnpackedBytes, maxZstdWindow))), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return fmt.Errorf("make a reader of zstd: %w", err)
		}
	}
	defer func() {
		_ = r.Reset(nil)
		s.unpackers.zstd.Put(r)
	}()
	if err := r.Reset(packed); err != nil {
		return cut(err)
	}
	return out.fill(r, -1, s.MaxUnpackedBytes)
}

// cut makes the end of a stream before its first byte an error.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
