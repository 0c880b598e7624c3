package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"grout/integration/process"
)

// buffer may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fresh starts grout as a newcomer does: with no setting but where to listen.
func fresh(t *testing.T, env ...string) (p *process.Process, dir string, printed *buffer) {
	t.Helper()
	dir = t.TempDir()
	printed = &buffer{}
	p, err := process.Start(t.Context(), process.Options{
		Binary: grout, Data: filepath.Join(dir, "data"), GenerateSecrets: true, Stdout: printed,
		Env: append(env, "MOZAIKS_DATA_DIR=./data"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	for deadline := time.After(10 * time.Second); !strings.Contains(printed.String(), "Try"); {
		select { // what was printed before the process was ready is still on its way
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("nothing was printed")
		}
	}
	return p, dir, printed
}

func shell(t *testing.T, dir, script string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

var shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")

// readmeAnswers are what people are to see of commands whose failure does not show in an
// exit code.
var readmeAnswers = map[string]string{
	"unittest discover -s plugins/greet": "OK",
	"plugins new greet":                  `"text": "Hello Ann!"`,
	"sed -i.bak":                         `"text": "Good morning Ann!"`,
	"runs list --plugin greet":           " completed ",
	"plugins logs greet":                 "greeting Ann",
	"execute/wordcount":                  `{"words":4,"longest":"again"}`,
	"plugins run reply":                  "example-1",
}

// Every sh block of the README works against a fresh grout, in order.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	p, dir, _ := fresh(t)
	if err := os.CopyFS(filepath.Join(dir, "docs", "examples"), os.DirFS("../docs/examples")); err != nil {
		t.Fatal(err)
	}
	for command := range readmeAnswers {
		if !bytes.Contains(text, []byte(command)) {
			t.Errorf("the README does not have %q any more", command)
		}
	}
	blocks := shellBlock.FindAllSubmatch(text, -1)
	if len(blocks) < 5 {
		t.Fatalf("the README has %d sh blocks", len(blocks))
	}
	wanted := 6 // events that are counted in the end
	for i, b := range blocks {
		script := strings.NewReplacer(
			"http://127.0.0.1:8080", p.URL, "go run ./cmd/grout ingest", grout+" ingest --url "+p.URL,
			"go run ./cmd/grout usage", grout+" usage --url "+p.URL, "go run ./cmd/grout entitlements get", grout+" entitlements get --url "+p.URL,
			"go run ./cmd/grout entitlements explain", grout+" entitlements explain --url "+p.URL,
			"go run ./cmd/grout plugins run", grout+" plugins run --url "+p.URL, "go run ./cmd/grout runs list", grout+" runs list --url "+p.URL,
			"go run ./cmd/grout", grout,
		).Replace(string(b[1]))
		if _, err := exec.LookPath("node"); err != nil && strings.Contains(script, "Node.js") {
			t.Logf("not tried, the program node is not here: %s", script)
			wanted--
			continue
		}
		out, err := shell(t, dir, script)
		if err != nil || strings.Contains(out, `"error_code"`) {
			t.Errorf("block %d: %v\n%s\n%s", i, err, script, out)
		}
		for command, want := range readmeAnswers {
			if strings.Contains(string(b[1]), command) && !strings.Contains(out, want) {
				t.Errorf("block %d: no %q in\n%s\n%s", i, want, script, out)
			}
		}
	}
	out, err := shell(t, dir, fmt.Sprintf(`curl -sS "%s/api/usage?app_id=dev_app" -H "X-Internal-API-Key: $(cat data/secrets/internal_api_key)"`, p.URL))
	if err != nil || !strings.Contains(out, fmt.Sprintf(`"events":%d,`, wanted)) {
		t.Errorf("after the README's commands: %v %s, want %d events", err, out, wanted)
	}
	stop(t, p)
}

// What serve prints can be pasted. The nats command is tried where its program is.
func TestPrintedCommands(t *testing.T) {
	p, dir, printed := fresh(t)
	tried := 0
	for line := range strings.Lines(printed.String()) {
		line = strings.TrimSpace(line)
		name, _, _ := strings.Cut(line, " ")
		switch name {
		case "curl":
			tried++
			out, err := shell(t, dir, line)
			if err != nil || !strings.Contains(out, `"accepted":1`) && !strings.Contains(out, `"input_tokens":1500`) {
				t.Errorf("%s\n%v: %s", line, err, out)
			}
		case "nats":
			tried++
			if _, err := exec.LookPath("nats"); err != nil {
				t.Logf("not tried, the program nats is not here: %s", line)
				continue
			}
			out, _ := shell(t, dir, "timeout 5 "+line)
			want := "ai.mozaiks.usage.recorded.v1"
			if strings.Contains(line, " pub ") {
				want = "Stored in Stream: MOZAIKS_IN"
			}
			if !strings.Contains(out, want) {
				t.Errorf("%s\n%s", line, out)
			}
		}
	}
	if tried != 4 {
		t.Errorf("%d commands were printed, want 4:\n%s", tried, printed)
	}
	for _, secret := range []string{"internal_api_key", "service_key", "jwt_secret", "nats_platform_password", "nats_consumer_password", "nats_admin_password", "nats_plugin_password"} {
		value, err := os.ReadFile(filepath.Join(dir, "data", "secrets", secret))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(printed.String(), strings.TrimSpace(string(value))) {
			t.Errorf("%s was generated and not printed", secret)
		}
		if strings.Contains(p.Log(), strings.TrimSpace(string(value))) {
			t.Errorf("%s is in the log", secret)
		}
	}
	stop(t, p)
}
