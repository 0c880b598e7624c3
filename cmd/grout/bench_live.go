package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"grout/bus"
	"grout/cmd/grout/app"
	"grout/cmd/grout/load"
	"grout/schemas"
)

// liveLoad is one measurement of the live streams: commands of one event each are due at
// fixed instants, by turns in some chats, and each chat is watched.
type liveLoad struct {
	rate     int // commands a second
	chats    int
	watchers int // of each kind
}

var liveLoads = []liveLoad{{100, 10, 10}, {1000, 50, 500}}

const (
	liveSenders = 64
	// liveWithin is how long it is waited for what was sent before.
	liveWithin = 20 * time.Second
)

// liveRow is a way to watch under a load.
type liveRow struct {
	Kind     string `json:"kind"`
	Way      string `json:"way"`
	Rate     int    `json:"commands_per_sec"`
	Chats    int    `json:"chats"`
	Watchers int    `json:"watchers"`
	Sent     int    `json:"sent"`
	Failed   int    `json:"failed"`
	Received int    `json:"received"`
	Missing  int    `json:"missing"`
	Repeated int    `json:"repeated"`

	FromSend   [3]float64 `json:"from_send_ms"`   // p50, p99, p99.9
	FromAnswer [3]float64 `json:"from_answer_ms"` // 0: before the answer was here
	PeakMB     *float64   `json:"server_peak_mb"`
}

var liveColumns = []column[liveRow]{
	{"", "way", 10, func(r *liveRow) string { return r.Way }},
	{"", "cmds/s", 8, func(r *liveRow) string { return strconv.Itoa(r.Rate) }},
	{"", "watchers", 9, func(r *liveRow) string { return strconv.Itoa(r.Watchers) }},
	{"", "frames", 10, func(r *liveRow) string { return thousands(int64(r.Received)) }},
	{"", "missing", 8, func(r *liveRow) string { return strconv.Itoa(r.Missing) }},
	{"ms from sending", "p50", 8, func(r *liveRow) string { return compact(&r.FromSend[0]) }},
	{"ms from sending", "p99", 8, func(r *liveRow) string { return compact(&r.FromSend[1]) }},
	{"ms from sending", "p99.9", 8, func(r *liveRow) string { return compact(&r.FromSend[2]) }},
	{"ms from the answer", "p50", 8, func(r *liveRow) string { return compact(&r.FromAnswer[0]) }},
	{"ms from the answer", "p99", 8, func(r *liveRow) string { return compact(&r.FromAnswer[1]) }},
	{"ms from the answer", "p99.9", 8, func(r *liveRow) string { return compact(&r.FromAnswer[2]) }},
	{"server", "max MB", 8, func(r *liveRow) string { return compact(r.PeakMB) }},
}

// live measures how long it takes from a command to those who watch.
func (m *matrix) live(ctx context.Context) error {
	if !m.o.live {
		return nil
	}
	m.report.liveSection()
	for _, l := range liveLoads {
		if err := m.watched(ctx, l); err != nil {
			return fmt.Errorf("%d watchers of each kind: %w", l.watchers, err)
		}
	}
	return nil
}

func (p *matrixReport) liveSection() {
	if p.json {
		return
	}
	fmt.Fprintf(p.out, "\nLIVE: from a usage event, sent alone, to the chat.usage_delta that tells of it; the answer says that it is durable and applied. WebSocket and SSE watch one chat each, the NATS subscriber all\n%s",
		tableHead(liveColumns))
}

func (m *matrix) watched(ctx context.Context, l liveLoad) (err error) {
	dir, err := os.MkdirTemp(m.base, "live-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	data := filepath.Join(dir, "data")
	s, err := startServer(ctx, m.program, dir, data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.end()) }()
	b := newLiveBench(s, l, m.o.duration)
	defer b.end()
	if err := b.watch(ctx, data); err != nil {
		return err
	}
	sending := b.send(ctx)
	b.await(ctx)
	b.end()
	if err := errors.Join(sending, b.broken()); err != nil {
		return err
	}
	peak := known(megabytes(load.ReadProcess(s.pid()).Peak))
	for _, way := range b.ways {
		row := b.row(way)
		row.PeakMB = peak
		m.report.live(&row)
	}
	return nil
}

func (p *matrixReport) live(r *liveRow) {
	if p.json {
		p.line(r)
		return
	}
	var b strings.Builder
	for _, c := range liveColumns {
		b.WriteString(pad(c.text(r), c.width))
	}
	if r.Failed > 0 {
		fmt.Fprintf(&b, "  %d of %d commands failed", r.Failed, r.Sent)
	}
	fmt.Fprintf(p.out, "%s\n", b.String())
}

