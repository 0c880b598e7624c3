package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"grout/integration/process"
)

// timedEvents tells of something with 8 KiB in it, often, until ctx ends; sent is when.
func timedEvents(ctx context.Context, t testing.TB, p *process.Process, chat, user string, every time.Duration) (told int) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	filler := strings.Repeat("x", 8<<10)
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return told
		}
		tell(t, p, chat, user, "r", "tool_started", fmt.Sprintf(`,"message":%q,"metadata":{"sent":%d}`, filler, time.Now().UnixNano()))
		told++
	}
}

// latencies of what readers see; reset begins anew.
type latencies struct {
	mu   sync.Mutex
	list []time.Duration
}

func (l *latencies) add(f *liveFrame) {
	var e struct{ Metadata struct{ Sent int64 } }
	if f.mirror() || json.Unmarshal(f.Data, &e) != nil || e.Metadata.Sent == 0 {
		return
	}
	d := time.Since(time.Unix(0, e.Metadata.Sent))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, d)
}

func (l *latencies) reset() (p50, p99 time.Duration, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.list)
	if n = len(l.list); n > 0 {
		p50, p99 = l.list[n/2], l.list[n*99/100]
	}
	l.list = nil
	return p50, p99, n
}

// A socket and a stream of events stop reading, for GROUT_LIVE_STALL seconds (7; past 30 they
// are cut off): others do not notice, and their own lists are complete in the end.
func TestStalledClients(t *testing.T) {
	stalled := time.Duration(liveRounds(t, "GROUT_LIVE_STALL", 7)) * time.Second
	p := startLive(t, filepath.Join(t.TempDir(), "data"))
	tell(t, p, "c", "ann", "r", "run_started", "")
	ctx, cancel := context.WithTimeout(t.Context(), 3*stalled+2*time.Minute)
	defer cancel()
	token := bearer(t, "ann")
	var seen latencies
	var readers sync.WaitGroup
	reading, enough := context.WithCancel(ctx)
	for n := range 10 {
		next, gone := openReader(ctx, t, p, n%2 == 0, token)
		context.AfterFunc(reading, gone)
		readers.Go(func() {
			for {
				f, err := next()
				if err != nil {
					return
				}
				seen.add(&f)
			}
		})
	}
	talking, quiet := context.WithCancel(ctx)
	var talkers sync.WaitGroup
	told := make([]int, 2)
	for n := range told {
		talkers.Go(func() { told[n] = timedEvents(talking, t, p, "c", "ann", 10*time.Millisecond) })
	}
	phase := func(name string, d time.Duration) {
		seen.reset()
		wait := time.NewTimer(d)
		<-wait.C
		p50, p99, n := seen.reset()
		t.Logf("%s: %d frames, p50 %s, p99 %s", name, n, p50.Round(10*time.Microsecond), p99.Round(10*time.Microsecond))
	}
	phase("before", min(stalled, 10*time.Second))
	socket, socketGone := openNarrow(ctx, t, p, true, token)
	events, eventsGone := openNarrow(ctx, t, p, false, token)
	phase("while two clients do not read", stalled)
	quiet()
	talkers.Wait()
	enough()
	readers.Wait()
	last := uint64(told[0] + told[1] + 1)
	for name, c := range map[string]struct {
		next func() (liveFrame, error)
		gone func()
	}{"socket": {socket, socketGone}, "events": {events, eventsGone}} {
		w := &watcher{chat: "c", user: "ann", token: token, socket: name == "socket"}
		connections, slowFrames := 1, 0
		for w.last() < last {
			f, err := c.next()
			if err != nil {
				c.gone()
				if connections++; connections > 5 {
					t.Fatal(err)
				}
				if c.next, c.gone = w.dial(ctx, p); c.next == nil {
					t.Fatal("it could not come back")
				}
				continue
			}
			if f.Type == "stream.slow" {
				slowFrames++
			}
			if _, err := w.take(&f); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		c.gone()
		t.Logf("%s: %d frames over %d connections, told %d times that it was slow", name, len(w.seen), connections, slowFrames)
	}
	if slow, cut := liveMetric(t, p, "grout_live_slow_total"), liveMetric(t, p, "grout_live_cut_off_total"); slow+cut < 2 && stalled > 6*time.Second {
		t.Errorf("%v were told that they are slow, %v cut off", slow, cut)
	}
	if n := liveMetric(t, p, `grout_live_clients{transport="websocket"}`); n > 1 {
		t.Errorf("%v sockets are open", n)
	}
}

// openReader opens a socket, or a stream of events, of a chat from the begin.
func openReader(ctx context.Context, t testing.TB, p *process.Process, socket bool, token string) (func() (liveFrame, error), func()) {
	t.Helper()
	next, gone := (&watcher{chat: "c", user: "ann", token: token, socket: socket}).dial(ctx, p)
	if next == nil {
		t.Fatal("no client can connect")
	}
	return next, gone
}

// openNarrow is the same for somebody for whom the kernel keeps little that is not read.
func openNarrow(ctx context.Context, t testing.TB, p *process.Process, socket bool, token string) (func() (liveFrame, error), func()) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetReadBuffer(128 << 10) // above a segment of the loopback, or it would trickle
		}
		return c, err
	}}}
	if socket {
		c, _, err := websocket.Dial(ctx, socketURL(p, "c", "ann", "last_sequence=0"), &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{"access_token." + token}})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadLimit(4 << 20)
		return func() (liveFrame, error) { return readFrame(ctx, c) }, func() { _ = c.CloseNow() }
	}
	s, err := openEventsWith(ctx, client, p, "chat_id=c&last_event_id=0", "Authorization", "Bearer "+token)
	if err != nil {
		t.Fatal(err)
	}
	return s.next, s.close
}

