package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/spf13/pflag"

	"grout/bus"
)

func TestPublishersAreRead(t *testing.T) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	key, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"YAML": "billing:\n  password: \"a, b\"\n  apps: [shop, my.blog]\nmeter:\n  nkey: " + key + "\n  apps: [\"*\"]\n",
		"JSON": `{"meter":{"nkey":"` + key + `","apps":["*"]},"billing":{"apps":["shop","my.blog"],"password":"a,b"}}`,
	} {
		list, err := parsePublishers(text)
		if err != nil || len(list) != 2 {
			t.Fatalf("%s: %+v, %v", what, list, err)
		}
		if b := list[0]; b.Name != "billing" || strings.Join(b.Door.Passwords, "|") != "a|b" || strings.Join(b.Apps, "|") != "shop|my.blog" {
			t.Errorf("%s: %+v", what, b)
		}
		if m := list[1]; m.Name != "meter" || len(m.Door.Passwords) != 0 || m.Door.NKeys[0] != key || m.Apps[0] != bus.AllApps {
			t.Errorf("%s: %+v", what, m)
		}
	}
	const secret = "very-secret"
	for what, text := range map[string]string{
		"no map":            "- " + secret,
		"text":              secret,
		"broken":            "a: [" + secret,
		"unknown field":     `{"a":{"password":"` + secret + `","app":["x"]}}`,
		"no way in":         `{"a":{"apps":["x"]}}`,
		"no apps":           `{"a":{"password":"` + secret + `"}}`,
		"apps as text":      `{"a":{"password":"` + secret + `","apps":"x"}}`,
		"password a number": `{"a":{"password":12345678,"apps":["x"]}}`,
		"name twice":        "a: {password: " + secret + ", apps: [x]}\na: {password: " + secret + ", apps: [y]}",
		"a taken name":      `{"admin":{"password":"` + secret + `","apps":["x"]}}`,
		"a bad name":        `{"A b":{"password":"` + secret + `","apps":["x"]}}`,
		"a seed as a key":   `{"a":{"nkey":"` + secret + `","apps":["x"]}}`,
	} {
		if list, err := parsePublishers(text); err == nil {
			t.Errorf("%s: %+v", what, list)
		} else if strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "12345678") {
			t.Errorf("%s: the error tells a secret: %v", what, err)
		}
	}
}

func TestDoorSettingsAreJudged(t *testing.T) {
	for what, environ := range map[string][]string{
		"certificate without key":    {"MOZAIKS_NATS_TLS_CERT=c"},
		"verify without authorities": {"MOZAIKS_NATS_TLS_CERT=c", "MOZAIKS_NATS_TLS_KEY=k", "MOZAIKS_NATS_TLS_VERIFY=1"},
		"browsers without TLS":       {"ENV=stage", "MOZAIKS_NATS_WEBSOCKET_LISTEN=0.0.0.0:4223"},
		"browsers without ENV":       {"MOZAIKS_NATS_TLS_CERT=c", "MOZAIKS_NATS_TLS_KEY=k", "MOZAIKS_NATS_WEBSOCKET_LISTEN=0.0.0.0:4223"},
		"no NKey":                    {"MOZAIKS_NATS_PLATFORM_NKEY=UABC"},
		"no origin":                  {"MOZAIKS_ALLOWED_ORIGINS=example.com"},
		"no publishers":              {"MOZAIKS_NATS_PUBLISHERS=x"},
		"publishers in no file":      {"MOZAIKS_NATS_PUBLISHERS_FILE=/nowhere"},
	} {
		c, _, err := Load(pflag.NewFlagSet("", pflag.ContinueOnError), environ)
		if err == nil {
			err = c.Validate()
		}
		if err == nil {
			t.Errorf("%s: taken", what)
		}
	}
	c, _, err := Load(pflag.NewFlagSet("", pflag.ContinueOnError), []string{"MOZAIKS_ALLOWED_ORIGINS=https://a.example, http://127.0.0.1:3000", "MOZAIKS_NATS_WEBSOCKET_LISTEN=127.0.0.1:0"})
	if err != nil || c.Validate() != nil || len(c.AllowedOrigins) != 2 {
		t.Errorf("%v, %v, %v", c.AllowedOrigins, err, c.Validate())
	}
}

// Passwords in files change while grout runs: both hold, then the new one alone, and who
// came in with the old one is sent away.
func TestPasswordsRotateWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "platform")
	publishers := filepath.Join(dir, "publishers")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(file, "first\n")
	write(publishers, "meter: {password: one, apps: [a]}")
	cfg := testConfig(t, 1)
	cfg.NATSListen, cfg.doorLook = "127.0.0.1:0", 10*time.Millisecond
	cfg.PlatformPasswords = Secret{Values: []string{"first"}, File: file}
	cfg.Publishers = Secret{Values: []string{"meter: {password: one, apps: [a]}"}, File: publishers}
	i := startInstance(t, cfg)
	enter := func(user, password string) (*nats.Conn, error) {
		nc, err := nats.Connect(i.NATSURL, nats.UserInfo(user, password), nats.MaxReconnects(0), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
		if err == nil {
			t.Cleanup(nc.Close)
		}
		return nc, err
	}
	comes := func(user, password string) (nc *nats.Conn) {
		t.Helper()
		eventually(t, user+" gets in with "+password, func() bool {
			var err error
			nc, err = enter(user, password)
			return err == nil
		})
		return nc
	}
	first := comes("platform", "first")
	write(file, "second,first")
	second := comes("platform", "second")
	if first.IsClosed() {
		t.Error("the first one was closed while both hold")
	}
	write(file, "second")
	eventually(t, "the first one is sent away", first.IsClosed)
	if _, err := enter("platform", "first"); err == nil {
		t.Error("the first password still holds")
	}
	if err := second.FlushTimeout(5 * time.Second); err != nil {
		t.Errorf("the second one: %v", err)
	}

	meter := comes("meter", "one")
	write(publishers, "meter: {password: one, apps: [b]}")
	eventually(t, "the publisher is sent away", meter.IsClosed)
	write(publishers, "broken: [")
	comes("meter", "one") // what held before holds on
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	comes("platform", "second")
	write(file, "")
	eventually(t, "an empty file closes the door", second.IsClosed)
}
