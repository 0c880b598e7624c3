package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"grout/schemas"
)

// tailBytes of each stream are looked at before a start, newest first: what is not
// applied yet lies there, and it is what the server may cut off.
const tailBytes = 64 << 20

// mendTails looks at the newest blocks before the server does. It would cut a block
// off at the first message that is not what was written, and consumers would stop at
// that message for ever. Only the message itself is taken out: the guard tells when it
// was still needed.
func mendTails(dir string, log *slog.Logger) (found []Found, err error) {
	buf := &blockReader{}
	for _, stream := range []string{schemas.StreamCommands, schemas.StreamFacts, schemas.StreamDeadLetters, schemas.StreamIn} {
		blocks, err := blocksOf(dir, stream)
		if err != nil {
			return found, err
		}
		left, behind := int64(tailBytes), uint64(0)
		for i := len(blocks) - 1; i >= 0 && left > 0; i-- {
			info, err := os.Stat(blocks[i].path)
			if err != nil {
				return found, fmt.Errorf("look at the blocks of stream %s: %w", stream, err)
			}
			left -= info.Size()
			m := tailMender{dir: dir, stream: stream, log: log, buf: buf}
			if err := m.block(blocks[i], i == len(blocks)-1); err != nil {
				return found, err
			}
			if m.found != nil {
				found = append(found, *m.found)
			}
			if behind > m.last+1 && (m.last != 0 || info.Size() == 0) {
				// What the server has noted of the blocks may not be so; it finds out.
				if err := forgetIndex(blocks[i].path); err != nil {
					return found, err
				}
			}
			if m.first != 0 {
				behind = m.first
			}
		}
	}
	return found, nil
}

// Found is damage in a stream that was met at the start, by its name.
type Found struct{ Name, Detail string }

type tailMender struct {
	dir, stream string
	log         *slog.Logger
	buf         *blockReader
	first, last uint64
	found       *Found
}

func (m *tailMender) block(f block, newest bool) error {
	list, _, err := m.buf.scan(m.stream, f, newest, 0, func(r *blockRecord) error {
		if m.first == 0 {
			m.first = r.seq
		}
		m.last = max(m.last, r.seq)
		return nil
	}, nil)
	if err != nil || len(list) == 0 {
		return err
	}
	d := &list[0]
	if d.Torn {
		m.log.Warn(StreamTornTail+": a stream ends inside of a message, which is dropped: it was never confirmed, unless the file was cut", "stream", m.stream, "damage", d.Error())
		return nil
	}
	kept, err := MendBlock(m.dir, m.stream, f.path)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", DamageName(m.stream), d, err)
	}
	m.found = &Found{DamageName(m.stream), fmt.Sprintf("%v (%d places); the messages were taken out, and those around them stay; the file as it was is %s", d, len(list), kept)}
	return nil
}

// forgetIndex has the server look at the blocks of a stream themselves.
func forgetIndex(block string) error {
	return ignoreMissing(os.Remove(filepath.Join(filepath.Dir(block), "index.db")))
}

// DamageName is the name of damage in a stream.
func DamageName(stream string) string {
	switch stream {
	case schemas.StreamCommands:
		return StreamDamaged
	case schemas.StreamIn:
		return InDamaged
	}
	return FactsDamaged
}

// MendBlock takes messages that are not what was written out of a block, so that the
// server and its consumers get past them. The file as it was is kept beside the
// stream, under the name it returns.
func MendBlock(dir, stream, path string) (kept string, err error) {
	blocks, err := blocksOf(dir, stream)
	if err != nil {
		return "", err
	}
	for i, f := range blocks {
		if f.path != path {
			continue
		}
		content, err := mended(stream, f)
		if err != nil {
			return "", err
		}
		kept = filepath.Join(dir, "damaged", stream+"-"+filepath.Base(path))
		if err := copyFile(path, kept); err != nil {
			return "", fmt.Errorf("keep the damaged block %s: %w", path, err)
		}
		// What the server knows of the block would no longer be true.
		if err := forgetIndex(path); err != nil {
			return kept, err
		}
		if len(content) == 0 && i < len(blocks)-1 {
			return kept, os.Remove(path)
		}
		return kept, replaceFile(path, content)
	}
	return "", fmt.Errorf("mend %s: the stream has no such block", path)
}

// mended gives the records of a block that are sound. In the place of others stands
// that they were erased, so that no sequence is given twice.
func mended(stream string, f block) ([]byte, error) {
	raw, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	h, err := blockHash(stream, f.index)
	if err != nil {
		return nil, err
	}
	b, err := (&blockReader{}).unpack(raw)
	if err != nil {
		return nil, nil // none of it can be read
	}
	var out []byte
	last, lost := uint64(0), false
	for at := 0; at < len(b); {
		r, _, err := readRecord(b, at, h)
		if err != nil {
			lost = true
			if at = nextRecord(b, at, h); at < 0 {
				break
			}
			continue
		}
		if r.seq&(bitErased|bitTombstone) == 0 {
			last = r.seq
			lost = false
		}
		out = append(out, b[r.at:r.end]...)
		at = r.end
	}
	if lost && last > 0 {
		e := make([]byte, recordHead, recordHead+recordHash)
		binary.LittleEndian.PutUint32(e, recordHead+recordHash)
		binary.LittleEndian.PutUint64(e[4:], (last+1)|bitErased)
		h.Reset()
		_, _ = h.Write(e[4:20])
		out = h.Sum(append(out, e...))
	}
	return out, nil
}

func copyFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
