package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// house is a running grout bus with a publisher, a relay and a stock consumer at
// work, so that a test can tell whether an attack disturbs anybody.
type house struct {
	s        *Server
	b        *Bus
	outbox   *memoryOutbox
	p        *Publisher
	reader   *nats.Conn
	consumed atomic.Int64
	foreign  atomic.Int64 // messages of the reader that are not facts
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{s: startServer(t, t.TempDir(), "127.0.0.1:0"), outbox: newMemoryOutbox()}
	h.b = openBus(t, connect(t, h.s), smallConfig())
	r := must1(h.b.NewReplies("n1"))(t)
	t.Cleanup(r.Close)
	h.p = h.b.NewPublisher(0, r, PublisherOptions{})
	answer(t, h.b, 0)
	run(t, h.p.Run)
	run(t, h.b.NewRelay(schemas.DestFacts, 0, h.outbox, RelayOptions{}).Run)

	h.reader = connectAs(t, h.s, userConsumer, consumerPassword)
	js := must1(jetstream.New(h.reader))(t)
	c := must1(js.CreateOrUpdateConsumer(testContext(t), schemas.StreamFacts, jetstream.ConsumerConfig{Durable: "steady"}))(t)
	cc := must1(c.Consume(func(m jetstream.Msg) {
		if !strings.HasPrefix(m.Subject(), "mozaiks.v1.evt.") {
			h.foreign.Add(1)
		}
		h.consumed.Add(1)
		_ = m.Ack()
	}))(t)
	t.Cleanup(cc.Stop)
	h.works(t)
	return h
}

// works asserts that a command is applied and a fact reaches the stock consumer.
func (h *house) works(t *testing.T) {
	t.Helper()
	ctx := testContext(t)
	before := h.consumed.Load()
	c := must1(h.p.Submit(command("alive", "x")))(t)
	if got, err := c.Wait(ctx); err != nil || string(got.Outcome) != "alive" {
		t.Fatalf("the publisher is disturbed: %+v %v", got, err)
	}
	h.outbox.add(3)
	eventually(t, "the stock consumer has the new facts", func() bool { return h.consumed.Load() >= before+3 })
	if h.foreign.Load() != 0 {
		t.Fatal("the stock consumer was given something that is not a fact")
	}
}

type streamSum struct{ first, last, msgs uint64 }

// sums is what attacks must not change.
func (h *house) sums(t *testing.T) map[string]streamSum {
	t.Helper()
	out := map[string]streamSum{}
	for _, name := range []string{schemas.StreamIn, schemas.StreamCommands, schemas.StreamFacts, schemas.StreamDeadLetters} {
		s, err := h.b.js.Stream(testContext(t), name)
		if err != nil {
			t.Fatalf("stream %s: %v", name, err)
		}
		st := s.CachedInfo().State
		out[name] = streamSum{st.FirstSeq, st.LastSeq, st.Msgs}
	}
	return out
}

// unchanged does something and asserts that no stream has changed and that the
// subjects an attacker aims at have stayed silent.
func (h *house) unchanged(t *testing.T, attack func()) {
	t.Helper()
	var heard atomic.Pointer[string]
	spy := connect(t, h.s)
	defer spy.Close()
	for _, subject := range append([]string{"_INBOX.foreign.>", "$JS.API.STREAM.DELETE.>", "$JS.API.STREAM.PURGE.>"}, schemas.SubjectsGroups, schemas.SubjectsFacts, schemas.SubjectsDead, "mozaiks.v1.relay.>", "mozaiks.v1.reply.>") {
		must1(spy.Subscribe(subject, func(m *nats.Msg) { text := m.Subject + " " + string(m.Data); heard.Store(&text) }))(t)
	}
	must(t, spy.Flush())
	before := h.sums(t)
	attack()
	must(t, spy.Flush())
	if after := h.sums(t); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the streams changed from %v to %v", before, after)
	}
	if text := heard.Load(); text != nil {
		t.Errorf("something was heard in GROUT: %s", *text)
	}
}

