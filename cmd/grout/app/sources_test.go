package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
	"grout/store"
)

const (
	manifestOfDevApp = `{"version":"1.1","app_id":"dev_app","plan":{"tier":"pro"}}`
	smallCatalogue   = `{"subscription_plans":[{"name":"free","plugins_unlocked":["a"]}]}`
	pluginRules      = "schema_version: \"1.0\"\nplugin: notes\nfeatures:\n  export: {default: false}\nlimits:\n  items: {default: 5}\ntiers:\n  pro: {limits: {items: 100}}\n"
)

// place puts a file below the directory of a test.
func place(t *testing.T, text string, path ...string) {
	t.Helper()
	at := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// sourcesIn are sources whose files are all in one directory.
func sourcesIn(dir string, change func(*Config)) *sources {
	cfg := DefaultConfig()
	cfg.ManifestPath, cfg.ConfigsPath, cfg.PluginsPath = filepath.Join(dir, "entitlements.json"), filepath.Join(dir, "config"), filepath.Join(dir, "plugins")
	if change != nil {
		change(&cfg)
	}
	return newSources(&cfg, slog.New(slog.DiscardHandler))
}

// said gives what is wanted by name; an initial one is marked by a question mark.
func said(list []wanted) map[string]string {
	m := map[string]string{}
	for _, w := range list {
		mark := ""
		if w.initial {
			mark = "?"
		}
		m[w.name] = mark + string(w.content)
	}
	return m
}

func TestFilesAreConfiguration(t *testing.T) {
	nothing := map[string]string{
		"enforcement": `?{"monetization":false,"enforce":true}`, "entitlements": `?{"source":"file","manifest":null}`, "subscriptions": "?null",
	}
	with := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for k, v := range nothing {
			m[k] = v
		}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
			if pairs[i+1] == "" {
				delete(m, pairs[i])
			}
		}
		return m
	}
	for _, tt := range []struct {
		name   string
		files  map[string]string
		change func(*Config)
		known  []string
		want   map[string]string
		faults map[string]string // part of each
	}{
		{name: "nothing", want: nothing},
		{name: "switches", change: func(c *Config) { c.Monetization, c.Enforce = true, false }, want: with("enforcement", `{"monetization":true,"enforce":false}`)},
		{
			name: "all files", files: map[string]string{
				"entitlements.json": "\ufeff " + manifestOfDevApp, "config/subscription_config.json": " " + smallCatalogue + "\n",
				"plugins/notes/entitlements.yaml": pluginRules, "plugins/Notes/entitlements.yaml": "x", "plugins/other/plugin.yaml": "",
			},
			want: with("entitlements", `{"source":"file","manifest":{"app_id":"dev_app","plan":{"tier":"pro"},"version":"1.1"}}`, "subscriptions", smallCatalogue,
				"plugin.notes", `{"features":{"export":{"default":false}},"limits":{"items":{"default":5}},"plugin":"notes","schema_version":"1.0","tiers":{"pro":{"limits":{"items":100}}}}`),
		},
		{
			name: "beside logic.py", files: map[string]string{"plugins/notes/backend/entitlements.yaml": pluginRules},
			want: with("plugin.notes", `{"features":{"export":{"default":false}},"limits":{"items":{"default":5}},"plugin":"notes","schema_version":"1.0","tiers":{"pro":{"limits":{"items":100}}}}`),
		},
		{name: "a plugin that is gone", known: []string{"plugin.old", "rules"}, want: with("plugin.old", "?null")},
		{
			name: "environment", change: func(c *Config) { c.EntitlementSource, c.Manifest = SourceEnv, manifestOfDevApp },
			files: map[string]string{"entitlements.json": "nobody reads it"},
			want:  with("entitlements", `{"source":"env","manifest":{"app_id":"dev_app","plan":{"tier":"pro"},"version":"1.1"}}`),
		},
		{name: "environment without one", change: func(c *Config) { c.EntitlementSource = SourceEnv }, want: with("entitlements", `?{"source":"env","manifest":null}`)},
		{
			name: "broken manifest in the environment", change: func(c *Config) { c.EntitlementSource, c.Manifest = SourceEnv, "{" },
			want: with("entitlements", ""), faults: map[string]string{sourceManifest: "MOZAIKS_ENTITLEMENT_MANIFEST: INVALID_JSON"},
		},
		{
			name: "broken manifest", files: map[string]string{"entitlements.json": `{"version":"3"}`},
			want: with("entitlements", ""), faults: map[string]string{sourceManifest: "entitlements.json: VALIDATION_ERROR: version"},
		},
		{
			name: "manifest of another app", files: map[string]string{"entitlements.json": strings.Replace(manifestOfDevApp, "dev_app", "other", 1)},
			want: with("entitlements", ""), faults: map[string]string{sourceManifest: `app_id is "other", and this instance belongs to "dev_app"`},
		},
		{
			name: "manifest of a user", files: map[string]string{"entitlements.json": strings.Replace(manifestOfDevApp, `"plan"`, `"user_id":"u","plan"`, 1)},
			want: with("entitlements", ""), faults: map[string]string{sourceManifest: "of one user or tenant"},
		},
		{
			name: "broken catalogue", files: map[string]string{"config/subscription_config.json": `{}`},
			want: with("subscriptions", ""), faults: map[string]string{sourceCatalogue: "subscription_config.json: VALIDATION_ERROR: subscription_plans"},
		},
		{
			name: "empty catalogue", files: map[string]string{"config/subscription_config.json": `null`},
			want: with("subscriptions", ""), faults: map[string]string{sourceCatalogue: "says nothing"},
		},
		{
			name: "too much", files: map[string]string{"config/subscription_config.json": strings.Repeat(" ", maxSourceBytes+1)},
			want: with("subscriptions", ""), faults: map[string]string{sourceCatalogue: fmt.Sprintf("more than %d bytes", maxSourceBytes)},
		},
		{
			name: "a directory", files: map[string]string{"entitlements.json/x": ""},
			want: with("entitlements", ""), faults: map[string]string{sourceManifest: "no file"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for path, text := range tt.files {
				place(t, text, dir, path)
			}
			s := sourcesIn(dir, tt.change)
			list, faults := s.look(tt.known)
			if d := cmp.Diff(tt.want, said(list)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			for source, err := range faults {
				if want := tt.faults[source]; (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want %q", source, err, want)
				}
				s.each(func(name string, ok bool, failures int64) {
					if name == source && (ok != (err == nil) || (failures == 0) != ok) {
						t.Errorf("%s counts as ok %v after %d failures: %v", source, ok, failures, err)
					}
				})
			}
		})
	}
}

