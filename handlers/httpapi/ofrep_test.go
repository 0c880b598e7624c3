package httpapi

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

const entitledPro = `{"app_id":"app_1","user_id":"ann","version":"1.1","plan":{"tier":"pro","status":"active","name":"Pro \"2\""},
 "token_budget":{"period":"monthly"},"features":{"export":true,"beta":false,"plan.tier":true},"rate_limits":{"requests_per_minute":60,"requests_per_hour":-1},"synced_at":"2026-01-01T00:00:00Z"}`

func serveFlags(t *testing.T, change ...func(*Options)) (*server, *memoryEntitlements) {
	t.Helper()
	m := &memoryEntitlements{entitled: entitledPro}
	return serve(t, append(change, func(o *Options) { o.Entitlements = m })...), m
}

const evaluate = "/ofrep/v1/evaluate/flags"

// What is listed is a flag, of the type that it has; whoever asks is named by the context.
func TestEvaluateFlags(t *testing.T) {
	s, m := serveFlags(t)
	body := `{"context":{"targetingKey":"ann","app_id":"app_9","tenant_id":"acme","color":["red",{"deep":null}],"targetingkey":7}}`
	s.do("POST", evaluate+"/export", body).is(200).body(`{"key":"export","value":true,"reason":"TARGETING_MATCH","variant":"on"}`)
	if d := cmp.Diff([]any{Subject{App: "app_9", User: "ann", Tenant: "acme"}, int64(0)}, m.asked); d != "" {
		t.Error(d)
	}
	a := s.do("POST", evaluate, `{"context":{"targetingKey":"ann"}}`).is(200).body(
		`{"flags":[{"key":"beta","value":false,"reason":"TARGETING_MATCH","variant":"off"},{"key":"export","value":true,"reason":"TARGETING_MATCH","variant":"on"},` +
			`{"key":"plan","value":{"tier":"pro","status":"active","name":"Pro \"2\""},"reason":"TARGETING_MATCH"},{"key":"plan.status","value":"active","reason":"TARGETING_MATCH"},` +
			`{"key":"plan.tier","value":true,"reason":"TARGETING_MATCH","variant":"on"},` + // a feature of this name
			`{"key":"rate_limits.requests_per_hour","value":-1,"reason":"TARGETING_MATCH"},{"key":"rate_limits.requests_per_minute","value":60,"reason":"TARGETING_MATCH"}]}`)
	tag := a.header.Get("ETag")
	for _, known := range []string{tag, "*", "W/" + tag, `"other", ` + tag} {
		s.do("POST", evaluate, `{"context":{"targetingKey":"ann"}}`, "If-None-Match: "+known).is(304).has("ETag", tag).body("")
	}
	m.entitled = strings.Replace(m.entitled, `"beta":false`, `"beta":true`, 1)
	if again := s.do("POST", evaluate, `{"context":{"targetingKey":"ann"}}`, "If-None-Match: "+tag).is(200); again.header.Get("ETag") == tag {
		t.Error("what changed has the same tag")
	}
}

func TestEvaluationsThatFail(t *testing.T) {
	s, m := serveFlags(t)
	for _, c := range []struct {
		key, body string
		status    int
		code      string
	}{
		{"/nothing", `{"context":{"targetingKey":"ann"}}`, 404, "FLAG_NOT_FOUND"},
		{"/EXPORT", `{"context":{"targetingKey":"ann"}}`, 404, "FLAG_NOT_FOUND"},
		{"/export", `{"context":{}}`, 400, "TARGETING_KEY_MISSING"},
		{"/export", `{}`, 400, "TARGETING_KEY_MISSING"},
		{"/export", `{"context":null}`, 400, "TARGETING_KEY_MISSING"},
		{"", `{"context":{"targetingKey":""}}`, 400, "TARGETING_KEY_MISSING"},
		{"", `{"context":{"targetingKey":null}}`, 400, "TARGETING_KEY_MISSING"},
		{"/export", `{"context":{"targetingKey":7}}`, 400, "INVALID_CONTEXT"},
		{"/export", `{"context":[]}`, 400, "INVALID_CONTEXT"},
		{"/export", `{"context":"ann"}`, 400, "INVALID_CONTEXT"},
		{"/export", `{"context":{"targetingKey":"` + strings.Repeat("x", 129) + `"}}`, 400, "INVALID_CONTEXT"},
		{"/export", `{"context":{"targetingKey":"ann","app_id":""}}`, 400, "INVALID_CONTEXT"},
		{"/export", `{"context":{"targetingKey":"ann","tenant_id":{}}}`, 400, "INVALID_CONTEXT"},
		{"", `{"context":` + strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70) + `}`, 400, "INVALID_CONTEXT"},
		{"/export", `{"context":`, 400, "PARSE_ERROR"},
		{"/export", ``, 400, "PARSE_ERROR"},
		{"/export", `[]`, 400, "PARSE_ERROR"},
		{"", `nonsense`, 400, "PARSE_ERROR"},
		{"", "{\"context\":{\"targetingKey\":\"\xff\"}}", 400, "PARSE_ERROR"},
	} {
		a := s.do("POST", evaluate+c.key, c.body).is(c.status)
		if got := a.json(); got["errorCode"] != c.code || got["errorDetails"] != got["detail"] || got["errorDetails"] == "" || (c.key != "") != (got["key"] != nil) {
			t.Errorf("%.80s: %s", c.body, a.text)
		}
	}
	users, asked := serveFlags(t, knownUsers)
	for _, body := range []string{`{}`, `{"context":{"targetingKey":"ann"}}`, `{"context":{"targetingKey":"ann","app_id":"app_1"}}`} {
		asked.asked = nil
		users.do("POST", evaluate+"/export", body, asAnn).is(200)
		if d := cmp.Diff([]any{Subject{App: "app_1", User: "ann"}, int64(0)}, asked.asked); d != "" {
			t.Error(d)
		}
	}
	for _, who := range []string{asAnn, asAdmin} {
		for _, body := range []string{`{"context":{"targetingKey":"ben"}}`, `{"context":{"app_id":"app_9"}}`, `{"context":{"tenant_id":"acme"}}`} {
			users.do("POST", evaluate+"/export", body, who).is(404, schemas.CodeNotFound)
		}
	}
	s.do("POST", evaluate, `{}`, "Content-Type: text/plain").is(415)
	s.do("POST", evaluate+"?x=1", `{}`).is(422)
	s.do("POST", evaluate, `{"context":{"targetingKey":"ann"}}`, "-").is(401)
	s.do("POST", evaluate, `{"context":{"targetingKey":"ann"}}`, "Authorization: Bearer nonsense").is(401)
	m.refusal = schemas.Errorf(schemas.CodeUnavailable, "The store is not available; try again")
	s.do("POST", evaluate, `{"context":{"targetingKey":"ann"}}`).is(503)
}

