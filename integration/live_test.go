package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"grout/integration/process"
)

// liveFrame is a frame as clients see it.
type liveFrame struct {
	Type      string
	Data      json.RawMessage
	ChatID    string `json:"chat_id"`
	Sequence  uint64
	Timestamp time.Time

	id string // of an SSE event
}

// mirror tells whether a frame mirrors another one for AG-UI.
func (f *liveFrame) mirror() bool { return strings.HasPrefix(f.Type, "agui.") }

// tokenUntil is a user's token that ends at an instant.
func tokenUntil(t testing.TB, user string, end time.Time) string {
	t.Helper()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": user, "exp": end.Unix(), "roles": []string{"boss"}[:min(1, strings.Count(user, "root"))]}).SignedString([]byte(jwtSecret))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func socketURL(p *process.Process, chat, user, query string) string {
	u := p.URL + "/ws/work%20flow/dev_app/" + url.PathEscape(chat) + "/" + url.PathEscape(user)
	if query != "" {
		u += "?" + query
	}
	return u
}

// dialSocket opens a WebSocket with the token as subprotocol, unless there is none.
func dialSocket(ctx context.Context, at, token string, header ...string) (*websocket.Conn, *http.Response, error) {
	o := &websocket.DialOptions{HTTPHeader: http.Header{}}
	if token != "" {
		o.Subprotocols = []string{"access_token." + token}
	}
	for i := 0; i+1 < len(header); i += 2 {
		o.HTTPHeader.Set(header[i], header[i+1])
	}
	c, resp, err := websocket.Dial(ctx, at, o)
	if err == nil {
		c.SetReadLimit(4 << 20)
	}
	return c, resp, err
}

// readFrame reads one frame.
func readFrame(ctx context.Context, c *websocket.Conn) (f liveFrame, err error) {
	_, b, err := c.Read(ctx)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(b, &f)
}

// wantFrame reads one frame, and holds it against the API document.
func wantFrame(t testing.TB, c *websocket.Conn) (f liveFrame) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, b, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	documents.CheckFrame(t, b)
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// closeOf reads to the end of a socket.
func closeOf(t testing.TB, c *websocket.Conn) (code websocket.StatusCode, reason string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		_, _, err := c.Read(ctx)
		if end := (websocket.CloseError{}); errors.As(err, &end) {
			return end.Code, end.Reason
		}
		if err != nil {
			return -1, err.Error()
		}
	}
}

// eventStream is an SSE stream that is being read.
type eventStream struct {
	resp  *http.Response
	lines *bufio.Reader
}

func openEvents(ctx context.Context, p *process.Process, query string, header ...string) (*eventStream, error) {
	return openEventsWith(ctx, liveClient, p, query, header...)
}

func openEventsWith(ctx context.Context, client *http.Client, p *process.Process, query string, header ...string) (*eventStream, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", p.URL+"/api/events/stream?"+query, nil)
	if err != nil {
		return nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("answered %d %s", resp.StatusCode, b)
	}
	return &eventStream{resp, bufio.NewReaderSize(resp.Body, 2<<10)}, nil
}

// liveClient has a connection for each stream.
var liveClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, ReadBufferSize: 2 << 10, WriteBufferSize: 1 << 10}}

func (s *eventStream) close() { s.resp.Body.Close() }

// next reads an event; comments are passed over.
func (s *eventStream) next() (f liveFrame, err error) {
	var data strings.Builder
	kind, id := "", ""
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return f, err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && data.Len() > 0:
			if err := json.Unmarshal([]byte(data.String()), &f); err != nil {
				return f, err
			}
			if f.id = id; kind != f.Type {
				return f, fmt.Errorf("event %q holds a frame of type %q", kind, f.Type)
			}
			return f, nil
		case field == "id":
			id = value
		case field == "event":
			kind = value
		case field == "data":
			data.WriteString(value + "\n")
		}
	}
}

// tell tells of something that happens in a run of a chat.
func tell(t testing.TB, p *process.Process, chat, user, run, kind string, more string) {
	t.Helper()
	request(t, p, "POST", "/api/orchestration/events", reported(chat, user, run, kind, more)).want(t, 200)
}

