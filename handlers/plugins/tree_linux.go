package plugins

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of processor time in /proc.
const clockTick = 10 * time.Millisecond

// proc is a process as /proc showed it. Number and start together are its identity.
type proc struct {
	pid, parent, session int
	start                uint64
	threads              int
	cpu                  time.Duration // its own
	waited               time.Duration // of its children that it waited for
	resident             int64
	ended                bool // and nobody has waited for it yet
}

type procID struct {
	pid   int
	start uint64
}

func (p *proc) id() procID { return procID{p.pid, p.start} }

// tree is everything that descends from this process, which is the reaper of what loses
// its parent among it.
type tree struct {
	self   int
	group  int // process group of this process
	leader int
	files  bool // the kernel lists children in files
	tasks  *taskGroup

	// mu is held while children are reaped: without it, the number of a child cannot become
	// that of a stranger.
	mu      sync.Mutex
	reaped  time.Duration // processor time of children that have been waited for
	orphans int           // children that have been waited for, of which the leader is one

	died  chan unix.WaitStatus // of the leader
	empty chan struct{}        // closed once there is no child left
}

func newTree() *tree {
	self := os.Getpid()
	_, err := os.Stat("/proc/self/task/" + strconv.Itoa(self) + "/children")
	return &tree{self: self, group: unix.Getpgrp(), files: err == nil, died: make(chan unix.WaitStatus, 1), empty: make(chan struct{})}
}

// reap waits for every child until there is none. It begins once the leader runs.
func (t *tree) reap() {
	defer close(t.empty)
	for {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		t.collect()
	}
}

func (t *tree) collect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.collectNow()
}

// collectNow is collect for who holds the lock. What has ended and was not waited for would
// fill the lists of children, and at last the numbers that the system has.
func (t *tree) collectNow() {
	for {
		var status unix.WaitStatus
		var usage unix.Rusage
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, &usage)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if !status.Exited() && !status.Signaled() {
			continue // it made this process its tracer, and has stopped
		}
		t.reaped += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		t.orphans++
		if pid == t.leader {
			t.died <- status
		}
	}
}

// maxWalk bounds how many processes are looked at in one go.
const maxWalk = 4096

// walk lists the living descendants, parents before children, not many more than asked
// for. What is forked meanwhile may be missing.
func (t *tree) walk(most int) []proc {
	list, _ := t.survey(most)
	return list
}

// survey is walk, and lists what has ended and was not waited for: some of it, when it is
// more than that.
func (t *tree) survey(most int) (list, ended []proc) {
	var all map[int][]int
	if !t.files {
		all = childrenByScan()
	}
	seen := map[int]bool{}
	add := func(parent *proc, pids []int) {
		for _, pid := range pids {
			if seen[pid] {
				continue
			}
			p, ok := readStat(pid)
			// An orphan has moved to this process; anything else is a stranger by now.
			if !ok || p.parent != parent.pid && p.parent != t.self {
				continue
			}
			seen[pid] = true
			if !p.ended {
				list = append(list, p)
			} else if ended = append(ended, p); len(ended) > most+maxOrphans {
				return
			}
		}
	}
	children := func(p *proc) []int {
		if all != nil {
			return all[p.pid]
		}
		return childrenOf(p.pid, p.threads)
	}
	me := proc{pid: t.self, threads: 2}
	add(&me, children(&me))
	for i := 0; i < len(list) && len(list) <= most; i++ {
		p := list[i]
		add(&p, children(&p))
	}
	return list, ended
}

// kill ends every descendant but those to be kept, once. A direct child cannot change its
// identity meanwhile; others are held by a descriptor and looked at again.
func (t *tree) kill(keep func(*proc) bool) (killed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.collectNow()
	for _, p := range t.walk(maxWalk) {
		if keep != nil && keep(&p) {
			continue
		}
		killed++
		if p.parent == t.self {
			_ = unix.Kill(p.pid, unix.SIGKILL)
			continue
		}
		killIdentified(p)
	}
	return killed
}

// killNear ends the direct children, each with its process group: none can leave that by
// a fork meanwhile. What lost its parent by this is a direct child next time. The newest
// of them is told.
func (t *tree) killNear() (newest int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.collectNow()
	for _, pid := range t.children() {
		newest = pid
		if group, err := unix.Getpgid(pid); err == nil && group > 1 && group != t.group {
			_ = unix.Kill(-group, unix.SIGKILL)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	return newest
}

// left tells how many children have been waited for.
func (t *tree) left() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.orphans
}

func killIdentified(p proc) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		if err == unix.ENOSYS {
			if now, ok := readProc(p.pid); ok && now.start == p.start {
				_ = unix.Kill(p.pid, unix.SIGKILL)
			}
		}
		return
	}
	defer unix.Close(fd)
	// In a storm of processes a number may be another's within one tick of the clock.
	if now, ok := readProc(p.pid); ok && now.start == p.start && (now.parent == p.parent || now.parent == os.Getpid()) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// end kills everything, again and again, until nothing is left or the time is over. What
