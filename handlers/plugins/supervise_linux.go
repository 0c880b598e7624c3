package plugins

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"grout/schemas"
)

const (
	// supervisorSocket is the descriptor of the socket to grout.
	supervisorSocket = 3
	// endWithin is how long the end of a worker waits for its processes before grout is
	// told; they are killed by then, and may still give their memory back.
	endWithin = 60 * time.Millisecond
	// lingerFor is how long processes that cannot be ended are waited for after that.
	lingerFor = 10 * time.Second
	// maxPublished is how often a call may try to publish, and maxTooLarge how often more than
	// is taken. The host refuses before; this is for a plugin that does not care.
	maxPublished = 2 * schemas.MaxPublications
	maxTooLarge  = 100
	// publicationRoom is what the line of a publication may hold beside its data.
	publicationRoom = 4 << 10
	// maxStray is how often a worker may publish while no call runs.
	maxStray = 100
	// lastMoment is how long the end of a worker and the end of what it wrote may lie apart.
	lastMoment = 100 * time.Millisecond
	// speakWithin bounds every word to grout. One that was cut off cannot be followed by
	// another.
	speakWithin = 10 * time.Second
)

// supervisor is the parent of one worker and of everything that the worker starts. It is
// a process of its own, so that it outlives grout for as long as it takes to end them.
type supervisor struct {
	spec    workerSpec
	grout   *os.File
	speak   sync.Mutex    // one frame at a time
	deaf    chan struct{} // closed when grout takes no more
	tree    *tree
	sampler sampler
	keep    map[procID]bool // what was there when the worker said that it is ready

	orders chan order
	lines  chan pluginLine
	again  chan struct{} // the line has been dealt with
	feed   chan []byte   // lines for the plugin
	logs   []*printed
	said   pending // what the worker has written
	temp   *tempDir

	calling  bool // a call, or the handshake
	began    bool // the handshake is over
	told     int  // publications of the call
	tooLarge int  // of them that were too large
	stray    int  // publications since
	resting  bool // the call is over, and grout does not know yet that nothing of it is left
	urgent   bool // somebody waits for the end
	large    bool // a line was so long that its memory should be given back

	nextLook time.Time // of the sampler
}

type order struct {
	kind byte
	body []byte
	err  error
}

type pluginLine struct {
	text []byte
	err  error
}

// Supervise is the life of `grout plugin-worker`. It answers with the exit code.
func Supervise() int {
	s, err := newSupervisor()
	if err != nil {
		fmt.Fprintf(os.Stderr, "grout plugin-worker: %v\n", err)
		return 1
	}
	s.run()
	return 0
}

// newSupervisor takes the socket over. Nothing is inherited from here but what is named.
func newSupervisor() (*supervisor, error) {
	if err := unix.CloseRange(supervisorSocket, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		unix.CloseOnExec(supervisorSocket)
	}
	if kind, err := unix.GetsockoptInt(supervisorSocket, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
		return nil, errors.New("this command is started by grout serve, never by hand")
	}
	if err := unix.SetNonblock(supervisorSocket, true); err != nil {
		return nil, fmt.Errorf("set up the socket: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the reaper of orphans: %w", err)
	}
	_ = Undumpable()
	prefer(niceStarting)
	debug.SetGCPercent(50)
	return &supervisor{
		grout: os.NewFile(supervisorSocket, "grout"), tree: newTree(), deaf: make(chan struct{}),
		orders: make(chan order), lines: make(chan pluginLine), again: make(chan struct{}), feed: make(chan []byte, 64),
	}, nil
}

