// Package process starts a grout binary as a process of its own and ends it, so
// that tests and the oracle meet the real thing from outside. It kills only what
// it has started.
package process

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Secrets of every process that is started here. Each test program has its own: the
// port of a process that was killed may be the next one of a stranger's, who must not
// answer.
var (
	run              = strings.ToLower(rand.Text())
	InternalKey      = "integration-internal-key-" + run
	ServiceKey       = "integration-service-key-" + run
	ConsumerPassword = "integration-consumer-password-" + run
	AdminPassword    = "integration-admin-password-" + run
	PlatformPassword = "integration-platform-password-" + run
	PluginPassword   = "integration-plugin-password-" + run
)

const (
	readyWithin = 60 * time.Second
	stopWithin  = 30 * time.Second
)

// Options say what to start.
type Options struct {
	Binary string
	Data   string   // data directory; the process runs in its parent
	Env    []string // beside what is set here; later ones win
	// GenerateSecrets leaves keys and passwords to the process.
	GenerateSecrets bool
	Stdout          io.Writer
	// Standby waits until the process says that it stands by, and not until it is ready.
	Standby bool
}

// Process is a running grout.
type Process struct {
	URL   string // of the HTTP API
	NATS  string
	Took  string // from start to ready, as it says itself
	cmd   *exec.Cmd
	ended chan struct{}
	log   *tail
}

// ErrKilled says that a process was killed before it was ready.
var ErrKilled = errors.New("the process was killed before it was ready")

// Start starts a process and waits until it is ready.
func Start(ctx context.Context, o Options) (*Process, error) {
	cmd := exec.Command(o.Binary, "serve")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return strings.HasPrefix(name, "MOZAIKS_") || strings.HasPrefix(name, "GROUT_") || slices.Contains([]string{"ENV", "PORT", "INTERNAL_API_KEY", "JWT_SECRET", "JWT_ALGORITHM", "MONETIZATION", "NATS_URL", "NATS_USER", "NATS_PASSWORD", "NATS_PASSWORD_FILE", "NATS_CREDS", "NATS_NKEY"}, name)
	}),
		"MOZAIKS_DATA_DIR="+o.Data, "MOZAIKS_HTTP_ADDR=127.0.0.1:0", "MOZAIKS_NATS_LISTEN=127.0.0.1:0", "MOZAIKS_LOG_FORMAT=json")
	if !o.GenerateSecrets {
		cmd.Env = append(cmd.Env,
			"INTERNAL_API_KEY="+InternalKey, "MOZAIKS_ALLOWED_SERVICE_KEYS="+ServiceKey,
			"MOZAIKS_NATS_CONSUMER_PASSWORD="+ConsumerPassword, "MOZAIKS_NATS_ADMIN_PASSWORD="+AdminPassword,
			"MOZAIKS_NATS_PLATFORM_PASSWORD="+PlatformPassword,
			"MOZAIKS_NATS_PLUGIN_PASSWORD="+PluginPassword)
	}
	cmd.Env = append(cmd.Env, o.Env...)
	cmd.Stdout = o.Stdout
	cmd.Dir = filepath.Dir(o.Data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // none outlives its test
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	p := &Process{cmd: cmd, ended: make(chan struct{}), log: &tail{await: "ready"}}
	if o.Standby {
		p.log.await = "standby"
	}
	ready := make(chan readyLine, 1)
	go func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			p.log.add(lines.Text(), ready)
		}
		_ = cmd.Wait()
		close(p.ended)
	}()
	timeout := time.NewTimer(readyWithin)
	defer timeout.Stop()
	select {
	case l := <-ready:
		p.URL, p.NATS, p.Took = "http://"+l.HTTP, l.NATS, l.Took
		return p, nil
	case <-p.ended:
		if p.Signal() == syscall.SIGKILL {
			return p, ErrKilled
		}
		return p, fmt.Errorf("the process ended before it was ready:\n%s", p.Log())
	case <-ctx.Done():
	case <-timeout.C:
	}
	p.Kill()
	return p, fmt.Errorf("the process was not ready in time:\n%s", p.Log())
}

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Stop sends SIGTERM and reports whether the process ended cleanly.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timeout := time.NewTimer(stopWithin)
	defer timeout.Stop()
	select {
	case <-p.ended:
	case <-timeout.C:
		p.Kill()
		return fmt.Errorf("the process did not stop within %s of SIGTERM:\n%s", stopWithin, p.Log())
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the process ended with code %d:\n%s", code, p.Log())
	}
	return nil
}

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal is what ended the process; 0 while it runs or when it ended by itself.
func (p *Process) Signal() syscall.Signal {
	select {
	case <-p.ended:
		if st, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
			return st.Signal()
		}
	default:
	}
	return 0
}

// PID is the number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the end of what the process logged, without its request lines.
func (p *Process) Log() string { return p.log.String() }

type readyLine struct{ Msg, HTTP, NATS, Took string }

// tail keeps the last lines of a log.
type tail struct {
	mu    sync.Mutex
	lines []string
	await string // message of the line that is waited for
}

const tailLines = 30

func (t *tail) add(line string, ready chan<- readyLine) {
	if strings.Contains(line, `"msg":"request"`) {
		return
	}
	var l readyLine
	if json.Unmarshal([]byte(line), &l) == nil && l.Msg == t.await {
		select {
		case ready <- l:
		default: // it was said before
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	if len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}