func reported(chat, user, run, kind, more string) string {
	return fmt.Sprintf(`{"kind":"orchestration.%s","run_id":%q,"chat_id":%q,"user_id":%q,"timestamp":%q%s}`,
		kind, run, chat, user, time.Now().UTC().Format(time.RFC3339Nano), more)
}

const liveOrigin = "https://app.example.com"

func startLive(t testing.TB, data string, env ...string) *process.Process {
	t.Helper()
	return start(t, data, 1, append([]string{"JWT_SECRET=" + jwtSecret, "MOZAIKS_SUPERADMIN_ROLE=boss", "MOZAIKS_ALLOWED_ORIGINS=" + liveOrigin}, env...)...)
}

// Who may open which socket, asked with a client library of others: close codes, echo of the
// subprotocol, token in the query, origins, and every parameter that cannot be.
func TestSocketDoors(t *testing.T) {
	p := startLive(t, filepath.Join(t.TempDir(), "data"))
	tell(t, p, "chat 1", "ann", "r1", "run_started", "")
	tell(t, p, "chat 1", "ann", "r1", "agent_started", `,"agent":"Writer"`)
	tell(t, p, "chat 2", "ben", "r2", "run_started", "")
	ann, long := bearer(t, "ann"), strings.Repeat("x", 129)
	expired := tokenUntil(t, "ann", time.Now().Add(-2*time.Minute))
	root := tokenUntil(t, "root", time.Now().Add(time.Hour))
	socket := func(chat, user string, query ...string) string {
		return socketURL(p, chat, user, strings.Join(query, "&"))
	}
	otherApp := strings.Replace(socket("chat 1", "ann"), "dev_app", "other", 1)
	for _, c := range []struct {
		name, at, token string
		code            websocket.StatusCode // 0: it stays open
		reason          string
	}{
		{"own chat", socket("chat 1", "ann"), ann, 0, ""},
		{"token in the query", socket("chat 1", "ann", "access_token="+ann), "", 0, ""},
		{"a chat that is not there yet", socket("chat 3", "ann"), ann, 0, ""},
		{"a run without a chat that is not there yet", socket("run-9", "ann"), ann, 0, ""},
		{"superadmin", socket("chat 1", "root"), root, 0, ""},
		{"behind the first", socket("chat 1", "ann", "last_sequence=1"), ann, 0, ""},
		{"behind the last", socket("chat 1", "ann", "last_sequence=2"), ann, 0, ""},
		{"no token", socket("chat 1", "ann"), "", 4001, "Not authenticated"},
		{"empty token", socket("chat 1", "ann", "access_token="), "", 4001, "Not authenticated"},
		{"garbage", socket("chat 1", "ann"), "a.b.c", 4001, "Could not validate credentials"},
		{"bad signature", socket("chat 1", "ann"), ann[:len(ann)-4] + "AAAA", 4001, "Could not validate credentials"},
		{"expired", socket("chat 1", "ann"), expired, 4001, "Could not validate credentials"},
		{"a bad one in the subprotocol, a good one in the query", socket("chat 1", "ann", "access_token="+ann), "a.b.c", 4001, "Could not validate credentials"},
		{"a key is no token", socket("chat 1", "ann", "access_token="+process.ServiceKey), "", 4001, "Could not validate credentials"},
		{"other user in the path", socket("chat 1", "ben"), ann, 4003, "The token is not for this app and user"},
		{"superadmin as somebody else", socket("chat 1", "ann"), root, 4003, "The token is not for this app and user"},
		{"other app", otherApp, ann, 4003, "The token is not for this app and user"},
		{"somebody else's chat", socket("chat 2", "ann"), ann, 4003, "The chat is not yours"},
		{"negative", socket("chat 1", "ann", "last_sequence=-1"), ann, 4400, "last_sequence must be a whole number from 0 to the chat's last one"},
		{"fraction", socket("chat 1", "ann", "last_sequence=1.0"), ann, 4400, "last_sequence must be a whole number from 0 to the chat's last one"},
		{"empty number", socket("chat 1", "ann", "last_sequence="), ann, 4400, "last_sequence must be a whole number from 0 to the chat's last one"},
		{"too large", socket("chat 1", "ann", "last_sequence=99999999999999999999"), ann, 4400, "last_sequence must be a whole number from 0 to the chat's last one"},
		{"future", socket("chat 1", "ann", "last_sequence=3"), ann, 4400, "last_sequence is beyond the chat's last number"},
		{"future of a chat that is not there", socket("chat 4", "ann", "last_sequence=1"), ann, 4400, "last_sequence is beyond the chat's last number"},
		{"unknown parameter", socket("chat 1", "ann", "last_seq=1"), ann, 4400, "Unknown parameter; known are last_sequence and access_token"},
		{"twice", socket("chat 1", "ann", "last_sequence=1", "last_sequence=1"), ann, 4400, "last_sequence is given more than once"},
		{"bad query", socket("chat 1", "ann", "x=%zz"), ann, 4400, "The query string cannot be read"},
		{"long chat", socket(long, "ann"), ann, 4400, "chat_id must have 1 to 128 characters of valid UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			ws, resp, err := dialSocket(ctx, c.at, c.token)
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			want := ""
			if c.token != "" {
				want = "access_token." + c.token
			}
			if ws.Subprotocol() != want || resp.Header.Get("X-Mozaiks-Runtime-Version") != "1.0.0" {
				t.Errorf("subprotocol %q, %v", ws.Subprotocol(), resp.Header)
			}
			if c.code == 0 {
				go func() {
					var err error
					for err == nil {
						_, _, err = ws.Read(ctx)
					}
				}()
				if err := ws.Ping(ctx); err != nil {
					t.Errorf("it is not open: %v", err)
				}
				return
			}
			if code, reason := closeOf(t, ws); code != c.code || reason != c.reason {
				t.Errorf("closed with %d %q, want %d %q", code, reason, c.code, c.reason)
			}
		})
	}
	for _, c := range []struct {
		name   string
		header []string
		status int
	}{
		{"foreign origin", []string{"Origin", "https://evil.example.com"}, 403},
		{"no origin of a page", []string{"Origin", "null"}, 403},
		{"an origin of another scheme", []string{"Origin", "http://app.example.com"}, 403},
		{"named origin", []string{"Origin", liveOrigin}, 101},
		{"own origin", []string{"Origin", p.URL}, 101},
	} {
		ws, resp, err := dialSocket(t.Context(), socket("chat 1", "ann"), ann, c.header...)
		if resp == nil || resp.StatusCode != c.status {
			t.Errorf("%s: answered %v, %v", c.name, resp, err)
		}
		if err == nil {
			ws.CloseNow()
		}
	}
	for _, header := range [][]string{nil, {"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "8", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}, {"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13"}} {
		request(t, p, "GET", strings.TrimPrefix(socket("chat 1", "ann"), p.URL), nil, header...).want(t, 426)
	}
	waiting, _, err := dialSocket(t.Context(), socket("chat 5", "ann"), ann)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.CloseNow()
	tell(t, p, "chat 5", "ben", "r5", "run_started", "")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if f, err := readFrame(ctx, waiting); websocket.CloseStatus(err) != 4003 {
		t.Errorf("a chat that became somebody else's: %+v, %v", f, err)
	}
	metrics := request(t, p, "GET", "/metrics", nil)
	stop(t, p)
	for _, secret := range []string{ann, root, expired, process.ServiceKey} {
		if secret = secret[strings.LastIndexByte(secret, '.')+1:]; strings.Contains(p.Log(), secret) || strings.Contains(string(metrics.body), secret) {
			t.Error("a token is in the log or the metrics")
		}
	}
}

