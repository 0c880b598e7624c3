package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
)

// truth is what an unharmed directory answers.
type truth struct {
	Paths   []string
	Answers map[string]string // digest of the answer, by path
	Posts   []post            // batches, to be sent again
	Facts   map[string]string // digest of the data, by id
	Letters map[string]string
}

// look is what a binary answers, held against the truth.
type look struct {
	answers map[string]string
	wrong   []string
	strange []string // facts that are not those that were published
	refused []string // with status and code
	codes   map[string]bool
	facts   messages
	letters messages
}

// messages are those of a stream.
type messages struct {
	list    map[string]string
	twice   []string
	stalled bool // there are more, and they do not come
}

// client talks to a process with the keys that its directory was made with.
type client struct {
	http     *http.Client
	url      string
	nats     string
	key      string
	consumer string
	admin    string
}

func newClient(p *process.Process, data string) (*client, error) {
	c := &client{url: p.URL, nats: p.NATS, http: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}}
	for name, place := range map[string]*string{"internal_api_key": &c.key, "nats_consumer_password": &c.consumer, "nats_admin_password": &c.admin} {
		text, err := os.ReadFile(filepath.Join(data, "secrets", name))
		if err != nil {
			return nil, err
		}
		*place = strings.TrimSpace(string(text))
	}
	return c, nil
}

func (c *client) do(ctx context.Context, method, path, body string, header ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("X-Internal-API-Key", c.key)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

func (c *client) metrics(ctx context.Context) (map[string]float64, error) {
	status, text, err := c.do(ctx, http.MethodGet, "/metrics", "")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("metrics: %d", status)
	}
	if err != nil {
		return nil, err
	}
	m := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			m[name] = v
		}
	}
	return m, nil
}

// streams are looked at by the binary itself.
const streams = 3

// settled waits, for a while, until everything is published and every file was looked
// at once.
func (c *client) settled(ctx context.Context) {
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); {
		m, err := c.metrics(ctx)
		if err != nil {
			return
		}
		rows, checks := 0.0, 0
		for name, v := range m {
			if strings.HasPrefix(name, "grout_outbox_rows") {
				rows += v
			}
			if strings.HasPrefix(name, "grout_stream_checks_total") && v > 0 {
				checks++
			}
		}
		if rows == 0 && checks >= streams || pause(ctx, 20*time.Millisecond) != nil {
			return
		}
	}
}

// look asks for everything and compares it with the truth.
func (c *client) look(ctx context.Context, want *truth) (*look, error) {
	c.settled(ctx)
	l := &look{answers: map[string]string{}, codes: map[string]bool{}}
	for _, path := range want.Paths {
		digest, err := c.answer(ctx, l, path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if digest == "" {
			continue
		}
		l.answers[path] = digest
		if was, known := want.Answers[path]; known && was != digest {
			l.wrong = append(l.wrong, path)
		}
	}
	var err error
	if l.facts, err = c.stream(ctx, l, "MOZAIKS_EVT", "consumer", c.consumer); err == nil {
		l.letters, err = c.stream(ctx, l, "MOZAIKS_DLQ", "admin", c.admin)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range want.Posts {
		status, text, err := c.do(ctx, http.MethodPost, p.Path, p.Body)
		if err != nil {
			return nil, err
		}
		if status != http.StatusOK {
			l.refuse("POST "+p.Batch, status, text)
		} else if text != p.Answer {
			l.wrong = append(l.wrong, "POST "+p.Batch)
		}
	}
	if want.Facts != nil {
		l.compare("fact", want.Facts, &l.facts)
		l.compare("letter", want.Letters, &l.letters)
	}
	return l, nil
}

func (l *look) refuse(what string, status int, text string) {
	var problem struct {
		Code   string `json:"error_code"`
		Detail string `json:"detail"`
	}
	_ = json.Unmarshal([]byte(text), &problem)
	l.codes[problem.Code] = true
	l.refused = append(l.refused, fmt.Sprintf("%s: %d %s", what, status, problem.Code))
}

// compare finds facts that are missing, and those that nobody published.
func (l *look) compare(what string, want map[string]string, got *messages) {
	missing, other := 0, 0
	for id, digest := range want {
		switch have, ok := got.list[id]; {
		case !ok:
			missing++
		case have != digest:
			other++
		}
	}
	if missing > 0 {
		l.refused = append(l.refused, fmt.Sprintf("%d %ss are missing", missing, what))
	}
	extra := 0
	for id := range got.list {
		if _, ok := want[id]; !ok {
			extra++
		}
	}
	if other+extra+len(got.twice) > 0 {
		l.strange = append(l.strange, fmt.Sprintf("%ss: %d differ, %d are new, %d are there twice", what, other, extra, len(got.twice)))
	}
}

// answer gives the digest of an answer, over all its pages.
func (c *client) answer(ctx context.Context, l *look, path string) (string, error) {
	sum := sha256.New()
	for cursor := ""; ; {
		page := path
		if cursor != "" {
			page += "&cursor=" + url.QueryEscape(cursor)
		}
		status, text, err := c.do(ctx, http.MethodGet, page, "")
		if err != nil {
			return "", err
		}
		if status == http.StatusNotFound {
			return "none", nil
		}
		if status != http.StatusOK {
			l.refuse(path, status, text)
			return "", nil
		}
		_, _ = io.WriteString(sum, text)
		if cursor = ""; strings.HasPrefix(path, "/api/usage/events") {
			var p struct {
				Next *string `json:"next_cursor"`
			}
			if err := json.Unmarshal([]byte(text), &p); err != nil {
				return "", err
			}
			if p.Next != nil {
				cursor = *p.Next
			}
		}
		if cursor == "" {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
	}
}

// stream reads a whole stream with a stock client.
func (c *client) stream(ctx context.Context, l *look, name, user, password string) (messages, error) {
	got := messages{list: map[string]string{}}
	nc, err := nats.Connect(c.nats, nats.UserInfo(user, password), nats.Timeout(3*time.Second))
	if errors.Is(err, nats.ErrAuthorization) {
		l.codes["UNAUTHORIZED"] = true
		got.stalled = true
		return got, nil
	}
	if err != nil {
		return got, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return got, err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return got, fmt.Errorf("read %s: %w", name, err)
	}
	pending := consumer.CachedInfo().NumPending
	if pending == 0 {
		return got, nil
	}
	iter, err := consumer.Messages(jetstream.PullMaxMessages(500))
	if err != nil {
		return got, err
	}
	defer iter.Stop()
	for {
		wait, stop := context.WithTimeout(ctx, 2*time.Second)
		m, err := iter.Next(jetstream.NextContext(wait))
		stop()
		if err != nil {
			got.stalled = true
			return got, nil
		}
		if !strings.HasPrefix(m.Subject(), "mozaiks.v1.relay.") {
			got.add(m.Data())
		}
		meta, err := m.Metadata()
		if err != nil {
			return got, err
		}
		if meta.NumPending == 0 {
			return got, nil
		}
	}
}

func (m *messages) add(data []byte) {
	var f struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(data, &f)
	if f.ID == "" {
		f.ID = "none"
	}
	if _, again := m.list[f.ID]; again {
		m.twice = append(m.twice, f.ID)
	}
	sum := sha256.Sum256(data)
	m.list[f.ID] = hex.EncodeToString(sum[:8])
}
