package deliver

import (
	"sync"
	"time"

	"grout/schemas"
)

// State is how a delivery is.
type State string

// States of deliveries.
const (
	StateIdle     State = "idle"     // nothing waits
	StateSending  State = "sending"  // it sends
	StateFailing  State = "failing"  // it tries again
	StateStopped  State = "stopped"  // until it is resumed
	StateDisabled State = "disabled" // by its settings
	StateWaiting  State = "waiting"  // for its partition
)

// Status is how a delivery is, for people and metrics.
type Status struct {
	Name      string
	State     State
	Stand     schemas.DeliveryStand
	Sent      int64 // since the start
	Refused   int64
	Failures  int64     // tries that failed
	InARow    int       // failures since the last success
	LastError string    // of the newest failure; empty after a success
	FailedAt  time.Time // of the newest failure
	Since     time.Time // the first failure in the row
	NextTry   time.Time
	SentAt    time.Time // of the newest success
	Waiting   uint64    // places of its source that are not delivered
	Oldest    time.Time // when the oldest of what waits was recorded; zero: nothing waits, or it is not known
}

// board holds a status against readers.
type board struct {
	mu sync.Mutex
	s  Status
}

func (b *board) read() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.s
}

func (b *board) change(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.s)
}

// failed notes a failure and gives how many there were in a row.
func (b *board) failed(text string, now time.Time) (inARow int) {
	b.change(func(s *Status) {
		if s.InARow == 0 {
			s.Since = now
		}
		s.InARow++
		s.Failures++
		s.LastError, s.FailedAt, s.State = text, now, StateFailing
		inARow = s.InARow
	})
	return inARow
}

func (b *board) took(n, refused int, now time.Time) {
	b.change(func(s *Status) {
		s.Sent += int64(n)
		s.Refused += int64(refused)
		s.InARow, s.LastError, s.SentAt, s.State = 0, "", now, StateSending
		s.Since, s.NextTry = time.Time{}, time.Time{}
	})
}
