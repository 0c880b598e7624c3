package handlers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"grout/schemas"
	"grout/store"
)

// runsModel says by the plainest means what contract §4 and §6 make of reports, executions,
// their ends, cancels and ticks: it keeps a line for every event of every run.
type runsModel struct {
	now   int64
	runs  map[string]*modelRun
	known map[string]bool // event ids, by app
	used  map[string]int64
	held  map[string]int64
	burnt map[string]int64 // tokens
	tries map[string]bool  // whose usage was counted
	keys  map[string]*modelRun
	order []*modelRun
	next  int
	r     *rand.Rand
	sent  []*runCommand
}

type modelRun struct {
	App, ID string
	Lines   []string
	Attempt int
	Status  string
	Started bool // by a start that somebody reported
	Plugin  bool
	Again   bool // it is rerun after a crash
	Tries   int64
	due     int64
	key     string
	asked   int64
}

// runCommand is a command and what the model makes of it whenever it is applied.
type runCommand struct {
	kind, app string
	payload   []byte
	apply     func() (expected string)
}

const modelItems = 4

func (m *runsModel) pick(n int) int { return m.r.IntN(n) }

func (m *runsModel) app() string { return fmt.Sprint("app-", m.pick(2)) }

func (m *runsModel) run(app, id string) *modelRun { return m.runs[app+"/"+id] }

func (m *runsModel) put(r *modelRun) {
	m.runs[r.App+"/"+r.ID] = r
	m.order = append(m.order, r)
}

func (r *modelRun) ended() bool { return r.Status != "in_progress" }

func (r *modelRun) say(kind, status, more string) {
	r.Lines = append(r.Lines, fmt.Sprint(r.Attempt, " ", kind, " ", status, more))
}

// report is the rule of one reported event.
func (m *runsModel) report(app string, e *schemas.RunEvent) string {
	if m.known[app+"/"+e.EventID] {
		return "duplicate"
	}
	r := m.run(app, e.RunID)
	end := map[schemas.RunStep]string{schemas.StepRunCompleted: "completed", schemas.StepRunFailed: "failed", schemas.StepRunCancelled: "cancelled"}[e.Step]
	starts := e.Step == schemas.StepRunStarted
	switch {
	case r == nil:
		r = &modelRun{App: app, ID: e.RunID, Attempt: 1, Status: "in_progress"}
		m.put(r)
		if !starts {
			r.say("run_started", "in_progress", " implicit")
		}
	case r.ended() && (r.Plugin || !starts):
		return "RUN_FINISHED"
	case r.ended():
		r.Attempt++
		r.Status, r.Started = "in_progress", false
	case starts && (r.Started || r.Plugin):
		return "RUN_ALREADY_STARTED"
	case r.Plugin && end != "":
		return "FORBIDDEN"
	}
	m.known[app+"/"+e.EventID] = true
	r.Started = r.Started || starts
	r.say(e.Step.String(), e.Status.String(), "")
	if end != "" {
		r.Status = end
	}
	if !r.Plugin {
		r.due = m.now + schemas.RunSilence
		if over := r.due % int64(time.Minute); over > 0 {
			r.due += int64(time.Minute) - over
		}
	}
	return "accepted"
}

func (m *runsModel) execute(app string, p *schemas.PluginExecution) string {
	if r := m.run(app, p.RunID); r != nil {
		if !r.Plugin || r.key != p.Key {
			return "RUN_ALREADY_STARTED"
		}
		return p.RunID
	}
	if p.Key != "" {
		if r := m.keys[app+"/"+p.Key]; r != nil && m.now-r.asked < schemas.ResultKept {
			return r.ID
		}
	}
	if m.used[app]+m.held[app]+1 > modelItems {
		return "LIMIT_EXCEEDED"
	}
	m.held[app]++
	r := &modelRun{App: app, ID: p.RunID, Attempt: 1, Status: "in_progress", Started: true, Plugin: true, Again: p.Rerun, Tries: 1, key: p.Key, asked: m.now}
	r.due = m.now + p.Timeout + p.QueueTimeout + int64(time.Minute)
	r.say("run_started", "in_progress", "")
	m.put(r)
	if p.Key != "" {
		m.keys[app+"/"+p.Key] = r
	}
	return p.RunID
}

