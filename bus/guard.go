package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// Names of what the guard and the relay find.
const (
	StreamRecreated  = schemas.StreamRecreated
	StreamTailLost   = schemas.StreamTailLost
	StreamUnreadable = schemas.StreamUnreadable
	StreamHeadLost   = schemas.StreamHeadLost
	StreamGap        = schemas.StreamGap
	StreamDiverged   = schemas.StreamDiverged
	EpochGap         = schemas.EpochGap
	RelayTailLost    = schemas.RelayTailLost
	RelayEpoch       = schemas.RelayEpoch
	RelayFenced      = schemas.RelayFenced
	RelayMarker      = schemas.RelayMarker
	RelayForeign     = schemas.RelayForeign
)

// GuardError says that a stream is not the one that a partition has worked with.
type GuardError = schemas.GuardError

func guardf(name, format string, args ...any) *GuardError {
	return schemas.Guardf(name, format, args...)
}

// Remedies, one for each name.
const (
	fixRecreated = "put the stream's own data directory back, or stop the server and go on from this store with: grout epoch start"
	fixTail      = "put the newer copy of the stream back, or start again to go on from this store"
	fixHead      = "restore a store snapshot that is as new as the stream's beginning, put the trimmed part of the stream back, or stop the server and go on from this store with: grout epoch start"
	fixDiverged  = "store and stream are of different histories: put back the pair that belongs together, or stop the server and go on from this store with: grout epoch start"
	fixEpoch     = "this store or snapshot is older than the epoch: put back a newer one"
	fixGap       = "groups that were acknowledged are missing from the stream: put back a sound copy of it, or stop the server and go on without them with: grout epoch start"
)

// guardCommands compares the command stream with where a partition stands. It
// returns when the stream was created. The server is silent in all these cases: a
// consumer that starts below the first or beyond the last sequence is no error.
func (b *Bus) guardCommands(ctx context.Context, partition int, at schemas.Checkpoint) (int64, error) {
	subject := schemas.GroupSubject(partition)
	stream, err := b.js.Stream(ctx, schemas.StreamCommands)
	if errors.Is(err, jetstream.ErrStreamNotFound) && at.StreamCreated != 0 {
		return 0, guardf(StreamRecreated, "stream %s does not exist, the store has applied it up to %d; %s", schemas.StreamCommands, at.Seq, fixRecreated)
	}
	if err != nil {
		return 0, fmt.Errorf("look up stream %s: %w", schemas.StreamCommands, err)
	}
	info := stream.CachedInfo()
	created, state := info.Created.UnixNano(), info.State
	trimmed, err := b.trimmedBelow(info.Config.Metadata, partition, created)
	if err != nil {
		return 0, err
	}
	switch {
	case at.StreamCreated != 0 && created != at.StreamCreated:
		return 0, guardf(StreamRecreated, "stream %s was created %s, the store has applied one created %s; %s",
			schemas.StreamCommands, instant(created), instant(at.StreamCreated), fixRecreated)
	case at.Seq > state.LastSeq:
		return 0, guardf(StreamTailLost, "stream %s ends at %d, the store has applied %d; %s", schemas.StreamCommands, state.LastSeq, at.Seq, fixTail)
	case at.Seq == 0:
		return created, b.guardUnapplied(partition, state.FirstSeq, trimmed)
	case at.Seq < state.FirstSeq:
		return 0, guardf(StreamHeadLost, "stream %s begins at %d, the store has applied %d; %s", schemas.StreamCommands, state.FirstSeq, at.Seq, fixHead)
	}
	return created, b.guardMessage(ctx, subject, at)
}

// guardUnapplied looks at a stream of which nothing was applied: its beginning must be
// there.
func (b *Bus) guardUnapplied(partition int, first, trimmed uint64) error {
	switch {
	case trimmed > 0:
		return guardf(StreamHeadLost, "stream %s was trimmed below %d, the store of partition %d has applied nothing; %s", schemas.StreamCommands, trimmed, partition, fixHead)
	case first > 1 && b.cfg.Partitions <= 1: // with more, others may have trimmed
		return guardf(StreamHeadLost, "stream %s begins at %d, the store has applied nothing; %s", schemas.StreamCommands, first, fixHead)
	}
	return nil
}

// guardMessage looks at the last applied message itself.
func (b *Bus) guardMessage(ctx context.Context, subject string, at schemas.Checkpoint) error {
	m, err := b.getMessage(ctx, schemas.StreamCommands, at.Seq, "")
	if err != nil {
		return err
	}
	switch {
	case m == nil:
		return guardf(StreamHeadLost, "message %d of stream %s is gone, the store has applied it; %s", at.Seq, schemas.StreamCommands, fixHead)
	case m.Subject != subject:
		return guardf(StreamDiverged, "message %d of stream %s is of %s, the store has applied one of %s; %s", at.Seq, schemas.StreamCommands, m.Subject, subject, fixDiverged)
	case m.Time.UnixNano() != at.StoredAt:
		return guardf(StreamDiverged, "message %d of stream %s was stored %s, the store has applied one stored %s; %s",
			at.Seq, schemas.StreamCommands, instant(m.Time.UnixNano()), instant(at.StoredAt), fixDiverged)
	}
	if d := schemas.MessageDigest(m.Data); d != at.Digest {
		return guardf(StreamDiverged, "message %d of stream %s has digest %x, the store has applied one with %x; %s", at.Seq, schemas.StreamCommands, d, at.Digest, fixDiverged)
	}
	return nil
}

func instant(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339Nano) }

// getMessage reads one message by sequence, or the last of a subject when one is
// given; nil when there is none, or when it cannot be read. It asks the stream's
// leader: a replica may be behind.
func (b *Bus) getMessage(ctx context.Context, stream string, seq uint64, lastOf string) (*schemas.StreamMessage, error) {
	if lastOf != "" {
		return b.askMessage(ctx, stream, `{"last_by_subj":`+strconv.Quote(lastOf)+`}`) // a subject of grout's own, plain ASCII
	}
	return b.askMessage(ctx, stream, `{"seq":`+strconv.FormatUint(seq, 10)+`}`)
}

// nextMessage reads the first message of a subject at or behind a sequence.
func (b *Bus) nextMessage(ctx context.Context, stream string, from uint64, subject string) (*schemas.StreamMessage, error) {
	return b.askMessage(ctx, stream, `{"seq":`+strconv.FormatUint(from, 10)+`,"next_by_subj":`+strconv.Quote(subject)+`}`)
}

func (b *Bus) askMessage(ctx context.Context, stream, ask string) (*schemas.StreamMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	r, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, []byte(ask))
	if err != nil {
		return nil, fmt.Errorf("read a message of stream %s: %w", stream, err)
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message *struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(r.Data, &answer); err != nil {
		return nil, fmt.Errorf("read a message of stream %s: %w", stream, err)
	}
	if answer.Error != nil {
		if answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound {
			return nil, nil
		}
		return nil, fmt.Errorf("read a message of stream %s: %w", stream, answer.Error)
	}
	if answer.Message == nil {
		return nil, fmt.Errorf("read a message of stream %s: empty answer", stream)
	}
	m := &schemas.StreamMessage{Subject: answer.Message.Subject, Seq: answer.Message.Seq, Time: answer.Message.Time, Data: answer.Message.Data}
	if len(answer.Message.Header) > 0 {
		header, err := nats.DecodeHeadersMsg(answer.Message.Header)
		if err != nil {
			return nil, fmt.Errorf("read the header of message %d of stream %s: %w", m.Seq, stream, err)
		}
		m.Header = header
	}
	return m, nil
}
