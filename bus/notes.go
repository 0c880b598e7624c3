package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"grout/schemas"
)

// StreamNote names a note beside the stream that is not what was written.
const StreamNote = "STREAM_NOTE_DAMAGED"

// sealNote ends the text of a note with its checksum.
func sealNote(text string) []byte {
	return fmt.Appendf(nil, "%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

// openNote gives the text of a note.
func openNote(content []byte) (string, bool) {
	body := strings.TrimSuffix(string(content), "\n")
	at := strings.LastIndexByte(body, ' ')
	if at < 0 {
		return "", false
	}
	sum, err := strconv.ParseUint(body[at+1:], 16, 32)
	return body[:at], err == nil && len(body)-at == 9 && crc32.ChecksumIEEE([]byte(body[:at])) == uint32(sum)
}

// TrimmedFile is the note of what a partition has trimmed, in the server's directory.
func TrimmedFile(dir string, partition int) string {
	return filepath.Join(dir, trimmedKey+strconv.Itoa(partition))
}

// TrimmedNote reads the note; 0 is none.
func TrimmedNote(dir string, partition int) (below uint64, err error) {
	content, err := os.ReadFile(TrimmedFile(dir, partition))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	below, _, err = parseTrimmed(TrimmedFile(dir, partition), content)
	return below, err
}

// parseTrimmed reads a note: what is gone below, and when the stream was created that
// it speaks of.
func parseTrimmed(path string, content []byte) (below uint64, created int64, err error) {
	text, whole := openNote(content)
	if _, err := fmt.Sscanf(text, "%d %d", &below, &created); !whole || err != nil {
		return 0, 0, guardf(StreamNote, "%s, which says how far the stream was trimmed, is not what was written; run grout repair, which finds it out from the stream", path)
	}
	return below, created, nil
}

// NoteTrimmed finds out from the stream what a partition has trimmed, and notes it
// anew. What others have trimmed between its messages looks like a part of it: then the
// note says more than is so, and an empty store is refused that could begin.
func (b *Bus) NoteTrimmed(ctx context.Context, partition int) error {
	st, err := b.streamState(ctx, schemas.StreamCommands, false)
	if bad := (*GuardError)(nil); errors.As(err, &bad) && bad.Name == StreamNote {
		err = nil // of this partition, or of another one
	}
	if err != nil {
		return err
	}
	path := TrimmedFile(b.cfg.Dir, partition)
	if st.First <= 1 && st.NumGone == 0 {
		return ignoreMissing(os.Remove(path))
	}
	below := st.First
	if b.cfg.Partitions > 1 {
		m, err := b.nextMessage(ctx, schemas.StreamCommands, 1, schemas.GroupSubject(partition))
		if err != nil {
			return err
		}
		if m != nil {
			below = m.Seq
		}
	}
	return replaceFile(path, sealNote(fmt.Sprintf("%d %d", below, st.created)))
}

// ExposeStreams puts the files of the streams where a server that is down has them:
// one that was killed leaves them elsewhere.
func ExposeStreams(dir string) error { return exposeStreams(dir) }

// FilesCompleteSince is CompleteSince for a stream that no server has open.
func FilesCompleteSince(dir, stream string, bytes int64) (time.Time, error) {
	s, err := settingsOf(dir, stream)
	if err != nil {
		return time.Time{}, err
	}
	return completeSince(uint64(bytes), s.MaxBytes, s.MaxAge), nil
}

type streamSettings struct {
	Created  time.Time     `json:"created"`
	MaxBytes int64         `json:"max_bytes"`
	MaxAge   time.Duration `json:"max_age"`
}

// settingsOf reads the settings of a stream from its files.
func settingsOf(dir, stream string) (s streamSettings, err error) {
	text, err := os.ReadFile(filepath.Join(streamsDir(dir), stream, settingsFile))
	if err != nil {
		return s, fmt.Errorf("read the settings of stream %s: %w", stream, err)
	}
	if json.Unmarshal(text, &s) != nil {
		return s, guardf(StreamUnreadable, "the settings of stream %s are not what was written", stream)
	}
	return s, nil
}
