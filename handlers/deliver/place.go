package deliver

import (
	"context"
	"log/slog"
	"time"

	"grout/schemas"
)

const (
	// lastMark bounds the mark that a stop writes.
	lastMark = 3 * time.Second
	// restMark is how often a place in the stream of facts is written that moved over
	// nothing but markers of relays: what expires behind it is no gap.
	restMark = time.Hour
)

// place is where a delivery stands in memory, and from time to time in the log.
type place struct {
	ledger Ledger
	every  time.Duration
	log    *slog.Logger
	shown  *board

	stand  schemas.DeliveryStand
	marked schemas.DeliveryStand // as the log has it
	at     time.Time             // of the newest mark
	silent bool                  // that it cannot be marked is told
}

// open takes the place from the log; a delivery that is not known begins as the mark
// says. It returns false when ctx has ended.
func (p *place) open(ctx context.Context, begin schemas.DeliveryMark) bool {
	for failures := 1; ; failures++ {
		d, err := p.ledger.Stand(begin.Stand.Name)
		if err == nil && d == nil {
			if err = p.ledger.Mark(ctx, &begin); err == nil {
				d, err = p.ledger.Stand(begin.Stand.Name)
			}
		}
		if err == nil && d != nil {
			p.stand, p.marked, p.at = *d, *d, time.Now()
			p.shown.change(func(s *Status) { s.Stand, s.State = *d, StateIdle })
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if failures == 1 {
			p.log.Warn("a delivery cannot be begun; it will be tried again", "delivery", begin.Stand.Name, "error", err)
		}
		if !sleep(ctx, backoff(100*time.Millisecond, 5*time.Second, failures), nil) {
			return false
		}
	}
}

// moved notes what was delivered.
func (p *place) moved(seq uint64, index uint32, taken, refused int) {
	p.stand.Seq, p.stand.Index = seq, index
	p.stand.Delivered += uint64(taken)
	p.stand.Refused += uint64(refused)
	p.show()
}

func (p *place) show() {
	stand := p.stand
	p.shown.change(func(s *Status) { s.Stand = stand })
}

// idle notes that nothing waits.
func (p *place) idle() {
	stand := p.stand
	p.shown.change(func(s *Status) {
		s.Stand, s.State, s.Oldest, s.Waiting = stand, StateIdle, time.Time{}, 0
		s.InARow, s.LastError, s.NextTry = 0, "", time.Time{}
	})
}

// waits notes since when the oldest of what waits is there.
func (p *place) waits(nanos int64) {
	p.shown.change(func(s *Status) { s.Oldest = time.Unix(0, nanos).UTC() })
}

// dirty tells whether the log is behind in what matters: a place that moved over nothing
// is found again.
func (p *place) dirty() bool {
	a, b := p.stand, p.marked
	return b.Index != 0 && a.Seq != b.Seq || a.Seq < b.Seq || a.Delivered != b.Delivered || a.Refused != b.Refused || a.Stopped != b.Stopped || a.Gaps != b.Gaps || a.Stream != b.Stream
}

func (p *place) due() bool {
	since := time.Since(p.at)
	return p.dirty() && since >= p.every || since >= restMark && p.stand.Source == schemas.DeliverFacts && p.stand.Seq != p.marked.Seq
}

// mark writes the place into the log when it is time to. A failure is told, and does not
// hold up what is delivered: the place is written later.
func (p *place) mark(ctx context.Context) {
	if p.due() {
		p.write(ctx)
	}
}

func (p *place) write(ctx context.Context) {
	p.at = time.Now()
	m := schemas.DeliveryMark{Op: schemas.DeliverySet, Stand: p.stand}
	err := p.ledger.Mark(ctx, &m)
	var d *schemas.DeliveryStand
	if err == nil {
		d, err = p.ledger.Stand(p.stand.Name)
	}
	if err != nil || d == nil {
		if !p.silent && ctx.Err() == nil {
			p.log.Warn("the place of a delivery cannot be written into the log; after a kill more of it would be sent again", "delivery", p.stand.Name, "error", err)
		}
		p.silent = true
		return
	}
	p.silent = false
	p.stand, p.marked = *d, *d // segments may have expired meanwhile
	p.show()
}

// leave writes the place at a stop.
func (p *place) leave(ctx context.Context) {
	if p.stand.Seq == p.marked.Seq && p.stand.Index == p.marked.Index && !p.dirty() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastMark)
	defer cancel()
	p.write(ctx)
}
