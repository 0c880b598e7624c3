package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// usersFunc stands for the verifier of user tokens.
type usersFunc func(token string) (schemas.Identity, error)

func (f usersFunc) Identify(_ context.Context, token string) (schemas.Identity, error) {
	return f(token)
}

// Tokens that knownUsers takes. What follows the user is not told to anybody.
const (
	annToken   = "user.ann.SECRET-SIGNATURE"
	adminToken = "user.root.SECRET-SIGNATURE"
	asAnn      = "Authorization: Bearer " + annToken
	asAdmin    = "Authorization: Bearer " + adminToken
	asNobody   = "Authorization: Bearer user.nobody.SECRET-SIGNATURE"
)

func knownUsers(o *Options) {
	o.Users = usersFunc(func(token string) (schemas.Identity, error) {
		switch token {
		case annToken:
			return schemas.Identity{UserID: "ann", Username: "Ann", Roles: []string{"editor"}}, nil
		case adminToken:
			return schemas.Identity{UserID: "root", Username: "Root", Superadmin: true}, nil
		}
		return schemas.Identity{}, schemas.Errorf(schemas.CodeUnauthorized, "Could not validate credentials")
	})
}

const (
	notAuthenticated = "Not authenticated"
	notValidated     = "Could not validate credentials"
	noKey            = "Missing X-Internal-API-Key header"
	noServiceKey     = "Invalid or missing service key"
	denied           = "A user token may not do this"
)