// A file that is broken closes its plugin and says why.
func TestBrokenRulesOfAPlugin(t *testing.T) {
	for name, text := range map[string]string{
		"no YAML": "a: [", "a list": "- a", "nothing": "", "keys that are no text": "schema_version: \"1.0\"\nplugin: notes\nfeatures: {1: {default: true}}",
		"another version": "schema_version: \"2.0\"\nplugin: notes", "another plugin": "schema_version: \"1.0\"\nplugin: other",
		"a circle":    "schema_version: \"1.0\"\nplugin: notes\ntiers:\n  a: {inherits: b}\n  b: {inherits: a}",
		"a key twice": "schema_version: \"1.0\"\nplugin: notes\nplugin: notes",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			place(t, text, dir, "plugins", "notes", PluginLimitsFile)
			list, faults := sourcesIn(dir, nil).look(nil)
			if faults[sourcePlugins] != nil {
				t.Errorf("one broken file stops the others: %v", faults[sourcePlugins])
			}
			var content struct{ Broken string }
			if err := json.Unmarshal([]byte(said(list)["plugin.notes"]), &content); err != nil || !strings.Contains(content.Broken, PluginLimitsFile+": ") || strings.Contains(content.Broken, "\n") {
				t.Errorf("the log is to hold %q, %v", said(list)["plugin.notes"], err)
			}
		})
	}
}

