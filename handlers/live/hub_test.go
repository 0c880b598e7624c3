package live

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func numbered(from, to int) string {
	var b []string
	for n := from; n <= to; n++ {
		b = append(b, fmt.Sprint(n))
	}
	return strings.Join(b, " ")
}

// fill publishes n facts of the chat c of the app a, with others in between.
func fill(w *world, n int) {
	for range n {
		w.apply("a", "c", 0)
		w.apply("a", "other", 0)
		w.apply("a", "", 0)
		w.apply("b", "c", 0)
		w.publish()
	}
}

func TestReaderStartsFromNowOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		fill(w, 3)
		w.apply("a", "c", 0) // answered before the reader opens, published after
		h := serve(t, w, Options{})
		chat := open(t, h, Filter{AppID: "a", ChatID: "c"}, From{})
		all := open(t, h, Filter{AppID: "a"}, From{})
		w.apply("a", "c", 2)
		w.apply("b", "c", 2)
		w.apply("a", "c", 0)
		w.apply("a", "", 0)
		w.publish()
		if got := tell(read(t, chat, 3)); got != "5 6 7" {
			t.Errorf("the chat shows %s", got)
		}
		if got := tell(read(t, all, 4)); got != "5 6 7 a13" {
			t.Errorf("the app shows %s", got)
		}
		quiet(t, chat)
		quiet(t, all)
	})
}

func TestReaderResumesBehindANumber(t *testing.T) {
	for _, ring := range []int{32 << 20, 4 << 10, 1} {
		t.Run(fmt.Sprint("ring of ", ring), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				fill(w, 20)
				w.apply("a", "c", 130)
				w.publish()
				fill(w, 20)
				h := serve(t, w, Options{RingBytes: ring})
				awake := open(t, h, Filter{AppID: "a", ChatID: "c"}, From{})
				fill(w, 20)
				read(t, awake, 20)
				const last = 190
				for _, n := range []int{0, 1, 19, 20, 21, 60, 149, 150, 151, 169, 171, last - 1} {
					r := open(t, h, Filter{AppID: "a", ChatID: "c"}, behind(uint64(n)))
					if got, want := tell(read(t, r, last-n)), numbered(n+1, last); got != want {
						t.Fatalf("behind %d: %s", n, got)
					}
					quiet(t, r)
				}
				quiet(t, open(t, h, Filter{AppID: "a", ChatID: "c"}, behind(last)))
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				for _, n := range []uint64{last + 1, 1 << 60, 1<<64 - 1} {
					if r, err := h.Open(ctx, Filter{AppID: "a", ChatID: "c"}, behind(n)); !errors.Is(err, ErrAhead) {
						t.Errorf("behind %d: %v, %v", n, r, err)
					}
				}
				if _, err := h.Open(ctx, Filter{AppID: "a", ChatID: "nobody"}, behind(1)); !errors.Is(err, ErrAhead) {
					t.Errorf("a chat that is not: %v", err)
				}
			})
		})
	}
}

// Every place at which a client may have been cut off leads to the rest.
func TestReaderResumesAtAPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := serve(t, w, Options{})
		filters := []Filter{{AppID: "a"}, {AppID: "a", ChatID: "c"}}
		var first []*Reader
		for _, f := range filters {
			first = append(first, open(t, h, f, From{}))
		}
		begin := first[0].Position()
		fill(w, 3)
		w.apply("a", "c", 5)
		w.apply("a", "", 0)
		w.apply("a", "c", 3)
		w.publish()
		check := func(t *testing.T, number int, all []Frame, f Filter, anew bool) {
			t.Helper()
			for i := range all {
				p, err := ParsePosition(all[i].Position().String())
				if err != nil {
					t.Fatal(err)
				}
				r := open(t, h, f, atPosition(p))
				if rest := all[i+1:]; len(rest) > 0 {
					if got, want := tell(read(t, r, len(rest))), tell(rest); got != want {
						t.Fatalf("filter %d behind %s: %s, not %s", number, p, got, want)
					}
				}
				quiet(t, r)
				if p.FactSeq = 0; anew { // a stream sequence alone says nothing about another stream
					continue
				}
				r = open(t, h, f, atPosition(p))
				if rest := all[i+1:]; len(rest) > 0 {
					if got, want := tell(read(t, r, len(rest))), tell(rest); got != want {
						t.Fatalf("filter %d behind %s: %s, not %s", number, p, got, want)
					}
				}
			}
		}
		lists := [][]Frame{read(t, first[0], 3*3+5+1+3), read(t, first[1], 3+5+3)}
		for n, f := range filters {
			check(t, n, lists[n], f, false)
		}
		if got := tell(read(t, open(t, h, filters[0], atPosition(begin)), len(lists[0]))); got != tell(lists[0]) {
			t.Errorf("from the position of a reader that has seen nothing: %s", got)
		}
		w.renew()
		w.apply("z", "c", 0) // sequences mean something else now
		w.outbox = append(w.outbox[len(w.outbox)-1:], w.outbox[:len(w.outbox)-1]...)
		w.publish()
		for n, f := range filters {
			check(t, n, lists[n], f, true)
		}
	})
}

func TestPositionsOfNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		fill(w, 4)
		h := serve(t, w, Options{})
		open(t, h, Filter{AppID: "a"}, From{})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, p := range []Position{{StreamSeq: 1000, Sub: -1}, {StreamSeq: 1, Sub: -1, FactSeq: 1000}, {StreamSeq: 1 << 62, Sub: 3}} {
			if _, err := h.Open(ctx, Filter{AppID: "a"}, atPosition(p)); !errors.Is(err, ErrAhead) {
				t.Errorf("%s: %v", p, err)
			}
		}
		for _, s := range []string{"", "-1", "1.", ".1", "1.-1", "1-", "x", "01", "1.01", "1-02", "+1", "1.1.1", "1-1-1", "99999999999999999999", "1.9999999", " 1"} {
			if p, err := ParsePosition(s); err == nil {
				t.Errorf("%q is read as %+v", s, p)
			}
		}
		for _, s := range []string{"0", "1", "1.0", "12.499", "12-7", "12.3-7", "9223372036854775807"} {
			if p, err := ParsePosition(s); err != nil || p.String() != s {
				t.Errorf("%q is read as %s, %v", s, p, err)
			}
		}
	})
}

func TestWhatHasExpiredIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		fill(w, 30)
		w.expire(4 * 10)
		h := serve(t, w, Options{})
		chat := Filter{AppID: "a", ChatID: "c"}
		for _, n := range []uint64{0, 5, 9} {
			if got, want := tell(read(t, open(t, h, chat, behind(n)), 21)), "11! "+numbered(11, 30); got != want {
				t.Errorf("behind %d: %s", n, got)
			}
		}
		if got, want := tell(read(t, open(t, h, chat, behind(10)), 20)), numbered(11, 30); got != want {
			t.Errorf("behind 10: %s", got)
		}
		for _, p := range []Position{{StreamSeq: 3, Sub: -1, FactSeq: 3}, {StreamSeq: 3, Sub: 1}} {
			all := read(t, open(t, h, Filter{AppID: "a"}, atPosition(p)), 61)
			if all[0].Type != TypeReset || string(all[0].Data) != `{"first_sequence":31}` || all[1].FactSeq != 31 {
				t.Errorf("behind %s: %+v", p, all[:2])
			}
			if got, want := tell(read(t, open(t, h, chat, atPosition(p)), 21)), "11! "+numbered(11, 30); got != want {
				t.Errorf("behind %s: %s", p, got)
			}
		}
		w.expire(1000)
		r := open(t, h, chat, behind(29))
		list := read(t, r, 1)
		if tell(list) != "31!" || string(list[0].Data) != `{"first_sequence":31}` {
			t.Errorf("nothing is left: %+v", list)
		}
		w.apply("a", "c", 0)
		w.publish()
		if got := tell(read(t, r, 1)); got != "31" {
			t.Errorf("and then: %s", got)
		}
	})
}

// What waits in the outbox is not taken for lost.
func TestWhatIsNotPublishedYetIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.apply("a", "c", 0)
		w.apply("a", "c", 0)
		h := serve(t, w, Options{})
		r := open(t, h, Filter{AppID: "a", ChatID: "c"}, behind(0))
		ctx, cancel := context.WithTimeout(t.Context(), owedEvery+200*time.Millisecond)
		defer cancel()
		if frames, err := r.Next(ctx); err == nil {
			t.Fatalf("%+v", frames)
		}
		w.publish()
		if got := tell(read(t, r, 2)); got != "1 2" {
			t.Error(got)
		}
	})
}

func TestReaderFallsBackBehindTheRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := serve(t, w, Options{RingBytes: 8 << 10})
		r := open(t, h, Filter{AppID: "a", ChatID: "c"}, From{})
		all := open(t, h, Filter{AppID: "a"}, From{})
		fill(w, 200)
		w.apply("a", "c", 300)
		w.publish()
		fill(w, 10)
		if got, want := tell(read(t, r, 510)), numbered(1, 510); got != want {
			t.Error(got)
		}
		if n := len(read(t, all, 210*3+300)); n != 930 {
			t.Error(n)
		}
		s := h.Stats()
		for _, f := range s.Feeds {
			if f.Bytes > 8<<10 || f.Readers != 1 || !f.Up {
				t.Errorf("%+v", f)
			}
		}
		if s.Resets != 0 {
			t.Errorf("%d resets", s.Resets)
		}
	})
}

