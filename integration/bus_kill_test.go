package integration

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/integration/process"
	"grout/schemas"
)

// busBooks is what publishers know: what they had to say, and how often they said it
// before it was acknowledged.
type busBooks struct {
	mu       sync.Mutex
	recorded map[string]bool // event ids
	refused  map[string]bool // command ids
	broken   map[string]int  // what is no command, by its text: how often it was sent
	unacked  int
}

// stand is where publishers find the process that runs now.
type stand struct {
	mu      sync.Mutex
	js      jetstream.JetStream
	nc      *nats.Conn
	changed chan struct{}
}

// put is where publishers find a process, if it lives still.
func (s *stand) put(t testing.TB, p *process.Process) {
	nc, err := nats.Connect(p.NATS, nats.UserInfo("platform", process.PlatformPassword), nats.NoReconnect())
	if err != nil {
		select {
		case <-p.Ended():
			return
		case <-time.After(10 * time.Second):
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nc != nil {
		s.nc.Close()
	}
	s.nc, s.js = nc, js
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

func (s *stand) get() (jetstream.JetStream, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.js, s.changed
}

// say publishes until somebody has acknowledged it.
func (s *stand) say(t *testing.T, b *busBooks, m *nats.Msg) (times int) {
	for {
		js, changed := s.get()
		times++
		if _, err := js.PublishMsg(t.Context(), m, jetstream.WithRetryAttempts(0)); err == nil {
			return times
		}
		b.mu.Lock()
		b.unacked++
		b.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond):
		case <-t.Context().Done():
			return times
		}
	}
}

// talk is one publisher: it says what is to be counted, refused, or no command at all.
func (s *stand) talk(t *testing.T, b *busBooks, n int, until <-chan struct{}) {
	r := rand.New(rand.NewPCG(uint64(n), 3))
	for i := 0; ; i++ {
		select {
		case <-until:
			return
		default:
		}
		id := fmt.Sprintf("p%d-%d", n, i)
		app := fmt.Sprint("app-", r.IntN(5))
		switch r.IntN(4) {
		case 0:
			data := fmt.Sprintf(`{"event_id":"unknown-%s"}`, id)
			s.say(t, b, commandOf(app, "usage.void", data, eventHeaders(id, "usage.void")...))
			b.mu.Lock()
			b.refused[id] = true
			b.mu.Unlock()
		case 1:
			text := "{ broken " + id
			times := s.say(t, b, commandOf(app, "usage.void", text, "Nats-Msg-Id", id))
			b.mu.Lock()
			b.broken[text] = times
			b.mu.Unlock()
		default:
			data := fmt.Sprintf(`{"events":[{"event_id":%q,"timestamp":%q,"app_id":%q,"user_id":"u","model":"m","input_tokens":1,"output_tokens":0}]}`, id, time.Now().UTC().Format(time.RFC3339), app)
			s.say(t, b, commandOf(app, "usage.ingest", data, "Nats-Msg-Id", id))
			b.mu.Lock()
			b.recorded[id] = true
			b.mu.Unlock()
		}
	}
}

// Killed with commands on their way, at random, and between the log and the stream that
// they came from: every command that was acknowledged has its one outcome, and nothing has
// two. GROUT_FAULT_KILLS says how often.
func TestKillWhilePublishing(t *testing.T) {
	n := kills(t)
	for _, c := range []struct {
		partitions, rounds int
		at                 string
	}{{1, n, ""}, {4, max(2, n/4), ""}, {1, max(2, n/4), "pump.stored"}} {
		t.Run(fmt.Sprintf("P=%d %s", c.partitions, c.at), func(t *testing.T) { killWhilePublishing(t, c.partitions, c.rounds, c.at) })
	}
}

// startMortal starts a process that may kill itself before it is ready; then the next one
// does not.
func startMortal(t *testing.T, data string, partitions int, env ...string) *process.Process {
	t.Helper()
	for {
		p, err := process.Start(t.Context(), process.Options{Binary: grout, Data: data, Env: append([]string{fmt.Sprint("MOZAIKS_PARTITIONS=", partitions)}, env...)})
		if err == nil {
			t.Cleanup(p.Kill)
			return p
		}
		if !errors.Is(err, process.ErrKilled) {
			t.Fatal(err)
		}
		env = nil
	}
}

func killWhilePublishing(t *testing.T, partitions, n int, at string) {
	data := filepath.Join(t.TempDir(), "data")
	r := rand.New(rand.NewPCG(uint64(partitions), uint64(n)))
	env := func(last bool) []string {
		if at == "" || last {
			return nil
		}
		return []string{fmt.Sprintf("GROUT_CRASH_AT=%s:%d", at, 1+r.IntN(20))}
	}
	b := &busBooks{recorded: map[string]bool{}, refused: map[string]bool{}, broken: map[string]int{}}
	s := &stand{}
	p := startMortal(t, data, partitions, env(false)...)
	s.put(t, p)
	until := make(chan struct{})
	var talking sync.WaitGroup
	for i := range 6 {
		talking.Go(func() { s.talk(t, b, i, until) })
	}
	for round := range n {
		life := time.NewTimer(time.Duration(100+r.IntN(700)) * time.Millisecond)
		if at != "" {
			life.Reset(20 * time.Second)
		}
		select {
		case <-life.C:
		case <-p.Ended():
		}
		life.Stop()
		p.Kill()
		p = startMortal(t, data, partitions, env(round == n-1)...)
		s.put(t, p)
	}
	close(until)
	talking.Wait()
	b.check(t, p)
	stop(t, p)
	t.Logf("%d kills, %d counted, %d refused, %d broken; %d sends without an answer", n, len(b.recorded), len(b.refused), len(b.broken), b.unacked)
}

// check compares what the publishers know with what everybody is told.
func (b *busBooks) check(t *testing.T, p *process.Process) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	list := facts(t, p, func(l []fact) bool {
		events, refused := outcomesIn(l)
		return events >= len(b.recorded) && refused >= len(b.refused) || time.Now().After(deadline)
	})
	_, times := recorded(t, list)
	told := map[string]int{}
	for key, n := range times {
		_, id, _ := strings.Cut(key, "\x00")
		told[id] += n
	}
	for id := range b.recorded {
		if told[id] != 1 {
			t.Errorf("event %s is told %d times", id, told[id])
		}
		delete(told, id)
	}
	for id := range told {
		t.Errorf("event %s is told, and was not acknowledged", id)
	}
	refused := map[string]int{}
	for _, f := range list {
		if f.Type == schemas.TypeOf(schemas.CommandRefused.Name) {
			refused[f.Cause]++
		}
	}
	for id := range b.refused {
		if refused[id] != 1 {
			t.Errorf("command %s is refused %d times", id, refused[id])
		}
	}
	letters := map[string]int{}
	for _, l := range deadLetters(t, p, len(b.broken)) {
		letters[string(decode64(t, l.Data.Original.DataBase64))]++
	}
	for text, sent := range b.broken {
		if n := letters[text]; n < 1 || n > sent {
			t.Errorf("%q was sent %d times and has %d letters", text, sent, n)
		}
	}
}
