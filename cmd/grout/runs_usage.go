package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
)

// runFigures are what events of a run sum up to.
type runFigures struct {
	Agent    string      `json:"agent_name"`
	Events   int64       `json:"events"`
	Input    int64       `json:"input_tokens"`
	Output   int64       `json:"output_tokens"`
	Total    int64       `json:"total_tokens"`
	Cost     json.Number `json:"cost"`
	Duration json.Number `json:"duration_sec"`
}

// printRunUsage prints what a run has used, an agent a line, and the totals; nothing when
// it has used nothing, or that is not known.
func printRunUsage(out io.Writer, text []byte) error {
	if text == nil {
		return nil
	}
	var u struct {
		Totals  runFigures
		Agents  []runFigures
		Expired *string `json:"expired_until"`
	}
	if err := decodeAnswer(text, &u); err != nil || len(u.Agents) == 0 && u.Expired == nil {
		return err
	}
	var t textTable
	t.columns("agent")
	t.numbers("events", "input", "output", "tokens", "cost", "seconds")
	add := func(name string, f *runFigures) {
		t.rows = append(t.rows, []string{
			name, thousands(f.Events), thousands(f.Input), thousands(f.Output), thousands(f.Total), f.Cost.String(), f.Duration.String(),
		})
	}
	for i := range u.Agents {
		add(cmp.Or(printable(u.Agents[i].Agent), "-"), &u.Agents[i])
	}
	add("(all)", &u.Totals)
	fmt.Fprintln(out)
	if err := t.print(out); err != nil || u.Expired == nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\nwhat arrived until %s has left the log and is not in it\n", printable(*u.Expired))
	return err
}
