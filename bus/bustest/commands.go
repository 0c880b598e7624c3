package bustest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// Commands publishes as the platform and as a publisher do, with both of the stock
// JetStream clients, and with every header that could do harm.
func Commands(t *testing.T, target Target) {
	target.each(t, []string{"platform", Publisher}, func(t *testing.T, user string, nc *nats.Conn) {
		t.Run("stored", func(t *testing.T) { target.stored(t, user, nc) })
		t.Run("message ids", func(t *testing.T) { target.messageIDs(t, nc) })
		t.Run("headers", func(t *testing.T) { target.headers(t, nc) })
		t.Run("other apps", func(t *testing.T) { target.otherApps(t, user, nc) })
		t.Run("bounds", func(t *testing.T) { target.bounds(t, nc) })
	})
}

// stored looks at what arrived: under the name of the account, in the app's partition.
func (target *Target) stored(t *testing.T, user string, nc *nats.Conn) {
	js := jetStream(t, nc)
	old, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	m := &nats.Msg{Subject: schemas.CommandSubject("my.app", "usage.ingest"), Data: []byte("{}"), Header: nats.Header{
		"ce-id": {"1"}, "Nats-Request-Info": {`{"acc":"GROUT"}`},
	}}
	ack, err := js.PublishMsg(t.Context(), m, jetstream.WithExpectStream(schemas.StreamIn))
	if err != nil || ack.Stream != schemas.StreamIn {
		t.Fatalf("%+v, %v", ack, err)
	}
	got := target.message(t, ack.Sequence)
	in, err := schemas.ParseInSubject(got.Subject)
	if err != nil || in.Publisher != user || in.AppToken != "my%2Eapp" || in.Kind != "usage.ingest" {
		t.Errorf("stored as %s, %+v, %v", got.Subject, in, err)
	}
	if want := schemas.PartitionOf("my.app", target.partitions(t)); in.Partition != want {
		t.Errorf("partition %d, want %d", in.Partition, want)
	}
	if got.Header.Get("ce-id") != "1" || got.Header.Get("Nats-Request-Info") != "" {
		t.Errorf("headers %v", got.Header)
	}
	if a, err := old.Publish(m.Subject, []byte("{}")); err != nil || a.Sequence != ack.Sequence+1 {
		t.Errorf("older API: %+v, %v", a, err)
	}
	future, err := js.PublishAsync(m.Subject, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	select {
	case a := <-future.Ok():
		if a.Sequence != ack.Sequence+2 {
			t.Errorf("in the background: %+v", a)
		}
	case err := <-future.Err():
		t.Errorf("in the background: %v", err)
	}
}

// messageIDs of one publisher keep no command away, whoever repeats them.
func (target *Target) messageIDs(t *testing.T, nc *nats.Conn) {
	js := jetStream(t, nc)
	for i, app := range []string{"app", "my.app", "app"} {
		ack, err := js.Publish(t.Context(), schemas.CommandSubject(app, "usage.ingest"), fmt.Append(nil, i), jetstream.WithMsgID("same"))
		if err != nil || ack.Duplicate {
			t.Fatalf("%d: %+v, %v", i, ack, err)
		}
		if got := target.message(t, ack.Sequence); string(got.Data) != fmt.Sprint(i) || got.Header.Get("Nats-Msg-Id") != "same" {
			t.Errorf("%d: stored %s %v", i, got.Data, got.Header)
		}
	}
}

// headers that would change or remove what is stored, or tell of it, are refused.
func (target *Target) headers(t *testing.T, nc *nats.Conn) {
	js := jetStream(t, nc)
	subject := schemas.CommandSubject("app", "usage.ingest")
	for _, header := range []nats.Header{
		{"Nats-Rollup": {"all"}},
		{"Nats-Rollup": {"sub"}},
		{"Nats-TTL": {"1s"}},
		{"Nats-TTL": {"never"}},
		{"Nats-Incr": {"1"}},
		{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}},
		{"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}},
		{"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {"mozaiks.v1.from.platform.other.x"}},
		{"Nats-Schedule": {"@at 2030-01-01T00:00:00Z"}, "Nats-Schedule-Target": {"mozaiks.v1.evt.x.y"}},
		{"Nats-Schedule-Next": {"purge"}, "Nats-Scheduler": {subject + ".x"}},
		{"Nats-Scheduler": {"x"}},
		{"Nats-Stream-Source": {"MOZAIKS_DLQ 1 > >"}},
		{"Nats-Expected-Stream": {"MOZAIKS_CMD"}},
		{"Nats-Expected-Last-Sequence": {"999999999"}},
		{"Nats-Expected-Last-Subject-Sequence": {"999999999"}},
		{"Nats-Expected-Last-Msg-Id": {"nobody's"}},
	} {
		target.unchanged(t, func() {
			ack, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Data: []byte("{}"), Header: header}, jetstream.WithRetryAttempts(0))
			if err == nil {
				t.Errorf("%v: taken: %+v", header, ack)
			}
		})
	}
}

