package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// stream reads the facts of MOZAIKS_EVT, in order, and counts its markers.
func relayedFacts(t *testing.T, b *Bus) (facts []string, markers int) {
	t.Helper()
	ctx := testContext(t)
	stream := must1(b.js.Stream(ctx, schemas.StreamFacts))(t)
	st := stream.CachedInfo().State
	for seq := max(st.FirstSeq, 1); seq <= st.LastSeq; seq++ {
		m, err := b.getMessage(ctx, schemas.StreamFacts, seq, "")
		must(t, err)
		switch {
		case m == nil:
		case strings.HasPrefix(m.Subject, "mozaiks.v1.relay."):
			markers++
		default:
			facts = append(facts, strings.TrimRight(string(m.Data), "\x00"))
		}
	}
	return facts, markers
}

func wantFacts(t *testing.T, b *Bus, n int) {
	t.Helper()
	facts, markers := relayedFacts(t, b)
	if len(facts) != n || markers > 1 {
		t.Fatalf("%d facts, want %d; %d markers", len(facts), n, markers)
	}
	for i, f := range facts {
		if f != fmt.Sprintf(`{"row":%d}`, i) {
			t.Fatalf("fact %d is %s", i, f)
		}
	}
}

func (o *memoryOutbox) caughtUp() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.rows) == 0 || o.state.After == o.rows[len(o.rows)-1].At
}

func relayAll(t *testing.T, b *Bus, o *memoryOutbox, opts RelayOptions) {
	t.Helper()
	stop := run(t, b.NewRelay(schemas.DestFacts, 0, o, opts).Run)
	eventually(t, "the relay has caught up", o.caughtUp)
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestRelayPublishesInOrderOnce(t *testing.T) {
	b := newBus(t)
	o := newMemoryOutbox()
	o.add(1)
	relayAll(t, b, o, RelayOptions{})
	o.add(2500) // more than two batches
	r := b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{})
	stop := run(t, r.Run)
	eventually(t, "the relay has caught up", o.caughtUp)
	o.add(1) // wakes it
	eventually(t, "the relay has caught up", o.caughtUp)
	_ = stop()
	wantFacts(t, b, 2502)
	if st := r.Stats(); st != (RelayStats{Facts: 2501, Batches: 4}) {
		t.Errorf("%+v", st)
	}
	st := o.relayed()
	m := must1(b.getMessage(testContext(t), schemas.StreamFacts, 0, schemas.MarkerSubject(schemas.DestFacts, 0)))(t)
	if want := `{"epoch":0,"seq":834,"index":2,"n":0}`; m.Seq != st.MarkerSeq || string(m.Data) != want {
		t.Errorf("marker %d is %s, want %d %s", m.Seq, m.Data, st.MarkerSeq, want)
	}
}

func TestRelayCutsBatchesBySize(t *testing.T) {
	b := newBus(t)
	o := newMemoryOutbox()
	o.addSized(3, 8<<20-100_000)
	o.addSized(12, 1<<20)
	r := b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{})
	stop := run(t, r.Run)
	eventually(t, "the relay has caught up", o.caughtUp)
	_ = stop()
	wantFacts(t, b, 15)
	if st := r.Stats(); st.Errors != 0 || st.Batches != 5 {
		t.Errorf("%+v", st)
	}
}

func TestRelayToDeadLetters(t *testing.T) {
	b := newBus(t)
	o := newMemoryOutbox()
	o.add(2)
	for i := range o.rows {
		o.rows[i].Subject = schemas.DeadLetterSubject("app", "usage.ingest")
		o.rows[i].Header = map[string][]string{"X": {"y"}}
	}
	stop := run(t, b.NewRelay(schemas.DestDeadLetters, 2, o, RelayOptions{}).Run)
	eventually(t, "the relay has caught up", o.caughtUp)
	_ = stop()
	m := must1(b.getMessage(testContext(t), schemas.StreamDeadLetters, 2, ""))(t)
	if m.Subject != "mozaiks.v1.dlq.app.usage.ingest" || m.Header["X"][0] != "y" || len(o.rows[0].Header) != 1 {
		t.Errorf("%+v, outbox %v", m, o.rows[0].Header)
	}
}

