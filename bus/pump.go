package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

const (
	// inboxBytes bounds what is on its way to an Inbox and in it: two of the largest
	// messages, so that a pull is never less than one.
	inboxBytes    = 2 * (schemas.MaxPublicBytes + headerRoom)
	inboxMessages = 1000
)

// Inbox reads what others have published for one partition, in order. It keeps no
// position: what was not removed is read again, by the next Inbox. It belongs to one
// goroutine; only Pending may be asked from others.
type Inbox struct {
	b         *Bus
	partition int
	created   int64 // of the stream
	pending   atomic.Uint64
	reading   atomic.Bool

	behind   uint64 // delivered last
	removed  uint64 // everything up to it is
	consumer string
	sub      *nats.Subscription
	messages chan *nats.Msg
	inbox    string
	pulls    uint64
	next     uint64 // consumer sequence that must come next
	left     int    // messages of the pull on its way
	room     int    // bytes of it
	heard    time.Time
	connects uint64
	failures int
	kept     *schemas.StreamMessage // delivered, and too large for those that it came with
}

// NewInbox makes the inbox of a partition; Next opens it.
func (b *Bus) NewInbox(partition int) *Inbox { return &Inbox{b: b, partition: partition} }

// Created is the creation of the stream that was read last: nanoseconds since 1970 UTC.
func (i *Inbox) Created() int64 { return i.created }

// Pending is the number of the partition's messages that wait behind those delivered, as
// last seen.
func (i *Inbox) Pending() uint64 { return i.pending.Load() }

// Reading tells whether the stream could be read when it was last tried.
func (i *Inbox) Reading() bool { return i.reading.Load() }

// Open makes sure that the stream can be read.
func (i *Inbox) Open(ctx context.Context) error { return i.open(ctx) }

// Next waits for messages and gives those that have come: at least one, at most so many,
// and no more bytes than that unless it is one; they are of the stream that Created tells
// of. A lost connection or consumer is mended on the way. Its error is that of the
// context, or of a stream that cannot be read.
func (i *Inbox) Next(ctx context.Context, most, bytes int) ([]schemas.StreamMessage, error) {
	var list []schemas.StreamMessage
	size := 0
	if i.kept != nil {
		list, size = append(list, *i.kept), sizeOf(i.kept)
		i.kept = nil
	}
	tick := time.NewTimer(sourceTick)
	defer tick.Stop()
	for len(list) < most && size < bytes {
		if len(list) > 0 && i.sub == nil { // another stream may stand there by now
			break
		}
		if err := i.open(ctx); err != nil {
			if len(list) > 0 {
				break
			}
			return nil, err
		}
		m := i.receive(ctx, tick.C, len(list) == 0)
		if m == nil {
			if len(list) > 0 || ctx.Err() != nil {
				break
			}
			tick.Reset(sourceTick)
			continue
		}
		got, ok := i.take(m)
		if !ok {
			continue
		}
		if len(list) > 0 && size+sizeOf(&got) > bytes {
			i.kept = &got
			break
		}
		list, size = append(list, got), size+sizeOf(&got)
	}
	if len(list) == 0 {
		return nil, ctx.Err()
	}
	return list, nil
}

func sizeOf(m *schemas.StreamMessage) int { return len(m.Data) + 256 }

// receive gives what has arrived, or waits for it; nil when nothing has.
func (i *Inbox) receive(ctx context.Context, tick <-chan time.Time, wait bool) *nats.Msg {
	select {
	case m := <-i.messages:
		return m
	default:
	}
	if !wait {
		return nil
	}
	select {
	case m := <-i.messages:
		return m
	case <-tick:
		if i.b.nc.IsClosed() || i.b.nc.Stats().Reconnects != i.connects || time.Since(i.heard) > i.b.silence() {
			i.drop()
		}
	case <-ctx.Done():
	}
	return nil
}

// open makes a consumer when there is none, behind what was delivered last, and asks for
// more when nothing is on its way.
func (i *Inbox) open(ctx context.Context) error {
	for i.sub == nil {
		if i.failures > 0 {
			if err := pause(ctx, i.failures); err != nil {
				return err
			}
		}
		err := i.start(ctx)
		if err == nil {
			break
		}
		i.drop()
		i.failures++
		i.reading.Store(i.reading.Load() && i.failures < triesBeforeSilent)
		if ctx.Err() != nil || errors.Is(err, nats.ErrConnectionClosed) || i.failures >= triesBeforeSilent && silent(err) && !i.b.cfg.External {
			return err
		}
	}
	if i.left > 0 && i.room > 0 {
		return nil
	}
	if err := i.pull(); err != nil {
		i.drop()
		i.failures++
	}
	return nil
}

