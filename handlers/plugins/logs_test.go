package plugins

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLogsAreBounded(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all := newLogs(dir)
		defer all.close()
		l := all.of("a")
		w := l.writer("stdout")
		chunk := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 100))
		for range 100_000_000 / len(chunk) { // at once
			if n, err := w.Write(chunk); n != len(chunk) || err != nil {
				t.Fatal(n, err)
			}
		}
		info, err := os.Stat(LogPath(dir, "a"))
		if err != nil || info.Size() > logBurst+logBurst/2 {
			t.Fatalf("%v, %d bytes", err, info.Size())
		}
		time.Sleep(time.Minute)
		l.note("later")
		text := readText(t, LogPath(dir, "a"))
		if !strings.Contains(text, "bytes were dropped: too much was written at once\n") || !strings.HasSuffix(text, "[grout] later\n") {
			t.Errorf("…%s", text[len(text)-300:])
		}
		for range 200 { // slowly, for long
			time.Sleep(10 * time.Second)
			for range 10 {
				_, _ = w.Write(chunk)
			}
		}
		for _, path := range []string{LogPath(dir, "a"), LogPath(dir, "a") + ".1"} {
			if info, err := os.Stat(path); err != nil || info.Size() > maxLogBytes {
				t.Errorf("%s: %v", path, err)
			}
		}
		if files, _ := os.ReadDir(filepath.Dir(LogPath(dir, "a"))); len(files) != 2 {
			t.Errorf("%v", files)
		}
	})
}

func TestLogsAreLines(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		all := newLogs(dir)
		l := all.of("a")
		l.hide("s3cret")
		w := l.writer("stderr")
		for _, part := range []string{"one\ntw", "o\r\n", "a s3", "cret here\n", "bad \xff\n", strings.Repeat("y", maxLineBytes+5), "more of it\nafter\n", "unfinished"} {
			if _, err := w.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		all.rest(time.Now())
		time.Sleep(2 * logRest)
		all.rest(time.Now())
		if l.file != nil {
			t.Error("a file that nobody writes to stays open")
		}
		l.note("again")
		all.close()
		const at = "2000-01-01T00:00:00.000Z [stderr] "
		text := readText(t, LogPath(dir, "a"))
		want := at + "one\n" + at + "two\n" + at + "a [hidden] here\n" + at + "bad �\n" + at + strings.Repeat("y", maxLineBytes-len(cutNote)) + cutNote + "\n" +
			at + "after\n" + at + "unfinished\n" + "2000-01-01T00:00:20.000Z [grout] again\n"
		if text != want {
			t.Errorf("%.300s", text)
		}
	})
}

func readText(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
