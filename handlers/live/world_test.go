package live

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"grout/schemas"
)

// world is a store that gives numbers, an outbox and a stream of facts, in memory. What is
// published can be lost, published again, expire, or be made anew.
type world struct {
	mu      sync.Mutex
	apps    map[string]uint64
	chats   map[[2]string]uint64
	owners  map[[2]string]string
	outbox  []schemas.StreamMessage // not published yet
	stream  []schemas.StreamMessage
	last    uint64
	created int64
	at      uint64 // messages that the store has applied
	relayed uint64 // of them those that are published
	changed chan struct{}
	away    bool // neither stream nor store answers
	broken  int  // raised to end all tails
	asked   int
	shown   []schemas.StreamMessage // everything that was ever given, in order
}

func newWorld() *world {
	return &world{apps: map[string]uint64{}, chats: map[[2]string]uint64{}, owners: map[[2]string]string{}, created: 1, changed: make(chan struct{})}
}

func (w *world) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// apply gives one fact of a chat its numbers: a run event, or a usage_delta of k deltas;
// with an empty chat a fact of the app.
func (w *world) apply(app, chat string, deltas int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at++
	w.apps[app]++
	m := schemas.StreamMessage{Time: time.Unix(int64(w.at), 0)}
	h := schemas.FactHead{AppID: app, ID: fmt.Sprint("f", w.at), Sequence: w.apps[app], Time: m.Time.UnixNano(), Subject: "app/" + app}
	data := fmt.Sprintf(`{"n":%d}`, w.at)
	switch {
	case chat == "":
		h.Kind = "usage.recorded"
		m.Subject = schemas.FactSubject(app, h.Kind)
	case deltas > 0:
		h.Kind, h.Subject = "chat.usage_delta", "chat/"+chat
		list := make([]string, deltas)
		for i := range list {
			list[i] = fmt.Sprintf(`{"event_id":"%d.%d"}`, w.at, i)
		}
		data = `{"deltas":[` + strings.Join(list, ",") + `]}`
	default:
		h.Kind, h.Subject = "orchestration.run_started", "run/"+chat+"-run"
	}
	if chat != "" {
		key := [2]string{app, chat}
		if w.owners[key] == "" {
			w.owners[key] = "user-" + chat
		}
		h.ChatSequence = w.chats[key] + 1
		w.chats[key] += uint64(max(deltas, 1))
		m.Subject = schemas.FactSubjectOf(app, h.Kind, chat)
	}
	m.Data = schemas.AppendFact(nil, &h, func(b []byte) []byte { return append(b, data...) })
	w.outbox = append(w.outbox, m)
	w.shown = append(w.shown, m)
}

// publish brings what waits into the stream, and a marker.
func (w *world) publish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.outbox {
		w.last++
		m.Seq = w.last
		w.stream = append(w.stream, m)
	}
	w.last++ // the relay's marker
	w.outbox, w.relayed = nil, w.at
	w.wake()
}

// expire removes the oldest messages.
func (w *world) expire(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stream = slices.Clone(w.stream[min(n, len(w.stream)):])
}

// loseTail takes back the last messages, which the relay will publish again. Tails end,
// as they do when a server was started with an older copy.
func (w *world) loseTail(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	keep := len(w.stream) - min(n, len(w.stream))
	w.outbox = append(slices.Clone(w.stream[keep:]), w.outbox...)
	w.stream = slices.Clone(w.stream[:keep])
	if w.last = 0; keep > 0 {
		w.last = w.stream[keep-1].Seq
	}
	w.broken++
	w.wake()
}

// renew makes the stream anew, with what is left of it published again.
func (w *world) renew() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outbox = append(slices.Clone(w.stream), w.outbox...)
	w.stream, w.last = nil, 0
	w.created++
	w.broken++
	w.wake()
}

func (w *world) State(context.Context) (StreamState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return StreamState{}, ErrUnavailable
	}
	st := StreamState{Created: w.created, Last: w.last, First: w.last + 1}
	if len(w.stream) > 0 {
		st.First = w.stream[0].Seq
	}
	return st, nil
}

func matches(subject, filter string) bool {
	s, f := strings.Split(subject, "."), strings.Split(filter, ".")
	for i, token := range f {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(s) == len(f)
}

func (w *world) Replay(_ context.Context, subject string, from uint64, messages, bytes int) (list []schemas.StreamMessage, left uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, 0, ErrUnavailable
	}
	w.asked++
	for _, m := range w.stream {
		switch {
		case m.Seq < from || !matches(m.Subject, subject):
		case len(list) < messages && (bytes > 0 || len(list) == 0):
			list = append(list, m)
			bytes -= len(m.Data)
		default:
			left++
		}
	}
	return list, left, nil
}

type worldTail struct {
	w       *world
	subject string
	after   uint64
	broken  int
}

func (w *world) Tail(_ context.Context, subject string, after uint64) (Tail, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, ErrUnavailable
	}
	return &worldTail{w, subject, after, w.broken}, nil
}

func (t *worldTail) Next(ctx context.Context) ([]schemas.StreamMessage, error) {
	for {
		t.w.mu.Lock()
		if t.broken != t.w.broken {
			t.w.mu.Unlock()
			return nil, fmt.Errorf("the stream was changed")
		}
		var list []schemas.StreamMessage
		for _, m := range t.w.stream {
			if m.Seq > t.after && matches(m.Subject, t.subject) {
				list = append(list, m)
			}
		}
		changed := t.w.changed
		t.w.mu.Unlock()
		if len(list) > 0 {
			t.after = list[len(list)-1].Seq
			return list, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (t *worldTail) Close() {}

func (w *world) Series(_ context.Context, app, chat string) (Series, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return Series{}, ErrUnavailable
	}
	s := Series{Last: w.apps[app], Mark: schemas.Position{Seq: w.at}}
	if chat != "" {
		s.Last, s.Owner = w.chats[[2]string{app, chat}], w.owners[[2]string{app, chat}]
	}
	return s, nil
}

func (w *world) Relayed(_ context.Context, _ string, mark schemas.Position) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.outbox) == 0 && w.relayed >= mark.Seq, nil
}

// serve runs a hub on a world until the test ends.
func serve(t testing.TB, w *world, o Options) *Hub {
	t.Helper()
	o.Source, o.Numbers = w, w
	h := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return h
}

// open opens a reader that is closed with the test.
func open(t testing.TB, h *Hub, f Filter, from From) *Reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := h.Open(ctx, f, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func behind(n uint64) From { return From{Number: &n} }

func atPosition(p Position) From { return From{Position: &p} }

// read takes frames until there are so many.
func read(t testing.TB, r *Reader, n int) (list []Frame) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for len(list) < n {
		frames, err := r.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d frames: %v", len(list), n, err)
		}
		list = append(list, slices.Clone(frames)...)
	}
	return list
}

// quiet fails when something comes within a while.
func quiet(t testing.TB, r *Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if frames, err := r.Next(ctx); err == nil {
		t.Fatalf("more came: %+v", frames)
	}
}

// tell names frames: a number in the chat, "n!" for a reset to n.
func tell(list []Frame) string {
	var b []string
	for _, f := range list {
		switch {
		case f.Type == TypeReset:
			b = append(b, fmt.Sprintf("%d!", f.Sequence+1))
		case f.Sequence > 0:
			b = append(b, fmt.Sprint(f.Sequence))
		default:
			b = append(b, fmt.Sprintf("a%d", f.FactSeq))
		}
	}
	return strings.Join(b, " ")
}