// Who may call what, for every route there is: a new one has to be entered here.
func TestWhoMayCall(t *testing.T) {
	type door struct{ user, nobody, stranger string } // detail of the refusal; empty: let in
	keysOnly := door{denied, notValidated, noKey}
	doors := map[rule]door{
		anybody:      {},
		keys:         keysOnly,
		keysOrBasic:  keysOnly,
		keysOrUser:   {"", notValidated, noKey},
		watchers:     {"", notValidated, noKey},
		usersOnly:    {"", notValidated, notAuthenticated},
		serviceOnly:  {noServiceKey, noServiceKey, noServiceKey},
		internalOnly: {noKey, noKey, noKey},
	}
	want := map[string]rule{
		"POST /api/usage/ingest":                                keysOrBasic,
		"POST /api/billing/usage-events":                        serviceOnly,
		"GET /api/usage/batches/:batch_id":                      keys,
		"GET /api/usage":                                        keysOrUser,
		"GET /api/usage/events":                                 keysOrUser,
		"POST /api/usage/events/:event_id/void":                 keys,
		"POST /api/usage/events/:event_id/amend":                keys,
		"GET /api/chats/:chat_id/usage":                         keysOrUser,
		"POST /api/chats/:chat_id/usage/summary":                keysOrUser,
		"POST /api/internal/entitlement/sync":                   internalOnly,
		"POST /api/internal/subscription/sync":                  internalOnly,
		"POST /api/v1/entitlements/:app_id/sync":                serviceOnly,
		"GET /api/v1/entitlements/:app_id":                      keysOrUser,
		"GET /api/v1/entitlements/:app_id/versions":             keys,
		"GET /api/v1/entitlements":                              keys,
		"POST /api/entitlements/check":                          keysOrUser,
		"POST /api/entitlements/explain":                        keysOrUser,
		"POST /api/budgets/reservations":                        keys,
		"GET /api/budgets/reservations":                         keys,
		"POST /api/budgets/reservations/:reservation_id/settle": keys,
		"POST /api/budgets/reservations/:reservation_id/extend": keys,
		"DELETE /api/budgets/reservations/:reservation_id":      keys,
		"GET /api/plugins":                                      usersOnly,
		"GET /api/available-plugins":                            usersOnly,
		"POST /api/execute/:plugin_name":                        usersOnly,
		"POST /api/plugins/:name/execute":                       usersOnly,
		"POST /api/orchestration/events":                        keys,
		"GET /api/runs":                                         keysOrUser,
		"GET /api/runs/:run_id":                                 keysOrUser,
		"GET /api/runs/:run_id/events":                          keysOrUser,
		"GET /api/runs/:run_id/usage":                           keysOrUser,
		"POST /api/runs/:run_id/cancel":                         keysOrUser,
		"GET /api/dlq":                                          keys,
		"GET /api/dlq/:letter_id":                               keys,
		"POST /api/dlq/:letter_id/retry":                        keys,
		"DELETE /api/dlq/:letter_id":                            keys,
		"GET /ws/:workflow_name/:app_id/:chat_id/:user_id":      anybody, // judged behind the upgrade
		"GET /api/events/stream":                                watchers,
		"POST /ofrep/v1/evaluate/flags/:key":                    keysOrUser,
		"POST /ofrep/v1/evaluate/flags":                         keysOrUser,
		"GET /api/webhooks":                                     keys,
		"POST /api/webhooks/:name/test":                         keys,
		"POST /api/webhooks/:name/resume":                       keys,
		"GET /health":                                           anybody,
		"GET /ready":                                            anybody,
		"GET /info":                                             anybody,
		"GET /metrics":                                          anybody,
		"GET /openapi.json":                                     anybody,
		"GET /asyncapi.json":                                    anybody,
	}
	s := serve(t, knownUsers)
	for _, r := range s.api.routes() {
		name := r.method + " " + r.path
		allow, known := want[name]
		if !known || allow != r.allow {
			t.Errorf("%s: the rule is %d, entered here %v as %d", name, r.allow, known, allow)
			continue
		}
		delete(want, name)
		if allow == anybody {
			continue
		}
		// What a request came to behind the door does not matter here: nothing stands there.
		for by, c := range map[string]struct{ header, detail string }{
			"a user":                       {asAnn, doors[allow].user},
			"a superadmin":                 {asAdmin, doors[allow].user},
			"a token that is none":         {asNobody, doors[allow].nobody},
			"a stranger":                   {"-", doors[allow].stranger},
			"a token without its scheme":   {"Authorization: " + annToken, doors[allow].stranger},
			"a token with another scheme":  {"Authorization: Token " + annToken, doors[allow].stranger},
			"a token in the internal door": {"Authorization: Bearer", doors[allow].stranger},
		} {
			if by == "a token in the internal door" && allow != usersOnly && allow != internalOnly {
				c.detail = noServiceKey
			}
			t.Run(name+" by "+by, func(t *testing.T) {
				a := s.api.judgeDoor(t, r, c.header)
				if a != c.detail {
					t.Errorf("refused with %q, want %q", a, c.detail)
				}
			})
		}
	}
	for name := range want {
		t.Errorf("there is no route %s", name)
	}
}

// judgeDoor tells with which words the door of a route refuses a request.
func (s *Server) judgeDoor(t *testing.T, r route, header string) string {
	t.Helper()
	h := http.Header{}
	if name, value, ok := strings.Cut(header, ": "); ok {
		h.Set(name, value)
	}
	_, err := s.admit(t.Context(), r.allow, h)
	if err == nil {
		return ""
	}
	return problemOf(err).Detail
}

