package live_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"grout/bus"
	"grout/handlers/live"
	"grout/schemas"
)

// node is a server with MOZAIKS_EVT, and stands for the store and the relay as well: it
// numbers facts and publishes them.
type node struct {
	t    testing.TB
	dir  string
	cfg  bus.Config
	conn *nats.Conn
	js   jetstream.JetStream
	bus  atomic.Pointer[bus.Bus] // nil: away

	server *bus.Server

	mu    sync.Mutex
	apps  map[string]uint64
	chats map[[2]string]uint64
	given []*nats.Msg // everything, in order
	whole bool        // the last facts of every chat have their numbers
}

func newNode(t testing.TB, cfg bus.Config) *node {
	n := &node{t: t, dir: t.TempDir(), cfg: cfg, apps: map[string]uint64{}, chats: map[[2]string]uint64{}}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *node) start() {
	n.t.Helper()
	var err error
	if n.server, err = bus.StartServer(bus.ServerOptions{Dir: n.dir, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		n.t.Fatal(err)
	}
	if n.conn, err = n.server.Connect("test"); err != nil {
		n.t.Fatal(err)
	}
	if n.js, err = jetstream.New(n.conn); err != nil {
		n.t.Fatal(err)
	}
	n.open()
}

func (n *node) open() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	b, err := bus.Open(ctx, n.conn, n.cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.bus.Store(b)
}

func (n *node) stop() {
	n.bus.Store(nil)
	n.conn.Close()
	n.server.Shutdown()
}

// fact numbers a fact and keeps it; publish publishes what was kept from a place on.
func (n *node) fact(app, chat string, deltas, size int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.apps[app]++
	h := schemas.FactHead{
		AppID: app, ID: fmt.Sprint(app, n.apps[app]), Sequence: n.apps[app], Time: time.Now().UnixNano(), Kind: schemas.RunStartedFact.Name,
		ChatSequence: n.chats[[2]string{app, chat}] + 1, Subject: schemas.RunSubject(chat),
	}
	data := fmt.Appendf(nil, `{"pad":"%*d","at":%d}`, size, n.apps[app], time.Now().UnixNano())
	if deltas > 0 {
		h.Kind, h.Subject = schemas.ChatUsageDelta.Name, schemas.ChatSubject(chat)
		events := make([]schemas.UsageEvent, deltas)
		for i := range events {
			events[i] = schemas.UsageEvent{EventID: fmt.Sprintf("%s.%d", h.ID, i), AppID: app, ChatID: chat, UserID: "u", Model: "m"}
		}
		data = schemas.AppendChatUsageDelta(nil, app, chat, 1, 1, events)
	}
	n.chats[[2]string{app, chat}] += uint64(max(deltas, 1))
	n.given = append(n.given, &nats.Msg{
		Subject: schemas.FactSubjectOf(app, h.Kind, chat),
		Data:    schemas.AppendFact(nil, &h, func(b []byte) []byte { return append(b, data...) }),
	})
}

// publish publishes as the relay does: in atomic batches that end with a marker.
func (n *node) publish(from int) {
	n.mu.Lock()
	list := n.given[from:]
	n.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for part := range slices.Chunk(list, 900) {
		batch, err := jetstreamext.NewBatchPublisher(n.js, jetstreamext.BatchFlowControl{AckTimeout: time.Minute})
		if err != nil {
			n.t.Error(err)
			return
		}
		for _, m := range part {
			if err := batch.AddMsg(&nats.Msg{Subject: m.Subject, Header: nats.Header{}, Data: m.Data}); err != nil {
				n.t.Error(err)
			}
		}
		marker := &nats.Msg{Subject: schemas.MarkerSubject(schemas.DestFacts, 0), Header: nats.Header{jetstream.MsgRollup: {jetstream.MsgRollupSubject}}}
		if _, err := batch.CommitMsg(ctx, marker); err != nil {
			n.t.Error(err)
		}
	}
}

func (n *node) State(ctx context.Context) (st live.StreamState, err error) {
	b := n.bus.Load()
	if b == nil {
		return st, live.ErrUnavailable
	}
	st.Created, st.First, st.Last, err = b.FactsState(ctx)
	return st, err
}

func (n *node) Tail(ctx context.Context, subject string, after uint64) (live.Tail, error) {
	b := n.bus.Load()
	if b == nil {
		return nil, live.ErrUnavailable
	}
	return b.TailFacts(ctx, subject, after)
}

func (n *node) Replay(ctx context.Context, subject string, from uint64, messages, bytes int) ([]schemas.StreamMessage, uint64, error) {
	b := n.bus.Load()
	if b == nil {
		return nil, 0, live.ErrUnavailable
	}
	return b.ReplayFacts(ctx, subject, from, messages, bytes)
}

func (n *node) Series(_ context.Context, app, chat string) (live.Series, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if chat == "" {
		return live.Series{Last: n.apps[app]}, nil
	}
	return live.Series{Last: n.chats[[2]string{app, chat}], Owner: "u"}, nil
}

func (n *node) Relayed(context.Context, string, schemas.Position) (bool, error) { return true, nil }

func (n *node) hub(o live.Options) *live.Hub {
	o.Source, o.Numbers = n, n
	h := live.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = h.Run(ctx) }()
	n.t.Cleanup(func() { cancel(); <-done })
	return h
}

