package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// publishRaw puts messages on a partition's subject, whatever their form.
func publishRaw(t *testing.T, b *Bus, partition, n, size int) {
	t.Helper()
	for i := range n {
		data := append(fmt.Appendf(nil, "m%d ", i), make([]byte, size)...)
		must1(b.js.Publish(testContext(t), schemas.GroupSubject(partition), data))(t)
	}
}

func next(t *testing.T, s *Source, seqs ...uint64) schemas.Checkpoint {
	t.Helper()
	var at schemas.Checkpoint
	for _, seq := range seqs {
		m, err := s.Next(testContext(t))
		if err != nil || m.Seq != seq {
			t.Fatalf("got %d, %v; want %d", m.Seq, err, seq)
		}
		at = schemas.Checkpoint{Seq: m.Seq, StoredAt: m.Time.UnixNano(), Digest: schemas.MessageDigest(m.Data)}
	}
	return at
}

// open opens a source and returns the checkpoint behind the messages it then reads.
func open(t *testing.T, b *Bus, partition int, seqs ...uint64) (*Source, schemas.Checkpoint) {
	t.Helper()
	s := b.NewSource(partition)
	t.Cleanup(s.Close)
	created := must1(s.Open(testContext(t), schemas.Checkpoint{}))(t)
	at := next(t, s, seqs...)
	at.StreamCreated = created
	return s, at
}

func wantGuard(t *testing.T, name string, err error) {
	t.Helper()
	var g *GuardError
	if !errors.As(err, &g) || g.Name != name {
		t.Errorf("got %v, want %s", err, name)
	}
}

