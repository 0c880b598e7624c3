package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every scaffold has what a plugin needs, names the plugin where it must, and passes its
// own test.
func TestScaffolds(t *testing.T) {
	for _, k := range scaffoldKinds {
		t.Run(k.name, func(t *testing.T) {
			clean(t)
			code, stdout, stderr := grout(t, "plugins", "new", "my_first", "--kind", k.name)
			if code != 0 || !strings.Contains(stdout, "made plugins/my_first: ") || !strings.Contains(stdout, "grout plugins run my_first") {
				t.Fatalf("exit %d, %s\n%s", code, stderr, stdout)
			}
			dir := filepath.Join("plugins", "my_first")
			for file, want := range map[string]string{
				"plugin.yaml":       "name: my_first\ndisplay_name: \"My First\"\n",
				"entitlements.yaml": "plugin: my_first\n",
			} {
				if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(text), want) {
					t.Errorf("%s: %v\n%s", file, err, text)
				}
			}
			if left, _ := filepath.Glob("plugins/.new-*"); left != nil {
				t.Errorf("left behind: %s", left)
			}
			runScaffoldTest(t, k, dir)
			if code, stdout, stderr := grout(t, "plugins", "check", "my_first"); code != 0 || !strings.Contains(stdout, " good") {
				t.Errorf("check: exit %d\n%s%s", code, stdout, stderr)
			}
			for file := range strings.SplitSeq(strings.TrimSpace(strings.TrimPrefix(strings.SplitN(stdout, "\n", 2)[0], "made "+dir+": ")), ", ") {
				text, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil || bytes.Contains(text, []byte("__NAME__")) || bytes.Contains(text, []byte("__TITLE__")) || bytes.Contains(text, []byte("__DIR__")) {
					t.Errorf("%s: %v\n%s", file, err, text)
				}
			}
		})
	}
}

// needs skips a test where a program is missing; CI must have it.
func needs(t *testing.T, program string) {
	t.Helper()
	_, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") != "" {
		t.Fatalf("%s is missing, which CI needs", program)
	}
	if err != nil {
		t.Skipf("not tried, %s is not on this machine", program)
	}
}

// runScaffoldTest runs the command that the scaffold tells people to run.
func runScaffoldTest(t *testing.T, k scaffoldKind, dir string) {
	t.Helper()
	command := strings.ReplaceAll(k.test, "%", dir)
	needs(t, strings.Fields(command)[0])
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
	if text := string(out); !strings.Contains(text, "OK") && !strings.Contains(text, "pass 3") {
		t.Errorf("%s ran no test:\n%s", command, text)
	}
}

// What is there is left as it is, and what cannot be a plugin is not made.
func TestScaffoldRefusals(t *testing.T) {
	clean(t)
	if err := os.MkdirAll("plugins/mine", 0o755); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"mine":                    "plugins/mine is there already",
		"Mine":                    "no name of a plugin",
		"../x":                    "no name of a plugin",
		"x/y":                     "no name of a plugin",
		"9x":                      "no name of a plugin",
		"new --kind cobol":        "--kind is python",
		"new --title a\"b":        "--title",
		"new --title a\x1b[1m":    "--title",
		"new --plugins-path mine": "",
	} {
		code, _, stderr := grout(t, append([]string{"plugins", "new"}, strings.Fields(args)...)...)
		if (code == 0) != (want == "") || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit %d, %q, want %q", args, code, stderr, want)
		}
	}
	entries, err := os.ReadDir("plugins")
	if err != nil || len(entries) != 1 || entries[0].Name() != "mine" {
		t.Errorf("%v %v", entries, err)
	}
}

func TestLastLines(t *testing.T) {
	for _, tt := range []struct {
		text string
		n    int
		want string
	}{
		{"", 3, ""}, {"a\n", 1, "a\n"}, {"a\nb\nc\n", 2, "b\nc\n"}, {"a\nb", 1, "b"}, {"a\nb\n", 5, "a\nb\n"}, {"a\n\nb\n", 2, "\nb\n"}, {"a\nb\n", 0, "a\nb\n"},
	} {
		if got := string(lastLines([]byte(tt.text), tt.n)); got != tt.want {
			t.Errorf("%q, %d: %q, want %q", tt.text, tt.n, got, tt.want)
		}
	}
}

