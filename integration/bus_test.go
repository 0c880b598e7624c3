package integration

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
	"grout/schemas"
)

// publisher is a connection of the account that publishes commands.
func publisher(t testing.TB, p *process.Process) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(p.NATS, nats.UserInfo("platform", process.PlatformPassword))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// commandOf is a message that asks for a command; headers come in pairs.
func commandOf(app, kind, data string, headers ...string) *nats.Msg {
	m := nats.NewMsg(schemas.CommandSubject(app, kind))
	m.Data = []byte(data)
	for i := 0; i+1 < len(headers); i += 2 {
		m.Header[headers[i]] = append(m.Header[headers[i]], headers[i+1])
	}
	return m
}

// eventHeaders are those of an event in binary mode.
func eventHeaders(id, kind string, more ...string) []string {
	return append([]string{"ce-specversion", "1.0", "ce-id", id, "ce-source", "//crm.example", "ce-type", schemas.TypeOf(kind)}, more...)
}

func publish(t testing.TB, js jetstream.JetStream, m *nats.Msg) {
	t.Helper()
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatalf("publish to %s: %v", m.Subject, err)
	}
}

// deadLetter is a message of MOZAIKS_DLQ.
type deadLetter struct {
	Subject         string `json:"-"`
	ID              string `json:"id"`
	CausationID     string `json:"causationid"`
	CausationSource string `json:"causationsource"`
	Data            schemas.DeadLetterData
}

// deadLetters waits until so many are there, and then until it is quiet.
func deadLetters(t testing.TB, p *process.Process, many int) (list []deadLetter) {
	t.Helper()
	nc, err := nats.Connect(p.NATS, nats.UserInfo("admin", process.AdminPassword))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.OrderedConsumer(t.Context(), schemas.StreamDeadLetters, jetstream.OrderedConsumerConfig{FilterSubjects: []string{schemas.SubjectsDead}})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		m, err := c.Next(jetstream.FetchMaxWait(300 * time.Millisecond))
		if errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) {
			if len(list) >= many {
				return list
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d dead letters, and no more come", len(list))
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		documents.CheckFact(t, m.Data())
		l := deadLetter{Subject: m.Subject()}
		if err := json.Unmarshal(m.Data(), &l); err != nil {
			t.Fatal(err)
		}
		list = append(list, l)
	}
}

