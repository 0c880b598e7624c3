package integration

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"

	"grout/integration/process"
)

func zstandard(t *testing.T, text []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(text, nil)
}

// sound posts one event and expects that it counts, and that all the app has is what
// was posted this way.
type sound struct {
	t *testing.T
	p *process.Process
	n int
}

func (s *sound) check(what string) {
	s.t.Helper()
	s.n++
	var r result
	request(s.t, s.p, "POST", "/api/usage/ingest", map[string]any{"events": someEvents("sound", fmt.Sprint("s-", s.n), 1)}).want(s.t, 200).into(s.t, &r)
	if r.Accepted != 1 {
		s.t.Errorf("after %s a good event is answered %+v", what, r)
	}
	if got := totals(s.t, s.p, "sound").Events; got != int64(s.n) {
		s.t.Errorf("after %s %d events are counted, want %d", what, got, s.n)
		s.n = int(got)
	}
}

// A body that is not what its headers say is refused with a reason, and nothing of it
// is counted.
func TestWrongEncodings(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	good := &sound{t: t, p: p}
	text := encoded(map[string]any{"events": someEvents("sound", "wrong", 40)})
	packed := map[string][]byte{"gzip": zipped(t, text), "zstd": zstandard(t, text)}
	flipped := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 0x10
		return b
	}
	var wide []byte
	for _, unit := range utf16.Encode([]rune(string(text))) {
		wide = append(wide, byte(unit), byte(unit>>8))
	}
	const packing, kind = "Content-Encoding", "Content-Type"
	for _, c := range []struct {
		name   string
		body   []byte
		header []string
		status int
		code   string
	}{
		{"plain, said to be gzip", text, []string{packing, "gzip"}, 400, "INVALID_REQUEST"},
		{"plain, said to be zstd", text, []string{packing, "zstd"}, 400, "INVALID_REQUEST"},
		{"gzip, said to be zstd", packed["gzip"], []string{packing, "zstd"}, 400, "INVALID_REQUEST"},
		{"zstd, said to be gzip", packed["zstd"], []string{packing, "gzip"}, 400, "INVALID_REQUEST"},
		{"gzip, said to be plain", packed["gzip"], nil, 400, "INVALID_JSON"},
		{"zstd, said to be plain", packed["zstd"], []string{packing, "identity"}, 400, "INVALID_JSON"},
		{"gzip, cut", packed["gzip"][:len(packed["gzip"])/2], []string{packing, "gzip"}, 400, "INVALID_REQUEST"},
		{"zstd, cut", packed["zstd"][:len(packed["zstd"])/2], []string{packing, "zstd"}, 400, "INVALID_REQUEST"},
		{"gzip, a bit flipped", flipped(packed["gzip"]), []string{packing, "gzip"}, 400, "INVALID_REQUEST"},
		{"zstd, a bit flipped", flipped(packed["zstd"]), []string{packing, "zstd"}, 400, "INVALID_REQUEST"},
		{"packed twice, told once", zipped(t, packed["zstd"]), []string{packing, "gzip"}, 400, "INVALID_JSON"},
		{"packed twice, told twice", zipped(t, packed["zstd"]), []string{packing, "zstd, gzip"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"brotli", text, []string{packing, "br"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"deflate", text, []string{packing, "deflate"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"a type that is none", text, []string{kind, "application/json/x"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"a form", text, []string{kind, "application/x-www-form-urlencoded"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"UTF-16, told", wide, []string{kind, "application/json; charset=utf-16"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
		{"UTF-16, not told", wide, nil, 400, "INVALID_JSON"},
		{"a byte order mark", append([]byte("\xef\xbb\xbf"), text...), nil, 400, "INVALID_JSON"},
		{"JSON as lines", append([]byte("["), append(text, ']')...), []string{kind, "application/x-ndjson"}, 200, ""}, // one line, no object
		{"lines as JSON", []byte("{}\n{}\n"), nil, 400, "INVALID_JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := request(t, p, "POST", "/api/usage/ingest", c.body, c.header...).want(t, c.status)
			var e struct {
				Code     string `json:"error_code"`
				Detail   string
				Accepted int
			}
			if a.into(t, &e); e.Code != c.code || c.status != 200 && e.Detail == "" || e.Accepted != 0 {
				t.Errorf("%s, want %s", a.body, c.code)
			}
			if c.code == "UNSUPPORTED_MEDIA_TYPE" && len(c.header) > 0 && c.header[0] == packing && a.header.Get("Accept-Encoding") != "gzip, zstd" {
				t.Errorf("the answer does not say what is read: %v", a.header)
			}
			good.check(c.name)
		})
	}
	for name, body := range packed { // and the same, rightly told
		var r result
		request(t, p, "POST", "/api/usage/ingest", body, packing, name).want(t, 200).into(t, &r)
		if r.Accepted+r.Duplicates != 40 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	stop(t, p)
}

// A request whose length is not what it says is refused, and nothing of it is counted,
// not even when the events that came are whole.
func TestWrongLengths(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	good := &sound{t: t, p: p}
	text := string(encoded(map[string]any{"events": someEvents("sound", "wrong", 4)}))
	n := len(text)
	length := func(v any) string { return fmt.Sprintf("Content-Length: %v\r\n", v) }
	chunk := func(size any) string { return fmt.Sprintf("%v\r\n%s\r\n", size, text) }
	const chunked, end = "Transfer-Encoding: chunked\r\n", "0\r\n\r\n"
	for _, c := range []struct {
		name, header, body string
		status             int
		waits              bool // for more, until the end is told
	}{
		{"longer than what comes", length(n + 1), text, 400, true},
		{"much longer than what comes", length(n + 1<<20), text, 400, true},
		{"shorter than what comes", length(n - 1), text, 400, false},
		{"nothing", length(0), text, 400, false},
		{"no length", "", text, 400, false},
		{"negative", length(-1), text, 400, false},
		{"no number", length("all"), text, 400, false},
		{"two lengths", length(n) + length(n-1), text, 400, false},
		{"a list of lengths", length(fmt.Sprint(n, ", ", n+1)), text, 400, false},
		{"beyond the limit", length(16<<20 + 1), text, 413, false},
		{"beyond numbers", length("99999999999999999999"), text, 400, false},
		{"chunk of no size", chunked, chunk("zz") + end, 400, false},
		{"chunk longer than what comes", chunked, chunk(fmt.Sprintf("%x", n+9)), 400, true},
		{"chunk shorter than what comes", chunked, chunk(fmt.Sprintf("%x", n-1)) + end, 400, false},
		{"chunk of a huge size", chunked, chunk("ffffffffffffffff") + end, 400, true},
		{"chunks without an end", chunked, chunk(fmt.Sprintf("%x", n)), 400, true},
		{"chunks of an unknown coding", "Transfer-Encoding: gzip, chunked\r\n", chunk(fmt.Sprintf("%x", n)) + end, 501, false},
		{"chunks, not told", length(n + 12), chunk(fmt.Sprintf("%x", n)) + end, 400, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if status, body := raw(t, p, c.header, c.body, c.waits); status != c.status {
				t.Errorf("answered %d, want %d: %.300s", status, c.status, body)
			}
			good.check(c.name)
		})
	}
	stop(t, p)
}

// raw posts bytes as they are, says that no more come when that is asked for, and gives
// the first answer.
func raw(t *testing.T, p *process.Process, header, body string, end bool) (int, string) {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(c, "POST /api/usage/ingest HTTP/1.1\r\nHost: grout\r\nX-Internal-API-Key: "+process.InternalKey+"\r\n"+header+"\r\n"+body)
	if err == nil && end {
		err = c.(*net.TCPConn).CloseWrite()
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ENOTCONN) {
		t.Fatal(err) // it may be refused before all of it was sent
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body) // what has come of it
	return resp.StatusCode, string(text)
}

// mostMemory is what a process may have held at any time; the bombs that come at once
// hold 8 GiB.
const mostMemory = 3 << 29

// A gigabyte packed into a megabyte, of which many come at once, costs no more than
// the limit of an unpacked body, and others are served all the while.
func TestBombs(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	good := &sound{t: t, p: p}
	before := peakMemory(t, p)
	blank := bytes.Repeat([]byte(" "), 16<<20)
	opening := []byte(`{"events":[`)
	bombs := map[string][]byte{
		"gzip": append(zipped(t, opening), bytes.Repeat(zipped(t, blank), 64)...),
		"zstd": append(zstandard(t, opening), bytes.Repeat(zstandard(t, blank), 64)...),
	}
	const callers, rounds = 8, 3
	var group sync.WaitGroup
	done := make(chan struct{})
	for coding, bomb := range bombs {
		t.Logf("%s: 1 GiB in %d KiB", coding, len(bomb)>>10)
		for range callers / len(bombs) {
			group.Go(func() {
				for range rounds {
					a := request(t, p, "POST", "/api/usage/ingest", bomb, "Content-Encoding", coding)
					if a.status != http.StatusRequestEntityTooLarge && (a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "") {
						t.Errorf("%s: answered %d: %.300s", coding, a.status, a.body)
					}
				}
			})
		}
	}
	go func() {
		group.Wait()
		close(done)
	}()
	slowest := time.Duration(0)
	for open := true; open; {
		began := time.Now()
		good.check("a bomb")
		slowest = max(slowest, time.Since(began))
		select {
		case <-done:
			open = false
		default:
		}
	}
	for coding, bomb := range bombs {
		request(t, p, "POST", "/api/usage/ingest", bomb, "Content-Encoding", coding).want(t, 413)
		request(t, p, "POST", "/api/billing/usage-events", bomb, "Content-Encoding", coding, "Authorization", "Bearer "+process.ServiceKey).want(t, 413)
	}
	good.check("all bombs")
	after := peakMemory(t, p)
	if after > mostMemory {
		t.Errorf("the process held %d MiB, before %d MiB", after>>20, before>>20)
	}
	t.Logf("%d bombs: memory at most %d MiB, before %d MiB; %d good events meanwhile, the slowest with its reading took %s",
		callers*rounds, after>>20, before>>20, good.n, slowest.Round(time.Millisecond))
	stop(t, p)
}

// peakMemory is the most memory that a process has held.
func peakMemory(t *testing.T, p *process.Process) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no VmHWM")
	return 0
}