// The same through HTTP, with the whole answers.
func TestRefusedUsers(t *testing.T) {
	s := serve(t, knownUsers)
	for _, c := range []struct {
		method, path, header string
		status               int
		code                 schemas.Code
		detail               string
	}{
		{"POST", "/api/usage/ingest", asAnn, 403, schemas.CodeForbidden, denied},
		{"POST", "/api/usage/ingest", asNobody, 401, schemas.CodeUnauthorized, notValidated},
		{"GET", "/api/usage/batches/b", asAdmin, 403, schemas.CodeForbidden, denied},
		{"POST", "/api/budgets/reservations", asAnn, 403, schemas.CodeForbidden, denied},
		{"GET", "/api/v1/entitlements", asAnn, 403, schemas.CodeForbidden, denied},
		{"POST", "/api/usage/events/e/void", asAnn, 403, schemas.CodeForbidden, denied},
		{"GET", "/api/usage", asNobody, 401, schemas.CodeUnauthorized, notValidated},
		{"POST", "/api/internal/entitlement/sync", asAnn, 401, schemas.CodeUnauthorized, noKey},
		{"POST", "/api/internal/subscription/sync", asAdmin, 401, schemas.CodeUnauthorized, noKey},
		{"POST", "/api/v1/entitlements/app_1/sync", asAnn, 401, schemas.CodeUnauthorized, noServiceKey},
		{"POST", "/api/billing/usage-events", asAnn, 401, schemas.CodeUnauthorized, noServiceKey},
	} {
		challenge := ""
		if c.status == 401 {
			challenge = "Bearer"
		}
		s.do(c.method, c.path, "no json", c.header).is(c.status, c.code).detail(c.detail).has("WWW-Authenticate", challenge)
	}
	if logs := s.logs.String(); strings.Contains(logs, "SECRET") {
		t.Errorf("a token is in the log:\n%s", logs)
	}
	if text := s.do("GET", "/metrics", nil, "-").is(200).text; strings.Contains(text, "SECRET") {
		t.Error("a token is in the metrics")
	}
}

// A bearer credential may be a key or a token; doors may be closed.
func TestBearerIsKeyOrToken(t *testing.T) {
	const dotted = "service.key.1"
	for _, c := range []struct {
		name   string
		change func(*Options)
		header string
		status int
		detail string
	}{
		{"a key that looks like a token", func(o *Options) { o.ServiceKeys = []string{dotted} }, "Authorization: Bearer " + dotted, 200, ""},
		{"a token beside an internal key", nil, asNobody + "|X-Internal-API-Key: " + internalKey, 200, ""},
		{"a token beside a wrong internal key", nil, asAnn + "|X-Internal-API-Key: nope", 403, "Invalid internal API key"},
		{"a word", nil, "Authorization: Bearer nope", 401, noServiceKey},
		{"a word, no service keys", func(o *Options) { o.ServiceKeys = nil }, "Authorization: Bearer nope", 401, notValidated},
		{"a token, no service keys", func(o *Options) { o.ServiceKeys = nil }, asAnn, 200, ""},
		{"a token, no keys at all", func(o *Options) { o.ServiceKeys, o.InternalKeys = nil, nil }, asAnn, 200, ""},
		{"nothing, no keys at all", func(o *Options) { o.ServiceKeys, o.InternalKeys = nil, nil }, "-", 401, notAuthenticated},
		{"a token, no user tokens", func(o *Options) { o.Users = nil }, asAnn, 401, noServiceKey},
		{"Basic with a token", nil, basic("ann", annToken), 401, noKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := serve(t, knownUsers, func(o *Options) {
				if c.change != nil {
					c.change(o)
				}
			})
			s.reads.usage = reportOf(schemas.UsageReport{})
			a := s.do("GET", "/api/usage", nil, strings.Split(c.header, "|")...)
			if a.is(c.status); c.status != 200 {
				a.detail(c.detail)
			}
		})
	}
}

// Where only users may call, keys do not count; without user tokens the door is closed.
func TestUsersOnly(t *testing.T) {
	s := serve(t, knownUsers)
	for header, want := range map[string]string{
		"X-Internal-API-Key: " + internalKey:                notAuthenticated,
		"Authorization: X-Internal-API-Key: " + internalKey: notAuthenticated,
		"Authorization: Bearer " + serviceKey:               notValidated,
		basic("u", serviceKey):                              notAuthenticated,
		asNobody + "|X-Internal-API-Key: " + internalKey:    notValidated,
		asAnn + "|X-Internal-API-Key: nope":                 "",
		strings.Replace(asAnn, "Bearer", "bEARER ", 1):      "",
	} {
		h := http.Header{}
		for _, line := range strings.Split(header, "|") {
			name, value, _ := strings.Cut(line, ": ")
			h.Set(name, value)
		}
		who, err := s.api.admit(t.Context(), usersOnly, h)
		got := ""
		if err != nil {
			got = problemOf(err).Detail
		}
		if got != want || err == nil && (who.Key || who.App != "app_1" || who.UserID != "ann" || who.Username != "Ann" || who.Token != annToken || !slices.Equal(who.Roles, []string{"editor"})) {
			t.Errorf("%s: %q, want %q", header, got, want)
		}
	}
	s = serve(t)
	_, err := s.api.admit(t.Context(), usersOnly, http.Header{"Authorization": {"Bearer " + annToken}})
	if p := problemOf(err); p.Code != schemas.CodeNotConfigured {
		t.Errorf("without user tokens: %+v", p)
	}
}

