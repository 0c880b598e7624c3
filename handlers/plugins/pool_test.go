package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func manifestText(version, limits string) string {
	return fmt.Sprintf("version: \"%s\"\nruntime: {command: [x]}\nlimits: {%s}\n", version, limits)
}

func TestCallsWaitInTheQueueOfTheirPlugin(t *testing.T) {
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "concurrency: 2, queue: 2, queue_timeout: 5s")}, &fakes{}, func(w *world) {
		first, second := w.enter("a"), w.enter("a")
		order := make(chan int, 2)
		var waiters sync.WaitGroup
		for i := range 2 {
			waiters.Go(func() {
				ticket, err := w.h.Enter(w.t.Context(), "a")
				if err != nil {
					t.Error(err)
					return
				}
				order <- i
				time.Sleep(time.Second)
				ticket.Leave()
			})
			synctest.Wait()
		}
		began := time.Now()
		if _, err := w.h.Enter(w.t.Context(), "a"); err == nil || err.Error() != "PLUGIN_BUSY: Plugin 'a' is busy" || time.Since(began) != 0 {
			t.Errorf("a call beyond the queue: %v after %s", err, time.Since(began))
		}
		if s := w.h.Stats()[0]; s.Busy != 2 || s.Waiting != 2 || s.Workers != 2 {
			t.Errorf("%+v", s)
		}
		first.Leave()
		first.Leave()
		if i := <-order; i != 0 {
			t.Error("the second one was first")
		}
		second.Leave()
		waiters.Wait()
		if s := w.h.Stats()[0]; s.Busy != 0 || s.Waiting != 0 || s.Workers != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWhoWaitsTooLongIsToldSo(t *testing.T) {
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "concurrency: 1, queue: 2, queue_timeout: 5s")}, &fakes{}, func(w *world) {
		ticket := w.enter("a")
		began := time.Now()
		if _, err := w.h.Enter(w.t.Context(), "a"); codeOf(err) != "PLUGIN_BUSY" || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		if _, err := w.h.Enter(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller that gave up: %v", err)
		}
		if s := w.h.Stats()[0]; s.Waiting != 0 {
			t.Errorf("somebody still waits: %+v", s)
		}
		ticket.Leave()
		w.enter("a").Leave()
	})
}

func TestAStuckPluginSlowsNoOther(t *testing.T) {
	r := &fakes{onCall: func(ctx context.Context, w *fakeWorker, _ *Call) reply {
		if w.p.Name == "stuck" {
			return w.sleep(ctx, time.Hour)
		}
		return reply{result: []byte("1")}
	}, onStart: func(ctx context.Context, p *plugin) error {
		if strings.HasPrefix(p.Name, "never") {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}}
	files := map[string]string{"good/plugin.yaml": manifestText("1", ""), "stuck/plugin.yaml": manifestText("1", "timeout: 2s, concurrency: 1, queue: 1")}
	for i := range 2 * loadsAtOnce {
		files[fmt.Sprintf("never%d/plugin.yaml", i)] = manifestText("1", "queue_timeout: 3s")
	}
	inWorld(t, files, r, func(w *world) {
		var stuck sync.WaitGroup
		for range 3 {
			stuck.Go(func() { _, _ = w.do("stuck") })
			stuck.Go(func() {
				if _, err := w.do("never1"); codeOf(err) != "PLUGIN_BUSY" {
					t.Errorf("a plugin that never starts: %v", err)
				}
			})
		}
		time.Sleep(loadPatience)
		began := time.Now()
		for range 10 {
			if a, err := w.do("good"); err != nil || a.Code != "" {
				t.Errorf("%v %+v", err, a)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("calls of another plugin took %s", took)
		}
		stuck.Wait()
		time.Sleep(startTimeout)
		if i, err := w.h.Find("never1"); codeOf(err) != "PLUGIN_LOAD_FAILED" || err.Error() != "PLUGIN_LOAD_FAILED: Plugin 'never1' not found." {
			t.Errorf("%+v, %v", i, err)
		}
		if i := w.h.List()[1]; i.Name != "never0" || i.Enabled || i.Error != "it was not ready within 1m0s" {
			t.Errorf("%+v", i)
		}
	})
}

func TestACallEndsByItsTimeLimit(t *testing.T) {
	r := &fakes{onCall: func(ctx context.Context, w *fakeWorker, _ *Call) reply { return w.sleep(ctx, time.Hour) }}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "timeout: 1.5s"), "b/plugin.yaml": manifestText("1", "")}, r, func(w *world) {
		a, err := w.do("a")
		if err != nil || a.Code != "PLUGIN_TIMEOUT" || a.Detail != "Plugin execution timed out after 1.5 seconds" || a.Took != 1500*time.Millisecond {
			t.Errorf("%v %+v", err, a)
		}
		if a, _ = w.do("b"); a.Detail != "Plugin execution timed out after 30.0 seconds" {
			t.Errorf("%+v", a)
		}
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Second)
		defer cancel()
		ticket := w.enter("a")
		if a := ticket.Call(ctx, Call{}); a.Code != "RUN_CANCELLED" || a.Took != time.Second {
			t.Errorf("%+v", a)
		}
		ticket.Leave()
		if s := w.h.Stats()[0]; s.Crashes != 0 || s.Calls != 2 {
			t.Errorf("calls that grout ended count as crashes: %+v", s)
		}
	})
}

