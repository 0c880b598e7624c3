package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	hookSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	anotherSecret = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
)

// What the settings file says of webhooks, and what it may not say.
func TestWebhookSettings(t *testing.T) {
	c, warnings, err := load(t, `webhooks:
  - name: crm
    url: https://crm.example/in?token=hush
    secrets: [`+hookSecret+`, `+anotherSecret+`]
    kinds: [usage.*, budget.exceeded]
    apps: dev_app
  - {name: other, url: "http://10.0.0.1:80/", secrets: "`+hookSecret+`", enabled: false}
`, []string{"MOZAIKS_WEBHOOK_ALLOWED_NETWORKS=10.1.2.3/8, ::1"}, nil)
	if err != nil || len(warnings) > 0 || len(c.Webhooks) != 2 {
		t.Fatalf("%v %v %+v", err, warnings, c.Webhooks)
	}
	if w := c.Webhooks[0]; w.Name != "crm" || !w.Enabled || len(w.secrets) != 2 || strings.Join(w.Kinds, " ") != "usage.* budget.exceeded" || strings.Join(w.Apps, " ") != "dev_app" {
		t.Errorf("%+v", w)
	}
	if w := c.Webhooks[1]; w.Enabled || len(w.secrets) != 1 || w.Kinds != nil {
		t.Errorf("%+v", w)
	}
	if s := shown(&c, "webhook_allowed_networks"); s.Value != "10.0.0.0/8,::1/128" {
		t.Errorf("%+v", s)
	}
	text, err := json.Marshal(c.Show())
	if err != nil {
		t.Fatal(err)
	}
	all := string(text) + fmt.Sprintf("%v %+v %#v", c, c, c.Webhooks)
	if strings.Contains(all, "MfKQ") || strings.Contains(string(text), "hush") || !strings.Contains(string(text), "webhooks.crm") {
		t.Errorf("%s", text)
	}

	entry := func(fields string) string { return "webhooks:\n  - {" + fields + "}\n" }
	fine := `name: a, url: "https://a.example", secrets: [` + hookSecret + `]`
	for file, fault := range map[string]string{
		"webhooks: crm\n":                                           "must be a list",
		"webhooks: [crm]\n":                                         "no set of fields",
		"webhook: []\n":                                             "did you mean webhooks?",
		entry(fine + ", secret: x"):                                 `unknown field "secret" (did you mean secrets?)`,
		entry(fine + ", enabled: maybe"):                            "enabled must be",
		entry(fine + ", kinds: [Usage]"):                            "kinds",
		entry(fine + ", kinds: {a: b}"):                             "kinds must be a list",
		entry(fine + ", apps: ['']"):                                "apps",
		entry(strings.Replace(fine, "name: a", "name: A b", 1)):     "name must have",
		entry(strings.Replace(fine, "name: a, ", "", 1)):            "name must have",
		entry(strings.Replace(fine, "https:", "ftp:", 1)):           "is not an address",
		entry(strings.Replace(fine, "a.example", "u:p@a.ex", 1)):    "takes no user",
		entry(`name: a, url: "https://a.example"`):                  "needs secrets",
		entry(`name: a, url: "https://a.example", secrets: [x]`):    "secret 1: a secret begins with whsec_",
		entry(fine + `, secret_files: [nowhere]`):                   "nowhere",
		entry(fine) + "  - {" + fine + "}\n":                        `two webhooks have the name "a"`,
		"webhooks:\n" + strings.Repeat("  - {"+fine+"}\n", 33):      "more than 32",
		entry(strings.Replace(fine, "MfKQ9r8GKYqrTwjUPD8I", "", 1)): "secret 1",
	} {
		_, _, err := load(t, file, nil, nil)
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%s: %v", file, err)
		}
		if err != nil && strings.Contains(err.Error(), "9r8GKYqrTwjUPD8ILPZIo2") {
			t.Errorf("%v tells a secret", err)
		}
	}
	for _, networks := range []string{"10.0.0.0/33", "everywhere", "fe80::1%eth0", "10.0.0.1-10.0.0.9"} {
		if _, _, err := load(t, "", []string{"MOZAIKS_WEBHOOK_ALLOWED_NETWORKS=" + networks}, nil); err == nil {
			t.Errorf("%s is taken for networks", networks)
		}
	}
}

