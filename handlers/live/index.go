package live

import "sync"

// Bounds of the index: 16 bytes a mark.
const (
	indexChats = 4096
	indexMarks = 64
)

// index remembers of the chats that somebody has watched which number stands where, so
// that who comes back is not searched for in the whole stream. Losing an entry costs a
// search, nothing else.
type index struct {
	mu    sync.Mutex
	gen   uint64
	chats map[string]*marks
}

// marks are places in order; between two lie at least stride numbers.
type marks struct {
	list   []mark
	stride uint64
}

type mark struct{ number, seq uint64 }

func (x *index) note(gen uint64, key string, number, seq uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.chats == nil || x.gen != gen {
		x.chats, x.gen = map[string]*marks{}, gen
	}
	m := x.chats[key]
	if m == nil {
		if len(x.chats) >= indexChats {
			for old := range x.chats { // any of them
				delete(x.chats, old)
				break
			}
		}
		m = &marks{stride: 16}
		x.chats[key] = m
	}
	if n := len(m.list); n > 0 && (number < m.list[n-1].number+m.stride || seq <= m.list[n-1].seq) {
		return
	}
	if len(m.list) == indexMarks {
		kept := m.list[:0]
		for n := 0; n < indexMarks; n += 2 {
			kept = append(kept, m.list[n])
		}
		m.list = kept
		m.stride *= 2
	}
	m.list = append(m.list, mark{number, seq})
}

// around gives places between which the message lies that has the number after another:
// behind low, at high or before. Zero: unknown.
func (x *index) around(gen uint64, key string, number uint64) (low, high uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.gen != gen || x.chats[key] == nil {
		return 0, 0
	}
	for _, m := range x.chats[key].list {
		if m.number > number {
			return low, m.seq
		}
		low = m.seq - 1 // its fact may hold the next number, too
	}
	return low, 0
}
