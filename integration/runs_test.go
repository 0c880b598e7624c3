package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"grout/integration/process"
	"grout/schemas"
)

// run is a run as GET /api/runs tells it.
type run struct {
	ID       string `json:"run_id"`
	Status   string
	Code     string
	Error    string
	Attempt  int
	Sequence int
	Result   json.RawMessage
}

// listRuns lists all runs of the app that a query asks for.
func listRuns(t testing.TB, w *world, query string) (list []run) {
	t.Helper()
	cursor := ""
	for {
		var page struct {
			Runs []run
			Next *string `json:"next_cursor"`
		}
		request(t, w.Process, "GET", "/api/runs?limit=1000&"+query+cursor, nil).want(t, 200).into(t, &page)
		list = append(list, page.Runs...)
		if page.Next == nil {
			return list
		}
		cursor = "&cursor=" + *page.Next
	}
}

func runOf(t testing.TB, w *world, id string) (r run) {
	t.Helper()
	request(t, w.Process, "GET", "/api/runs/"+id, nil).want(t, 200).into(t, &r)
	return r
}

// countable is a plugin of whose action a thousand are free for everybody.
func countable(items int) map[string]string {
	return map[string]string{
		"work/logic.py":          "import time\ndef execute(data):\n    time.sleep(data.get('for', 0))\n    if data.get('fail'):\n        raise ValueError('no')\n    return {'n': data.get('n'), 'limits': data['_entitlements'].get('limits')}\n",
		"work/plugin.yaml":       "name: work\nlimits: {concurrency: 16, queue: 1000, queue_timeout: 30s}\n",
		"work/entitlements.yaml": fmt.Sprintf("schema_version: \"1.0\"\nplugin: work\nlimits: {items: {type: consumable, reset: never, default: %d}}\nactions: {make: {consumes: {items: 1}}}\n", items),
	}
}

const freePlan = `{"version":"1.1","app_id":"dev_app","plan":{"tier":"free"}}`

// standing tells what a user has left of the items, as a plugin is told.
func (w *world) standing(t testing.TB, user string) (used, remaining int) {
	t.Helper()
	var said struct {
		Limits map[string]struct{ Used, Remaining int }
	}
	w.execute(t, user, "work", `{}`).want(t, 200).into(t, &said)
	return said.Limits["items"].Used, said.Limits["items"].Remaining
}

// A hundred calls at once of which ten may: exactly ten do.
func TestConsumableIsNotExceeded(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		w := startPlugins(t, partitions, countable(10), "MONETIZATION=1")
		w.sync(t, freePlan)
		var all sync.WaitGroup
		var mu sync.Mutex
		statuses := map[int]int{}
		for n := range 100 {
			all.Go(func() {
				a := w.execute(t, "ann", "work", fmt.Sprintf(`{"action":"make","n":%d,"for":0.02}`, n))
				mu.Lock()
				defer mu.Unlock()
				statuses[a.status]++
			})
		}
		all.Wait()
		if statuses[200] != 10 || statuses[429] != 90 {
			t.Errorf("answered %v", statuses)
		}
		if used, remaining := w.standing(t, "ann"); used != 10 || remaining != 0 {
			t.Errorf("%d used, %d left", used, remaining)
		}
		w.execute(t, "ben", "work", `{"action":"make","fail":true}`).want(t, 500)
		if used, remaining := w.standing(t, "ben"); used != 0 || remaining != 10 {
			t.Errorf("after a failure %d used, %d left", used, remaining)
		}
		stop(t, w.Process)
		if list, code, text := verify(t, w.data, partitions, nil); code != 0 {
			t.Errorf("verify ends with %d, %s, %+v", code, text, list)
		}
	})
}

