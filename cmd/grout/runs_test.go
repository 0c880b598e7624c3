package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// placePlugin writes a file of a plugin.
func placePlugin(t *testing.T, name, file, text string) {
	t.Helper()
	dir := filepath.Join("plugins", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

var (
	runTold  = regexp.MustCompile(`run ([0-9a-f-]+)`)
	duration = regexp.MustCompile(`\b[0-9.]+(µs|ms|s)\b|\b0s\b`)
)

func TestPluginAndRunCommands(t *testing.T) {
	url := running(t)
	do := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := grout(t, append(args, "--url", url)...)
		if code != want {
			t.Fatalf("%q: exit %d, want %d\n%s%s", args, code, want, stdout, stderr)
		}
		return stdout, stderr
	}
	says := func(got, want string) {
		t.Helper()
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	out, _ := do(0, "plugins", "list")
	says(out, "no plugin; grout plugins new NAME makes one")
	_, errs := do(1, "plugins", "run", "echo")
	says(errs, "404 Plugin 'echo' not found or disabled (NOT_FOUND)")

	// A plugin that is new on disk is waited for.
	placePlugin(t, "echo", "plugin.yaml", "description: Says it again\nruntime: {kind: go}\n")
	out, errs = do(0, "plugins", "run", "echo", `{"a": [1, 2], "user_id": "forged"}`, "--user", "ann", "--role", "editor,chief")
	var got struct {
		A      []int
		UserID string                   `json:"user_id"`
		JWT    string                   `json:"user_jwt"`
		Who    struct{ Roles []string } `json:"_context"`
	}
	if err := json.Unmarshal([]byte(out), &got); err != nil || len(got.A) != 2 || got.UserID != "ann" || len(got.Who.Roles) != 2 || strings.Contains(got.JWT, ".") {
		t.Errorf("%v: %s", err, out)
	}
	if !regexp.MustCompile(`^run \S+ completed after \S+s\n$`).MatchString(errs) {
		t.Errorf("%q", errs)
	}
	first := runTold.FindStringSubmatch(errs)[1]

	_, errs = do(1, "plugins", "run", "echo", `{"error": "boom\u001b[31m", "error_code": "OWN"}`)
	says(errs, "500 boom\ufffd[31m (OWN); run ")
	says(errs, "see grout plugins logs echo")
	failed := runTold.FindStringSubmatch(errs)[1]

	out, errs = do(0, "plugins", "run", "echo", "--dry-run")
	says(out, `"dry_run": true`)
	if errs != "" {
		t.Errorf("a dry run said %q", errs)
	}
	out, errs = do(0, "plugins", "run", "echo", `{"b": 1}`, "--async", "-o", "json")
	says(errs, " accepted\n")
	says(out, `"status_url"`)
	out, _ = do(0, "plugins", "run", "echo", `{"n": 1}`, "--key", "k1", "--user", "ann")
	again, _ := do(0, "plugins", "run", "echo", `{"n": 1}`, "--key", "k1", "--user", "ann")
	if out != again {
		t.Errorf("the same key gave\n%s, then\n%s", out, again)
	}
	_, errs = do(1, "plugins", "run", "echo", `{"n": 2}`, "--key", "k1", "--user", "ann")
	says(errs, "IDEMPOTENCY_KEY_REUSED")

	out, _ = do(0, "plugins", "list")
	if got, want := plain(out), "plugin version state about\necho 1.0.0 on Says it again\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}

	out, _ = do(0, "runs", "list", "--app", "dev_app")
	if n := strings.Count(out, "\n"); n != 5 || strings.Index(out, first) < strings.Index(out, failed) {
		t.Errorf("%d lines, the newest not first?\n%s", n, out)
	}
	out, _ = do(0, "runs", "list", "--app", "dev_app", "--status", "failed", "--since", "-1h")
	if got, want := duration.ReplaceAllString(plain(out), "TIME"), "run what user status started took code\nUUID echo dev failed TIME TIME OWN\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	out, _ = do(0, "runs", "list", "--app", "dev_app", "--limit", "1")
	says(out, "older ones: --cursor ")
	out, _ = do(0, "runs", "show", failed, "--app", "dev_app")
	for _, want := range []string{"plugin      echo\n", "status      failed\n", "code        OWN\n", "orchestration.run_started", "orchestration.run_failed"} {
		says(out, want)
	}
	out, _ = do(0, "runs", "show", first, "--app", "dev_app", "-o", "json")
	if !json.Valid([]byte(out)) {
		t.Errorf("%s", out)
	}
	_, errs = do(1, "runs", "cancel", first, "--app", "dev_app")
	says(errs, "409 ")
	says(errs, "RUN_FINISHED")
	_, errs = do(1, "runs", "show", "nothing", "--app", "dev_app")
	says(errs, "NOT_FOUND")
}

// A refusal says where to look.
func TestRefusalsSayWhereToLook(t *testing.T) {
	for text, want := range map[string]string{
		`{"detail":"Plugin 'x' not found.","error_code":"PLUGIN_LOAD_FAILED"}`:   "404 Plugin 'x' not found. (PLUGIN_LOAD_FAILED); grout plugins list has the reason, grout plugins check x tries it",
		`{"detail":"Plugin 'x' not found or disabled","error_code":"NOT_FOUND"}`: "404 Plugin 'x' not found or disabled (NOT_FOUND); see grout plugins list",
		`{"detail":"The app has no chat with this id","error_code":"NOT_FOUND"}`: "404 The app has no chat with this id (NOT_FOUND)",
	} {
		got := executed{status: 404, text: []byte(text)}
		if _, err := got.refusal("x", "hint"); err.Error() != want {
			t.Errorf("%s, want %s", err, want)
		}
	}
}

// A token of the environment goes first, and one that does not hold is told as such.
func TestOwnToken(t *testing.T) {
	url := running(t)
	t.Setenv("MOZAIKS_TOKEN", "not-a-token")
	code, _, stderr := grout(t, "plugins", "list", "--url", url)
	if code != 1 || !strings.Contains(stderr, "401 Could not validate credentials") {
		t.Errorf("exit %d, %q", code, stderr)
	}
	code, _, stderr = grout(t, "plugins", "run", "echo", "--url", url)
	if code != 1 || !strings.Contains(stderr, "check MOZAIKS_TOKEN") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}
