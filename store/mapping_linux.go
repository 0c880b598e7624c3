package store

import "golang.org/x/sys/unix"

// dropMapped lets go of the pages of a mapped file. What is needed of them comes back
// from the page cache.
func dropMapped(at uintptr, size int) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, at, uintptr(size), unix.MADV_DONTNEED); errno != 0 {
		return errno
	}
	return nil
}
