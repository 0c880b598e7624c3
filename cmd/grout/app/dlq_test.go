package app

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"grout/handlers/httpapi"
	"grout/schemas"
)

// TestDeadLettersOfThePartitions: letters of all partitions are listed page by page, their
// originals are found while they wait for the relay, in the stream, and nowhere once that
// has let them go; what they hold is sent again under its own id.
func TestDeadLettersOfThePartitions(t *testing.T) {
	cfg := testConfig(t, 4)
	ready := make(chan *node, 1)
	s := newSupervisor(cfg, newLogger(io.Discard, cfg), func(n *node) { ready <- n })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	n := <-ready
	d := (*deadLetters)(s)
	const each = 3
	for number := range cfg.Partitions {
		p, err := n.partition(number)
		if err != nil {
			t.Fatal(err)
		}
		for i := range each {
			app := fmt.Sprintf("app-%d-%d", number, i)
			kind := []string{schemas.UsageVoid.Name, schemas.ClockTick.Name, "no.such"}[i]
			sendDead(t, p, schemas.CommandFrame{Kind: kind, AppID: app, ID: fmt.Sprint("c-", app), Source: "//mozaiks.ai/grout/test", Time: 1, Payload: []byte{9, byte(i)}})
		}
	}
	if got := d.Waiting(); got != int64(each*cfg.Partitions) {
		t.Fatalf("%d wait", got)
	}
	all := pagesOf(t, d, schemas.LetterQuery{Limit: 2})
	if len(all) != each*cfg.Partitions {
		t.Fatalf("%d are listed", len(all))
	}
	js, err := jetstream.New(n.conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), schemas.StreamDeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	published := func() bool {
		for _, p := range n.partitions {
			if p.store.Stats().DeadLetterRows > 0 {
				return false
			}
		}
		return true
	}
	for round := range 2 { // perhaps before, and surely after they were published
		for _, l := range all {
			whole := letterOf(t, d, l.ID)
			data, err := base64.StdEncoding.DecodeString(whole.Original.DataBase64)
			frames, broken := schemas.DecodeGroup(data)
			if err != nil || broken != nil || len(frames) != 1 || frames[0].ID != l.Cause.ID || frames[0].Payload[0] != 9 {
				t.Errorf("round %d: the original of %s is %x (%v, %v)", round, l.ID, data, err, broken)
			}
			f, err := d.Command(t.Context(), whole)
			if retryable := l.Kind == schemas.UsageVoid.Name; (err == nil) != retryable || retryable && f.ID != l.Cause.ID {
				t.Errorf("%s: sent again as %+v, %v", l.Kind, f, err)
			}
		}
		eventually(t, "the letters are published", published)
	}
	again := letterOf(t, d, all[0].ID)
	for _, l := range all {
		if l.Kind == schemas.UsageVoid.Name {
			again = letterOf(t, d, l.ID)
		}
	}
	p, err := n.partition(again.Partition)
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.Command(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	retry := schemas.LetterRetry{ID: again.ID, Frame: f}
	sendDead(t, p, schemas.CommandFrame{Kind: schemas.RetryLetter.Name, ID: "r", Source: "//mozaiks.ai/grout/test", Payload: retry.EncodePayload(nil)})
	if l := letterOf(t, d, again.ID); l.Attempts != 2 || l.Status != schemas.LetterWaiting || l.Code != schemas.CodeUndecodable {
		t.Errorf("after a retry: %+v", l.Letter)
	}
	retryOfMessages(t, d)
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSubject(schemas.SubjectsDead)); err != nil {
		t.Fatal(err)
	}
	if l, err := d.Letter(t.Context(), again.ID); err != nil || l == nil || l.Original != nil {
		t.Errorf("the stream is empty, and there is %+v (%v)", l, err)
	}
	if l, err := d.Letter(t.Context(), "nobody"); l != nil || err != nil {
		t.Errorf("%+v %v", l, err)
	}
}

// retryOfMessages: a message that somebody published is read as its pump would read it,
// and keeps the id and source that its letter gave it.
func retryOfMessages(t *testing.T, d *deadLetters) {
	t.Helper()
	const own = "//mozaiks.ai/app/app-1/nats/platform"
	for text, want := range map[string]schemas.Code{
		`{"event_id":"e"}`: "", `{"event_id":"e","app_id":"other"}`: schemas.CodeNotRetryable, `{"event_id":5}`: schemas.CodeNotRetryable, `{`: schemas.CodeNotRetryable,
	} {
		l := &httpapi.DeadLetter{
			Letter: schemas.Letter{ID: "l", Kind: schemas.UsageVoid.Name, Cause: schemas.Cause{ID: "17-5", Source: own}},
			Original: &schemas.DeadLetterOriginal{
				Subject: "mozaiks.v1.in.platform.0.app-1.usage.void", DataBase64: base64.StdEncoding.EncodeToString([]byte(text)), Sequence: 5, Time: "2026-01-26T15:30:00Z",
			},
		}
		f, err := d.Command(t.Context(), l)
		var known *schemas.Error
		if errors.As(err, &known); want == "" && (err != nil || f.ID != "17-5" || f.Source != own || f.AppID != "app-1" || f.Kind != schemas.UsageVoid.Name) || want != "" && (known == nil || known.Code != want) {
			t.Errorf("%s: %+v %v", text, f, err)
		}
	}
	l := &httpapi.DeadLetter{Original: &schemas.DeadLetterOriginal{
		Subject: "mozaiks.v1.in.platform.0.app-1.plugin.execute", Time: "2026-01-26T15:30:00Z", Sequence: 1,
		DataBase64: base64.StdEncoding.EncodeToString([]byte(`{"plugin":"nowhere","user_id":"u","data":{}}`)),
	}}
	var known *schemas.Error
	if _, err := d.Command(t.Context(), l); !errors.As(err, &known) || known.Code != schemas.CodeNotFound {
		t.Errorf("a plugin that is not there: %v", err)
	}
}

// sendDead submits a command and waits until it has been applied, or has died.
func sendDead(t *testing.T, p *partition, f schemas.CommandFrame) {
	t.Helper()
	f.Accepted = time.Now().UnixNano()
	pending, err := p.publisher.Submit(f)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pending.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func letterOf(t *testing.T, d *deadLetters, id string) *httpapi.DeadLetter {
	t.Helper()
	l, err := d.Letter(t.Context(), id)
	if err != nil || l == nil || l.Original == nil {
		t.Fatalf("letter %s: %+v %v", id, l, err)
	}
	return l
}

func pagesOf(t *testing.T, d *deadLetters, q schemas.LetterQuery) (all []schemas.Letter) {
	t.Helper()
	for {
		page, err := d.Letters(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Letters) > q.Limit {
			t.Fatalf("%d letters on a page of %d", len(page.Letters), q.Limit)
		}
		all = append(all, page.Letters...)
		if !page.More {
			return all
		}
		q.Behind = page.Next
	}
}
