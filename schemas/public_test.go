package schemas

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const publicCreated = 1_767_225_600_000_000_000

var publicStored = time.Unix(0, publicCreated+int64(time.Hour)).UTC()

// published is a message of MOZAIKS_IN that the platform sent.
func published(app, kind, data string, headers ...string) *StreamMessage {
	m := &StreamMessage{Subject: "mozaiks.v1.in.platform.0." + EscapeToken(app) + "." + kind, Seq: 7, Time: publicStored, Data: []byte(data)}
	for i := 0; i < len(headers); i += 2 {
		if m.Header == nil {
			m.Header = map[string][]string{}
		}
		m.Header[headers[i]] = append(m.Header[headers[i]], headers[i+1])
	}
	return m
}

// binaryHeaders are those of a sound event of a type.
func publicHeaders(kind string, more ...string) []string {
	return append([]string{"ce-specversion", "1.0", "ce-id", "c-1", "ce-source", "//crm", "ce-type", TypeOf(kind)}, more...)
}

// sounds are data of every kind that are taken, about the app a.
func sounds() map[string]string {
	event := `{"event_id":"e","timestamp":"2026-01-01T00:00:00Z","app_id":"a","user_id":"u","model":"m","input_tokens":1,"output_tokens":2}`
	return map[string]string{
		"usage.ingest":         `{"batch_id":"b","events":[` + event + `]}`,
		"usage.void":           `{"event_id":"e","reason":"r"}`,
		"usage.amend":          `{"event_id":"e","input_tokens":5,"app_id":"a"}`,
		"entitlement.sync":     `{"version":"1.1","app_id":"a","plan":{"tier":"pro"}}`,
		"subscription.sync":    `{"user_id":"u","plan":"pro","status":"active"}`,
		"budget.reserve":       `{"reservation_id":"r","estimated_tokens":5}`,
		"budget.settle":        `{"reservation_id":"r","event_id":"e","input_tokens":1,"output_tokens":2}`,
		"budget.extend":        `{"reservation_id":"r","ttl_seconds":5,"app_id":"a"}`,
		"budget.release":       `{"reservation_id":"r"}`,
		"plugin.execute":       `{"plugin":"story","user_id":"u","data":{"n":1,"user_id":"forged","_context":{}}}`,
		"orchestration.report": `[{"kind":"orchestration.agent_started","run_id":"r","event_id":"v"}]`,
	}
}

func TestPublicKindsAreWhatGroutAloneDoesNotWrite(t *testing.T) {
	internal := InternalKinds()
	var want []string
	for _, kind := range CommandKinds() {
		if !slices.Contains(internal, kind) {
			want = append(want, kind)
		}
	}
	if got := PublicKinds(); !slices.Equal(got, want) {
		t.Fatalf("%q, not %q", got, want)
	}
	if got := slices.Sorted(maps.Keys(sounds())); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Fatalf("tests know %q", got)
	}
}

