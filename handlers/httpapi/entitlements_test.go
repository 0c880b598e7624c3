package httpapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// memoryEntitlements stands for what is committed. It answers with what it holds and
// remembers what it was asked.
type memoryEntitlements struct {
	apps     []string
	entitled string
	versions VersionPage
	holds    HoldPage
	decision schemas.Decision
	final    bool
	refusal  error // of everything that is judged early

	asked []any
}

func (m *memoryEntitlements) ask(what ...any) { m.asked = append(m.asked, what...) }

func (m *memoryEntitlements) SyncedApps(context.Context) ([]string, error) { return m.apps, nil }

func (m *memoryEntitlements) Entitled(_ context.Context, who Subject, asOf int64) ([]byte, error) {
	m.ask(who, asOf)
	return []byte(m.entitled), m.refusal
}

func (m *memoryEntitlements) Versions(_ context.Context, q VersionQuery) (VersionPage, error) {
	m.ask(q)
	return m.versions, nil
}

func (m *memoryEntitlements) Check(_ context.Context, app string, r *schemas.EntitlementCheck, asOf int64) (schemas.Decision, bool, error) {
	m.ask(app, *r, asOf)
	return m.decision, m.final, m.refusal
}

func (m *memoryEntitlements) JudgeSync(_ context.Context, sent *schemas.Manifest) error {
	m.ask(sent.AppID, sent.Scope())
	return m.refusal
}

func (m *memoryEntitlements) JudgeReserve(_ context.Context, app string, r *schemas.BudgetReserve, newID bool) error {
	m.ask(app, *r, newID)
	return m.refusal
}

func (m *memoryEntitlements) JudgeHold(_ context.Context, app string, change HoldChange) error {
	if change.Settle != nil {
		m.ask(change.Settle.EventID)
		change.Settle = nil
	}
	m.ask(app, change)
	return m.refusal
}

func (m *memoryEntitlements) Holds(_ context.Context, app string, from HoldPlace, limit int) (HoldPage, error) {
	m.ask(app, from, limit)
	return m.holds, nil
}

// serveEntitled serves with a log that answers every command with an outcome.
func serveEntitled(t *testing.T, o schemas.CommandOutcome) (*server, *correctionLog, *memoryEntitlements) {
	t.Helper()
	m := &memoryEntitlements{}
	s, l := serveCorrections(t, o, func(o *Options) { o.Entitlements = m })
	return s, l, m
}

func doneWith(text string) schemas.CommandOutcome { return schemas.CommandOutcome{Body: []byte(text)} }

const (
	smallManifest = `{"version":"1.1","app_id":"a","plan":{"tier":"pro"}}`
	syncedAnswer  = `{"status":"synced","app_id":"a","user_id":null,"tenant_id":null,"synced_at":"2026-01-26T15:30:00Z","previous_tier":null,"new_tier":"pro","revision":1,"error":null}`
)

func TestSyncRoutes(t *testing.T) {
	for _, tt := range []struct {
		name, path, body, answer string
		key                      string
		kind, app                string
	}{
		{"internal", "/api/internal/entitlement/sync", smallManifest, syncedAnswer, "", "entitlement.sync", "a"},
		{"of the app", "/api/v1/entitlements/a/sync", smallManifest, syncedAnswer, "Authorization: Bearer " + serviceKey, "entitlement.sync", "a"},
		{"subscription as a manifest", "/api/internal/subscription/sync", smallManifest, syncedAnswer, "", "entitlement.sync", "a"},
		{
			"subscription", "/api/internal/subscription/sync", `{"userId":"u","plan":"gold","status":"active","appId":"b"}`,
			`{"success":true,"user_id":"u","plan":"gold","status":"active"}`, "", "subscription.sync", "b",
		},
		{
			"subscription without app", "/api/internal/subscription/sync", `{"user_id":"u","plan":"gold","status":"active"}`,
			`{"success":true,"user_id":"u","plan":"gold","status":"active"}`, "", "subscription.sync", "app_1",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, l, _ := serveEntitled(t, doneWith(tt.answer))
			headers := []string{"X-Mozaiks-Correlation-Id: corr"}
			if tt.key != "" {
				headers = append(headers, tt.key)
			}
			s.do("POST", tt.path, tt.body, headers...).is(200).body(tt.answer)
			if f := l.frame; f.Kind != tt.kind || f.AppID != tt.app || f.CorrelationID != "corr" || f.Source != commandSource {
				t.Errorf("%+v", f)
			}
		})
	}
}

