package live

import "slices"

// ring holds the end of the stream, bounded in bytes, as lines: the items of a chat, or
// of an app, in order. Everything on the ring's subject behind base and up to end is in
// it. Its owner locks it.
type ring struct {
	items     []*item // from head on
	head      int
	bytes     int
	limit     int
	lines     map[string]*line
	base, end uint64
}

// line is what readers of one chat or app read. It stays while there are items or
// readers.
type line struct {
	items   []*item // from head on
	head    int
	readers int
	waiting []*Reader // that have seen all, each once
}

func newRing(limit int) *ring { return &ring{limit: limit, lines: map[string]*line{}} }

// clear forgets all items; the readers of its lines stay.
func (r *ring) clear(base uint64) {
	r.items, r.head, r.bytes = nil, 0, 0
	r.base, r.end = base, base
	for key, l := range r.lines {
		l.items, l.head = nil, 0
		if l.readers == 0 {
			delete(r.lines, key)
		}
	}
}

func (r *ring) line(key string) *line {
	l := r.lines[key]
	if l == nil {
		l = &line{}
		r.lines[key] = l
	}
	return l
}

func (r *ring) add(key string, i *item) *line {
	l := r.line(key)
	l.items = append(l.items, i)
	r.items = append(r.items, i)
	r.bytes += i.size()
	r.end = i.seq
	return l
}

// shrink drops what is too much, oldest first.
func (r *ring) shrink(keyOf func(*item) string) {
	for r.bytes > r.limit && r.head < len(r.items) {
		i := r.items[r.head]
		r.items[r.head] = nil
		r.head++
		r.bytes -= i.size()
		r.base = i.seq
		key := keyOf(i)
		l := r.lines[key]
		l.items[l.head] = nil
		if l.head++; l.head == len(l.items) {
			l.items, l.head = nil, 0
			if l.readers == 0 {
				delete(r.lines, key)
			}
		} else if l.head > 32 && l.head > len(l.items)/2 {
			l.items, l.head = slices.Clone(l.items[l.head:]), 0
		}
	}
	if r.head > 1024 && r.head > len(r.items)/2 {
		r.items, r.head = slices.Clone(r.items[r.head:]), 0
	}
}

// from gives the items of a line behind a sequence, up to a number and to some bytes.
func (l *line) from(behind uint64, dst []*item, items, bytes int) []*item {
	live := l.items[l.head:]
	at, _ := slices.BinarySearchFunc(live, behind+1, func(i *item, seq uint64) int {
		switch {
		case i.seq < seq:
			return -1
		case i.seq > seq:
			return 1
		}
		return 0
	})
	for _, i := range live[at:] {
		dst = append(dst, i)
		if bytes -= i.size(); len(dst) >= items || bytes <= 0 {
			break
		}
	}
	return dst
}

// wait enters a reader that has seen all of the line.
func (l *line) wait(r *Reader) {
	if r.place < 0 {
		r.place = len(l.waiting)
		l.waiting = append(l.waiting, r)
	}
}

// forget takes out a reader that waits no more.
func (l *line) forget(r *Reader) {
	if r.place < 0 {
		return
	}
	last := len(l.waiting) - 1
	l.waiting[r.place] = l.waiting[last]
	l.waiting[r.place].place = r.place
	l.waiting[last] = nil
	l.waiting = l.waiting[:last]
	r.place = -1
}

// wakeAll wakes who waits on the line. A reader is woken once however much comes until
// it looks again.
func (l *line) wakeAll() {
	for n, r := range l.waiting {
		l.waiting[n] = nil
		r.place = -1
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
	l.waiting = l.waiting[:0]
}
