package handlers

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/schemas"
	"grout/store"
)

// history is a recorded command stream: what a partition would read.
type history struct{ groups [][]schemas.CommandFrame }

var testNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano()

// record makes a random history for a number of partitions. The same seed gives
// the same requests, however they are split.
func record(seed uint64, requests, partitions int) []history {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]history, partitions)
	var sent []schemas.UsageEvent
	var batches []schemas.ParsedBatch
	pending := make([][]schemas.CommandFrame, partitions)
	for n := range requests {
		var in schemas.ParsedBatch
		switch {
		case len(batches) > 0 && r.IntN(10) == 0: // the same batch again, in another order
			old := batches[r.IntN(len(batches))]
			in = schemas.ParsedBatch{BatchID: old.BatchID, Events: slices.Clone(old.Events), Rejected: slices.Clone(old.Rejected)}
			r.Shuffle(len(in.Events), func(i, j int) { in.Events[i], in.Events[j] = in.Events[j], in.Events[i] })
		default:
			in.BatchID = fmt.Sprintf("batch-%d", n)
			if len(batches) > 0 && r.IntN(20) == 0 { // the same id for other events
				in.BatchID = batches[r.IntN(len(batches))].BatchID
			}
			for i := range 1 + r.IntN(40) {
				e := randomEvent(r, uint32(i))
				if len(sent) > 0 && r.IntN(8) == 0 {
					e = sent[r.IntN(len(sent))]
					e.Index = uint32(i)
					if r.IntN(3) == 0 {
						e.OutputTokens++
						e.TotalTokens++
					}
				}
				in.Events = append(in.Events, e)
			}
			if r.IntN(4) == 0 {
				in.Rejected = append(in.Rejected, schemas.RejectedEvent{
					EventError: schemas.EventError{Index: uint32(len(in.Events)), AppID: "app-0", Code: schemas.CodeMissingField, Detail: "model is missing"},
					Digest:     r.Uint64(),
				})
			}
			batches = append(batches, schemas.ParsedBatch{BatchID: in.BatchID, Events: slices.Clone(in.Events), Rejected: in.Rejected})
		}
		sent = append(sent, in.Events...)
		split := schemas.SplitBatch(&in, in.BatchID, r.IntN(5) == 0, partitions)
		for p := range partitions {
			if b := split[p]; b != nil {
				pending[p] = append(pending[p], schemas.CommandFrame{
					Kind: schemas.UsageIngest.Name, ID: fmt.Sprintf("cmd-%d", n), Source: "//mozaiks.ai/grout/http",
					Time: testNow + int64(n), Accepted: testNow + int64(n), Payload: b.EncodePayload(nil),
				})
			}
		}
		if cut := r.IntN(3) == 0; cut || n == requests-1 {
			for p := range partitions {
				if len(pending[p]) > 0 {
					out[p].groups = append(out[p].groups, pending[p])
					pending[p] = nil
				}
			}
		}
	}
	return out
}

func randomEvent(r *rand.Rand, index uint32) schemas.UsageEvent {
	e := schemas.UsageEvent{
		Index: index, EventID: fmt.Sprintf("%08x-0000-4000-8000-%012x", r.Uint32(), r.Uint64()&0xffffffffffff),
		Timestamp: testNow - r.Int64N(30*int64(time.Hour)), AppID: fmt.Sprintf("app-%d", r.IntN(4)), UserID: fmt.Sprintf("user %d", r.IntN(20)),
		Model: fmt.Sprintf("model-%d", r.IntN(3)), InputTokens: r.Int64N(5000), OutputTokens: r.Int64N(900),
	}
	if r.IntN(3) == 0 {
		e.WorkflowID, e.Cost, e.Cached = "wf", r.Int64N(1e9), true
	}
	if r.IntN(50) == 0 {
		e.Timestamp = testNow - schemas.MaxEventAge - int64(time.Hour)
	}
	e.TotalTokens = e.InputTokens + e.OutputTokens
	return e
}

