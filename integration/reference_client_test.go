package integration

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"grout/integration/process"
)

const (
	clientBatch = 100 // entries of one post
	clientQueue = 600 // what the client keeps
	clientFlush = 10 * time.Millisecond
)

// batchClient reports usage as the reference client does (contract §7): whatever it
// posts stays or goes as a whole. After a 5xx, or none at all, it tries again; a batch
// that is refused goes back to the front of a queue, which drops its newest when full.
type batchClient struct {
	t      *testing.T
	url    string
	http   *http.Client
	quit   chan struct{}
	group  sync.WaitGroup
	judged func(batch []reportEntry, answer reportAnswer) // a 200

	mu                           sync.Mutex
	queue                        []reportEntry
	dropped                      []reportEntry
	posts, taken, refused, tried int
	busy                         bool // a batch is out of the queue
	last                         int  // status of the last answer, 0 when there was none
}

// reportAnswer is what a list of entries came to.
type reportAnswer struct {
	Accepted, Failed int
	Errors           []struct {
		Index   int
		EventID *string `json:"event_id"`
		Code    string
		Detail  string
	}
}

func startBatchClient(t *testing.T, base string, judged func([]reportEntry, reportAnswer)) *batchClient {
	c := &batchClient{
		t: t, url: base + "/api/billing/usage-events", quit: make(chan struct{}), judged: judged,
		http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}},
	}
	t.Cleanup(c.http.CloseIdleConnections)
	t.Cleanup(c.stop)
	c.group.Go(c.run)
	return c
}

func (c *batchClient) stop() {
	select {
	case <-c.quit:
	default:
		close(c.quit)
	}
	c.group.Wait()
}

func (c *batchClient) run() {
	tick := time.NewTicker(clientFlush)
	defer tick.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-tick.C:
			c.flush()
		}
	}
}

// add queues entries; what finds no room is lost.
func (c *batchClient) add(list ...reportEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, list...)
	c.cut()
}

func (c *batchClient) cut() {
	if over := len(c.queue) - clientQueue; over > 0 {
		c.dropped = append(c.dropped, c.queue[clientQueue:]...)
		c.queue = c.queue[:clientQueue]
	}
}

// keepsUp reports whether the app may go on. It waits while grout is slow or away, so
// that nothing but a refusal, for which no app waits, can make the queue overflow.
func (c *batchClient) keepsUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) < clientQueue/4 || c.last >= 400 && c.last < 500
}

func (c *batchClient) empty() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) == 0 && !c.busy
}

func (c *batchClient) flush() {
	c.mu.Lock()
	batch := append([]reportEntry(nil), c.queue[:min(clientBatch, len(c.queue))]...)
	c.queue = c.queue[len(batch):]
	c.busy = len(batch) > 0
	c.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	status := 0
	for try := 0; try < 3 && (status == 0 || status >= 500); try++ {
		status = c.post(batch)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy, c.last = false, status
	if status == http.StatusOK {
		c.taken += len(batch)
		return
	}
	if status >= 400 && status < 500 {
		c.refused++
	}
	c.queue = append(batch, c.queue...)
	c.cut()
}

// post sends a batch once and gives the status, 0 without an answer.
func (c *batchClient) post(batch []reportEntry) int {
	body := []byte(`{"events":[`)
	for i, e := range batch {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, e.text...) // as it is, also what no encoder would write
	}
	body = append(body, `]}`...)
	req, err := http.NewRequest("POST", c.url, bytes.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return 0
	}
	req.Header.Set("Authorization", "Bearer "+process.ServiceKey)
	req.Header.Set("X-Mozaiks-Service", "core")
	req.Header.Set("Content-Type", "application/json")
	c.count(&c.posts)
	resp, err := c.http.Do(req)
	if err != nil {
		c.count(&c.tried)
		return 0
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.count(&c.tried)
		return 0
	}
	if resp.Header.Get("X-Mozaiks-Runtime-Version") != "" { // not of the front
		documents.Check(c.t, req, resp, text)
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		var a reportAnswer
		if err := json.Unmarshal(text, &a); err != nil {
			c.t.Errorf("answer %.300s: %v", text, err)
		}
		c.judged(batch, a)
	case resp.StatusCode >= 500:
		c.count(&c.tried)
	}
	return resp.StatusCode
}

func (c *batchClient) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *batchClient) refusals() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refused
}