func TestWorkersStartAFewAtATime(t *testing.T) {
	var mu sync.Mutex
	now, most, first := 0, 0, 0
	r := &fakes{onStart: func(ctx context.Context, _ *plugin) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		pause(ctx, time.Second)
		mu.Lock()
		defer mu.Unlock()
		now--
		if first == 0 {
			first = most
		}
		return nil
	}}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "concurrency: 20, queue_timeout: 1m")}, r, func(w *world) {
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				ticket := w.enter("a")
				time.Sleep(time.Minute)
				ticket.Leave()
			})
		}
		callers.Wait()
		if first != 1 || most != startsAtOnce || r.started() != 20 {
			t.Errorf("%d at first, %d at most, %d in all", first, most, r.started())
		}
	})
}

func TestACrashLoopBacksOff(t *testing.T) {
	die := true
	r := &fakes{onCall: func(_ context.Context, w *fakeWorker, _ *Call) reply {
		if die {
			w.stop()
			return reply{fault: errors.New("signal: killed")}
		}
		return reply{result: []byte("1")}
	}}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "queue_timeout: 1m")}, r, func(w *world) {
		began := time.Now()
		for time.Since(began) < 10*time.Minute {
			if a, err := w.do("a"); err != nil || a.Code != "PLUGIN_ERROR" || a.Detail != "Error executing plugin: signal: killed" {
				t.Fatalf("%v %+v", err, a)
			}
		}
		if n := r.started(); n < 40 || n > 80 {
			t.Errorf("%d starts in ten minutes", n)
		}
		die = false
		if a, err := w.do("a"); err != nil || a.Code != "" {
			t.Errorf("%v %+v", err, a)
		}
		die = true
		began = time.Now()
		for range freeCrashes {
			_, _ = w.do("a")
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("after a success the first crashes cost %s", took)
		}
	})
}

// A plugin that runs into its limit again and again does not spend more time on starts.
func TestCallsThatAreTooLongSpaceOutStarts(t *testing.T) {
	stuck := true
	r := &fakes{onCall: func(ctx context.Context, w *fakeWorker, _ *Call) reply {
		if !stuck {
			return reply{result: []byte("1")}
		}
		<-ctx.Done()
		w.stop()
		return reply{fault: context.Cause(ctx)}
	}}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "timeout: 1s, queue_timeout: 1m")}, r, func(w *world) {
		late := func(n int) time.Duration {
			began := time.Now()
			for range n {
				if a, err := w.do("a"); err != nil || a.Code != "PLUGIN_TIMEOUT" {
					t.Fatalf("%v %+v", err, a)
				}
			}
			return time.Since(began)
		}
		if took := late(freeCrashes); took != freeCrashes*time.Second {
			t.Errorf("the first calls took %s", took)
		}
		if took := late(60); took < 110*time.Second || took > 120*time.Second {
			t.Errorf("60 more took %s", took)
		}
		stuck = false
		if a, err := w.do("a"); err != nil || a.Code != "" {
			t.Errorf("%v %+v", err, a)
		}
		stuck = true
		if took := late(freeCrashes); took != freeCrashes*time.Second {
			t.Errorf("after a success the first calls took %s", took)
		}
	})
}

func TestAPluginThatDoesNotLoadIsTriedAgain(t *testing.T) {
	var broken atomic.Bool
	broken.Store(true)
	r := &fakes{onStart: func(context.Context, *plugin) error {
		if broken.Load() {
			return errors.New("No module named 'nothing'")
		}
		return nil
	}}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "")}, r, func(w *world) {
		if i := w.h.List(); len(i) != 1 || i[0].Enabled || i[0].Error != "No module named 'nothing'" || i[0].Version != "1" {
			t.Errorf("%+v", i)
		}
		if _, err := w.h.Find("a"); codeOf(err) != "PLUGIN_LOAD_FAILED" {
			t.Error(err)
		}
		if _, err := w.h.Enter(w.t.Context(), "a"); codeOf(err) != "PLUGIN_LOAD_FAILED" {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if n := r.started(); n < 50 || n > 80 {
			t.Errorf("%d tries in an hour", n)
		}
		broken.Store(false)
		time.Sleep(loadWait + time.Second)
		if i, err := w.h.Find("a"); err != nil || !i.Loaded() || i.Error != "" {
			t.Errorf("%+v %v", i, err)
		}
	})
}

