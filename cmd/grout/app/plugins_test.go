package app

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Plugins in the data directory could not read their own code, so none is looked for there.
func TestPluginsLieOutsideOfTheData(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.MkdirAll(filepath.Join(dir, "data", "plugins"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join("data", "plugins"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for path, within := range map[string]bool{
		"data": true, "data/plugins": true, "data/new": true, "link": true, filepath.Join(dir, "data", "x", "..", "y"): true,
		"plugins": false, ".": false, "data2": false, "..": false,
	} {
		c := DefaultConfig()
		c.DataDir, c.PluginsPath = "data", path
		if _, err := c.hostOptions(); (err != nil) != within || within && !strings.Contains(err.Error(), "MOZAIKS_PLUGINS_PATH") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Every file that a setting names for a secret is hidden from plugins.
func TestSecretFilesAreHidden(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("0123456789abcdef0123456789abcdef"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var environ, want []string
	for _, s := range allSecrets() {
		environ = append(environ, s.env+fileSuffix+"="+file(s.env))
		want = append(want, filepath.Join(dir, s.env))
	}
	for _, env := range []string{"NATS_CREDS", "NATS_NKEY", "NATS_KEY", "MOZAIKS_NATS_TLS_KEY"} {
		environ = append(environ, env+"="+file(env))
		want = append(want, filepath.Join(dir, env))
	}
	c, _, err := load(t, "", environ, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.hostOptions()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(want, c.DataDir) {
		if !slices.Contains(o.Hide, path) {
			t.Errorf("%s can be seen", path)
		}
	}
}
