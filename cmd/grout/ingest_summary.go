package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"grout/schemas"
)

// maxListed is how many single faults are spelt out.
const maxListed = 10

// ingestSummary is the result of a run, over the batches that were answered.
type ingestSummary struct {
	File            string       `json:"file"`
	Complete        bool         `json:"complete"` // every row was sent and answered
	Events          int64        `json:"events"`
	Accepted        int64        `json:"accepted"`
	Duplicates      int64        `json:"duplicates"`
	Rejected        int64        `json:"rejected"`
	Skipped         int64        `json:"skipped"` // rows left out by --skip-bad
	Batches         int64        `json:"batches"`
	ReplayedBatches int64        `json:"replayed_batches"`
	ReplayedEvents  int64        `json:"replayed_events"`
	InputTokens     int64        `json:"input_tokens"`
	OutputTokens    int64        `json:"output_tokens"`
	Offset          string       `json:"offset,omitempty"` // time.Duration
	First           time.Time    `json:"first_timestamp,omitzero"`
	Last            time.Time    `json:"last_timestamp,omitzero"`
	Seconds         float64      `json:"duration_sec"`
	Errors          []eventFault `json:"errors"`

	unit string // what the lines of Errors count
}

// eventFault is an event that the server refused.
type eventFault struct {
	Line    int    `json:"line"` // of a JSON list: the number of the event
	EventID string `json:"event_id"`
	Code    string `json:"code"`
	Detail  string `json:"detail"`
}

// record adds the answer to one batch.
func (in *ingestion) record(b batch, a batchAnswer) error {
	if n := a.Accepted + a.Duplicates + a.Rejected; n != b.events {
		return fmt.Errorf("the server answered for %d of the %d events of batch %s; is it grout?", n, b.events, a.BatchID)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	s := &in.sum
	s.Events += b.events
	s.Accepted += a.Accepted
	s.Duplicates += a.Duplicates
	s.Rejected += a.Rejected
	s.Batches++
	if a.replayed {
		s.ReplayedBatches++
		s.ReplayedEvents += b.events
	}
	s.InputTokens += b.input
	s.OutputTokens += b.output
	if s.First.IsZero() || b.first.Before(s.First) {
		s.First = b.first
	}
	if b.last.After(s.Last) {
		s.Last = b.last
	}
	for _, e := range a.Errors {
		if len(s.Errors) == maxListed {
			break
		}
		f := eventFault{EventID: e.EventID, Code: e.Code, Detail: e.Detail}
		if e.Index >= 0 && e.Index < len(b.lines) {
			f.Line = b.lines[e.Index]
		}
		s.Errors = append(s.Errors, f)
	}
	in.doneBytes += b.bytes
	in.progress.set(s.Events, in.done())
	return nil
}

// done is the share of the file that has been answered for, negative when its
// length is unknown.
func (in *ingestion) done() float64 {
	switch {
	case in.total > 0:
		return float64(in.sum.Events+in.sum.Skipped) / float64(in.total)
	case in.size > 0:
		return float64(in.doneBytes) / float64(in.size)
	}
	return -1
}

// print writes the summary for people.
func (s *ingestSummary) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("events", "%s", thousands(s.Events))
	line("accepted", "%s", thousands(s.Accepted))
	line("duplicates", "%s", thousands(s.Duplicates))
	line("rejected", "%s", thousands(s.Rejected))
	if s.Skipped > 0 {
		line("skipped", "%s rows that could not be read", thousands(s.Skipped))
	}
	line("batches", "%s", thousands(s.Batches))
	if s.ReplayedBatches > 0 {
		line("replayed", "%s batches with %s events, counted by an earlier run", thousands(s.ReplayedBatches), thousands(s.ReplayedEvents))
	}
	line("input", "%s tokens", thousands(s.InputTokens))
	line("output", "%s tokens", thousands(s.OutputTokens))
	if s.Offset != "" {
		line("offset", "%s", s.Offset)
	}
	if s.Events > 0 {
		line("timestamps", "%s … %s", instant(s.First), instant(s.Last))
	}
	took := time.Duration(s.Seconds * float64(time.Second))
	line("duration", "%s (%s events/s)", took.Round(time.Millisecond), thousands(rate(s.Events, took)))
	old := false
	for _, e := range s.Errors {
		line("refused", "%s %d, %s: %s %s", s.unit, e.Line, e.EventID, e.Code, e.Detail)
		old = old || e.Code == string(schemas.CodeTimestampTooOld)
	}
	if more := s.Rejected - int64(len(s.Errors)); more > 0 && len(s.Errors) > 0 {
		line("", "and %s more", thousands(more))
	}
	if old {
		line("hint", "--shift-to-now --new-shift moves old timestamps to the present")
	}
	return w.Flush()
}