// liveBench is one measurement.
type liveBench struct {
	server *server
	load   liveLoad
	total  int
	sent   []time.Time    // by command
	heard  []atomic.Int64 // nanoseconds from sending to the answer; -1: it failed
	ways   []*way         // NATS, SSE, WebSocket
	cancel context.CancelFunc
	stop   func() // of the subscriber
	client *http.Client
	wait   sync.WaitGroup

	mu  sync.Mutex
	err error
}

// way is a kind of watchers.
type way struct {
	name     string
	watchers int
	whole    bool // each of them sees every command, else those of one chat
	mu       sync.Mutex
	seen     []receipt
	known    []map[int]bool // by watcher: commands that it has seen
	repeated int
	count    atomic.Int64
}

type receipt struct {
	command int
	at      time.Time
}

func newLiveBench(s *server, l liveLoad, duration time.Duration) *liveBench {
	b := &liveBench{server: s, load: l, total: int(float64(l.rate) * duration.Seconds()), stop: func() {}, cancel: func() {}}
	b.sent, b.heard = make([]time.Time, b.total), make([]atomic.Int64, b.total)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost, transport.MaxConnsPerHost = 2*l.watchers+liveSenders, 0
	b.client = &http.Client{Transport: transport}
	for name, watchers := range map[string]int{"NATS": 1, "SSE": l.watchers, "WebSocket": l.watchers} {
		b.ways = append(b.ways, &way{name: name, watchers: watchers, whole: name == "NATS", known: make([]map[int]bool, watchers)})
	}
	slices.SortFunc(b.ways, func(a, c *way) int { return cmp.Compare(a.name, c.name) })
	return b
}

func chatName(n int) string { return "chat-" + strconv.Itoa(n) }

// watch opens all streams before anything is sent.
func (b *liveBench) watch(ctx context.Context, data string) error {
	ctx, b.cancel = context.WithCancel(ctx)
	password, err := app.ReadSecret(app.SecretPath(data, app.ConsumerPasswordFile))
	if err != nil {
		return err
	}
	own := app.DefaultConfig().AppID
	b.stop, err = bus.WatchFacts(ctx, b.server.nats, password, schemas.FactSubject(own, schemas.ChatUsageDelta.Name)+".*", func(fact []byte) { b.fact(b.ways[0], fact) })
	if err != nil {
		b.stop = func() {}
		return err
	}
	cfg := app.DefaultConfig()
	cfg.DataDir = data
	for n := range b.load.watchers {
		chat := chatName(n % b.load.chats)
		token, err := app.UserToken(&cfg, app.TokenUser{ID: "user-" + chat}, benchTokenLife)
		if err != nil {
			return err
		}
		if err := b.socket(ctx, n, own, chat, token); err != nil {
			return err
		}
		if err := b.events(ctx, n, own, chat); err != nil {
			return err
		}
	}
	return nil
}

func (b *liveBench) socket(ctx context.Context, n int, app, chat, token string) error {
	target := "ws" + strings.TrimPrefix(b.server.url, "http") + "/ws/bench/" + app + "/" + chat + "/user-" + chat
	c, _, err := websocket.Dial(ctx, target, &websocket.DialOptions{HTTPClient: b.client, Subprotocols: []string{"access_token." + token}})
	if err != nil {
		return fmt.Errorf("open a WebSocket: %w", err)
	}
	c.SetReadLimit(maxEventBytes)
	b.wait.Go(func() {
		defer func() { _ = c.CloseNow() }()
		for {
			_, text, err := c.Read(ctx)
			if err != nil {
				b.fail(ctx, err)
				return
			}
			b.frame(b.ways[2], n, text)
		}
	})
	return nil
}

func (b *liveBench) events(ctx context.Context, n int, app, chat string) error {
	target := b.server.url + "/api/events/stream?" + url.Values{"app_id": {app}, "chat_id": {chat}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Internal-API-Key", b.server.key)
	resp, err := b.client.Do(req)
	if err != nil {
		return fmt.Errorf("open a stream of events: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return errors.Join(fmt.Errorf("open a stream of events: %d %s", resp.StatusCode, text), resp.Body.Close())
	}
	b.wait.Go(func() {
		defer resp.Body.Close()
		f := follower{}
		err := f.read(resp.Body, func() {}, func(e *liveEvent) error {
			b.frame(b.ways[1], n, e.data)
			return nil
		})
		b.fail(ctx, cmp.Or(err, io.ErrUnexpectedEOF))
	})
	return nil
}

// fail notes what ended a watcher before its time.
func (b *liveBench) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = fmt.Errorf("a watcher was cut off: %w", err)
	}
}

func (b *liveBench) broken() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// fact notes what a subscriber of NATS was sent.
func (b *liveBench) fact(w *way, text []byte) {
	now := time.Now()
	var fact struct {
		Data struct {
			Deltas []struct {
				EventID string `json:"event_id"`
			} `json:"deltas"`
		} `json:"data"`
	}
	if json.Unmarshal(text, &fact) != nil {
		return
	}
	for _, d := range fact.Data.Deltas {
		w.note(0, d.EventID, now)
	}
}

