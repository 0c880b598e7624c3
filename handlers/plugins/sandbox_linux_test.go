package plugins

import (
	"bufio"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// On an older kernel less holds, and what does not is named.
func TestConfinementByKernel(t *testing.T) {
	other := &Credential{UID: 1, GID: 1}
	for _, c := range []struct {
		abi   int
		user  *Credential
		root  bool
		lacks []string
	}{
		{7, nil, true, nil},
		{7, nil, false, []string{"System V"}},
		{5, nil, true, []string{"signals"}},
		{3, nil, true, []string{"devices", "signals"}},
		{1, nil, true, []string{"cut off", "devices", "signals"}},
		{0, nil, true, []string{"read and write whatever", "cut off", "devices", "signals"}},
		{0, other, true, []string{"devices", "what their user may"}},
	} {
		_, lacks := confinement(c.abi, c.user, c.root)
		ok := len(lacks) == len(c.lacks)
		for i := range min(len(lacks), len(c.lacks)) {
			ok = ok && strings.Contains(lacks[i], c.lacks[i])
		}
		if !ok {
			t.Errorf("Landlock %d: lacks %q, want %q", c.abi, lacks, c.lacks)
		}
	}
	for abi, want := range map[int]struct {
		fs, scoped uint64
		size       uintptr
	}{1: {0x1fff, 0, 8}, 2: {0x3fff, 0, 8}, 3: {0x7fff, 0, 8}, 4: {0x7fff, 0, 8}, 5: {0xffff, 0, 8}, 6: {0xffff, 3, 24}, 7: {0xffff, 3, 24}} {
		if attr, size := landlockAttributes(abi); attr.Handled_access_fs != want.fs || attr.Scoped != want.scoped || size != want.size {
			t.Errorf("Landlock %d: %#x, %#x, %d bytes", abi, attr.Handled_access_fs, attr.Scoped, size)
		}
	}
}

func TestParseStat(t *testing.T) {
	line := func(name, state string, threads int) string {
		return "7 (" + name + ") " + state + " 5 6 7 0 -1 4194560 1 2 3 4 100 50 20 30 25 5 " + strconv.Itoa(threads) + " 0 9999 1000000 250 18446744073709551615"
	}
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{line("python3", "S", 1), true},
		{line(") S 1 (x) R ", "R", 2), true},
		{line("gone", "Z", 1), true},
		{line("its first thread is gone", "Z", 3), true},
		{"7 (short) S 1", false},
		{"", false},
	} {
		p, ok := parseStat(7, []byte(c.text))
		if ok != c.ok {
			t.Errorf("%q: %v", c.text, ok)
		}
		if ok && (p.parent != 5 || p.session != 7 || p.start != 9999 || p.cpu != 1500*time.Millisecond || p.waited != 500*time.Millisecond || p.resident != 250*pageSize || p.ended != strings.Contains(c.text, "(gone)")) {
			t.Errorf("%q: %+v", c.text, p)
		}
	}
}

// Descendants are found with the lists of children that a kernel may have, and without.
func TestWalk(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 & sleep 1000 & wait")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tr := newTree()
	t.Cleanup(func() {
		tr.kill(nil)
		_ = cmd.Wait()
	})
	eventually(t, 5*time.Second, "three processes", func() bool { return len(tr.walk(maxWalk)) == 3 })
	tr.files = false
	if list := tr.walk(maxWalk); len(list) != 3 || list[0].pid != cmd.Process.Pid {
		t.Errorf("without lists of children: %+v", list)
	}
	if list := tr.walk(0); len(list) > 1 {
		t.Errorf("a bounded look found %d", len(list))
	}
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
		err  error
	}{
		{"a\nbc\r\n\n", []string{"a", "bc", ""}, io.EOF},
		{"a\nhalf", []string{"a"}, io.ErrUnexpectedEOF},
		{strings.Repeat("x", 40) + "\ny\n", []string{strings.Repeat("x", 40), "y"}, io.EOF},
		{"a\n" + strings.Repeat("x", 60) + "\n", []string{"a"}, errLineTooLong},
		{strings.Repeat("x", 1000), nil, errLineTooLong},
	} {
		l := lineReader{r: bufio.NewReaderSize(strings.NewReader(c.text), 16), most: 50}
		var got []string
		line, err := l.next()
		for ; err == nil; line, err = l.next() {
			got = append(got, string(line))
		}
		if !slices.Equal(got, c.want) || !errors.Is(err, c.err) {
			t.Errorf("%.20q: %q, %v", c.text, got, err)
		}
	}
	for text, want := range map[string]bool{`{"publish":{}}`: true, ` { "publish" :1}`: true, `{"result":"publish"}`: false, `"publish"`: false, "": false} {
		if isPublication([]byte(text)) != want {
			t.Errorf("%s", text)
		}
	}
}

