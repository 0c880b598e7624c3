package bustest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// patience bounds what must happen, quiet is how long what must not is waited for.
const (
	patience = 15 * time.Second
	quiet    = 250 * time.Millisecond
)

// Target is a server with grout's streams, and with a gate that serves; nobody else is
// at work on it.
type Target struct {
	URL string
	// Options are those that every client needs, as for TLS.
	Options []nats.Option
	// Grout is a connection in grout's own account, under no permissions.
	Grout *nats.Conn
	// Users are the credentials of platform, consumer, admin and plugin, and of a
	// publisher of PublisherApps alone, by name. Users that are missing are not tried.
	Users map[string]nats.Option
}

// Publisher is the name of the publisher in Target.Users, and PublisherApps are its apps.
const Publisher = "meter"

// PublisherApps are the apps that Publisher may publish for; one needs escapes.
var PublisherApps = []string{"app", "my.app"}

func (target *Target) connect(t testing.TB, user string) *nats.Conn {
	t.Helper()
	opts := append([]nats.Option{
		target.Users[user], nats.Name("bustest " + user),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // refusals come here, too
	}, target.Options...)
	nc, err := nats.Connect(target.URL, opts...)
	if err != nil {
		t.Fatalf("connect as %s: %v", user, err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// each runs a test for every user that is there.
func (target *Target) each(t *testing.T, users []string, test func(t *testing.T, user string, nc *nats.Conn)) {
	for _, user := range users {
		if target.Users[user] == nil {
			continue
		}
		t.Run(user, func(t *testing.T) { test(t, user, target.connect(t, user)) })
	}
}

var (
	everybody = []string{"platform", Publisher, "consumer", "plugin", "admin"}
	strangers = []string{"platform", Publisher, "consumer", "plugin"} // to grout's own account
)

var streams = []string{schemas.StreamIn, schemas.StreamCommands, schemas.StreamFacts, schemas.StreamDeadLetters}

// sums are what attacks must not change.
func (target *Target) sums(t testing.TB) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, name := range streams {
		m, err := target.Grout.Request("$JS.API.STREAM.INFO."+name, nil, patience)
		if err != nil {
			t.Fatalf("look at stream %s: %v", name, err)
		}
		var info struct {
			State struct {
				Messages uint64 `json:"messages"`
				First    uint64 `json:"first_seq"`
				Last     uint64 `json:"last_seq"`
			} `json:"state"`
		}
		if err := json.Unmarshal(m.Data, &info); err != nil {
			t.Fatal(err)
		}
		out[name] = fmt.Sprint(info.State)
	}
	return out
}

// private are subjects of grout's own account that nobody may make anything appear under.
var private = []string{
	"mozaiks.v1.grp.0", "mozaiks.v1.evt.x.usage.recorded", "mozaiks.v1.dlq.x.y", "mozaiks.v1.relay.evt.0", "mozaiks.v1.reply.n1",
	"mozaiks.v1.any", "mozaiks.v1.from.platform.forged.usage.ingest", "mozaiks.v1.in.platform.0.forged.usage.ingest", "mozaiks.v1.in.other.0.app.usage.ingest", "mozaiks.v1.plugin.any",
	"$JS.API.STREAM.DELETE.MOZAIKS_EVT", "$JS.API.STREAM.PURGE.MOZAIKS_CMD", "_INBOX.foreign.1", "grout.admin.snapshot.0",
}

// unchanged does something, and asserts that no stream but the named ones has changed
// and that nothing was heard under grout's own subjects.
func (target *Target) unchanged(t *testing.T, attack func(), but ...string) {
	t.Helper()
	heard := make(chan string, 64)
	var subs []*nats.Subscription
	for _, subject := range private {
		if strings.HasPrefix(subject, "$JS.API") {
			continue // a listener would be an answer
		}
		sub, err := target.Grout.Subscribe(subject, func(m *nats.Msg) {
			select {
			case heard <- m.Subject + " " + string(m.Data):
			default:
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		subs = append(subs, sub)
	}
	target.flush(t, target.Grout)
	before := target.sums(t)
	attack()
	target.flush(t, target.Grout)
	after := target.sums(t)
	for _, name := range but {
		delete(before, name)
		delete(after, name)
	}
	if fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the streams changed from %v to %v", before, after)
	}
	for _, sub := range subs {
		_ = sub.Unsubscribe() // the connection is open: streams were just looked at
	}
	select {
	case text := <-heard:
		t.Errorf("heard in grout's account: %s", text)
	default:
	}
}

func (target *Target) flush(t testing.TB, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
}

// settle waits until the server has worked off what a connection sent: what it sends to
// itself comes behind.
func settle(t testing.TB, nc *nats.Conn) {
	t.Helper()
	sub, err := nc.SubscribeSync(nc.NewInbox())
	if err == nil {
		err = nc.Publish(sub.Subject, nil)
	}
	if err == nil && nc.FlushTimeout(patience) == nil {
		_, _ = sub.NextMsg(quiet) // a publisher may not even do that
		err = sub.Unsubscribe()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
