package integration

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal, and all that was written to it.
type terminal struct {
	master, slave *os.File
	ended         chan struct{}

	mu   sync.Mutex
	text bytes.Buffer
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatalf("open a pseudo-terminal: %v", err)
	}
	m := &terminal{master: os.NewFile(uintptr(fd), "/dev/ptmx"), ended: make(chan struct{})}
	t.Cleanup(func() { m.master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock the pseudo-terminal: %v", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("number of the pseudo-terminal: %v", err)
	}
	if m.slave, err = os.OpenFile(fmt.Sprint("/dev/pts/", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatalf("open the terminal: %v", err)
	}
	t.Cleanup(func() { m.slave.Close() })
	return m
}

// watch reads until the last program that has the terminal has ended. The caller has
// started it.
func (m *terminal) watch() {
	m.slave.Close()
	go func() {
		defer close(m.ended)
		buf := make([]byte, 4096)
		for {
			n, err := m.master.Read(buf)
			m.mu.Lock()
			m.text.Write(buf[:n])
			m.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

func (m *terminal) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

// interrupt types Ctrl-C.
func (m *terminal) interrupt() error {
	_, err := m.master.Write([]byte{3})
	return err
}