// targets are subjects that no other account may make anything appear under.
var targets = []string{
	"mozaiks.v1.grp.0", "mozaiks.v1.evt.x.usage.recorded", "mozaiks.v1.dlq.x.y", "mozaiks.v1.relay.evt.0",
	"mozaiks.v1.reply.n1", "mozaiks.v1.any", "$JS.API.STREAM.DELETE.MOZAIKS_EVT", "$JS.API.STREAM.PURGE.MOZAIKS_CMD", "_INBOX.foreign.1",
}

// settle waits until the server has worked off what a connection sent.
func settle(t *testing.T, nc *nats.Conn) {
	t.Helper()
	must(t, nc.FlushTimeout(patience))
	if _, err := nc.Request("$JS.API.STREAM.INFO."+schemas.StreamFacts, nil, patience); err != nil {
		t.Fatalf("the consumer account does not answer: %v", err)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	for name, opt := range map[string]nats.Option{
		"anonymous":             nats.Name("nobody"),
		"wrong password":        nats.UserInfo(userConsumer, "guess"),
		"empty password":        nats.UserInfo(userConsumer, ""),
		"unknown user":          nats.UserInfo("platform", consumerPassword),
		"another's password":    nats.UserInfo(userAdmin, consumerPassword),
		"grout's own user":      nats.UserInfo(userGrout, ""),
		"token":                 nats.Token(consumerPassword),
		"system account's user": nats.UserInfo("sys", "sys"),
	} {
		if nc, err := nats.Connect(s.ClientURL(), opt, nats.MaxReconnects(0)); err == nil {
			nc.Close()
			t.Errorf("%s: let in", name)
		} else if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, password := range []string{"old", consumerPassword} { // both while rotating
		connectAs(t, s, userConsumer, password)
	}
}

func TestEmptyPasswordListClosesTheDoor(t *testing.T) {
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", Doors: Doors{Consumer: Door{Passwords: []string{""}}}}))(t)
	defer s.Shutdown()
	for _, user := range []string{userConsumer, userAdmin} {
		if nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(user, "")); err == nil {
			nc.Close()
			t.Errorf("%s was let in without a password", user)
		}
	}
}

func TestConsumerCannotPublishIntoGrout(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	h.unchanged(t, func() {
		for _, subject := range targets {
			must(t, nc.Publish(subject, []byte(`{}`)))
			if strings.HasPrefix(subject, "_INBOX") {
				continue
			}
			if m, err := nc.Request(subject, []byte(`{}`), 50*time.Millisecond); err == nil {
				t.Errorf("%s answered %s", subject, m.Data)
			}
			traced := &nats.Msg{Subject: "$JS.API.STREAM.INFO." + schemas.StreamFacts, Header: nats.Header{"Nats-Trace-Dest": {subject}}}
			must(t, nc.PublishMsg(traced))
		}
		settle(t, nc)
	})
	h.works(t)
}

func TestConsumerCannotUseReplySubjects(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	js := must1(jetstream.New(nc))(t)
	var own atomic.Int64
	h.unchanged(t, func() {
		for i, target := range targets {
			name := fmt.Sprint("pull", i)
			// Without a listener of its own the server would not even try.
			must1(nc.Subscribe(target, func(m *nats.Msg) {
				if strings.HasPrefix(m.Reply, "$JS.ACK.MOZAIKS_EVT."+name+".") {
					own.Add(1)
				}
			}))(t)
			must1(js.CreateConsumer(testContext(t), schemas.StreamFacts, jetstream.ConsumerConfig{Durable: name, AckPolicy: jetstream.AckExplicitPolicy}))(t)
			for _, via := range []string{
				"$JS.API.CONSUMER.MSG.NEXT.MOZAIKS_EVT." + name, "$JS.API.INFO", "$JS.API.STREAM.INFO.MOZAIKS_EVT",
				"$JS.API.CONSUMER.INFO.MOZAIKS_EVT." + name, "$JS.API.CONSUMER.DELETE.MOZAIKS_EVT.none", "$JS.API.STREAM.NAMES",
				"$JS.ACK.MOZAIKS_EVT." + name + ".1.1.1.1.1",
			} {
				must(t, nc.PublishRequest(via, target, []byte(`{"batch":5,"no_wait":true}`)))
			}
			must(t, nc.PublishRequest("$JS.ACK.MOZAIKS_EVT."+name+".1.1.1.1.1", target, []byte(`+NXT`)))
		}
		settle(t, nc)
		eventually(t, "the answers came to the attacker's own account", func() bool { return own.Load() >= int64(len(targets)) })
	})
	h.works(t)
}

type apiAnswer struct {
	Error *struct {
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
	Name string `json:"name"`
}

func ask(t *testing.T, nc *nats.Conn, subject, body string) apiAnswer {
	t.Helper()
	m, err := nc.Request(subject, []byte(body), patience)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	var a apiAnswer
	must(t, json.Unmarshal(m.Data, &a))
	return a
}

func TestConsumerCannotMakePushConsumers(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	h.unchanged(t, func() {
		for i, target := range targets {
			for form, config := range map[string]string{
				"plain":          fmt.Sprintf(`{"name":"q%d","deliver_subject":%q}`, i, target),
				"other case":     fmt.Sprintf(`{"name":"q%d","DELIVER_Subject":%q}`, i, target),
				"twice":          fmt.Sprintf(`{"name":"q%d","deliver_subject":"","deliver_subject":%q}`, i, target),
				"escaped key":    fmt.Sprintf(`{"name":"q%d","deliver\u005fsubject":%q}`, i, target),
				"with heartbeat": fmt.Sprintf(`{"name":"q%d","deliver_subject":%q,"idle_heartbeat":1000000000,"flow_control":true}`, i, target),
				"sourcing":       fmt.Sprintf(`{"name":"q%d","deliver_subject":%q,"direct":true,"sourcing":true}`, i, target),
			} {
				for _, subject := range []string{
					fmt.Sprintf("$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.q%d", i),
					fmt.Sprintf("$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.q%d.mozaiks.v1.evt.>", i),
					fmt.Sprintf("$JS.API.CONSUMER.DURABLE.CREATE.MOZAIKS_EVT.q%d", i),
					"$JS.API.CONSUMER.CREATE.MOZAIKS_EVT",
				} {
					if a := ask(t, nc, subject, `{"stream_name":"MOZAIKS_EVT","config":`+config+`}`); a.Error == nil {
						t.Errorf("%s %s to %s: made", form, subject, target)
					}
				}
			}
			// The config given twice: the second would be merged into the first.
			if a := ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.q", fmt.Sprintf(`{"stream_name":"MOZAIKS_EVT","config":{"deliver_subject":%q},"config":{"name":"q"}}`, target)); a.Error == nil {
				t.Error("config given twice: made")
			}
			// An update of a pull consumer into a push consumer.
			ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.turned", `{"stream_name":"MOZAIKS_EVT","config":{"durable_name":"turned","ack_policy":"explicit"}}`)
			if a := ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.turned", fmt.Sprintf(`{"stream_name":"MOZAIKS_EVT","action":"update","config":{"durable_name":"turned","ack_policy":"explicit","deliver_subject":%q}}`, target)); a.Error == nil {
				t.Error("a pull consumer was turned into a push consumer")
			}
		}
		// The older JetStream API of nats.go, as a stock client uses it.
		old := must1(nc.JetStream())(t)
		if sub, err := old.Subscribe(schemas.SubjectsFacts, func(*nats.Msg) {}, nats.BindStream(schemas.StreamFacts)); err == nil {
			t.Error("a push subscription was made")
			_ = sub.Unsubscribe()
		} else if !strings.Contains(err.Error(), "pull consumer") {
			t.Errorf("a push subscription is not told what to do: %v", err)
		}
		settle(t, nc)
	})
	h.works(t)
}

