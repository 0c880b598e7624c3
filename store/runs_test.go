package store

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"grout/schemas"
)

// runMessage does something about runs, as one command of an app.
type runMessage struct {
	seq uint64
	at  int64
	do  func(*Tx) error
}

func (m runMessage) put(tx *Tx) error {
	f := schemas.CommandFrame{Kind: "run", AppID: "a", ID: fmt.Sprint(m.seq), Source: "//test", Accepted: m.at}
	tx.Begin(Message{Seq: m.seq, StoredAt: m.at, StreamCreated: 1, Commands: []schemas.CommandFrame{f}})
	tx.Command(&f)
	if err := m.do(tx); err != nil {
		return err
	}
	return tx.End()
}

func plainRun(id string) *schemas.Run {
	return &schemas.Run{ID: id, AppID: "a", UserID: "u", Status: schemas.RunInProgress, Attempt: 1}
}

// executed is an execution of the plugin notes, under the key k.
func executed(id string) *schemas.Run {
	r := plainRun(id)
	r.Plugin = "notes"
	r.Execution = &schemas.Execution{Action: "create", Consumes: map[string]int64{"items": 2}, Key: "k", Keep: true, Timeout: testHour, AcceptedAt: testNow}
	r.DueAt = testNow + 2*testHour
	return r
}

