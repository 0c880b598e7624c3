package schemas

// ExecutedData is the outcome of plugin.execute: the run that carries it out, or did
// under the same idempotency key.
type ExecutedData struct {
	RunID   string `json:"run_id"`
	Attempt int64  `json:"attempt"`
}

// AppendExecuted adds the outcome of plugin.execute and of plugin.rerun.
func AppendExecuted(dst []byte, run string, attempt int64) []byte {
	return appendJSON(dst, ExecutedData{run, attempt})
}

// RunEndedData is the answer to a cancel, and the outcome of plugin.finish.
type RunEndedData struct {
	RunID  string `json:"run_id"`
	Status string `json:"status"`
}

// AppendRunEnded adds what a run has come to.
func AppendRunEnded(dst []byte, run string, status RunStatus) []byte {
	return appendJSON(dst, RunEndedData{run, status.String()})
}
