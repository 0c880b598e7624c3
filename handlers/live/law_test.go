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

// client is somebody who watches, is cut off, and comes back with what was seen last.
type client struct {
	filter   Filter
	byNumber bool // resumes as WebSocket clients do, else as SSE clients do
	r        *Reader
	got      []Frame
}

func (c *client) from() From {
	if len(c.got) == 0 {
		return behindAll
	}
	last := &c.got[len(c.got)-1]
	if c.byNumber {
		return behind(last.Sequence)
	}
	return atPosition(last.Position())
}

var behindAll = behind(0)

func (c *client) series(f *Frame) uint64 {
	if c.filter.ChatID != "" {
		return f.Sequence
	}
	return f.FactSeq
}

func (c *client) connect(t *rapid.T, h *Hub, within time.Duration) {
	if c.r != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	r, err := h.Open(ctx, c.filter, c.from())
	if err != nil && !errors.Is(err, ErrUnavailable) {
		t.Fatalf("%+v behind %+v: %v", c.filter, c.got[max(0, len(c.got)-1):], err)
	}
	if err == nil {
		c.r = r
	}
}

func (c *client) cut() {
	if c.r != nil {
		c.r.Close()
		c.r = nil
	}
}

func (c *client) read(t *rapid.T, within time.Duration) bool {
	if c.r == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	frames, err := c.r.Next(ctx)
	if err != nil {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		return false
	}
	c.got = append(c.got, slices.Clone(frames)...)
	return true
}

// check holds what a client got against what the store gave: each item once and in
// order, and what is left out behind a reset that says so and for a reason.
func (c *client) check(t *rapid.T, w *world, last uint64, mayMiss bool) {
	want := map[string]string{}
	for i := range w.shown {
		m, _ := newItem(&w.shown[i])
		f, err := m.fact()
		if err != nil {
			t.Fatal(err)
		}
		all, _ := m.frames(f, 0, nil, 1<<20)
		for _, one := range all {
			if f.app == c.filter.AppID && (c.filter.ChatID == "" || f.chat == c.filter.ChatID) {
				want[fmt.Sprint(c.series(&one), "/", one.Sub)] = string(one.Data)
			}
		}
	}
	next := uint64(1)
	part := -1
	for n := range c.got {
		f := &c.got[n]
		at := c.series(f)
		if f.Type == TypeReset {
			if !mayMiss {
				t.Fatalf("%+v: reset to %d, nothing is gone: %s", c.filter, at+1, tell(c.got))
			}
			if at+1 < next {
				t.Fatalf("%+v: reset back to %d: %s", c.filter, at+1, tell(c.got))
			}
			next, part = at+1, -1
			continue
		}
		key := fmt.Sprint(at, "/", f.Sub)
		if want[key] != string(f.Data) {
			t.Fatalf("%+v: item %s is %s, not %s", c.filter, key, f.Data, want[key])
		}
		sameFact := c.filter.ChatID == "" && f.Sub > 0 && at == next-1 && f.Sub == part+1
		if at != next && !sameFact {
			t.Fatalf("%+v: item %s comes where %d is due: %s", c.filter, key, next, tell(c.got))
		}
		next, part = at+1, f.Sub
	}
	if next != last+1 {
		t.Fatalf("%+v: it ends before %d, there are %d: %s", c.filter, next, last, tell(c.got))
	}
}

// Whatever happens to stream, hub and connections: every client ends with the store's
// list.
func TestEveryClientEndsWithTheSameList(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var failed any // rapid stops a run by a panic, which must leave the bubble
		synctest.Test(t, func(*testing.T) {
			defer func() { failed = recover() }()
			everyClient(r)
		})
		if fmt.Sprintf("%T", failed) == "rapid.invalidData" { // on a line of its own: by that rapid tells failures
			panic(failed)
		}
		if failed != nil {
			panic(failed)
		}
	})
}

func everyClient(t *rapid.T) {
	mayExpire := rapid.Bool().Draw(t, "expires")
	w := newWorld()
	h := New(Options{Source: w, Numbers: w, RingBytes: rapid.SampledFrom([]int{1, 4 << 10, 32 << 20}).Draw(t, "ring"), Replays: 2, Linger: time.Millisecond})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = h.Run(ctx) }()
	clients := []*client{
		{filter: Filter{AppID: "a", ChatID: "c"}, byNumber: true},
		{filter: Filter{AppID: "a", ChatID: "c"}},
		{filter: Filter{AppID: "a"}},
		{filter: Filter{AppID: "a", ChatID: "d", UserID: "user-d"}, byNumber: true},
		{filter: Filter{AppID: "b"}},
	}
	defer func() {
		for _, c := range clients {
			c.cut()
		}
		stop()
		<-ended
	}()
	act(t, w, h, clients, mayExpire)
	finish(t, w, h, clients, mayExpire)
}

func act(t *rapid.T, w *world, h *Hub, clients []*client, mayExpire bool) {
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		c := clients[rapid.IntRange(0, len(clients)-1).Draw(t, "client")]
		switch rapid.IntRange(0, 13).Draw(t, "step") {
		case 0, 1, 2:
			w.apply(rapid.SampledFrom([]string{"a", "a", "b"}).Draw(t, "app"), rapid.SampledFrom([]string{"", "c", "c", "d"}).Draw(t, "chat"), rapid.SampledFrom([]int{0, 1, 3, 70}).Draw(t, "deltas"))
		case 3, 4:
			w.publish()
		case 5:
			if mayExpire {
				w.expire(rapid.IntRange(1, 5).Draw(t, "expired"))
			}
		case 6:
			w.loseTail(rapid.IntRange(1, 5).Draw(t, "lost"))
			if rapid.Bool().Draw(t, "published before it is noticed") {
				w.publish()
			}
		case 7:
			w.renew()
		case 8:
			w.mu.Lock()
			w.away = !w.away
			w.broken++
			w.wake()
			w.mu.Unlock()
		case 9, 10:
			c.connect(t, h, time.Second)
		case 11:
			c.cut()
		default:
			c.read(t, 20*time.Millisecond)
		}
		if rapid.Bool().Draw(t, "settles") {
			synctest.Wait()
		}
	}
}

func finish(t *rapid.T, w *world, h *Hub, clients []*client, mayExpire bool) {
	w.mu.Lock()
	w.away = false
	w.mu.Unlock()
	w.publish()
	for _, c := range clients {
		last := w.apps[c.filter.AppID]
		if c.filter.ChatID != "" {
			last = w.chats[[2]string{c.filter.AppID, c.filter.ChatID}]
		}
		for range 3 {
			c.connect(t, h, time.Minute)
			if c.r == nil {
				t.Fatal("no reader can be opened")
			}
			for c.read(t, 10*time.Second) {
			}
		}
		c.check(t, w, last, mayExpire)
		c.cut()
	}
}
