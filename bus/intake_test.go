package bus

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

func TestIntake(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	nc := connect(t, s)
	i := must1(ServeIntake(connect(t, s)))(t)
	defer i.Close()
	ask := func(header nats.Header) string {
		t.Helper()
		m := must1(nc.RequestMsg(&nats.Msg{Subject: doorPrefix + "platform.app.usage.ingest", Header: header, Data: []byte("x")}, patience))(t)
		return string(m.Data)
	}
	if got := ask(nil); !strings.Contains(got, `"code":503`) || !strings.Contains(got, "is not there") {
		t.Errorf("without a stream: %s", got)
	}
	b := openBus(t, connect(t, s), smallConfig())
	for name, refused := range map[string]bool{
		"X": false, "ce-id": false, "Nats-Msg-Id": false, "nats-msg-id": false, "Nats-Request-Info": false, "Nats-Trace-Dest": false, "Nats-Trace-Only": false,
		"Nats-Expected-Last-Msg-Id": true, "nats-expected-last-msg-id": true, "Nats-Expected-Last-Sequence": true, "Nats-Rollup": true, "Nats-Anything-New": true,
	} {
		got := ask(nats.Header{name: {"1"}})
		if strings.Contains(got, `"error"`) != refused {
			t.Errorf("%s: %s", name, got)
		}
	}
	stream := must1(b.js.Stream(testContext(t), schemas.StreamIn))(t)
	m := must1(stream.GetLastMsgForSubject(testContext(t), "mozaiks.v1.in.platform.0.app.usage.ingest"))(t)
	if m.Header.Get("Nats-Trace-Dest")+m.Header.Get("Nats-Request-Info") != "" || string(m.Data) != "x" {
		t.Errorf("%v %s", m.Header, m.Data)
	}
	for _, subject := range []string{"platform.app.*", "platform.*.x", "platform.app.x.>", "platform.app..x"} {
		if notPlain(subject, nil) == "" {
			t.Errorf("%s goes on", subject)
		}
	}

	// What waits is bounded, and forgotten when nobody answers.
	i.mu.Lock()
	for range intakeWaiting {
		i.waiting[i.asked] = publication{"_INBOX.none", time.Now()}
		i.asked++
	}
	i.mu.Unlock()
	if got := ask(nil); !strings.Contains(got, "too many") {
		t.Errorf("with %d that wait: %s", intakeWaiting, got)
	}
	i.mu.Lock()
	for n := range i.waiting {
		i.waiting[n] = publication{"_INBOX.none", time.Now().Add(-intakeForgets)}
	}
	i.mu.Unlock()
	if got := ask(nil); strings.Contains(got, `"error"`) {
		t.Errorf("when they are old: %s", got)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.waiting) > 1 {
		t.Errorf("%d still wait", len(i.waiting))
	}
}