func (b *liveBench) frame(w *way, watcher int, text []byte) {
	now := time.Now()
	if !bytes.Contains(text, []byte(`"chat.usage_delta"`)) {
		return
	}
	var f struct {
		Data struct {
			EventID string `json:"event_id"`
		} `json:"data"`
	}
	if json.Unmarshal(text, &f) == nil {
		w.note(watcher, f.Data.EventID, now)
	}
}

func (w *way) note(watcher int, event string, at time.Time) {
	command, err := strconv.Atoi(strings.TrimPrefix(event, "bench-"))
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[watcher] == nil {
		w.known[watcher] = map[int]bool{}
	}
	if w.known[watcher][command] {
		w.repeated++
		return
	}
	w.known[watcher][command] = true
	w.seen = append(w.seen, receipt{command, at})
	w.count.Add(1)
}

// send makes the commands when they are due.
func (b *liveBench) send(ctx context.Context) error {
	due := make(chan int, b.total)
	var senders sync.WaitGroup
	for range liveSenders {
		senders.Go(func() {
			for n := range due {
				b.one(ctx, n)
			}
		})
	}
	begin := time.Now()
	for n := range b.total {
		if sleep(ctx, time.Until(begin.Add(time.Duration(n)*time.Second/time.Duration(b.load.rate)))) != nil {
			break
		}
		b.sent[n] = time.Now()
		due <- n
	}
	close(due)
	senders.Wait()
	return ctx.Err()
}

func (b *liveBench) one(ctx context.Context, n int) {
	chat := chatName(n % b.load.chats)
	body := fmt.Appendf(nil, `{"events":[{"event_id":"bench-%d","timestamp":"%s","app_id":"%s","user_id":"user-%s","chat_id":"%s","model":"gpt-4","input_tokens":100,"output_tokens":20}]}`,
		n, time.Now().UTC().Format(time.RFC3339Nano), app.DefaultConfig().AppID, chat, chat)
	b.heard[n].Store(-1)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.server.url+"/api/usage/ingest", bytes.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Internal-API-Key", b.server.key)
	resp, err := b.client.Do(req)
	if err != nil {
		return
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.Body.Close() == nil && err == nil && resp.StatusCode == http.StatusOK {
		b.heard[n].Store(int64(time.Since(b.sent[n])))
	}
}

// await waits for what is on its way.
func (b *liveBench) await(ctx context.Context) {
	for end := time.Now().Add(liveWithin); time.Now().Before(end); {
		all := true
		for _, w := range b.ways {
			all = all && int(w.count.Load()) >= b.expected(w)
		}
		if all || b.broken() != nil || sleep(ctx, visiblePause) != nil {
			return
		}
	}
}

// expected is how many receipts a kind of watchers has when none is missing.
func (b *liveBench) expected(w *way) (n int) {
	for command := range b.total {
		if b.heard[command].Load() > 0 {
			n += w.sees(command, b.load.chats)
		}
	}
	return n
}

// sees is how many watchers see a command.
func (w *way) sees(command, chats int) int {
	if w.whole {
		return w.watchers
	}
	chat := command % chats
	return (w.watchers - chat + chats - 1) / chats
}

// end closes all streams.
func (b *liveBench) end() {
	b.stop()
	b.stop = func() {}
	b.cancel()
	b.wait.Wait()
	b.client.CloseIdleConnections()
}

func (b *liveBench) row(w *way) liveRow {
	r := liveRow{Kind: "live", Way: w.name, Rate: b.load.rate, Chats: b.load.chats, Watchers: w.watchers, Sent: b.total, Received: len(w.seen), Repeated: w.repeated}
	for n := range b.heard {
		if b.heard[n].Load() <= 0 {
			r.Failed++
		}
	}
	r.Missing = max(0, b.expected(w)-len(w.seen))
	var sent, answered []float64
	for _, s := range w.seen {
		took := s.at.Sub(b.sent[s.command])
		sent = append(sent, took.Seconds()*1e3)
		if heard := time.Duration(b.heard[s.command].Load()); heard > 0 {
			answered = append(answered, max(0, (took-heard).Seconds()*1e3))
		}
	}
	r.FromSend, r.FromAnswer = quantiles(sent), quantiles(answered)
	return r
}

// quantiles are p50, p99 and p99.9; zero of nothing.
func quantiles(list []float64) (q [3]float64) {
	slices.Sort(list)
	for i, share := range [...]float64{.5, .99, .999} {
		if len(list) > 0 {
			q[i] = list[min(len(list)-1, int(share*float64(len(list))))]
		}
	}
	return q
}
