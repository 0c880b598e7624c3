package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
type FactTail struct{ reader }

// TailFacts delivers what follows a sequence on a subject.
func (b *Bus) TailFacts(ctx context.Context, subject string, after uint64) (*FactTail, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	t := &FactTail{reader{b: b, stream: schemas.StreamFacts, most: pullMessages, mostBytes: pullBytes, behind: after}}
	t.watch()
	if err := t.consume(ctx, ConsumerPrefix+nuid.Next(), subject); err != nil {
		t.Close()
		return nil, fmt.Errorf("follow %s: %w", subject, err)
	}
	return t, nil
}

// Next waits for facts, and gives all that have come, at most so many as a pull brings.
func (t *FactTail) Next(ctx context.Context) ([]schemas.StreamMessage, error) {
	tick := time.NewTicker(readerTick)
	defer tick.Stop()
	var list []schemas.StreamMessage
	for {
		if err := t.ask(); err != nil {
			return nil, err
		}
		if len(list) > 0 {
			select {
			case m := <-t.messages:
				if err := t.add(m, &list); err != nil {
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
			if err := t.add(m, &list); err != nil {
				return nil, err
			}
		case <-tick.C:
			if t.lost() {
				return nil, errors.New("the connection to the stream was lost")
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *FactTail) add(m *nats.Msg, list *[]schemas.StreamMessage) error {
	got, what, err := t.take(m)
	if err == nil && what == arrivedMessage {
		*list = append(*list, got)
	}
	return err
}

// Close gives the consumer back.
func (t *FactTail) Close() { t.drop() }
