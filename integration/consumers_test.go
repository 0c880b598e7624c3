package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"grout/integration/process"
)

// natsOf are the variables with which a program reads facts.
func natsOf(p *process.Process) []string {
	return append(os.Environ(), "NATS_URL="+p.NATS, "NATS_PASSWORD="+process.ConsumerPassword, "NATS_PLATFORM_PASSWORD="+process.PlatformPassword)
}

// used is what an app has used.
type used struct {
	Events int64 `json:"events"`
	Tokens int64 `json:"total_tokens"`
}

// traffic ingests events of two apps, sends some of them again and corrects others.
func traffic(t *testing.T, p *process.Process, round int) {
	t.Helper()
	for i := range 20 {
		app := fmt.Sprintf("shop-%d", i%2)
		event := func(n int) string {
			return fmt.Sprintf(`{"event_id":"e-%d-%d-%d","timestamp":%q,"app_id":%q,"user_id":"ann","model":"m","chat_id":"c-%d","input_tokens":%d,"output_tokens":1}`,
				round, i, n, time.Now().UTC().Format(time.RFC3339), app, i%3, 10+n)
		}
		body := fmt.Sprintf(`{"events":[%s,%s,%s]}`, event(0), event(1), event(2))
		request(t, p, "POST", "/api/usage/ingest", body).want(t, 200)
		request(t, p, "POST", "/api/usage/ingest", body).want(t, 200) // counts nothing
		if i%5 == 0 {
			request(t, p, "POST", fmt.Sprintf("/api/usage/events/e-%d-%d-0/void", round, i), fmt.Sprintf(`{"app_id":%q}`, app)).want(t, 200)
		}
		if i%7 == 0 {
			summary := fmt.Sprintf(`{"event_type":"chat.usage_summary","app_id":%q,"user_id":"ann","chat_id":"c-%d","timestamp":%q,"input_tokens":%d,"output_tokens":9}`,
				app, i%3, time.Now().UTC().Format(time.RFC3339), 200*(round+1))
			request(t, p, "POST", "/api/usage/ingest", summary).want(t, 200)
		}
	}
}

// TestExampleConsumer: the example agrees with GET /api/usage in the end, although it is
// killed while it works, is sent everything again, and grout is killed as well.
func TestExampleConsumer(t *testing.T) {
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("GROUT_CONSUMER_ROUNDS")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	example, state, data := filepath.Join(dir, "consumer"), filepath.Join(dir, "state.jsonl"), filepath.Join(dir, "data")
	if err := build(example, "grout/docs/examples/consumers/go"); err != nil {
		t.Fatal(err)
	}
	p := start(t, data, 1)
	u, err := url.Parse(p.NATS)
	if err != nil {
		t.Fatal(err)
	}
	listen := "MOZAIKS_NATS_LISTEN=" + u.Host
	run := func(args ...string) *exec.Cmd {
		c := exec.Command(example, append([]string{"-state", state, "-ack-wait", "2s"}, args...)...)
		c.Env = natsOf(p)
		c.Stderr = t.Output()
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c
	}
	for round := range rounds {
		c, size := run(), stateSize(state)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if round == rounds/2 { // while the consumer reads
			p.Kill()
			p = start(t, data, 1, listen)
		}
		traffic(t, p, round)
		waitFor(t, func() bool { return stateSize(state) > size+500 }) // it is in the middle of it, or behind
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
		if round == 1 {
			tear(t, state)
		}
	}
	want := map[string]used{}
	for i := range 2 {
		app := fmt.Sprintf("shop-%d", i)
		var report struct{ Totals used }
		request(t, p, "GET", "/api/usage?app_id="+app, nil).want(t, 200).into(t, &report)
		want[app] = report.Totals
	}
	for _, name := range []string{"usage-sums", "another-name"} { // the second is sent everything again
		out, err := run("-exit-when-idle", "1s", "-name", name).Output()
		got := map[string]used{}
		if err != nil || json.Unmarshal(out, &got) != nil {
			t.Fatalf("%v %s", err, out)
		}
		for app := range want {
			if got[app] != want[app] {
				t.Errorf("%s: the consumer has %+v of %s, GET /api/usage %+v", name, got[app], app, want[app])
			}
		}
	}
	stop(t, p)
}

func stateSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// tear adds the beginning of a line, as a crash leaves it.
func tear(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(`{"fact":"//mozaiks.ai/app/shop-0/grout`); err != nil {
		t.Fatal(err)
	}
}

var codeBlock = regexp.MustCompile("(?s)```(go|python|js|bash)\n(.*?)```")

// TestConsumerSnippets runs what docs/consumers.md shows, where what it needs is here. The
// one in Go runs everywhere.
func TestConsumerSnippets(t *testing.T) {
	text, err := os.ReadFile("../docs/consumers.md")
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	request(t, p, "POST", "/api/usage/ingest", fmt.Sprintf(`{"events":[{"event_id":"e-1","timestamp":%q,"app_id":"dev_app","user_id":"ann","model":"m","input_tokens":1,"output_tokens":1}]}`,
		time.Now().UTC().Format(time.RFC3339))).want(t, 200)
	seen := map[string]int{}
	for _, b := range codeBlock.FindAllSubmatch(text, -1) {
		language, code := string(b[1]), string(b[2])
		seen[language]++
		t.Run(language+strconv.Itoa(seen[language]), func(t *testing.T) {
			switch language {
			case "go":
				snippet(t, p, code, "main.go", "usage.recorded", "go", "run")
			case "python":
				snippet(t, p, code, "facts.py", "usage.recorded", needs(t, "python3", "-c", "import nats"))
			case "js":
				needs(t, "node", "--input-type=module", "-e", `await import("@nats-io/transport-node"); await import("@nats-io/jetstream")`)
				snippet(t, p, code, "facts.mjs", "usage.recorded", "node")
			case "bash":
				bashSnippet(t, p, code)
			}
		})
	}
	for language, n := range map[string]int{"go": 1, "python": 1, "js": 1, "bash": 3} {
		if seen[language] != n {
			t.Errorf("the guide has %d blocks of %s, want %d", seen[language], language, n)
		}
	}
	stop(t, p)
}

// needs skips a test whose program, or its library, is not here. Node looks for libraries
// from NODE_PATH's folder only where it is told to.
func needs(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = os.Getenv("GROUT_NODE_LIBRARIES")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("%s with what the snippet needs is not here: %v %.200s", program, err, out)
	}
	return program
}

// snippet runs a program until it prints a text.
func snippet(t *testing.T, p *process.Process, code, file, want, program string, args ...string) {
	t.Helper()
	dir := t.TempDir()
	if program == "node" && os.Getenv("GROUT_NODE_LIBRARIES") != "" { // it looks for libraries above the file
		var err error
		if dir, err = os.MkdirTemp(os.Getenv("GROUT_NODE_LIBRARIES"), "snippet-"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	path := filepath.Join(dir, file)
	if err := os.WriteFile(path, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(args, path)...)
	cmd.Env = natsOf(p)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out := &watched{want: want, found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-out.found:
		cancel()
		<-ended
	case err := <-ended:
		t.Fatalf("it ended without %q: %v\n%s", want, err, out.String())
	}
}

// watched tells when a text has been printed.
type watched struct {
	buffer
	want  string
	told  bool
	found chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.buffer.Write(p)
	if !w.told && strings.Contains(w.String(), w.want) {
		w.told = true
		close(w.found)
	}
	return n, err
}

// bashSnippet runs commands of grout, and those of nats where it is.
func bashSnippet(t *testing.T, p *process.Process, code string) {
	t.Helper()
	if strings.Contains(code, "grout dlq") {
		t.Skip("the test of dead letters runs these")
	}
	if _, err := exec.LookPath("nats"); err != nil {
		t.Skip("the program nats is not here")
	}
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", code)
	cmd.Env = natsOf(p)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("total_tokens")) {
		t.Errorf("%v\n%s", err, out)
	}
}