// Whatever is published that is no command goes to the dead letters, whole, with the code
// of what is wrong, and nothing else comes of it.
func TestPublishedBadInput(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 4)
	js := publisher(t, p)
	const void = `{"event_id":"e"}`
	long := strings.Repeat("x", 1025)
	aFact := `{"specversion":"1.0","id":"f.0","source":"//mozaiks.ai/app/a/grout","type":"ai.mozaiks.usage.recorded.v1","data":{}}`
	type bad struct {
		m    *nats.Msg
		code schemas.Code
	}
	cases := map[string]bad{
		"unknown kind":           {commandOf("a", "usage.count", void), schemas.CodeUnknownKind},
		"wrong subject":          {commandOf("a", "void", void), schemas.CodeUnknownKind},
		"internal kind":          {commandOf("a", "clock.set", `{"to":0}`, eventHeaders("1", "clock.set")...), schemas.CodeForbidden},
		"end of an execution":    {commandOf("a", "plugin.finish", `{}`), schemas.CodeForbidden},
		"fact":                   {commandOf("a", "usage.recorded", aFact), schemas.CodeKindMismatch},
		"fact as a command":      {commandOf("a", "usage.ingest", aFact), schemas.CodeSourceReserved},
		"type of another kind":   {commandOf("a", "usage.void", void, eventHeaders("1", "usage.amend")...), schemas.CodeKindMismatch},
		"grout's source":         {commandOf("a", "usage.void", void, "ce-specversion", "1.0", "ce-id", "1", "ce-source", "//mozaiks.ai/grout/in", "ce-type", "ai.mozaiks.usage.void.v1"), schemas.CodeSourceReserved},
		"app unlike the data's":  {commandOf("b.c", "usage.void", `{"event_id":"e","app_id":"a"}`), schemas.CodeAppMismatch},
		"manifest of another":    {commandOf("b", "entitlement.sync", `{"version":"1.1","app_id":"a","plan":{"tier":"pro"}}`), schemas.CodeAppMismatch},
		"app that is no token":   {&nats.Msg{Subject: "mozaiks.v1.cmd.%61.usage.void", Header: nats.Header{}, Data: []byte(void)}, schemas.CodeUndecodable},
		"missing id":             {commandOf("a", "usage.void", void, "ce-specversion", "1.0", "ce-source", "//s", "ce-type", "ai.mozaiks.usage.void.v1"), schemas.CodeValidation},
		"oversized attribute":    {commandOf("a", "usage.void", void, eventHeaders("1", "usage.void", "ce-more", long)...), schemas.CodeValidation},
		"control character":      {commandOf("a", "usage.void", void, eventHeaders("1", "usage.void", "ce-more", "a%00b")...), schemas.CodeValidation},
		"bytes in a header":      {commandOf("a", "usage.void", void, eventHeaders("1", "usage.void", "ce-more", "a\xffb\x01")...), schemas.CodeValidation},
		"attribute twice":        {commandOf("a", "usage.void", void, eventHeaders("1", "usage.void", "ce-id", "2")...), schemas.CodeValidation},
		"data unlike their type": {commandOf("a", "usage.void", "event_id=e", eventHeaders("1", "usage.void", "content-type", "application/json")...), schemas.CodeInvalidJSON},
		"another type":           {commandOf("a", "usage.void", "<e/>", eventHeaders("1", "usage.void", "content-type", "text/xml")...), schemas.CodeMediaType},
		"not JSON":               {commandOf("a", "usage.ingest", `{"events":[`), schemas.CodeInvalidJSON},
		"not text":               {commandOf("a", "usage.void", "\xff\xfe\x00"), schemas.CodeInvalidJSON},
		"nothing":                {commandOf("a", "usage.void", ""), schemas.CodeInvalidJSON},
		"broken schema":          {commandOf("a", "budget.reserve", `{"estimated_tokens":-1}`), schemas.CodeValidation},
		"repeated key":           {commandOf("a", "usage.void", `{"event_id":"e","event_id":"f"}`), schemas.CodeInvalidJSON},
		"too many events":        {commandOf("a", "usage.ingest", `{"events":[`+strings.Repeat("1,", schemas.MaxEventsPerBatch)+`1]}`), schemas.CodeTooManyEvents},
		"8 MiB and a byte":       {commandOf("a", "usage.ingest", strings.Repeat(" ", schemas.MaxPublicBytes+1)), schemas.CodePayloadTooLarge},
		"8 MiB of nothing":       {commandOf("a", "usage.ingest", strings.Repeat(" ", schemas.MaxPublicBytes)), schemas.CodeInvalidJSON},
		"long headers":           {commandOf("a", "usage.void", "{", "X", strings.Repeat("\x02", 60<<10)), schemas.CodeInvalidJSON},
	}
	for name, c := range cases {
		c.m.Header.Set("X-Case", name)
		publish(t, js, c.m)
	}
	list := deadLetters(t, p, len(cases))
	if len(list) != len(cases) {
		t.Errorf("%d letters of %d messages", len(list), len(cases))
	}
	ids := map[string]bool{}
	for _, l := range list {
		headers, err := schemas.OriginalHeaders(l.Data.Original.Headers)
		if err != nil || len(headers["X-Case"]) != 1 {
			t.Errorf("headers %.200v: %v", l.Data.Original.Headers, err)
			continue
		}
		name := headers["X-Case"][0]
		c, known := cases[name]
		data, err := base64.StdEncoding.DecodeString(l.Data.Original.DataBase64)
		if !known || err != nil || !bytes.Equal(data, c.m.Data) || !reflect.DeepEqual(headers, map[string][]string(c.m.Header)) {
			t.Errorf("%s: its letter has %d bytes with the headers %.300q, %v", name, len(data), headers, err)
		}
		if l.Data.Code != c.code || ids[l.ID] || l.CausationID == "" || !strings.HasPrefix(l.Subject, "mozaiks.v1.dlq.") {
			t.Errorf("%s: %s (%s) on %s of %q, not %s", name, l.Data.Code, l.Data.Reason, l.Subject, l.CausationID, c.code)
		}
		ids[l.ID] = true
		delete(cases, name)
	}
	for name := range cases {
		t.Errorf("%s has no letter", name)
	}
	if list := facts(t, p, func([]fact) bool { return true }); len(list) > 0 {
		t.Errorf("facts follow from what is no command: %+v", list)
	}
	if n := metric(t, p, "grout_published_commands_waiting"); n != 0 {
		t.Errorf("%v commands wait", n)
	}
	stop(t, p)
}