// liveMetric reads one number of the metrics.
func liveMetric(t testing.TB, p *process.Process, name string) (v float64) {
	t.Helper()
	for line := range strings.Lines(string(request(t, p, "GET", "/metrics", nil).want(t, 200).body)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// Sockets with bad tokens, GROUT_LIVE_BAD_TOKENS of them (500; Done is ten thousand), from 50
// callers at once: each is told, none stays, and who has a good one notices little.
func TestBadTokenFlood(t *testing.T) {
	n := liveRounds(t, "GROUT_LIVE_BAD_TOKENS", 500)
	p := startLive(t, filepath.Join(t.TempDir(), "data"))
	tell(t, p, "c", "ann", "r", "run_started", "")
	before, good := resident(t, p), bearer(t, "ann")
	bad := good[:len(good)-4] + "AAAA"
	next := make(chan struct{}, n)
	for range n {
		next <- struct{}{}
	}
	close(next)
	var all sync.WaitGroup
	var mu sync.Mutex
	ends := map[string]int{}
	begin := time.Now()
	for range 50 {
		all.Go(func() {
			for range next {
				said := badToken(t.Context(), p, bad)
				mu.Lock()
				ends[said]++
				mu.Unlock()
			}
		})
	}
	slowest := time.Duration(0)
	for range 10 {
		asked := time.Now()
		c, _, err := dialSocket(t.Context(), socketURL(p, "c", "ann", "last_sequence=0"), good)
		if err != nil {
			t.Fatal(err)
		}
		wantFrame(t, c)
		_ = c.CloseNow()
		slowest = max(slowest, time.Since(asked))
	}
	all.Wait()
	took := time.Since(begin)
	waitFor(t, func() bool { return liveMetric(t, p, `grout_live_clients{transport="websocket"}`) == 0 })
	after := resident(t, p)
	t.Logf("%d bad tokens in %s (%.0f/s): %v; memory %.1f MiB, before %.1f MiB; a good one took at most %s", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), ends, after, before, slowest.Round(time.Millisecond))
	if ends["4001"] < n*99/100 {
		t.Errorf("they were told %v", ends)
	}
	if after > before+64 {
		t.Errorf("%.1f MiB stay", after-before)
	}
	stop(t, p)
	if strings.Contains(p.Log(), bad[strings.LastIndexByte(bad, '.')+1:]) {
		t.Error("a token is in the log")
	}
}

func badToken(ctx context.Context, p *process.Process, token string) string {
	c, resp, err := dialSocket(ctx, socketURL(p, "c", "ann", ""), token)
	if err != nil {
		if resp != nil {
			return fmt.Sprint("status ", resp.StatusCode)
		}
		if os.IsTimeout(err) {
			return "timeout"
		}
		return "no answer"
	}
	defer c.CloseNow()
	_, _, err = c.Read(ctx)
	if end := (websocket.CloseError{}); errors.As(err, &end) {
		return fmt.Sprint(int(end.Code))
	}
	return "cut off"
}
