package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"grout/schemas"
)

const (
	runImplicit = 1 << iota
	runHasCost
	runHasTokens
	runExecuted
)

const (
	executionSuperadmin = 1 << iota
	executionRerun
	executionKeep
	executionHasData
	executionHasResult
)

func flag(is bool, bit byte) byte {
	if is {
		return bit
	}
	return 0
}

// append gives the row. Form 1 (`runs`: log position, number): form, status, flags, id,
// app, user, tenant, chat, plugin, workflow, parent, message, summary, error, code,
// attempt, sequence, started, updated, ended, due, cost, tokens, homed, earlier homes ×
// (log position, number, last sequence), and of an execution: flags, action, user name,
// key, roles, consumed × (limit, amount), digest 16, timeouts, accepted, reruns,
// published, milliseconds.
func (r *Run) append(b []byte) []byte {
	b = append(b, 1, byte(r.Status), flag(r.Implicit, runImplicit)|flag(r.HasCost, runHasCost)|flag(r.HasTokens, runHasTokens)|flag(r.Execution != nil, runExecuted))
	for _, s := range runTexts(&r.Run) {
		b = appendText(b, *s)
	}
	for _, n := range runNumbers(&r.Run) {
		b = binary.AppendVarint(b, *n)
	}
	if r.HasCost {
		b = schemas.AppendAmountVarint(b, r.Cost)
	}
	if r.HasTokens {
		b = binary.AppendVarint(b, r.TotalTokens)
	}
	b = binary.AppendVarint(b, r.homed)
	b = binary.AppendUvarint(b, uint64(len(r.earlier)))
	for _, e := range r.earlier {
		b = binary.AppendUvarint(b, e.place.Seq)
		b = binary.AppendUvarint(b, uint64(e.place.Index))
		b = binary.AppendVarint(b, e.through)
	}
	if r.Execution != nil {
		b = appendExecution(b, r.Execution)
	}
	return b
}

func runTexts(r *schemas.Run) [12]*string {
	return [...]*string{
		&r.ID, &r.AppID, &r.UserID, &r.TenantID, &r.ChatID, &r.Plugin, &r.WorkflowName, &r.ParentRunID,
		&r.Message, &r.Summary, &r.Error, &r.Code,
	}
}

func runNumbers(r *schemas.Run) [6]*int64 {
	return [...]*int64{&r.Attempt, &r.Sequence, &r.StartedAt, &r.UpdatedAt, &r.EndedAt, &r.DueAt}
}

func appendExecution(b []byte, x *schemas.Execution) []byte {
	b = append(b, flag(x.Superadmin, executionSuperadmin)|flag(x.Rerun, executionRerun)|flag(x.Keep, executionKeep)|
		flag(x.HasData, executionHasData)|flag(x.HasResult, executionHasResult))
	b = appendRest(b, x.Action, x.Username, x.Key, x.CorrelationID, x.TraceParent)
	b = binary.AppendUvarint(b, uint64(len(x.Roles)))
	b = appendRest(b, x.Roles...)
	b = binary.AppendUvarint(b, uint64(len(x.Consumes)))
	for _, limit := range slices.Sorted(maps.Keys(x.Consumes)) {
		b = binary.AppendVarint(appendText(b, limit), x.Consumes[limit])
	}
	b = append(b, x.BodyDigest[:]...)
	for _, n := range executionNumbers(x) {
		b = binary.AppendVarint(b, *n)
	}
	return b
}

func executionNumbers(x *schemas.Execution) [6]*int64 {
	return [...]*int64{&x.Timeout, &x.QueueTimeout, &x.AcceptedAt, &x.Reruns, &x.Published, &x.DurationMs}
}

func parseRun(at Place, v []byte) (*Run, error) {
	r := newReader(v)
	r.Form(1)
	run := &Run{Place: at}
	run.Status = schemas.RunStatus(r.Byte())
	flags := r.Byte()
	run.Implicit, run.HasCost, run.HasTokens = flags&runImplicit != 0, flags&runHasCost != 0, flags&runHasTokens != 0
	for _, s := range runTexts(&run.Run) {
		*s = r.text()
	}
	for _, n := range runNumbers(&run.Run) {
		*n = r.Varint()
	}
	if run.HasCost {
		run.Cost = r.Amount()
	}
	if run.HasTokens {
		run.TotalTokens = r.Varint()
	}
	run.homed = r.Varint()
	for range r.Count(3) {
		run.earlier = append(run.earlier, earlierHome{Place{r.Uvarint(), r.Uint32()}, r.Varint()})
	}
	if flags&runExecuted != 0 {
		run.Execution = r.execution()
	}
	if len(r.B) > 0 || flags >= runExecuted<<1 || run.ID == "" || run.Attempt < 1 || run.Status < schemas.RunInProgress || run.Status > schemas.RunCancelled {
		r.Fail()
	}
	if r.Err != nil {
		return nil, fmt.Errorf("run at %d/%d: %w", at.Seq, at.Index, r.Err)
	}
	return run, nil
}

func (r *reader) execution() *schemas.Execution {
	flags := r.Byte()
	if flags >= executionHasResult<<1 {
		r.Fail()
	}
	x := &schemas.Execution{
		Superadmin: flags&executionSuperadmin != 0, Rerun: flags&executionRerun != 0, Keep: flags&executionKeep != 0,
		HasData: flags&executionHasData != 0, HasResult: flags&executionHasResult != 0,
		Action: r.text(), Username: r.text(), Key: r.text(), CorrelationID: r.text(), TraceParent: r.text(),
	}
	for range r.Count(1) {
		x.Roles = append(x.Roles, r.text())
	}
	if n := r.Count(2); n > 0 {
		x.Consumes = make(map[string]int64, n)
		for range n {
			limit := r.text()
			x.Consumes[limit] = r.Varint()
		}
	}
	x.BodyDigest = r.digest()
	for _, n := range executionNumbers(x) {
		*n = r.Varint()
	}
	return x
}
