package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// memoryLive notes what it is asked for, and answers in few words.
type memoryLive struct {
	socket *Socket
	stream *Stream
	fail   error
}

func (m *memoryLive) Socket(w http.ResponseWriter, _ *http.Request, s Socket) error {
	m.socket = &s
	if m.fail == nil {
		w.WriteHeader(http.StatusNoContent)
	}
	return m.fail
}

func (m *memoryLive) Stream(w http.ResponseWriter, _ *http.Request, s Stream) error {
	m.stream = &s
	if m.fail == nil {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-store, no-transform")
		w.WriteHeader(http.StatusOK)
	}
	return m.fail
}

func serveLive(t *testing.T, change ...func(*Options)) (*server, *memoryLive) {
	t.Helper()
	live := &memoryLive{}
	s := serve(t, append([]func(*Options){knownUsers, func(o *Options) {
		o.Live, o.Origins = live, []string{"https://app.example.com"}
	}}, change...)...)
	return s, live
}

// handshake sends a WebSocket handshake; headers are "Name: value", one of a name takes its
// place, and one without a value takes it away.
func (s *server) handshake(path string, headers ...string) (status int, header http.Header) {
	s.t.Helper()
	req, err := http.NewRequest("GET", s.http.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for name, value := range map[string]string{"Connection": "keep-alive, Upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="} {
		req.Header.Set(name, value)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if req.Header.Set(name, value); value == "" {
			req.Header.Del(name)
		}
	}
	resp, err := s.http.Client().Transport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header
}

func TestSocketsAreJudged(t *testing.T) {
	const path = "/ws/flow/app_1/c%2F1/ann"
	seven := uint64(7)
	ok := Socket{App: "app_1", Chat: "c/1", User: "ann", Expires: time.Unix(0, 0)}
	with := func(change func(*Socket)) *Socket {
		s := ok
		change(&s)
		return &s
	}
	protocol := "Sec-WebSocket-Protocol: chat, access_token." + annToken
	echoed := func(s *Socket) { s.Subprotocol = "access_token." + annToken }
	for _, c := range []struct {
		name, path string
		headers    []string
		status     int // 0: the socket is asked for
		want       *Socket
	}{
		{"subprotocol", path, []string{protocol}, 0, with(echoed)},
		{"query", path + "?access_token=" + annToken, nil, 0, &ok},
		{"number", path + "?last_sequence=7", []string{protocol}, 0, with(func(s *Socket) { echoed(s); s.After = &seven })},
		{"superadmin", "/ws/flow/app_1/c/root?access_token=" + adminToken, nil, 0, with(func(s *Socket) { s.Chat, s.User, s.Superadmin = "c", "root", true })},
		{"a header is no way in", path, []string{asAnn}, 0, &Socket{Close: 4001, Reason: notAuthenticated}},
		{"no token", path, nil, 0, &Socket{Close: 4001, Reason: notAuthenticated}},
		{"bad token", path + "?access_token=x", nil, 0, &Socket{Close: 4001, Reason: notValidated}},
		{"other app", "/ws/flow/app_2/c/ann?access_token=" + annToken, nil, 0, &Socket{Close: 4003, Reason: "The token is not for this app and user", Expires: ok.Expires}},
		{"other user", "/ws/flow/app_1/c/ben?access_token=" + annToken, nil, 0, &Socket{Close: 4003, Reason: "The token is not for this app and user", Expires: ok.Expires}},
		{"not a number", path + "?last_sequence=%2B7&access_token=" + annToken, nil, 0, with(func(s *Socket) {
			s.Close, s.Reason = 4400, "last_sequence must be a whole number from 0 to the chat's last one"
		})},
		{"no upgrade", path, []string{"Upgrade: "}, 426, nil},
		{"no connection", path, []string{"Connection: close"}, 426, nil},
		{"other version", path, []string{"Sec-WebSocket-Version: 12"}, 426, nil},
		{"bad key", path, []string{"Sec-WebSocket-Key: AAAA"}, 426, nil},
		{"other origin", path, []string{"Origin: https://app.example.com.evil.test"}, 403, nil},
		{"no origin", path, []string{"Origin: null"}, 403, nil},
		{"named origin", path, []string{protocol, "Origin: https://APP.example.com"}, 0, with(echoed)},
		{"too few segments", "/ws/flow/app_1/c", nil, 404, nil},
		{"too many segments", path + "/x", nil, 404, nil},
	} {
		s, live := serveLive(t)
		status, header := s.handshake(c.path, c.headers...)
		if want := c.status; want != 0 {
			if status != want || live.socket != nil || header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: answered %d %v", c.name, status, header)
			}
			continue
		}
		if diff := cmp.Diff(c.want, live.socket); diff != "" || status != 204 {
			t.Errorf("%s: answered %d (-want +got):\n%s", c.name, status, diff)
		}
		if logs := s.logs.String(); strings.Contains(logs, "SECRET") || !strings.Contains(logs, `"route":"/ws/:workflow_name/`) {
			t.Errorf("%s: the log is\n%s", c.name, logs)
		}
		if text := s.do("GET", "/metrics", nil).text; strings.Contains(text, "SECRET") {
			t.Errorf("%s: a token is in the metrics", c.name)
		}
	}
	s, _ := serveLive(t)
	s.do("GET", path, nil).is(426, schemas.CodeUpgradeRequired).has("Upgrade", "websocket")
	s.do("HEAD", path, nil).is(426)
	s, live := serveLive(t)
	live.fail = unavailable("The stream of facts is not available; try again", nil)
	if status, header := s.handshake(path + "?access_token=" + annToken); status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("without a stream it is answered %d", status)
	}
	s, _ = serveLive(t, func(o *Options) { o.Users = nil })
	if status, _ := s.handshake(path); status != 503 {
		t.Errorf("with no user tokens it is answered %d", status)
	}
}

