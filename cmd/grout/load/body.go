package load

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// body is an ingest request whose ids are written over between two sends, so that
// every event is new and sending costs little beside answering.
type body struct {
	raw    []byte
	ids    []int // where they stand in raw
	wanted []byte
	rng    *rand.Rand
}

// newBody makes a request with events of the last minute, mixed over 50 apps with
// 100 users each, 20 workflows and 5 models.
func newBody(t *Target, seed uint64, events int) *body {
	b := &body{rng: rand.New(rand.NewPCG(seed, 17)), wanted: fmt.Appendf(nil, `"accepted":%d,"duplicates":0,`, events)}
	blank := strings.Repeat("0", 36)
	js := []byte(`{"batch_id":"` + blank + `","events":[`)
	b.ids = append(b.ids, len(`{"batch_id":"`))
	now := time.Now().UTC()
	for i := range events {
		if i > 0 {
			js = append(js, ',')
		}
		js = append(js, `{"event_id":"`...)
		b.ids = append(b.ids, len(js))
		in, out, app := 100+b.rng.IntN(4000), 10+b.rng.IntN(2000), b.rng.IntN(50)
		js = fmt.Appendf(js, `%s","timestamp":"%s","app_id":"app_%04d","user_id":"user_%04d_%06d","workflow_id":"wf_%06d","model":"model-%02d","input_tokens":%d,"output_tokens":%d,"total_tokens":%d}`,
			blank, now.Add(-time.Duration(b.rng.IntN(60_000))*time.Millisecond).Format("2006-01-02T15:04:05.000Z"), app, app, b.rng.IntN(100), b.rng.IntN(20), b.rng.IntN(5), in, out, in+out)
	}
	js = append(js, `]}`...)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nX-Internal-API-Key: %s\r\nContent-Length: %d\r\n\r\n", t.path, t.host, t.key, len(js))
	b.raw = append([]byte(head), js...)
	for i := range b.ids {
		b.ids[i] += len(head)
	}
	return b
}

// renew gives the batch and all its events ids that were never there.
func (b *body) renew() {
	const hex = "0123456789abcdef"
	for _, at := range b.ids {
		hi, lo := b.rng.Uint64(), b.rng.Uint64()
		for i := range 36 {
			switch i {
			case 8, 13, 18, 23:
				b.raw[at+i] = '-'
				continue
			}
			b.raw[at+i] = hex[hi&15]
			hi = hi>>4 | lo<<60
			lo >>= 4
		}
	}
}
