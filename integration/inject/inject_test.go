package inject

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envProgram makes this test binary the program whose calls are judged.
const envProgram = "INJECT_TEST_PROGRAM"

func TestMain(m *testing.M) {
	Launch()
	if dir := os.Getenv(envProgram); dir != "" {
		program(dir)
		return
	}
	os.Exit(m.Run())
}

// program tells what became of each call on files in dir and beside it.
func program(dir string) {
	tell := func(what string, err error) {
		var errno unix.Errno
		if errors.As(err, &errno) {
			fmt.Println(what, unix.ErrnoName(errno))
			return
		}
		fmt.Println(what, err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "there"), os.O_RDWR, 0)
	tell("open", err)
	if err == nil {
		_, err = f.WriteString("x")
		tell("write", err)
		_, err = f.WriteAt([]byte("y"), 10)
		tell("pwrite", err)
		tell("truncate", f.Truncate(1))
		began := time.Now()
		tell("sync", f.Sync())
		if time.Since(began) > 100*time.Millisecond {
			fmt.Println("sync was late")
		}
	}
	_, err = os.ReadFile(filepath.Join(dir, "there"))
	tell("read", err)
	tell("make", os.WriteFile(filepath.Join(dir, "new"), []byte("x"), 0o600))
	tell("mkdir", os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	tell("rename", os.Rename(filepath.Join(dir, "there"), filepath.Join(dir, "elsewhere")))
	tell("remove", os.RemoveAll(filepath.Join(dir, "old")))
	tell("beside", os.WriteFile(dir+"-beside", []byte("x"), 0o600))
}

func TestFaults(t *testing.T) {
	if err := Available(); err != nil {
		t.Skipf("errors of system calls cannot be made here, so nothing of this was tested: %v", err)
	}
	for name, c := range map[string]struct {
		fault *Fault
		fails string // what fails, and how
	}{
		"none":      {nil, ""},
		"write":     {&Fault{Calls: Write, Errno: unix.ENOSPC}, "write ENOSPC, pwrite ENOSPC, truncate ENOSPC, make ENOSPC"},
		"sync":      {&Fault{Calls: Sync, Errno: unix.EIO}, "sync EIO"},
		"read-only": {&Fault{Calls: Write | Name, Errno: unix.EROFS}, "open EROFS, make EROFS, mkdir EROFS, rename EROFS, remove EROFS"},
		"slow":      {&Fault{Calls: Sync, Late: 150 * time.Millisecond}, "sync was late"},
		"late":      {&Fault{Calls: Sync, Late: 150 * time.Millisecond, Errno: unix.EIO}, "sync EIO, sync was late"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := run(t, c.fault); got != c.fails {
				t.Errorf("fails: %q, want %q", got, c.fails)
			}
		})
	}
}

func run(t *testing.T, f *Fault) string {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30)) // longer than the address of a socket may be
	if err := os.MkdirAll(filepath.Join(dir, "old", "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	i, err := New(1)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- i.Run() }()
	if f != nil {
		f.Under = []string{dir}
		i.Set(*f)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), i.Env(self)...), envProgram+"="+dir)
	out, err := cmd.CombinedOutput()
	if err := errors.Join(err, i.Close(), <-ended); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var fails []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); !strings.HasSuffix(line, "<nil>") {
			fails = append(fails, line)
		}
	}
	if (i.Met() > 0) != (f != nil) {
		t.Errorf("%d calls met the fault: %s", i.Met(), i.Counts())
	}
	return strings.Join(fails, ", ")
}