func TestCallerKeepsItsToken(t *testing.T) {
	who := caller{UserID: "ann", Token: annToken}
	if text := fmt.Sprintf("%v %+v %#v %s %v", who, who, who, who, &who); strings.Contains(text, "SECRET") {
		t.Errorf("a caller shows its token: %s", text)
	}
}

// What a user sees of usage.
func TestUsageOfUsers(t *testing.T) {
	var got schemas.UsageQuery
	s := serve(t, knownUsers)
	s.reads.usage = func(_ context.Context, q schemas.UsageQuery) (schemas.UsageReport, error) {
		got = q
		return schemas.UsageReport{}, nil
	}
	for _, c := range []struct {
		query, header string
		status        int
		app, user     string
	}{
		{"", asAnn, 200, "app_1", "ann"},
		{"?user_id=ann&app_id=app_1", asAnn, 200, "app_1", "ann"},
		{"?tenant_id=t&model=m&group_by=user_id", asAnn, 200, "app_1", "ann"},
		{"?user_id=bob", asAnn, 404, "", ""},
		{"?user_id=Ann", asAnn, 404, "", ""},
		{"?app_id=app_2", asAnn, 404, "", ""},
		{"?app_id=app_2&user_id=ann", asAnn, 404, "", ""},
		{"?user_id=", asAnn, 422, "", ""},
		{"?nonsense=1&user_id=bob", asAnn, 422, "", ""},
		{"", asAdmin, 200, "app_1", ""},
		{"?user_id=bob", asAdmin, 200, "app_1", "bob"},
		{"?app_id=app_2", asAdmin, 404, "", ""},
		{"?app_id=app_2", "X-Internal-API-Key: " + internalKey, 200, "app_2", ""},
		{"", "Authorization: Bearer " + serviceKey, 200, "app_1", ""},
	} {
		got = schemas.UsageQuery{}
		a := s.do("GET", "/api/usage"+c.query, nil, c.header).is(c.status)
		if c.status == 404 {
			a.detail("Not found")
		}
		if got.AppID != c.app || got.UserID != c.user {
			t.Errorf("%s by %.30s: asked for app %q and user %q, want %q and %q", c.query, c.header, got.AppID, got.UserID, c.app, c.user)
		}
	}
	s.do("GET", "/api/usage?format=csv", nil, asAnn).is(200)
	if got.UserID != "ann" {
		t.Errorf("as CSV: asked for user %q", got.UserID)
	}
	s.do("HEAD", "/api/usage?user_id=bob", nil, asAnn).is(404)
}

type runsDouble struct {
	Runs
	owners map[string]string
}

func (r runsDouble) Run(_ context.Context, _, id string) (*schemas.Run, error) {
	if user, known := r.owners[id]; known {
		return &schemas.Run{ID: id, UserID: user}, nil
	}
	return nil, nil
}

// chatReads are eventReads that know chats.
type chatReads struct {
	eventReads
	owners map[string]string
}

func (c *chatReads) Chat(_ context.Context, _, id string) (*schemas.ChatUsage, error) {
	if user, known := c.owners[id]; known {
		return &schemas.ChatUsage{ChatID: id, AppID: "app_1", UserID: user}, nil
	}
	return nil, nil
}