// killed ends a relay at a fault point as a kill would: nothing after it happens.
func killed(t *testing.T, b *Bus, o *memoryOutbox, point string, nth int) {
	t.Helper()
	type death struct{}
	n := 0
	b.cfg.Fault = func(p string) {
		if p == point {
			if n++; n == nth {
				panic(death{})
			}
		}
	}
	defer func() {
		b.cfg.Fault = func(string) {}
		if p := recover(); p != (death{}) {
			t.Errorf("the relay ended with %v", p)
		}
	}()
	_ = b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{}).Run(testContext(t))
}

func TestRelayKilledAnywhereRepeatsNothing(t *testing.T) {
	for _, deaf := range []bool{false, true} { // true: notes made before are lost as well
		b := newBus(t)
		o := newMemoryOutbox()
		o.deaf = deaf
		o.add(2100)
		killed(t, b, o, "relay.batch", 1)
		killed(t, b, o, "relay.committed", 1)
		killed(t, b, o, "relay.batch", 1)
		killed(t, b, o, "relay.committed", 1)
		o.deaf = false
		relayAll(t, b, o, RelayOptions{})
		wantFacts(t, b, 2100)
	}
}

// A commit whose answer does not come in time may be in the stream or not: the
// marker tells.
func TestRelayUnknownOutcome(t *testing.T) {
	b := newBus(t)
	o := newMemoryOutbox()
	o.add(50)
	r := b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{PublishTimeout: 50 * time.Microsecond})
	b.cfg.Fault = func(p string) {
		switch p {
		case "relay.batch":
			r.opts.PublishTimeout *= 4 // the hook runs where the relay runs; it waits longer after each failure
		case "relay.committed":
			r.opts.PublishTimeout = 50 * time.Microsecond
		}
		if len(o.rows) < 300 {
			o.add(50)
		}
	}
	stop := run(t, r.Run)
	eventually(t, "the relay has caught up", o.caughtUp)
	_ = stop()
	b.cfg.Fault = func(string) {}
	wantFacts(t, b, len(o.rows))
	if r.Stats().Errors == 0 {
		t.Error("every answer came in time")
	}
}

func TestRelayMarkerExpired(t *testing.T) {
	for what, harm := range map[string]func(*testing.T, *Bus, jetstream.Stream){
		"everything expired": func(t *testing.T, _ *Bus, s jetstream.Stream) {
			must(t, s.Purge(testContext(t)))
		},
		"the marker alone is gone": func(t *testing.T, _ *Bus, s jetstream.Stream) {
			must(t, s.Purge(testContext(t), jetstream.WithPurgeSubject("mozaiks.v1.relay.>")))
		},
	} {
		b := newBus(t)
		o := newMemoryOutbox()
		o.add(5)
		relayAll(t, b, o, RelayOptions{})
		before, _ := relayedFacts(t, b)
		stream := must1(b.js.Stream(testContext(t), schemas.StreamFacts))(t)
		harm(t, b, stream)
		kept, _ := relayedFacts(t, b)
		o.add(2)
		relayAll(t, b, o, RelayOptions{})
		facts, markers := relayedFacts(t, b)
		if len(before) != 5 || len(facts) != len(kept)+2 || facts[len(facts)-1] != `{"row":6}` || facts[len(facts)-2] != `{"row":5}` || markers != 1 {
			t.Errorf("%s: %v, %d markers", what, facts, markers)
		}
	}
}

func TestRelayRenewsItsMarker(t *testing.T) {
	b := newBus(t)
	o := newMemoryOutbox()
	o.add(1)
	stop := run(t, b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{RenewEvery: 20 * time.Millisecond}).Run)
	eventually(t, "the marker was renewed", func() bool { return o.relayed().MarkerSeq > 5 })
	o.add(1)
	eventually(t, "the relay has caught up", o.caughtUp)
	_ = stop()
	wantFacts(t, b, 2)
}

