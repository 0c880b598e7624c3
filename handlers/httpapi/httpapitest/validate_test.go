package httpapitest

import (
	"net/http"
	"strings"
	"testing"

	"grout/schemas"
)

var v = NewValidator()

func TestCheck(t *testing.T) {
	health := `{"status":"healthy","app_id":"a","app_tier":"t","plugins_loaded":0}`
	notFound := `{"detail":"d","error_code":"NOT_FOUND","status_code":404}`
	common := []string{"X-Mozaiks-Runtime-Version: 1.0.0", "X-Mozaiks-Correlation-Id: c", "Cache-Control: no-store", "Content-Type: application/json"}
	for name, c := range map[string]struct {
		method, path string
		status       int
		body         string
		headers      []string
		fault        string // empty: it passes
	}{
		"good":               {"GET", "/health", 200, health, common, ""},
		"unknown route":      {"GET", "/x", 404, notFound, common, ""},
		"unknown route, 200": {"GET", "/x", 200, health, common, "not 404"},
		"wrong method":       {"PUT", "/health", 405, strings.ReplaceAll(strings.Replace(notFound, "NOT_FOUND", "METHOD_NOT_ALLOWED", 1), "404", "405"), append(common, "Allow: GET, HEAD"), ""},
		"no Allow":           {"PUT", "/health", 405, notFound, common, "Allow"},
		"wrong method, 200":  {"PUT", "/health", 200, health, common, "not 405"},
		"unknown status":     {"GET", "/health", 201, health, common, "status 201"},
		"missing header":     {"GET", "/health", 200, health, common[1:], "X-Mozaiks-Runtime-Version"},
		"wrong header":       {"GET", "/health", 200, health, append([]string{"X-Mozaiks-Runtime-Version: 2"}, common[1:]...), "X-Mozaiks-Runtime-Version"},
		"header twice":       {"GET", "/health", 200, health, append(common, common[0]), "2 times"},
		"unknown field":      {"GET", "/health", 200, health[:len(health)-1] + `,"more":1}`, common, "more"},
		"missing field":      {"GET", "/health", 200, `{}`, common, "status"},
		"no JSON":            {"GET", "/health", 200, `{`, common, "body"},
		"wrong content type": {"GET", "/health", 200, health, append(common[:3:3], "Content-Type: text/html"), "text/html"},
		"no content type":    {"GET", "/health", 200, health, common[:3], "content type"},
		"HEAD":               {"HEAD", "/health", 200, "", common, ""},
		"HEAD with a body":   {"HEAD", "/health", 200, health, common, "HEAD"},
		"parameter in path":  {"GET", "/api/usage/batches/b%2Fc", 404, notFound, common, ""},
		"unknown code":       {"GET", "/x", 404, strings.Replace(notFound, "NOT_FOUND", "NOPE", 1), common, "error_code"},
		"integer header":     {"GET", "/api/usage", 503, strings.Replace(strings.Replace(notFound, "404", "503", 1), "NOT_FOUND", "SERVICE_UNAVAILABLE", 1), append(common, "Retry-After: soon"), "Retry-After"},
	} {
		req, err := http.NewRequest(c.method, "http://x"+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp := &http.Response{StatusCode: c.status, Header: http.Header{}}
		for _, h := range c.headers {
			key, value, _ := strings.Cut(h, ": ")
			resp.Header.Add(key, value)
		}
		expect(t, name, v.check(req, resp, []byte(c.body)), c.fault)
	}
}

func expect(t *testing.T, name string, err error, fault string) {
	t.Helper()
	switch {
	case fault == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case fault != "" && err == nil:
		t.Errorf("%s: it passed, the fault should be about %s", name, fault)
	case fault != "" && !strings.Contains(err.Error(), fault):
		t.Errorf("%s: the fault should be about %s: %v", name, fault, err)
	}
}

// TestFactsOfThisProgramPass renders facts with the functions that the program uses.
func TestFactsOfThisProgramPass(t *testing.T) {
	event := schemas.UsageEvent{EventID: "e", Timestamp: 1, AppID: "a/b", UserID: "u", Model: "m", InputTokens: 1, TotalTokens: 1}
	full := event
	full.TenantID, full.WorkflowID, full.ChatID, full.RunID, full.AgentName, full.InvocationID = "t", "w", "c", "r", "a", "i"
	full.CachedTokens, full.ReasoningTokens, full.Cost, full.DurationSec, full.Cached = 1, 1, 1, 1e-7, true
	full.Metadata = []byte(`{"k":[1]}`)
	head := schemas.FactHead{Kind: schemas.UsageRecorded.Name, AppID: "a/b", Subject: "app/a/b", Time: 1, Sequence: 1}
	head.Cause = schemas.Cause{ID: "c", Source: "//mozaiks.ai/grout/http"}
	head.ID = schemas.FactID(head.Cause, 3)
	recorded := func(b []byte) []byte {
		return schemas.AppendUsageRecorded(b, "a/b", []string{"b"}, 1, 1, []schemas.UsageEvent{event, full})
	}
	v.CheckFact(t, schemas.AppendFact(nil, &head, recorded))
	head.CorrelationID, head.TraceParent = "c", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	whole := schemas.AppendFact(nil, &head, recorded)
	v.CheckFact(t, whole)

	head.Kind = schemas.UsageRejected.Name
	data := schemas.UsageRejectedData{AppID: "a/b", Count: 2, Rejected: []schemas.RejectedInBatch{{BatchID: "b", Code: schemas.CodeNotAnObject}, {BatchID: "b", EventID: "e", Code: schemas.CodeConflict}}}
	v.CheckFact(t, schemas.AppendFact(nil, &head, data.AppendJSON))

	letter := schemas.DeadLetter{ID: "x", Code: schemas.CodeUndecodable, Original: schemas.OriginalMessage{Subject: "s", Data: []byte{0xff}, Sequence: 1}}
	v.CheckFact(t, letter.AppendJSON(nil, 1))
	letter.AppID, letter.Kind, letter.Cause, letter.Original.Headers = "a", "usage.ingest", head.Cause, map[string][]string{"h": {"v"}}
	v.CheckFact(t, letter.AppendJSON(nil, 1))

	for name, change := range map[string][3]string{
		"no sequence":      {`"sequence":"00000000000000000001",`, ``, "sequence"},
		"unknown type":     {`ai.mozaiks.usage.recorded.v1`, `ai.mozaiks.nothing.v1`, "not documented"},
		"other data":       {`"part":1`, `"part":"1"`, "part"},
		"unknown field":    {`"part":1`, `"part":1,"more":1`, "more"},
		"unknown in event": {`"cached":true`, `"cached":true,"more":1`, "more"},
		"id":               {`.3"`, `"`, "id"},
	} {
		bad := strings.Replace(string(whole), change[0], change[1], 1)
		if bad == string(whole) {
			t.Fatalf("%s changes nothing", name)
		}
		expect(t, name, v.checkFact([]byte(bad)), change[2])
	}
	expect(t, "no JSON", v.checkFact([]byte(`{`)), "EOF")
}

// Facts about the usage of a chat have the number of their first item, as the document says.
func TestFactsAboutChatsPass(t *testing.T) {
	event := schemas.UsageEvent{EventID: "e", Timestamp: 1, AppID: "a", ChatID: "c", UserID: "u", Model: "m", InputTokens: 1, TotalTokens: 1}
	full := event
	full.WorkflowID, full.AgentName, full.InvocationID, full.DurationSec, full.Cached = "w", "a", "i", 1e-7, true
	summary := schemas.ChatSummary{EventID: "FJOPJ27DJ9D0Q2G3S0TKQTIJ20.1", At: 1, ChatUsage: schemas.ChatUsage{AppID: "a", ChatID: "c", UserID: "u"}}
	ended := summary
	ended.RunID, ended.WorkflowName = "r", "w"
	for name, data := range map[string]func([]byte) []byte{
		schemas.ChatUsageDelta.Name: func(b []byte) []byte {
			return schemas.AppendChatUsageDelta(b, "a", "c", 1, 1, []schemas.UsageEvent{event, full})
		},
		schemas.ChatUsageSummary.Name:          summary.AppendJSON,
		schemas.ChatUsageSummary.Name + " run": ended.AppendJSON,
	} {
		kind, _, _ := strings.Cut(name, " ")
		cause := schemas.Cause{ID: "c", Source: "//mozaiks.ai/grout/http"}
		head := schemas.FactHead{Kind: kind, AppID: "a", ID: schemas.FactID(cause, 1), Subject: schemas.ChatSubject("c"), Time: 1, Sequence: 1, ChatSequence: 17, Cause: cause}
		whole := schemas.AppendFact(nil, &head, data)
		v.CheckFact(t, whole)
		expect(t, name, v.checkFact([]byte(strings.Replace(string(whole), `"chatsequence":"17",`, ``, 1))), "chatsequence")
	}
}

// Facts about runs are held against the document, under whatever name a plugin publishes.
func TestFactsAboutRunsPass(t *testing.T) {
	run := schemas.Run{
		ID: "r", AppID: "a", UserID: "u", ChatID: "c", Plugin: "notes", Status: schemas.RunFailed, Attempt: 1, Error: "none", Code: "PLUGIN_ERROR",
		Execution: &schemas.Execution{Action: "create", Consumes: map[string]int64{"items": 1}},
	}
	render := func(kind string, data func([]byte) []byte) string {
		cause := schemas.Cause{ID: "c", Source: "//mozaiks.ai/grout/http"}
		head := schemas.FactHead{Kind: kind, AppID: "a", ID: schemas.FactID(cause, 1), Subject: schemas.RunSubject("r"), Time: 1, Sequence: 1, Cause: cause}
		head.ChatSequence = uint64(schemas.ChatItems(kind, 0)) // the number of the first item of a chat
		return string(schemas.AppendFact(nil, &head, data))
	}
	for step := schemas.StepRunStarted; step <= schemas.StepToolCompleted; step++ {
		e := schemas.RunEvent{Step: step, Status: step.Statuses()[0], RunID: "r", EventID: "e", AppID: "a", Sequence: 1, Attempt: 1}
		v.CheckFact(t, []byte(render(step.Kind(), schemas.RunFact(&e).AppendJSON)))
		e.Agent, e.Tool, e.Message, e.Metadata, e.HasCost, e.HasTokens = "w", "s", "m", []byte(`{"k":[1]}`), true, true
		whole := render(step.Kind(), schemas.RunFact(&e).AppendJSON)
		v.CheckFact(t, []byte(whole))
		for _, number := range []string{``, `"chatsequence":"0",`, `"chatsequence":"01",`, `"chatsequence":1,`} {
			expect(t, "its number is "+number, v.checkFact([]byte(strings.Replace(whole, `"chatsequence":"1",`, number, 1))), "chatsequence")
		}
	}
	executed := render(schemas.PluginExecuted.Name, schemas.ExecutedFact(&run).AppendJSON)
	v.CheckFact(t, []byte(executed))
	v.CheckFact(t, []byte(render(schemas.PluginFailed.Name, schemas.ExecutionErrorFact(&run).AppendJSON)))
	published := schemas.PublishedFact(&run, &schemas.PluginPublication{Name: "report.ready", Data: []byte(`[1,null]`)}).AppendJSON
	v.CheckFact(t, []byte(render(schemas.PublishedKind("report.ready"), published)))
	expect(t, "grout's own name", v.checkFact([]byte(render(schemas.PluginExecuted.Name, published))), "duration_ms")
	expect(t, "no name of a fact", v.checkFact([]byte(render("plugin.Report", published))), "not documented")
	expect(t, "unknown field", v.checkFact([]byte(strings.Replace(executed, `"attempt":1`, `"attempt":1,"more":1`, 1))), "more")
	expect(t, "no item of a chat", v.checkFact([]byte(strings.Replace(executed, `"data":`, `"chatsequence":"1","data":`, 1))), "chatsequence")
}
