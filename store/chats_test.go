package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
)

func TestChatRule(t *testing.T) {
	type sums = schemas.UsageSums
	all := func(n int64) sums {
		return sums{InputTokens: n, OutputTokens: n, TotalTokens: n, CachedTokens: n, ReasoningTokens: n, Cost: schemas.AmountOf(n)}
	}
	delta := func(n int64) sums {
		s := all(n)
		s.Events = 1
		return s
	}
	for _, c := range []struct {
		name         string
		deltas, high sums
		add, raise   sums
		want         sums // how much what counts moves
	}{
		{name: "the first delta", add: delta(5), want: delta(5)},
		{name: "another", deltas: delta(5), add: delta(3), want: delta(3)},
		{name: "the first summary", raise: all(5), want: all(5)},
		{name: "a summary above the deltas", deltas: delta(5), raise: all(8), want: all(3)},
		{name: "a summary like the deltas", deltas: delta(5), raise: all(5), want: all(0)},
		{name: "a summary below the deltas", deltas: delta(5), raise: all(4), want: all(0)},
		{name: "a higher summary", deltas: delta(5), high: all(8), raise: all(9), want: all(1)},
		{name: "a lower summary", deltas: delta(5), high: all(8), raise: all(6), want: all(0)},
		{name: "a delta that is covered", deltas: delta(5), high: all(8), add: delta(3), want: sums{Events: 1}},
		{name: "a delta that is covered in part", deltas: delta(5), high: all(8), add: delta(4), want: delta(1)},
		{name: "a delta above a lower summary", deltas: delta(5), high: all(4), add: delta(3), want: delta(3)},
		{
			name: "figure by figure", deltas: sums{Events: 1, InputTokens: 5, OutputTokens: 5}, high: sums{InputTokens: 9, OutputTokens: 2},
			add: sums{Events: 1, InputTokens: 5, OutputTokens: 1}, want: sums{Events: 1, InputTokens: 1, OutputTokens: 1},
		},
		{
			name: "a summary, figure by figure", deltas: sums{InputTokens: 5, Cost: schemas.AmountOf(7)}, high: sums{InputTokens: 6},
			raise: sums{InputTokens: 4, OutputTokens: 3, Cost: schemas.AmountOf(8)}, want: sums{OutputTokens: 3, Cost: schemas.AmountOf(1)},
		},
		{name: "a void above the summary", deltas: delta(9), high: all(4), add: sums{}.Minus(delta(3)), want: sums{}.Minus(delta(3))},
		{name: "a void down to the summary", deltas: delta(9), high: all(4), add: sums{}.Minus(delta(9)), want: sums{Events: -1}.Minus(all(5))},
		{name: "a void below the summary", deltas: delta(9), high: all(20), add: sums{}.Minus(delta(9)), want: sums{Events: -1}},
		{name: "the greatest number", deltas: all(1<<63 - 6), add: delta(5), want: delta(5)},
	} {
		t.Run(c.name, func(t *testing.T) {
			totals := chatTotals{c.deltas, c.high}
			before := totals.counted()
			var got sums
			if c.raise != (sums{}) {
				got = totals.raise(&c.raise)
			} else {
				got = totals.add(&c.add)
			}
			if got != c.want {
				t.Errorf("moves by %+v, want %+v", got, c.want)
			}
			before.Add(&got)
			if after := totals.counted(); after != before || after != totals.deltas.Max(totals.high) {
				t.Errorf("counts %+v, want %+v", after, before)
			}
		})
	}
}

// anyAmount draws an amount that may be beyond an int64.
func anyAmount(t *rapid.T) schemas.Amount {
	a := schemas.AmountOf(rapid.Int64().Draw(t, "cost"))
	for range rapid.IntRange(0, 60).Draw(t, "doubled") {
		a = a.Add(a)
	}
	return a
}

func TestChatRowRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringN(0, 30, -1)
		want := &chat{
			chatKey: chatKey{text.Draw(t, "app"), text.Draw(t, "chat")}, user: text.Draw(t, "user"),
			told: rapid.Uint64().Draw(t, "told"), others: rapid.Uint64().Draw(t, "others"),
		}
		for _, s := range [...]*schemas.UsageSums{&want.deltas, &want.high} {
			*s = schemas.UsageSums{Events: rapid.Int64().Draw(t, "events"), InputTokens: rapid.Int64().Draw(t, "input"), Cost: anyAmount(t)}
		}
		if rapid.Bool().Draw(t, "without a summary") {
			want.high = schemas.UsageSums{}
		}
		b := want.append(nil)
		got, err := parseChat(b)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(chat{}, chatKey{}, chatTotals{})); d != "" {
			t.Fatal(d)
		}
		if _, err := parseChat(append(b, 0)); err == nil {
			t.Fatal("a byte more is read, too")
		}
		bare := *want
		bare.high = schemas.UsageSums{}
		whole := len(bare.append(nil))
		if n := rapid.IntRange(0, len(b)-1).Draw(t, "cut to"); n != whole {
			if _, err := parseChat(b[:n:n]); err == nil {
				t.Fatal("a part is read, too")
			}
		}
	})
}

func chatEvent(chat, user, id string, tokens int64) schemas.UsageEvent {
	e := plainEvent("a", id, tokens)
	e.ChatID, e.UserID = chat, user
	return e
}

