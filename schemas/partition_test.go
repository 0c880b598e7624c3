package schemas

import (
	"hash/fnv"
	"testing"

	"pgregory.net/rapid"
)

func TestPartitionOfIsFNV1aOfTheToken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		app, partitions := anyText().Draw(t, "app"), rapid.IntRange(1, 4096).Draw(t, "partitions")
		h := fnv.New32a()
		if _, err := h.Write([]byte(EscapeToken(app))); err != nil {
			t.Fatal(err)
		}
		if got, want := PartitionOf(app, partitions), int(h.Sum32()%uint32(partitions)); got != want {
			t.Fatalf("%q of %d: %d, want %d", app, partitions, got, want)
		}
	})
}

func TestPartitionOf(t *testing.T) {
	// FNV-1a-32 of "foobar" is 0xbf9cf968 = 3,214,735,720 in its authors' test suite.
	if got := PartitionOf("foobar", 1000); got != 720 {
		t.Errorf("foobar of 1000: %d, want 720", got)
	}
	for _, partitions := range []int{-1, 0, 1} {
		if got := PartitionOf("foobar", partitions); got != 0 {
			t.Errorf("of %d: %d, want 0", partitions, got)
		}
	}
}
