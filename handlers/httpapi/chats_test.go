package httpapi

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"grout/schemas"
)

func TestChatUsage(t *testing.T) {
	chat := schemas.ChatUsage{
		AppID: "a b", ChatID: `c/1 "é"`, UserID: "u\n",
		Totals: schemas.UsageSums{Events: 2, InputTokens: 1500, OutputTokens: 500, TotalTokens: 2000, CachedTokens: 7, Cost: schemas.AmountOf(37_500_000)},
	}
	s := serve(t)
	s.reads.chat = func(app, id string) (*schemas.ChatUsage, error) {
		if app != chat.AppID || id != chat.ChatID {
			return nil, nil
		}
		return &chat, nil
	}
	const want = `{"chat_id":"c/1 \"é\"","app_id":"a b","user_id":"u\n","events":2,"usage_prompt_tokens_final":1500,` +
		`"usage_completion_tokens_final":500,"usage_total_tokens_final":2000,"usage_total_cost_final":0.0375}`
	const path = "/api/chats/c%2F1%20%22%C3%A9%22/usage"
	s.do("GET", path+"?app_id=a+b", nil).is(200).has("Content-Type", "application/json").body(want)
	s.do("HEAD", path+"?app_id=a+b", nil).is(200).body("")
	s.do("GET", path, nil).is(404, schemas.CodeNotFound) // in the app that the server belongs to
	s.do("GET", "/api/chats/other/usage?app_id=a+b", nil).is(404, schemas.CodeNotFound)
	s.do("GET", "/api/chats//usage", nil).is(404)
	s.do("GET", "/api/chats/c", nil).is(404)
	s.do("POST", path, "{}").is(405)
	for _, c := range []struct{ path, loc string }{
		{"/api/chats/" + strings.Repeat("c", 129) + "/usage", "path chat_id"},
		{"/api/chats/%ff/usage", "path chat_id"},
		{path + "?app_id=", "query app_id"},
		{path + "?app=a", "query app"},
		{path + "?app_id=a&app_id=b", "query app_id"},
	} {
		a := s.do("GET", c.path, nil).is(422, schemas.CodeValidation)
		loc := a.json()["errors"].([]any)[0].(map[string]any)["loc"].([]any)
		if got := loc[0].(string) + " " + loc[1].(string); got != c.loc {
			t.Errorf("%s: the fault is at %s, want %s", c.path, got, c.loc)
		}
	}
	s.do("GET", path, nil, "X-Internal-API-Key: wrong").is(403, schemas.CodeForbidden)
	s.reads.chat = func(string, string) (*schemas.ChatUsage, error) { return nil, errors.New("x") }
	s.do("GET", path, nil).is(500, schemas.CodeInternal)
	s.reads.chat = func(string, string) (*schemas.ChatUsage, error) { return nil, context.DeadlineExceeded }
	s.do("GET", path, nil).is(503, schemas.CodeUnavailable)
}

const rawSummary = `{"event_id":"s-1","event_ts":"2026-01-26T15:30:00.123456+00:00","chat_id":"c","app_id":"a","user_id":"u",` +
	`"workflow_name":"w","prompt_tokens":400,"completion_tokens":200,"total_tokens":600}`

// A raw summary is a batch of one event, sent by any of the clients that ingest takes.
func TestRawSummaryIsIngested(t *testing.T) {
	s := serve(t)
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("any:"+internalKey))
	for name, send := range map[string]func() *answer{
		"a key": func() *answer { return s.do("POST", "/api/usage/ingest", rawSummary) },
		"basic": func() *answer { return s.do("POST", "/api/usage/ingest", rawSummary, basic) },
		"gzip": func() *answer {
			return s.do("POST", "/api/usage/ingest", gzipped(t, rawSummary), "Content-Encoding: gzip")
		},
		"a CloudEvent": func() *answer {
			return s.do("POST", "/api/usage/ingest", cloudEvent("1", rawSummary), "Content-Type: application/cloudevents+json")
		},
	} {
		before := len(s.commands.all())
		a := send().is(200)
		if !strings.Contains(a.text, `"accepted":1,"duplicates":0,"rejected":0,"failed":0,"errors":[]}`) {
			t.Errorf("%s: %s", name, a.text)
		}
		frames := s.commands.all()
		var b schemas.UsageBatch
		if err := b.DecodePayload(frames[len(frames)-1].Payload); err != nil || len(frames) != before+1 {
			t.Fatalf("%s: %d commands more, %v", name, len(frames)-before, err)
		}
		if e := b.Events[0]; !e.Summary || e.ChatID != "c" || e.Model != "unknown" || e.InputTokens != 400 || e.WorkflowID != "w" || b.Made != (name != "a CloudEvent") {
			t.Errorf("%s: %+v, made %v", name, e, b.Made)
		}
	}
}

