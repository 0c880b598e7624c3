package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"grout/schemas"
)

// UpstreamName is that of the delivery of usage to the Platform.
const UpstreamName = "upstream"

// Bounds of upstream reporting.
const (
	upstreamPath    = "/api/billing/usage-events"
	upstreamTimeout = 30 * time.Second
	upstreamAnswer  = 4 << 20
	upstreamBytes   = 8 << 20 // of a request; larger batches are cut
	listedRefusals  = 10      // of an answer, in the log
)

// UpstreamOptions are what reporting needs. Zero durations and sizes take the default in
// brackets.
type UpstreamOptions struct {
	URL   string
	Key   string
	Batch int           // events of a request [100]
	Flush time.Duration // how long events gather [60 s]

	RetryFirst, RetryMost time.Duration // [1 s, 5 min]
	Look                  time.Duration // how often it is looked for events [250 ms]
	MarkEvery             time.Duration // how often its place is written into the log, while it moves [5 s]

	Logger    *slog.Logger
	Alarm     func(schemas.Alarm) // told of a gap
	Partition int
	Client    *http.Client // [one of its own]
}

// Upstream reports the usage of one partition to the Platform (contract §7).
type Upstream struct {
	o      UpstreamOptions
	url    string
	client *http.Client
	board  board
}

// NewUpstream makes the reporter of a partition; Run runs it.
func NewUpstream(o UpstreamOptions) *Upstream {
	o.Batch = cmp.Or(o.Batch, 100)
	o.Flush = cmp.Or(o.Flush, time.Minute)
	o.RetryFirst, o.RetryMost = cmp.Or(o.RetryFirst, time.Second), cmp.Or(o.RetryMost, 5*time.Minute)
	o.Look, o.MarkEvery = cmp.Or(o.Look, 250*time.Millisecond), cmp.Or(o.MarkEvery, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Alarm == nil {
		o.Alarm = func(schemas.Alarm) {}
	}
	u := &Upstream{o: o, url: strings.TrimRight(o.URL, "/") + upstreamPath, client: o.Client}
	if u.client == nil {
		u.client = &http.Client{
			Timeout: upstreamTimeout, Transport: http.DefaultTransport.(*http.Transport).Clone(),
			// The key is for the server that was named and for no other.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	u.board.s = Status{Name: UpstreamName, State: StateWaiting}
	return u
}

// Status tells how it is.
func (u *Upstream) Status() Status { return u.board.read() }

// Run reports until ctx ends. What fails is tried again; it stops nothing.
func (u *Upstream) Run(ctx context.Context, ledger Ledger, events Events) error {
	r := reporting{Upstream: u, place: place{ledger: ledger, every: u.o.MarkEvery, log: u.o.Logger, shown: &u.board}, events: events}
	defer u.board.change(func(s *Status) { s.State = StateWaiting })
	defer u.client.CloseIdleConnections()
	if !r.open(ctx, schemas.DeliveryMark{Op: schemas.DeliveryBegin, Stand: schemas.DeliveryStand{Name: UpstreamName, Source: schemas.DeliverEvents}}) {
		return nil
	}
	if g := r.stand.Gaps; g > 0 {
		u.o.Logger.Warn("usage was not reported upstream before it expired", "gaps", g, "newest", gapText(r.stand.Gap))
	}
	r.gaps = r.stand.Gaps
	for ctx.Err() == nil {
		r.step(ctx)
	}
	r.pass(context.WithoutCancel(ctx))
	r.leave(ctx)
	return nil
}

// pass moves a place behind a message that is sent whole: nothing of it is needed.
func (r *reporting) pass(ctx context.Context) {
	if r.stand.Index == 0 {
		return
	}
	if page, err := r.events.EventsBehind(ctx, r.stand.Seq, r.stand.Index, 1); err == nil && (len(page.Events) == 0 || page.Events[0].Seq > r.stand.Seq) {
		r.stand.Seq, r.stand.Index = r.stand.Seq+1, 0
	}
}

func gapText(g schemas.DeliveryGap) string {
	text := fmt.Sprintf("places %d to %d", g.From, g.To)
	if g.Until != 0 {
		text += ", arrived until " + schemas.InstantText(g.Until)
	}
	return text
}

// reporting is a run of an Upstream.
type reporting struct {
	*Upstream
	place
	events Events
	gaps   uint64    // that are told
	since  time.Time // when the first event of what gathers was seen; zero: none gathers
}

// step reads what is to be sent, and sends it when there is enough, or it has gathered
// for long enough.
func (r *reporting) step(ctx context.Context) {
	recorded := r.events.Recorded()
	page, err := r.events.EventsBehind(ctx, r.stand.Seq, r.stand.Index, r.o.Batch)
	if err != nil {
		if ctx.Err() == nil {
			r.retry(ctx, fmt.Errorf("read the event log: %w", err))
		}
		return
	}
	if len(page.Events) == 0 {
		r.since = time.Time{}
		r.stand.Seq, r.stand.Index = max(r.stand.Seq, page.Seq), page.Index
		r.idle()
		r.mark(ctx)
		r.tellGaps()
		r.await(ctx, recorded, time.Time{})
		return
	}
	r.waits(page.Events[0].RecordedAt)
	if r.since.IsZero() {
		r.since = time.Now()
	}
	if flush := r.since.Add(r.o.Flush); len(page.Events) < r.o.Batch && time.Now().Before(flush) {
		r.mark(ctx)
		r.await(ctx, recorded, flush)
		return
	}
	taken, refused, err := r.send(ctx, page.Events)
	if err != nil {
		if ctx.Err() == nil {
			r.retry(ctx, err)
		}
		return
	}
	r.since = time.Time{}
	r.moved(page.Seq, page.Index, taken, refused)
	r.board.took(taken, refused, time.Now())
	r.mark(ctx)
	r.tellGaps()
}

// await returns when more was recorded, or an instant has come.
func (r *reporting) await(ctx context.Context, recorded int64, until time.Time) {
	for {
		wait := r.o.Look
		if !until.IsZero() {
			wait = min(wait, time.Until(until))
		}
		if wait <= 0 || !sleep(ctx, wait, nil) || r.events.Recorded() != recorded {
			return
		}
		if r.due() {
			return
		}
	}
}

func (r *reporting) retry(ctx context.Context, err error) {
	now := time.Now()
	n := r.board.failed(cut(err.Error()), now)
	wait := backoff(r.o.RetryFirst, r.o.RetryMost, n)
	if after := (*retryError)(nil); errors.As(err, &after) {
		wait = max(wait, after.after)
	}
	if n == 1 || n%10 == 0 {
		r.o.Logger.Warn("usage cannot be reported upstream; it is kept and tried again", "failures", n, "error", cut(err.Error()), "in", wait.Round(time.Millisecond).String())
	}
	r.board.change(func(s *Status) { s.NextTry = now.Add(wait) })
	r.mark(ctx)
	sleep(ctx, wait, nil)
}

// tellGaps raises an alarm when segments have expired that were not sent.
func (r *reporting) tellGaps() {
	if r.stand.Gaps == r.gaps {
		return
	}
	r.gaps = r.stand.Gaps
	r.o.Alarm(schemas.Alarm{
		Name: "UPSTREAM_GAP", Partition: r.o.Partition,
		Detail: "usage expired before the Platform had taken it, and reporting goes on behind it: " + gapText(r.stand.Gap),
	})
}

// cut bounds a text that others may have made.
func cut(text string) string {
	const most = 300
	text = strings.ToValidUTF8(strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text), "�")
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
