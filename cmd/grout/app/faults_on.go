//go:build faults

package app

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// faultPasses counts the passes of the point that GROUT_CRASH_AT names.
var faultPasses atomic.Int64

// faultHook kills the process, as kill -9 would, at the n-th pass of a point:
// GROUT_CRASH_AT=point:n. Only binaries built with the tag faults have it.
func faultHook() func(string) {
	point, count, _ := strings.Cut(os.Getenv("GROUT_CRASH_AT"), ":")
	if point == "" {
		return nil
	}
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		panic("GROUT_CRASH_AT must be point:n")
	}
	return func(p string) {
		if p == point && faultPasses.Add(1) == n {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// clockHook gives a wall clock that is moved, at any time, by the duration that the
// file GROUT_CLOCK_FILE holds, such as +40h; nil when there is no such variable.
func clockHook() func() time.Time {
	path := os.Getenv("GROUT_CLOCK_FILE")
	if path == "" {
		return nil
	}
	return func() time.Time {
		text, err := os.ReadFile(path)
		if err != nil {
			panic("GROUT_CLOCK_FILE: " + err.Error())
		}
		by, err := time.ParseDuration(strings.TrimSpace(string(text)))
		if err != nil {
			panic("GROUT_CLOCK_FILE: " + err.Error())
		}
		return time.Now().Add(by)
	}
}

// replayMessages is how many messages a replay applies in one transaction:
// GROUT_REPLAY_MESSAGES; 0 for the usual number.
func replayMessages() int {
	n, _ := strconv.Atoi(os.Getenv("GROUT_REPLAY_MESSAGES"))
	return n
}
