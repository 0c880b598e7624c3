package deliver

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"grout/schemas"
)

// Bounds of webhooks.
const (
	webhookPrefix = "webhook."
	pageFacts     = 64
	pageBytes     = 4 << 20
	lanes         = 8 // apps that are sent at once
	restLook      = time.Minute
)

// WebhookOptions are what a webhook is. Zero durations take the default in brackets.
type WebhookOptions struct {
	Name     string
	URL      string
	Kinds    []string // kinds of facts, with * for any text; none: all
	Apps     []string // none: all
	Disabled bool

	Keys    func() ([]Key, error) // that sign now; one at least
	Targets Targets               // that are allowed beside the Internet
	Timeout time.Duration         // of one try [15 s]

	RetryFirst, RetryMost time.Duration // [1 s, 1 h]
	Look                  time.Duration // how often it is looked for facts [50 ms]
	MarkEvery             time.Duration // how often its place is written into the log, while it moves [5 s]

	Logger *slog.Logger
	Alarm  func(schemas.Alarm) // told of a gap
}

// Webhook sends facts to one endpoint, those of an app in their order.
type Webhook struct {
	o      WebhookOptions
	client *http.Client
	board  board
	orders chan order
}

// order is what somebody wants of a webhook.
type order struct {
	skip bool
	done chan error
}

