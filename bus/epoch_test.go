package bus

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
)

// memoryHistory is what a store would remember of the messages given to it.
type memoryHistory struct {
	created int64
	epoch   uint32
	list    []schemas.AppliedMessage
	kept    int // positions; 0: all
	batches map[string]string
}

func newHistory() *memoryHistory { return &memoryHistory{epoch: 1, batches: map[string]string{}} }

func (h *memoryHistory) Applied() schemas.AppliedMessage {
	if len(h.list) == 0 {
		return schemas.AppliedMessage{Epoch: h.epoch}
	}
	return h.list[len(h.list)-1]
}

func (h *memoryHistory) Checkpoint() schemas.Checkpoint {
	m := h.Applied()
	if m.Seq == 0 {
		return schemas.Checkpoint{}
	}
	return schemas.Checkpoint{StreamCreated: h.created, Seq: m.Seq, StoredAt: m.StoredAt, Digest: m.Digest}
}

func (h *memoryHistory) Positions() ([]schemas.AppliedMessage, error) {
	if h.kept > 0 && len(h.list) > h.kept {
		return h.list[len(h.list)-h.kept:], nil
	}
	return h.list, nil
}

func (h *memoryHistory) BatchID(epoch uint32, seq uint64, index uint32) (string, bool, error) {
	id, ok := h.batches[fmt.Sprint(epoch, seq, index)]
	return id, ok, nil
}

// at is the history as it was n messages ago.
func (h *memoryHistory) before(n int) *memoryHistory {
	older := *h
	older.list = h.list[:len(h.list)-n]
	if len(older.list) > 0 {
		older.epoch = older.list[len(older.list)-1].Epoch
	}
	return &older
}

// apply reads n messages from where the history stands, and remembers them.
func (h *memoryHistory) apply(t *testing.T, b *Bus, partition, n int) (seqs []uint64) {
	t.Helper()
	s := b.NewSource(partition).Of(h)
	defer s.Close()
	h.created = must1(s.Open(testContext(t), h.Checkpoint()))(t)
	for range n {
		m := must1(s.Next(testContext(t)))(t)
		if e := epochOf(&m); e != nil {
			if e.After != h.Applied() || e.From != m.Seq || e.N != h.epoch+1 {
				t.Fatalf("epoch %+v behind %+v", e, h.Applied())
			}
			h.epoch = e.N
		}
		if g, err := DecodeGroupMessage(m); err == nil {
			for i, c := range g.Commands {
				var batch schemas.UsageBatch
				if batch.DecodePayload(c.Payload) == nil {
					h.batches[fmt.Sprint(h.epoch, m.Seq, i)] = batch.BatchID
				}
			}
		}
		h.list = append(h.list, schemas.AppliedMessage{Epoch: h.epoch, Seq: m.Seq, StoredAt: m.Time.UnixNano(), Digest: schemas.MessageDigest(m.Data)})
		seqs = append(seqs, m.Seq)
	}
	return seqs
}

// embedded is a bus whose server can be stopped and its files changed.
type embedded struct {
	t      *testing.T
	dir    string
	parts  int
	server *Server
	*Bus
}

func newEmbedded(t *testing.T, partitions int) *embedded {
	e := &embedded{t: t, dir: filepath.Join(t.TempDir(), "nats"), parts: partitions}
	e.start()
	return e
}

func (e *embedded) start() {
	e.t.Helper()
	e.server = startServer(e.t, e.dir, "")
	cfg := smallConfig()
	cfg.Dir, cfg.Partitions = e.dir, e.parts
	e.Bus = openBus(e.t, connect(e.t, e.server), cfg)
}

// stopped changes the files of the stopped server.
func (e *embedded) stopped(change func()) {
	e.t.Helper()
	e.server.Shutdown()
	change()
	e.start()
}

func (e *embedded) copyTo(to string) {
	e.t.Helper()
	must(e.t, os.RemoveAll(to))
	copyDir(e.t, e.dir, to)
}