// end ends an execution.
func (m *runsModel) end(r *modelRun, kind, status, more string) {
	m.held[r.App]--
	if status == "completed" {
		m.used[r.App]++
	}
	r.say(kind, status, more)
	r.Status = status
}

func (m *runsModel) finish(app string, p *schemas.ExecutionEnd) string {
	r := m.run(app, p.RunID)
	if r == nil || !r.Plugin {
		return "NOT_FOUND"
	}
	if try := fmt.Sprint(app, "/", p.RunID, "/", p.Attempt); len(p.Usage) > 0 && !m.tries[try] {
		m.tries[try] = true
		m.burnt[app] += p.Usage[0].TotalTokens
	}
	switch {
	case r.ended():
		return "RUN_FINISHED"
	case p.OK:
		m.end(r, "run_completed", "completed", "")
	default:
		m.end(r, "run_failed", "failed", " "+string(p.Code))
	}
	return ""
}

func (m *runsModel) cancel(app, id string) string {
	r := m.run(app, id)
	switch {
	case r == nil:
		return "NOT_FOUND"
	case r.ended():
		return "RUN_FINISHED"
	case r.Plugin:
		m.end(r, "run_cancelled", "cancelled", "")
	default:
		r.say("run_cancelled", "cancelled", "")
		r.Status = "cancelled"
	}
	return ""
}

func (m *runsModel) rerun(app string, p *schemas.ExecutionRerun, span int64) string {
	r := m.run(app, p.RunID)
	switch {
	case r == nil || !r.Plugin:
		return "NOT_FOUND"
	case r.ended():
		return "RUN_FINISHED"
	case p.Attempt < r.Tries:
		return p.RunID
	case !r.Again || r.Tries > schemas.MaxReruns:
		m.end(r, "run_failed", "failed", " WORKER_LOST")
		return "WORKER_LOST"
	}
	r.Tries++
	r.asked, r.due = m.now, m.now+span
	return p.RunID
}

func (m *runsModel) tick() string {
	for _, r := range m.order {
		switch {
		case r.ended() || m.now < r.due:
		case r.Plugin && r.Again && r.Tries <= schemas.MaxReruns && m.now-r.due > int64(10*time.Second):
			r.asked, r.due = m.now, m.now+modelSpan
		case r.Plugin:
			m.end(r, "run_failed", "failed", " WORKER_LOST")
		default:
			r.say("run_failed", "failed", " RUN_LOST")
			r.Status = "failed"
		}
	}
	return ""
}

const modelSpan = int64(30*time.Second) + int64(10*time.Second) + int64(time.Minute)