// Every edit is seen, also one that leaves size and time as they are.
func TestEditsAreSeen(t *testing.T) {
	dir := t.TempDir()
	s := sourcesIn(dir, nil)
	path := filepath.Join(dir, "config", CatalogueFile)
	for n := range 20 {
		text := strings.Replace(smallCatalogue, `["a"]`, fmt.Sprintf(`["%c"]`, 'a'+n), 1)
		place(t, text, path)
		list, _ := s.look(nil)
		if got := said(list)["subscriptions"]; got != text {
			t.Fatalf("edit %d: %s, want %s", n, got, text)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	s.look(nil)
	judged := s.files.read[path]
	if s.look(nil); s.files.read[path] != judged {
		t.Error("a file that did not change was read again")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.look(nil); said(list)["subscriptions"] != "?null" {
		t.Errorf("the catalogue is gone, and wanted is %v", said(list))
	}
}

func TestControlPlaneAnswers(t *testing.T) {
	var leaked atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked.Store(true) }))
	defer elsewhere.Close()
	var answer http.HandlerFunc
	plane := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/base/api/v1/entitlements/dev_app" || r.Header.Get("Authorization") != "Bearer key-1" {
			t.Errorf("asked for %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		answer(w, r)
	}))
	defer plane.Close()
	s := sourcesIn(t.TempDir(), func(c *Config) {
		c.EntitlementSource, c.ControlPlaneURL, c.ControlPlaneKey = SourceControlPlane, plane.URL+"/base/", Secret{Values: []string{"key-1", "key-2"}}
	})
	defer s.remote.client.CloseIdleConnections()
	text := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   string // empty: an error
	}{
		{"a manifest", text(200, manifestOfDevApp), `{"source":"control_plane","manifest":{"app_id":"dev_app","plan":{"tier":"pro"},"version":"1.1"}}`},
		{"none", text(204, ""), `?{"source":"control_plane","manifest":null}`},
		{"never synced", text(200, `{"app_id":"dev_app","plan":{"tier":"unlimited","name":"Open Source"},"synced_at":null}`), `?{"source":"control_plane","manifest":null}`},
		{"of another app", text(200, strings.Replace(manifestOfDevApp, "dev_app", "b", 1)), ""},
		{"no manifest", text(200, `{}`), ""},
		{"a page", text(200, `<html>`), ""},
		{"unknown", text(404, `{}`), ""},
		{"fault", text(500, manifestOfDevApp), ""},
		{"too much", text(200, manifestOfDevApp+strings.Repeat(" ", maxSourceBytes)), ""},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) }, ""},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, manifestOfDevApp)
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer = tt.answer
			list, err := s.remote.fetch(t.Context())
			if got := said(list)[schemas.ConfigManifest]; got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
	if leaked.Load() {
		t.Error("a redirect was followed")
	}
}