func (i *Inbox) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	i.connects = i.b.nc.Stats().Reconnects
	stream, err := i.b.js.Stream(ctx, schemas.StreamIn)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", schemas.StreamIn, err)
	}
	if created := stream.CachedInfo().Created.UnixNano(); created != i.created {
		i.created, i.behind, i.removed = created, 0, 0
	}
	messages := make(chan *nats.Msg, 2*inboxMessages)
	i.inbox, i.pulls = i.b.nc.NewInbox(), 0
	if i.sub, err = i.b.nc.ChanSubscribe(i.inbox+".*", messages); err != nil {
		return fmt.Errorf("read %s: %w", schemas.StreamIn, err)
	}
	i.messages = messages
	c, err := i.b.js.CreateConsumer(ctx, schemas.StreamIn, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: i.behind + 1, FilterSubjects: schemas.InSubjects(i.partition), MaxWaiting: 16,
		InactiveThreshold: sourceInactive, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", schemas.StreamIn, err)
	}
	info := c.CachedInfo()
	i.consumer, i.next, i.left, i.room, i.heard = info.Name, 1, 0, 0, time.Now()
	i.reading.Store(true)
	i.pending.Store(info.NumPending)
	return nil
}

func (i *Inbox) replySubject() string { return i.inbox + "." + strconv.FormatUint(i.pulls, 10) }

func (i *Inbox) pull() error {
	i.pulls++
	ask := fmt.Appendf(nil, `{"expires":%d,"batch":%d,"max_bytes":%d,"idle_heartbeat":%d}`,
		pullExpires.Nanoseconds(), inboxMessages, inboxBytes, i.b.heartbeat().Nanoseconds())
	err := i.b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+schemas.StreamIn+"."+i.consumer, i.replySubject(), ask)
	i.left, i.room, i.heard = inboxMessages, inboxBytes, time.Now()
	return err
}

// take judges what arrived: a message in sequence, the end of a pull, or a reason to
// start again.
func (i *Inbox) take(m *nats.Msg) (schemas.StreamMessage, bool) {
	i.heard = time.Now()
	// A publisher's own header Status says nothing: what the server says has no ack subject.
	if status := m.Header.Get("Status"); status != "" && !strings.HasPrefix(m.Reply, "$JS.ACK.") {
		description := strings.ToLower(m.Header.Get("Description"))
		switch {
		case status == "100":
			i.failures = 0
		case status == "408", status == "404", status == "409" && (strings.Contains(description, "maxbytes") || strings.Contains(description, "batch completed")):
			if m.Subject == i.replySubject() {
				i.left = 0
			}
		default:
			i.drop()
			i.failures++
		}
		return schemas.StreamMessage{}, false
	}
	d, err := parseDelivery(m.Reply)
	if err != nil || d.consumerSeq != i.next || d.streamSeq <= i.behind {
		i.drop()
		i.failures++
		return schemas.StreamMessage{}, false
	}
	i.next++
	i.left--
	i.room -= m.Size()
	i.failures, i.behind = 0, d.streamSeq
	i.pending.Store(d.pending)
	return schemas.StreamMessage{Subject: m.Subject, Seq: d.streamSeq, Time: d.stored, Header: m.Header, Data: m.Data}, true
}

// Removed is the sequence up to which the partition's messages were removed.
func (i *Inbox) Removed() uint64 { return i.removed }

// Remove takes the partition's messages out of the stream that was created then, up to a
// sequence. What an error leaves there is read again by the next Inbox.
func (i *Inbox) Remove(ctx context.Context, created int64, through uint64) error {
	if created != i.created || through <= i.removed { // with its stream all of it is gone
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := i.b.js.Stream(ctx, schemas.StreamIn)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", schemas.StreamIn, err)
	}
	if stream.CachedInfo().Created.UnixNano() != created {
		return nil
	}
	subjects := schemas.InSubjects(i.partition)
	if i.b.cfg.Partitions == 1 {
		subjects = []string{">"} // whole blocks go at once
	}
	for _, subject := range subjects {
		options := []jetstream.StreamPurgeOpt{jetstream.WithPurgeSequence(through + 1)}
		if subject != ">" {
			options = append(options, jetstream.WithPurgeSubject(subject))
		}
		if err := stream.Purge(ctx, options...); err != nil {
			return fmt.Errorf("remove messages of %s: %w", schemas.StreamIn, err)
		}
	}
	i.removed = through
	return nil
}

// Close gives the consumer back. The inbox can be used again.
func (i *Inbox) Close() {
	i.drop()
	i.behind, i.kept = i.removed, nil
}

func (i *Inbox) drop() {
	if i.sub != nil {
		_ = i.sub.Unsubscribe()
	}
	if i.consumer != "" {
		_ = i.b.nc.Publish("$JS.API.CONSUMER.DELETE."+schemas.StreamIn+"."+i.consumer, nil)
	}
	i.sub, i.messages, i.consumer = nil, nil, ""
}
