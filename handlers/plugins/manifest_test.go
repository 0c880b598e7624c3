package plugins

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, text string) (manifest, error) {
	t.Helper()
	return parseManifest([]byte(text), defaultManifest("my_plugin2go", 30*time.Second))
}

func TestManifestDefaults(t *testing.T) {
	want := manifest{
		Name: "my_plugin2go", Version: "1.0.0", DisplayName: "My Plugin2Go", Description: "Plugin for my_plugin2go",
		Enabled: true, Kind: "process",
		Limits: Limits{Timeout: 30 * time.Second, Concurrency: 4, Queue: 128, QueueTimeout: 10 * time.Second, MaxInputBytes: 4 << 20, MaxOutputBytes: 4 << 20, MemoryBytes: 512 << 20},
	}
	for _, text := range []string{"", "# nothing\n", "name: my_plugin2go\n", "limits:\nruntime:\n", "enabled: true", "\xef\xbb\xbfenabled: true"} {
		got, err := parse(t, text)
		if err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%q: %v\n%s", text, err, cmp.Diff(want, got))
		}
	}
}

func TestManifestIsReadWhole(t *testing.T) {
	got, err := parse(t, `
name: my_plugin2go
version: "2.1"
display_name: Mine
description: Does things
enabled: false
runtime:
  kind: process
  command: [node, main.js]
  env: {MODEL: "x", N: "1"}
limits:
  timeout: 1m30s
  concurrency: 7
  queue: 0
  queue_timeout: 0.5
  max_input_bytes: 1000
  max_output_bytes: 1MiB
  memory_bytes: 64MiB
  cpu_seconds: 2
retry_on_crash: true
`)
	want := manifest{
		Name: "my_plugin2go", Version: "2.1", DisplayName: "Mine", Description: "Does things",
		Kind: "process", Command: []string{"node", "main.js"}, Env: map[string]string{"MODEL": "x", "N": "1"},
		Limits:       Limits{90 * time.Second, 7, 0, 500 * time.Millisecond, 1000, 1 << 20, 64 << 20, 2 * time.Second},
		RetryOnCrash: true,
	}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v\n%s", err, cmp.Diff(want, got))
	}
}

func TestManifestFaultsNameTheField(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"name: [", "yaml:"},
		{"- a", "yaml:"},
		{"name: a\nname: a", "already defined"},
		{"1: a", "cannot be written as JSON|\"1\" is not known"},
		{"name: other", `name is "other" in the folder my_plugin2go`},
		{"version: 1.0", "version must be a text, not the number 1: put it in quotes"},
		{"enabled: 1", "enabled must be true or false, not the number 1"},
		{"enabled: \"yes\"", "enabled must be true or false"},
		{"colour: red", `"colour" is not known (known are description,`},
		{"limit: {}", `"limit" is not known (did you mean limits?)`},
		{"limits: 3", "limits must be an object, not the number 3"},
		{"limits: {timeouts: 3}", `"limits.timeouts" is not known (did you mean timeout?)`},
		{"limits: {timeout: 0}", "limits.timeout must be a time of 1ms to 24h0m0s"},
		{"limits: {timeout: -1s}", "limits.timeout"},
		{"limits: {timeout: 25h}", "limits.timeout"},
		{"limits: {timeout: 1e300}", "limits.timeout"},
		{"limits: {timeout: .nan}", "NaN"},
		{"limits: {timeout: soon}", `limits.timeout must be a time of 1ms to 24h0m0s, like 30s or 30, not "soon"`},
		{"limits: {concurrency: 0}", "limits.concurrency must be a whole number of 1 to 256, not 0"},
		{"limits: {concurrency: 257}", "limits.concurrency"},
		{"limits: {concurrency: 1.5}", "limits.concurrency"},
		{"limits: {concurrency: many}", "limits.concurrency must be a whole number of 1 to 256, not the text"},
		{"limits: {queue: -1}", "limits.queue"},
		{"limits: {queue: 99999999999999999999}", "limits.queue"},
		{"limits: {queue_timeout: 2h}", "limits.queue_timeout"},
		{"limits: {max_input_bytes: 0}", "limits.max_input_bytes"},
		{"limits: {max_input_bytes: 4194305}", "limits.max_input_bytes"},
		{"limits: {max_output_bytes: 5MiB}", "limits.max_output_bytes"},
		{"limits: {max_output_bytes: 9223372036854775807TiB}", "limits.max_output_bytes"},
		{"limits: {max_output_bytes: -1KiB}", "limits.max_output_bytes"},
		{"limits: {memory_bytes: 1MiB}", "limits.memory_bytes"},
		{"limits: {cpu_seconds: 0}", "limits.cpu_seconds"},
		{"runtime: {kind: docker}", `runtime.kind must be one of process, nats, go, not "docker"`},
		{"runtime: {command: node}", "runtime.command must be a list"},
		{"runtime: {command: []}", "runtime.command must be a list"},
		{"runtime: {command: [1]}", "runtime.command[0] must be a text, not the number 1: put it in quotes"},
		{`runtime: {command: ["a\0b"]}`, "runtime.command[0]"},
		{`runtime: {command: [a], entry: b.py}`, "runtime.entry is the file"},
		{`runtime: {kind: nats, command: [a]}`, "runtime.command is for plugins of kind process"},
		{`runtime: {kind: go, env: {A: b}}`, "runtime.env is for plugins of kind process"},
		{`runtime: {subject: a}`, "runtime.subject is for plugins of kind nats"},
		{`runtime: {kind: nats, subject: "a.*"}`, "runtime.subject must be names"},
		{`runtime: {kind: nats, subject: "a..b"}`, "runtime.subject must be names"},
		{`runtime: {kind: nats, subject: "mozaiks.v1.evt.a"}`, "runtime.subject must not begin"},
		{`runtime: {kind: nats, subject: "$JS.API.INFO"}`, "runtime.subject"},
		{`runtime: {env: {"A B": c}}`, `runtime.env has a variable "A B"`},
		{`runtime: {env: {A: 1}}`, "runtime.env.A must be a text, not the number 1: put it in quotes"},
		{`runtime: {env: {HOME: /}}`, "runtime.env.HOME is set by grout"},
		{`runtime: {env: {GROUT_X: y}}`, "runtime.env.GROUT_X is set by grout"},
		{"retry_on_crash: maybe", "retry_on_crash must be true or false"},
		{"description: \"" + strings.Repeat("d", 2001) + "\"", "description must have 0 to 2000 characters, not 2001"},
		{"limits: {queue: -1, concurrency: 0}", "limits.concurrency must be a whole number of 1 to 256, not 0; limits.queue must"},
	} {
		_, err := parse(t, c.text)
		if err == nil {
			t.Errorf("%q is taken", c.text)
			continue
		}
		found := false
		for part := range strings.SplitSeq(c.want, "|") {
			found = found || strings.Contains(err.Error(), part)
		}
		if !found || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %q, want %q", c.text, err, c.want)
		}
	}
}

func TestManifestAliasesAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString("a: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 8 {
		name := string(rune('a' + i))
		text.WriteString(name + "x: &a" + string(rune('1'+i)) + " [" + strings.Repeat("*a"+string(rune('0'+i))+",", 9) + "*a" + string(rune('0'+i)) + "]\n")
	}
	if _, err := parse(t, text.String()); err == nil {
		t.Error("a hundred million elements are taken")
	}
}
