package bustest

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// Attacks tries what a permission does not see: reply subjects, deliver subjects, headers,
// names of others.
func Attacks(t *testing.T, target Target) {
	t.Run("reply subjects", func(t *testing.T) { target.each(t, strangers, target.replySubjects) })
	t.Run("push consumers", func(t *testing.T) { target.each(t, []string{"platform", "consumer"}, target.pushConsumers) })
	t.Run("traces", func(t *testing.T) { target.each(t, strangers, target.traces) })
	t.Run("hearing", func(t *testing.T) { target.each(t, strangers, target.hearing) })
	t.Run("answering for others", func(t *testing.T) {
		target.each(t, slices.DeleteFunc(slices.Clone(strangers), func(u string) bool { return u == "platform" }), target.answering)
	})
	t.Run("batches", func(t *testing.T) { target.each(t, strangers, target.batches) })
}

// replySubjects asks for answers under subjects of grout's own. They appear in the
// asker's account, or nowhere.
func (target *Target) replySubjects(t *testing.T, user string, nc *nats.Conn) {
	via := []string{
		"$JS.API.INFO", "$JS.API.STREAM.INFO.MOZAIKS_EVT", "$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.INFO.MOZAIKS_EVT.bt_r",
		"$JS.API.CONSUMER.MSG.NEXT.MOZAIKS_EVT.bt_r", "$JS.API.CONSUMER.DELETE.MOZAIKS_EVT.none", "$JS.ACK.MOZAIKS_EVT.bt_r.1.1.1.1.1",
		"mozaiks.v1.cmd.app.usage.ingest", "mozaiks.v1.svc.bustest.none", "$SRV.PING",
	}
	if user == "platform" || user == "consumer" {
		if m, err := nc.Request("$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.bt_r", []byte(pull("MOZAIKS_EVT", nil, "X.bt_r").body), patience); err != nil || strings.Contains(string(m.Data), `"error"`) {
			t.Fatalf("make a consumer: %v", err)
		}
	}
	target.unchanged(t, func() {
		for _, subject := range private {
			if _, err := nc.Subscribe(subject, func(*nats.Msg) {}); err != nil { // without a listener the server may not even try
				t.Fatal(err)
			}
			for _, v := range via {
				_ = nc.PublishRequest(v, subject, []byte(`{"batch":5,"no_wait":true}`)) // flush tells
			}
			_ = nc.PublishRequest("$JS.ACK.MOZAIKS_EVT.bt_r.1.1.1.1.1", subject, []byte(`+NXT`))
		}
		settle(t, nc)
	}, schemas.StreamIn)
}

// pushConsumers would have the server write facts wherever they say.
func (target *Target) pushConsumers(t *testing.T, _ string, nc *nats.Conn) {
	target.unchanged(t, func() {
		for i, to := range private {
			for form, config := range map[string]string{
				"plain":          fmt.Sprintf(`{"name":"bt_q%d","deliver_subject":%q}`, i, to),
				"other case":     fmt.Sprintf(`{"name":"bt_q%d","DELIVER_Subject":%q}`, i, to),
				"twice":          fmt.Sprintf(`{"name":"bt_q%d","deliver_subject":"","deliver_subject":%q}`, i, to),
				"escaped key":    fmt.Sprintf(`{"name":"bt_q%d","deliver\u005fsubject":%q}`, i, to),
				"with heartbeat": fmt.Sprintf(`{"name":"bt_q%d","deliver_subject":%q,"idle_heartbeat":1000000000,"flow_control":true}`, i, to),
				"sourcing":       fmt.Sprintf(`{"name":"bt_q%d","deliver_subject":%q,"direct":true,"sourcing":true}`, i, to),
			} {
				for _, subject := range []string{fmt.Sprintf("CREATE.MOZAIKS_EVT.bt_q%d", i), fmt.Sprintf("CREATE.MOZAIKS_EVT.bt_q%d.mozaiks.v1.evt.>", i), fmt.Sprintf("DURABLE.CREATE.MOZAIKS_EVT.bt_q%d", i), "CREATE.MOZAIKS_EVT"} {
					m, err := nc.Request("$JS.API.CONSUMER."+subject, []byte(`{"stream_name":"MOZAIKS_EVT","config":`+config+`}`), patience)
					if err != nil {
						t.Fatalf("%s: %v", subject, err)
					}
					if text, good := answerOf(m); good {
						t.Errorf("%s to %s: made: %s", form, to, text)
					}
				}
			}
		}
		settle(t, nc)
	})
}

