package plugins

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDiscovery(t *testing.T) {
	dir := t.TempDir()
	in := func(path string) string { return filepath.Join(dir, "plugins", path) }
	for path, text := range map[string]string{
		"plain/logic.py":                      "",
		"both/logic.py":                       "",
		"both/backend/logic.py":               "",
		"full/plugin.yaml":                    "name: full\nversion: \"3\"\nruntime: {command: [./run]}",
		"far/plugin.yaml":                     "runtime: {kind: nats, subject: far.away}",
		"inner/plugin.yaml":                   "runtime: {kind: go, entry: echo}",
		"off/plugin.yaml":                     "enabled: false",
		"off/logic.py":                        "",
		"thief/plugin.yaml":                   "name: plain",
		"thief/logic.py":                      "",
		"broken/plugin.yaml":                  "a: [",
		"large/plugin.yaml":                   strings.Repeat("#", maxManifestBytes+1),
		"empty/plugin.yaml":                   "",
		"away/plugin.yaml":                    "runtime: {entry: ../plain/logic.py}",
		"absolute/plugin.yaml":                "runtime: {entry: /etc/passwd}",
		"notes/readme.md":                     "",
		"Upper/logic.py":                      "",
		"with-dash/logic.py":                  "",
		".hidden/logic.py":                    "",
		"1st/logic.py":                        "",
		strings.Repeat("l", 65) + "/logic.py": "",
		"file":                                "",
		"linked_code/readme":                  "",
		"linked_manifest/logic.py":            "",
		"linked_inside/real/logic.py":         "",
		"linked_backend/readme":               "",
	} {
		write(t, in(path), text)
	}
	write(t, filepath.Join(dir, "outside", "logic.py"), "")
	write(t, filepath.Join(dir, "outside", "plugin.yaml"), "")
	for path, target := range map[string]string{
		"linked_out":                  "../outside",
		"linked_absolute":             in("plain"),
		"linked_in":                   "plain",
		"linked_nowhere":              "nothing",
		"linked_code/logic.py":        "../../outside/logic.py",
		"linked_manifest/plugin.yaml": "../../outside/plugin.yaml",
		"linked_inside/logic.py":      "real/logic.py",
		"linked_backend/backend":      "../../outside",
	} {
		if err := os.Symlink(target, in(path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(in("folder/logic.py"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(in("pipe"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(in("pipe/plugin.yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{ // backend, or what is wrong
		"plain": "logic.py", "both": "backend/logic.py", "full": "process", "far": "nats", "inner": "go", "off": "logic.py",
		"linked_in": "logic.py", "linked_inside": "logic.py",
		"thief":           `thief/plugin.yaml: name is "plain" in the folder thief`,
		"broken":          "broken/plugin.yaml: yaml:",
		"large":           "large/plugin.yaml: it has more than 262144 bytes",
		"empty":           "empty/plugin.yaml names no runtime.command, and there is no backend/logic.py or logic.py",
		"away":            `away/plugin.yaml: runtime.entry "../plain/logic.py" leads out of the folder`,
		"absolute":        `absolute/plugin.yaml: runtime.entry "/etc/passwd" leads out of the folder`,
		"linked_out":      "linked_out is a symbolic link that leads out",
		"linked_absolute": "linked_absolute is a symbolic link that leads out",
		"linked_nowhere":  "linked_nowhere is a symbolic link that leads out of the directory of plugins, or nowhere",
		"linked_code":     "linked_code/logic.py: it is behind a symbolic link that leads out",
		"linked_manifest": "linked_manifest/plugin.yaml: it is behind a symbolic link that leads out",
		"linked_backend":  "linked_backend/backend/logic.py: it is behind a symbolic link that leads out",
		"folder":          "folder/logic.py is no file",
		"pipe":            "pipe/plugin.yaml: it is no file",
	}
	h := newHost(Options{Dir: in(""), StateDir: filepath.Join(dir, "state"), Timeout: 7 * time.Second, Logger: slog.New(slog.DiscardHandler)}, &fakes{})
	last := ""
	for _, i := range h.List() {
		what, known := want[i.Name]
		delete(want, i.Name)
		if i.Name <= last {
			t.Errorf("%s follows %s", i.Name, last)
		}
		last = i.Name
		switch {
		case !known:
			t.Errorf("%s is listed: %+v", i.Name, i)
		case i.Error == "" && (i.Backend != what || i.Enabled != (i.Name != "off") || i.Limits.Timeout != 7*time.Second):
			t.Errorf("%+v", i)
		case i.Error != "" && (!strings.HasPrefix(i.Error, what) || i.Enabled):
			t.Errorf("%s: %q, want %q", i.Name, i.Error, what)
		}
		if _, err := h.Find(i.Name); (err == nil) != i.Loaded() {
			t.Errorf("%s: %v", i.Name, err)
		}
	}
	for name := range want {
		t.Errorf("%s is not listed", name)
	}
	for _, name := range []string{"", ".", "..", "../plain", "plain/", "PLAIN", "a\x00b", "notes", "Upper", strings.Repeat("x", 1000)} {
		if _, err := h.Find(name); codeOf(err) != "NOT_FOUND" || len(err.Error()) > 250 {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	if _, err := h.Find("nosuch"); err.Error() != "NOT_FOUND: Plugin 'nosuch' not found or disabled" {
		t.Error(err)
	}
}

func TestNoDirectoryMeansNoPlugins(t *testing.T) {
	dir := t.TempDir()
	h := newHost(Options{Dir: filepath.Join(dir, "none"), StateDir: dir, Timeout: time.Second, Logger: slog.New(slog.DiscardHandler)}, &fakes{})
	if l := h.List(); len(l) != 0 {
		t.Errorf("%+v", l)
	}
}