// A plugin can put anything in the place of its temporary directory; nothing outside of its
// home is touched for that.
func TestTempDirStaysAtHome(t *testing.T) {
	base := t.TempDir()
	home, outside := filepath.Join(base, "home"), filepath.Join(base, "outside")
	long := time.Now().Add(-time.Hour)
	for _, dir := range []string{home, filepath.Join(outside, "kept")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(outside, "kept"), long, long); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(home, "tmp")); err != nil {
		t.Fatal(err)
	}
	first, err := newTempDir(home, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Errorf("what lies outside: %v", err)
	}
	left := filepath.Join(home, "tmp", "left")
	if err := errors.Join(os.Mkdir(left, 0o755), os.Chtimes(left, long, long), os.Chtimes(first.path, long, long)); err != nil {
		t.Fatal(err)
	}
	first.sweep()
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was left behind is there: %v", err)
	}
	if _, err := os.Stat(first.path); err != nil {
		t.Errorf("what is in use has gone: %v", err)
	}
	first.remove()
	if _, err := os.Stat(first.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// What a worker has written before it ended is an answer.
func TestAnswerBeforeTheEnd(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin("", func(m *manifest) { m.Command = []string{"sh", "./once.sh"} })
	w.write(filepath.Join(p.dir, "once.sh"), `
read -r hello <&3; echo '{"ready":true}' >&4
read -r call <&3; echo '{"result":1}' >&4
`)
	for range 5 {
		one := w.worker(p)
		if got := w.result(p, one, nil); got != "1" {
			t.Errorf("got %s", got)
		}
		eventually(t, 5*time.Second, "the worker has gone", func() bool {
			select {
			case <-one.gone():
				return true
			default:
				return false
			}
		})
	}
}

// A supervisor that is killed takes what it can be found to have started with it.
func TestSupervisorKilled(t *testing.T) {
	w := newWorkshop(t)
	p := w.plugin("import subprocess, time\ndef execute(data):\n    subprocess.Popen(['sleep', '1000'])\n    time.sleep(9)")
	one := w.worker(p)
	done := make(chan reply, 1)
	go func() {
		r, _ := ask(p, one, nil, nil)
		done <- r
	}()
	eventually(t, 5*time.Second, "the plugin started something", func() bool { return len(w.survivors()) == 2 })
	_ = unix.Kill(one.(*processWorker).cmd.Process.Pid, unix.SIGKILL)
	if r := <-done; r.fault == nil || r.fault.Error() != "its supervisor has ended" {
		t.Errorf("got %v", r.fault)
	}
	eventually(t, 2*time.Second, "nothing is left", func() bool { return len(w.survivors()) == 0 })
}

func BenchmarkProcessCall(b *testing.B) {
	w := newWorkshop(b)
	p := w.plugin(echo)
	one := w.worker(p)
	for b.Loop() {
		if r, _ := ask(p, one, map[string]int{"n": 1}, nil); r.fault != nil {
			b.Fatal(r.fault)
		}
	}
}
