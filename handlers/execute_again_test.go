package handlers

import (
	"bytes"
	"testing"
	"time"

	"grout/schemas"
)

// What is written again because its outcome was not known is one fact.
func TestPublicationWrittenAgain(t *testing.T) {
	w := newExecuting(t, "")
	w.mustExecute(execution("r"))
	w.told()
	p := (&schemas.PluginPublication{RunID: "r", Attempt: 1, Number: 1, Name: "story.page", Data: []byte(`{"page":1}`)}).EncodePayload(nil)
	wantCode(t, w.do(schemas.PublishPlugin.Name, "a", p), "", "")
	wantCode(t, w.do(schemas.PublishPlugin.Name, "a", p), "", "")
	wantTold(t, w.told(), "plugin.story.page run/r story.page")
}

// An execution that may run again, and whose deadline passed while grout did not run.
func TestRerunAfterALongOutage(t *testing.T) {
	w := newExecuting(t, oneAtATime)
	w.mustExecute(execution("r", func(p *schemas.PluginExecution) { p.Rerun = true }))
	w.now += int64(10 * time.Minute)
	w.tickNow()
	want(t, "waits to be run again", w.runLine("r"), "in_progress attempt 1 sequence 1")
	want(t, "leased", w.items(), "used 0 reserved 2 leases 1")
	wantCode(t, w.rerun("r", 1), "", `{"run_id":"r","attempt":2}`)
	w.now += int64(100 * time.Second)
	w.tickNow()
	want(t, "lost", w.runLine("r"), "failed attempt 1 sequence 2 WORKER_LOST")
	want(t, "given back", w.items(), "used 0 reserved 0 leases 0")
}

// What may be published can be told.
func TestDeepPublications(t *testing.T) {
	for _, depth := range []int{64, 65, 9999, 10000} {
		data := append(bytes.Repeat([]byte{'['}, depth), bytes.Repeat([]byte{']'}, depth)...)
		p := &schemas.PluginPublication{RunID: "r", Attempt: 1, Number: 1, Name: "story.page", Data: data}
		if fault := p.Judge(); fault != nil {
			if depth <= 64 {
				t.Error(fault)
			}
			continue
		}
		w := newExecuting(t, "")
		w.mustExecute(execution("r"))
		w.told()
		out := w.apply(w.frame(schemas.PublishPlugin.Name, "a", p.EncodePayload(nil)))[0]
		if len(out) == 0 {
			t.Errorf("depth %d: it went to the dead letters", depth)
		}
	}
}

// A run that takes of a consumable over the end of its period, and one that is run again
// there, take once and leave nothing set aside.
func TestExecutionOverTheEndOfAPeriod(t *testing.T) {
	w := newExecuting(t, "")
	w.config(schemas.ConfigPluginPrefix+"story", `{"schema_version":"1.0","plugin":"story","limits":{"items":{"default":5,"reset":"daily"}},"actions":{"make":{"consumes":{"items":2}}}}`)
	long := func(p *schemas.PluginExecution) { p.Timeout, p.Rerun = schemas.MaxPluginTimeout, true }
	w.mustExecute(execution("r1", long))
	w.mustExecute(execution("r2", long))
	w.now += int64(23 * time.Hour)
	w.mustExecute(execution("r0", func(p *schemas.PluginExecution) { p.UserID = "v" }))
	wantCode(t, w.execute(execution("r3")), schemas.CodeLimitExceeded, "")
	wantCode(t, w.rerun("r1", 1), "", "")
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "r1", Attempt: 2, OK: true}), "", "")
	want(t, "one", w.items(), "used 2 reserved 2 leases 0")
	wantCode(t, w.finish(&schemas.ExecutionEnd{RunID: "r2", Code: schemas.CodePluginError, Detail: "x"}), "", "")
	want(t, "both", w.items(), "used 2 reserved 0 leases 0")
	w.mustExecute(execution("r4"))
	if list, err := w.store.RecountReserved(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%+v %v", list, err)
	}
}

// Contract §4: what ran is replayed. An execution whose plugin was not called has not run,
// so its key is free for the next one; what a plugin itself says is replayed.
func TestKeyOfWhatNeverRan(t *testing.T) {
	w := newExecuting(t, "")
	for i, end := range []schemas.ExecutionEnd{
		{Code: schemas.CodePluginBusy, Detail: "Plugin 'story' is busy"},
		{Code: schemas.CodeNotFound, Detail: "Plugin 'story' not found or disabled"},
		{Code: schemas.CodePluginLoadFailed, Detail: "Plugin 'story' not found."},
	} {
		id, key := "r"+plural(int64(i), ""), "k"+plural(int64(i), "")
		w.mustExecute(execution(id, keyed(key)))
		end.RunID = id
		wantCode(t, w.finish(&end), "", "")
		w.mustExecute(execution(id+"-again", keyed(key)))
		again := `{"run_id":"` + id + `-again","attempt":1}`
		wantCode(t, w.execute(execution(id+"-third", keyed(key))), "", again)
		end = schemas.ExecutionEnd{RunID: id + "-again", Code: end.Code, Detail: "the plugin says so itself"}
		wantCode(t, w.finish(&end), "", "")
		wantCode(t, w.execute(execution(id+"-third", keyed(key))), "", again)
	}
	w.recounted()
}
