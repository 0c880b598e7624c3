package plugins

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// groupName begins the name of the control group of a worker; the number of its supervisor
// follows.
const groupName = "grout-worker-"

// taskGroup bounds how many processes and threads a worker has, those that have ended and
// were not waited for included. The kernel keeps no other limit of that for root: a worker
// could use up those of the machine, and a Go program that is given no thread ends.
type taskGroup struct {
	path    string
	threads bool // it takes single threads, so that nothing starts outside of it
}

// groupBase is where groups can be made; empty: nowhere. Version 1 of control groups is
// asked first, as it has the controller when it is there.
func groupBase() (dir string, threads bool) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || os.Geteuid() != 0 {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		if slices.Contains(strings.Split(part[1], ","), "pids") {
			return writableDir(filepath.Join("/sys/fs/cgroup/pids", part[2])), true
		}
		if part[0] == "0" && dir == "" {
			at := filepath.Join("/sys/fs/cgroup", part[2])
			passed, _ := os.ReadFile(filepath.Join(at, "cgroup.subtree_control"))
			if slices.Contains(strings.Fields(string(passed)), "pids") {
				dir = writableDir(at)
			}
		}
	}
	return dir, false
}

func writableDir(dir string) string {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return ""
	}
	f.Close()
	return dir
}

// newTaskGroup makes the group of this supervisor's worker; nil where there is none.
func newTaskGroup() *taskGroup {
	base, threads := groupBase()
	if base == "" {
		return nil
	}
	sweepGroups(base)
	g := &taskGroup{path: filepath.Join(base, groupName+strconv.Itoa(os.Getpid())), threads: threads}
	if os.Mkdir(g.path, 0o755) != nil {
		return nil
	}
	if os.WriteFile(filepath.Join(g.path, "pids.max"), strconv.AppendInt(nil, maxThreads+maxProcesses, 10), 0) != nil {
		g.remove()
		return nil
	}
	return g
}

// sweepGroups removes those of supervisors that were killed; one that is in use stays.
func sweepGroups(base string) {
	left, _ := filepath.Glob(filepath.Join(base, groupName+"*"))
	for _, path := range left {
		pid := strings.TrimPrefix(filepath.Base(path), groupName)
		if _, err := os.Stat("/proc/" + pid); os.IsNotExist(err) {
			_ = os.Remove(path)
		}
	}
}

// enter takes the calling thread in, with what it will start.
func (g *taskGroup) enter() {
	if g != nil && g.threads {
		_ = os.WriteFile(filepath.Join(g.path, "tasks"), []byte("0"), 0)
	}
}

// take takes a process in that has just been started.
func (g *taskGroup) take(pid int) {
	if g != nil && !g.threads {
		_ = os.WriteFile(filepath.Join(g.path, "cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0)
	}
}

func (g *taskGroup) remove() {
	if g != nil {
		_ = os.Remove(g.path)
	}
}

// endGroup ends what a supervisor that was killed has left in the group of its worker, also
// what had detached itself.
func endGroup(supervisor int) {
	base, _ := groupBase()
	if base == "" {
		return
	}
	name := groupName + strconv.Itoa(supervisor)
	for range 100 {
		text, err := os.ReadFile(filepath.Join(base, name, "cgroup.procs"))
		if err != nil {
			return
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil {
				killMember(pid, name)
			}
		}
		if os.Remove(filepath.Join(base, name)) == nil {
			return
		}
		moment := time.NewTimer(time.Millisecond)
		<-moment.C
	}
}

func killMember(pid int, group string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup"); err == nil && strings.Contains(string(text), "/"+group+"\n") {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}
