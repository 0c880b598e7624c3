package load

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Machine is where a load was put on. What cannot be found out is empty.
type Machine struct {
	Processor  string        `json:"processor,omitempty"`
	Cores      int           `json:"cores"`
	GOMAXPROCS int           `json:"gomaxprocs"`
	System     string        `json:"system"` // system, architecture, kernel
	Go         string        `json:"go"`
	Disk       string        `json:"disk,omitempty"`    // file system and device of the directory
	Sync       time.Duration `json:"sync_ns,omitempty"` // median of writing 4 KiB and syncing it there
	InMemory   bool          `json:"in_memory_disk,omitempty"`
}

// ReadMachine describes this machine and, unless it is empty, a directory.
func ReadMachine(dir string) Machine {
	m := Machine{Cores: runtime.NumCPU(), GOMAXPROCS: runtime.GOMAXPROCS(0), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System += " " + strings.TrimSpace(string(text))
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(text), "model name")
		name, _, _ := strings.Cut(rest, "\n")
		m.Processor = strings.TrimLeft(name, "\t :")
	}
	if dir == "" {
		return m
	}
	kind, device := mountOf(dir)
	m.Disk = strings.TrimSpace(kind + " " + device)
	m.InMemory = kind == "tmpfs" || kind == "ramfs"
	m.Sync, _ = syncTime(dir)
	return m
}

// mountOf finds the file system that holds a directory (proc_pid_mountinfo(5)).
func mountOf(dir string) (kind, device string) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", ""
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", ""
	}
	longest := 0
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		dash := slices.Index(fields, "-")
		if dash < 5 || len(fields) < dash+3 {
			continue
		}
		point := strings.TrimSuffix(fields[4], "/") + "/"
		if strings.HasPrefix(dir+"/", point) && len(point) >= longest {
			longest, kind, device = len(point), fields[dash+1], fields[dash+2]
		}
	}
	return kind, device
}

// syncTime is how long a small durable write takes.
func syncTime(dir string) (median time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".sync-*")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4<<10)
	var times [15]time.Duration
	for i := range times {
		start := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times[:])
	return times[len(times)/2], nil
}

// cpu are the ticks of all processors since the start of the machine, and what
// this process had of them.
type cpu struct {
	total, idle, steal uint64
	own                time.Duration
	at                 time.Time
}

// cpuNow reads the first line of /proc/stat; without ticks where there is none.
func cpuNow() (c cpu) {
	c.at = time.Now()
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		c.own = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return c
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	for i, field := range strings.Fields(string(line)) {
		n, err := strconv.ParseUint(field, 10, 64)
		switch {
		case err != nil || i > 8: // guest time is part of user time
			continue
		case i == 4 || i == 5: // idle, iowait
			c.idle += n
		case i == 8:
			c.steal = n
		}
		c.total += n
	}
	return c
}

// Shares are parts of the time of all processors; negative ones are unknown.
type Shares struct {
	Busy  float64 // in use, by whomever
	Own   float64 // in use by this process
	Steal float64 // given to others by the host
}

// since gives the shares of the time between two readings.
func (c cpu) since(before cpu) Shares {
	s := Shares{-1, -1, -1}
	if took := c.at.Sub(before.at); took > 0 {
		s.Own = float64(c.own-before.own) / float64(took) / float64(runtime.NumCPU())
	}
	if c.total > before.total {
		total := float64(c.total - before.total)
		s.Steal = float64(c.steal-before.steal) / total
		s.Busy = 1 - float64(c.idle-before.idle)/total - s.Steal
	}
	return s
}

// Watch begins to watch the processors; what it returns tells their shares since then.
func Watch() func() Shares {
	before := cpuNow()
	return func() Shares { return cpuNow().since(before) }
}
