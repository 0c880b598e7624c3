package plugins

import (
	"errors"
	"fmt"
	"math"
	"os"
	stdruntime "runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Priorities. What burns processor time yields to everything else; a supervisor that ends
// it, as root, to nobody.
const (
	niceEnding   = -5
	niceWorker   = 5
	niceStarting = 10
	niceHeavy    = 19
)

// turn is how long a worker or a supervisor runs before one that has just been asked
// something may take its processor, in nanoseconds. Kernels before 6.12 know no such thing.
const turn = 100_000

// Limits of every process of a worker that the kernel keeps by itself.
const (
	maxOpenFiles = 4096
	maxFileBytes = 1 << 30
	// dataRoom is what a process may map beyond its memory limit: runtimes map more than
	// they use, and what is used is bounded by the supervisor.
	dataRoom = 512 << 20
)

// startConfined starts a command that is confined together with everything it will
// start. The thread that is confined for it ends before it returns: a thread of the
// supervisor inside the confinement could be sent signals from there.
func startConfined(spec *workerSpec, group *taskGroup, argv0 string, files []uintptr) (pid int, err error) {
	limits := map[int]uint64{
		unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: maxFileBytes, unix.RLIMIT_NOFILE: maxOpenFiles,
		unix.RLIMIT_MSGQUEUE: 0, unix.RLIMIT_MEMLOCK: 64 << 10, unix.RLIMIT_DATA: dataLimit(spec),
	}
	if spec.User != nil && os.Geteuid() == 0 { // limits of another user's process take more rights than root may have
		limits[unix.RLIMIT_NPROC] = taskLimit()
	}
	if err := limitSelf(limits); err != nil {
		return 0, err
	}
	type started struct {
		pid int
		err error
	}
	done := make(chan started, 1)
	var confine func()
	confine = func() {
		stdruntime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the main thread never ends, so it stays as it is
			ready := make(chan struct{})
			go func() { confine(); close(ready) }()
			<-ready
			stdruntime.UnlockOSThread()
			return
		}
		group.enter()
		if err := confineThread(spec); err != nil {
			done <- started{err: err}
			return
		}
		pid, err := syscall.ForkExec(argv0, spec.Command, &syscall.ProcAttr{
			Dir: spec.Dir, Env: spec.Env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		if err != nil {
			err = fmt.Errorf("start %s: %w", spec.Command[0], err)
		}
		done <- started{pid, err}
	}
	expendable := beExpendable() // what the child starts at once should be, too
	go confine()
	s := <-done
	expendable()
	if s.err != nil {
		return 0, s.err
	}
	group.take(s.pid)
	limitChild(s.pid)
	return s.pid, nil
}

// takeTurns sets the priority of a thread, which is also that of what it starts, and lets it
// run for short turns only.
func takeTurns(tid, nice int) {
	if unix.SchedSetAttr(tid, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: int32(nice), Runtime: turn}, 0) != nil {
		_ = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
	}
}

// limitSelf sets limits of the supervisor that its children inherit and itself never meets.
func limitSelf(limits map[int]uint64) error {
	for resource, limit := range limits {
		var now unix.Rlimit
		if err := unix.Getrlimit(resource, &now); err != nil {
			return fmt.Errorf("read limit %d: %w", resource, err)
		}
		limit = min(limit, now.Max)
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("set limit %d: %w", resource, err)
		}
	}
	return nil
}

// oomFirst is the score of processes that the kernel takes first when memory is short.
const oomFirst = "1000"

// beExpendable lets the kernel take this process first when memory is short, until the
// function it returns is called. An ordinary user may not say so of a process that nobody
// can look into.
func beExpendable() (end func()) {
	const score = "/proc/self/oom_score_adj"
	before, err := os.ReadFile(score)
	if err != nil || os.WriteFile(score, []byte(oomFirst), 0) != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(score, before, 0) }
}

// limitChild sets what the supervisor could not bear or say itself, before the child is
// asked anything.
func limitChild(pid int) {
	tasks := taskLimit()
	_ = unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: tasks, Max: tasks}, nil)
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(oomFirst), 0)
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/autogroup", pid), fmt.Append(nil, niceWorker), 0)
}

// dataLimit is what a process of a worker may map that it can write to. A supervisor uses
// far less.
func dataLimit(spec *workerSpec) uint64 { return uint64(spec.Memory + dataRoom) }

// taskLimit is how many processes and threads the user of workers may have when one of them
// starts another: a quarter of what the system has, half of what this process may have. The
// kernel lets root have any number.
func taskLimit() uint64 {
	most := uint64(0)
	for _, name := range []string{"pid_max", "threads-max"} {
		text, err := os.ReadFile("/proc/sys/kernel/" + name)
		n, err2 := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && err2 == nil && (most == 0 || n < most) {
			most = n
		}
	}
	if most /= 4; most == 0 {
		most = math.MaxInt32
	}
	if n := ownTasks(); n > 0 {
		most = min(most, n/2)
	}
	var user unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NPROC, &user) == nil && user.Max != unix.RLIM_INFINITY {
		most = min(most, user.Max/2)
	}
	return most
}

// threadLimit is how many threads a worker may have: what all workers may, at most.
func threadLimit() int { return int(min(maxThreads, taskLimit())) }

// confineThread confines the calling thread for good. Every step uses system calls that
// change this thread alone.
func confineThread(spec *workerSpec) error {
	takeTurns(unix.Gettid(), niceWorker)
	crowd(unix.Gettid(), false) // what starts counts its processors
	// Memory that processes share by System V or POSIX names goes with its namespace.
	if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("leave the namespace of shared memory: %w", err)
	}
	rules, err := newRules(spec)
	if err != nil {
		return err
	}
	defer rules.close()
	if err := dropPrivileges(spec.User); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	if err := rules.restrict(); err != nil {
		return err
	}
	return filterThread()
}

// dropPrivileges gives up all capabilities, and takes the user of workers when one is set.
func dropPrivileges(user *Credential) error {
	for c := range uintptr(64) {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			break // an unknown one is behind the last; without privileges there is nothing to drop
		}
	}
	if user != nil {
		for _, call := range [...][4]uintptr{
			{unix.SYS_SETGROUPS, 0, 0, 0},
			{unix.SYS_SETRESGID, uintptr(user.GID), uintptr(user.GID), uintptr(user.GID)},
			{unix.SYS_SETRESUID, uintptr(user.UID), uintptr(user.UID), uintptr(user.UID)},
		} {
			if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				return fmt.Errorf("become user %d, group %d: %w", user.UID, user.GID, errno)
			}
		}
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	return nil
}

// Undumpable keeps the memory and the environment of this process from other processes
// of the same user.
func Undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid to look into this process: %w", err)
	}
	return nil
}
