package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// grout runs the program in the working directory of the test.
func grout(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// clean gives the test an empty directory and an environment without settings.
func clean(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "ENV", "PORT", "NATS_URL", "APP_NAME", "APP_TIER", "INTERNAL_API_KEY", "MONETIZATION":
		default:
			if !strings.HasPrefix(name, "MOZAIKS_") {
				continue
			}
		}
		t.Setenv(name, "") // restores it afterwards
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string // in the only line on stderr
	}{
		{[]string{"--help"}, 0, ""},
		{nil, 0, ""},
		{[]string{"version"}, 0, ""},
		{[]string{"completion", "bash"}, 0, ""},
		{[]string{"sevre"}, 2, "unknown command"},
		{[]string{"serve", "--no-such-flag"}, 2, "grout serve --help"},
		{[]string{"serve", "extra"}, 2, "grout serve --help"},
		{[]string{"version", "-o", "xml"}, 2, "text and json"},
		{[]string{"ingest"}, 2, "grout ingest --help"},
		{[]string{"ingest", "--batch-size", "0", "x.csv"}, 2, "--batch-size"},
		{[]string{"ingest", "--set", "colour=red", "x.csv"}, 2, "the fields are"},
		{[]string{"ingest", "--shift-to", "x", "--shift-to-now", "x.csv"}, 2, "shift-to"},
		{[]string{"ingest", "x.csv"}, 1, "no internal key"},
		{[]string{"serve", "--http-addr", "0.0.0.0:0"}, 1, "flag --http-addr"},
		{[]string{"serve", "--config", "missing.yaml"}, 1, "missing.yaml"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			clean(t)
			code, _, stderr := grout(t, tt.args...)
			if code != tt.code || !strings.Contains(stderr, tt.want) {
				t.Errorf("exit %d with %q, want %d with %q", code, stderr, tt.code, tt.want)
			}
			if tt.code != 0 && strings.Count(strings.TrimRight(stderr, "\n"), "\n") != 0 && !strings.Contains(stderr, "Did you mean") {
				t.Errorf("more than one line: %q", stderr)
			}
		})
	}
}

func TestVersionJSON(t *testing.T) {
	_, stdout, _ := grout(t, "version", "-o", "json")
	var v buildVersion
	if err := json.Unmarshal([]byte(stdout), &v); err != nil || v.Version == "" || v.Go == "" {
		t.Errorf("version -o json = %s, %v", stdout, err)
	}
}

func TestConfigShow(t *testing.T) {
	dir := clean(t)
	t.Setenv("INTERNAL_API_KEY", "hush")
	t.Setenv("MOZAIKS_DATADIR", "x")
	if err := os.WriteFile(filepath.Join(dir, "grout.yaml"), []byte("app_tier: pro\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := grout(t, "config", "show", "--origin", "--log-level", "debug")
	if code != 0 || strings.Contains(stdout+stderr, "hush") {
		t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
	}
	lines := map[string]string{}
	for line := range strings.Lines(stdout) {
		fields := strings.Fields(line)
		lines[fields[0]] = strings.Join(fields[1:], " ")
	}
	for name, want := range map[string]string{
		"app_tier":         "pro grout.yaml: app_tier",
		"log_level":        "debug flag --log-level",
		"data_dir":         "./data default",
		"internal_api_key": "(hidden) environment INTERNAL_API_KEY",
	} {
		if lines[name] != want {
			t.Errorf("%s: %q, want %q", name, lines[name], want)
		}
	}
	if !strings.Contains(stderr, "did you mean MOZAIKS_DATA_DIR?") {
		t.Errorf("no warning on stderr: %q", stderr)
	}
	code, stdout, _ = grout(t, "config", "show", "-o", "json")
	var rows []map[string]string
	if err := json.Unmarshal([]byte(stdout), &rows); code != 0 || err != nil || rows[0]["name"] != "data_dir" || rows[0]["origin"] != "default" {
		t.Errorf("exit %d, %v:\n%s", code, err, stdout)
	}
}