func TestConsumersAreBounded(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	for what, config := range map[string]string{
		"max_waiting":          `{"max_waiting":513}`,
		"inactive_threshold":   `{"inactive_threshold":99999999999999999}`,
		"the relay's markers":  `{"filter_subject":"mozaiks.v1.relay.>"}`,
		"markers among others": `{"filter_subjects":["mozaiks.v1.evt.a.>","mozaiks.v1.relay.evt.0"]}`,
		"grout's name":         `{"name":"grout_live"}`,
		"another name":         `{"name":"other"}`,
		"a bad name":           `{"name":"a.b"}`,
		"not JSON":             `{`,
	} {
		name := "b"
		if strings.Contains(config, "grout_") {
			name = "grout_live"
		}
		if a := ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT."+name, `{"stream_name":"MOZAIKS_EVT","config":`+config+`}`); a.Error == nil {
			t.Errorf("%s: made", what)
		}
	}
	for _, asked := range []string{"-1", "524288"} {
		ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.acks"+asked, `{"stream_name":"MOZAIKS_EVT","config":{"ack_policy":"explicit","max_ack_pending":`+asked+`}}`)
		m := must1(nc.Request("$JS.API.CONSUMER.INFO.MOZAIKS_EVT.acks"+asked, nil, patience))(t)
		if !strings.Contains(string(m.Data), `"max_ack_pending":10000,`) {
			t.Errorf("max_ack_pending %s gave %s", asked, m.Data)
		}
	}
	made := 0
	for i := range maxGateConsumers + 5 {
		a := ask(t, nc, fmt.Sprintf("$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.m%d", i), fmt.Sprintf(`{"stream_name":"MOZAIKS_EVT","config":{"name":"m%d","ack_policy":"none","mem_storage":true,"inactive_threshold":60000000000}}`, i))
		if a.Error == nil {
			made++
		} else if a.Error.ErrCode != codeMaxReached {
			t.Fatalf("consumer %d: %+v", i, a.Error)
		}
	}
	if made >= maxGateConsumers || made < maxGateConsumers-10 {
		t.Errorf("%d consumers were made", made)
	}
	if a := ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.m0", `{"stream_name":"MOZAIKS_EVT","config":{"name":"m0","ack_policy":"none","mem_storage":true,"inactive_threshold":60000000000}}`); a.Error != nil {
		t.Errorf("an existing consumer stated again: %+v", a.Error)
	}
	// grout's own share is free.
	must1(h.b.js.CreateConsumer(testContext(t), schemas.StreamFacts, jetstream.ConsumerConfig{Name: ConsumerPrefix + "live", AckPolicy: jetstream.AckNonePolicy}))(t)
	if a := ask(t, nc, "$JS.API.CONSUMER.DELETE.MOZAIKS_EVT."+ConsumerPrefix+"live", ""); a.Error == nil {
		t.Error("grout's own consumer was deleted")
	}
	h.works(t)
}