// NewWebhook makes a webhook; Run runs it. It outlives what it reads from.
func NewWebhook(o WebhookOptions) *Webhook {
	o.Timeout = cmp.Or(o.Timeout, 15*time.Second)
	o.RetryFirst, o.RetryMost = cmp.Or(o.RetryFirst, time.Second), cmp.Or(o.RetryMost, time.Hour)
	o.Look, o.MarkEvery = cmp.Or(o.Look, 50*time.Millisecond), cmp.Or(o.MarkEvery, 5*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Alarm == nil {
		o.Alarm = func(schemas.Alarm) {}
	}
	o.Logger = o.Logger.With("webhook", o.Name)
	w := &Webhook{o: o, client: newClient(&o), orders: make(chan order)}
	w.board.s = Status{Name: o.Name, State: StateWaiting}
	if o.Disabled {
		w.board.s.State = StateDisabled
	}
	return w
}

// DeliveryName is that of the webhook's delivery in the log.
func (w *Webhook) DeliveryName() string { return webhookPrefix + w.o.Name }

// IsWebhook tells whether a delivery is that of a webhook.
func IsWebhook(delivery string) bool {
	return len(delivery) > len(webhookPrefix) && delivery[:len(webhookPrefix)] == webhookPrefix
}

// Options are what the webhook was made with.
func (w *Webhook) Options() WebhookOptions { return w.o }

// Status tells how it is.
func (w *Webhook) Status() Status { return w.board.read() }

// Resume lets the webhook go on at once, also when it was stopped. With skip it passes
// over the fact that is the next one.
func (w *Webhook) Resume(ctx context.Context, skip bool) error {
	o := order{skip: skip, done: make(chan error, 1)}
	select {
	case w.orders <- o:
	case <-ctx.Done():
		return fmt.Errorf("resume webhook %s: it does not answer now: %w", w.o.Name, ctx.Err())
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("resume webhook %s: %w", w.o.Name, ctx.Err())
	}
}

// Run sends until ctx ends. last is what the stream of facts, created then, ended with
// before anything was published again: what comes behind it is new, whatever the log says.
func (w *Webhook) Run(ctx context.Context, ledger Ledger, facts Facts, created int64, last uint64) error {
	if w.o.Disabled {
		<-ctx.Done()
		return nil
	}
	r := posting{
		Webhook: w, facts: facts, sent: map[uint64]bool{},
		place: place{ledger: ledger, every: w.o.MarkEvery, log: w.o.Logger, shown: &w.board},
	}
	defer w.board.change(func(s *Status) { s.State = StateWaiting })
	defer w.client.CloseIdleConnections()
	begin := schemas.DeliveryStand{Name: w.DeliveryName(), Source: schemas.DeliverFacts, Seq: last + 1, Stream: created}
	if !r.open(ctx, schemas.DeliveryMark{Op: schemas.DeliveryBegin, Stand: begin}) {
		return nil
	}
	if r.stand.Stream == created && r.stand.Seq > last+1 {
		w.o.Logger.Warn("the stream of facts has lost its end; what is published again is sent again", "from", last+1)
		r.stand.Seq = last + 1
		r.write(ctx) // the stream soon ends behind the old place again
	}
	if r.stand.Stopped != "" {
		w.o.Logger.Warn("the webhook is stopped; nothing is sent until it is resumed", "reason", r.stand.Stopped)
	}
	for ctx.Err() == nil {
		r.step(ctx)
	}
	r.leave(ctx)
	return nil
}

// posting is a run of a Webhook.
type posting struct {
	*Webhook
	place
	facts  Facts
	sent   map[uint64]bool // facts at or behind the place that were taken already
	looked time.Time       // at the state of the stream
}

func (r *posting) step(ctx context.Context) {
	if r.stand.Stopped != "" {
		r.board.change(func(s *Status) { s.State = StateStopped })
		r.mark(ctx)
		r.rest(ctx, time.Second, -1)
		return
	}
	published := r.facts.Published()
	if time.Since(r.looked) > restLook {
		if err := r.look(ctx); err != nil {
			r.retry(ctx, &retryError{why: err.Error()})
			return
		}
	}
	list, err := r.facts.From(ctx, r.stand.Seq, pageFacts, pageBytes)
	if err != nil {
		r.retry(ctx, &retryError{why: fmt.Sprintf("read the facts: %v", err)})
		return
	}
	if len(list) == 0 {
		r.idle()
		r.mark(ctx)
		r.rest(ctx, 0, published)
		return
	}
	if stream := r.stand.Stream; list[0].Seq > r.stand.Seq { // what is missing has expired, or is no fact
		if err := r.look(ctx); err != nil {
			r.retry(ctx, &retryError{why: err.Error()})
			return
		}
		if r.stand.Stream != stream {
			return
		}
	}
	r.page(ctx, list)
	r.mark(ctx)
}

// page sends a page. What was taken behind a fact that was not is remembered, so the next
// try is without it.
func (r *posting) page(ctx context.Context, list []schemas.StreamMessage) {
	work := r.sort(list)
	var failure error
	if len(work) > 0 {
		r.waits(work[0].message.Time.UnixNano())
		failure = r.sendAll(ctx, work)
	}
	next := list[len(list)-1].Seq + 1
	for _, f := range work {
		if !r.sent[f.message.Seq] {
			next = f.message.Seq
			break
		}
	}
	counted := 0
	for seq := range r.sent {
		if seq < next {
			delete(r.sent, seq)
			counted++
		}
	}
	r.moved(next, 0, counted, 0)
	if failure != nil && ctx.Err() == nil {
		r.retry(ctx, failure)
	}
}

// look sees what the stream holds: whether it is the one that the place counts in, and
// whether what is to come next is still there.
func (r *posting) look(ctx context.Context) error {
	created, first, last, err := r.facts.State(ctx)
	if err != nil {
		return fmt.Errorf("look at the stream of facts: %w", err)
	}
	list, err := r.facts.From(ctx, r.stand.Seq, 1, pageBytes)
	if err != nil {
		return fmt.Errorf("read the facts: %w", err)
	}
	r.looked = time.Now()
	switch s := &r.stand; {
	case s.Stream != created:
		r.o.Logger.Warn("the stream of facts is another one; the webhook goes on at its beginning", "was_created", schemas.InstantText(s.Stream), "created", schemas.InstantText(created))
		s.Stream, s.Seq, r.sent = created, first, map[uint64]bool{}
	case s.Seq < first && s.Seq > 0:
		s.Gaps++
		s.Gap = schemas.DeliveryGap{From: s.Seq, To: first - 1, At: r.looked.UnixNano()}
		s.Seq = first
		detail := fmt.Sprintf("facts had expired before webhook %s had taken them, and it goes on behind them: sequences %d to %d of %s", r.o.Name, s.Gap.From, s.Gap.To, schemas.StreamFacts)
		r.o.Alarm(schemas.Alarm{Name: "WEBHOOK_GAP", Partition: -1, Detail: detail})
	case len(list) == 0 && s.Seq <= last: // what lies between are no facts
		s.Seq = last + 1
	}
	waiting := uint64(0)
	if last+1 > r.stand.Seq {
		waiting = last + 1 - r.stand.Seq
	}
	r.show()
	r.board.change(func(s *Status) { s.Waiting = waiting })
	return nil
}

// rest waits for facts, for an order, or for so long; 0 is until it is time to look.
func (r *posting) rest(ctx context.Context, long time.Duration, published int64) {
	end := time.NewTimer(cmp.Or(long, restLook))
	defer end.Stop()
	look := time.NewTicker(r.o.Look)
	defer look.Stop()
	for {
		select {
		case <-look.C:
			if published >= 0 && r.facts.Published() != published || r.due() {
				return
			}
		case <-end.C:
			return
		case o := <-r.orders:
			o.done <- r.obey(ctx, o)
			return
		case <-ctx.Done():
			return
		}
	}
}

// retry waits after a failure, at which a 410 ends it.
func (r *posting) retry(ctx context.Context, err error) {
	now := time.Now()
	n := r.board.failed(cut(err.Error()), now)
	after, gone := afterOf(err)
	if gone {
		r.stand.Stopped, r.stand.StoppedAt = "410 Gone", now.UnixNano()
		r.o.Logger.Error("the endpoint wants nothing any more (410): the webhook is stopped until it is resumed")
		r.write(ctx)
		return
	}
	wait := max(backoff(r.o.RetryFirst, r.o.RetryMost, n), after)
	if n == 1 || n%10 == 0 {
		r.o.Logger.Warn("facts cannot be sent; they are tried again", "failures", n, "error", cut(err.Error()), "in", wait.Round(time.Millisecond).String())
	}
	r.board.change(func(s *Status) { s.NextTry = now.Add(wait) })
	r.looked = time.Time{} // what was to come may expire meanwhile
	r.mark(ctx)
	r.rest(ctx, wait, -1)
}

// obey carries out an order.
func (r *posting) obey(ctx context.Context, o order) error {
	r.board.change(func(s *Status) { s.InARow = 0 })
	if r.stand.Stopped != "" {
		r.o.Logger.Info("the webhook is resumed")
	}
	r.stand.Stopped, r.stand.StoppedAt, r.looked = "", 0, time.Time{}
	if o.skip {
		if err := r.skip(ctx); err != nil {
			return err
		}
	}
	r.write(ctx)
	if r.silent {
		return fmt.Errorf("webhook %s goes on, but the log does not know it yet", r.o.Name)
	}
	return nil
}

// skip passes over the fact that is the next one to be sent.
func (r *posting) skip(ctx context.Context) error {
	list, err := r.facts.From(ctx, r.stand.Seq, pageFacts, pageBytes)
	if err != nil {
		return fmt.Errorf("read the facts: %w", err)
	}
	for _, f := range r.sort(list) {
		if r.sent[f.message.Seq] {
			continue
		}
		r.o.Logger.Warn("a fact is passed over, as somebody asked for", "id", f.id, "kind", f.kind, "app_id", f.app)
		r.moved(f.message.Seq+1, 0, 0, 1)
		r.board.change(func(s *Status) { s.Refused++ })
		return nil
	}
	return schemas.Errorf(schemas.CodeNotFound, "No fact waits for webhook %q", r.o.Name)
}