// run starts the worker and stays until it has ended. When that is, grout decides: signals
// that are sent to all of its processes change nothing.
func (s *supervisor) run() {
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	go s.listen()
	first, err := (<-s.orders).spec()
	if err != nil {
		s.bury(workerEnd{Text: err.Error()})
		return
	}
	s.spec = first
	if err := s.start(); err != nil {
		s.temp.remove()
		s.tree.tasks.remove()
		s.bury(workerEnd{Text: err.Error()})
		return
	}
	end := s.serve()
	nice := niceStarting
	if s.urgent {
		nice = 0
		setPriority(&proc{pid: os.Getpid()}, niceEnding)
	} else {
		prefer(niceStarting)
	}
	gone := s.tree.end(endWithin, nice)
	if !gone {
		end.Left = len(s.tree.walk(maxWalk))
	}
	s.lastWords(gone)
	s.bury(end)
	if !gone {
		s.tree.end(lingerFor, nice)
	}
	s.tree.tasks.remove()
	s.temp.remove()
}

func (o order) spec() (workerSpec, error) {
	var spec workerSpec
	if o.err != nil || o.kind != frameStart {
		return spec, errors.New("grout did not say what to start")
	}
	if err := json.Unmarshal(o.body, &spec); err != nil {
		return spec, fmt.Errorf("read what to start: %w", err)
	}
	if len(spec.Command) == 0 {
		return spec, errors.New("there is no command to start")
	}
	return spec, nil
}

// start brings the worker up, confined, with its ends of the pipes.
func (s *supervisor) start() error {
	var err error
	if s.temp, err = newTempDir(s.spec.Home, s.spec.User); err != nil {
		return err
	}
	s.spec.Env = append(s.spec.Env, "TMPDIR="+s.temp.path)
	argv0, err := s.program()
	if err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer unix.Close(null)
	var mine, theirs [4]int // stdout, stderr, requests, answers
	for i := range mine {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("make a pipe: %w", err)
		}
		mine[i], theirs[i] = ends[0], ends[1]
		if i == 2 {
			mine[i], theirs[i] = ends[1], ends[0]
		}
		defer unix.Close(theirs[i])
		if err := unix.SetNonblock(mine[i], true); err != nil {
			return fmt.Errorf("set up a pipe: %w", err)
		}
	}
	s.tree.tasks = newTaskGroup()
	s.tree.leader, err = startConfined(&s.spec, s.tree.tasks, argv0, []uintptr{uintptr(null), uintptr(theirs[0]), uintptr(theirs[1]), uintptr(theirs[2]), uintptr(theirs[3])})
	if err != nil {
		return err
	}
	if leader, ok := readProc(s.tree.leader); ok {
		if text, err := json.Marshal(leaderID{leader.pid, leader.start}); err == nil {
			_ = s.tell(frameLeader, text)
		}
	}
	go s.tree.reap()
	s.sampler = sampler{tree: s.tree, memory: s.spec.Memory, threads: threadLimit(), since: time.Now()}
	for i, stream := range []byte{streamStdout, streamStderr} {
		l := &printed{s: s, stream: stream, ended: make(chan struct{})}
		s.logs = append(s.logs, l)
		go l.read(os.NewFile(uintptr(mine[i]), "output"))
	}
	go s.write(os.NewFile(uintptr(mine[2]), "requests"))
	s.said = newPending(os.NewFile(uintptr(mine[3]), "answers"), s.spec.MaxLine)
	go s.read()
	return nil
}

// program finds the command: in the plugin's folder when it is written as a relative
// path, else on the plugin's own PATH.
func (s *supervisor) program() (string, error) {
	name := s.spec.Command[0]
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(s.spec.Dir, name)
		}
		return name, nil
	}
	for _, kv := range s.spec.Env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			_ = os.Setenv("PATH", value)
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("there is no program %q on PATH", name)
	}
	return path, nil
}

