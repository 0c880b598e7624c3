package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func newRand(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

const (
	internalKey      = "oracle-key"
	consumerPassword = "oracle-consumer"
	adminPassword    = "oracle-admin"
)

// server is the process under test, in its current incarnation.
type server struct {
	o           options
	rng         *rand.Rand
	kills       int
	killedInUse int
	inFlight    atomic.Int64

	mu    sync.Mutex
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone
	url   string
	nats  string
	log   *tail
}

// start runs the binary until it says that it is ready.
func (s *server) start(ctx context.Context, crashAt string) error {
	cmd := exec.Command(s.o.binary, "serve")
	cmd.Env = append(os.Environ(),
		"MOZAIKS_DATA_DIR="+s.o.data, "MOZAIKS_HTTP_ADDR=127.0.0.1:0", "MOZAIKS_NATS_LISTEN=127.0.0.1:0",
		"INTERNAL_API_KEY="+internalKey, "MOZAIKS_NATS_CONSUMER_PASSWORD="+consumerPassword, "MOZAIKS_NATS_ADMIN_PASSWORD="+adminPassword,
		"MOZAIKS_LOG_FORMAT=json", "MOZAIKS_DUPLICATE_WINDOW=100ms", "MOZAIKS_WAIT_LIMIT=3s", "MOZAIKS_CONFIG=",
		fmt.Sprint("MOZAIKS_PARTITIONS=", s.o.partitions), fmt.Sprint("MOZAIKS_FOLD_EVERY=", s.o.foldEvery),
		"GROUT_CRASH_AT="+crashAt)
	cmd.Dir = filepath.Dir(s.o.data)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.o.binary, err)
	}
	log := &tail{}
	ready := make(chan [2]string, 1)
	ended := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			line := lines.Text()
			var l struct{ Msg, HTTP, NATS string }
			if strings.Contains(line, `"ready"`) && json.Unmarshal([]byte(line), &l) == nil && l.Msg == "ready" {
				ready <- [2]string{"http://" + l.HTTP, l.NATS}
			}
			if !strings.Contains(line, `"msg":"request"`) {
				log.add(line)
			}
		}
		_ = cmd.Wait()
		close(ended)
	}()
	select {
	case at := <-ready:
		s.mu.Lock()
		s.cmd, s.ended, s.url, s.nats, s.log = cmd, ended, at[0], at[1], log
		s.mu.Unlock()
		return nil
	case <-ended:
		if crashAt != "" && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
			s.mu.Lock()
			s.cmd, s.ended, s.log = cmd, ended, log
			s.mu.Unlock()
			return nil // it reached the point while it was starting
		}
		return fmt.Errorf("the server ended before it was ready:\n%s", log)
	case <-ctx.Done():
	case <-time.After(60 * time.Second):
	}
	_ = cmd.Process.Kill()
	return fmt.Errorf("the server was not ready in time:\n%s", log)
}

// base is the address of the current incarnation.
func (s *server) base() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.url
}

// kill sends SIGKILL and waits.
func (s *server) kill() {
	s.mu.Lock()
	cmd, ended := s.cmd, s.ended
	s.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Kill()
	<-ended
}

// stop asks the process to end and reports whether it did so cleanly.
func (s *server) stop() error {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		s.kill()
		return errors.New("the server did not stop within 30 s of SIGTERM")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("the server ended with code %d:\n%s", code, s.log)
	}
	return nil
}

// cycle ends the current incarnation, by our hand or by its own at a fault point,
// and starts the next.
func (s *server) cycle(ctx context.Context) error {
	life := time.Duration(s.rng.Int64N(int64(s.o.maxLife)))
	if s.o.crashAt != "" {
		life = 20 * time.Second
	}
	s.mu.Lock()
	ended, log := s.ended, s.log
	s.mu.Unlock()
	select {
	case <-ended:
		if s.o.crashAt == "" {
			return fmt.Errorf("the server ended by itself:\n%s", log)
		}
	case <-time.After(life):
		if s.o.crashAt != "" {
			return fmt.Errorf("the server did not reach the point %s within %s", s.o.crashAt, life)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	for wait := time.Now().Add(3 * time.Second); s.o.crashAt == "" && s.inFlight.Load() == 0 && time.Now().Before(wait); {
		time.Sleep(50 * time.Microsecond) // the kill is to hit requests in flight
	}
	if s.inFlight.Load() > 0 {
		s.killedInUse++
	}
	s.kill()
	s.kills++
	return s.start(ctx, s.point())
}

// point names the fault point with a random pass; none for the last incarnation.
func (s *server) point() string {
	if s.o.crashAt == "" || s.kills >= s.o.kills {
		return ""
	}
	return fmt.Sprintf("%s:%d", s.o.crashAt, 1+s.rng.IntN(20))
}

// tail keeps the last lines of a log.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	if len(t.lines) > 30 {
		t.lines = t.lines[1:]
	}
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
