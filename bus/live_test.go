package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

func publishFacts(t *testing.T, b *Bus, app, chat string, n, size int) {
	t.Helper()
	for i := range n {
		m := &nats.Msg{Subject: schemas.FactSubjectOf(app, "orchestration.run_started", chat), Data: fmt.Appendf(nil, "%*d", size, i)}
		must1(b.js.PublishMsg(testContext(t), m))(t)
	}
}

func TestReplayOfFacts(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	list, left, err := b.ReplayFacts(ctx, schemas.FactsOfChat("a", "c"), 0, 10, 1<<20)
	if err != nil || len(list) != 0 || left != 0 {
		t.Fatalf("an empty stream gives %d, %d, %v", len(list), left, err)
	}
	const odd = `c"\ .*>%é`
	publishFacts(t, b, "a", odd, 30, 100)
	publishFacts(t, b, "a", "d", 5, 100)
	publishFacts(t, b, "b", odd, 5, 100)
	publishFacts(t, b, "a", odd, 30, 100_000)
	chat := schemas.FactsOfChat("a", odd)
	for _, c := range []struct {
		subject         string
		from            uint64
		messages, bytes int
		want, left      int
	}{
		{chat, 0, 10, 1 << 20, 10, 50},
		{chat, 21, 100, 1, 1, 39},
		{chat, 31, 100, 1, 1, 29},
		{chat, 41, 3, 1 << 20, 3, 27},
		{chat, 41, 100, 250_000, 3, 27},
		{chat, 61, 100, 1 << 20, 10, 0},
		{chat, 71, 10, 1 << 20, 0, 0},
		{chat, 1 << 40, 10, 1 << 20, 0, 0},
		{schemas.FactsOfApp("a"), 31, 100, 1 << 20, 5 + 11, 19},
		{schemas.FactsOfApp("b"), 1, 100, 1 << 20, 5, 0},
	} {
		list, left, err := b.ReplayFacts(ctx, c.subject, c.from, c.messages, c.bytes)
		must(t, err)
		if len(list) != c.want || int(left) != c.left {
			t.Errorf("%+v: %d messages, %d left", c, len(list), left)
		}
		before := c.from
		for _, m := range list {
			app, kind, of, ok := schemas.FactSubjectTokens(m.Subject)
			if !ok || kind != "orchestration.run_started" || of == "" || m.Seq < before || m.Time.IsZero() || app != "a" && app != "b" {
				t.Errorf("%+v: message %d on %s", c, m.Seq, m.Subject)
			}
			before = m.Seq + 1
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := b.ReplayFacts(gone, chat, 1, 1, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestTailOfFacts(t *testing.T) {
	b := newBus(t)
	ctx := testContext(t)
	publishFacts(t, b, "a", "c", 10, 10)
	tail, err := b.TailFacts(ctx, schemas.SubjectsChatFacts, 4)
	must(t, err)
	defer tail.Close()
	must1(b.js.Publish(ctx, schemas.FactSubject("a", "usage.recorded"), []byte("not about a chat")))(t)
	publishFacts(t, b, "a", "c", pullMessages+10, 10) // more than one pull
	next := uint64(5)
	for next < 11+1+pullMessages+10 {
		list, err := tail.Next(ctx)
		must(t, err)
		for _, m := range list {
			if next == 11 {
				next++ // the one about no chat
			}
			if m.Seq != next || !strings.HasPrefix(m.Subject, "mozaiks.v1.evt.a.orchestration.") {
				t.Fatalf("message %d on %s comes in the place of %d", m.Seq, m.Subject, next)
			}
			next++
		}
	}
	_, first, last, err := b.FactsState(ctx)
	if must(t, err); first != 1 || last != next-1 {
		t.Errorf("the stream holds %d to %d", first, last)
	}
	// A consumer that is gone, as with its server or its stream, is no silence.
	names := must1(b.js.Stream(ctx, schemas.StreamFacts))(t).ConsumerNames(ctx)
	for name := range names.Name() {
		must(t, must1(b.js.Stream(ctx, schemas.StreamFacts))(t).DeleteConsumer(ctx, name))
	}
	if list, err := tail.Next(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("%d messages, %v", len(list), err)
	}
}

func TestTailEndsWithItsConnection(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	b := openBus(t, connect(t, s), smallConfig())
	tail, err := b.TailFacts(testContext(t), schemas.SubjectsFacts, 0)
	must(t, err)
	defer tail.Close()
	s.Shutdown()
	if _, err := tail.Next(testContext(t)); err == nil {
		t.Error("it goes on")
	}
	var api *jetstream.APIError
	if _, err := b.TailFacts(testContext(t), schemas.SubjectsFacts, 0); err == nil || errors.As(err, &api) {
		t.Errorf("%v", err)
	}
}
