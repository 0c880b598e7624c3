//go:build !linux

package plugins

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"
)

const lingerFor = time.Second

var errOnlyLinux = errors.New("plugins that are processes run on Linux only")

// Supervise is not there: what ends every process of a call is a part of Linux.
func Supervise() int {
	fmt.Fprintln(os.Stderr, "grout plugin-worker:", errOnlyLinux)
	return 1
}

// Confinement tells what keeps workers apart from grout on this machine.
func Confinement(*Credential) (holds, lacks []string) { return nil, []string{errOnlyLinux.Error()} }

// Undumpable does nothing here.
func Undumpable() error { return nil }

func endOrphans(leaderID) {}

func endGroup(int) {}

func trusted(*Credential) bool { return true }

func canBecome(*Credential) error { return nil }

func supervisorAttributes() *syscall.SysProcAttr { return nil }

func thisProgram(exe string) string { return exe }

func socketEnds() ([2]int, error) { return [2]int{}, errOnlyLinux }

func shutdown(*os.File) {}

func mayPass(fs.FileInfo, *Credential) bool { return true }
