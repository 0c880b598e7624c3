package deliver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"grout/schemas"
)

const (
	maxAnswer       = 64 << 10 // of an endpoint; it is read for the connection's sake
	dialTimeout     = 10 * time.Second
	idleConnections = 30 * time.Second
)

// newClient makes the client of one webhook. It follows nobody, uses no proxy, and judges
// every address that it connects to.
func newClient(o *WebhookOptions) *http.Client {
	dialer := &net.Dialer{Timeout: dialTimeout, Control: o.Targets.control(plain(o.URL))}
	client := &http.Client{
		Timeout:       o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, DisableCompression: true,
			TLSHandshakeTimeout: dialTimeout, ResponseHeaderTimeout: o.Timeout, IdleConnTimeout: idleConnections,
			MaxConnsPerHost: lanes, MaxIdleConnsPerHost: lanes, MaxIdleConns: lanes, MaxResponseHeaderBytes: maxAnswer,
		},
	}
	return client
}

// plain tells whether an address is without TLS, however its scheme is spelled.
func plain(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Scheme == "http"
}

// fact is one that a webhook wants.
type fact struct {
	message *schemas.StreamMessage
	id      string
	kind    string
	app     string
}

// sort gives the facts of a page that the webhook wants.
func (w *Webhook) sort(list []schemas.StreamMessage) (wanted []fact) {
	for i := range list {
		if f, ok := w.wants(&list[i]); ok {
			wanted = append(wanted, f)
		}
	}
	return wanted
}

// wants reads what a message is, and whether the webhook is for it.
func (w *Webhook) wants(m *schemas.StreamMessage) (f fact, ok bool) {
	var head struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		App  string `json:"partitionkey"`
	}
	if json.Unmarshal(m.Data, &head) != nil || head.ID == "" { // none of grout's
		return f, false
	}
	kind := strings.TrimSuffix(strings.TrimPrefix(head.Type, "ai.mozaiks."), ".v1")
	f = fact{message: m, id: head.ID, kind: kind, app: head.App}
	return f, w.Wants(f.kind, f.app)
}

// Wants tells whether the webhook is for a kind of an app.
func (w *Webhook) Wants(kind, app string) bool {
	if len(w.o.Apps) > 0 && !slices.Contains(w.o.Apps, app) {
		return false
	}
	if len(w.o.Kinds) == 0 {
		return true
	}
	return slices.ContainsFunc(w.o.Kinds, func(pattern string) bool { return Match(pattern, kind) })
}

// Match holds a text against a pattern, in which * stands for any text.
func Match(pattern, text string) bool {
	first, rest, more := strings.Cut(pattern, "*")
	if !more {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	for ok && more {
		first, rest, more = strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(text, first)
		}
		_, text, ok = strings.Cut(text, first)
	}
	return false
}

// sendAll sends facts, those of an app one after the other, and notes what was taken. It
// returns the worst of what failed.
func (r *posting) sendAll(ctx context.Context, list []fact) (failure error) {
	keys, err := r.o.Keys()
	if err != nil {
		return fmt.Errorf("read the secrets: %w", err)
	}
	var apps [][]fact
	place := map[string]int{}
	for _, f := range list {
		if r.sent[f.message.Seq] {
			continue
		}
		i, known := place[f.app]
		if !known {
			i = len(apps)
			place[f.app], apps = i, append(apps, nil)
		}
		apps[i] = append(apps[i], f)
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	free := make(chan struct{}, lanes)
	for _, lane := range apps {
		free <- struct{}{}
		group.Go(func() {
			defer func() { <-free }()
			for _, f := range lane {
				mu.Lock()
				over := failure != nil
				mu.Unlock()
				if over {
					return
				}
				err := r.post(ctx, keys, f.id, f.message.Data)
				mu.Lock()
				if err != nil {
					failure = worse(failure, err)
				} else {
					r.sent[f.message.Seq] = true
				}
				mu.Unlock()
				if err != nil {
					return
				}
				r.board.took(1, 0, time.Now())
			}
		})
	}
	group.Wait()
	return failure
}

// statusError is an answer that does not take what was sent.
type statusError struct {
	status int
	text   string
	after  time.Duration
}

func (e *statusError) Error() string {
	if e.status >= 300 && e.status < 400 {
		return fmt.Sprintf("the endpoint answered %d, and redirects are not followed: set its new address", e.status)
	}
	return fmt.Sprintf("the endpoint answered %d: %q", e.status, e.text)
}

// worse prefers the failure that says more of what to do.
func worse(a, b error) error {
	_, gone := afterOf(b)
	if a == nil || gone {
		return b
	}
	return a
}

// afterOf tells how long an answer asks to wait, and whether it wants nothing any more.
func afterOf(err error) (after time.Duration, gone bool) {
	if s := (*statusError)(nil); errors.As(err, &s) {
		return s.after, s.status == http.StatusGone
	}
	return 0, false
}

// post sends one message.
func (w *Webhook) post(ctx context.Context, keys []Key, id string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, w.o.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.o.URL, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("send: %w", hideURL(err))
	}
	now := time.Now()
	h := req.Header
	h.Set("Content-Type", "application/cloudevents+json")
	h.Set("User-Agent", "grout-webhooks/1")
	h.Set("Webhook-Id", messageID(id))
	h.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	h.Set("Webhook-Signature", sign(keys, messageID(id), now, body))
	resp, err := w.client.Do(req)
	if err != nil {
		return fmt.Errorf("send: %w", hideURL(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode >= 200 && resp.StatusCode < 300: // it was taken, whatever follows
		return nil
	case err != nil:
		text = nil
	}
	return &statusError{resp.StatusCode, cut(string(text)), retryAfter(resp.Header, now, w.o.RetryMost)}
}

// hideURL takes the address out of an error: it may hold what only the endpoint should know.
func hideURL(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// Tried is what came of a message that was sent to try an endpoint.
type Tried struct {
	ID    string
	Took  time.Duration
	Error string // empty: it was taken
}

// Test sends a message that means nothing, signed as any other, once.
func (w *Webhook) Test(ctx context.Context, id string) Tried {
	began := time.Now()
	t := Tried{ID: messageID(id)}
	keys, err := w.o.Keys()
	if err == nil {
		err = w.post(ctx, keys, id, testBody(id, began))
	}
	if err != nil {
		t.Error = cut(err.Error())
	}
	t.Took = time.Since(began)
	return t
}

// testBody is a CloudEvent of a kind that no fact has.
func testBody(id string, now time.Time) []byte {
	b := append([]byte(nil), `{"specversion":"1.0","id":`...)
	b = schemas.AppendJSONString(b, id)
	b = append(b, `,"source":"//mozaiks.ai/grout/webhooks","type":"ai.mozaiks.webhook.test.v1","time":"`...)
	b = schemas.AppendInstant(b, now.UnixNano())
	return append(b, `","datacontenttype":"application/json","data":{}}`...)
}
