//go:build faults

package app

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
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
