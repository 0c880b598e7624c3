package bus

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"grout/schemas"
)

func nkey(t *testing.T) (public string, option nats.Option) {
	t.Helper()
	pair := must1(nkeys.CreateUser())(t)
	public = must1(pair.PublicKey())(t)
	return public, nats.Nkey(public, pair.Sign)
}

// enter connects, and tells when the server has sent the client away for good.
func enter(t *testing.T, url string, opts ...nats.Option) (nc *nats.Conn, gone chan struct{}, err error) {
	t.Helper()
	gone = make(chan struct{})
	opts = append(opts, nats.MaxReconnects(0), nats.ClosedHandler(func(*nats.Conn) { close(gone) }), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if nc, err = nats.Connect(url, opts...); err == nil {
		t.Cleanup(nc.Close)
	}
	return nc, gone, err
}

func TestNKeysOpenDoors(t *testing.T) {
	platform, withPlatform := nkey(t)
	second, withSecond := nkey(t)
	meter, withMeter := nkey(t)
	_, withStranger := nkey(t)
	doors := Doors{
		Platform: Door{NKeys: []string{platform, second}}, Consumer: Door{Passwords: []string{"c"}},
		Publishers: []AppPublisher{{Name: "meter", Apps: []string{AllApps}, Door: Door{NKeys: []string{meter}}}},
	}
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", Doors: doors}))(t)
	defer s.Shutdown()
	openBus(t, connect(t, s), smallConfig())
	for what, key := range map[string]nats.Option{"first": withPlatform, "second": withSecond, "publisher": withMeter} {
		nc, _, err := enter(t, s.ClientURL(), key)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		js := must1(nc.JetStream())(t)
		if _, err := js.Publish(schemas.CommandSubject("any", "usage.ingest"), nil); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := must1(nkeys.CreateUser())(t)
	for what, opts := range map[string][]nats.Option{
		"unknown key":            {withStranger},
		"another's signature":    {nats.Nkey(platform, other.Sign)},
		"no signature":           {nats.Nkey(platform, func([]byte) ([]byte, error) { return nil, nil })},
		"signature of something": {nats.Nkey(platform, func([]byte) ([]byte, error) { return other.Sign([]byte("else")) })},
		"key as a password":      {nats.UserInfo(userPlatform, platform)},
		"no password":            {nats.UserInfo(userPlatform, "")},
		"closed door":            {nats.UserInfo(userAdmin, "")},
	} {
		if _, _, err := enter(t, s.ClientURL(), opts...); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Passwords, keys and apps change while the server runs: who came in by what holds no
// more is sent away, and nobody else is.
func TestDoorsChangeWithoutARestart(t *testing.T) {
	key, withKey := nkey(t)
	before := Doors{
		Platform:   Door{Passwords: []string{"old", "new"}, NKeys: []string{key}},
		Consumer:   Door{Passwords: []string{"c"}},
		Publishers: []AppPublisher{{Name: "a", Apps: []string{"x"}, Door: Door{Passwords: []string{"a"}}}, {Name: "b", Apps: []string{"x", "y"}, Door: Door{Passwords: []string{"b"}}}},
	}
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", Doors: before}))(t)
	defer s.Shutdown()
	openBus(t, connect(t, s), smallConfig())
	type guest struct {
		nc   *nats.Conn
		gone chan struct{}
	}
	in := map[string]guest{}
	come := func(name string, opts ...nats.Option) {
		t.Helper()
		nc, gone, err := enter(t, s.ClientURL(), opts...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		in[name] = guest{nc, gone}
	}
	come("old", nats.UserInfo(userPlatform, "old"))
	come("new", nats.UserInfo(userPlatform, "new"))
	come("key", withKey)
	come("consumer", nats.UserInfo(userConsumer, "c"))
	come("a", nats.UserInfo("a", "a"))
	come("b", nats.UserInfo("b", "b"))

	after := Doors{
		Platform:   Door{Passwords: []string{"new", "newer"}},
		Consumer:   Door{Passwords: []string{"c", "d"}},
		Publishers: []AppPublisher{{Name: "a", Apps: []string{"z"}, Door: Door{Passwords: []string{"a"}}}, {Name: "b", Apps: []string{"y", "x"}, Door: Door{Passwords: []string{"b"}}}, {Name: "c", Apps: []string{"x"}, Door: Door{Passwords: []string{"c"}}}},
	}
	closed, unknown, err := s.SetDoors(after)
	if err != nil || closed != 3 || strings.Join(unknown, ",") != "c" {
		t.Fatalf("%d were closed, %v are unknown, %v", closed, unknown, err)
	}
	for _, name := range []string{"old", "key", "a"} {
		eventually(t, name+" is sent away", func() bool {
			select {
			case <-in[name].gone:
				return true
			default:
				return false
			}
		})
	}
	for _, name := range []string{"new", "consumer", "b"} {
		if err := in[name].nc.FlushTimeout(patience); err != nil || in[name].nc.IsClosed() {
			t.Errorf("%s: %v", name, err)
		}
	}
	for what, opt := range map[string]nats.Option{"old": nats.UserInfo(userPlatform, "old"), "key": withKey, "c": nats.UserInfo("c", "c")} {
		if _, _, err := enter(t, s.ClientURL(), opt); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s comes again: %v", what, err)
		}
	}
	come("newer", nats.UserInfo(userPlatform, "newer"))
	come("a again", nats.UserInfo("a", "a"))
	js := must1(in["a again"].nc.JetStream())(t)
	if _, err := js.Publish(schemas.CommandSubject("z", "x"), nil); err != nil {
		t.Errorf("the new app: %v", err)
	}
	if _, err := js.Publish(schemas.CommandSubject("x", "x"), nil, nats.AckWait(100e6)); err == nil {
		t.Error("the old app is still open")
	}
	if _, _, err := s.SetDoors(Doors{Platform: Door{NKeys: []string{"no key"}}}); err == nil {
		t.Error("a key that is none was taken")
	}
	come("after a refusal", nats.UserInfo(userPlatform, "newer"))
}

func TestDoorsAreJudged(t *testing.T) {
	key, _ := nkey(t)
	seed := string(must1(must1(nkeys.CreateUser())(t).Seed())(t))
	account := must1(must1(nkeys.CreateAccount())(t).PublicKey())(t)
	one := func(p AppPublisher) Doors { return Doors{Publishers: []AppPublisher{p}} }
	for what, d := range map[string]Doors{
		"seed":             {Platform: Door{NKeys: []string{seed}}},
		"account key":      {Platform: Door{NKeys: []string{account}}},
		"key of two users": {Platform: Door{NKeys: []string{key}}, Admin: Door{NKeys: []string{key}}},
		"taken name":       one(AppPublisher{Name: "admin", Apps: []string{"a"}}),
		"grout's name":     one(AppPublisher{Name: "grout", Apps: []string{"a"}}),
		"bad name":         one(AppPublisher{Name: "a.b", Apps: []string{"a"}}),
		"wildcard name":    one(AppPublisher{Name: "*", Apps: []string{"a"}}),
		"empty name":       one(AppPublisher{Apps: []string{"a"}}),
		"no apps":          one(AppPublisher{Name: "a"}),
		"empty app":        one(AppPublisher{Name: "a", Apps: []string{""}}),
		"same name twice":  {Publishers: []AppPublisher{{Name: "a", Apps: []string{"a"}}, {Name: "a", Apps: []string{"b"}}}},
		"too many":         {Publishers: make([]AppPublisher, maxPublishers+1)},
	} {
		err := d.Check()
		if err == nil {
			t.Errorf("%s: taken", what)
		} else if strings.Contains(err.Error(), seed) {
			t.Errorf("%s: the error tells a secret", what)
		}
		if _, err := StartServer(ServerOptions{Dir: t.TempDir(), Doors: d}); err == nil {
			t.Errorf("%s: a server was started", what)
		}
	}
}

// Browsers come as consumers, from pages that may.
func TestWebSocketIsForConsumers(t *testing.T) {
	doors := testDoors()
	doors.Publishers = []AppPublisher{{Name: "meter", Apps: []string{AllApps}, Door: Door{Passwords: []string{"m"}}}}
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), Listen: "127.0.0.1:0", WebSocket: "127.0.0.1:0", Doors: doors}))(t)
	defer s.Shutdown()
	openBus(t, connect(t, s), smallConfig())
	url := s.WebSocketURL()
	nc, _, err := enter(t, url, nats.UserInfo(userConsumer, consumerPassword))
	if err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	if a := ask(t, nc, "$JS.API.CONSUMER.CREATE.MOZAIKS_EVT.page", `{"stream_name":"MOZAIKS_EVT","config":{"name":"page","ack_policy":"none","mem_storage":true,"inactive_threshold":60000000000}}`); a.Error != nil {
		t.Errorf("%+v", a.Error)
	}
	for user, password := range map[string]string{userPlatform: platformPassword, userAdmin: adminPassword, "meter": "m", userConsumer: "guess", userGrout: s.password} {
		if _, _, err := enter(t, url, nats.UserInfo(user, password)); err == nil {
			t.Errorf("%s was let in", user)
		}
	}
	page := strings.Replace(url, "ws://", "http://", 1)
	for origin, status := range map[string]int{"": http.StatusSwitchingProtocols, page: http.StatusSwitchingProtocols, "http://evil.example": http.StatusForbidden, "null": http.StatusForbidden} {
		if got := upgrade(t, page, origin); got != status {
			t.Errorf("origin %q: %d", origin, got)
		}
	}
}

