package bus

import (
	"fmt"
	"slices"
	"sync"

	"grout/schemas"
)

// memoryOutbox is an outbox that can forget, as a store does that was killed before
// its note became durable.
type memoryOutbox struct {
	mu    sync.Mutex
	rows  []schemas.FactMessage
	state schemas.RelayState
	marks int
	deaf  bool // MarkRelayed is lost
	wake  chan struct{}
	fail  error
}

func newMemoryOutbox() *memoryOutbox { return &memoryOutbox{wake: make(chan struct{})} }

// add appends n facts with positions that follow each other.
func (o *memoryOutbox) add(n int) { o.addSized(n, 20) }

func (o *memoryOutbox) addSized(n, size int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for range n {
		at := schemas.Position{Seq: uint64(len(o.rows)/3 + 1), Index: uint32(len(o.rows) % 3)}
		data := fmt.Appendf(nil, `{"row":%d}`, len(o.rows))
		if size > len(data) {
			data = append(data, make([]byte, size-len(data))...)
		}
		o.rows = append(o.rows, schemas.FactMessage{Subject: "mozaiks.v1.evt.app.usage.recorded", Data: data, At: at})
	}
	close(o.wake)
	o.wake = make(chan struct{})
}

func (o *memoryOutbox) Relayed(string) (schemas.RelayState, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state, o.fail
}

func (o *memoryOutbox) Facts(_ string, after schemas.Position, maxMessages, maxBytes int) ([]schemas.FactMessage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	from, _ := slices.BinarySearchFunc(o.rows, after, func(f schemas.FactMessage, p schemas.Position) int {
		if c := f.At.Compare(p); c != 0 {
			return c
		}
		return -1
	})
	var out []schemas.FactMessage
	for _, f := range o.rows[from:] {
		if maxBytes -= len(f.Data); len(out) == maxMessages || maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, f)
	}
	return out, o.fail
}

func (o *memoryOutbox) MarkRelayed(_ string, st schemas.RelayState) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.marks++
	if !o.deaf {
		o.state = st
	}
	return o.fail
}

func (o *memoryOutbox) Wake(string) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wake
}

func (o *memoryOutbox) relayed() schemas.RelayState {
	st, _ := o.Relayed("")
	return st
}