func TestRefusedSyncs(t *testing.T) {
	long := strings.Repeat("x", schemas.MaxManifestBytes)
	for _, tt := range []struct {
		name, path, body string
		headers          []string
		status           int
		code             schemas.Code
		loc              []any // of the first field
	}{
		{"no JSON", "/api/internal/entitlement/sync", `{`, nil, 400, schemas.CodeInvalidJSON, nil},
		{"nothing", "/api/internal/entitlement/sync", ``, nil, 400, schemas.CodeInvalidJSON, nil},
		{"a list", "/api/internal/entitlement/sync", `[]`, nil, 422, schemas.CodeValidation, []any{"body"}},
		{"enum", "/api/internal/entitlement/sync", strings.Replace(smallManifest, "pro", "gold", 1), nil, 422, schemas.CodeValidation, []any{"body", "plan", "tier"}},
		{"version", "/api/internal/entitlement/sync", strings.Replace(smallManifest, "1.1", "2.0", 1), nil, 422, schemas.CodeValidation, []any{"body", "version"}},
		{"older shape", "/api/internal/entitlement/sync", `{"version":"1.0","app_id":"a","tier":"pro","features":["x"],"plan":{"tier":"pro"}}`, nil, 422, schemas.CodeValidation, []any{"body", "tier"}},
		{"below −1", "/api/internal/entitlement/sync", strings.Replace(smallManifest, `"plan"`, `"rate_limits":{"requests_per_minute":-2},"plan"`, 1), nil, 422, schemas.CodeValidation, []any{"body", "rate_limits", "requests_per_minute"}},
		{"too large", "/api/internal/entitlement/sync", strings.Replace(smallManifest, `"plan"`, `"x":"`+long+`","plan"`, 1), nil, 413, schemas.CodePayloadTooLarge, nil},
		{"wrong type", "/api/internal/entitlement/sync", smallManifest, []string{"Content-Type: text/yaml"}, 415, schemas.CodeMediaType, nil},
		{"another app", "/api/v1/entitlements/b/sync", smallManifest, []string{"Authorization: Bearer " + serviceKey}, 400, schemas.CodeAppMismatch, nil},
		{"legacy without plan", "/api/internal/subscription/sync", `{"userId":"u","status":"active"}`, nil, 422, schemas.CodeValidation, []any{"body", "plan"}},
		{"legacy in two spellings", "/api/internal/subscription/sync", `{"userId":"u","user_id":"u","plan":"a","status":"active"}`, nil, 422, schemas.CodeValidation, []any{"body", "user_id"}},
		{"no internal key", "/api/internal/entitlement/sync", smallManifest, []string{"-"}, 401, schemas.CodeUnauthorized, nil},
		{"a service key", "/api/internal/entitlement/sync", smallManifest, []string{"Authorization: Bearer " + serviceKey}, 401, schemas.CodeUnauthorized, nil},
		{"wrong internal key", "/api/internal/subscription/sync", smallManifest, []string{"X-Internal-API-Key: x"}, 403, schemas.CodeForbidden, nil},
		{"an internal key", "/api/v1/entitlements/a/sync", smallManifest, nil, 401, schemas.CodeUnauthorized, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, l, _ := serveEntitled(t, doneWith(syncedAnswer))
			a := s.do("POST", tt.path, tt.body, tt.headers...).is(tt.status, tt.code)
			if l.frame != nil {
				t.Errorf("a command was sent: %+v", l.frame)
			}
			if tt.loc != nil {
				first := a.json()["errors"].([]any)[0].(map[string]any)
				if d := cmp.Diff(tt.loc, first["loc"]); d != "" {
					t.Errorf("field (-want +got):\n%s", d)
				}
			}
		})
	}
	s, _, _ := serveEntitled(t, doneWith(syncedAnswer))
	s.do("POST", "/api/v1/entitlements/b/sync", smallManifest, "Authorization: Bearer "+serviceKey).detail("app_id mismatch: URL has 'b', body has 'a'")
	closed := serve(t, func(o *Options) { o.InternalKeys = nil })
	closed.do("POST", "/api/internal/entitlement/sync", smallManifest, "-").is(503, schemas.CodeNotConfigured).
		detail("Internal API not configured (no INTERNAL_API_KEY set)")
}