// otherApps are closed for a publisher; nothing is for what is no app.
func (target *Target) otherApps(t *testing.T, user string, nc *nats.Conn) {
	js := jetStream(t, nc)
	for _, subject := range []string{"mozaiks.v1.cmd.app", "mozaiks.v1.cmd..usage.ingest", "mozaiks.v1.cmd.app..x", "mozaiks.v1.cmd.app."} {
		target.unchanged(t, func() {
			ctx, cancel := context.WithTimeout(t.Context(), quiet) // a permission is no answer
			defer cancel()
			_ = nc.Publish(subject, []byte("{}")) // a client may refuse it itself
			if ack, err := js.Publish(ctx, subject, []byte("{}"), jetstream.WithRetryAttempts(0)); err == nil {
				t.Errorf("%s: taken: %+v", subject, ack)
			}
		})
	}
	for _, rest := range []string{"app.*", "app.usage.>", "app.0.other.usage.*"} {
		ack, err := js.Publish(t.Context(), "mozaiks.v1.cmd."+rest, []byte("{}"), jetstream.WithRetryAttempts(0))
		if err != nil {
			continue // as good
		}
		if got := target.message(t, ack.Sequence).Subject; got != schemas.FromPrefix(user)+rest {
			t.Errorf("%s: stored as %s", rest, got)
		}
	}
	for _, app := range []string{"other", "ap", "application", "my", "My.app", "app "} {
		subject := schemas.CommandSubject(app, "usage.ingest")
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if user != "platform" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), quiet)
		}
		_, err := js.Publish(ctx, subject, []byte("{}"), jetstream.WithRetryAttempts(0))
		cancel()
		if (err == nil) != (user == "platform") {
			t.Errorf("%s: %v", subject, err)
		}
	}
}

// bounds of a command are told.
func (target *Target) bounds(t *testing.T, nc *nats.Conn) {
	js := jetStream(t, nc)
	subject := schemas.CommandSubject("app", "usage.ingest")
	if _, err := js.Publish(t.Context(), subject, make([]byte, schemas.MaxPublicBytes)); err != nil {
		t.Errorf("8 MiB: %v", err)
	}
	big := &nats.Msg{Subject: subject, Data: make([]byte, schemas.MaxPublicBytes), Header: nats.Header{"X": {strings.Repeat("x", 63<<10)}}}
	if _, err := js.PublishMsg(t.Context(), big); err != nil {
		t.Errorf("8 MiB with headers: %v", err)
	}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: subject, Header: nats.Header{"X": {strings.Repeat("x", 65<<10)}}}, jetstream.WithRetryAttempts(0)); err == nil {
		t.Error("headers of more than 64 KiB: taken")
	}
	if err := nc.Publish(subject, make([]byte, schemas.MaxPublicBytes+128<<10)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("more than that: %v", err)
	}
}

// message asks the stream's leader, since a replica may not have it yet.
func (target *Target) message(t *testing.T, seq uint64) *nats.Msg {
	t.Helper()
	m, err := target.Grout.Request("$JS.API.STREAM.MSG.GET."+schemas.StreamIn, fmt.Appendf(nil, `{"seq":%d}`, seq), patience)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Error   json.RawMessage `json:"error"`
		Message struct {
			Subject string `json:"subject"`
			Headers []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil || len(answer.Error) > 0 {
		t.Fatalf("message %d: %v, %s", seq, err, answer.Error)
	}
	got := &nats.Msg{Subject: answer.Message.Subject, Data: answer.Message.Data}
	if len(answer.Message.Headers) > 0 {
		if got.Header, err = nats.DecodeHeadersMsg(answer.Message.Headers); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// partitions are those that the stream was made for.
func (target *Target) partitions(t *testing.T) (n int) {
	t.Helper()
	m, err := target.Grout.Request("$JS.API.STREAM.INFO."+schemas.StreamIn, nil, patience)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Config jetstream.StreamConfig `json:"config"`
	}
	if err := json.Unmarshal(m.Data, &info); err != nil || info.Config.SubjectTransform == nil {
		t.Fatalf("%v, %+v", err, info.Config)
	}
	_, after, _ := strings.Cut(info.Config.SubjectTransform.Destination, "partition(")
	if _, err := fmt.Sscanf(after, "%d,", &n); err != nil {
		t.Fatal(err)
	}
	return n
}
