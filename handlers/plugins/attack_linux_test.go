package plugins

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A plugin of grout's own user can neither change the limits of other processes, by which
// the kernel would end them, nor take the processor from them.
func TestLimitsOfOthersStay(t *testing.T) {
	w := newWorkshop(t)
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	p := w.plugin(`
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
def execute(data):
    done = []
    def attempt(name, f, *args):
        try:
            f(*args)
            done.append(name)
        except OSError: pass
    for pid in (os.getppid(), data["pid"]):
        attempt("limit", resource.prlimit, pid, resource.RLIMIT_CORE, (0, 0))
        attempt("priority", os.setpriority, os.PRIO_PROCESS, pid, 19)
        attempt("scheduler", os.sched_setscheduler, pid, os.SCHED_BATCH, os.sched_param(0))
        attempt("parameters", os.sched_setparam, pid, os.sched_param(0))
        attempt("processors", os.sched_setaffinity, pid, {0})
        if libc.syscall(data["ioprio"], 1, pid, 3 << 13) == 0: done.append("disk")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.getrlimit(resource.RLIMIT_NOFILE)
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(1)
    return done
`)
	if got := w.result(p, w.worker(p), map[string]any{"pid": other.Process.Pid, "ioprio": unix.SYS_IOPRIO_SET}); got != "[]" {
		t.Errorf("a plugin has changed of other processes: %s", got)
	}
}

// What a call has left running is gone before the next call begins, however it runs away.
func TestNothingIsLeftForTheNextCall(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import os
def execute(data):
    if data["leave"] and os.fork() == 0:
        os.setsid()
        while True:
            if os.fork() > 0: os._exit(0)
    return os.getpid()
`)
	for range rounds(10) {
		one := w.worker(p)
		if r, _ := ask(p, one, map[string]bool{"leave": true}, nil); r.fault != nil {
			t.Fatal(r.fault)
		}
		r, _ := ask(p, one, map[string]bool{"leave": false}, nil)
		if left := w.survivors(); r.fault == nil && len(left) > 1 {
			t.Fatalf("beside the worker run: %v", left)
		}
		one.stop()
	}
}

// A line that a call has written too much is not the answer of the next one.
func TestAnswersOfEarlierCalls(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin("", func(m *manifest) { m.Command = []string{python(), "twice.py"} })
	w.write(filepath.Join(p.dir, "twice.py"), `
import os, json
lines = os.fdopen(3)
lines.readline()
os.write(4, b'{"ready":true}\n')
for line in lines:
    n = json.loads(line)["data"]["n"]
    os.write(4, b'{"result":%d}\n{"result":"left by %d"}\n' % (n, n))
`)
	for round := range 15 {
		one := w.worker(p)
		for n := range 3 {
			r, _ := ask(p, one, map[string]int{"n": n}, nil)
			if r.fault == nil && string(r.result) != fmt.Sprint(n) {
				t.Fatalf("round %d: call %d got %s", round, n, r.result)
			}
		}
		one.stop()
	}
}

// A process that lets itself be traced by its supervisor confuses nothing.
func TestTracedWorker(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import ctypes, os, signal
def execute(data):
    if data["child"] and os.fork() > 0: os._exit(0)
    if data["child"]: os.setsid()
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    while True: os.kill(os.getpid(), signal.SIGUSR1)
`, func(m *manifest) { m.Limits.Timeout = 300 * time.Millisecond })
	one := w.worker(p)
	r, took := ask(p, one, map[string]bool{"child": false}, nil)
	if !errors.Is(r.fault, errTimedOut) {
		t.Errorf("a stopped worker is not one that has ended: %v after %s", r.fault, took)
	}
	began := time.Now()
	one.stop()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("its end took %s", took)
	}
	for range 5 {
		one := w.worker(p)
		ask(p, one, map[string]bool{"child": true}, nil)
		one.stop()
		if left := w.survivors(); len(left) > 0 {
			t.Fatalf("left: %v", left)
		}
	}
}