func TestStreamsAreJudged(t *testing.T) {
	const path = "/api/events/stream"
	for _, c := range []struct {
		name, query string
		headers     []string
		status      int
		want        *Stream
	}{
		{"key", "", nil, 200, &Stream{App: "app_1"}},
		{"all of it", "?app_id=b&chat_id=c&run_id=r&kind=usage,chat.orchestration&kind=plugin.report.ready&last_event_id=9.1-2", nil, 200, &Stream{
			App: "b", Chat: "c", Run: "r", Kinds: []string{"usage", "chat.orchestration", "plugin.report.ready"}, After: "9.1-2",
		}},
		{"the header counts first", "?last_event_id=9", []string{"Last-Event-ID: 10"}, 200, &Stream{App: "app_1", After: "10"}},
		{"user", "", []string{asAnn}, 200, &Stream{App: "app_1", User: "ann", Expires: time.Unix(0, 0)}},
		{"user by the query", "?access_token=" + annToken, []string{"-"}, 200, &Stream{App: "app_1", User: "ann", Expires: time.Unix(0, 0)}},
		{"superadmin", "", []string{asAdmin}, 200, &Stream{App: "app_1", Expires: time.Unix(0, 0)}},
		{"own chat and run", "?chat_id=ann-chat&run_id=ann-run", []string{asAnn}, 200, &Stream{App: "app_1", User: "ann", Chat: "ann-chat", Run: "ann-run", Expires: time.Unix(0, 0)}},
		{"nobody", "", []string{"-"}, 401, nil},
		{"a key in the query", "?access_token=" + serviceKey, []string{"-"}, 401, nil},
		{"other app", "?app_id=b", []string{asAnn}, 404, nil},
		{"foreign chat", "?chat_id=ben-chat", []string{asAnn}, 404, nil},
		{"unknown chat", "?chat_id=none", []string{asAnn}, 404, nil},
		{"foreign run", "?run_id=ben-run", []string{asAnn}, 404, nil},
		{"unknown run", "?run_id=none", []string{asAnn}, 404, nil},
		{"kinds", "?kind=usage.recorde", nil, 422, nil},
		{"dots", "?kind=.", nil, 422, nil},
		{"many kinds", "?kind=" + manyKinds(65), nil, 422, nil},
		{"repeated", "?chat_id=a&chat_id=b", nil, 422, nil},
		{"long id", "?last_event_id=" + strings.Repeat("1", 65), nil, 422, nil},
		{"bad query", "?kind=%zz", nil, 422, nil},
	} {
		s, live := serveLive(t)
		s.reads.chat = func(_, id string) (*schemas.ChatUsage, error) {
			if user, ok := strings.CutSuffix(id, "-chat"); ok {
				return &schemas.ChatUsage{UserID: user}, nil
			}
			return nil, nil
		}
		for _, user := range []string{"ann", "ben"} {
			s.runs.put(&schemas.Run{ID: user + "-run", AppID: "app_1", UserID: user})
		}
		s.do("GET", path+c.query, nil, c.headers...).is(c.status)
		if diff := cmp.Diff(c.want, live.stream); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if strings.Contains(s.logs.String(), "SECRET") {
			t.Errorf("%s: a token is in the log", c.name)
		}
	}
	s, live := serveLive(t)
	if s.do("HEAD", path, nil).is(200); live.stream == nil || !live.stream.Head {
		t.Errorf("HEAD asks for %+v", live.stream)
	}
	if text := s.do("GET", "/metrics", nil).text; strings.Contains(text, `grout_http_request_duration_seconds_count{route="/api/events/stream"}`) {
		t.Error("how long a stream goes on is taken for the time of an answer")
	}
}

