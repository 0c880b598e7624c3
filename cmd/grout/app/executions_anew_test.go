package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"grout/handlers"
	"grout/schemas"
	"grout/store"
)

// fedLog gives a store the commands of a test, one by one.
type fedLog struct {
	t       *testing.T
	store   *store.Store
	next    chan schemas.StreamMessage
	applied chan struct{}
	seq     uint64
}

func (f *fedLog) Open(context.Context, schemas.Checkpoint) (int64, error) { return 1, nil }

func (f *fedLog) Next(ctx context.Context) (m schemas.StreamMessage, err error) {
	select {
	case m = <-f.next:
		return m, nil
	case <-ctx.Done():
		return m, ctx.Err()
	}
}

func feed(t *testing.T) *fedLog {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "s.db"), store.Options{Partitions: 1, FoldEvery: 100})
	if err != nil {
		t.Fatal(err)
	}
	f := &fedLog{t: t, store: s, next: make(chan schemas.StreamMessage), applied: make(chan struct{}, 1)}
	loop := handlers.NewLoop(handlers.LoopOptions{
		Store: s, Source: f, Table: handlers.NewTable(), Logger: slog.New(slog.DiscardHandler),
		DecodeGroup: func(m schemas.StreamMessage) (schemas.Group, error) {
			list, err := schemas.DecodeGroup(m.Data)
			return schemas.Group{ID: fmt.Sprint("group-", m.Seq), Source: "//test", ReplyTo: "test", Commands: list}, err
		},
		Reply: func(string, string, [][]byte) error {
			f.applied <- struct{}{}
			return nil
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- loop.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fedLog) apply(kind string, payload []byte) {
	f.seq++
	at := int64(1_800_000_000_000_000_000) + int64(f.seq)
	data := schemas.AppendGroup(nil, []schemas.CommandFrame{{Kind: kind, AppID: "a", ID: fmt.Sprint(f.seq), Source: "//mozaiks.ai/grout/t", Time: at, Accepted: at, Payload: payload}})
	f.next <- schemas.StreamMessage{Subject: schemas.GroupSubject(0), Seq: f.seq, Time: time.Unix(0, at), Data: data}
	<-f.applied
}

func (f *fedLog) execute(run string) *store.Run {
	f.t.Helper()
	f.apply(schemas.ExecutePlugin.Name, (&schemas.PluginExecution{RunID: run, Plugin: "p", UserID: "u", Data: []byte(`{}`), Timeout: 1e9}).EncodePayload(nil))
	list, _, err := f.store.OpenExecutions(store.Place{}, 10)
	if err != nil || len(list) != 1 || list[0].ID != run {
		f.t.Fatalf("%v %v", list, err)
	}
	return list[0]
}

func effectOn(t *testing.T, s *store.Store) (*executions, *partition) {
	cfg := testConfig(t, 1)
	return newExecutions(newSupervisor(cfg, newLogger(io.Discard, cfg), func(*node) {}), nil), &partition{store: s}
}

// begun lets the effect have an execution whose plugin is being called.
func (x *executions) begun(r *store.Run) *execution {
	e := &execution{all: x, key: runKey{r.AppID, r.ID}, run: r, ended: make(chan struct{})}
	e.ctx, e.cancel = context.WithCancelCause(x.life)
	x.running[e.key] = e
	return e
}

// A run that was cancelled while its node was away stops its plugin all the same.
func TestRunEndsBetweenNodes(t *testing.T) {
	f := feed(t)
	r := f.execute("r")
	x, p := effectOn(t, f.store)
	e := x.begun(r)
	f.apply(schemas.CancelRun.Name, (&schemas.RunCancel{RunID: "r"}).EncodePayload(nil))
	ctx, cancel := context.WithCancel(t.Context())
	x.work.Go(func() { _ = x.dispatch(ctx, p) })
	select {
	case <-e.ctx.Done():
		if err := context.Cause(e.ctx); err != errRunEnded {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the plugin is not stopped")
	}
	cancel()
	x.work.Wait()
}

// An execution that ended between the look at what is open and its turn does not run again.
func TestEndedExecutionIsNotTaken(t *testing.T) {
	f := feed(t)
	r := f.execute("r")
	x, p := effectOn(t, f.store)
	f.apply(schemas.FinishPlugin.Name, (&schemas.ExecutionEnd{RunID: "r", Attempt: 1, OK: true}).EncodePayload(nil))
	x.lanes["p"] = &lane{asking: laneWidth} // nothing begins at once
	x.take(t.Context(), p, r, true)
	if len(x.running) != 0 {
		t.Error("an execution that has ended is run again")
	}
}

// What the effect has to know of a run it waits for; a run that is gone is told as gone.
func TestReadsWaitForTheNode(t *testing.T) {
	f := feed(t)
	r := f.execute("r")
	x, p := effectOn(t, f.store)
	e := x.begun(r)
	time.AfterFunc(50*time.Millisecond, func() {
		n := &node{partitions: []*partition{p}}
		n.settled.Store(true)
		x.nodes.current.Store(n)
	})
	if got, ok := e.read(); !ok || got == nil || got.ID != "r" {
		t.Errorf("%v %t", got, ok)
	}
	if data, err := e.data(); err != nil || string(data) != "{}" {
		t.Errorf("%s %v", data, err)
	}
	e.key.id = "gone"
	if got, ok := e.read(); !ok || got != nil {
		t.Errorf("%v %t", got, ok)
	}
	x.mute()
	x.nodes.current.Store(nil)
	if _, ok := e.read(); ok {
		t.Error("it is read without a node")
	}
}

// A plugin that publishes while nothing can be written ends in time all the same: it holds a
// worker that others wait for.
func TestPublishingEndsInTime(t *testing.T) {
	f := feed(t)
	x, _ := effectOn(t, f.store)
	e := x.begun(f.execute("r"))
	e.until = time.Now().Add(50 * time.Millisecond)
	ended := make(chan error, 1)
	go func() { ended <- e.publish("page", []byte("1")) }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it was published")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the log")
		x.mute()
		<-ended
	}
}