// What is refused by what is committed is no command.
func TestRefusedEarly(t *testing.T) {
	for _, tt := range []struct {
		method, path, body string
		refusal            *schemas.Error
		status             int
	}{
		{"POST", "/api/internal/entitlement/sync", smallManifest, schemas.Errorf(schemas.CodeStaleRevision, "old"), 409},
		{"POST", "/api/budgets/reservations", `{"estimated_tokens":1}`, schemas.Errorf(schemas.CodeBudgetExceeded, "full"), 402},
		{"POST", "/api/budgets/reservations", `{"estimated_tokens":1}`, schemas.Errorf(schemas.CodePlanExpired, "over"), 402},
		{"POST", "/api/budgets/reservations", `{"estimated_tokens":1,"reservation_id":"r"}`, schemas.Errorf(schemas.CodeReservationOver, "over"), 409},
		{"POST", "/api/budgets/reservations/r/settle", `{"event_id":"e","input_tokens":1,"output_tokens":1}`, schemas.Errorf(schemas.CodeAlreadySettled, "other"), 409},
		{"POST", "/api/budgets/reservations/r/settle", `{"event_id":"e","input_tokens":1,"output_tokens":1}`, schemas.Errorf(schemas.CodeNotFound, "none"), 404},
		{"POST", "/api/budgets/reservations/r/extend", `{"ttl_seconds":1}`, schemas.Errorf(schemas.CodeReservationOver, "over"), 409},
		{"DELETE", "/api/budgets/reservations/r", ``, schemas.Errorf(schemas.CodeNotFound, "none"), 404},
	} {
		t.Run(fmt.Sprint(tt.method, tt.path, tt.refusal.Code), func(t *testing.T) {
			s, l, m := serveEntitled(t, doneWith(`{}`))
			m.refusal = fmt.Errorf("wrapped: %w", tt.refusal)
			s.do(tt.method, tt.path, tt.body).is(tt.status, tt.refusal.Code).detail(tt.refusal.Detail)
			if l.frame != nil {
				t.Errorf("a command was sent: %+v", l.frame)
			}
			if text := s.do("GET", "/metrics", nil).text; !strings.Contains(text, fmt.Sprintf("grout_refused_early_total{error_code=%q} 1\n", tt.refusal.Code)) {
				t.Error("it is not counted")
			}
			// A store that cannot be read says nothing of what is allowed.
			m.refusal = errors.New("the secret")
			s.do(tt.method, tt.path, tt.body).is(500, schemas.CodeInternal)
		})
	}
}

