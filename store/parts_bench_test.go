package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"grout/schemas"
)

// BenchmarkFold adds the rows of a generation to aggregates of which so many rows are
// there, in slices of 3,000, each in a transaction of its own. One operation is one row.
func BenchmarkFold(b *testing.B) {
	for _, stored := range []int{0, 1_000_000} {
		b.Run(fmt.Sprintf("rows=%d", stored), func(b *testing.B) {
			s := openAt(b, filepath.Join(b.TempDir(), "s.db"), Options{Partitions: 1})
			defer closeStore(b, s)
			r := rand.New(rand.NewPCG(1, 1))
			for have := 0; have < stored; have += DefaultFoldEvery {
				foldAll(b, s, spreadRows(r, DefaultFoldEvery))
			}
			b.ResetTimer()
			for done := 0; done < b.N; {
				b.StopTimer()
				rows := spreadRows(r, min(DefaultFoldEvery, max(b.N-done, 1000)))
				b.StartTimer()
				foldAll(b, s, rows)
				done += len(rows)
			}
		})
	}
}

func foldAll(b *testing.B, s *Store, rows []foldRow) {
	for len(rows) > 0 {
		n := min(3000, len(rows))
		if err := s.Update(func(tx *Tx) error { return tx.foldHours(rows[:n]) }); err != nil {
			b.Fatal(err)
		}
		rows = rows[n:]
	}
}

// spreadRows draws rows of 24 hours, 50 apps, 100 users, 20 workflows and 5 models.
func spreadRows(r *rand.Rand, n int) []foldRow {
	rows := make([]foldRow, n)
	for i := range rows {
		key := appendHourAppKey(nil, 480_000+uint32(r.IntN(24)), fmt.Sprintf("app-%02d", r.IntN(50)))
		head := len(key)
		key = appendRest(key, "", fmt.Sprintf("user-%04d", r.IntN(100)), fmt.Sprintf("wf-%02d", r.IntN(20)), fmt.Sprintf("model-%d", r.IntN(5)))
		rows[i] = foldRow{key, head, &schemas.UsageSums{Events: 1, InputTokens: 1500, OutputTokens: 500, TotalTokens: 2000}}
	}
	slices.SortFunc(rows, func(a, b foldRow) int { return bytes.Compare(a.key, b.key) })
	return slices.CompactFunc(rows, func(a, b foldRow) bool { return bytes.Equal(a.key, b.key) })
}

// BenchmarkCommit is a transaction with one message of so many events: what bbolt and
// the disk take for it.
func BenchmarkCommit(b *testing.B) {
	for _, events := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("events=%d", events), func(b *testing.B) {
			s := openAt(b, filepath.Join(b.TempDir(), "s.db"), Options{Partitions: 1})
			defer closeStore(b, s)
			r := rand.New(rand.NewPCG(1, 1))
			for n := range b.N {
				b.StopTimer()
				m := message{seq: uint64(n + 1), requests: []request{{batch: fmt.Sprint("batch-", n)}}}
				for i := range events {
					e := randomEvent(r)
					e.EventID, e.Index = fmt.Sprintf("%d-%d", n, i), uint32(i)
					m.requests[0].events = append(m.requests[0].events, e)
				}
				b.StartTimer()
				apply(b, s, 1, m)
			}
			st := s.Stats()
			b.ReportMetric(st.CommitSeconds/float64(b.N)*1e6, "commit-µs/op")
		})
	}
}
