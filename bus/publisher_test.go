package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	for w := range submitters {
		wg.Go(func() {
			var last Receipt
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
				if got.Seq != 0 && last.Seq != 0 && got.Seq <= last.Seq {
					t.Errorf("%s: in group %d, the one before in %d", id, got.Seq, last.Seq)
				}
				last = got
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
}

// Submitted one after the other, commands stand in the stream in that order, and a
// group is what AppendGroup would have written.
func TestPublisherKeepsOrderAndForm(t *testing.T) {
	b := newBus(t)
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	p := b.NewPublisher(3, r, PublisherOptions{Now: func() time.Time { return time.Unix(5, 6) }})
	var want []schemas.CommandFrame
	payload := []byte("payload 0")
	for i := range 1500 { // more than one group
		f := schemas.CommandFrame{Kind: "k", AppID: "a", ID: fmt.Sprint(i), Source: "//s", Time: -5, Accepted: 1 << 60, CorrelationID: "c", TraceParent: "t", Payload: payload}
		must1(p.Submit(f))(t)
		f.Payload = bytes.Clone(payload)
		want = append(want, f)
		payload[len(payload)-1]++ // the caller's again
	}
	stop := run(t, p.Run)
	s := b.NewSource(3)
	defer s.Close()
	ctx := testContext(t)
	must1(s.Open(ctx, schemas.Checkpoint{}))(t)
	for _, n := range []int{schemas.MaxGroupCommands, 500} {
		m := must1(s.Next(ctx))(t)
		if !bytes.Equal(m.Data, schemas.AppendGroup(nil, want[:n])) {
			t.Fatalf("group %d is not as AppendGroup writes it", m.Seq)
		}
		g := must1(DecodeGroupMessage(m))(t)
		if g.Source != "//mozaiks.ai/grout/n" || g.ReplyTo != "mozaiks.v1.reply.n" || g.ID == "" || m.Header["ce-time"][0] != "1970-01-01T00:00:05.000000006Z" {
			t.Errorf("%+v %v", g, m.Header)
		}
		want = want[n:]
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := p.Submit(command("late", "")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestPublisherBoundsItsQueue(t *testing.T) {
	b := newBus(t)
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	few := b.NewPublisher(0, r, PublisherOptions{QueueCommands: 2})
	small := b.NewPublisher(0, r, PublisherOptions{QueueBytes: 1000})
	for range 2 {
		must1(few.Submit(command("a", "")))(t)
		must1(small.Submit(command("a", strings.Repeat("x", 400))))(t)
	}
	for _, p := range []*Publisher{few, small} {
		if _, err := p.Submit(command("a", strings.Repeat("x", 400))); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	}
	if _, err := few.Submit(command("a", strings.Repeat("x", schemas.MaxCommandBytes))); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestLargestCommandPassesEverywhere(t *testing.T) {
	b := newBus(t)
	answer(t, b, 0)
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	p := b.NewPublisher(0, r, PublisherOptions{})
	run(t, p.Run)
	payload := strings.Repeat("x", schemas.MaxCommandBytes-100)
	var all []*Pending
	for i := range 3 {
		all = append(all, must1(p.Submit(command(fmt.Sprint(i), payload)))(t))
	}
	for i, c := range all {
		if got, err := c.Wait(testContext(t)); err != nil || string(got.Outcome) != fmt.Sprint(i) {
			t.Errorf("%+v %v", got, err)
		}
	}
	if p.Acked() != 3 {
		t.Errorf("%d groups", p.Acked())
	}
}

func TestReceipts(t *testing.T) {
	b := newBus(t)
	b.cfg.Partitions = 2
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	stopped, cancel := context.WithCancel(testContext(t))
	cancel()

	t.Run("given up in the queue: never published", func(t *testing.T) {
		p := b.NewPublisher(0, r, PublisherOptions{})
		c := must1(p.Submit(command("never", "")))(t)
		if _, err := c.Wait(stopped); !errors.Is(err, ErrNotStored) || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		d := must1(p.Submit(command("stays", "")))(t)
		run(t, p.Run)
		<-d.stored
		m := must1(b.getMessage(testContext(t), schemas.StreamCommands, 0, schemas.GroupSubject(0)))(t)
		if g := must1(DecodeGroupMessage(*m))(t); len(g.Commands) != 1 || g.Commands[0].ID != "stays" {
			t.Errorf("%+v", g.Commands)
		}
		got, err := d.Wait(stopped)
		if err != nil || got.Seq != m.Seq || got.Outcome != nil || got.Dead {
			t.Errorf("stored without an outcome: %+v %v", got, err)
		}
		if n, size := p.QueueDepth(); n != 0 || size != 0 || r.Waiting() != 0 {
			t.Errorf("left over: %d commands, %d bytes, %d groups", n, size, r.Waiting())
		}
	})
	t.Run("dead letter", func(t *testing.T) {
		answer(t, b, 1)
		p := b.NewPublisher(1, r, PublisherOptions{})
		run(t, p.Run)
		c := must1(p.Submit(command("dead", "")))(t)
		if got, err := c.Wait(testContext(t)); err != nil || !got.Dead {
			t.Errorf("%+v %v", got, err)
		}
	})
	t.Run("the stream is full", func(t *testing.T) {
		full := openBus(t, connect(t, startServer(t, t.TempDir(), "")), Config{CommandBytes: 10_000})
		fr := must1(full.NewReplies("n"))(t)
		defer fr.Close()
		p := full.NewPublisher(0, fr, PublisherOptions{})
		run(t, p.Run)
		c := must1(p.Submit(command("big", strings.Repeat("x", 20_000))))(t)
		if _, err := c.Wait(testContext(t)); !errors.Is(err, ErrNotStored) {
			t.Error(err)
		}
		c = must1(p.Submit(command("small", "")))(t)
		<-c.stored
		if fr.Waiting() != 1 || p.Acked() != 1 {
			t.Errorf("%d groups wait, %d acked", fr.Waiting(), p.Acked())
		}
		_, _ = c.Wait(stopped)
	})
}

// oddJetStream answers a publish in ways that a healthy server does not.
type oddJetStream struct {
	jetstream.JetStream
	publish func(context.Context, *nats.Msg) (*jetstream.PubAck, error)
}

func (o *oddJetStream) PublishMsg(ctx context.Context, m *nats.Msg, _ ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return o.publish(ctx, m)
}

func TestPublishThatIsNotAcknowledged(t *testing.T) {
	b := newBus(t)
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	real := b.js
	for name, publish := range map[string]func(context.Context, *nats.Msg) (*jetstream.PubAck, error){
		"no answer": func(ctx context.Context, _ *nats.Msg) (*jetstream.PubAck, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		"duplicate": func(context.Context, *nats.Msg) (*jetstream.PubAck, error) {
			return &jetstream.PubAck{Stream: schemas.StreamCommands, Sequence: 1, Duplicate: true}, nil
		},
	} {
		b.js = &oddJetStream{JetStream: real, publish: publish}
		p := b.NewPublisher(0, r, PublisherOptions{PublishTimeout: 30 * time.Millisecond})
		stop := run(t, p.Run)
		c := must1(p.Submit(command("x", "")))(t)
		if got, err := c.Wait(testContext(t)); !errors.Is(err, ErrNotStored) || got.Seq != 0 {
			t.Errorf("%s: %+v %v", name, got, err)
		}
		_ = stop()
		if n, _ := p.QueueDepth(); n != 0 || r.Waiting() != 0 || p.Acked() != 0 {
			t.Errorf("%s: %d queued, %d groups wait, %d acked", name, n, r.Waiting(), p.Acked())
		}
	}
	// The outcome overtakes the PubAck.
	b.js = &oddJetStream{JetStream: real, publish: func(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
		if err := b.Reply(schemas.ReplySubject("n"), m.Header["ce-id"][0], [][]byte{[]byte("early")}); err != nil {
			return nil, err
		}
		for r.Waiting() > 0 && ctx.Err() == nil {
			if err := b.nc.Flush(); err != nil {
				return nil, err
			}
		}
		return &jetstream.PubAck{Stream: schemas.StreamCommands, Sequence: 9}, nil
	}}
	p := b.NewPublisher(0, r, PublisherOptions{})
	stop := run(t, p.Run)
	c := must1(p.Submit(command("x", "")))(t)
	if got, err := c.Wait(testContext(t)); err != nil || string(got.Outcome) != "early" {
		t.Errorf("%+v %v", got, err)
	}
	_ = stop()
}

func TestRunFinishesWhatIsQueued(t *testing.T) {
	for _, broken := range []bool{false, true} {
		b := newBus(t)
		r := must1(b.NewReplies("n"))(t)
		defer r.Close()
		var published atomic.Int64
		real := b.js
		b.js = &oddJetStream{JetStream: real, publish: func(ctx context.Context, m *nats.Msg) (*jetstream.PubAck, error) {
			published.Add(1)
			if broken {
				return nil, errors.New("broken")
			}
			return real.PublishMsg(ctx, m)
		}}
		p := b.NewPublisher(0, r, PublisherOptions{})
		var all []*Pending
		for range 2 * schemas.MaxGroupCommands {
			all = append(all, must1(p.Submit(command("x", "")))(t))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_ = p.Run(ctx)
		for _, c := range all {
			got, err := c.Wait(ctx)
			if broken != errors.Is(err, ErrNotStored) || broken == (got.Seq != 0) {
				t.Fatalf("broken %t: %+v %v", broken, got, err)
			}
		}
		if n, _ := p.QueueDepth(); n != 0 || r.Waiting() != 0 || published.Load() == 0 {
			t.Errorf("broken %t: %d queued, %d wait, %d published", broken, n, r.Waiting(), published.Load())
		}
	}
}

func TestRepliesInSeveralMessages(t *testing.T) {
	b := newBus(t)
	r := must1(b.NewReplies("n"))(t)
	defer r.Close()
	p := b.NewPublisher(0, r, PublisherOptions{})
	var all []*Pending
	for range 7 {
		all = append(all, must1(p.Submit(command("x", "")))(t))
	}
	run(t, p.Run)
	<-all[6].stored
	out := make([][]byte, 7)
	for i := range out {
		out[i] = bytes.Repeat([]byte{byte('a' + i)}, 300_000)
	}
	all[0].p.replies.mu.Lock()
	id := all[0].group.id
	all[0].p.replies.mu.Unlock()
	must(t, b.Reply(schemas.ReplySubject("n"), "another group", out))
	must(t, b.Reply(schemas.ReplySubject("n"), id, append(out, []byte("one too many"))))
	for i, c := range all {
		if got, err := c.Wait(testContext(t)); err != nil || !bytes.Equal(got.Outcome, out[i]) || got.Index != uint32(i) {
			t.Errorf("%d: %d bytes at %d, %v", i, len(got.Outcome), got.Index, err)
		}
	}
	if r.Waiting() != 0 {
		t.Errorf("%d groups wait", r.Waiting())
	}
}

func BenchmarkPublisher(bm *testing.B) {
	for _, size := range []int{100, 4400} {
		bm.Run(fmt.Sprintf("64 submitters, %d bytes", size), func(bm *testing.B) {
			b := openBus(bm, connect(bm, startServer(bm, bm.TempDir(), "")), Config{CommandBytes: 4 << 30})
			answer(bm, b, 0)
			r := must1(b.NewReplies("n"))(bm)
			defer r.Close()
			p := b.NewPublisher(0, r, PublisherOptions{})
			run(bm, p.Run)
			payload := strings.Repeat("x", size)
			var next atomic.Int64
			var wg sync.WaitGroup
			bm.ResetTimer()
			for range 64 {
				wg.Go(func() {
					for next.Add(1) <= int64(bm.N) {
						c, err := p.Submit(command("id", payload))
						if err != nil {
							bm.Error(err)
							return
						}
						if _, err := c.Wait(context.Background()); err != nil {
							bm.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			bm.ReportMetric(float64(bm.N)/bm.Elapsed().Seconds(), "commands/s")
			bm.ReportMetric(float64(p.Acked())/bm.Elapsed().Seconds(), "groups/s")
		})
	}
}
