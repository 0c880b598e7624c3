package bus

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"grout/schemas"
)

// A stream of facts that has lost some is found out by its links, wherever the hole is.
func TestChain(t *testing.T) {
	now := time.Now()
	at := func(seq uint64) schemas.Position { return schemas.Position{Epoch: 1, Seq: seq} }
	message := func(partition int, before, own uint64, origin int64) *StoredMessage {
		from := at(before)
		if before == 0 {
			from = schemas.Position{}
		}
		header := fmt.Sprintf("NATS/1.0\r\n%s: %d/%s\r\n%s: %d/%s %d %d\r\n\r\n", headerPosition, partition, at(own), headerAfter, partition, from, now.Unix(), origin)
		return &StoredMessage{Seq: own, Header: []byte(header)}
	}
	whole := []*StoredMessage{
		message(0, 0, 1, 9), message(1, 0, 2, 9),
		{Seq: 3, Header: []byte("NATS/1.0\r\nGrout-Relay: x\r\n\r\n")},
		message(0, 1, 4, 9), message(0, 4, 5, 9), message(1, 2, 6, 9), message(0, 5, 7, 9),
	}
	without := func(gone ...int) (list []*StoredMessage) {
		for i, m := range whole {
			keep := true
			for _, g := range gone {
				keep = keep && g != i
			}
			if keep {
				list = append(list, m)
			}
		}
		return list
	}
	for name, c := range map[string]struct {
		messages []*StoredMessage
		expires  bool // what is gone from the beginning may have expired
		want     []string
	}{
		"whole":                  {whole, false, nil},
		"the middle":             {without(3), false, []string{"partition 0 behind 1/1/0/0 and up to 1/4/0/0"}},
		"a long middle":          {without(3, 4), false, []string{"partition 0 behind 1/1/0/0 and up to 1/5/0/0"}},
		"the end":                {without(6), false, []string{"partition 0 behind 1/5/0/0 and up to 1/7/0/0, which were published"}},
		"the beginning":          {without(0, 1), false, []string{"partition 0 up to 1/1/0/0", "partition 1 up to 1/2/0/0"}},
		"the beginning, expired": {without(0, 1), true, nil},
		"twice":                  {append(without(), whole[3], whole[4], whole[6]), false, nil},
		"markers only":           {without(2), false, nil},
		"of another store":       {append(without(), message(0, 7, 8, 77)), false, []string{"message 8, and perhaps others, is of another store"}},
		"everything":             {nil, false, []string{"everything of partition 0", "everything of partition 1"}},
		"everything, expired":    {nil, true, nil},
		"all but markers":        {[]*StoredMessage{{Seq: 7, Subject: schemas.MarkerSubject(schemas.DestFacts, 0)}, {Seq: 8, Subject: schemas.MarkerSubject(schemas.DestFacts, 1)}}, false, nil},
	} {
		complete := now.Add(-24 * time.Hour)
		if c.expires {
			complete = now.Add(time.Hour)
		}
		chain := NewChain(schemas.StreamFacts, complete, map[int]FactsOf{0: {Origin: 9, Relayed: at(7), Applied: now}, 1: {Origin: 9, Relayed: at(6), Applied: now}})
		for _, m := range c.messages {
			if err := chain.Add(m); err != nil {
				t.Fatal(err)
			}
		}
		got := chain.End()
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%s: %q, want %q", name, got[i], c.want[i])
			}
		}
	}
}