// Every kind, in every form, says the same.
func TestDecodePublic(t *testing.T) {
	for kind, data := range sounds() {
		t.Run(kind, func(t *testing.T) {
			structured := fmt.Sprintf(`{"specversion":"1.0","id":"c-1","source":"//crm","type":%q,"time":"2026-01-01T01:00:00Z","correlationid":"x","n":5,"data":%s}`, TypeOf(kind), data)
			encoded := fmt.Sprintf(`{"specversion":"1.0","id":"c-1","source":"//crm","type":%q,"datacontenttype":"application/json","data_base64":%q}`, TypeOf(kind), base64.StdEncoding.EncodeToString([]byte(data)))
			forms := map[string]*StreamMessage{
				"binary":     published("a", kind, data, publicHeaders(kind, "content-type", "application/json", "ce-time", "2026-01-01T01:00:00Z")...),
				"structured": published("a", kind, structured, "Content-Type", "application/cloudevents+json; charset=utf-8"),
				"untyped":    published("a", kind, structured),
				"base64":     published("a", kind, encoded, "content-type", "application/cloudevents+json"),
			}
			var first []byte
			for form, m := range forms {
				c, err := DecodePublic(m, publicCreated)
				if err != nil {
					t.Fatalf("%s: %v", form, err)
				}
				if c.Kind != kind || c.AppID != "a" || c.ID != "c-1" || c.Source != "//crm" || c.Time != publicStored.UnixNano() || !c.Published() {
					t.Errorf("%s: %+v", form, c.CommandFrame)
				}
				if first == nil {
					first = payloadOf(&c)
				}
				if !bytes.Equal(first, payloadOf(&c)) {
					t.Errorf("%s says something else: %q and %q", form, first, payloadOf(&c))
				}
			}
			plain, err := DecodePublic(published("a", kind, data, "Nats-Msg-Id", "m-1"), publicCreated)
			if err != nil || plain.ID != "m-1" || plain.Source != "//mozaiks.ai/app/a/nats/platform" {
				t.Errorf("plain: %+v, %v", plain.CommandFrame, err)
			}
			if plain, err = DecodePublic(published("a", kind, data), publicCreated); err != nil || plain.ID != fmt.Sprint(publicCreated, "-7") {
				t.Errorf("without an id: %+v, %v", plain.CommandFrame, err)
			}
		})
	}
}

func payloadOf(c *PublicCommand) []byte {
	if c.Execution != nil {
		x := *c.Execution
		x.Timeout = 1
		return x.EncodePayload(nil)
	}
	return c.Payload
}

// What a command makes without naming it follows from its source and id.
func TestPublicIDsFollowFromTheCommand(t *testing.T) {
	reserve := func(id string) string {
		c, err := DecodePublic(published("a", "budget.reserve", `{"estimated_tokens":1}`, "Nats-Msg-Id", id), publicCreated)
		var b BudgetReserve
		if err != nil || b.DecodePayload(c.Payload) != nil {
			t.Fatal(err)
		}
		return b.ReservationID
	}
	if one := reserve("1"); one != reserve("1") || one == reserve("2") {
		t.Error("an id does not follow from the command")
	}
	c, err := DecodePublic(published("a", "plugin.execute", sounds()["plugin.execute"], "Nats-Msg-Id", "1"), publicCreated)
	if err != nil {
		t.Fatal(err)
	}
	x := c.Execution
	if x.RunID != reserve("1") || x.UserID != "u" || x.Plugin != "story" || x.Roles != nil || x.Superadmin || !x.Keep || string(x.Data) != `{"n":1}` {
		t.Errorf("%+v %s", x, x.Data)
	}
}

// The id of a message that has none says which stream it came from.
func TestCreatedOf(t *testing.T) {
	for _, created := range []int64{1, publicCreated, -5} {
		if got := CreatedOf(numbered(created, 70), 70); got != created {
			t.Errorf("%d, not %d", got, created)
		}
	}
	for _, id := range []string{"", "70", "x-70", numbered(1, 71)} {
		if got := CreatedOf(id, 70); got != 0 {
			t.Errorf("%q: %d", id, got)
		}
	}
}

