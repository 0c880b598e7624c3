package store

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"grout/schemas"
)

// What a file says after a bit was flipped anywhere in it, or its end or a page lost,
// is what it said before, or it is refused.
func TestNoFlippedBitIsBelieved(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s.db")
	s := openAt(t, path, Options{FoldEvery: 500})
	r := rand.New(rand.NewPCG(11, 12))
	for seq := uint64(1); seq <= 40; seq++ {
		m := message{seq: seq, requests: []request{{batch: "b"}}}
		for range 50 {
			m.requests[0].events = append(m.requests[0].events, randomEvent(r))
		}
		apply(t, s, 1, m)
	}
	before := dump(t, s)
	apply(t, s, 1, plainMessage(41, plainEvent("a", "last", 5)))
	want := dump(t, s)
	closeStore(t, s)
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	var used []int // the rest of the file is free and empty
	for at := 0; at < len(sound); at += page {
		if len(bytes.Trim(sound[at:at+page], "\x00")) > 0 {
			used = append(used, at)
		}
	}
	named, right := 0, 0
	damaged := filepath.Join(dir, "damaged.db")
	for n := range 400 {
		b := append([]byte(nil), sound...)
		switch {
		case n%20 == 19:
			b = b[:1+r.IntN(used[len(used)-1])]
		case n%20 == 18: // a page that shows another one
			from, to := used[r.IntN(len(used))], used[r.IntN(len(used))]
			copy(b[to:to+page], sound[from:from+page])
		case n%3 == 0: // heads of pages, which lead elsewhere
			b[used[r.IntN(len(used))]+r.IntN(64)] ^= 1 << r.IntN(8)
		default:
			b[used[r.IntN(len(used))]+r.IntN(page)] ^= 1 << r.IntN(8)
		}
		if err := os.WriteFile(damaged, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(damaged, Options{Partitions: 1})
		if err != nil {
			var d *DamageError
			if !errors.As(err, &d) || len(d.Checkup.Damage) == 0 || !errors.Is(err, schemas.ErrDamaged) {
				t.Fatalf("round %d: %v", n, err)
			}
			named++
			continue
		}
		// A broken beginning leaves the one before it: the state one transaction earlier,
		// which the command stream brings up to date.
		if got := dump(t, s); got != want && got != before {
			t.Fatalf("round %d: opened, and says something else", n)
		}
		closeStore(t, s)
		right++
	}
	t.Logf("%d named, %d right", named, right)
	if named == 0 || right == 0 {
		t.Error("the test cannot fail")
	}
}