// is killed gets the priority with which it is to leave.
func (t *tree) end(within time.Duration, nice int) bool {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	newest, still := 0, 0 // how often nothing new has come
	for pass := 0; ; pass++ {
		still++
		if last := t.killNear(); last != newest {
			newest, still = last, 0
		}
		if pass%8 == 0 {
			t.kill(nil)
		}
		if pass == 1 {
			t.tasks.yield(false)
			for _, p := range t.walk(maxProcesses) {
				setPriority(&p, nice)
			}
		}
		again := time.NewTimer(min(50*time.Microsecond<<min(still/4, 10), 5*time.Millisecond))
		select {
		case <-t.empty:
			again.Stop()
			return true
		case <-deadline.C:
			again.Stop()
			return false
		case <-again.C:
		}
	}
}

// times is the processor time of children that have been waited for.
func (t *tree) times() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reaped
}

// alone reports whether there is no process but the leader. Children of this process are
// those of its main thread: the threads that started them have ended.
func (t *tree) alone() bool {
	if !t.files {
		return len(t.walk(2)) <= 1
	}
	for _, pid := range childrenOf(t.self, 1) {
		if pid != t.leader {
			return false
		}
	}
	leader, ok := readProc(t.leader)
	return !ok || len(childrenOf(t.leader, leader.threads)) == 0
}

// none reports whether every child of this process is one to be kept. What is just being
// replaced by a child of its own counts until it was waited for.
func (t *tree) none(keep func(pid int) bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, pid := range t.children() {
		if !keep(pid) {
			return false
		}
	}
	return true
}

func (t *tree) children() []int {
	if t.files {
		return childrenOf(t.self, 1)
	}
	return childrenByScan()[t.self]
}

// endOrphans ends a worker whose supervisor has gone, as far as it can still be found.
func endOrphans(leader leaderID) {
	for range 10 {
		p, ok := readProc(leader.PID)
		if !ok || p.start != leader.Start {
			return
		}
		list := []proc{p}
		for i := 0; i < len(list) && len(list) < 10*maxProcesses; i++ {
			for _, pid := range childrenOf(list[i].pid, list[i].threads) {
				if child, ok := readProc(pid); ok && child.parent == list[i].pid {
					list = append(list, child)
				}
			}
		}
		for i := len(list) - 1; i >= 0; i-- {
			killIdentified(list[i])
		}
	}
}

// childrenOf reads the children of every thread of a process.
func childrenOf(pid, threads int) []int {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	tasks := []string{strconv.Itoa(pid)}
	if threads > 1 {
		d, err := os.Open(dir)
		if err != nil {
			return nil
		}
		tasks, _ = d.Readdirnames(-1)
		d.Close()
	}
	var pids []int
	for _, task := range tasks {
		text, err := readKernel(dir + task + "/children")
		if err != nil {
			continue
		}
		for field := range bytes.FieldsSeq(text) {
			if n, err := strconv.Atoi(string(field)); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// readKernel reads a file of /proc without what the runtime does for files that may block.
// It is called after every call of a plugin.
func readKernel(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text := make([]byte, 0, 256)
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		if n = max(n, 0); n == 0 && err == nil {
			return text, nil
		}
		if text = text[:len(text)+n]; len(text) == cap(text) {
			text = slices.Grow(text, cap(text))
		}
	}
}

// childrenByScan looks at every process of the machine, for kernels that list no children.
func childrenByScan() map[int][]int {
	all := map[int][]int{}
	d, err := os.Open("/proc")
	if err != nil {
		return all
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProc(pid); ok {
			all[p.parent] = append(all[p.parent], pid)
		}
	}
	return all
}

var pageSize = int64(os.Getpagesize())

// readProc reads /proc/<pid>/stat. A process that has ended and was not waited for counts
// as gone.
func readProc(pid int) (proc, bool) {
	p, ok := readStat(pid)
	return p, ok && !p.ended
}

// readStat is readProc for processes that have ended, too.
func readStat(pid int) (proc, bool) {
	var buffer [1024]byte
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return proc{}, false
	}
	n, err := unix.Read(fd, buffer[:])
	unix.Close(fd)
	if err != nil || n <= 0 {
		return proc{}, false
	}
	return parseStat(pid, buffer[:n])
}

// parseStat reads the fields behind the name, which may hold anything.
func parseStat(pid int, text []byte) (proc, bool) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return proc{}, false
	}
	var field [22]int64 // from the state on, which is the third
	i, ended := 0, false
	for word := range bytes.FieldsSeq(text[end+1:]) {
		if i == 0 {
			ended = word[0] == 'Z' || word[0] == 'X'
		}
		if i == len(field) {
			break
		}
		field[i], _ = strconv.ParseInt(string(word), 10, 64)
		i++
	}
	if i < len(field) {
		return proc{}, false
	}
	return proc{
		pid: pid, parent: int(field[1]), session: int(field[3]), start: uint64(field[19]), threads: int(field[17]),
		cpu: time.Duration(field[11]+field[12]) * clockTick, waited: time.Duration(field[13]+field[14]) * clockTick, resident: field[21] * pageSize,
		ended: ended && field[17] <= 1, // the first thread may have ended while others run
	}, true
}
