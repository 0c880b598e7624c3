package bus

import (
	"context"
	"errors"
	"fmt"
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
	reader
	partition int
	created   int64 // of the stream
	reading   atomic.Bool
	removed   uint64 // everything up to it is
	failures  int
	kept      *schemas.StreamMessage // delivered, and too large for those that it came with
}

// NewInbox makes the inbox of a partition; Next opens it.
func (b *Bus) NewInbox(partition int) *Inbox {
	return &Inbox{reader: reader{b: b, stream: schemas.StreamIn, most: inboxMessages, mostBytes: inboxBytes}, partition: partition}
}

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
	tick := time.NewTimer(readerTick)
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
			tick.Reset(readerTick)
			continue
		}
		got, what, err := i.take(m)
		if err != nil {
			i.drop()
			i.failures++
			continue
		}
		if what != arrivedEnd {
			i.failures = 0
		}
		if what != arrivedMessage {
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
		if i.lost() {
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
	if i.ask() != nil {
		i.drop()
		i.failures++
	}
	return nil
}

func (i *Inbox) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	i.watch()
	stream, err := i.b.js.Stream(ctx, schemas.StreamIn)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", schemas.StreamIn, err)
	}
	if created := stream.CachedInfo().Created.UnixNano(); created != i.created {
		i.created, i.behind, i.removed = created, 0, 0
	}
	if err := i.consume(ctx, "", schemas.InSubjects(i.partition)...); err != nil {
		return fmt.Errorf("read %s: %w", schemas.StreamIn, err)
	}
	i.reading.Store(true)
	return nil
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