// begin stores runs; those with an execution have data.
func begin(runs ...*schemas.Run) func(*Tx) error {
	return func(tx *Tx) error {
		for _, next := range runs {
			var data []byte
			if next.Execution != nil {
				data = []byte(`{"of":"` + next.ID + `"}`)
			}
			r, err := tx.PutRun(next, data)
			if err == nil && next.Execution != nil && next.Execution.Key != "" {
				err = tx.EnterRunKey(r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// step adds an event to a run and lets it be something else.
func step(id string, change func(*schemas.Run)) func(*Tx) error {
	return func(tx *Tx) error {
		r, err := tx.Run("a", id)
		if err != nil {
			return err
		}
		next := r.Clone()
		next.Sequence++
		e := schemas.RunEvent{
			Step: schemas.StepAgentStarted, Status: schemas.RunInProgress, RunID: id, EventID: fmt.Sprint("e-", next.Sequence), AppID: "a",
			Timestamp: testNow, Sequence: next.Sequence, Attempt: next.Attempt,
		}
		if err := tx.AddRunEvent(r, &e); err != nil {
			return err
		}
		change(&next)
		return tx.ChangeRun(r, &next)
	}
}

func goesOn(*schemas.Run) {}

func ends(r *schemas.Run) { r.Status, r.DueAt = schemas.RunCompleted, 0 }

// ended ends an execution whose result is kept.
func ended(id, result string) func(*Tx) error {
	return func(tx *Tx) error {
		if err := step(id, func(r *schemas.Run) { r.Status, r.DueAt = schemas.RunCompleted, testNow+24*testHour })(tx); err != nil {
			return err
		}
		r, err := tx.Run("a", id)
		if err != nil {
			return err
		}
		return tx.SetRunResult(r, []byte(result))
	}
}

func runOf(t testing.TB, s *Store, id string) *Run {
	t.Helper()
	r, err := s.Run("a", id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sequencesOf(t testing.TB, s *Store, id string, behind int64, limit int) (list []int64) {
	t.Helper()
	events, found, err := s.RunEvents("a", id, behind, limit)
	if err != nil || !found {
		t.Fatalf("events of %s: %v %v", id, found, err)
	}
	for _, e := range events {
		if !strings.Contains(string(e.JSON), fmt.Sprintf(`"event_id":"e-%d"`, e.Sequence)) {
			t.Errorf("event %d is %s", e.Sequence, e.JSON)
		}
		list = append(list, e.Sequence)
	}
	return list
}

func openIDs(t testing.TB, s *Store) (ids []string, changed <-chan struct{}) {
	t.Helper()
	list, changed, err := s.OpenExecutions(Place{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if string(r.Data) != `{"of":"`+r.ID+`"}` {
			t.Errorf("data of %s is %s", r.ID, r.Data)
		}
		ids = append(ids, r.ID)
	}
	return ids, changed
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

var drawRun = rapid.Custom(func(t *rapid.T) *Run {
	text := rapid.StringN(0, 12, 40)
	r := &Run{Place: drawPlace.Draw(t, "place"), homed: drawInt.Draw(t, "homed")}
	for _, s := range runTexts(&r.Run) {
		*s = text.Draw(t, "text")
	}
	r.ID += "x"
	for _, n := range runNumbers(&r.Run) {
		*n = drawInt.Draw(t, "number")
	}
	r.Attempt = rapid.Int64Range(1, math.MaxInt64).Draw(t, "attempt")
	r.Status, r.Implicit = schemas.RunStatus(rapid.ByteRange(1, 4).Draw(t, "status")), rapid.Bool().Draw(t, "implicit")
	if r.HasCost = rapid.Bool().Draw(t, "has cost"); r.HasCost {
		r.Cost = schemas.AmountOf(drawInt.Draw(t, "cost"))
	}
	if r.HasTokens = rapid.Bool().Draw(t, "has tokens"); r.HasTokens {
		r.TotalTokens = drawInt.Draw(t, "tokens")
	}
	for range rapid.IntRange(0, 3).Draw(t, "earlier homes") {
		r.earlier = append(r.earlier, earlierHome{drawPlace.Draw(t, "home"), drawInt.Draw(t, "through")})
	}
	if !rapid.Bool().Draw(t, "executed") {
		return r
	}
	flag := func() bool { return rapid.Bool().Draw(t, "flag") }
	x := &schemas.Execution{Superadmin: flag(), Rerun: flag(), Keep: flag(), HasData: flag(), HasResult: flag()}
	x.Action, x.Username, x.Key = text.Draw(t, "action"), text.Draw(t, "user name"), text.Draw(t, "key")
	x.Roles = rapid.SliceOfN(text, 0, 3).Draw(t, "roles")
	x.Consumes = rapid.MapOfN(text, drawInt, 0, 3).Draw(t, "consumed")
	copy(x.BodyDigest[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "digest"))
	for _, n := range executionNumbers(x) {
		*n = drawInt.Draw(t, "number")
	}
	r.Execution = x
	return r
})

func TestRunForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRun.Draw(t, "run")
		cutOff(t, r.append(nil), func(b []byte) error {
			got, err := parseRun(r.Place, b)
			if err != nil {
				return err
			}
			if d := cmp.Diff(r, got, cmp.AllowUnexported(Run{}, earlierHome{}), cmp.Comparer(func(a, b schemas.Amount) bool { return a == b }), cmpopts.EquateEmpty()); d != "" {
				t.Fatal(d)
			}
			return nil
		})
		for _, id := range []bucketID{bucketRuns, bucketOpenRuns} {
			if at := positionOf(id, r.key(), nil); at != r.Place.Seq {
				t.Fatalf("%s: position %d of %v", id, at, r.Place)
			}
		}
		if at := positionOf(bucketRunsByApp, keyRunOfApp(r.AppID, r.Place), nil); at != r.Place.Seq {
			t.Fatalf("position %d of %v", at, r.Place)
		}
	})
}

func FuzzParseRun(f *testing.F) {
	for seed := range 20 {
		f.Add(drawRun.Example(seed).append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRun(Place{1, 2}, b)
		if err != nil {
			return
		}
		again, err := parseRun(Place{1, 2}, r.append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.append(nil), r.append(nil)) {
			t.Fatalf("%+v became %+v", r, again)
		}
	})
}

// What is there of a run goes through its life with it.
func TestLifeOfAnExecution(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	wait, stop, err := s.RunEnded("a", "x")
	if err != nil || isClosed(wait) {
		t.Fatalf("a run that nobody knows has ended: %v", err)
	}
	defer stop()
	_, changed := openIDs(t, s)
	applyEach(t, s, 1, runMessage{1, testNow, begin(executed("x"))})
	if !isClosed(changed) {
		t.Error("nobody is told of an execution")
	}
	ids, changed := openIDs(t, s)
	if !slices.Equal(ids, []string{"x"}) || isClosed(wait) {
		t.Errorf("open: %v", ids)
	}
	if due, _ := s.NextDue(); due.UnixNano() != testNow+2*testHour {
		t.Errorf("due at %v", due)
	}
	at := runOf(t, s, "x").Place
	if r, err := s.OpenExecution(at); err != nil || r == nil || string(r.Data) != `{"of":"x"}` {
		t.Errorf("%+v %v", r, err)
	}
	if list, _, err := s.OpenExecutions(at, 100); err != nil || len(list) > 0 {
		t.Errorf("behind the last one: %v %v", list, err)
	}
	// A message that does nothing about executions tells nobody.
	applyEach(t, s, 1, runMessage{2, testNow, begin(plainRun("reported"))})
	if isClosed(changed) {
		t.Error("somebody is told of nothing")
	}
	closeStore(t, s)
	sound(t, path)
	s = openAt(t, path, Options{})
	defer closeStore(t, s)
	if ids, changed = openIDs(t, s); !slices.Equal(ids, []string{"x"}) {
		t.Errorf("open after a start: %v", ids)
	}
	wait, stop, err = s.RunEnded("a", "x")
	if err != nil || isClosed(wait) {
		t.Fatalf("ended: %v", err)
	}
	defer stop()
	applyEach(t, s, 1, runMessage{3, testNow + testHour, ended("x", `"done"`)})
	ids, _ = openIDs(t, s)
	if len(ids) > 0 || !isClosed(wait) || !isClosed(changed) {
		t.Errorf("it has ended: %v", ids)
	}
	if r, err := s.OpenExecution(at); err != nil || r != nil {
		t.Errorf("%+v %v", r, err)
	}
	if r, err := s.OpenExecution(Place{99, 0}); err != nil || r != nil {
		t.Errorf("%+v %v", r, err)
	}
	late, stopLate, err := s.RunEnded("a", "x")
	if err != nil || !isClosed(late) {
		t.Errorf("who comes later waits: %v", err)
	}
	stopLate()
	if len(s.runs.waiting) > 0 {
		t.Errorf("%d wait", len(s.runs.waiting))
	}
	r := runOf(t, s, "x")
	if string(r.Result) != `"done"` || r.Execution.HasData || r.UpdatedAt != testNow+testHour || rowsOf(s, bucketRunBodies) != 1 {
		t.Errorf("%+v, %d bodies", r, rowsOf(s, bucketRunBodies))
	}
	if due, _ := s.NextDue(); due.UnixNano() != testNow+24*testHour {
		t.Errorf("due at %v", due)
	}
	applyEach(t, s, 1, runMessage{4, testNow + 24*testHour, func(tx *Tx) error {
		d, err := tx.NextDue()
		if err != nil || d == nil || d.Run == nil || d.Run.ID != "x" || d.AppID != "a" {
			t.Fatalf("%+v %v", d, err)
		}
		if err := tx.DropRunResult(d.Run); err != nil {
			return err
		}
		next := d.Run.Clone()
		next.DueAt = 0
		if err := tx.ChangeRun(d.Run, &next); err != nil {
			return err
		}
		d, err = tx.NextDue()
		if d != nil {
			t.Errorf("%+v is due", d)
		}
		return err
	}})
	if r := runOf(t, s, "x"); r.Result != nil || r.Execution.HasResult || rowsOf(s, bucketRunBodies, bucketOpenRuns, bucketDue) != 0 {
		t.Errorf("%+v", r)
	}
}

// Who waits no more is not kept, and a failed transaction ends no run.
func TestWaitersOfRuns(t *testing.T) {
	s := openNew(t, Options{})
	applyEach(t, s, 1, runMessage{1, testNow, begin(executed("x"), executed("y"))})
	first, stopFirst, err := s.RunEnded("a", "x")
	second, stopSecond, err2 := s.RunEnded("a", "x")
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	stopFirst()
	if err := s.Update(func(tx *Tx) error {
		if err := (runMessage{2, testNow, step("x", ends)}).put(tx); err != nil {
			return err
		}
		return errEnough
	}); err == nil || isClosed(second) {
		t.Fatalf("a transaction that failed has ended a run: %v", err)
	}
	applyEach(t, s, 1, runMessage{2, testNow, step("y", ends)})
	if isClosed(second) {
		t.Error("another run has ended")
	}
	applyEach(t, s, 1, runMessage{3, testNow, step("x", ends)})
	if isClosed(first) || !isClosed(second) {
		t.Error("the wrong one was told")
	}
	stopSecond()
	stopFirst()
	if len(s.runs.waiting) > 0 {
		t.Errorf("%v", s.runs.waiting)
	}
}

// Several runs of one message have homes of their own; an id leads to each.
func TestManyRunsOfOneMessage(t *testing.T) {
	s := openNew(t, Options{})
	const n = 5000 // more than a place of a batch can count
	var list []*schemas.Run
	for i := range n {
		list = append(list, plainRun(fmt.Sprint("r-", i)))
	}
	applyEach(t, s, 1, runMessage{1, testNow, begin(list...)}, runMessage{2, testNow, begin(plainRun("last"))})
	for _, i := range []int{0, 1, 4095, 4096, n - 1} {
		if r := runOf(t, s, list[i].ID); r == nil || r.ID != list[i].ID || r.Place != (Place{1, uint32(i)}) {
			t.Errorf("%s: %+v", list[i].ID, r)
		}
	}
	if r := runOf(t, s, "last"); r.Place != (Place{2, 0}) {
		t.Errorf("%+v", r.Place)
	}
	if r, err := s.Run("b", "last"); r != nil || err != nil {
		t.Errorf("another app has the run: %v", err)
	}
}

func TestRunKeys(t *testing.T) {
	s := openNew(t, Options{})
	other := executed("other")
	other.UserID = "v"
	applyEach(t, s, 1, runMessage{1, testNow, begin(executed("x"), other)})
	for name, c := range map[string]struct{ app, user, plugin, key, want string }{
		"own":          {"a", "u", "notes", "k", "x"},
		"another user": {"a", "v", "notes", "k", "other"},
		"nobody":       {"a", "w", "notes", "k", ""},
		"another key":  {"a", "u", "notes", "l", ""},
		"other plugin": {"a", "u", "note", "sk", ""},
		"another app":  {"b", "u", "notes", "k", ""},
	} {
		r, err := s.RunOfKey(c.app, c.user, c.plugin, c.key)
		if err != nil || (r == nil) != (c.want == "") || r != nil && r.ID != c.want {
			t.Errorf("%s: %+v %v", name, r, err)
		}
		if err := s.Update(func(tx *Tx) error {
			r, err := tx.RunOfKey(c.app, c.user, c.plugin, c.key)
			if (r == nil) != (c.want == "") || r != nil && r.ID != c.want {
				t.Errorf("%s, writing: %+v", name, r)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	// The newest one takes it over, also after a start.
	applyEach(t, s, 1, runMessage{2, testNow, begin(executed("y"))})
	if r, err := s.RunOfKey("a", "u", "notes", "k"); err != nil || r.ID != "y" {
		t.Errorf("%+v %v", r, err)
	}
}

func TestRunEventIDs(t *testing.T) {
	s := openNew(t, Options{})
	applyEach(t, s, 1, runMessage{1, testNow, func(tx *Tx) error {
		for _, id := range []string{"e", "f"} {
			if _, known, err := tx.RunEventKnown("a", id); known || err != nil {
				t.Errorf("%s is known: %v", id, err)
			}
			if err := tx.EnterRunEvent("a", id, 7); err != nil {
				return err
			}
		}
		digest, known, err := tx.RunEventKnown("a", "e")
		if !known || digest != 7 {
			t.Errorf("%v %d", known, digest)
		}
		return err
	}}, runMessage{2, testNow, func(tx *Tx) error {
		digest, known, err := tx.RunEventKnown("a", "f")
		if !known || digest != 7 {
			t.Errorf("%v %d", known, digest)
		}
		if _, known, _ := tx.RunEventKnown("b", "f"); known {
			t.Error("another app knows it")
		}
		return err
	}})
}

func TestRunPages(t *testing.T) {
	s := openNew(t, Options{})
	var list []putter
	for i := range 10 {
		r := plainRun(fmt.Sprint("r-", i))
		r.StartedAt = testNow + int64(i)
		if i%2 == 0 {
			r.UserID = "even"
		}
		if i%3 == 0 {
			r.Status, r.Plugin = schemas.RunFailed, "notes"
		}
		foreign := plainRun(r.ID)
		foreign.AppID = "aa"
		list = append(list, runMessage{uint64(i + 1), testNow, begin(r, foreign)})
	}
	applyEach(t, s, 3, list...)
	walk := func(q schemas.RunQuery) (ids []string) {
		q.AppID = "a"
		for {
			page, err := s.Runs(q)
			if err != nil || len(page.Runs) > q.Limit {
				t.Fatal(err, len(page.Runs))
			}
			for _, r := range page.Runs {
				ids = append(ids, strings.TrimPrefix(r.ID, "r-"))
			}
			if !page.More {
				return ids
			}
			q.Before = page.Next
		}
	}
	for want, q := range map[string]schemas.RunQuery{
		"9876543210": {}, "86420": {UserID: "even"}, "9630": {Plugin: "notes"}, "9 6 3 0 ": {Status: schemas.RunFailed},
		"987": {Since: testNow + 7}, "60": {UserID: "even", Plugin: "notes", Status: schemas.RunFailed}, "": {UserID: "nobody"},
	} {
		for limit := 1; limit < 12; limit++ {
			q.Limit = limit
			if got := strings.Join(walk(q), ""); got != strings.ReplaceAll(want, " ", "") {
				t.Errorf("%+v: %s", q, got)
			}
		}
	}
	if page, err := s.Runs(schemas.RunQuery{AppID: "nobody", Limit: 5}); err != nil || page.More || len(page.Runs) > 0 {
		t.Errorf("%+v %v", page, err)
	}
}

// A run that goes on for months keeps its row, its id and its recent events, while what
// ended long ago expires; nothing of either is left behind.
func TestRunsExpire(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s := openAt(t, path, Options{})
	seq := uint64(0)
	do := func(at int64, do func(*Tx) error) {
		seq++
		applyEach(t, s, 1, runMessage{seq, at, do})
	}
	tick := func(at int64) {
		seq++
		applyEach(t, s, 1, ownMessage{seq: seq, at: at, tick: true})
	}
	day := func(n int) int64 { return testNow + int64(n)*24*testHour }
	do(day(0), begin(plainRun("long"), plainRun("short"), executed("x")))
	do(day(0), step("short", ends))
	do(day(0), ended("x", `1`))
	for n := range 100 {
		tick(day(n))
		do(day(n), step("long", goesOn))
		if n == 2 { // as the tick that finds it does
			do(day(n), func(tx *Tx) error {
				r, err := tx.Run("a", "x")
				if err != nil {
					return err
				}
				if err := tx.DropRunResult(r); err != nil {
					return err
				}
				next := r.Clone()
				next.DueAt = 0
				return tx.ChangeRun(r, &next)
			})
		}
		published(t, s)
		before, ok, err := s.Expirable()
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			seq++
			applyEach(t, s, 1, ownMessage{seq: seq, at: day(n), before: before})
		}
		r := runOf(t, s, "long")
		if r == nil || r.Sequence != int64(n+1) || len(r.earlier) > 7 {
			t.Fatalf("day %d: %+v", n, r)
		}
		got := sequencesOf(t, s, "long", 0, 1000)
		if len(got) < min(n+1, 27) || got[len(got)-1] != int64(n+1) || got[0] != int64(n+2-len(got)) {
			t.Fatalf("day %d: events %v", n, got)
		}
		if n == 30 && runOf(t, s, "short") == nil || n == 40 && (runOf(t, s, "short") != nil || runOf(t, s, "x") != nil) {
			t.Errorf("day %d: a run that has ended is there or not", n)
		}
	}
	page, err := s.Runs(schemas.RunQuery{AppID: "a", Limit: 10})
	if err != nil || len(page.Runs) != 1 || page.Runs[0].ID != "long" || page.More {
		t.Errorf("%+v %v", page, err)
	}
	if got := sequencesOf(t, s, "long", 90, 4); !slices.Equal(got, []int64{91, 92, 93, 94}) {
		t.Errorf("%v", got)
	}
	tick(day(101))
	if n := rowsOf(s, bucketRuns, bucketRunsByApp, bucketRunBodies, bucketOpenRuns); n != 2 {
		t.Errorf("%d rows are left", n)
	}
	if n := rowsOf(s, bucketRunEvents); n > 48 {
		t.Errorf("%d events are left", n)
	}
	closeStore(t, s)
	sound(t, path)
	s = openAt(t, path, Options{ReadOnly: true})
	defer closeStore(t, s)
	if r := runOf(t, s, "long"); r == nil || r.Sequence != 100 {
		t.Errorf("%+v", r)
	}
}

// The same commands give the same bytes, however many share a transaction; positions and
// instants do not show in the digest, what a run says does.
func TestRunsReplay(t *testing.T) {
	history := func(shift uint64, later int64, last func(*schemas.Run)) (list []putter) {
		long := plainRun("long")
		long.DueAt = testNow + later + 5*testHour
		list = append(list, runMessage{1 + shift, testNow + later, begin(executed("x"), long)}, runMessage{2 + shift, testNow + later, ended("x", `[1]`)})
		for i := range uint64(20) {
			list = append(list, runMessage{3 + shift + i, testNow + later + int64(i)*24*testHour, step("long", goesOn)})
		}
		return append(list, runMessage{23 + shift, testNow + later + 20*24*testHour, step("long", last)})
	}
	stores := map[int]*Store{}
	for _, per := range []int{1, 7, 64} {
		stores[per] = openNew(t, Options{})
		applyEach(t, stores[per], per, history(0, 0, ends)...)
		sameDump(t, dump(t, stores[1]), dump(t, stores[per]))
	}
	digest := func(s *Store) string {
		d, err := s.AppDigests(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return d["a"]
	}
	other := openNew(t, Options{})
	applyEach(t, other, 1, history(7, 3*testHour, ends)...)
	if digest(other) != digest(stores[1]) || digest(other) == "" {
		t.Errorf("%s, %s", digest(other), digest(stores[1]))
	}
	for name, last := range map[string]func(*schemas.Run){
		"status": goesOn, "error": func(r *schemas.Run) { ends(r); r.Error = "x" },
	} {
		different := openNew(t, Options{})
		applyEach(t, different, 1, history(0, 0, last)...)
		if digest(different) == digest(other) {
			t.Errorf("%s does not show in the digest", name)
		}
	}
}

func TestRecountReserved(t *testing.T) {
	s := openNew(t, Options{})
	user := schemas.Scope{Kind: schemas.ScopeUser, ID: "u"}
	put := func(limit string, n int64) func(*Tx) error {
		return func(tx *Tx) error {
			return tx.PutConsumed("a", user, "notes", limit, schemas.Consumption{Start: 1, Used: 3, Reserved: n})
		}
	}
	recount := func(want ...ReservedDifference) {
		t.Helper()
		got, err := s.RecountReserved(t.Context())
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%v (-want +got):\n%s", err, d)
		}
	}
	applyEach(t, s, 1, runMessage{1, testNow, begin(executed("x"), executed("y"))})
	recount(ReservedDifference{"a", "user", "u", "notes", "items", 0, 4})
	applyEach(t, s, 1, runMessage{2, testNow, put("items", 4)},
		runMessage{3, testNow, func(tx *Tx) error {
			return tx.PutCalls("a", user, "notes", schemas.Consumption{Start: 1, Used: 1, Reserved: 9})
		}})
	recount()
	applyEach(t, s, 1, runMessage{4, testNow, step("x", ends)})
	recount(ReservedDifference{"a", "user", "u", "notes", "items", 4, 2})
	applyEach(t, s, 1, runMessage{5, testNow, put("items", 2)}, runMessage{6, testNow, put("others", 1)})
	recount(ReservedDifference{"a", "user", "u", "notes", "others", 1, 0})
}

func TestRunRowNames(t *testing.T) {
	r := &Run{Place: Place{7, 3}}
	for want, row := range map[string]struct {
		id  bucketID
		key []byte
	}{
		"run 3 that message 7 stored":              {bucketRuns, r.key()},
		"run 3 of app \"a\" that message 7 stored": {bucketRunsByApp, keyRunOfApp("a", r.Place)},
		"event 9 of run 3 that message 7 stored":   {bucketRunEvents, keyRunEvent(r.Place, 9)},
		"data of run 3 that message 7 stored":      {bucketRunBodies, r.keyBody(bodyData)},
		"result of run 3 that message 7 stored":    {bucketRunBodies, r.keyBody(bodyResult)},
		"open run 3 that message 7 stored":         {bucketOpenRuns, r.key()},
		"row 00":                                   {bucketRuns, []byte{0}},
	} {
		if got := rowName(row.id, row.key, nil, positionOf(row.id, row.key, nil)); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// Whoever waits for a run is told once its end can be read, and what is open is what has
// been begun and not ended, while it goes on.
func TestReadersBesideRuns(t *testing.T) {
	s := openNew(t, Options{})
	const runs = 60
	failed := make(chan error, runs+1)
	done := make(chan struct{})
	for i := range runs {
		id := fmt.Sprint("r-", i)
		ended, stop, err := s.RunEnded("a", id)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer stop()
			<-ended
			r, err := s.Run("a", id)
			if err == nil && (r == nil || !r.Status.Ended() || string(r.Result) != `1`) {
				err = fmt.Errorf("%s has ended, and is %+v", id, r)
			}
			failed <- err
		}()
	}
	go func() {
		for {
			list, changed, err := s.OpenExecutions(Place{}, runs)
			for _, r := range list {
				if err == nil && string(r.Data) != `{"of":"`+r.ID+`"}` {
					err = fmt.Errorf("data of %s is %s", r.ID, r.Data)
				}
			}
			if page, perr := s.Runs(schemas.RunQuery{AppID: "a", Limit: 10}); err == nil && perr != nil {
				err = fmt.Errorf("%d runs: %w", len(page.Runs), perr)
			}
			if err != nil {
				failed <- err
				return
			}
			select {
			case <-changed:
			case <-done:
				failed <- nil
				return
			}
		}
	}()
	for i := range uint64(runs) {
		id := fmt.Sprint("r-", i)
		applyEach(t, s, 1, runMessage{2*i + 1, testNow, begin(executed(id))}, runMessage{2*i + 2, testNow, ended(id, `1`)})
	}
	for range runs {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	close(done)
	if err := <-failed; err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.runs.waiting) > 0 {
		t.Errorf("%d wait", len(s.runs.waiting))
	}
}
