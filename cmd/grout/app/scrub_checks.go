package app

import "sync"

// streamChecks is what the looks at the streams came to. It outlives a node.
type streamChecks struct {
	mu    sync.Mutex
	looks map[string]int64
	found map[string]int
	seen  map[string]bool
}

// maxSeen bounds what is remembered so as not to raise it twice.
const maxSeen = 1000

func (c *streamChecks) note(stream string, found int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.looks == nil {
		c.looks, c.found, c.seen = map[string]int64{}, map[string]int{}, map[string]bool{}
	}
	c.looks[stream]++
	c.found[stream] = found
}

// known reports whether something was found before, and remembers it.
func (c *streamChecks) known(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[text] {
		return true
	}
	if len(c.seen) < maxSeen {
		c.seen[text] = true
	}
	return false
}

func (c *streamChecks) each(tell func(stream string, looks int64, found int)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for stream, n := range c.looks {
		tell(stream, n, c.found[stream])
	}
}