func (e *embedded) copyFrom(from string) {
	e.t.Helper()
	must(e.t, os.RemoveAll(e.dir))
	copyDir(e.t, from, e.dir)
}

// batches publishes n groups with a batch each.
func (e *embedded) batches(partition, n int, name string) {
	e.t.Helper()
	for i := range n {
		batch := schemas.UsageBatch{BatchID: fmt.Sprint(name, i)}
		must1(e.PublishOne(testContext(e.t), partition, schemas.CommandFrame{
			Kind: schemas.UsageIngest.Name, ID: fmt.Sprint(name, i), Source: "//test", Accepted: 1, Payload: batch.EncodePayload(nil),
		}))(e.t)
	}
}

func (e *embedded) survey(h History) Survey {
	e.t.Helper()
	return must1(e.Survey(testContext(e.t), 0, h))(e.t)
}

// startEpoch starts the epoch that a survey asks for, and has the history go on in it.
func (e *embedded) startEpoch(h *memoryHistory, lost string, common uint64) {
	t := e.t
	t.Helper()
	v := e.survey(h)
	if v.Lost != lost || v.Common.Seq != common || v.Begin != nil || v.Detail == "" {
		t.Fatalf("survey %+v, want %s with %d in common", v, lost, common)
	}
	if _, err := e.NewSource(0).Of(h).Open(testContext(t), h.Checkpoint()); err == nil {
		t.Error("a source opened behind a lost tail")
	} else {
		wantGuard(t, lost, err)
	}
	seq := must1(e.StartEpoch(testContext(t), v, time.Unix(0, 7)))(t)
	if seq != v.Last+1 {
		t.Errorf("the epoch starts at %d, the stream ended at %d", seq, v.Last)
	}
	if again := e.survey(h); again.Begin == nil || again.Begin.Seq != seq || again.Lost != lost {
		t.Errorf("before it is applied: %+v", again)
	}
	if got := h.apply(t, e.Bus, 0, 1); got[0] != seq || h.epoch != v.Applied.Epoch+1 {
		t.Errorf("applied %d in epoch %d", got, h.epoch)
	}
	if v := e.survey(h); v.Lost != "" || v.Begin != nil || v.Common != h.Applied() {
		t.Errorf("after it was applied: %+v", v)
	}
}

// A stream that holds nothing but what the store has applied goes on from the store in
// a new epoch, wherever it was cut off; what stands in it before the epoch is never
// applied again, and a store from before the epoch is refused.
func TestEpochAfterLostTail(t *testing.T) {
	for _, partitions := range []int{1, 3} {
		t.Run(fmt.Sprint("P=", partitions), func(t *testing.T) {
			e := newEmbedded(t, partitions)
			others := func() {
				for p := 1; p < partitions; p++ {
					e.batches(p, 1, "other")
				}
			}
			h := newHistory()
			e.batches(0, 4, "a")
			others()
			h.apply(t, e.Bus, 0, 4)
			if v := e.survey(h); v.Lost != "" || v.Common != h.Applied() {
				t.Fatalf("nothing is wrong: %+v", v)
			}
			older := t.TempDir()
			e.stopped(func() { e.copyTo(older) })
			e.batches(0, 6, "b")
			h.apply(t, e.Bus, 0, 6)
			e.stopped(func() { e.copyFrom(older) })
			others() // they may start sooner
			if partitions > 1 {
				for range 10 {
					others()
				}
			}
			e.startEpoch(h, StreamTailLost, 4)
			e.batches(0, 2, "c")
			h.apply(t, e.Bus, 0, 2)

			for _, n := range []int{3, 7, 9} { // at the epoch's predecessor; in the lost tail; in what is common
				old := h.before(n)
				v, err := e.Survey(testContext(t), 0, old)
				switch {
				case n == 3:
					if err != nil || v.Begin == nil {
						t.Errorf("a store at the end of the old epoch: %+v, %v", v, err)
					}
				default:
					wantGuard(t, EpochGap, err)
				}
			}
			must(t, os.Remove(e.epochFile(0))) // without the note the stream itself tells
			_, err := e.Survey(testContext(t), 0, h.before(7))
			wantGuard(t, EpochGap, err)

			// The tail of the new epoch is lost as well, and then everything.
			e.stopped(func() { e.copyTo(older) })
			e.batches(0, 3, "d")
			common := h.Applied().Seq
			h.apply(t, e.Bus, 0, 3)
			e.stopped(func() { e.copyFrom(older) })
			e.startEpoch(h, StreamTailLost, common)
			e.stopped(func() { must(t, os.RemoveAll(e.dir)) })
			e.startEpoch(h, StreamRecreated, 0)
			if h.epoch != 4 {
				t.Errorf("epoch %d", h.epoch)
			}
		})
	}
}

