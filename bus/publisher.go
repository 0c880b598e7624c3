package bus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"grout/schemas"
)

// Errors of a Publisher.
var (
	// ErrBusy says that the queue is full; nothing was taken.
	ErrBusy = errors.New("the queue of commands is full")
	// ErrClosed says that the publisher has ended; nothing was taken.
	ErrClosed = errors.New("the publisher has ended")
	// ErrTooLarge says that a command fits into no group.
	ErrTooLarge = fmt.Errorf("a command has more than %d bytes", schemas.MaxCommandBytes)
	// ErrNotStored says that a command is not known to be in the stream. It may
	// be there all the same; its id makes sending it again harmless.
	ErrNotStored = errors.New("the command is not known to be stored")
)

// PublisherOptions bound a Publisher. Zero values take the defaults.
type PublisherOptions struct {
	QueueBytes     int64         // 64 MiB, what waits and what is in flight
	QueueCommands  int           // 10,000
	PublishTimeout time.Duration // 5 s
	Now            func() time.Time
}

// Publisher merges the concurrent commands of one partition into groups: while one
// is in flight, whatever is submitted waits, and all of it is the next group. There
// is no timer, and one group in flight at most, so the order of Submit is the order
// in the stream.
type Publisher struct {
	b       *Bus
	subject string
	replies *Replies
	opts    PublisherOptions
	wake    chan struct{}
	acked   atomic.Int64

	submitted, submittedBytes atomic.Int64

	confirmed atomic.Uint64
	life      context.Context // ends with Abort
	abort     context.CancelFunc

	mu     sync.Mutex
	queue  []*Pending
	count  int // commands that wait or are in flight
	bytes  int64
	closed bool
}

// Receipt says what became of a command.
type Receipt struct {
	Seq     uint64 // of its group in the stream; 0 when the outcome overtook the PubAck
	Index   uint32 // inside its group
	Outcome []byte // nil: stored, its outcome is not known yet
	Dead    bool   // it went to the dead letters
}

// Pending is a submitted command. Wait must be called, once.
type Pending struct {
	p      *Publisher
	frame  []byte // as it stands in the group
	unit   int    // commands that stand in one group with it, from it on; of the first of them
	index  uint32
	seq    atomic.Uint64
	stored chan struct{} // closed by the PubAck
	done   chan struct{} // closed by outcome or error

	// Guarded by Replies.mu; outcome and err are read after done only.
	settled bool
	group   *sentGroup
	replies *Replies
	outcome []byte
	err     error
}