// outcomesIn counts the events that facts tell of, and the commands that were refused.
func outcomesIn(list []fact) (events, refused int) {
	for _, f := range list {
		switch f.Type {
		case schemas.TypeOf(schemas.CommandRefused.Name):
			refused++
		case schemas.TypeOf(schemas.UsageRecorded.Name):
			var d schemas.UsageRecordedData
			if json.Unmarshal(f.Data, &d) == nil {
				events += len(d.Events)
			}
		}
	}
	return events, refused
}

// Subjects that are none, and what only grout may say, are not taken at all.
func TestPublishedWhereNobodyListens(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	js := publisher(t, p)
	for _, subject := range []string{"mozaiks.v1.cmd.a", "mozaiks.v1.evt.a.usage.recorded", "mozaiks.v1.grp.0", "mozaiks.v1.in.platform.0.a.usage.void", "mozaiks.v1.dlq.a.usage.void", "mozaiks.v1.reply.x"} {
		if ack, err := js.Publish(t.Context(), subject, []byte(`{"event_id":"e"}`), jetstream.WithRetryAttempts(0)); err == nil {
			t.Errorf("%s: stored at %d of %s", subject, ack.Sequence, ack.Stream)
		}
	}
	stop(t, p)
}

// Ids that were claimed before: the first command of an app, source and id stands,
// whatever comes behind it, on the bus or across a restart, and another app's or
// source's ids are others.
func TestPublishedIDs(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := start(t, data, 1)
	js := publisher(t, p)
	event := func(app, id string) string {
		return fmt.Sprintf(`{"batch_id":"b-%s","events":[{"event_id":%q,"timestamp":%q,"app_id":%q,"user_id":"u","model":"m","input_tokens":1,"output_tokens":0}]}`, id, id, time.Now().UTC().Format(time.RFC3339), app)
	}
	first, second := event("a", "1"), event("a", "2")
	publish(t, js, commandOf("a", "usage.ingest", first, "Nats-Msg-Id", "m"))
	publish(t, js, commandOf("a", "usage.ingest", second, "Nats-Msg-Id", "m"))
	publish(t, js, commandOf("b", "usage.ingest", event("b", "3"), "Nats-Msg-Id", "m"))
	publish(t, js, commandOf("a", "usage.ingest", event("a", "4"), eventHeaders("m", "usage.ingest")...))
	publish(t, js, commandOf("a", "usage.ingest", event("a", "5"), "Nats-Msg-Id", "grout", "Nats-Expected-Stream", schemas.StreamIn))
	told := func(events, refused int) func([]fact) bool {
		return func(l []fact) bool {
			e, r := outcomesIn(l)
			return e >= events && r >= refused
		}
	}
	facts(t, p, told(4, 1))
	stop(t, p)
	p = start(t, data, 1)
	js = publisher(t, p)
	publish(t, js, commandOf("a", "usage.ingest", first, "Nats-Msg-Id", "m"))
	publish(t, js, commandOf("a", "usage.ingest", second, "Nats-Msg-Id", "m"))
	publish(t, js, commandOf("a", "usage.ingest", event("a", "6"), "Nats-Msg-Id", "last"))
	list := facts(t, p, told(5, 1))
	events, times := recorded(t, list)
	var got []string
	for id, e := range events {
		got = append(got, e.AppID+e.EventID)
		if times[id] != 1 {
			t.Errorf("%s is told %d times", id, times[id])
		}
	}
	slices.Sort(got)
	if want := []string{"a1", "a4", "a5", "a6", "b3"}; !slices.Equal(got, want) {
		t.Errorf("recorded %q, not %q", got, want)
	}
	conflicts := 0
	for _, f := range list {
		if f.Type == schemas.TypeOf(schemas.CommandRefused.Name) {
			conflicts++
			if !bytes.Contains(f.Data, []byte(schemas.CodeCommandConflict)) || f.App != "a" {
				t.Errorf("%s: %s", f.App, f.Data)
			}
		}
	}
	if conflicts != 1 {
		t.Errorf("the id that was claimed is refused %d times, not once", conflicts)
	}
	stop(t, p)
}

