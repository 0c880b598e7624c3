package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// readAll reads until so many messages are there, in pieces of at most so many and so
// large.
func readAll(t *testing.T, i *Inbox, many, most, bytes int) (list []schemas.StreamMessage) {
	t.Helper()
	ctx := testContext(t)
	for len(list) < many {
		most = min(most, many-len(list))
		got, err := i.Next(ctx, most, bytes)
		if err != nil {
			t.Fatalf("%d of %d: %v", len(list), many, err)
		}
		size := 0
		for k := range got {
			size += sizeOf(&got[k])
		}
		if len(got) == 0 || len(got) > most || size > bytes && len(got) > 1 {
			t.Fatalf("%d messages of %d bytes", len(got), size)
		}
		list = append(list, got...)
	}
	return list
}

// Every message of a partition comes once and in order, whatever happens to the consumer,
// until it is removed; then to nobody.
func TestInbox(t *testing.T) {
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	cfg := smallConfig()
	cfg.Partitions = 4
	b := openBus(t, connect(t, s), cfg)
	js := must1(jetstream.New(connectAs(t, s, userPlatform, platformPassword)))(t)
	const many = 400
	want := map[int][]string{}
	for n := range many {
		app := fmt.Sprint("app-", n%13)
		m := nats.NewMsg(schemas.CommandSubject(app, "usage.void"))
		m.Data = fmt.Appendf(nil, "%d", n)
		if n%7 == 0 { // a header of the server's own, and no data, is a message all the same
			m.Header.Set("Status", []string{"100", "404", "409"}[n%3])
			m.Header.Set("N", string(m.Data))
			m.Data = nil
		}
		must1(js.PublishMsg(testContext(t), m))(t)
		p := schemas.PartitionOf(app, cfg.Partitions)
		want[p] = append(want[p], fmt.Sprint(n))
	}
	for p := range cfg.Partitions {
		i := b.NewInbox(p)
		half := len(want[p]) / 2
		list := readAll(t, i, half, half, 1<<20)
		i.drop() // as when the server loses it
		list = append(list, readAll(t, i, len(want[p])-half, 10, 3*300)...)
		for k, m := range list {
			text := string(m.Data)
			if text == "" {
				text = m.Header["N"][0]
			}
			if text != want[p][k] {
				t.Fatalf("partition %d: %q comes as number %d, not %q", p, text, k, want[p][k])
			}
		}
		if i.Pending() != 0 || !i.Reading() || i.Created() == 0 {
			t.Errorf("partition %d: %d wait, reading %v", p, i.Pending(), i.Reading())
		}
		must(t, i.Remove(testContext(t), i.Created(), list[half-1].Seq))
		again := b.NewInbox(p)
		if got := readAll(t, again, len(list)-half, many, 1<<20); got[0].Seq != list[half].Seq || len(got) != len(list)-half {
			t.Errorf("partition %d: %d are left, from %d on", p, len(got), got[0].Seq)
		}
		must(t, again.Remove(testContext(t), again.Created(), list[len(list)-1].Seq))
		ended, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
		if got, err := again.Next(ended, 1, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("partition %d: %v, %v are left", p, got, err)
		}
		cancel()
		i.Close()
		again.Close()
	}
	if info := must1(must1(b.js.Stream(testContext(t), schemas.StreamIn))(t).Info(testContext(t)))(t); info.State.Msgs != 0 {
		t.Errorf("%d messages are left", info.State.Msgs)
	}
}

// What was read of a stream is not removed from the one that follows it, and a list is of
// one stream.
func TestInboxOfAStreamMadeAnew(t *testing.T) {
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	nc := connect(t, s)
	b := openBus(t, nc, smallConfig())
	js := must1(jetstream.New(connectAs(t, s, userPlatform, platformPassword)))(t)
	publish := func(many int) {
		for range many {
			must1(js.Publish(testContext(t), schemas.CommandSubject("a", "usage.void"), []byte("{}")))(t)
		}
	}
	publish(5)
	i := b.NewInbox(0)
	defer i.Close()
	list := readAll(t, i, 4, 4, 1<<20)
	was, through := i.Created(), list[3].Seq
	rest, err := i.Next(testContext(t), 2, 1)
	if err != nil || len(rest) != 1 {
		t.Fatal(rest, err)
	}
	i.kept = &rest[0]

	must(t, b.js.DeleteStream(testContext(t), schemas.StreamIn))
	openBus(t, nc, smallConfig())
	must(t, i.Remove(testContext(t), was, through-1))
	i.drop() // as it does when it hears nothing any more
	if rest, err = i.Next(testContext(t), 2, 1<<20); err != nil || len(rest) != 1 || i.Created() != was {
		t.Fatal(rest, err)
	}
	ended, cancel := context.WithTimeout(testContext(t), 200*time.Millisecond)
	defer cancel()
	if rest, err = i.Next(ended, 2, 1<<20); len(rest) > 0 || i.Created() == was {
		t.Fatal(rest, err)
	}
	publish(3)
	must(t, i.Remove(testContext(t), was, through))
	if list = readAll(t, i, 3, 3, 1<<20); list[0].Seq != 1 {
		t.Fatalf("the new stream begins at %d", list[0].Seq)
	}
	if left := must1(must1(b.js.Stream(testContext(t), schemas.StreamIn))(t).Info(testContext(t)))(t).State.Msgs; left != 3 {
		t.Errorf("%d messages are left of 3", left)
	}
	must(t, i.Remove(testContext(t), i.Created(), 3))
}