// Killed while 200 executions run: each ends exactly once, nothing is taken twice or lost,
// and no process of a plugin outlives grout.
func TestKillDuringExecutions(t *testing.T) {
	eachPartitioning(t, func(t *testing.T, partitions int) {
		w := startPlugins(t, partitions, countable(100_000), "MONETIZATION=1")
		w.sync(t, freePlan)
		const calls = 200
		body := func(n int) string { return fmt.Sprintf(`{"action":"make","n":%d,"for":0.1}`, n) }
		want := func(n int) string { return fmt.Sprintf(`"n":%d,`, n) }
		var all sync.WaitGroup
		var mu sync.Mutex
		answered := map[int]string{}
		accepted := 0
		enough := make(chan struct{})
		for n := range calls {
			all.Go(func() {
				a, err := tryExecute(w, bearer(t, "ann"), body(n), fmt.Sprint("k", n), n%2 == 0)
				if err != nil {
					return // it was killed
				}
				mu.Lock()
				defer mu.Unlock()
				switch {
				case a.status == 202:
				case a.status == 200 && strings.Contains(string(a.body), want(n)):
					answered[n] = string(a.body)
				default:
					t.Errorf("call %d: %d %s", n, a.status, a.body)
				}
				if accepted++; accepted == calls*5/8 {
					close(enough)
				}
			})
		}
		<-enough
		w.Kill()
		all.Wait()
		waitFor(t, func() bool { return workers(t, w) == 0 })
		w.restart(t)
		waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 0 })
		for n := range calls {
			all.Go(func() {
				a := w.execute(t, "ann", "work", body(n), "Idempotency-Key", fmt.Sprint("k", n))
				switch {
				case a.status == 200 && strings.Contains(string(a.body), want(n)) && (answered[n] == "" || answered[n] == string(a.body)):
				case a.status == 500 && answered[n] == "" && strings.Contains(string(a.body), `"WORKER_LOST"`):
				default:
					t.Errorf("call %d was answered %q, and again %d %s", n, answered[n], a.status, a.body)
				}
			})
		}
		all.Wait()
		count := map[string]int{}
		for _, r := range listRuns(t, w, "user_id=ann") {
			count[r.Status+r.Code]++
		}
		t.Logf("%d partitions, %d answered before the kill: %v", partitions, len(answered), count)
		if count["completed"]+count["failedWORKER_LOST"] != calls || len(count) > 2 {
			t.Errorf("the runs have come to %v", count)
		}
		if used, remaining := w.standing(t, "ann"); used != count["completed"] || remaining != 100_000-used {
			t.Errorf("%d completed, %d used, %d left", count["completed"], used, remaining)
		}
		checkRunFacts(t, w, calls)
		stop(t, w.Process)
		if list, code, text := verify(t, w.data, partitions, nil); code != 0 {
			t.Errorf("verify ends with %d, %s, %+v", code, text, list)
		}
	})
}

// checkRunFacts: every run has begun once and ended once, with a sequence without gaps.
func checkRunFacts(t *testing.T, w *world, least int) {
	t.Helper()
	type told struct {
		ID       string `json:"run_id"`
		Kind     string
		Sequence int
	}
	ends := func(list []fact) (n int) {
		for _, f := range list {
			if strings.Contains(f.Subject, ".orchestration.run_completed.") || strings.Contains(f.Subject, ".orchestration.run_failed.") || strings.Contains(f.Subject, ".orchestration.run_cancelled.") {
				n++
			}
		}
		return n
	}
	kinds := map[string][]string{}
	for _, f := range facts(t, w.Process, func(list []fact) bool { return ends(list) >= least }) {
		if !strings.Contains(f.Subject, ".orchestration.") {
			continue
		}
		var e told
		if err := json.Unmarshal(f.Data, &e); err != nil {
			t.Fatal(err)
		}
		kinds[e.ID] = append(kinds[e.ID], e.Kind)
		if e.Sequence != len(kinds[e.ID]) {
			t.Errorf("run %s: event %d has sequence %d", e.ID, len(kinds[e.ID]), e.Sequence)
		}
	}
	for id, list := range kinds {
		if len(list) != 2 || list[0] != schemas.StepRunStarted.Kind() || list[1] == list[0] {
			t.Errorf("run %s: %v", id, list)
		}
	}
}

// workers counts the processes of the plugins of a world.
func workers(t testing.TB, w *world) (n int) {
	t.Helper()
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range list {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), w.plugins) {
			n++
		}
	}
	return n
}

// tryExecute is execute where grout may be killed.
func tryExecute(w *world, token, body, key string, async bool) (answer, error) {
	header := []string{"Authorization", "Bearer " + token, "Idempotency-Key", key}
	if async {
		header = append(header, "Prefer", "respond-async")
	}
	return tryRequest(context.Background(), w.Process, "POST", "/api/execute/work", body, header...)
}

