package plugins

import (
	"bytes"
	"fmt"
	"os"
	stdruntime "runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxProcesses is how many processes a worker may have at a time.
	maxProcesses = 128
	// maxThreads is how many threads these may have together. The system has as few of them
	// as of processes.
	maxThreads = 2048
	// maxOrphans is how many processes of a call may end behind a parent that has left them,
	// and how many that have ended a worker may keep without waiting for them: each needs a
	// number until somebody has.
	maxOrphans = 1000
	// heavyAfter is the processor time of a call after which its worker yields to everything,
	// and startAfter that of a start. More than manyProcesses count for as much.
	heavyAfter    = 30 * time.Millisecond
	startAfter    = 100 * time.Millisecond
	manyProcesses = 16

	// restlessAfter is the processor time between calls, within a time of which it is more than
	// half, after which a worker is taken for one that burns it all the time.
	restlessAfter  = 50 * time.Millisecond
	restlessWithin = 250 * time.Millisecond

	// yieldAgain is after how many looks a worker that has yielded is made to once more.
	yieldAgain = 10

	// earlyLooks are made soon one after the other, as a call may become heavy.
	earlyLooks = 10

	sampleNow   = 2 * time.Millisecond
	sampleSoon  = 10 * time.Millisecond
	sampleLater = 40 * time.Millisecond
	sampleIdle  = 500 * time.Millisecond
	lookShare   = 4 // times as long as a look took is it until the next one
	exactEvery  = 100 * time.Millisecond
	exactShare  = 100 // times as long as a count took is it until the next one
	exactLatest = time.Second
	countMoment = 5 * time.Millisecond
	countWithin = 500 * time.Millisecond
)

// sampler looks at what the tree of a worker uses.
type sampler struct {
	tree    *tree
	memory  int64
	threads int // that it may have

	called   bool          // by now, beyond the start
	looks    int           // at the call
	base     time.Duration // processor time before the call, from the first look at it on
	based    bool
	orphans  int           // at that look
	cpu      time.Duration // that the call may take; 0: any
	seen     map[procID]proc
	waited   time.Duration // of all of it that somebody has waited for, at the last look
	lost     time.Duration // processor time of what ended and nobody waited for
	looked   time.Time
	judged   time.Time     // when it was last judged whether the worker rests between calls
	before   time.Duration // processor time then
	inCalls  time.Duration // since then
	since    time.Time     // when the call began
	restless bool
	heavy    bool
	yielding map[procID]bool
	yields   int          // looks since it yielded
	settled  int64        // memory at the last look
	many     int          // threads at the last look
	ended    int          // orphans then
	counting chan counted // an exact count that goes on
	counted  time.Time
	took     time.Duration // the last one
	most     int64         // what it can have been at most
}

// counted is what an exact count has found, and how long it took.
type counted struct {
	used int64
	took time.Duration
}

// begin starts to count for a call. What it uses until the first look is not worth one.
func (s *sampler) begin(cpu time.Duration) {
	s.called, s.based, s.cpu, s.looks, s.since = true, false, cpu, 0, time.Now()
}

// end notes the end of a call.
func (s *sampler) end() { s.inCalls += time.Since(s.since) }

// overdue tells that it should not be put off any more to look.
func (s *sampler) overdue() bool { return time.Since(s.looked) > sampleLater }

// spent is the processor time of the worker so far. What a process has used its parent has
// when it waits for it; what nobody waits for is kept here from when it was last seen.
// What was waited for here is read before the processes are, as every parent is before its
// children: so nothing is found at both.
func (s *sampler) spent(waited time.Duration, all []proc) time.Duration {
	total, seen := waited, make(map[procID]proc, len(all))
	for i := range all {
		p := &all[i]
		seen[p.id()] = *p
		total, waited = total+p.cpu+p.waited, waited+p.waited
	}
	gone, grown := time.Duration(0), waited-s.waited
	for id, p := range s.seen {
		if _, ok := seen[id]; !ok {
			gone, grown = gone+p.cpu+p.waited, grown+p.waited
		}
	}
	s.lost = max(0, s.lost+gone-grown) // a parent that was read before it waited is one look late
	s.seen, s.waited = seen, waited
	return total + s.lost
}