// A log that is followed is printed once and whole, also when it is rotated meanwhile.
func TestFollowedLog(t *testing.T) {
	dir := t.TempDir()
	old, now := filepath.Join(dir, "x.log.1"), filepath.Join(dir, "x.log")
	add := func(path, text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	var out bytes.Buffer
	l := logReader{paths: []string{old, now}, out: &out}
	defer l.close()
	more := func(want string) {
		t.Helper()
		out.Reset()
		if err := l.more(); err != nil || out.String() != want {
			t.Errorf("%q %v, want %q", &out, err, want)
		}
	}
	if found, err := l.end(10); found || err != nil {
		t.Errorf("a log that is not there: %v %v", found, err)
	}
	more("")
	add(now, "1\n")
	more("1\n")
	add(now, "2\n")
	if err := os.Rename(now, old); err != nil {
		t.Fatal(err)
	}
	more("2\n")
	add(now, "3\n4\n")
	more("3\n4\n")
	add(now, "5\n")
	if err := os.Rename(now, old); err != nil {
		t.Fatal(err)
	}
	add(now, "6\n")
	more("5\n6\n")
	again := logReader{paths: []string{old, now}, out: &out}
	defer again.close()
	out.Reset()
	if found, err := again.end(3); !found || err != nil || out.String() != "4\n5\n6\n" {
		t.Errorf("the last three lines: %q %v", &out, err)
	}
}

func TestPlainLines(t *testing.T) {
	var out bytes.Buffer
	p := plainLines{out: &out}
	for _, part := range []string{"a\tb\x1b[2J\n\xc3", "\xa9t\xc3\xa9 \u009b1m\nrest"} {
		if n, err := p.Write([]byte(part)); n != len(part) || err != nil {
			t.Errorf("%d %v", n, err)
		}
	}
	if got, want := out.String(), "a    b\ufffd[2J\n\u00e9t\u00e9 \ufffd1m\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPluginInput(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "in.json")
	if err := os.WriteFile(file, []byte(`{"a":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		dry  bool
		want string // empty: refused
	}{
		{nil, false, "{}"},
		{[]string{`{"b": 2}`}, false, `{"b": 2}`},
		{[]string{"-"}, false, `{"c":3}`},
		{[]string{"@" + file}, false, `{"a":1}`},
		{[]string{`{"b":2}`}, true, `{"_entitlement_dry_run":true,"b":2}`},
		{[]string{"[1]"}, false, ""},
		{[]string{"null"}, false, ""},
		{[]string{"name=Ann"}, false, ""},
		{[]string{"@" + file + "x"}, false, ""},
	} {
		got, err := pluginInput(tt.args, strings.NewReader(`{"c":3}`), tt.dry)
		if string(got) != tt.want && err == nil || (err == nil) != (tt.want != "") {
			t.Errorf("%q: %q %v, want %q", tt.args, got, err, tt.want)
		}
	}
}

func TestScaffoldKindsAreAllThere(t *testing.T) {
	list, err := scaffolds.ReadDir("scaffold")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list {
		if !slices.ContainsFunc(scaffoldKinds, func(k scaffoldKind) bool { return k.name == entry.Name() }) {
			t.Errorf("scaffold/%s can never be made", entry.Name())
		}
	}
}

// The examples are tried by their own tests, and speak the protocol by the same program
// as a new plugin.
func TestExamplePlugins(t *testing.T) {
	dir, err := filepath.Abs("../../docs/examples/plugins")
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(filepath.Join(dir, "reply", "worker.mjs"))
	want, err2 := scaffolds.ReadFile("scaffold/node/worker.mjs")
	if err != nil || err2 != nil || !bytes.Equal(have, want) {
		t.Errorf("%v %v: the worker of the example reply is not that of a new plugin", err, err2)
	}
	for _, command := range []string{"python3 -m unittest wordcount.test_logic", "node --test reply/logic.test.mjs"} {
		t.Run(command, func(t *testing.T) {
			program, _, _ := strings.Cut(command, " ")
			needs(t, program)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "sh", "-c", command)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1")
			out, err := cmd.CombinedOutput()
			if err != nil || !bytes.Contains(out, []byte("OK")) && !bytes.Contains(out, []byte("pass 2")) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestPluginsCheck(t *testing.T) {
	clean(t)
	do := func(want int, args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := grout(t, append([]string{"plugins", "check"}, args...)...)
		if code != want {
			t.Fatalf("%q: exit %d, want %d\n%s%s", args, code, want, stdout, stderr)
		}
		return plain(stdout), stderr
	}
	if out, _ := do(0); out != "no plugin in ./plugins; grout plugins new NAME makes one\n" {
		t.Errorf("%q", out)
	}
	placePlugin(t, "echo", "plugin.yaml", "version: 1.2.3\nruntime: {kind: go}\n")
	placePlugin(t, "good", "logic.py", "def run(data):\n    return {}\n")
	placePlugin(t, "far", "plugin.yaml", "runtime: {kind: nats}\n")
	placePlugin(t, "off", "plugin.yaml", "enabled: false\nruntime: {kind: go, entry: echo}\n")
	if out, _ := do(0); out != "plugin kind version is\n"+
		"echo go 1.2.3 good\n"+
		"far nats 1.0.0 good; its service is not looked for; a running grout does that\n"+
		"good process 1.0.0 good\n"+
		"off go 1.0.0 good; switched off: enabled is false\n" {
		t.Errorf("%s", out)
	}
	placePlugin(t, "raises", "logic.py", "raise RuntimeError('no luck')\n")
	placePlugin(t, "typo", "plugin.yaml", "runtime: {kind: go, entry: echo}\nlimits: {timeout: fast, memroy_bytes: 5}\n")
	placePlugin(t, "echo", "entitlements.yaml", "schema_version: '2'\n")
	placePlugin(t, "Loud", "logic.py", "")
	placePlugin(t, "empty", "README", "")
	out, errs := do(1)
	for _, want := range []string{
		"echo go 1.2.3 entitlements.yaml: ", "; the plugin is closed while MONETIZATION is on\n",
		"raises process 1.0.0 RuntimeError: no luck\n", "limits.timeout must be a time", "did you mean memory_bytes?",
		"Loud is passed over: names are lower-case",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if !strings.Contains(errs, "plugin echo cannot be used as it is") || strings.Contains(out, "\nempty ") {
		t.Errorf("%s%s", out, errs)
	}
	if out, _ = do(0, "good"); strings.Contains(out, "raises") {
		t.Errorf("%s", out)
	}
	out, _ = do(1, "empty", "nothing", "-o", "json")
	if !strings.Contains(out, "its folder has none of plugin.yaml, backend/logic.py, logic.py") || !strings.Contains(out, "there is no folder nothing in ./plugins") {
		t.Errorf("%s", out)
	}
	if _, err := os.Stat("data"); err == nil {
		t.Error("a check has made a data directory")
	}
}
