//go:build linux

package plugins

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func init() {
	asWorker = func() {
		switch {
		case len(os.Args) > 1 && os.Args[1] == "plugin-worker":
			os.Exit(Supervise())
		case len(os.Args) > 2 && os.Args[1] == "short-lived-host":
			shortLivedHost(os.Args[2])
		}
	}
}

// workshop runs workers as real processes: the test program is their supervisor.
type workshop struct {
	t       testing.TB
	o       Options
	runtime runtime
	logs    *logs
	data    string
	mark    string
	made    int
}

func newWorkshop(t testing.TB) *workshop {
	t.Helper()
	if python() == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no python3, which CI needs")
		}
		t.Skip("there is no python3")
	}
	return openWorkshop(t, t.TempDir())
}

// python is where python3 is, behind whatever stands for it on PATH.
var python = sync.OnceValue(func() string {
	path, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(path))
})

func openWorkshop(t testing.TB, base string) *workshop {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &workshop{t: t, data: filepath.Join(base, "data"), mark: fmt.Sprintf("mark-%d-%d", os.Getpid(), time.Now().UnixNano())}
	w.o = Options{
		Dir: filepath.Join(base, "plugins"), StateDir: filepath.Join(w.data, "plugins"),
		Hide: []string{w.data}, Exe: exe, Env: []string{"PATH=" + filepath.Dir(python()) + ":/usr/bin:/bin"}, Logger: slog.New(slog.DiscardHandler),
	}
	for _, dir := range []string{w.o.Dir, w.o.StateDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.logs = newLogs(w.o.StateDir)
	return w
}

// plugin writes one with a logic.py.
func (w *workshop) plugin(logic string, change ...func(*manifest)) *plugin {
	w.t.Helper()
	w.made++
	name := "p" + strconv.Itoa(w.made)
	p := &plugin{manifest: defaultManifest(name, 10*time.Second), dir: filepath.Join(w.o.Dir, name), log: w.logs.of(name)}
	p.Entry = "logic.py"
	p.Env = map[string]string{"GROUT_TEST_MARK": w.mark}
	for _, c := range change {
		c(&p.manifest)
	}
	w.write(filepath.Join(p.dir, p.Entry), logic)
	return p
}

func (w *workshop) write(path, text string) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

func (w *workshop) start(p *plugin) (worker, error) {
	w.t.Helper()
	if w.runtime == nil {
		r, err := newProcessRuntime(&w.o)
		if err != nil {
			w.t.Fatal(err)
		}
		w.runtime = r
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return w.runtime.start(ctx, p)
}

func (w *workshop) worker(p *plugin) worker {
	w.t.Helper()
	one, err := w.start(p)
	if err != nil {
		w.t.Fatalf("start %s: %v\n%s", p.Name, err, w.log(p))
	}
	w.t.Cleanup(one.stop)
	return one
}

func (w *workshop) log(p *plugin) string {
	text, _ := os.ReadFile(LogPath(w.o.StateDir, p.Name))
	return string(text)
}

// ask makes a call as a ticket does.
func ask(p *plugin, one worker, input any, publish func(string, []byte) error) (reply, time.Duration) {
	text, err := json.Marshal(input)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer time.AfterFunc(p.Limits.Timeout, func() { cancel(errTimedOut) }).Stop()
	began := time.Now()
	r := one.call(ctx, &Call{RunID: "run_1", Input: text, Publish: publish})
	return r, time.Since(began)
}

// result is that of a call which must succeed.
func (w *workshop) result(p *plugin, one worker, input any) string {
	w.t.Helper()
	r, _ := ask(p, one, input, nil)
	if r.fault != nil {
		w.t.Fatalf("the call failed: %v\n%s", r.fault, w.log(p))
	}
	return string(r.result)
}

// survivors are processes that carry the mark of this workshop's plugins.
func (w *workshop) survivors() []string { return marked(w.mark) }

func marked(mark string) []string {
	var found []string
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err == nil && bytes.Contains(env, []byte("GROUT_TEST_MARK="+mark)) {
			line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
			found = append(found, e.Name()+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

// eventually polls until a condition holds.
func eventually(t testing.TB, within time.Duration, what string, holds func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Since(began) > within {
			t.Fatalf("not within %s: %s", within, what)
		}
		<-tick.C
	}
	return time.Since(began)
}
