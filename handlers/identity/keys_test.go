package identity

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func token(k keyPair, header ...object) string { return k.sign(claimsAt(time.Now()), header...) }

// A new key works at once, and the first token of it brings it in.
func TestRotation(t *testing.T) {
	external(t, func(t *testing.T, v *Verifier, s *issuerServer, _ *bytes.Buffer) {
		s.set(func(s *issuerServer) { s.text = keySetOf(rsaOther) })
		begin := time.Now()
		if got := refusedFor(t, v, token(rsaOther)); got != "" {
			t.Errorf("the new key is refused for %s", got)
		}
		if took := time.Since(begin); took > pauseBetween {
			t.Errorf("it took %s", took)
		}
		if got := refusedFor(t, v, token(rsaKey)); got != "unknown_key" {
			t.Errorf("the old key is refused for %q", got)
		}
	})
}

// A key that was withdrawn stops working within five minutes: without any token that asks
// for a fetch, while the server is away, and while it answers nonsense.
func TestWithdrawn(t *testing.T) {
	for name, change := range map[string]func(*issuerServer){
		"it is gone":     func(s *issuerServer) { s.text = keySetOf(p256) },
		"all are gone":   func(s *issuerServer) { s.text = `{"keys":[]}` },
		"away":           func(s *issuerServer) { s.err = errAway },
		"slow":           func(s *issuerServer) { s.delay = time.Hour },
		"nearly in time": func(s *issuerServer) { s.text, s.delay = keySetOf(p256), fetchLimit-time.Millisecond },
		"broken":         func(s *issuerServer) { s.status = http.StatusInternalServerError },
		"moved":          func(s *issuerServer) { s.status = http.StatusFound },
		"no JSON":        func(s *issuerServer) { s.text = "<html>" },
		"no set":         func(s *issuerServer) { s.text = `{}` },
		"null":           func(s *issuerServer) { s.text = `{"keys":null}` },
		"huge":           func(s *issuerServer) { s.text = `{"keys":[],"x":"` + strings.Repeat("x", maxKeySetBytes) + `"}` },
		"too many": func(s *issuerServer) {
			s.text = `{"keys":[` + strings.Repeat(`{},`, maxKeys) + `{}]}`
		},
	} {
		t.Run(name, func(t *testing.T) {
			external(t, func(t *testing.T, v *Verifier, s *issuerServer, log *bytes.Buffer) {
				readable := strings.HasSuffix(name, "gone") || name == "nearly in time"
				time.Sleep(3 * time.Minute) // whatever the phase of its fetches
				s.set(change)
				if got := refusedFor(t, v, token(rsaKey)); got != "" {
					t.Errorf("at once: refused for %s", got)
				}
				time.Sleep(2 * time.Minute)
				if got := refusedFor(t, v, token(rsaKey)); (got == "") == readable {
					t.Errorf("after 2 minutes: refused for %q", got)
				}
				time.Sleep(3 * time.Minute)
				if got := refusedFor(t, v, token(rsaKey)); got == "" {
					t.Error("the key still works after 5 minutes")
				}
				synctest.Wait() // until the log is written
				if said := strings.Count(log.String(), "\n"); readable && said > 0 || !readable && said != 2 {
					t.Errorf("the log says\n%s", log)
				}
				s.set(func(s *issuerServer) { s.text, s.status, s.delay, s.err = keySetOf(rsaKey), 0, 0, nil })
				if got := refusedFor(t, v, token(rsaKey)); got != "" {
					t.Errorf("when the key is back: refused for %s", got)
				}
				if st := v.Stats(); st.Keys != 1 || st.Fetches == 0 || (st.FailedFetches == 0) != readable {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// The server is away when grout starts: nobody gets in, and everybody once it is there.
func TestAwayAtTheStart(t *testing.T) {
	external(t, func(t *testing.T, v *Verifier, s *issuerServer, log *bytes.Buffer) {
		if got := refusedFor(t, v, token(rsaKey)); got != "no_keys" {
			t.Errorf("refused for %q", got)
		}
		s.set(func(s *issuerServer) { s.err = nil })
		if got := refusedFor(t, v, token(rsaKey)); got != "" {
			t.Errorf("refused for %s", got)
		}
		synctest.Wait()
		if text := log.String(); strings.Count(text, "level=ERROR") != 1 {
			t.Errorf("the log says\n%s", text)
		}
	}, func(o *Options) { o.Transport.(*issuerServer).err = errAway })
}

// An answer without end is read as far as a set of keys may go.
func TestEndlessAnswer(t *testing.T) {
	external(t, func(t *testing.T, v *Verifier, s *issuerServer, _ *bytes.Buffer) {
		if got := refusedFor(t, v, token(rsaKey)); got != "no_keys" {
			t.Errorf("refused for %q", got)
		}
		synctest.Wait()
		if fetches := len(s.fetches()); int(s.sent) > fetches*(maxKeySetBytes+1) {
			t.Errorf("%d bytes were read in %d fetches", s.sent, fetches)
		}
	}, func(o *Options) { o.Transport.(*issuerServer).text = strings.Repeat(" ", 8*maxKeySetBytes) })
}

// Tokens with keys that nobody knows cause one fetch a second, keep nobody with a good
// token waiting, and do not keep a new key out.
func TestFloodOfUnknownKeys(t *testing.T) {
	external(t, func(t *testing.T, v *Verifier, s *issuerServer, _ *bytes.Buffer) {
		ctx, cancel := context.WithCancel(t.Context())
		var flood sync.WaitGroup
		var most atomic.Int64
		for i := range 20 {
			flood.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					begin := time.Now()
					_, _ = v.Identify(ctx, token(rsaOther, object{"kid": fmt.Sprint("evil-", i, "-", n)}))
					most.Store(max(most.Load(), int64(time.Since(begin))))
					time.Sleep(10 * time.Millisecond)
				}
			})
		}
		for range 50 {
			begin := time.Now()
			if _, err := v.Identify(ctx, token(rsaKey)); err != nil || time.Since(begin) > 0 {
				t.Errorf("a good token: %v, after %s", err, time.Since(begin))
			}
			time.Sleep(100 * time.Millisecond)
		}
		s.set(func(s *issuerServer) { s.text = keySetOf(rsaKey, rsaOther) })
		if _, err := v.Identify(ctx, token(rsaOther)); err != nil {
			t.Errorf("a new key: %v", err)
		}
		cancel()
		flood.Wait()
		hits := s.fetches()
		for i := 1; i < len(hits); i++ {
			if d := hits[i].Sub(hits[i-1]); d < time.Second {
				t.Errorf("two fetches within %s", d)
			}
		}
		if len(hits) < 5 {
			t.Errorf("only %d fetches", len(hits))
		}
		if d := time.Duration(most.Load()); d > waitLimit {
			t.Errorf("a token waited for %s", d)
		}
	})
}

// A server that answers slowly holds up only tokens with new keys, and those not for
// ever; no more of them wait than may.
func TestSlowServer(t *testing.T) {
	external(t, func(t *testing.T, v *Verifier, s *issuerServer, _ *bytes.Buffer) {
		s.set(func(s *issuerServer) { s.delay = time.Hour })
		begin := time.Now()
		var waiting sync.WaitGroup
		var atOnce atomic.Int64
		for i := range maxWaiting + 10 {
			waiting.Go(func() {
				if _, err := v.Identify(t.Context(), token(rsaOther, object{"kid": fmt.Sprint(i)})); err == nil {
					t.Error("an unknown key was taken")
				}
				if time.Since(begin) == 0 {
					atOnce.Add(1)
				}
			})
		}
		synctest.Wait()
		if n := atOnce.Load(); n != 10 {
			t.Errorf("%d were refused at once, want 10", n)
		}
		if got := refusedFor(t, v, token(rsaKey)); got != "" || time.Since(begin) > 0 {
			t.Errorf("a good token is refused for %q after %s", got, time.Since(begin))
		}
		waiting.Wait()
		if took := time.Since(begin); took > waitLimit {
			t.Errorf("they waited for %s", took)
		}
	})
}

// A caller that goes away waits no more.
func TestCallerGoesAway(t *testing.T) {
	external(t, func(t *testing.T, v *Verifier, s *issuerServer, _ *bytes.Buffer) {
		s.set(func(s *issuerServer) { s.delay = time.Hour })
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		begin := time.Now()
		if _, err := v.Identify(ctx, token(rsaOther)); err == nil || time.Since(begin) > time.Millisecond {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}

// While all is well the keys are fetched once a minute, and no more.
func TestQuiet(t *testing.T) {
	external(t, func(t *testing.T, v *Verifier, s *issuerServer, _ *bytes.Buffer) {
		for range 60 {
			if got := refusedFor(t, v, token(rsaKey)); got != "" {
				t.Fatalf("refused for %s", got)
			}
			time.Sleep(time.Minute)
		}
		if n := len(s.fetches()); n < 60 || n > 70 {
			t.Errorf("%d fetches in an hour", n)
		}
	})
}
