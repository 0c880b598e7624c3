package httpapi

import (
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

func TestOperations(t *testing.T) {
	s := serve(t)
	s.do("GET", "/health", nil, "-").is(200).body(`{"status":"healthy","app_id":"app_1","app_tier":"free","plugins_loaded":0}`)
	s.do("GET", "/ready", nil, "-").is(200).body(`{"status":"ready","app_id":"app_1","app_tier":"free"}`)
	s.do("GET", "/info", nil, "-").is(200).body(`{"app_id":"app_1","app_tier":"free","app_name":"App One","port":8080,"ready":true}`)
	s.health.ok, s.health.reason = false, `the "bus" is away`
	s.do("GET", "/health", nil, "-").is(200)
	s.do("GET", "/ready", nil, "-").is(503).body(`{"status":"not_ready","reason":"the \"bus\" is away","app_id":"app_1"}`)
	s.do("GET", "/info", nil, "-").is(200).body(`{"app_id":"app_1","app_tier":"free","app_name":"App One","port":8080,"ready":false}`)
	for _, path := range []string{"/health", "/info", "/metrics", "/openapi.json", "/asyncapi.json"} {
		s.do("HEAD", path, nil, "-").is(200)
	}
	s.do("HEAD", "/ready", nil, "-").is(503)
}

// What was lost is told for as long as the process lives, beside that it works.
func TestReadyTellsAlarms(t *testing.T) {
	s := serve(t)
	s.health.alarms = []schemas.Alarm{{Name: schemas.StreamTailLost, Detail: `common up to "3"`, Partition: 2}}
	s.do("GET", "/ready", nil, "-").is(200).body(`{"status":"ready","app_id":"app_1","app_tier":"free","alarms":[{"name":"STREAM_TAIL_LOST","detail":"common up to \"3\"","partition":2}]}`)
}

func TestDocumentsAreServed(t *testing.T) {
	s := serve(t)
	s.do("GET", "/openapi.json", nil, "-").is(200).has("Content-Type", "application/json").body(string(schemas.OpenAPI()))
	s.do("GET", "/asyncapi.json", nil, "-").is(200).body(string(schemas.AsyncAPI()))
}

func TestEverythingHasALimit(t *testing.T) {
	h := New(Options{}).HTTPServer()
	if h.ReadHeaderTimeout != 5*time.Second || h.ReadTimeout != 60*time.Second || h.WriteTimeout != 90*time.Second ||
		h.IdleTimeout != 120*time.Second || h.MaxHeaderBytes != 64<<10 {
		t.Errorf("limits: %+v", h)
	}
	if o := (Options{}).withDefaults(); o.MaxBodyBytes != 16<<20 || o.WaitLimit != 10*time.Second || o.Partitions != 1 || o.WaitLimit >= h.WriteTimeout || readLimit >= h.WriteTimeout {
		t.Errorf("defaults: %+v", o)
	}
}

// TestTextsThatAreNotUnicode: what a caller sends may come back in an error.
func TestTextsThatAreNotUnicode(t *testing.T) {
	s := serve(t)
	a := s.do("GET", "/api/usage?%ff%00=1", nil).is(422, schemas.CodeValidation)
	if !strings.Contains(a.text, `"loc":["query",`) {
		t.Errorf("%s", a.text)
	}
}