// A settings file with secrets should be nobody else's to read.
func TestWebhookSecretsThatOthersRead(t *testing.T) {
	t.Chdir(t.TempDir())
	file := filepath.Join(t.TempDir(), "grout.yaml")
	if err := os.WriteFile(file, []byte(`webhooks: [{name: a, url: "https://a.example", secrets: [`+hookSecret+`]}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	_, warnings, err := load(t, "", []string{"MOZAIKS_CONFIG=" + file}, nil)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "chmod 600") {
		t.Errorf("%v %v", warnings, err)
	}
}

// Secrets of files rotate without a restart, and what cannot be read leaves the last ones.
func TestWebhookSecretsRotate(t *testing.T) {
	var log bytes.Buffer
	path := filepath.Join(t.TempDir(), "secrets")
	write := func(text string, at time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	write(hookSecret+"\n", now)
	w := WebhookConfig{Name: "a", files: []string{path}}
	keys := w.keysEvery(slog.New(slog.NewTextHandler(&log, nil)), 0)
	count := func() int {
		t.Helper()
		list, err := keys()
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	if n := count(); n != 1 {
		t.Fatalf("%d secrets", n)
	}
	write("# both\n\n"+hookSecret+"\r\n"+anotherSecret, now.Add(time.Second))
	if n := count(); n != 2 {
		t.Fatalf("%d secrets", n)
	}
	write("nonsense", now.Add(2*time.Second))
	if n := count() + count(); n != 4 {
		t.Fatalf("%d secrets", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 {
		t.Fatalf("%d secrets", n)
	}
	write(anotherSecret, now.Add(3*time.Second))
	if n := count(); n != 1 {
		t.Fatalf("%d secrets", n)
	}
	if strings.Contains(log.String(), "MfKQ") || strings.Contains(log.String(), "C2FV") || strings.Count(log.String(), "cannot be read") != 2 {
		t.Error(log.String())
	}
}

func TestUpstreamSettings(t *testing.T) {
	for _, c := range []struct {
		env      []string
		on       bool
		warnings int
	}{
		{nil, false, 0},
		{[]string{"MOZAIKS_PLATFORM_URL=https://p.example"}, false, 1},
		{[]string{"MOZAIKS_PLATFORM_API_KEY=k"}, false, 1},
		{[]string{"MOZAIKS_PLATFORM_URL=https://p.example", "MOZAIKS_PLATFORM_API_KEY="}, false, 1},
		{[]string{"MOZAIKS_PLATFORM_URL=https://p.example", "MOZAIKS_PLATFORM_API_KEY=k,1"}, true, 0},
	} {
		got, warnings, err := load(t, "", c.env, nil)
		if err != nil || got.reportsUpstream() != c.on || len(warnings) != c.warnings {
			t.Errorf("%v: %v %v, on %v", c.env, err, warnings, got.reportsUpstream())
		}
		if c.on && got.PlatformKey.Values[0] != "k,1" {
			t.Error("a key was cut")
		}
	}
	for text, want := range map[string]time.Duration{"60": time.Minute, "0.5": 500 * time.Millisecond, "2m": 2 * time.Minute} {
		c, _, err := load(t, "", []string{"MOZAIKS_USAGE_FLUSH_INTERVAL=" + text}, nil)
		if err != nil || c.UsageFlush != want {
			t.Errorf("%s: %v, %v", text, c.UsageFlush, err)
		}
	}
	if c, _, err := load(t, "usage_flush_interval: 30\nusage_batch_size: 7\n", nil, nil); err != nil || c.UsageFlush != 30*time.Second || c.UsageBatch != 7 {
		t.Errorf("%v %v", c.UsageFlush, err)
	}
	for _, env := range []string{"MOZAIKS_USAGE_FLUSH_INTERVAL=0", "MOZAIKS_USAGE_FLUSH_INTERVAL=-1s", "MOZAIKS_USAGE_BATCH_SIZE=0", "MOZAIKS_PLATFORM_URL=https://u:p@p.example", "MOZAIKS_PLATFORM_URL=p.example"} {
		if _, _, err := load(t, "", []string{env}, nil); err == nil {
			t.Errorf("%s is taken", env)
		}
	}
}