func TestRelayStopsByName(t *testing.T) {
	ends := func(t *testing.T, b *Bus, o *memoryOutbox, name string) {
		t.Helper()
		wantGuard(t, name, b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{Epoch: 4}).Run(testContext(t)))
	}
	t.Run("the stream lost its tail", func(t *testing.T) {
		dir, older := t.TempDir(), t.TempDir()
		o := newMemoryOutbox()
		srv := startServer(t, dir, "")
		b := openBus(t, connect(t, srv), smallConfig())
		o.add(5)
		relayAll(t, b, o, RelayOptions{})
		srv.Shutdown()
		copyDir(t, dir, older)
		srv = startServer(t, dir, "")
		b = openBus(t, connect(t, srv), smallConfig())
		o.add(5)
		relayAll(t, b, o, RelayOptions{})
		srv.Shutdown()

		b = openBus(t, connect(t, startServer(t, older, "")), smallConfig())
		o.add(1)
		ends(t, b, o, RelayTailLost)
		// Other partitions have written on: only the marker tells.
		for range 20 {
			must1(b.js.Publish(testContext(t), "mozaiks.v1.evt.other.x", nil))(t)
		}
		ends(t, b, o, RelayTailLost)
	})
	t.Run("recreated", func(t *testing.T) {
		b := newBus(t)
		o := newMemoryOutbox()
		o.add(5)
		relayAll(t, b, o, RelayOptions{})
		must(t, b.js.DeleteStream(testContext(t), schemas.StreamFacts))
		must1(Open(testContext(t), b.nc, smallConfig()))(t)
		ends(t, b, o, RelayTailLost)
	})
	t.Run("a newer epoch", func(t *testing.T) {
		b := newBus(t)
		must1(b.js.Publish(testContext(t), "mozaiks.v1.relay.evt.0", []byte(`{"epoch":5,"seq":1,"index":0,"n":0}`)))(t)
		ends(t, b, newMemoryOutbox(), RelayEpoch)
	})
	t.Run("not a marker", func(t *testing.T) {
		b := newBus(t)
		must1(b.js.Publish(testContext(t), "mozaiks.v1.relay.evt.0", []byte(`{"epoch":5}`)))(t)
		ends(t, b, newMemoryOutbox(), RelayMarker)
	})
	t.Run("the outbox fails", func(t *testing.T) {
		o := newMemoryOutbox()
		o.fail = os.ErrClosed
		if err := newBus(t).NewRelay(schemas.DestFacts, 0, o, RelayOptions{}).Run(testContext(t)); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
}

func TestTwoRelaysRacing(t *testing.T) {
	b := newBus(t)
	one, two := newMemoryOutbox(), newMemoryOutbox() // two workers that both believe they own the partition
	errs := make(chan error, 2)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	for _, o := range []*memoryOutbox{one, two} {
		go func() { errs <- b.NewRelay(schemas.DestFacts, 0, o, RelayOptions{}).Run(ctx) }()
	}
	var ended error
	for n := 0; ended == nil; n++ {
		if n > 5000 {
			t.Fatal("both went on")
		}
		one.add(1)
		two.add(1)
		select {
		case ended = <-errs:
		case <-time.After(time.Millisecond):
		}
	}
	wantGuard(t, RelayFenced, ended)
	one.add(1)
	two.add(1)
	eventually(t, "the other goes on", func() bool { return one.caughtUp() || two.caughtUp() })
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	wantFacts(t, b, len(one.rows))
}

func TestOpenRefusesUnsafeStreams(t *testing.T) {
	unsafe := map[string]func(*jetstream.StreamConfig){
		"storage":   func(c *jetstream.StreamConfig) { c.Storage, c.MaxBytes = jetstream.MemoryStorage, 1<<20 },
		"subjects":  func(c *jetstream.StreamConfig) { c.Subjects = []string{"mozaiks.v1.grp.>", "other"} },
		"discard":   func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardOld },
		"retention": func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy },
		"max_age":   func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"by number": func(c *jetstream.StreamConfig) { c.MaxMsgs = 5 },
		"republishes": func(c *jetstream.StreamConfig) {
			c.RePublish = &jetstream.RePublish{Source: "mozaiks.v1.grp.>", Destination: "x.>"}
		},
		"rollups":     func(c *jetstream.StreamConfig) { c.AllowRollup = true },
		"atomic":      func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true },
		"acknowledge": func(c *jetstream.StreamConfig) { c.NoAck = true },
		"deny_purge":  func(c *jetstream.StreamConfig) { c.DenyPurge = true },
	}
	b := newBus(t)
	for what, change := range unsafe {
		cfg := b.streams()[0]
		change(&cfg)
		_ = b.js.DeleteStream(testContext(t), cfg.Name)
		must1(b.js.CreateStream(testContext(t), cfg))(t)
		if _, err := Open(testContext(t), b.nc, smallConfig()); err == nil || !strings.Contains(err.Error(), "MOZAIKS_CMD") || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, b.js.DeleteStream(testContext(t), schemas.StreamCommands))
	cfg := smallConfig()
	must1(Open(testContext(t), b.nc, cfg))(t)
	cfg.CommandBytes, cfg.FactAge = 123<<20, time.Hour
	must1(Open(testContext(t), b.nc, cfg))(t)
	if c := must1(b.js.Stream(testContext(t), schemas.StreamCommands))(t).CachedInfo().Config; c.MaxBytes != 123<<20 {
		t.Errorf("MaxBytes is %d", c.MaxBytes)
	}
	if c := must1(b.js.Stream(testContext(t), schemas.StreamFacts))(t).CachedInfo().Config; c.MaxAge != time.Hour {
		t.Errorf("MaxAge is %s", c.MaxAge)
	}
}