// Publishing while no call runs has an end.
func TestPublishingBetweenCalls(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import os, threading
def flood():
    while True: os.write(4, b'{"publish":{"name":"x","data":1}}\n' * 100)
def execute(data):
    threading.Timer(0.05, flood).start()
    return 1
`)
	one := w.worker(p)
	w.result(p, one, nil)
	select {
	case <-one.gone():
	case <-time.After(3 * time.Second):
		t.Error("a worker that publishes without end while nothing runs goes on")
	}
}

// What is published between calls is answered where that was asked for, however it is written.
func TestPublishingBetweenCallsIsAnswered(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin("", func(m *manifest) { m.Command = []string{python(), "asks.py"} })
	w.write(filepath.Join(p.dir, "asks.py"), `
import os, time
asked, answers = os.fdopen(3), os.fdopen(4, "w", buffering=1)
asked.readline(); print('{"ready": true}', file=answers)
asked.readline(); print('{"result": 1}', file=answers)
time.sleep(0.1)
print('{"publish": {"name": "x", "data": 1, "ack": true}}', file=answers)
refused = asked.readline().strip()
asked.readline(); print('{"result": %s}' % refused, file=answers)
asked.readline()
`)
	one := w.worker(p)
	w.result(p, one, nil)
	eventually(t, 3*time.Second, "the publication is noted", func() bool { return strings.Contains(w.log(p), "while no call ran") })
	if got := w.result(p, one, nil); got != `{"published":false,"error":"no call runs"}` {
		t.Errorf("got %s", got)
	}
}

// Threads count as processes do: the system has as few of them.
func TestThreadsAreCounted(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import threading, time
def execute(data):
    threading.stack_size(32768)
    for _ in range(20000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    return threading.active_count()
`, func(m *manifest) { m.Limits.MemoryBytes = 2 << 30 })
	r, took := ask(p, w.worker(p), nil, nil)
	if r.fault == nil || !strings.Contains(r.fault.Error(), "thread") { // the supervisor's bound, or the kernel's, which the plugin meets
		t.Errorf("got %s, %v after %s", r.result, r.fault, took)
	}
}

