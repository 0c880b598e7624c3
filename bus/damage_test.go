package bus

import (
	"crypto/rand"
	"fmt"
	"os"
	"testing"

	"grout/schemas"
)

// fill publishes n messages of a size that cannot be packed, so that they fill blocks.
func fill(t *testing.T, b *Bus, partition, n, size int) {
	t.Helper()
	for range n {
		data := make([]byte, size)
		_, _ = rand.Read(data)
		must1(b.js.Publish(testContext(t), schemas.GroupSubject(partition), data))(t)
	}
}

// A bit of a block has changed that the server has not read yet: what cannot be read is
// named, and neither passed over nor waited for.
func TestChangedBitsAreNamed(t *testing.T) {
	for _, partitions := range []int{1, 2} {
		for what, at := range map[string]func([]byte) int{
			"in a message":         func(b []byte) int { return len(b) / 2 },
			"in the block's start": func([]byte) int { return 1 },
		} {
			t.Run(fmt.Sprintf("P=%d %s", partitions, what), func(t *testing.T) {
				t.Parallel()
				e := newEmbedded(t, partitions)
				fill(t, e.Bus, 0, 2, 10)
				h := newHistory()
				h.apply(t, e.Bus, 0, 2)
				fill(t, e.Bus, 0, 40, 1<<20)
				fill(t, e.Bus, partitions-1, 2, 10)
				e.stopped(func() {})
				blocks := must1(blocksOf(e.dir, schemas.StreamCommands))(t)
				if len(blocks) < 4 {
					t.Fatalf("%d blocks", len(blocks))
				}
				b := must1(os.ReadFile(blocks[1].path))(t)
				b[at(b)] ^= 4
				must(t, os.WriteFile(blocks[1].path, b, 0o600))

				s := e.NewSource(0).Of(h)
				defer s.Close()
				last := uint64(2)
				_, err := s.Open(testContext(t), h.Checkpoint())
				for err == nil && last < 44 {
					var m schemas.StreamMessage
					if m, err = s.Next(testContext(t)); err == nil && m.Seq != last+1 {
						t.Fatalf("message %d came behind %d", m.Seq, last)
					}
					last++
				}
				wantGuard(t, StreamGap, err)
			})
		}
	}
}
