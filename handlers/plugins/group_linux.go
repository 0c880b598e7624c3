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

// Controllers of control groups, and the share of a group in version 1: it weighs as much as
// a process of the priority niceWorker.
const (
	controllerTasks  = "pids"
	controllerShares = "cpu"
	workerShares     = 335
)

// taskGroup bounds how many processes and threads a worker has, those that have ended and
// were not waited for included. The kernel keeps no other limit of that for root: a worker
// could use up those of the machine, and a Go program that is given no thread ends.
//
// Where the kernel also shares processors out by groups, a worker has the share of one
// process, however many it starts and whatever sessions they make.
type taskGroup struct {
	path    string
	threads bool   // it takes single threads, so that nothing starts outside of it
	shares  string // directory of its share of the processors; empty: there is none
}

// groupBase is where groups of a controller can be made; empty: nowhere. Version 1 of
// control groups is asked first, as it has the controller when it is there.
func groupBase(controller string) (dir string, threads bool) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || os.Geteuid() != 0 {
		return "", false
	}
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		if slices.Contains(strings.Split(part[1], ","), controller) {
			return writableDir(filepath.Join("/sys/fs/cgroup", controller, part[2])), true
		}
		if part[0] == "0" && dir == "" {
			at := filepath.Join("/sys/fs/cgroup", part[2])
			passed, _ := os.ReadFile(filepath.Join(at, "cgroup.subtree_control"))
			if slices.Contains(strings.Fields(string(passed)), controller) {
				dir = writableDir(at)
			}
		}
	}
	return dir, false
}

// ownTasks is how many processes and threads the control groups of this process let it have,
// with everything else in them; 0: any number.
func ownTasks() (most uint64) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		top := "/sys/fs/cgroup"
		if part[0] != "0" {
			if !slices.Contains(strings.Split(part[1], ","), controllerTasks) {
				continue
			}
			top = filepath.Join(top, controllerTasks)
		}
		// In a container the way may begin outside of it, and its own group is the top.
		for dir := filepath.Join(top, part[2]); strings.HasPrefix(dir, top); dir = filepath.Dir(dir) {
			limit, _ := os.ReadFile(filepath.Join(dir, "pids.max"))
			if n, err := strconv.ParseUint(strings.TrimSpace(string(limit)), 10, 64); err == nil && (most == 0 || n < most) {
				most = n
			}
		}
	}
	return most
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
	base, threads := groupBase(controllerTasks)
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
	g.share()
	return g
}

// share gives the group a share of the processors, where that can be had.
func (g *taskGroup) share() {
	base, threads := groupBase(controllerShares)
	if base == "" || threads != g.threads {
		return
	}
	dir := filepath.Join(base, filepath.Base(g.path))
	if threads {
		sweepGroups(base)
		if os.Mkdir(dir, 0o755) != nil {
			return
		}
	}
	g.shares = dir
	g.yield(false)
}

// yield lets the group run when nothing else wants to, or again like everything else.
func (g *taskGroup) yield(yes bool) {
	if g == nil || g.shares == "" {
		return
	}
	set := func(file, value string) { _ = os.WriteFile(filepath.Join(g.shares, file), []byte(value), 0) }
	if yes {
		set("cpu.idle", "1")
		return
	}
	set("cpu.idle", "0") // which also takes the weight back
	if g.threads {
		set("cpu.shares", strconv.Itoa(workerShares))
	} else {
		set("cpu.weight.nice", strconv.Itoa(niceWorker))
	}
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
	if g == nil || !g.threads {
		return
	}
	for _, dir := range []string{g.path, g.shares} {
		if dir != "" {
			_ = os.WriteFile(filepath.Join(dir, "tasks"), []byte("0"), 0)
		}
	}
}

// take takes a process in that has just been started.
func (g *taskGroup) take(pid int) {
	if g != nil && !g.threads {
		_ = os.WriteFile(filepath.Join(g.path, "cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0)
	}
}

func (g *taskGroup) remove() {
	if g == nil {
		return
	}
	_ = os.Remove(g.path)
	if g.shares != "" {
		_ = os.Remove(g.shares)
	}
}

// endGroup ends what a supervisor that was killed has left in the group of its worker, also
// what had detached itself.
func endGroup(supervisor int) {
	base, _ := groupBase(controllerTasks)
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
			if shares, _ := groupBase(controllerShares); shares != "" {
				_ = os.Remove(filepath.Join(shares, name))
			}
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
