package handlers

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"grout/schemas"
	"grout/store"
)

// BenchmarkApply applies groups of one command with new events: without chats, with
// a few chats and with many, and in chats that a summary was sent for. Groups are
// decoded beforehand, as the loop does beside the transaction.
func BenchmarkApply(b *testing.B) {
	for _, events := range []int{1000, 10} {
		for _, c := range []struct {
			name      string
			chats     int
			summaries bool
			budgets   bool
		}{
			{name: "none"},
			{name: "none-with-budgets", budgets: true},
			{name: "1000", chats: 1000},
			{name: "100000", chats: 100_000},
			{name: "each-its-own", chats: -1},
			{name: "1000-with-summaries", chats: 1000, summaries: true},
		} {
			b.Run(fmt.Sprintf("events=%d/chats=%s", events, c.name), func(b *testing.B) { benchmarkApply(b, events, c.chats, c.summaries, c.budgets) })
		}
	}
}

func benchmarkApply(b *testing.B, events, chats int, summaries, budgets bool) {
	s, err := store.Open(filepath.Join(b.TempDir(), "s.db"), store.Options{Partitions: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	table := NewTable()
	r := rand.New(rand.NewPCG(1, 1))
	serial := 0
	group := func(list []schemas.UsageEvent) []schemas.CommandFrame {
		serial++
		return []schemas.CommandFrame{ingestFrame(fmt.Sprint("c", serial), testNow, list...)}
	}
	draw := func() []schemas.UsageEvent {
		list := make([]schemas.UsageEvent, events)
		for i := range list {
			list[i] = schemas.UsageEvent{
				EventID: fmt.Sprintf("%08x-0000-4000-8000-%012x", r.Uint32(), r.Uint64()&0xffffffffffff), Timestamp: testNow - r.Int64N(int64(3*time.Hour)),
				AppID: fmt.Sprint("app-", r.IntN(50)), UserID: fmt.Sprint("user-", r.IntN(100)), WorkflowID: fmt.Sprint("wf-", r.IntN(20)),
				Model: fmt.Sprint("model-", r.IntN(5)), InputTokens: r.Int64N(4000), OutputTokens: r.Int64N(900),
			}
			e := &list[i]
			e.TotalTokens = e.InputTokens + e.OutputTokens
			switch {
			case chats > 0:
				n := r.IntN(chats)
				e.AppID, e.ChatID = fmt.Sprint("app-", n%50), fmt.Sprint("chat-", n)
			case chats < 0:
				e.ChatID = "chat-" + e.EventID
			}
		}
		return list
	}
	if summaries {
		var list []schemas.UsageEvent
		for n := range chats {
			e := chatSummary(fmt.Sprint("app-", n%50), fmt.Sprint("chat-", n), fmt.Sprint("s", n), 1_000_000, 1_000_000)
			e.Index = uint32(n)
			list = append(list, e)
		}
		applyGroups(b, s, [][]schemas.CommandFrame{group(list)}, 1)
	}
	if budgets { // of every app and every user
		for n := range 50 * 101 {
			text := fmt.Sprintf(`{"version":"1.1","app_id":"app-%d","plan":{"tier":"pro"},"token_budget":{"period":"monthly","total_tokens":{"limit":1000000000000,"enforcement":"hard"}}`, n%50)
			if n >= 50 {
				text += fmt.Sprintf(`,"user_id":"user-%d"`, n/50-1)
			}
			m := schemas.ManifestSync{Manifest: manifestOf(b, text+"}")}
			applyGroups(b, s, [][]schemas.CommandFrame{{{
				Kind: schemas.SyncEntitlement.Name, AppID: m.Manifest.AppID, ID: fmt.Sprint("m", n), Source: "//mozaiks.ai/grout/t", Time: testNow, Accepted: testNow, Payload: m.EncodePayload(nil),
			}}}, 1)
		}
	}
	const ahead = 64
	var elapsed, used time.Duration
	b.ResetTimer()
	for n := 0; n < b.N; {
		var list []*message
		first := s.Checkpoint().Seq + 1
		for i := range min(ahead, b.N-n) {
			list = append(list, table.decode(schemas.StreamMessage{
				Subject: schemas.GroupSubject(0), Seq: first + uint64(i), Time: time.Unix(0, testNow), Data: schemas.AppendGroup(nil, group(draw())),
			}, 1, decodeTestGroup))
		}
		start, before := time.Now(), cpuTime()
		for len(list) > 0 {
			done := 0
			if err := s.Update(func(tx *store.Tx) error {
				for done < len(list) && !tx.Sealed() {
					if _, err := table.apply(tx, list[done]); err != nil {
						return err
					}
					done++
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			list, n = list[done:], n+done
		}
		elapsed, used = elapsed+time.Since(start), used+cpuTime()-before
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N*events)/elapsed.Seconds(), "events/s")
	b.ReportMetric(float64(s.Stats().FileBytes)/float64(b.N*events), "file-B/event")
	b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N*events), "cpu-µs/event") // also on a busy machine
	b.ReportMetric(0, "ns/op")
}
