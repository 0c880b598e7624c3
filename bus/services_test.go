package bus

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"grout/schemas"
)

const pluginPassword = "plugin-password"

func pluginHouse(t *testing.T) (*Server, *Services) {
	t.Helper()
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", Doors: Doors{Plugin: Door{Passwords: []string{pluginPassword}}, Consumer: Door{Passwords: []string{consumerPassword}}, Admin: Door{Passwords: []string{adminPassword}}}}))(t)
	t.Cleanup(s.Shutdown)
	return s, NewServices(connect(t, s))
}

func addService(t *testing.T, nc *nats.Conn, name, endpoint, subject string, handle func(micro.Request)) micro.Service {
	t.Helper()
	service := must1(micro.AddService(nc, micro.Config{Name: name, Version: "1.0.0"}))(t)
	if err := service.AddEndpoint(endpoint, micro.HandlerFunc(handle), micro.WithEndpointSubject(subject)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = service.Stop() })
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return service
}

// askService sends one request and gives the last thing that came back.
func askService(ctx context.Context, s *Services, subject, data string) (text string, header map[string][]string, err error) {
	err = s.Request(ctx, subject, map[string]string{"X": "y"}, []byte(data), func(h map[string][]string, data []byte) bool {
		text, header = string(data), h
		return h["More"] != nil
	})
	return text, header, err
}

func TestServicesAreFoundAndAsked(t *testing.T) {
	s, services := pluginHouse(t)
	ctx := testContext(t)
	var answered [2]atomic.Int32
	for i := range answered {
		nc := connectAs(t, s, userPlugin, pluginPassword)
		addService(t, nc, "painter", "execute", "studio.paint", func(r micro.Request) {
			answered[i].Add(1)
			switch string(r.Data()) {
			case "fail":
				_ = r.Error("NO_PAINT", "out of paint", nil)
			case "twice":
				_ = r.Respond([]byte("first"), micro.WithHeaders(micro.Headers{"More": {"yes"}}))
				_ = r.Respond([]byte("second"))
			case "silent":
			default:
				_ = r.Respond([]byte(r.Headers().Get("X") + string(r.Data())))
			}
		})
	}
	if subject, err := services.Service(ctx, "painter"); err != nil || subject != "studio.paint" {
		t.Fatalf("%q, %v", subject, err)
	}
	for range 50 {
		if text, _, err := askService(ctx, services, "studio.paint", "!"); err != nil || text != "y!" {
			t.Fatalf("%q, %v", text, err)
		}
	}
	if a, b := answered[0].Load(), answered[1].Load(); a == 0 || b == 0 || a+b != 50 {
		t.Errorf("two instances have answered %d and %d of 50", a, b)
	}
	if text, _, err := askService(ctx, services, "studio.paint", "twice"); err != nil || text != "second" {
		t.Errorf("%q, %v", text, err)
	}
	if _, header, err := askService(ctx, services, "studio.paint", "fail"); err != nil || header["Nats-Service-Error"][0] != "out of paint" || header["Nats-Service-Error-Code"][0] != "NO_PAINT" {
		t.Errorf("%v, %v", header, err)
	}
	large := strings.Repeat("x", 4<<20)
	if text, _, err := askService(ctx, services, "studio.paint", large); err != nil || len(text) != len(large)+1 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, _, err := askService(short, services, "studio.paint", "silent"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestServicesThatAreNotThere(t *testing.T) {
	s, services := pluginHouse(t)
	ctx := testContext(t)
	var known *schemas.Error
	if _, _, err := askService(ctx, services, "studio.paint", ""); !errors.As(err, &known) || known.Code != schemas.CodeNotFound {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := services.Service(ctx, "painter"); !errors.As(err, &known) || known.Code != schemas.CodeNotFound {
		t.Errorf("no such service: %v", err)
	}
	nc := connectAs(t, s, userPlugin, pluginPassword)
	addService(t, nc, "wide", "all", "wide.*", func(r micro.Request) {})
	if _, err := services.Service(ctx, "wide"); !errors.As(err, &known) || !strings.Contains(known.Detail, "plain subject") {
		t.Errorf("a service at many subjects: %v", err)
	}
	for _, subject := range []string{"", "a..b", ".a", "a b", "a.*", ">", "a\r\nPUB x 0", "ä"} {
		if _, _, err := askService(ctx, services, subject, ""); err == nil || !strings.Contains(err.Error(), "is no subject") {
			t.Errorf("%q: %v", subject, err)
		}
	}
}

// A service reaches nothing of grout's but the answer to a call, and nobody else calls it.
func TestPluginsReachNothingElse(t *testing.T) {
	s, services := pluginHouse(t)
	grout := connect(t, s)
	seen := make(chan string, 100)
	must1(grout.Subscribe(">", func(m *nats.Msg) { seen <- m.Subject }))(t)
	if err := grout.Flush(); err != nil {
		t.Fatal(err)
	}
	nc := connectAs(t, s, userPlugin, pluginPassword)
	heard := make(chan string, 100)
	must1(nc.Subscribe(">", func(m *nats.Msg) { heard <- m.Subject }))(t)
	for _, subject := range []string{"mozaiks.v1.cmd.app.usage.ingest", "mozaiks.v1.grp.0", "mozaiks.v1.evt.app.x", "mozaiks.v1.plugin.x", "mozaiks.v1.reply.n1", "$JS.API.STREAM.NAMES", "$JS.API.INFO", "_INBOX.x"} {
		if err := nc.PublishRequest(subject, "back", []byte("{}")); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{userConsumer, userAdmin} {
		password := map[string]string{userConsumer: consumerPassword, userAdmin: adminPassword}[user]
		other := must1(nats.Connect(s.ClientURL(), nats.UserInfo(user, password), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})))(t)
		t.Cleanup(other.Close)
		if err := other.Publish("mozaiks.v1.plugin.studio.forged", nil); err != nil {
			t.Fatal(err)
		}
		if err := other.Publish("studio.forged", nil); err != nil {
			t.Fatal(err)
		}
		_ = other.Flush()
	}
	if err := grout.Publish("mozaiks.v1.evt.app.secret", nil); err != nil {
		t.Fatal(err)
	}
	must1(nc.Subscribe("studio.last", func(m *nats.Msg) { _ = m.Respond([]byte("1")) }))(t)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := askService(testContext(t), services, "studio.last", ""); err != nil {
		t.Fatal(err)
	}
	for len(heard) > 0 {
		if subject := <-heard; strings.Contains(subject, "forged") || strings.Contains(subject, "secret") {
			t.Errorf("a plugin has heard %s", subject)
		}
	}
	for len(seen) > 0 {
		if subject := <-seen; subject != "mozaiks.v1.evt.app.secret" && subject != "studio.forged" && subject != "mozaiks.v1.plugin.studio.last" && !strings.HasPrefix(subject, "_INBOX.") {
			t.Errorf("grout has heard %s", subject)
		}
	}
}