// recording is a Source that reads a history and ends with it.
type recording struct {
	history *history
	next    uint64
	done    chan struct{}
}

func (s *recording) Open(_ context.Context, at schemas.Checkpoint) (int64, error) {
	s.next = at.Seq + 1
	return 1, nil
}

func (s *recording) Next(ctx context.Context) (schemas.StreamMessage, error) {
	if s.next > uint64(len(s.history.groups)) {
		close(s.done)
		<-ctx.Done()
		return schemas.StreamMessage{}, ctx.Err()
	}
	n := s.next
	s.next++
	return schemas.StreamMessage{
		Subject: schemas.GroupSubject(0), Seq: n, Time: time.Unix(0, testNow+int64(n)).UTC(),
		Data: schemas.AppendGroup(nil, s.history.groups[n-1]),
	}, nil
}

func decodeTestGroup(m schemas.StreamMessage) (schemas.Group, error) {
	commands, err := schemas.DecodeGroup(m.Data)
	return schemas.Group{ID: fmt.Sprintf("group-%d", m.Seq), Source: "//mozaiks.ai/grout/test", Commands: commands}, err
}

func openStore(t testing.TB, path string, partition, partitions, foldEvery int) *store.Store {
	t.Helper()
	s, err := store.Open(path, store.Options{Partition: partition, Partitions: partitions, FoldEvery: foldEvery})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// applyAll runs a loop until the history is applied, or until stop messages are.
func applyAll(t testing.TB, s *store.Store, h *history, perTransaction int, stop uint64) {
	t.Helper()
	cut := *h
	cut.groups = h.groups[:min(uint64(len(h.groups)), stop)]
	src := &recording{history: &cut, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	l := NewLoop(LoopOptions{
		Store: s, Source: src, Table: NewTable(), DecodeGroup: decodeTestGroup, MaxMessages: perTransaction,
		Reply: func(string, string, [][]byte) error { return nil }, Logger: slog.New(slog.DiscardHandler),
	})
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	<-src.done
	want := uint64(len(cut.groups))
	waitFor(t, func() bool { return s.Checkpoint().Seq >= want || len(ended) > 0 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := s.Checkpoint().Seq; got != want {
		t.Fatalf("applied up to %d, want %d", got, want)
	}
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited too long")
		}
	}
}

func dump(t testing.TB, s *store.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Dump(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A replay gives the same bytes, however many messages share a transaction and
// wherever it was interrupted.
func TestReplayGivesSameBytes(t *testing.T) {
	h := record(7, 400, 1)[0]
	var first []byte
	for _, c := range []struct{ per, restarts int }{{1, 0}, {7, 0}, {64, 0}, {64, 9}, {1, 9}} {
		t.Run(fmt.Sprintf("%d messages a transaction, %d restarts", c.per, c.restarts), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.db")
			r := rand.New(rand.NewPCG(uint64(c.per), 3))
			for range c.restarts {
				s := openStore(t, path, 0, 1, 300)
				applyAll(t, s, &h, c.per, s.Checkpoint().Seq+1+r.Uint64N(uint64(len(h.groups)/10)))
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			s := openStore(t, path, 0, 1, 300)
			defer s.Close()
			applyAll(t, s, &h, c.per, 1<<62)
			got := dump(t, s)
			if first == nil {
				first = got
			}
			if !bytes.Equal(first, got) {
				t.Errorf("contents differ: %s", firstDifference(first, got))
			}
			checkAgainstOracle(t, s, &h)
		})
	}
}

func firstDifference(a, b []byte) string {
	x, y := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	for i := range min(len(x), len(y)) {
		if !bytes.Equal(x[i], y[i]) {
			return fmt.Sprintf("line %d:\n%s\n%s", i, x[i], y[i])
		}
	}
	return fmt.Sprintf("%d and %d lines", len(x), len(y))
}

// checkAgainstOracle compares the store with sums made by the plainest means.
func checkAgainstOracle(t *testing.T, s *store.Store, h *history) {
	t.Helper()
	counted := map[string]schemas.UsageEvent{}
	known := map[string]bool{} // what a batch id stands for in an app
	for _, g := range h.groups {
		for _, c := range g {
			var b schemas.UsageBatch
			if err := b.DecodePayload(c.Payload); err != nil {
				t.Fatal(err)
			}
			skip := map[string]bool{}
			for _, p := range b.Parts {
				key := b.BatchID + "\x00" + p.AppID
				if !b.Made {
					skip[p.AppID] = known[key]
					known[key] = true
				}
			}
			for _, e := range b.Events {
				if skip[e.AppID] || e.Timestamp < c.Accepted-schemas.MaxEventAge {
					continue
				}
				key := e.AppID + "\x00" + e.EventID
				if _, ok := counted[key]; !ok {
					counted[key] = e
				}
			}
		}
	}
	want := map[string]*schemas.UsageSums{}
	for _, e := range counted {
		k := fmt.Sprint(e.AppID, "|", time.Unix(0, e.Timestamp).UTC().Truncate(time.Hour).Unix(), "|", e.UserID, "|", e.Model)
		if want[k] == nil {
			want[k] = &schemas.UsageSums{}
		}
		want[k].Add(&schemas.UsageSums{Events: 1, InputTokens: e.InputTokens, OutputTokens: e.OutputTokens, TotalTokens: e.TotalTokens, Cost: schemas.AmountOf(e.Cost)})
	}
	got := map[string]*schemas.UsageSums{}
	for i := range 4 {
		app := fmt.Sprintf("app-%d", i)
		report, err := s.Usage(t.Context(), schemas.UsageQuery{
			AppID: app, From: schemas.FirstHour, To: schemas.LastHour, Window: schemas.WindowHour,
			GroupBy: []schemas.Dimension{schemas.ByUser, schemas.ByModel},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range report.Rows {
			got[fmt.Sprint(app, "|", row.WindowStart.Unix(), "|", row.Group[0], "|", row.Group[1])] = &row.UsageSums
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("sums differ from the oracle's (-want +got):\n%s", d)
	}
}

// Digests by app are the same for one partition and for four.
func TestPartitionsAgree(t *testing.T) {
	digests := func(partitions int) map[string]string {
		all := map[string]string{}
		for p, h := range record(11, 300, partitions) {
			s := openStore(t, filepath.Join(t.TempDir(), "s.db"), p, partitions, 200)
			defer s.Close()
			applyAll(t, s, &h, 16, 1<<62)
			d, err := s.AppDigests(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for app, sum := range d {
				all[app] = sum
			}
		}
		return all
	}
	one, four := digests(1), digests(4)
	if len(one) != 4 {
		t.Fatalf("%d apps, want 4", len(one))
	}
	if d := cmp.Diff(one, four); d != "" {
		t.Error(d)
	}
}

// A reader sees sums that only grow and are never more than was applied, in every
// phase of every fold.
func TestReadersDuringFolds(t *testing.T) {
	h := record(13, 600, 1)[0]
	s := openStore(t, filepath.Join(t.TempDir(), "s.db"), 0, 1, 100)
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		reads int
		err   error
	}
	done := make(chan result, 2)
	for range 2 {
		go func() {
			var r result
			last := map[string]int64{}
			for ctx.Err() == nil && r.err == nil {
				for i := range 4 {
					app := fmt.Sprintf("app-%d", i)
					report, err := s.Usage(context.Background(), schemas.UsageQuery{AppID: app, To: schemas.LastHour, Window: schemas.WindowNone})
					if err != nil {
						r.err = err
					}
					if report.Totals.Events < last[app] {
						r.err = fmt.Errorf("app %s went from %d events to %d", app, last[app], report.Totals.Events)
					}
					last[app] = report.Totals.Events
					r.reads++
				}
			}
			done <- r
		}()
	}
	applyAll(t, s, &h, 3, 1<<62)
	cancel()
	for range 2 {
		r := <-done
		if r.err != nil {
			t.Error(r.err)
		}
		t.Logf("%d reads", r.reads)
	}
	checkAgainstOracle(t, s, &h)
}
