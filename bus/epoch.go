package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// epochNote stands beside the stream of an embedded server before an epoch is started
// in it. It leads to the message that starts it, also past messages of another history
// that the stream may hold before that: nobody may apply those.
type epochNote struct {
	N       uint32                 `json:"epoch"`
	Created int64                  `json:"stream_created"`
	Behind  uint64                 `json:"behind"` // end of the stream before
	After   schemas.AppliedMessage `json:"after"`
}

const epochKey = "grout-epoch-"

func (b *Bus) epochFile(partition int) string {
	return filepath.Join(b.cfg.Dir, epochKey+strconv.Itoa(partition))
}

func (b *Bus) readEpochNote(partition int) (note epochNote, err error) {
	if b.cfg.Dir == "" {
		return note, nil
	}
	content, err := os.ReadFile(b.epochFile(partition))
	if errors.Is(err, fs.ErrNotExist) {
		return note, nil
	}
	if err != nil {
		return note, fmt.Errorf("read the note of the newest epoch: %w", err)
	}
	if text, whole := openNote(content); !whole || json.Unmarshal([]byte(text), &note) != nil {
		return note, guardf(StreamNote, "%s, which leads to the start of the newest epoch, is not what was written; the stream tells as well: remove the note if no stream of another history was ever put in this one's place", b.epochFile(partition))
	}
	return note, nil
}

// epochOf gives the start of an epoch that a message is; nil when it is none.
func epochOf(m *schemas.StreamMessage) *schemas.EpochBegin {
	if m == nil {
		return nil
	}
	g, err := DecodeGroupMessage(*m)
	if err != nil || len(g.Commands) != 1 || g.Commands[0].Kind != schemas.EpochStart.Name {
		return nil
	}
	e := &schemas.EpochBegin{}
	if e.DecodePayload(g.Commands[0].Payload) != nil {
		return nil
	}
	return e
}

// notedEpoch looks at the newest epoch that was started in this stream, when the store
// is not in it. done says that the survey is over.
func (v *surveyor) notedEpoch() (done bool, err error) {
	note, err := v.b.readEpochNote(v.Partition)
	if err != nil || note.N <= v.Applied.Epoch || note.Created != v.Created {
		return false, err
	}
	m, err := v.b.nextMessage(v.ctx, schemas.StreamCommands, note.Behind+1, v.subject)
	if err != nil {
		return false, err
	}
	e := epochOf(m)
	if e == nil || e.N != note.N {
		return false, nil // it was noted and never published
	}
	if e.After != v.Applied {
		known, err := v.holds(e.After)
		if err != nil || known {
			return false, err // the stream leads there
		}
	}
	return true, v.unknownEpoch(m, e)
}

// unknownEpoch judges the start of an epoch behind what was applied.
func (v *surveyor) unknownEpoch(m *schemas.StreamMessage, e *schemas.EpochBegin) error {
	if e.After != v.Applied {
		if e.N <= v.Applied.Epoch {
			return v.foreign()
		}
		return guardf(EpochGap, "epoch %d of stream %s starts at %d behind message %d of epoch %d (stored %s), the store has applied %d of epoch %d; what lies between is not in the stream; %s",
			e.N, schemas.StreamCommands, m.Seq, e.After.Seq, e.After.Epoch, instant(e.After.StoredAt), v.Applied.Seq, v.Applied.Epoch, fixEpoch)
	}
	v.lose()
	v.Begin = m
	return v.b.guardInterior(v.ctx, v.state, m.Seq-1)
}

// StartEpoch publishes the start of the epoch that goes on from the store of a survey,
// whatever the stream holds of the partition, and returns its sequence. Nobody else
// may be publishing: the stream must end where the message expects it to.
func (b *Bus) StartEpoch(ctx context.Context, v Survey, now time.Time) (uint64, error) {
	st, err := b.streamState(ctx, schemas.StreamCommands, false)
	if err != nil {
		return 0, err
	}
	begin := schemas.EpochBegin{N: v.Applied.Epoch + 1, From: st.Last + 1, After: v.Applied}
	if b.cfg.Dir != "" {
		text, err := json.Marshal(epochNote{begin.N, st.created, st.Last, v.Applied})
		if err != nil {
			return 0, err
		}
		if err := replaceFile(b.epochFile(v.Partition), sealNote(string(text))); err != nil {
			return 0, fmt.Errorf("note the epoch: %w", err)
		}
	}
	m, err := toolMessage(v.Partition, schemas.CommandFrame{
		Kind: schemas.EpochStart.Name, ID: uuid.NewString(), Source: "//mozaiks.ai/grout/epoch",
		Time: now.UnixNano(), Accepted: now.UnixNano(), Payload: begin.EncodePayload(nil),
	})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	expect := []jetstream.PublishOpt{jetstream.WithExpectStream(schemas.StreamCommands), jetstream.WithExpectLastSequence(st.Last)}
	if !v.Forced {
		expect = append(expect, jetstream.WithExpectLastSequencePerSubject(v.LastOwn))
	}
	ack, err := b.js.PublishMsg(ctx, m, expect...)
	if err != nil {
		return 0, fmt.Errorf("start epoch %d behind message %d of stream %s: %w", begin.N, st.Last, schemas.StreamCommands, err)
	}
	b.cfg.Fault("epoch.published")
	return ack.Sequence, nil
}
