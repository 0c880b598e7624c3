package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"grout/integration/process"
	"grout/schemas"
)

// measures are the components of a chat's usage, cost in billionths.
type measures struct{ input, output, total, cached, reasoning, cost int64 }

func (m measures) each(n measures, op func(a, b int64) int64) measures {
	return measures{op(m.input, n.input), op(m.output, n.output), op(m.total, n.total), op(m.cached, n.cached), op(m.reasoning, n.reasoning), op(m.cost, n.cost)}
}

func (m measures) plus(n measures) measures {
	return m.each(n, func(a, b int64) int64 { return a + b })
}

func (m measures) most(n measures) measures {
	return m.each(n, func(a, b int64) int64 { return max(a, b) })
}

// toldChat is a chat and what was told of it so far, by deltas and by summaries.
type toldChat struct {
	app, id, user string
	events        int64
	deltas, high  measures
}

func (c *toldChat) want() measures { return c.deltas.most(c.high) }

const nano = 1_000_000_000

func decimal(nanos int64) string { return fmt.Sprintf("%d.%09d", nanos/nano, nanos%nano) }

func nanosOf(t *testing.T, n json.Number) int64 {
	t.Helper()
	r, ok := new(big.Rat).SetString(n.String())
	if !ok {
		t.Fatalf("cost %q is no number", n)
	}
	r.Mul(r, big.NewRat(nano, 1))
	if !r.IsInt() {
		t.Fatalf("cost %q has more than 9 places", n)
	}
	return r.Num().Int64()
}

func measured(t *testing.T, s *schemas.SumsData) measures {
	t.Helper()
	return measures{s.InputTokens, s.OutputTokens, s.TotalTokens, s.CachedTokens, s.ReasoningTokens, nanosOf(t, s.Cost)}
}

// teller makes the deltas and the summaries of some chats, and keeps what they add up to.
type teller struct {
	rng    *rand.Rand
	now    time.Time
	chats  []*toldChat
	serial int
	raw    [][]byte // summaries that were made
}

func (l *teller) instant() time.Time {
	return l.now.Add(-time.Duration(l.rng.IntN(30*3600)) * time.Second)
}

// batch makes a batch of deltas of any chats.
func (l *teller) batch() []byte {
	l.serial++
	var events []any
	for i := range 1 + l.rng.IntN(12) {
		c := l.chats[l.rng.IntN(len(l.chats))]
		m := measures{
			input: l.rng.Int64N(2000), output: l.rng.Int64N(800), cached: l.rng.Int64N(50), reasoning: l.rng.Int64N(40),
			cost: l.rng.Int64N(3 * nano),
		}
		m.total = m.input + m.output + l.rng.Int64N(2)*l.rng.Int64N(30)
		c.events++
		c.deltas = c.deltas.plus(m)
		events = append(events, map[string]any{
			"event_id": fmt.Sprintf("d-%d-%d", l.serial, i), "timestamp": l.instant().Format(time.RFC3339Nano), "app_id": c.app, "user_id": c.user,
			"chat_id": c.id, "model": fmt.Sprint("m-", l.rng.IntN(2)), "workflow_id": "w", "input_tokens": m.input, "output_tokens": m.output,
			"total_tokens": m.total, "cached_tokens": m.cached, "reasoning_tokens": m.reasoning, "cost": decimal(m.cost),
		})
	}
	return encoded(map[string]any{"batch_id": fmt.Sprint("deltas-", l.serial), "events": events})
}

