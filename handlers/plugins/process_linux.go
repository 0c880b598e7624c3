package plugins

import (
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func supervisorAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// thisProgram names the program that runs by a path that stays its own when the file is
// replaced by another release.
func thisProgram(exe string) string {
	if own, err := os.Executable(); err == nil && own == exe {
		return "/proc/self/exe"
	}
	return exe
}

func socketEnds() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
}

// shutdown ends what can be read at the other end of a socket.
func shutdown(socket *os.File) {
	raw, err := socket.SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	}
}

// mayPass reports whether a user may go through a directory.
func mayPass(info fs.FileInfo, user *Credential) bool {
	owner, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case !ok:
		return true
	case owner.Uid == user.UID:
		return mode&0o100 != 0
	case owner.Gid == user.GID:
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
