package bus

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"grout/schemas"
)

// The server's partition of an app is the one that accept computes.
func TestPartitionOfCommands(t *testing.T) {
	for _, partitions := range []int{1, 2, 4, 7, 64} {
		s := startServer(t, t.TempDir(), "127.0.0.1:0")
		cfg := smallConfig()
		cfg.Partitions = partitions
		b := openBus(t, connect(t, s), cfg)
		nc := connectAs(t, s, userPlatform, platformPassword)
		stream := must1(b.js.Stream(testContext(t), schemas.StreamIn))(t)
		old := must1(nc.JetStream())(t)
		rapid.Check(t, func(r *rapid.T) {
			app := rapid.OneOf(rapid.StringMatching(`[a-z0-9_.-]{1,20}`), rapid.StringN(1, 20, 60)).Draw(r, "app")
			kind := rapid.SampledFrom([]string{"usage.ingest", "x", "a.b.c.d"}).Draw(r, "kind")
			ack, err := old.Publish(schemas.CommandSubject(app, kind), nil)
			if err != nil {
				r.Fatal(err)
			}
			m, err := stream.GetMsg(testContext(t), ack.Sequence)
			if err != nil {
				r.Fatal(err)
			}
			want := fmt.Sprintf("mozaiks.v1.in.platform.%d.%s.%s", schemas.PartitionOf(app, partitions), schemas.EscapeToken(app), kind)
			if m.Subject != want {
				r.Fatalf("stored as %s, not %s", m.Subject, want)
			}
		})
		s.Shutdown()
	}
}

// A flood fills MOZAIKS_IN and nothing else: its publisher is told, and grout's own log
// takes what it took.
func TestFloodIsRefused(t *testing.T) {
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	cfg := smallConfig()
	cfg.InBytes = 4 << 20
	b := openBus(t, connect(t, s), cfg)
	nc := connectAs(t, s, userPlatform, platformPassword)
	js := must1(jetstream.New(nc))(t)
	subject := schemas.CommandSubject("app", "usage.ingest")
	stored, refused := 0, 0
	for range 64 {
		_, err := js.Publish(testContext(t), subject, make([]byte, 256<<10))
		var api *jetstream.APIError
		switch {
		case err == nil:
			stored++
		case errors.As(err, &api) && strings.Contains(api.Description, "maximum bytes"):
			refused++
		default:
			t.Fatal(err)
		}
	}
	if stored == 0 || stored > 16 || refused != 64-stored {
		t.Errorf("%d stored, %d refused", stored, refused)
	}
	if _, err := b.js.Publish(testContext(t), schemas.GroupSubject(0), make([]byte, 1<<20)); err != nil {
		t.Errorf("grout's own log: %v", err)
	}
	in := must1(b.js.Stream(testContext(t), schemas.StreamIn))(t)
	must(t, in.Purge(testContext(t), jetstream.WithPurgeSequence(5)))
	if _, err := js.Publish(testContext(t), subject, nil); err != nil {
		t.Errorf("after four were taken out: %v", err)
	}
}

// With a window for duplicates the second of two commands would be lost.
func TestInHasNoWindowForDuplicates(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // also once it is read back
		s := startServer(t, dir, "127.0.0.1:0")
		b := openBus(t, connect(t, s), smallConfig())
		c := must1(b.js.Stream(testContext(t), schemas.StreamIn))(t).CachedInfo().Config
		if c.Duplicates != 0 || c.Discard != jetstream.DiscardNew || c.MaxBytes <= 0 || c.MaxAge != 0 || c.AllowRollup || c.AllowMsgTTL || c.AllowAtomicPublish || c.AllowMsgSchedules || c.AllowMsgCounter || c.AllowBatchPublish || !c.DenyDelete || c.DenyPurge {
			t.Errorf("%+v", c)
		}
		nc := connectAs(t, s, userPlatform, platformPassword)
		old := must1(nc.JetStream())(t)
		for range 2 {
			a := must1(old.Publish(schemas.CommandSubject("app", "x"), nil, nats.MsgId("1")))(t)
			if a.Duplicate {
				t.Error("the second was taken for a duplicate")
			}
		}
		s.Shutdown()
	}
}

// Another number of partitions gives new commands their place; a source that would bring
// something is refused.
func TestSettingsOfIn(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	nc := connect(t, s)
	openBus(t, nc, smallConfig())
	cfg := smallConfig()
	cfg.Partitions = 3
	b := openBus(t, nc, cfg)
	in := must1(b.js.Stream(testContext(t), schemas.StreamIn))(t).CachedInfo().Config
	if _, want := schemas.InTransform(3); in.SubjectTransform.Destination != want {
		t.Errorf("%+v", in.SubjectTransform)
	}
	for what, change := range map[string]func(*jetstream.StreamConfig){
		"source":      func(c *jetstream.StreamConfig) { c.Sources[0].FilterSubject = "mozaiks.v1.dlq.>" },
		"rollup":      func(c *jetstream.StreamConfig) { c.AllowRollup = true },
		"discard":     func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"no source":   func(c *jetstream.StreamConfig) { c.Sources = nil },
		"message age": func(c *jetstream.StreamConfig) { c.AllowMsgTTL = true },
	} {
		s := startServer(t, t.TempDir(), "")
		nc := connect(t, s)
		b := openBus(t, nc, smallConfig())
		c := must1(b.js.Stream(testContext(t), schemas.StreamIn))(t).CachedInfo().Config
		change(&c)
		must1(b.js.UpdateStream(testContext(t), c))(t)
		if _, err := Open(testContext(t), nc, smallConfig()); err == nil || !strings.Contains(err.Error(), schemas.StreamIn) {
			t.Errorf("%s: %v", what, err)
		}
		s.Shutdown()
	}
}