type memoryWebhooks struct {
	resumed []any
	fault   error
}

func (*memoryWebhooks) List() []Webhook {
	text := "x"
	at := "2026-01-01T00:00:00Z"
	return []Webhook{
		{Name: "crm", URL: "https://crm.example/hook", Enabled: true, State: "failing", Kinds: []string{"usage.*"}, Apps: []string{"a"}, LastError: &text, FailingSince: &at, Gaps: 1, Gap: &WebhookGap{1, 2, at}},
		{Name: "other", URL: "https://other.example", State: "disabled"},
	}
}

func (m *memoryWebhooks) Test(_ context.Context, name string) (WebhookTest, error) {
	return WebhookTest{Name: name, ID: "test-1", Delivered: true, TookMs: 3}, m.fault
}

func (m *memoryWebhooks) Resume(_ context.Context, name string, skip bool) error {
	m.resumed = append(m.resumed, name, skip)
	return m.fault
}

func (m *memoryWebhooks) Trouble() []schemas.DeliveryTrouble {
	return []schemas.DeliveryTrouble{{Name: "webhook.crm", State: "failing", Detail: "x", Since: "2026-01-01T00:00:00Z"}}
}

func TestWebhookRoutes(t *testing.T) {
	m := &memoryWebhooks{}
	s := serve(t, func(o *Options) { o.Webhooks = m })
	list := s.do("GET", "/api/webhooks", nil).is(200)
	if !strings.Contains(list.text, `"kinds":["*"],"apps":[],"enabled":false`) || !strings.Contains(list.text, `"gap":{"from_sequence":1,"to_sequence":2`) {
		t.Error(list.text)
	}
	s.do("POST", "/api/webhooks/crm/test", nil).is(200).body(`{"name":"crm","id":"test-1","delivered":true,"took_ms":3,"error":null}`)
	s.do("POST", "/api/webhooks/crm/resume", nil).is(200).body(`{"name":"crm","status":"resumed"}`)
	s.do("POST", "/api/webhooks/crm/resume?skip=true", nil).is(200)
	s.do("POST", "/api/webhooks/crm/resume?skip=1", nil).is(422)
	if d := cmp.Diff([]any{"crm", false, "crm", true}, m.resumed); d != "" {
		t.Error(d)
	}
	m.fault = schemas.Errorf(schemas.CodeWebhookDisabled, "no")
	s.do("POST", "/api/webhooks/crm/resume", nil).is(409, schemas.CodeWebhookDisabled)
	for _, r := range [][2]string{{"GET", "/api/webhooks"}, {"POST", "/api/webhooks/crm/test"}, {"POST", "/api/webhooks/crm/resume"}} {
		s.do(r[0], r[1], nil, "-").is(401)
	}
	ready := s.do("GET", "/ready", nil).is(http.StatusOK) // whatever endpoints do
	if !strings.Contains(ready.text, `"deliveries":[{"name":"webhook.crm","state":"failing","detail":"x","since":"2026-01-01T00:00:00Z"}]`) {
		t.Error(ready.text)
	}
	serve(t).do("POST", "/api/webhooks/crm/test", nil).is(404, schemas.CodeNotFound)
}
