package live

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"grout/schemas"
)

// script stands for the hub: readers give what is pushed, in order.
type script struct {
	mu     sync.Mutex
	opened []From
	filter Filter
	fail   map[string]error // of Open, by the number or id that is asked for
	readers
}

type readers []*fakeReader

type fakeReader struct {
	frames chan []Frame
	fails  chan error
	closed chan struct{}
	once   sync.Once
}

func (r *fakeReader) Next(ctx context.Context) ([]Frame, error) {
	select {
	case f := <-r.frames:
		return f, nil
	case err := <-r.fails:
		return nil, err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *fakeReader) Close() { r.once.Do(func() { close(r.closed) }) }

func (s *script) open(_ context.Context, f Filter, from From) (cursor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := "now"
	if from.Number != nil {
		asked = fmt.Sprint(*from.Number)
	}
	if from.Position != nil {
		asked = from.Position.String()
	}
	if err := s.fail[asked]; err != nil {
		return nil, err
	}
	s.opened, s.filter = append(s.opened, from), f
	r := &fakeReader{frames: make(chan []Frame, 1000), fails: make(chan error, 1), closed: make(chan struct{})}
	s.readers = append(s.readers, r)
	return r, nil
}

// reader waits for the n-th reader.
func (s *script) reader(t *testing.T, n int) *fakeReader {
	t.Helper()
	var r *fakeReader
	eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.readers) <= n {
			return false
		}
		r = s.readers[n]
		return true
	})
	return r
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatal("it did not come about in time")
		}
	}
}

// stage is transports behind a server that asks for what a test says.
type stage struct {
	*script
	t    *Transports
	http *httptest.Server
	ask  Socket
	sse  Stream
}

func newStage(t *testing.T, o TransportOptions) *stage {
	t.Helper()
	s := &stage{script: &script{fail: map[string]error{}}, ask: Socket{App: "app", Chat: "c1", User: "ann"}, sse: Stream{App: "app"}}
	s.t = newTransports(s.open, o)
	answer := func(w http.ResponseWriter, err error) {
		if err != nil {
			var known *schemas.Error
			errors.As(err, &known)
			http.Error(w, string(known.Code), http.StatusTeapot)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { answer(w, s.t.Socket(w, r, s.ask)) })
	mux.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) { answer(w, s.t.Stream(w, r, s.sse)) })
	s.http = httptest.NewServer(mux)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.t.Stop(ctx)
		if ctx.Err() != nil {
			t.Error("the transports did not stop")
		}
		s.http.Close()
	})
	return s
}

func (s *stage) dial(t *testing.T, protocols ...string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), s.http.URL+"/ws", &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

