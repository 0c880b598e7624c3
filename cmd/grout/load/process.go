package load

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Process is what another process has used. What cannot be found out is negative.
type Process struct {
	CPU            time.Duration // of all its processors, since its start
	Resident, Peak int64         // bytes of memory, now and at most
}

// tick is the unit of times in /proc (USER_HZ, the same on every architecture that
// Linux and Go share).
const tick = 10 * time.Millisecond

// ReadProcess reads /proc/pid/stat and status (proc_pid_stat(5)).
func ReadProcess(pid int) Process {
	p := Process{CPU: -1, Resident: -1, Peak: -1}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		p.CPU = cpuOf(string(text))
	}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
		p.Resident, p.Peak = kibOf(string(text), "VmRSS:"), kibOf(string(text), "VmHWM:")
	}
	return p
}

// ForgetPeak lets the peak of a process begin anew at what it has now.
func ForgetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// cpuOf adds user and system time, which follow the name in brackets.
func cpuOf(stat string) time.Duration {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return -1
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err1 != nil || err2 != nil {
		return -1
	}
	return time.Duration(user+system) * tick
}

func kibOf(status, name string) int64 {
	_, rest, found := strings.Cut(status, "\n"+name)
	fields := strings.Fields(rest)
	if !found || len(fields) == 0 {
		return -1
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return -1
	}
	return n << 10
}
