package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// Whoever begins with what happens from now on and is cut off, also before the first item
// has come, sees all that was given since: once, in order, and nothing of before.
func TestFromNowOnIsFromThenOn(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var failed any // rapid stops a run by a panic, which must leave the bubble
		synctest.Test(t, func(*testing.T) {
			defer func() { failed = recover() }()
			fromNowOn(r)
		})
		if fmt.Sprintf("%T", failed) == "rapid.invalidData" { // on a line of its own: by that rapid tells failures
			panic(failed)
		}
		if failed != nil {
			panic(failed)
		}
	})
}

// newcomer is such a client of SSE.
type newcomer struct {
	filter Filter
	r      *Reader
	begun  bool
	after  uint64 // number that was the last one when it began
	at     Position
	got    []uint64
}

func (c *newcomer) connect(t *rapid.T, w *world, h *Hub) {
	if c.r != nil {
		return
	}
	from := From{}
	if c.begun {
		from = atPosition(c.at)
	} else {
		c.after = c.last(w)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := h.Open(ctx, c.filter, from)
	if errors.Is(err, ErrUnavailable) {
		return
	}
	if err != nil {
		t.Fatalf("%+v at %s: %v", c.filter, c.at, err)
	}
	c.r, c.begun, c.at = r, true, r.Position()
}

func (c *newcomer) last(w *world) uint64 {
	if c.filter.ChatID != "" {
		return w.chats[[2]string{c.filter.AppID, c.filter.ChatID}]
	}
	return w.apps[c.filter.AppID]
}

func (c *newcomer) read(t *rapid.T, within time.Duration) bool {
	if c.r == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	frames, err := c.r.Next(ctx)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	for i := range frames {
		f := &frames[i]
		if f.Type == TypeReset {
			t.Fatalf("%+v: reset to %s behind %d and %v", c.filter, f.Data, c.after, c.got)
		}
		if c.filter.ChatID != "" {
			c.got = append(c.got, f.Sequence)
		} else {
			c.got = append(c.got, f.FactSeq)
		}
		c.at = f.Position()
	}
	return err == nil
}

func (c *newcomer) cut() {
	if c.r != nil {
		c.r.Close()
		c.r = nil
	}
}

func fromNowOn(t *rapid.T) {
	w := newWorld()
	h := New(Options{Source: w, Numbers: w, RingBytes: rapid.SampledFrom([]int{1, 4 << 10, 32 << 20}).Draw(t, "ring"), Linger: time.Millisecond})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = h.Run(ctx) }()
	clients := []*newcomer{{filter: Filter{AppID: "a", ChatID: "c"}}, {filter: Filter{AppID: "a"}}, {filter: Filter{AppID: "b", ChatID: "c"}}}
	defer func() {
		for _, c := range clients {
			c.cut()
		}
		stop()
		<-ended
	}()
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		c := clients[rapid.IntRange(0, len(clients)-1).Draw(t, "client")]
		switch rapid.IntRange(0, 11).Draw(t, "step") {
		case 0, 1, 2:
			w.apply(rapid.SampledFrom([]string{"a", "a", "b"}).Draw(t, "app"), rapid.SampledFrom([]string{"", "c", "d"}).Draw(t, "chat"), 0)
		case 3:
			w.applyPublished("a", rapid.SampledFrom([]string{"plugin.x.c", "plugin.x"}).Draw(t, "kind"))
		case 4, 5:
			w.publish()
		case 6:
			w.loseTail(rapid.IntRange(1, 4).Draw(t, "lost"))
		case 7:
			w.renew()
		case 8, 9:
			c.connect(t, w, h)
		case 10:
			c.cut()
		default:
			c.read(t, 20*time.Millisecond)
		}
		if rapid.Bool().Draw(t, "settles") {
			synctest.Wait()
		}
	}
	w.publish()
	for _, c := range clients {
		for range 2 {
			c.connect(t, w, h)
			for c.read(t, 10*time.Second) {
			}
			c.cut()
		}
		var want []uint64
		for n := c.after + 1; n <= c.last(w); n++ {
			want = append(want, n)
		}
		if !slices.Equal(c.got, want) {
			t.Fatalf("%+v: behind %d came %v of %d", c.filter, c.after, c.got, c.last(w))
		}
	}
}