// races is how often cancelling and ending race; Done is a thousand.
func races(t *testing.T) int {
	n, err := strconv.Atoi(os.Getenv("GROUT_CANCEL_RACES"))
	if os.Getenv("GROUT_CANCEL_RACES") == "" {
		return 60
	}
	if err != nil || n < 1 {
		t.Fatalf("GROUT_CANCEL_RACES=%q is no number", os.Getenv("GROUT_CANCEL_RACES"))
	}
	return n
}

// Cancelling races with the end of a run: there is exactly one terminal, and both who
// cancels and who asks are told the same.
func TestCancelRace(t *testing.T) {
	rounds := races(t)
	w := startPlugins(t, 1, map[string]string{"echo/plugin.yaml": "name: echo\nruntime: {kind: go, entry: echo}\n"})
	var all sync.WaitGroup
	outcomes := make(chan string, rounds)
	next := make(chan int)
	for range 8 {
		all.Go(func() {
			for n := range next {
				outcomes <- cancelOne(t, w, n)
			}
		})
	}
	for n := range rounds {
		next <- n
	}
	close(next)
	all.Wait()
	close(outcomes)
	count := map[string]int{}
	for outcome := range outcomes {
		count[outcome]++
	}
	t.Logf("%v", count)
	checkRunFacts(t, w, rounds)
	stop(t, w.Process)
}

// cancelOne cancels a run that is about to end, and gives what it came to.
func cancelOne(t *testing.T, w *world, n int) string {
	var accepted struct {
		ID string `json:"run_id"`
	}
	w.execute(t, "ann", "echo", fmt.Sprintf(`{"n":%d}`, n), "Prefer", "respond-async").want(t, 202).into(t, &accepted)
	a := request(t, w.Process, "POST", "/api/runs/"+accepted.ID+"/cancel", nil)
	var r run
	waitFor(t, func() bool { r = runOf(t, w, accepted.ID); return r.Status != "in_progress" })
	switch {
	case a.status == 200 && r.Status == "cancelled" && r.Result == nil:
	case a.status == 409 && r.Status == "completed" && strings.Contains(string(r.Result), fmt.Sprintf(`"n":%d`, n)):
	default:
		t.Errorf("cancelled %d %s, and the run is %+v", a.status, a.body, r)
	}
	request(t, w.Process, "POST", "/api/runs/"+accepted.ID+"/cancel", nil).refusal(t, 409, schemas.CodeRunFinished)
	return r.Status
}

// A plugin whose run is cancelled stops, with what it has started.
func TestCancelStopsThePlugin(t *testing.T) {
	w := startPlugins(t, 1, map[string]string{"beat/logic.py": `
import os, subprocess, sys, time
beat = "import os,time\nwhile True:\n    open(os.path.join(%r, 'data', 'beat-child'), 'w').write(repr(time.time()))\n    time.sleep(0.002)\n" % os.path.dirname(__file__)
def execute(data):
    subprocess.Popen([sys.executable, "-c", beat], start_new_session=True)
    while True:
        open(os.path.join(os.path.dirname(__file__), "data", "beat"), "w").write(repr(time.time()))
        time.sleep(0.002)
`, "beat/data/.keep": ""}, "MOZAIKS_DRAIN_LIMIT=300ms")
	beats := func(name string) time.Time {
		text, _ := os.ReadFile(filepath.Join(w.plugins, "beat", "data", name))
		seconds, _ := strconv.ParseFloat(string(text), 64)
		return time.UnixMicro(int64(seconds * 1e6))
	}
	waiting := make(chan answer, 1)
	go func() { waiting <- w.execute(t, "ann", "beat", `{}`) }()
	waitFor(t, func() bool {
		return time.Since(beats("beat")) < time.Second && time.Since(beats("beat-child")) < time.Second
	})
	list := listRuns(t, w, "status=in_progress")
	if len(list) != 1 {
		t.Fatalf("runs %+v", list)
	}
	asked := time.Now()
	request(t, w.Process, "POST", "/api/runs/"+list[0].ID+"/cancel", nil, "X-Internal-API-Key", "", "Authorization", "Bearer "+bearer(t, "ann")).
		text(t, 200, fmt.Sprintf(`{"run_id":%q,"status":"cancelled"}`, list[0].ID))
	(<-waiting).text(t, 409, `{"detail":"The run was cancelled","error_code":"RUN_CANCELLED","status_code":409}`)
	for _, name := range []string{"beat", "beat-child"} {
		waitFor(t, func() bool { return time.Since(beats(name)) > 300*time.Millisecond })
		took := beats(name).Sub(asked)
		t.Logf("%s stopped %s after the cancel was sent", name, took)
		if took > 200*time.Millisecond {
			t.Errorf("%s went on for %s", name, took)
		}
	}
	var accepted struct {
		ID string `json:"run_id"`
	}
	w.execute(t, "ann", "beat", `{}`, "Prefer", "respond-async").want(t, 202).into(t, &accepted)
	stop(t, w.Process)
	if n := workers(t, w); n != 0 {
		t.Errorf("%d processes of plugins outlive grout", n)
	}
	w.restart(t)
	if r := runOf(t, w, accepted.ID); r.Status != "failed" || r.Code != "WORKER_LOST" {
		t.Errorf("what ran at the stop is %+v", r)
	}
	checkRunFacts(t, w, 2)
	stop(t, w.Process)
}

