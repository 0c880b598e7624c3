package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"grout/schemas"
)

// hostileEvents are such as make a chunk large in different ways.
func hostileEvents(kind string, n int) []schemas.UsageEvent {
	r := rand.New(rand.NewPCG(4, 4))
	list := make([]schemas.UsageEvent, n)
	text := func(chars int, c string, i int) string { return fmt.Sprintf("%06d", i) + strings.Repeat(c, chars-6) }
	for i := range list {
		e := &list[i]
		*e = schemas.UsageEvent{Index: uint32(i), EventID: fmt.Sprint(i), Timestamp: testNow + int64(i), AppID: "app", UserID: "u", Model: "m"}
		switch kind {
		case "long distinct texts":
			e.EventID, e.AppID, e.TenantID, e.UserID = text(128, "𝄞", 9*i), text(128, "𝄞", 0), text(128, "𝄞", 9*i+2), text(128, "𝄞", 9*i+3)
			e.ChatID, e.RunID, e.AgentName, e.InvocationID = text(128, "𝄞", 9*i+4), text(128, "𝄞", 9*i+5), text(128, "𝄞", 9*i+6), text(128, "𝄞", 9*i+7)
			e.WorkflowID, e.Model = text(256, "𝄞", 9*i), text(256, "𝄞", 9*i+8)
		case "metadata":
			e.Metadata = []byte(`{"k":"` + strings.Repeat("x", schemas.MaxMetadataBytes-8) + `"}`)
		case "small metadata":
			e.Metadata = []byte(`{"a":1}`)
		case "one byte ids, greatest numbers":
			e.EventID = string(rune('a' + i%26))
			e.Index = uint32(1<<32 - 1 - i*(1<<20)) // as far apart as places can be
			e.Timestamp = []int64{-1 << 62, 1 << 62}[i%2]
			e.InputTokens, e.OutputTokens, e.TotalTokens = 1e9, 1e9, 2e9
			e.CachedTokens, e.ReasoningTokens, e.Cost, e.DurationSec, e.Cached = 1e9, 1e9, schemas.MaxCostNanos, 0.1, true
		case "bare rows":
			e.EventID, e.AppID = "x", fmt.Sprintf("%03d", min(i, 200))
			e.Index = uint32(i%2) * (1<<32 - 1)
			e.Timestamp = []int64{-1 << 62, 1 << 62}[i%2]
			e.InputTokens, e.OutputTokens, e.TotalTokens = 1e9, 1e9, 2e9
		case "few texts that come back":
			// A dictionary of hundreds, then rows that point to its end.
			pick := func(k int) string { return fmt.Sprintf("%c%03d", 'a'+k, min(i, 200)) }
			e.EventID = "x"
			e.TenantID, e.WorkflowID, e.ChatID, e.RunID, e.AgentName, e.InvocationID = pick(0), pick(1), pick(2), pick(3), pick(4), pick(5)
			e.UserID, e.Model = pick(6), pick(7)
			e.InputTokens, e.OutputTokens, e.TotalTokens = 1e9, 1e9, 2e9+1
			e.CachedTokens, e.ReasoningTokens, e.Cost, e.DurationSec = 1e9, 1e9, schemas.MaxCostNanos, 0.1
			e.Timestamp = []int64{-1 << 62, 1 << 62}[i%2]
		case "random":
			*e = randomEvent(r)
			e.Index = r.Uint32()
		}
	}
	return list
}

var hostileKinds = []string{
	"long distinct texts", "metadata", "small metadata", "one byte ids, greatest numbers", "bare rows", "few texts that come back", "random", "plain",
}

