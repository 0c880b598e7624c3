package load

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// The standard mix: every event is of any of these, whichever request it is in.
const (
	Apps      = 50
	Users     = 100 // of each app
	Workflows = 20
	Models    = 5
	Chats     = 10 // of each user, when events have one
)

// Span is how far back the timestamps of the standard mix reach.
const Span = 24 * time.Hour

const (
	minuteForm = "2006-01-02T15:04"
	idLength   = 36
)

// body is an ingest request. Between two sends its ids, and which app, user,
// workflow, model, chat and instant each event is of, are written over, so that
// every event is new and sending costs little beside answering.
type body struct {
	raw     []byte
	batch   int // where its id stands in raw
	events  []places
	minutes []string // that timestamps are drawn from
	apps    uint64
	wanted  []byte
	rng     *rand.Rand
}

// places are where the fields of an event stand in raw; chat is 0 without one.
type places struct{ id, time, app, user, workflow, model, chat int }

func newBody(t *Target, p *Plan, minutes []string, seed uint64) *body {
	b := &body{
		rng: rand.New(rand.NewPCG(seed, 17)), minutes: minutes, apps: uint64(p.Apps),
		wanted: fmt.Appendf(nil, `"accepted":%d,"duplicates":0,`, p.Events),
	}
	if b.apps == 0 {
		b.apps = Apps
	}
	blank := strings.Repeat("0", idLength)
	var js []byte
	field := func(before, value string) (at int) {
		js = append(js, before...)
		at = len(js)
		js = append(js, value...)
		return at
	}
	b.batch = field(`{"batch_id":"`, blank)
	js = append(js, `","events":[`...)
	for i := range p.Events {
		if i > 0 {
			js = append(js, ',')
		}
		e := places{
			id:       field(`{"event_id":"`, blank),
			time:     field(`","timestamp":"`, "2006-01-02T15:04:00.000Z"),
			app:      field(`","app_id":"app_`, "0000"),
			user:     field(`","user_id":"user_`, "0000_000000"),
			workflow: field(`","workflow_id":"wf_`, "000000"),
			model:    field(`","model":"model-`, "00"),
		}
		if p.Chats {
			e.chat = field(`","chat_id":"chat_`, "0000_000000_00")
		}
		in, out := 100+b.rng.IntN(4000), 10+b.rng.IntN(2000)
		js = fmt.Appendf(js, `","input_tokens":%d,"output_tokens":%d,"total_tokens":%d}`, in, out, in+out)
		b.events = append(b.events, e)
	}
	js = append(js, `]}`...)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nX-Internal-API-Key: %s\r\nContent-Length: %d\r\n\r\n", t.path, t.host, t.key, len(js))
	b.raw = append([]byte(head), js...)
	b.batch += len(head)
	for i := range b.events {
		b.events[i].move(len(head))
	}
	return b
}

func (e *places) move(by int) {
	for _, at := range []*int{&e.id, &e.time, &e.app, &e.user, &e.workflow, &e.model} {
		*at += by
	}
	if e.chat > 0 {
		e.chat += by
	}
}

// minutesBefore are the whole minutes of a span that has ended.
func minutesBefore(now time.Time, span time.Duration) []string {
	if span == 0 {
		span = Span
	}
	minutes := make([]string, max(1, span/time.Minute))
	last := now.UTC().Truncate(time.Minute)
	for i := range minutes {
		minutes[i] = last.Add(-time.Duration(i+1) * time.Minute).Format(minuteForm)
	}
	return minutes
}

// renew gives the batch and its events ids that were never there, and draws the
// events from the mix.
func (b *body) renew() {
	b.putID(b.batch)
	for i := range b.events {
		e := &b.events[i]
		b.putID(e.id)
		rest := b.rng.Uint64()
		draw := func(n uint64) uint64 {
			k := rest % n
			rest /= n
			return k
		}
		app, user := draw(b.apps), draw(Users)
		b.putNumber(e.app, 4, app)
		b.putNumber(e.user, 4, app)
		b.putNumber(e.user+5, 6, user)
		b.putNumber(e.workflow, 6, draw(Workflows))
		b.putNumber(e.model, 2, draw(Models))
		copy(b.raw[e.time:], b.minutes[draw(uint64(len(b.minutes)))])
		second := e.time + len(minuteForm) + 1
		b.putNumber(second, 2, draw(60))
		b.putNumber(second+3, 3, draw(1000))
		if e.chat > 0 {
			b.putNumber(e.chat, 4, app)
			b.putNumber(e.chat+5, 6, user)
			b.putNumber(e.chat+12, 2, draw(Chats))
		}
	}
}

func (b *body) putNumber(at, digits int, n uint64) { writeNumber(b.raw[at:], digits, n) }

func writeNumber(to []byte, digits int, n uint64) {
	for i := digits - 1; i >= 0; i-- {
		to[i] = byte('0' + n%10)
		n /= 10
	}
}

func (b *body) putID(at int) { writeID(b.raw[at:], b.rng.Uint64(), b.rng.Uint64()) }

func writeID(to []byte, hi, lo uint64) {
	const hex = "0123456789abcdef"
	for i := range idLength {
		switch i {
		case 8, 13, 18, 23:
			to[i] = '-'
			continue
		}
		to[i] = hex[hi&15]
		hi = hi>>4 | lo<<60
		lo >>= 4
	}
}

func (b *body) requests() []request { return []request{{b.raw, http.StatusOK, b.wanted}} }
