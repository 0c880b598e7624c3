package plugins

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// tempAge is how old an unlocked directory must be to be taken for one left behind.
const tempAge = time.Minute

// tempDir is the TMPDIR of one worker, below the plugin's home. It is locked for as long
// as its supervisor lives, so that a later one can tell what has been left behind. The
// plugin may have put anything into its home, so nothing here leaves it.
type tempDir struct {
	path string
	name string
	home *os.Root
	lock *os.File
}

func newTempDir(home string, user *Credential) (*tempDir, error) {
	root, err := os.OpenRoot(home)
	if err != nil {
		return nil, fmt.Errorf("open the plugin's home: %w", err)
	}
	name := filepath.Join("tmp", strconv.Itoa(os.Getpid()))
	t := &tempDir{path: filepath.Join(home, name), name: name, home: root}
	if err := t.make(user); err != nil {
		root.Close()
		return nil, fmt.Errorf("make a temporary directory: %w", err)
	}
	return t, nil
}

func (t *tempDir) make(user *Credential) error {
	if info, err := t.home.Lstat("tmp"); err == nil && !info.IsDir() {
		if err := t.home.Remove("tmp"); err != nil {
			return err
		}
	}
	t.sweep()
	if err := t.home.RemoveAll(t.name); err != nil {
		return err
	}
	if err := t.home.MkdirAll(t.name, 0o700); err != nil {
		return err
	}
	if user != nil {
		for _, path := range []string{".", "tmp", t.name} {
			if err := t.home.Lchown(path, int(user.UID), int(user.GID)); err != nil {
				return err
			}
		}
	}
	var err error
	if t.lock, err = t.home.Open(t.name); err != nil {
		return err
	}
	return unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// sweep removes what supervisors that have gone left behind.
func (t *tempDir) sweep() {
	dir, err := t.home.Open("tmp")
	if err != nil {
		return
	}
	defer dir.Close()
	entries, _ := dir.ReadDir(-1)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || time.Since(info.ModTime()) < tempAge {
			continue
		}
		t.drop(filepath.Join("tmp", e.Name()))
	}
}

func (t *tempDir) drop(name string) {
	info, err := t.home.Lstat(name)
	if err != nil {
		return
	}
	if info.IsDir() {
		f, err := t.home.Open(name)
		if err != nil {
			return
		}
		defer f.Close()
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			return
		}
	}
	_ = t.home.RemoveAll(name)
}

func (t *tempDir) remove() {
	if t != nil {
		_ = t.home.RemoveAll(t.name)
	}
}