func TestFilters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := serve(t, w, Options{})
		w.apply("a", "c", 0)
		w.apply("a", "d", 2)
		w.apply("a", "", 0)
		w.apply("b", "c", 0)
		w.publish()
		w.owners[[2]string{"a", "d"}] = "me"
		from := atPosition(Position{StreamSeq: 0, Sub: -1})
		for _, c := range []struct {
			filter Filter
			want   string
		}{
			{Filter{AppID: "a"}, "1 1 2 a3"},
			{Filter{AppID: "a", Kinds: []string{"chat"}}, "1 1 2"},
			{Filter{AppID: "a", Kinds: []string{"chat.usage_delta", "usage"}}, "1 2 a3"},
			{Filter{AppID: "a", Kinds: []string{"chat.orchestration.run_started"}}, "1"},
			{Filter{AppID: "a", Kinds: []string{"orchestration"}}, "1"},
			{Filter{AppID: "a", Kinds: []string{"orch", "", "usage."}}, ""},
			{Filter{AppID: "a", RunID: "c-run"}, "1"},
			{Filter{AppID: "a", ChatID: "c", RunID: "c-run"}, "1"},
			{Filter{AppID: "a", ChatID: "d", RunID: "c-run"}, ""},
			{Filter{AppID: "a", UserID: "me"}, "1 2"},
			{Filter{AppID: "a", UserID: "me", ChatID: "d"}, "1 2"},
			{Filter{AppID: "a", UserID: "nobody"}, ""},
			{Filter{AppID: "nothing"}, ""},
		} {
			r := open(t, h, c.filter, from)
			if want := strings.Fields(c.want); len(want) > 0 {
				if got := tell(read(t, r, len(want))); got != c.want {
					t.Errorf("%+v: %s", c.filter, got)
				}
			}
			quiet(t, r)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := h.Open(ctx, Filter{AppID: "a", ChatID: "d", UserID: "you"}, From{}); !errors.Is(err, ErrForeign) {
			t.Errorf("somebody else's chat: %v", err)
		}
		// Nobody's yet when the reader opens, and then somebody else's.
		r := open(t, h, Filter{AppID: "a", ChatID: "new", UserID: "you"}, From{})
		w.apply("a", "new", 0)
		w.publish()
		if frames, err := r.Next(ctx); !errors.Is(err, ErrForeign) {
			t.Errorf("%+v, %v", frames, err)
		}
	})
}

func TestReaderBridgesAStreamThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		fill(w, 3)
		h := serve(t, w, Options{RingBytes: 1})
		r := open(t, h, Filter{AppID: "a", ChatID: "c", UserID: "user-c"}, behind(0))
		set := func(away bool) {
			w.mu.Lock()
			w.away = away
			w.broken++
			w.wake()
			w.mu.Unlock()
		}
		set(true)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if frames, err := r.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("%+v, %v", frames, err)
		}
		if _, err := h.Open(ctx, Filter{AppID: "a"}, From{}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a reader was opened without a stream: %v", err)
		}
		set(false)
		fill(w, 2)
		if got := tell(read(t, r, 5)); got != numbered(1, 5) {
			t.Error(got)
		}
	})
}

func TestReadersAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := serve(t, w, Options{MaxReaders: 2})
		one := open(t, h, Filter{AppID: "a"}, From{})
		open(t, h, Filter{AppID: "a", ChatID: "c"}, From{})
		if _, err := h.Open(t.Context(), Filter{AppID: "a"}, From{}); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
		one.Close()
		one.Close()
		if _, err := one.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		open(t, h, Filter{AppID: "a"}, From{})
	})
}

// A hub that nobody watches reads nothing, and keeps nothing.
func TestIdleHubLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := serve(t, w, Options{Linger: time.Millisecond})
		r := open(t, h, Filter{AppID: "a", ChatID: "c"}, From{})
		fill(w, 5)
		read(t, r, 5)
		r.Close()
		time.Sleep(time.Second) // of the bubble's time
		s := h.Stats().Feeds[0]
		if s.Items != 0 || s.Bytes != 0 || len(h.chats.ring.lines) != 0 {
			t.Errorf("%+v, %d lines", s, len(h.chats.ring.lines))
		}
		fill(w, 5)
		if got := tell(read(t, open(t, h, Filter{AppID: "a", ChatID: "c"}, behind(3)), 7)); got != numbered(4, 10) {
			t.Error(got)
		}
	})
}

// Somebody who waits is woken by the end of the hub, and by Close.
func TestWaitingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		h := New(Options{Source: w, Numbers: w})
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan struct{})
		go func() { defer close(ran); _ = h.Run(ctx) }()
		results := make(chan error, 2)
		readers := []*Reader{open(t, h, Filter{AppID: "a"}, From{}), open(t, h, Filter{AppID: "a", ChatID: "c"}, From{})}
		for _, r := range readers {
			go func() {
				_, err := r.Next(t.Context())
				results <- err
			}()
		}
		readers[0].Close()
		if err := <-results; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		cancel()
		if err := <-results; !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		<-ran
		if _, err := h.Open(t.Context(), Filter{AppID: "a", ChatID: "c"}, From{}); err == nil {
			t.Error("a reader was opened on a hub that has ended")
		}
	})
}
