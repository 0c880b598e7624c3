package inject

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Variables that make a test binary the launcher of another.
const (
	envSocket = "GROUT_INJECT_SOCKET"
	envBinary = "GROUT_INJECT_BINARY"
)

// call is a system call that the filter stops.
type call struct {
	nr   uint32
	kind Calls
	fd   int // argument that is the file; -1: none
	at   int // argument that is a directory, before one that is a name below it; -1: none
	// flags is the argument with flags of opening, which must ask for more than
	// reading; 0: any call is stopped.
	flags int
}

var calls = []call{
	{unix.SYS_WRITE, Write, 0, -1, 0},
	{unix.SYS_PWRITE64, Write, 0, -1, 0},
	{unix.SYS_WRITEV, Write, 0, -1, 0},
	{unix.SYS_PWRITEV, Write, 0, -1, 0},
	{unix.SYS_PWRITEV2, Write, 0, -1, 0},
	{unix.SYS_FTRUNCATE, Write, 0, -1, 0},
	{unix.SYS_FALLOCATE, Write, 0, -1, 0},
	{unix.SYS_COPY_FILE_RANGE, Write, 2, -1, 0},
	{unix.SYS_FSYNC, Sync, 0, -1, 0},
	{unix.SYS_FDATASYNC, Sync, 0, -1, 0},
	{unix.SYS_OPENAT, Name, -1, 0, 2},
	{unix.SYS_MKDIRAT, Name, -1, 0, 0},
	{unix.SYS_UNLINKAT, Name, -1, 0, 0},
	{unix.SYS_RENAMEAT, Name, -1, 0, 0},
	{unix.SYS_RENAMEAT2, Name, -1, 0, 0},
}

const changing = unix.O_WRONLY | unix.O_RDWR | unix.O_CREAT | unix.O_TRUNC

// auditArch names the system calls' numbering to the filter.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// Places in the kernel's struct seccomp_data.
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16
)

// filter stops the calls of the table and lets all others go on.
func filter() []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		has   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	stop := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF}
	program := []unix.SockFilter{
		{Code: load, K: atArch},
		{Code: equal, K: auditArch, Jt: 1},
		allow,
		{Code: load, K: atNumber},
	}
	for _, c := range calls {
		if c.flags == 0 {
			program = append(program, unix.SockFilter{Code: equal, K: c.nr, Jf: 1}, stop)
			continue
		}
		program = append(program,
			unix.SockFilter{Code: equal, K: c.nr, Jf: 4},
			unix.SockFilter{Code: load, K: atArgs + 8*uint32(c.flags)}, // the low half
			unix.SockFilter{Code: has, K: changing, Jf: 1}, stop, allow)
	}
	return append(program, allow)
}

// Available tells why calls cannot be injected here; nil when they can.
func Available() error {
	if auditArch == 0 {
		return fmt.Errorf("no system call numbers of %s are known", runtime.GOARCH)
	}
	failed := make(chan error)
	go func() {
		// The filter belongs to the thread, which ends with this goroutine.
		runtime.LockOSThread()
		fd, err := install([]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}})
		if err == nil {
			err = unix.Close(fd)
		}
		failed <- err
	}()
	return <-failed
}

// install sets a filter for the calling thread and gives the fd that its
// notifications come from.
func install(program []unix.SockFilter) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, fmt.Errorf("give up new privileges: %w", err)
	}
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// A call that is being judged is not interrupted by the runtime's signals.
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&p)))
	if errno == unix.EINVAL { // Linux before 5.19
		fd, _, errno = unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&p)))
	}
	runtime.KeepAlive(program)
	if errno != 0 {
		return 0, fmt.Errorf("set a seccomp filter with a listener: %w", errno)
	}
	return int(fd), nil
}