func manyKinds(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprint("plugin.k", i))
	}
	return strings.Join(list, ",")
}

// Pages of named origins may read answers and ask beforehand; others may not.
func TestOrigins(t *testing.T) {
	s, _ := serveLive(t)
	ask := func(method, path, origin string, more ...string) http.Header {
		t.Helper()
		req, err := http.NewRequest(method, s.http.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		for i := 0; i+1 < len(more); i += 2 {
			req.Header.Set(more[i], more[i+1])
		}
		resp, err := s.http.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		resp.Header.Set("status", fmt.Sprint(resp.StatusCode))
		return resp.Header
	}
	const named, other = "https://app.example.com", "https://evil.example.com"
	preflight := []string{"Access-Control-Request-Method", "POST"}
	for _, c := range []struct {
		method, path, origin string
		more                 []string
		status, allowed      string
	}{
		{"GET", "/health", named, nil, "200", named},
		{"GET", "/api/usage", named, nil, "401", named},
		{"GET", "/health", other, nil, "200", ""},
		{"OPTIONS", "/api/usage/ingest", named, preflight, "204", named},
		{"OPTIONS", "/api/usage/ingest", other, preflight, "405", ""},
		{"OPTIONS", "/api/usage/ingest", named, nil, "405", named},
		{"OPTIONS", "/nothing", named, preflight, "404", named},
	} {
		h := ask(c.method, c.path, c.origin, c.more...)
		if h.Get("status") != c.status || h.Get("Access-Control-Allow-Origin") != c.allowed || h.Get("Vary") != "Origin" || h.Get("Access-Control-Allow-Credentials") != "" {
			t.Errorf("%s %s from %s: %v", c.method, c.path, c.origin, h)
		}
		if c.status == "204" && (!strings.Contains(h.Get("Access-Control-Allow-Headers"), "Authorization") || h.Get("X-Mozaiks-Runtime-Version") == "") {
			t.Errorf("preflight: %v", h)
		}
	}
	s = serve(t)
	if h := ask("GET", "/health", named); h.Get("Access-Control-Allow-Origin") != "" || h.Get("Vary") != "" {
		t.Errorf("without named origins: %v", h)
	}
}
