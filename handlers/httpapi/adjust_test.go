package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
)

// Events of the double: none. eventReads has some.
func (m *memoryReads) Events(context.Context, schemas.EventQuery) (schemas.EventPage, error) {
	return schemas.EventPage{}, nil
}

type eventReads struct {
	memoryReads
	events func(q schemas.EventQuery) (schemas.EventPage, error)
}

func (r *eventReads) Events(_ context.Context, q schemas.EventQuery) (schemas.EventPage, error) {
	return r.events(q)
}

// correctionLog stands for the log: it keeps the last frame and answers with
// what it holds.
type correctionLog struct {
	partition int
	frame     *schemas.CommandFrame
	pending   Pending
	err       error
}

func (l *correctionLog) Admits(int, int64) error { return nil }

func (l *correctionLog) Submit(partition int, f schemas.CommandFrame) (Pending, error) {
	l.partition, l.frame = partition, &f
	return l.pending, l.err
}

func serveCorrections(t *testing.T, o schemas.CommandOutcome, change ...func(*Options)) (*server, *correctionLog) {
	t.Helper()
	receipt := &Receipt{Seq: 7, Outcome: o.Append(nil)}
	l := &correctionLog{pending: memoryPending{stored: receipt, applied: receipt}}
	return serve(t, append(change, func(o *Options) { o.Commands = l })...), l
}

var voidedOutcome = schemas.CommandOutcome{Body: schemas.AppendAdjusted(nil, "e-1", schemas.EventVoided, &schemas.UsageSums{Events: -1, InputTokens: -1500, TotalTokens: -1500, Cost: schemas.AmountOf(-37_500_000)})}

func TestVoidAndAmend(t *testing.T) {
	s, l := serveCorrections(t, voidedOutcome, func(o *Options) { o.Partitions = 4 })
	const want = `{"event_id":"e-1","status":"voided","adjustment":{"events":-1,"input_tokens":-1500,"output_tokens":0,"total_tokens":-1500,"cached_tokens":0,"reasoning_tokens":0,"cost":-0.0375}}`
	for _, c := range []struct {
		name, path, body string
		kind             string
		app, event       string
		payload          string
	}{
		{"void", "/api/usage/events/e-1/void", `{"app_id":"b","reason":"why","x":1}`, "usage.void", "b", "e-1", "why"},
		{"void without body", "/api/usage/events/e-1/void", ``, "usage.void", "app_1", "e-1", ""},
		{"void of an odd id", "/api/usage/events/" + url.PathEscape("a/b?c %é") + "/void", `{}`, "usage.void", "app_1", "a/b?c %é", ""},
		{"amend", "/api/usage/events/e-1/amend", `{"app_id":"ä","input_tokens":5,"cost":"0.5","reason":"why"}`, "usage.amend", "ä", "e-1", "why"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.do("POST", c.path, c.body, "X-Mozaiks-Correlation-Id: corr", "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").is(200).body(want)
			f := l.frame
			if f.Kind != c.kind || f.AppID != c.app || f.Source != commandSource || f.ID == "" || f.CorrelationID != "corr" || f.TraceParent == "" ||
				f.Time != f.Accepted || f.Time == 0 || l.partition != schemas.PartitionOf(c.app, 4) {
				t.Errorf("partition %d, frame %+v", l.partition, f)
			}
			var event, reason string
			if c.kind == "usage.void" {
				var v schemas.EventVoid
				if err := v.DecodePayload(f.Payload); err != nil {
					t.Fatal(err)
				}
				event, reason = v.EventID, v.Reason
			} else {
				var a schemas.EventAmendment
				if err := a.DecodePayload(f.Payload); err != nil {
					t.Fatal(err)
				}
				event, reason = a.EventID, a.Reason
				if want := (schemas.UsageValues{Given: schemas.GivenInput | schemas.GivenCost, InputTokens: 5, Cost: 500_000_000}); a.Values != want {
					t.Errorf("%+v, want %+v", a.Values, want)
				}
			}
			if event != c.event || reason != c.payload {
				t.Errorf("event %q, reason %q", event, reason)
			}
		})
	}
}

func TestCorrectionsRefusedByARule(t *testing.T) {
	for code, status := range map[schemas.Code]int{
		schemas.CodeNotFound: 404, schemas.CodeEventVoided: 409, schemas.CodeEventExpired: 410, schemas.CodeTotalBelowSum: 422,
	} {
		s, _ := serveCorrections(t, schemas.CommandOutcome{Code: code, Detail: "détail 5%"})
		s.do("POST", "/api/usage/events/e/amend", `{"input_tokens":1}`).is(status, code).detail("détail 5%")
	}
}

