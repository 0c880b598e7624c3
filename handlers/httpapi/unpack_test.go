package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"grout/schemas"
)

func gzipped(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstandard(t testing.TB, text string, options ...zstd.EOption) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, append(options, zstd.WithEncoderConcurrency(1))...)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var packers = map[string]func(testing.TB, string) string{
	"gzip": gzipped,
	"zstd": func(t testing.TB, text string) string { return zstandard(t, text) },
}

// packed is a request of a body whose length may be hidden.
func (s *server) packed(coding string, body any) *http.Request {
	s.t.Helper()
	r := s.request(context.Background(), body)
	r.Header.Set("Content-Encoding", coding)
	return r
}

func (s *server) post(coding, body string, headers ...string) *answer {
	s.t.Helper()
	return s.do("POST", "/api/usage/ingest", body, append(headers, "Content-Encoding: "+coding)...)
}

func TestCompressedBodies(t *testing.T) {
	s := serve(t)
	var events []string
	for i := range 2000 {
		events = append(events, event(fmt.Sprint("e", i), "a"))
	}
	text := batch("b", events...)
	for name, body := range map[string]string{
		"gzip": gzipped(t, text), "GZip": gzipped(t, text), "x-gzip": gzipped(t, text[:1000]) + gzipped(t, text[1000:]),
		"zstd": zstandard(t, text), " Zstd ": zstandard(t, text[:1000]) + zstandard(t, text[1000:]),
	} {
		a := s.post(name, body).is(200)
		if a.json()["batch_id"] != "b" || fmt.Sprint(a.json()["accepted"]) != "2000" {
			t.Errorf("%s: %.200s", name, a.text)
		}
		s.send(s.packed(name, chunked(body))).is(200)
	}
	if free := s.api.bodies.free.Load(); free != maxBodyBytesInFlight {
		t.Errorf("%d bytes were not given back", maxBodyBytesInFlight-free)
	}
	s.post("gzip", gzipped(t, event("e", "a")+"\n"), "Content-Type: application/x-ndjson").is(200)
}

func TestDamagedBodies(t *testing.T) {
	s := serve(t)
	text := batch("b", event("e", "a"))
	for coding, pack := range packers {
		whole := pack(t, text)
		flipped := []byte(whole)
		flipped[len(flipped)-3] ^= 1 // checksum
		for name, body := range map[string]string{
			"not packed":       text,
			"cut":              whole[:len(whole)-1],
			"cut in the head":  whole[:3],
			"followed by text": whole + "x",
			"followed by zero": whole + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"wrong checksum":   string(flipped),
			"the other coding": packers[map[string]string{"gzip": "zstd", "zstd": "gzip"}[coding]](t, text),
		} {
			t.Run(coding+" "+name, func(t *testing.T) {
				s.post(coding, body).is(400, schemas.CodeInvalidRequest).
					detail("The request body cannot be unpacked: it is damaged, or not what Content-Encoding says")
			})
		}
		s.post(coding, "").is(400)
		s.post(coding, pack(t, "")).is(400, schemas.CodeInvalidJSON)
		s.post(coding, pack(t, "{")).is(400, schemas.CodeInvalidJSON)
		s.post(coding, pack(t, pack(t, text))).is(400, schemas.CodeInvalidJSON) // packed twice
		s.post(coding, whole).is(200)                                           // the reader is as good as new
	}
	if free := s.api.bodies.free.Load(); free != maxBodyBytesInFlight {
		t.Errorf("%d bytes were not given back", maxBodyBytesInFlight-free)
	}
}

func (s *server) padding(n int) string {
	text := batch("b", event("e", "a"))
	return text + strings.Repeat(" ", n-len(text))
}

func TestUnpackedLimit(t *testing.T) {
	for _, limit := range []int{10_000, firstChunk, firstChunk + 1, 1 << 20} {
		s := serve(t, func(o *Options) { o.MaxUnpackedBytes = int64(limit) })
		for coding, pack := range packers {
			s.post(coding, pack(t, s.padding(limit))).is(200)
			s.post(coding, pack(t, s.padding(limit+1))).is(413, schemas.CodePayloadTooLarge).
				detail(fmt.Sprintf("The unpacked request body is larger than %d bytes", limit))
		}
		// The packed body has the limit of every body.
		s.api.MaxBodyBytes = 100
		s.post("gzip", gzipped(t, s.padding(limit))+strings.Repeat("x", 100)).is(413, schemas.CodePayloadTooLarge)
		if free := s.api.bodies.free.Load(); free != maxBodyBytesInFlight {
			t.Errorf("%d bytes were not given back", maxBodyBytesInFlight-free)
		}
	}
}

