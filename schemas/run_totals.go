package schemas

// RunTotals are what events of a run count for at present, and how long they took:
// Duration is in nano-units of a second, and exact like a cost.
type RunTotals struct {
	UsageSums
	Duration Amount
}

// Add adds o. It reports whether every count still fits.
func (t *RunTotals) Add(o *RunTotals) bool {
	t.Duration = t.Duration.Add(o.Duration)
	return t.UsageSums.Add(&o.UsageSums)
}

// AgentTotals are those of an agent; of events that name none when Agent is empty.
type AgentTotals struct {
	Agent string
	RunTotals
}

// RunUsage is what a run has used (contract §6, GET /api/runs/{id}/usage), Agents by name.
type RunUsage struct {
	Run    *Run
	Totals RunTotals
	Agents []AgentTotals
	// ExpiredUntil is not 0 when events of the run may have left the log: those that
	// arrived until then are in none of the figures.
	ExpiredUntil int64
}

// AppendFields adds the figures as members of an object.
func (t *RunTotals) AppendFields(dst []byte) []byte {
	dst = AppendSumFields(dst, &t.UsageSums)
	return AppendAmount(append(dst, `,"duration_sec":`...), t.Duration)
}
