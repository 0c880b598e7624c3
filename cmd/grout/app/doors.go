package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/yaml"

	"grout/bus"
)

// role is a user of the embedded NATS server that has a door of its own (contract §8).
type role struct {
	name     string
	password func(*Config) *Secret
	nkeys    func(*Config) *[]string
	door     func(*bus.Doors) *bus.Door
}

var roles = []role{
	{"platform", func(c *Config) *Secret { return &c.PlatformPasswords }, func(c *Config) *[]string { return &c.PlatformNKeys }, func(d *bus.Doors) *bus.Door { return &d.Platform }},
	{"consumer", func(c *Config) *Secret { return &c.ConsumerPasswords }, func(c *Config) *[]string { return &c.ConsumerNKeys }, func(d *bus.Doors) *bus.Door { return &d.Consumer }},
	{"admin", func(c *Config) *Secret { return &c.AdminPasswords }, func(c *Config) *[]string { return &c.AdminNKeys }, func(d *bus.Doors) *bus.Door { return &d.Admin }},
	{"plugin", func(c *Config) *Secret { return &c.PluginPasswords }, func(c *Config) *[]string { return &c.PluginNKeys }, func(d *bus.Doors) *bus.Door { return &d.Plugin }},
}

// doors are who may connect, with the files of secrets as they are now. A source that
// cannot be used, which is told, leaves its door as it was before.
func (c *Config) doors(before bus.Doors, tell func(source string, err error)) (d bus.Doors) {
	for _, r := range roles {
		secret, err := r.password(c).now(parseSecret)
		tell("password of "+r.name, err)
		door := bus.Door{Passwords: secret.Values, NKeys: *r.nkeys(c)}
		if err != nil {
			door = *r.door(&before)
		}
		*r.door(&d) = door
	}
	publishers, err := c.Publishers.now(parseWhole)
	if err == nil && len(publishers.Values) > 0 {
		d.Publishers, err = parsePublishers(publishers.Values[0])
	}
	tell(envPublishers, err)
	if err != nil {
		d.Publishers = before.Publishers
	}
	return d
}

// now is the secret with what its file holds at present.
func (s *Secret) now(parse func(string) Secret) (Secret, error) {
	switch {
	case s.File != "":
		text, err := readSecretFile(s.File)
		if err != nil {
			return Secret{}, err
		}
		return parse(text), nil
	case s.Path != "":
		text, err := ReadSecret(s.Path)
		if err != nil {
			return Secret{}, err
		}
		return parse(text), nil
	}
	return *s, nil
}

func parseWhole(t string) Secret {
	if strings.TrimSpace(t) == "" {
		return Secret{Closed: true}
	}
	return Secret{Values: []string{t}}
}

// publisherEntry is what the setting says of a publisher.
type publisherEntry struct {
	Password string   `json:"password"` // several, separated by commas, while they rotate
	NKey     string   `json:"nkey"`     // likewise
	Apps     []string `json:"apps"`
}

// parsePublishers reads a map of names, in YAML or JSON.
func parsePublishers(text string) ([]bus.AppPublisher, error) {
	content, err := yaml.Parser().Unmarshal([]byte(text))
	if err != nil {
		// The parser's words may hold what it could not read, which is a secret.
		return nil, errors.New("it is no map of names to {password or nkey, apps} in YAML or JSON")
	}
	plain, err := json.Marshal(content)
	if err != nil {
		return nil, errors.New("a key in it is not text")
	}
	var entries map[string]publisherEntry
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	if err := d.Decode(&entries); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return nil, fmt.Errorf("%s is of the wrong kind (a number in a password belongs in quotes, apps is a list)", kind.Field)
		}
		return nil, fmt.Errorf("read publishers: %w", err) // names a field that is not known
	}
	list := make([]bus.AppPublisher, 0, len(entries))
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		e := entries[name]
		p := bus.AppPublisher{Name: name, Apps: e.Apps, Door: bus.Door{Passwords: parseSecret(e.Password).Values, NKeys: parseSecret(e.NKey).Values}}
		if len(p.Door.Passwords)+len(p.Door.NKeys) == 0 {
			return nil, fmt.Errorf("publisher %s has neither a password nor an nkey", name)
		}
		list = append(list, p)
	}
	d2 := bus.Doors{Publishers: list}
	return list, d2.Check()
}

// tlsFiles are those of the embedded NATS server.
func (c *Config) tlsFiles() bus.TLSFiles {
	return bus.TLSFiles{Cert: c.NATSTLSCert, Key: c.NATSTLSKey, CA: c.NATSTLSCA, Verify: c.NATSTLSVerify}
}

// serverOptions say how the embedded NATS server runs.
func (c *Config) serverOptions(logger *slog.Logger) (bus.ServerOptions, error) {
	var err error
	doors := c.doors(bus.Doors{}, func(source string, why error) {
		if why != nil && err == nil {
			err = fmt.Errorf("%s: %w", source, why)
		}
	})
	return bus.ServerOptions{
		Dir: filepath.Join(c.DataDir, "nats"), Listen: c.NATSListen, Doors: doors, TLS: c.tlsFiles(),
		WebSocket: c.NATSWebSocket, Origins: c.AllowedOrigins, Logger: logger,
	}, err
}

// validateDoors judges the settings of the embedded server against each other.
func (c *Config) validateDoors() error {
	tls := c.tlsFiles()
	switch {
	case tls == bus.TLSFiles{}:
	case tls.Cert == "" || tls.Key == "":
		return errors.New("TLS on NATS needs a certificate and its key: set MOZAIKS_NATS_TLS_CERT and MOZAIKS_NATS_TLS_KEY")
	case tls.Verify && tls.CA == "":
		return errors.New("MOZAIKS_NATS_TLS_VERIFY needs the authorities of the clients' certificates: set MOZAIKS_NATS_TLS_CA")
	}
	if c.NATSWebSocket != "" && tls.Cert == "" && !isLoopback(c.NATSWebSocket) {
		return fmt.Errorf("%s: %s can be reached from other machines, so browsers need TLS there; set MOZAIKS_NATS_TLS_CERT and MOZAIKS_NATS_TLS_KEY, or use 127.0.0.1", c.origin("nats_websocket_listen"), c.NATSWebSocket)
	}
	if c.External() && (c.NATSWebSocket != "" || tls != bus.TLSFiles{} || len(c.Publishers.Values) > 0) {
		return errors.New("TLS, WebSocket and publishers of the NATS server inside grout do not go with NATS_URL: they belong into the cluster's own configuration")
	}
	if len(c.Publishers.Values) > 0 {
		if _, err := parsePublishers(c.Publishers.Values[0]); err != nil {
			return fmt.Errorf("%s: %w", envPublishers, err)
		}
	}
	return nil
}
