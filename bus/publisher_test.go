package bus

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"grout/schemas"
)

func TestPublisherMergesConcurrentCommands(t *testing.T) {
	b := newBus(t)
	answer(t, b, 0)
	r := must1(b.NewReplies("node.1"))(t)
	defer r.Close()
	p := b.NewPublisher(0, r, PublisherOptions{})
	run(t, p.Run)
	ctx := testContext(t)

	const submitters, each = 64, 25
	var wg sync.WaitGroup
	var mu sync.Mutex
	positions := map[string]bool{}
	for w := range submitters {
		wg.Go(func() {
			var lastSeq uint64
			var lastIndex uint32
			for i := range each {
				id := fmt.Sprintf("%d-%d", w, i)
				c, err := p.Submit(command(id, strings.Repeat("x", 1000)))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := c.Wait(ctx)
				if err != nil || string(got.Outcome) != id || got.Dead {
					t.Errorf("%s: %+v %v", id, got, err)
					return
				}
				if got.Seq != 0 && lastSeq != 0 && (got.Seq < lastSeq || got.Seq == lastSeq && got.Index <= lastIndex) {
					t.Errorf("%s: %d/%d after %d/%d", id, got.Seq, got.Index, lastSeq, lastIndex)
				}
				lastSeq, lastIndex = got.Seq, got.Index
				mu.Lock()
				positions[fmt.Sprint(got.Seq, "/", got.Index)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	eventually(t, "the queue is empty and nobody waits", func() bool {
		n, size := p.QueueDepth()
		return n == 0 && size == 0 && r.Waiting() == 0
	})
	if n := p.Acked(); n >= submitters*each/2 {
		t.Errorf("%d groups for %d commands", n, submitters*each)
	}
	t.Logf("%d commands in %d groups", submitters*each, p.Acked())
	_ = schemas.MaxGroupBytes
}
