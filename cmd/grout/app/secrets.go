package app

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Secret is a set of keys or passwords, any of which opens the door. The zero
// Secret was not set by anybody; LoadSecrets decides what becomes of it.
type Secret struct {
	Values    []string
	Closed    bool   // nothing opens the door
	Generated bool   // made at this start, so it may be shown, once
	Path      string // file that keeps it; empty when it came from outside
	File      string // outside file that it came from
}

// String and its relatives keep secrets out of logs and error texts.
func (Secret) String() string { return "(hidden)" }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the secret from JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Names under which generated secrets are kept.
const (
	InternalKeyFile = "internal_api_key"
	JWTSecretFile   = "jwt_secret"

	ConsumerPasswordFile = "nats_consumer_password"
	PluginPasswordFile   = "nats_plugin_password" // of NATS services that are plugins
)

const adminPasswordFile = "nats_admin_password"

// secretSetting is one row of the table of secrets. Only the environment gives
// them: a secret in an argument or a settings file would be seen by others.
type secretSetting struct {
	env   string
	file  string // name under which a generated one is kept; empty: none is made
	field func(*Config) *Secret
	one   bool // a single one, taken as it is written; the others are lists
}

var secrets = []secretSetting{
	{"INTERNAL_API_KEY", InternalKeyFile, func(c *Config) *Secret { return &c.InternalKeys }, false},
	{"MOZAIKS_ALLOWED_SERVICE_KEYS", "service_key", func(c *Config) *Secret { return &c.ServiceKeys }, false},
	{envJWTSecret, JWTSecretFile, func(c *Config) *Secret { return &c.JWTSecret }, true},
	{"MOZAIKS_NATS_CONSUMER_PASSWORD", ConsumerPasswordFile, func(c *Config) *Secret { return &c.ConsumerPasswords }, false},
	{"MOZAIKS_NATS_PLATFORM_PASSWORD", "nats_platform_password", func(c *Config) *Secret { return &c.PlatformPasswords }, false},
	{"MOZAIKS_NATS_ADMIN_PASSWORD", adminPasswordFile, func(c *Config) *Secret { return &c.AdminPasswords }, false},
	{"MOZAIKS_NATS_PLUGIN_PASSWORD", PluginPasswordFile, func(c *Config) *Secret { return &c.PluginPasswords }, false},
}

// envPublishers gives the publishers of the embedded NATS server that are more than
// passwords: their apps stand beside them.
const envPublishers = "MOZAIKS_NATS_PUBLISHERS"

// sentSecrets open the doors of others, or say more than a secret, so none is ever
// generated.
var sentSecrets = []secretSetting{
	{envPublishers, "", func(c *Config) *Secret { return &c.Publishers }, true},
	{"MOZAIKS_PLATFORM_API_KEY", "", func(c *Config) *Secret { return &c.PlatformKey }, true},
	{"MOZAIKS_CONTROL_PLANE_KEY", "", func(c *Config) *Secret { return &c.ControlPlaneKey }, false},
	{envNATSPassword, "", func(c *Config) *Secret { return &c.NATSPassword }, true},
}

func allSecrets() []secretSetting { return slices.Concat(secrets, sentSecrets) }

func (s *secretSetting) key() string {
	return strings.ToLower(strings.TrimPrefix(s.env, "MOZAIKS_"))
}

// fileSuffix ends the name of a variable that names a file with a secret, as containers
// are given them.
const (
	fileSuffix      = "_FILE"
	maxSecretFile   = 64 << 10
	envNATSPassword = "NATS_PASSWORD" // its file is a setting: it is read again and again
)

// given is what the environment says of a secret, itself or by the name of a file.
func (s *secretSetting) given(vars map[string]string) (text string, ok bool, err error) {
	text, ok = vars[s.env]
	path := vars[s.env+fileSuffix]
	if path == "" || s.env == envNATSPassword {
		return text, ok, nil
	}
	if ok {
		return "", false, fmt.Errorf("set %s or %s, not both", s.env, s.env+fileSuffix)
	}
	if text, err = readSecretFile(path); err != nil {
		return "", false, fmt.Errorf("%s: %w", origin("environment", s.env+fileSuffix), err)
	}
	return text, true, nil
}

