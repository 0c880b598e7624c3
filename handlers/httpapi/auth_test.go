package httpapi

import (
	"encoding/base64"
	"testing"

	"grout/schemas"
)

func basic(user, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestIdentity(t *testing.T) {
	const (
		missing       = "Missing X-Internal-API-Key header"
		wrongInternal = "Invalid internal API key"
		wrongService  = "Invalid or missing service key"
		noInternal    = "Internal API not configured (no INTERNAL_API_KEY set)"
		noService     = "Service API not configured (no MOZAIKS_ALLOWED_SERVICE_KEYS set)"
	)
	type verdict struct {
		status int
		code   schemas.Code
		detail string
	}
	var (
		passed      = verdict{status: 200}
		no          = verdict{401, schemas.CodeUnauthorized, missing}
		badInternal = verdict{403, schemas.CodeForbidden, wrongInternal}
		badService  = verdict{401, schemas.CodeUnauthorized, wrongService}
		closedIn    = verdict{503, schemas.CodeNotConfigured, noInternal}
		closedSvc   = verdict{503, schemas.CodeNotConfigured, noService}
	)
	for _, c := range []struct {
		name    string
		headers []string
		// with both doors open; only the service door; only the internal door; both closed
		open, noInternal, noService, closed verdict
		basicOnly                           verdict // ingest, both doors open; zero: as open
	}{
		{"nothing", []string{"-"}, no, no, no, closedIn, verdict{}},
		{"internal key", []string{"X-Internal-API-Key: " + internalKey}, passed, closedIn, passed, closedIn, verdict{}},
		{"second internal key", []string{"X-Internal-API-Key: internal-key-2"}, passed, closedIn, passed, closedIn, verdict{}},
		{"internal key in Authorization", []string{"Authorization: X-Internal-API-Key: " + internalKey}, passed, closedIn, passed, closedIn, verdict{}},
		{"the same without blank", []string{"Authorization: x-internal-api-key:" + internalKey}, passed, closedIn, passed, closedIn, verdict{}},
		{"wrong internal key", []string{"X-Internal-API-Key: nope"}, badInternal, closedIn, badInternal, closedIn, verdict{}},
		{"part of the internal key", []string{"X-Internal-API-Key: internal-key-"}, badInternal, closedIn, badInternal, closedIn, verdict{}},
		{"service key as internal key", []string{"X-Internal-API-Key: " + serviceKey}, badInternal, closedIn, badInternal, closedIn, verdict{}},
		{"wrong internal key in Authorization", []string{"Authorization: X-Internal-API-Key: nope"}, badInternal, closedIn, badInternal, closedIn, verdict{}},
		{"wrong internal key beside a good service key", []string{"X-Internal-API-Key: nope", "Authorization: Bearer " + serviceKey}, badInternal, closedIn, badInternal, closedIn, verdict{}},
		{"empty internal key", []string{"X-Internal-API-Key: "}, no, no, no, closedIn, verdict{}},
		{"empty internal key in Authorization", []string{"Authorization: X-Internal-API-Key:"}, no, no, no, closedIn, verdict{}},
		{"service key", []string{"Authorization: Bearer " + serviceKey}, passed, passed, closedSvc, closedSvc, verdict{}},
		{"second service key, odd case", []string{"Authorization: bEaReR  service-key-2"}, passed, passed, closedSvc, closedSvc, verdict{}},
		{"wrong service key", []string{"Authorization: Bearer nope"}, badService, badService, closedSvc, closedSvc, verdict{}},
		{"internal key as service key", []string{"Authorization: Bearer " + internalKey}, badService, badService, closedSvc, closedSvc, verdict{}},
		{"a user token", []string{"Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln"}, badService, badService, closedSvc, closedSvc, verdict{}},
		{"bearer without key", []string{"Authorization: Bearer"}, badService, badService, closedSvc, closedSvc, verdict{}},
		{"unknown scheme", []string{"Authorization: Digest x"}, no, no, no, closedIn, verdict{}},
		{"basic, internal key", []string{basic("anybody", internalKey)}, no, no, no, closedIn, passed},
		{"basic, service key", []string{basic("", serviceKey)}, no, no, no, closedIn, passed},
		{"basic, wrong key", []string{basic("u", "nope")}, no, no, no, closedIn, badService},
		{"basic, no password", []string{basic("u", "")}, no, no, no, closedIn, badService},
		{"basic, key as user", []string{basic(internalKey, "")}, no, no, no, closedIn, badService},
		{"basic, not base64", []string{"Authorization: Basic ?"}, no, no, no, closedIn, badService},
	} {
		t.Run(c.name, func(t *testing.T) {
			for doors, want := range map[string]verdict{"open": c.open, "no internal": c.noInternal, "no service": c.noService, "closed": c.closed} {
				s := serve(t, func(o *Options) {
					if doors == "no internal" || doors == "closed" {
						o.InternalKeys = []string{""} // set to the empty text
					}
					if doors == "no service" || doors == "closed" {
						o.ServiceKeys = nil
					}
				})
				s.reads.usage = reportOf(schemas.UsageReport{})
				s.reads.byID = func(_, id string) (schemas.BatchStatus, bool, error) {
					return schemas.BatchStatus{BatchID: id}, true, nil
				}
				ingestWant := want
				if c.basicOnly != (verdict{}) && doors == "open" {
					ingestWant = c.basicOnly
				}
				if c.basicOnly == (verdict{}) || doors == "open" || doors == "closed" {
					judge(t, s.do("POST", "/api/usage/ingest", batch("b", event("e", "a")), c.headers...), ingestWant)
				}
				judge(t, s.do("GET", "/api/usage", nil, c.headers...), want)
				judge(t, s.do("GET", "/api/usage/batches/b", nil, c.headers...), want)
				s.do("GET", "/health", nil, c.headers...).is(200)
			}
		})
	}
}

func judge(t *testing.T, a *answer, want struct {
	status int
	code   schemas.Code
	detail string
},
) {
	t.Helper()
	if want.status == 200 {
		a.is(200)
		return
	}
	a.is(want.status, want.code).detail(want.detail)
	challenge := ""
	if want.status == 401 {
		challenge = "Bearer"
	}
	a.has("WWW-Authenticate", challenge).has("Retry-After", "")
}

// TestBasicWithOneDoorClosed: the key of the other door is still a key.
func TestBasicWithOneDoorClosed(t *testing.T) {
	s := serve(t, func(o *Options) { o.InternalKeys = nil })
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a")), basic("u", serviceKey)).is(200)
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a")), basic("u", internalKey)).is(401)
	s = serve(t, func(o *Options) { o.ServiceKeys = nil })
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a")), basic("u", internalKey)).is(200)
	s.do("POST", "/api/usage/ingest", batch("b", event("e", "a")), basic("u", "")).is(401)
}

// TestIdentityComesBeforeTheBody: whatever is wrong with a request, a stranger
// learns only that nobody knows him.
func TestIdentityComesBeforeTheBody(t *testing.T) {
	s := serve(t, func(o *Options) { o.MaxBodyBytes = 10 })
	for _, body := range []string{"", "no json", "{}", batch("b", event("e", "a"))} {
		s.do("POST", "/api/usage/ingest", body, "-", "Content-Type: text/plain", "Content-Encoding: gzip").is(401, schemas.CodeUnauthorized)
	}
	s.do("GET", "/api/usage?nonsense=1", nil, "-").is(401)
	s.do("GET", "/api/usage/batches/b?request=x", nil, "-").is(401)
	if n := len(s.commands.all()); n != 0 {
		t.Errorf("%d commands were submitted", n)
	}
}
