package bus

import (
	"context"
	"fmt"
	"slices"
	"time"

	"grout/schemas"
)

// surveyTimeout bounds a look at a stream that is not what was applied: up to 1,000
// of its messages are read.
const surveyTimeout = 2 * time.Minute

// History is what a store remembers of the messages it has applied.
type History interface {
	Checkpoint() schemas.Checkpoint
	// Applied is the message at the checkpoint; its sequence is 0 before the first.
	Applied() schemas.AppliedMessage
	// Positions lists the last applied messages, oldest first.
	Positions() ([]schemas.AppliedMessage, error)
	// BatchID gives the batch id of an ingest command that was applied.
	BatchID(epoch uint32, seq uint64, index uint32) (id string, known bool, err error)
}

// Survey is what the guard finds when it compares the command stream with all that a
// store remembers.
type Survey struct {
	Partition int
	Created   int64 // of the stream
	// First and Last are the bounds of the stream, LastOwn is the last message of
	// the partition in it; 0 when there is none.
	First, Last, LastOwn uint64
	Applied              schemas.AppliedMessage
	// Common is the last message that the store has applied and the stream holds;
	// its sequence is 0 when none is known.
	Common schemas.AppliedMessage
	// Lost names what the store can go on without, in a new epoch; empty when the
	// stream goes on from the store as it is.
	Lost   string
	Detail string
	// Forced starts an epoch whatever the partition's last message is, or whether it can
	// be read.
	Forced bool
	// Begin is the start of an epoch that goes on from Applied and is not applied
	// itself: reading begins at it.
	Begin *schemas.StreamMessage
}

// Survey compares the command stream with a store, at the start of a partition. A
// *GuardError says why the store cannot go on with this stream, now or in a new epoch.
func (b *Bus) Survey(ctx context.Context, partition int, h History) (v Survey, err error) {
	err = b.confirmed(ctx, schemas.StreamCommands, func() (_ bool, err error) {
		v, err = b.survey(ctx, partition, h)
		return v.Lost != "" || isGuard(err), err
	})
	return v, err
}

func (b *Bus) survey(ctx context.Context, partition int, h History) (Survey, error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	v := &surveyor{
		b: b, ctx: ctx, h: h, at: h.Checkpoint(), subject: schemas.GroupSubject(partition),
		Survey: Survey{Partition: partition, Applied: h.Applied()},
	}
	err := v.look()
	return v.Survey, err
}

type surveyor struct {
	Survey
	b       *Bus
	ctx     context.Context
	h       History
	at      schemas.Checkpoint
	subject string
	state   streamState
	reused  bool // a sequence that the store has applied holds another message
}

func (v *surveyor) look() (err error) {
	if v.state, err = v.b.streamState(v.ctx, schemas.StreamCommands, false); err != nil {
		return err
	}
	v.Created, v.First, v.Last = v.state.created, v.state.First, v.state.Last
	last, err := v.b.getMessage(v.ctx, schemas.StreamCommands, 0, v.subject)
	if err != nil {
		return err
	}
	if last != nil {
		v.LastOwn = last.Seq
	}
	if done, err := v.notedEpoch(); done || err != nil {
		return err
	}
	if v.at.Seq == 0 {
		if err := v.b.guardUnapplied(v.Partition, v.state.First, v.state.trimmed[v.Partition]); err != nil {
			return err
		}
		return v.b.guardInterior(v.ctx, v.state, 0)
	}
	known, err := v.holds(v.Applied)
	if err != nil {
		return err
	}
	if known {
		v.Common = v.Applied
		return v.b.guardInterior(v.ctx, v.state, v.at.Seq)
	}
	return v.mismatch(last)
}

// holds reports whether the stream has a message as it was applied.
func (v *surveyor) holds(m schemas.AppliedMessage) (bool, error) {
	if m.Seq < v.First || m.Seq > v.Last {
		return false, nil
	}
	found, err := v.b.getMessage(v.ctx, schemas.StreamCommands, m.Seq, "")
	if err != nil || found == nil {
		return false, err
	}
	same := found.Subject == v.subject && found.Time.UnixNano() == m.StoredAt && schemas.MessageDigest(found.Data) == m.Digest
	v.reused = v.reused || !same
	return same, nil
}

// mismatch finds the last common message, and judges what stands behind it.
func (v *surveyor) mismatch(last *schemas.StreamMessage) error {
	kept, err := v.h.Positions()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(kept) {
		known, err := v.holds(m)
		if err != nil {
			return err
		}
		if known {
			v.Common = m
			break
		}
	}
	if v.LastOwn <= v.Common.Seq {
		return v.prefix()
	}
	begin, err := v.b.nextMessage(v.ctx, schemas.StreamCommands, v.Common.Seq+1, v.subject)
	if err != nil {
		return err
	}
	if e := epochOf(begin); e != nil {
		return v.unknownEpoch(begin, e)
	}
	if v.Common.Seq == 0 && v.sameStream() && len(kept) > 0 && v.LastOwn < oldest(kept) {
		return v.farBack(last)
	}
	return v.foreign()
}

