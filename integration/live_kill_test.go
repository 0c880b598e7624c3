package integration

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"grout/integration/process"
)

// liveRounds reads how much a test of live streams does.
func liveRounds(t testing.TB, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is no number", name, text)
	}
	return n
}

// steadyAddr is an address for a server that is started again and again: not of those that
// the machine gives to clients, of which there are many that wait for it.
func steadyAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 21_000+rand.IntN(10_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("there is no free port")
	return ""
}

// seenFrame is what a watcher keeps of a frame.
type seenFrame struct {
	sequence uint64
	kind     string
	sum      uint64 // of the data
}

var frameSeed = maphash.MakeSeed()

// watcher follows a chat, loses its connection now and then, and comes back.
type watcher struct {
	chat, user, token string
	socket, key       bool // else events, by the user or with a key
	cuts              int  // it goes away after so many frames on average; 0: never

	seen             []seenFrame
	data             [][]byte // of the first watcher of a chat
	keep             bool
	id               string
	mirrored         bool // the mirror of the last frame has come
	mirrors, connect int
	open             *atomic.Int64
	opening          []time.Duration
	fault            error
}

const liveEnd = "the-end"

func (w *watcher) last() uint64 {
	if len(w.seen) == 0 {
		return 0
	}
	return w.seen[len(w.seen)-1].sequence
}