// traces would have the server report to a subject in which accounts a message was seen.
func (target *Target) traces(t *testing.T, _ string, nc *nats.Conn) {
	target.unchanged(t, func() {
		for _, to := range private {
			for _, via := range []string{"$JS.API.STREAM.INFO.MOZAIKS_EVT", "mozaiks.v1.cmd.app.usage.ingest", "mozaiks.v1.svc.bustest.none", "any"} {
				_ = nc.PublishMsg(&nats.Msg{Subject: via, Header: nats.Header{"Nats-Trace-Dest": {to}, "Nats-Trace-Only": {"true"}}})
				_ = nc.PublishMsg(&nats.Msg{Subject: via, Header: nats.Header{"Nats-Trace-Dest": {to}}})
			}
		}
		settle(t, nc)
	}, schemas.StreamIn)
}

// hearing listens to everything, while grout and the platform talk.
func (target *Target) hearing(t *testing.T, user string, nc *nats.Conn) {
	var heard atomic.Pointer[string]
	for _, subject := range []string{">", "_INBOX.>", "mozaiks.>", "$JS.>", "$SRV.>", "_R_.>", "$SYS.>"} {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			if text := m.Subject + " " + string(m.Data); strings.Contains(text, "secret") {
				heard.Store(&text)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	target.flush(t, nc)
	for _, subject := range []string{"mozaiks.v1.reply.n1", "mozaiks.v1.any", "_INBOX.grout.1", "$SRV.PING.secret"} {
		if err := target.Grout.Publish(subject, []byte("secret")); err != nil {
			t.Fatal(err)
		}
	}
	target.flush(t, target.Grout)
	for _, other := range strangers {
		if target.Users[other] == nil || other == user {
			continue
		}
		oc := target.connect(t, other)
		for _, subject := range []string{"mozaiks.v1.cmd.app.usage.ingest", "mozaiks.v1.svc.secret", "_INBOX.another.1", "any"} {
			_ = oc.Publish(subject, []byte("secret of "+other))
		}
		_, _ = oc.Request("mozaiks.v1.cmd.app.usage.ingest", []byte("secret of "+other), quiet)
		settle(t, oc)
	}
	settle(t, nc)
	if text := heard.Load(); text != nil {
		t.Errorf("heard %s", *text)
	}
}

// answering listens where services and the JetStream API do, so as to answer in their
// place; the platform's requests must not come there.
func (target *Target) answering(t *testing.T, _ string, nc *nats.Conn) {
	if target.Users["platform"] == nil {
		return
	}
	var asked atomic.Int64
	for _, subject := range []string{"mozaiks.v1.svc.>", "$SRV.>", "$JS.API.>", "mozaiks.v1.cmd.>", "mozaiks.v1.gate.>", "mozaiks.v1.from.>"} {
		if _, err := nc.Subscribe(subject, func(m *nats.Msg) {
			asked.Add(1)
			_ = m.Respond([]byte(`{"forged":true}`))
		}); err != nil {
			t.Fatal(err)
		}
	}
	target.flush(t, nc)
	pc := target.connect(t, "platform")
	for _, subject := range []string{"mozaiks.v1.svc.bustest.none", "$SRV.PING.bustest", "$JS.API.STREAM.INFO.MOZAIKS_EVT", "mozaiks.v1.cmd.app.usage.ingest", "$JS.API.STREAM.NAMES"} {
		if m, err := pc.Request(subject, []byte(`{}`), patience); err == nil && strings.Contains(string(m.Data), "forged") {
			t.Errorf("%s: the answer is forged", subject)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("%d requests of the platform came to another account", n)
	}
}

// batches that are begun and never ended would keep grout's own from being taken.
func (target *Target) batches(t *testing.T, _ string, nc *nats.Conn) {
	target.unchanged(t, func() {
		for i := range 60 {
			for _, subject := range []string{"mozaiks.v1.evt.a.b", "mozaiks.v1.cmd.app.usage.ingest"} {
				_ = nc.PublishMsg(&nats.Msg{Subject: subject, Header: nats.Header{"Nats-Batch-Id": {fmt.Sprint("hog", i)}, "Nats-Batch-Sequence": {"1"}}})
			}
		}
		settle(t, nc)
	})
}