func TestAWorkerThatEndsWhileItWaitsIsReplaced(t *testing.T) {
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "")}, &fakes{}, func(w *world) {
		ticket := w.enter("a")
		ticket.worker.stop()
		if a := ticket.Call(w.t.Context(), Call{Input: []byte("1")}); a.Code != "" || string(a.Result) != "1" {
			t.Errorf("%+v", a)
		}
		ticket.Leave()
		again := w.enter("a")
		again.Leave()
		again.worker.stop() // idle now
		if a, err := w.do("a"); err != nil || a.Code != "" {
			t.Errorf("%v %+v", err, a)
		}
		if s := w.h.Stats()[0]; s.Crashes != 2 || s.Busy != 0 || s.Workers != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestATicketIsGoodForOneCall(t *testing.T) {
	r := &fakes{}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "max_input_bytes: 10, concurrency: 1")}, r, func(w *world) {
		ticket := w.enter("a")
		if a := ticket.Call(w.t.Context(), Call{Input: []byte("1")}); a.Code != "" {
			t.Errorf("%+v", a)
		}
		if a := ticket.Call(w.t.Context(), Call{Input: []byte("1")}); a.Code != "PLUGIN_ERROR" {
			t.Errorf("%+v", a)
		}
		ticket.Leave()
		unused := w.enter("a")
		unused.Leave()
		if a := unused.Call(w.t.Context(), Call{Input: []byte("1")}); a.Code != "PLUGIN_ERROR" {
			t.Errorf("%+v", a)
		}
		large := w.enter("a")
		if a := large.Call(w.t.Context(), Call{Input: make([]byte, inputRoom+11)}); a.Code != "PLUGIN_ERROR" || !strings.Contains(a.Detail, "the input has 1048587 bytes, at most 1048586 are taken") {
			t.Errorf("%+v", a)
		}
		large.Leave()

		r.onCall = func(ctx context.Context, f *fakeWorker, _ *Call) reply { return f.sleep(ctx, time.Second) }
		early := w.enter("a")
		done := make(chan Answer, 1)
		go func() { done <- early.Call(w.t.Context(), Call{}) }()
		synctest.Wait()
		early.Leave() // during its call
		began := time.Now()
		w.enter("a").Leave()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the worker of a call that runs was given to another one after %s", took)
		}
		if a := <-done; a.Code != "" {
			t.Errorf("%+v", a)
		}
	})
}

func TestStoppingEndsEverything(t *testing.T) {
	r := &fakes{onCall: func(ctx context.Context, w *fakeWorker, _ *Call) reply { return w.sleep(ctx, time.Hour) }}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "concurrency: 1, timeout: 2h, queue_timeout: 1h")}, r, func(w *world) {
		ticket := w.enter("a")
		answer, waited := make(chan Answer, 1), make(chan error, 1)
		go func() { answer <- ticket.Call(w.t.Context(), Call{}) }()
		go func() {
			_, err := w.h.Enter(w.t.Context(), "a")
			waited <- err
		}()
		synctest.Wait()
		w.stop()
		if a := <-answer; a.Code != "WORKER_LOST" || a.Took != 0 {
			t.Errorf("%+v", a)
		}
		if err := <-waited; codeOf(err) != "SERVICE_UNAVAILABLE" {
			t.Error(err)
		}
		ticket.Leave()
		if _, err := w.h.Enter(w.t.Context(), "a"); codeOf(err) != "SERVICE_UNAVAILABLE" {
			t.Error(err)
		}
		if i := w.h.List(); len(i) != 1 || !i[0].Loaded() {
			t.Errorf("%+v", i)
		}
	})
}

func TestIdleWorkersAreEndedButOne(t *testing.T) {
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "concurrency: 8")}, &fakes{}, func(w *world) {
		var all []*Ticket
		for range 8 {
			all = append(all, w.enter("a"))
		}
		for _, ticket := range all {
			ticket.Leave()
		}
		time.Sleep(idleKept - time.Second)
		if s := w.h.Stats()[0]; s.Workers != 8 {
			t.Errorf("%+v", s)
		}
		time.Sleep(3 * time.Second)
		if s := w.h.Stats()[0]; s.Workers != 1 || w.r.living() != 1 {
			t.Errorf("%+v, %d live", s, w.r.living())
		}
	})
}