// A plugin runs for the user that a command names, with nothing of what only a token gives;
// once, however often the command is sent; and what refuses it over HTTP refuses it here.
func TestPublishedExecutions(t *testing.T) {
	w := startPlugins(t, 1, map[string]string{
		"echo/logic.py":    "def execute(data):\n    return {'got': data}\n",
		"echo/plugin.yaml": "limits: {queue_timeout: 60s, timeout: 60s}\n", // a busy machine starts Python slowly
	})
	js := publisher(t, w.Process)
	run := `{"plugin":"echo","user_id":"ann","data":{"n":1,"user_jwt":"forged","_context":{"roles":["admin"]},"chat_id":"talk"}}`
	for range 3 {
		publish(t, js, commandOf("dev_app", "plugin.execute", run, "Nats-Msg-Id", "run-1"))
	}
	for id, data := range map[string]string{
		"unknown": `{"plugin":"none","user_id":"ann"}`,
		"dry":     `{"plugin":"echo","user_id":"ann","data":{"_entitlement_dry_run":true}}`,
	} {
		for range 2 {
			publish(t, js, commandOf("dev_app", "plugin.execute", data, "Nats-Msg-Id", id))
		}
	}
	ended := func(l []fact) bool {
		return slices.ContainsFunc(l, func(f fact) bool { return f.Type == schemas.TypeOf(schemas.PluginExecuted.Name) }) && len(l) >= 5
	}
	list := facts(t, w.Process, ended)
	publish(t, js, commandOf("dev_app", "plugin.execute", `{"plugin":"echo","user_id":"eve","data":{"chat_id":"talk"}}`, "Nats-Msg-Id", "somebody else's chat"))
	before := len(list)
	list = facts(t, w.Process, func(l []fact) bool { return len(l) > before })
	kinds := map[string]int{}
	refused := map[string]int{}
	for _, f := range list {
		kinds[f.Type]++
		if f.Type == schemas.TypeOf(schemas.CommandRefused.Name) {
			var d schemas.CommandRefusedData
			if err := json.Unmarshal(f.Data, &d); err != nil {
				t.Fatal(err)
			}
			refused[string(d.Code)]++
		}
	}
	if kinds[schemas.TypeOf(schemas.PluginExecuted.Name)] != 1 || kinds[schemas.TypeOf(schemas.RunStartedFact.Name)] != 1 {
		t.Errorf("facts %v", kinds)
	}
	if want := map[string]int{"NOT_FOUND": 2, "INVALID_REQUEST": 1}; !reflect.DeepEqual(refused, want) {
		t.Errorf("refused %v, not %v", refused, want)
	}
	var runs struct {
		Runs []struct {
			RunID string `json:"run_id"`
		}
	}
	request(t, w.Process, "GET", "/api/runs?plugin=echo", nil).want(t, 200).into(t, &runs)
	if len(runs.Runs) != 1 {
		t.Fatalf("runs %+v", runs)
	}
	var told struct {
		Result struct {
			Got map[string]any `json:"got"`
		} `json:"result"`
	}
	request(t, w.Process, "GET", "/api/runs/"+runs.Runs[0].RunID, nil).want(t, 200).into(t, &told)
	got, _ := json.Marshal(told.Result.Got)
	want := `{"_context":{"app_id":"dev_app","is_superadmin":false,"roles":[],"user_id":"ann","username":null},"_entitlements":{},"app_id":"dev_app","chat_id":"talk","n":1,"user_id":"ann","user_jwt":null}`
	if string(got) != want {
		t.Errorf("the plugin got %s", got)
	}
	stop(t, w.Process)
}
