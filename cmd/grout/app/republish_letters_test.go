package app

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"grout/schemas"
	"grout/store"
)

// lettersHistory lets three commands of every app die. The first is carried out at its
// second retry, so that an event is voided; of the second nothing comes when it is sent
// again, and it is dropped; the third waits.
func lettersHistory(t *testing.T, cfg Config) {
	t.Helper()
	ready := make(chan *node, 1)
	s := newSupervisor(cfg, newLogger(io.Discard, cfg), func(n *node) { ready <- n })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	var p *partition
	select {
	case n := <-ready:
		var err error
		if p, err = n.partition(0); err != nil {
			t.Fatal(err)
		}
	case err := <-ended:
		ended <- err
		t.Fatal("it does not start")
	}
	d := (*deadLetters)(s)
	const each = 3
	for n := range 7 {
		for i := range each {
			sendDead(t, p, lettersCommand(n, fmt.Sprint("dead-", i), schemas.UsageVoid.Name, []byte{9}))
		}
	}
	letters := map[string][]schemas.Letter{}
	for _, l := range pagesOf(t, d, schemas.LetterQuery{Limit: 100, Status: schemas.LetterWaiting, Kind: schemas.UsageVoid.Name}) {
		letters[l.AppID] = append(letters[l.AppID], l) // the newest first
	}
	for n := range 7 {
		list := letters[fmt.Sprint("app-", n)]
		if len(list) != each {
			t.Fatalf("%d letters wait, want %d", len(list), each)
		}
		good := lettersCommand(n, "again", schemas.UsageVoid.Name, (&schemas.EventVoid{EventID: fmt.Sprint("budgeted-", n)}).EncodePayload(nil))
		bad := lettersCommand(n, "again", schemas.UsageVoid.Name, []byte{9})
		for i, c := range []struct {
			letter string
			again  *schemas.CommandFrame // nil: it is dropped
		}{{list[2].ID, &bad}, {list[2].ID, &good}, {list[2].ID, &good}, {list[1].ID, nil}, {list[1].ID, nil}, {list[1].ID, &good}, {"nobody", &good}} {
			f := lettersCommand(n, fmt.Sprint("drop-", i), schemas.DropLetter.Name, (&schemas.LetterDrop{ID: c.letter}).EncodePayload(nil))
			if c.again != nil {
				f = lettersCommand(n, fmt.Sprint("retry-", i), schemas.RetryLetter.Name, (&schemas.LetterRetry{ID: c.letter, Frame: *c.again}).EncodePayload(nil))
			}
			sendDead(t, p, f)
		}
		for i, want := range []struct {
			status   schemas.LetterStatus
			attempts int64
		}{{schemas.LetterWaiting, 1}, {schemas.LetterDropped, 1}, {schemas.LetterRetried, 3}} {
			l := letterOf(t, d, list[i].ID)
			if l.Status != want.status || l.Attempts != want.attempts || l.Outcome.Code != "" {
				t.Errorf("letter %d of an app: %+v, want %s after %d", i, l.Letter, want.status, want.attempts)
			}
		}
	}
}

func lettersCommand(app int, id, kind string, payload []byte) schemas.CommandFrame {
	return schemas.CommandFrame{
		Kind: kind, AppID: fmt.Sprint("app-", app), ID: fmt.Sprint(id, "-", app), Source: "//mozaiks.ai/grout/test", Time: time.Now().UnixNano(), Payload: payload,
	}
}

// addLetters has a digest of every app say what became of its dead letters.
func addLetters(t *testing.T, s *store.Store, digests map[string]string) {
	t.Helper()
	page, err := s.Letters(&schemas.LetterQuery{Limit: 1000})
	if err != nil || page.More {
		t.Fatal("more letters than there should be", err)
	}
	for i := range page.Letters {
		l := &page.Letters[i]
		digests[l.AppID] += fmt.Sprint(" ", l.ID, l.Status, l.Attempts, l.Code, l.Outcome.Code)
	}
}
