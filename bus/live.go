package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"grout/schemas"
)

// replayTimeout bounds the silence within one batch of a replay.
const replayTimeout = 5 * time.Second

// FactsState says what MOZAIKS_EVT holds: when it was created, its first and its last
// sequence.
func (b *Bus) FactsState(ctx context.Context) (created int64, first, last uint64, err error) {
	st, err := b.streamState(ctx, schemas.StreamFacts, false)
	return st.created, st.First, st.Last, err
}

// ReplayFacts reads facts on a subject by a direct get, in order, from a sequence on: at
// most so many, and no more once they reach so many bytes. left is how many follow.
func (b *Bus) ReplayFacts(ctx context.Context, subject string, from uint64, messages, bytes int) (list []schemas.StreamMessage, left uint64, err error) {
	list, left, err = b.directFacts(ctx, subject, max(from, 1), messages, bytes)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s on %s from %d: %w", schemas.StreamFacts, subject, from, err)
	}
	if left > 0 || b.cfg.Replicas == 1 || len(list) >= messages {
		return list, left, nil
	}
	// Any replica answers a direct get, also one that lags: only the leader can say
	// that nothing follows.
	if len(list) > 0 {
		from = list[len(list)-1].Seq + 1
	}
	m, err := b.nextMessage(ctx, schemas.StreamFacts, max(from, 1), subject)
	if err != nil || m == nil {
		return list, 0, err
	}
	return append(list, *m), 1, nil
}

func (b *Bus) directFacts(ctx context.Context, subject string, from uint64, messages, bytes int) (list []schemas.StreamMessage, left uint64, err error) {
	inbox := b.nc.NewInbox()
	sub, err := b.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails when the connection is closed
	ask := fmt.Appendf(nil, `{"seq":%d,"batch":%d,"max_bytes":%d,"next_by_subj":%s}`, from, messages, bytes, strconv.Quote(subject))
	if err := b.nc.PublishRequest("$JS.API.DIRECT.GET."+schemas.StreamFacts, inbox, ask); err != nil {
		return nil, 0, err
	}
	at := uint64(0)
	for {
		m, err := nextDirect(ctx, sub)
		if err != nil {
			return nil, 0, err
		}
		if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 {
			switch {
			case status == "404" && at == 0:
				return nil, 0, nil
			case status != "204":
				return nil, 0, fmt.Errorf("the server answers %s %s", status, m.Header.Get("Description"))
			case m.Header.Get(headerLastSequence) != strconv.FormatUint(at, 10):
				return nil, 0, errors.New("a message of the batch was lost on its way")
			}
			left, err = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 63)
			return list, left, err
		}
		got, before, err := directMessage(m)
		if err != nil {
			return nil, 0, err
		}
		if before != at || got.Seq <= at {
			return nil, 0, errors.New("a message of the batch was lost on its way")
		}
		at = got.Seq
		list = append(list, got)
	}
}

func nextDirect(ctx context.Context, sub *nats.Subscription) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	return sub.NextMsgWithContext(ctx)
}

const headerLastSequence = "Nats-Last-Sequence"

// directMessage reads an answer to a direct get, and the sequence of the one before it.
func directMessage(m *nats.Msg) (got schemas.StreamMessage, before uint64, err error) {
	got = schemas.StreamMessage{Subject: m.Header.Get(jetstream.SubjectHeader), Header: m.Header, Data: m.Data}
	if got.Seq, err = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 63); err != nil {
		return got, 0, err
	}
	if got.Time, err = time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer)); err != nil {
		return got, 0, err
	}
	before, err = strconv.ParseUint(m.Header.Get(headerLastSequence), 10, 63)
	return got, before, err
}

// FactTail delivers facts as they are stored. It belongs to one goroutine. Any sign
// that something was left out ends it with an error.
type FactTail struct {
	b        *Bus
	consumer string
	sub      *nats.Subscription
	messages chan *nats.Msg
	inbox    string
	pulls    uint64
	behind   uint64
	next     uint64
	left     int
	room     int
	heard    time.Time
	connects uint64
}