// What the store does not know is never applied and never passed over by itself.
func TestForeignStreamsStop(t *testing.T) {
	e, other := newEmbedded(t, 1), newEmbedded(t, 1)
	h, older := newHistory(), t.TempDir()
	e.batches(0, 3, "a")
	h.apply(t, e.Bus, 0, 3)
	e.stopped(func() { e.copyTo(older) })
	e.batches(0, 3, "b")
	h.apply(t, e.Bus, 0, 3)
	refused := func(name string) {
		t.Helper()
		_, err := e.Survey(testContext(t), 0, h)
		wantGuard(t, name, err)
		_, err = e.NewSource(0).Of(h).Open(testContext(t), h.Checkpoint())
		wantGuard(t, name, err)
	}
	e.stopped(func() { e.copyFrom(older) })
	e.batches(0, 1, "x") // written on by somebody else, and shorter than the store's
	refused(StreamDiverged)
	e.batches(0, 9, "x")
	refused(StreamDiverged)
	v, err := e.Survey(testContext(t), 0, h)
	if err == nil || v.Common.Seq != 3 || !strings.Contains(err.Error(), "agree up to message 3") {
		t.Errorf("common %d, %v", v.Common.Seq, err)
	}
	other.batches(0, 20, "y")
	other.server.Shutdown()
	e.stopped(func() { e.copyFrom(other.dir) })
	refused(StreamRecreated)

	// The operator decides for the store: reading begins behind all that.
	v, _ = e.Survey(testContext(t), 0, h)
	v.Forced = true
	seq := must1(e.StartEpoch(testContext(t), v, time.Unix(0, 7)))(t)
	if v := e.survey(h); v.Begin == nil || v.Begin.Seq != seq || seq != 21 {
		t.Fatalf("%+v", v)
	}
	_, err = e.Survey(testContext(t), 0, newHistory()) // a lost store must not apply what was passed over
	wantGuard(t, EpochGap, err)
	if got := h.apply(t, e.Bus, 0, 1); got[0] != seq {
		t.Errorf("applied %d", got)
	}
	e.batches(0, 1, "z")
	h.apply(t, e.Bus, 0, 1)
}

// An older copy ends before all that the store remembers message by message.
func TestEpochAfterOldCopy(t *testing.T) {
	e := newEmbedded(t, 1)
	h, older := newHistory(), t.TempDir()
	h.kept = 5
	e.batches(0, 3, "a")
	publishRaw(t, e.Bus, 0, 2, 3) // no ingest commands
	h.apply(t, e.Bus, 0, 5)
	e.stopped(func() { e.copyTo(older) })
	e.batches(0, 20, "b")
	h.apply(t, e.Bus, 0, 20)
	e.stopped(func() { e.copyFrom(older) })
	unknown := *h
	unknown.batches = map[string]string{fmt.Sprint(1, 3, 0): "another"}
	_, err := e.Survey(testContext(t), 0, &unknown)
	wantGuard(t, StreamDiverged, err)
	e.startEpoch(h, StreamTailLost, 3)
}