// A chat as it goes on: from now on, from the begin, after a resume, until the token ends.
func TestSocketShowsAChat(t *testing.T) {
	p := startLive(t, filepath.Join(t.TempDir(), "data"))
	tell(t, p, "c", "ann", "r1", "run_started", `,"message":"go"`)
	ws, _, err := dialSocket(t.Context(), socketURL(p, "c", "ann", ""), bearer(t, "ann"))
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	tell(t, p, "c", "ann", "r1", "agent_started", `,"agent":"Writer"`)
	tell(t, p, "c", "ann", "r1", "run_completed", `,"summary":"done"`)
	want := []string{
		"2 chat.orchestration.agent_started", "2 agui.lifecycle.StepStarted", "3 chat.orchestration.run_completed", "3 agui.lifecycle.RunFinished",
	}
	check := func(what string, want ...string) {
		t.Helper()
		for i := range want {
			f := wantFrame(t, ws)
			if got := fmt.Sprint(f.Sequence, " ", f.Type); got != want[i] || f.ChatID != "c" || f.Timestamp.IsZero() {
				t.Errorf("%s: frame %d is %q of chat %q, want %q", what, i, got, f.ChatID, want[i])
			}
		}
	}
	check("from now on", want...)
	all := append([]string{"1 chat.orchestration.run_started", "1 agui.lifecycle.RunStarted"}, want...)
	send := func(frame string) {
		if err := ws.Write(t.Context(), websocket.MessageText, []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	send(`{"type":"client.resume","last_sequence":0}`)
	check("from the begin", all...)
	send(`{"type":"user.input.submit"}`)
	check("an unknown frame", "3 stream.error")
	send(`{"type":"client.resume","last_sequence":4}`)
	check("the future", "3 stream.error")
	send(`{"type":"client.resume","last_sequence":2}`)
	check("the last one", all[4:]...)

	// Without mirrors, until the token ends.
	p.Kill()
	p = startLive(t, filepath.Join(t.TempDir(), "data"), "MOZAIKS_AGUI_ENABLED=false")
	tell(t, p, "c", "ann", "r1", "run_started", "")
	ws, _, err = dialSocket(t.Context(), socketURL(p, "c", "ann", "last_sequence=0"), tokenUntil(t, "ann", time.Now().Add(3*time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	tell(t, p, "c", "ann", "r1", "run_completed", "")
	check("without mirrors", "1 chat.orchestration.run_started", "2 chat.orchestration.run_completed")
	begin := time.Now()
	if code, reason := closeOf(t, ws); code != 4001 || reason != "The token has expired" || time.Since(begin) > 5*time.Second {
		t.Errorf("after %s closed with %d %q", time.Since(begin), code, reason)
	}
}

// Who sees which events in a stream, and where it goes on.
func TestEventStreamDoors(t *testing.T) {
	p := startLive(t, filepath.Join(t.TempDir(), "data"))
	for _, user := range []string{"ann", "ben"} {
		tell(t, p, "chat-"+user, user, "run-"+user, "run_started", "")
	}
	key := []string{"X-Internal-API-Key", process.InternalKey}
	as := func(user string) []string { return []string{"Authorization", "Bearer " + bearer(t, user)} }
	for _, c := range []struct {
		name, query string
		header      []string
		refused     string
	}{
		{"nobody", "", nil, "401"},
		{"bad token", "access_token=a.b.c", nil, "401"},
		{"a key in the query", "access_token=" + process.ServiceKey, nil, "401"},
		{"wrong key", "", []string{"X-Internal-API-Key", "no"}, "403"},
		{"other app of a user", "app_id=other", as("ann"), "404"},
		{"foreign chat", "chat_id=chat-ben", as("ann"), "404"},
		{"unknown chat of a user", "chat_id=none", as("ann"), "404"},
		{"foreign run", "run_id=run-ben", as("ann"), "404"},
		{"unknown run of a user", "run_id=none", as("ann"), "404"},
		{"unknown kind", "kind=usage.recorded,nonsense", key, "422"},
		{"empty kind", "kind=", key, "422"},
		{"unknown parameter", "chat=1", key, "422"},
		{"negative id", "last_event_id=-5", key, "422"},
		{"garbage id", "", append([]string{"Last-Event-ID", "x"}, key...), "422"},
		{"future id", "last_event_id=999999999", key, "422"},
	} {
		_, err := openEvents(t.Context(), p, c.query, c.header...)
		if err == nil || !strings.Contains(err.Error(), "answered "+c.refused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for _, c := range []struct {
		name, query string
		header      []string
		want        []string
	}{
		{"the app with a key", "last_event_id=0&kind=orchestration", key, []string{"run-ann", "run-ben"}},
		{"another app", "last_event_id=0&app_id=other", key, nil},
		{"own chats", "last_event_id=0&kind=chat.orchestration.run_started", as("ann"), []string{"run-ann"}},
		{"own chats by a token in the query", "last_event_id=0&kind=orchestration&access_token=" + bearer(t, "ben"), nil, []string{"run-ben"}},
		{"superadmin", "last_event_id=0&kind=orchestration", []string{"Authorization", "Bearer " + tokenUntil(t, "root", time.Now().Add(time.Hour))}, []string{"run-ann", "run-ben"}},
		{"one run", "last_event_id=0&run_id=run-ben", key, []string{"run-ben"}},
		{"one chat", "last_event_id=0&chat_id=chat-ann", as("ann"), []string{"run-ann"}},
		{"from now on", "kind=orchestration", key, nil},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		s, err := openEvents(ctx, p, c.query, c.header...)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			cancel()
			continue
		}
		if c.name == "from now on" {
			tell(t, p, "chat-ann", "ann", "late", "run_started", "")
			c.want = []string{"late"}
		}
		last := ""
		for len(c.want) > 0 {
			f, err := s.next()
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				break
			}
			if f.mirror() {
				continue
			}
			if !strings.Contains(string(f.Data), fmt.Sprintf("%q", c.want[0])) || f.id == "" || f.id == last {
				t.Errorf("%s: %q %s, want %s", c.name, f.id, f.Data, c.want[0])
			}
			c.want, last = c.want[1:], f.id
		}
		s.close()
		cancel()
	}
	for _, header := range []string{"Accept-Encoding"} {
		s, err := openEvents(t.Context(), p, "", append([]string{header, "gzip, zstd, br"}, key...)...)
		if err != nil || s.resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%v", err)
			continue
		}
		s.close()
	}
	s, err := openEvents(t.Context(), p, "", append([]string{"Origin", liveOrigin}, key...)...)
	if err != nil || s.resp.Header.Get("Access-Control-Allow-Origin") != liveOrigin {
		t.Errorf("a page of a named origin: %v", err)
	} else {
		defer s.close()
	}
	if head := request(t, p, "HEAD", "/api/events/stream", nil); head.status != 200 {
		t.Errorf("HEAD is answered %d", head.status)
	}
	begin := time.Now()
	stop(t, p) // with a stream that is open
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the stop took %s", took)
	}
	rest, _ := io.ReadAll(s.lines)
	if !strings.Contains(string(rest), ": the server is stopping: come back\nretry: ") {
		t.Errorf("the stream ended with %q", rest)
	}
}

// What is older than the stream keeps is announced, and the rest is complete: for a socket,
// and for events that come back from before.
func TestLiveReset(t *testing.T) {
	p := startLive(t, filepath.Join(t.TempDir(), "data"), "MOZAIKS_FACT_MAX_BYTES=16MiB")
	tell(t, p, "c", "ann", "r", "run_started", "")
	long, sent := strings.Repeat("x", 16_000), uint64(1)
	for range 15 {
		var list []string
		for range 100 {
			list = append(list, reported("c", "ann", "r", "tool_started", fmt.Sprintf(`,"message":%q,"event_id":"e-%d"`, long, sent)))
			sent++
		}
		request(t, p, "POST", "/api/orchestration/events", "["+strings.Join(list, ",")+"]").want(t, 200)
	}
	ws, _, err := dialSocket(t.Context(), socketURL(p, "c", "ann", "last_sequence=0"), bearer(t, "ann"))
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	events, err := openEvents(t.Context(), p, "chat_id=c&last_event_id=0", "Authorization", "Bearer "+bearer(t, "ann"))
	if err != nil {
		t.Fatal(err)
	}
	defer events.close()
	for name, next := range map[string]func() (liveFrame, error){
		"socket": func() (liveFrame, error) { return wantFrame(t, ws), nil }, "events": events.next,
	} {
		resets, last := 0, uint64(0)
		for last < sent {
			f, err := next()
			if err != nil {
				t.Errorf("%s: behind number %d: %v", name, last, err)
				break
			}
			var data struct {
				First uint64 `json:"first_sequence"`
			}
			switch reset := f.Type == "stream.reset"; { // more may leave the stream while it is read
			case reset && json.Unmarshal(f.Data, &data) == nil && data.First > last+1 && f.Sequence == data.First-1:
				resets++
			case reset, f.Sequence != last+1, resets == 0:
				t.Fatalf("%s: behind number %d, with %d resets, comes %s with number %d: %.100s", name, last, resets, f.Type, f.Sequence, f.Data)
			}
			last = f.Sequence
		}
		if t.Logf("%s: %d resets", name, resets); resets == 0 {
			t.Errorf("%s were not reset", name)
		}
	}
	stop(t, p)
}
