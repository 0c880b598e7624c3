package bus

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// ackedFile notes the last group that the command stream has confirmed, beside the
// embedded server's streams. It is not synced: a kill leaves it, and after a power cut
// it says less than is so. A stream that ends before it has lost what was promised,
// also when nothing of that was applied yet and nobody else can know.
const ackedFile = "grout-acked"

type ackedNote struct {
	mu      sync.Mutex
	created int64 // of the stream
	last    uint64
	found   []Found
}

// noteAcked comes before anybody is told that a group is stored. It is a help, so its
// own failure is none of the group's.
func (b *Bus) noteAcked(seq uint64) {
	if b.cfg.Dir == "" {
		return
	}
	n := &b.acked
	n.mu.Lock()
	defer n.mu.Unlock()
	if seq <= n.last || n.created == 0 {
		return
	}
	n.last = seq
	f, err := os.OpenFile(filepath.Join(b.cfg.Dir, ackedFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteAt(sealNote(fmt.Sprintf("%020d %020d", seq, n.created)), 0)
}

// lookAcked compares the note with the stream.
func (b *Bus) lookAcked(ctx context.Context, js jetstream.JetStream) error {
	if b.cfg.Dir == "" {
		return nil
	}
	stream, err := js.Stream(ctx, schemas.StreamCommands)
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", schemas.StreamCommands, err)
	}
	info := stream.CachedInfo()
	n := &b.acked
	n.created = info.Created.UnixNano()
	content, err := os.ReadFile(filepath.Join(b.cfg.Dir, ackedFile))
	if err != nil {
		return ignoreMissing(err)
	}
	var last uint64
	var created int64
	text, whole := openNote(content)
	if _, err := fmt.Sscanf(text, "%d %d", &last, &created); !whole || err != nil || created != n.created || last <= info.State.LastSeq {
		return nil
	}
	n.found = append(n.found, Found{StreamTailLost, fmt.Sprintf(
		"stream %s (created %s) ends at %d and has confirmed messages up to %d: commands among them that were answered 202 and not applied yet are lost",
		schemas.StreamCommands, info.Created.UTC().Format(time.RFC3339), info.State.LastSeq, last)})
	return nil
}

// Found is what was seen to be lost when the streams were opened.
func (b *Bus) Found() []Found { return b.acked.found }