func TestBadRawSummariesAreAnswered(t *testing.T) {
	s := serve(t)
	swap := func(old, new string) string { return strings.Replace(rawSummary, old, new, 1) }
	for name, c := range map[string]struct {
		body   string
		status int
		code   schemas.Code
		text   string
	}{
		"no chat":       {swap(`"chat_id":"c"`, `"type":"chat.usage_summary"`), 200, "MISSING_FIELD", "required and missing: chat_id"},
		"two spellings": {swap(`"prompt_tokens":400`, `"prompt_tokens":400,"input_tokens":400`), 200, "REPEATED_KEY", "prompt_tokens and input_tokens are the same field"},
		"a text":        {swap("400", `"400"`), 200, "INVALID_TYPE", "prompt_tokens must be a whole number"},
		"a delta":       {swap(`"u",`, `"u","cached":true,`), 422, schemas.CodeValidation, "chat.usage_summary that says so"},
		"an array":      {"[" + rawSummary + "]", 422, schemas.CodeValidation, "must be an object"},
		"cut":           {rawSummary[:50], 400, schemas.CodeInvalidJSON, ""},
	} {
		before := len(s.commands.all())
		a := s.do("POST", "/api/usage/ingest", c.body).is(c.status)
		if !strings.Contains(a.text, string(c.code)) || !strings.Contains(a.text, c.text) {
			t.Errorf("%s: %s", name, a.text)
		}
		if c.status == 200 && !strings.Contains(a.text, `"accepted":0,"duplicates":0,"rejected":1,"failed":1,`) {
			t.Errorf("%s: %s", name, a.text)
		}
		if sent := len(s.commands.all()) > before; sent != (c.status == 200) {
			t.Errorf("%s: a command was sent: %v", name, sent)
		}
	}
}

// The totals of a chat are told by whoever may see them, and answered as they are told.
func TestSummarizeChat(t *testing.T) {
	const path = "/api/chats/of-ann/usage/summary"
	summary := schemas.ChatSummary{
		EventID: "QAN8K86279LQNE3ABC8LM8I1HC.7", At: 1_769_441_400_000_000_000,
		ChatUsage: schemas.ChatUsage{AppID: "app_1", ChatID: "of-ann", UserID: "ann", Totals: schemas.UsageSums{InputTokens: 2, TotalTokens: 2}},
	}
	body := string(summary.AppendJSON(nil))
	log := &runLog{answer: func(*schemas.CommandFrame) Pending { return outcomeOf(schemas.CommandOutcome{Body: []byte(body)}) }}
	s := serve(t, knownUsers, func(o *Options) {
		o.Commands, o.Reads = log, &chatReads{owners: map[string]string{"of-ann": "ann", "of-bob": "bob", "of-nobody": ""}}
	})
	s.do("POST", path, nil, asAnn).is(200).body(body)
	s.do("POST", path, `{"app_id":"app_1"}`).is(200).body(body)
	s.do("POST", path+"?app_id=app_2", nil).is(200)
	if len(log.frames) != 3 || log.frames[2].AppID != "app_2" {
		t.Fatalf("%d commands: %+v", len(log.frames), log.frames)
	}
	var c schemas.ChatSummarize
	if f := log.frames[0]; f.Kind != schemas.SummarizeChat.Name || f.AppID != "app_1" || c.DecodePayload(f.Payload) != nil || c.ChatID != "of-ann" {
		t.Errorf("the command is %+v of %+v", c, f)
	}
	for _, x := range []struct {
		path, body, as string
		status         int
	}{
		{"/api/chats/of-bob/usage/summary", "", asAnn, 404},
		{"/api/chats/of-nobody/usage/summary", "", asAnn, 404},
		{"/api/chats/unknown/usage/summary", "", asAdmin, 404},
		{path + "?app_id=app_2", "", asAnn, 404},
		{path, `{"app_id":"app_2"}`, asAnn, 404},
		{path, `{"app_id":1}`, asAnn, 422},
		{path, `[]`, asAnn, 422},
		{path, `{`, asAnn, 400},
		{path + "?chat=x", "", asAnn, 422},
		{"/api/chats/%ff/usage/summary", "", asAnn, 422},
		{path, "", "X-Internal-API-Key: wrong", 403},
		{path, "", "Authorization: Bearer a.b.c", 401},
	} {
		s.do("POST", x.path, x.body, x.as).is(x.status)
	}
	s.do("GET", path, nil).is(405)
	if len(log.frames) != 3 {
		t.Errorf("what is refused makes a command: %d", len(log.frames))
	}
	log.answer = func(*schemas.CommandFrame) Pending {
		return outcomeOf(schemas.CommandOutcome{Code: schemas.CodeNotFound, Detail: "The app has no chat with this id"})
	}
	s.do("POST", path, nil).is(404, schemas.CodeNotFound)
	log.answer = func(*schemas.CommandFrame) Pending {
		return memoryPending{stored: &Receipt{Seq: 7}, applied: &Receipt{Seq: 7}}
	}
	s.do("POST", path, nil).is(202).body(`{"chat_id":"of-ann","status":"accepted"}`)
}
