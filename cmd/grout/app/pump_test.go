package app

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"grout/schemas"
	"grout/store"
)

// order is one thing that a publisher wants done, in the way of HTTP and in that of NATS.
type order struct {
	id, app, kind string
	method, path  string
	body          map[string]any // over HTTP
	data          map[string]any // on the bus: also what HTTP has in its path
}

// times is how often it may be sent over HTTP without leaving a trace of that: a batch
// that is repeated is remembered as repeated.
func (a *order) times(r *rand.Rand) int {
	if a.kind == schemas.UsageIngest.Name {
		return 1
	}
	return 1 + r.IntN(2)
}

// drawOrders is a history in phases: within a phase any order comes to the same.
func drawOrders(seed uint64, base time.Time) (phases [4][]order) {
	r := rand.New(rand.NewPCG(seed, 7))
	n := 0
	add := func(phase int, a order, path map[string]any) {
		n++
		a.id = fmt.Sprint("order-", n)
		a.data = map[string]any{}
		for _, from := range []map[string]any{a.body, path} {
			for k, v := range from {
				a.data[k] = v
			}
		}
		phases[phase] = append(phases[phase], a)
	}
	for i := range 5 {
		app := fmt.Sprint("app.", i)
		add(0, order{
			app: app, kind: "entitlement.sync", method: "POST", path: "/api/internal/entitlement/sync",
			body: map[string]any{"version": "1.1", "app_id": app, "plan": map[string]any{"tier": "pro"}, "token_budget": map[string]any{"period": "lifetime", "total_tokens": map[string]any{"limit": 1 << 40, "enforcement": "hard"}}},
		}, nil)
		add(0, order{
			app: app, kind: "subscription.sync", method: "POST", path: "/api/internal/subscription/sync",
			body: map[string]any{"appId": app, "userId": "u1", "plan": "starter", "status": "active"},
		}, nil)
		for b := range 6 {
			var events []map[string]any
			for e := range 1 + r.IntN(20) {
				events = append(events, map[string]any{
					"event_id": fmt.Sprintf("e-%d-%d", b, e), "timestamp": base.Add(-time.Duration(r.Int64N(int64(40 * time.Hour)))).Format(time.RFC3339Nano),
					"app_id": app, "user_id": fmt.Sprintf("u%d", r.IntN(3)), "model": fmt.Sprintf("m%d", r.IntN(2)), "input_tokens": r.IntN(1000), "output_tokens": r.IntN(100),
				})
			}
			if b == 0 { // one that is refused
				events = append(events, map[string]any{"event_id": "old", "timestamp": base.Add(-50 * 24 * time.Hour).Format(time.RFC3339), "app_id": app, "user_id": "u", "model": "m", "input_tokens": 1, "output_tokens": 1})
			}
			add(1, order{app: app, kind: "usage.ingest", method: "POST", path: "/api/usage/ingest", body: map[string]any{"batch_id": fmt.Sprint(app, "-batch-", b), "events": events}}, nil)
			first := fmt.Sprintf("e-%d-0", b)
			switch b % 3 {
			case 0:
				add(2, order{app: app, kind: "usage.void", method: "POST", path: "/api/usage/events/" + first + "/void", body: map[string]any{"app_id": app, "reason": "twice"}}, map[string]any{"event_id": first})
			case 1:
				add(2, order{app: app, kind: "usage.amend", method: "POST", path: "/api/usage/events/" + first + "/amend", body: map[string]any{"app_id": app, "input_tokens": r.IntN(50)}}, map[string]any{"event_id": first})
			default:
				add(2, order{app: app, kind: "usage.void", method: "POST", path: "/api/usage/events/unknown/void", body: map[string]any{"app_id": app}}, map[string]any{"event_id": "unknown"})
			}
		}
		for h := range 6 {
			id := fmt.Sprint("hold-", h)
			add(2, order{app: app, kind: "budget.reserve", method: "POST", path: "/api/budgets/reservations", body: map[string]any{"app_id": app, "reservation_id": id, "user_id": "u1", "estimated_tokens": 10 + r.IntN(100), "ttl_seconds": 3600}}, nil)
			at := "/api/budgets/reservations/" + id
			switch h % 3 {
			case 0:
				add(3, order{app: app, kind: "budget.settle", method: "POST", path: at + "/settle", body: map[string]any{"app_id": app, "event_id": "settled-" + id, "timestamp": base.Format(time.RFC3339), "model": "m", "input_tokens": 3, "output_tokens": r.IntN(9)}}, map[string]any{"reservation_id": id})
			case 1:
				add(3, order{app: app, kind: "budget.release", method: "DELETE", path: at + "?app_id=" + url.QueryEscape(app)}, map[string]any{"reservation_id": id})
			default:
				add(3, order{app: app, kind: "budget.extend", method: "POST", path: at + "/extend", body: map[string]any{"app_id": app, "ttl_seconds": 3600}}, map[string]any{"reservation_id": id})
			}
		}
		for run := range 4 {
			id := fmt.Sprint("run-", run)
			add(2, order{app: app, kind: "orchestration.report", method: "POST", path: "/api/orchestration/events", body: map[string]any{
				"app_id": app, "kind": "orchestration.run_started", "run_id": id, "event_id": id + "-1", "user_id": "u1", "message": "go",
			}}, nil)
			add(3, order{app: app, kind: "orchestration.report", method: "POST", path: "/api/orchestration/events", body: map[string]any{
				"app_id": app, "kind": "orchestration.run_completed", "run_id": id, "event_id": id + "-2", "cost": 0.5, "total_tokens": run,
			}}, nil)
		}
	}
	return phases
}