// judge finds out whether the worker burns processor time between calls.
func (s *sampler) judge(spent time.Duration, calling bool) {
	now := time.Now()
	within := now.Sub(s.judged)
	if within < restlessWithin {
		return
	}
	if calling {
		s.inCalls += now.Sub(s.since)
		s.since = now
	}
	burnt := spent - s.before - s.inCalls
	s.restless = s.called && !s.judged.IsZero() && burnt > max(restlessAfter, (within-s.inCalls)/2)
	s.judged, s.before, s.inCalls = now, spent, 0
}

// look measures once. The text tells which limit is broken; next is when to look again.
func (s *sampler) look(calling bool) (broken string, next time.Duration) {
	s.looked = time.Now()
	waited := s.tree.times()
	list, ended := s.tree.survey(maxProcesses)
	if len(list) > maxProcesses {
		return fmt.Sprintf("it had more than %d processes", maxProcesses), 0
	}
	if len(ended) > maxOrphans {
		return fmt.Sprintf("it left more than %d processes behind", maxOrphans), 0
	}
	threads := 0
	for i := range list {
		threads += list[i].threads
	}
	if threads > s.threads {
		return fmt.Sprintf("it had more than %d threads", s.threads), 0
	}
	spent := s.spent(waited, append(ended, list...))
	s.judge(spent, calling)
	if s.restless {
		s.yield(list)
	}
	if calling {
		if !s.based {
			s.based, s.base, s.orphans = true, spent, s.tree.left()
		}
		if s.tree.left()-s.orphans > maxOrphans {
			return fmt.Sprintf("it left more than %d processes behind", maxOrphans), 0
		}
		spent -= s.base
		if s.cpu > 0 && spent > s.cpu {
			return "it used more than " + seconds(s.cpu) + " seconds of processor time", 0
		}
		if s.looks++; s.called && (spent >= heavyAfter || len(list) > manyProcesses) || spent > startAfter {
			s.yield(list)
		}
	}
	used := int64(0)
	for i := range list {
		used += list[i].resident
	}
	if used > s.memory && s.exceeded(list, used) {
		return "it used more than " + byteSize(s.memory) + " of memory", 0
	}
	grown := used - s.settled
	s.settled = used
	many, left := threads-s.many, s.tree.left()
	fresh := left - s.ended
	s.many, s.ended = threads, left
	switch {
	case many > 4, fresh > 4:
		return "", sampleNow
	case s.counting != nil, used > s.memory/2 && calling, grown > s.memory/16, calling && s.called && s.looks < earlyLooks && !s.heavy:
		return "", sampleSoon
	case calling:
		return "", sampleLater
	}
	return "", sampleIdle
}

// exceeded counts memory that processes share once. That takes longer, and may have to wait
// for the processes themselves; then what they have together decides.
func (s *sampler) exceeded(list []proc, used int64) bool {
	if s.counting == nil {
		since, more := time.Since(s.counted), used-s.most > s.memory/8
		if since < exactEvery || since < min(exactShare*s.took, exactLatest) && !more {
			return false
		}
		s.counting, s.counted, s.most = make(chan counted, 1), time.Now(), used
		go func(done chan<- counted) {
			behind() // the kernel counts for milliseconds, and nobody waits for it
			began := time.Now()
			used := shares(list, s.memory)
			done <- counted{used, time.Since(began)}
		}(s.counting)
	}
	moment := time.NewTimer(countMoment)
	defer moment.Stop()
	select {
	case c := <-s.counting:
		s.counting, s.took = nil, c.took
		return c.used > s.memory
	case <-moment.C:
		return time.Since(s.counted) > countWithin
	}
}

// behind gives the goroutine a thread of its own that gives way to others; both end together.
func behind() {
	stdruntime.LockOSThread()
	if unix.Gettid() != unix.Getpid() { // the main thread never ends
		takeTurns(unix.Gettid(), niceStarting)
		crowd(unix.Gettid(), true)
	}
}

// shares is the memory of processes, what they share counted once, or enough of it to exceed
// the limit.
func shares(list []proc, limit int64) (used int64) {
	for i := 0; i < len(list) && used <= limit; i++ {
		if share, ok := proportional(list[i].pid); ok {
			used += share
		} else {
			used += list[i].resident
		}
	}
	return used
}

