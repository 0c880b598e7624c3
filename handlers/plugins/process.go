package plugins

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// backstop is what a supervisor waits beyond the time limit, in case that grout is stuck.
	backstop = 50 * time.Millisecond
	// patience is how long a call that must end waits for its processes to do so. It ends
	// then, and they are still being killed.
	patience = 85 * time.Millisecond
	// buryWithin is how long a supervisor may take to end a worker before it is killed
	// itself. Then processes that the worker had detached may be left.
	buryWithin = 20 * time.Second
)

// processRuntime starts workers as processes, each below a supervisor of its own.
type processRuntime struct {
	o           *Options
	exe         string
	homes, shim string
	pythons     sync.Map // folder of a plugin: what python3 is there
}

func newProcessRuntime(o *Options) (runtime, error) {
	r := &processRuntime{o: o, exe: o.Exe}
	if r.exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		r.exe = exe
	}
	r.exe = thisProgram(r.exe)
	if err := canBecome(o.User); err != nil {
		return nil, err
	}
	if err := r.lay(); err != nil {
		return nil, err
	}
	holds, lacks := Confinement(o.User)
	if trusted(o.User) {
		o.Logger.Warn("plugins are trusted: nothing keeps them from the data directory on this machine", "lacking", strings.Join(lacks, "; "))
	} else {
		o.Logger.Info("plugins are confined", "holds", strings.Join(holds, "; "), "lacking", strings.Join(lacks, "; "))
	}
	return r, nil
}

// processWorker is a worker below its supervisor.
type processWorker struct {
	p      *plugin
	cmd    *exec.Cmd
	socket *os.File
	errors tail

	words chan word     // of the supervisor, for the call that runs
	idle  chan struct{} // holds one while nothing of a call runs
	leave chan struct{} // closed when it takes no calls any more
	once  sync.Once
	over  chan struct{} // closed once nothing runs any more
	dead  chan struct{} // closed once the supervisor has gone, too

	writing sync.Mutex
	leader  leaderID
	mu      sync.Mutex
	end     workerEnd
}

// word is what the plugin said.
type word struct {
	kind byte
	line []byte
}

// start brings up a supervisor and its worker, and waits until the worker is ready.
func (r *processRuntime) start(ctx context.Context, p *plugin) (worker, error) {
	spec, err := r.spec(p)
	if err != nil {
		return nil, err
	}
	w, err := r.launch(p)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, w.close)
	defer stop()
	python, err := w.greet(spec)
	r.remember(p, python)
	if err != nil {
		w.stop()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return w, nil
}

// launch starts the supervisor. It is in a session of its own, so that no signal of a
// terminal reaches it, and knows nothing of grout's environment.
func (r *processRuntime) launch(p *plugin) (*processWorker, error) {
	mine, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	w := &processWorker{
		p: p, socket: mine, words: make(chan word), idle: make(chan struct{}, 1),
		leave: make(chan struct{}), over: make(chan struct{}), dead: make(chan struct{}),
	}
	w.cmd = exec.Command(r.exe, "plugin-worker")
	w.cmd.Args[0] = "grout"
	w.cmd.Env = []string{"GOMAXPROCS=1", "GOTRACEBACK=single"}
	w.cmd.Dir = "/"
	w.cmd.ExtraFiles = []*os.File{theirs}
	w.cmd.SysProcAttr = supervisorAttributes()
	w.cmd.Stderr = &w.errors
	w.cmd.WaitDelay = time.Second
	if err := w.cmd.Start(); err != nil {
		mine.Close()
		return nil, fmt.Errorf("start the supervisor of a worker: %w", err)
	}
	go w.listen()
	return w, nil
}

// greet is the handshake.
func (w *processWorker) greet(spec *workerSpec) (python string, err error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return "", fmt.Errorf("describe the worker: %w", err)
	}
	hello, err := json.Marshal(map[string]any{"hello": 1, "plugin": w.p.Name})
	if err != nil {
		return "", fmt.Errorf("greet the worker: %w", err)
	}
	if w.say(frameStart, text) != nil || w.say(frameLine, hello, []byte("\n")) != nil {
		w.close()
	}
	for {
		select {
		case said := <-w.words:
			if said.kind != frameAnswer {
				continue
			}
			return readReady(said.line)
		case <-w.over:
			return "", w.why()
		}
	}
}

// call asks the worker once. See worker.
func (w *processWorker) call(ctx context.Context, c *Call) reply {
	late := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		w.close()
		time.AfterFunc(patience, func() { close(late) })
	})
	defer stop()
	select {
	case <-w.idle:
	case <-w.over:
		return w.lost(ctx)
	case <-late:
		return reply{fault: context.Cause(ctx)}
	}
	id, err := json.Marshal(c.RunID)
	if err != nil {
		return reply{fault: fmt.Errorf("name the run: %w", err)}
	}
	limits := callLimits(w.p.Limits.Timeout+backstop, w.p.Limits.CPU)
	if w.say(frameCall, limits, []byte(`{"call":`), id, []byte(`,"data":`), oneLine(c.Input), []byte("}\n")) != nil {
		w.close()
	}
	for {
		select {
		case said := <-w.words:
			if said.kind == framePlugin {
				w.publish(c, said.line)
				continue
			}
			return w.answered(c, said.line, late)
		case <-w.over:
			return w.lost(ctx)
		case <-late:
			w.p.log.note("processes of a call that must end are still being killed")
			return reply{fault: context.Cause(ctx)}
		}
	}
}