// serve passes lines on and watches the limits, until the worker must end.
func (s *supervisor) serve() workerEnd {
	deadline := time.NewTimer(time.Hour)
	deadline.Stop()
	sample := time.NewTimer(sampleSoon)
	s.calling, s.nextLook = true, time.Now().Add(sampleSoon)
	for {
		select {
		case o := <-s.orders:
			end, ended := s.obey(o, deadline, sample)
			if ended {
				return end
			}
		case l := <-s.lines:
			end, ended := s.heard(l)
			if ended {
				return end
			}
			if s.resting {
				deadline.Reset(lastMoment)
			} else if !s.calling {
				deadline.Stop()
			}
			s.again <- struct{}{}
		case status := <-s.tree.died:
			return s.after(status)
		case <-deadline.C:
			if s.resting {
				return workerEnd{Text: "it wrote half a line when nothing was asked"}
			}
			s.urgent = true
			return workerEnd{Text: "it took too long", Expired: true}
		case <-sample.C:
			began := time.Now()
			broken, next := s.sampler.look(s.calling)
			if broken != "" {
				return workerEnd{Text: broken}
			}
			next = max(next, lookShare*time.Since(began))
			s.nextLook = time.Now().Add(next)
			sample.Reset(next)
		case <-s.deaf:
			return workerEnd{Text: "grout has gone"}
		}
	}
}

// obey does what grout has said. The end of the socket ends the worker.
func (s *supervisor) obey(o order, deadline, sample *time.Timer) (workerEnd, bool) {
	if o.err != nil {
		s.urgent = true
		return workerEnd{Text: "it was stopped"}, true
	}
	line := o.body
	switch o.kind {
	case frameCall:
		timeout, cpu, rest, err := readCall(o.body)
		if err != nil || s.calling {
			return workerEnd{Text: "grout made a call out of turn"}, true
		}
		line, s.calling, s.large, s.told, s.tooLarge, s.stray = rest, true, len(rest) > largeLine, 0, 0, 0
		s.sampler.begin(cpu)
		for _, l := range s.logs {
			l.refill()
		}
		deadline.Reset(timeout)
		// Short calls one after the other must not put it off for ever to look.
		if soon := time.Now().Add(sampleSoon); !s.sampler.overdue() || soon.Before(s.nextLook) {
			s.nextLook = soon
			sample.Reset(sampleSoon)
		}
	case frameLine:
	default:
		return workerEnd{Text: "grout sent something unknown"}, true
	}
	return s.pass(line)
}

// note writes a line of the supervisor's own into the plugin's log.
func (s *supervisor) note(format string, args ...any) {
	_ = s.tell(frameLog, []byte{streamWorker}, fmt.Appendf(nil, format+"\n", args...))
}

// tell sends a frame to grout.
func (s *supervisor) tell(kind byte, parts ...[]byte) error {
	s.speak.Lock()
	defer s.speak.Unlock()
	select {
	case <-s.deaf:
		return os.ErrClosed
	default:
	}
	_ = s.grout.SetWriteDeadline(time.Now().Add(speakWithin))
	err := writeFrame(s.grout, kind, parts...)
	if err != nil {
		close(s.deaf)
	}
	return err
}

// lastWords waits until what the worker has printed is on its way.
func (s *supervisor) lastWords(gone bool) {
	moment := time.NewTimer(20 * time.Millisecond)
	defer moment.Stop()
	for _, l := range s.logs {
		if gone {
			select {
			case <-l.ended:
			case <-moment.C:
			}
		}
		l.refill()
	}
}

// bury says the last word.
func (s *supervisor) bury(end workerEnd) {
	text, err := json.Marshal(end)
	if err == nil {
		_ = s.tell(frameEnd, text)
	}
}

// listen reads what grout says.
func (s *supervisor) listen() {
	r := bufio.NewReaderSize(s.grout, 64<<10)
	for {
		kind, body, err := readFrame(r)
		s.orders <- order{kind, body, err}
		if err != nil {
			return
		}
	}
}

// write hands lines to the plugin. When it closes its requests, its end will tell.
func (s *supervisor) write(w io.WriteCloser) {
	for line := range s.feed {
		if _, err := w.Write(line); err != nil {
			break
		}
	}
	for range s.feed {
		continue
	}
}

// read hands on the lines of the plugin, each after the one before was dealt with.
func (s *supervisor) read() {
	for {
		text, err := s.said.next()
		s.lines <- pluginLine{text, err}
		if err != nil {
			return
		}
		<-s.again
	}
}
