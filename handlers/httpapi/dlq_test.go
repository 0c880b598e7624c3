package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

// letterBox is a partition's letters, and what was commanded about them.
type letterBox struct {
	noDeadLetters
	letters map[string]*DeadLetter
	command func(*DeadLetter) (schemas.CommandFrame, error)
	sent    []schemas.CommandFrame
	in      []int // partitions
	pending memoryPending
	oldest  int64 // event that is taken
}

func (b *letterBox) Letter(_ context.Context, id string) (*DeadLetter, error) {
	if id == "broken" {
		return nil, errors.New("the disk is broken")
	}
	return b.letters[id], nil
}

func (b *letterBox) Command(_ context.Context, l *DeadLetter) (schemas.CommandFrame, error) {
	if b.command != nil {
		return b.command(l)
	}
	return schemas.CommandFrame{Kind: schemas.UsageVoid.Name, ID: "c-1", Source: "//example.org/p", Payload: []byte{1}}, nil
}

func (b *letterBox) Waiting() int64 { return int64(len(b.letters)) }

func (b *letterBox) Admits(_ int, oldest int64) error {
	if oldest < b.oldest {
		return schemas.Errorf(schemas.CodeClockJump, "the clock is in doubt")
	}
	return nil
}

func (b *letterBox) Submit(partition int, f schemas.CommandFrame) (Pending, error) {
	b.sent, b.in = append(b.sent, f), append(b.in, partition)
	return b.pending, nil
}

func outcome(o schemas.CommandOutcome) memoryPending {
	return memoryPending{stored: &Receipt{Seq: 1}, applied: &Receipt{Seq: 1, Outcome: o.Append(nil)}}
}

// TestRetryAndDrop: what is told of a letter before anything is sent, what is sent and
// where, and what comes of it.
func TestRetryAndDrop(t *testing.T) {
	letter := func(status schemas.LetterStatus, original bool) *DeadLetter {
		l := &DeadLetter{Partition: 2, Letter: schemas.Letter{Status: status, ID: "l", AppID: "a", Kind: schemas.UsageVoid.Name, Code: schemas.CodePoison, Reason: "r", Attempts: 1}}
		if original {
			l.Original = &schemas.DeadLetterOriginal{Subject: "s", Headers: map[string][]string{"X": {"\xff"}}, DataBase64: "AP8=", Sequence: 1, Time: "2026-01-26T15:30:00Z"}
		}
		return l
	}
	box := &letterBox{letters: map[string]*DeadLetter{
		"waits": letter(schemas.LetterWaiting, true), "gone": letter(schemas.LetterWaiting, false),
		"dropped": letter(schemas.LetterDropped, true), "retried": letter(schemas.LetterRetried, false),
	}}
	s := serve(t, func(o *Options) {
		o.DeadLetters, o.Commands, o.Partitions, o.WaitLimit = box, box, 4, 20*time.Millisecond
	})
	s.do("GET", "/ready", nil).is(http.StatusOK).body(`{"status":"ready","app_id":"app_1","app_tier":"free","dead_letters":4}`)
	s.do("GET", "/api/dlq/waits", nil).is(http.StatusOK)
	if a := s.do("GET", "/api/dlq/gone", nil).is(http.StatusOK); !strings.HasSuffix(a.text, `"original":null}`) {
		t.Error(a.text)
	}
	for path, want := range map[string]struct {
		status int
		code   schemas.Code
	}{
		"gone": {410, schemas.CodeLetterGone}, "dropped": {409, schemas.CodeLetterClosed}, "nobody": {404, schemas.CodeNotFound}, "broken": {500, schemas.CodeInternal},
	} {
		s.do("POST", "/api/dlq/"+path+"/retry", nil).is(want.status, want.code)
	}
	s.do("POST", "/api/dlq/retried/retry", nil).is(http.StatusOK).has("Idempotency-Replayed", "true")
	if len(box.sent) != 0 {
		t.Fatalf("%d commands for what is refused or done", len(box.sent))
	}

	box.pending = outcome(schemas.CommandOutcome{Body: letter(schemas.LetterRetried, false).AppendJSON(nil)})
	s.do("POST", "/api/dlq/waits/retry", nil).is(http.StatusOK).has("Idempotency-Replayed", "")
	box.pending = outcome(schemas.CommandOutcome{Code: schemas.CodeLetterClosed, Detail: "d"})
	s.do("DELETE", "/api/dlq/retried", nil).is(http.StatusConflict, schemas.CodeLetterClosed)
	box.pending = memoryPending{stored: &Receipt{Seq: 1}}
	s.do("DELETE", "/api/dlq/waits", nil).is(http.StatusAccepted).body(`{"id":"l","status":"accepted"}`)
	box.pending = memoryPending{err: errors.New("no PubAck")}
	s.do("POST", "/api/dlq/waits/retry", nil).is(http.StatusServiceUnavailable, schemas.CodeUnavailable)
	var retry schemas.LetterRetry
	if len(box.sent) != 4 || box.in[0] != 2 || box.sent[0].Kind != schemas.RetryLetter.Name || box.sent[1].Kind != schemas.DropLetter.Name ||
		retry.DecodePayload(box.sent[0].Payload) != nil || retry.ID != "l" || retry.Frame.ID != "c-1" || box.sent[0].ID == "c-1" {
		t.Errorf("sent to %v: %+v", box.in, box.sent)
	}
	box.command = func(*DeadLetter) (f schemas.CommandFrame, err error) {
		return f, schemas.Errorf(schemas.CodeNotRetryable, "no command")
	}
	s.do("POST", "/api/dlq/waits/retry", nil).is(http.StatusConflict, schemas.CodeNotRetryable)
	sent := len(box.sent)
	box.oldest = 1000
	box.command = func(*DeadLetter) (schemas.CommandFrame, error) {
		b := schemas.UsageBatch{BatchID: "b", Events: []schemas.UsageEvent{{AppID: "a", EventID: "e", Timestamp: 999}, {AppID: "a", EventID: "f", Timestamp: 2000}}}
		return schemas.CommandFrame{Kind: schemas.UsageIngest.Name, ID: "c-1", Source: "//example.org/p", Payload: b.EncodePayload(nil)}, nil
	}
	s.do("POST", "/api/dlq/waits/retry", nil).is(http.StatusServiceUnavailable, schemas.CodeClockJump)
	if len(box.sent) != sent {
		t.Error("events were sent again that would be rejected")
	}
	s.api.StopAccepting()
	s.do("POST", "/api/dlq/waits/retry", nil).is(http.StatusServiceUnavailable)
}