// watcher follows a filter through cuts until it has all, and holds it against the stream.
type watcher struct {
	filter   live.Filter
	byNumber bool
	cuts     int
	got      []live.Frame
	resets   int
}

func (w *watcher) from() live.From {
	if len(w.got) == 0 {
		return live.From{Number: new(uint64)}
	}
	last := &w.got[len(w.got)-1]
	if w.byNumber {
		return live.From{Number: &last.Sequence}
	}
	p := last.Position()
	return live.From{Position: &p}
}

// follow reads until done says that the frame is the last one.
func (w *watcher) follow(ctx context.Context, h *live.Hub, random *rand.Rand, done func(*live.Frame) bool) error {
	for ctx.Err() == nil {
		r, err := h.Open(ctx, w.filter, w.from())
		if errors.Is(err, live.ErrUnavailable) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open behind %d frames: %w", len(w.got), err)
		}
		for left := random.IntN(200); left > 0; {
			frames, err := r.Next(ctx)
			if err != nil {
				r.Close()
				return err
			}
			frames = frames[:min(len(frames), left)] // it was cut off in the middle
			for _, f := range frames {
				f.Data = slices.Clone(f.Data)
				if f.Type == live.TypeReset {
					w.resets++
				}
				w.got = append(w.got, f)
			}
			if left -= len(frames); len(frames) > 0 && done(&frames[len(frames)-1]) {
				r.Close()
				return nil
			}
		}
		r.Close()
		w.cuts++
	}
	return ctx.Err()
}

// expected reads the stream of a filter from its beginning.
func (n *node) expected(f live.Filter) (list []string) {
	subject := schemas.FactsOfApp(f.AppID)
	if f.ChatID != "" {
		subject = schemas.FactsOfChat(f.AppID, f.ChatID)
	}
	for from := uint64(1); ; {
		page, _, err := n.bus.Load().ReplayFacts(context.Background(), subject, from, 1000, 8<<20)
		if err != nil {
			n.t.Fatal(err)
		}
		if len(page) == 0 {
			return list
		}
		for i := range page {
			list = append(list, live.FrameTexts(&page[i])...)
		}
		from = page[len(page)-1].Seq + 1
	}
}

func (w *watcher) compare(t testing.TB, want []string) {
	t.Helper()
	if len(w.got) != len(want) {
		t.Errorf("%+v got %d frames, the stream has %d", w.filter, len(w.got), len(want))
	}
	for i := range min(len(w.got), len(want)) {
		if got := live.FrameText(&w.got[i]); got != want[i] {
			t.Fatalf("%+v: frame %d is %s, not %s", w.filter, i, got, want[i])
		}
	}
}