// draw makes a command, or repeats one as a publisher does that did not hear of it.
func (m *runsModel) draw() *runCommand {
	if len(m.sent) > 0 && m.pick(8) == 0 {
		return m.sent[max(0, len(m.sent)-1-m.pick(12))]
	}
	m.next++
	c := &runCommand{app: m.app()}
	id := fmt.Sprint("run-", m.pick(3+m.next/8))
	switch m.pick(10) {
	case 0, 1, 2, 3:
		m.drawReport(c)
	case 4, 5:
		p := execution(id, func(p *schemas.PluginExecution) { p.Rerun = m.pick(2) == 0 })
		if m.pick(3) == 0 {
			p.Key = fmt.Sprint("key-", m.pick(3))
		}
		c.kind, c.payload, c.apply = schemas.ExecutePlugin.Name, p.EncodePayload(nil), func() string { return m.execute(c.app, p) }
	case 6, 7:
		p := &schemas.ExecutionEnd{RunID: id, Attempt: int64(1 + m.pick(3)), OK: m.pick(2) == 0, Result: []byte(`1`)}
		if m.pick(2) == 0 {
			p.Usage = []schemas.UsageEvent{{Model: "m", TotalTokens: int64(m.pick(100))}}
		}
		if !p.OK {
			p.Code, p.Detail = schemas.CodePluginError, "x"
		}
		c.kind, c.payload, c.apply = schemas.FinishPlugin.Name, p.EncodePayload(nil), func() string { return m.finish(c.app, p) }
	case 8:
		c.kind, c.payload = schemas.CancelRun.Name, (&schemas.RunCancel{RunID: id}).EncodePayload(nil)
		c.apply = func() string { return m.cancel(c.app, id) }
	default:
		if m.pick(2) == 0 {
			c.kind, c.app, c.payload, c.apply = schemas.ClockTick.Name, "", (&schemas.Tick{}).EncodePayload(nil), m.tick
			break
		}
		p := &schemas.ExecutionRerun{RunID: id, Attempt: int64(1 + m.pick(4))}
		c.kind, c.payload, c.apply = schemas.RerunPlugin.Name, p.EncodePayload(nil), func() string { return m.rerun(c.app, p, modelSpan) }
	}
	m.sent = append(m.sent, c)
	return c
}

func (m *runsModel) drawReport(c *runCommand) {
	var events []schemas.RunEvent
	for i := range 1 + m.pick(5) {
		e := schemas.RunEvent{
			Index: uint32(i), RunID: fmt.Sprint("run-", m.pick(3+m.next/8)), Step: runSteps[m.pick(len(runSteps))], EventID: fmt.Sprint("e", m.next, "-", i),
			UserID: fmt.Sprint("u", m.pick(2)),
		}
		if m.pick(8) == 0 {
			e.EventID = fmt.Sprint("e", max(1, m.next-m.pick(6)), "-0")
		}
		list := e.Step.Statuses()
		e.Status = list[m.pick(len(list))]
		events = append(events, e)
	}
	c.kind, c.payload = schemas.ReportRuns.Name, (&schemas.RunReport{Events: events}).EncodePayload(nil)
	c.apply = func() string {
		var o schemas.IngestOutcome
		for i := range events {
			switch said := m.report(c.app, &events[i]); said {
			case "accepted":
				o.Accepted++
			case "duplicate":
				o.Duplicates++
			default:
				o.Rejected++
				o.Errors = append(o.Errors, schemas.EventError{Index: uint32(i), Code: schemas.Code(said)})
			}
		}
		return outcomeLine(o)
	}
}

// judge holds an outcome against what the model expects: a code, the run that is named, or
// the counts of a report.
func (c *runCommand) judge(t rapid.TB, outcome []byte, expected string) {
	t.Helper()
	if c.kind == schemas.ReportRuns.Name {
		var o schemas.IngestOutcome
		if err := o.Decode(outcome); err != nil || outcomeLine(o) != expected {
			t.Fatalf("report: %s %v, the model says %s", outcomeLine(o), err, expected)
		}
		return
	}
	var o schemas.CommandOutcome
	if err := o.Decode(outcome); err != nil {
		t.Fatalf("%s: %x: %v", c.kind, outcome, err)
	}
	got := string(o.Code)
	if o.Code == "" && (c.kind == schemas.ExecutePlugin.Name || c.kind == schemas.RerunPlugin.Name) {
		var d schemas.ExecutedData
		if err := json.Unmarshal(o.Body, &d); err != nil {
			t.Fatal(err)
		}
		got = d.RunID
	}
	if got != expected {
		t.Fatalf("%s: %q %s, the model says %q", c.kind, got, o.Detail, expected)
	}
}