// TestServe: a service answers with what HTTP has, no more than fits, and never for
// somebody whom the request does not name.
func TestServe(t *testing.T) {
	s := serve(t)
	s.reads.usage = func(_ context.Context, q schemas.UsageQuery) (schemas.UsageReport, error) {
		if q.AppID != "other" || q.Window != schemas.WindowDay {
			t.Errorf("asked for %+v", q)
		}
		return schemas.UsageReport{}, nil
	}
	services := map[string]*Service{}
	for _, one := range Services() {
		services[one.Name] = &one
	}
	ask := func(name, data string, most int) ServiceAnswer {
		return s.api.Serve(t.Context(), services[name], map[string][]string{"x-internal-api-key": {"wrong"}, "Authorization": {"Bearer x.y.z"}}, []byte(data), most)
	}
	a := ask("usage.query", `{"app_id":"other","window":"day"}`, 1<<20)
	s.do("GET", "/api/usage?app_id=other&window=day", nil).is(http.StatusOK).body(string(a.Body))
	if a.Status != 200 || a.Header.Get("X-Mozaiks-Correlation-Id") == "" || a.Detail != "" {
		t.Errorf("%+v", a)
	}
	if a := ask("usage.query", `{"app_id":"other","window":"day"}`, 100); a.Status != 422 || !strings.Contains(string(a.Body), string(schemas.CodeTooManyRows)) {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	s.reads.usage = func(context.Context, schemas.UsageQuery) (schemas.UsageReport, error) {
		panic("the test says so")
	}
	if a := ask("usage.query", `{}`, 1<<20); a.Status != 500 || a.Detail != "Internal server error" {
		t.Errorf("%+v", a)
	}
	s.api.StopAccepting()
	if a := ask("budgets.reserve", `{"estimated_tokens":1}`, 1<<20); a.Status != 503 || a.Header.Get("Retry-After") == "" {
		t.Errorf("%+v", a)
	}
}
