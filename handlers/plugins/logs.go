package plugins

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	maxLogBytes  = 4 << 20 // of a file; there is one older file beside it
	maxLineBytes = 16 << 10
	logBurst     = 1 << 20   // that a plugin may write at once
	logRate      = 128 << 10 // and in a second after that
	logRest      = 10 * time.Second
)

// LogPath is where the output of a plugin is kept; what is older is in the same path with
// .1 behind it.
func LogPath(stateDir, name string) string {
	return filepath.Join(stateDir, "logs", name+".log")
}

// logs are the files in which the output of plugins is kept.
type logs struct {
	dir string
	mu  sync.Mutex
	all map[string]*pluginLog
}

func newLogs(dir string) *logs { return &logs{dir: dir, all: map[string]*pluginLog{}} }

func (l *logs) of(name string) *pluginLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all[name] == nil {
		l.all[name] = &pluginLog{path: LogPath(l.dir, name), left: logBurst}
	}
	return l.all[name]
}

// rest closes files that nothing was written to lately.
func (l *logs) rest(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, one := range l.all {
		one.closeBefore(now.Add(-logRest))
	}
}

func (l *logs) close() { l.rest(time.Now().Add(2 * logRest)) }

// pluginLog keeps what a plugin and its workers say, bounded in size and in rate.
type pluginLog struct {
	path string

	mu      sync.Mutex
	file    *os.File
	size    int64
	left    int64 // bytes that may be written now
	at      time.Time
	dropped int64
	secrets []string
}

// maxSecrets bounds how many tokens of recent calls are looked for.
const maxSecrets = 2 * maxConcurrency

// hide keeps a text out of what is written from now on.
func (l *pluginLog) hide(secret string) {
	if secret == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.secrets {
		if s == secret {
			return
		}
	}
	if len(l.secrets) == maxSecrets {
		l.secrets = append(l.secrets[:0], l.secrets[1:]...)
	}
	l.secrets = append(l.secrets, secret)
}

// minSecret is how much of a secret must end a text to be hidden there.
const minSecret = 8

// withoutSecrets hides secrets, and the beginning of one at the end, where the text may
// have been cut.
func (l *pluginLog) withoutSecrets(text []byte) []byte {
	for _, s := range l.secrets {
		text = hide(text, s)
		if len(s) <= minSecret {
			continue
		}
		for at := max(0, len(text)-len(s)+1); at < len(text); at++ {
			next := bytes.Index(text[at:], []byte(s[:minSecret]))
			if next < 0 {
				break
			}
			if at += next; strings.HasPrefix(s, string(text[at:])) {
				text = append(bytes.Clone(text[:at]), hidden...)
				break
			}
		}
	}
	return text
}

// note writes a line of grout's own.
func (l *pluginLog) note(text string) { l.line("grout", []byte(text), "") }

// line writes one line, and a note behind it. It never fails: what cannot be kept is
// counted, and costs nothing more.
func (l *pluginLog) line(source string, text []byte, note string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	if len(text) > maxLineBytes {
		text = text[:maxLineBytes]
	}
	if !l.at.IsZero() {
		l.left = min(logBurst, l.left+int64(now.Sub(l.at).Seconds()*logRate))
	}
	l.at = now
	if int64(len(text)) > l.left {
		l.dropped += int64(len(text)) + 1
		return
	}
	text = append(l.withoutSecrets(text), note...)
	head := now.Format("2006-01-02T15:04:05.000Z") + " "
	var out []byte
	if l.dropped > 0 {
		out = fmt.Appendf(out, "%s[grout] %d bytes were dropped: too much was written at once\n", head, l.dropped)
		l.dropped = 0
	}
	out = fmt.Appendf(out, "%s[%s] %s\n", head, source, bytes.ToValidUTF8(text, []byte("�")))
	l.left -= int64(len(out))
	if err := l.write(out); err != nil {
		l.dropped += int64(len(out))
	}
}

func (l *pluginLog) write(text []byte) error {
	if l.file == nil {
		if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
			return err
		}
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return err
		}
		l.file, l.size = f, info.Size()
	}
	if l.size > 0 && l.size+int64(len(text)) > maxLogBytes {
		if err := os.Rename(l.path, l.path+".1"); err != nil {
			return err
		}
		l.file.Close()
		l.file, l.size = nil, 0
		return l.write(text)
	}
	n, err := l.file.Write(text)
	l.size += int64(n)
	return err
}

func (l *pluginLog) closeBefore(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil && l.at.Before(t) {
		l.file.Close()
		l.file = nil
	}
}

// writer gives a stream of lines, such as the standard output of a worker. Writing to it
// never fails. Close writes what is left of an unfinished line.
func (l *pluginLog) writer(source string) io.WriteCloser { return &logWriter{log: l, source: source} }

// cutNote ends a line that is cut.
const cutNote = " … (the line is longer)"

// logWriter cuts a stream into lines.
type logWriter struct {
	log    *pluginLog
	source string
	mu     sync.Mutex
	rest   []byte
	skip   bool // the rest of a line that is too long
}

// Write never fails.
func (w *logWriter) Write(text []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(text)
	for len(text) > 0 {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		text = rest
		if room := maxLineBytes - len(cutNote) - len(w.rest); !w.skip && len(line) > room {
			w.rest = append(w.rest, line[:room]...)
			w.log.line(w.source, w.rest, cutNote)
			w.rest, w.skip = w.rest[:0], true
		} else if !w.skip {
			w.rest = append(w.rest, line...)
		}
		if whole {
			w.flush()
		}
	}
	return n, nil
}

func (w *logWriter) flush() {
	if !w.skip {
		w.log.line(w.source, bytes.TrimSuffix(w.rest, []byte("\r")), "")
	}
	w.rest, w.skip = w.rest[:0], false
}

// Close writes what is left.
func (w *logWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.rest) > 0 {
		w.flush()
	}
	return nil
}

// hidden stands where a secret was.
const hidden = "[hidden]"

func hide(text []byte, secret string) []byte {
	if secret == "" || !bytes.Contains(text, []byte(secret)) {
		return text
	}
	return bytes.ReplaceAll(text, []byte(secret), []byte(hidden))
}

func hideText(text, secret string) string {
	if secret == "" {
		return text
	}
	return strings.ReplaceAll(text, secret, hidden)
}