// contentOf reads what a stopped instance holds of a configuration, by partition.
func contentOf(t *testing.T, cfg Config, name string) (all []string) {
	t.Helper()
	for number := range cfg.Partitions {
		s, err := store.Open(storePath(cfg.DataDir, number), store.Options{Partition: number, Partitions: cfg.Partitions, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		list, err := s.ConfigHistory()
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		versions := ""
		for _, v := range list {
			if v.Name == name {
				versions += string(v.Content)
			}
		}
		all = append(all, versions)
	}
	return all
}

func startInstance(t *testing.T, cfg Config) *Instance {
	t.Helper()
	i, err := Start(context.WithoutCancel(t.Context()), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Stop() })
	return i
}

func stopInstance(t *testing.T, i *Instance) {
	t.Helper()
	if err := i.Stop(); err != nil {
		t.Fatal(err)
	}
}

// What lies outside is in every log before the start is told, changes while it runs, and
// stays when the source breaks.
func TestConfigurationReachesEveryLog(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, 2)
	cfg.LogLevel = "error"
	cfg.sourceLook = 2 * time.Millisecond
	cfg.ManifestPath, cfg.ConfigsPath, cfg.PluginsPath = filepath.Join(dir, "entitlements.json"), filepath.Join(dir, "config"), filepath.Join(dir, "plugins")
	catalogue := filepath.Join(cfg.ConfigsPath, CatalogueFile)

	place(t, "{", catalogue)
	if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), CatalogueFile) {
		t.Fatalf("a start with a broken catalogue and no earlier one: %v", err)
	}
	place(t, smallCatalogue, catalogue)
	cfg.Monetization = true
	i := startInstance(t, cfg)
	changes := func() float64 { return changesTold(t, i.URL) }
	stopInstance(t, i)
	both := func(text string) []string { return []string{text, text} }
	if d := cmp.Diff(both(smallCatalogue), contentOf(t, cfg, "subscriptions")); d != "" {
		t.Errorf("the catalogue in the logs (-want +got):\n%s", d)
	}
	if d := cmp.Diff(both(`{"monetization":true,"enforce":true}`), contentOf(t, cfg, "enforcement")); d != "" {
		t.Errorf("the switches in the logs (-want +got):\n%s", d)
	}
	if d := cmp.Diff(both(""), contentOf(t, cfg, "entitlements")); d != "" {
		t.Errorf("no manifest is written although there never was one (-want +got):\n%s", d)
	}

	i = startInstance(t, cfg)
	place(t, pluginRules, cfg.PluginsPath, "notes", PluginLimitsFile)
	place(t, "a: [", cfg.PluginsPath, "broken", PluginLimitsFile)
	eventually(t, "rules of two plugins in two logs", func() bool { return changes() == 4 })
	place(t, "{", catalogue)
	eventually(t, "the broken catalogue is told", func() bool { return metricIs(t, i.URL, `grout_config_source_up{source="catalogue"}`, "0") })
	if err := os.RemoveAll(filepath.Join(cfg.PluginsPath, "notes")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rules of a plugin are taken back", func() bool { return changes() == 6 })
	stopInstance(t, i)
	if d := cmp.Diff(both(smallCatalogue), contentOf(t, cfg, "subscriptions")); d != "" {
		t.Errorf("after the catalogue broke (-want +got):\n%s", d)
	}
	for _, versions := range contentOf(t, cfg, "plugin.notes") {
		if !strings.HasSuffix(versions, "null") {
			t.Errorf("the rules of a plugin that is gone: %s", versions)
		}
	}
	for _, versions := range contentOf(t, cfg, "plugin.broken") {
		if !strings.HasPrefix(versions, `{"broken":"`) {
			t.Errorf("the rules of a plugin that is broken: %s", versions)
		}
	}
	i = startInstance(t, cfg) // the catalogue is still broken, and the last one is known
	if n := changes(); n != 0 {
		t.Errorf("a start without changes wrote %v configurations", n)
	}
	stopInstance(t, i)
}

// changesTold gives how many configurations were written into logs.
func changesTold(t *testing.T, url string) float64 {
	t.Helper()
	for n := range 100 {
		if metricIs(t, url, "grout_config_changes_total", fmt.Sprint(n)) {
			return float64(n)
		}
	}
	t.Fatal("grout_config_changes_total is not told")
	return 0
}

// metricIs reports whether a metric, with its labels, has a value.
func metricIs(t *testing.T, url, name, value string) bool {
	t.Helper()
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains("\n"+string(text), "\n"+name+" "+value+"\n")
}

// The control plane's last manifest holds while it is away, over a restart as well.
func TestControlPlaneIsFollowed(t *testing.T) {
	var tier atomic.Value
	var away atomic.Bool
	tier.Store("pro")
	plane := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = io.WriteString(w, strings.Replace(manifestOfDevApp, "pro", tier.Load().(string), 1))
	}))
	defer plane.Close()
	cfg := testConfig(t, 1)
	cfg.ConfigsPath, cfg.PluginsPath = t.TempDir(), t.TempDir()
	cfg.EntitlementSource, cfg.ControlPlaneURL, cfg.ControlPlanePoll = SourceControlPlane, plane.URL, 10*time.Millisecond
	i := startInstance(t, cfg)
	changes := func() float64 { return changesTold(t, i.URL) }
	eventually(t, "the first manifest", func() bool { return changes() == 1 })
	tier.Store("free")
	eventually(t, "the second manifest", func() bool { return changes() == 2 })
	away.Store(true)
	eventually(t, "the control plane is away", func() bool { return metricIs(t, i.URL, `grout_config_source_up{source="manifest"}`, "0") })
	stopInstance(t, i)
	i = startInstance(t, cfg)
	eventually(t, "it is away again", func() bool { return metricIs(t, i.URL, `grout_config_source_up{source="manifest"}`, "0") })
	stopInstance(t, i)
	want := `{"source":"control_plane","manifest":{"app_id":"dev_app","plan":{"tier":"pro"},"version":"1.1"}}` +
		`{"source":"control_plane","manifest":{"app_id":"dev_app","plan":{"tier":"free"},"version":"1.1"}}`
	if d := cmp.Diff([]string{want}, contentOf(t, cfg, "entitlements")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
