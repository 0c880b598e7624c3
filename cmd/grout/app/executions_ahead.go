package app

import (
	"sync"
	"time"

	"grout/handlers/plugins"
)

const (
	// aheadWait is how long the calls may take together that are let in before there is a
	// worker for them, about as long as a command is on its way into the log.
	aheadWait = 20 * time.Millisecond
	maxAhead  = 64
)

// tempos tells of every plugin how long its calls take. Of one whose calls are short as
// many are let into the log without a worker as are soon done: a worker that was kept for
// each on its way there would do nothing most of the time. Of others none is, so that a
// plugin that is busy refuses before there is a run.
type tempos struct {
	mu  sync.Mutex
	all map[string]*tempo
}

type tempo struct {
	took  time.Duration // what the last calls took, the newest more than the others
	known bool
	ahead int
}

// ahead is the right of one call to be in the log without a worker. It is left when the
// call has one, or does not run.
type ahead struct {
	tempos *tempos
	of     *tempo
	once   sync.Once
}

// admit lets a call in without a worker; nil when it has to wait for one.
func (p *tempos) admit(info *plugins.Info) *ahead {
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.all[info.Name]
	if of == nil || !of.known || of.ahead >= maxAhead || of.ahead >= info.Limits.Queue {
		return nil
	}
	if time.Duration(of.ahead+1)*of.took > aheadWait*time.Duration(info.Limits.Concurrency) {
		return nil
	}
	of.ahead++
	return &ahead{tempos: p, of: of}
}

// Leave implements httpapi.Ticket.
func (a *ahead) Leave() {
	a.once.Do(func() {
		a.tempos.mu.Lock()
		defer a.tempos.mu.Unlock()
		a.of.ahead--
	})
}

// note takes in how long a call took.
func (p *tempos) note(plugin string, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all == nil {
		p.all = map[string]*tempo{}
	}
	of := p.all[plugin]
	if of == nil {
		of = &tempo{}
		p.all[plugin] = of
	}
	if !of.known {
		of.took, of.known = took, true
		return
	}
	of.took += (took - of.took) / 4
}
