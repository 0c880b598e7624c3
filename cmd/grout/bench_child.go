package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// child is a process that the bench started, and ends.
type child struct {
	cmd   *exec.Cmd
	ended chan struct{}
	last  tail
}

// childAttributes let no process that the bench started outlive it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// startChild starts a program and waits until a line of what it writes to stdout
// or stderr is the one that ready looks for.
func startChild(ctx context.Context, cmd *exec.Cmd, within time.Duration, ready func(line []byte) bool) (*child, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = in, in
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = childAttributes()
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close(), in.Close())
	}
	in.Close()
	c := &child{cmd: cmd, ended: make(chan struct{})}
	found := make(chan struct{})
	go func() {
		lines := bufio.NewReader(out)
		for seen := false; !seen; {
			line, err := lines.ReadBytes('\n')
			c.last.Write(line)
			if err != nil {
				break
			}
			if seen = ready(line); seen {
				close(found)
			}
		}
		_, _ = io.Copy(&c.last, lines)
		_ = cmd.Wait()
		out.Close()
		close(c.ended)
	}()
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-found:
		return c, nil
	case <-c.ended:
		return nil, fmt.Errorf("%s ended before it was ready:\n%s", cmd.Path, &c.last)
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), c.stop(syscall.SIGKILL, within))
	case <-timeout.C:
		err := c.stop(syscall.SIGKILL, within)
		return nil, errors.Join(fmt.Errorf("%s was not ready within %s:\n%s", cmd.Path, within, &c.last), err)
	}
}

// stop sends a signal and waits for the end; a process that takes longer is killed.
func (c *child) stop(signal syscall.Signal, within time.Duration) error {
	_ = c.cmd.Process.Signal(signal)
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	select {
	case <-c.ended:
		return nil
	case <-timeout.C:
		_ = c.cmd.Process.Kill()
		<-c.ended
		return fmt.Errorf("%s did not stop within %s:\n%s", c.cmd.Path, within, &c.last)
	}
}

// tail keeps the end of what is written to it. Only its writer may use it until
// that has ended.
type tail struct{ text []byte }

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	if t.text = append(t.text, p[max(0, len(p)-tailBytes):]...); len(t.text) > 2*tailBytes {
		t.text = append(t.text[:0], t.text[len(t.text)-tailBytes:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(bytes.TrimSpace(t.text)) }

const (
	serverReadyWithin = 10 * time.Minute // with many stored ids
	serverStopWithin  = 2 * time.Minute
)

// server is a grout in a process of its own, with default settings but for what
// serverEnvironment sets.
type server struct {
	*child
	url, key string
	nats     string        // address
	ready    time.Duration // from starting the process
}

// serverEnvironment hides the settings of the caller, and listens where nobody else does.
func serverEnvironment(environ []string, data, key string) []string {
	env := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return strings.HasPrefix(name, "MOZAIKS_") || slices.Contains([]string{"ENV", "PORT", "NATS_URL", "APP_NAME", "APP_TIER", "INTERNAL_API_KEY", "JWT_SECRET", "JWT_ALGORITHM", "MONETIZATION", "PLUGIN_EXEC_TIMEOUT_S"}, name)
	})
	return append(env, "MOZAIKS_DATA_DIR="+data, "MOZAIKS_HTTP_ADDR=127.0.0.1:0", "MOZAIKS_NATS_LISTEN=127.0.0.1:0",
		"MOZAIKS_LOG_FORMAT=json", "MOZAIKS_SNAPSHOT_EVERY=720h", "INTERNAL_API_KEY="+key)
}

// startServer starts `program serve` on a data directory, in the directory base.
func startServer(ctx context.Context, program, base, data string) (*server, error) {
	s := &server{key: "bench"}
	cmd := exec.Command(program, "serve")
	cmd.Dir, cmd.Env = base, serverEnvironment(os.Environ(), data, s.key)
	start := time.Now()
	var err error
	s.child, err = startChild(ctx, cmd, serverReadyWithin, func(line []byte) bool {
		var l struct{ Msg, HTTP, NATS string }
		if json.Unmarshal(line, &l) != nil || l.Msg != "ready" {
			return false
		}
		s.url, s.nats, s.ready = "http://"+l.HTTP, l.NATS, time.Since(start)
		return true
	})
	return s, err
}

func (s *server) pid() int { return s.cmd.Process.Pid }

// end stops the server as an operator would.
func (s *server) end() error { return s.stop(syscall.SIGTERM, serverStopWithin) }
