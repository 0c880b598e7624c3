package app

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// load reads a configuration in an empty directory of its own.
func load(t *testing.T, file string, environ, args []string) (Config, []string, error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if file != "" {
		if err := os.WriteFile(DefaultConfigFile, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return Load(flags, environ)
}

func shown(c *Config, name string) Shown {
	rows := c.Show()
	return rows[slices.IndexFunc(rows, func(s Shown) bool { return s.Name == name })]
}

func TestDefaults(t *testing.T) {
	c, warnings, err := load(t, "", nil, nil)
	if err != nil || len(warnings) != 0 {
		t.Fatalf("Load() = %v, warnings %q", err, warnings)
	}
	if err := c.Validate(); err != nil {
		t.Fatalf("the defaults are not valid: %v", err)
	}
	if c.DataDir != "./data" || c.HTTPAddr != "127.0.0.1:8080" || c.NATSListen != "127.0.0.1:4222" || c.AppID != "dev_app" || c.AppTier != "free" {
		t.Errorf("addresses and names: %+v", c)
	}
	if c.Partitions != 1 || c.FoldEvery != 250_000 || c.MaxBodyBytes != 16<<20 || c.UnpackedBytes != 64<<20 || c.CommandBytes != 8<<30 || c.FactBytes != 4<<30 || c.DeadLetterBytes != 256<<20 {
		t.Errorf("sizes: %+v", c)
	}
	if c.WaitLimit != 10*time.Second || c.DuplicateWindow != 100*time.Millisecond {
		t.Errorf("durations: %+v", c)
	}
}

func TestPrecedence(t *testing.T) {
	file := "app_name: from-file\npartitions: 2\n"
	env := []string{"APP_NAME=from-env", "MOZAIKS_PARTITIONS=3"}
	for _, tt := range []struct {
		name, file string
		env, args  []string
		want       string
		origin     string
	}{
		{"default", "", nil, nil, "grout", "default"},
		{"file over default", file, nil, nil, "from-file", "grout.yaml: app_name"},
		{"environment over file", file, env, nil, "from-env", "environment APP_NAME"},
		{"flag over environment", file, env, []string{"--app-name", "from-flag"}, "from-flag", "flag --app-name"},
		{"an empty variable is none", file, []string{"APP_NAME="}, nil, "from-file", "grout.yaml: app_name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := load(t, tt.file, tt.env, tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if row := shown(&c, "app_name"); c.AppName != tt.want || row.Value != tt.want || row.Origin != tt.origin {
				t.Errorf("app_name = %q, shown as %+v; want %q from %q", c.AppName, row, tt.want, tt.origin)
			}
		})
	}
}

func TestConfigFileByName(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "other.yaml")
	if err := os.WriteFile(path, []byte("app_tier: pro\nmax_body_bytes: 1048576\nnats_listen: \"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ env, args []string }{
		{[]string{"MOZAIKS_CONFIG=" + path}, nil},
		{[]string{"MOZAIKS_CONFIG=/nowhere"}, []string{"--config", path}},
	} {
		c, _, err := load(t, "app_tier: ignored\n", tt.env, tt.args)
		if err != nil {
			t.Fatal(err)
		}
		if c.AppTier != "pro" || c.MaxBodyBytes != 1<<20 || c.NATSListen != "" {
			t.Errorf("env %q args %q: %+v", tt.env, tt.args, c)
		}
	}
	if _, _, err := load(t, "", nil, []string{"--config", filepath.Join(dir, "missing.yaml")}); err == nil {
		t.Error("a named file that is missing was accepted")
	}
}

