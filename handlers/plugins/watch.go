package plugins

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// watch is what was seen of a plugin's folder. A fingerprint is empty when there is none.
type watch struct {
	taken string    // what was taken
	seen  string    // what was seen since, when it is something else
	first time.Time // that something else was seen
}

// settleTime is how long a folder may go on changing before it is taken as it is.
const settleTime = 300 * time.Millisecond

// look compares the directory with what is known and takes what has changed, once it has
// stayed the same for two looks. It reports whether to look again soon.
func (h *Host) look() (soon bool) {
	names, root, err := h.folders()
	if err != nil {
		if h.trouble != err.Error() {
			h.trouble = err.Error()
			h.log.Error("plugins are not looked for", "directory", h.o.Dir, "error", err)
		}
		return false
	}
	h.trouble = ""
	prints := make(map[string]string, len(names))
	for _, name := range names {
		if print := fingerprint(root, name); print != "" {
			prints[name] = print
			if h.watches[name] == nil {
				h.watches[name] = &watch{}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h.watches)) {
		w := h.watches[name]
		switch {
		case w.settled(prints[name], !h.started()) && h.settled(name):
			h.take(name, filepath.Join(root, name), w)
		case w.seen != w.taken:
			soon = true
		}
		if w.seen == "" && w.taken == "" {
			delete(h.watches, name)
		}
	}
	return soon
}

// settled notes what is seen now, and reports whether it is new and to be taken.
func (w *watch) settled(print string, atOnce bool) bool {
	now := time.Now()
	if w.seen == w.taken {
		w.first = now
	}
	same := print == w.seen
	w.seen = print
	return print != w.taken && (atOnce || same || now.Sub(w.first) >= settleTime)
}

// settled reports whether another version of a plugin can be taken now.
func (h *Host) settled(name string) bool {
	p := h.pool(name)
	return p == nil || p.settled()
}

// take takes a plugin's folder as it was seen.
func (h *Host) take(name, dir string, w *watch) {
	w.taken = w.seen
	if w.taken == "" {
		h.forget(name)
		return
	}
	p := h.pool(name)
	if p == nil {
		p = &pool{host: h, name: name}
	}
	v, err := h.read(name, dir)
	switch {
	case err != nil:
		told := v.infoOf(v.dir)
		told.Enabled, told.Error = false, shortText(err.Error(), maxDetail)
		p.refuse(told)
		h.log.Warn("plugin cannot be used", "plugin", name, "error", told.Error)
	case !v.Enabled:
		p.refuse(v.infoOf(v.dir))
	default:
		p.accept(v)
	}
	h.mu.Lock()
	h.pools[name] = p
	h.mu.Unlock()
}

// forget drops a plugin whose folder is gone.
func (h *Host) forget(name string) {
	h.mu.Lock()
	p := h.pools[name]
	delete(h.pools, name)
	h.mu.Unlock()
	if p != nil {
		p.refuse(Info{Name: name})
		h.log.Info("plugin is gone", "plugin", name)
	}
}

// maxWatched bounds how many files of a plugin are looked at for changes.
const maxWatched = 5_000

// fingerprint tells one state of a plugin's folder from another; empty: it is not the
// folder of a plugin. What a plugin writes itself should not be seen as a change, so what
// is made by running things is passed over.
func fingerprint(root, name string) string {
	folder, err := openFolder(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return "closed: " + err.Error()
	}
	defer folder.Close()
	if !slices.ContainsFunc(append([]string{ManifestFile}, codeFiles...), func(file string) bool { return holds(folder, file) }) {
		return ""
	}
	real, err := filepath.EvalSymlinks(filepath.Join(root, name))
	if err != nil {
		return "closed: " + err.Error()
	}
	sum := sha256.New()
	if info, err := folder.Stat("."); err == nil {
		fmt.Fprintf(sum, "%o\x00", info.Mode())
	}
	fingerprintOf(sum, real, maxWatched)
	return string(sum.Sum(nil))
}

// fingerprintOf sums up a directory, of which it looks at so many files, and tells how many
// are left. Not more are read: a plugin may have put any number there.
func fingerprintOf(sum io.Writer, dir string, most int) int {
	entries, err := entriesOf(dir, most)
	if err != nil {
		fmt.Fprintf(sum, "%s\x00%v\x00", dir, err)
	}
	for _, entry := range entries {
		if most--; most < 0 {
			return most
		}
		if passedOver(entry.Name(), entry.IsDir()) {
			continue
		}
		file := filepath.Join(dir, entry.Name())
		info, err := entry.Info()
		switch {
		case err != nil:
			fmt.Fprintf(sum, "%s\x00%v\x00", file, err)
		case entry.IsDir():
			fmt.Fprintf(sum, "%s\x00%o\x00", file, info.Mode())
			most = fingerprintOf(sum, file, most)
		default:
			fmt.Fprintf(sum, "%s\x00%o\x00%d\x00%d\x00", file, info.Mode(), info.Size(), info.ModTime().UnixNano())
		}
	}
	return most
}

// entriesOf reads at most so many entries of a directory, by name.
func entriesOf(dir string, most int) ([]fs.DirEntry, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(max(most, 1))
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return entries, err
}

// madeByRunning are names of folders and ends of names of files that appear when things
// run.
var (
	madeFolders = []string{"__pycache__", "node_modules", "venv", "data", "logs", "tmp", "cache"}
	madeFiles   = []string{".pyc", ".log", ".tmp", ".pid", ".swp", "~", ".db", ".db-wal", ".db-shm", ".db-journal", ".sqlite", ".sqlite3", ".sqlite-journal", ".sqlite3-journal"}
)

func passedOver(name string, folder bool) bool {
	if strings.HasPrefix(name, ".") {
		return name != ".env"
	}
	if folder {
		return slices.Contains(madeFolders, name)
	}
	return slices.ContainsFunc(madeFiles, func(end string) bool { return strings.HasSuffix(name, end) })
}
