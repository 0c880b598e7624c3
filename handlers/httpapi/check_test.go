package httpapi

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// limitedDecision is one that a rate limit refuses, told at the instant of the test
// server plus 30.5 seconds.
func limitedDecision() schemas.Decision {
	at := int64(1_769_441_400_000_000_005)
	return schemas.Decision{
		Verdict: schemas.VerdictHard, Reason: schemas.ReasonRateLimited, Code: schemas.CodeRateLimited, Detail: "too many",
		Judgement: schemas.Judgement{Name: "requests_per_minute", Limited: true, Limit: 2, Used: 2, ResetsAt: at + 30_500_000_000},
		Rates: []schemas.RateState{
			{Name: "concurrent_workflows", Limit: 5, Used: 1, Remaining: 4},
			{Name: "ümlaut", Limit: 5},
			{Name: `quo"te`, Limit: 5},
			{Name: "unlimited", Limit: -1},
			{Name: "requests_per_minute", Limit: 2, Used: 2, Window: 60_000_000_000, ResetsAt: at + 30_500_000_000},
		},
	}
}

func TestCheckIsARead(t *testing.T) {
	s, l, m := serveEntitled(t, schemas.CommandOutcome{})
	m.decision = limitedDecision()
	a := s.do("POST", "/api/entitlements/check", `{"app_id":"b","user_id":"u","plugin":"p","action":"x","needed":3,"estimated_tokens":0}`).is(200)
	a.has("Retry-After", "31").has("RateLimit-Policy", `"concurrent_workflows";q=5;qu="concurrent-requests", "requests_per_minute";q=2;w=60`).
		has("RateLimit", `"concurrent_workflows";r=4, "requests_per_minute";r=0;t=31`)
	if got := a.json(); got["allowed"] != false || got["decision"] != "hard_reject" || got["reason"] != "rate_limited" || got["judgements"] != nil {
		t.Errorf("%v", got)
	}
	want := []any{"b", schemas.EntitlementCheck{UserID: "u", Plugin: "p", Action: "x", Needed: 3, Asked: true}, int64(0)}
	if d := cmp.Diff(want, m.asked); d != "" || l.frame != nil {
		t.Errorf("command %+v, asked (-want +got):\n%s", l.frame, d)
	}
	if text := s.do("GET", "/metrics", nil).text; !strings.Contains(text, `grout_entitlement_decisions_total{asked="check",decision="hard_reject"} 1`) {
		t.Error("it is not counted")
	}
}

func TestCountedCheck(t *testing.T) {
	allowed := schemas.Decision{Allowed: true, Reason: schemas.ReasonAllowed}
	o := schemas.CommandOutcome{Body: allowed.AppendCheck(nil, "b", false)}
	for _, tt := range []struct {
		name     string
		decision schemas.Decision
		final    bool
		command  bool
	}{
		{"allowed", allowed, false, true},
		{"refused, and nobody was told", limitedDecision(), false, true},
		{"refused, and all is told", limitedDecision(), true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, l, m := serveEntitled(t, o)
			m.decision, m.final = tt.decision, tt.final
			a := s.do("POST", "/api/entitlements/check", `{"count":true}`).is(200)
			if sent := l.frame != nil; sent != tt.command || sent && (l.frame.Kind != "entitlement.check" || l.frame.AppID != "app_1") {
				t.Errorf("command %+v", l.frame)
			}
			if tt.command {
				a.body(string(o.Body)).has("Retry-After", "") // what was answered is allowed
			} else {
				a.has("Retry-After", "31")
			}
		})
	}
	s, l, m := serveEntitled(t, o)
	m.decision = allowed
	l.pending = memoryPending{stored: &Receipt{Seq: 7}, applied: &Receipt{Seq: 7}}
	s.do("POST", "/api/entitlements/check", `{"count":true}`).is(503, schemas.CodeUnavailable)
	l.pending = memoryPending{stored: &Receipt{Seq: 7}, applied: &Receipt{Seq: 7, Dead: true}}
	s.do("POST", "/api/entitlements/check", `{"count":true}`).is(500, schemas.CodeInternal)
}

func TestExplain(t *testing.T) {
	s, l, m := serveEntitled(t, schemas.CommandOutcome{})
	m.decision = limitedDecision()
	m.decision.Judgements = []schemas.Judgement{{Rule: "5.2.11", Name: "requests_per_minute", Says: schemas.VerdictHard, Because: schemas.ReasonRateLimited}}
	a := s.do("POST", "/api/entitlements/explain?as_of=2026-01-26T15:30:00Z", `{"count":true,"feature":"f"}`).is(200)
	if list, _ := a.json()["judgements"].([]any); len(list) != 1 {
		t.Errorf("%s", a.text)
	}
	want := []any{"app_1", schemas.EntitlementCheck{Feature: "f", Needed: 1}, int64(1_769_441_400_000_000_000)}
	if d := cmp.Diff(want, m.asked); d != "" || l.frame != nil {
		t.Errorf("command %+v, asked (-want +got):\n%s", l.frame, d)
	}
	s.do("POST", "/api/entitlements/explain?as_of=x", `{}`).is(422, schemas.CodeValidation)
}

func TestRefusedChecks(t *testing.T) {
	s, _, _ := serveEntitled(t, schemas.CommandOutcome{})
	for body, code := range map[string]schemas.Code{
		``: schemas.CodeInvalidJSON, `{`: schemas.CodeInvalidJSON, `[]`: schemas.CodeValidation, `{"needed":-1}`: schemas.CodeValidation,
		`{"needed":1e3}`: schemas.CodeValidation, `{"plugin":""}`: schemas.CodeValidation, `{"count":1}`: schemas.CodeValidation, `{"a":1,"a":2}`: schemas.CodeInvalidJSON,
	} {
		status := 422
		if code == schemas.CodeInvalidJSON {
			status = 400
		}
		s.do("POST", "/api/entitlements/check", body).is(status, code)
	}
	s.do("POST", "/api/entitlements/check", `{}`, "-").is(401, schemas.CodeUnauthorized)
}
