package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// What a partition trims is noted beside the stream before it is purged. So a store
// that is lost cannot mistake what is left of the stream for all of it. The note of
// an embedded server is a file in its directory: changing the stream's metadata each
// time would be a chance for a kill to leave them half written. On an external
// server, which keeps its settings in a log of its own, it is the metadata.
const trimmedKey = "grout-trimmed-"

// trimSlice bounds one purge, which holds up the stream while it runs.
const trimSlice = 1000

// CommandStream is what the command stream holds.
type CommandStream struct {
	Bytes    uint64
	First    uint64
	Last     uint64
	Earliest time.Time // when the first message was stored; zero for none
}

// Commands looks at the command stream.
func (b *Bus) Commands(ctx context.Context) (CommandStream, error) {
	stream, err := b.js.Stream(ctx, schemas.StreamCommands)
	if err != nil {
		return CommandStream{}, fmt.Errorf("look up stream %s: %w", schemas.StreamCommands, err)
	}
	st := stream.CachedInfo().State
	return CommandStream{Bytes: st.Bytes, First: st.FirstSeq, Last: st.LastSeq, Earliest: st.FirstTime}, nil
}

// Trim removes the groups of a partition below a sequence, in slices. The caller
// keeps whatever a snapshot needs: the group at the position of the oldest one
// that may be restored, and everything behind it.
func (b *Bus) Trim(ctx context.Context, partition int, below uint64) error {
	info, err := b.noteTrim(ctx, partition, below)
	if err != nil || info == nil {
		return err
	}
	for to := info.State.FirstSeq; to < below; {
		to = min(to+trimSlice, below)
		if err := b.purge(ctx, partition, to); err != nil {
			return fmt.Errorf("trim %s below %d: %w", schemas.StreamCommands, to, err)
		}
	}
	return nil
}

// noteTrim notes what is to be trimmed; nil says that it is gone already. One partition
// notes at a time: where the notes are metadata, each writes them all.
func (b *Bus) noteTrim(ctx context.Context, partition int, below uint64) (*jetstream.StreamInfo, error) {
	b.noting.Lock()
	defer b.noting.Unlock()
	stream, err := b.js.Stream(ctx, schemas.StreamCommands)
	if err != nil {
		return nil, fmt.Errorf("trim %s: %w", schemas.StreamCommands, err)
	}
	info := stream.CachedInfo()
	if below <= info.State.FirstSeq {
		return nil, nil
	}
	return info, b.noteTrimmed(ctx, info.Config, partition, below, info.Created.UnixNano())
}

func (b *Bus) noteTrimmed(ctx context.Context, cfg jetstream.StreamConfig, partition int, below uint64, created int64) error {
	noted, err := b.trimmedBelow(cfg.Metadata, partition, created)
	if err != nil || noted >= below {
		return err
	}
	text := fmt.Sprintf("%d %d", below, created)
	if b.cfg.Dir != "" {
		if err := replaceFile(TrimmedFile(b.cfg.Dir, partition), sealNote(text)); err != nil {
			return fmt.Errorf("note what is trimmed: %w", err)
		}
		return nil
	}
	metadata := map[string]string{}
	for k, v := range cfg.Metadata {
		metadata[k] = v
	}
	metadata[trimmedKey+strconv.Itoa(partition)] = text
	cfg.Metadata = metadata
	if _, err := b.js.UpdateStream(ctx, cfg); err != nil {
		return fmt.Errorf("note what is trimmed in %s: %w", schemas.StreamCommands, err)
	}
	return nil
}

// purge asks for the filter only where other partitions share the stream: without
// it whole blocks go at once.
func (b *Bus) purge(ctx context.Context, partition int, below uint64) error {
	ask := map[string]any{"seq": below}
	if b.cfg.Partitions > 1 {
		ask["filter"] = schemas.GroupSubject(partition)
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	m, err := b.nc.RequestWithContext(ctx, "$JS.API.STREAM.PURGE."+schemas.StreamCommands, body)
	if err != nil {
		return err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

// trimmedBelow is the sequence below which a partition's groups may be gone; 0 when
// nothing was trimmed. The note says when its stream was created: what was trimmed
// from another one is no matter.
func (b *Bus) trimmedBelow(metadata map[string]string, partition int, created int64) (uint64, error) {
	if b.cfg.Dir != "" {
		path := TrimmedFile(b.cfg.Dir, partition)
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read what is trimmed: %w", err)
		}
		below, of, err := parseTrimmed(path, content)
		if err != nil || of != created {
			return 0, err
		}
		return below, nil
	}
	text := metadata[trimmedKey+strconv.Itoa(partition)]
	if text == "" {
		return 0, nil
	}
	var below uint64
	var of int64
	switch n, _ := fmt.Sscanf(text, "%d %d", &below, &of); n {
	case 1: // from before the note said it
		return below, nil
	case 2:
		if of != created {
			return 0, nil
		}
		return below, nil
	}
	return 0, fmt.Errorf("read what is trimmed: %q is no sequence", text)
}