func TestEntitledReads(t *testing.T) {
	s, _, m := serveEntitled(t, schemas.CommandOutcome{})
	unlimited := schemas.NeverSynced("a")
	m.entitled = string(unlimited.AppendJSON(nil))
	s.do("GET", "/api/v1/entitlements/a?user_id=u&tenant_id=t&as_of=2026-01-26T15:30:00%2B01:00", nil).is(200).
		body(`{"app_id":"a","plan":{"name":"Open Source","tier":"unlimited"},"token_budget":{"period":"unlimited","total_tokens":{"limit":-1,"used":0,"enforcement":"none"}},"features":{},"rate_limits":{},"synced_at":null}`)
	s.do("GET", "/api/v1/entitlements/%C3%A4%2Fb", nil, "Authorization: Bearer "+serviceKey).is(200)
	want := []any{Subject{"a", "u", "t"}, int64(1_769_437_800_000_000_000), Subject{App: "ä/b"}, int64(0)}
	if d := cmp.Diff(want, m.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	for _, q := range []string{"as_of=yesterday", "as_of=", "user_id=", "tenant_id=" + strings.Repeat("x", 129), "user=u", "as_of=2026-01-26T15:30:00"} {
		s.do("GET", "/api/v1/entitlements/a?"+q, nil).is(422, schemas.CodeValidation)
	}
	s.do("GET", "/api/v1/entitlements", nil).is(200).body(`{"apps":[],"count":0}`)
	m.apps = []string{"a", `b"`}
	s.do("GET", "/api/v1/entitlements", nil).is(200).body(`{"apps":["a","b\""],"count":2}`)
}

func TestVersionsOfAManifest(t *testing.T) {
	s, _, m := serveEntitled(t, schemas.CommandOutcome{})
	s.do("GET", "/api/v1/entitlements/a/versions", nil).is(200).body(`{"versions":[],"next_cursor":null}`)
	large := `{"x":"` + strings.Repeat("y", maxVersionBytes/2) + `"}`
	m.versions = VersionPage{Versions: []Version{
		{Place: VersionPlace{9, 1}, Revision: 3, At: 1_769_437_800_000_000_000, CorrelationID: "c", Manifest: []byte(large)},
		{Place: VersionPlace{8, 0}, Revision: 2, Legacy: true, Manifest: []byte(large)},
	}}
	m.asked = nil
	page := s.do("GET", "/api/v1/entitlements/a/versions?user_id=u&limit=7&cursor=10.2", nil).is(200).json()
	if next, n := page["next_cursor"], len(page["versions"].([]any)); next != "9.1" || n != 1 {
		t.Errorf("%d versions of which one is large, next %v", n, next)
	}
	want := []any{VersionQuery{App: "a", Scope: schemas.Scope{Kind: schemas.ScopeUser, ID: "u"}, Before: VersionPlace{10, 2}, Limit: 7}}
	if d := cmp.Diff(want, m.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	for _, q := range []string{"limit=0", "limit=101", "cursor=", "cursor=x", "cursor=0.1", "cursor=1", "user_id=u&tenant_id=t"} {
		s.do("GET", "/api/v1/entitlements/a/versions?"+q, nil).is(422, schemas.CodeValidation)
	}
}

func TestReservations(t *testing.T) {
	granted := `{"reservation_id":"r","expires_at":"2026-01-26T15:31:00Z","decision":"allow","reason":"allowed","scope":null,"scope_id":null,"name":null,"limit":null,"used":null,"reserved":null,"remaining":null,"resets_at":null}`
	for _, tt := range []struct {
		name, method, path, body, answer string
		status                           int
		kind, app                        string
		asked                            []any
	}{
		{
			"reserve", "POST", "/api/budgets/reservations", `{"app_id":"b","user_id":"u","model":"m","estimated_tokens":5,"estimated_input_tokens":2,"ttl_seconds":7,"reservation_id":"r"}`, granted, 201,
			"budget.reserve", "b",
			[]any{"b", schemas.BudgetReserve{ReservationID: "r", UserID: "u", Model: "m", Tokens: schemas.Tokens{Total: 5, Input: 2}, TTL: 7}, false},
		},
		{
			"settle", "POST", "/api/budgets/reservations/a%2Fb/settle", `{"app_id":"b","event_id":"e","input_tokens":1,"output_tokens":2}`,
			`{"reservation_id":"a/b","status":"settled","settled_tokens":3,"excess":0,"late":false,"decision":"allow"}`, 200, "budget.settle", "b",
			[]any{"e", "b", HoldChange{ID: "a/b"}},
		},
		{
			"extend", "POST", "/api/budgets/reservations/r/extend", `{"ttl_seconds":5}`, `{"reservation_id":"r","expires_at":"2026-01-26T15:31:00Z"}`, 200,
			"budget.extend", "app_1",
			[]any{"app_1", HoldChange{ID: "r", Extend: true}},
		},
		{
			"release", "DELETE", "/api/budgets/reservations/r?app_id=b", ``, `{"reservation_id":"r","status":"released"}`, 200,
			"budget.release", "b",
			[]any{"b", HoldChange{ID: "r", Release: true}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, l, m := serveEntitled(t, doneWith(tt.answer))
			s.do(tt.method, tt.path, tt.body).is(tt.status).body(tt.answer)
			if l.frame.Kind != tt.kind || l.frame.AppID != tt.app {
				t.Errorf("%+v", l.frame)
			}
			if d := cmp.Diff(tt.asked, m.asked); d != "" {
				t.Errorf("judged early (-want +got):\n%s", d)
			}
			l.pending = memoryPending{stored: &Receipt{Seq: 7}, applied: &Receipt{Seq: 7}}
			a := s.do(tt.method, tt.path, tt.body).is(202).json()
			if a["status"] != "accepted" || a["reservation_id"] == nil {
				t.Errorf("%v", a)
			}
		})
	}
}

// A reservation without an id gets one, which the answer and the command both have.
func TestReservationGetsAnID(t *testing.T) {
	s, l, m := serveEntitled(t, schemas.CommandOutcome{})
	l.pending = memoryPending{stored: &Receipt{Seq: 7}, applied: &Receipt{Seq: 7}}
	id := s.do("POST", "/api/budgets/reservations", `{"estimated_tokens":1}`).is(202).json()["reservation_id"]
	var b schemas.BudgetReserve
	if err := b.DecodePayload(l.frame.Payload); err != nil || b.ReservationID != id || b.ReservationID == "" || m.asked[2] != true {
		t.Errorf("answered %v, sent %+v, %v, asked %v", id, b, err, m.asked)
	}
}

func TestRefusedReservations(t *testing.T) {
	s, l, _ := serveEntitled(t, schemas.CommandOutcome{})
	for _, tt := range []struct {
		path, body string
		status     int
		code       schemas.Code
	}{
		{"", `{}`, 422, schemas.CodeValidation},
		{"", `{"estimated_tokens":-1}`, 422, schemas.CodeValidation},
		{"", `{"estimated_tokens":1.5}`, 422, schemas.CodeValidation},
		{"", `{"estimated_tokens":9007199254740992}`, 422, schemas.CodeValidation},
		{"", `{"estimated_tokens":1,"ttl_seconds":0}`, 422, schemas.CodeValidation},
		{"", `{"estimated_tokens":1,"ttl_seconds":3601}`, 422, schemas.CodeValidation},
		{"", `{"estimated_tokens":1,"reservation_id":""}`, 422, schemas.CodeValidation},
		{"", `x`, 400, schemas.CodeInvalidJSON},
		{"/r/settle", `{"event_id":"e","input_tokens":1}`, 422, schemas.CodeValidation},
		{"/r/settle", `{"event_id":"e","input_tokens":2,"output_tokens":2,"total_tokens":3}`, 422, schemas.CodeTotalBelowSum},
		{"/r/extend", `{}`, 422, schemas.CodeValidation},
		{"/" + strings.Repeat("x", 129) + "/extend", `{"ttl_seconds":5}`, 422, schemas.CodeValidation},
	} {
		s.do("POST", "/api/budgets/reservations"+tt.path, tt.body).is(tt.status, tt.code)
	}
	s.do("DELETE", "/api/budgets/reservations/r?app=b", ``).is(422, schemas.CodeValidation)
	s.do("POST", "/api/budgets/reservations", `{"estimated_tokens":1}`, "-").is(401, schemas.CodeUnauthorized)
	if l.frame != nil {
		t.Errorf("a command was sent: %+v", l.frame)
	}
}

func TestOpenReservations(t *testing.T) {
	s, _, m := serveEntitled(t, schemas.CommandOutcome{})
	s.do("GET", "/api/budgets/reservations", nil).is(200).body(`{"reservations":[],"next_cursor":null}`)
	m.holds = HoldPage{More: true, Next: HoldPlace{30, 2, 1}, Holds: []schemas.Hold{{ID: "r", AppID: "a", UserID: "u", Tokens: schemas.Tokens{Total: 3, Input: 2, Output: 1}}}}
	m.asked = nil
	s.do("GET", "/api/budgets/reservations?app_id=a&limit=1&cursor=20.1.0", nil).is(200).
		body(`{"reservations":[{"reservation_id":"r","app_id":"a","user_id":"u","tenant_id":null,"model":null,"granted_at":"1970-01-01T00:00:00Z","expires_at":"1970-01-01T00:00:00Z",` +
			`"estimated_tokens":3,"estimated_input_tokens":2,"estimated_output_tokens":1}],"next_cursor":"30.2.1"}`)
	if d := cmp.Diff([]any{"a", HoldPlace{20, 1, 0}, 1}, m.asked); d != "" {
		t.Errorf("asked (-want +got):\n%s", d)
	}
	for _, q := range []string{"cursor=", "cursor=1.2", "cursor=1.2.3.4", "cursor=1.2.x", "limit=1001"} {
		s.do("GET", "/api/budgets/reservations?"+q, nil).is(422, schemas.CodeValidation)
	}
}
