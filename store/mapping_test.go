package store

import (
	"path/filepath"
	"testing"
)

// What is let go of comes back: while the file grows and moves, and is read, nothing
// changes.
func TestDropMapped(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{Partitions: 1, FoldEvery: 200})
	defer closeStore(t, s)
	history := randomHistory(5, 120)
	want := &oracle{}
	done, dropped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if err := s.DropMapped(); err != nil {
				dropped <- err
				return
			}
			select {
			case <-done:
				dropped <- nil
				return
			default:
			}
		}
	}()
	for i := range history {
		apply(t, s, 1, history[i])
		want.apply(&history[i])
		if i%10 == 0 {
			checkTotals(t, s, want)
		}
	}
	close(done)
	if err := <-dropped; err != nil {
		t.Error(err)
	}
	checkTotals(t, s, want)
}
