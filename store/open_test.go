package store

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestOpenRefusesWhatIsNotItsFile(t *testing.T) {
	dir := t.TempDir()
	made := func(name string, partition, partitions int, change func(tx *Tx) error) string {
		t.Helper()
		path := filepath.Join(dir, name)
		s := openAt(t, path, Options{Partition: partition, Partitions: partitions})
		if change != nil {
			tamper(t, s, change)
		}
		closeStore(t, s)
		return path
	}
	put := func(key, value []byte) func(*Tx) error {
		return func(tx *Tx) error { return tx.put(bucketMeta, key, slices.Clone(value)) }
	}
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("no store at all\n", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	format := binary.BigEndian.AppendUint32(nil, Format+1)
	format = append(format, 0, 0, 0, 0, 0, 0, 0, 1)
	for name, c := range map[string]struct {
		path string
		o    Options
		want string
	}{
		"another partition":         {made("p1.db", 1, 4, nil), Options{Partition: 2, Partitions: 4}, "partition 1 of 4, not 2 of 4"},
		"another number of them":    {made("p2.db", 0, 4, nil), Options{Partitions: 1}, "partition 0 of 4, not 0 of 1"},
		"another format":            {made("format.db", 0, 1, put(metaFormat, format)), Options{Partitions: 1}, "format 3 and this release reads format 2"},
		"a damaged format":          {made("damaged.db", 0, 1, put(metaFormat, []byte{1})), Options{Partitions: 1}, errDamaged.Error()},
		"a damaged position":        {made("position.db", 0, 1, put(metaApplied, []byte{1})), Options{Partitions: 1}, "position: " + errDamaged.Error()},
		"a damaged fold":            {made("fold.db", 0, 1, put(metaFold, []byte{9})), Options{Partitions: 1}, "fold: " + errDamaged.Error()},
		"a damaged relay":           {made("relay.db", 0, 1, put(metaRelayed("evt"), []byte{1, 2})), Options{Partitions: 1}, "relay to evt: " + errDamaged.Error()},
		"text":                      {text, Options{Partitions: 1}, "open store " + text},
		"a directory":               {dir, Options{Partitions: 1}, "open store " + dir},
		"a path through a file":     {filepath.Join(text, "s.db"), Options{Partitions: 1}, "open store"},
		"no partitions":             {filepath.Join(dir, "new.db"), Options{}, "partition 0 of 0 does not exist"},
		"a partition behind them":   {filepath.Join(dir, "new.db"), Options{Partition: 4, Partitions: 4}, "partition 4 of 4 does not exist"},
		"a partition in front them": {filepath.Join(dir, "new.db"), Options{Partition: -1, Partitions: 4}, "partition -1 of 4 does not exist"},
	} {
		s, err := Open(c.path, c.o)
		if err == nil {
			closeStore(t, s)
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// A failed opening lets go of the file.
	s := openAt(t, filepath.Join(dir, "p1.db"), Options{Partition: 1, Partitions: 4})
	closeStore(t, s)
}

func TestOpenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	if other, err := Open(path, Options{Partitions: 1}); err == nil || !strings.Contains(err.Error(), "another process holds it") {
		t.Errorf("%v %v", other, err)
	}
	closeStore(t, s)
	s = openAt(t, path, Options{})
	closeStore(t, s)
}

// Closing waits for the goroutine that orders a frozen generation; TestMain looks
// for it.
func TestCloseRightAfterFreezing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{FoldEvery: 5})
	history := randomHistory(3, 30)
	frozen := 0
	for _, m := range history {
		apply(t, s, 1, m)
		if s.overlay.frozen != nil {
			frozen++
			closeStore(t, s)
			s = openAt(t, path, Options{FoldEvery: 5})
		}
	}
	closeStore(t, s)
	if frozen == 0 {
		t.Error("nothing was frozen")
	}
}

func TestOpenMakesTheDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "s.db")
	s := openAt(t, path, Options{})
	closeStore(t, s)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
}