// run follows the chat until its end.
func (w *watcher) run(ctx context.Context, base string) {
	p := &process.Process{URL: base}
	for ctx.Err() == nil {
		w.connect++
		over, err := w.follow(ctx, p)
		if over || err != nil {
			w.fault = err
			return
		}
		wait := time.NewTimer(time.Duration(20+rand.IntN(300)) * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
	w.fault = fmt.Errorf("it did not come to the end, only to %d", w.last())
}

// follow reads one connection. An error is one of the test; that a connection ends is none.
func (w *watcher) follow(ctx context.Context, p *process.Process) (over bool, err error) {
	asked := time.Now()
	next, gone := w.dial(ctx, p)
	if next == nil {
		return false, nil
	}
	defer gone()
	w.opening = append(w.opening, time.Since(asked))
	w.open.Add(1)
	defer w.open.Add(-1)
	// The more there is to see, the longer they stay: else they would mostly come and go.
	for left := 1 + rand.IntN(2*max(w.cuts, len(w.seen)/2, 1)); left > 0 || w.cuts == 0; left-- {
		f, err := next()
		if err != nil {
			return false, nil
		}
		if over, err := w.take(&f); over || err != nil {
			return over, err
		}
	}
	return false, nil
}

func (w *watcher) dial(ctx context.Context, p *process.Process) (next func() (liveFrame, error), gone func()) {
	if w.socket {
		c, _, err := dialSocket(ctx, socketURL(p, w.chat, w.user, fmt.Sprint("last_sequence=", w.last())), w.token)
		if err != nil {
			return nil, nil
		}
		return func() (liveFrame, error) { return readFrame(ctx, c) }, func() { _ = c.CloseNow() }
	}
	header := []string{"Authorization", "Bearer " + w.token}
	if w.key {
		header = []string{"X-Internal-API-Key", process.InternalKey}
	}
	s, err := openEvents(ctx, p, "chat_id="+url.QueryEscape(w.chat), append(header, "Last-Event-ID", cmp.Or(w.id, "0"))...)
	if err != nil {
		return nil, nil
	}
	return s.next, s.close
}

// take holds a frame against what came before it.
func (w *watcher) take(f *liveFrame) (over bool, err error) {
	switch {
	case f.mirror():
		if f.Sequence != w.last() || w.mirrored {
			return false, fmt.Errorf("%s with number %d came behind number %d", f.Type, f.Sequence, w.last())
		}
		w.mirrored = true
		w.mirrors++
		return false, nil
	case f.Type == "stream.slow":
		return false, nil
	case f.ChatID != w.chat || f.Sequence != w.last()+1:
		return false, fmt.Errorf("%s of chat %q with number %d came behind number %d: %.200s", f.Type, f.ChatID, f.Sequence, w.last(), f.Data)
	}
	w.seen = append(w.seen, seenFrame{f.Sequence, f.Type, maphash.Bytes(frameSeed, f.Data)})
	if w.keep {
		w.data = append(w.data, f.Data)
	}
	w.id, w.mirrored = f.id, false
	return bytes.Contains(f.Data, []byte(liveEnd)), nil
}

// talk is the load on one chat.
type talk struct {
	chat, user string
	runs       []string
	events     map[string]bool // of usage, by id
	total      int64
}

// send repeats a request until it is answered with success: ids make that harmless.
func (c *talk) send(ctx context.Context, base, path, body string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, "POST", base+path, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("X-Internal-API-Key", process.InternalKey)
		req.Header.Set("Content-Type", "application/json")
		status := 0
		if resp, err := http.DefaultClient.Do(req); err == nil {
			status = resp.StatusCode
			resp.Body.Close()
		}
		switch {
		case status == 200:
			return nil
		case status != 0 && status != 202 && status != 503:
			return fmt.Errorf("%s answered %d to %s", path, status, body)
		}
		wait := time.NewTimer(50 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

func (c *talk) step(ctx context.Context, base, run, kind, more string) error {
	id := fmt.Sprintf(`,"event_id":"%s-%d"`, run, rand.Uint64())
	if kind == "agent_completed" && more == liveEnd {
		id, more = fmt.Sprintf(`,"event_id":"%s-%s"`, liveEnd, c.chat), ""
	}
	return c.send(ctx, base, "/api/orchestration/events", reported(c.chat, c.user, run, kind, id+more))
}

// talkRun lets one run happen, with usage.
func (c *talk) talkRun(ctx context.Context, base string, n int) error {
	run := fmt.Sprintf("%s-run-%d", c.chat, n)
	c.runs = append(c.runs, run)
	if err := c.step(ctx, base, run, "run_started", `,"message":"go"`); err != nil {
		return err
	}
	for i := range 2 + rand.IntN(4) {
		agent := fmt.Sprintf(`,"agent":"agent %d"`, i)
		var list []string
		for range rand.IntN(4) {
			id := fmt.Sprintf("u-%s-%d", run, rand.Uint64())
			c.events[id] = true
			c.total += 3
			list = append(list, fmt.Sprintf(`{"event_id":%q,"timestamp":%q,"app_id":"dev_app","user_id":%q,"chat_id":%q,"run_id":%q,"model":"m","input_tokens":1,"output_tokens":2}`,
				id, time.Now().UTC().Format(time.RFC3339Nano), c.user, c.chat, run))
		}
		err := c.step(ctx, base, run, "agent_started", agent)
		if err == nil && list != nil {
			err = c.send(ctx, base, "/api/usage/ingest", `{"events":[`+strings.Join(list, ",")+`]}`)
		}
		if err == nil {
			err = c.step(ctx, base, run, "agent_completed", agent)
		}
		if err != nil {
			return err
		}
	}
	end := []string{"run_completed", "run_failed", "run_cancelled"}[rand.IntN(3)]
	return c.step(ctx, base, run, end, "")
}

func resident(t testing.TB, p *process.Process) float64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		t.Skipf("memory cannot be read here: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n / 1024
		}
	}
	return 0
}

// Clients of both kinds watch chats in which runs happen, come and go at random, while grout
// is killed and started again: each ends with the whole list, in its order, every item once,
// and that is the list of the store. GROUT_LIVE_CLIENTS and GROUT_LIVE_KILLS say how many.
func TestLiveClientsAcrossKills(t *testing.T) {
	clients, kills := liveRounds(t, "GROUT_LIVE_CLIENTS", 100), liveRounds(t, "GROUT_LIVE_KILLS", 2)
	chats := max(min(clients/20, 50), 5)
	data, addr := filepath.Join(t.TempDir(), "data"), steadyAddr(t)
	env := []string{"MOZAIKS_HTTP_ADDR=" + addr, "MOZAIKS_LIVE_MAX_PER_USER=1000"}
	p := startLive(t, data, env...)
	base := p.URL
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(120+2*clients/10+20*kills)*time.Second)
	defer cancel()
	var talks []*talk
	for n := range chats {
		c := &talk{chat: fmt.Sprint("chat-", n), user: fmt.Sprint("user-", n), events: map[string]bool{}}
		talks = append(talks, c)
		if err := c.talkRun(ctx, base, 0); err != nil {
			t.Fatal(err)
		}
	}
	before := resident(t, p)

	var watching, open atomic.Int64
	var watchers []*watcher
	var all sync.WaitGroup
	for n := range clients {
		c := talks[n%chats]
		w := &watcher{chat: c.chat, user: c.user, token: bearer(t, c.user), socket: n/chats%2 == 0, key: n/chats%4 == 1, keep: n < chats, open: &open}
		if n/chats%5 != 4 { // one in five stays as long as it can
			w.cuts = 40
		}
		watchers = append(watchers, w)
		watching.Add(1)
		all.Go(func() {
			defer watching.Add(-1)
			w.run(ctx, base)
		})
	}
	waitFor(t, func() bool { return open.Load() >= int64(clients*9/10) })
	t.Logf("%d clients on %d chats, idle: %.1f MiB, before them %.1f MiB: %.0f KiB a client", clients, chats, resident(t, p), before, (resident(t, p)-before)*1024/float64(clients))

	var killed atomic.Bool
	var load sync.WaitGroup
	failed := make(chan error, chats)
	for _, c := range talks {
		load.Go(func() {
			var err error
			for n := 1; err == nil && (n < 3 || !killed.Load() && n < 200); n++ {
				pause := time.NewTimer(time.Duration(rand.IntN(2000)) * time.Millisecond)
				<-pause.C
				err = c.talkRun(ctx, base, n)
			}
			if err == nil {
				err = c.step(ctx, base, c.chat+"-end", "run_started", "")
				c.runs = append(c.runs, c.chat+"-end")
			}
			if err == nil {
				err = c.step(ctx, base, c.chat+"-end", "agent_completed", liveEnd)
			}
			if err != nil {
				failed <- fmt.Errorf("%s: %w", c.chat, err)
			}
		})
	}
	peak := 0.0
	for range kills {
		wait := time.NewTimer(time.Duration(500+rand.IntN(2000)) * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
		peak = max(peak, resident(t, p))
		p.Kill()
		p = startLive(t, data, env...)
	}
	killed.Store(true)
	load.Wait()
	loaded := time.Now()
	all.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	frames, connects, mirrors := 0, 0, 0
	var opening []time.Duration
	byChat := map[string]*watcher{}
	for n, w := range watchers {
		frames, connects, mirrors = frames+len(w.seen), connects+w.connect, mirrors+w.mirrors
		opening = append(opening, w.opening...)
		if w.fault != nil {
			t.Errorf("client %d (socket %t, key %t) of %s, %d connections: %v", n, w.socket, w.key, w.chat, w.connect, w.fault)
			continue
		}
		if first := byChat[w.chat]; first == nil && w.keep {
			byChat[w.chat] = w
		} else if first != nil && !slices.Equal(first.seen, w.seen) {
			t.Errorf("client %d of %s has another list than client %s: %d and %d frames", n, w.chat, first.user, len(w.seen), len(first.seen))
		}
		if t.Failed() && n > 20 {
			break
		}
	}
	took := time.Since(loaded)
	slices.Sort(opening)
	t.Logf("%d frames and %d mirrors to %d clients over %d connections (%d tries, to open p50 %s, p99 %s, at most %s), %d kills; %s after the last event all had all; at most %.1f MiB when killed",
		frames, mirrors, clients, len(opening), connects, opening[len(opening)/2].Round(time.Millisecond), opening[len(opening)*99/100].Round(time.Millisecond), opening[len(opening)-1].Round(time.Millisecond),
		kills, took.Round(time.Millisecond), peak)
	if t.Failed() {
		return
	}
	for _, c := range talks {
		c.compare(t, p, byChat[c.chat])
	}
	stop(t, p)
	if list, code, text := verify(t, data, 1, nil); code != 0 {
		t.Errorf("verify ends with %d, %s, %+v", code, text, list)
	}
}

// compare holds what a client has seen of a chat against what the store says.
func (c *talk) compare(t *testing.T, p *process.Process, w *watcher) {
	t.Helper()
	runs := map[string][][]byte{}
	deltas, total := map[string]int{}, int64(0)
	for i, f := range w.seen {
		switch {
		case strings.HasPrefix(f.kind, "chat.orchestration."):
			var e struct {
				Run string `json:"run_id"`
			}
			if err := json.Unmarshal(w.data[i], &e); err != nil {
				t.Fatal(err)
			}
			runs[e.Run] = append(runs[e.Run], w.data[i])
		case f.kind == "chat.usage_delta":
			var d struct {
				ID    string `json:"event_id"`
				Total int64  `json:"total_tokens"`
			}
			if err := json.Unmarshal(w.data[i], &d); err != nil {
				t.Fatal(err)
			}
			deltas[d.ID]++
			total += d.Total
		}
	}
	for id := range c.events {
		if deltas[id] != 1 {
			t.Errorf("%s: event %s was shown %d times", c.chat, id, deltas[id])
		}
	}
	if len(deltas) != len(c.events) || total != c.total || chatOf(t, p, "dev_app", c.chat).Total != total {
		t.Errorf("%s: %d deltas of %d tokens; sent %d of %d", c.chat, len(deltas), total, len(c.events), c.total)
	}
	for _, run := range c.runs {
		cursor, n := "", 0
		for {
			var page struct {
				Events []json.RawMessage
				Next   *string `json:"next_cursor"`
			}
			request(t, p, "GET", "/api/runs/"+url.PathEscape(run)+"/events?limit=1000"+cursor, nil).want(t, 200).into(t, &page)
			for _, e := range page.Events {
				if n >= len(runs[run]) || !bytes.Equal(e, runs[run][n]) {
					t.Errorf("%s: event %d of the store was not shown: %s", run, n, e)
					return
				}
				n++
			}
			if page.Next == nil {
				break
			}
			cursor = "&cursor=" + *page.Next
		}
		if n != len(runs[run]) {
			t.Errorf("%s: %d events are stored, %d were shown", run, n, len(runs[run]))
		}
		delete(runs, run)
	}
	if len(runs) != 0 {
		t.Errorf("%s: runs that are not known were shown: %d", c.chat, len(runs))
	}
}
