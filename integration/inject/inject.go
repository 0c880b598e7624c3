// Package inject lets chosen system calls of a program fail, or take long, as a
// broken, full, read-only or slow disk would: the program is the unchanged binary,
// and the errors come from the kernel. A seccomp filter stops each call that
// changes a file and asks an Injector, which lets it go on, gives it an error, or
// lets it wait. Only calls on files under chosen directories are ever touched.
//
// The filter has to be set by the program's own process before its first
// instruction, so a test binary is started in its place, sets the filter in
// Launch, and becomes the program.
package inject

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Calls are kinds of system calls.
type Calls uint8

// Kinds of calls that a Fault may meet.
const (
	Write Calls = 1 << iota // write to a file, or change its size
	Sync                    // fsync, fdatasync
	Name                    // make, rename or remove a file, or open one for writing
)

// Fault says which calls are met, and what becomes of them.
type Fault struct {
	Under []string // directories; files and directories below them are met, themselves too
	Calls Calls
	Share float64       // of the calls that are met, drawn for each; 0: all
	Errno unix.Errno    // 0: the call is only late
	Late  time.Duration // how long a call is held before it goes on or fails; Clear lets it go
}

// Injector judges the calls of one program.
type Injector struct {
	socket   int // the listener fd of the filter comes through it
	address  string
	stop     [2]int // a pipe; its end is the end of Run
	ended    chan struct{}
	listener int

	late sync.WaitGroup // calls that are held

	mu     sync.Mutex
	rng    *rand.Rand
	fault  *Fault
	over   chan struct{} // closed when the fault is
	counts map[string]int
	met    int // since the last Set
}

// New makes an injector that draws from seed. Run must run before the program is
// started.
func New(seed uint64) (*Injector, error) {
	i := &Injector{rng: rand.New(rand.NewPCG(seed, 0)), counts: map[string]int{}, ended: make(chan struct{}), listener: -1}
	var err error
	if i.socket, i.address, err = listen(); err != nil {
		return nil, err
	}
	if err := unix.Pipe2(i.stop[:], unix.O_CLOEXEC); err != nil {
		return nil, errors.Join(err, unix.Close(i.socket))
	}
	return i, nil
}

// Env is what to start this very test binary with, so that it becomes binary with
// its calls under the eyes of the injector.
func (i *Injector) Env(binary string) []string {
	return []string{envSocket + "=" + i.address, envBinary + "=" + binary}
}

// Set puts a fault in the place of the one before it.
func (i *Injector) Set(f Fault) {
	under := make([]string, 0, len(f.Under))
	for _, dir := range f.Under {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			dir = real // as the kernel names it
		}
		under = append(under, dir)
	}
	f.Under = under
	i.Clear()
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fault, i.met, i.over = &f, 0, make(chan struct{})
}

// Clear ends the fault. Calls that are held end as they would have.
func (i *Injector) Clear() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fault != nil {
		i.fault = nil
		close(i.over)
	}
}

// Met is the number of calls that failed or were held since the last Set.
func (i *Injector) Met() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.met
}

// Counts tells how many calls have met which fault, in all.
func (i *Injector) Counts() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var list []string
	for _, name := range slices.Sorted(maps.Keys(i.counts)) {
		list = append(list, fmt.Sprintf("%s %d", name, i.counts[name]))
	}
	return cmp.Or(strings.Join(list, ", "), "none")
}

// Run judges calls until Close. The program must have ended by then: its calls
// would fail.
func (i *Injector) Run() error {
	defer close(i.ended)
	defer i.late.Wait()
	if ok, err := i.await(i.socket); !ok {
		return err
	}
	var err error
	if i.listener, err = receive(i.socket); err != nil {
		return err
	}
	for {
		ok, err := i.await(i.listener)
		if !ok {
			return err
		}
		n, err := next(i.listener)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINTR): // the call was given up
			continue
		case err != nil:
			return fmt.Errorf("take a call: %w", err)
		}
		if err := i.judge(n); err != nil {
			return err
		}
	}
}

// await waits until something can be read from fd; false says that this is over.
func (i *Injector) await(fd int) (bool, error) {
	list := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(i.stop[0])}}
	for {
		_, err := unix.Poll(list, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return false, fmt.Errorf("wait for a call: %w", err)
		case list[1].Revents != 0:
			return false, nil
		case list[0].Revents&unix.POLLIN != 0:
			return true, nil
		}
		return false, nil // POLLHUP: the program has ended
	}
}

func (i *Injector) judge(n *notification) error {
	f, over := i.meets(n)
	switch {
	case f == nil:
		return answer(i.listener, n.ID, 0)
	case f.Late == 0:
		return answer(i.listener, n.ID, f.Errno)
	}
	i.late.Go(func() {
		t := time.NewTimer(f.Late)
		defer t.Stop()
		select {
		case <-t.C:
		case <-over:
		}
		_ = answer(i.listener, n.ID, f.Errno) // the process may have ended
	})
	return nil
}

// meets gives the fault that a call meets, and what tells its end; nil for none.
func (i *Injector) meets(n *notification) (*Fault, <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f, kind := i.fault, n.kind()
	if f == nil || kind&f.Calls == 0 || f.Share != 0 && i.rng.Float64() >= f.Share {
		return nil, nil
	}
	if !f.covers(n.path()) || !valid(i.listener, n.ID) {
		return nil, nil
	}
	what := "late"
	if f.Errno != 0 {
		what = unix.ErrnoName(f.Errno)
	}
	i.counts[what+" "+kind.String()]++
	i.met++
	return f, i.over
}

func (f *Fault) covers(path string) bool {
	return slices.ContainsFunc(f.Under, func(dir string) bool {
		rest, ok := strings.CutPrefix(path, dir)
		return ok && (rest == "" || rest[0] == '/')
	})
}

func (c Calls) String() string {
	var list []string
	for _, k := range []struct {
		bit  Calls
		name string
	}{{Write, "write"}, {Sync, "sync"}, {Name, "name"}} {
		if c&k.bit != 0 {
			list = append(list, k.name)
		}
	}
	return strings.Join(list, "+")
}

// Close ends Run, which must have been started, and gives everything back.
func (i *Injector) Close() error {
	i.Clear()
	err := unix.Close(i.stop[1])
	<-i.ended
	err = errors.Join(err, unix.Close(i.stop[0]), unix.Close(i.socket))
	if i.listener >= 0 {
		err = errors.Join(err, unix.Close(i.listener))
	}
	return err
}

// Launch becomes the program that Env names, with the filter set. It returns at
// once when Env names none, and never otherwise.
func Launch() {
	address, binary := os.Getenv(envSocket), os.Getenv(envBinary)
	if address == "" {
		return
	}
	err := launch(address, binary)
	fmt.Fprintln(os.Stderr, "inject:", err)
	os.Exit(1)
}