// An execution whose process was killed ends as WORKER_LOST, or runs again when its plugin
// says that it may, without the token.
func TestCrashRecovery(t *testing.T) {
	const once = `
import os, time
def execute(data):
    marker = os.path.join(os.path.dirname(__file__), "data", "begun")
    if os.path.exists(marker):
        return {"token": data["user_jwt"], "user": data["user_id"], "n": data["n"]}
    open(marker, "w").close()
    time.sleep(60)
`
	w := startPlugins(t, 1, map[string]string{
		"again/logic.py": once, "again/plugin.yaml": "name: again\nretry_on_crash: true\n",
		"lost/logic.py": once, "again/data/.keep": "", "lost/data/.keep": "",
	})
	ids := map[string]string{}
	for _, name := range []string{"again", "lost"} {
		var accepted struct {
			ID string `json:"run_id"`
		}
		w.execute(t, "ann", name, `{"n":7}`, "Prefer", "respond-async").want(t, 202).into(t, &accepted)
		ids[name] = accepted.ID
		waitFor(t, func() bool { _, err := os.Stat(filepath.Join(w.plugins, name, "data", "begun")); return err == nil })
	}
	w.Kill()
	waitFor(t, func() bool { return workers(t, w) == 0 })
	w.restart(t)
	waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 0 })
	if r := runOf(t, w, ids["again"]); r.Status != "completed" || string(r.Result) != `{"token":null,"user":"ann","n":7}` || r.Attempt != 1 {
		t.Errorf("the run that may run again is %+v", r)
	}
	if r := runOf(t, w, ids["lost"]); r.Status != "failed" || r.Code != "WORKER_LOST" {
		t.Errorf("the run that may not is %+v", r)
	}
	checkRunFacts(t, w, 2)
	stop(t, w.Process)
}

// Whoever waits and goes away does not stop the run; the key gives its result later.
func TestCallerGoesAway(t *testing.T) {
	w := startPlugins(t, 1, countable(10))
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := tryRequest(ctx, w.Process, "POST", "/api/execute/work", `{"n":1,"for":1}`, "Authorization", "Bearer "+bearer(t, "ann"), "Idempotency-Key", "k")
		gone <- err
	}()
	waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 1 })
	leave()
	if <-gone == nil {
		t.Fatal("it was answered")
	}
	a := w.execute(t, "ann", "work", `{"n":1,"for":1}`, "Idempotency-Key", "k").want(t, 200)
	if a.header.Get("Idempotency-Replayed") != "true" || len(listRuns(t, w, "")) != 1 {
		t.Errorf("answered %s %v", a.body, a.header)
	}
	w.execute(t, "ann", "work", `{"n":2}`, "Idempotency-Key", "k").refusal(t, 422, schemas.CodeKeyReused)
	stop(t, w.Process)
}