// What a user sees of single events, and of chats.
func TestEventsAndChatsOfUsers(t *testing.T) {
	var got *schemas.EventQuery
	owners := map[string]string{"of-ann": "ann", "of-bob": "bob"}
	reads := &chatReads{owners: owners, eventReads: eventReads{events: func(q schemas.EventQuery) (schemas.EventPage, error) {
		got = &q
		if q.Model == "none" {
			return schemas.EventPage{}, nil
		}
		e := schemas.UsageEvent{EventID: "e-1", AppID: "app_1", UserID: "ann", Model: "m", Timestamp: 1_769_441_400_000_000_000, InputTokens: 1, TotalTokens: 1}
		return schemas.EventPage{Events: []schemas.LoggedEvent{{UsageEvent: e, BatchID: "b", RecordedAt: 1, Status: schemas.EventCounted}}, More: true, Next: schemas.EventPlace{Seq: 3}}, nil
	}}}
	s := serve(t, knownUsers, func(o *Options) { o.Reads, o.Runs = reads, runsDouble{owners: owners} })
	for _, c := range []struct {
		query, header string
		status        int
		user          string
	}{
		{"", asAnn, 200, "ann"},
		{"user_id=ann&app_id=app_1&tenant_id=t", asAnn, 200, "ann"},
		{"user_id=bob", asAnn, 404, ""},
		{"app_id=app_2", asAnn, 404, ""},
		{"chat_id=of-ann", asAnn, 200, "ann"},
		{"chat_id=of-bob", asAnn, 404, ""},
		{"chat_id=of-nobody", asAnn, 404, ""},
		{"chat_id=of-bob&user_id=ann", asAnn, 404, ""},
		{"run_id=of-ann", asAnn, 200, "ann"},
		{"run_id=of-bob", asAnn, 404, ""},
		{"run_id=of-nobody", asAnn, 200, "ann"},
		{"run_id=of-nobody&model=none", asAnn, 404, "ann"},
		{"run_id=of-ann&model=none", asAnn, 200, "ann"},
		{"run_id=of-nobody&model=none", asAdmin, 200, ""},
		{"chat_id=of-bob&run_id=of-ann", asAdmin, 200, ""},
		{"chat_id=of-nobody&user_id=bob", asAdmin, 200, "bob"},
		{"app_id=app_2", asAdmin, 404, ""},
		{"chat_id=of-nobody&app_id=app_2", "X-Internal-API-Key: " + internalKey, 200, ""},
	} {
		got = nil
		a := s.do("GET", "/api/usage/events?"+c.query, nil, c.header).is(c.status)
		if got != nil && c.status != 200 && got.Model != "none" || c.status == 200 && got == nil || got != nil && got.UserID != c.user {
			t.Errorf("%s by %.30s: asked for %+v, want user %q", c.query, c.header, got, c.user)
		}
		if c.status != 200 || got.Model == "none" {
			continue
		}
		next := "&cursor=" + fmt.Sprint(a.json()["next_cursor"])
		s.do("GET", "/api/usage/events?"+c.query+next, nil, c.header).is(200)
	}
	// A page of all is not gone on with as one's own.
	all := fmt.Sprint(s.do("GET", "/api/usage/events", nil).is(200).json()["next_cursor"])
	s.do("GET", "/api/usage/events?cursor="+all, nil, asAnn).is(422)

	const unknown = `{"detail":"The app has no chat with this id","error_code":"NOT_FOUND","status_code":404}`
	s.do("GET", "/api/chats/of-ann/usage", nil, asAnn).is(200)
	s.do("GET", "/api/chats/of-bob/usage", nil, asAnn).is(404).body(unknown)
	s.do("GET", "/api/chats/of-nobody/usage", nil, asAnn).is(404).body(unknown)
	s.do("GET", "/api/chats/of-ann/usage?app_id=app_2", nil, asAnn).is(404)
	s.do("GET", "/api/chats/of-bob/usage", nil, asAdmin).is(200)
	s.do("GET", "/api/chats/of-bob/usage?app_id=app_2", nil, asAdmin).is(404)
	s.do("GET", "/api/chats/of-bob/usage?app_id=app_2", nil).is(200)
}

