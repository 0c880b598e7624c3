package plugins

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestChangesAreTakenWithoutDroppingCalls(t *testing.T) {
	r := &fakes{
		onCall: func(ctx context.Context, w *fakeWorker, _ *Call) reply { return w.sleep(ctx, 10*time.Second) },
		onStart: func(ctx context.Context, p *plugin) error {
			if p.Version == "3.slow" {
				pause(ctx, 20*time.Second)
			}
			return nil
		},
	}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "concurrency: 1, queue_timeout: 1m, queue: 5")}, r, func(w *world) {
		type done struct {
			a   Answer
			err error
		}
		call := func() chan done {
			c := make(chan done, 1)
			go func() {
				a, err := w.do("a")
				c <- done{a, err}
			}()
			synctest.Wait()
			return c
		}
		running, waiting := call(), call()
		w.write("a/plugin.yaml", manifestText("2.new", "concurrency: 1, queue_timeout: 1m"))
		time.Sleep(2 * time.Second)
		if i, err := w.h.Find("a"); err != nil || i.Version != "2.new" {
			t.Errorf("two seconds after the change: %+v %v", i, err)
		}
		if d := <-running; d.err != nil || string(d.a.Result) != `"1"` {
			t.Errorf("a call that had begun: %v %+v", d.err, d.a)
		}
		if d := <-waiting; d.err != nil || string(d.a.Result) != `"2.new"` {
			t.Errorf("a call that waited: %v %+v", d.err, d.a)
		}
		if n := r.living(); n != 1 {
			t.Errorf("%d workers, the old one should be gone", n)
		}
		running = call()
		w.write("a/plugin.yaml", manifestText("3.slow", "concurrency: 1, queue_timeout: 1m"))
		time.Sleep(2 * time.Second)
		if d := call(); (<-running).err != nil || (<-d).err != nil {
			t.Error("a call was dropped while a new version loads slowly")
		}
	})
}

func TestChangesReachThoseWhoWait(t *testing.T) {
	starting := 0
	r := &fakes{
		onCall: func(ctx context.Context, w *fakeWorker, _ *Call) reply { return w.sleep(ctx, 30*time.Second) },
		onStart: func(ctx context.Context, p *plugin) error {
			switch p.Version {
			case "broken":
				return os.ErrInvalid
			case "stuck":
				starting++
				<-ctx.Done()
				starting--
				return ctx.Err()
			}
			return nil
		},
	}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("1", "concurrency: 1, queue_timeout: 1m, timeout: 1m")}, r, func(w *world) {
		change := func(text string) error {
			busy := w.enter("a")
			defer busy.Leave()
			waited := make(chan error, 1)
			go func() {
				ticket, err := w.h.Enter(w.t.Context(), "a")
				if err == nil {
					ticket.Leave()
				}
				waited <- err
			}()
			synctest.Wait()
			w.write("a/plugin.yaml", text)
			began := time.Now()
			err := <-waited
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("%q reached who waits after %s", text, took)
			}
			return err
		}
		for text, want := range map[string]string{
			manifestText("broken", ""): "PLUGIN_LOAD_FAILED", "enabled: false": "NOT_FOUND", "limits: 1": "PLUGIN_LOAD_FAILED",
		} {
			if err := change(text); string(codeOf(err)) != want {
				t.Errorf("%q: %v", text, err)
			}
			w.write("a/plugin.yaml", manifestText("1", "concurrency: 1, queue_timeout: 1m, timeout: 1m"))
			time.Sleep(2 * time.Second)
		}
		w.write("a/plugin.yaml", manifestText("stuck", ""))
		time.Sleep(2 * time.Second)
		w.write("a/plugin.yaml", manifestText("fine", ""))
		time.Sleep(2 * time.Second)
		if a, err := w.do("a"); err != nil || string(a.Result) != `"fine"` || starting != 0 {
			t.Errorf("%v %+v, %d workers still start", err, a, starting)
		}
	})
}