func TestConsumerReachesNoOtherAPI(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	h.unchanged(t, func() {
		for _, subject := range []string{
			"$JS.API.STREAM.DELETE.MOZAIKS_EVT", "$JS.API.STREAM.PURGE.MOZAIKS_EVT", "$JS.API.STREAM.UPDATE.MOZAIKS_EVT", "$JS.API.STREAM.CREATE.NEW",
			"$JS.API.STREAM.LIST", "$JS.API.STREAM.INFO.MOZAIKS_CMD", "$JS.API.STREAM.INFO.MOZAIKS_DLQ", "$JS.API.STREAM.SNAPSHOT.MOZAIKS_EVT", "$JS.API.STREAM.RESTORE.MOZAIKS_EVT",
			"$JS.API.STREAM.MSG.GET.MOZAIKS_CMD", "$JS.API.DIRECT.GET.MOZAIKS_CMD", "$JS.API.STREAM.MSG.GET.MOZAIKS_EVT", "$JS.API.STREAM.MSG.DELETE.MOZAIKS_EVT",
			"$JS.API.CONSUMER.CREATE.MOZAIKS_CMD.x", "$JS.API.CONSUMER.CREATE.MOZAIKS_DLQ.x", "$JS.API.CONSUMER.CREATE.MOZAIKS_CMD", "$JS.API.CONSUMER.DURABLE.CREATE.MOZAIKS_CMD.x",
			"$JS.API.CONSUMER.MSG.NEXT.MOZAIKS_CMD.x", "$JS.API.CONSUMER.LIST.MOZAIKS_EVT", "$JS.API.CONSUMER.NAMES.MOZAIKS_EVT", "$JS.API.CONSUMER.PAUSE.MOZAIKS_EVT.steady",
			"$JS.API.SERVER.REMOVE", "$JS.API.ACCOUNT.PURGE.GROUT", "$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.GROUT.CONNZ", "mozaiks.v1.gate.create.x", "mozaiks.v1.gate.delete.steady",
		} {
			if m, err := nc.Request(subject, []byte(`{"stream_name":"MOZAIKS_CMD","seq":1,"config":{"name":"x"}}`), 50*time.Millisecond); err == nil {
				t.Errorf("%s answered %s", subject, m.Data)
			}
		}
		// A stream named in the body only.
		if a := ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.x", `{"stream_name":"MOZAIKS_CMD","config":{"name":"x"}}`); a.Error == nil {
			t.Error("a consumer on MOZAIKS_CMD was made")
		}
	})
	h.works(t)
}

