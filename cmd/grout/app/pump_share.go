package app

import (
	"sync"
	"sync/atomic"
	"time"

	"grout/bus"
	"grout/schemas"
)

// What the pump has of a group: half of it, when nobody else writes commands. Otherwise no
// more than others have written since its last turn, so that a flood makes groups at most
// about twice as long for them, but never less than a little.
const (
	maxShare      = schemas.MaxGroupCommands / 2
	maxShareBytes = schemas.MaxGroupBytes / 2
	minShare      = 16
	minShareBytes = 64 << 10
)

// sharedFor is how long others count as writing after they have written.
const sharedFor = 10 * time.Second

// share is how much the pump takes at its next turn.
type share struct {
	commands, bytes int64     // that others had submitted by its last turn
	shared          time.Time // when they last had submitted any
}

func (s *share) of(p *bus.Publisher) (most, size int) {
	commands, bytes := p.Submitted()
	return s.turn(commands, bytes, time.Now())
}

func (s *share) turn(commands, bytes int64, now time.Time) (most, size int) {
	others, more := commands-s.commands, bytes-s.bytes
	s.commands, s.bytes = commands, bytes
	if others > 0 {
		s.shared = now
	}
	if s.shared.IsZero() || now.Sub(s.shared) > sharedFor {
		return maxShare, maxShareBytes
	}
	return int(min(max(others, minShare), maxShare)), int(min(max(more, minShareBytes), maxShareBytes))
}

// pumpStats are what a pump has done since the start of its node.
type pumpStats struct {
	brought, done, refused, dead atomic.Int64

	mu  sync.Mutex
	why string // what it waits for; empty: for nothing
}

func (s *pumpStats) waiting(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why = ""
	if err != nil {
		s.why = err.Error()
	}
}

// outcome counts what became of a command.
func (s *pumpStats) outcome(stored []byte) {
	var o schemas.CommandOutcome
	var batch schemas.IngestOutcome
	refused := false
	switch {
	case o.Decode(stored) == nil:
		refused = o.Code != ""
	case batch.Decode(stored) == nil:
		refused = batch.Accepted+batch.Duplicates == 0 && batch.Rejected > 0
	}
	if refused {
		s.refused.Add(1)
	} else {
		s.done.Add(1)
	}
}
