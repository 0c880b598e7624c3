package plugins

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// maxPrinted is what a call may print to a stream of the log; the rest is counted. A line
// counts for what stands beside it in the log, too.
const (
	maxPrinted = 1 << 20
	lineCosts  = 32
)

// dropPause slows down a worker that prints more than is kept, or reading it would cost
// more than what it does.
const dropPause = time.Millisecond

// printed takes what a worker writes to stdout or stderr, for ever: a worker never waits
// for long because nobody reads.
type printed struct {
	s      *supervisor
	stream byte
	ended  chan struct{} // nobody has the stream open any more

	mu      sync.Mutex
	sent    int
	dropped int
}

func (p *printed) read(r io.ReadCloser) {
	defer close(p.ended)
	buffer := make([]byte, 64<<10)
	for {
		n, err := r.Read(buffer)
		if n > 0 && !p.take(buffer[:n]) {
			pause := time.NewTimer(dropPause)
			<-pause.C
		}
		if err != nil {
			return
		}
	}
}

// take reports whether the text was kept.
func (p *printed) take(text []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	room := 0
	for left := maxPrinted - p.sent; left > 0 && room < len(text); left = maxPrinted - p.sent {
		part := text[room:]
		cost := 0
		if end := bytes.IndexByte(part, '\n'); end >= 0 {
			part, cost = part[:end+1], lineCosts
		}
		part = part[:min(len(part), left)]
		p.sent += len(part) + cost
		room += len(part)
	}
	p.dropped += len(text) - room
	if room == 0 {
		return false
	}
	_ = p.s.tell(frameLog, []byte{p.stream}, text[:room])
	return true
}

// refill lets a call print, and tells how much of the one before was not logged.
func (p *printed) refill() {
	p.mu.Lock()
	dropped := p.dropped
	p.sent, p.dropped = 0, 0
	p.mu.Unlock()
	if dropped > 0 {
		_ = p.s.tell(frameLog, []byte{p.stream}, []byte("\n"))
		p.s.note("%d bytes of %s were not logged: a call may print %d", dropped, streamNames[p.stream], maxPrinted)
	}
}