// overHTTP sends what is asked for, and takes any answer but one that says to try again.
func (a *order) overHTTP(t *testing.T, base string) {
	t.Helper()
	var body []byte
	if a.body != nil {
		body, _ = json.Marshal(a.body)
	}
	req, err := http.NewRequestWithContext(t.Context(), a.method, base+a.path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Internal-API-Key", "key")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusUnprocessableEntity || resp.StatusCode == http.StatusUnauthorized {
		t.Fatalf("%s %s: status %d", a.method, a.path, resp.StatusCode)
	}
}

// message is what is asked for as a message, in one of the forms.
func (a *order) message(form int) *nats.Msg {
	data, _ := json.Marshal(a.data)
	m := nats.NewMsg(schemas.CommandSubject(a.app, a.kind))
	switch form {
	case 0:
		m.Data = data
		m.Header.Set("Nats-Msg-Id", a.id)
	case 1:
		m.Data = data
		for k, v := range map[string]string{"ce-specversion": "1.0", "ce-id": a.id, "ce-source": "//crm.example", "ce-type": schemas.TypeOf(a.kind), "content-type": "application/json"} {
			m.Header[k] = []string{v}
		}
	default:
		m.Data = fmt.Appendf(nil, `{"specversion":"1.0","id":%q,"source":"//crm.example","type":%q,"data":%s}`, a.id, schemas.TypeOf(a.kind), data)
	}
	return m
}

