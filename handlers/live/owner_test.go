package live

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// lateNumbers shows a chat later than the stream has facts of it.
type lateNumbers struct {
	*world
	late atomic.Int64 // how many more answers do not know any chat
}

func (n *lateNumbers) Series(ctx context.Context, app, chat string) (Series, error) {
	s, err := n.world.Series(ctx, app, chat)
	if chat != "" && n.late.Add(-1) >= 0 {
		s.Last, s.Owner = 0, ""
	}
	return s, err
}

// A fact that is published before the store shows its chat is its owner's all the same. A
// chat that the store does not know in the end is nobody's.
func TestOwnerOfANewChatIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		filter  Filter
		late    int64
		foreign bool
	}{
		{Filter{AppID: "a", ChatID: "new", UserID: "user-new"}, ownerTries - 1, false},
		{Filter{AppID: "a", UserID: "user-new"}, ownerTries - 1, false},
		{Filter{AppID: "a", ChatID: "new", UserID: "user-new"}, 1000, true},
		{Filter{AppID: "a", ChatID: "new", UserID: "you"}, ownerTries - 1, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			n := &lateNumbers{world: w}
			h := New(Options{Source: w, Numbers: n})
			running, stop := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() { defer close(done); _ = h.Run(running) }()
			defer func() { stop(); <-done }()
			r := open(t, h, c.filter, From{})
			n.late.Store(c.late)
			w.apply("a", "new", 2)
			w.publish()
			if !c.foreign {
				if got := tell(read(t, r, 2)); got != "1 2" {
					t.Errorf("%+v: %s", c.filter, got)
				}
				return
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if frames, err := r.Next(ctx); !errors.Is(err, ErrForeign) {
				t.Errorf("%+v: %+v, %v", c.filter, frames, err)
			}
		})
	}
}
