package plugins

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// confinementSince are the versions of Landlock that bring more.
var confinementSince = []struct {
	abi               int
	linux, holds, but string
}{
	{1, "5.13", "hidden paths are not read, files are written only in the plugin's folder and its home, and no process outside can be looked into", "plugins read and write whatever this user may"},
	{3, "6.2", "no file elsewhere can be cut off", "plugins can cut off files that this user may write"},
	{5, "6.10", "devices take no orders", "devices that can be opened take orders"},
	{6, "6.12", "nothing outside can be signalled or reached by an abstract socket", "plugins can send signals to processes of this user, grout included, and reach abstract sockets"},
}

// Confinement tells, in words for people, what keeps workers apart from grout on this
// machine, and what is missing.
func Confinement(user *Credential) (holds, lacks []string) {
	holds, lacks = confinement(landlockABI(), user, os.Geteuid() == 0)
	switch {
	case filters():
		holds = append(holds, "limits and priorities of other processes stay as they are")
	case user == nil:
		lacks = append(lacks, "plugins can set the limits of grout's processes, by which these end (seccomp)")
	}
	if base, _ := groupBase(controllerTasks); base == "" && os.Geteuid() == 0 && (user == nil || user.UID == 0) {
		lacks = append(lacks, "plugins can use up the processes that this machine has, as root may have any number and control groups cannot be made (set a user for workers)")
	}
	return holds, lacks
}

func confinement(abi int, user *Credential, root bool) (holds, lacks []string) {
	for _, s := range confinementSince {
		if abi >= s.abi {
			holds = append(holds, s.holds)
			continue
		}
		if user != nil && s.abi != 5 {
			continue // another user has no right to it either
		}
		lacks = append(lacks, fmt.Sprintf("%s (Landlock %d, Linux %s)", s.but, s.abi, s.linux))
	}
	if abi == 0 && user != nil {
		lacks = append(lacks, "plugins read and write what their user may (Landlock 1, Linux 5.13)")
	}
	if user != nil {
		holds = append(holds, fmt.Sprintf("workers run as user %d, group %d", user.UID, user.GID))
	}
	if root {
		holds = append(holds, "workers have no capabilities, and shared memory of their own")
	} else {
		lacks = append(lacks, "shared memory of System V stays when a worker has ended (grout does not run as root)")
	}
	return holds, lacks
}

// trusted reports whether nothing keeps plugins from the data directory.
func trusted(user *Credential) bool { return landlockABI() == 0 && user == nil }

// canBecome tells why workers cannot run as a user.
func canBecome(user *Credential) error {
	if user == nil || os.Geteuid() == 0 {
		return nil
	}
	if int(user.UID) == unix.Geteuid() && int(user.GID) == unix.Getegid() {
		return nil
	}
	return fmt.Errorf("workers cannot run as user %d, group %d: grout does not run as root", user.UID, user.GID)
}