func TestPort(t *testing.T) {
	for _, tt := range []struct {
		name      string
		env, args []string
		want      string
	}{
		{"of the default", []string{"PORT=9000"}, nil, "127.0.0.1:9000"},
		{"of the environment", []string{"PORT=9000", "MOZAIKS_HTTP_ADDR=127.0.0.2:1"}, nil, "127.0.0.2:9000"},
		{"not of a flag", []string{"PORT=9000"}, []string{"--http-addr", "[::1]:1"}, "[::1]:1"},
		{"empty", []string{"PORT="}, nil, "127.0.0.1:8080"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := load(t, "", tt.env, tt.args)
			if err != nil || c.HTTPAddr != tt.want {
				t.Errorf("HTTPAddr = %q, %v; want %q", c.HTTPAddr, err, tt.want)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name, file string
		env, args  []string
		want       []string // parts of the message
	}{
		{"unknown key", "datadir: x\n", nil, nil, []string{"grout.yaml", `"datadir"`, "did you mean data_dir?"}},
		{"unknown key, nothing near", "zzzzzzzzzz: x\n", nil, nil, []string{`unknown setting "zzzzzzzzzz"`}},
		{"nested key", "http:\n  addr: x\n", nil, nil, []string{`"http"`}},
		{"repeated key", "env: a\nenv: b\n", nil, nil, []string{"already defined"}},
		{"secret in the file", "internal_api_key: x\n", nil, nil, []string{"secret", "INTERNAL_API_KEY in the environment"}},
		{"not YAML", "a: [", nil, nil, []string{"settings file grout.yaml"}},
		{"null", "app_name:\n", nil, nil, []string{"grout.yaml: app_name", "no value"}},
		{"number as text", "app_id: 007\n", nil, nil, []string{"grout.yaml: app_id", "quotes"}},
		{"list", "app_id: [a]\n", nil, nil, []string{"grout.yaml: app_id", "wrong kind"}},
		{"size", "", []string{"MOZAIKS_FACT_MAX_BYTES=lots"}, nil, []string{"environment MOZAIKS_FACT_MAX_BYTES", "8GiB"}},
		{"size out of range", "", nil, []string{"--max-body-bytes", "1"}, []string{"flag --max-body-bytes", "between 1KiB and 256MiB"}},
		{"size too large to count", "", nil, []string{"--fact-max-bytes", "9223372036854775807TiB"}, []string{"not a size"}},
		{"number", "partitions: 0\n", nil, nil, []string{"grout.yaml: partitions", "from 1 to 64"}},
		{"duration", "", []string{"MOZAIKS_WAIT_LIMIT=10"}, nil, []string{"environment MOZAIKS_WAIT_LIMIT", "10s"}},
		{"choice", "", nil, []string{"--log-format", "xml"}, []string{"flag --log-format", "text, json"}},
		{"address", "", []string{"MOZAIKS_HTTP_ADDR=8080"}, nil, []string{"environment MOZAIKS_HTTP_ADDR", "host:port"}},
		{"port", "", []string{"PORT=http"}, nil, []string{"environment PORT"}},
		{"empty flag", "", nil, []string{"--data-dir", ""}, []string{"flag --data-dir", "empty"}},
		{"app id", "", []string{"MOZAIKS_APP_ID=" + strings.Repeat("x", 129)}, nil, []string{"environment MOZAIKS_APP_ID", "1 to 128"}},

		{"a password in an address", "", []string{"NATS_URL=nats://u:pw@far"}, nil, []string{"environment NATS_URL", "NATS_USER"}},
		{"a second address", "", []string{"NATS_URL=nats://a,b"}, nil, []string{"environment NATS_URL", "nats://host:4222"}},
		{"nobody on a cluster", "", []string{"NATS_URL=nats://a"}, nil, []string{"NATS_USER", "NATS_CREDS", "NATS_NKEY"}},
		{"two on a cluster", "", []string{"NATS_URL=nats://a", "NATS_USER=u", "NATS_PASSWORD=x", "NATS_CREDS=c"}, nil, []string{"one user"}},
		{"a user without a password", "", []string{"NATS_URL=nats://a", "NATS_USER=u"}, nil, []string{"NATS_PASSWORD_FILE"}},
		{"two passwords", "", []string{"NATS_URL=nats://a", "NATS_USER=u", "NATS_PASSWORD=x", "NATS_PASSWORD_FILE=y"}, nil, []string{"not both"}},
		{"a certificate without a key", "", []string{"NATS_URL=nats://a", "NATS_CERT=c"}, nil, []string{"NATS_KEY"}},
		{"a secret twice", "", []string{"INTERNAL_API_KEY=x", "INTERNAL_API_KEY_FILE=y"}, nil, []string{"INTERNAL_API_KEY_FILE", "not both"}},
		{"a secret of a file that is not there", "", []string{"JWT_SECRET_FILE=nowhere"}, nil, []string{"environment JWT_SECRET_FILE"}},
		{"production without an app", "", []string{"ENV=production"}, nil, []string{"MOZAIKS_APP_ID"}},
		{"production in capitals", "", []string{"ENV=Production"}, nil, []string{"MOZAIKS_APP_ID"}},
		{"open address", "", []string{"MOZAIKS_HTTP_ADDR=:8080"}, nil, []string{"environment MOZAIKS_HTTP_ADDR", "ENV"}},
		{"open address on NATS", "nats_listen: 0.0.0.0:4222\n", nil, nil, []string{"grout.yaml: nats_listen", "ENV"}},
		{"a name is not loopback", "", []string{"MOZAIKS_HTTP_ADDR=example.org:80"}, nil, []string{"other machines"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := load(t, tt.file, tt.env, tt.args)
			if err == nil {
				err = c.Validate()
			}
			if err == nil {
				t.Fatal("accepted")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "pw") {
				t.Errorf("%q gives a password away", err)
			}
		})
	}
}

func TestAllowed(t *testing.T) {
	for _, env := range [][]string{
		{"MOZAIKS_HTTP_ADDR=localhost:80", "MOZAIKS_NATS_LISTEN=[::1]:4222"},
		{"MOZAIKS_HTTP_ADDR=:80", "MOZAIKS_NATS_LISTEN=0.0.0.0:4222", "ENV=staging"},
		{"MOZAIKS_NATS_LISTEN="},
		{"NATS_URL=nats://a:4222, tls://b:4222", "NATS_USER=u", "NATS_PASSWORD=x"},
		{"NATS_URL=tls://a", "NATS_CERT=c", "NATS_KEY=k", "NATS_CA=ca"},
		{"NATS_USER=for-another-program"},
		{"ENV=production", "MOZAIKS_APP_ID=shop", "MOZAIKS_HTTP_ADDR=:80", "MOZAIKS_JWKS_URL=https://id.test/keys?p=1", "MOZAIKS_ISSUER=i", "MOZAIKS_AUDIENCE=a"},
		{"ENV=production", "MOZAIKS_APP_ID=shop", "MOZAIKS_AUTH_MODE=jwt", "JWT_SECRET=0123456789abcdef0123456789abcdef"},
		{"MOZAIKS_AUTH_MODE=local", "JWT_SECRET=short", "MOZAIKS_JWKS_URL=https://id.test/keys"},
		{"MOZAIKS_AUTH_MODE=oidc", "MOZAIKS_PLATFORM_JWKS_URL=https://id.test/keys", "MOZAIKS_PLATFORM_ISSUER=i", "MOZAIKS_PLATFORM_AUDIENCE=a", "MOZAIKS_JWT_ALGORITHMS=ES256, EdDSA"},
	} {
		c, _, err := load(t, "", env, nil)
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			t.Errorf("%q: %v", env, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	_, warnings, err := load(t, "", []string{
		"MOZAIKS_DATADIR=x", "MOZAIKS_QQQQQQQQQQQ=secret-text", "MOZAIKS_CONFIG=", "OTHER_VARIABLE=x", "ENV=prod", "MOZAIKS_APP_ID=a",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(warnings, "\n")
	for _, part := range []string{"MOZAIKS_DATADIR", "did you mean MOZAIKS_DATA_DIR?", "MOZAIKS_QQQQQQQQQQQ", "write production"} {
		if !strings.Contains(text, part) {
			t.Errorf("no warning says %q:\n%s", part, text)
		}
	}
	if len(warnings) != 3 || strings.Contains(text, "secret-text") {
		t.Errorf("warnings:\n%s", text)
	}
}

func TestShowHidesSecrets(t *testing.T) {
	c, _, err := load(t, "", []string{"INTERNAL_API_KEY=hush-1, hush-2,,hush-1", "MOZAIKS_ALLOWED_SERVICE_KEYS="}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.InternalKeys.Values, []string{"hush-1", "hush-2"}) || !c.ServiceKeys.Closed {
		t.Errorf("keys %q, service door closed %v", c.InternalKeys.Values, c.ServiceKeys.Closed)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(c.Show()), fmt.Sprintf("%v %+v %#v %s", c, c, c, c.InternalKeys), string(asJSON)} {
		if strings.Contains(text, "hush") {
			t.Errorf("a secret shows in %s", text)
		}
	}
	for name, want := range map[string]Shown{
		"internal_api_key":       {Value: "(hidden)", Origin: "environment INTERNAL_API_KEY"},
		"allowed_service_keys":   {Value: "(closed)", Origin: "environment MOZAIKS_ALLOWED_SERVICE_KEYS"},
		"nats_consumer_password": {Value: "(generated)", Origin: "data/secrets/nats_consumer_password"},
	} {
		if got := shown(&c, name); got.Value != want.Value || got.Origin != want.Origin {
			t.Errorf("%s is shown as %+v, want %+v", name, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{"8GiB": 8 << 30, "8 gib": 8 << 30, "1kb": 1000, "512": 512, "512B": 512, "0": 0} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "GiB", "-1", "1.5GiB", "1EiB", "99999999TiB"} {
		if n, err := parseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", in, n)
		}
	}
	for n, want := range map[int64]string{0: "0B", 1023: "1023B", 1 << 20: "1MiB", 3 << 30: "3GiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("formatSize(%d) = %q, want %q", n, got, want)
		}
	}
}