// answered reads what ended the call. A worker that does not keep to the protocol is ended.
func (w *processWorker) answered(c *Call, line []byte, late <-chan struct{}) reply {
	a := readAnswer(hide(line, c.Secret))
	if a.err == nil && a.call != "" && a.call != c.RunID {
		a.err = errors.New("it answered another call")
	}
	if a.err == nil && a.result == nil && a.fault == "" {
		a.err = errors.New("it answered without a result or an error")
	}
	switch {
	case a.err != nil:
		w.close()
		select {
		case <-w.over:
		case <-late:
		}
		return reply{fault: a.err}
	case a.fault != "":
		return reply{fault: errors.New(a.fault), code: a.code}
	}
	return reply{result: a.result}
}

// publish hands on what the plugin publishes, and tells it what came of that if it wants
// to know.
func (w *processWorker) publish(c *Call, line []byte) {
	name, data, ack, err := readPublication(line)
	if err == nil {
		err = c.publish(name, data)
	}
	if err != nil {
		w.p.log.note("not published: " + shortText(err.Error(), maxDetail))
	}
	if !ack {
		return
	}
	answer := []byte(`{"published":true}` + "\n")
	if err != nil {
		text, _ := json.Marshal(map[string]any{"published": false, "error": shortText(err.Error(), maxDetail)})
		answer = append(text, '\n')
	}
	if w.say(frameLine, answer) != nil {
		w.close()
	}
}

// lost is the reply of a call whose worker has gone.
func (w *processWorker) lost(ctx context.Context) reply {
	w.mu.Lock()
	expired := w.end.Expired
	w.mu.Unlock()
	if expired { // the time limit of ctx was before, and is only late
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return reply{fault: context.Cause(ctx)}
	}
	return reply{fault: w.why()}
}

func (w *processWorker) gone() <-chan struct{} { return w.leave }

// stop ends the worker with everything below its supervisor, and waits for that.
func (w *processWorker) stop() {
	w.close()
	<-w.dead
}

// close orders the end. The supervisor sees the end of the socket, whatever it does.
func (w *processWorker) close() {
	w.once.Do(func() {
		close(w.leave)
		shutdown(w.socket)
		time.AfterFunc(buryWithin, w.force)
	})
}

// force is for a supervisor that does not end its worker.
func (w *processWorker) force() {
	select {
	case <-w.over:
	default:
		_ = w.cmd.Process.Kill()
	}
}

func (w *processWorker) say(kind byte, parts ...[]byte) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	return writeFrame(w.socket, kind, parts...)
}

// listen hands on what the supervisor says, until its end.
func (w *processWorker) listen() {
	logs := [...]io.WriteCloser{w.p.log.writer("stdout"), w.p.log.writer("stderr"), w.p.log.writer("grout")}
	r := bufio.NewReaderSize(w.socket, 64<<10)
	told := false
	for !told {
		kind, body, err := readFrame(r)
		if err != nil {
			break
		}
		switch kind {
		case frameLog:
			if len(body) > 0 && int(body[0]) < len(logs) {
				_, _ = logs[body[0]].Write(body[1:])
			}
		case frameIdle:
			select {
			case w.idle <- struct{}{}:
			default:
			}
		case frameLeader:
			_ = json.Unmarshal(body, &w.leader)
		case frameEnd:
			w.mu.Lock()
			_ = json.Unmarshal(body, &w.end)
			w.mu.Unlock()
			told = true
		case framePlugin, frameAnswer:
			w.hand(word{kind, body})
		}
	}
	for _, l := range logs {
		_ = l.Close()
	}
	w.finish(told)
}

// hand gives a word to the call that runs; nobody waits for one after the order to end.
func (w *processWorker) hand(said word) {
	select {
	case w.words <- said:
	case <-w.leave:
	}
}

// finish notes the end of the worker. A supervisor that said why has ended all of it.
func (w *processWorker) finish(told bool) {
	defer close(w.dead)
	defer w.socket.Close()
	w.once.Do(func() { close(w.leave) })
	if told {
		if w.end.Left > 0 {
			w.p.log.note(fmt.Sprintf("%d killed processes still give their memory back", w.end.Left))
		}
		close(w.over)
		defer time.AfterFunc(lingerFor+buryWithin, w.forceGone).Stop()
		_ = w.cmd.Wait()
		return
	}
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
	endOrphans(w.leader)
	endGroup(w.cmd.Process.Pid)
	w.p.log.note("the supervisor of a worker has ended: " + w.errors.String())
	w.mu.Lock()
	w.end.Text = "its supervisor has ended"
	w.mu.Unlock()
	close(w.over)
}

func (w *processWorker) forceGone() { _ = w.cmd.Process.Kill() }

// why tells why the worker has gone.
func (w *processWorker) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end.Text == "" {
		return errors.New("it was stopped")
	}
	return errors.New(w.end.Text)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text...)
	if most := 4 << 10; len(t.text) > most {
		t.text = slices.Clone(t.text[len(t.text)-most:])
	}
	return len(text), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}

// socketPair makes a socket for a supervisor. Grout's end is closed in every other child.
func socketPair() (mine, theirs *os.File, err error) {
	syscall.ForkLock.RLock()
	ends, err := socketEnds()
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket for a supervisor: %w", err)
	}
	return os.NewFile(uintptr(ends[0]), "supervisor"), os.NewFile(uintptr(ends[1]), "grout"), nil
}
