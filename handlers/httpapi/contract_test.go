package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"grout/schemas"
)

func TestRoutesAreThoseOfTheDocument(t *testing.T) {
	var doc struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(schemas.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	var documented, served []string
	for path, methods := range doc.Paths {
		for method := range methods {
			documented = append(documented, strings.ToUpper(method)+" "+path)
		}
	}
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, r := range serve(t).api.routes() {
		served = append(served, r.method+" "+parameter.ReplaceAllString(r.path, "{$1}"))
	}
	slices.Sort(documented)
	slices.Sort(served)
	if diff := cmp.Diff(documented, served); diff != "" {
		t.Errorf("(-document +table):\n%s", diff)
	}
}

func TestEveryRequestCodeHasAStatusAndIsDocumented(t *testing.T) {
	var doc struct {
		Properties struct {
			ErrorCode struct{ Enum []schemas.Code } `json:"error_code"`
		}
	}
	if err := json.Unmarshal(schemas.JSONSchema("error"), &doc); err != nil {
		t.Fatal(err)
	}
	var served []schemas.Code
	for code := range statusOf {
		served = append(served, code)
	}
	slices.Sort(served)
	slices.Sort(doc.Properties.ErrorCode.Enum)
	if diff := cmp.Diff(doc.Properties.ErrorCode.Enum, served); diff != "" {
		t.Errorf("(-document +table):\n%s", diff)
	}
}

func TestUnknownRoutes(t *testing.T) {
	s := serve(t)
	for _, path := range []string{
		"/", "/nothing", "/api/usage/", "/api/usage/ingest/", "/health/", "/api/usage/batches", "/api/usage/batches/",
		"/api/usage/batches/b/", "/api/usage/batches/b/c", "//health", "/HEALTH", "/api/usage/batches//",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS"} {
			a := s.do(method, path, nil).is(404)
			if method != "HEAD" {
				a.is(404, schemas.CodeNotFound).body(`{"detail":"Not found","error_code":"NOT_FOUND","status_code":404}`)
			}
		}
	}
}

func TestWrongMethods(t *testing.T) {
	s := serve(t)
	methods := map[string][]string{} // by path, in the order of the table
	for _, r := range s.api.routes() {
		methods[r.path] = append(methods[r.path], r.method)
		if r.method == "GET" {
			methods[r.path] = append(methods[r.path], "HEAD")
		}
	}
	parameter := regexp.MustCompile(`:\w+`)
	for pattern, known := range methods {
		path, allow := parameter.ReplaceAllString(pattern, "x"), strings.Join(known, ", ")
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW"} {
			if slices.Contains(known, method) {
				continue
			}
			a := s.do(method, path, nil, "-").is(405).has("Allow", allow) // before identity
			if method != "HEAD" {
				a.is(405, schemas.CodeMethodNotAllowed)
			}
		}
	}
}

func TestCorrelationID(t *testing.T) {
	s := serve(t)
	long := strings.Repeat("x", 128)
	for _, c := range []struct {
		name    string
		headers []string
		want    string // empty: a new UUID
	}{
		{"echoed", []string{"X-Mozaiks-Correlation-Id: abc 1~!"}, "abc 1~!"},
		{"other header", []string{"X-Correlation-Id: other"}, "other"},
		{"own header first", []string{"X-Correlation-Id: other", "X-Mozaiks-Correlation-Id: own"}, "own"},
		{"longest", []string{"X-Mozaiks-Correlation-Id: " + long}, long},
		{"too long", []string{"X-Mozaiks-Correlation-Id: " + long + "x"}, ""},
		{"too long does not fall back", []string{"X-Mozaiks-Correlation-Id: " + long + "x", "X-Correlation-Id: other"}, ""},
		{"not ASCII", []string{"X-Mozaiks-Correlation-Id: é"}, ""},
		{"control", []string{"X-Mozaiks-Correlation-Id: a\tb"}, ""},
		{"none", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, path := range []string{"/health", "/nothing", "/api/usage?nonsense=1"} {
				got := s.do("GET", path, nil, c.headers...).header.Get("X-Mozaiks-Correlation-Id")
				if c.want == "" {
					if _, err := uuid.Parse(got); err != nil {
						t.Errorf("%s: %q is no UUID", path, got)
					}
				} else if got != c.want {
					t.Errorf("%s: %q, want %q", path, got, c.want)
				}
			}
		})
	}
}