// readLog gives the events of a message as the log has them.
func readLog(t rapid.TB, s *Store, seq uint64) (events []schemas.UsageEvent, commands []uint32, chunks []int) {
	t.Helper()
	if err := s.db.View(func(bolt *bbolt.Tx) error {
		c := bucketOf(bolt, bucketEvents).cursor()
		for k, v := c.seek(keySeq(seq)); k != nil && string(k[:8]) == string(keySeq(seq)); k, v = c.next() {
			chunks = append(chunks, len(v))
		}
		r := newEventReader(bolt, seq)
		for {
			e, c, err := r.next(1 << 30)
			if err != nil || len(e) == 0 {
				return err
			}
			for i := range e {
				events = append(events, cloneEvent(&e[i]))
			}
			commands = append(commands, c...)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return events, commands, chunks
}

// sameEvents finds the first event that differs; a difference of all would take long.
func sameEvents(t rapid.TB, want, got []schemas.UsageEvent) {
	t.Helper()
	for i := range min(len(want), len(got)) {
		a, _ := schemas.ContentDigest(&want[i], nil)
		b, _ := schemas.ContentDigest(&got[i], nil)
		if a != b || want[i].Index != got[i].Index {
			t.Fatalf("event %d: %s", i, cmp.Diff(want[i], got[i], cmpopts.EquateEmpty()))
		}
	}
	if len(want) != len(got) {
		t.Fatalf("%d events, want %d", len(got), len(want))
	}
}

func cloneEvent(e *schemas.UsageEvent) schemas.UsageEvent {
	c := *e
	for _, s := range []*string{
		&c.EventID, &c.AppID, &c.TenantID, &c.UserID, &c.WorkflowID, &c.Model, &c.ChatID, &c.RunID, &c.AgentName, &c.InvocationID,
	} {
		*s = strings.Clone(*s)
	}
	c.Metadata = append([]byte(nil), c.Metadata...)
	return c
}

func TestEventLogChunks(t *testing.T) {
	for _, kind := range hostileKinds {
		t.Run(kind, func(t *testing.T) {
			s := openNew(t, Options{})
			events := hostileEvents(kind, 4000)
			if strings.Contains(kind, "long") || kind == "metadata" {
				events = events[:400]
			}
			var list []recorded
			for i := range events { // every command has its event or two
				list = append(list, recorded{event: &events[i], command: uint32(i * 2 / 3)})
			}
			if err := s.Update(func(tx *Tx) error { return tx.putEvents(7, list) }); err != nil {
				t.Fatal(err)
			}
			got, commands, chunks := readLog(t, s, 7)
			sameEvents(t, events, got)
			for i, c := range commands {
				if c != list[i].command {
					t.Fatalf("event %d came with command %d, want %d", i, c, list[i].command)
				}
			}
			for i, n := range chunks {
				if n > maxChunkBytes {
					t.Errorf("chunk %d of %d has %d bytes", i, len(chunks), n)
				}
			}
			t.Logf("%d events in chunks of %d bytes", len(events), chunks)
		})
	}
}

// Passing over events is the same as reading them.
func TestSkippingIsReading(t *testing.T) {
	s := openNew(t, Options{})
	for seq, kind := range hostileKinds { // neighbours that must not be read into
		events := hostileEvents(kind, 60)
		if kind == "random" {
			events = hostileEvents(kind, 3000)
		}
		var list []recorded
		for i := range events {
			list = append(list, recorded{event: &events[i], command: uint32(i / 7)})
		}
		if err := s.Update(func(tx *Tx) error { return tx.putEvents(uint64(seq+1), list) }); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		seq := uint64(rapid.IntRange(1, len(hostileKinds)+1).Draw(t, "message"))
		all, commands, _ := readLog(t, s, seq)
		err := s.db.View(func(bolt *bbolt.Tx) error {
			r := newEventReader(bolt, seq)
			for at := 0; ; {
				n := rapid.OneOf(rapid.IntRange(1, 5), rapid.IntRange(1, len(all)+2), rapid.Just(schemas.MaxEventsPerPart)).Draw(t, "n")
				if rapid.Bool().Draw(t, "skip") {
					if err := r.skip(n); err != nil {
						return err
					}
					at += n
					continue
				}
				events, from, err := r.next(n)
				if err != nil {
					return err
				}
				if len(events) == 0 {
					if at < len(all) {
						t.Fatalf("the end after %d of %d events", at, len(all))
					}
					return nil
				}
				if at+len(events) > len(all) || len(events) > n || len(from) != len(events) {
					t.Fatalf("%d events at %d of %d", len(events), at, len(all))
				}
				sameEvents(t, all[at:at+len(events)], events)
				if !slices.Equal(commands[at:at+len(from)], from) {
					t.Fatalf("at %d: commands %d, want %d", at, from, commands[at:at+len(from)])
				}
				at += len(events)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestDamagedChunks(t *testing.T) {
	events := hostileEvents("plain", 5)
	var list []recorded
	for i := range events {
		list = append(list, recorded{event: &events[i], command: uint32(i)})
	}
	whole, _ := appendChunk(nil, list)
	if _, _, err := decodeChunk(whole, nil, nil); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, _, err := decodeChunk(whole[:n:n], nil, nil); err == nil {
			t.Fatalf("%d of %d bytes are a chunk", n, len(whole))
		}
	}
	for name, v := range map[string][]byte{
		"another form":       append([]byte{2}, whole[1:]...),
		"longer":             append(append([]byte(nil), whole...), 0),
		"runs beyond events": append([]byte{1, 5, 2, 0, 5, 0, 5}, whole[len(whole)-40:]...),
		"fewer in runs":      append([]byte{1, 5, 1, 0, 4}, schemas.AppendUsageBlock(nil, 5, func(i int) *schemas.UsageEvent { return &events[i] })...),
	} {
		if _, _, err := decodeChunk(v, nil, nil); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}
