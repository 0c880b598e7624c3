package deliver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"grout/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testLimit = 20 * time.Second

// eventually polls until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(testLimit); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("it never came to this: %s", what)
		}
		timer := time.NewTimer(time.Millisecond)
		<-timer.C
	}
}

// memory is a ledger, an event log and a stream of facts.
type memory struct {
	mu       sync.Mutex
	stands   map[string]schemas.DeliveryStand
	marks    int
	fails    bool // marks do
	events   []schemas.SentEvent
	facts    []schemas.StreamMessage
	created  int64
	first    uint64
	last     uint64
	recorded int64
}

func newMemory() *memory {
	return &memory{stands: map[string]schemas.DeliveryStand{}, created: 1, first: 1}
}

func (m *memory) Stand(name string) (*schemas.DeliveryStand, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, ok := m.stands[name]
	if !ok {
		return nil, nil
	}
	return &d, nil
}

func (m *memory) Mark(_ context.Context, mark *schemas.DeliveryMark) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := mark.Validate(); err != nil {
		return err
	}
	if m.fails {
		return errors.New("the log is away")
	}
	m.marks++
	have, known := m.stands[mark.Stand.Name]
	if known == (mark.Op == schemas.DeliveryBegin) {
		return nil
	}
	next := mark.Stand
	if next.Source == schemas.DeliverEvents && next.Behind(&have) {
		next.Seq, next.Index = have.Seq, have.Index
	}
	if next.Gaps < have.Gaps {
		next.Gaps, next.Gap = have.Gaps, have.Gap
	}
	m.stands[next.Name] = next
	return nil
}

// record adds a message of events.
func (m *memory) record(ids ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := uint64(1)
	if n := len(m.events); n > 0 {
		seq = m.events[n-1].Seq + 1
	}
	for i, id := range ids {
		m.events = append(m.events, schemas.SentEvent{
			Seq: seq, Index: uint32(i), RecordedAt: time.Now().UnixNano(),
			Event: schemas.UsageEvent{EventID: id, AppID: "app", UserID: "ann", Model: "m", Timestamp: time.Now().UnixNano(), InputTokens: 3, OutputTokens: 4, TotalTokens: 7},
		})
	}
	m.recorded += int64(len(ids))
}

func (m *memory) EventsBehind(_ context.Context, seq uint64, index uint32, most int) (schemas.SentPage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	page := schemas.SentPage{Seq: seq, Index: index}
	for _, e := range m.events {
		if e.Seq < seq || e.Seq == seq && e.Index < index {
			continue
		}
		if len(page.Events) == most {
			page.More = true
			return page, nil
		}
		page.Events = append(page.Events, e)
		page.Seq, page.Index = e.Seq, e.Index+1
	}
	if n := len(m.events); n > 0 && len(page.Events) < most {
		page.Seq, page.Index = max(seq, m.events[n-1].Seq+1), 0
	}
	return page, nil
}

func (m *memory) Recorded() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.recorded
}

// tell publishes a fact and gives its id.
func (m *memory) tell(app, kind string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last++
	id := fmt.Sprintf("FACT%s|%d.0", app, m.last)
	m.facts = append(m.facts, schemas.StreamMessage{
		Subject: schemas.FactSubject(app, kind), Seq: m.last, Time: time.Now(),
		Data: fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"type":%q,"partitionkey":%q,"data":{"n":%d}}`, id, schemas.TypeOf(kind), app, m.last),
	})
	return id
}

// expire lets the stream lose what stands before a sequence.
func (m *memory) expire(first uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.first = first
	m.facts = slices.DeleteFunc(m.facts, func(f schemas.StreamMessage) bool { return f.Seq < first })
}

func (m *memory) State(context.Context) (created int64, first, last uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.created, m.first, m.last, nil
}

func (m *memory) From(_ context.Context, seq uint64, messages, bytes int) (list []schemas.StreamMessage, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.facts {
		if f.Seq >= seq && len(list) < messages && bytes > 0 {
			list = append(list, f)
			bytes -= len(f.Data)
		}
	}
	return list, nil
}

func (m *memory) Published() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(m.last)
}

// runner runs something until it is killed: nothing that it would do at its end counts.
type runner struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func run(f func(ctx context.Context) error) *runner {
	ctx, cancel := context.WithCancel(context.Background())
	r := &runner{cancel, make(chan struct{})}
	go func() {
		defer close(r.done)
		_ = f(ctx)
	}()
	return r
}

func (r *runner) stop() {
	r.cancel()
	<-r.done
}

// kill stops a runner as a kill would: its ledger takes no last mark.
func (r *runner) kill(m *memory) {
	m.mu.Lock()
	m.fails = true
	was := maps.Clone(m.stands)
	m.mu.Unlock()
	r.stop()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails, m.stands = false, was
}
