package handlers

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"grout/handlers/entitlements"
	"grout/schemas"
	"grout/store"
)

const storyRules = `{"schema_version":"1.0","plugin":"story","limits":{"items":{"default":5}},"actions":{"make":{"consumes":{"items":2}}}}`

// newExecuting is a world where the plugin story takes of its items.
func newExecuting(t testing.TB, manifest string) *entitled {
	t.Helper()
	w := newEntitled(t)
	w.config(schemas.ConfigSwitches, `{"monetization":true,"enforce":true}`)
	w.config(schemas.ConfigPluginPrefix+"story", storyRules)
	w.sync(manifest)
	w.told()
	return w
}

// execution is one of the plugin story by user u; change completes it.
func execution(run string, change ...func(*schemas.PluginExecution)) *schemas.PluginExecution {
	p := &schemas.PluginExecution{
		RunID: run, Plugin: "story", Action: "make", UserID: "u", Data: []byte(`{"action":"make"}`), BodyDigest: [16]byte{1},
		Timeout: int64(30 * time.Second), QueueTimeout: int64(10 * time.Second), Roles: []string{"member"},
	}
	for _, do := range change {
		do(p)
	}
	return p
}

func keyed(key string) func(*schemas.PluginExecution) {
	return func(p *schemas.PluginExecution) { p.Key, p.Keep = key, true }
}

func (w *entitled) execute(p *schemas.PluginExecution) schemas.CommandOutcome {
	w.t.Helper()
	return w.do(schemas.ExecutePlugin.Name, "a", p.EncodePayload(nil))
}

func (w *entitled) mustExecute(p *schemas.PluginExecution) {
	w.t.Helper()
	if o := w.execute(p); o.Code != "" || string(o.Body) != fmt.Sprintf(`{"run_id":%q,"attempt":1}`, p.RunID) {
		w.t.Fatalf("%s: %s %s %s", p.RunID, o.Code, o.Detail, o.Body)
	}
}

func (w *entitled) finish(end *schemas.ExecutionEnd) schemas.CommandOutcome {
	w.t.Helper()
	if end.Attempt == 0 {
		end.Attempt = 1
	}
	return w.do(schemas.FinishPlugin.Name, "a", end.EncodePayload(nil))
}

func (w *entitled) cancelRun(id string) schemas.CommandOutcome {
	w.t.Helper()
	return w.do(schemas.CancelRun.Name, "a", (&schemas.RunCancel{RunID: id}).EncodePayload(nil))
}

func (w *entitled) rerun(id string, attempt int64) schemas.CommandOutcome {
	w.t.Helper()
	return w.do(schemas.RerunPlugin.Name, "a", (&schemas.ExecutionRerun{RunID: id, Attempt: attempt}).EncodePayload(nil))
}

// report reports events of app a; ids that are missing are made.
func (w *entitled) report(events ...schemas.RunEvent) (o schemas.IngestOutcome) {
	w.t.Helper()
	for i := range events {
		e := &events[i]
		e.Index = uint32(i)
		if e.Status == 0 {
			e.Status = e.Step.Statuses()[0]
		}
		if e.EventID == "" {
			w.n++
			e.EventID = fmt.Sprint("event-", w.n)
		}
	}
	out := w.apply(w.frame(schemas.ReportRuns.Name, "a", (&schemas.RunReport{Events: events}).EncodePayload(nil)))[0]
	if err := o.Decode(out); err != nil {
		w.t.Fatalf("outcome %x: %v", out, err)
	}
	return o
}

func (w *entitled) runNamed(id string) *store.Run {
	w.t.Helper()
	r, err := w.store.Run("a", id)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// runState says in one line how a run stands.
func (w *entitled) runLine(id string) string {
	w.t.Helper()
	r := w.runNamed(id)
	if r == nil {
		return "none"
	}
	line := fmt.Sprintf("%s attempt %d sequence %d", r.Status, r.Attempt, r.Sequence)
	if r.Code != "" {
		line += " " + r.Code
	}
	if r.Implicit {
		line += " implicit"
	}
	if r.Result != nil {
		line += " " + string(r.Result)
	}
	return line
}

// items gives what user u has used and set aside of the items of the plugin story, and
// how many runs hold a lease of the app.
func (w *entitled) items() string {
	w.t.Helper()
	var line string
	if err := w.store.Look(func(l *store.Look) error {
		c, err := l.Consumed("a", schemas.ScopesOf("", "u")[0], "story", "items")
		if err != nil {
			return err
		}
		held, err := l.Leases("a", wholeApp, entitlements.ConcurrentRuns, w.now)
		line = fmt.Sprintf("used %d reserved %d leases %d", c.Used, c.Reserved, len(held))
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return line
}

// open lists the executions that wait for their end, with what they were given.
func (w *entitled) openRuns() (list []string) {
	w.t.Helper()
	runs, _, err := w.store.OpenExecutions(store.Place{}, 100)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range runs {
		list = append(list, r.ID+" "+string(r.Data))
	}
	return list
}

// eventsOf gives the events of a run as one line each, and fails when their sequences
// have a gap.
func (w *entitled) eventsOf(id string) (list []string) {
	w.t.Helper()
	events, _, err := w.store.RunEvents("a", id, 0, 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	for i, e := range events {
		var d schemas.RunEventData
		if err := json.Unmarshal(e.JSON, &d); err != nil {
			w.t.Fatalf("%s: %v", e.JSON, err)
		}
		if e.Sequence != int64(i)+1 || d.Sequence != e.Sequence {
			w.t.Errorf("event %d of %s has the sequence %d: %s", i, id, e.Sequence, e.JSON)
		}
		line := fmt.Sprintf("%d %s %s", d.Attempt, d.Kind[len("orchestration."):], d.Status)
		if d.Implicit {
			line += " implicit"
		}
		if d.Code != nil && *d.Code != "" {
			line += " " + *d.Code
		}
		list = append(list, line)
	}
	return list
}

func wantCode(t testing.TB, o schemas.CommandOutcome, code schemas.Code, body string) {
	t.Helper()
	if o.Code != code || body != "" && string(o.Body) != body {
		t.Errorf("%q %s %s, want %q %s", o.Code, o.Detail, o.Body, code, body)
	}
}

// plural writes a number with what it counts.
func plural(n int64, what string) string {
	if what == "" {
		return fmt.Sprint(n)
	}
	return fmt.Sprint(n, " ", what)
}