func TestServerStart(t *testing.T) {
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	address := strings.TrimPrefix(s.ClientURL(), "nats://")
	if _, err := StartServer(ServerOptions{Dir: t.TempDir(), Listen: address}); err == nil || !strings.Contains(err.Error(), address) {
		t.Errorf("a taken port: %v", err)
	}
	for _, bad := range []string{"nowhere", "127.0.0.1:x", "127.0.0.1:70000"} {
		if _, err := StartServer(ServerOptions{Dir: t.TempDir(), Listen: bad}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if _, err := StartServer(ServerOptions{}); err == nil {
		t.Error("no directory was taken")
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	if _, err := StartServer(ServerOptions{Dir: file}); err == nil {
		t.Error("a file was taken for a directory")
	}
	quiet := startServer(t, t.TempDir(), "")
	if quiet.ClientURL() != "" {
		t.Errorf("listens on %s", quiet.ClientURL())
	}
	quiet.Shutdown()
	if _, err := quiet.Connect("late"); err == nil {
		t.Error("connected to a server that is down")
	}
}

// suite is what must hold on any NATS, embedded or not: the whole path of a command.
func suite(t *testing.T, connect func(*testing.T) *nats.Conn) { suiteOf(t, smallConfig(), connect) }

func suiteOf(t *testing.T, cfg Config, connect func(*testing.T) *nats.Conn) {
	b := openBus(t, connect(t), cfg)
	again := openBus(t, connect(t), cfg)
	answer(t, again, 0)
	r := must1(b.NewReplies("suite"))(t)
	defer r.Close()
	p := b.NewPublisher(0, r, PublisherOptions{})
	run(t, p.Run)
	c := must1(p.Submit(command("one", "payload")))(t)
	got, err := c.Wait(testContext(t))
	if err != nil || string(got.Outcome) != "one" {
		t.Fatalf("%+v %v", got, err)
	}
	_, at := open(t, again, 0, 1)
	s := b.NewSource(0)
	defer s.Close()
	must1(s.Open(testContext(t), at))(t)
	at.Digest[0]++
	_, err = b.NewSource(0).Open(testContext(t), at)
	wantGuard(t, StreamDiverged, err)
	o := newMemoryOutbox()
	o.add(10)
	killed(t, openBus(t, connect(t), cfg), o, "relay.committed", 1) // a bus that nothing else runs on
	relayAll(t, again, o, RelayOptions{})
	wantFacts(t, b, 10)
}

func TestSuiteEmbedded(t *testing.T) {
	s := startServer(t, t.TempDir(), "")
	suite(t, func(t *testing.T) *nats.Conn { return connect(t, s) })
}

func TestSuiteTCP(t *testing.T) {
	s := startServer(t, t.TempDir(), "127.0.0.1:0")
	suite(t, func(t *testing.T) *nats.Conn { return connectAs(t, s, userGrout, s.password) })
}
