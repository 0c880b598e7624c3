package main

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// event is one model call as the oracle sends it.
type event struct {
	EventID      string `json:"event_id"`
	Timestamp    string `json:"timestamp"`
	AppID        string `json:"app_id"`
	UserID       string `json:"user_id"`
	WorkflowID   string `json:"workflow_id,omitempty"`
	ChatID       string `json:"chat_id,omitempty"`
	Summary      bool   `json:"summary,omitempty"` // in facts; its counts are a chat's totals
	Model        string `json:"model"`
	InputTokens  int64  `json:"input_tokens"`
	OutputTokens int64  `json:"output_tokens"`
	TotalTokens  int64  `json:"total_tokens"`
	Cost         string `json:"cost,omitempty"`

	hour  int64
	nanos int64 // cost

	corrected bool   // by one correction, at most
	now       counts // what it counts for, original or corrected
}

// counts are what an event adds to the sums.
type counts struct{ events, input, output, total, nanos int64 }

func (e *event) original() counts {
	if e.Summary {
		return counts{0, e.InputTokens, e.OutputTokens, e.TotalTokens, e.nanos}
	}
	return counts{1, e.InputTokens, e.OutputTokens, e.TotalTokens, e.nanos}
}

func (e *event) key() string { return e.AppID + "\x00" + e.EventID }

// request is a batch on its way, until it is answered.
type request struct {
	id       string
	fresh    []*event // sent for the first time with this request
	repeated []*event // answered before
	foreign  []*event // ids that were answered before, with other content
	junk     int      // events that break the rules
	body     []byte
	tries    int
	made     bool // without batch_id: an answer to a repeat counts its events as duplicates
}

// books are what the oracle knows.
type books struct {
	rng *rand.Rand
	now time.Time

	mu        sync.Mutex
	counted   map[string]*event // answered as counted
	order     []*event
	summaries []*event
	serial    int
	perApp    map[string]int64 // events answered as counted
	v         Verdict
	problems  []string
}

func newBooks(seed uint64) *books {
	return &books{rng: newRand(seed, 1), now: time.Now().UTC(), counted: map[string]*event{}, perApp: map[string]int64{}}
}

// Odd app names: what the escaping of subjects and sources must carry.
var oddApps = []string{"app.with*every>%kind of/\"char\\", "приложение", "a b", "*", ">", "%2E"}

func (b *books) appName() string {
	if b.rng.IntN(8) == 0 {
		return summaryApp
	}
	if b.rng.IntN(8) == 0 {
		return oddApps[b.rng.IntN(len(oddApps))]
	}
	return fmt.Sprintf("app-%d", b.rng.IntN(6))
}

// next makes a request.
func (b *books) next() *request {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serial++
	if b.rng.IntN(8) == 0 {
		return b.nextSummary()
	}
	r := &request{id: fmt.Sprintf("batch-%d", b.serial), made: b.rng.IntN(6) == 0}
	size := 1
	switch b.rng.IntN(4) {
	case 0:
		size = 1 + b.rng.IntN(10)
	case 1:
		size = 1 + b.rng.IntN(200)
	case 2:
		if b.rng.IntN(6) == 0 {
			size = 600 + b.rng.IntN(1500)
		}
	}
	for i := range size {
		switch k := b.rng.IntN(40); {
		case k < 3 && len(b.order) > 0:
			r.repeated = append(r.repeated, b.order[b.rng.IntN(len(b.order))])
		case k == 3 && len(b.order) > 0:
			e := *b.order[b.rng.IntN(len(b.order))]
			e.InputTokens++
			e.TotalTokens++
			r.foreign = append(r.foreign, &e)
		case k == 4:
			r.junk++
		default:
			r.fresh = append(r.fresh, b.newEvent(i))
		}
	}
	r.encode(b.rng)
	return r
}

func (b *books) newEvent(i int) *event {
	at := b.now.Add(-time.Duration(b.rng.Int64N(int64(50 * time.Hour))))
	e := &event{
		EventID:   fmt.Sprintf("%08x-%04x-4%03x-8000-%012x", b.rng.Uint32(), b.serial&0xffff, i&0xfff, b.rng.Uint64()&0xffffffffffff),
		Timestamp: at.Format(time.RFC3339Nano), AppID: b.appName(), UserID: fmt.Sprintf("user-%d", b.rng.IntN(9)), Model: fmt.Sprintf("model-%d", b.rng.IntN(3)),
		InputTokens: b.rng.Int64N(5000), OutputTokens: b.rng.Int64N(2000),
		hour: hourOf(at),
	}
	if b.rng.IntN(5) == 0 {
		e.EventID = fmt.Sprintf("id %d/%d é", b.serial, i)
	}
	if b.rng.IntN(3) == 0 {
		e.WorkflowID = fmt.Sprintf("wf-%d", b.rng.IntN(4))
		e.nanos = b.rng.Int64N(5_000_000_000)
		e.Cost = fmt.Sprintf("%d.%09d", e.nanos/1e9, e.nanos%1e9)
	}
	e.TotalTokens = e.InputTokens + e.OutputTokens
	e.ChatID = b.chatName(e.AppID)
	return e
}

// answered books what a 200 says. An answer that contradicts the books is a fault.
func (b *books) answered(r *request, a *answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.v.Requests++
	n := len(r.fresh)
	accepted, duplicates, rejected := n, len(r.repeated), len(r.foreign)+r.junk
	if a.replayed {
		b.v.Replayed++
	}
	// A repeat of an unanswered request without a batch id may find some of its
	// events counted: all of those in one partition.
	lost := r.made && r.tries > 1 && a.Accepted < accepted && a.Accepted+a.Duplicates == accepted+duplicates
	if a.Rejected != rejected || !lost && (a.Accepted != accepted || a.Duplicates != duplicates) {
		b.fault("%s (try %d, made %t): answered accepted %d, duplicates %d, rejected %d; sent %d new, %d repeated, %d conflicting and %d broken events: %.500s",
			r.id, r.tries, r.made, a.Accepted, a.Duplicates, a.Rejected, accepted, duplicates, len(r.foreign), r.junk, a.raw)
	}
	if a.replayed && r.tries == 1 {
		b.fault("%s: a first try was answered as a replay", r.id)
	}
	b.v.Duplicates += len(r.repeated)
	b.v.Rejected += rejected
	for _, e := range r.fresh {
		e.now = e.original()
		b.counted[e.key()] = e
		if e.Summary {
			b.summaries = append(b.summaries, e)
			continue
		}
		b.order = append(b.order, e)
		b.perApp[e.AppID]++
	}
}

func (b *books) unanswered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.v.Unanswered++
}

func (b *books) fault(format string, args ...any) {
	if len(b.problems) < 30 {
		b.problems = append(b.problems, fmt.Sprintf(format, args...))
	}
}

// floor is the number of events of an app that were answered as counted.
func (b *books) floor(app string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.perApp[app]
}

func (b *books) verdict() *Verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.v
	v.Events = len(b.counted)
	for _, e := range b.counted {
		if e.Summary {
			continue
		}
		v.InputTokens += e.now.input
		v.OutputTokens += e.now.output
	}
	v.Faults = append([]string{}, b.problems...)
	return &v
}
