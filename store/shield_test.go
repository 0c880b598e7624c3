package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"grout/schemas"
)

// A file that is damaged while it is open is met as an error that says so, by reads
// and by the next message, never as a panic or a hang; whoever watches is told.
func TestDamageUnderAnOpenFile(t *testing.T) {
	const page = 4096
	overwrite := func(b byte) func(t *testing.T, f *os.File, size int64) {
		return func(t *testing.T, f *os.File, size int64) {
			block := make([]byte, page)
			for i := range block {
				block[i] = b
			}
			for at := int64(2 * page); at < size; at += page {
				if _, err := f.WriteAt(block, at); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, damage := range map[string]func(t *testing.T, f *os.File, size int64){
		"pages of ones":  overwrite(0xff),
		"pages of zeros": overwrite(0),
		"cut off": func(t *testing.T, f *os.File, _ int64) {
			if err := f.Truncate(2 * page); err != nil {
				t.Fatal(err)
			}
		},
		"every value": func(t *testing.T, f *os.File, size int64) {
			b := make([]byte, size)
			if _, err := f.ReadAt(b, 0); err != nil {
				t.Fatal(err)
			}
			for at := 3 * page; at < len(b); at += 61 {
				b[at] ^= 1
			}
			if _, err := f.WriteAt(b, 0); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.db")
			s := openAt(t, path, Options{FoldEvery: 500})
			r := rand.New(rand.NewPCG(3, 4))
			for seq := uint64(1); seq <= 40; seq++ {
				m := message{seq: seq, requests: []request{{batch: "b"}}}
				for range 50 {
					m.requests[0].events = append(m.requests[0].events, randomEvent(r))
				}
				apply(t, s, 1, m)
			}
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			damage(t, f, info.Size())

			met := 0
			note := func(err error) {
				if errors.Is(err, schemas.ErrDamaged) {
					met++
				} else if err != nil {
					t.Errorf("%v is not told as damage", err)
				}
			}
			ctx := context.Background()
			_, err = s.Events(ctx, schemas.EventQuery{AppID: "a", From: schemas.FirstInstant, To: schemas.LastInstant, Limit: 1000})
			note(err)
			_, err = s.Usage(ctx, schemas.UsageQuery{AppID: "a", From: int64(schemas.FirstHour), To: int64(schemas.LastHour)})
			note(err)
			_, _, err = s.BatchOfApp(ctx, "a", "b")
			note(err)
			_, err = s.Facts(schemas.DestFacts, schemas.Position{}, 100, 1<<20)
			note(err)
			_, err = s.Snapshot(ctx, t.TempDir(), time.Now(), nil)
			note(err)
			if met == 0 {
				t.Error("no read met the damage")
			}
			select {
			case err := <-s.Damaged():
				if !errors.Is(err, schemas.ErrDamaged) {
					t.Error(err)
				}
			default:
				t.Error("nobody was told")
			}
			m := message{seq: 41, requests: []request{{batch: "b", events: []schemas.UsageEvent{randomEvent(r)}}}}
			err = s.Update(func(tx *Tx) error { return m.put(tx) })
			var fault *Fault
			if err != nil && !errors.As(err, &fault) {
				t.Errorf("a message after the damage: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Only what bbolt or the mapping panicked at is damage.
func TestOwnPanicsStayPanics(t *testing.T) {
	s := openNew(t, Options{})
	defer func() {
		if recover() == nil {
			t.Error("a programmer's mistake became an error of the file")
		}
	}()
	var err error
	defer s.db.shield(&err)()
	var nothing *Tx
	nothing.message.Seq++
}