// TestBombs: a gigabyte in a few bytes costs no more than the limit.
func TestBombs(t *testing.T) {
	const limit = 8 << 20
	var zipped, stated bytes.Buffer
	w := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&stated, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	blank := bytes.Repeat([]byte(" "), 1<<20)
	for range 256 {
		_, err1 := w.Write(blank)
		_, err2 := z.Write(blank)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
	}
	if err1, err2 := w.Close(), z.Close(); err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	one, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	// A frame that states its size of 4 GiB and has none of it.
	liar := "\x28\xb5\x2f\xfd\xe0" + "\x00\x00\x00\x00\x01\x00\x00\x00" + "\x01\x00\x00"
	s := serve(t, func(o *Options) { o.MaxUnpackedBytes = limit })
	for name, c := range map[string]struct {
		coding, body string
		status       int
	}{
		"gzip":           {"gzip", zipped.String(), 413},
		"zstd":           {"zstd", stated.String(), 413},
		"one segment":    {"zstd", string(one.EncodeAll(bytes.Repeat(blank, 16), nil)), 413},
		"liar":           {"zstd", liar, 413},
		"large window":   {"zstd", zstandard(t, strings.Repeat(" ", 1000), zstd.WithWindowSize(512<<20), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithSingleSegment(false)), 400},
		"many members":   {"gzip", strings.Repeat(gzipped(t, ""), 50_000), 400},
		"many skippable": {"zstd", strings.Repeat("\x50\x2a\x4d\x18\x00\x00\x00\x00", 50_000), 400},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			a := s.post(c.coding, c.body)
			runtime.ReadMemStats(&after)
			if a.status != c.status {
				t.Errorf("answered %d, want %d: %s", a.status, c.status, a.text)
			}
			// Doubling the buffer up to the limit allocates twice the limit in all; the
			// race detector adds to it. The bombs hold 32 times the limit.
			if n := after.TotalAlloc - before.TotalAlloc; n > 16*limit {
				t.Errorf("%d MiB were allocated", n>>20)
			}
		})
	}
	if free := s.api.bodies.free.Load(); free != maxBodyBytesInFlight {
		t.Errorf("%d bytes were not given back", maxBodyBytesInFlight-free)
	}
}

// TestUnpackedBytesAreInFlight: what a body unpacks to counts like a body.
func TestUnpackedBytesAreInFlight(t *testing.T) {
	s := serve(t)
	s.api.bodies.free.Store(1 << 20)
	for coding, pack := range packers {
		s.post(coding, pack(t, s.padding(2<<20))).is(503, schemas.CodeUnavailable).has("Retry-After", "1")
		s.post(coding, pack(t, s.padding(100_000))).is(200)
	}
	if free := s.api.bodies.free.Load(); free != 1<<20 {
		t.Errorf("%d bytes are free", free)
	}
}

func TestUnpackingAtOnce(t *testing.T) {
	s := serve(t)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for n := range 20 {
				text := batch(fmt.Sprint(i, "-", n), event(fmt.Sprint("e", i, n), "a"))
				for coding, pack := range packers {
					if got := s.post(coding, pack(t, text)).is(200).json()["batch_id"]; got != fmt.Sprint(i, "-", n) {
						t.Errorf("batch %v", got)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkIngestCompressed(b *testing.B) {
	events := make([]string, 1000)
	for i := range events {
		events[i] = event(fmt.Sprintf("0b8ab9a0-6f4e-4c55-9b8f-%012x", i), fmt.Sprint("app_", i%50))
	}
	text := batch("", events...)
	for coding, pack := range packers {
		b.Run(coding, func(b *testing.B) {
			s := New(Options{InternalKeys: []string{internalKey}, Commands: nullCommands{}})
			packed := pack(b, text)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				c, _ := codingOf(map[string][]string{"Content-Encoding": {coding}})
				u := upload{s.newBody(), c}
				u.body.bytes = append(u.body.bytes, packed...)
				if err := s.parse(context.Background(), u, func(text []byte, p *schemas.ParsedBatch) error {
					return readForm(formBatch, nil, text, p)
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
