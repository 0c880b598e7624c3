package bus

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nats-io/nats.go"

	"grout/schemas"
)

// TestDeadLetterIsFound: every letter of two partitions that the stream holds is found by
// its place, whatever lies between, and no other is.
func TestDeadLetterIsFound(t *testing.T) {
	s, _ := pluginHouse(t)
	nc := connect(t, s)
	b := openBus(t, nc, Config{Partitions: 2})
	ctx := testContext(t)
	r := rand.New(rand.NewPCG(1, 2))
	type filed struct {
		partition int
		app, kind string
		at        schemas.Position
	}
	var list []filed
	next := [2]uint64{1, 1}
	for i := range 120 {
		partition := r.IntN(2)
		f := filed{partition, []string{"", fmt.Sprint("app", partition)}[r.IntN(2)], []string{"", "usage.void"}[r.IntN(2)], schemas.Position{Epoch: 1, Seq: next[partition], Index: uint32(r.IntN(3)), N: uint32(r.IntN(2))}}
		next[partition] += 1 + r.Uint64N(3)
		m := &nats.Msg{Subject: schemas.DeadLetterSubject(f.app, f.kind), Data: fmt.Append(nil, i), Header: nats.Header{headerPosition: {fmt.Sprintf("%d/%s", f.partition, f.at)}}}
		if r.IntN(10) == 0 { // a marker, or what is none of ours
			m.Subject, m.Header = schemas.MarkerSubject(schemas.DestDeadLetters, partition), nil
			m.Header = nats.Header{"Nats-Rollup": {"sub"}}
			list = append(list, filed{partition: -1})
		} else {
			list = append(list, f)
		}
		must1(b.js.PublishMsg(ctx, m))(t)
	}
	for i, f := range list {
		if f.partition < 0 {
			continue
		}
		at := f.at
		at.N = 0
		if data, err := b.DeadLetter(ctx, f.partition, f.app, f.kind, at); err != nil || string(data) != fmt.Sprint(i) {
			t.Errorf("letter %d, %+v: %s %v", i, f, data, err)
		}
		at.Index = 7
		if data, err := b.DeadLetter(ctx, f.partition, f.app, f.kind, at); err != nil || data != nil {
			t.Errorf("a letter that is not there: %s %v", data, err)
		}
	}
}