// summary makes the body of a post: now and then one that was made before.
func (l *teller) summary() []byte {
	l.serial++
	if len(l.raw) > 0 && l.rng.IntN(3) == 0 {
		return l.raw[l.rng.IntN(len(l.raw))]
	}
	c := l.chats[l.rng.IntN(len(l.chats))]
	around := func(n int64) int64 { return n/2 + l.rng.Int64N(n+500) } // often below what is known
	known := c.want()
	m := measures{input: around(known.input), output: around(known.output)}
	m.total = m.input + m.output + l.rng.Int64N(2)*l.rng.Int64N(100)
	if l.rng.IntN(20) == 0 {
		m.input, m.total = m.input+1e10, m.total+1e10 // more than one event may have
	}
	body := map[string]any{"chat_id": c.id, "app_id": c.app, "user_id": c.user}
	body["event_ts"] = l.instant().Format("2006-01-02T15:04:05.000000") + "+00:00"
	names := [][3]string{
		{"prompt_tokens", "completion_tokens", "total_tokens"},
		{"usage_prompt_tokens_final", "usage_completion_tokens_final", "usage_total_tokens_final"},
		{"input_tokens", "output_tokens", "total_tokens"},
	}
	n := l.rng.IntN(len(names))
	body[names[n][0]], body[names[n][1]] = m.input, m.output
	if m.total > m.input+m.output || l.rng.IntN(2) == 0 {
		body[names[n][2]] = m.total
	}
	if n == 2 {
		body["event_type"] = "chat.usage_summary"
	}
	if l.rng.IntN(2) == 0 {
		m.cost = around(known.cost)
		body[[]string{"cost", "usage_total_cost_final"}[l.rng.IntN(2)]] = json.RawMessage(decimal(m.cost))
	}
	if l.rng.IntN(3) == 0 {
		m.cached, m.reasoning = around(known.cached), around(known.reasoning)
		body["cached_tokens"], body["reasoning_tokens"], body["workflow_name"] = m.cached, m.reasoning, "w"
	}
	c.high = c.high.most(m)
	text := encoded(body)
	l.raw = append(l.raw, text)
	return text
}

// resend posts a body until it is answered 200, and gives the answer.
func resend(t *testing.T, client *http.Client, address string, body []byte, header ...string) (r result) {
	deadline := time.Now().Add(soonEnough)
	for time.Now().Before(deadline) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", address, bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return r
		}
		for i := 0; i+1 < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := client.Do(req)
		if err != nil {
			<-time.After(5 * time.Millisecond)
			continue
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		switch {
		case err != nil || resp.StatusCode >= 500:
			<-time.After(5 * time.Millisecond)
			continue
		case resp.StatusCode != http.StatusOK:
			t.Errorf("answer %d: %.300s; sent %.300s", resp.StatusCode, text, body)
			return r
		}
		documents.Check(t, req, resp, text)
		if err := json.Unmarshal(text, &r); err != nil {
			t.Errorf("answer %.300s: %v", text, err)
		}
		return r
	}
	t.Errorf("not answered 200 within %s", soonEnough)
	return r
}

// A client that knows nothing but a URL, with a key as its password, posts summaries of
// chats, one at a time, repeatedly and in any order, while deltas of the same chats come
// from elsewhere, answers are lost and grout is killed: each chat has the larger of what
// its deltas add up to and of what was stated, component by component, and apps and users
// have the sums of their chats (contract §7).
func TestReferenceSummaries(t *testing.T) {
	rounds := max(2, kills(t)/20)
	eachPartitioning(t, func(t *testing.T, partitions int) {
		seed := uint64(time.Now().UnixNano())
		data := filepath.Join(t.TempDir(), "data")
		p := start(t, data, partitions)
		f := newFront(t, p, seed, 0.1)
		base, err := url.Parse(f.URL)
		if err != nil {
			t.Fatal(err)
		}
		base.Path, base.User = "/api/usage/ingest", url.UserPassword("mozaiks", process.ServiceKey)
		l := &teller{rng: rand.New(rand.NewPCG(seed, 5)), now: time.Now().UTC()}
		for i := range 15 {
			l.chats = append(l.chats, &toldChat{app: fmt.Sprint("app ", i%3), id: fmt.Sprintf("chat/%d é", i), user: fmt.Sprint("u-", i%4)})
		}
		sent := 0
		for round := range rounds {
			var bodies []parcel
			for range 60 {
				bodies = append(bodies, parcel{l.batch(), false}, parcel{l.summary(), true})
			}
			sent += len(bodies)
			l.rng.Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })
			request := f.next()
			group := postParcels(t, f, base.String(), bodies)
			p = f.killUnder(request, p, 10*time.Millisecond, data, partitions)
			group.Wait()
			checkChats(t, p, l.chats, fmt.Sprint("round ", round))
		}
		checkStated(t, p, l.chats, len(l.raw))
		stop(t, p)
		p = start(t, data, partitions)
		checkChats(t, p, l.chats, "after a restart")
		stop(t, p)
		t.Logf("seed %d: %d posts, %d different summaries of %d chats, %d kills, %d answers lost", seed, sent, len(l.raw), len(l.chats), rounds, f.lost.Load())
	})
}