// What a user learns of entitlements.
func TestEntitlementsOfUsers(t *testing.T) {
	for _, c := range []struct {
		path, header string
		status       int
		want         Subject
	}{
		{"app_1", asAnn, 200, Subject{App: "app_1", User: "ann"}},
		{"app_1?user_id=ann", asAnn, 200, Subject{App: "app_1", User: "ann"}},
		{"app_1?user_id=bob", asAnn, 404, Subject{}},
		{"app_1?tenant_id=t", asAnn, 404, Subject{}},
		{"app_2", asAnn, 404, Subject{}},
		{"app_1", asAdmin, 200, Subject{App: "app_1"}},
		{"app_1?user_id=bob&tenant_id=t", asAdmin, 200, Subject{App: "app_1", User: "bob", Tenant: "t"}},
		{"app_2", asAdmin, 404, Subject{}},
		{"app_2?tenant_id=t", "X-Internal-API-Key: " + internalKey, 200, Subject{App: "app_2", Tenant: "t"}},
	} {
		s, _, m := serveEntitled(t, doneWith("{}"))
		knownUsers(&s.api.Options)
		m.entitled = `{"app_id":"app_1","plan":{"tier":"unlimited","name":"Open Source"},"token_budget":{"period":"unlimited","total_tokens":{"limit":-1,"used":0,"enforcement":"none"}},"features":{},"rate_limits":{},"synced_at":null}`
		s.do("GET", "/api/v1/entitlements/"+c.path, nil, c.header).is(c.status)
		var want []any
		if c.status == 200 {
			want = []any{c.want, int64(0)}
		}
		if d := cmp.Diff(want, m.asked); d != "" {
			t.Errorf("%s by %.30s: %s", c.path, c.header, d)
		}
	}
}

// What a user may ask beforehand: for itself, and without counting it.
func TestChecksOfUsers(t *testing.T) {
	for _, c := range []struct {
		body, header string
		status       int
		detail       string
		app, user    string
	}{
		{`{"estimated_tokens":5}`, asAnn, 200, "", "app_1", "ann"},
		{`{"app_id":"app_1","user_id":"ann","count":false}`, asAnn, 200, "", "app_1", "ann"},
		{`{"count":true}`, asAnn, 403, denied, "", ""},
		{`{"user_id":"bob"}`, asAnn, 404, "Not found", "", ""},
		{`{"tenant_id":"t"}`, asAnn, 404, "Not found", "", ""},
		{`{"app_id":"app_2"}`, asAnn, 404, "Not found", "", ""},
		{`{"user_id":7}`, asAnn, 422, "", "", ""},
		{`{}`, asAdmin, 200, "", "app_1", "root"},
		{`{"user_id":"bob"}`, asAdmin, 404, "Not found", "", ""},
		{`{"count":true}`, asAdmin, 403, denied, "", ""},
		{`{"user_id":"bob","app_id":"app_2"}`, "Authorization: Bearer " + serviceKey, 200, "", "app_2", "bob"},
		{`{}`, "Authorization: Bearer " + serviceKey, 200, "", "app_1", ""},
	} {
		for _, path := range []string{"check", "explain"} {
			s, _, m := serveEntitled(t, doneWith("{}"))
			knownUsers(&s.api.Options)
			m.decision = schemas.Decision{Allowed: true, Reason: "allowed"}
			a := s.do("POST", "/api/entitlements/"+path, c.body, c.header).is(c.status)
			if c.detail != "" {
				a.detail(c.detail)
			}
			if c.status != 200 {
				if m.asked != nil {
					t.Errorf("%s %s: asked %v", path, c.body, m.asked)
				}
				continue
			}
			if app, check := m.asked[0], m.asked[1].(schemas.EntitlementCheck); app != c.app || check.UserID != c.user || check.Count {
				t.Errorf("%s %s by %.30s: asked for app %v, %+v", path, c.body, c.header, app, check)
			}
		}
	}
}
