package bustest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// call is a request, and who gets an answer to it that is no error. Everybody else gets
// none, or an error.
type call struct {
	subject, body string
	may           []string
	not           []string // for whom it is not tried: it would be done
}

var (
	nobody  = []string(nil)
	readers = []string{"platform", "consumer", "admin"}
	admin   = []string{"admin"}
)

// calls are the subjects that matter.
func calls() (list []call) {
	add := func(may []string, subjects ...string) {
		for _, s := range subjects {
			list = append(list, call{subject: s, may: may})
		}
	}
	commands := []string{"platform", Publisher}
	add(commands, "mozaiks.v1.cmd.app.usage.ingest", "mozaiks.v1.cmd.my%2Eapp.budget.reserve", "mozaiks.v1.cmd.app.no.kind.of.ours")
	add([]string{"platform"}, "mozaiks.v1.cmd.other.usage.ingest", "mozaiks.v1.cmd.application.usage.ingest")
	add(nobody, "mozaiks.v1.cmd.app", "mozaiks.v1.cmd", "mozaiks.v2.cmd.app.usage.ingest")
	for _, subject := range private {
		list = append(list, call{subject, `{}`, nobody, admin}) // it is in grout's own account
	}
	add(nobody, "mozaiks.v1.grp.0", "mozaiks.v1.evt.a.b", "mozaiks.v1.dlq.a.b", "mozaiks.v1.relay.evt.0", "mozaiks.v1.reply.n1", "mozaiks.v1.plugin.any", "mozaiks.v1.gate.create", "mozaiks.v1.gate.create.x", "mozaiks.v1.gate.delete.x", "mozaiks.v1.gate.names",
		"mozaiks.v1.in.platform.0.app.usage.ingest", "mozaiks.v1.from."+Publisher+".app.usage.ingest", "mozaiks.v1.from.platform.app.usage.ingest")

	add([]string{"platform", "admin"}, "mozaiks.v1.svc.bustest.echo", "$SRV.PING", "$SRV.INFO.bustest", "$SRV.STATS.bustest")
	add([]string{"platform", Publisher, "consumer", "admin"}, "$JS.API.INFO")
	add(readers, "$JS.API.STREAM.INFO.MOZAIKS_EVT", "$JS.API.STREAM.NAMES")
	for _, stream := range streams {
		if stream != "MOZAIKS_EVT" {
			add(admin, "$JS.API.STREAM.INFO."+stream)
			list = append(list, pull(stream, admin, "CONSUMER.CREATE."+stream+".bt_x"), pull(stream, admin, "CONSUMER.DURABLE.CREATE."+stream+".bt_d"))
		}
		add(admin, "$JS.API.CONSUMER.LIST."+stream, "$JS.API.CONSUMER.NAMES."+stream)
		for _, api := range []string{"STREAM.DELETE", "STREAM.PURGE", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "STREAM.PEER.REMOVE", "STREAM.LEADER.STEPDOWN", "CONSUMER.PAUSE", "CONSUMER.LEADER.STEPDOWN", "CONSUMER.MSG.NEXT"} {
			subject := "$JS.API." + api + "." + stream
			if strings.HasPrefix(api, "CONSUMER") {
				subject += ".bt_x"
			}
			list = append(list, call{subject, `{}`, nobody, admin})
		}
		for _, api := range []string{"STREAM.MSG.GET", "DIRECT.GET"} {
			list = append(list, call{"$JS.API." + api + "." + stream, `{"seq":1}`, nobody, admin})
		}
		list = append(list, call{"$JS.API.STREAM.UPDATE." + stream, `{"name":"` + stream + `","subjects":["bt.x"]}`, nobody, nil})
	}
	list = append(list, pull("MOZAIKS_EVT", readers, "CONSUMER.CREATE.MOZAIKS_EVT.bt_x"), pull("MOZAIKS_EVT", readers, "CONSUMER.DURABLE.CREATE.MOZAIKS_EVT.bt_d"))
	for _, body := range []string{
		`{"name":"BT_NEW","subjects":["bt.new"]}`, `{"name":"BT_MIRROR","mirror":{"name":"MOZAIKS_EVT"}}`,
		`{"name":"BT_SOURCE","sources":[{"name":"MOZAIKS_CMD"}]}`, `{"name":"BT_REPUBLISH","subjects":["bt.re"],"republish":{"src":">","dest":"mozaiks.v1.evt.x.>"}}`,
	} {
		var named struct{ Name string }
		_ = json.Unmarshal([]byte(body), &named) // written above
		list = append(list, call{"$JS.API.STREAM.CREATE." + named.Name, body, nobody, nil})
	}
	list = append(list, call{"$JS.API.STREAM.RESTORE.BT_NEW", `{"config":{"name":"BT_NEW","subjects":["bt.new"]},"state":{}}`, nobody, nil})
	add(admin, "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.ACCOUNT.PING.STATZ") // of its own account
	add(nobody, "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.STATSZ", "$SYS.REQ.SERVER.PING.JSZ", "$SYS.REQ.ACCOUNT.GROUT.CONNZ", "$SYS.REQ.ACCOUNT.GROUT.SUBSZ", "$SYS.REQ.ACCOUNT.GROUT.INFO", "$SYS.REQ.CLAIMS.UPDATE",
		"$JS.API.SERVER.REMOVE", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.ACCOUNT.PURGE.GROUT", "$JS.API.ACCOUNT.STREAM.MOVE.GROUT.MOZAIKS_EVT")
	return list
}

func pull(stream string, may []string, api string) call {
	name := api[strings.LastIndexByte(api, '.')+1:]
	return call{"$JS.API." + api, fmt.Sprintf(`{"stream_name":%q,"config":{"durable_name":%q,"ack_policy":"explicit","mem_storage":true,"inactive_threshold":60000000000}}`, stream, name), may, nil}
}

// Matrix tries every call as every user.
func Matrix(t *testing.T, target Target) {
	service, err := micro.AddService(target.Grout, micro.Config{
		Name: "bustest", Version: "1.0.0",
		Endpoint: &micro.EndpointConfig{Subject: "mozaiks.v1.svc.bustest.echo", Handler: micro.HandlerFunc(func(r micro.Request) { _ = r.Respond(r.Data()) })},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = service.Stop() }()
	target.flush(t, target.Grout)
	target.each(t, everybody, func(t *testing.T, user string, nc *nats.Conn) {
		target.unchanged(t, func() { target.tryAll(t, user, nc) }, "MOZAIKS_IN")
	})
	for _, stream := range streams {
		for _, name := range []string{"bt_x", "bt_d"} {
			_, _ = target.Grout.Request("$JS.API.CONSUMER.DELETE."+stream+"."+name, nil, patience) // most were never made
		}
	}
}

// tryAll sends all calls, and judges what came back when everything did that must.
func (target *Target) tryAll(t *testing.T, user string, nc *nats.Conn) {
	list := slices.DeleteFunc(calls(), func(c call) bool { return slices.Contains(c.not, user) })
	inbox := nc.NewInbox()
	answers := make(chan *nats.Msg, 4*len(list))
	sub, err := nc.ChanSubscribe(inbox+".*", answers)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	due := 0
	for i, c := range list {
		if slices.Contains(c.may, user) {
			due++
		}
		if err := nc.PublishRequest(c.subject, fmt.Sprint(inbox, ".", i), []byte(c.body)); err != nil {
			t.Fatalf("%s: %v", c.subject, err)
		}
	}
	target.flush(t, nc)
	answered := make([]bool, len(list))
	for limit := time.Now().Add(patience); time.Now().Before(limit); {
		wait := time.Until(limit)
		if due == 0 {
			wait = quiet
		}
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-time.After(wait):
		}
		if m == nil {
			break
		}
		i, _ := strconv.Atoi(m.Subject[len(inbox)+1:])
		text, good := answerOf(m)
		switch may := slices.Contains(list[i].may, user); {
		case good && !may:
			t.Errorf("%s: answered %s", list[i].subject, text)
		case may && !answered[i]:
			answered[i] = true
			due--
			if !good {
				t.Errorf("%s: %s", list[i].subject, text)
			}
		}
	}
	for i, c := range list {
		if slices.Contains(c.may, user) && !answered[i] {
			t.Errorf("%s: no answer", c.subject)
		}
	}
}

// answerOf tells whether an answer is one, and not that nobody listens or that it is
// refused.
func answerOf(m *nats.Msg) (text string, good bool) {
	text = string(m.Data[:min(len(m.Data), 300)])
	if status := m.Header.Get("Status"); status != "" {
		return "status " + status, false
	}
	var answer struct {
		Error json.RawMessage `json:"error"`
	}
	_ = json.Unmarshal(m.Data, &answer) // an echo is no JSON
	return text, len(answer.Error) == 0 && m.Header.Get("Nats-Service-Error") == ""
}
