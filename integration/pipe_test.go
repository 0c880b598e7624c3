package integration

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"grout/integration/process"
	"grout/schemas"
)

// pipeLines is how many events are piped: a million in a long campaign. Half of them are
// a whole number of requests, so that a pause in the middle changes no request.
func pipeLines(t *testing.T) int {
	if kills(t) >= 200 {
		return 1_000_000
	}
	return 50_000
}

// piped is `grout ingest -` under a terminal, with a pipe to write to.
type piped struct {
	cmd      *exec.Cmd
	in       io.WriteCloser
	out      bytes.Buffer
	terminal *terminal
	ended    chan struct{} // after the program, when err is set
	err      error
}

func startPiped(t *testing.T, url string, args ...string) *piped {
	t.Helper()
	p := &piped{terminal: openTerminal(t), ended: make(chan struct{})}
	p.cmd = exec.CommandContext(t.Context(), grout, append([]string{"ingest", "-", "--format", "ndjson", "--url", url, "-o", "json"}, args...)...)
	p.cmd.Env = append(os.Environ(), "INTERNAL_API_KEY="+process.InternalKey)
	p.cmd.Dir = t.TempDir()
	p.cmd.Stdout, p.cmd.Stderr = &p.out, p.terminal.slave
	// The terminal is the one it is controlled from, so that Ctrl-C reaches it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 2}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.terminal.watch()
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p
}

// finish waits for the end and gives what was printed, and the exit code.
func (p *piped) finish(t *testing.T) (s pipedSummary, code int) {
	t.Helper()
	limit := time.NewTimer(5 * time.Minute)
	defer limit.Stop()
	for _, end := range []chan struct{}{p.ended, p.terminal.ended} {
		select {
		case <-end:
		case <-limit.C:
			t.Fatalf("grout ingest does not end; its terminal shows %q", last(p.terminal.String(), 500))
		}
	}
	if exit := (*exec.ExitError)(nil); p.err != nil && !errors.As(p.err, &exit) {
		t.Fatal(p.err)
	}
	if err := json.Unmarshal(p.out.Bytes(), &s); err != nil {
		t.Fatalf("%v: %q; the terminal shows %q", err, p.out.String(), last(p.terminal.String(), 500))
	}
	return s, p.cmd.ProcessState.ExitCode()
}

type pipedSummary struct {
	summary
	Complete bool  `json:"complete"`
	Skipped  int   `json:"skipped"`
	Input    int64 `json:"input_tokens"`
}

func last(s string, n int) string { return s[max(0, len(s)-n):] }

// pipeline makes events of known sums, one a line, until it is told to pause.
type pipeline struct {
	now   time.Time
	apps  int
	fault map[int]string // lines that are something else
}

func (l *pipeline) line(i int) string {
	if text, ok := l.fault[i]; ok {
		return text
	}
	at := l.now.Add(-time.Duration(i%7200) * time.Second)
	return fmt.Sprintf(`{"event_id":"pipe-%d","timestamp":%q,"app_id":"pipe-%d","user_id":"u-%d","model":"m","workflow_id":"w","input_tokens":%d,"output_tokens":%d,"cost":"0.000000001"}`,
		i, at.Format(time.RFC3339), i%l.apps, i%97, i%1000, i%7)
}

// write pipes lines from…to.
func (l *pipeline) write(w io.Writer, from, to int) error {
	out := bufio.NewWriterSize(w, 1<<16)
	for i := from; i < to; i++ {
		if _, err := out.WriteString(l.line(i) + "\n"); err != nil {
			return err
		}
	}
	return out.Flush()
}

// check compares every app with the lines of a whole pipe, but for the faulty ones.
func (l *pipeline) check(t *testing.T, p *process.Process, lines int) {
	t.Helper()
	want := make([]schemas.SumsData, l.apps)
	for i := range lines {
		if _, faulty := l.fault[i]; faulty {
			continue
		}
		s := &want[i%l.apps]
		s.Events++
		s.InputTokens += int64(i % 1000)
		s.OutputTokens += int64(i % 7)
	}
	for app := range want {
		s := &want[app]
		s.TotalTokens = s.InputTokens + s.OutputTokens
		got := totals(t, p, fmt.Sprint("pipe-", app))
		if cost := nanosOf(t, got.Cost); cost != s.Events {
			t.Errorf("app %d cost %d billionths, want %d", app, cost, s.Events)
		}
		if got.Cost = ""; got != *s {
			t.Errorf("app %d has %+v, want %+v", app, got, *s)
		}
	}
}

// counted is how many events all apps have.
func (l *pipeline) counted(t *testing.T, p *process.Process) (n int64) {
	t.Helper()
	for app := range l.apps {
		n += totals(t, p, fmt.Sprint("pipe-", app)).Events
	}
	return n
}

var drawn = regexp.MustCompile(`([\d,]+) events, ([\d,]+)/s`)

// drawings gives the counts that were shown.
func drawings(t *testing.T, text string) (list []int) {
	t.Helper()
	for _, m := range drawn.FindAllStringSubmatch(text, -1) {
		n, err := strconv.Atoi(strings.ReplaceAll(m[1], ",", ""))
		if err != nil {
			t.Fatalf("the terminal shows %q", m[0])
		}
		list = append(list, n)
	}
	return list
}

