package httpapi

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

const (
	typeLines  = "Content-Type: application/x-ndjson"
	typeEvent  = "Content-Type: application/cloudevents+json"
	typeEvents = "Content-Type: application/cloudevents-batch+json"
)

// cloudEvent is a CloudEvent whose data is the given JSON text.
func cloudEvent(id, data string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"//test","type":"ai.mozaiks.usage.ingest.v1","data":%s}`, id, data)
}

// submitted gives the batch of the last command, and its events' ids.
func (s *server) submitted() (schemas.UsageBatch, string) {
	s.t.Helper()
	frames := s.commands.frames[0]
	if len(frames) == 0 {
		s.t.Fatal("nothing was submitted")
	}
	var b schemas.UsageBatch
	if err := b.DecodePayload(frames[len(frames)-1].Payload); err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for i := range b.Events {
		ids = append(ids, b.Events[i].EventID)
	}
	return b, strings.Join(ids, " ")
}

func TestLines(t *testing.T) {
	s := serve(t)
	a := s.do("POST", "/api/usage/ingest", event("e1", "a")+"\r\n\n"+event("e2", "a")[:60]+"\n"+event("e3", "b"), typeLines).is(200)
	if b, ids := s.submitted(); ids != "e1 e3" || !b.Made || a.json()["batch_id"] != b.BatchID {
		t.Errorf("the command holds %s of batch %q, made %v", ids, b.BatchID, b.Made)
	}
	if !strings.Contains(a.text, `"accepted":2,"duplicates":0,"rejected":1,"failed":1,"errors":[{"index":1,"event_id":"e2","code":"INVALID_JSON"`) {
		t.Error(a.text)
	}
	s.do("POST", "/api/usage/ingest", "\n \n", typeLines).is(422, schemas.CodeValidation)
	s.do("POST", "/api/usage/ingest", "\xef\xbb\xbf"+event("e", "a"), typeLines).is(400, schemas.CodeInvalidJSON)
	s.do("POST", "/api/usage/ingest", "\xef\xbb\xbf"+batch("", event("e", "a"))).is(400, schemas.CodeInvalidJSON)
	s.do("POST", "/api/usage/ingest", strings.Repeat("1\n", 20_001), typeLines).is(413, schemas.CodeTooManyEvents)
}

func TestCloudEvent(t *testing.T) {
	s := serve(t)
	data := batch("", event("e1", "a"))
	first := s.do("POST", "/api/usage/ingest", cloudEvent("1", data), typeEvent).is(200).json()["batch_id"].(string)
	if b, ids := s.submitted(); ids != "e1" || b.Made || b.BatchID != first || !strings.HasPrefix(first, "ce-") {
		t.Errorf("the command holds %s of batch %q, made %v; answered %q", ids, b.BatchID, b.Made, first)
	}
	binary := []string{"Ce-Specversion: 1.0", "Ce-Id: %31", "Ce-Source: //test", "Ce-Type: ai.mozaiks.usage.ingest.v1", "Content-Type: application/json"}
	if got := s.do("POST", "/api/usage/ingest", data, binary...).is(200).json()["batch_id"]; got != first {
		t.Errorf("in binary mode the batch is %v, structured %v", got, first)
	}
	if got := s.do("POST", "/api/usage/ingest", batch("own", event("e", "a")), binary...).is(200).json()["batch_id"]; got != "own" {
		t.Errorf("the batch is %v", got)
	}
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		loc     string
	}{
		"foreign type":            {strings.Replace(cloudEvent("1", data), "ingest", "digest", 1), []string{typeEvent}, 422, "[body type]"},
		"no batch in it":          {cloudEvent("1", `{"events":[]}`), []string{typeEvent}, 422, "[body data events]"},
		"a list as one":           {"[]", []string{typeEvent}, 422, "[body]"},
		"binary, foreign type":    {data, append(binary[:3:3], "Ce-Type: com.example"), 422, "[header ce-type]"},
		"binary, no version":      {data, binary[1:], 422, "[header ce-specversion]"},
		"binary, only the id":     {data, binary[1:2], 422, "[header ce-specversion]"},
		"binary, twice":           {data, append(binary, "Ce-Id: 2"), 422, "[header ce-id]"},
		"binary, bad escape":      {data, append(binary[2:5:5], "Ce-Specversion: 1.0", "Ce-Id: %zz"), 422, "[header ce-id]"},
		"binary, bad time":        {data, append(binary, "Ce-Time: now"), 422, "[header ce-time]"},
		"binary, no batch":        {"{}", binary, 422, "[body events]"},
		"binary, not JSON":        {"{", binary, 400, ""},
		"binary of lines":         {data, append(binary[:4:4], typeLines), 415, ""},
		"binary of something":     {data, append(binary[:4:4], "Content-Type: text/xml"), 415, ""},
		"repeated key":            {strings.Replace(cloudEvent("1", data), "{", `{"id":"2",`, 1), []string{typeEvent}, 400, ""},
		"too many events in data": {cloudEvent("1", batch("", strings.Repeat("1,", 20_000)+"1")), []string{typeEvent}, 413, ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.commands.all())
			a := s.do("POST", "/api/usage/ingest", c.body, c.headers...).is(c.status)
			loc := ""
			if list, _ := a.json()["errors"].([]any); len(list) > 0 {
				loc = fmt.Sprint(list[0].(map[string]any)["loc"])
			}
			if loc != c.loc {
				t.Errorf("the fault is at %s, want %s: %s", loc, c.loc, a.text)
			}
			if len(s.commands.all()) != before {
				t.Error("a command was submitted")
			}
		})
	}
}

func TestCloudEvents(t *testing.T) {
	s := serve(t, two)
	app0, app1 := twoApps(t)
	s.commands.answer = func(_ int, b *schemas.UsageBatch) (Pending, error) {
		o := countAll(b)
		o.Conflict = b.BatchID == "used"
		return applied(1, o), nil
	}
	s.do("POST", "/api/usage/ingest", "["+strings.Join([]string{
		cloudEvent("1", batch("b1", event("e1", app0), event("e2", app1))), strings.Replace(cloudEvent("2", `{}`), "ingest", "x", 1),
		cloudEvent("3", `{"events":[1],"events":[]}`), cloudEvent("4", batch("used", event("e4", app0))), cloudEvent("5", batch("b5", `7`, event("e5", app1))),
	}, ",")+"]", typeEvents).is(200).body(`{"results":[` +
		`{"batch_id":"b1","accepted":2,"duplicates":0,"rejected":0,"failed":0,"errors":[]},` +
		`{"detail":"type must be ai.mozaiks.usage.ingest.v1 or ai.mozaiks.chat.usage_summary.v1, not \"ai.mozaiks.usage.x.v1\"","error_code":"VALIDATION_ERROR","status_code":422,"errors":[{"loc":["body",1,"type"],"msg":"type must be ai.mozaiks.usage.ingest.v1 or ai.mozaiks.chat.usage_summary.v1, not \"ai.mozaiks.usage.x.v1\"","type":"value_error"}]},` +
		`{"detail":"not valid JSON at byte 23: the key \"events\" is there twice: send it once","error_code":"INVALID_JSON","status_code":400},` +
		`{"detail":"Batch \"used\" was sent before with other events; nothing was applied","error_code":"BATCH_CONFLICT","status_code":409},` +
		`{"batch_id":"b5","accepted":1,"duplicates":0,"rejected":1,"failed":1,"errors":[{"index":0,"event_id":null,"code":"NOT_AN_OBJECT","detail":"the event must be an object, not a number"}]}]}`)
	s.do("POST", "/api/usage/ingest", "[]", typeEvents).is(200).body(`{"results":[]}`)
	s.do("POST", "/api/usage/ingest", cloudEvent("1", "{}"), typeEvents).is(422, schemas.CodeValidation)
	s.do("POST", "/api/usage/ingest", "["+strings.Repeat("1,", 100)+"1]", typeEvents).is(413, schemas.CodeTooManyEvents)
	half := batch("", strings.Repeat("1,", 10_000)+"1")
	before := len(s.commands.all())
	s.do("POST", "/api/usage/ingest", "["+cloudEvent("1", half)+","+cloudEvent("2", half)+"]", typeEvents).is(413, schemas.CodeTooManyEvents)
	if len(s.commands.all()) != before {
		t.Error("a command was submitted")
	}
}

func TestCloudEventsThatWait(t *testing.T) {
	s := serve(t)
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) {
		return memoryPending{stored: &Receipt{Seq: 7}}, nil
	}
	s.do("POST", "/api/usage/ingest", "["+cloudEvent("1", batch("b", event("e", "a")))+"]", typeEvents, "Prefer: respond-async").is(200).
		has("Preference-Applied", "respond-async").
		body(`{"results":[{"batch_id":"b","status":"accepted","status_url":"/api/usage/batches/b?request=0.7.0"}]}`)
}

// TestCloudEventsThatAreNotStored: one that is not durable makes all of them to be
// repeated, and nothing is left waiting.
func TestCloudEventsThatAreNotStored(t *testing.T) {
	for name, bad := range map[string]func() (Pending, error){
		"busy":       func() (Pending, error) { return nil, fmt.Errorf("full: %w", ErrBusy) },
		"not stored": func() (Pending, error) { return memoryPending{err: errors.New("gone")}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(o *Options) { o.WaitLimit = time.Second })
			asked := 0
			n := 0
			s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) {
				if n++; n == 2 {
					return bad()
				}
				good := applied(1, &schemas.IngestOutcome{Accepted: 1})
				good.asked = &asked
				return good, nil
			}
			list := "["
			for i := range 3 {
				list += cloudEvent(fmt.Sprint(i), batch("", event(fmt.Sprint("e", i), "a"))) + ","
			}
			s.do("POST", "/api/usage/ingest", list[:len(list)-1]+"]", typeEvents).is(503, schemas.CodeUnavailable).has("Retry-After", "1")
			if asked != len(s.commands.all())-1 {
				t.Errorf("%d commands were submitted, %d of the good ones asked", len(s.commands.all()), asked)
			}
		})
	}
}

func TestEventTooLargeForTheLog(t *testing.T) {
	s := serve(t)
	metadata := strings.Repeat("m", 4000)
	var events []string
	for i := range 2200 {
		events = append(events, strings.TrimSuffix(event(fmt.Sprint("e", i), "a"), "}")+`,"metadata":{"k":"`+metadata+`"}}`)
	}
	list := "[" + cloudEvent("1", batch("", events...)) + "," + cloudEvent("2", batch("b2", event("e", "a"))) + "]"
	a := s.do("POST", "/api/usage/ingest", list, typeEvents).is(200)
	if !strings.HasPrefix(a.text, `{"results":[{"detail":"The batch takes `) || !strings.Contains(a.text, `"status_code":413},{"batch_id":"b2","accepted":1`) {
		t.Error(a.text)
	}
}

const bearer = "Authorization: Bearer " + serviceKey

func report(app, more string) string {
	return fmt.Sprintf(`{"event_type":"token_usage","app_id":%q,"user_id":"u","timestamp":"2026-01-26T15:30:00Z","data":{"model":"m","input_tokens":1,"output_tokens":2%s}}`, app, more)
}

func TestUsageReports(t *testing.T) {
	s := serve(t)
	post := func(body string, headers ...string) *answer {
		t.Helper()
		return s.do("POST", "/api/billing/usage-events", body, append(headers, bearer)...)
	}
	post(`{"events":[` + report("a", `,"event_id":"e1"`) + `,7,` + report("b", "") + `]}`).is(200).
		body(`{"accepted":2,"failed":1,"errors":[{"index":1,"event_id":null,"code":"NOT_AN_OBJECT","detail":"the event must be an object, not a number"}]}`)
	if b, ids := s.submitted(); !strings.HasPrefix(ids, "e1 rep-") || !b.Made {
		t.Errorf("the command holds %s, made %v", ids, b.Made)
	}
	n := len(s.commands.all())
	post(`{"events":[]}`).is(200).body(`{"accepted":0,"failed":0,"errors":[]}`)
	if len(s.commands.all()) != n {
		t.Error("an empty list makes a command")
	}
	post(`{"events":[7]}`).is(200)
	post(gzipped(t, `{"events":[`+report("a", "")+`]}`), "Content-Encoding: gzip").is(200)
	post(`{`).is(400, schemas.CodeInvalidJSON)
	post(`[]`).is(422, schemas.CodeValidation)
	post(`{}`).is(422, schemas.CodeValidation)
	post(`{"events":{}}`).is(422, schemas.CodeValidation)
	post(`{"events":[]}`, "Content-Type: text/plain").is(415, schemas.CodeMediaType)
	post(`{"events":[]}`, "Content-Encoding: br").is(415, schemas.CodeMediaType).has("Accept-Encoding", "gzip, zstd")
	post(`{"events":[1`+strings.Repeat(",1", 20_000)+`]}`).is(413, schemas.CodeTooManyEvents)
	s.do("GET", "/api/billing/usage-events", nil).is(405)

	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) {
		return applied(1, &schemas.IngestOutcome{Accepted: 2, Duplicates: 3, Rejected: 1, Errors: []schemas.EventError{{Index: 4, EventID: "x", Code: "conflict", Detail: "d"}}}), nil
	}
	post(`{"events":[` + report("a", "") + `]}`).is(200).
		body(`{"accepted":5,"failed":1,"errors":[{"index":4,"event_id":"x","code":"conflict","detail":"d"}]}`)
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) { return nil, ErrBusy }
	post(`{"events":[`+report("a", "")+`]}`).is(503, schemas.CodeUnavailable).has("Retry-After", "1")
}

// TestReportsThatWait: what is durable need not be sent again, although it is not
// applied.
func TestReportsThatWait(t *testing.T) {
	s := serve(t, func(o *Options) { o.WaitLimit = 10 * time.Millisecond })
	s.commands.answer = func(int, *schemas.UsageBatch) (Pending, error) { return memoryPending{stored: &Receipt{Seq: 7}}, nil }
	s.do("POST", "/api/billing/usage-events", `{"events":[`+report("a", "")+`,{"event_id":"x"}]}`, bearer).is(200).
		body(`{"accepted":1,"failed":1,"errors":[{"index":1,"event_id":"x","code":"MISSING_FIELD","detail":"required and missing: timestamp, app_id, user_id, input_tokens, output_tokens"}]}`)
}

func TestReportsTakeAServiceKey(t *testing.T) {
	s := serve(t)
	const body = `{"events":[]}`
	s.do("POST", "/api/billing/usage-events", body).is(401, schemas.CodeUnauthorized).detail("Invalid or missing service key")
	s.do("POST", "/api/billing/usage-events", body, "-").is(401)
	s.do("POST", "/api/billing/usage-events", body, "Authorization: Bearer nope").is(401)
	s.do("POST", "/api/billing/usage-events", body, basic("u", serviceKey)).is(401)
	s.do("POST", "/api/billing/usage-events", body, bearer).is(200)
	closed := serve(t, func(o *Options) { o.ServiceKeys = nil })
	closed.do("POST", "/api/billing/usage-events", body, bearer).is(503, schemas.CodeNotConfigured)
}