func launch(address, binary string) error {
	runtime.LockOSThread()
	// What becomes the program is this thread, not the one that the parent made.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("end with the parent: %w", err)
	}
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, envSocket+"=") && !strings.HasPrefix(v, envBinary+"=") {
			env = append(env, v)
		}
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(s, &unix.SockaddrUnix{Name: address}); err != nil {
		return fmt.Errorf("connect to the injector: %w", err)
	}
	listener, err := install(filter())
	if err != nil {
		return err
	}
	// Until the injector has the listener, nothing that the filter stops goes on.
	if err := unix.Sendmsg(s, []byte{0}, unix.UnixRights(listener), nil, 0); err != nil {
		return fmt.Errorf("hand over the listener: %w", err)
	}
	return fmt.Errorf("run %s: %w", binary, syscall.Exec(binary, append([]string{binary}, os.Args[1:]...), env))
}

// listen makes a socket with a name outside of the file system, whose paths may be
// too long for it.
func listen() (fd int, address string, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, "", err
	}
	address = "@grout-inject-" + rand.Text()
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: address})
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		return 0, "", errors.Join(fmt.Errorf("listen for a program: %w", err), unix.Close(fd))
	}
	return fd, address, nil
}

// receive takes a listener from the program that connects.
func receive(socket int) (int, error) {
	conn, _, err := unix.Accept4(socket, unix.SOCK_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("accept the program: %w", err)
	}
	defer unix.Close(conn)
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(conn, make([]byte, 1), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("take the listener: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("the program sent no listener: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, fmt.Errorf("the program sent no listener: %w", err)
	}
	return fds[0], nil
}

// notification is the kernel's struct seccomp_notif.
type notification struct {
	ID    uint64
	PID   uint32 // of the thread
	Flags uint32
	Nr    int32
	Arch  uint32
	IP    uint64
	Args  [6]uint64
}

// response is the kernel's struct seccomp_notif_resp.
type response struct {
	ID    uint64
	Value int64
	Error int32
	Flags uint32
}

func next(listener int) (*notification, error) {
	n := &notification{}
	return n, ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(n))
}

// answer lets a call go on, or fail with errno. A call that is gone needs none.
func answer(listener int, id uint64, errno unix.Errno) error {
	r := &response{ID: id, Error: -int32(errno)}
	if errno == 0 {
		r.Flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	}
	err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(r))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// valid reports whether the call still waits: if so, what /proc said of its thread
// was said of it and of no other.
func valid(listener int, id uint64) bool {
	return ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

func ioctl(fd int, request uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

func (n *notification) call() *call {
	for i := range calls {
		if calls[i].nr == uint32(n.Nr) {
			return &calls[i]
		}
	}
	return &call{fd: -1, at: -1}
}

func (n *notification) kind() Calls { return n.call().kind }

// path is the file that a call is about; empty when it is about none.
func (n *notification) path() string {
	c := n.call()
	switch {
	case c.fd >= 0:
		return n.file(int32(n.Args[c.fd]))
	case c.at >= 0:
		name := n.text(uintptr(n.Args[c.at+1]))
		if name == "" || filepath.IsAbs(name) {
			return name
		}
		if dir := int32(n.Args[c.at]); dir != unix.AT_FDCWD {
			return filepath.Join(n.file(dir), name)
		}
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", n.PID))
		return filepath.Join(cwd, name)
	}
	return ""
}

// file is the path of an open file. Sockets and pipes have names that are no paths.
func (n *notification) file(fd int32) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.PID, fd))
	return strings.TrimSuffix(path, " (deleted)")
}

// text reads a text from the memory of the program.
func (n *notification) text(address uintptr) string {
	const page = 4096
	var text []byte
	for len(text) < unix.PathMax {
		part := make([]byte, page-int(address%page)) // no further than what is sure to be there
		remote := []unix.RemoteIovec{{Base: address, Len: len(part)}}
		local := []unix.Iovec{{Base: &part[0]}}
		local[0].SetLen(len(part))
		got, err := unix.ProcessVMReadv(int(n.PID), local, remote, 0)
		if err != nil || got == 0 {
			return ""
		}
		if end := strings.IndexByte(string(part[:got]), 0); end >= 0 {
			return string(append(text, part[:end]...))
		}
		text, address = append(text, part[:got]...), address+uintptr(got)
	}
	return ""
}