// The largest messages come one by one, and all of them.
func TestInboxTakesLargeMessages(t *testing.T) {
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	b := openBus(t, connect(t, s), smallConfig())
	js := must1(jetstream.New(connectAs(t, s, userPlatform, platformPassword)))(t)
	for range 5 {
		m := nats.NewMsg(schemas.CommandSubject("a", "usage.void"))
		m.Data = make([]byte, schemas.MaxPublicBytes)
		m.Header.Set("X", strings.Repeat("x", 60<<10))
		must1(js.PublishMsg(testContext(t), m))(t)
	}
	i := b.NewInbox(0)
	defer i.Close()
	for n, m := range readAll(t, i, 5, 500, 4<<20) {
		if len(m.Data) != schemas.MaxPublicBytes || m.Seq != uint64(n+1) {
			t.Errorf("%d bytes at %d", len(m.Data), m.Seq)
		}
	}
}

// Commands that are submitted together stand side by side in one group, whoever else
// submits meanwhile; and what fits into no group is refused.
func TestSubmitAll(t *testing.T) {
	b := newBus(t)
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	p := b.NewPublisher(0, r, PublisherOptions{})
	letter := schemas.CommandFrame{Kind: schemas.FileLetter.Name, ID: "letter", Source: schemas.SourceIn, Payload: make([]byte, schemas.MaxLetterBytes-1024)}
	if _, err := p.SubmitAll([]schemas.CommandFrame{command("a", strings.Repeat("x", schemas.MaxGroupBytes))}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := p.SubmitAll([]schemas.CommandFrame{letter, letter}); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if got, err := p.SubmitAll(nil); got != nil || err != nil {
		t.Error(got, err)
	}
	const units, size = 60, 90
	total := 0
	var submitting sync.WaitGroup
	submitting.Go(func() {
		for n := range units {
			var unit []schemas.CommandFrame
			for i := range size {
				unit = append(unit, command(fmt.Sprintf("u%d-%d", n, i), strings.Repeat("x", n*100)))
			}
			if _, err := p.SubmitAll(unit); err != nil {
				t.Error(err)
			}
			if n%20 == 0 {
				if _, err := p.SubmitAll([]schemas.CommandFrame{letter}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	submitting.Go(func() {
		for n := range 3000 {
			if _, err := p.Submit(command(fmt.Sprint("s", n), "")); err != nil {
				t.Error(err)
			}
		}
	})
	submitting.Wait()
	if n, bytes := p.Submitted(); n != 3000 || bytes == 0 {
		t.Errorf("%d commands of %d bytes were submitted by themselves", n, bytes)
	}
	run(t, p.Run)
	s := b.NewSource(0)
	defer s.Close()
	must1(s.Open(testContext(t), schemas.Checkpoint{}))(t)
	for total < units*size+3000+3 {
		m := must1(s.Next(testContext(t)))(t)
		g := must1(DecodeGroupMessage(m))(t)
		total += len(g.Commands)
		open, next := "", 0
		for _, c := range g.Commands {
			unit, number, ok := strings.Cut(c.ID, "-")
			if !ok {
				if open != "" {
					t.Fatalf("%s stands inside of unit %s", c.ID, open)
				}
				continue
			}
			if open == "" {
				open, next = unit, 0
			}
			if unit != open || number != fmt.Sprint(next) {
				t.Fatalf("%s stands where %s-%d should", c.ID, open, next)
			}
			if next++; next == size {
				open = ""
			}
		}
		if open != "" {
			t.Fatalf("unit %s is cut", open)
		}
	}
	eventually(t, "nobody waits", func() bool { n, size := p.QueueDepth(); return n == 0 && size == 0 })
}

// Confirmed tells of the PubAck and leaves the outcome to Wait.
func TestConfirmed(t *testing.T) {
	b := newBus(t)
	answer(t, b, 0)
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	p := b.NewPublisher(0, r, PublisherOptions{})
	unit := must1(p.SubmitAll([]schemas.CommandFrame{command("1", ""), command("2", "")}))(t)
	ended, cancel := context.WithCancel(testContext(t))
	cancel()
	if err := unit[0].Confirmed(ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	run(t, p.Run)
	must(t, unit[0].Confirmed(testContext(t)))
	for i, c := range unit {
		if got, err := c.Wait(testContext(t)); err != nil || string(got.Outcome) != fmt.Sprint(i+1) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	p.Abort()
	eventually(t, "a publisher that was aborted fails what it takes", func() bool {
		unit, err := p.SubmitAll([]schemas.CommandFrame{command("3", "")})
		return err != nil || unit[0].Confirmed(testContext(t)) != nil
	})
}
