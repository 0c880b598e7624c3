package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// remembered is how long the id of a fact is kept: longer than the stream keeps the fact,
// which is 7 days unless its operator says otherwise.
const remembered = 14 * 24 * time.Hour

// sums are what an app has used.
type sums struct {
	Events int64 `json:"events"`
	Tokens int64 `json:"total_tokens"`
}

// record is a line of the file: a fact and what it adds, or, first in a file, what all
// those added whose ids are not remembered any more.
type record struct {
	Fact  string          `json:"fact,omitempty"` // source and id: unique for ever
	Time  time.Time       `json:"time,omitzero"`  // when it was counted
	App   string          `json:"app,omitempty"`
	Adds  sums            `json:"adds,omitzero"`
	Older map[string]sums `json:"older,omitempty"`
}

// fact is what is read of a fact.
type fact struct {
	ID     string `json:"id"`
	Source string `json:"source"`
	Type   string `json:"type"`
	App    string `json:"partitionkey"`
	Data   struct {
		Events []struct {
			Tokens  int64 `json:"total_tokens"`
			Summary bool  `json:"summary"`
			Counted *sums `json:"counted"` // when not all of its own figures count
		} `json:"events"`
		Adjustment sums `json:"adjustment"`
	} `json:"data"`
}

// adds is what a fact adds to the sums of its app.
func (f *fact) adds() (s sums) {
	switch f.Type {
	case "ai.mozaiks.usage.recorded.v1":
		for _, e := range f.Data.Events {
			switch {
			case e.Counted != nil:
				s.Events, s.Tokens = s.Events+e.Counted.Events, s.Tokens+e.Counted.Tokens
			case e.Summary:
				s.Tokens += e.Tokens
			default:
				s.Events, s.Tokens = s.Events+1, s.Tokens+e.Tokens
			}
		}
	case "ai.mozaiks.usage.voided.v1", "ai.mozaiks.usage.amended.v1":
		s = f.Data.Adjustment
	}
	return s
}

// ledger is the file, and what it says.
type ledger struct {
	file  *os.File
	out   *bufio.Writer
	known map[string]bool
	apps  map[string]sums
}

// ledgerError ends the program: what is not written must not be acknowledged.
type ledgerError struct{ err error }

func (e *ledgerError) Error() string { return "the file of what was counted: " + e.err.Error() }
func (e *ledgerError) Unwrap() error { return e.err }

// openLedger reads what was counted and writes it anew, without ids that no fact can have
// any more. A last line that was cut off by a crash was not acknowledged and goes.
func openLedger(path string) (*ledger, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, &ledgerError{err}
	}
	l := &ledger{known: map[string]bool{}, apps: map[string]sums{}}
	older, kept := map[string]sums{}, []record{}
	for len(text) > 0 {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if text = rest; !whole {
			break
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, &ledgerError{fmt.Errorf("%s: a line that is none: %w", path, err)}
		}
		for app, s := range r.Older {
			plus(older, app, s)
			plus(l.apps, app, s)
		}
		if r.Fact == "" {
			continue
		}
		plus(l.apps, r.App, r.Adds)
		if time.Since(r.Time) > remembered {
			plus(older, r.App, r.Adds)
			continue
		}
		l.known[r.Fact] = true
		kept = append(kept, r)
	}
	return l, l.rewrite(path, older, kept)
}

func (l *ledger) rewrite(path string, older map[string]sums, kept []record) (err error) {
	fail := func(err error) error { return &ledgerError{err} }
	if l.file, err = os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
		return fail(err)
	}
	l.out = bufio.NewWriter(l.file)
	for _, r := range append([]record{{Older: older}}, kept...) {
		if err := l.write(&r); err != nil {
			return err
		}
	}
	if err := l.sync(); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fail(err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fail(err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil { // else the older file may be back after a power cut
		return fail(err)
	}
	return nil
}

func plus(all map[string]sums, app string, s sums) {
	have := all[app]
	all[app] = sums{have.Events + s.Events, have.Tokens + s.Tokens}
}

// add counts a fact, once.
func (l *ledger) add(text []byte) error {
	var f fact
	if err := json.Unmarshal(text, &f); err != nil || f.ID == "" {
		return nil // nothing that grout publishes; it would come again for ever
	}
	r := record{Fact: f.Source + " " + f.ID, Time: time.Now().UTC(), App: f.App, Adds: f.adds()}
	if l.known[r.Fact] {
		return nil
	}
	if err := l.write(&r); err != nil {
		return err
	}
	l.known[r.Fact] = true
	plus(l.apps, r.App, r.Adds)
	return nil
}

func (l *ledger) write(r *record) error {
	line, err := json.Marshal(r)
	if err == nil {
		_, err = l.out.Write(append(line, '\n'))
	}
	if err != nil {
		return &ledgerError{err}
	}
	return nil
}

// sync brings everything that was added onto the disk.
func (l *ledger) sync() error {
	err := l.out.Flush()
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return &ledgerError{err}
	}
	return nil
}

func (l *ledger) sums() map[string]sums { return l.apps }

func (l *ledger) close() {
	_ = l.file.Close() // all that counts is synced
}