// platform connects as the account that publishes commands.
func platform(t *testing.T, address string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(address, nats.UserInfo("platform", "platform-password"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// publishedTotals gives what the pumps of all partitions have done, by outcome.
func publishedTotals(t *testing.T, base string) map[string]int64 {
	t.Helper()
	resp, err := http.Get(base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	totals := map[string]int64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line, ok := strings.CutPrefix(lines.Text(), `grout_published_commands_total{outcome="`)
		if !ok {
			continue
		}
		outcome, rest, _ := strings.Cut(line, `"`)
		_, number, _ := strings.Cut(rest, "} ")
		n, err := strconv.ParseFloat(number, 64)
		if err != nil {
			t.Fatal(err)
		}
		totals[outcome] += int64(n)
	}
	return totals
}

// pumped waits until everything that was published is in the log and applied.
func pumped(t *testing.T, base string, published int64) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		n := publishedTotals(t, base)
		if n["stored"] >= published && n["done"]+n["refused"]+n["dead"] == n["stored"] {
			if n["stored"] != published || n["dead"] > 0 {
				t.Fatalf("%d were published: %v", published, n)
			}
			return
		}
		select {
		case <-look.C:
		case <-deadline.C:
			t.Fatalf("%d were published: %v", published, n)
		}
	}
}

// One history, half of it over HTTP and half on the bus in any form, shuffled and
// repeated, comes to what it comes to over HTTP alone.
func TestHalfOnTheBusIsAllOverHTTP(t *testing.T) {
	base := time.Now().UTC()
	const seed = 1
	phases := drawOrders(seed, base)
	want := digestsOfOrders(t, phases, 1, false, seed)
	for _, partitions := range []int{1, 4} {
		got := digestsOfOrders(t, phases, partitions, true, seed)
		if d := cmp.Diff(want, got); d != "" || len(got) != 5 {
			t.Errorf("P=%d, of %d apps: half on the bus differs:\n%s", partitions, len(got), d)
		}
	}
}

func digestsOfOrders(t *testing.T, phases [4][]order, partitions int, half bool, seed uint64) map[string]string {
	t.Helper()
	cfg := testConfig(t, partitions)
	cfg.NATSListen = "127.0.0.1:0"
	cfg.PlatformPasswords = Secret{Values: []string{"platform-password"}}
	r := rand.New(rand.NewPCG(seed, uint64(partitions)))
	i := startInstance(t, cfg)
	js := platform(t, i.NATSURL)
	published := int64(0)
	for _, phase := range phases {
		var sends []func()
		for k := range phase {
			a := &phase[k]
			onBus, overHTTP := half && r.IntN(2) == 0, true
			if onBus {
				overHTTP = a.kind != schemas.UsageIngest.Name && r.IntN(4) == 0
				form := r.IntN(3)
				for range 1 + r.IntN(3) {
					published++
					sends = append(sends, func() {
						if _, err := js.PublishMsg(t.Context(), a.message(form)); err != nil {
							t.Fatal(err)
						}
					})
				}
			}
			for range a.times(r) {
				if overHTTP {
					sends = append(sends, func() { a.overHTTP(t, i.URL) })
				}
			}
		}
		r.Shuffle(len(sends), func(a, b int) { sends[a], sends[b] = sends[b], sends[a] })
		for _, send := range sends {
			send()
		}
		pumped(t, i.URL, published)
	}
	if half == (published == 0) {
		t.Fatalf("%d were published", published)
	}
	stopInstance(t, i)
	return digestsOfFiles(t, cfg)
}

func digestsOfFiles(t *testing.T, cfg Config) map[string]string {
	t.Helper()
	all := map[string]string{}
	for p := range cfg.Partitions {
		s, err := store.Open(storePath(cfg.DataDir, p), store.Options{Partition: p, Partitions: cfg.Partitions, FoldEvery: cfg.FoldEvery})
		if err != nil {
			t.Fatal(err)
		}
		d, err := s.AppDigests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for app, sum := range d {
			all[app] = sum
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// The pump has half of a group while nobody else writes, then no more than others have.
func TestShareOfThePump(t *testing.T) {
	var s share
	at := time.Unix(0, 0)
	var got [][2]int
	for _, turn := range []struct {
		commands, bytes int64
		after           time.Duration
	}{
		{0, 0, 0},
		{3, 100, time.Second},
		{203, 200_100, time.Second},
		{203, 200_100, time.Second},
		{9203, 20_200_100, time.Second},
		{9203, 20_200_100, sharedFor},
		{9203, 20_200_100, time.Nanosecond},
	} {
		at = at.Add(turn.after)
		most, size := s.turn(turn.commands, turn.bytes, at)
		got = append(got, [2]int{most, size})
	}
	want := [][2]int{
		{maxShare, maxShareBytes},
		{minShare, minShareBytes},
		{200, 200_000},
		{minShare, minShareBytes},
		{maxShare, maxShareBytes},
		{minShare, minShareBytes},
		{maxShare, maxShareBytes},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v\nnot %v", got, want)
	}
}

// What was stored while the clock was wrong is a command all the same; the time that its
// sender names is judged.
func TestCommandStoredDuringAJump(t *testing.T) {
	now := time.Now()
	jump := now.Add(48 * time.Hour)
	m := schemas.StreamMessage{Subject: "mozaiks.v1.in.platform.0.a.usage.void", Seq: 1, Time: jump, Data: []byte(`{"event_id":"e"}`)}
	named := m
	named.Header = map[string][]string{
		"ce-specversion": {"1.0"}, "ce-id": {"1"}, "ce-source": {"//crm"}, "ce-type": {"ai.mozaiks.usage.void.v1"}, "ce-time": {jump.Format(time.RFC3339Nano)},
	}
	early := m
	early.Time = now.Add(-time.Hour)
	var unit brought
	for _, m := range []*schemas.StreamMessage{&m, &named, &early} {
		c, err := schemas.DecodePublic(m, 1)
		if err != nil {
			t.Fatal(err)
		}
		unit.add(&c, m)
	}
	unit.stamp(now.UnixNano())
	for i, want := range []time.Time{now, jump, early.Time} {
		if f := &unit.frames[i]; f.Accepted != now.UnixNano() || f.Time != want.UnixNano() {
			t.Errorf("%d: accepted %v, time %v", i, time.Unix(0, f.Accepted), time.Unix(0, f.Time))
		}
	}
}

// What only a clock in doubt calls too old holds up nothing but for a while: then it is a
// dead letter, and its neighbours are commands.
func TestOldEventsWhileTheClockIsInDoubt(t *testing.T) {
	const seconds, hour = int64(time.Second), int64(time.Hour)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixNano()
	message := func(at int64) *schemas.StreamMessage {
		return &schemas.StreamMessage{
			Subject: "mozaiks.v1.in.platform.0.a.usage.ingest", Seq: 7, Time: time.Unix(0, now), Header: map[string][]string{"Nats-Msg-Id": {"m"}},
			Data: fmt.Appendf(nil, `{"events":[{"event_id":"e","timestamp":%q,"app_id":"a","user_id":"u","model":"m","input_tokens":1,"output_tokens":1}]}`, time.Unix(0, at).UTC().Format(time.RFC3339Nano)),
		}
	}
	young, doubted, old := now-hour, now-schemas.MaxEventAge-hour, now-schemas.MaxEventAge-3*hour
	step := func(age int64) store.Clock {
		return store.Clock{LastTick: now - age, Steps: 1, StepAt: now - age, StepBy: 2 * hour, Wait: schemas.TicksAfterStep, Doubt: 2 * hour}
	}
	for _, c := range []struct {
		name  string
		clock store.Clock
		want  []string // kinds; none: all wait
	}{
		{"believed", store.Clock{LastTick: now}, []string{"usage.ingest", "usage.ingest", "usage.ingest"}},
		{"before the tick that shows the step", store.Clock{LastTick: now - 2*hour}, nil},
		{"a step just now", step(0), nil},
		{"a step nearly too long ago to wait", step(int64(pumpDoubts) - seconds), nil},
		{"a step ten minutes ago", step(int64(pumpDoubts)), []string{"usage.ingest", "letter.file", "usage.ingest"}},
	} {
		var unit brought
		for _, at := range []int64{young, doubted, old} {
			m := message(at)
			command, fault := schemas.DecodePublic(m, 1)
			if fault != nil {
				t.Fatal(fault)
			}
			unit.add(&command, m)
		}
		for range 2 { // also when the log does not take it at once
			err := unit.settle(c.clock, now, 1)
			if (err == nil) != (c.want != nil) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		unit.stamp(now)
		for i, kind := range c.want {
			f := &unit.frames[i]
			if f.Kind != kind || f.Accepted != now || f.AppID != "a" {
				t.Errorf("%s: command %d is %+v", c.name, i, f)
			}
			var letter schemas.LetterFiling
			if kind == schemas.FileLetter.Name && (letter.DecodePayload(f.Payload) != nil || letter.Code != schemas.CodeClockJump || letter.Cause.ID != "m" || string(letter.Original.Data) != string(message(doubted).Data)) {
				t.Errorf("%s: the letter is %+v", c.name, letter)
			}
		}
	}
}