// Readers that are cut off and come back while facts are published, the ring is small and
// the server is started anew end with the list that the stream has.
func TestReadersOfARealStream(t *testing.T) {
	n := newNode(t, bus.Config{FactBytes: 256 << 20})
	h := n.hub(live.Options{RingBytes: 64 << 10, Linger: 10 * time.Millisecond})
	const rounds, chats, size = 60, 8, 25
	last := func(f live.Filter) func(*live.Frame) bool {
		return func(got *live.Frame) bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			if !n.whole {
				return false
			}
			if f.ChatID == "" {
				return got.FactSeq == n.apps[f.AppID] && (got.Sub < 0 || got.Sequence == n.chats[[2]string{f.AppID, got.ChatID}])
			}
			return got.Sequence == n.chats[[2]string{f.AppID, f.ChatID}]
		}
	}
	var watchers []*watcher
	for i := range 48 {
		w := &watcher{filter: live.Filter{AppID: fmt.Sprint("app", i%2)}, byNumber: i%3 > 0}
		if i%6 > 0 {
			w.filter.ChatID, w.filter.UserID = fmt.Sprint("chat.", i%chats), "u"
		} else {
			w.byNumber = false
		}
		watchers = append(watchers, w)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i, w := range watchers {
		all.Go(func() {
			if err := w.follow(ctx, h, rand.New(rand.NewPCG(1, uint64(i))), last(w.filter)); err != nil {
				t.Errorf("%+v: %v", w.filter, err)
			}
		})
	}
	random := rand.New(rand.NewPCG(2, 2))
	for round := range rounds {
		if round == rounds/2 {
			n.stop()
			n.start()
		}
		from := len(n.given)
		for range size {
			n.fact(fmt.Sprint("app", random.IntN(2)), fmt.Sprint("chat.", random.IntN(chats)), max(0, random.IntN(20)-15), random.IntN(2000))
		}
		n.publish(from)
	}
	from := len(n.given)
	for app := range 2 {
		for chat := range chats {
			n.fact(fmt.Sprint("app", app), fmt.Sprint("chat.", chat), 0, 10)
		}
	}
	n.mu.Lock()
	n.whole = true
	n.mu.Unlock()
	n.publish(from)
	all.Wait()
	cuts := 0
	for _, w := range watchers {
		w.compare(t, n.expected(w.filter))
		cuts += w.cuts
		if w.resets > 0 {
			t.Errorf("%+v: %d resets", w.filter, w.resets)
		}
	}
	s := h.Stats()
	t.Logf("%d cuts; %+v", cuts, s)
	if s.Readers != 0 || cuts == 0 {
		t.Errorf("%d readers are left after %d cuts", s.Readers, cuts)
	}
}

// A stream that was made anew, or whose end was lost, is published once more: whoever
// watches sees what is new, and nothing twice.
func TestStreamIsMadeAnew(t *testing.T) {
	n := newNode(t, bus.Config{FactBytes: 64 << 20})
	h := n.hub(live.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var readers []*live.Reader
	for _, f := range []live.Filter{{AppID: "a", ChatID: "c"}, {AppID: "a"}} {
		r, err := h.Open(ctx, f, live.From{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		readers = append(readers, r)
	}
	next := []int{1, 1}
	expect := func(to int) {
		t.Helper()
		for i, r := range readers {
			for next[i] <= to {
				frames, err := r.Next(ctx)
				if err != nil {
					t.Fatalf("reader %d waits for %d: %v", i, next[i], err)
				}
				for _, f := range frames {
					if f.Type == live.TypeReset || int(f.FactSeq) != next[i] {
						t.Fatalf("reader %d: %s %d comes in the place of %d", i, f.Type, f.FactSeq, next[i])
					}
					next[i]++
				}
			}
		}
	}
	give := func(k int) int {
		from := len(n.given)
		for range k {
			n.fact("a", "c", 0, 10)
		}
		return from
	}
	n.publish(give(10))
	expect(10)

	if err := n.js.DeleteStream(ctx, schemas.StreamFacts); err != nil {
		t.Fatal(err)
	}
	n.open()
	give(1)
	n.publish(0)
	expect(11)

	n.stop()
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(n.dir)); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.publish(give(5))
	expect(16)
	n.stop()
	if err := os.RemoveAll(n.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(older, n.dir); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.publish(11) // what was lost, once more
	n.publish(give(5))
	expect(21)
}

// What the stream had to discard is told.
func TestStreamDiscards(t *testing.T) {
	n := newNode(t, bus.Config{FactBytes: 1 << 20})
	for range 400 {
		n.fact("a", "c", 0, 10_000)
	}
	n.publish(0)
	h := n.hub(live.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, err := h.Open(ctx, live.Filter{AppID: "a", ChatID: "c"}, live.From{Number: new(uint64)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	next := uint64(0)
	for next <= 400 {
		frames, err := r.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames {
			switch {
			case next == 0 && f.Type == live.TypeReset && f.Sequence > 0:
				next = f.Sequence + 1
			case f.Type != live.TypeReset && f.Sequence == next:
				next++
			default:
				t.Fatalf("%s %d comes where %d is due", f.Type, f.Sequence, next)
			}
		}
	}
}