// proportional reads how much of the memory of a process is its own or its share.
func proportional(pid int) (int64, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0, false
	}
	_, rest, ok := bytes.Cut(text, []byte("\nPss:"))
	if !ok {
		return 0, false
	}
	number, _, _ := strings.Cut(strings.TrimSpace(string(rest[:min(len(rest), 64)])), " ")
	kib, err := strconv.ParseInt(number, 10, 64)
	return kib << 10, err == nil
}

// yield gives every thread of the tree the lowest priority, and again now and then: what it
// has started since may have another, and processors it may choose itself.
func (s *sampler) yield(list []proc) {
	if s.yields++; s.yields%yieldAgain == 0 {
		s.yielding = map[procID]bool{}
	}
	if !s.heavy {
		s.heavy, s.yielding, s.yields = true, map[procID]bool{}, 0
		s.tree.tasks.yield(s.called) // one that starts must get to its end
		prefer(niceStarting)
	}
	for i := range list {
		if p := &list[i]; !s.yielding[p.id()] {
			s.yielding[p.id()] = true
			setPriority(p, niceHeavy)
		}
	}
}

// relax takes back what yield has done, where this user may, unless the worker does not rest.
func (s *sampler) relax() {
	if !s.heavy || s.restless {
		return
	}
	s.heavy, s.yielding = false, nil
	s.tree.tasks.yield(false)
	prefer(0)
	for _, p := range s.tree.walk(maxProcesses) {
		setPriority(&p, niceWorker)
	}
}

// prefer sets the priority of this process, all of its threads, and short turns. Without
// rights a lower one could not be taken back, so there only turns and processors are set.
func prefer(nice int) {
	crowded := nice != 0
	if mayRaise() {
		_ = os.WriteFile("/proc/self/autogroup", strconv.AppendInt(nil, int64(nice), 10), 0)
	} else {
		nice = 0
	}
	names, _ := os.ReadDir("/proc/self/task")
	for _, name := range names {
		if tid, err := strconv.Atoi(name.Name()); err == nil {
			takeTurns(tid, nice)
			crowd(tid, crowded)
		}
	}
}

// mayRaise reports whether a priority that was lowered can be raised again.
var mayRaise = sync.OnceValue(func() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var own [2]unix.CapUserData
	return unix.Capget(&header, &own[0]) == nil && own[0].Effective&(1<<unix.CAP_SYS_NICE) != 0
})

// crowd lets a thread run on all processors but one, which is then free for what takes
// little time; or on all of them again.
func crowd(tid int, yes bool) {
	all, fewer := processors()
	if yes {
		_ = unix.SchedSetaffinity(tid, fewer)
	} else {
		_ = unix.SchedSetaffinity(tid, all)
	}
}

// processors are those that this process began with, and all of them but one, if that
// leaves any.
var processors = sync.OnceValues(func() (all, fewer *unix.CPUSet) {
	all = new(unix.CPUSet)
	_ = unix.SchedGetaffinity(0, all)
	set := *all
	fewer = &set
	for i := 0; fewer.Count() > 1 && fewer.Count() == all.Count(); i++ {
		fewer.Clear(i)
	}
	return all, fewer
})

// setPriority sets the priority of all threads of a process, and of its session where the
// kernel shares the processor out among sessions first.
func setPriority(p *proc, nice int) {
	dir := "/proc/" + strconv.Itoa(p.pid)
	if d, err := os.Open(dir + "/task"); err == nil {
		names, _ := d.Readdirnames(-1)
		d.Close()
		for _, name := range names {
			if tid, err := strconv.Atoi(name); err == nil {
				_ = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
				crowd(tid, nice != niceWorker)
			}
		}
	}
	_ = os.WriteFile(dir+"/autogroup", strconv.AppendInt(nil, int64(nice), 10), 0)
}

func byteSize(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return strconv.FormatInt(n>>30, 10) + " GiB"
	case n >= 1<<20 && n%(1<<20) == 0:
		return strconv.FormatInt(n>>20, 10) + " MiB"
	}
	return strconv.FormatInt(n, 10) + " bytes"
}
