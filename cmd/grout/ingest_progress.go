package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// progress tells how far an ingest is: a bar on a terminal, a line every few
// seconds anywhere else.
type progress struct {
	w        io.Writer
	terminal bool
	interval time.Duration
	started  time.Time

	mu     sync.Mutex
	drawn  bool // a bar stands on the current line
	events int64
	done   float64 // share of the whole, negative when that is unknown
	noted  time.Time

	stop chan struct{}
	wg   sync.WaitGroup
}

func startProgress(w io.Writer) *progress {
	p := &progress{w: w, interval: 5 * time.Second, started: time.Now(), done: -1, stop: make(chan struct{})}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal, p.interval = true, 200*time.Millisecond
	}
	p.wg.Go(p.run)
	return p
}

func (p *progress) run() {
	tick := time.NewTicker(p.interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			p.draw(time.Now())
			p.mu.Unlock()
		case <-p.stop:
			return
		}
	}
}

func (p *progress) set(events int64, done float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events, p.done = events, done
}

// note prints a line without disturbing the bar.
func (p *progress) note(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// retrying tells of a failed attempt, once a second at most: many senders fail
// for one reason.
func (p *progress) retrying(err error, pause time.Duration) {
	now := time.Now()
	p.mu.Lock()
	quiet := now.Sub(p.noted) < time.Second
	if !quiet {
		p.noted = now
	}
	p.mu.Unlock()
	if !quiet {
		p.note("retrying in %s: %v", pause.Round(time.Millisecond), err)
	}
}

// finish waits until nothing more will be drawn.
func (p *progress) finish() {
	close(p.stop)
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

func (p *progress) clear() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *progress) draw(now time.Time) {
	text := p.line(now)
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	p.clear()
	fmt.Fprint(p.w, text)
	p.drawn = true
}

func (p *progress) line(now time.Time) string {
	elapsed := now.Sub(p.started)
	text := fmt.Sprintf("%s events, %s/s", thousands(p.events), thousands(rate(p.events, elapsed)))
	if p.done < 0 {
		return text
	}
	done := min(p.done, 1)
	text = fmt.Sprintf("%3.0f%%  %s", 100*done, text)
	if p.terminal {
		const width = 24
		full := int(done * width)
		text = "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "] " + text
	}
	if done > 0 {
		left := time.Duration(float64(elapsed) * (1 - done) / done)
		text += ", " + left.Round(time.Second).String() + " left"
	}
	return text
}

func rate(events int64, elapsed time.Duration) int64 {
	if elapsed <= 0 {
		return 0
	}
	return int64(float64(events) / elapsed.Seconds())
}

// thousands writes a count of zero or more with separators.
func thousands(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for i := len(digits) - 3; i > 0 && digits[i-1] != '-'; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