// Events are piped into `grout ingest -`, which shows on a terminal how far it is, is
// stopped with Ctrl-C in the middle and started again; then grout itself is killed. In
// the end every event is counted once.
func TestPipe(t *testing.T) {
	lines := pipeLines(t)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		f := newFront(t, p, uint64(time.Now().UnixNano()), 0)
		l := &pipeline{now: time.Now().UTC(), apps: 7}

		run := startPiped(t, f.URL)
		most := lines / 4 * 3
		written := make(chan error, 1)
		go func() { written <- l.write(run.in, 0, most) }() // the rest never comes
		eventually(t, "the terminal shows that a quarter is counted", func() bool {
			list := drawings(t, run.terminal.String())
			return len(list) > 0 && list[len(list)-1] >= lines/4
		})
		if err := run.terminal.interrupt(); err != nil {
			t.Fatal(err)
		}
		s, code := run.finish(t)
		<-written // perhaps into a pipe that nobody reads any more
		text := run.terminal.String()
		if code != 1 || s.Complete || s.Rejected != 0 || s.Accepted < lines/4 || s.Accepted > most || !strings.Contains(text, "run the same command again to resume") {
			t.Errorf("after Ctrl-C: exit %d, %+v; the terminal shows %q", code, s, last(text, 500))
		}
		if n := l.counted(t, p); n != int64(s.Accepted) {
			t.Errorf("%d events are counted, the interrupted run says %d", n, s.Accepted)
		}
		checkDrawings(t, text, most)

		run = startPiped(t, f.URL)
		goOn := make(chan struct{})
		go func() {
			err := l.write(run.in, 0, lines/2)
			<-goOn
			written <- errors.Join(err, l.write(run.in, lines/2, lines))
			run.in.Close()
		}()
		eventually(t, "the resumed run goes on", func() bool { return len(drawings(t, run.terminal.String())) > 0 })
		request := f.next()
		close(goOn)
		p = f.killUnder(request, p, 20*time.Millisecond, data, partitions)
		again, code := run.finish(t)
		if err := <-written; err != nil {
			t.Errorf("the pipe broke: %v", err)
		}
		text = run.terminal.String()
		if code != 0 || !again.Complete || again.Events != lines || again.Accepted != lines || again.Replayed < s.Batches {
			t.Errorf("resumed: exit %d, %+v after %d batches; the terminal shows %q", code, again, s.Batches, last(text, 500))
		}
		checkDrawings(t, text, lines)
		l.check(t, p, lines)
		stop(t, p)
		p = start(t, data, partitions)
		l.check(t, p, lines)
		stop(t, p)
		t.Logf("%d lines: %d events before Ctrl-C, %d batches replayed of %d", lines, s.Accepted, again.Replayed, again.Batches)
	})
}

// checkDrawings expects counts that only rise, and that the last one was wiped away.
func checkDrawings(t *testing.T, text string, most int) {
	t.Helper()
	list := drawings(t, text)
	if len(list) == 0 || !slices.IsSorted(list) || list[len(list)-1] > most {
		t.Errorf("the terminal showed %d of at most %d events", list, most)
	}
	at := drawn.FindAllStringIndex(text, -1)
	if len(at) > 0 && !strings.Contains(text[at[len(at)-1][1]:], "\r\x1b[K") {
		t.Errorf("the last count stands on the terminal still: %q", last(text, 200))
	}
}

// A line that cannot be read stops a pipe, by its number, or is left out and told of;
// one that is refused is told of. The others count, once.
func TestBrokenLineInAPipe(t *testing.T) {
	const lines = 5000
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	l := &pipeline{now: time.Now().UTC(), apps: 3}
	whole := l.line(2600)
	l.fault = map[int]string{2600: whole[:len(whole)/2]}
	pipe := func(args ...string) (pipedSummary, int, string) {
		t.Helper()
		run := startPiped(t, p.URL, args...)
		go func() {
			_ = l.write(run.in, 0, lines) // the reader may go before the end
			run.in.Close()
		}()
		s, code := run.finish(t)
		return s, code, run.terminal.String()
	}
	s, code, text := pipe()
	if code != 1 || s.Complete || s.Accepted > 2600 || !strings.Contains(text, "line 2601: is no JSON object") || !strings.Contains(text, "--skip-bad") {
		t.Errorf("a broken line: exit %d, %+v; the terminal shows %q", code, s, last(text, 500))
	}
	if n := l.counted(t, p); n != int64(s.Accepted) {
		t.Errorf("%d events are counted, the run that stopped says %d", n, s.Accepted)
	}
	s, code, text = pipe("--skip-bad")
	if code != 0 || !s.Complete || s.Skipped != 1 || s.Accepted != lines-1 || !strings.Contains(text, "skipped: -: line 2601: is no JSON object") {
		t.Errorf("a broken line is skipped: exit %d, %+v; the terminal shows %q", code, s, last(text, 500))
	}
	l.check(t, p, lines)

	l.fault[2600] = (&pipeline{now: l.now.AddDate(0, 0, -40), apps: l.apps}).line(2600) // too old
	s, code, text = pipe()
	if code != 1 || !s.Complete || s.Rejected != 1 || s.Accepted+s.Duplicates != lines-1 || !strings.Contains(text, "refused 1 of 5000 events") {
		t.Errorf("a refused line: exit %d, %+v; the terminal shows %q", code, s, last(text, 500))
	}
	l.check(t, p, lines)

	// The same without a client: lines as they are, to the API.
	l.fault[2600] = whole[:len(whole)/2]
	var body bytes.Buffer
	if err := l.write(&body, 0, lines); err != nil {
		t.Fatal(err)
	}
	var r result
	request(t, p, "POST", "/api/usage/ingest", body.Bytes(), "Content-Type", "application/x-ndjson").want(t, 200).into(t, &r)
	if r.Duplicates != lines-1 || r.Rejected != 1 || len(r.Errors) != 1 || r.Errors[0].Index != 2600 || r.Errors[0].Code != "INVALID_JSON" {
		t.Errorf("%+v", r)
	}
	l.check(t, p, lines)
	stop(t, p)
}