// What a plugin keeps in its temporary directory does not hold up its answer.
func TestFilesDoNotHoldUpTheAnswer(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import os, time
def execute(data):
    dir = os.environ["TMPDIR"]
    end = time.monotonic() + 2.9
    n = 0
    while time.monotonic() < end:
        os.mkdir(dir + "/%d" % n)
        for i in range(20): os.close(os.open(dir + "/%d/%d" % (n, i), os.O_CREAT | os.O_WRONLY))
        n += 1
    os.write(4, b"garbage\n")
    time.sleep(9)
`, func(m *manifest) { m.Limits.Timeout = 3 * time.Second })
	one := w.worker(p)
	r, took := ask(p, one, nil, nil)
	t.Logf("%v after %s", r.fault, took)
	if most := p.Limits.Timeout + 100*time.Millisecond; took > most {
		t.Errorf("the answer took %s, more than %s", took, most)
	}
}

// A token is in no log, also where a text is cut in the middle of it.
func TestTokensAreNowhere(t *testing.T) {
	w := newWorkshop(t)
	var log bytes.Buffer
	w.o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	token := "eyJhbGciOiJIUzI1NiJ9." + strings.Repeat("eyJzdWIiOiJ1c2VyIn0", 20) + "." + strings.Repeat("c2lnbmF0dXJl", 4)
	w.write(filepath.Join(w.o.Dir, "leak", "logic.py"), `
import os, sys, json
def execute(data):
    t = data["user_jwt"]
    for n in range(16000, 16400, 100):
        sys.stdout.write("x" * n + t + "\n")
    sys.stdout.write("y" * (2 << 20) + t + "\n")
    for n in data["cut"]:
        if data["at"] == n: raise RuntimeError("x" * n + t)
    os.write(4, json.dumps({"error": t, "error_code": "E_X"}).encode() + b"\n")
    os._exit(1)
`)
	h, err := New(w.o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	for at := range 10 {
		cuts := []int{-1, 3900, 4000, 4060, 4090, 8000, 8090, 8150, 8180}
		ticket, err := h.Enter(t.Context(), "leak")
		if err != nil {
			t.Fatal(err)
		}
		cut := cuts[at%len(cuts)]
		a := ticket.Call(t.Context(), Call{RunID: "r", Secret: token, Input: fmt.Appendf(nil, `{"user_jwt":%q,"cut":[%d],"at":%d}`, token, max(cut, 0), cut)})
		ticket.Leave()
		if strings.Contains(a.Detail, token[:40]) {
			t.Errorf("the answer has the token: %.80s … %s", a.Detail, a.Detail[max(0, len(a.Detail)-80):])
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"grout": log.String(), "the plugin": w.log(&plugin{manifest: manifest{Name: "leak"}})} {
		if i := strings.Index(text, token[:40]); i >= 0 {
			t.Errorf("the log of %s has the token: %s", name, text[max(0, i-100):min(len(text), i+60)])
		}
	}
}

// A folder with very many files does not keep grout busy.
func TestLargeFolder(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "big")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "logic.py"), []byte(echo), 0o644); err != nil {
		t.Fatal(err)
	}
	for i := range 30_000 {
		fd, err := unix.Open(filepath.Join(folder, fmt.Sprintf("a%d", i)), unix.O_CREAT|unix.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	fingerprint(dir, "big")
	allocated := testing.AllocsPerRun(3, func() { fingerprint(dir, "big") })
	began := time.Now()
	first := fingerprint(dir, "big")
	t.Logf("a look took %s and %.0f allocations", time.Since(began), allocated)
	if allocated > 12*maxWatched {
		t.Errorf("%.0f allocations for a look that is bounded to %d files", allocated, maxWatched)
	}
	if first != fingerprint(dir, "big") {
		t.Error("a large folder that nobody changes looks changed")
	}
}

// As root, a worker is in a control group of its own that bounds its processes, where such
// groups can be made. It goes with the worker.
func TestTaskGroup(t *testing.T) {
	base, _ := groupBase(controllerTasks)
	if base == "" {
		t.Skip("no control groups can be made here")
	}
	w := newWorkshop(t)
	p := w.plugin(`
def execute(data):
    return open("/proc/self/cgroup").read()
`)
	one := w.worker(p)
	name := fmt.Sprintf("%s%d", groupName, one.(*processWorker).cmd.Process.Pid)
	if got := w.result(p, one, nil); !strings.Contains(got, name) {
		t.Errorf("the worker is in %s", got)
	}
	most, err := os.ReadFile(filepath.Join(base, name, "pids.max"))
	if err != nil || strings.TrimSpace(string(most)) != fmt.Sprint(maxThreads+maxProcesses) {
		t.Errorf("it may have %s processes, %v", most, err)
	}
	one.stop()
	if _, err := os.Stat(filepath.Join(base, name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its group is left: %v", err)
	}
}

// A worker that runs as another user has the limits that the supervisor gives its own.
func TestLimitsOfAnotherUser(t *testing.T) {
	w := newWorkshop(t)
	if os.Geteuid() != 0 || exec.Command("/usr/bin/python3", "-c", "").Run() != nil {
		t.Skip("only root can start workers as another user, and needs /usr/bin/python3 for it")
	}
	w.o.User, w.o.Env = &Credential{UID: 54321, GID: 54322}, []string{"PATH=/usr/bin:/bin"}
	for dir := w.o.StateDir; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	p := w.plugin(`
import resource
def execute(data):
    return [resource.getrlimit(resource.RLIMIT_DATA)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]]
`)
	want := fmt.Sprintf("[%d,%d]", p.Limits.MemoryBytes+dataRoom, taskLimit())
	if got := w.result(p, w.worker(p), nil); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What has detached itself goes with a supervisor that is killed, too, where its worker has
// a control group.
func TestDetachedEndWithTheSupervisor(t *testing.T) {
	if base, _ := groupBase(controllerTasks); base == "" {
		t.Skip("no control groups can be made here")
	}
	w := newWorkshop(t)
	p := w.plugin(`