func TestSourceResumesAfterRestart(t *testing.T) {
	dir := t.TempDir()
	srv := startServer(t, dir, "")
	cfg := smallConfig()
	cfg.Partitions = 2
	b := openBus(t, connect(t, srv), cfg)
	publishRaw(t, b, 0, 4, 10)
	publishRaw(t, b, 1, 1, 10)
	publishRaw(t, b, 0, 2, 10)
	s, at := open(t, b, 0, 1, 2, 3)
	if s.Pending() != 3 {
		t.Errorf("%d pending", s.Pending())
	}
	srv.Shutdown()
	var err error
	for err == nil { // what was delivered before is still given out
		_, err = s.Next(testContext(t))
	}
	if !errors.Is(err, nats.ErrConnectionClosed) {
		t.Errorf("read from a server that is down: %v", err)
	}

	b = openBus(t, connect(t, startServer(t, dir, "")), cfg)
	s = b.NewSource(0)
	defer s.Close()
	must1(s.Open(testContext(t), at))(t)
	next(t, s, 4, 6, 7)
	if s.Pending() != 0 {
		t.Errorf("%d pending", s.Pending())
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := s.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	publishRaw(t, b, 0, 1, 10)
	next(t, s, 8)
}

func TestSourceMendsItself(t *testing.T) {
	b := newBus(t)
	publishRaw(t, b, 0, 3000, 1) // more than a pull
	s, _ := open(t, b, 0, 1, 2)
	seq := uint64(2)
	for what, harm := range map[string]func(){
		"consumer deleted": func() {
			must(t, b.js.DeleteConsumer(testContext(t), schemas.StreamCommands, s.consumer))
		},
		"gap":           func() { s.next++ },
		"silence":       func() { s.heard = time.Now().Add(-time.Hour); drain(s) },
		"reconnected":   func() { s.connects++; drain(s) },
		"pull rejected": func() { drain(s); s.consumer, s.left = "unknown", 0 },
	} {
		first := s.consumer
		harm()
		for range 400 {
			seq++
			next(t, s, seq)
		}
		if s.consumer == first && what != "consumer deleted" { // delivered already, so not noticed yet
			t.Errorf("%s: went on with the same consumer", what)
		}
	}
	for seq < 3000 {
		seq++
		next(t, s, seq)
	}
	names := 0
	for range must1(b.js.Stream(testContext(t), schemas.StreamCommands))(t).ConsumerNames(testContext(t)).Name() {
		names++
	}
	if names > 2 { // the one in use and the one that was made to look unknown
		t.Errorf("%d consumers are left", names)
	}
}

// drain loses what was delivered, and lets the source believe that more is coming:
// only a new consumer gives it again.
func drain(s *Source) {
	if s.left <= 0 || s.room <= 0 {
		_ = s.pull()
	}
	s.left, s.room = 1<<20, 1<<40
	<-s.messages
	for len(s.messages) > 0 {
		<-s.messages
	}
}

func TestSourceBoundsWhatIsOnItsWay(t *testing.T) {
	b := newBus(t)
	publishRaw(t, b, 0, 40, 1<<20)
	s, _ := open(t, b, 0, 1)
	eventually(t, "the pull is used up", func() bool { return len(s.messages) >= 14 })
	must(t, b.nc.Flush())
	if n := len(s.messages); n > pullBytes>>20 {
		t.Errorf("%d MiB are on their way", n)
	}
	for seq := uint64(2); seq <= 40; seq++ {
		next(t, s, seq)
	}
}

func TestGuardNamesWhatIsWrong(t *testing.T) {
	other := schemas.Checkpoint{StreamCreated: 1, Seq: 3}
	t.Run("nothing is wrong", func(t *testing.T) {
		b := newBus(t)
		_, at := open(t, b, 0)
		publishRaw(t, b, 0, 3, 10)
		s, last := open(t, b, 0, 1, 2, 3)
		last.StreamCreated = at.StreamCreated
		must1(s.Open(testContext(t), last))(t)
	})
	t.Run("recreated", func(t *testing.T) {
		b := newBus(t)
		publishRaw(t, b, 0, 3, 10)
		_, at := open(t, b, 0, 1, 2, 3)
		must(t, b.js.DeleteStream(testContext(t), schemas.StreamCommands))
		_, err := b.NewSource(0).Open(testContext(t), at)
		wantGuard(t, StreamRecreated, err)
		must1(Open(testContext(t), b.nc, smallConfig()))(t)
		publishRaw(t, b, 0, 3, 10)
		_, err = b.NewSource(0).Open(testContext(t), at)
		wantGuard(t, StreamRecreated, err)
		_, err = b.NewSource(0).Open(testContext(t), schemas.Checkpoint{StreamCreated: at.StreamCreated})
		wantGuard(t, StreamRecreated, err)
	})
	t.Run("purged", func(t *testing.T) {
		b := newBus(t)
		publishRaw(t, b, 0, 3, 10)
		s, at := open(t, b, 0, 1, 2)
		stream := must1(b.js.Stream(testContext(t), schemas.StreamCommands))(t)
		must(t, stream.Purge(testContext(t)))
		for _, c := range []schemas.Checkpoint{at, {}, {StreamCreated: at.StreamCreated}} {
			_, err := b.NewSource(0).Open(testContext(t), c)
			wantGuard(t, StreamHeadLost, err)
		}
		s.next++ // makes it start again, with the guard
		publishRaw(t, b, 0, 1, 10)
		_, err := s.Next(testContext(t))
		wantGuard(t, StreamHeadLost, err)
	})
	t.Run("trimmed up to the last applied", func(t *testing.T) {
		b := newBus(t)
		publishRaw(t, b, 0, 3, 10)
		_, at := open(t, b, 0, 1, 2)
		stream := must1(b.js.Stream(testContext(t), schemas.StreamCommands))(t)
		must(t, stream.Purge(testContext(t), jetstream.WithPurgeSequence(2)))
		s := b.NewSource(0)
		defer s.Close()
		must1(s.Open(testContext(t), at))(t)
		next(t, s, 3)
	})
	t.Run("the last applied is gone from the middle", func(t *testing.T) {
		b := newBus(t)
		b.cfg.Partitions = 2
		publishRaw(t, b, 1, 1, 10)
		publishRaw(t, b, 0, 2, 10)
		publishRaw(t, b, 1, 1, 10)
		_, at := open(t, b, 0, 2, 3)
		stream := must1(b.js.Stream(testContext(t), schemas.StreamCommands))(t)
		must(t, stream.Purge(testContext(t), jetstream.WithPurgeSubject(schemas.GroupSubject(0))))
		_, err := b.NewSource(0).Open(testContext(t), at)
		wantGuard(t, StreamHeadLost, err)
	})
	t.Run("diverged", func(t *testing.T) {
		b := newBus(t)
		publishRaw(t, b, 0, 3, 10)
		publishRaw(t, b, 1, 1, 10)
		_, at := open(t, b, 0, 1, 2, 3)
		digest, stored, subject := at, at, at
		digest.Digest[0]++
		stored.StoredAt++
		subject.Seq = 4
		for _, c := range []schemas.Checkpoint{digest, stored, subject} {
			_, err := b.NewSource(0).Open(testContext(t), c)
			wantGuard(t, StreamDiverged, err)
		}
	})
	t.Run("an older copy of the directory", func(t *testing.T) {
		dir, older := t.TempDir(), t.TempDir()
		srv := startServer(t, dir, "")
		b := openBus(t, connect(t, srv), smallConfig())
		publishRaw(t, b, 0, 2, 10)
		srv.Shutdown()
		copyDir(t, dir, older)

		srv = startServer(t, dir, "")
		b = openBus(t, connect(t, srv), smallConfig())
		publishRaw(t, b, 0, 2, 10)
		_, at := open(t, b, 0, 1, 2, 3, 4)
		srv.Shutdown()

		b = openBus(t, connect(t, startServer(t, older, "")), smallConfig())
		_, err := b.NewSource(0).Open(testContext(t), at)
		wantGuard(t, StreamTailLost, err)
		publishRaw(t, b, 0, 3, 11) // written on, it is of another history
		_, err = b.NewSource(0).Open(testContext(t), at)
		wantGuard(t, StreamDiverged, err)
	})
	t.Run("no stream at all", func(t *testing.T) {
		b := newBus(t)
		_, err := b.NewSource(0).Open(testContext(t), other)
		wantGuard(t, StreamRecreated, err)
	})
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(target)
		if err != nil {
			return err
		}
		defer out.Close()
		_, err = io.Copy(out, in)
		return err
	}))
}

func TestParseDelivery(t *testing.T) {
	for reply, want := range map[string]string{
		"$JS.ACK.S.C.1.22.3.1700000000000000001.4":                 "22 3 4 2023-11-14T22:13:20.000000001Z",
		"$JS.ACK.hub.ACCHASH.S.C.1.22.3.1700000000000000001.4.tok": "22 3 4 2023-11-14T22:13:20.000000001Z",
		"$JS.ACK.S.C.1.22.3.4":                                     "",
		"_INBOX.x":                                                 "",
		"$JS.ACK.S.C.1.x.3.1.4":                                    "",
	} {
		d, err := parseDelivery(reply)
		got := ""
		if err == nil {
			got = fmt.Sprint(d.streamSeq, " ", d.consumerSeq, " ", d.pending, " ", d.stored.Format(time.RFC3339Nano))
		}
		if got != want {
			t.Errorf("%s: %q, want %q", reply, got, want)
		}
	}
}