func TestCorrectionsWithoutOutcome(t *testing.T) {
	stored := &Receipt{Seq: 3}
	for _, c := range []struct {
		name    string
		pending Pending
		err     error
		status  int
		body    string
	}{
		{"stored in time, applied later", memoryPending{stored: stored}, nil, 202, `{"event_id":"e \"1\"","status":"accepted"}`},
		{"not confirmed", memoryPending{}, nil, 503, ""},
		{"log away", nil, errors.New("no"), 503, ""},
		{"backlog full", nil, fmt.Errorf("%w: full", ErrBusy), 503, ""},
		{"dead letter", memoryPending{applied: &Receipt{Seq: 3, Dead: true, Outcome: []byte{}}}, nil, 500, ""},
		{"outcome of another kind", memoryPending{applied: &Receipt{Seq: 3, Outcome: []byte{1, 0}}}, nil, 500, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, l := serveCorrections(t, voidedOutcome, func(o *Options) { o.WaitLimit = 50 * time.Millisecond })
			l.pending, l.err = c.pending, c.err
			a := s.do("POST", "/api/usage/events/"+url.PathEscape(`e "1"`)+"/void", `{}`).is(c.status)
			if c.body != "" {
				a.body(c.body)
			}
			if c.status == 503 {
				a.has("Retry-After", "1")
			}
		})
	}
}

func TestBadCorrections(t *testing.T) {
	s, l := serveCorrections(t, voidedOutcome)
	long := strings.Repeat("x", 129)
	for _, c := range []struct {
		path, body string
		status     int
		code       schemas.Code
		headers    []string
	}{
		{"e/void", `{`, 400, schemas.CodeInvalidJSON, nil},
		{"e/void", `[]`, 422, schemas.CodeValidation, nil},
		{"e/void", `{"app_id":""}`, 422, schemas.CodeValidation, nil},
		{"e/amend", ``, 400, schemas.CodeInvalidJSON, nil},
		{"e/amend", `{}`, 422, schemas.CodeValidation, nil},
		{"e/amend", `{"input_tokens":1e3}`, 422, schemas.CodeValidation, nil},
		{"e/amend", `{"input_tokens":1,"output_tokens":2,"total_tokens":2}`, 422, schemas.CodeTotalBelowSum, nil},
		{long + "/void", `{}`, 422, schemas.CodeValidation, nil},
		{"%ff/void", `{}`, 422, schemas.CodeValidation, nil},
		{"e/void", `{}`, 415, schemas.CodeMediaType, []string{"Content-Type: text/plain"}},
		{"e/void", `{}`, 403, schemas.CodeForbidden, []string{"X-Internal-API-Key: wrong"}},
		{"e/void", `{}`, 401, schemas.CodeUnauthorized, []string{"-"}},
		{"e/amend", `{"input_tokens":1}`, 401, schemas.CodeUnauthorized, []string{"Authorization: Bearer wrong"}},
	} {
		s.do("POST", "/api/usage/events/"+c.path, c.body, c.headers...).is(c.status, c.code)
	}
	if l.frame != nil {
		t.Errorf("submitted %+v", l.frame)
	}
	s.do("POST", "/api/usage/events/e/void", `{}`, "Authorization: Bearer "+serviceKey).is(200)
	s.do("POST", "/api/usage/events/e/void/", `{}`).is(404)
	s.do("POST", "/api/usage/events//void", `{}`).is(404)
	s.do("GET", "/api/usage/events/e/void", nil).is(405).has("Allow", "POST")
}

func serveEvents(t *testing.T, events func(q schemas.EventQuery) (schemas.EventPage, error)) *server {
	t.Helper()
	return serve(t, func(o *Options) { o.Reads = &eventReads{events: events} })
}

func TestEventsAnswer(t *testing.T) {
	s := serveEvents(t, func(schemas.EventQuery) (schemas.EventPage, error) {
		e := schemas.UsageEvent{EventID: "e-1", AppID: "a", UserID: "u", Model: "m", Timestamp: 1_769_441_400_000_000_000, InputTokens: 1, TotalTokens: 1, Cost: 5}
		counted := schemas.LoggedEvent{UsageEvent: e, BatchID: "b", RecordedAt: 1_769_441_401_500_000_000, Status: schemas.EventCounted}
		amended := counted
		amended.Status, amended.Reason = schemas.EventAmended, "why"
		amended.Effective = schemas.UsageSums{Events: 1, InputTokens: 2, TotalTokens: 2, Cost: schemas.AmountOf(5)}
		return schemas.EventPage{Events: []schemas.LoggedEvent{counted, amended}}, nil
	})
	const event = `{"event_id":"e-1","timestamp":"2026-01-26T15:30:00Z","app_id":"a","user_id":"u","model":"m","input_tokens":1,"output_tokens":0,"total_tokens":1,"cost":0.000000005,"batch_id":"b","recorded_at":"2026-01-26T15:30:01.5Z","status":`
	s.do("GET", "/api/usage/events", nil).is(200).body(`{"events":[` + event + `"counted"},` + event +
		`"amended","effective":{"events":1,"input_tokens":2,"output_tokens":0,"total_tokens":2,"cached_tokens":0,"reasoning_tokens":0,"cost":0.000000005},"reason":"why"}],"next_cursor":null}`)
	s.do("HEAD", "/api/usage/events", nil).is(200)
	s.do("GET", "/api/usage/events", nil, "Authorization: Bearer "+serviceKey).is(200)
	s.do("GET", "/api/usage/events", nil, "-").is(401)
}

