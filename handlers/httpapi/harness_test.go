package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"grout/handlers/httpapi/httpapitest"
	"grout/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var validator = httpapitest.NewValidator()

// memoryCommands stands for the log: it keeps the frames and answers from a
// function, or accepts every event.
type memoryCommands struct {
	mu     sync.Mutex
	frames map[int][]schemas.CommandFrame // by partition
	answer func(partition int, b *schemas.UsageBatch) (Pending, error)
	shut   map[int]error // partitions that take nothing
}

func (m *memoryCommands) Admits(partition int, _ int64) error { return m.shut[partition] }

func (m *memoryCommands) Submit(partition int, f schemas.CommandFrame) (Pending, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frames == nil {
		m.frames = map[int][]schemas.CommandFrame{}
	}
	m.frames[partition] = append(m.frames[partition], f)
	var b schemas.UsageBatch
	if err := b.DecodePayload(f.Payload); err != nil {
		return nil, err
	}
	if m.answer != nil {
		return m.answer(partition, &b)
	}
	return applied(uint64(len(m.frames[partition])), countAll(&b)), nil
}

func (m *memoryCommands) all() (list []schemas.CommandFrame) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.frames {
		list = append(list, f...)
	}
	return list
}

// countAll is the outcome of a batch of which nothing was seen before.
func countAll(b *schemas.UsageBatch) *schemas.IngestOutcome {
	o := &schemas.IngestOutcome{Accepted: len(b.Events), Errors: b.Rejected}
	for _, p := range b.Parts {
		o.Rejected += int(p.Rejected)
	}
	return o
}

// memoryPending answers with what it holds. Without a receipt it waits for the
// end of the context.
type memoryPending struct {
	stored, applied *Receipt
	err             error
	asked           *int // how often Wait or Stored was called
}

func (p memoryPending) count() {
	if p.asked != nil {
		*p.asked++
	}
}

func (p memoryPending) Stored(ctx context.Context) (Receipt, error) {
	p.count()
	if p.stored == nil && p.err == nil {
		<-ctx.Done()
		return Receipt{}, ctx.Err()
	}
	if p.stored == nil {
		return Receipt{}, p.err
	}
	return *p.stored, nil
}

func (p memoryPending) Wait(ctx context.Context) (Receipt, error) {
	p.count()
	if p.err != nil {
		return Receipt{}, p.err
	}
	if p.applied != nil {
		return *p.applied, nil
	}
	<-ctx.Done()
	if p.stored != nil {
		return *p.stored, nil
	}
	return Receipt{}, ctx.Err()
}

func applied(seq uint64, o *schemas.IngestOutcome) memoryPending {
	return memoryPending{stored: &Receipt{Seq: seq}, applied: &Receipt{Seq: seq, Outcome: o.Append(nil)}}
}

type memoryReads struct {
	usage func(ctx context.Context, q schemas.UsageQuery) (schemas.UsageReport, error)
	byID  func(app, id string) (schemas.BatchStatus, bool, error)
	chat  func(app, id string) (*schemas.ChatUsage, error)
	byRef func(refs []schemas.CommandRef) (schemas.BatchStatus, bool, error)
}

func (m *memoryReads) Usage(ctx context.Context, q schemas.UsageQuery) (schemas.UsageReport, error) {
	return m.usage(ctx, q)
}

func (m *memoryReads) Chat(_ context.Context, app, id string) (*schemas.ChatUsage, error) {
	if m.chat == nil {
		return nil, nil
	}
	return m.chat(app, id)
}

func (m *memoryReads) BatchByID(_ context.Context, app, id string) (schemas.BatchStatus, bool, error) {
	return m.byID(app, id)
}

func (m *memoryReads) BatchByRef(_ context.Context, refs []schemas.CommandRef) (schemas.BatchStatus, bool, error) {
	return m.byRef(refs)
}

type memoryHealth struct {
	ok     bool
	reason string
	alarms []schemas.Alarm
}

func (m *memoryHealth) Alarms() []schemas.Alarm { return m.alarms }

func (m *memoryHealth) Ready() (bool, string) { return m.ok, m.reason }

const (
	internalKey = "internal-key-1"
	serviceKey  = "service-key-1"
)

// server is a listening server with doubles behind it. Every answer it gives is
// held against openapi.json.
type server struct {
	t        testing.TB
	api      *Server
	commands *memoryCommands
	reads    *memoryReads
	health   *memoryHealth
	plugins  *memoryPlugins
	runs     *memoryRuns
	logs     *syncBuffer
	http     *httptest.Server
}

func serve(t testing.TB, change ...func(*Options)) *server {
	t.Helper()
	return serveWith(t, func(*http.Server) {}, change...)
}