func TestConsumerSeesNothingOfGrout(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	var heard atomic.Int64
	own := nats.NewInbox()
	must1(nc.Subscribe(">", func(m *nats.Msg) {
		// What another connection of the same account asks and is answered is its own affair.
		if strings.HasPrefix(m.Subject, "mozaiks.v1.grp") || strings.HasPrefix(m.Subject, "mozaiks.v1.re") || strings.HasPrefix(m.Subject, "mozaiks.v1.gate") || strings.HasPrefix(m.Subject, "$JS.EVENT") {
			heard.Add(1)
		}
	}))(t)
	must(t, nc.Publish(own, nil))
	must(t, nc.Flush())
	h.works(t)
	settle(t, nc)
	if heard.Load() != 0 {
		t.Errorf("%d messages of GROUT were heard", heard.Load())
	}
}

func TestConsumerCannotHoldBatchesOpen(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	h.unchanged(t, func() {
		for i := range 60 {
			must(t, nc.PublishMsg(&nats.Msg{Subject: "mozaiks.v1.evt.a.b", Header: nats.Header{
				"Nats-Batch-Id": {fmt.Sprint("hog", i)}, "Nats-Batch-Sequence": {"1"},
			}}))
		}
		settle(t, nc)
	})
	h.works(t) // the relay's batches are not refused
}

func TestStockPullConsumersWork(t *testing.T) {
	h := newHouse(t)
	h.outbox.add(200)
	nc := connectAs(t, h.s, userConsumer, consumerPassword)
	js := must1(jetstream.New(nc))(t)
	ctx := testContext(t)
	if _, err := js.AccountInfo(ctx); err != nil {
		t.Errorf("account info: %v", err)
	}
	eventually(t, "200 facts are in the stream", func() bool { return h.sums(t)[schemas.StreamFacts].last >= 200 })
	stream := must1(js.Stream(ctx, schemas.StreamFacts))(t)

	read := func(what string, c jetstream.Consumer) {
		t.Helper()
		it := must1(c.Messages())(t)
		defer it.Stop()
		for i := range 200 {
			m, err := it.Next()
			if err != nil {
				t.Fatalf("%s: message %d: %v", what, i, err)
			}
			if !strings.HasPrefix(m.Subject(), "mozaiks.v1.evt.") {
				t.Fatalf("%s: was given %s", what, m.Subject())
			}
			_ = m.Ack()
		}
	}
	durable := must1(stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "d1"}))(t)
	read("durable", durable)
	eventually(t, "the durable's acks have arrived", func() bool {
		info, err := durable.Info(ctx)
		return err == nil && info.AckFloor.Consumer >= 200
	})
	read("ephemeral", must1(stream.CreateConsumer(ctx, jetstream.ConsumerConfig{FilterSubject: "mozaiks.v1.evt.app.>"}))(t))
	read("filters", must1(stream.CreateConsumer(ctx, jetstream.ConsumerConfig{FilterSubjects: []string{"mozaiks.v1.evt.app.>", "mozaiks.v1.evt.b.>"}}))(t))
	read("ordered", must1(stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{}))(t))
	must(t, stream.DeleteConsumer(ctx, "d1"))

	old := must1(nc.JetStream())(t)
	for what, opts := range map[string][]nats.SubOpt{"bound": {nats.BindStream(schemas.StreamFacts)}, "looked up": nil} {
		sub, err := old.PullSubscribe(schemas.SubjectsFacts, "old"+strings.ReplaceAll(what, " ", ""), opts...)
		if err != nil {
			t.Fatalf("older API, %s: %v", what, err)
		}
		batch, err := sub.Fetch(50, nats.MaxWait(patience))
		if err != nil || len(batch) != 50 {
			t.Errorf("older API, %s: %d messages, %v", what, len(batch), err)
		}
	}
}

