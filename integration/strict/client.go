package strict

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// Place is where the server can be reached. It may be killed and come back elsewhere.
type Place struct {
	mu    sync.Mutex
	url   string
	moved chan struct{}
}

// NewPlace takes the address of a running server.
func NewPlace(url string) *Place { return &Place{url: url, moved: make(chan struct{})} }

// Move says that the server is at another address now.
func (p *Place) Move(url string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.moved)
	p.url, p.moved = url, make(chan struct{})
}

func (p *Place) at() (string, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.url, p.moved
}

// Client speaks to the server at a place.
type Client struct {
	Place *Place
	Key   string // the internal key
	http  http.Client

	mu       sync.Mutex
	answered int64
	until    int64
	reached  chan struct{} // closed when answered is until
}

// NewClient makes a client for that many callers at a time.
func NewClient(p *Place, key string, callers int) *Client {
	return &Client{Place: p, Key: key, http: http.Client{
		Transport: &http.Transport{MaxIdleConns: 2 * callers, MaxIdleConnsPerHost: 2 * callers}, Timeout: attemptLimit,
	}}
}

// After gives a channel that is closed when so many more requests have been answered.
// There is one at a time.
func (c *Client) After(n int64) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until, c.reached = c.answered+max(n, 1), make(chan struct{})
	return c.reached
}

func (c *Client) count() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answered++; c.reached != nil && c.answered >= c.until {
		close(c.reached)
		c.reached = nil
	}
}

// Close lets go of all connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

const (
	attemptLimit = 30 * time.Second
	againAfter   = 20 * time.Millisecond
)

// Answer is what a request came to, in the end. Instants are nanoseconds since 1970.
type Answer struct {
	Status   int
	Body     []byte
	First    int64 // when the first attempt began
	Last     int64 // when the one began that was answered
	Returned int64
	Lost     bool // attempts before it got no answer, and may be carried out later
}

func (a *Answer) into(v any) error {
	if err := json.Unmarshal(a.Body, v); err != nil {
		return fmt.Errorf("status %d, %.200q: %w", a.Status, a.Body, err)
	}
	return nil
}

// definite says that a status tells what became of the request.
func definite(status int) bool {
	return status != http.StatusAccepted && status != http.StatusTooManyRequests && status < http.StatusInternalServerError
}

// Do sends a request again and again until it is answered definitely.
func (c *Client) Do(ctx context.Context, method, path string, body any) (Answer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return Answer{}, err
	}
	a := Answer{First: time.Now().UnixNano()}
	for {
		url, moved := c.Place.at()
		a.Last = time.Now().UnixNano()
		a.Status, a.Body, err = c.once(ctx, method, url+path, text)
		a.Returned = time.Now().UnixNano()
		if err == nil && definite(a.Status) {
			return a, nil
		}
		a.Lost = a.Lost || sent(err)
		again := time.NewTimer(againAfter)
		select {
		case <-moved:
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return a, fmt.Errorf("%s %s has no answer: %w (status %d, %v)", method, path, ctx.Err(), a.Status, err)
		}
		again.Stop()
	}
}

var errStranger = errors.New("somebody else answers there")

// sent says whether a request without an answer can have reached the server.
func sent(err error) bool {
	var op *net.OpError
	return !errors.Is(err, errStranger) && !(errors.As(err, &op) && op.Op == "dial")
}

func (c *Client) once(ctx context.Context, method, url string, text []byte) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("X-Internal-API-Key", c.Key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized { // the port of a server that was killed may be a stranger's
		return 0, nil, errStranger
	}
	answer, err := io.ReadAll(resp.Body)
	c.count()
	return resp.StatusCode, answer, err
}