func (v *surveyor) sameStream() bool { return v.at.StreamCreated == v.Created }

func oldest(kept []schemas.AppliedMessage) uint64 {
	low := kept[0].Seq
	for _, m := range kept {
		low = min(low, m.Seq)
	}
	return low
}

// prefix judges a stream that holds nothing of the partition that the store does not
// know: it has lost its tail, or everything. When it still covers the sequences that
// are missing, something else was lost: the applied message itself.
func (v *surveyor) prefix() error {
	if v.sameStream() && !v.reused && v.Last >= v.at.Seq {
		return guardf(StreamHeadLost, "message %d of stream %s is gone or cannot be read, the store has applied it; %s; %s", v.at.Seq, schemas.StreamCommands, v.where(), fixHead)
	}
	v.lose()
	return nil
}

// lose names what was lost.
func (v *surveyor) lose() {
	v.Lost, v.Detail = StreamTailLost, v.where()
	if v.Common.Seq == 0 && !v.sameStream() {
		v.Lost = StreamRecreated
		v.Detail = fmt.Sprintf("stream %s was created %s, the store has applied one created %s; %s",
			schemas.StreamCommands, instant(v.Created), instant(v.at.StreamCreated), v.Detail)
	}
}

// where says how far stream and store agree.
func (v *surveyor) where() string {
	common := "none of the last messages that the store has applied is in the stream"
	if v.Common.Seq != 0 {
		common = fmt.Sprintf("stream and store agree up to message %d (stored %s)", v.Common.Seq, instant(v.Common.StoredAt))
	}
	return fmt.Sprintf("%s, the store has applied %d (stored %s), the stream ends at %d", common, v.Applied.Seq, instant(v.Applied.StoredAt), v.Last)
}

// farBack judges a stream whose messages are all older than those that the store
// remembers one by one. It is an older copy when its last batch is one that the
// store has applied at this place.
func (v *surveyor) farBack(last *schemas.StreamMessage) error {
	m := last
	for tries := 0; m != nil && tries < 64; tries++ {
		for epoch := v.Applied.Epoch; m.Subject == v.subject && epoch > 0; epoch-- {
			known, err := v.appliedBatch(m, epoch)
			if err != nil {
				return err
			}
			if known {
				v.Common = schemas.AppliedMessage{Epoch: epoch, Seq: m.Seq, StoredAt: m.Time.UnixNano(), Digest: schemas.MessageDigest(m.Data)}
				v.lose()
				return nil
			}
		}
		if m.Subject == v.subject && holdsBatch(m) || m.Seq <= v.First {
			break // one that the store should know
		}
		var err error
		if m, err = v.b.getMessage(v.ctx, schemas.StreamCommands, m.Seq-1, ""); err != nil {
			return err
		}
	}
	return guardf(StreamDiverged, "stream %s ends at %d, before the oldest of the messages that the store remembers, and what it holds last is not known to the store; %s; %s",
		schemas.StreamCommands, v.Last, v.where(), fixDiverged)
}

func (v *surveyor) appliedBatch(m *schemas.StreamMessage, epoch uint32) (bool, error) {
	g, err := DecodeGroupMessage(*m)
	if err != nil {
		return false, nil
	}
	for i := range g.Commands {
		var batch schemas.UsageBatch
		if g.Commands[i].Kind != schemas.UsageIngest.Name || batch.DecodePayload(g.Commands[i].Payload) != nil {
			continue
		}
		id, known, err := v.h.BatchID(epoch, m.Seq, uint32(i))
		return known && id == batch.BatchID, err
	}
	return false, nil
}

func holdsBatch(m *schemas.StreamMessage) bool {
	g, err := DecodeGroupMessage(*m)
	return err == nil && slices.ContainsFunc(g.Commands, func(c schemas.CommandFrame) bool { return c.Kind == schemas.UsageIngest.Name })
}

// foreign judges a stream that holds messages which the store does not know.
func (v *surveyor) foreign() error {
	switch {
	case v.Common.Seq == 0 && !v.sameStream():
		return guardf(StreamRecreated, "stream %s was created %s and holds messages of this partition, the store has applied one created %s; %s; %s",
			schemas.StreamCommands, instant(v.Created), instant(v.at.StreamCreated), v.where(), fixRecreated)
	case !v.reused:
		return guardf(StreamHeadLost, "stream %s begins at %d, and message %d, which the store has applied last, is gone or cannot be read; %s; %s",
			schemas.StreamCommands, v.First, v.at.Seq, v.where(), fixHead)
	}
	return guardf(StreamDiverged, "message %d of stream %s is not the one that the store has applied; %s, and holds messages behind that which the store has not applied; %s",
		v.at.Seq, schemas.StreamCommands, v.where(), fixDiverged)
}
