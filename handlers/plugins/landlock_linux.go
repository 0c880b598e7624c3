package plugins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	landlockRead    = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	landlockReadDev = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	// landlockFile is what can be allowed on something other than a directory.
	landlockFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

	landlockABI1 = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1
	landlockABI5 = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV<<1 - 1
	// landlockWrite is everything below a folder of the plugin's own but devices.
	landlockWrite = landlockABI5 &^ (unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV)

	// maxRules bounds what is allowed one by one beside something hidden.
	maxRules = 20_000
)

// devices are what workers may use of /dev; disks and memory are not among it.
var devices = []string{"null", "zero", "full", "random", "urandom", "nvidia*", "dri", "kfd", "dxg"}

// landlockABI is the version that the kernel knows; 0: it has none, or it is switched off.
func landlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}

// landlockAttributes are what an ABI can keep, and the size of the structure it takes.
func landlockAttributes(abi int) (attr unix.LandlockRulesetAttr, size uintptr) {
	size = unsafe.Sizeof(attr.Handled_access_fs)
	attr.Handled_access_fs = landlockABI1
	if abi >= 2 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		attr.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		size = unsafe.Offsetof(attr.Scoped) + unsafe.Sizeof(attr.Scoped)
	}
	return attr, size
}

// rules are what the processes of a worker may do with files.
type rules struct {
	fd      int // -1: the kernel has no Landlock
	handled uint64
	added   int
}

// newRules allows reading as before but for what is hidden, and writing in the folders
// of the plugin. It is called with the rights of the supervisor.
func newRules(spec *workerSpec) (*rules, error) {
	abi := landlockABI()
	if abi == 0 {
		return &rules{fd: -1}, nil
	}
	attr, size := landlockAttributes(abi)
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return nil, fmt.Errorf("make a ruleset of Landlock: %w", errno)
	}
	r := &rules{fd: int(fd), handled: attr.Handled_access_fs}
	if err := r.allow(spec); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *rules) allow(spec *workerSpec) error {
	hide := append(resolved(spec.Hide), "/dev")
	if err := r.allowAround("/", landlockRead, hide); err != nil {
		return err
	}
	for _, path := range resolved(spec.Readable) {
		if err := r.add(path, landlockRead); err != nil {
			return err
		}
	}
	for _, path := range resolved(spec.Writable) {
		// What is hidden inside of a writable folder stays hidden; a writable folder inside
		// of what is hidden is not.
		inside := slices.DeleteFunc(slices.Clone(hide), func(h string) bool { return !below(h, path) })
		if err := r.allowAround(path, landlockRead|landlockWrite, inside); err != nil {
			return err
		}
	}
	for _, name := range devices {
		found, _ := filepath.Glob("/dev/" + name)
		for _, path := range found {
			if err := r.add(path, landlockReadDev|unix.LANDLOCK_ACCESS_FS_READ_DIR); err != nil {
				return err
			}
		}
	}
	return nil
}

// allowAround allows what is below dir but for what is hidden there: on the way down to
// that, the neighbours one by one.
func (r *rules) allowAround(dir string, access uint64, hide []string) error {
	if slices.Contains(hide, dir) {
		return nil
	}
	if !slices.ContainsFunc(hide, func(h string) bool { return below(h, dir) }) {
		return r.add(dir, access)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return nil // what cannot be listed is not allowed
		}
		return fmt.Errorf("look around what plugins must not see: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			continue
		}
		if err := r.allowAround(filepath.Join(dir, e.Name()), access, hide); err != nil {
			return err
		}
	}
	return nil
}

func (r *rules) add(path string, access uint64) error {
	if r.added++; r.added > maxRules {
		return fmt.Errorf("there are more than %d files beside those that plugins must not see; put each of these into a folder of its own", maxRules)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // it has gone, or nobody may reach it
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFLNK:
		return nil
	default:
		access &= landlockFile
	}
	rule := unix.LandlockPathBeneathAttr{Allowed_access: access & r.handled, Parent_fd: int32(fd)}
	if rule.Allowed_access == 0 {
		return nil
	}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
	if errno != 0 && errno != unix.EBADFD { // what is no file of a file system needs no right
		return fmt.Errorf("allow %s: %w", path, errno)
	}
	return nil
}

// restrict puts the rules on the calling thread.
func (r *rules) restrict() error {
	if r.fd < 0 {
		return nil
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), 0, 0); errno != 0 {
		return fmt.Errorf("restrict the worker by Landlock: %w", errno)
	}
	return nil
}

func (r *rules) close() {
	if r.fd >= 0 {
		unix.Close(r.fd)
		r.fd = -1
	}
}

// below reports whether path is inside of dir.
func below(path, dir string) bool {
	if dir == "/" {
		return path != "/"
	}
	return strings.HasPrefix(path, dir) && len(path) > len(dir) && path[len(dir)] == '/'
}

// resolved gives the paths without symbolic links, as far as they exist.
func resolved(paths []string) []string {
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		if p != "" {
			out = append(out, resolve(filepath.Clean(p)))
		}
	}
	return out
}

func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	dir := filepath.Dir(path)
	if dir == path {
		return path
	}
	return filepath.Join(resolve(dir), filepath.Base(path))
}