func TestEventsQuery(t *testing.T) {
	var got schemas.EventQuery
	s := serveEvents(t, func(q schemas.EventQuery) (schemas.EventPage, error) {
		got = q
		return schemas.EventPage{More: true, Next: schemas.EventPlace{Seq: 300, Chunk: 2, Index: 1}}, nil
	})
	cursor := func(query string) string {
		t.Helper()
		var page struct {
			Cursor string `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(s.do("GET", "/api/usage/events?"+query, nil).is(200).text), &page); err != nil {
			t.Fatal(err)
		}
		return page.Cursor
	}
	plain := cursor("")
	if d := cmp.Diff(schemas.EventQuery{AppID: "app_1", From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 100}, got); d != "" {
		t.Error(d)
	}
	const filters = "app_id=a&tenant_id=t&user_id=u&model=m&workflow_id=w&chat_id=c&run_id=r&from=2026-01-26T15:30:00.5Z&to=2026-01-26T15:30:00.6%2B00:00"
	full := cursor(filters + "&limit=1000")
	want := schemas.EventQuery{
		AppID: "a", TenantID: "t", UserID: "u", Model: "m", WorkflowID: "w", ChatID: "c", RunID: "r",
		From: 1_769_441_400_500_000_000, To: 1_769_441_400_600_000_000, Limit: 1000,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// A cursor goes on with its query, and with no other.
	cursor(filters + "&limit=7&cursor=" + full)
	if want := (schemas.EventPlace{Seq: 300, Chunk: 2, Index: 1}); got.Before != want || got.Limit != 7 {
		t.Errorf("goes on before %+v with %d, want %+v", got.Before, got.Limit, want)
	}
	cursor("app_id=app_1&cursor=" + plain) // said or not, it is the same app
	for _, query := range []string{
		"cursor=" + full, filters + "&cursor=" + plain, strings.Replace(filters, "user_id=u", "user_id=v", 1) + "&cursor=" + full,
		strings.Replace(filters, "user_id=u&", "", 1) + "&cursor=" + full, strings.Replace(filters, "00.5Z", "00.4Z", 1) + "&cursor=" + full,
		strings.Replace(filters, "tenant_id=t&user_id=u", "tenant_id=tu", 1) + "&cursor=" + full,
		"cursor=", "cursor=x", "cursor=" + plain + "A", "cursor=" + plain[:len(plain)-1], "cursor=" + plain + "%3D", "cursor=AQ",
		"limit=0", "limit=1001", "limit=x", "limit=%2B5", "limit=1.0", "limit=-1", "limit=99999999999999999999",
		"from=yesterday", "from=2026-01-26T15:30:00Z&to=2026-01-26T15:30:00Z", "window=hour", "user=u", "user_id=", "limit=1&limit=2",
	} {
		s.do("GET", "/api/usage/events?"+query, nil).is(422, schemas.CodeValidation)
	}
}

func TestEventsOfAReadThatFails(t *testing.T) {
	s := serveEvents(t, func(schemas.EventQuery) (schemas.EventPage, error) {
		return schemas.EventPage{}, errors.New("disk is gone")
	})
	s.do("GET", "/api/usage/events", nil).is(500, schemas.CodeInternal)
}

func FuzzCursor(f *testing.F) {
	q := schemas.EventQuery{AppID: "a"}
	f.Add(cursorOf(&q, schemas.EventPlace{Seq: 1}))
	f.Add(cursorOf(&q, schemas.EventPlace{Seq: 1 << 63, Chunk: 1<<32 - 1, Index: 7}))
	f.Fuzz(func(t *testing.T, text string) {
		if at, ok := placeOf(&q, text); ok && cursorOf(&q, at) != text {
			t.Errorf("%q is read as %+v, which is written %q", text, at, cursorOf(&q, at))
		}
	})
}