func upgrade(t *testing.T, url, origin string) int {
	t.Helper()
	r := must1(http.NewRequestWithContext(testContext(t), http.MethodGet, url, nil))(t)
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	resp := must1(http.DefaultTransport.RoundTrip(r))(t)
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestWebSocketIsRefused(t *testing.T) {
	for what, o := range map[string]ServerOptions{
		"reachable without TLS": {WebSocket: "0.0.0.0:0"},
		"every address":         {WebSocket: ":0"},
		"no address":            {WebSocket: "here"},
		"origin with a path":    {WebSocket: "127.0.0.1:0", Origins: []string{"https://a/b"}},
		"origin without scheme": {WebSocket: "127.0.0.1:0", Origins: []string{"a.example"}},
		"every origin":          {WebSocket: "127.0.0.1:0", Origins: []string{"*"}},
	} {
		o.Dir = t.TempDir()
		if s, err := StartServer(o); err == nil {
			s.Shutdown()
			t.Errorf("%s: started", what)
		}
	}
}

func TestAllowedOrigins(t *testing.T) {
	s := must1(StartServer(ServerOptions{Dir: t.TempDir(), WebSocket: "127.0.0.1:0", Origins: []string{"https://pages.example", "http://127.0.0.1:3000"}}))(t)
	defer s.Shutdown()
	page := strings.Replace(s.WebSocketURL(), "ws://", "http://", 1)
	for origin, status := range map[string]int{
		"https://pages.example": http.StatusSwitchingProtocols, "http://127.0.0.1:3000": http.StatusSwitchingProtocols,
		"http://pages.example": http.StatusForbidden, "https://pages.example.evil": http.StatusForbidden, page: http.StatusForbidden,
	} {
		if got := upgrade(t, page, origin); got != status {
			t.Errorf("origin %q: %d", origin, got)
		}
	}
}