// Calls of every kind, while the plugin is changed all the time: each has one answer, the
// bound of each version holds, and nothing is left.
func TestRandomCallsAndChanges(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	var mu sync.Mutex
	dice := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	r := &fakes{
		onStart: func(ctx context.Context, _ *plugin) error {
			pause(ctx, time.Duration(dice(300))*time.Millisecond)
			if dice(10) == 0 {
				return errors.New("not today")
			}
			return nil
		},
		onCall: func(ctx context.Context, w *fakeWorker, _ *Call) reply {
			switch dice(12) {
			case 0:
				w.stop()
				return reply{fault: errors.New("died")}
			case 1:
				return reply{fault: errors.New("raised")}
			case 2:
				return w.sleep(ctx, time.Hour)
			}
			return w.sleep(ctx, time.Duration(dice(200))*time.Millisecond)
		},
	}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("0", "concurrency: 3, timeout: 1s")}, r, func(w *world) {
		var callers sync.WaitGroup
		codes := map[string]int{}
		for range 24 {
			callers.Go(func() {
				for range 100 {
					time.Sleep(time.Duration(dice(500)) * time.Millisecond)
					ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(1+dice(4000))*time.Millisecond)
					ticket, err := w.h.Enter(ctx, "a")
					code := codeOf(err)
					if err == nil {
						code = ticket.Call(ctx, Call{Input: []byte("1")}).Code
						ticket.Leave()
					} else if code == "" && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("seed %d: %v", seed, err)
					}
					cancel()
					mu.Lock()
					codes[string(code)]++
					mu.Unlock()
				}
			})
		}
		stop := make(chan struct{})
		var editor sync.WaitGroup
		editor.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(dice(3000)) * time.Millisecond):
				}
				w.write("a/plugin.yaml", manifestText(strings.Repeat("1", 1+i%40), "concurrency: 3, timeout: 1s"))
			}
		})
		callers.Wait()
		close(stop)
		editor.Wait()
		r.mu.Lock()
		for name, most := range r.atOnce {
			if most > 3 {
				t.Errorf("seed %d: %d calls at once of %s", seed, most, name)
			}
		}
		r.mu.Unlock()
		time.Sleep(10 * time.Second)
		if s := w.h.Stats()[0]; s.Busy != 0 || s.Waiting != 0 || s.Reloads == 0 {
			t.Errorf("seed %d: %+v", seed, s)
		}
		p := w.h.pool("a")
		p.mu.Lock()
		if p.draining != 0 {
			t.Errorf("seed %d: %d versions are said to have calls", seed, p.draining)
		}
		p.mu.Unlock()
		if codes[""] == 0 || codes["PLUGIN_TIMEOUT"] == 0 || codes["PLUGIN_ERROR"] == 0 {
			t.Errorf("seed %d: %v", seed, codes)
		}
		t.Logf("seed %d: %v, %d starts", seed, codes, r.started())
	})
}

// BenchmarkCall measures what the host adds to a call.
func BenchmarkCall(b *testing.B) {
	dir := b.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "plugin.yaml"), []byte("runtime: {kind: go, entry: echo}\nlimits: {concurrency: 64, queue: 1000}"), 0o644); err != nil {
		b.Fatal(err)
	}
	h := newHost(Options{Dir: dir, StateDir: dir, Timeout: DefaultTimeout, Logger: slog.New(slog.DiscardHandler)}, &fakes{})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = h.Run(ctx) })
	defer running.Wait()
	defer cancel()
	input := []byte(`{"text":"` + strings.Repeat("x", 1000) + `"}`)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ticket, err := h.Enter(ctx, "a")
			if err != nil {
				b.Fatal(err)
			}
			if a := ticket.Call(ctx, Call{Input: input}); a.Code != "" {
				b.Fatal(a)
			}
			ticket.Leave()
		}
	})
}

// BenchmarkLook measures a look at a folder with as many files as are looked at.
func BenchmarkLook(b *testing.B) {
	dir := b.TempDir()
	for i := range 100 {
		sub := filepath.Join(dir, "a", fmt.Sprint("d", i))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(j, ".py")), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "logic.py"), nil, 0o644); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if fingerprint(dir, "a") == "" {
			b.Fatal("it is no plugin")
		}
	}
}

func TestWhoWaitsForAPluginThatDoesNotLoadIsToldAtOnce(t *testing.T) {
	r := &fakes{onStart: func(ctx context.Context, _ *plugin) error {
		pause(ctx, time.Second)
		return errors.New("not with me")
	}}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "")}, r, func(w *world) {
		began := time.Now()
		if _, err := w.h.Enter(w.t.Context(), "a"); codeOf(err) != "PLUGIN_LOAD_FAILED" || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}