// The last applied message itself is gone, or what was trimmed reaches beyond it.
func TestLostHeadsStop(t *testing.T) {
	e := newEmbedded(t, 1)
	h := newHistory()
	e.batches(0, 9, "a")
	h.apply(t, e.Bus, 0, 4)
	must(t, e.Trim(testContext(t), 0, 4))
	if v := e.survey(h); v.Lost != "" {
		t.Errorf("%+v", v)
	}
	_, err := e.Survey(testContext(t), 0, newHistory())
	wantGuard(t, StreamHeadLost, err)
	must(t, e.Trim(testContext(t), 0, 7))
	v, err := e.Survey(testContext(t), 0, h)
	wantGuard(t, StreamHeadLost, err)
	if v.First != 7 || v.Last != 9 {
		t.Errorf("%+v", v)
	}
	// The note is of this stream. One that is made anew starts at its beginning.
	e.stopped(func() { must(t, os.RemoveAll(filepath.Join(streamsDir(e.dir), schemas.StreamCommands))) })
	e.batches(0, 2, "b")
	fresh := newHistory()
	fresh.apply(t, e.Bus, 0, 2)
}

// A message that is missing although nobody trimmed it is named, wherever it is.
func TestGapsStop(t *testing.T) {
	purge := func(e *embedded, partition int) {
		s := must1(e.js.Stream(testContext(t), schemas.StreamCommands))(t)
		must(t, s.Purge(testContext(t), jetstream.WithPurgeSubject(schemas.GroupSubject(partition))))
	}
	t.Run("of another subject", func(t *testing.T) {
		e := newEmbedded(t, 1)
		e.batches(0, 2, "a")
		e.batches(1, 2, "stray")
		e.batches(0, 2, "b")
		h := newHistory()
		h.apply(t, e.Bus, 0, 2)
		purge(e, 1)
		_, err := e.Survey(testContext(t), 0, h)
		wantGuard(t, StreamGap, err)
		s := e.NewSource(0) // and where only the messages tell
		defer s.Close()
		must1(s.Open(testContext(t), h.Checkpoint()))(t)
		_, err = s.Next(testContext(t))
		wantGuard(t, StreamGap, err)
	})
	t.Run("of a neighbour", func(t *testing.T) {
		e := newEmbedded(t, 2)
		e.batches(0, 2, "a")
		e.batches(1, 2, "other")
		e.batches(0, 2, "b")
		h := newHistory()
		h.apply(t, e.Bus, 0, 2)
		e.survey(h)
		purge(e, 1)
		_, err := e.Survey(testContext(t), 0, h)
		wantGuard(t, StreamGap, err)
		if err == nil || !strings.Contains(err.Error(), "(3 4)") {
			t.Errorf("%v", err)
		}
		// The operator goes on without them.
		v, _ := e.Survey(testContext(t), 0, h)
		v.Forced = true
		must1(e.StartEpoch(testContext(t), v, time.Unix(0, 7)))(t)
		h.apply(t, e.Bus, 0, 1)
		e.survey(h)
	})
	t.Run("trimmed by a neighbour", func(t *testing.T) {
		e := newEmbedded(t, 2)
		e.batches(0, 1, "a")
		e.batches(1, 4, "other")
		e.batches(0, 2, "b")
		h := newHistory()
		h.apply(t, e.Bus, 0, 1)
		must(t, e.Trim(testContext(t), 1, 5))
		e.survey(h)
		if got := h.apply(t, e.Bus, 0, 2); !slices.Equal(got, []uint64{6, 7}) {
			t.Errorf("applied %d", got)
		}
	})
}

// Two that would start the epoch: one does.
func TestEpochIsStartedOnce(t *testing.T) {
	e := newEmbedded(t, 1)
	h := newHistory()
	e.batches(0, 2, "a")
	h.apply(t, e.Bus, 0, 2)
	e.stopped(func() { must(t, os.RemoveAll(e.dir)) })
	v := e.survey(h)
	must1(e.StartEpoch(testContext(t), v, time.Unix(0, 1)))(t)
	if _, err := e.StartEpoch(context.WithoutCancel(testContext(t)), v, time.Unix(0, 1)); err == nil {
		t.Error("the epoch was started twice")
	}
}