// NewPublisher makes the publisher of a partition. Commands are taken at once and
// leave when Run runs.
func (b *Bus) NewPublisher(partition int, r *Replies, o PublisherOptions) *Publisher {
	if o.QueueBytes == 0 {
		o.QueueBytes = 64 << 20
	}
	if o.QueueCommands == 0 {
		o.QueueCommands = 10_000
	}
	if o.PublishTimeout == 0 {
		o.PublishTimeout = 5 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Publisher{b: b, subject: schemas.GroupSubject(partition), replies: r, opts: o, wake: make(chan struct{}, 1)}
	p.life, p.abort = context.WithCancel(context.Background())
	return p
}

// Abort ends the publisher without waiting for a stream that does not answer: the
// group in flight and all that is queued fail as not stored.
func (p *Publisher) Abort() { p.abort() }

// Confirmed is the sequence of the newest group that is stored; 0 before the first.
func (p *Publisher) Confirmed() uint64 { return p.confirmed.Load() }

// Acked is the number of groups that the stream has acknowledged since the start.
func (p *Publisher) Acked() int64 { return p.acked.Load() }

// QueueDepth is what waits or is in flight.
func (p *Publisher) QueueDepth() (commands int, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count, p.bytes
}

// Submit queues a command. It copies what it needs: the frame and its payload are
// the caller's again when Submit returns.
func (p *Publisher) Submit(f schemas.CommandFrame) (*Pending, error) {
	most := schemas.MaxCommandBytes
	if f.Kind == schemas.RetryLetter.Name {
		most += schemas.RetryRoom // it holds a command of that size
	}
	if f.FrameSize() > most {
		return nil, ErrTooLarge
	}
	c := p.pending(f)
	size := int64(len(c.frame)) // the frame is the queue's from then on
	if err := p.enqueue([]*Pending{c}, size); err != nil {
		return nil, err
	}
	p.submitted.Add(1)
	p.submittedBytes.Add(size)
	return c, nil
}

// Submitted is what Submit has taken since the start; SubmitAll is not in it.
func (p *Publisher) Submitted() (commands, bytes int64) {
	return p.submitted.Load(), p.submittedBytes.Load()
}

// SubmitAll is Submit for commands that are stored side by side in one group, or not at
// all: none of them can stand behind what was submitted later. One letter.file alone may
// be as large as schemas.MaxLetterBytes. They must not be given up before they are stored.
func (p *Publisher) SubmitAll(list []schemas.CommandFrame) ([]*Pending, error) {
	size, most := 0, schemas.MaxGroupBytes-schemas.MaxGroupBytes/schemas.MaxGroupCommands
	if len(list) == 1 && list[0].Kind == schemas.FileLetter.Name {
		most = schemas.MaxLetterBytes
	}
	for i := range list {
		size += list[i].FrameSize()
	}
	if size > most || len(list) > schemas.MaxGroupCommands {
		return nil, ErrTooLarge
	}
	unit := make([]*Pending, len(list))
	for i := range list {
		unit[i] = p.pending(list[i])
	}
	if len(unit) == 0 {
		return nil, nil
	}
	unit[0].unit = len(unit)
	if err := p.enqueue(unit, int64(size)); err != nil {
		return nil, err
	}
	return unit, nil
}

func (p *Publisher) pending(f schemas.CommandFrame) *Pending {
	return &Pending{
		p: p, unit: 1, frame: appendFrame(make([]byte, 0, f.FrameSize()+16), f),
		stored: make(chan struct{}), done: make(chan struct{}),
	}
}

func (p *Publisher) enqueue(unit []*Pending, size int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return ErrClosed
	case p.count+len(unit) > p.opts.QueueCommands, p.bytes+size > p.opts.QueueBytes:
		return ErrBusy
	}
	p.queue = append(p.queue, unit...)
	p.count += len(unit)
	for _, c := range unit {
		p.bytes += int64(len(c.frame))
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

// appendFrame adds a command as it stands inside a group: a group of one without
// its form byte and its count of 1.
func appendFrame(dst []byte, f schemas.CommandFrame) []byte {
	one := [1]schemas.CommandFrame{f}
	at := len(dst)
	dst = schemas.AppendGroup(dst, one[:])
	return append(dst[:at], dst[at+2:]...)
}

// Wait waits for the outcome. When the context ends first: a command that is stored
// gives a Receipt without an outcome and no error; any other gives ErrNotStored, and
// one that has not left the queue never will.
func (c *Pending) Wait(ctx context.Context) (Receipt, error) {
	select {
	case <-c.done:
		return c.receipt()
	case <-ctx.Done():
	}
	c.p.replies.settle(c, nil, nil)
	select {
	case <-c.done: // it came just before
		return c.receipt()
	default:
	}
	select {
	case <-c.stored:
		return Receipt{Seq: c.seq.Load(), Index: c.index}, nil
	default:
		return Receipt{}, fmt.Errorf("%w: %w", ErrNotStored, context.Cause(ctx))
	}
}

// Stored waits for the PubAck only. It may be called after Wait. What it says of
// a context that ends first is what Wait says.
func (c *Pending) Stored(ctx context.Context) (Receipt, error) {
	select {
	case <-c.stored:
	case <-ctx.Done():
	case <-c.done:
		if c.err == nil { // the outcome overtook the PubAck
			select {
			case <-c.stored:
			case <-ctx.Done():
			}
		}
	}
	ended, cancel := context.WithCancelCause(ctx)
	cancel(context.Cause(ctx))
	return c.Wait(ended)
}

// Confirmed waits for the PubAck and does not give the outcome up: Wait is still to come.
func (c *Pending) Confirmed(ctx context.Context) error {
	select {
	case <-c.stored:
		return nil
	case <-c.done: // its outcome has overtaken the PubAck, or it failed
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Pending) receipt() (Receipt, error) {
	if c.err != nil {
		return Receipt{}, c.err
	}
	return Receipt{Seq: c.seq.Load(), Index: c.index, Outcome: c.outcome, Dead: len(c.outcome) == 0}, nil
}

// ErrSilent says that a stream does not answer. An embedded one stays so after a
// write error until its server is started again.
var ErrSilent = errors.New("the stream does not answer")

// silent tells an answer that is missing from one that says no.
func silent(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabled || api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, jetstream.ErrJetStreamNotEnabled)
}

// Run publishes until the context ends, then what is still queued: as long as the
// stream takes it. Whatever is left fails with ErrNotStored. A stream that does not
// answer ends it with ErrSilent.
func (p *Publisher) Run(ctx context.Context) error {
	for {
		group := p.take()
		if len(group) == 0 {
			select {
			case <-p.wake:
				continue
			case <-ctx.Done():
				return p.finish(ctx)
			}
		}
		if err := p.publish(group); err != nil && silent(err) && ctx.Err() == nil && !p.b.cfg.External {
			p.close(ErrSilent)
			return fmt.Errorf("publish to %s: %w: %w", p.subject, ErrSilent, err)
		}
		if ctx.Err() != nil {
			return p.finish(ctx)
		}
	}
}

func (p *Publisher) finish(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	failed := false
	for group := p.take(); len(group) > 0; group = p.take() {
		if failed {
			p.fail(group, ErrClosed)
			continue
		}
		failed = p.publish(group) != nil
	}
	return ctx.Err()
}

// close takes nothing more and fails what is queued.
func (p *Publisher) close(err error) {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	for group := p.take(); len(group) > 0; group = p.take() {
		p.fail(group, err)
		p.release(group)
	}
}

// take removes the next group from the queue. Commands whose callers have given up
// are dropped here, before anything is published.
func (p *Publisher) take() []*Pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	var group []*Pending
	size, n := 16, 0
	for n < len(p.queue) {
		unit := p.queue[n:][:max(p.queue[n].unit, 1)]
		if len(unit) == 1 && unit[0].abandoned() {
			p.count--
			p.bytes -= int64(len(unit[0].frame))
			n++
			continue
		}
		for _, c := range unit {
			size += len(c.frame)
		}
		if len(group) > 0 && (len(group)+len(unit) > schemas.MaxGroupCommands || size > schemas.MaxGroupBytes) {
			break
		}
		group = append(group, unit...)
		n += len(unit)
	}
	rest := copy(p.queue, p.queue[n:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	return group
}

func (c *Pending) abandoned() bool {
	r := c.p.replies
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.settled
}

// publish sends one group and waits for its PubAck. Every command of the group ends as stored or failed.
func (p *Publisher) publish(group []*Pending) error {
	defer p.release(group)
	g := &sentGroup{id: nuid.Next(), commands: group}
	m, err := p.message(g)
	if err != nil {
		p.fail(group, err)
		return err
	}
	p.replies.register(g)
	p.b.cfg.Fault("publish.before")
	ctx, cancel := context.WithTimeout(p.life, p.opts.PublishTimeout) // not the caller's: a group in flight is waited for
	defer cancel()
	ack, err := p.b.js.PublishMsg(ctx, m, jetstream.WithExpectStream(schemas.StreamCommands))
	if err == nil && ack.Duplicate {
		err = errors.New("the stream took it for a duplicate")
	}
	if err != nil {
		p.fail(group, fmt.Errorf("publish group of %d: %w", len(group), err))
		return err
	}
	p.acked.Add(1)
	p.confirmed.Store(ack.Sequence)
	p.b.noteAcked(ack.Sequence)
	p.b.cfg.Fault("publish.acked")
	for _, c := range group {
		c.seq.Store(ack.Sequence)
		close(c.stored)
	}
	return nil
}

func (p *Publisher) fail(group []*Pending, err error) {
	err = fmt.Errorf("%w: %w", ErrNotStored, err)
	for _, c := range group {
		p.replies.settle(c, nil, err)
	}
}

func (p *Publisher) release(group []*Pending) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range group {
		p.count--
		p.bytes -= int64(len(c.frame))
		c.frame = nil
	}
}

func (p *Publisher) message(g *sentGroup) (*nats.Msg, error) {
	size := 1 + binary.MaxVarintLen32
	for i, c := range g.commands {
		c.index = uint32(i)
		size += len(c.frame)
	}
	data := make([]byte, 0, size)
	data = append(data, schemas.GroupForm)
	data = binary.AppendUvarint(data, uint64(len(g.commands)))
	for _, c := range g.commands {
		data = append(data, c.frame...)
	}
	e := event.New()
	e.SetID(g.id)
	e.SetSource(groupSource + schemas.EscapeToken(p.replies.node))
	e.SetType(schemas.TypeCommandGroup)
	e.SetTime(p.opts.Now())
	e.SetDataContentType(groupContentType)
	e.SetExtension(extReplyTo, schemas.ReplySubject(p.replies.node))
	e.DataEncoded = data
	m := &nats.Msg{Subject: p.subject}
	return m, EncodeBinary(m, &e)
}
