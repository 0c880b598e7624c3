package store

import (
	"fmt"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"grout/schemas"
)

func letterNumbered(n int, app, kind string, code schemas.Code) *schemas.DeadLetter {
	c := schemas.Cause{ID: fmt.Sprint("dead-", n), Source: "//example.org/p"}
	l := &schemas.DeadLetter{
		AppID: app, Kind: kind, Cause: c, Code: code, Reason: "r", Attempts: 1,
		Original: schemas.OriginalMessage{Subject: "s", Data: []byte(fmt.Sprint("original ", n)), Sequence: uint64(n)},
	}
	l.ID = schemas.LetterID(c, 0, &l.Original)
	return l
}

// letterStore applies messages that each hold one command.
type letterStore struct {
	t   rapid.TB
	s   *Store
	seq uint64
	now int64
}

func (w *letterStore) apply(do func(*Tx) error) {
	w.t.Helper()
	w.seq++
	w.now += 1000
	err := w.s.Update(func(tx *Tx) error {
		tx.Begin(Message{Seq: w.seq, StoredAt: w.now, StreamCreated: 1, Commands: make([]schemas.CommandFrame, 1)})
		tx.Command(&schemas.CommandFrame{Accepted: w.now})
		if err := do(tx); err != nil {
			return err
		}
		return tx.End()
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *letterStore) file(l *schemas.DeadLetter) {
	w.t.Helper()
	w.apply(func(tx *Tx) error { return tx.DeadLetter(0, l) })
}

func (w *letterStore) close(id string, as schemas.LetterStatus) {
	w.t.Helper()
	w.apply(func(tx *Tx) error {
		l, err := tx.Letter(id)
		if err != nil || l == nil {
			return fmt.Errorf("letter %s: %v", id, err)
		}
		l.Status = as
		return tx.CloseLetter(l)
	})
}

// pages walks through the pages of a query.
func (w *letterStore) pages(q schemas.LetterQuery) (list []string) {
	w.t.Helper()
	for {
		page, err := w.s.Letters(&q)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(page.Letters) > q.Limit {
			w.t.Fatalf("%d letters on a page of %d", len(page.Letters), q.Limit)
		}
		for _, l := range page.Letters {
			list = append(list, l.ID)
		}
		if !page.More {
			return list
		}
		q.Behind = page.Next
	}
}

// TestLettersFollowTheirModel: what waits, what is listed by which filter, and what a
// letter says, after any history and after the file was opened anew.
func TestLettersFollowTheirModel(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		path := filepath.Join(dir, fmt.Sprint(runs, ".db"))
		open := func() *Store {
			s, err := Open(path, Options{Partitions: 1})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		w := &letterStore{t: t, s: open(), now: testNow}
		defer func() { _ = w.s.Close() }()
		model := map[string]*schemas.Letter{}
		order := []string{} // oldest first
		apps, kinds, codes := []string{"", "a", "b"}, []string{"", "usage.void"}, []schemas.Code{schemas.CodePoison, schemas.CodeUndecodable}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			n := rapid.IntRange(0, 7).Draw(t, "letter")
			l := letterNumbered(n, apps[n%3], kinds[n%2], rapid.SampledFrom(codes).Draw(t, "code"))
			known := model[l.ID]
			switch do := rapid.IntRange(0, 3).Draw(t, "do"); {
			case do < 2 || known == nil:
				if rapid.IntRange(0, 9).Draw(t, "week") == 0 {
					w.now += schemas.LetterRefiled
				}
				w.file(l)
				if known == nil || w.now-known.FiledAt >= schemas.LetterRefiled {
					next := &schemas.Letter{ID: l.ID, AppID: l.AppID, Kind: l.Kind, FiledAt: w.now}
					for i, id := range order {
						if id == l.ID {
							next.Attempts = known.Attempts
							order = append(order[:i:i], order[i+1:]...)
							break
						}
					}
					order = append(order, l.ID)
					model[l.ID], known = next, next
				}
				known.Status, known.Code, known.Attempts, known.DiedAt = schemas.LetterWaiting, l.Code, known.Attempts+1, w.now
			case known.Status == schemas.LetterWaiting:
				known.Status = schemas.LetterDropped
				if do == 3 {
					known.Status = schemas.LetterRetried
				}
				w.close(l.ID, known.Status)
			}
			if rapid.IntRange(0, 5).Draw(t, "open anew") == 0 {
				if err := w.s.Close(); err != nil {
					t.Fatal(err)
				}
				w.s = open()
			}
		}
		waiting := int64(0)
		for id, want := range model {
			got, err := w.s.Letter(id)
			if err != nil || got == nil || got.Status != want.Status || got.Attempts != want.Attempts || got.Code != want.Code || got.FiledAt != want.FiledAt || got.DiedAt != want.DiedAt {
				t.Fatalf("letter %s is %+v (%v), want %+v", id, got, err, want)
			}
			if want.Status == schemas.LetterWaiting {
				waiting++
			}
			text, err := w.s.UnsentLetter(got.Place)
			if err != nil || text == nil {
				t.Fatalf("letter %s is not in the outbox: %v", id, err)
			}
		}
		if n, _ := w.s.LettersWaiting(); n != waiting {
			t.Fatalf("%d wait, want %d", n, waiting)
		}
		q := schemas.LetterQuery{
			AppID: rapid.SampledFrom(apps).Draw(t, "app"), Kind: rapid.SampledFrom(kinds).Draw(t, "kind"),
			Status: schemas.LetterStatus(rapid.IntRange(0, 3).Draw(t, "status")), Limit: rapid.IntRange(1, 4).Draw(t, "limit"),
		}
		if rapid.Bool().Draw(t, "bounds") {
			q.Since, q.Before = testNow+rapid.Int64Range(0, 20000).Draw(t, "since"), testNow+rapid.Int64Range(0, 40000).Draw(t, "before")
		}
		var want []string
		for i := len(order) - 1; i >= 0; i-- {
			if q.Wants(model[order[i]]) {
				want = append(want, order[i])
			}
		}
		if got := w.pages(q); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%+v gives %q, want %q", q, got, want)
		}
	})
}

// TestLetterThatWaitsForTheRelay: once its row has been published, only the stream has it.
func TestLetterThatWaitsForTheRelay(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "s.db"), Options{Partitions: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := &letterStore{t: t, s: s, now: testNow}
	one := letterNumbered(1, "a", "usage.void", schemas.CodePoison)
	w.file(one)
	l, err := s.Letter(one.ID)
	if err != nil || l == nil {
		t.Fatal(err)
	}
	at := LetterPosition(l.Place)
	if at != (schemas.Position{Epoch: 1, Seq: 1}) {
		t.Errorf("it stands at %s", at)
	}
	if err := s.MarkRelayed(schemas.DestDeadLetters, schemas.RelayState{After: at}); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(); err != nil {
		t.Fatal(err)
	}
	if text, err := s.UnsentLetter(l.Place); text != nil || err != nil {
		t.Errorf("%s %v", text, err)
	}
	if l, err := s.Letter("nobody"); l != nil || err != nil {
		t.Errorf("%+v %v", l, err)
	}
}