// Whatever is not a command says so by the code of what is wrong first.
func TestPublicBadInput(t *testing.T) {
	sound := sounds()
	long := strings.Repeat("x", maxAttributeBytes+1)
	event := func(members string) string {
		return `{"specversion":"1.0","id":"c","source":"//crm","type":"ai.mozaiks.usage.void.v1",` + members + `}`
	}
	for name, c := range map[string]struct {
		m    *StreamMessage
		code Code
	}{
		"no subject of the stream":        {&StreamMessage{Subject: "mozaiks.v1.cmd.a.usage.void", Time: publicStored}, CodeUndecodable},
		"app that is not escaped":         {&StreamMessage{Subject: "mozaiks.v1.in.platform.0.%61.usage.void", Time: publicStored}, CodeUndecodable},
		"app that is not UTF-8":           {&StreamMessage{Subject: "mozaiks.v1.in.platform.0.%FF.usage.void", Time: publicStored, Data: []byte(sound["usage.void"])}, CodeUndecodable},
		"app that is too long":            {published(strings.Repeat("a", MaxIDChars+1), "usage.void", sound["usage.void"]), CodeUndecodable},
		"unknown kind":                    {published("a", "usage.count", sound["usage.void"]), CodeUnknownKind},
		"kind of another spelling":        {published("a", "Usage.Void", sound["usage.void"]), CodeUnknownKind},
		"kind with a token too many":      {published("a", "usage.void.e", sound["usage.void"]), CodeUnknownKind},
		"internal kind":                   {published("a", "clock.set", `{}`), CodeForbidden},
		"letter from outside":             {published("a", "letter.file", `{}`), CodeForbidden},
		"refusal from outside":            {published("a", "command.refuse", `{}`), CodeForbidden},
		"fact on a command subject":       {published("a", "usage.recorded", `{}`), CodeKindMismatch},
		"type of a fact":                  {published("a", "usage.ingest", sound["usage.ingest"], publicHeaders("usage.recorded")...), CodeKindMismatch},
		"type of another kind":            {published("a", "usage.ingest", sound["usage.ingest"], publicHeaders("usage.void")...), CodeKindMismatch},
		"grout's own source":              {published("a", "usage.void", sound["usage.void"], "ce-specversion", "1.0", "ce-id", "c", "ce-source", "//mozaiks.ai/grout/http", "ce-type", TypeOf("usage.void")), CodeSourceReserved},
		"source of a fact":                {published("a", "orchestration.report", sound["orchestration.report"], "ce-specversion", "1.0", "ce-id", "c", "ce-source", AppSource("b", "grout"), "ce-type", TypeOf("orchestration.run_started")), CodeSourceReserved},
		"another publisher's source":      {published("a", "usage.void", sound["usage.void"], "ce-specversion", "1.0", "ce-id", "c", "ce-source", AppSource("a", "nats/billing"), "ce-type", TypeOf("usage.void")), CodeSourceReserved},
		"no id":                           {published("a", "usage.void", sound["usage.void"], "ce-specversion", "1.0", "ce-source", "//crm", "ce-type", TypeOf("usage.void")), CodeValidation},
		"no specversion":                  {published("a", "usage.void", sound["usage.void"], "ce-id", "1", "ce-source", "//crm", "ce-type", TypeOf("usage.void")), CodeValidation},
		"another specversion":             {published("a", "usage.void", sound["usage.void"], "ce-specversion", "0.3", "ce-id", "1", "ce-source", "//crm", "ce-type", TypeOf("usage.void")), CodeValidation},
		"id twice":                        {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-id", "c-2")...), CodeValidation},
		"id in two spellings":             {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "CE-ID", "c-2")...), CodeValidation},
		"id that is too long":             {published("a", "usage.void", sound["usage.void"], "ce-specversion", "1.0", "ce-id", long, "ce-source", "//crm", "ce-type", TypeOf("usage.void")), CodeValidation},
		"extension that is too long":      {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-more", long)...), CodeValidation},
		"control character":               {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-more", "a%0Ab")...), CodeValidation},
		"control character of C1":         {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-more", "a%C2%85b")...), CodeValidation},
		"attribute that is not UTF-8":     {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-more", "%ff")...), CodeValidation},
		"attribute without a name":        {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-", "x")...), CodeValidation},
		"attribute with a bad name":       {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-a_b", "x")...), CodeValidation},
		"broken time":                     {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-time", "yesterday")...), CodeValidation},
		"data attribute":                  {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "ce-data", "x")...), CodeValidation},
		"Nats-Msg-Id twice":               {published("a", "usage.void", sound["usage.void"], "Nats-Msg-Id", "1", "Nats-Msg-Id", "2"), CodeValidation},
		"Nats-Msg-Id that is too long":    {published("a", "usage.void", sound["usage.void"], "Nats-Msg-Id", long), CodeValidation},
		"content type twice":              {published("a", "usage.void", sound["usage.void"], "Content-Type", "application/json", "content-type", "application/json"), CodeValidation},
		"another content type":            {published("a", "usage.void", sound["usage.void"], "Content-Type", "text/plain"), CodeMediaType},
		"lines":                           {published("a", "usage.ingest", sound["usage.ingest"], "Content-Type", "application/x-ndjson"), CodeMediaType},
		"list of events":                  {published("a", "usage.ingest", `[]`, "Content-Type", "application/cloudevents-batch+json"), CodeMediaType},
		"another content type in binary":  {published("a", "usage.void", sound["usage.void"], publicHeaders("usage.void", "content-type", "application/xml")...), CodeMediaType},
		"packed data":                     {published("a", "usage.void", sound["usage.void"], "Content-Encoding", "gzip"), CodeMediaType},
		"data unlike their content type":  {published("a", "usage.void", "event_id=e", publicHeaders("usage.void", "content-type", "application/json")...), CodeInvalidJSON},
		"event that is no JSON":           {published("a", "usage.void", `{"specversion`, "content-type", "application/cloudevents+json"), CodeInvalidJSON},
		"event that is no object":         {published("a", "usage.void", `[1]`, "content-type", "application/cloudevents+json"), CodeValidation},
		"event with a key twice":          {published("a", "usage.void", event(`"id":"d","data":{"event_id":"e"}`)), CodeInvalidJSON},
		"event without data":              {published("a", "usage.void", event(`"x":"y"`)), CodeValidation},
		"event with data twice":           {published("a", "usage.void", event(`"data":{"event_id":"e"},"data_base64":"e30="`)), CodeValidation},
		"event with bad base64":           {published("a", "usage.void", event(`"data_base64":"e30"`)), CodeValidation},
		"event with data of another type": {published("a", "usage.void", event(`"datacontenttype":"text/plain","data":"e"`)), CodeMediaType},
		"event with an object beside":     {published("a", "usage.void", event(`"more":{},"data":{"event_id":"e"}`)), CodeValidation},
		"event with a number for an id":   {published("a", "usage.void", `{"specversion":"1.0","id":5,"source":"//crm","type":"ai.mozaiks.usage.void.v1","data":{"event_id":"e"}}`), CodeValidation},
		"event too deep":                  {published("a", "usage.void", event(`"data":`+strings.Repeat("[", 70)+strings.Repeat("]", 70))), CodeValidation},
		"bytes that are no text":          {published("a", "usage.void", "\xff\xfe"), CodeInvalidJSON},
		"nothing":                         {published("a", "usage.void", ""), CodeInvalidJSON},
		"a byte too many":                 {published("a", "usage.void", strings.Repeat(" ", MaxPublicBytes+1)), CodePayloadTooLarge},
		"no event id":                     {published("a", "usage.void", `{"reason":"r"}`), CodeValidation},
		"event id null":                   {published("a", "usage.void", `{"event_id":null}`), CodeValidation},
		"amend without an event id":       {published("a", "usage.amend", `{"input_tokens":1}`), CodeValidation},
		"settle without a reservation":    {published("a", "budget.settle", `{"event_id":"e","input_tokens":1,"output_tokens":2}`), CodeValidation},
		"extend without a reservation":    {published("a", "budget.extend", `{"ttl_seconds":5}`), CodeValidation},
		"release without a reservation":   {published("a", "budget.release", `{}`), CodeValidation},
		"execute without a plugin":        {published("a", "plugin.execute", `{"user_id":"u"}`), CodeValidation},
		"execute without a user":          {published("a", "plugin.execute", `{"plugin":"p","data":{}}`), CodeValidation},
		"execute with data that are none": {published("a", "plugin.execute", `{"plugin":"p","user_id":"u","data":[]}`), CodeValidation},
		"too much data to execute":        {published("a", "plugin.execute", `{"plugin":"p","user_id":"u","data":{"x":"`+strings.Repeat("x", MaxExecuteBytes)+`"}}`), CodePayloadTooLarge},
		"empty batch":                     {published("a", "usage.ingest", `{"events":[]}`), CodeValidation},
		"manifest of another app":         {published("b", "entitlement.sync", sound["entitlement.sync"]), CodeAppMismatch},
		"subscription of another app":     {published("b", "subscription.sync", `{"user_id":"u","plan":"pro","status":"active","app_id":"a"}`), CodeAppMismatch},
		"void of another app":             {published("b", "usage.void", `{"event_id":"e","app_id":"a"}`), CodeAppMismatch},
		"amend of another app":            {published("b", "usage.amend", sound["usage.amend"]), CodeAppMismatch},
		"reserve of another app":          {published("b", "budget.reserve", `{"estimated_tokens":1,"app_id":"a"}`), CodeAppMismatch},
		"settle of another app":           {published("b", "budget.settle", `{"reservation_id":"r","event_id":"e","input_tokens":1,"output_tokens":2,"app_id":"a"}`), CodeAppMismatch},
		"extend of another app":           {published("b", "budget.extend", sound["budget.extend"]), CodeAppMismatch},
		"release of another app":          {published("b", "budget.release", `{"reservation_id":"r","app_id":"a"}`), CodeAppMismatch},
		"execute of another app":          {published("b", "plugin.execute", `{"plugin":"p","user_id":"u","app_id":"a"}`), CodeAppMismatch},
		"bad tier":                        {published("a", "entitlement.sync", `{"version":"1.1","app_id":"a","plan":{"tier":"gold"}}`), CodeValidation},
		"bad single event of a run":       {published("a", "orchestration.report", `{"kind":"orchestration.agent_started","event_id":"v"}`), CodeValidation},
	} {
		got, err := DecodePublic(c.m, publicCreated)
		if err == nil || err.Code != c.code {
			t.Errorf("%s: %v, not %s", name, err, c.code)
			continue
		}
		letter := got.Letter(c.m, publicCreated, err)
		var p LetterFiling
		if fault := p.DecodePayload(letter.Payload); fault != nil || !bytes.Equal(p.Original.Data, c.m.Data) || p.Code != c.code {
			t.Errorf("%s: its letter has %v, %v", name, p, fault)
		}
		if headers, fault := OriginalHeaders(p.Original.Headers); fault != nil || len(headers)+len(c.m.Header) > 0 && !reflect.DeepEqual(headers, c.m.Header) {
			t.Errorf("%s: headers %q, %v", name, headers, fault)
		}
		if letter.FrameSize() > MaxLetterBytes || letter.ID != fmt.Sprint(publicCreated, "-", c.m.Seq) || !letter.Published() {
			t.Errorf("%s: letter %s of %d bytes", name, letter.ID, letter.FrameSize())
		}
	}
}

// The letter of the worst message that the stream takes fits into one group of its own.
func TestLargestLetter(t *testing.T) {
	const headers, line = 64 << 10, 16 << 10 // what the server takes of headers and of a subject
	m := published("a", "usage.void", strings.Repeat("\xff", MaxPublicBytes), "ce-id", strings.Repeat("\xff", headers))
	m.Subject += "." + strings.Repeat("*", line)
	c, err := DecodePublic(m, math.MinInt64)
	if err == nil {
		t.Fatal("it is a command")
	}
	c.ID, c.Source, c.CorrelationID = strings.Repeat("i", maxAttributeBytes), strings.Repeat("s", maxAttributeBytes), strings.Repeat("c", MaxIDChars)
	c.AppID, err.Detail = strings.Repeat("\U0001f600", MaxIDChars), strings.Repeat("\U0001f600", 1<<20)
	letter := c.Letter(m, math.MinInt64, err)
	if n := letter.FrameSize(); n > MaxLetterBytes {
		t.Errorf("it takes %d bytes, %d are taken", n, MaxLetterBytes)
	}
	l := DeadLetter{AppID: c.AppID, Original: OriginalMessage{Subject: m.Subject, Headers: LetterHeaders(m.Header), Data: m.Data}}
	if n := len(l.AppendJSON(nil, 0)); n > 12<<20-64<<10 {
		t.Errorf("its fact takes %d bytes, and NATS 12 MiB", n)
	}
}

// Events of other apps are errors of the command's app, and of no other.
func TestPublicBatchOfSeveralApps(t *testing.T) {
	text := `{"events":[
		{"event_id":"1","timestamp":"2026-01-01T00:00:00Z","app_id":"a","user_id":"u","model":"m","input_tokens":1,"output_tokens":2},
		{"event_id":"2","timestamp":"2026-01-01T00:00:00Z","app_id":"b","user_id":"u","model":"m","input_tokens":1,"output_tokens":2},
		{"event_id":"3","app_id":"b"}, 5]}`
	c, err := DecodePublic(published("a", "usage.ingest", text, "Nats-Msg-Id", "1"), publicCreated)
	if err != nil {
		t.Fatal(err)
	}
	var b UsageBatch
	if err := b.DecodePayload(c.Payload); err != nil {
		t.Fatal(err)
	}
	if b.Made || len(b.Parts) != 1 || b.Parts[0].AppID != "a" || b.Parts[0].Rejected != 3 || len(b.Events) != 1 || len(b.Rejected) != 3 {
		t.Fatalf("%+v", b)
	}
	for i, code := range []Code{CodeAppMismatch, CodeMissingField, CodeNotAnObject} {
		if e := b.Rejected[i]; e.AppID != "a" || e.Code != code || e.Index != uint32(i+1) {
			t.Errorf("%+v, not %s", e, code)
		}
	}
	if c.Oldest == math.MaxInt64 {
		t.Error("the oldest event is not known")
	}
}

// What a report's list has that cannot be read goes with it.
func TestPublicReportWithBadEvents(t *testing.T) {
	c, err := DecodePublic(published("a", "orchestration.report", `[{"kind":"orchestration.agent_started","run_id":"r","event_id":"v"},{"event_id":"w"}]`), publicCreated)
	var p RunReport
	if err != nil || p.DecodePayload(c.Payload) != nil || len(p.Events) != 1 || len(p.Rejected) != 1 || p.Rejected[0].AppID != "a" {
		t.Fatalf("%+v, %v", p, err)
	}
	c, err = DecodePublic(published("a", "orchestration.report", `{"run_id":"r","user_id":"u"}`, publicHeaders("orchestration.run_started")...), publicCreated)
	if err != nil || p.DecodePayload(c.Payload) != nil || len(p.Events) != 1 || p.Events[0].Step != StepRunStarted || !strings.HasPrefix(p.Events[0].EventID, "ce-") {
		t.Fatalf("%+v, %v", p, err)
	}
}

// Headers that are no text, or more than a letter can show, are kept all the same, and
// never make a letter that its stream does not take.
func TestLetterHeaders(t *testing.T) {
	for name, headers := range map[string]map[string][]string{
		"none":    nil,
		"text":    {"A": {"1", "2"}, "b-größe": {""}},
		"no text": {"A": {"\xff\x00"}, "\xfe": {"x"}},
		"long":    {"A": {strings.Repeat("\x01", 200_000)}, "B": {"a: b", " c"}},
	} {
		kept := LetterHeaders(headers)
		text, err := json.Marshal(kept)
		if limit := maxLetterHeaders + 2*headerBytes(headers); err != nil || len(text) > limit {
			t.Errorf("%s: %d bytes, %v", name, len(text), err)
		}
		back, err := OriginalHeaders(kept)
		if err != nil || len(back)+len(headers) > 0 && !reflect.DeepEqual(back, headers) {
			t.Errorf("%s: %q, %v", name, back, err)
		}
	}
	if got, err := OriginalHeaders(map[string][]string{LetterHeadersBase64: {"no"}}); err == nil {
		t.Errorf("%q", got)
	}
}

// The digest of a command is that of what it says, and not of what its node added.
func TestCommandDigest(t *testing.T) {
	batch := func(text string) [16]byte {
		c, err := DecodePublic(published("a", "usage.ingest", text, "Nats-Msg-Id", "1"), publicCreated)
		var b UsageBatch
		if err != nil || b.DecodePayload(c.Payload) != nil {
			t.Fatal(err)
		}
		return CommandDigest(c.Kind, &b, c.Payload)
	}
	event := `{"event_id":"%d","timestamp":"2026-01-01T00:00:00Z","app_id":"a","user_id":"u","model":"m","input_tokens":1,"output_tokens":2}`
	one, two := fmt.Sprintf(event, 1), fmt.Sprintf(event, 2)
	if batch(`{"events":[`+one+`,`+two+`]}`) != batch(`{ "events" : [`+two+`,`+one+`]}`) {
		t.Error("the order of events tells batches apart")
	}
	if batch(`{"events":[`+one+`,`+two+`]}`) == batch(`{"events":[`+one+`]}`) {
		t.Error("events do not tell batches apart")
	}
	x := PluginExecution{RunID: "r", Plugin: "p", UserID: "u", BodyDigest: [16]byte{1}, Timeout: 5}
	y := x
	y.Timeout, y.Rerun = 6, true
	if CommandDigest("plugin.execute", &x, []byte("1")) != CommandDigest("plugin.execute", &y, []byte("2")) {
		t.Error("the plugin's limits tell executions apart")
	}
	y.BodyDigest[0]++
	if CommandDigest("plugin.execute", &x, nil) == CommandDigest("plugin.execute", &y, nil) {
		t.Error("data do not tell executions apart")
	}
}

// Whatever is published, in whatever form, is a command of its subject's app or a letter
// with all of it.
func FuzzDecodePublic(f *testing.F) {
	for kind, data := range sounds() {
		f.Add(kind, data, "ce-type", TypeOf(kind), "ce-id", "1")
		f.Add(kind, data, "Nats-Msg-Id", "x", "content-type", "application/json")
		f.Add(kind, `{"specversion":"1.0","id":"1","source":"//s","type":"`+TypeOf(kind)+`","data":`+data+`}`, "", "", "", "")
	}
	f.Fuzz(func(t *testing.T, kind, data, h1, v1, h2, v2 string) {
		m := published("a", "x", data, h1, v1, h2, v2)
		m.Subject = "mozaiks.v1.in.platform.0.a." + kind
		before := bytes.Clone(m.Data)
		c, err := DecodePublic(m, publicCreated)
		if !bytes.Equal(before, m.Data) {
			t.Fatal("the message was changed")
		}
		if err != nil {
			letter := c.Letter(m, publicCreated, err)
			var p LetterFiling
			if fault := p.DecodePayload(letter.Payload); fault != nil || !bytes.Equal(p.Original.Data, m.Data) {
				t.Fatalf("%v: %v", err, fault)
			}
			return
		}
		if c.AppID != "a" || c.ID == "" || !c.Published() || c.Payload == nil && c.Execution == nil {
			t.Fatalf("%+v", c)
		}
	})
}

// The same message is read alike every time: a repeat after a crash is the same command.
func TestDecodePublicIsAFunction(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom(PublicKinds()).Draw(t, "kind")
		headers := rapid.SliceOfN(rapid.SampledFrom(publicHeaders(kind, "ce-x", "\x01", "ce-y", "%ff", "content-type", "text/plain", "Nats-Msg-Id", "1")), 0, 12).Draw(t, "headers")
		m := published("a", kind, sounds()[kind], headers[:len(headers)/2*2]...)
		read := func() string {
			c, err := DecodePublic(m, publicCreated)
			if err != nil {
				c = c.Letter(m, publicCreated, err)
			}
			return fmt.Sprintf("%+v %x %v", c.CommandFrame, payloadOf(&c), err)
		}
		if a, b := read(), read(); a != b {
			t.Fatalf("%s\n%s", a, b)
		}
	})
}