// readSecretFile reads a file that came from outside.
func readSecretFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err == nil && info.Size() > maxSecretFile {
		err = fmt.Errorf("it has more than %d bytes", maxSecretFile)
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(content), "\r\n"), nil
}

// show describes the secret without giving it away.
func (s *secretSetting) show(c *Config) Shown {
	row := Shown{Name: s.key(), Env: s.env, Origin: origin("environment", s.env)}
	switch v := s.field(c); {
	case !s.used(c) && len(v.Values) == 0:
		row.Value, row.Origin = "(not used)", "default"
	case v.Path != "":
		row.Value, row.Origin = "(hidden)", v.Path
	case v.File != "" && len(v.Values) > 0:
		row.Value, row.Origin = "(hidden)", v.File
	case v.Closed && s.file != "":
		row.Value = "(closed)"
	case len(v.Values) > 0:
		row.Value = "(hidden)"
	case s.file == "":
		row.Value, row.Origin = "(not set)", "default"
	case c.InProduction():
		row.Value, row.Origin = "(not set: closed)", "default"
	default:
		row.Value, row.Origin = "(generated)", SecretPath(c.DataDir, s.file)
	}
	return row
}

// used tells whether anything is opened with the secret.
func (s *secretSetting) used(c *Config) bool {
	return s.env != envJWTSecret || c.UserTokens() == AuthLocal
}

func (s *secretSetting) parse(t string) Secret {
	if s.one && t != "" {
		return Secret{Values: []string{t}}
	}
	return parseSecret(t)
}

// parseSecret reads a comma-separated list; one without any entry closes the door.
func parseSecret(t string) (s Secret) {
	for v := range strings.SplitSeq(t, ",") {
		if v = strings.TrimSpace(v); v != "" && !slices.Contains(s.Values, v) {
			s.Values = append(s.Values, v)
		}
	}
	s.Closed = len(s.Values) == 0
	return s
}

// SecretPath is where a generated secret of a data directory is kept.
func SecretPath(dataDir, name string) string { return filepath.Join(dataDir, "secrets", name) }

// LoadSecrets completes what was not set: outside production with generated
// secrets, which later starts find again; in production by closing the door
// (contract §3). It may be called twice.
func LoadSecrets(c *Config) error {
	for i := range secrets {
		s := secrets[i].field(c)
		switch {
		case s.Closed || len(s.Values) > 0:
		case c.InProduction() || !secrets[i].used(c):
			s.Closed = true
		default:
			path := SecretPath(c.DataDir, secrets[i].file)
			text, generated, err := keepSecret(path)
			if err != nil {
				return err
			}
			*s = secrets[i].parse(text) // several, while they rotate
			s.Generated, s.Path = generated, path
		}
	}
	return nil
}

// ReadSecret reads a secret that an earlier start has generated.
func ReadSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("secret %s can be read by others (mode %04o); run: chmod 600 %s", path, mode, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	text = bytes.TrimSpace(text)
	if len(text) < leastSecret || bytes.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: secret %s is not what was written: it must have at least %d printable characters; put it back, or delete the file to have a new one made",
			SecretDamaged, path, leastSecret)
	}
	return string(text), nil
}

// SecretDamaged names a file of a secret that cannot be one; one that was cut short
// would be a door that is easy to open.
const (
	SecretDamaged = "SECRET_DAMAGED"
	leastSecret   = 16
)

func keepSecret(path string) (text string, generated bool, err error) {
	text, err = ReadSecret(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return text, false, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", false, fmt.Errorf("make directory for secrets: %w", err)
	}
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails
	text = base64.RawURLEncoding.EncodeToString(raw[:])
	err = createFile(path, []byte(text+"\n"))
	if errors.Is(err, fs.ErrExist) { // another start was faster; its secret holds
		text, err = ReadSecret(path)
		return text, false, err
	}
	if err != nil {
		return "", false, fmt.Errorf("keep secret %s: %w", path, err)
	}
	return text, true, nil
}

// createFile makes a file that is there completely and durably, or not at all,
// and never replaces one.
func createFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreMissing(os.Remove(tmp.Name()))) }()
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	// A link refuses to replace; file systems without links get a rename.
	if err = os.Link(tmp.Name(), path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		if err = os.Rename(tmp.Name(), path); err != nil {
			return err
		}
	}
	return errors.Join(syncDir(dir), syncDir(filepath.Dir(dir)))
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
