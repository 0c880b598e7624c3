package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"grout/schemas"
)

// streamState is what the server says of a stream, with the notes beside it.
type streamState struct {
	Messages uint64   `json:"messages"`
	First    uint64   `json:"first_seq"`
	Last     uint64   `json:"last_seq"`
	NumGone  int      `json:"num_deleted"`
	Gone     []uint64 `json:"deleted"`
	Lost     struct {
		Messages []uint64 `json:"msgs"`
	} `json:"lost"`

	created int64
	trimmed []uint64 // by partition: what may be gone below
}

// maxGone bounds the deleted sequences that the server is asked to list.
const maxGone = 100_000

func (b *Bus) streamState(ctx context.Context, stream string, details bool) (st streamState, err error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	ask := `{}`
	if details {
		ask = `{"deleted_details":true}`
	}
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, []byte(ask))
	if err != nil {
		return st, fmt.Errorf("look up stream %s: %w", stream, err)
	}
	var answer struct {
		Error   *jetstream.APIError    `json:"error"`
		Config  jetstream.StreamConfig `json:"config"`
		Created time.Time              `json:"created"`
		State   streamState            `json:"state"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return st, fmt.Errorf("look up stream %s: %w", stream, err)
	}
	if answer.Error != nil {
		return st, fmt.Errorf("look up stream %s: %w", stream, answer.Error)
	}
	st, st.created = answer.State, answer.Created.UnixNano()
	if stream != schemas.StreamCommands {
		return st, nil
	}
	for p := range b.cfg.Partitions {
		below, err := b.trimmedBelow(answer.Config.Metadata, p, st.created)
		if err != nil {
			return st, err
		}
		st.trimmed = append(st.trimmed, below)
	}
	return st, nil
}

// guardInterior looks for messages that are missing although nobody trimmed them: a
// damaged block, or an operator's hand. behind is how far the partition has applied
// the stream; what others may have trimmed above it cannot be told from a loss.
func (b *Bus) guardInterior(ctx context.Context, st streamState, behind uint64) error {
	if b.attached {
		return nil // the server has looked
	}
	for tries := 0; ; tries++ {
		low := behind
		if t := slices.Max(st.trimmed); b.cfg.Partitions > 1 && t > 0 {
			low = max(behind, t-1)
		}
		if lost := above(st.Lost.Messages, behind, st.Last); len(lost) > 0 {
			return gapf(behind, lost)
		}
		have, err := b.countFrom(ctx, low+1, "")
		if err != nil {
			return err
		}
		if low >= st.Last || have >= st.Last-low {
			return nil
		}
		again, err := b.streamState(ctx, schemas.StreamCommands, st.NumGone <= maxGone)
		if err != nil {
			return err
		}
		if slices.Equal(again.trimmed, st.trimmed) || tries == 5 {
			return gapf(behind, above(again.Gone, low, st.Last))
		}
		st = again // somebody trimmed meanwhile
	}
}

// above picks the sequences behind low and up to last.
func above(list []uint64, low, last uint64) (out []uint64) {
	for _, seq := range list {
		if seq > low && seq <= last {
			out = append(out, seq)
		}
	}
	return out
}

func gapf(behind uint64, lost []uint64) *GuardError {
	which := "some"
	if len(lost) > 0 {
		named := strings.Trim(fmt.Sprint(lost[:min(len(lost), 10)]), "[]")
		which = fmt.Sprintf("%d of them (%s", len(lost), named)
		if len(lost) > 10 {
			which += " …"
		}
		which += ")"
	}
	return guardf(StreamGap, "messages of stream %s behind %d, which was applied last, are missing although nobody trimmed them: %s; %s", schemas.StreamCommands, behind, which, fixGap)
}

// countFrom counts the messages at and behind a sequence, of all subjects or of one.
func (b *Bus) countFrom(ctx context.Context, from uint64, subject string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	c, err := b.js.CreateConsumer(ctx, schemas.StreamCommands, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(from, 1),
		FilterSubject: subject, InactiveThreshold: readerInactive, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return 0, fmt.Errorf("count the messages of %s: %w", schemas.StreamCommands, err)
	}
	info := c.CachedInfo()
	_ = b.nc.Publish("$JS.API.CONSUMER.DELETE."+schemas.StreamCommands+"."+info.Name, nil)
	return info.NumPending, nil
}

// readThrough reads what a partition has not applied once without looking at it,
// where its stream is shared: only then does the server notice what it cannot read,
// and it passes such messages over without a word. A stream of one partition shows
// that in its sequences.
func (b *Bus) readThrough(ctx context.Context, partition int, behind uint64) error {
	subject := schemas.GroupSubject(partition)
	pending, err := b.countFrom(ctx, behind+1, subject)
	if err != nil || pending == 0 {
		return err
	}
	c, err := b.js.OrderedConsumer(ctx, schemas.StreamCommands, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: behind + 1, FilterSubjects: []string{subject},
		HeadersOnly: true, NamePrefix: ConsumerPrefix + nuid.Next(),
	})
	if err != nil {
		return fmt.Errorf("read through %s: %w", subject, err)
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return fmt.Errorf("read through %s: %w", subject, err)
	}
	defer messages.Stop()
	at := behind
	for range pending {
		m, err := nextWithin(ctx, messages, silenceLimit)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && b.nc.IsConnected() {
			return unreadable(at)
		}
		if err != nil {
			return fmt.Errorf("read through %s behind %d: %w", subject, at, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("read through %s behind %d: %w", subject, at, err)
		}
		at = meta.Sequence.Stream
	}
	st, err := b.streamState(ctx, schemas.StreamCommands, false)
	if err != nil {
		return err
	}
	if lost := above(st.Lost.Messages, behind, st.Last); len(lost) > 0 {
		return gapf(behind, lost)
	}
	return nil
}

func nextWithin(ctx context.Context, messages jetstream.MessagesContext, limit time.Duration) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return messages.Next(jetstream.NextContext(ctx))
}

func unreadable(behind uint64) *GuardError {
	return guardf(StreamGap, "a message of stream %s behind %d is there and the server cannot read it (its log says why); %s", schemas.StreamCommands, behind, fixGap)
}

// guardStalled is asked when the server says that there is more and gives nothing: it
// does so for ever when it cannot read a message.
func (s *Source) guardStalled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	c, err := s.b.js.Consumer(ctx, schemas.StreamCommands, s.consumer)
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, nats.ErrNoResponders) {
		return nil // it will be made anew
	}
	if err != nil {
		return nil // silence is noticed elsewhere
	}
	info := c.CachedInfo()
	if info.NumPending == 0 || info.Delivered.Consumer != s.next-1 || len(s.messages) > 0 {
		s.pending.Store(info.NumPending)
		return nil
	}
	if s.b.cfg.External && s.stuckAgain() {
		s.drop()
		s.failures++
		return nil
	}
	return unreadable(s.behind)
}

// triesWhenStuck is how many readers of a cluster, each with a place on some node, must
// be given nothing before a message is held for one that cannot be read.
const triesWhenStuck = 10

// stuckAgain counts the readers that were given nothing behind the same message.
func (s *Source) stuckAgain() bool {
	if s.stuckAt != s.behind {
		s.stuckAt, s.stuck = s.behind, 0
	}
	s.stuck++
	return s.stuck < triesWhenStuck
}