func TestHeadersAreOnEveryAnswer(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/health", "/metrics", "/openapi.json", "/nothing", "/api/usage"} {
		for _, method := range []string{"GET", "HEAD", "DELETE"} {
			s.do(method, path, nil, "-").has("X-Mozaiks-Runtime-Version", "1.0.0")
		}
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	s := serve(t)
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) { panic("the secret") }
	a := s.do("POST", "/api/usage/ingest", batch("b", event("e", "a")), "X-Mozaiks-Correlation-Id: c-1").is(500, schemas.CodeInternal)
	a.body(`{"detail":"Internal server error","error_code":"INTERNAL_ERROR","status_code":500}`)
	if log := s.logs.String(); !strings.Contains(log, "the secret") || !strings.Contains(log, "harness_test.go") {
		t.Errorf("the log does not tell the panic and where it was:\n%s", log)
	}
	s.do("GET", "/health", nil).is(200)
}

// TestPanicInTheMiddleOfAnAnswer: half an answer must not look like a whole one.
func TestPanicInTheMiddleOfAnAnswer(t *testing.T) {
	s := serve(t)
	rows := make([]schemas.UsageRow, 3000)
	for i := range rows[:2999] {
		rows[i].Group = []string{strings.Repeat("u", 64)}
	} // the last row lacks its group, which indexes out of range
	s.reads.usage = reportOf(schemas.UsageReport{Rows: rows})
	req, err := http.NewRequest("GET", s.http.URL+"/api/usage?group_by=user_id", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Internal-API-Key", internalKey)
	resp, err := s.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var buf [4096]byte
	for err == nil {
		_, err = resp.Body.Read(buf[:])
	}
	if err.Error() == "EOF" {
		t.Error("the answer ended as if it was whole")
	}
}

func TestUnexpectedErrorsStayInTheLog(t *testing.T) {
	s := serve(t)
	s.reads.usage = failing(errors.New("disk is gone"))
	s.do("GET", "/api/usage", nil).is(500, schemas.CodeInternal).detail("Internal server error")
	if !strings.Contains(s.logs.String(), "disk is gone") {
		t.Errorf("the log does not tell: %s", s.logs)
	}
}

func TestOneLogLineWithoutSecrets(t *testing.T) {
	s := serve(t)
	s.do("GET", "/api/usage/batches/b?request=zzz&app_id=hidden", nil, "Authorization: Bearer "+serviceKey, "X-Mozaiks-Correlation-Id: c-1").is(422)
	s.do("GET", "/hidden", nil).is(404)
	lines := strings.Split(strings.TrimSpace(s.logs.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want 2:\n%s", len(lines), s.logs)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]any{"correlation_id": "c-1", "method": "GET", "route": "/api/usage/batches/:batch_id", "status": 422.0} {
		if line[key] != want {
			t.Errorf("%s is %v, want %v", key, line[key], want)
		}
	}
	for _, secret := range []string{serviceKey, internalKey, "hidden", "zzz"} {
		if strings.Contains(s.logs.String(), secret) {
			t.Errorf("the log tells %q:\n%s", secret, s.logs)
		}
	}
}

func TestMetrics(t *testing.T) {
	s := serve(t)
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a"), `7`)).is(200)
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) {
		return applied(1, &schemas.IngestOutcome{Accepted: 1, Rejected: 1, Replayed: true}), nil
	}
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a"), `7`)).is(200) // nothing new happened
	s.do("GET", "/nothing", nil).is(404)
	s.do("BREW", "/health", nil).is(405)
	text := s.do("GET", "/metrics", nil, "-").is(200).text
	for _, want := range []string{
		`grout_http_requests_total{code="200",method="POST",route="/api/usage/ingest"} 2`,
		`grout_http_requests_total{code="404",method="GET",route="unmatched"} 1`,
		`grout_http_requests_total{code="405",method="other",route="/health"} 1`,
		`grout_http_request_duration_seconds_count{route="/api/usage/ingest"} 2`,
		`grout_http_requests_in_flight 1`,
		`grout_ingest_events_total{outcome="accepted"} 1`,
		`grout_ingest_events_total{outcome="duplicate"} 0`,
		`grout_ingest_events_total{outcome="rejected"} 1`,
		`grout_build_info{version="test"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no line %s in\n%s", want, text)
		}
	}
}