type parcel struct {
	body    []byte
	summary bool
}

// postParcels has three clients post summaries, and two post deltas.
func postParcels(t *testing.T, f *front, address string, list []parcel) *sync.WaitGroup {
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	t.Cleanup(client.CloseIdleConnections)
	summaries, deltas := make(chan []byte, len(list)), make(chan []byte, len(list))
	for _, b := range list {
		if b.summary {
			summaries <- b.body
		} else {
			deltas <- b.body
		}
	}
	close(summaries)
	close(deltas)
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			for body := range summaries {
				if r := resend(t, client, address, body); r.Accepted+r.Duplicates != 1 || r.Rejected != 0 {
					t.Errorf("a summary is answered %+v; sent %s", r, body)
				}
			}
		})
	}
	for range 2 {
		group.Go(func() {
			for body := range deltas {
				r := resend(t, client, f.URL+"/api/usage/ingest", body, "X-Internal-API-Key", process.InternalKey, "Content-Type", "application/json")
				if n := strings.Count(string(body), `"event_id"`); r.Accepted != n || r.Rejected != 0 {
					t.Errorf("a batch of %d deltas is answered %+v", n, r)
				}
			}
		})
	}
	return &group
}

// checkChats compares chats, and the apps and users that they add up to, with what was told.
func checkChats(t *testing.T, p *process.Process, chats []*toldChat, when string) {
	t.Helper()
	type sum struct {
		events int64
		use    measures
	}
	sums := map[string]sum{} // by query
	for _, c := range chats {
		w := c.want()
		if c.events > 0 || w != (measures{}) {
			got := chatOf(t, p, c.app, c.id)
			got.Cost = json.Number(decimal(nanosOf(t, got.Cost)))
			want := chatUsage{c.id, c.app, c.user, c.events, w.input, w.output, w.total, json.Number(decimal(w.cost))}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: chat %q (-want +got):\n%s", when, c.id, d)
			}
		}
		for _, query := range []string{"app_id=" + queryEscape(c.app), "app_id=" + queryEscape(c.app) + "&user_id=" + c.user} {
			sums[query] = sum{sums[query].events + c.events, sums[query].use.plus(w)}
		}
	}
	for query, want := range sums {
		var r struct {
			Rows   []schemas.SumsData
			Totals schemas.SumsData
		}
		request(t, p, "GET", "/api/usage?window=hour&group_by=user_id,workflow_id,model&"+query, nil).want(t, 200).into(t, &r)
		var rows sum
		for i := range r.Rows {
			rows = sum{rows.events + r.Rows[i].Events, rows.use.plus(measured(t, &r.Rows[i]))}
		}
		if got := (sum{r.Totals.Events, measured(t, &r.Totals)}); got != want || rows != want {
			t.Errorf("%s: %s has %+v and rows of %+v, want %+v", when, query, got, rows, want)
		}
	}
}

// checkStated adds up what facts say was counted. Every delta and every summary is told
// of once.
func checkStated(t *testing.T, p *process.Process, chats []*toldChat, summaries int) {
	t.Helper()
	want, all := map[string]measures{}, summaries
	for _, c := range chats {
		want[c.app] = want[c.app].plus(c.want())
		all += int(c.events)
	}
	list := facts(t, p, func(list []fact) bool { e, _ := recorded(t, list); return len(e) >= all })
	events, times := recorded(t, list)
	if len(times) != all {
		t.Errorf("%d events and summaries are in facts, want %d", len(times), all)
	}
	for key, n := range times {
		if n != 1 {
			t.Errorf("event %q is in %d facts", key, n)
		}
	}
	got := map[string]measures{}
	for _, e := range events {
		m := measures{input: e.InputTokens, output: e.OutputTokens, total: e.TotalTokens, cached: e.CachedTokens, reasoning: e.ReasoningTokens}
		switch {
		case e.Counted != nil:
			m = measured(t, e.Counted)
		case e.Cost != "":
			m.cost = nanosOf(t, e.Cost)
		}
		got[e.AppID] = got[e.AppID].plus(m)
	}
	for app := range want {
		if got[app] != want[app] {
			t.Errorf("facts of %q add up to %+v, want %+v", app, got[app], want[app])
		}
	}
}