// A chat belongs to the user of its first event, wherever that waits to be folded
// when its row is written because of a summary.
func TestChatBelongsToItsFirstUser(t *testing.T) {
	for _, restart := range []bool{false, true} {
		for extra := range 12 {
			path := filepath.Join(t.TempDir(), "s.db")
			s := openAt(t, path, Options{FoldEvery: 8})
			seq := uint64(0)
			record := func(e schemas.UsageEvent) {
				seq++
				apply(t, s, 1, plainMessage(seq, e))
			}
			record(chatEvent("c", "first", "e", 1))
			for i := range 7 {
				record(chatEvent("other", "u", fmt.Sprint("o", i), 1))
			}
			for i := range extra {
				record(chatEvent("c", "later", fmt.Sprint("l", i), 1))
			}
			if restart {
				closeStore(t, s)
				s = openAt(t, path, Options{FoldEvery: 8})
			}
			summary := chatEvent("c", "last", "s", 1000)
			summary.Summary = true
			record(summary)
			got, err := s.Chat(t.Context(), "a", "c")
			if err != nil || got == nil || got.UserID != "first" || got.Totals.InputTokens != 1000 || got.Totals.Events != int64(1+extra) || got.Sequence != uint64(1+extra) {
				t.Errorf("restart %v, %d more events: %+v, %v", restart, extra, got, err)
			}
			closeStore(t, s)
		}
	}
}

// A chat that is new many times over has one row and one ordinal for ever.
func TestChatsKeepTheirOrdinals(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{FoldEvery: 50})
	seq := uint64(0)
	const chats = 3 * chatChunkLength / 2
	for round := range 2 {
		var events []schemas.UsageEvent
		for i := range chats {
			events = append(events, chatEvent(fmt.Sprint("c", i), "u", fmt.Sprint(round, "-", i), int64(i)))
		}
		seq++
		apply(t, s, 1, plainMessage(seq, events...)) // in one message: more than a chunk
		for range 40 {
			seq++
			apply(t, s, 10, plainMessage(seq, plainEvent("a", fmt.Sprint("x", seq), 1)))
		}
		closeStore(t, s)
		s = openAt(t, path, Options{FoldEvery: 50})
	}
	if got := s.Stats().Chats; got != chats {
		t.Errorf("%d chats are known, want %d", got, chats)
	}
	for _, i := range []int{0, 1, chatChunkLength - 1, chatChunkLength, chats - 1} {
		got, err := s.Chat(t.Context(), "a", fmt.Sprint("c", i))
		if err != nil || got == nil || got.Totals.Events != 2 || got.Totals.InputTokens != int64(2*i) || got.Sequence != 2 {
			t.Errorf("chat %d: %+v, %v", i, got, err)
		}
	}
	for _, key := range []chatKey{{"a", "c"}, {"b", "c0"}, {"", ""}} {
		if got, err := s.Chat(t.Context(), key.app, key.chat); got != nil || err != nil {
			t.Errorf("%v: %+v, %v", key, got, err)
		}
	}
	closeStore(t, s)
}

// Readers see a chat grow and never shrink, in every phase of folds.
func TestReadersOfChatsDuringFolds(t *testing.T) {
	s := openNew(t, Options{FoldEvery: 40})
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		last := map[string]int64{}
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			id := fmt.Sprint("c", n%7)
			got, err := s.Chat(t.Context(), "a", id)
			if err != nil {
				done <- err
				return
			}
			if got != nil && (got.Totals.Events < last[id] || got.Sequence != uint64(got.Totals.Events)) {
				done <- fmt.Errorf("%s went from %d events to %d, and has %d items", id, last[id], got.Totals.Events, got.Sequence)
				return
			}
			if got != nil {
				last[id] = got.Totals.Events
			}
		}
	}()
	for seq := range uint64(800) {
		apply(t, s, 1, plainMessage(seq+1, chatEvent(fmt.Sprint("c", seq%7), "u", fmt.Sprint("e", seq), 1)))
		got, err := s.Chat(t.Context(), "a", fmt.Sprint("c", seq%7))
		if err != nil || got.Totals.Events != int64(seq/7+1) {
			t.Fatalf("after message %d: %+v, %v", seq+1, got, err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Damage is an error, never a wrong answer.
func TestDamagedChatsAreErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	apply(t, s, 1, plainMessage(1, chatEvent("c", "u", "e", 5), chatEvent("d", "u", "f", 5)))
	tamper(t, s, func(tx *Tx) error { return tx.put(bucketChats, keyOrdinal(1), []byte{9}) })
	if _, err := s.Chat(t.Context(), "a", "c"); !errors.Is(err, errDamaged) {
		t.Errorf("a row of an unknown form: %v", err)
	}
	tamper(t, s, func(tx *Tx) error { return erase(tx, bucketChats, keyOrdinal(1)) })
	tamper(t, s, func(tx *Tx) error { return erase(tx, bucketChatIDs, keyOrdinal(1)) })
	closeStore(t, s)
	if s, err := Open(path, Options{Partitions: 1}); !errors.Is(err, errDamaged) {
		t.Errorf("chats without ordinals: %v", err)
		_ = s.Close()
	}
}
