//go:build linux

package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const echo = `
def execute(data):
    return {"echo": data}
`

func TestProcessEcho(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(echo)
	one := w.worker(p)
	for i := range 3 {
		want := `{"echo":{"n":` + strconv.Itoa(i) + `}}`
		if got := w.result(p, one, map[string]int{"n": i}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	big := map[string]string{"text": strings.Repeat("é", 1<<20)}
	if got := w.result(p, one, big); len(got) < 2<<20 {
		t.Errorf("an answer of 2 MiB came as %d bytes", len(got))
	}
	one.stop()
	select {
	case <-one.gone():
	default:
		t.Error("a worker that was stopped takes calls")
	}
	if left := w.survivors(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if r, _ := ask(p, one, nil, nil); r.fault == nil {
		t.Error("a worker that was stopped has answered")
	}
}

// What Python has and JSON has not comes as FastAPI encodes it.
func TestShimResults(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import datetime, decimal, uuid, enum, dataclasses, pathlib, collections
class Colour(enum.Enum):
    RED = "red"
class Level(enum.IntEnum):
    HIGH = 3
@dataclasses.dataclass
class Point:
    x: int
    at: datetime.date
class Odd:
    def __init__(self): self.a = 1
try:
    import pydantic
    class Model(pydantic.BaseModel):
        when: datetime.datetime
        n: int = 1
except ImportError:
    Model = None
utc = datetime.timezone.utc
values = {
    "datetime": lambda: datetime.datetime(2026, 1, 2, 3, 4, 5, 6, utc),
    "naive": lambda: datetime.datetime(2026, 1, 2, 3, 4, 5),
    "date": lambda: datetime.date(2026, 1, 2),
    "time": lambda: datetime.time(3, 4, 5),
    "timedelta": lambda: datetime.timedelta(minutes=1, milliseconds=500),
    "decimal": lambda: [decimal.Decimal("1.50"), decimal.Decimal("3"), decimal.Decimal("1E+2")],
    "uuid": lambda: uuid.UUID("12345678-1234-5678-1234-567812345678"),
    "set": lambda: {7},
    "frozenset": lambda: frozenset(["x"]),
    "deque": lambda: collections.deque([1, 2]),
    "generator": lambda: (i for i in range(3)),
    "tuple": lambda: (1, "a", None),
    "enum": lambda: [Colour.RED, Level.HIGH],
    "bytes": lambda: "é".encode(),
    "dataclass": lambda: Point(1, datetime.date(2026, 1, 2)),
    "path": lambda: pathlib.Path("/a/b"),
    "object": lambda: Odd(),
    "keys": lambda: {datetime.date(2026, 1, 2): 1, 2: {Colour.RED: {3}}, None: True},
    "text": lambda: "ü\u2028\n\"",
    "none": lambda: None,
    "nested": lambda: {"a": [{"b": {datetime.date(2026, 1, 2)}}]},
    "nan": lambda: float("nan"),
    "surrogate": lambda: "\ud800",
    "model": lambda: Model(when=datetime.datetime(2026, 1, 2, tzinfo=utc)) if Model else {"when": "2026-01-02T00:00:00Z", "n": 1},
    "bad_bytes": lambda: b"\xff",
    "function": lambda: len,
}
def execute(data):
    return values[data["what"]]()
`)
	one := w.worker(p)
	for what, want := range map[string]string{
		"datetime": `"2026-01-02T03:04:05.000006+00:00"`, "naive": `"2026-01-02T03:04:05"`, "date": `"2026-01-02"`, "time": `"03:04:05"`,
		"timedelta": `60.5`, "decimal": `[1.5,3,100]`, "uuid": `"12345678-1234-5678-1234-567812345678"`, "set": `[7]`, "frozenset": `["x"]`,
		"deque": `[1,2]`, "generator": `[0,1,2]`, "tuple": `[1,"a",null]`, "enum": `["red",3]`, "bytes": `"é"`,
		"dataclass": `{"x":1,"at":"2026-01-02"}`, "path": `"/a/b"`, "object": `{"a":1}`, "keys": `{"2026-01-02":1,"2":{"red":[3]},"null":true}`,
		"text": "\"ü\u2028\\n\\\"\"", "none": `null`, "nested": `{"a":[{"b":["2026-01-02"]}]}`, "model": `{"when":"2026-01-02T00:00:00Z","n":1}`,
	} {
		if got := w.result(p, one, map[string]string{"what": what}); got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	for _, what := range []string{"nan", "surrogate", "bad_bytes", "function"} {
		if r, _ := ask(p, one, map[string]string{"what": what}, nil); r.fault == nil {
			t.Errorf("%s: it became %s", what, r.result)
		}
	}
	if got := w.result(p, one, map[string]string{"what": "none"}); got != "null" {
		t.Errorf("after failures: %s", got)
	}
}

func TestShimEntries(t *testing.T) {
	w := newWorkshop(t)
	for name, c := range map[string]struct{ logic, want, fault string }{
		"run":              {"def run(data): return 1", "1", ""},
		"execute is first": {"def run(data): return 1\ndef execute(data): return 2", "2", ""},
		"async":            {"import asyncio\nasync def execute(data):\n    await asyncio.sleep(0)\n    return 3", "3", ""},
		"sync that starts a loop": {
			"import asyncio\nasync def f(): return 4\ndef execute(data): return asyncio.run(f())", "4", "",
		},
		"prints": {"import sys\ndef execute(data):\n    print('hello log')\n    sys.stderr.write('half')\n    return 5", "5", ""},
		"raises": {"def execute(data): raise ValueError('no good')", "", "no good"},
		"exits":  {"import sys\ndef execute(data): sys.exit(3)", "", "the plugin raised SystemExit(3)"},
	} {
		t.Run(name, func(t *testing.T) {
			p := w.plugin(c.logic)
			one := w.worker(p)
			r, _ := ask(p, one, map[string]any{}, nil)
			if string(r.result) != c.want || (r.fault == nil) != (c.fault == "") || r.fault != nil && r.fault.Error() != c.fault {
				t.Errorf("got %s, %v", r.result, r.fault)
			}
			if name == "prints" {
				one.stop()
				if text := w.log(p); !strings.Contains(text, "[stdout] hello log\n") || !strings.Contains(text, "[stderr] half\n") {
					t.Errorf("the log is\n%s", text)
				}
			}
		})
	}
}

// A plugin is a package: what lies beside its file is imported relative to it, by its full
// name, or by its own.
func TestShimPackages(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
from .near import near
from ..far import far
from plugins.p1.deep.down import down
import loose
def execute(data):
    return [near, far, down, loose.loose, __name__]
`, func(m *manifest) { m.Entry = "backend/logic.py" })
	for path, text := range map[string]string{
		"backend/near.py": "near = 1", "far.py": "from .backend.near import near\nfar = near + 1", "deep/__init__.py": "", "deep/down.py": "down = 3", "backend/loose.py": "loose = 4",
	} {
		w.write(filepath.Join(p.dir, path), text)
	}
	if got := w.result(p, w.worker(p), nil); got != `[1,2,3,4,"plugins.p1.backend.logic"]` {
		t.Errorf("got %s", got)
	}
}

func TestShimLoadErrors(t *testing.T) {
	w := newWorkshop(t)
	w.o.Env = append(w.o.Env, "DATABASE_URI=")
	for name, c := range map[string]struct{ logic, want string }{
		"syntax":        {"def execute(data:", "SyntaxError: "},
		"import":        {"import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"},
		"no function":   {"x = 1", "AttributeError: logic.py has neither execute(data) nor run(data)"},
		"core":          {"from core.plugins import manager", "ImportError: core.plugins is not there for plugins that grout runs"},
		"core, member":  {"from core import settings", "ImportError: core.settings is not there for plugins that grout runs"},
		"core database": {"from core.config.database import db", "ImportError: core.config.database needs DATABASE_URI: set it where grout is started"},
		"exits":         {"import os\nos._exit(4)", "its process ended with exit status 4 before it had answered"},
		"says nonsense": {"import os\nos.write(4, b'hello\\n')", "it did not say {\"ready\":true}: "},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.start(w.plugin(c.logic))
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s…", err, c.want)
			}
		})
	}
	if left := w.survivors(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestShimPublishes(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
from core import event_bus
from core.event_bus import event_bus as bus, publish
async def execute(data):
    event_bus.publish("one", {"n": 1})
    bus.publish("two")
    await publish("three", {4})
    try:
        publish("refused", {})
    except RuntimeError as e:
        return str(e)
`)
	one := w.worker(p)
	var got []string
	r, _ := ask(p, one, map[string]any{}, func(name string, data []byte) error {
		if got = append(got, name+" "+string(data)); name == "refused" {
			return errors.New("no such name")
		}
		return nil
	})
	if string(r.result) != `"publish refused: no such name"` {
		t.Errorf("got %s, %v", r.result, r.fault)
	}
	if text := strings.Join(got, "; "); text != `one {"n":1}; two {}; three [4]; refused {}` {
		t.Errorf("published %s", text)
	}
}

// The database is there when its driver is and its address is known.
func TestShimDatabase(t *testing.T) {
	w := newWorkshop(t)
	w.o.Env = append(w.o.Env, "DATABASE_URI=mongodb://x/y")
	p := w.plugin(`
from core.config.database import db
import core.mine
async def execute(data):
    return [db, core.mine.x]
`)
	w.write(filepath.Join(p.dir, "motor", "__init__.py"), "")
	w.write(filepath.Join(p.dir, "core", "mine.py"), "x = 1")
	w.write(filepath.Join(p.dir, "motor", "motor_asyncio.py"), `
class AsyncIOMotorClient:
    def __init__(self, uri): self.uri = uri
    def get_default_database(self, name): return self.uri + " " + name
`)
	if got := w.result(p, w.worker(p), nil); got != `["mongodb://x/y MozaiksCore",1]` {
		t.Errorf("got %s", got)
	}
}

// Any program can be a worker.
func TestProcessCommand(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin("", func(m *manifest) { m.Command = []string{"sh", "./worker.sh", "x"} })
	w.write(filepath.Join(p.dir, "worker.sh"), `
read -r hello <&3
echo '{"ready":true}' >&4
while read -r line <&3; do
  echo '{"publish":{"name":"seen","data":1}}' >&4
  echo '{"result":"'"$1 $PWD $LANG$TZ$OTHER"'"}' >&4
done
`)
	p.Env["OTHER"] = "other"
	w.o.Env = []string{w.o.Env[0], "LANG=C.UTF-8", "TZ=UTC", "INTERNAL_API_KEY=secret"}
	one := w.worker(p)
	published := 0
	for range 2 {
		r, _ := ask(p, one, map[string]any{}, func(string, []byte) error { published++; return nil })
		if want := `"x ` + p.dir + ` C.UTF-8UTCother"`; string(r.result) != want {
			t.Errorf("got %s, %v, want %s", r.result, r.fault, want)
		}
	}
	if published != 2 {
		t.Errorf("published %d times", published)
	}
	_, err := w.start(w.plugin("", func(m *manifest) { m.Command = []string{"no-such-program"} }))
	if err == nil || err.Error() != `there is no program "no-such-program" on PATH` {
		t.Errorf("an unknown program: %v", err)
	}
}

// The environment holds nothing of grout's.
func TestProcessEnvironment(t *testing.T) {
	w := newWorkshop(t)
	w.o.Env = []string{w.o.Env[0], "INTERNAL_API_KEY=secret", "JWT_SECRET=secret", "HOME=/root", "DATABASE_URI=mongodb://x"}
	p := w.plugin("import os\ndef execute(data): return [dict(os.environ), open('/proc/self/environ').read()]")
	got := w.result(p, w.worker(p), nil)
	if strings.Contains(got, "secret") {
		t.Errorf("the environment is %s", got)
	}
	var both []json.RawMessage
	var env map[string]string
	if json.Unmarshal([]byte(got), &both) != nil || json.Unmarshal(both[0], &env) != nil {
		t.Fatal(got)
	}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "PYTHONPYCACHEPREFIX", "GROUT_TEST_MARK", "DATABASE_URI"} {
		if env[name] == "" {
			t.Errorf("there is no %s", name)
		}
		delete(env, name)
	}
	delete(env, "LC_CTYPE") // Python sets it for itself
	if len(env) > 0 {
		t.Errorf("and also %v", env)
	}
}

// What is running when a call ends is ended with it, but not what the plugin started
// while it loaded.
func TestProcessesEndWithTheCall(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import os, subprocess
helper = subprocess.Popen(["sleep", "1000"])
def execute(data):
    if data.get("look"):
        return [helper.poll(), len(os.listdir("/proc/self/task"))]
    subprocess.Popen(["sleep", "1001"])
    subprocess.Popen(["setsid", "-f", "sleep", "1002"])
    subprocess.Popen("(setsid sleep 1003 &) &", shell=True)
    return "started"
`)
	one := w.worker(p)
	for range 3 {
		if got := w.result(p, one, map[string]any{}); got != `"started"` {
			t.Fatal(got)
		}
		if got := w.result(p, one, map[string]any{"look": true}); got != "[null,1]" {
			t.Errorf("the helper: %s", got)
		}
		left := strings.Join(w.survivors(), "\n")
		if strings.Contains(left, "sleep 1001") || strings.Contains(left, "sleep 1002") || strings.Contains(left, "sleep 1003") {
			t.Errorf("left:\n%s", left)
		}
	}
	one.stop()
	if left := w.survivors(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestProcessCancelled(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin("import subprocess\ndef execute(data):\n    subprocess.run(['setsid', 'sleep', '1000'])")
	one := w.worker(p)
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	done := make(chan reply, 1)
	go func() { done <- one.call(ctx, &Call{RunID: "r", Input: []byte("{}")}) }()
	eventually(t, 5*time.Second, "the plugin started something", func() bool { return len(w.survivors()) > 1 })
	began := time.Now()
	cancel(errCancelled)
	r := <-done
	took := time.Since(began)
	t.Logf("a call that was cancelled had ended after %s", took.Round(time.Millisecond))
	if !errors.Is(r.fault, errCancelled) || took > 2*time.Second {
		t.Errorf("after %s: %v", took, r.fault)
	}
	if left := w.survivors(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A worker ends when its grout does, however that ends, and with it all that it started.
func TestHostKilled(t *testing.T) {
	newWorkshop(t)
	base := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for round := range rounds(1) {
		cmd := exec.Command(exe, "short-lived-host", base)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 200)
		n, _ := out.Read(buffer)
		mark := strings.TrimSpace(string(buffer[:n]))
		eventually(t, 10*time.Second, "the plugin started three processes", func() bool { return len(marked(mark)) >= 4 })
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		took := eventually(t, 2*time.Second, "everything has ended", func() bool { return len(marked(mark)) == 0 })
		if round == 0 {
			t.Logf("everything had ended %s after grout was killed", took.Round(time.Millisecond))
		}
	}
}

// shortLivedHost is a grout that is going to be killed.
func shortLivedHost(base string) {
	w := openWorkshop(&fatal{}, base)
	p := w.plugin(`
import os, subprocess, time
def execute(data):
    subprocess.Popen(["sleep", "1001"])
    subprocess.Popen(["setsid", "-f", "sleep", "1002"])
    subprocess.Popen("(setsid sleep 1003 &) &", shell=True)
    time.sleep(1000)
`, func(m *manifest) { m.Limits.Timeout = time.Minute })
	one := w.worker(p)
	_, _ = os.Stdout.WriteString(w.mark + "\n")
	ask(p, one, map[string]any{}, nil)
	os.Exit(1)
}

// fatal stands for a test outside of one.
type fatal struct{ testing.TB }

func (*fatal) Helper()        {}
func (*fatal) Cleanup(func()) {}

func (*fatal) Fatal(args ...any) { panic(args) }

func (*fatal) Fatalf(format string, args ...any) { panic(args) }