// runsOf reads every run of the model's apps.
func runsOf(t rapid.TB, s *store.Store) map[string]modelRun {
	t.Helper()
	got := map[string]modelRun{}
	for i := range 2 {
		q := schemas.RunQuery{AppID: fmt.Sprint("app-", i), Limit: 7}
		for {
			page, err := s.Runs(q)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Runs {
				got[r.AppID+"/"+r.ID] = modelRun{App: r.AppID, ID: r.ID, Attempt: int(r.Attempt), Status: r.Status.String(), Lines: linesOf(t, s, r)}
			}
			if !page.More {
				break
			}
			q.Before = page.Next
		}
	}
	return got
}

func linesOf(t rapid.TB, s *store.Store, r *schemas.Run) (lines []string) {
	t.Helper()
	events, found, err := s.RunEvents(r.AppID, r.ID, 0, 1<<20)
	if err != nil || !found || int64(len(events)) != r.Sequence {
		t.Fatalf("%d events of %s, sequence %d: %t %v", len(events), r.ID, r.Sequence, found, err)
	}
	for i, e := range events {
		var d schemas.RunEventData
		if err := json.Unmarshal(e.JSON, &d); err != nil {
			t.Fatalf("%s: %v", e.JSON, err)
		}
		if e.Sequence != int64(i)+1 || d.Sequence != e.Sequence {
			t.Fatalf("event %d of %s has the sequence %d", i, r.ID, e.Sequence)
		}
		line := fmt.Sprint(d.Attempt, " ", d.Kind[len("orchestration."):], " ", d.Status)
		if d.Implicit {
			line += " implicit"
		}
		if d.Code != nil && *d.Code != "" {
			line += " " + *d.Code
		}
		lines = append(lines, line)
	}
	return lines
}