func TestAdminCannotForge(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userAdmin, adminPassword)
	h.unchanged(t, func() {
		for _, subject := range []string{"mozaiks.v1.grp.0", "mozaiks.v1.evt.a.b", "mozaiks.v1.dlq.a.b", "mozaiks.v1.relay.evt.0", "mozaiks.v1.reply.n1", "mozaiks.v1.gate.delete.steady", "$JS.API.STREAM.CREATE.NEW", "$JS.API.STREAM.UPDATE.MOZAIKS_EVT", "$JS.API.STREAM.RESTORE.NEW"} {
			if m, err := nc.Request(subject, []byte(`{"name":"NEW","subjects":["x"]}`), 50*time.Millisecond); err == nil {
				t.Errorf("%s answered %s", subject, m.Data)
			}
		}
	})
	js := must1(jetstream.New(nc))(t)
	ctx := testContext(t)
	names := 0
	for range js.StreamNames(ctx).Name() {
		names++
	}
	if names != 4 {
		t.Errorf("admin sees %d streams", names)
	}
	if m, err := must1(js.Stream(ctx, schemas.StreamCommands))(t).GetMsg(ctx, 1); err != nil || m.Subject != "mozaiks.v1.grp.0" {
		t.Errorf("admin reads %v, %v", m, err)
	}
	h.works(t)
}

// What admin can do with a reply subject: an old group appears again, as itself.
// The apply loop knows its commands by source and id.
func TestAdminReplyTrickOnlyRepeats(t *testing.T) {
	h := newHouse(t)
	nc := connectAs(t, h.s, userAdmin, adminPassword)
	before := h.sums(t)[schemas.StreamCommands].last
	must(t, nc.PublishRequest("$JS.API.DIRECT.GET."+schemas.StreamCommands, "mozaiks.v1.grp.7", []byte(`{"seq":1}`)))
	eventually(t, "the repeated message is in the stream", func() bool { return h.sums(t)[schemas.StreamCommands].last == before+1 })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := must1(h.b.getMessage(ctx, schemas.StreamCommands, 1, ""))(t)
	again := must1(h.b.getMessage(ctx, schemas.StreamCommands, before+1, ""))(t)
	a, errA := DecodeGroupMessage(*first)
	g, errB := DecodeGroupMessage(*again)
	if errA != nil || errB != nil || a.ID != g.ID || len(a.Commands) != len(g.Commands) || a.Commands[0].ID != g.Commands[0].ID {
		t.Errorf("%v %v %+v %+v", errA, errB, a, g)
	}
	must(t, nc.PublishRequest("$JS.API.INFO", "mozaiks.v1.grp.7", nil))
	eventually(t, "the answer is in the stream", func() bool { return h.sums(t)[schemas.StreamCommands].last == before+2 })
	if _, err := DecodeGroupMessage(*must1(h.b.getMessage(ctx, schemas.StreamCommands, before+2, ""))(t)); err == nil {
		t.Error("an answer of the server was read as a group")
	}
}