// What others report makes runs, too; what cannot follow is refused (contract §6).
func TestReportedRuns(t *testing.T) {
	p := start(t, filepath.Join(t.TempDir(), "data"), 1)
	report := func(body string) answer { return request(t, p, "POST", "/api/orchestration/events", body) }
	event := func(run, kind, id string) string {
		return fmt.Sprintf(`{"kind":"orchestration.%s","run_id":%q,"event_id":%q,"app_id":"shop","user_id":"ann","chat_id":"c","timestamp":%q}`, kind, run, id, time.Now().UTC().Format(time.RFC3339Nano))
	}
	const good = `{"accepted":1,"duplicates":0,"rejected":0,"failed":0,"errors":[]}`
	started := event("r", "run_started", "e1")
	report(started).text(t, 200, good)
	report(started).text(t, 200, `{"accepted":0,"duplicates":1,"rejected":0,"failed":0,"errors":[]}`)
	report(event("r", "run_started", "e2")).refusal(t, 409, schemas.CodeRunStarted)
	report(event("r", "agent_started", "e3")).text(t, 200, good)
	report("["+event("r", "run_completed", "e4")+","+event("r", "run_failed", "e5")+","+event("q", "tool_started", "e6")+"]").want(t, 200)
	report(event("r", "agent_completed", "e7")).refusal(t, 409, schemas.CodeRunFinished)
	var r run
	request(t, p, "GET", "/api/runs/r?app_id=shop", nil).want(t, 200).into(t, &r)
	if r.Status != "completed" || r.Sequence != 3 || r.Attempt != 1 {
		t.Errorf("the run is %+v", r)
	}
	report(event("r", "run_started", "e8")).text(t, 200, good)
	request(t, p, "GET", "/api/runs/r?app_id=shop", nil).want(t, 200).into(t, &r)
	if r.Status != "in_progress" || r.Sequence != 4 || r.Attempt != 2 {
		t.Errorf("the next attempt is %+v", r)
	}
	var page struct {
		Events []struct {
			Sequence int
			Kind     string
			Implicit bool
		}
	}
	request(t, p, "GET", "/api/runs/q/events?app_id=shop", nil).want(t, 200).into(t, &page)
	if len(page.Events) != 2 || !page.Events[0].Implicit || page.Events[1].Sequence != 2 {
		t.Errorf("an event of an unknown run makes %+v", page)
	}
	request(t, p, "POST", "/api/runs/q/cancel", `{"app_id":"shop"}`).text(t, 200, `{"run_id":"q","status":"cancelled"}`)
	request(t, p, "POST", "/api/runs/q/cancel", `{"app_id":"shop"}`).refusal(t, 409, schemas.CodeRunFinished)
	stop(t, p)
}

// tryRequest sends a request to a grout that may be killed.
func tryRequest(ctx context.Context, p *process.Process, method, path, body string, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.URL+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, text}, err
}

// While the disk takes nothing, store and bus are opened anew again and again. What runs
// meanwhile goes on, and its end is told once there is room.
func TestExecutionsOutliveAFullDisk(t *testing.T) {
	w := startPlugins(t, 1, countable(100), "MOZAIKS_WAIT_LIMIT=2s", "MONETIZATION=1")
	w.sync(t, freePlan)
	var accepted struct {
		ID string `json:"run_id"`
	}
	w.execute(t, "ann", "work", `{"action":"make"}`).want(t, 200) // a worker is there
	w.execute(t, "ann", "work", `{"action":"make","n":1,"for":2}`, "Prefer", "respond-async").want(t, 202).into(t, &accepted)
	waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 1 })
	limit(t, w.Process, 4<<10)
	token, refused := bearer(t, "ann"), 0
	call := func(n int) (answer, error) {
		return tryExecute(w, token, fmt.Sprintf(`{"action":"make","n":%d}`, n), fmt.Sprint("k", n), false)
	}
	for n := range 30 {
		if a, err := call(n); err == nil && a.status == 503 {
			refused++
		}
	}
	if refused == 0 {
		t.Error("nothing was refused while the disk was full")
	}
	pause(t, 2*time.Second) // until the plugin has answered
	limit(t, w.Process, unix.RLIM_INFINITY)
	waitFor(t, func() bool { a, err := call(1000); return err == nil && a.status == 200 })
	for n := range 30 {
		waitFor(t, func() bool {
			a, err := call(n)
			return err == nil && a.status == 200 && strings.Contains(string(a.body), fmt.Sprintf(`"n":%d,`, n))
		})
	}
	waitFor(t, func() bool { return len(listRuns(t, w, "status=in_progress")) == 0 })
	if r := runOf(t, w, accepted.ID); r.Status != "completed" || !strings.Contains(string(r.Result), `"n":1,`) {
		t.Errorf("what ran meanwhile is %+v", r)
	}
	if list := listRuns(t, w, "status=completed"); len(list) != 33 {
		t.Errorf("%d runs are completed", len(list))
	}
	if used, remaining := w.standing(t, "ann"); used != 33 || remaining != 67 {
		t.Errorf("%d used, %d left", used, remaining)
	}
	checkRunFacts(t, w, 34)
	stop(t, w.Process)
}