// compare holds every run, and what is used and set aside, against the model.
func (m *runsModel) compare(t rapid.TB, s *store.Store) {
	t.Helper()
	all := map[string]modelRun{}
	open := 0
	for key, r := range m.runs {
		all[key] = modelRun{App: r.App, ID: r.ID, Attempt: r.Attempt, Status: r.Status, Lines: r.Lines}
		if r.Plugin && !r.ended() {
			open++
		}
	}
	if d := cmp.Diff(all, runsOf(t, s), cmp.AllowUnexported(modelRun{})); d != "" {
		t.Fatalf("runs (-model +store):\n%s", d)
	}
	waiting, _, err := s.OpenExecutions(store.Place{}, 1000)
	if err != nil || len(waiting) != open {
		t.Fatalf("%d executions wait, the model says %d: %v", len(waiting), open, err)
	}
	err = s.Look(func(l *store.Look) error {
		for i := range 2 {
			app := fmt.Sprint("app-", i)
			if got := totalsOf(t, s, app).TotalTokens; got != m.burnt[app] {
				t.Fatalf("%s has burnt %d tokens, the model says %d", app, got, m.burnt[app])
			}
			c, err := l.Consumed(app, schemas.ScopesOf("", "u")[0], "story", "items")
			if err != nil {
				return err
			}
			if c.Used != m.used[app] || c.Reserved != m.held[app] {
				t.Fatalf("%s has used %d and set aside %d, the model says %d and %d", app, c.Used, c.Reserved, m.used[app], m.held[app])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func newRunsModel(seed uint64) *runsModel {
	return &runsModel{
		now: testNow, r: rand.New(rand.NewPCG(seed, 1)), runs: map[string]*modelRun{}, known: map[string]bool{},
		used: map[string]int64{}, held: map[string]int64{}, burnt: map[string]int64{}, tries: map[string]bool{}, keys: map[string]*modelRun{},
	}
}

// modelSettings are the commands with which every history of the model begins.
func modelSettings() (frames []schemas.CommandFrame) {
	for _, c := range [][2]string{
		{schemas.ConfigSwitches, `{"monetization":true,"enforce":true}`},
		{schemas.ConfigPluginPrefix + "story", fmt.Sprintf(`{"schema_version":"1.0","plugin":"story","limits":{"items":{"default":%d,"reset":"never"}},"actions":{"make":{"consumes":{"items":1}}},"tiers":{"unlimited":{}}}`, modelItems)},
	} {
		f := ownFrame(schemas.ConfigSet.Name, testNow, schemas.NewConfigChange(c[0], []byte(c[1])).EncodePayload(nil))
		f.ID += c[0]
		frames = append(frames, f)
	}
	return frames
}

// group draws the commands of one message and what is expected of each.
func (m *runsModel) group() (frames []schemas.CommandFrame, commands []*runCommand, expected []string) {
	switch m.pick(12) {
	case 0:
		m.now += int64(25 * time.Hour)
	case 1, 2, 3:
		m.now += int64(m.pick(120)) * int64(time.Second)
	}
	for range 1 + m.pick(3) {
		c := m.draw()
		commands, expected = append(commands, c), append(expected, c.apply())
		f := schemas.CommandFrame{Kind: c.kind, AppID: c.app, ID: fmt.Sprint("c", len(m.sent), "-", len(frames)), Source: "//mozaiks.ai/grout/t", Time: m.now, Accepted: m.now, Payload: c.payload}
		frames = append(frames, f)
	}
	return frames, commands, expected
}

// Random interleavings of reports, executions, their ends, cancels, reruns, repeats, ticks
// and restarts: every outcome, run, sequence and consumable is the model's, and a replay
// gives the same bytes, however many messages share a transaction.
func TestRunsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newRunsModel(rapid.Uint64().Draw(t, "seed"))
		dir, err := os.MkdirTemp("", "runs")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "s.db")
		open := func(path string) *store.Store {
			s, err := store.Open(path, store.Options{Partitions: 1, FoldEvery: 40})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		s := open(path)
		defer func() { _ = s.Close() }()
		groups := [][]schemas.CommandFrame{modelSettings()}
		applyGroups(t, s, groups, 1)
		for range rapid.IntRange(1, 50).Draw(t, "groups") {
			frames, commands, expected := m.group()
			outcomes := applyGroups(t, s, [][]schemas.CommandFrame{frames}, 1)
			groups = append(groups, frames)
			for i, c := range commands {
				c.judge(t, outcomes[i], expected[i])
			}
			if m.pick(4) == 0 {
				m.compare(t, s)
			}
			if m.pick(12) == 0 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open(path)
			}
		}
		m.compare(t, s)
		want := dumpOf(t, s)
		for _, per := range []int{7, 64} {
			again := open(filepath.Join(dir, fmt.Sprint(per, ".db")))
			applyGroups(t, again, groups, per)
			if got := dumpOf(t, again); !bytes.Equal(want, got) {
				t.Fatalf("%d messages a transaction: %s", per, firstDifference(want, got))
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// With one partition and with four every app has the same digest.
func TestRunsOfAnyPartitioning(t *testing.T) {
	m := newRunsModel(7)
	groups := [][]schemas.CommandFrame{modelSettings()}
	for range 150 {
		frames, _, _ := m.group()
		for _, f := range frames {
			groups = append(groups, []schemas.CommandFrame{f})
		}
	}
	digests := func(partitions, per int) map[string]string {
		all := map[string]string{}
		for p := range partitions {
			s, err := store.Open(filepath.Join(t.TempDir(), "s.db"), store.Options{Partition: p, Partitions: partitions, FoldEvery: 100})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			var own [][]schemas.CommandFrame
			for _, g := range groups {
				if app := g[0].AppID; app == "" || schemas.PartitionOf(app, partitions) == p {
					own = append(own, g)
				}
			}
			applyGroups(t, s, own, per)
			list, err := s.AppDigests(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for app, digest := range list {
				if all[app] != "" {
					t.Errorf("app %s is in two partitions", app)
				}
				all[app] = digest
			}
		}
		return all
	}
	one := digests(1, 1)
	if len(one) != 2 {
		t.Fatalf("%d apps: %v", len(one), one)
	}
	for _, per := range []int{1, 7, 64} {
		if d := cmp.Diff(one, digests(4, per)); d != "" {
			t.Errorf("digests of one partition and of four, %d messages a transaction:\n%s", per, d)
		}
	}
}
