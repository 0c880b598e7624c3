package bus

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"grout/schemas"
)

// A copy that follows links has the streams of a killed server twice. Nobody but the
// operator knows which is the newer: neither is touched.
func TestStreamThatIsThereTwice(t *testing.T) {
	dir := t.TempDir()
	var places []string
	for _, parent := range []string{streamsDir(dir), hiddenDir(dir)} {
		place := filepath.Join(parent, schemas.StreamCommands)
		if err := os.MkdirAll(filepath.Join(place, "msgs"), 0o700); err != nil {
			t.Fatal(err)
		}
		places = append(places, place)
	}
	if err := exposeStreams(dir); err == nil || !strings.Contains(err.Error(), "is there twice") || !strings.Contains(err.Error(), places[0]) {
		t.Errorf("a stream that is there twice: %v", err)
	}
	for _, place := range places {
		if info, err := os.Lstat(place); err != nil || !info.IsDir() {
			t.Errorf("%s: %v", place, err)
		}
	}
	if err := os.RemoveAll(places[0]); err != nil {
		t.Fatal(err)
	}
	if err := exposeStreams(dir); err != nil {
		t.Error(err)
	}
}

// What a server that is ending has put aside for a batch does not stand in the way of
// the stream.
func TestStreamBesideAStagedBatch(t *testing.T) {
	dir := t.TempDir()
	staged := filepath.Join(streamsDir(dir), schemas.StreamFacts, stagedBatches, "9XCBRj3p", "msgs")
	stream := filepath.Join(hiddenDir(dir), schemas.StreamFacts)
	for _, d := range []string{staged, filepath.Join(stream, "msgs")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(stream, settingsFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := exposeStreams(dir); err != nil {
		t.Fatal(err)
	}
	place := filepath.Join(streamsDir(dir), schemas.StreamFacts)
	if _, err := os.Stat(filepath.Join(place, settingsFile)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(place, stagedBatches)); err == nil {
		t.Error("what was put aside is still there")
	}
}