func TestChangesOfEveryKind(t *testing.T) {
	r := &fakes{onStart: func(_ context.Context, p *plugin) error {
		text, err := os.ReadFile(filepath.Join(p.dir, p.Entry))
		if strings.Contains(string(text), "raise") {
			err = os.ErrInvalid
		}
		return err
	}}
	inWorld(t, map[string]string{"a/logic.py": "1", "z/logic.py": "1"}, r, func(w *world) {
		state := func() string {
			time.Sleep(2 * time.Second)
			_, err := w.h.Find("a")
			if i, zerr := w.h.Find("z"); zerr != nil || i.Backend != "logic.py" {
				t.Errorf("another plugin is gone: %v", zerr)
			}
			for _, i := range w.h.List() {
				if i.Name == "a" {
					return string(codeOf(err)) + "|" + i.Error
				}
			}
			return string(codeOf(err)) + "|not listed"
		}
		expect := func(what, want string) {
			t.Helper()
			if got := state(); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		expect("at first", "|")
		w.write("a/logic.py", "raise")
		expect("code that does not load", "PLUGIN_LOAD_FAILED|invalid argument")
		w.write("a/logic.py", "fine again")
		expect("code that loads again", "|")
		w.write("a/plugin.yaml", "limits: {timeout: never}")
		expect("a broken plugin.yaml", `PLUGIN_LOAD_FAILED|a/plugin.yaml: limits.timeout must be a time of 1ms to 24h0m0s, like 30s or 30, not "never"`)
		w.write("a/plugin.yaml", "enabled: false")
		expect("disabled", "NOT_FOUND|")
		w.write("a/plugin.yaml", "runtime: {entry: backend/other.py}")
		expect("an entry that is not there", "PLUGIN_LOAD_FAILED|a/backend/other.py is not there")
		w.write("a/backend/other.py", "1")
		expect("an entry", "|")
		n := r.started()
		w.write("a/backend/__pycache__/x.pyc", "1")
		w.write("a/data/state.json", "1")
		w.write("a/out.log", "1")
		w.write("a/.git/HEAD", "1")
		expect("what a plugin writes", "|")
		if r.started() != n {
			t.Error("files that a plugin writes count as changes")
		}
		w.write("a/backend/prompts/deep/one.txt", "1")
		expect("a file deep below", "|")
		if r.started() != n+1 {
			t.Error("a new file is not noticed")
		}
		for _, name := range []string{"logic.py", "backend", "plugin.yaml"} {
			if err := os.RemoveAll(filepath.Join(w.dir, "a", name)); err != nil {
				t.Fatal(err)
			}
		}
		expect("nothing left", "NOT_FOUND|not listed")
		if err := os.RemoveAll(filepath.Join(w.dir, "a")); err != nil {
			t.Fatal(err)
		}
		expect("gone", "NOT_FOUND|not listed")
		w.write("a/backend/logic.py", "1")
		expect("back", "|")
		w.write("b/logic.py", "1")
		time.Sleep(2 * time.Second)
		if _, err := w.do("b"); err != nil {
			t.Errorf("a new plugin: %v", err)
		}
	})
}

func TestAFolderThatNeverSettlesIsTakenAsItIs(t *testing.T) {
	inWorld(t, map[string]string{"a/logic.py": "1"}, &fakes{}, func(w *world) {
		for i := range 30 {
			time.Sleep(100 * time.Millisecond)
			w.write("a/logic.py", strings.Repeat("1", i+2))
		}
		if s := w.h.Stats()[0]; s.Reloads == 0 || s.Reloads > 5 {
			t.Errorf("%d reloads in 3 s of changes", s.Reloads)
		}
	})
}

func TestChangesLetThoseWhoWaitIn(t *testing.T) {
	r := &fakes{onStart: func(ctx context.Context, _ *plugin) error {
		pause(ctx, 4*time.Second)
		return ctx.Err()
	}}
	inWorld(t, map[string]string{"a/plugin.yaml": manifestText("0", "")}, r, func(w *world) {
		stop := make(chan struct{})
		var editor sync.WaitGroup
		editor.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					w.write("a/plugin.yaml", manifestText(strings.Repeat("1", i%50+1), ""))
				}
			}
		})
		for began := time.Now(); time.Since(began) < time.Minute; {
			if a, err := w.do("a"); err != nil || a.Code != "" {
				t.Errorf("%v %+v", err, a)
			}
			time.Sleep(time.Second)
		}
		close(stop)
		editor.Wait()
	})
}