// TailFacts delivers what follows a sequence on a subject.
func (b *Bus) TailFacts(ctx context.Context, subject string, after uint64) (*FactTail, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	t := &FactTail{b: b, inbox: b.nc.NewInbox(), messages: make(chan *nats.Msg, 2*pullMessages), behind: after, next: 1, heard: time.Now(), connects: b.nc.Stats().Reconnects}
	var err error
	if t.sub, err = b.nc.ChanSubscribe(t.inbox+".*", t.messages); err != nil {
		return nil, fmt.Errorf("follow %s: %w", subject, err)
	}
	c, err := b.js.CreateConsumer(ctx, schemas.StreamFacts, jetstream.ConsumerConfig{
		Name: ConsumerPrefix + nuid.Next(), AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq: after + 1, FilterSubject: subject, MaxWaiting: 16,
		InactiveThreshold: sourceInactive, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("follow %s: %w", subject, err)
	}
	t.consumer = c.CachedInfo().Name
	return t, nil
}

// Next waits for facts, and gives all that have come, at most so many as a pull brings.
func (t *FactTail) Next(ctx context.Context) ([]schemas.StreamMessage, error) {
	tick := time.NewTicker(sourceTick)
	defer tick.Stop()
	var list []schemas.StreamMessage
	for {
		if t.left <= 0 || t.room <= 0 {
			if err := t.pull(); err != nil {
				return nil, err
			}
		}
		if len(list) > 0 {
			select {
			case m := <-t.messages:
				if err := t.take(m, &list); err != nil {
					return list, err
				}
				if len(list) < pullMessages {
					continue
				}
			default:
			}
			return list, nil
		}
		select {
		case m := <-t.messages:
			if err := t.take(m, &list); err != nil {
				return nil, err
			}
		case <-tick.C:
			if t.b.nc.IsClosed() || t.b.nc.Stats().Reconnects != t.connects || time.Since(t.heard) > t.b.silence() {
				return nil, errors.New("the connection to the stream was lost")
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *FactTail) replySubject() string { return t.inbox + "." + strconv.FormatUint(t.pulls, 10) }

func (t *FactTail) pull() error {
	t.pulls++
	ask := fmt.Appendf(nil, `{"expires":%d,"batch":%d,"max_bytes":%d,"idle_heartbeat":%d}`,
		pullExpires.Nanoseconds(), pullMessages, pullBytes, t.b.heartbeat().Nanoseconds())
	t.left, t.room, t.heard = pullMessages, pullBytes, time.Now()
	return t.b.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+schemas.StreamFacts+"."+t.consumer, t.replySubject(), ask)
}

func (t *FactTail) take(m *nats.Msg, list *[]schemas.StreamMessage) error {
	t.heard = time.Now()
	if status := m.Header.Get("Status"); status != "" && len(m.Data) == 0 {
		description := strings.ToLower(m.Header.Get("Description"))
		switch {
		case status == "100":
		case status == "408", status == "404", status == "409" && (strings.Contains(description, "maxbytes") || strings.Contains(description, "batch completed")):
			if m.Subject == t.replySubject() {
				t.left = 0 // this pull is over
			}
		default: // consumer deleted, leadership change, no responders
			return fmt.Errorf("the consumer ended: %s %s", status, description)
		}
		return nil
	}
	d, err := parseDelivery(m.Reply)
	if err != nil {
		return err
	}
	if d.consumerSeq != t.next || d.streamSeq <= t.behind {
		return fmt.Errorf("delivery %d comes in the place of %d", d.consumerSeq, t.next)
	}
	t.next++
	t.left--
	t.room -= m.Size()
	t.behind = d.streamSeq
	*list = append(*list, schemas.StreamMessage{Subject: m.Subject, Seq: d.streamSeq, Time: d.stored, Header: m.Header, Data: m.Data})
	return nil
}

// Close gives the consumer back. The server would remove it by itself after a while;
// asking it to is a courtesy that waits for no answer.
func (t *FactTail) Close() {
	_ = t.sub.Unsubscribe()
	if t.consumer != "" {
		_ = t.b.nc.Publish("$JS.API.CONSUMER.DELETE."+schemas.StreamFacts+"."+t.consumer, nil)
	}
}
