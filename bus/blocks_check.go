package bus

import (
	"context"
	"errors"
	"io/fs"
	"os"
)

// StreamDamaged and FactsDamaged name messages of a stream's files that are not what
// was written, InDamaged those of commands that others had published and that were not
// in the log yet; StreamTornTail an end that was never whole, or was cut.
const (
	InDamaged      = "IN_DAMAGED"
	StreamDamaged  = "STREAM_DAMAGED"
	StreamTornTail = "STREAM_TORN_TAIL"
	FactsDamaged   = "FACTS_DAMAGED"
)

// StoredMessage is a message as it was found in the files. What it points to lasts
// until the visit ends.
type StoredMessage struct {
	Seq      uint64
	StoredAt int64
	Subject  string
	Header   []byte
	Data     []byte
}

// StreamCheckup is what was found in the files of a stream.
type StreamCheckup struct {
	Stream   string        `json:"stream"`
	Blocks   int           `json:"blocks"`
	Messages int64         `json:"messages"`
	Bytes    int64         `json:"bytes"` // of the files
	First    uint64        `json:"first_sequence"`
	Last     uint64        `json:"last_sequence"`
	Damage   []BlockDamage `json:"damage"`
	Gaps     []Gap         `json:"-"` // sequences that no message has, between First and Last
}

// Gap is a run of sequences.
type Gap struct {
	From uint64 `json:"from_sequence"`
	To   uint64 `json:"to_sequence"`
}

// CheckStream reads every message of a stream of the embedded server from its files,
// and judges each by its checksum. The server must not run, or pace must say when to
// give up: its files change under a reader.
func CheckStream(ctx context.Context, dir, stream string, pace func(context.Context, int64) error, visit func(*StoredMessage) error) (StreamCheckup, error) {
	c := StreamCheckup{Stream: stream, Damage: []BlockDamage{}}
	blocks, err := blocksOf(dir, stream)
	if err != nil {
		return c, err
	}
	c.Blocks = len(blocks)
	buf, last, end := &blockReader{}, uint64(0), uint64(0)
	for i, f := range blocks {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		damage, to, err := buf.scan(stream, f, i == len(blocks)-1, last, func(r *blockRecord) error {
			c.add(r.seq)
			if visit == nil {
				return nil
			}
			return visit(&StoredMessage{r.seq, r.stored, r.subject, r.header, r.data})
		}, func(seq uint64) { end = max(end, seq) })
		if pace != nil && errors.Is(err, fs.ErrNotExist) {
			continue // the server has removed it meanwhile
		}
		if err != nil {
			return c, err
		}
		last = to
		c.Damage = append(c.Damage, damage...)
		if info, err := os.Stat(f.path); err == nil {
			c.Bytes += info.Size()
			if pace != nil {
				if err := pace(ctx, info.Size()); err != nil {
					return c, err
				}
			}
		}
	}
	if end > c.Last { // mended: it ended there
		c.Gaps = append(c.Gaps, Gap{c.Last + 1, end})
	}
	return c, nil
}

// maxGaps bounds what is kept of a stream; the markers of a relay leave one gap each.
const maxGaps = 100_000

func (c *StreamCheckup) add(seq uint64) {
	c.Messages++
	if c.First == 0 {
		c.First = seq
	}
	for i := len(c.Damage) - 1; i >= 0 && c.Damage[i].Before == 0; i-- {
		c.Damage[i].Before = seq
	}
	if c.Last != 0 && seq > c.Last+1 && len(c.Gaps) < maxGaps {
		c.Gaps = append(c.Gaps, Gap{c.Last + 1, seq - 1})
	}
	c.Last = max(c.Last, seq)
}

// StreamBytes is what the blocks of a stream take on the disk.
func StreamBytes(dir, stream string) (bytes int64, err error) {
	blocks, err := blocksOf(dir, stream)
	for _, f := range blocks {
		if info, err := os.Stat(f.path); err == nil {
			bytes += info.Size()
		}
	}
	return bytes, err
}