// serveWith also changes the limits of the HTTP server.
func serveWith(t testing.TB, limits func(*http.Server), change ...func(*Options)) *server {
	t.Helper()
	s := &server{t: t, commands: &memoryCommands{}, reads: &memoryReads{}, health: &memoryHealth{ok: true}, logs: &syncBuffer{}}
	s.plugins, s.runs = newMemoryPlugins(), &memoryRuns{}
	o := Options{
		AppID: "app_1", AppTier: "free", AppName: "App One", Port: func() int { return 8080 },
		InternalKeys: []string{internalKey, "internal-key-2"}, ServiceKeys: []string{serviceKey, "service-key-2"},
		WaitLimit: 5 * time.Second, Version: "test",
		Commands: s.commands, Reads: s.reads, Health: s.health,
		Plugins: s.plugins, Runs: s.runs,
		Logger: slog.New(slog.NewJSONHandler(s.logs, nil)),
		Now:    func() time.Time { return time.Unix(1_769_441_400, 5).UTC() },
	}
	for _, c := range change {
		c(&o)
	}
	s.api = New(o)
	s.http = httptest.NewUnstartedServer(nil)
	s.http.Config = s.api.HTTPServer()
	limits(s.http.Config)
	s.http.Start()
	s.http.Client().Timeout = 20 * time.Second // nothing here takes long; a fault must not hang
	t.Cleanup(s.http.Close)
	return s
}

// answer is a whole response.
type answer struct {
	t      testing.TB
	status int
	header http.Header
	text   string
	closed bool // the server ends the connection
}

// do sends a request with the internal key, unless the headers, given as
// "Name: value", say something about identity. "-" takes the key away.
func (s *server) do(method, path string, body any, headers ...string) *answer {
	s.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case string:
		r = strings.NewReader(b)
	case io.Reader:
		r = b
	}
	req, err := http.NewRequest(method, s.http.URL+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	identity := slices.ContainsFunc(headers, func(h string) bool {
		return h == "-" || strings.HasPrefix(h, "Authorization:") || strings.HasPrefix(h, "X-Internal-API-Key:")
	})
	if !identity {
		req.Header.Set("X-Internal-API-Key", internalKey)
	}
	for _, h := range headers {
		if name, value, ok := strings.Cut(h, ": "); ok {
			req.Header.Add(name, value)
		}
	}
	return s.send(req)
}

func (s *server) send(req *http.Request) *answer {
	s.t.Helper()
	resp, err := s.http.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	validator.Check(s.t, req, resp, text)
	return &answer{t: s.t, status: resp.StatusCode, header: resp.Header, text: string(text), closed: resp.Close}
}

// is fails the test unless the answer has this status and, for errors, this code.
func (a *answer) is(status int, code ...schemas.Code) *answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("answered %d, want %d: %s", a.status, status, a.text)
	}
	if len(code) > 0 {
		if got := a.json()["error_code"]; got != string(code[0]) {
			a.t.Fatalf("error_code is %v, want %s: %s", got, code[0], a.text)
		}
		if got := a.json()["status_code"]; fmt.Sprint(got) != fmt.Sprint(status) {
			a.t.Fatalf("status_code is %v, want %d", got, status)
		}
	}
	return a
}

func (a *answer) detail(want string) *answer {
	a.t.Helper()
	if got := a.json()["detail"]; got != want {
		a.t.Errorf("detail is %q, want %q", got, want)
	}
	return a
}

// body fails the test unless the body is this very text.
func (a *answer) body(want string) *answer {
	a.t.Helper()
	if a.text != want {
		a.t.Errorf("the body is\n%s\nwant\n%s", a.text, want)
	}
	return a
}

func (a *answer) has(header, want string) *answer {
	a.t.Helper()
	if got := a.header.Get(header); got != want {
		a.t.Errorf("%s is %q, want %q", header, got, want)
	}
	return a
}

func (a *answer) json() map[string]any {
	a.t.Helper()
	d := json.NewDecoder(strings.NewReader(a.text))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		a.t.Fatalf("%v: %s", err, a.text)
	}
	return v
}

// syncBuffer collects log lines of concurrent requests.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// event is one usage event of an app as JSON.
func event(id, app string) string {
	return fmt.Sprintf(`{"event_id":%q,"timestamp":"2026-01-26T15:30:00Z","app_id":%q,"user_id":"u","model":"m","input_tokens":1,"output_tokens":2}`, id, app)
}

// batch is a request body; id may be empty.
func batch(id string, events ...string) string {
	list := "[" + strings.Join(events, ",") + "]"
	if id == "" {
		return `{"events":` + list + `}`
	}
	return fmt.Sprintf(`{"batch_id":%q,"events":%s}`, id, list)
}
