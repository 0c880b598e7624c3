package plugins

import (
	"fmt"
	stdruntime "runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Processes of one user may set each other's limits and priorities, which no rule of
// Landlock is about: with a limit of processor time the kernel would end grout or a
// supervisor. Workers may do so to themselves only, which is the number 0.

// architectures are those of which the system calls are filtered; others have no filter.
var architectures = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}

// onlySelf are calls by the value that an argument must have.
var onlySelf = []struct{ call, argument, value uint32 }{
	{unix.SYS_PRLIMIT64, 0, 0},
	{unix.SYS_SCHED_SETPARAM, 0, 0},
	{unix.SYS_SCHED_SETSCHEDULER, 0, 0},
	{unix.SYS_SCHED_SETATTR, 0, 0},
	{unix.SYS_SCHED_SETAFFINITY, 0, 0},
	{unix.SYS_SETPRIORITY, 0, unix.PRIO_PROCESS},
	{unix.SYS_SETPRIORITY, 1, 0},
	{unix.SYS_IOPRIO_SET, 0, 1}, // IOPRIO_WHO_PROCESS
	{unix.SYS_IOPRIO_SET, 1, 0},
}

// unknown are calls that this kernel seems not to have: what they give is memory that no
// process has, so that no limit is about it.
var unknown = []uint32{unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET}

// filters reports whether this kernel filters system calls.
func filters() bool {
	action := uint32(unix.SECCOMP_RET_ERRNO)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	return errno == 0 && architectures[stdruntime.GOARCH] != 0
}

// filterProgram refuses system calls about others, and those of another architecture, which
// have other numbers. Numbers and processes are the lower words of what is passed.
func filterProgram(arch uint32) []unix.SockFilter {
	const number, architecture, arguments = 0, 4, 16
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	jump := func(how uint16, value uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | how | unix.BPF_K, Jt: yes, Jf: no, K: value}
	}
	end := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	program := []unix.SockFilter{
		load(architecture), jump(unix.BPF_JEQ, arch, 1, 0), end(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)),
		load(number), jump(unix.BPF_JGE, 1<<30, 0, 1), end(unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)), // x32
	}
	for _, c := range onlySelf {
		program = append(program,
			load(number), jump(unix.BPF_JEQ, c.call, 0, 3),
			load(arguments+8*c.argument), jump(unix.BPF_JEQ, c.value, 1, 0), end(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)))
	}
	for _, call := range append(unknown, unix.SYS_CLONE3) {
		program = append(program, load(number), jump(unix.BPF_JEQ, call, 0, 1), end(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
	}
	// Processes that start siblings instead of children, one after the other, can be faster
	// than who ends them. The flags of clone3 cannot be seen; libraries take clone then.
	return append(program,
		load(number), jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 3),
		load(arguments), jump(unix.BPF_JSET, unix.CLONE_PARENT, 0, 1), end(unix.SECCOMP_RET_ERRNO|uint32(unix.EPERM)),
		end(unix.SECCOMP_RET_ALLOW))
}

// filterThread puts the filter on the calling thread and what it will start.
func filterThread() error {
	if !filters() {
		return nil
	}
	program := filterProgram(architectures[stdruntime.GOARCH])
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&f)), 0, 0, 0); errno != 0 {
		return fmt.Errorf("filter the system calls of the worker: %w", errno)
	}
	return nil
}
