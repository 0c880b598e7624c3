package bus

import (
	"os"
	"path/filepath"
	"testing"
)

// A stream that ends before what it has confirmed is told so, and no other one.
func TestAckedNote(t *testing.T) {
	dir := t.TempDir()
	open := func(before func(b *Bus)) []Found {
		t.Helper()
		s, err := StartServer(ServerOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Shutdown()
		nc, err := s.Connect("test")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		b, err := Open(t.Context(), nc, Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if before != nil {
			before(b)
		}
		return b.Found()
	}
	last := uint64(0)
	publish := func(b *Bus) {
		for range 3 {
			ack, err := b.js.Publish(t.Context(), "mozaiks.v1.grp.0", []byte("x"))
			if err != nil {
				t.Fatal(err)
			}
			last = ack.Sequence
			b.noteAcked(last)
		}
	}
	if found := open(publish); len(found) != 0 {
		t.Errorf("a new stream: %v", found)
	}
	if found := open(nil); len(found) != 0 {
		t.Errorf("a stream that is whole: %v", found)
	}
	note := filepath.Join(dir, ackedFile)
	sound, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	open(func(b *Bus) { b.noteAcked(last + 2) })
	if found := open(nil); len(found) != 1 || found[0].Name != StreamTailLost {
		t.Errorf("a stream that ends too soon: %v", found)
	}
	for _, text := range []string{"", "nonsense", string(sound[:len(sound)-3])} {
		if err := os.WriteFile(note, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := open(nil); len(found) != 0 {
			t.Errorf("a note %q: %v", text, found)
		}
	}
}