// text reads one frame.
func text(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// closed reads to the end, and gives the code.
func closed(t *testing.T, c *websocket.Conn) websocket.StatusCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		if _, _, err := c.Read(ctx); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

const at = "2026-01-26T15:30:00Z"

func runFrame(kind string, n uint64, more string) Frame {
	return Frame{
		Type: "chat.orchestration." + kind, Kind: "orchestration." + kind, AppID: "app", ChatID: "c1", RunID: "r1", Sequence: n, Sub: -1,
		Timestamp: at, StreamSeq: 100 + n, FactSeq: n,
		Data: fmt.Appendf(nil, `{"kind":"orchestration.%s","run_id":"r1","status":"in_progress","event_id":"e","app_id":"app","timestamp":"%s","sequence":1,"attempt":1%s}`, kind, at, more),
	}
}

func TestSocketShowsFrames(t *testing.T) {
	s := newStage(t, TransportOptions{AGUI: true})
	s.ask.Subprotocol = "access_token.a.b.c"
	c := s.dial(t, "other", "access_token.a.b.c")
	if got := c.Subprotocol(); got != "access_token.a.b.c" {
		t.Errorf("the subprotocol is %q", got)
	}
	r := s.reader(t, 0)
	if f := s.filter; f.AppID != "app" || f.ChatID != "c1" || f.UserID != "ann" || s.opened[0] != (From{}) {
		t.Errorf("asked for %+v from %+v", f, s.opened[0])
	}
	start := runFrame("run_started", 1, `,"message":"go","user_id":"ann","workflow_name":"w"`)
	r.frames <- []Frame{
		start,
		{Type: "chat.usage_delta", Kind: "chat.usage_delta", ChatID: "c1", Sequence: 2, Data: json.RawMessage(`{"n":1}`), Timestamp: at},
		{Type: TypeReset, ChatID: "c1", Data: json.RawMessage(`{"first_sequence":9}`), Sub: -1, Timestamp: at},
		runFrame("tool_started", 9, `,"tool":"t"`),
	}
	for _, want := range []string{
		`{"type":"chat.orchestration.run_started","data":` + string(start.Data) + `,"chat_id":"c1","sequence":1,"timestamp":"` + at + `"}`,
		`{"type":"agui.lifecycle.RunStarted","data":{"type":"RUN_STARTED","timestamp":1769441400000,"threadId":"app:c1","runId":"r1","message":"go","kind":"orchestration.run_started","run_id":"r1","status":"in_progress","event_id":"e","app_id":"app","sequence":1,"attempt":1,"user_id":"ann","workflow_name":"w"},"chat_id":"c1","sequence":1,"timestamp":"` + at + `"}`,
		`{"type":"chat.usage_delta","data":{"n":1},"chat_id":"c1","sequence":2,"timestamp":"` + at + `"}`,
		`{"type":"stream.reset","data":{"first_sequence":9},"chat_id":"c1","timestamp":"` + at + `"}`,
		`{"type":"chat.orchestration.tool_started","data":` + string(runFrame("tool_started", 9, `,"tool":"t"`).Data) + `,"chat_id":"c1","sequence":9,"timestamp":"` + at + `"}`,
	} {
		if got := text(t, c); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
}

func TestSocketResumes(t *testing.T) {
	s := newStage(t, TransportOptions{})
	after := uint64(7)
	s.ask.After = &after
	c := s.dial(t)
	if *s.opened[0].Number != 7 {
		t.Errorf("opened behind %d", *s.opened[0].Number)
	}
	for n := uint64(1); n <= 20; n++ { // whatever the old reader has, the new one says what follows
		old := s.reader(t, int(n-1))
		old.frames <- []Frame{runFrame("tool_started", 1000, ""), runFrame("tool_started", 1001, "")}
		if err := c.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"last_sequence":%d,"type":"client.resume","x":null}`, n)); err != nil {
			t.Fatal(err)
		}
		s.reader(t, int(n)).frames <- []Frame{runFrame("tool_started", n+1, "")}
		for !strings.Contains(text(t, c), fmt.Sprintf(`"c1","sequence":%d,`, n+1)) {
		}
		select {
		case <-old.closed:
		case <-time.After(10 * time.Second):
			t.Fatal("the old reader is open")
		}
	}
}

// What a client may send wrongly is answered as docs/live.md says.
func TestBadFrames(t *testing.T) {
	for _, c := range []struct {
		name, frame string
		binary      bool
		code        string               // of stream.error, after which the socket goes on
		closes      websocket.StatusCode // else
	}{
		{name: "no JSON", frame: "hello", code: "INVALID_FRAME"},
		{name: "empty", frame: "", code: "INVALID_FRAME"},
		{name: "bad UTF-8", frame: "{\"type\":\"\xff\"}", code: "INVALID_FRAME"},
		{name: "a list", frame: "[]", code: "INVALID_FRAME"},
		{name: "no type", frame: `{"last_sequence":1}`, code: "INVALID_FRAME"},
		{name: "type is a number", frame: `{"type":1}`, code: "INVALID_FRAME"},
		{name: "twice", frame: `{"type":"client.resume","type":"client.resume","last_sequence":1}`, code: "INVALID_FRAME"},
		{name: "too deep", frame: strings.Repeat("[", 5000) + strings.Repeat("]", 5000), code: "INVALID_FRAME"},
		{name: "unknown", frame: `{"type":"user.input.submit","text":"hi"}`, code: "UNKNOWN_FRAME"},
		{name: "no number", frame: `{"type":"client.resume"}`, code: "INVALID_FRAME"},
		{name: "null", frame: `{"type":"client.resume","last_sequence":null}`, code: "INVALID_FRAME"},
		{name: "text", frame: `{"type":"client.resume","last_sequence":"1"}`, code: "INVALID_FRAME"},
		{name: "negative", frame: `{"type":"client.resume","last_sequence":-1}`, code: "INVALID_FRAME"},
		{name: "fraction", frame: `{"type":"client.resume","last_sequence":1.0}`, code: "INVALID_FRAME"},
		{name: "too large for a number", frame: `{"type":"client.resume","last_sequence":9223372036854775808}`, code: "INVALID_FRAME"},
		{name: "future", frame: `{"type":"client.resume","last_sequence":99}`, code: "SEQUENCE_AHEAD"},
		{name: "store away", frame: `{"type":"client.resume","last_sequence":98}`, code: "SERVICE_UNAVAILABLE"},
		{name: "foreign by now", frame: `{"type":"client.resume","last_sequence":97}`, closes: closeForbidden},
		{name: "binary", frame: `{"type":"client.resume","last_sequence":1}`, binary: true, closes: websocket.StatusUnsupportedData},
		{name: "oversized", frame: `{"type":"` + strings.Repeat("x", maxClientFrame) + `"}`, closes: websocket.StatusMessageTooBig},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, TransportOptions{})
			s.fail["99"], s.fail["98"], s.fail["97"] = ErrAhead, ErrUnavailable, ErrForeign
			ws := s.dial(t)
			s.reader(t, 0).frames <- []Frame{runFrame("tool_started", 5, "")}
			text(t, ws)
			kind := websocket.MessageText
			if c.binary {
				kind = websocket.MessageBinary
			}
			if err := ws.Write(t.Context(), kind, []byte(c.frame)); err != nil {
				t.Fatal(err)
			}
			if c.closes != 0 {
				if got := closed(t, ws); got != c.closes {
					t.Errorf("closed with %d, want %d", got, c.closes)
				}
				return
			}
			var f struct {
				Type     string
				ChatID   string `json:"chat_id"`
				Sequence int
				Data     struct{ Code, Detail string }
			}
			if got := text(t, ws); json.Unmarshal([]byte(got), &f) != nil || f.Type != typeError || f.Data.Code != c.code || f.Sequence != 5 || f.ChatID != "c1" || f.Data.Detail == "" {
				t.Errorf("answered %s", got)
			}
			s.reader(t, 0).frames <- []Frame{runFrame("tool_started", 6, "")}
			if got := text(t, ws); !strings.Contains(got, `"sequence":6,`) {
				t.Errorf("then came %s", got)
			}
		})
	}
}

func TestChatterIsCutOff(t *testing.T) {
	s := newStage(t, TransportOptions{})
	c := s.dial(t)
	go func() {
		for range 200 {
			if c.Write(t.Context(), websocket.MessageText, []byte(`{"type":"x"}`)) != nil {
				return
			}
		}
	}()
	if got := closed(t, c); got != closeChatter {
		t.Errorf("closed with %d", got)
	}
}

func TestSocketsEnd(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(s *stage)
		after  func(s *stage, r *fakeReader)
		code   websocket.StatusCode
	}{
		{"refused", func(s *stage) { s.ask.Close, s.ask.Reason = 4001, "Not authenticated" }, nil, closeUnauthorized},
		{"foreign chat", func(s *stage) { s.fail["now"] = ErrForeign }, nil, closeForbidden},
		{"a number of the future", func(s *stage) { n := uint64(4); s.ask.After, s.fail["4"] = &n, ErrAhead }, nil, closeInvalid},
		{"too many of one user", func(s *stage) { s.t.users["ann"] = s.t.MaxPerUser }, nil, closeCrowded},
		{"expired", func(s *stage) { s.ask.Expires = time.Now().Add(50 * time.Millisecond) }, func(*stage, *fakeReader) {}, closeUnauthorized},
		{"foreign later", nil, func(_ *stage, r *fakeReader) { r.fails <- ErrForeign }, closeForbidden},
		{"a fault", nil, func(_ *stage, r *fakeReader) { r.fails <- errors.New("broken") }, websocket.StatusInternalError},
		{"the hub ends", nil, func(_ *stage, r *fakeReader) { r.fails <- ErrClosed }, closeRestart},
		{"stop", nil, func(s *stage, _ *fakeReader) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			go s.t.Stop(ctx)
			<-s.t.ctx.Done()
		}, closeRestart},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, TransportOptions{})
			if c.before != nil {
				c.before(s)
			}
			ws := s.dial(t)
			var r *fakeReader
			if c.after != nil {
				r = s.reader(t, 0)
				c.after(s, r)
			}
			if got := closed(t, ws); got != c.code {
				t.Errorf("closed with %d, want %d", got, c.code)
			}
			if r != nil {
				<-r.closed
			}
			eventually(t, func() bool { return s.t.Stats().Sockets == 0 })
		})
	}
}

// While a node is built anew, nobody is sent away.
func TestUnavailableIsWaitedFor(t *testing.T) {
	s := newStage(t, TransportOptions{})
	c := s.dial(t)
	r := s.reader(t, 0)
	r.fails <- fmt.Errorf("tail: %w", ErrUnavailable)
	eventually(t, func() bool { return len(r.fails) == 0 })
	r.frames <- []Frame{runFrame("tool_started", 1, "")}
	text(t, c)
}

func TestPlacesAreBounded(t *testing.T) {
	s := newStage(t, TransportOptions{MaxClients: 2})
	s.dial(t)
	s.dial(t)
	s.reader(t, 1)
	_, resp, err := websocket.Dial(t.Context(), s.http.URL+"/ws", nil)
	if err == nil || resp.StatusCode != http.StatusTeapot {
		t.Errorf("the third was answered %v, %v", resp, err)
	}
	if _, err := s.get(t, "/sse", nil); err == nil || !strings.Contains(err.Error(), "SERVICE_UNAVAILABLE") {
		t.Errorf("a stream was answered %v", err)
	}
}

// Who does not read is cut off, or told when he reads again; others see nothing of it.
func TestSlowClients(t *testing.T) {
	s := newStage(t, TransportOptions{WriteLimit: 300 * time.Millisecond, SlowAfter: 50 * time.Millisecond})
	stalled, other := s.dial(t), s.dial(t)
	big := runFrame("tool_started", 1, `,"message":"`+strings.Repeat("x", 60_000)+`"`)
	first, second := s.reader(t, 0), s.reader(t, 1)
	for range 900 {
		first.frames <- []Frame{big}
	}
	second.frames <- []Frame{runFrame("tool_started", 2, "")}
	text(t, other)
	eventually(t, func() bool { return s.t.Stats().CutOff == 1 })
	<-first.closed
	if got := closed(t, stalled); got != -1 {
		t.Errorf("closed with %d", got)
	}

	s.t.WriteLimit = 20 * time.Second
	late := s.dial(t)
	late.SetReadLimit(1 << 20)
	third := s.reader(t, 2)
	for range 900 {
		third.frames <- []Frame{big}
	}
	eventually(t, func() bool { // nothing more is taken
		n := len(third.frames)
		wait := time.NewTimer(100 * time.Millisecond)
		<-wait.C
		return n > 0 && len(third.frames) == n
	})
	frames, told := 0, 0
	for frames < 900 {
		if got := text(t, late); strings.Contains(got, `"type":"stream.slow","data":{"waited_ms":`) {
			told++
		} else {
			frames++
		}
	}
	if told == 0 || s.t.Stats().Slow == 0 {
		t.Error("a client that was slow was not told")
	}
}

// Ten thousand that are refused leave nothing behind.
func TestManyRefusals(t *testing.T) {
	s := newStage(t, TransportOptions{})
	s.ask.Close, s.ask.Reason = 4001, "Not authenticated"
	var all sync.WaitGroup
	const each = 100
	for range 8 {
		all.Go(func() {
			for range each {
				c, _, err := websocket.Dial(t.Context(), s.http.URL+"/ws", nil)
				if err != nil {
					t.Error(err)
					return
				}
				if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != closeUnauthorized {
					t.Errorf("closed with %v", err)
				}
			}
		})
	}
	all.Wait()
	eventually(t, func() bool { return len(s.t.farewell) == 0 })
	if got := s.t.Stats(); got.Refused != 8*each || s.t.clients != 0 {
		t.Errorf("%+v, %d clients", got, s.t.clients)
	}
}

// get opens a stream of events.
func (s *stage) get(t *testing.T, path string, header http.Header) (*bufio.Reader, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.http.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("answered %d %s", resp.StatusCode, b)
	}
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store, no-transform", "Content-Encoding": ""} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	return bufio.NewReader(resp.Body), nil
}

// block reads up to an empty line.
func block(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return b.String() + "(" + err.Error() + ")"
		}
		if line == "\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

func TestEventStream(t *testing.T) {
	s := newStage(t, TransportOptions{AGUI: true, Heartbeat: 20 * time.Millisecond})
	s.sse = Stream{App: "app", Chat: "c1", Run: "r1", Kinds: []string{"usage"}, User: "ann", After: "104.2-7"}
	r, err := s.get(t, "/sse", nil)
	if err != nil {
		t.Fatal(err)
	}
	if f := s.filter; f.ChatID != "c1" || f.RunID != "r1" || f.UserID != "ann" || f.Kinds[0] != "usage" || *s.opened[0].Position != (Position{104, 2, 7}) {
		t.Errorf("asked for %+v from %+v", f, s.opened[0])
	}
	if got := block(t, r); !strings.HasPrefix(got, "retry: ") {
		t.Errorf("it begins with %q", got)
	}
	if got := block(t, r); got != ":\n" {
		t.Errorf("then came %q", got)
	}
	end := runFrame("run_cancelled", 3, "")
	s.reader(t, 0).frames <- []Frame{
		end, {Type: "usage.recorded", Kind: "usage.recorded", Data: json.RawMessage("{\"a\":\n1,\r\n\"b\":2}"), Sub: 1, StreamSeq: 9, FactSeq: 4, Timestamp: at},
	}
	want := []string{
		"id: 103-3\nevent: chat.orchestration.run_cancelled\ndata: " + string(appendEnvelope(nil, &end)) + "\n",
		"id: 103-3\nevent: agui.lifecycle.RunFinished\ndata: ",
		"id: 9.1-4\nevent: usage.recorded\ndata: {\"type\":\"usage.recorded\",\"data\":{\"a\":\ndata: 1,\ndata: \"b\":2},\"timestamp\":\"" + at + "\"}\n",
	}
	for len(want) > 0 {
		got := block(t, r)
		if got == ":\n" {
			continue
		}
		if !strings.HasPrefix(got, want[0]) {
			t.Fatalf("got %q\nwant %q", got, want[0])
		}
		want = want[1:]
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s.t.Stop(ctx)
	got := block(t, r)
	for got == ":\n" {
		got = block(t, r)
	}
	if !strings.HasPrefix(got, ": the server is stopping: come back\nretry: ") {
		t.Errorf("it ends with %q", got)
	}
	if got := block(t, r); got != "(EOF)" {
		t.Errorf("behind the end came %q", got)
	}
}

func TestEventStreamsEnd(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(s *stage)
		after  func(r *fakeReader)
		answer string // instead of a stream
		end    string
	}{
		{"expired", func(s *stage) { s.sse.Expires = time.Now().Add(30 * time.Millisecond) }, nil, "", ": the token has expired\n"},
		{"foreign later", nil, func(r *fakeReader) { r.fails <- ErrForeign }, "", ": the chat is somebody else's\n"},
		{"a bad id", func(s *stage) { s.sse.After = "+1" }, nil, "VALIDATION_ERROR", ""},
		{"a negative id", func(s *stage) { s.sse.After = "-1" }, nil, "VALIDATION_ERROR", ""},
		{"an id of the future", func(s *stage) { s.sse.After, s.fail["7"] = "7", ErrAhead }, nil, "VALIDATION_ERROR", ""},
		{"foreign", func(s *stage) { s.fail["now"] = ErrForeign }, nil, "NOT_FOUND", ""},
		{"away", func(s *stage) { s.fail["now"] = ErrUnavailable }, nil, "SERVICE_UNAVAILABLE", ""},
		{"too many", func(s *stage) { s.sse.User, s.t.users["ann"] = "ann", s.t.MaxPerUser }, nil, "RATE_LIMITED", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t, TransportOptions{})
			if c.before != nil {
				c.before(s)
			}
			r, err := s.get(t, "/sse", nil)
			if c.answer != "" {
				if err == nil || !strings.Contains(err.Error(), c.answer) {
					t.Errorf("answered %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			block(t, r)
			if c.after != nil {
				c.after(s.reader(t, 0))
			}
			if got := block(t, r); got != c.end {
				t.Errorf("it ends with %q", got)
			}
			eventually(t, func() bool { return s.t.Stats().Streams == 0 })
		})
	}
}