import os, time
def execute(data):
    if os.fork() == 0:
        os.setsid()
        if os.fork() > 0: os._exit(0)
    time.sleep(9)
`)
	one := w.worker(p)
	done := make(chan reply, 1)
	go func() {
		r, _ := ask(p, one, nil, nil)
		done <- r
	}()
	eventually(t, 5*time.Second, "two processes run", func() bool { return len(w.survivors()) == 2 })
	_ = unix.Kill(one.(*processWorker).cmd.Process.Pid, unix.SIGKILL)
	<-done
	eventually(t, 2*time.Second, "nothing is left", func() bool { return len(w.survivors()) == 0 })
}

// Short calls one after the other do not put it off to look at what the worker uses.
func TestLimitsHoldBetweenShortCalls(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
kept = []
def execute(data):
    kept.append(b"x" * (1 << 20))
    return len(kept)
`, func(m *manifest) { m.Limits.MemoryBytes = 64 << 20 })
	one := w.worker(p)
	for range 1000 {
		if r, _ := ask(p, one, nil, nil); r.fault != nil {
			if r.fault.Error() != "it used more than 64 MiB of memory" {
				t.Error(r.fault)
			}
			return
		}
	}
	t.Error("a worker has a thousand times what it may")
}

// A worker that burns processor time between calls yields, however often it is called, and
// no longer once it rests.
func TestBurningBetweenCallsYields(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import os, threading
on = True
def spin():
    while on: pass
threading.Thread(target=spin, daemon=True).start()
def execute(data):
    global on
    on = on and not data["rest"]
    return os.getpid()
`)
	one := w.worker(p)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	nice := func(rest bool) int {
		<-tick.C
		pid, err := strconv.Atoi(w.result(p, one, map[string]any{"rest": rest}))
		if err != nil {
			t.Fatal(err)
		}
		n, err := unix.Getpriority(unix.PRIO_PROCESS, pid)
		if err != nil {
			t.Fatal(err)
		}
		return 20 - n // as the system call gives it
	}
	eventually(t, 20*time.Second, "it yields", func() bool { return nice(false) == niceHeavy })
	if mayRaise() {
		eventually(t, 20*time.Second, "it is back", func() bool { return nice(true) == niceWorker })
	}
}

// There is no memory that belongs to no process.
func TestMemoryHasAProcess(t *testing.T) {
	w := newWorkshop(t)
	if !filters() {
		t.Skip("this kernel filters no system calls")
	}
	p := w.plugin(`
import os
def execute(data):
    try: return os.memfd_create("x")
    except OSError as e: return e.errno
`)
	if got := w.result(p, w.worker(p), nil); got != strconv.Itoa(int(unix.ENOSYS)) {
		t.Errorf("got %s", got)
	}
}

// Lines without text are dropped as what costs something: each stands beside a time.
func TestEmptyLinesCost(t *testing.T) {
	deaf := make(chan struct{})
	close(deaf)
	p := &printed{s: &supervisor{deaf: deaf}}
	lines := bytes.Repeat([]byte("\n"), 1<<20)
	p.take(lines)
	if p.dropped < 31*len(lines)/32 {
		t.Errorf("%d of %d lines were kept", len(lines)-p.dropped, len(lines))
	}
}

// Processes that have ended and that nobody waits for are bounded: each keeps a number.
func TestProcessesWithoutEndAreCounted(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin(`
import os
def execute(data):
    while True:
        pid = os.fork()
        if pid == 0: os._exit(0)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
`)
	r, _ := ask(p, w.worker(p), nil, nil)
	if r.fault == nil || r.fault.Error() != "it left more than 1000 processes behind" {
		t.Errorf("got %s, %v", r.result, r.fault)
	}
}
